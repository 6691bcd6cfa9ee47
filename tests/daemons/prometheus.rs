//! Metrics for Prometheus: the file of `petrel-stats`, the same over HTTP, and what other programs say of them.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host, stats};

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use petrel::stats::collect::Disk;
use petrel::stats::prometheus::{Report, text};
use petrel::wire::{Data, IfData, Message, Payload, Statistics, Text, VmmStat};
use serde_json::Value;

use host::{Daemon, Host, Setup, eventually};
use stats::{Client, add, create};
use support::{DEADLINE, Ended, on_path, run, skipped};

/// Starts `petrel-stats`, which writes the file.
fn start(host: &Host) -> Daemon {
    stats::start(host, &["--prometheus", "petrel.prom"])
}

fn read(host: &Host) -> String {
    fs::read_to_string(host.path("petrel.prom")).unwrap_or_default()
}

/// Waits until the file has a line that begins so, and returns what follows.
fn value(host: &Host, start: &str) -> String {
    let mut value = None;
    eventually(start, || {
        let text = read(host);
        value = text
            .lines()
            .find_map(|line| Some(line.strip_prefix(start)?.trim().to_owned()));
        value.is_some()
    });
    value.unwrap()
}

#[test]
fn the_file_tells_what_unikernels_use_and_what_the_supervisor_knows_of_them() {
    let mut host = Host::start();
    create(&host, "t:a");
    let _stats = start(&host);
    let of = |name: &str| format!("petrel_unikernel_{name}{{unikernel=\"t:a\"");
    let resident: u64 = value(&host, &(of("resident_memory_bytes") + "} "))
        .parse()
        .unwrap();
    let most: u64 = value(&host, &(of("resident_memory_max_bytes") + "} "))
        .parse()
        .unwrap();
    assert!(resident > 100_000 && most >= resident, "{resident} {most}");
    let started: f64 = value(&host, &(of("start_time_seconds") + "} "))
        .parse()
        .unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!((now.as_secs_f64() - started).abs() < 600.0);
    assert_eq!(value(&host, &(of("state") + ",state=")), "\"running\"} 1");
    assert_eq!(value(&host, &(of("restarts_total") + "} ")), "0");
    assert_eq!(
        value(&host, &(of("guest_memory_bytes") + "} ")),
        (16 << 20).to_string()
    );
    value(&host, &(of("cpu_seconds_total") + ",mode=\"system\"} "));
    assert_eq!(value(&host, "petrel_supervisor_up "), "1");
    host.expect(&host.petrel(&["stop", "t:a"]), 0, &[]);
    value(&host, &(of("state") + ",state=\"stopped\"} "));
    host.kill_supervisor();
    eventually("the supervisor is missed", || {
        read(&host).contains("petrel_supervisor_up 0\n")
    });
}

#[test]
fn the_file_is_whole_at_any_time_and_others_can_read_it() {
    use std::os::unix::fs::PermissionsExt;

    let host = Host::prepared(Setup::default());
    let _stats = start(&host);
    let mut client = Client::connect(&host);
    for number in 0..100 {
        client.ask(
            &format!("n{number}:a"),
            add(process::id().into(), Some("lo")),
        );
    }
    let mut seen = BTreeSet::new();
    eventually("several versions", || {
        let text = read(&host);
        if !text.is_empty() {
            let (_, last) = text.trim_end().rsplit_once('\n').unwrap();
            assert!(
                last.starts_with("petrel_stats_collected_timestamp_seconds "),
                "{last}"
            );
            assert!(text.ends_with('\n'));
            seen.insert(last.to_owned());
        }
        seen.len() > 5
    });
    let mode = fs::metadata(host.path("petrel.prom"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
}

/// A report in which every metric has a value: a record of the wire's vectors, and what a supervisor has told.
fn everything(host: &Host) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/wire.json");
    let vectors: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut hex = Vec::new();
    strings(&vectors, &mut hex);
    let mut full: Vec<Statistics> = hex
        .iter()
        .filter_map(|text| Message::decode(&bytes(text)?).ok())
        .filter_map(|message| match message.payload {
            Payload::Data(Data::Statistics(used)) => Some(*used),
            _ => None,
        })
        .filter(|used| !used.ifdata.is_empty() && used.kinfo_mem.is_some())
        .collect();
    let mut used = full.pop().expect("a full record among the vectors");
    used.vmm_stats = Some(vec![VmmStat {
        key: Text(b"vm \"exits\"\\".to_vec()),
        value: petrel::wire::Int64(7),
    }]);
    let odd = IfData {
        bridge: "odd \"name\"\n".into(),
        ..used.ifdata[0].clone()
    };
    used.ifdata.push(odd);
    let details = details(host);
    text(&Report {
        collected: Duration::from_secs(1_700_000_000),
        samples: &[(":a".parse().unwrap(), used)],
        disks: &[(
            ":a".parse().unwrap(),
            Disk {
                read: 1,
                written: 2,
            },
        )],
        details: Some(&details),
        subscribers: 1,
        missed: 2,
        page: 4096,
    })
}

/// What the supervisor tells of a unikernel that has ended by itself.
fn details(host: &Host) -> Vec<petrel::wire::extensions::NamedDetails> {
    use petrel::wire::frame::{MAX_MESSAGE, read_frame, write_frame};
    use petrel::wire::{Command, Success, UnikernelCommand};

    let image = support::guest("hello.spt");
    let ended = host.petrel(&["create", "hello", image.to_str().unwrap()]);
    host.expect(&ended, 0, &[]);
    let mut found = Vec::new();
    eventually("it has ended", || {
        let mut stream = UnixStream::connect(host.path("run/util/vmmd.sock")).unwrap();
        let command = Command::Unikernel(UnikernelCommand::Details(()));
        let message = Message::command(1, &":".parse().unwrap(), command);
        write_frame(&mut stream, &message.encode().unwrap()).unwrap();
        let answer = read_frame(&mut stream, MAX_MESSAGE).unwrap().unwrap();
        if let Payload::Reply(Success::UnikernelDetails(all)) =
            Message::decode(&answer).unwrap().payload
        {
            found = all;
        }
        found.iter().any(|entry| entry.details.last_exit.is_some())
    });
    found
}

fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(all) => all.iter().for_each(|one| strings(one, found)),
        Value::Object(all) => all.values().for_each(|one| strings(one, found)),
        _ => {}
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect()
}

fn promtool(program: &Path, metrics: &str) -> Ended {
    let directory = support::Directory::new("promtool");
    let file = directory.file("metrics", metrics);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$1\" check metrics <\"$2\"", "sh"]);
    run(command.arg(program).arg(file))
}

#[test]
fn promtool_finds_nothing_to_complain_of() {
    let Some(program) = on_path("promtool") else {
        return skipped("metrics checked by promtool", "it is not on PATH");
    };
    let host = Host::start();
    let everything = everything(&host);
    let ended = promtool(&program, &everything);
    assert_eq!(
        (ended.code(), &ended.stderr[..]),
        (0, ""),
        "{}\n{everything}",
        ended.stdout
    );
    // It does complain of what is wrong.
    let wrong = everything.replace("_restarts_total", "_restarts");
    assert_ne!(promtool(&program, &wrong).code(), 0);
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let host = Host::start();
    let everything = everything(&host);
    let exist: BTreeSet<&str> = everything
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/grafana/petrel.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut texts = Vec::new();
    strings(&dashboard["panels"], &mut texts);
    strings(&dashboard["templating"], &mut texts);
    let mut asked = 0;
    for text in texts {
        let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        for metric in text.split(word).filter(|word| word.starts_with("petrel_")) {
            assert!(exist.contains(metric), "{metric}");
            asked += 1;
        }
    }
    assert!(asked > 10, "only {asked} found");
}

/// What `petrel-metrics` answers on a socket.
fn ask(host: &Host, request: &str, options: &[&str]) -> (i32, String) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = host.command("petrel-metrics");
    let child = command
        .arg("petrel.prom")
        .args(options)
        .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .spawn();
    drop(command);
    let mut child = child.unwrap();
    let mut stream = ours;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may answer what is too long before it is written whole.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    (child.wait().unwrap().code().unwrap(), answer)
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";

#[test]
fn the_same_text_is_served_over_http_on_standard_input_and_output() {
    let host = Host::prepared(Setup::default());
    let text = "x 1\n".repeat(100_000);
    host.file("petrel.prom", &text);
    let (code, answer) = ask(&host, GET, &[]);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(code, 0);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4"));
    assert!(head.contains(&format!("\r\nContent-Length: {}", text.len())));
    assert!(body == text);
    let (_, answer) = ask(&host, &GET.replace("GET", "HEAD"), &[]);
    assert!(answer.contains("200 OK") && answer.ends_with("\r\n\r\n"));
    for (request, status) in [
        (GET.replace("/metrics", "/"), "404 "),
        (GET.replace("GET", "PUT"), "405 "),
        (GET.replace("*/*", &"x".repeat(3000)), "200 "),
        ("nonsense\r\n\r\n".to_owned(), "400 "),
        (
            format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(1 << 14)),
            "400 ",
        ),
    ] {
        let (_, answer) = ask(&host, &request, &[]);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let host = Host::prepared(Setup::default());
    let mut command = host.command("petrel-stats");
    let ended = run(command.args(["--tmpdir", "run", "--prometheus", "nowhere/petrel.prom"]));
    assert_eq!(ended.code(), 124, "{ended:?}");
    let problem = "cannot open the directory 'nowhere': ";
    assert!(ended.stderr.contains(problem), "{ended:?}");
    assert!(!ended.stderr.contains("--tmpdir"), "{ended:?}");
}

#[test]
fn a_file_that_is_missing_or_old_is_no_answer() {
    let host = Host::prepared(Setup::default());
    let (_, answer) = ask(&host, GET, &[]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("cannot read petrel.prom: "), "{answer}");
    let file = File::create(host.path("petrel.prom")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(100))
        .unwrap();
    assert!(ask(&host, GET, &[]).1.starts_with("HTTP/1.1 200 "));
    let (_, answer) = ask(&host, GET, &["--max-age", "60"]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("does petrel-stats --prometheus run?"),
        "{answer}"
    );
}

#[test]
fn a_client_that_leaves_without_a_request_is_nobody_to_answer() {
    let host = Host::prepared(Setup::default());
    let ended = run(host
        .command("petrel-metrics")
        .arg("petrel.prom")
        .stdin(Stdio::null()));
    assert_eq!((ended.code(), &ended.stdout[..]), (1, ""));
}

#[test]
fn promtool_reads_what_is_served_by_a_listener_of_others() {
    let (Some(socat), Some(promtool)) = (on_path("socat"), on_path("promtool")) else {
        return skipped(
            "metrics served by socat, read by promtool",
            "one is not on PATH",
        );
    };
    let host = Host::start();
    create(&host, "a");
    let _stats = start(&host);
    value(&host, "petrel_unikernel_state{");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let program = host.command("petrel-metrics").get_program().to_owned();
    let listen = format!("TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork");
    let execute = format!(
        "EXEC:{} {}",
        program.to_str().unwrap(),
        host.path("petrel.prom").display()
    );
    let mut command = Command::new(socat);
    command.args(["-d", "-d", &listen, &execute]);
    let _listener = Daemon::start(&mut command, "listening on");
    let mut text = String::new();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(GET.as_bytes()).unwrap();
    stream.read_to_string(&mut text).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("petrel_supervisor_up 1"), "{text}");
    assert_eq!(self::promtool(&promtool, body).code(), 0);
}
