//! Unikernels outlive their supervisor: real daemons and guests, a `petreld` that is killed, stopped, or executes itself
//! anew, and what is then true of what ran before.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host};

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command as Process;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use petrel::unikernel::{Config, FailBehaviour, Kind};
use petrel::wire::frame::{END, MAX_MESSAGE, read_frame, write_frame};
use petrel::wire::{
    Command, ConsoleCommand, ConsoleData, Data, Int, Message, NamedInfo, Payload, SinceCount,
    Success, UnikernelCommand,
};

use host::{Host, Setup, eventually};
use support::{DEADLINE, Running, guest, skipped};

/// A guest that runs until it is stopped, and says little.
const QUIET: &str = "--arg=--interval-ms=600000";

/// What a supervisor is followed by.
type Change = fn(&mut Host);

/// The ways in which a supervisor is followed by another one while unikernels run.
const CHANGES: [(&str, Change); 2] = [("killed", succeed), ("executed anew", reload)];

/// Kills `petreld` and starts it again.
fn succeed(host: &mut Host) {
    host.kill_supervisor();
    host.start_supervisor();
}

/// Has `petreld` execute itself anew.
fn reload(host: &mut Host) {
    let (process, times) = (host.supervisor().pid(), listened(host));
    host.supervisor().signal(Signal::SIGHUP);
    eventually("it listens again", || listened(host) > times);
    assert_eq!(host.supervisor().pid(), process);
}

/// How often `petreld` has begun to listen.
fn listened(host: &Host) -> usize {
    host.supervisor().so_far().matches("listening on").count()
}

/// Stops `petreld` and starts it again.
fn restart(host: &mut Host) {
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    host.start_supervisor();
}

#[test]
fn what_runs_goes_on_with_the_same_process_start_time_and_console() {
    for (way, change) in CHANGES {
        let mut host = Host::start();
        create(&host, "chatty", "forever.spt", &["--arg=--interval-ms=5"]);
        create(&host, "a:quiet", "forever.spt", &[QUIET]);
        let (tenders, before) = (host.left_tenders(), infos(&host));
        assert_eq!((tenders.len(), before.len()), (2, 2));
        let mut console = host.follow("chatty", &["--count=0"]);
        console.line();
        let mut tick = tick_in(&console.line());
        for _ in 0..3 {
            change(&mut host);
            assert_eq!(host.left_tenders(), tenders, "{way}");
            let after = infos(&host);
            for (one, other) in before.iter().zip(&after) {
                // The record of a run is made a moment before the supervisor knows of the process.
                let [one, other] = [one, other].map(|told| told.info.started.clone().unwrap());
                assert!(one.seconds() - other.seconds() <= 1, "{one:?} {other:?}");
            }
            assert_eq!(without_starts(before.clone()), without_starts(after));
            for _ in 0..20 {
                tick += 1;
                assert_eq!(tick_in(&console.line()), tick, "{way}");
            }
        }
        assert_eq!(host.names("run/fifo").len(), 2);
        assert_eq!(host.names("run/run").len(), 2);
    }
}

#[test]
fn what_was_taken_over_can_be_destroyed_stopped_and_replaced() {
    for (way, change) in CHANGES {
        let mut host = Host::start();
        for name in ["destroyed", "stopped", "replaced", "restarted"] {
            create(&host, name, "forever.spt", &[QUIET]);
        }
        let before = host.left_tenders();
        change(&mut host);
        let image = guest("forever.spt");
        let path = image.to_str().unwrap();
        for (request, answer) in [
            (&["destroy", "destroyed"][..], "destroyed unikernel"),
            (&["stop", "stopped"], "stopped unikernel"),
            (&["restart", "restarted"], "created unikernel"),
            (&["create", "-f", "replaced", path, QUIET], "created"),
        ] {
            host.expect(&host.petrel(request), 0, &[answer]);
        }
        let after = host.left_tenders();
        assert!(after.is_disjoint(&before), "{way}");
        assert_eq!(after.len(), 2, "{way}");
        let names = [":replaced".to_owned(), ":restarted".to_owned()];
        assert_eq!(host.names("run/run"), names.clone().into());
        assert_eq!(host.names("run/fifo"), names.into());
    }
}

#[test]
fn the_exit_of_what_was_taken_over_is_told() {
    for (_, change) in CHANGES {
        let mut host = host_with_puppets(&[]);
        let code = Puppet::create(&host, "code", &[]);
        let signal = Puppet::create(&host, "signal", &[]);
        change(&mut host);
        code.exit(7);
        signal.kill();
        eventually("both have ended", || {
            host.petrel(&["info"]).stdout.matches(" ended ").count() == 2
        });
        let info = host.petrel(&["info"]).stdout;
        if info.contains("not seen") {
            skipped("the exit of what is no child", "this kernel does not tell");
            continue;
        }
        let [code, signal] = [":code", ":signal"].map(|name| line_of(&info, name));
        assert!(code.ends_with("(exit 7)"), "{info}");
        assert!(signal.ends_with("(signal 9)"), "{info}");
    }
}

#[test]
fn what_was_taken_over_obeys_its_restart_policy() {
    for (way, change) in CHANGES {
        let mut host = Host::start();
        create(&host, "again", "forever.spt", &[QUIET, "--restart"]);
        create(&host, "once", "forever.spt", &[QUIET]);
        let before = host.tender_of(":again").unwrap();
        let once = host.tender_of(":once").unwrap();
        change(&mut host);
        for tender in [before, once] {
            kill(Pid::from_raw(tender), Signal::SIGKILL).unwrap();
        }
        eventually("one of them runs again, the other has ended", || {
            let info = host.petrel(&["info"]).stdout;
            info.contains(" restarts 1 last exit ") && info.contains(" ended last exit ")
        });
        let again = host.tender_of(":again").unwrap();
        assert_ne!(again, before, "{way}");
        // The system tells of its arguments a moment after its parent goes on.
        eventually("it alone is left", || host.left_tenders() == [again].into());
    }
}

#[test]
fn a_death_that_nobody_watched_is_noticed() {
    let mut host = Host::start();
    create(&host, "again", "forever.spt", &[QUIET]);
    let tender = host.tender_of(":again").unwrap();
    host.kill_supervisor();
    kill(Pid::from_raw(tender), Signal::SIGKILL).unwrap();
    eventually("it is gone", || host.left_tenders().is_empty());
    host.start_supervisor();
    // Nobody knows how it ended: it is started like after a crash of the host.
    eventually("it runs again", || infos(&host).len() == 1);
    assert_ne!(host.tender_of(":again"), Some(tender));
}

#[test]
fn requests_under_way_are_answered_before_it_executes_itself_anew_and_others_after() {
    let host = host_with_puppets(&["--stop-deadline", "600"]);
    let image = fs::read(guest("hello.spt")).unwrap();
    let (first, second) = image.split_at(image.len() / 2);
    let stubborn = Puppet::create(&host, "stubborn", &["--arg=--stubborn"]);
    let mut destroy = Running::start(&mut host.client(&["destroy", "stubborn"]));
    let mut console = host.follow("stubborn", &[]);
    while !console.line().ends_with(": asked") {}
    let mut upload = connect(&host, "vmmd.sock");
    let create = UnikernelCommand::Create(record());
    send(&mut upload, ":new", Command::Unikernel(create));
    write_frame(&mut upload, first).unwrap();
    eventually("the image arrives", || {
        let mut files = fs::read_dir(host.path("db/image")).unwrap().flatten();
        files.any(|file| file.file_name().to_string_lossy().starts_with('.'))
    });

    host.supervisor().signal(Signal::SIGHUP);
    host.supervisor()
        .says("re-executing as soon as nothing is under way");
    let mut later = Running::start(&mut host.client(&["info"]));
    write_frame(&mut upload, second).unwrap();
    upload.write_all(&END).unwrap();
    assert_eq!(
        reply(&mut upload),
        Success::String("created unikernel".into())
    );
    assert_eq!(listened(&host), 1, "a unikernel is still to be destroyed");
    stubborn.exit(0);
    assert!(destroy.line().contains("destroyed unikernel"));
    assert!(later.line().contains("[unikernel: :new]"));
    assert_eq!(listened(&host), 2);
    host.expect(&destroy.end(), 0, &[]);
    host.expect(&later.end(), 0, &[]);
}

#[test]
fn a_hundred_unikernels_survive_both_without_losing_a_line() {
    const COUNT: usize = 100;
    let mut host = Host::start();
    let names: Vec<_> = (0..COUNT).map(|number| format!("u{number}")).collect();
    let image = guest("forever.spt");
    let image = image.to_str().unwrap();
    let options = ["--arg=--interval-ms=100", "--mem=2", "--restart"];
    for name in &names {
        let create = [&["create", name, image], &options[..]].concat();
        host.expect(&host.petrel(&create), 0, &["created unikernel"]);
    }
    let tenders = host.left_tenders();
    assert_eq!(tenders.len(), COUNT);
    for (way, change) in CHANGES {
        change(&mut host);
        assert_eq!(host.left_tenders(), tenders, "{way}");
        assert_eq!(infos(&host).len(), COUNT, "{way}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for name in &names {
        let mut console = connect(&host, "console.sock");
        let all = ConsoleCommand::Subscribe(SinceCount::Count(Int::new(1024)));
        send(&mut console, &format!(":{name}"), Command::Console(all));
        assert_eq!(reply(&mut console), Success::String("subscribed".into()));
        assert_eq!(next_line(&mut console).data.to_lossy(), "ready", "{name}");
        for tick in 1.. {
            let line = next_line(&mut console);
            assert_eq!(line.data.to_lossy(), format!("tick {tick}"), "{name}");
            if line.timestamp.seconds() > now.as_secs().cast_signed() {
                break;
            }
        }
    }
    assert_eq!(host.left_tenders(), tenders);
}

#[test]
fn a_process_that_has_the_number_of_a_tender_is_left_alone() {
    let mut host = Host::start();
    create(&host, "hello", "forever.spt", &[QUIET]);
    let tender = host.tender_of(":hello").unwrap();
    let file = host.path("run/run/:hello");
    let record = fs::read_to_string(&file).unwrap();
    host.kill_supervisor();
    kill(Pid::from_raw(tender), Signal::SIGKILL).unwrap();
    eventually("it is gone", || host.left_tenders().is_empty());
    // As if the system had given its number to somebody else.
    let innocent = Running::start(Process::new("sleep").arg("600"));
    let number = innocent.pid().as_raw();
    let reused = record.replace(&format!("process {tender} "), &format!("process {number} "));
    assert_ne!(reused, record);
    fs::write(&file, reused).unwrap();
    host.start_supervisor();
    eventually("it runs in a process of its own", || {
        host.tender_of(":hello").is_some_and(|own| own != number)
    });
    assert_eq!(host.left_tenders().len(), 1);
    host.expect(
        &host.petrel(&["destroy", "hello"]),
        0,
        &["destroyed unikernel"],
    );
    assert!(host.left_tenders().is_empty());
    assert!(Path::new(&format!("/proc/{number}/cwd")).exists());
}

#[test]
fn a_tender_that_nobody_recorded_is_ended() {
    let mut host = Host::start();
    create(&host, "kept", "forever.spt", &[QUIET]);
    let state = fs::read(host.path("db/state")).unwrap();
    create(&host, "stray", "forever.spt", &[QUIET]);
    let kept = host.tender_of(":kept").unwrap();
    host.kill_supervisor();
    // As if it had died between the start of the second one and its record on disk.
    fs::write(host.path("db/state"), state).unwrap();
    host.start_supervisor();
    eventually("only one is left", || host.left_tenders() == [kept].into());
    assert_eq!(infos(&host).len(), 1);
}

#[test]
fn all_are_stopped_in_the_reverse_of_the_start_order_and_come_back() {
    let mut host = Host::start();
    for (name, startup) in [("b", "20"), ("c", "30"), ("a", "10"), ("d", "40")] {
        create(&host, name, "forever.spt", &[QUIET, "--startup", startup]);
    }
    // Also of what was taken over.
    for change in [restart as Change, succeed, reload] {
        change(&mut host);
        eventually("all run", || infos(&host).len() == 4);
        let before = host.left_tenders();
        let supervisor = host.supervisor.take().unwrap();
        supervisor.signal(Signal::SIGTERM);
        for name in [":d", ":c", ":b", ":a"] {
            supervisor.says(&format!("{name}: ended with signal 15"));
        }
        let said = supervisor.so_far();
        let ended: Vec<_> = said
            .lines()
            .filter_map(|line| line.split(": ended with ").next()?.rsplit(' ').next())
            .filter(|name| [":a", ":b", ":c", ":d"].contains(name))
            .collect();
        assert_eq!(ended[ended.len() - 4..], [":d", ":c", ":b", ":a"], "{said}");
        assert_eq!(supervisor.end().unwrap().code(), Some(0));
        assert!(host.left_tenders().is_empty());
        host.start_supervisor();
        eventually("all are back", || infos(&host).len() == 4);
        assert!(host.left_tenders().is_disjoint(&before));
    }
}

#[test]
fn a_tender_that_ends_with_its_supervisor_is_started_again_with_it() {
    let mut host = Host::start();
    create(&host, "hello", "forever.spt", &[QUIET]);
    let tender = host.tender_of(":hello").unwrap();
    let supervisor = host.supervisor.take().unwrap();
    // As where all processes of a service are told to end: both are told before it looks.
    supervisor.signal(Signal::SIGSTOP);
    kill(Pid::from_raw(tender), Signal::SIGTERM).unwrap();
    supervisor.signal(Signal::SIGTERM);
    eventually("it is gone", || is_over(tender));
    supervisor.signal(Signal::SIGCONT);
    assert_eq!(supervisor.end().unwrap().code(), Some(0));
    host.start_supervisor();
    eventually("it is back", || infos(&host).len() == 1);
}

#[test]
fn what_was_stopped_stays_down_until_it_is_started() {
    let mut host = Host::start();
    create(&host, "down", "forever.spt", &[QUIET, "--restart"]);
    create(&host, "up", "forever.spt", &[QUIET]);
    let stop = ["stop", "down"];
    for _ in 0..2 {
        host.expect(&host.petrel(&stop), 0, &["success: stopped unikernel"]);
    }
    for change in [restart as Change, succeed, reload] {
        change(&mut host);
        eventually("the other one runs", || infos(&host).len() == 1);
        let info = host.petrel(&["info"]).stdout;
        assert!(line_of(&info, ":down").ends_with(" stopped"), "{info}");
        assert_eq!(host.left_tenders().len(), 1);
    }
    let image = guest("forever.spt");
    let again = ["create", "down", image.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&again), 117, &["already, which is stopped"]);
    let start = ["start", "down"];
    host.expect(&host.petrel(&start), 0, &["success: started unikernel"]);
    host.expect(&host.petrel(&start), 117, &[":down runs already"]);
    assert_eq!(infos(&host).len(), 2);
    host.expect(&host.petrel(&["stop", "nobody"]), 117, &["no unikernel"]);
    host.expect(&host.petrel(&["start", "nobody"]), 117, &["no unikernel"]);
}

#[test]
fn a_tenant_stops_starts_and_rolls_back_over_tls() {
    let host = Host::start();
    let [forever, hello] = ["forever.spt", "hello.spt"].map(guest);
    let [forever, hello] = [&forever, &hello].map(|image| image.to_str().unwrap());
    let tell = |request: &[&str], answer| host.expect(&host.tenant(request), 0, &[answer]);
    tell(&["create", "web", forever, QUIET], "created unikernel");
    tell(
        &["stop", "web"],
        "[unikernel: tenant:web]: success: stopped",
    );
    tell(
        &["info"],
        "[unikernel: :web]: typ solo5 fail behaviour quit",
    );
    tell(&["start", "web"], "started unikernel");
    tell(&["create", "-f", "web", hello], "created unikernel");
    eventually("it has ended", || {
        host.tenant(&["info"]).stdout.contains(" ended last exit ")
    });
    tell(&["rollback", "web"], "rolled back unikernel");
    assert_eq!(infos(&host).len(), 1);
    let nobody = host.tenant(&["rollback", "nobody"]);
    host.expect(&nobody, 117, &["there is no unikernel tenant:nobody"]);
}

#[test]
fn a_rollback_returns_to_the_previous_image_and_settings_and_back() {
    let mut host = Host::start();
    let rollback = ["rollback", "web"];
    create(&host, "web", "forever.spt", &["--mem=16", QUIET]);
    host.expect(&host.petrel(&rollback), 117, &["no previous image"]);
    let first = infos(&host);
    let image = guest("flood.spt");
    let replace = ["create", "-f", "web", image.to_str().unwrap(), "--mem=24"];
    host.expect(&host.petrel(&replace), 0, &["created unikernel"]);
    let second = infos(&host);
    assert_ne!(first[0].info.digest, second[0].info.digest);
    for change in [restart as Change, succeed] {
        for expected in [&first, &second] {
            host.expect(&host.petrel(&rollback), 0, &["rolled back unikernel"]);
            let now = infos(&host);
            assert_eq!(without_starts(now), without_starts(expected.clone()));
            assert_eq!(host.names("db/image").len(), 2);
        }
        change(&mut host);
        eventually("it runs", || infos(&host).len() == 1);
    }
    host.expect(&host.petrel(&["destroy", "web"]), 0, &["destroyed"]);
    eventually("the images are removed", || {
        host.names("db/image").is_empty()
    });
}

#[test]
fn a_restart_keeps_the_settings_or_replaces_all_of_them() {
    let host = Host::start();
    create(&host, "web", "forever.spt", &["--mem=16", QUIET]);
    let words = || {
        let tender = host.tender_of(":web").unwrap();
        let words = fs::read_to_string(format!("/proc/{tender}/cmdline")).unwrap();
        let words = words.trim_end_matches('\0').split('\0').skip(1);
        // Those of the guest may come by a descriptor.
        let words = words.filter(|word| !word.starts_with("--arguments="));
        let words: Vec<_> = words.map(str::to_owned).collect();
        (tender, words)
    };
    let (tender, before) = words();
    host.expect(&host.petrel(&["restart", "web"]), 0, &["created unikernel"]);
    let (again, kept) = words();
    assert_ne!(again, tender);
    assert_eq!(kept, before);
    let replace = [
        "restart",
        "web",
        "--replace-arguments",
        "--no-add-name",
        "--arg=--interval-ms=500000",
    ];
    host.expect(&host.petrel(&replace), 0, &["created unikernel"]);
    let replaced = words().1;
    assert_eq!(replaced[0], "--mem=32", "what is not given has its default");
    assert_eq!(replaced[2], before[2], "the same image");
    let told = host.petrel(&["info", "-v", "-v"]).stdout;
    assert!(told.contains("argv --interval-ms=500000"), "{told}");
    let too_much = ["restart", "web", "--replace-arguments", "--mem=16777216"];
    let before = host.left_tenders();
    host.expect(&host.petrel(&too_much), 117, &["memory"]);
    assert_eq!(host.left_tenders(), before, "it was not touched");
}

#[test]
fn a_guest_that_does_not_know_its_name_is_started_once_without_it() {
    for code in ["64", "124"] {
        let host = Host::start();
        let exit = format!("--arg=--exit={code}");
        create(&host, "hello", "hello.spt", &[&exit]);
        eventually("it has ended for good", || {
            host.petrel(&["info"]).stdout.contains(" ended ")
        });
        let mut console = host.follow("hello", &[]);
        let line = |told: &str| format!("command line: {told}--exit={code}");
        for expected in [line("--name=hello "), line("")] {
            while !console.line().ends_with(&expected) {}
        }
        let said = host.supervisor().so_far();
        assert_eq!(said.matches("started as process").count(), 2, "{said}");
    }
}

#[test]
fn a_death_by_a_signal_that_nobody_asked_for_is_a_failure() {
    let host = Host::start();
    create(&host, "again", "forever.spt", &[QUIET, "--restart"]);
    create(&host, "once", "forever.spt", &[QUIET]);
    for number in 1..=2 {
        let tender = host.tender_of(":again").unwrap();
        kill(Pid::from_raw(tender), Signal::SIGABRT).unwrap();
        eventually("it runs again", || {
            let info = host.petrel(&["info"]).stdout;
            info.contains(&format!(" restarts {number} last exit "))
        });
        assert!(host.petrel(&["info"]).stdout.contains("(signal 6)"));
        assert_ne!(host.tender_of(":again"), Some(tender));
    }
    let once = host.tender_of(":once").unwrap();
    kill(Pid::from_raw(once), Signal::SIGTERM).unwrap();
    eventually("it has ended", || {
        let info = host.petrel(&["info"]).stdout;
        line_of(&info, ":once").ends_with("(signal 15)")
    });
}

#[test]
fn how_it_ended_before_is_known_after_both() {
    for (way, change) in CHANGES {
        let mut host = Host::start();
        create(&host, "again", "forever.spt", &[QUIET, "--restart"]);
        // Not SIGSEGV, which does nothing before the guest runs: it is taken for a full stack until then.
        kill(
            Pid::from_raw(host.tender_of(":again").unwrap()),
            Signal::SIGABRT,
        )
        .unwrap();
        let told =
            |info: &str| info.contains(" restarts 1 last exit ") && info.contains("(signal 6)");
        eventually("it runs again", || told(&host.petrel(&["info"]).stdout));
        change(&mut host);
        let info = host.petrel(&["info"]).stdout;
        assert!(told(&info), "{way}: {info}");
    }
}

#[test]
fn a_stop_that_was_under_way_is_no_end_that_nobody_asked_for() {
    let mut host = host_with_puppets(&["--stop-deadline", "1"]);
    let puppet = Puppet::create(&host, "asked", &["--arg=--stubborn"]);
    let client = Running::start(&mut host.client(&["destroy", "asked"]));
    let record = host.path("run/run/:asked");
    eventually("the stop is on record", || {
        fs::read_to_string(&record).is_ok_and(|text| text.ends_with("stop asked\n"))
    });
    host.kill_supervisor();
    assert_ne!(client.end().code(), 0);
    host.start_supervisor();
    // Nothing was acknowledged: it is to run.
    eventually("it runs again", || {
        host.tender_of(":asked")
            .is_some_and(|process| process != puppet.process)
    });
    assert_eq!(infos(&host).len(), 1);
}

#[test]
fn what_does_not_stop_in_time_is_killed() {
    let mut host = host_with_puppets(&["--stop-deadline", "1"]);
    let puppets = ["destroyed", "kept"].map(|name| {
        let puppet = Puppet::create(&host, name, &["--arg=--stubborn"]);
        (puppet.process, puppet)
    });
    let start = Instant::now();
    host.expect(&host.petrel(&["destroy", "destroyed"]), 0, &["destroyed"]);
    assert!(start.elapsed() >= Duration::from_secs(1));
    host.supervisor()
        .says(":destroyed: did not stop in time and is killed");
    let left = host.left_tenders();
    assert_eq!(left, [puppets[1].0].into());
    // Also one that was taken over, when all are stopped.
    succeed(&mut host);
    let supervisor = host.supervisor.take().unwrap();
    supervisor.signal(Signal::SIGTERM);
    supervisor.says(":kept: did not stop in time and is killed");
    assert_eq!(supervisor.end().unwrap().code(), Some(0));
    assert!(host.left_tenders().is_empty());
}

#[test]
fn a_signal_does_not_make_a_tender_look_useless() {
    let host = host_with_puppets(&[]);
    let (asked, go) = (host.path("asked"), host.path("go"));
    mkfifo(&go, Mode::S_IRWXU).unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] || exec sleep 600\n> {}\nread -r go < {}\necho ABI version 2\n",
        asked.display(),
        go.display()
    );
    host.file("db/solo5-spt", script);
    let image = guest("forever.spt");
    let mut create = Running::start(&mut host.client(&["create", "web", image.to_str().unwrap()]));
    eventually("it is asked for its version", || asked.exists());
    host.supervisor().signal(Signal::SIGCHLD);
    fs::write(&go, "\n").unwrap();
    assert!(create.line().contains("created unikernel"));
    host.expect(&create.end(), 0, &[]);
    let said = host.supervisor().so_far();
    assert!(
        !said.contains("--version: "),
        "another one was taken: {said}"
    );
}

#[test]
fn a_unikernel_whose_tender_is_missing_waits_for_it() {
    let mut host = Host::with(Setup {
        alone: true,
        path: Some("/nowhere".into()),
        tender: Some((env!("CARGO_BIN_EXE_petrel-spt").into(), "solo5-spt")),
        ..Setup::default()
    });
    create(&host, "web", "forever.spt", &[QUIET]);
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    let (tender, away) = (host.path("db/solo5-spt"), host.path("away"));
    fs::rename(&tender, &away).unwrap();
    host.start_supervisor();
    eventually("it is told why it does not run", || {
        let info = host.petrel(&["info"]).stdout;
        info.contains(" next start 2") && info.contains(" (could not be started: no tender")
    });
    assert!(infos(&host).is_empty());
    let image = guest("forever.spt");
    let create = ["create", "web", image.to_str().unwrap()];
    host.expect(&host.petrel(&create), 117, &["already"]);
    // Neither the supervisor that knows of it nor the next one forgets it.
    succeed(&mut host);
    fs::rename(&away, &tender).unwrap();
    eventually("it runs", || infos(&host).len() == 1);
    assert!(
        !host
            .petrel(&["info"])
            .stdout
            .contains("could not be started")
    );
}

/// Whether a process has ended, though its parent may not have asked how.
fn is_over(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| status.contains("\nState:\tZ"))
}

/// Creates a unikernel.
fn create(host: &Host, name: &str, image: &str, options: &[&str]) {
    let image = guest(image);
    let create = [&["create", name, image.to_str().unwrap()], options].concat();
    host.expect(&host.petrel(&create), 0, &["created unikernel"]);
}

/// The line of `petrel info` about a unikernel.
fn line_of<'a>(info: &'a str, name: &str) -> &'a str {
    let mut lines = info.lines();
    let start = format!("[unikernel: {name}]: ");
    lines
        .find(|line| line.contains(&start))
        .unwrap_or_else(|| panic!("{name} in {info}"))
}

/// The number in a line of the guest that ticks.
fn tick_in(line: &str) -> u64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// What the plain info tells: of what runs.
fn infos(host: &Host) -> Vec<NamedInfo> {
    let mut supervisor = connect(host, "vmmd.sock");
    let info = UnikernelCommand::Info(());
    send(&mut supervisor, ":", Command::Unikernel(info));
    match reply(&mut supervisor) {
        Success::UnikernelInfo(infos) => infos,
        other => panic!("{other:?}"),
    }
}

fn without_starts(mut infos: Vec<NamedInfo>) -> Vec<NamedInfo> {
    for told in &mut infos {
        told.info.started = None;
    }
    infos
}

/// Connects to a daemon's socket.
fn connect(host: &Host, socket: &str) -> UnixStream {
    let stream = UnixStream::connect(host.path("run/util").join(socket)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn send(stream: &mut UnixStream, name: &str, command: Command) {
    let message = Message::command(1, &name.parse().unwrap(), command);
    write_frame(stream, &message.encode().unwrap()).unwrap();
}

fn receive(stream: &mut UnixStream) -> Payload {
    let bytes = read_frame(stream, MAX_MESSAGE).unwrap().expect("no answer");
    Message::decode(&bytes).unwrap().payload
}

fn reply(stream: &mut UnixStream) -> Success {
    match receive(stream) {
        Payload::Reply(success) => success,
        other => panic!("no success: {other:?}"),
    }
}

fn next_line(stream: &mut UnixStream) -> ConsoleData {
    match receive(stream) {
        Payload::Data(Data::Console(line)) => line,
        other => panic!("no line: {other:?}"),
    }
}

/// A small unikernel whose image follows.
fn record() -> petrel::wire::Config {
    let config = Config {
        kind: Kind::Solo5,
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpus: [0].into(),
        memory: 8,
        blocks: Vec::new(),
        nets: Vec::new(),
        arguments: vec![QUIET["--arg=".len()..].into()],
        vcpus: 1,
        linux_boot_partition: None,
    };
    config.to_wire(false, Vec::new())
}

/// A tender that runs no guest, but waits at the fifo that is its last argument for a line with its exit code. With
/// `--stubborn` it only says that it was asked to stop.
const PUPPET: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then
    echo "ABI version 2"
    exit
fi
case $* in *--stubborn*) trap 'echo asked' TERM ;; esac
for strings; do :; done
exec <"$strings"
until read -r code; do :; done
exit "$code"
"#;

/// A host whose only tender is the puppet.
fn host_with_puppets(options: &'static [&'static str]) -> Host {
    let mut host = Host::prepared(Setup {
        options,
        ..Setup::default()
    });
    let tender = host.file("db/solo5-spt", PUPPET);
    fs::set_permissions(tender, Permissions::from_mode(0o755)).unwrap();
    host.start_console();
    host.start_supervisor();
    host
}

/// A puppet that waits for its end.
struct Puppet {
    process: i32,
    strings: File,
}

impl Puppet {
    fn create(host: &Host, name: &str, options: &[&str]) -> Self {
        let path = host.path(format!("strings-{name}"));
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let last = format!("--arg={}", path.display());
        create(host, name, "forever.spt", &[options, &[&last]].concat());
        let mut open = OpenOptions::new();
        // Without waiting: possible once the other end is open.
        open.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut strings = None;
        eventually("the puppet waits", || {
            strings = open.open(&path).ok();
            strings.is_some()
        });
        Self {
            process: host.tender_of(&format!(":{name}")).unwrap(),
            strings: strings.unwrap(),
        }
    }

    fn exit(mut self, code: u8) {
        writeln!(self.strings, "{code}").unwrap();
    }

    fn kill(&self) {
        kill(Pid::from_raw(self.process), Signal::SIGKILL).unwrap();
    }
}
