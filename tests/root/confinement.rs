//! What a running tender is allowed: a real `petreld` starts real guests, and `/proc` tells.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host};

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::geteuid;
use petrel::host::{ADDRESS_SPACE_SLACK, HVT_PROCESSES, OOM_SCORE, OPEN_FILES, SPT_PROCESSES};

use host::{Host, Setup, eventually};
use support::{guest, on_path, skipped};

/// A user without any rights.
const NOBODY: u32 = 65_534;

/// The first of those that tests take as users of tenders: tests/daemons/blocks.rs and tests/root/network.rs have others.
const FIRST_USER: u32 = 64_120;

/// A guest that runs until it is stopped, and says little.
const QUIET: &str = "--arg=--interval-ms=600000";

#[test]
fn a_tender_has_a_user_of_its_own_and_no_rights() {
    let Some((host, group)) = host_with_users() else {
        return;
    };
    let tender = create(&host, "hello", "forever.spt");
    let user = group + 1;
    assert_eq!(status(tender, "Uid:"), [user; 4]);
    assert_eq!(status(tender, "Gid:"), [user; 4]);
    assert_eq!(status(tender, "Groups:"), [group]);
    assert_confined(tender);
    assert_eq!(limit(tender, "Max processes"), SPT_PROCESSES);
}

#[test]
fn a_tender_of_root_or_of_an_ordinary_user_has_no_rights_either() {
    let user = geteuid();
    let host = Host::start();
    let tender = create(&host, "hello", "forever.spt");
    assert_eq!(status(tender, "Uid:"), [user.as_raw(); 4]);
    assert_confined(tender);
    let warning = "tenders run as root";
    assert_eq!(host.supervisor().so_far().contains(warning), user.is_root());
}

#[test]
fn a_supervisor_that_was_started_by_hand_keeps_the_capabilities_of_its_unit_only() {
    let host = Host::start();
    let supervisor = host.supervisor().pid();
    assert_eq!(status(supervisor, "NoNewPrivs:"), [1]);
    if !geteuid().is_root() {
        return skipped("capabilities of petreld", "it needs root");
    }
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_ADMIN
    let kept = [0, 1, 5, 6, 7, 8, 12].map(|number| 1 << number);
    let kept = kept.iter().fold(0, |kept, bit| kept | bit);
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(hexadecimal(supervisor, set) & !kept, 0, "{set}");
    }
}

#[test]
fn an_ordinary_users_supervisor_gives_its_tenders_no_rights() {
    if !geteuid().is_root() {
        return skipped("petreld as another user", "it needs root");
    }
    let host = Host::with(Setup {
        user: Some(NOBODY),
        ..Setup::default()
    });
    let image = host.file("image", fs::read(guest("forever.spt")).unwrap());
    let tender = create_from(&host, "hello", &image);
    assert_eq!(status(tender, "Uid:"), [NOBODY; 4]);
    // The bounding set stays: only root could empty it. It gives nothing to who gets no new privileges.
    assert_confined_but_for_the_bounding_set(tender);
    drop(host);
    let host = Host::prepared(Setup {
        user: Some(NOBODY),
        options: users().1,
        ..Setup::default()
    });
    let ended = support::run(&mut host.supervisor_command());
    let said = &ended.stderr;
    assert!(said.contains("(--tender-uids): only root"), "{said}");
    assert_eq!(ended.code(), 124);
}

#[test]
fn no_two_tenders_have_the_same_user_and_the_last_one_is_an_error() {
    let Some((host, group)) = host_with_users() else {
        return;
    };
    let first = create(&host, "first", "forever.spt");
    let second = create(&host, "second", "forever.spt");
    let users = |tenders: &[i32]| -> BTreeSet<u32> {
        tenders.iter().map(|one| status(*one, "Uid:")[0]).collect()
    };
    assert_eq!(users(&[first, second]), [group + 1, group + 2].into());
    let image = guest("forever.spt");
    let third = ["create", "third", image.to_str().unwrap(), "--mem=8", QUIET];
    let text = format!(
        "all 2 users of --tender-uids {group}-{} are taken",
        group + 2
    );
    host.expect(&host.petrel(&third), 117, &[&text]);
    assert_eq!(
        host.names("run/run"),
        [":first".into(), ":second".into()].into()
    );
    host.expect(&host.petrel(&["destroy", "first"]), 0, &[]);
    let again = create(&host, "third", "forever.spt");
    assert_eq!(users(&[again]), [group + 1].into());
    assert_eq!(
        host.names("run/run"),
        [":second".into(), ":third".into()].into()
    );
}

#[test]
fn a_user_that_has_processes_is_passed_over() {
    let Some((host, group)) = host_with_users() else {
        return;
    };
    let process_of = |user| {
        let mut command = Command::new("sleep");
        Stranger(command.arg("600").uid(user).spawn().unwrap())
    };
    let one = process_of(group + 1);
    let tender = create(&host, "first", "forever.spt");
    assert_eq!(status(tender, "Uid:")[0], group + 2);
    let image = guest("forever.spt");
    let second = [
        "create",
        "second",
        image.to_str().unwrap(),
        "--mem=8",
        QUIET,
    ];
    let why = "1 have processes already that are none of this supervisor's";
    host.expect(&host.petrel(&second), 117, &[why]);
    drop(one);
    create(&host, "second", "forever.spt");
}

/// A process of nobody's.
struct Stranger(std::process::Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn images_are_read_by_tenders_and_the_state_by_nobody() {
    let Some((host, group)) = host_with_users() else {
        return;
    };
    create(&host, "hello", "forever.spt");
    let see = |path: PathBuf| {
        let found = fs::metadata(&path).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(see(host.path("db")), (0, group, 0o710));
    assert_eq!(see(host.path("db/image")), (0, group, 0o710));
    for image in host.names("db/image") {
        assert_eq!(see(host.path("db/image").join(image)), (0, group, 0o440));
    }
    assert_eq!(see(host.path("db/state")), (0, 0, 0o600));
    assert_eq!(see(host.path("run/run")).2, 0o700);
    assert_eq!(see(host.path("run/run/:hello")).2, 0o600);
}

#[test]
fn images_from_before_the_option_can_be_read_with_it() {
    let Some((mut host, _)) = host_with_users() else {
        return;
    };
    create(&host, "hello", "forever.spt");
    for image in host.names("db/image") {
        let image = host.path("db/image").join(image);
        std::os::unix::fs::chown(&image, Some(0), Some(0)).unwrap();
    }
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    assert!(host.names("run/run").is_empty());
    host.start_supervisor();
    eventually("it runs again, with its image", || {
        host.tenders().first().is_some_and(|tender| {
            links(*tender)
                .iter()
                .any(|link| link.ends_with("[timerfd]"))
        })
    });
}

#[test]
fn solo5_spt_runs_as_a_user_of_its_own() {
    let Some((host, group)) = host_with_solo5("solo5-spt", None) else {
        return;
    };
    let tender = create(&host, "hello", "forever.spt");
    assert_eq!(status(tender, "Uid:"), [group + 1; 4]);
    assert_eq!(status(tender, "Groups:"), [group]);
    assert_eq!(limit(tender, "Max processes"), SPT_PROCESSES);
    assert_runs(tender);
}

#[test]
fn solo5_hvt_runs_as_a_user_of_its_own_in_the_group_of_its_device() {
    let device = "exec unshare -m sh -c 'mknod -m 660 kvm c 10 232 && chgrp 64200 kvm &&
        mount --bind kvm /dev/kvm && exec \"$@\"' sh \"$@\"";
    let Some((host, group)) = host_with_solo5("solo5-hvt", Some(device)) else {
        return;
    };
    let tender = create(&host, "hello", "forever.hvt");
    assert_eq!(status(tender, "Uid:"), [group + 1; 4]);
    assert_eq!(status(tender, "Groups:"), [group, 64_200]);
    assert_eq!(limit(tender, "Max processes"), HVT_PROCESSES);
    assert_runs(tender);
}

#[test]
fn a_device_of_root_alone_is_an_error_that_says_so() {
    let device = "exec unshare -m sh -c 'mknod -m 600 kvm c 10 232 &&
        mount --bind kvm /dev/kvm && exec \"$@\"' sh \"$@\"";
    let Some((host, group)) = host_with_solo5("solo5-hvt", Some(device)) else {
        return;
    };
    let image = guest("forever.hvt");
    let create = ["create", "hello", image.to_str().unwrap(), QUIET];
    let text = format!("user {} cannot open /dev/kvm", group + 1);
    host.expect(&host.petrel(&create), 117, &[&text]);
    assert!(host.names("run/run").is_empty());
}

/// The group of tenders with users for two of them, and the option that says so. They are one test's own: the kernel counts
/// the processes of a user on the whole machine, and a tender may be its user's only one.
fn users() -> (u32, &'static [&'static str]) {
    static NEXT: AtomicU32 = AtomicU32::new(FIRST_USER);
    let group = NEXT.fetch_add(3, Ordering::Relaxed);
    let range = format!("{group}-{}", group + 2);
    (group, vec!["--tender-uids", range.leak()].leak())
}

/// A host with this tender of Solo5's and users for it, and their group.
fn host_with_solo5(program: &'static str, before: Option<&'static str>) -> Option<(Host, u32)> {
    let Some(tender) = on_path(program).filter(|_| geteuid().is_root()) else {
        let why = "it is not on PATH, or this is not root";
        skipped(&format!("{program} as a user of its own"), why);
        return None;
    };
    let kvm = fs::File::options().write(true).open("/dev/kvm");
    if before.is_some() && kvm.is_err() {
        skipped(&format!("{program} as a user of its own"), "no /dev/kvm");
        return None;
    }
    let (group, options) = users();
    let host = Host::with(Setup {
        options,
        tender: Some((tender, program)),
        before,
        ..Setup::default()
    });
    Some((host, group))
}

/// The guest has begun: its tender has what it makes before.
fn assert_runs(tender: i32) {
    eventually("its guest runs", || {
        links(tender).iter().any(|link| link.ends_with("[timerfd]"))
    });
}

/// All that every tender has, or does not have.
fn assert_confined(tender: i32) {
    assert_eq!(hexadecimal(tender, "CapBnd:"), 0);
    assert_confined_but_for_the_bounding_set(tender);
}

fn assert_confined_but_for_the_bounding_set(tender: i32) {
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(hexadecimal(tender, set), 0, "{set}");
    }
    for signals in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        assert_eq!(hexadecimal(tender, signals), 0, "{signals}");
    }
    assert_eq!(status(tender, "NoNewPrivs:"), [1]);
    assert_eq!(field(tender, "Umask:"), "0077");
    assert_eq!(field(tender, "Cpus_allowed_list:"), "0");

    assert_eq!(limit(tender, "Max core file size"), 0);
    assert_eq!(limit(tender, "Max open files"), OPEN_FILES);
    assert_eq!(
        limit(tender, "Max address space"),
        (32 + ADDRESS_SPACE_SLACK) << 20
    );

    let read = |file: &str| fs::read_to_string(format!("/proc/{tender}/{file}")).unwrap();
    assert_eq!(read("environ"), "");
    assert_eq!(read("oom_score_adj").trim(), OOM_SCORE.to_string());
    let cwd = fs::read_link(format!("/proc/{tender}/cwd")).unwrap();
    assert_eq!(cwd, Path::new("/"));
    // Its process group and its session are its own; it has no terminal.
    let stat = stat(tender);
    let own = tender.to_string();
    assert_eq!(
        (&stat[5 - 3], &stat[6 - 3], &stat[7 - 3][..]),
        (&own, &own, "0")
    );

    // Standard input, the console, and what the tender makes itself.
    let own = [
        "/dev/null",
        "anon_inode:[eventpoll]",
        "anon_inode:[timerfd]",
    ];
    eventually("it has nothing else open", || {
        let foreign = |link: &&String| !own.contains(&link.as_str()) && !link.ends_with(":hello");
        let links = links(tender);
        links.iter().filter(foreign).count() == 0 && links.len() == 5
    });
}

/// A host whose tenders have users of their own, and their group; root can have it.
fn host_with_users() -> Option<(Host, u32)> {
    if !geteuid().is_root() {
        skipped("tenders with users of their own", "it needs root");
        return None;
    }
    // Other users cannot get at the directory of the built programs.
    let built = Path::new(env!("CARGO_BIN_EXE_petrel-spt"));
    let (group, options) = users();
    let host = Host::with(Setup {
        options,
        tender: Some((built.to_owned(), "solo5-spt")),
        ..Setup::default()
    });
    Some((host, group))
}

fn create(host: &Host, name: &str, image: &str) -> i32 {
    create_from(host, name, &guest(image))
}

/// Creates a unikernel; its tender's process.
fn create_from(host: &Host, name: &str, image: &Path) -> i32 {
    let before = host.tenders();
    let create = ["create", name, image.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&create), 0, &["created unikernel"]);
    *host.tenders().difference(&before).next().unwrap()
}

/// A line of `/proc/PID/status`, without its title.
fn field(process: i32, title: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(title));
    line.unwrap().trim().to_owned()
}

fn status(process: i32, title: &str) -> Vec<u32> {
    let words = field(process, title);
    words
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

fn hexadecimal(process: i32, title: &str) -> u64 {
    u64::from_str_radix(&field(process, title), 16).unwrap()
}

/// Both limits, which are the same.
fn limit(process: i32, title: &str) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix(title))
        .unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[0], words[1], "{title}");
    words[0].parse().unwrap()
}

/// The fields of `/proc/PID/stat` from the third on.
fn stat(process: i32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().map(str::to_owned).collect()
}

/// What its descriptors stand for.
fn links(process: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}
