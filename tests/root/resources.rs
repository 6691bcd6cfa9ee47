//! What `petreld` finds out about its host is what the host's own tools and files say.
#![cfg(target_os = "linux")]

use crate::support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::{Pid, geteuid};
use petrel::host::resources::discover;
use petrel::policy::{Policy, UNLIMITED};

use support::{Directory, on_path, run, skipped};

fn found() -> Policy {
    discover(Path::new("/tmp")).unwrap()
}

#[test]
fn memory_and_storage_are_those_that_the_system_tells() {
    let policy = found();
    assert_eq!(policy.unikernels, UNLIMITED);
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes: u64 = total
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert_eq!(policy.memory, kilobytes / 1024);

    let directory = Directory::new("storage");
    let size = run(Command::new("stat")
        .args(["-f", "-c", "%b %S"])
        .arg(directory.path("")));
    let numbers: Vec<u64> = size
        .stdout
        .split_whitespace()
        .map(|one| one.parse().unwrap())
        .collect();
    let policy = discover(&directory.path("")).unwrap();
    assert_eq!(policy.block, Some((numbers[0] * numbers[1]) >> 20));
}

#[test]
fn processors_are_those_that_this_process_may_use() {
    let count = run(&mut Command::new("nproc")).stdout;
    assert_eq!(found().cpus.len().to_string(), count.trim());
    // The affinity is one of a thread.
    let pinned = thread::spawn(|| {
        let one = *found().cpus.last().unwrap();
        let mut set = CpuSet::new();
        set.set(one.into()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &set).unwrap();
        (found().cpus, one)
    });
    let (cpus, one) = pinned.join().unwrap();
    assert_eq!(cpus, [one].into());
}

#[test]
fn bridges_are_those_of_the_own_network_and_no_other_interfaces() {
    let Some(ip) = on_path("ip").filter(|_| geteuid().is_root()) else {
        return skipped("bridges", "ip is not on PATH, or this is not root");
    };
    // A network namespace is one of a thread, and of the processes that it starts.
    let alone = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let before = found().bridges;
        for (name, kind) in [("service", "bridge"), ("b-2", "bridge"), ("other", "veth")] {
            let mut add = Command::new(&ip);
            let added = run(add.args(["link", "add", name, "type", kind]));
            if added.code() != 0 {
                return Err(added.stderr);
            }
        }
        Ok((before, found().bridges))
    });
    match alone.join().unwrap() {
        Err(why) => skipped("bridges", &why),
        Ok((before, after)) => {
            assert_eq!(before, BTreeSet::new());
            assert_eq!(after, ["b-2".to_owned(), "service".to_owned()].into());
        }
    }
}
