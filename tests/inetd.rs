//! `petrel-tls` under every inetd, with the lines that are shipped.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[path = "support/host.rs"]
mod host;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use host::{Host, Setup, eventually};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use support::{Running, guest, on_path, skipped};

/// A shipped file in contrib/inetd.
fn shipped(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/inetd");
    fs::read_to_string(folder.join(file)).unwrap()
}

/// The shipped configuration for this host: another address, user and program, and the certificates of the test. What
/// bounds it is left.
fn configuration(host: &Host, file: &str) -> String {
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
    for part in [certificates, " --syslog", "/usr/sbin/petrel-tls", "petrel"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    text.replace(certificates, &options)
        .replace(" --syslog", "")
        .replace(" petrel /usr/sbin/", &format!(" {user} /usr/sbin/"))
        .replace("= petrel\n", &format!("= {user}\n"))
        .replace("/usr/sbin/petrel-tls", program)
        .replace("\n1025 ", &format!("\n{} ", host.address))
        .replace("= 1025", &format!("= {port}"))
        .replace("flags       = IPv6", "bind        = 127.0.0.1")
        .trim_start()
        .replacen("1025 ", &format!("{} ", host.address), 1)
}

/// A command of a tenant reaches petreld by this inetd, and again after it.
fn serves(name: &str, file: &str, options: &[&str]) {
    let what = format!("petrel-tls under {file}");
    let Some(program) = on_path(name) else {
        return skipped(&what, &format!("no {name} on PATH"));
    };
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host.start_supervisor();
    // None of them has a way to say which free port it took.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    host.address = address.to_string();
    let configuration = host.file("inetd.conf", configuration(&host, file));
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
    for (file, limit) in [
        ("inetd.conf.freebsd", " nowait/64/600/16 petrel /"),
        ("inetd.conf.openbsd-inetd", " nowait.6000 petrel /"),
        ("inetd.conf.inetutils-inetd", " nowait.6000 petrel /"),
    ] {
        let text = shipped(file);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 2, "{file}: one for each version of IP");
        for line in lines {
            assert!(line.contains(limit), "{file}: {line}");
        }
    }
}

#[test]
fn every_inetd_page_and_package_says_how_the_endpoint_gets_to_read_its_files() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(path).unwrap()
    };
    for (path, folder) in [
        ("contrib/inetd/inetd.conf.openbsd-inetd", "/etc/petrel"),
        ("contrib/inetd/inetd.conf.inetutils-inetd", "/etc/petrel"),
        ("contrib/inetd/xinetd.conf", "/etc/petrel"),
        ("man/petrel-tls.8", "/etc/petrel"),
        ("contrib/inetd/inetd.conf.freebsd", "/usr/local/etc/petrel"),
        ("contrib/freebsd/MANIFEST.in", "@PREFIX@/etc/petrel"),
    ] {
        let text = read(path);
        for command in [
            format!("chgrp petrel {folder} {folder}/server.key\n"),
            format!("chmod 710 {folder}\n"),
            format!("chmod 440 {folder}/server.key\n"),
        ] {
            assert!(text.contains(&command), "{path}: {command}");
        }
    }
}
