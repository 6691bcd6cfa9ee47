//! The statistics daemon: real daemons and guests, several subscribers, and supervisors that come and go.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host, stats};

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, process};

use nix::sys::signal::Signal;
use petrel::stats::daemon::{MAX_BACKLOG, MAX_CONNECTIONS, MAX_QUEUE};
use petrel::wire::frame::{MAX_MESSAGE, read_frame, write_frame};
use petrel::wire::{
    BridgeTap, Command, ConsoleCommand, Int, Message, Payload, StatsAdd, StatsCommand, Success,
    UnikernelCommand,
};

use host::{Daemon, Host, Setup, eventually};
use stats::{Client, add, create, start};
use support::{Running, run};

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn own() -> i64 {
    process::id().into()
}

#[test]
fn what_runs_is_told_with_all_that_the_system_knows_and_what_has_ended_no_longer() {
    let host = Host::start();
    create(&host, "before");
    let _stats = start(&host, &[]);
    let mut client = Client::subscribed(&host, ":");
    let used = client.until(|name, _| name == ":before");
    let tender = host.tender_of(":before").unwrap();
    let (usage, memory) = (used.resource_usage, used.kinfo_mem.unwrap());
    let resident = memory.rss.0 * 4096 / 1024;
    assert!(
        resident > 0 && usage.maxrss.0 >= resident,
        "{usage:?} {memory:?}"
    );
    assert!(memory.vsize.0 >= 16 << 20 && usage.minflt.0 > 0);
    let own_ticks = fs::read_to_string(format!("/proc/{tender}/stat")).unwrap();
    assert!(own_ticks.contains("petrel-spt"), "{own_ticks}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    assert!(
        (now - 600..=now).contains(&memory.start.seconds.0),
        "{memory:?}"
    );
    assert!(used.ifdata.is_empty() && used.vmm_stats.is_none());

    create(&host, "after");
    client.until(|name, _| name == ":after");
    host.expect(&host.petrel(&["destroy", "before"]), 0, &[]);
    // Once it is not in a whole round any more, it never is again.
    eventually("the ended one is told of no longer", || {
        client.names(4) == set(&[":after"])
    });
}

#[test]
fn a_subtree_never_sees_a_sibling_and_names_are_relative_to_it() {
    let host = Host::start();
    for name in ["t:a", "tt:a", "t:u:a"] {
        create(&host, name);
    }
    let _stats = start(&host, &[]);
    for (asked, expected) in [
        ("t:", set(&[":a", "u:a"])),
        ("t:u:", set(&[":a"])),
        ("t:a", set(&[":a"])),
        ("tt:", set(&[":a"])),
        (":", set(&["t:a", "tt:a", "t:u:a"])),
    ] {
        let mut client = Client::subscribed(&host, asked);
        assert_eq!(client.names(12), expected, "{asked}");
    }
    let mut nobody = Client::subscribed(&host, "t:u");
    let mut other = Client::subscribed(&host, ":");
    other.names(12);
    nobody.send(":", StatsCommand::Remove(()));
    let first = nobody.receive().unwrap();
    assert!(matches!(first.payload, Payload::Reply(_)), "{first:?}");
}

#[test]
fn any_number_of_subscribers_has_one_name_and_each_goes_on_when_others_leave() {
    let host = Host::start();
    create(&host, "a");
    let _stats = start(&host, &[]);
    let mut clients: Vec<_> = (0..20).map(|_| Client::subscribed(&host, ":")).collect();
    for client in &mut clients {
        client.names(2);
    }
    clients.drain(..10);
    for client in &mut clients {
        client.names(3);
    }
}

#[test]
fn a_subscriber_that_does_not_read_delays_nobody_and_is_not_sent_away() {
    let host = Host::start();
    let stats = start(&host, &[]);
    let mut control = Client::connect(&host);
    for number in 0..200 {
        let answer = control.ask(&format!("n{number}:a"), add(own(), None));
        assert_eq!(answer, Payload::Reply(Success::String("added".into())));
    }
    let mut slow = Client::subscribed(&host, ":");
    let mut other = Client::subscribed(&host, "n7:");
    stats.says("does not read, and missed 2 times");
    other.names(3);
    // What waited is far less than what was gathered.
    let seen: Vec<_> = (0..MAX_BACKLOG / 100).map(|_| slow.sample().0).collect();
    assert!(seen.iter().collect::<BTreeSet<_>>().len() == 200);
}

#[test]
fn of_a_round_that_is_more_than_may_wait_a_subscriber_misses_the_rest_and_goes_on() {
    let host = Host::prepared(Setup::default());
    let stats = start(&host, &[]);
    // As much as many unikernels with many devices.
    let device = "x".repeat(MAX_QUEUE / 128);
    let observe = StatsCommand::Add(StatsAdd {
        vmmdev: "".into(),
        pid: Int::new(own()),
        network: vec![BridgeTap {
            bridge: device.as_str().into(),
            tap: "lo".into(),
        }],
    });
    let mut control = Client::connect(&host);
    for number in 0..256 {
        let answer = control.ask(&format!("n{number:03}:a"), observe.clone());
        assert_eq!(answer, Payload::Reply(Success::String("added".into())));
    }
    let mut slow = Client::subscribed(&host, ":");
    stats.says("does not read, and missed 1 times");
    let (mut told, mut waited) = (Vec::new(), 0);
    loop {
        let message = slow.receive().unwrap();
        let name = message.header.name.to_lossy();
        // Names are in order, and this is a later round.
        if told.last().is_some_and(|last| *last >= name) {
            break;
        }
        waited += message.encode().unwrap().len();
        told.push(name);
    }
    // What the system took does not wait in the daemon.
    assert!(
        (MAX_QUEUE / 2..MAX_QUEUE + (1 << 18)).contains(&waited),
        "{waited}"
    );
}

#[test]
fn streams_go_on_while_a_supervisor_is_killed_and_tell_of_what_its_successor_starts() {
    let mut host = Host::start();
    create(&host, "a");
    let stats = start(&host, &[]);
    let mut client = Client::subscribed(&host, ":");
    client.names(2);
    for round in 0..3 {
        host.kill_supervisor();
        client.names(3);
        host.start_supervisor();
        let name = format!(":b{round}");
        create(&host, &name);
        client.until(|told, _| told == name);
    }
    host.supervisor().signal(Signal::SIGHUP);
    create(&host, "last");
    client.until(|told, _| told == ":last");
    client.until(|told, _| told == ":a");
    assert!(stats.so_far().contains("is there"));
}

#[test]
fn a_statistics_daemon_that_is_killed_has_a_successor_that_knows_everything() {
    let host = Host::start();
    create(&host, "a");
    let first = start(&host, &[]);
    Client::subscribed(&host, ":").names(1);
    first.signal(Signal::SIGKILL);
    drop(first);
    // Told while nobody listens.
    create(&host, "b");
    let _second = start(&host, &[]);
    let mut client = Client::subscribed(&host, ":");
    client.until(|name, _| name == ":a");
    client.until(|name, _| name == ":b");
}

#[test]
fn a_second_introduction_to_the_supervisor_replaces_the_first() {
    let host = Host::start();
    create(&host, "a");
    let introduce = || {
        let mut stream = UnixStream::connect(host.path("run/util/vmmd.sock")).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let command = Command::Statistics(StatsCommand::Initial(()));
        let message = Message::command(5, &":".parse().unwrap(), command);
        write_frame(&mut stream, &message.encode().unwrap()).unwrap();
        let answer = read_frame(&mut stream, MAX_MESSAGE).unwrap().unwrap();
        let answer = Message::decode(&answer).unwrap();
        assert_eq!(answer.payload, Payload::Reply(Success::Empty(())));
        let told = read_frame(&mut stream, MAX_MESSAGE).unwrap().unwrap();
        let told = Message::decode(&told).unwrap();
        assert_eq!((told.header.sequence.0, told.header.name), (6, ":a".into()));
        let Payload::Command(Command::Statistics(StatsCommand::Add(told))) = told.payload else {
            panic!("{:?}", told.payload);
        };
        assert_eq!(told.pid.get(), i64::from(host.tender_of(":a").unwrap()));
        assert_eq!(told.vmmdev, "".into());
        stream
    };
    let mut first = introduce();
    let _second = introduce();
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0);
    // Nobody answers the second one's commands, and the supervisor works all the same.
    create(&host, "b");
    host.supervisor().says("it does not answer");
    create(&host, "c");
}

#[test]
fn processes_are_added_and_removed_by_hand_even_twice() {
    let host = Host::start();
    let _stats = start(&host, &[]);
    let pid = process::id().to_string();
    for _ in 0..2 {
        let options = ["stats-add", &pid, "-n", "t:me", "--bridge", "service:lo"];
        host.expect(&host.petrel(&options), 0, &["added"]);
    }
    let mut client = Client::subscribed(&host, "t:");
    let used = client.until(|name, _| name == ":me");
    assert_eq!(used.ifdata[0].bridge, "service".into());
    assert!(used.ifdata[0].mtu.bits() > 0);
    for _ in 0..2 {
        let ended = host.petrel(&["stats-remove", "-n", "t:me"]);
        host.expect(&ended, 0, &["removed"]);
    }
    let nobody = host.petrel(&["stats-add", "2147483647", "-n", "t:me"]);
    host.expect(&nobody, 117, &["there is no process 2147483647"]);
}

#[test]
fn the_client_prints_what_a_guest_used() {
    let host = Host::start();
    create(&host, "a");
    let _stats = start(&host, &[]);
    let mut client = Running::start(&mut host.client(&["stats"]));
    client.line_with("stats [unikernel: :a]:");
    assert!(client.line_with("usage: utime ").contains(" maxrss "));
    client.line_with("memory: vsize ");
}

#[test]
fn each_record_is_a_line_of_json_where_that_is_asked_for() {
    let host = Host::start();
    let _stats = start(&host, &[]);
    let mut control = Client::connect(&host);
    control.ask("t:me", add(own(), Some("lo")));
    let mut client = Running::start(&mut host.client(&["stats", "--json", "-n", "t:"]));
    for _ in 0..2 {
        let record: serde_json::Value = serde_json::from_str(&client.line()).unwrap();
        assert_eq!(record["unikernel"], ":me");
        assert!(record["usage"]["maxrss"].as_u64().unwrap() > 100);
        assert!(record["usage"]["utime"].is_f64());
        assert!(record["memory"]["start"].as_f64().unwrap() > 1e9);
        assert!(record["vmm"].is_null());
        assert_eq!(record["interfaces"][0]["device"], "service");
        assert!(record["interfaces"][0]["input_bytes"].is_u64());
    }
}

/// The client's statistics on a terminal.
fn on_a_terminal(host: &Host, options: &[&str]) -> Option<Running> {
    let Some(script) = support::on_path("script") else {
        support::skipped("the table on a terminal", "script is not on PATH");
        return None;
    };
    let client = host.client(options);
    let words = [client.get_program()].into_iter().chain(client.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let mut command = process::Command::new(script);
    command
        .args(["-q", "-e", "-f", "-c", &words.join(" "), "/dev/null"])
        .env("SHELL", "/bin/sh")
        .current_dir(client.get_current_dir().unwrap());
    Some(Running::start(&mut command))
}

#[test]
fn on_a_terminal_a_table_is_kept_up_to_date_with_what_the_supervisor_knows() {
    let host = Host::start();
    create(&host, "t:runs");
    create(&host, "t:stopped");
    host.expect(&host.petrel(&["stop", "t:stopped"]), 0, &[]);
    let _stats = start(&host, &[]);
    let Some(mut client) = on_a_terminal(&host, &["stats", "-n", "t:"]) else {
        return;
    };
    client.line_with("host [unikernel: t:]: success: subscribed");
    client.line_with("UNIKERNEL ");
    // The second one replaces the first, of three lines, and has rates.
    client.line_with("\u{1b}[3A\r\u{1b}[JUNIKERNEL ");
    let row = client.line_with(":runs ");
    let fields: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(fields[1], "running", "{row}");
    assert!(fields[2].parse::<f64>().is_ok(), "{row}");
    assert!(fields[3].ends_with("iB"), "{row}");
    assert_eq!(fields[6], "0", "{row}");
    let row = client.line_with(":stopped ");
    assert_eq!(row.split_whitespace().nth(1), Some("stopped"), "{row}");
    host.expect(&host.petrel(&["destroy", "t:stopped"]), 0, &[]);
    client.line_with("\u{1b}[2A\r\u{1b}[JUNIKERNEL ");
}

#[test]
fn what_is_no_request_for_it_is_refused_and_ends_the_conversation() {
    let host = Host::prepared(Setup::default());
    let _stats = start(&host, &[]);
    let root = ":".parse().unwrap();
    for command in [
        Command::Statistics(StatsCommand::Initial(())),
        Command::Console(ConsoleCommand::Inactive(())),
        Command::Unikernel(UnikernelCommand::Info(())),
    ] {
        let mut stream = UnixStream::connect(host.path("run/util/stat.sock")).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let message = Message::command(1, &root, command).encode().unwrap();
        write_frame(&mut stream, &message).unwrap();
        let answer = read_frame(&mut stream, MAX_MESSAGE).unwrap().unwrap();
        let answer = Message::decode(&answer).unwrap();
        assert!(matches!(answer.payload, Payload::Failure(_)), "{answer:?}");
        assert_eq!(read_frame(&mut stream, MAX_MESSAGE).unwrap(), None);
    }
    let mut stream = UnixStream::connect(host.path("run/util/stat.sock")).unwrap();
    stream.write_all(b"\0\0\0\x02no").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn connections_are_bounded_and_a_place_that_is_free_is_taken() {
    if !nix::unistd::geteuid().is_root() {
        support::skipped("all connections", "only root can have them");
        return;
    }
    let host = Host::prepared(Setup::default());
    let stats = start(&host, &[]);
    let mut crowd: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| Client::subscribed(&host, ":"))
        .collect();
    let mut waiting = Client::connect(&host);
    waiting.send(":a", add(own(), None));
    crowd.pop();
    assert!(matches!(
        waiting.receive().unwrap().payload,
        Payload::Reply(_)
    ));
    crowd[0].names(1);
    assert_eq!(stats.stop(), Some(0));
    assert!(!host.path("run/util/stat.sock").exists());
}

#[test]
fn a_socket_can_be_handed_over() {
    let host = Host::prepared(Setup::default());
    let socket = host.path("run/util/stat.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = host.command("sh");
    command = {
        let program = host.command("petrel-stats").get_program().to_owned();
        let mut shell = process::Command::new("sh");
        shell
            .args([
                "-c",
                "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 </dev/null",
                "sh",
            ])
            .arg(program)
            .args(["-v", "--tmpdir", "run", "--systemd-socket-activation"])
            .current_dir(command.get_current_dir().unwrap());
        shell
    };
    let stdin = process::Stdio::from(OwnedFd::from(listener));
    let stats = Daemon::start_with(&mut command, stdin, "listening");
    Client::subscribed(&host, ":");
    assert_eq!(stats.stop(), Some(0));
    assert!(socket.exists());
}

#[test]
fn wrong_intervals_are_refused() {
    let host = Host::prepared(Setup::default());
    for wrong in ["0", "0.05", "3601", "-1", "nan", "ten"] {
        let mut command = host.command("petrel-stats");
        let ended = run(command.arg(format!("--interval={wrong}")));
        assert_eq!(ended.code(), 124, "{wrong}");
    }
}
