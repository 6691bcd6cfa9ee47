//! What a `petreld` that is gone, or that was executed anew, leaves to the next one.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host};

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use petrel::host::run::{FinishedRun, Runs};
use petrel::supervisor::RunId;
use petrel::sys::child::Ended;
use petrel::sys::process::{End, ProcessId};

use host::{Daemon, Host, Setup, eventually};
use support::{Running, guest, on_path, run, skipped};

/// A guest that runs until it is stopped, and says little.
const QUIET: &str = "--arg=--interval-ms=600000";

#[test]
fn a_record_of_the_run_is_there_as_long_as_it_lasts() {
    let host = Host::start();
    let tender = create(&host, "hello", "forever.spt");
    let record = fs::read_to_string(host.path("run/run/:hello")).unwrap();
    let start = ProcessId::of(Pid::from_raw(tender)).unwrap().unwrap().start;
    assert!(record.starts_with("petrel run 1\nboot "), "{record}");
    assert!(
        record.ends_with(&format!("\nprocess {tender} {start}\n")),
        "{record}"
    );
    host.expect(&host.petrel(&["destroy", "hello"]), 0, &[]);
    assert!(host.names("run/run").is_empty());
}

#[test]
fn a_tender_that_outlives_its_supervisor_is_found_and_watched() {
    let mut host = Host::start();
    let tender = create(&host, "hello", "forever.spt");
    host.kill_supervisor();
    let mut runs = Runs::open(&host.path("run"), None).unwrap();
    let mut survivors = runs.survivors();
    let survivor = survivors.pop().unwrap();
    assert!(survivors.is_empty());
    assert_eq!(survivor.name.to_string(), ":hello");
    let run = RunId(7);
    runs.adopt(run, survivor);
    let end = |runs: &Runs| {
        let (adopted, process) = runs.adopted().next().unwrap();
        assert_eq!((adopted, process.id().pid.as_raw()), (run, tender));
        process.ended().unwrap()
    };
    assert_eq!(end(&runs), None);
    runs.end(run, Signal::SIGKILL);
    eventually("it has ended", || end(&runs).is_some());
    let killed = End::Known(Ended::Signal(9));
    assert!([killed, End::Unknown].contains(&end(&runs).unwrap()));
    let over = FinishedRun {
        run,
        out_of_memory: false,
    };
    let ended = runs.ended(Pid::from_raw(tender), End::Unknown);
    assert_eq!(ended.map(|(_, over)| over), Some(over));
    assert_eq!(runs.ended(Pid::from_raw(tender), End::Unknown), None);
    assert!(host.names("run/run").is_empty());
}

#[test]
fn whenever_the_supervisor_is_killed_its_tenders_are_those_that_are_found() {
    let image = guest("forever.spt");
    for round in 0..12 {
        let mut host = Host::prepared(Setup::default());
        host.start_console();
        host.start_supervisor();
        let mut creates = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let create = ["create", name, image.to_str().unwrap(), "--mem=8", QUIET];
            creates.push(Running::start(&mut host.client(&create)));
        }
        // Any moment will do: the test does not depend on which it is.
        thread::sleep(Duration::from_millis(8 * round));
        host.kill_supervisor();
        drop(creates);
        let mut runs = Runs::open(&host.path("run"), None).unwrap();
        let survivors = runs.survivors();
        let found: BTreeSet<i32> = survivors
            .iter()
            .map(|survivor| survivor.process.id().pid.as_raw())
            .collect();
        // While a program is being executed it has no command line for a moment.
        eventually(&format!("round {round}: {found:?} run"), || {
            found == host.left_tenders()
        });
        assert_eq!(host.names("run/run").len(), found.len());
        println!("round {round}: {} tenders", found.len());
    }
}

#[test]
fn a_tender_outlives_both_ends_of_its_console() {
    let mut host = Host::start();
    let tender = create(&host, "hello", "flood.spt");
    let descriptor = |number: u8| fs::read_to_string(format!("/proc/{tender}/fdinfo/{number}"));
    let access = |number| {
        let info = descriptor(number).unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        u32::from_str_radix(flags.trim(), 8).unwrap() & 3
    };
    assert_eq!(
        (access(1), access(2)),
        (2, 2),
        "open for reading and writing"
    );
    host.kill_supervisor();
    let console = host.console.take().unwrap();
    console.signal(Signal::SIGKILL);
    console.end();
    // It goes on until the fifo is full, and then waits there: in write(2).
    eventually("it waits for a reader", || {
        let call = fs::read_to_string(format!("/proc/{tender}/syscall")).unwrap();
        call.starts_with("1 0x1 ")
    });
}

#[test]
fn a_socket_and_a_lock_that_were_kept_are_taken_over() {
    if on_path("flock").is_none() {
        return skipped("what petreld keeps for itself", "flock is not on PATH");
    }
    let mut host = Host::prepared(Setup {
        // As petreld leaves it to itself: the same process, descriptors, and a variable.
        before: Some(
            "export PETRELD_KEPT=\"$$ 5 6\" && exec 5<&0 6<>db/.lock </dev/null && flock -n 6",
        ),
        ..Setup::default()
    });
    host.start_console();
    File::create(host.path("db/.lock")).unwrap();
    let listener = UnixListener::bind(host.path("run/util/vmmd.sock")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let stdin = Stdio::from(OwnedFd::from(listener));
    let mut command = host.supervisor_command();
    host.supervisor = Some(Daemon::start_with(&mut command, stdin, "listening"));
    create(&host, "hello", "forever.spt");
    let mut second = host.command("petreld");
    let ended = run(second.args(["--tmpdir", "run", "--dbdir", "db"]));
    assert!(
        ended.stderr.contains("belongs to a supervisor"),
        "{ended:?}"
    );
    assert_eq!(ended.code(), 124, "{ended:?}");
}

/// Creates a unikernel; its tender's process.
fn create(host: &Host, name: &str, image: &str) -> i32 {
    let image = guest(image);
    let create = ["create", name, image.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&create), 0, &["created unikernel"]);
    *host.tenders().first().unwrap()
}
