//! The exporter to InfluxDB, and what daemons tell it of themselves: listeners of the test's own, and a real InfluxDB where there is one.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host, stats};

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};
use serde_json::Value;

use host::{Daemon, Host, Setup, eventually};
use stats::{Client, add, create};
use support::{DEADLINE, on_path, run, skipped};

/// `petrel-influx` with these options.
fn exporter(host: &Host, options: &[&str]) -> Command {
    let mut command = host.command("petrel-influx");
    command.args(["-v", "--tmpdir", "run"]).args(options);
    command
}

fn start(host: &Host, options: &[&str]) -> Daemon {
    Daemon::start(&mut exporter(host, options), "ready")
}

/// A statistics daemon without supervisor that observes this process under these names.
fn observing(names: &[&str]) -> (Host, Daemon) {
    let host = Host::prepared(Setup::default());
    let stats = stats::start(&host, &[]);
    observe(&host, names);
    (host, stats)
}

fn observe(host: &Host, names: &[&str]) {
    let mut client = Client::connect(host);
    for name in names {
        client.ask(name, add(std::process::id().into(), Some("lo")));
    }
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    BufReader::new(stream)
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.ends_with('\n'), "{line:?}");
    line
}

#[test]
fn a_record_of_a_guest_becomes_the_lines_of_albatross_over_tcp() {
    let host = Host::start();
    create(&host, "t:a");
    let _stats = stats::start(&host, &[]);
    let (listener, address) = listener();
    let _exporter = start(&host, &["--influx", &address]);
    let mut lines = accept(&listener);
    for _ in 0..2 {
        let usage = line(&mut lines);
        assert!(usage.starts_with("resource_usage,vm=a utime="), "{usage}");
        assert_eq!(usage.matches(' ').count(), 1);
        let names: Vec<&str> = usage
            .split([' ', ','])
            .filter_map(|field| field.split('=').next())
            .collect();
        let expected = "resource_usage vm utime stime maxrss ixrss idrss isrss minflt maxflt nswap inblock outblock \
                        msgsnd msgrcv nsignals nvcsw nivcsw";
        assert_eq!(names.join(" "), expected);
        assert!(line(&mut lines).starts_with("kinfo_mem,vm=a vsize="));
    }
}

#[test]
fn names_are_selected_and_whole_and_lines_have_times_where_that_is_asked_for() {
    let (host, _stats) = observing(&["t:a", "u:b"]);
    let (listener, address) = listener();
    let options = [
        "--influx",
        &address,
        "-n",
        "u:",
        "--no-drop-path",
        "--timestamps",
    ];
    let _exporter = start(&host, &options);
    let mut lines = accept(&listener);
    for _ in 0..6 {
        let line = line(&mut lines);
        assert!(line.contains(",vm=:b"), "{line}");
        let (_, time) = line.trim_end().rsplit_once(' ').unwrap();
        let time = Duration::from_nanos(time.parse().unwrap());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(now.abs_diff(time) < DEADLINE, "{line}");
    }
}

#[test]
fn lines_wait_while_the_collector_is_away_and_the_oldest_are_dropped_beyond_a_bound() {
    let (host, _stats) = observing(&[":a"]);
    let (first, address) = listener();
    let options = ["--influx", &address, "--timestamps", "--buffer", "30"];
    let exporter = start(&host, &options);
    let mut lines = accept(&first);
    line(&mut lines);
    drop((lines, first));
    exporter.says("30 lines wait, and the oldest are dropped");
    let second = TcpListener::bind(&address).unwrap();
    let mut lines = accept(&second);
    let time = |line: &str| -> u64 { line.trim_end().rsplit_once(' ').unwrap().1.parse().unwrap() };
    let mut times: Vec<u64> = (0..30).map(|_| time(&line(&mut lines))).collect();
    // Those of the outage, in their order.
    assert!(times.is_sorted());
    times.dedup();
    assert!(times.len() >= 10, "{times:?}");
    assert!(
        exporter
            .says("takes lines again")
            .contains("dropped meanwhile")
    );
}

#[test]
fn a_statistics_daemon_that_comes_back_is_subscribed_to_again() {
    let host = Host::prepared(Setup::default());
    let (listener, address) = listener();
    let exporter = start(&host, &["--influx", &address]);
    exporter.says("statistics daemon at ");
    let mut stats = stats::start(&host, &[]);
    observe(&host, &[":first"]);
    let mut lines = accept(&listener);
    assert!(line(&mut lines).contains("vm=first "));
    assert_eq!(stats.stop(), Some(0));
    stats = stats::start(&host, &[]);
    observe(&host, &[":second"]);
    while !line(&mut lines).contains("vm=second ") {}
    assert_eq!(exporter.stop(), Some(0));
    drop(stats);
}

/// A server that answers each request with the next of these status lines, the last one for ever.
fn server(answers: &'static [&'static str]) -> (String, Receiver<(String, String)>) {
    let (listener, address) = listener();
    let (tell, told) = channel();
    thread::spawn(move || {
        for number in 0.. {
            let mut reader = accept(&listener);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = answers.get(number).or(answers.last()).unwrap();
            let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 4\r\n\r\nwhy\n");
            let _ = reader.get_mut().write_all(answer.as_bytes());
            if tell.send((head, String::from_utf8(body).unwrap())).is_err() {
                return;
            }
        }
    });
    (format!("http://{address}"), told)
}

#[test]
fn a_bucket_is_written_to_with_the_token_of_a_file_or_of_the_environment() {
    let (host, _stats) = observing(&[":a"]);
    let file = host.file("token", "from file\n");
    set_mode(&file, 0o600);
    for (option, token) in [
        (Some(file.to_str().unwrap()), "from file"),
        (None, "from env"),
    ] {
        let (url, told) = server(&["204 No Content"]);
        let mut options = vec!["--url", &url, "--org", "my org", "--bucket", "b"];
        options.extend(option.iter().flat_map(|file| ["--token-file", *file]));
        let mut command = exporter(&host, &options);
        let _exporter = Daemon::start(command.env("INFLUX_TOKEN", "from env"), "ready");
        let (head, body) = told.recv_timeout(DEADLINE).unwrap();
        assert!(
            head.starts_with("POST /api/v2/write?org=my%20org&bucket=b&precision=ns HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("\r\nAuthorization: Token {token}\r\n")),
            "{head}"
        );
        assert!(body.starts_with("resource_usage,vm=a utime="), "{body}");
        assert!(body.ends_with('\n'));
    }
}

#[test]
fn a_token_that_others_can_read_is_refused() {
    let host = Host::prepared(Setup::default());
    let file = host.file("token", "secret\n");
    let path = file.to_str().unwrap();
    let options = ["--url", "http://h", "--database", "d", "--token-file", path];
    for (mode, said) in [(0o644, "(mode 0644)"), (0o620, "(mode 0620)")] {
        set_mode(&file, mode);
        let ended = run(&mut exporter(&host, &options));
        assert_eq!(ended.code(), 124);
        for part in ["the token", path, said, "chmod 600"] {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
    }
    // One that is cut off would be another token.
    fs::write(&file, "x".repeat(5000)).unwrap();
    set_mode(&file, 0o600);
    let ended = run(&mut exporter(&host, &options));
    assert!(ended.stderr.contains("exceeds 4 KiB"), "{ended:?}");
}

fn set_mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_name_of_a_server_is_looked_up_by_a_process_of_its_own() {
    let (host, _stats) = observing(&[":a"]);
    let (url, told) = server(&["204 No Content"]);
    let url = url.replace("127.0.0.1", "localhost");
    let _exporter = start(&host, &["--url", &url, "--database", "d"]);
    let (head, _) = told.recv_timeout(DEADLINE).unwrap();
    assert!(head.contains("\r\nHost: localhost:"), "{head}");
}

#[test]
fn what_a_server_may_take_later_is_sent_again_and_what_it_refuses_is_not() {
    let (host, _stats) = observing(&[":a"]);
    let (url, told) = server(&[
        "500 Oops",
        "401 Unauthorized",
        "400 Bad Request",
        "204 No Content",
    ]);
    let exporter = start(&host, &["--url", &url, "--database", "d"]);
    let bodies: Vec<String> = (0..4)
        .map(|_| told.recv_timeout(DEADLINE).unwrap().1)
        .collect();
    let first = bodies[0].lines().next().unwrap();
    assert!(bodies[1].starts_with(first) && bodies[2].starts_with(first));
    assert!(!bodies[3].contains(first));
    exporter.says("500 Oops why; lines wait for it");
    exporter.says(" lines: 400 Bad Request why");
}

/// A real InfluxDB in a directory of its own.
fn influxd(program: &Path, host: &Host, port: u16) -> Daemon {
    let directory = host.path("influx");
    let directory = directory.display();
    let mut text = "reporting-disabled = true\nbind-address = \"127.0.0.1:0\"\n".to_owned();
    for (section, place) in [("meta", "dir"), ("data", "dir")] {
        let _ = writeln!(text, "[{section}]\n{place} = \"{directory}/{section}\"");
    }
    let _ = writeln!(
        text,
        "wal-dir = \"{directory}/wal\"\n[http]\nbind-address = \"127.0.0.1:{port}\""
    );
    text +=
        "flux-enabled = false\n[monitor]\nstore-enabled = false\n[subscriber]\nenabled = false\n";
    let config = host.file("influx.conf", text);
    let mut command = Command::new(program);
    command
        .env("HOME", host.path("."))
        .arg("-config")
        .arg(config);
    let database = Daemon::start(&mut command, "InfluxDB");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("InfluxDB answers", || TcpStream::connect(address).is_ok());
    database
}

/// What InfluxDB answers to a query.
fn query(port: u16, method: &str, query: &str) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let query = query.replace(' ', "%20").replace('"', "%22");
    let request = format!(
        "{method} /query?db=petrel&epoch=ns&q={query} HTTP/1.0\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{answer}");
    serde_json::from_str(body).unwrap()
}

/// The times of the points of a measurement about `vm`.
fn times(port: u16, measurement: &str, field: &str, vm: &str) -> Vec<u64> {
    let asked = format!("SELECT {field} FROM {measurement} WHERE vm='{vm}'");
    let answer = query(port, "GET", &asked);
    let values = &answer["results"][0]["series"][0]["values"];
    let rows = values.as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| row[0].as_u64().unwrap()).collect()
}

#[test]
fn a_real_influxdb_has_every_measurement_and_misses_nothing_of_its_own_outage() {
    let Some(program) = on_path("influxd") else {
        return skipped("the export to a real InfluxDB", "influxd is not on PATH");
    };
    let host = Host::start();
    create(&host, "guest");
    let _stats = stats::start(&host, &[]);
    observe(&host, &["t:odd"]);
    let port = listener().0.local_addr().unwrap().port();
    let database = influxd(&program, &host, port);
    query(port, "POST", "CREATE DATABASE petrel");
    let url = format!("http://127.0.0.1:{port}");
    let options = [
        "--url",
        &url,
        "--database",
        "petrel",
        "--no-drop-path",
        "--all-fields",
    ];
    let exporter = start(&host, &options);
    for (measurement, field, vm) in [
        ("resource_usage", "maxrss", ":guest"),
        ("resource_usage", "majflt", ":guest"),
        ("kinfo_mem", "uptime", ":guest"),
        ("kinfo_mem", "rss", "t:odd"),
        ("interface", "vm_to_host_bytes", "t:odd"),
        ("interface", "flags", "t:odd"),
    ] {
        eventually(measurement, || {
            times(port, measurement, field, vm).len() > 2
        });
    }
    let resident = query(
        port,
        "GET",
        "SELECT last(maxrss) FROM resource_usage WHERE vm=':guest'",
    );
    let resident = resident["results"][0]["series"][0]["values"][0][1]
        .as_i64()
        .unwrap();
    assert!(resident > 100, "{resident}");

    assert_eq!(database.stop(), Some(0));
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    exporter.says("lines wait for it");
    let since = Instant::now();
    eventually("an outage", || since.elapsed() > Duration::from_secs(1));
    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let _database = influxd(&program, &host, port);
    exporter.says("takes lines again; 0 were dropped meanwhile");
    let (begin, end) = (begin.as_nanos() as u64, end.as_nanos() as u64);
    eventually("the outage is told of", || {
        let times = times(port, "resource_usage", "utime", ":guest");
        times
            .iter()
            .filter(|time| (begin..end).contains(time))
            .count()
            >= 5
    });
}

/// The three daemons, of which each tells this collector of itself; with a policy of `t`, and a unikernel there.
fn telling(collector: &str) -> (Host, [Daemon; 3]) {
    let mut host = Host::start();
    let policy = ["add-policy", "t", "4", "--mem=64", "--cpu=0", "--block=5"];
    host.expect(&host.petrel(&policy), 0, &[]);
    create(&host, "t:guest");
    host.kill_supervisor();
    assert_eq!(host.console.take().unwrap().stop(), Some(0));
    let influx = ["--influx", collector];
    let mut console = host.command("petrel-console");
    console.args(["-v", "--tmpdir", "run"]).args(influx);
    let console = Daemon::start(&mut console, "ready");
    let stats = stats::start(&host, &influx);
    let mut supervisor = host.supervisor_command();
    let supervisor = Daemon::start(supervisor.args(influx), "this host has");
    (host, [console, stats, supervisor])
}

/// Whom the first of these lines is about.
fn vm(lines: &str) -> &str {
    lines.split(['=', ' ']).nth(1).unwrap()
}

/// The first round of each of three connections.
fn rounds(listener: &TcpListener) -> Vec<String> {
    let round = |_| {
        let mut lines = accept(listener);
        let mut read = line(&mut lines);
        let last = match vm(&read) {
            "albatross" => "unikernels,vm=albatross,domain=t: ",
            "albatross_console" => ",kind=fifo ",
            _ => ",kind=unix ",
        };
        while !read.contains(last) {
            read += &line(&mut lines);
        }
        read
    };
    (0..3).map(round).collect()
}

#[test]
fn daemons_tell_of_themselves_under_the_names_of_albatross() {
    let (listener, address) = listener();
    let (_host, _daemons) = telling(&address);
    let rounds = rounds(&listener);
    let measurements = |vm: &str| -> Vec<String> {
        let tag = format!(",vm={vm}");
        let ours = rounds.iter().find(|lines| self::vm(lines) == vm);
        let lines = ours.unwrap_or_else(|| panic!("{vm}: {rounds:?}")).lines();
        let lines = lines.inspect(|line| assert!(line.contains(&tag), "{line}"));
        lines
            .map(|line| line.replacen(&tag, "", 1))
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    };
    let all = ["resource_usage", "kinfo_mem", "logs"];
    assert_eq!(
        measurements("albatross_stats"),
        [&all[..], &["connections,kind=unix"]].concat()
    );
    let connections = ["connections,kind=unix", "connections,kind=fifo"];
    assert_eq!(
        measurements("albatross_console"),
        [all.as_slice(), &connections].concat()
    );
    let domains = [
        "connections,kind=unix",
        "albatross-policies,domain=:",
        "albatross-unikernels,domain=:",
        "albatross-policies,domain=t:",
        "albatross-unikernels,domain=t:",
    ];
    assert_eq!(
        measurements("albatross"),
        [all.as_slice(), &domains].concat()
    );
    let has = |part: &str| assert!(rounds.concat().contains(part), "{part}: {rounds:?}");
    has(
        "albatross-policies,vm=albatross,domain=t: maximum\\ unikernels=4i,maximum\\ memory=64i,maximum\\ block=5i\n",
    );
    has("total\\ used\\ block=0i,running\\ unikernels=1i,used\\ memory=16i\n");
}

#[test]
fn what_daemons_tell_is_what_they_have() {
    let (listener, address) = listener();
    let (_host, daemons) = telling(&address);
    for _ in &daemons {
        let mut lines = accept(&listener);
        let usage = line(&mut lines);
        let memory = line(&mut lines);
        let field = |line: &str, name: &str| -> u64 {
            let rest = line.split_once(&format!("{name}=")).unwrap().1;
            rest.split([',', 'i']).next().unwrap().parse().unwrap()
        };
        let vm = vm(&usage);
        let daemon = match vm {
            "albatross_console" => &daemons[0],
            "albatross_stats" => &daemons[1],
            _ => &daemons[2],
        };
        // Pages, of which a daemon has some thousands; and bytes.
        let (rss, vsize) = (field(&memory, "rss"), field(&memory, "vsize"));
        let resident = daemon.status("VmRSS") * 1024 / 4096;
        assert!(rss > resident / 2 && rss < resident * 2, "{rss} {resident}");
        assert!(vsize / 1024 <= daemon.status("VmPeak"), "{vm}: {vsize}");
        assert!(vsize > rss * 4096, "{vm}: {vsize}");
    }
}

/// A listener to which no further connection can be made, nor is refused, and what keeps it so.
fn stalled() -> (OwnedFd, Vec<TcpStream>, String) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let address: SockaddrIn = getsockname(listener.as_raw_fd()).unwrap();
    let address = SocketAddr::from((address.ip(), address.port()));
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "it takes connections");
    }
    (listener, waiting, address.to_string())
}

#[test]
fn a_collector_that_is_dead_or_stalled_delays_no_daemon() {
    let (reading, silent) = listener();
    let (_listener, _waiting, full) = stalled();
    let (gone, refusing) = listener();
    drop(gone);
    for collector in [silent, full, refusing] {
        let begun = Instant::now();
        let (host, daemons) = telling(&collector);
        create(&host, "t:other");
        let mut client = Client::subscribed(&host, "t:other");
        client.names(3);
        let mut console = host.follow("t:other", &["--count=1", "--no-follow"]);
        console.line();
        host.expect(&host.petrel(&["destroy", "t:other"]), 0, &[]);
        for daemon in daemons {
            assert_eq!(daemon.stop(), Some(0));
        }
        assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    }
    drop(reading);
}

#[test]
fn a_real_influxdb_stores_what_daemons_tell_of_themselves() {
    let Some(program) = on_path("influxd") else {
        return skipped(
            "the lines of daemons in a real InfluxDB",
            "influxd is not on PATH",
        );
    };
    let (lines, address) = listener();
    let (host, _daemons) = telling(&address);
    let rounds = rounds(&lines).concat();
    let port = listener().0.local_addr().unwrap().port();
    let _database = influxd(&program, &host, port);
    query(port, "POST", "CREATE DATABASE petrel");
    // It has no listener for lines of its own.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = rounds.len();
    let request =
        format!("POST /write?db=petrel HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{rounds}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 204 "), "{answer}");
    for (measurement, field, vm, count) in [
        ("resource_usage", "maxrss", "albatross", 1),
        ("kinfo_mem", "uptime", "albatross_console", 1),
        ("logs", "warnings", "albatross_stats", 1),
        ("connections", "active", "albatross_console", 2),
        (
            "\"albatross-policies\"",
            "\"maximum memory\"",
            "albatross",
            2,
        ),
        (
            "\"albatross-unikernels\"",
            "\"total used block\"",
            "albatross",
            2,
        ),
    ] {
        let stored = times(port, measurement, field, vm);
        assert_eq!(stored.len(), count, "{measurement}");
    }
}

#[test]
fn what_does_not_say_where_lines_go_is_refused() {
    let host = Host::prepared(Setup::default());
    let both = ["--influx", "127.0.0.1", "--url", "http://h"];
    for (options, why) in [
        (&[][..], "either --influx or --url"),
        (&both[..], "either --influx or --url"),
        (&["--influx", "host"], "is no IP[:PORT]"),
        (&["--url", "https://h"], "a proxy on this host"),
        (&["--url", "http://h"], "--url needs either"),
        (&["--url", "http://h", "--org", "o"], "--url needs either"),
        (
            &["--influx", "127.0.0.1", "--database", "d"],
            "only with --url",
        ),
        (
            &[
                "--url",
                "http://h",
                "--database",
                "d",
                "--token-file",
                "none",
            ],
            "cannot read the token 'none'",
        ),
        (
            &["--influx", "127.0.0.1", "--buffer", "0"],
            "is no number of lines",
        ),
    ] {
        let ended = run(&mut exporter(&host, options));
        assert_eq!(ended.code(), 124, "{options:?}");
        assert!(ended.stderr.contains(why), "{options:?}: {ended:?}");
    }
}
