//! `petrel-tls` and `petrel-metrics` under every inetd, with the lines that are shipped.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host};

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use host::{Host, Setup, eventually};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use support::{DEADLINE, Running, guest, on_path, skipped};

/// A shipped file in contrib/inetd.
fn shipped(file: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/inetd");
    fs::read_to_string(directory.join(file)).unwrap()
}

/// The shipped configuration for this host: other addresses, user and programs, and the files of the test. What bounds it
/// is left.
fn configuration(host: &Host, file: &str, metrics: SocketAddr) -> String {
    let user = User::from_uid(geteuid()).unwrap().unwrap().name;
    let endpoint = host.endpoint_command("host");
    let program = endpoint.get_program().to_str().unwrap();
    let mut options = "-q".to_owned();
    for option in endpoint.get_args() {
        options.push(' ');
        options.push_str(option.to_str().unwrap());
    }
    let certificates = "/etc/petrel/cacert.pem /etc/petrel/server.pem /etc/petrel/server.key";
    let (_, port) = host.address.rsplit_once(':').unwrap();
    let text: String = shipped(file)
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("tcp6"))
        .fold(String::new(), |text, line| text + line + "\n");
    let report = "/run/petrel/metrics/petrel.prom";
    for part in [
        certificates,
        " --syslog",
        "/usr/sbin/petrel-tls",
        "/usr/sbin/petrel-metrics",
        report,
        "127.0.0.1",
        "9559",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    text.replace(certificates, &options)
        .replace(" --syslog", "")
        .replace(report, host.path("petrel.prom").to_str().unwrap())
        .replace("9559", &metrics.port().to_string())
        .replace(" petrel /usr/sbin/", &format!(" {user} /usr/sbin/"))
        .replace(" nobody /usr/sbin/", &format!(" {user} /usr/sbin/"))
        .replace("= petrel\n", &format!("= {user}\n"))
        .replace("= nobody\n", &format!("= {user}\n"))
        .replace("/usr/sbin/petrel-tls", program)
        .replace(
            "/usr/sbin/petrel-metrics",
            env!("CARGO_BIN_EXE_petrel-metrics"),
        )
        .replace("\n1025 ", &format!("\n{} ", host.address))
        .replace("= 1025", &format!("= {port}"))
        .replace("flags       = IPv6", "bind        = 127.0.0.1")
        .trim_start()
        .replacen("1025 ", &format!("{} ", host.address), 1)
}

/// A port that is free. No inetd has a way to say which one it took.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A command of a tenant reaches petreld by this inetd, and again after it; so does Prometheus its metrics.
fn serves(name: &str, file: &str, options: &[&str]) {
    let what = format!("petrel-tls and petrel-metrics under {file}");
    let Some(program) = on_path(name) else {
        return skipped(&what, &format!("no {name} on PATH"));
    };
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host.start_supervisor();
    host.file("petrel.prom", "x 1\n");
    let (address, metrics) = (free(), free());
    host.address = address.to_string();
    let configuration = host.file("inetd.conf", configuration(&host, file, metrics));
    let mut command = Command::new(program);
    let path = configuration.to_str().unwrap();
    let pid = host.path("inetd.pid");
    for option in options {
        command.arg(
            option
                .replace("FILE", path)
                .replace("PID", pid.to_str().unwrap()),
        );
    }
    let inetd = Running::start(&mut command);
    eventually("it listens", || TcpStream::connect(address).is_ok());
    let image = guest("forever.spt");
    for _ in 0..2 {
        let created = host.tenant(&["create", "hello", image.to_str().unwrap()]);
        host.expect(&created, 0, &["success: created unikernel"]);
        let destroyed = host.tenant(&["destroy", "hello"]);
        host.expect(&destroyed, 0, &["success: destroyed unikernel"]);
        let mut prometheus = TcpStream::connect(metrics).unwrap();
        prometheus.set_read_timeout(Some(DEADLINE)).unwrap();
        let get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        prometheus.write_all(get).unwrap();
        let mut answer = String::new();
        prometheus.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nx 1\n"), "{answer}");
    }
    inetd.signal(Signal::SIGTERM);
    let _ = inetd.end();
}

#[test]
fn openbsd_inetd_can_be_the_listener() {
    serves("inetd", "inetd.conf.openbsd-inetd", &["-i", "FILE"]);
}

#[test]
fn inetutils_inetd_can_be_the_listener() {
    let options = ["-d", "--pidfile=PID", "FILE"];
    serves("inetutils-inetd", "inetd.conf.inetutils-inetd", &options);
}

#[test]
fn xinetd_can_be_the_listener() {
    let options = ["-dontfork", "-f", "FILE", "-pidfile", "PID"];
    serves("xinetd", "xinetd.conf", &options);
}

#[test]
fn no_line_runs_the_parser_of_the_network_as_root_or_without_limits() {
    for (file, endpoint, metrics) in [
        (
            "inetd.conf.freebsd",
            " nowait/64/600/16 petrel /",
            " nowait/16/600/16 nobody /",
        ),
        (
            "inetd.conf.openbsd-inetd",
            " nowait.6000 petrel /",
            " nowait.600 nobody /",
        ),
        (
            "inetd.conf.inetutils-inetd",
            " nowait.6000 petrel /",
            " nowait.600 nobody /",
        ),
    ] {
        let text = shipped(file);
        let lines_with = |program: &str| -> Vec<_> {
            let lines = text.lines().filter(|line| line.contains(" stream tcp"));
            lines.filter(|line| line.contains(program)).collect()
        };
        let lines = lines_with(" petrel-tls ");
        assert_eq!(lines.len(), 2, "{file}: one for each version of IP");
        for line in lines {
            assert!(line.contains(endpoint), "{file}: {line}");
        }
        let [line] = lines_with(" petrel-metrics ")[..] else {
            panic!("{file}: who can connect is one line");
        };
        assert!(line.contains(metrics), "{file}: {line}");
        // Whoever connects is not asked for a password.
        let local = line.starts_with("127.0.0.1:") || line.starts_with("#petrel-metrics ");
        assert!(local, "{file}: {line}");
    }
    let xinetd = shipped("xinetd.conf");
    let (endpoint, metrics) = xinetd.split_once("service petrel-metrics").unwrap();
    for (service, lines) in [
        (endpoint, &["= petrel\n", "instances   = 64\n"][..]),
        (
            metrics,
            &["= nobody\n", "instances   = 16\n", "= 127.0.0.1\n"],
        ),
    ] {
        for line in lines {
            assert!(service.contains(line), "{line}");
        }
    }
}

#[test]
fn every_inetd_page_and_package_says_how_the_endpoint_gets_to_read_its_files() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(path).unwrap()
    };
    for (path, directory) in [
        ("contrib/inetd/inetd.conf.openbsd-inetd", "/etc/petrel"),
        ("contrib/inetd/inetd.conf.inetutils-inetd", "/etc/petrel"),
        ("contrib/inetd/xinetd.conf", "/etc/petrel"),
        ("man/petrel-tls.8", "/etc/petrel"),
        ("contrib/inetd/inetd.conf.freebsd", "/usr/local/etc/petrel"),
        ("contrib/freebsd/MANIFEST.in", "@PREFIX@/etc/petrel"),
    ] {
        let text = read(path);
        for command in [
            format!("chgrp petrel {directory} {directory}/server.key\n"),
            format!("chmod 710 {directory}\n"),
            format!("chmod 440 {directory}/server.key\n"),
        ] {
            assert!(text.contains(&command), "{path}: {command}");
        }
    }
}
