//! The console daemon from outside: the real program, real fifos, several supervisors and subscribers.

use crate::support::console as support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
#[cfg(target_os = "linux")]
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::{fs, thread};

use nix::sys::signal::Signal;
use petrel::console::daemon::{MAX_CONNECTIONS, MAX_WAITING_LINES};
use petrel::console::lines::{MAX_LINE, TRUNCATED};
use petrel::console::ring::{BYTES, LINES};
use petrel::wire::frame::frame;
use petrel::wire::{
    Command, ConsoleCommand, ConsoleRead, Int, Message, Payload, SinceCount, Timestamp,
    UnikernelCommand,
};
#[cfg(target_os = "linux")]
use support::LIMIT;
use support::{Daemon, Directory, command, eventually, wait};

fn say(guest: &mut fs::File, text: &str) {
    guest.write_all(text.as_bytes()).unwrap();
}

fn is_failure(message: Option<Message>) -> bool {
    matches!(message.unwrap().payload, Payload::Failure(_))
}

fn add(max: i64) -> ConsoleCommand {
    ConsoleCommand::Add(Int::new(max))
}

fn last(count: i64) -> ConsoleCommand {
    ConsoleCommand::Subscribe(SinceCount::Count(Int::new(count)))
}

#[test]
fn a_subscriber_gets_history_then_live_lines() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, "t:hello");
    let mut first = daemon.connect();
    assert_eq!(first.subscribe_last("t:hello", 0), "subscribed");
    say(&mut guest, "one\ntwo\r\n\nthree\n");
    assert_eq!(first.lines(4), ["one", "two\r", "", "three"]);
    let mut second = daemon.connect();
    assert_eq!(second.subscribe_last("t:hello", 2), "subscribed");
    assert_eq!(second.lines(2), ["", "three"]);
    say(&mut guest, "four\n");
    assert_eq!([first.line(), second.line()], ["four", "four"]);
}

#[test]
fn lines_since_a_time_are_not_older_than_it() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut live = daemon.connect();
    live.subscribe_last(":a", 0);
    say(&mut guest, "early\n");
    let early = live.data().unwrap().timestamp;
    eventually("the clock goes on", || {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        now > early.seconds().unsigned_abs() as u128 * 1000 + u128::from(early.milliseconds()) + 5
    });
    say(&mut guest, "late\n");
    let late = live.data().unwrap().timestamp;
    for (since, expected) in [
        (early, vec!["early", "late"]),
        (late, vec!["late"]),
        (Timestamp::from_unix(0, 0), vec!["early", "late"]),
        (Timestamp::from_unix(i64::MAX, 0), vec![]),
    ] {
        let mut client = daemon.connect();
        client.subscribe(":a", SinceCount::Since(since));
        say(&mut guest, "end\n");
        assert_eq!(live.line(), "end");
        let mut got = vec![];
        while got.last().is_none_or(|line| line != "end") {
            got.push(client.line());
        }
        got.retain(|line| line != "end");
        assert_eq!(got, expected);
    }
}

#[test]
fn history_and_live_lines_are_neither_mixed_nor_repeated() {
    const TOTAL: usize = 20_000;
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let writer = thread::spawn(move || {
        for start in (0..TOTAL).step_by(10) {
            let text = (start..start + 10).fold(String::new(), |mut text, number| {
                writeln!(text, "{number}").unwrap();
                text
            });
            say(&mut guest, &text);
        }
        guest
    });
    for _ in 0..10 {
        let mut client = daemon.connect();
        assert_eq!(client.subscribe_last(":a", 50), "subscribed");
        let mut previous = None;
        for _ in 0..200 {
            let line = client.line();
            let missed = missed_lines(&line).unwrap_or(0);
            let line = if missed > 0 { client.line() } else { line };
            let number: usize = line.parse().unwrap();
            assert!(previous.is_none_or(|before| number == before + missed + 1));
            previous = Some(number);
            if number == TOTAL - 1 {
                break;
            }
        }
    }
    drop(writer.join().unwrap());
}

#[test]
fn a_ring_keeps_its_size_and_long_lines_are_cut() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut live = daemon.connect();
    live.subscribe_last(":a", 0);
    for number in 0..LINES + 10 {
        say(&mut guest, &format!("{number}\n"));
        assert_eq!(live.line(), number.to_string());
    }
    let long = "x".repeat(5000);
    say(&mut guest, &format!("{long}\nafter\n"));
    let cut = [&long.as_bytes()[..MAX_LINE], TRUNCATED].concat();
    assert_eq!(live.data().unwrap().data.0, cut);
    assert_eq!(live.line(), "after");
    let mut late = daemon.connect();
    late.subscribe_last(":a", i64::MAX);
    assert_eq!(late.line(), "12");
    let mut none = daemon.connect();
    none.subscribe_last(":a", -1);
    say(&mut guest, "now\n");
    assert_eq!(none.line(), "now");
}

#[test]
fn bytes_that_are_no_text_come_through() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut client = daemon.connect();
    client.subscribe_last(":a", 0);
    guest.write_all(b"\xff\xfe\0\xc0\n").unwrap();
    assert_eq!(client.data().unwrap().data.0, b"\xff\xfe\0\xc0");
}

#[test]
fn the_subscriber_limit_is_exact_and_the_oldest_leaves() {
    let daemon = Daemon::start_with(&["--max-subscribers=2"]);
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut clients: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut clients[..2] {
        client.subscribe_last(":a", 0);
    }
    say(&mut guest, "both\n");
    assert_eq!([clients[0].line(), clients[1].line()], ["both", "both"]);
    let told = clients[2].subscribe_last(":a", 0);
    assert_eq!(told, "subscribed, in place of the oldest of 2 subscribers");
    clients[0].assert_turned_out("a newer subscriber took the place of this one: 2 can follow");
    say(&mut guest, "others\n");
    assert_eq!([clients[1].line(), clients[2].line()], ["others", "others"]);
}

#[test]
fn a_subscriber_that_left_takes_nobodys_place() {
    let daemon = Daemon::start_with(&["--max-subscribers", "2"]);
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut stays = daemon.connect();
    stays.subscribe_last(":a", 0);
    for _ in 0..5 {
        daemon.connect().subscribe_last(":a", 0);
        // Answered after the end of the connection before it was seen.
        daemon.inactive(":");
    }
    let mut talks = daemon.connect();
    talks.subscribe_last(":a", 0);
    talks.send(":a", last(0));
    talks.assert_closed();
    say(&mut guest, "still\n");
    assert_eq!(stays.line(), "still");
}

#[test]
fn a_slow_subscriber_delays_nobody_and_is_told_how_many_lines_it_missed() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut slow = daemon.connect();
    slow.subscribe_last(":a", 0);
    let mut quick = daemon.connect();
    quick.subscribe_last(":a", 0);
    // What waits for it, what the ring has, and what the kernel may hold on top of it.
    let total = (MAX_WAITING_LINES + BYTES + (4 << 20)) / MAX_LINE / 100 * 100;
    let mut number = 0;
    while number < total {
        let lines: Vec<_> = (number..number + 100)
            .map(|number| format!("{number:0width$}", width = MAX_LINE))
            .collect();
        say(&mut guest, &(lines.join("\n") + "\n"));
        assert_eq!(quick.lines(100), lines);
        number += 100;
    }
    let mut got = 0;
    let mut missed = 0;
    while got + missed < total {
        let line = slow.line();
        if let Some(count) = missed_lines(&line) {
            missed += count;
        } else {
            assert_eq!(line.parse(), Ok(got + missed));
            got += 1;
        }
    }
    assert!(missed > 0, "it missed nothing");
    say(&mut guest, "on\n");
    assert_eq!([quick.line(), slow.line()], ["on", "on"]);
}

/// How many lines a subscriber is told that it missed.
fn missed_lines(line: &str) -> Option<usize> {
    let count = line.strip_prefix("[petrel-console: ")?;
    count.strip_suffix(" lines missed]")?.parse().ok()
}

#[test]
fn a_quick_subscriber_misses_nothing_of_many_short_lines_at_once() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut client = daemon.connect();
    client.subscribe_last(":a", 0);
    // Far more than a ring has, in one write.
    guest.write_all(&[b'\n'; 3 * LINES]).unwrap();
    assert_eq!(client.lines(3 * LINES), vec![""; 3 * LINES]);
}

#[test]
fn a_reader_of_runs_is_told_of_the_end_of_each_after_its_lines() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut waits = daemon.connect();
    assert_eq!(waits.read(":a", 9, true), "waiting for VM");
    for run in ["first", "second"] {
        let mut guest = daemon.guest(&mut supervisor, ":a");
        say(&mut guest, run);
        drop(guest);
        assert_eq!(waits.line(), run);
        waits.assert_end();
        fs::remove_file(daemon.fifo(":a")).unwrap();
    }
    let mut late = daemon.connect();
    assert_eq!(late.read(":a", 9, true), "subscribed");
    assert_eq!(late.lines(2), ["first", "second"]);
    late.assert_end();
}

#[test]
fn a_reader_of_history_gets_that_and_the_end() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut live = daemon.connect();
    live.subscribe_last(":a", 0);
    say(&mut guest, "one\ntwo\nthree\n");
    live.lines(3);
    let mut client = daemon.connect();
    assert_eq!(client.read(":a", 2, false), "subscribed");
    assert_eq!(client.lines(2), ["two", "three"]);
    client.assert_end();
    client.assert_closed();
    let mut client = daemon.connect();
    let read = ConsoleRead {
        from: SinceCount::Count(Int::new(2)),
        follow: false,
    };
    assert!(is_failure(client.ask(":b", ConsoleCommand::Read(read))));
    client.assert_closed();
}

#[test]
fn a_full_ring_is_read_to_its_end_while_the_guest_is_silent() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut live = daemon.connect();
    live.subscribe_last(":a", 0);
    // With their frames these are more than may wait for a subscriber.
    let all: Vec<_> = (0..LINES).map(|number| format!("{number:0250}")).collect();
    for lines in all.chunks(LINES / 8) {
        say(&mut guest, &(lines.join("\n") + "\n"));
        assert_eq!(live.lines(lines.len()), lines);
    }
    for _ in 0..8 {
        let mut client = daemon.connect();
        assert_eq!(client.read(":a", 2000, false), "subscribed");
        assert_eq!(client.lines(LINES), all);
        client.assert_end();
        client.assert_closed();
    }
}

#[test]
fn history_of_which_nothing_is_recent_enough_ends_at_once() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut live = daemon.connect();
    live.subscribe_last(":a", 0);
    say(&mut guest, "old\n");
    live.line();
    let mut client = daemon.connect();
    let read = ConsoleRead {
        from: SinceCount::Since(Timestamp::from_unix(i64::MAX, 0)),
        follow: false,
    };
    client.ask(":a", ConsoleCommand::Read(read)).unwrap();
    client.assert_end();
    client.assert_closed();
}

#[test]
fn at_its_end_a_console_is_inactive_and_keeps_its_lines_for_the_next_run() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, "t:a");
    let mut client = daemon.connect();
    client.subscribe_last("t:a", 0);
    say(&mut guest, "first\nunfinished");
    drop(guest);
    assert_eq!(client.lines(2), ["first", "unfinished"]);
    eventually("the console is inactive", || {
        daemon.inactive("t:") == ["t:a"]
    });
    assert_eq!(daemon.inactive("u:"), [""; 0]);
    daemon.assert_idle();

    fs::remove_file(daemon.fifo("t:a")).unwrap();
    let mut guest = daemon.guest(&mut supervisor, "t:a");
    assert_eq!(daemon.inactive(":"), [""; 0]);
    say(&mut guest, "second\n");
    assert_eq!(client.line(), "second");
    let mut late = daemon.connect();
    late.subscribe_last("t:a", 9);
    assert_eq!(late.lines(3), ["first", "unfinished", "second"]);
}

#[test]
fn adding_an_open_console_again_loses_nothing() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut client = daemon.connect();
    client.subscribe_last(":a", 0);
    let mut other = daemon.connect();
    let mut expected = vec![];
    for number in 0..50 {
        say(&mut guest, &format!("{number} before, "));
        other.add(":a", 1);
        say(&mut guest, &format!("after\n{number} whole\n"));
        supervisor.add(":a", 1);
        expected.extend([format!("{number} before, after"), format!("{number} whole")]);
    }
    assert_eq!(client.lines(100), expected);
    assert_eq!(daemon.inactive(":"), [""; 0]);

    // A new fifo under the same name, while the old one still holds lines.
    say(&mut guest, "last words");
    fs::remove_file(daemon.fifo(":a")).unwrap();
    let mut next = daemon.guest(&mut supervisor, ":a");
    say(&mut next, "hello\n");
    assert_eq!(client.lines(2), ["last words", "hello"]);
}

#[test]
fn a_daemon_started_anew_reads_what_was_written_meanwhile() {
    let mut daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    // What the supervisor keeps open so that the guest is not stopped.
    let _kept = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(daemon.fifo(":a"))
        .unwrap();
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    supervisor.assert_closed();
    say(&mut guest, "while away\n");
    let directory = std::mem::replace(&mut daemon.directory, Directory::short());
    let daemon = Daemon::start_in(directory, &[]);
    let mut client = daemon.connect();
    assert_eq!(client.subscribe_last(":a", 9), "waiting for VM");
    daemon.connect().add(":a", 1);
    assert_eq!(client.line(), "while away");
}

#[test]
fn files_have_what_each_run_said_and_go_on_after_a_restart_of_the_daemon() {
    let logs = Directory::short();
    let path = logs.0.join("consoles");
    let options = ["--log-dir", path.to_str().unwrap()];
    let mut daemon = Daemon::start_with(&options);
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    let lines = |file: &str| -> Vec<String> {
        let text = read(file);
        let lines = text.lines().map(|line| line.split_once("Z ").unwrap().1);
        lines.map(str::to_owned).collect()
    };
    for run in ["one", "two"] {
        let mut supervisor = daemon.connect();
        let mut guest = daemon.guest(&mut supervisor, "t:a");
        say(&mut guest, &format!("{run}\nunfinished \x1b"));
        drop(guest);
        eventually("the end of the run is in the file", || {
            read("t:a.log").matches("unfinished").count() == if run == "one" { 1 } else { 2 }
        });
        fs::remove_file(daemon.fifo("t:a")).unwrap();
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        let directory = std::mem::replace(&mut daemon.directory, Directory::short());
        daemon = Daemon::start_in(directory, &options);
    }
    let expected = ["one", "unfinished \\027", "two", "unfinished \\027"];
    assert_eq!(lines("t:a.log"), expected);

    // Somebody renames the file, and says so.
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, "t:a");
    fs::rename(path.join("t:a.log"), path.join("moved")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.inactive(":");
    say(&mut guest, "three\n");
    eventually("there is a new file", || read("t:a.log").contains("three"));
    assert_eq!(lines("t:a.log"), ["three"]);
}

#[test]
fn a_flood_is_in_as_many_files_of_the_size_that_was_asked_for() {
    const SIZE: usize = 1 << 20;
    let logs = Directory::short();
    let path = logs.0.to_str().unwrap();
    let daemon = Daemon::start_with(&["--log-dir", path, "--log-size=1", "--log-files", "2"]);
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let lines = 3 * SIZE / MAX_LINE;
    let number = |line: usize| format!("{line:0MAX_LINE$}");
    for line in 0..lines {
        say(&mut guest, &(number(line) + "\n"));
    }
    let read = |file: &str| fs::read_to_string(logs.0.join(file)).unwrap_or_default();
    eventually("the last line is in the file", || {
        read(":a.log").ends_with(&(number(lines - 1) + "\n"))
    });
    let [before, newest] = [":a.log.1", ":a.log"].map(read);
    assert!(before.len() <= SIZE && before.len() > SIZE - 2 * MAX_LINE);
    assert!(newest.len() <= SIZE);
    let kept = before.lines().chain(newest.lines());
    let kept: Vec<_> = kept.map(|line| line.split_once("Z ").unwrap().1).collect();
    let expected: Vec<_> = (lines - kept.len()..lines).map(number).collect();
    assert!(kept == expected, "{} lines, not the last ones", kept.len());
    let mut files = names(&logs);
    files.sort();
    assert_eq!(files, [":a.log", ":a.log.1"]);
}

#[test]
fn a_tenant_that_uses_ever_new_names_has_as_many_files_as_it_may() {
    let logs = Directory::short();
    let path = logs.0.to_str().unwrap();
    let daemon = Daemon::start_with(&["--log-dir", path, "--log-tenant=3"]);
    let mut supervisor = daemon.connect();
    for name in [":a", "t:a", "t:b", "t:c", "t:d", "t:e", "t:f"] {
        let mut guest = daemon.guest(&mut supervisor, name);
        say(&mut guest, "here\n");
        drop(guest);
        eventually("the run is over", || {
            daemon.inactive(":").contains(&name.to_owned())
        });
    }
    let files = names(&logs);
    assert!(files.contains(&":a.log".to_owned()), "{files:?}");
    assert!(files.contains(&"t:f.log".to_owned()), "{files:?}");
    assert_eq!(files.len(), 4, "{files:?}");
}

fn names(directory: &Directory) -> Vec<String> {
    let entries = fs::read_dir(&directory.0).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn lines_go_to_the_syslog_daemon_and_to_one_that_takes_its_place() {
    let devices = Directory::short();
    let path = devices.0.join("log");
    let listen = || {
        let syslog = UnixDatagram::bind(&path).unwrap();
        syslog.set_read_timeout(Some(LIMIT)).unwrap();
        syslog
    };
    let syslog = listen();
    let Some(daemon) = Daemon::start_with_devices(&devices.0, &["--syslog-consoles"]) else {
        eprintln!("SKIPPED: lines to a syslog daemon: nothing can be mounted over /dev");
        return;
    };
    let received = |syslog: &UnixDatagram| {
        let mut message = [0; 256];
        let count = syslog.recv(&mut message).unwrap();
        let message = String::from_utf8(message[..count].to_vec()).unwrap();
        let start = format!("<30>petrel-console[{}]: ", daemon.pid());
        message.strip_prefix(&start).unwrap().to_owned()
    };
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, "t:a");
    say(&mut guest, "one\x1b\ntwo\n");
    assert_eq!(received(&syslog), "t:a: one\\027");
    assert_eq!(received(&syslog), "t:a: two");
    drop(syslog);
    fs::remove_file(&path).unwrap();
    let syslog = listen();
    say(&mut guest, "three\n");
    assert_eq!(received(&syslog), "t:a: three");
}

#[test]
fn a_file_that_cannot_be_written_delays_nobody() {
    let logs = Directory::short();
    let daemon = Daemon::start_with(&["--log-dir", logs.0.to_str().unwrap()]);
    symlink("/dev/null", logs.0.join(":a.log")).unwrap();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":a");
    let mut client = daemon.connect();
    client.subscribe_last(":a", 0);
    for number in 0..2 * LINES {
        say(&mut guest, &format!("{number}\n"));
        assert_eq!(client.line(), number.to_string());
    }
    fs::remove_file(logs.0.join(":a.log")).unwrap();
    let mut text = String::new();
    eventually("what is left is archived", || {
        text = fs::read_to_string(logs.0.join(":a.log")).unwrap_or_default();
        text.ends_with(&format!("Z {}\n", 2 * LINES - 1))
    });
    let missed = format!("Z [petrel-console: {LINES} lines missed]");
    assert!(text.lines().next().unwrap().ends_with(&missed), "{text}");
    assert_eq!(text.lines().count(), LINES + 1);
}

#[test]
#[cfg(target_os = "linux")]
fn the_daemon_gives_up_what_it_does_not_need() {
    let daemon = Daemon::start();
    // Its first answer comes after that.
    daemon.inactive(":");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
}

#[test]
fn whoever_waits_for_a_unikernel_sees_its_first_line() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    assert_eq!(client.subscribe_last(":later", 9), "waiting for VM");
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, ":later");
    say(&mut guest, "born\n");
    assert_eq!(client.line(), "born");
}

#[test]
fn invented_names_evict_nothing() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    let mut guest = daemon.guest(&mut supervisor, "t:a");
    say(&mut guest, "kept\n");
    drop(guest);
    eventually("the console is inactive", || {
        daemon.inactive("t:") == ["t:a"]
    });
    let _waiting: Vec<_> = (0..100)
        .map(|number| {
            let mut client = daemon.connect();
            // As another user than root it has a share of them only.
            client.ask(&format!("t:x{number}"), last(9)).unwrap();
            client
        })
        .collect();
    assert_eq!(daemon.inactive("t:"), ["t:a"]);
    let mut client = daemon.connect();
    client.subscribe_last("t:a", 9);
    assert_eq!(client.line(), "kept");
}

#[test]
fn the_bound_of_a_path_evicts_a_stopped_console_and_its_readers() {
    let daemon = Daemon::start();
    let mut supervisor = daemon.connect();
    drop(daemon.guest(&mut supervisor, "t:a"));
    eventually("the console is inactive", || {
        daemon.inactive("t:") == ["t:a"]
    });
    let mut reader = daemon.connect();
    assert_eq!(reader.subscribe_last("t:a", 9), "subscribed");
    daemon.make_fifo("t:b");
    supervisor.add("t:b", 1);
    reader.assert_turned_out("was forgotten for that of a newer one");
    assert_eq!(daemon.inactive("t:"), [""; 0]);
}

#[test]
fn requests_about_the_wrong_kind_of_name_are_refused() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    assert!(is_failure(client.ask("t:", add(1))));
    // This one bounds archives, also where there are none.
    assert!(is_failure(client.ask("t:archive-bound", add(1))));
    assert!(!is_failure(client.ask("t:archive-bound", add(-1))));
    // The supervisor's connection survives a refusal.
    assert!(is_failure(client.ask(":missing", add(1))));
    daemon.make_fifo(":a");
    client.add(":a", 1);
    let mut client = daemon.connect();
    assert!(is_failure(client.ask("t:", last(1))));
    client.assert_closed();
    let mut client = daemon.connect();
    assert!(is_failure(client.ask(":a", ConsoleCommand::Inactive(()))));
    client.assert_closed();
}

#[test]
fn only_a_fifo_is_opened_and_never_through_a_link() {
    let daemon = Daemon::start();
    fs::write(daemon.fifo(":file"), "content\n").unwrap();
    daemon.make_fifo(":real");
    symlink(daemon.fifo(":real"), daemon.fifo(":link")).unwrap();
    let mut client = daemon.connect();
    for name in [":file", ":link", ":missing"] {
        assert!(is_failure(client.ask(name, add(1))), "{name}");
    }
    client.add(":real", 1);
}

#[test]
fn a_fifo_that_nobody_writes_to_costs_no_time() {
    let daemon = Daemon::start();
    daemon.make_fifo(":a");
    daemon.connect().add(":a", 1);
    daemon.assert_idle();
}

#[test]
fn what_is_no_request_ends_the_connection_without_a_word() {
    let daemon = Daemon::start();
    let other = Command::Unikernel(UnikernelCommand::Info(()));
    let other = Message::command(0, &":a".parse().unwrap(), other);
    let reply = Message::answer(other.header.clone(), Payload::Failure("no".into()));
    let mut odd_name = other.clone();
    odd_name.header.name = "a/b".into();
    let messages = [&other, &reply, &odd_name].map(|message| message.encode().unwrap());
    let mut inputs = vec![
        vec![0x7f, 0xff, 0xff, 0xff],
        vec![0, 0, 0, 0],
        vec![0xff; 64],
        frame(b"garbage").unwrap(),
    ];
    inputs.extend(messages.iter().map(|message| frame(message).unwrap()));
    for input in inputs {
        let mut client = daemon.connect();
        client.send_bytes(&input);
        client.assert_closed();
    }
    assert_eq!(daemon.inactive(":"), [""; 0]);
}

#[test]
fn a_request_may_come_byte_by_byte_and_several_at_once() {
    let daemon = Daemon::start();
    daemon.make_fifo(":a");
    let message = Message::command(7, &":a".parse().unwrap(), Command::Console(add(1)));
    let request = frame(&message.encode().unwrap()).unwrap();
    let mut client = daemon.connect();
    for byte in &request {
        client.send_bytes(&[*byte]);
    }
    client.send_bytes(&request.repeat(3));
    for _ in 0..4 {
        assert!(matches!(
            client.receive().unwrap().payload,
            Payload::Reply(_)
        ));
    }
}

#[test]
fn over_the_connection_limit_further_ones_wait_and_nothing_spins() {
    let daemon = Daemon::start();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can have all connections");
        return;
    }
    let mut idle: Vec<_> = (0..MAX_CONNECTIONS).map(|_| daemon.connect()).collect();
    // Answered, so all before it were accepted.
    let mut newest = idle.pop().unwrap();
    assert!(is_failure(newest.ask("t:", add(1))));
    let mut waiting = daemon.connect();
    waiting.send("t:", add(1));
    daemon.assert_idle();
    drop(newest);
    assert!(is_failure(waiting.receive()));
}

#[test]
fn a_signal_ends_the_daemon_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start();
        let mut client = daemon.connect();
        client.subscribe_last(":a", 0);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!daemon.socket().exists());
        client.assert_closed();
    }
}

#[test]
fn other_signals_do_not_end_the_daemon() {
    let mut daemon = Daemon::start();
    for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGXFSZ] {
        daemon.signal(signal);
        // Signals are looked at before connections.
        assert_eq!(daemon.inactive(":"), [""; 0], "{signal}");
    }
    daemon.assert_idle();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_socket_of_systemd_is_served_and_left_in_place() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let mut daemon = Daemon::activated();
    assert_eq!(daemon.inactive(":"), [""; 0]);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(daemon.socket().exists());
}

#[test]
fn missing_directories_are_made_and_the_socket_is_for_the_group() {
    let daemon = Daemon::start();
    let mode = |path: &str| {
        let data = fs::metadata(daemon.directory.0.join(path)).unwrap();
        data.permissions().mode() & 0o7777
    };
    assert_eq!(mode("util"), 0o770);
    assert_eq!(mode("fifo"), 0o2750);
    assert_eq!(mode("util/console.sock"), 0o660);
    let socket = fs::metadata(daemon.socket()).unwrap();
    assert!(socket.file_type().is_socket());
}

#[test]
fn what_keeps_the_daemon_from_starting_is_one_message_and_exit_code_124() {
    let directory = Directory::short();
    let missing = directory.0.join("missing");
    let running = Daemon::start();
    let occupied = Directory::short();
    fs::write(occupied.0.join("util"), "").unwrap();
    for (tmpdir, options, part) in [
        (&missing, &[][..], "missing/util"),
        (&occupied.0, &[], "util': "),
        (&running.directory.0, &[], "another daemon"),
        (&directory.0, &["--max-subscribers=0"], "'0'"),
        (&directory.0, &["--log-files=0"], "'0'"),
        (&directory.0, &["--log-tenant=0"], "'0'"),
        (&directory.0, &["--log-dir=/dev/null"], "--log-dir"),
        (&directory.0, &["--log-dir=missing/directory"], "--log-dir"),
        (&directory.0, &["--systemd-socket-activation"], "socket"),
    ] {
        let mut child = command(tmpdir)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let status = wait(&mut child);
        let mut message = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut message).unwrap();
        assert_eq!(status.code(), Some(124), "{message}");
        assert!(message.contains(part), "{message}");
    }
}
