//! The state on disk: whatever happens to it, what was acknowledged is there, and what cannot be used is named.

use crate::support::{self, faults, host};

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use petrel::host::disk_reserve::MAX_DISK_RESERVE;
use petrel::name::Name;
use petrel::policy::Policy;
use petrel::unikernel::{Config, FailBehaviour, Kind, Net};
use petrel::wire::state::{State, albatross};
use petrel::wire::{Config as WireConfig, Int};
use sha2::{Digest, Sha256};

use faults::{Fault, faulty, release, shim, struck};
use host::{Daemon, Host, Setup, eventually};
use support::{guest, run, skipped};

/// Keeps the guest from printing.
const QUIET: &str = "--arg=--interval-ms=600000";

/// A host with its console daemon; a test starts the supervisor as it needs it.
fn prepared() -> Host {
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host
}

fn stop(host: &mut Host) {
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
}

fn kill(host: &mut Host) {
    let supervisor = host.supervisor.take().unwrap();
    supervisor.signal(Signal::SIGKILL);
    supervisor.end().unwrap();
}

/// What clients are told: the unikernels with their arguments, but not when they were started, and the policies.
fn told(host: &Host) -> (String, String) {
    let info = host.petrel(&["info", "-v", "-v"]);
    let policies = host.petrel(&["policy"]);
    assert_eq!((info.code(), policies.code()), (0, 0), "{info:?}");
    let lines = info.stdout.lines().map(|line| {
        // How often it was tried is of the run, too.
        let line = match line.split_once(" restarts ") {
            Some((before, after)) => {
                let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
                format!("{before} {rest}")
            }
            None => line.to_owned(),
        };
        let words = line.split_whitespace();
        words
            .filter(|word| !is_of_a_run(word))
            .collect::<Vec<_>>()
            .join(" ")
    });
    (lines.collect::<Vec<_>>().join("\n"), policies.stdout)
}

/// When it was started, which differs from one run to the next.
fn is_of_a_run(word: &str) -> bool {
    word.starts_with("20") && word.contains(':')
}

fn create(host: &Host, name: &str, image: &Path) {
    let create = ["create", name, image.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&create), 0, &["created unikernel"]);
}

/// Another image that does the same.
fn another(host: &Host) -> PathBuf {
    let image = [fs::read(guest("forever.spt")).unwrap(), b"\n".to_vec()].concat();
    host.file("another.spt", image)
}

fn names(directory: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(directory).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// What belongs into a database.
const FILES: [&str; 6] = [
    ".lock",
    ".secret",
    "block",
    "image",
    "state",
    "state.previous",
];

/// Nothing is in the database but what belongs there, and every image that is wanted, undamaged.
fn assert_tidy(host: &Host, more: &[&str]) {
    let database = host.path("db");
    let mut allowed = BTreeSet::from(FILES.map(str::to_owned));
    allowed.extend(more.iter().copied().map(str::to_owned));
    let found = names(&database);
    assert!(found.is_subset(&allowed), "{found:?}");
    let mut wanted = BTreeSet::new();
    for generation in ["state", "state.previous"] {
        let bytes = fs::read(database.join(generation)).unwrap_or_default();
        let state = State::decode(&bytes).unwrap_or_default();
        wanted.extend(state.images().map(|image| image.to_string()));
    }
    let images = names(&database.join("image"));
    if more.is_empty() {
        assert_eq!(images, wanted);
    }
    assert!(wanted.is_subset(&images), "{images:?} {wanted:?}");
    for image in wanted {
        let bytes = fs::read(database.join("image").join(&image)).unwrap();
        let digest = Sha256::digest(&bytes);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, image);
    }
}

#[test]
fn a_damaged_or_missing_state_is_replaced_by_the_one_before() {
    let mut host = prepared();
    host.start_supervisor();
    create(&host, "one", &guest("forever.spt"));
    create(&host, "two", &another(&host));
    let before = told(&host);
    host.expect(
        &host.petrel(&["destroy", "two"]),
        0,
        &["destroyed unikernel"],
    );
    stop(&mut host);
    let state = host.path("db/state");
    let good = fs::read(&state).unwrap();
    fs::write(&state, &good[..good.len() / 2]).unwrap();
    host.start_supervisor();
    let supervisor = host.supervisor();
    let line = supervisor.says("state.previous is used");
    assert!(
        line.contains("kept as") && line.contains("state.bad"),
        "{line}"
    );
    eventually("both run, the destroyed one too", || told(&host) == before);
    assert_tidy(&host, &["state.bad"]);
    assert_eq!(
        fs::read(host.path("db/state.bad")).unwrap(),
        good[..good.len() / 2]
    );
    stop(&mut host);
    fs::remove_file(&state).unwrap();
    host.start_supervisor();
    host.supervisor().says("db/state is missing");
    eventually("both run", || told(&host) == before);
    stop(&mut host);
    for file in ["state", "state.previous"] {
        fs::write(host.path("db").join(file), b"").unwrap();
    }
    let refused = run(&mut host.supervisor_command());
    assert_eq!(refused.code(), 124);
    assert!(refused.stderr.contains("from a backup"), "{refused:?}");
}

fn config() -> Config {
    Config {
        kind: Kind::Solo5,
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpus: [0].into(),
        memory: 32,
        blocks: Vec::new(),
        nets: Vec::new(),
        arguments: Vec::new(),
        vcpus: 1,
        linux_boot_partition: None,
    }
}

/// A state file of albatross: a unikernel that runs, one with a damaged image and one that makes no sense, one with a
/// device, and a BHyve machine.
fn albatross_state() -> Vec<u8> {
    let forever = fs::read(guest("forever.spt")).unwrap();
    let good = config().to_wire(false, forever.clone());
    let damaged = config().to_wire(true, b"no zlib stream".to_vec());
    let absurd = WireConfig {
        memory: Int::new(-1),
        ..good.clone()
    };
    let device = Config {
        cpus: [0, 1000].into(),
        nets: vec![Net {
            device: "service".to_owned(),
            bridge: Some("nowhere".to_owned()),
            mac: None,
        }],
        ..config()
    };
    let machine = Config {
        kind: Kind::Bhyve,
        ..config()
    };
    let name = |text: &str| text.parse::<Name>().unwrap();
    let unikernels = [
        (name("a:good"), good),
        (name("a:damaged"), damaged),
        (name("a:device"), device.to_wire(false, forever)),
        (name("a:machine"), machine.to_wire(false, Vec::new())),
        (name("a:absurd"), absurd),
    ];
    let policy = |unikernels| Policy {
        unikernels,
        cpus: [0].into(),
        memory: 640,
        block: None,
        bridges: [].into(),
    };
    let policies = [("a:", policy(10)), (":", policy(99))]
        .map(|(path, policy)| (name(path).path().clone(), (&policy).into()));
    let state = albatross::State::new(unikernels, policies).unwrap();
    state.encode().unwrap()
}

#[test]
fn a_state_of_albatross_is_imported_and_its_unikernel_runs() {
    let mut host = prepared();
    let original = albatross_state();
    fs::write(host.path("db/state"), &original).unwrap();
    host.start_supervisor();
    let supervisor = host.supervisor();
    for said in [
        "'a:damaged': its image: the zlib stream is damaged; not imported",
        "'a:absurd'",
        "a:machine: BHyve machines run on FreeBSD only: imported, but cannot be started",
        "3 unikernels and 1 policies of albatross are imported",
        "state.albatross",
    ] {
        supervisor.says(said);
    }
    eventually("the unikernel runs", || told(&host).0.contains("a:good"));
    host.expect(&host.petrel(&["policy"]), 0, &["a:", "10"]);
    assert_eq!(fs::read(host.path("db/state.albatross")).unwrap(), original);
    assert_tidy(&host, &["state.albatross"]);
    stop(&mut host);
    host.start_supervisor();
    eventually("it comes back", || told(&host).0.contains("a:good"));
    let kept = State::decode(&fs::read(host.path("db/state")).unwrap()).unwrap();
    let kept: Vec<_> = kept
        .unikernels
        .iter()
        .map(|kept| kept.name.to_string())
        .collect();
    assert_eq!(kept, ["a:device", "a:good", "a:machine"]);
    // These two are tried again.
    for (name, why) in [
        ("a:device", "there is no bridge nowhere on this host"),
        ("a:machine", "BHyve machines run on FreeBSD only"),
    ] {
        eventually(name, || {
            let said = host.supervisor().so_far();
            let tries = said
                .lines()
                .filter(|line| line.contains(&format!("{name}: ")) && line.contains(why));
            tries.count() > 1
        });
    }
}

#[test]
fn state_files_of_every_release_of_albatross_are_taken_over() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let entries: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(vectors.join("state.json")).unwrap()).unwrap();
    let mut files: Vec<(String, Vec<u8>, bool)> = entries
        .iter()
        .map(|entry| {
            let hex = entry["hex"].as_str().unwrap();
            let bytes = (0..hex.len() / 2)
                .map(|place| u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).unwrap());
            let good = entry["albatross"] == "accept";
            (entry["id"].to_string(), bytes.collect(), good)
        })
        .collect();
    let dump = fs::read(vectors.join("albatross-state.bin")).unwrap();
    files.push(("albatross-state.bin".to_owned(), dump, true));
    let host = prepared();
    for (id, bytes, good) in files {
        let _ = fs::remove_dir_all(host.path("db"));
        fs::create_dir(host.path("db")).unwrap();
        fs::write(host.path("db/state"), &bytes).unwrap();
        if good {
            let mut command = host.supervisor_command();
            drop(Daemon::start(&mut command, "listening"));
            let state = State::decode(&fs::read(host.path("db/state")).unwrap());
            assert!(state.is_ok(), "{id}: {state:?}");
            assert_eq!(
                fs::read(host.path("db/state.albatross")).unwrap(),
                bytes,
                "{id}"
            );
        } else {
            let refused = run(&mut host.supervisor_command());
            assert_eq!(refused.code(), 124, "{id}: {refused:?}");
            assert_eq!(fs::read(host.path("db/state")).unwrap(), bytes, "{id}");
        }
    }
}

#[test]
fn a_check_before_an_import_tells_which_images_have_no_tender() {
    let host = prepared();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    fs::create_dir_all(host.path("db")).unwrap();
    fs::copy(vectors.join("albatross-state.bin"), host.path("db/state")).unwrap();
    let nowhere = host.path("nowhere");
    let mut command = host.supervisor_command();
    let check = run(command.arg("--check").env("PATH", nowhere));
    assert_eq!(check.code(), 124);
    for name in ["foo:hello", "foo:bar:quiet"] {
        let problem = format!("petreld: {name}: no tender: none of solo5-hvt.2");
        assert!(check.stderr.contains(&problem), "{check:?}");
    }
}

/// What clients are told when nothing is being started.
fn settled(host: &Host) -> (String, String) {
    let mut now = told(host);
    eventually("all that is to run does", || {
        now = told(host);
        !now.0.contains(" starting")
    });
    now
}

/// The database as it was at the beginning of a round.
struct Base(Vec<(PathBuf, Vec<u8>)>);

impl Base {
    fn of(host: &Host) -> Self {
        let files = ["db", "db/image", "db/block"]
            .into_iter()
            .flat_map(|directory| {
                let entries = fs::read_dir(host.path(directory)).into_iter().flatten();
                entries.map(|entry| entry.unwrap().path())
            });
        let files = files.filter(|path| path.is_file());
        Self(
            files
                .map(|path| (path.clone(), fs::read(&path).unwrap()))
                .collect(),
        )
    }

    fn restore(&self, host: &Host) {
        fs::remove_dir_all(host.path("db")).unwrap();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(host.path("db/image"))
            .unwrap();
        for (path, bytes) in &self.0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

/// A change of a base state of unikernels and a policy, with a fault at each of its calls in turn.
fn survives(change: impl Fn(&Host) -> Vec<String>) {
    let Some(shim) = shim() else {
        return;
    };
    let mut host = prepared();
    host.start_supervisor();
    create(&host, "one", &guest("forever.spt"));
    let change = change(&host);
    let change: Vec<&str> = change.iter().map(String::as_str).collect();
    stop(&mut host);
    let base = Base::of(&host);
    host.start_supervisor();
    let old = settled(&host);
    host.expect(&host.petrel(&change), 0, &[]);
    let new = settled(&host);
    assert_ne!(old, new);
    stop(&mut host);

    for fault in [Fault::Kill, Fault::Fail] {
        for at in 1.. {
            base.restore(&host);
            let mut command = faulty(&host, &shim, fault, at);
            host.supervisor = Some(Daemon::start(&mut command, "listening"));
            eventually("the first one runs", || told(&host) == old);
            fs::write(host.path("armed"), b"").unwrap();
            let answer = host.petrel(&change);
            let call = struck(&host);
            let what = format!("{fault:?} at call {at}, {call:?}: {answer:?}");
            let acknowledged = answer.code() == 0;
            if fault == Fault::Fail {
                let said = host.supervisor().so_far();
                eventually(&format!("a whole state, {what} {said}"), || {
                    let now = told(&host);
                    now == new || (now == old && !acknowledged)
                });
            }
            kill(&mut host);
            let state = fs::read(host.path("db/state")).unwrap();
            assert!(State::decode(&state).is_ok(), "a complete state, {what}");
            host.start_supervisor();
            eventually(&format!("the state after {what}"), || {
                let now = told(&host);
                now == new || (now == old && !acknowledged)
            });
            assert_tidy(&host, &[]);
            stop(&mut host);
            if call.is_none() {
                assert!(acknowledged, "{what}");
                assert!(at > 6, "no call was counted");
                break;
            }
        }
    }
}

/// The calls that may have to wait for a disk.
const SYNCS: [&str; 2] = ["fsync", "fdatasync"];

/// While a call of `change` waits for the disk, everybody else is served; one call after the other.
fn keeps_nobody_waiting(change: impl Fn(&Host) -> Vec<String>) {
    let Some(shim) = shim() else {
        return;
    };
    let mut host = prepared();
    host.start_supervisor();
    create(&host, "one", &guest("forever.spt"));
    host.expect(&host.petrel(&["create-block", "old", "1"]), 0, &[]);
    let change = change(&host);
    stop(&mut host);
    let base = Base::of(&host);
    let mut syncs = 0;
    for at in 1.. {
        base.restore(&host);
        let mut command = faulty(&host, &shim, Fault::Hold, at);
        host.supervisor = Some(Daemon::start(&mut command, "listening"));
        eventually("the first one runs", || host.tenders().len() == 1);
        fs::write(host.path("armed"), b"").unwrap();
        let change: Vec<&str> = change.iter().map(String::as_str).collect();
        let mut asking = host.client(&change);
        let mut asking = asking.stdout(Stdio::null()).spawn().unwrap();
        let mut call = None;
        eventually("a call is held, or all was done", || {
            call = struck(&host);
            call.is_some() || asking.try_wait().unwrap().is_some()
        });
        let is_sync = call.as_deref().is_some_and(|call| SYNCS.contains(&call));
        if is_sync {
            syncs += 1;
            let info = host.petrel(&["info", "-n", "one"]);
            assert!(
                asking.try_wait().unwrap().is_none(),
                "{at}: {call:?} was held too short a time, or an answer did not wait for it"
            );
            host.expect(&info, 0, &["one"]);
        }
        release(&host);
        assert!(asking.wait().unwrap().success(), "{at}: {call:?}");
        stop(&mut host);
        if call.is_none() {
            break;
        }
    }
    assert!(syncs > 0, "no call was held");
}

#[test]
fn nobody_waits_for_the_disk_while_an_image_arrives() {
    keeps_nobody_waiting(|host| {
        let image = another(host).to_str().unwrap().to_owned();
        ["create", "two", &image, QUIET].map(str::to_owned).into()
    });
}

#[test]
fn nobody_waits_for_the_disk_while_a_policy_is_written() {
    keeps_nobody_waiting(|_| {
        let add = ["add-policy", "a", "3", "--mem", "64"];
        add.map(str::to_owned).into()
    });
}

#[test]
fn nobody_waits_for_the_disk_while_block_devices_change() {
    keeps_nobody_waiting(|_| ["create-block", "new", "1"].map(str::to_owned).into());
    keeps_nobody_waiting(|_| ["destroy-block", "old"].map(str::to_owned).into());
    keeps_nobody_waiting(|host| {
        let content = host.file("content", vec![1; 4096]);
        let content = content.to_str().unwrap().to_owned();
        vec!["set-block".to_owned(), "old".to_owned(), content]
    });
}

#[test]
fn a_create_survives_a_kill_or_failure_at_every_call() {
    survives(|host| {
        let image = another(host).to_str().unwrap().to_owned();
        ["create", "two", &image, QUIET].map(str::to_owned).into()
    });
}

#[test]
fn an_image_that_cannot_be_written_again_does_no_harm_to_what_runs_it() {
    let Some(shim) = shim() else {
        return;
    };
    let image = guest("forever.spt");
    let mut host = prepared();
    host.start_supervisor();
    create(&host, "one", &image);
    stop(&mut host);
    let base = Base::of(&host);
    for at in 1.. {
        base.restore(&host);
        let mut command = faulty(&host, &shim, Fault::Fail, at);
        host.supervisor = Some(Daemon::start(&mut command, "listening"));
        eventually("the first one runs", || host.tenders().len() == 1);
        fs::write(host.path("armed"), b"").unwrap();
        let answer = host.petrel(&["create", "two", image.to_str().unwrap(), QUIET]);
        let call = struck(&host);
        if call.is_none() {
            assert_eq!(answer.code(), 0, "{answer:?}");
            assert!(at > 6, "no call was counted");
            break;
        }
        // The fault is over, and what is recorded refers to the image.
        let policy = host.petrel(&["add-policy", "a", "3", "--mem", "64"]);
        assert_eq!(policy.code(), 0, "after {call:?}: {answer:?}, {policy:?}");
        stop(&mut host);
    }
}

#[test]
fn a_destroy_survives_a_kill_or_failure_at_every_call() {
    survives(|_| ["destroy", "one"].map(str::to_owned).into());
}

#[test]
fn a_replacement_survives_a_kill_or_failure_at_every_call() {
    survives(|host| {
        let image = another(host).to_str().unwrap().to_owned();
        ["create", "one", &image, "--force", "--mem", "33", QUIET]
            .map(str::to_owned)
            .into()
    });
}

#[test]
fn a_policy_survives_a_kill_or_failure_at_every_call() {
    survives(|_| {
        ["add-policy", "a", "3", "--mem", "64"]
            .map(str::to_owned)
            .into()
    });
}

/// A start on this database, with a fault at each of its calls in turn; the next start has it as it should be.
fn start_survives(host: &mut Host, more: &[&str], is_right: impl Fn(&Host) -> bool) {
    let Some(shim) = shim() else {
        return;
    };
    let base = Base::of(host);
    for fault in [Fault::Kill, Fault::Fail] {
        for at in 1.. {
            base.restore(host);
            let mut command = faulty(host, &shim, fault, at);
            fs::write(host.path("armed"), b"").unwrap();
            let log = host.path("log");
            let file = fs::File::create(&log).unwrap();
            let mut child = command.stderr(Stdio::from(file)).spawn().unwrap();
            eventually("it has ended, or listens", || {
                child.try_wait().unwrap().is_some()
                    || fs::read_to_string(&log).unwrap().contains("listening")
            });
            let call = struck(host);
            child.kill().unwrap();
            child.wait().unwrap();
            host.start_supervisor();
            eventually(
                &format!("the state after {fault:?} at {at}, {call:?}"),
                || is_right(host),
            );
            assert_tidy(host, more);
            stop(host);
            if call.is_none() {
                assert!(at > 6, "no call was counted");
                break;
            }
        }
    }
}

#[test]
fn an_import_survives_a_kill_or_failure_at_every_call() {
    let mut host = prepared();
    let original = albatross_state();
    fs::write(host.path("db/state"), &original).unwrap();
    start_survives(&mut host, &["state.albatross"], |host| {
        told(host).0.contains("a:good")
            && fs::read(host.path("db/state.albatross")).unwrap() == original
    });
}

#[test]
fn falling_back_survives_a_kill_or_failure_at_every_call() {
    let mut host = prepared();
    host.start_supervisor();
    create(&host, "one", &guest("forever.spt"));
    let before = told(&host);
    host.expect(&host.petrel(&["destroy", "one"]), 0, &[]);
    stop(&mut host);
    fs::write(host.path("db/state"), b"").unwrap();
    start_survives(&mut host, &["state.bad"], |host| told(host) == before);
}

#[test]
fn a_full_disk_loses_nothing() {
    let mounts = Command::new("unshare").args(["-m", "true"]).output();
    if !nix::unistd::geteuid().is_root() || !mounts.is_ok_and(|output| output.status.success()) {
        return skipped("a full disk", "only root can mount a small one");
    }
    let mut host = Host::prepared(Setup {
        before: Some(
            "exec unshare -m sh -c 'mount -t tmpfs -o size=256k none db && exec \"$@\"' sh \"$@\"",
        ),
        options: &["--disk-reserve", "0"],
        ..Setup::default()
    });
    host.start_console();
    host.start_supervisor();
    create(&host, "one", &guest("forever.spt"));
    let before = told(&host);
    let inside = PathBuf::from(format!("/proc/{}/root", host.supervisor().pid()));
    let filler = inside.join(host.path("db/filler").strip_prefix("/").unwrap());
    let full = fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    for change in [
        &["add-policy", "a", "3", "--mem", "64"][..],
        &["create", "two", another(&host).to_str().unwrap(), QUIET],
    ] {
        host.expect(&host.petrel(change), 117, &["No space left"]);
        assert_eq!(told(&host), before);
    }
    fs::remove_file(filler).unwrap();
    create(&host, "two", &another(&host));
    let left = inside.join(host.path("db").strip_prefix("/").unwrap());
    assert_eq!(names(&left), FILES.map(str::to_owned).into());
}

#[test]
fn a_disk_that_is_almost_full_takes_no_image_but_every_change_of_the_state() {
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host.start_supervisor();
    create(&host, "one", &guest("forever.spt"));
    let images = names(&host.path("db/image"));
    kill(&mut host);
    // More than any disk has.
    let reserve = MAX_DISK_RESERVE.to_string();
    let mut command = host.supervisor_command();
    command.args(["--disk-reserve", &reserve]);
    host.supervisor = Some(Daemon::start(&mut command, "listening"));
    for refused in [
        &["create", "two", another(&host).to_str().unwrap()][..],
        &["create-block", "disk", "1"],
    ] {
        let refused = host.petrel(refused);
        host.expect(&refused, 117, &["too little disk space is left"]);
    }
    assert_eq!(names(&host.path("db/image")), images);
    assert_eq!(names(&host.path("db/block")), BTreeSet::new());
    let added = host.petrel(&["add-policy", "a", "3", "--mem", "64"]);
    host.expect(&added, 0, &["added policy"]);
    let destroyed = host.petrel(&["destroy", "one"]);
    host.expect(&destroyed, 0, &["destroyed unikernel"]);
}

#[test]
fn a_state_that_cannot_be_used_is_left_as_it_is_with_all_beside_it() {
    let host = prepared();
    host.file("db/state", "no state");
    host.file("db/state.previous", "nor this");
    let before = names(&host.path("db"));
    let ended = run(&mut host.supervisor_command());
    assert_eq!(ended.code(), 124, "{ended:?}");
    assert_eq!(names(&host.path("db")), before);
    assert_eq!(fs::read(host.path("db/state")).unwrap(), b"no state");
    assert!(!host.path("run/util/vmmd.sock").exists());
}

#[test]
fn a_start_that_fails_leaves_no_new_database() {
    let host = prepared();
    fs::remove_dir(host.path("db")).unwrap();
    fs::rename(host.path("run"), host.path("elsewhere")).unwrap();
    let no_runtime = run(&mut host.supervisor_command());
    assert_eq!(no_runtime.code(), 124, "{no_runtime:?}");
    fs::rename(host.path("elsewhere"), host.path("run")).unwrap();
    assert!(!host.path("db").exists(), "{no_runtime:?}");
    // Later, when everything was made.
    host.file("run/run", "no directory");
    let no_records = run(&mut host.supervisor_command());
    assert_eq!(no_records.code(), 124, "{no_records:?}");
    assert!(!host.path("db").exists(), "{no_records:?}");
    assert!(!host.path("run/util/vmmd.sock").exists());
    // What is there already stays.
    fs::create_dir(host.path("db")).unwrap();
    run(&mut host.supervisor_command());
    assert!(host.path("db").exists());
}

#[test]
fn protections_that_are_off_are_told_at_the_start_and_by_a_check() {
    if !nix::unistd::geteuid().is_root() {
        skipped("protections that only root has", "this is no root");
        return;
    }
    let mut host = prepared();
    let expected = ["own address: ", "--tender-uids"];
    let check = run(host.supervisor_command().arg("--check"));
    assert_eq!(check.code(), 0, "{check:?}");
    host.start_supervisor();
    let log = host.supervisor().so_far();
    for told in expected {
        let has = |text: &str| {
            let mut lines = text.lines();
            lines.any(|line| line.contains("protection is off") && line.contains(told))
        };
        assert!(has(&check.stdout), "{check:?}");
        assert!(has(&log), "{log}");
    }
}

#[test]
fn a_check_tells_the_disk_space_of_each_path() {
    let mut host = prepared();
    host.start_supervisor();
    let policy = ["add-policy", "a", "4", "--mem", "128"];
    host.expect(&host.petrel(&policy), 0, &["added policy"]);
    create(&host, "a:b:x", &guest("forever.spt"));
    // The same image counts once, another one does, also as a previous one.
    create(&host, "a:y", &guest("forever.spt"));
    let other = another(&host);
    let replaced = ["create", "-f", "a:y", other.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&replaced), 0, &[]);
    stop(&mut host);
    for (image, megabytes) in [(guest("forever.spt"), 20), (other, 30)] {
        let digest = Sha256::digest(fs::read(image).unwrap());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let stored = fs::File::options()
            .write(true)
            .open(host.path("db/image").join(name));
        stored.unwrap().set_len(megabytes << 20).unwrap();
    }
    let check = run(host.supervisor_command().arg("--check"));
    let lines: Vec<_> = check
        .stdout
        .lines()
        .filter(|line| line.starts_with("finds "))
        .collect();
    let own = "where no policy of its own bounds them";
    let expected = [
        format!("finds 50 MB of images at and below :, {own}"),
        "finds 50 MB of images at and below a:, where its policy allows 448 MB".to_owned(),
        format!("finds 20 MB of images at and below a:b:, {own}"),
    ];
    assert_eq!(lines, expected, "{check:?}");
    let without = ["--check", "--image-quota-factor=none"];
    let check = run(host.supervisor_command().args(without));
    let line = format!("finds 50 MB of images at and below a:, {own}");
    assert!(check.stdout.contains(&line), "{check:?}");
}

#[test]
fn a_check_tells_what_a_start_would_do_and_changes_nothing() {
    let mut host = prepared();
    let check = |host: &Host| run(host.supervisor_command().arg("--check"));
    let first = check(&host);
    assert_eq!((first.code(), first.stderr.as_str()), (0, ""));
    assert!(names(&host.path("db")).is_empty(), "nothing is made");

    host.start_supervisor();
    create(&host, "one", &guest("forever.spt"));
    let early = [
        "create",
        "two",
        another(&host).to_str().unwrap().to_owned().leak(),
        QUIET,
        "--startup",
        "7",
    ];
    host.expect(&host.petrel(&early), 0, &[]);
    let all = host.snapshot();
    let running = check(&host);
    assert_eq!(running.code(), 0, "{running:?}");
    assert!(running.stdout.contains("is running"), "{running:?}");
    host.assert_unchanged(&all);
    kill(&mut host);
    let left = check(&host).stdout;
    assert!(
        left.contains("goes on with :two, which runs as process"),
        "{left}"
    );
    assert!(!left.contains("starts"), "{left}");
    let record = host.path("run/run/:two");
    let asked = fs::read_to_string(&record).unwrap() + "stop asked\n";
    fs::write(&record, asked).unwrap();
    let left = check(&host).stdout;
    for line in ["of :two, which was to end", "starts :two"] {
        assert!(left.contains(line), "{left}");
    }
    host.start_supervisor();
    eventually("it is ended and started again", || {
        let said = host.supervisor().so_far();
        said.contains(":two: started as process")
    });
    stop(&mut host);
    let stopped = check(&host);
    assert_eq!(stopped.code(), 0, "{stopped:?}");
    let lines = stopped.stdout.lines();
    let starts: Vec<_> = lines
        .filter(|line| !line.starts_with("protection is off: ") && !line.starts_with("finds "))
        .collect();
    assert_eq!(starts, ["starts :two (order 7)", "starts :one (order 50)"]);

    let image = names(&host.path("db/image")).pop_first().unwrap();
    fs::write(host.path("db/image").join(image), b"x").unwrap();
    fs::write(host.path("db/state.previous"), b"x").unwrap();
    fs::write(host.path("run/run/three"), b"x").unwrap();
    let before = names(&host.path("db"));
    let bad = check(&host);
    assert_eq!(bad.code(), 124);
    for problem in [
        "has another SHA-256",
        "state.previous: not a state file",
        "run/three: ",
    ] {
        assert!(bad.stderr.contains(problem), "{bad:?}");
    }
    assert_eq!(bad.stderr.lines().count(), 3, "{bad:?}");
    assert_eq!(names(&host.path("db")), before);
    fs::remove_file(host.path("run/run/three")).unwrap();

    fs::write(host.path("db/state"), albatross_state()).unwrap();
    let import = check(&host);
    assert_eq!(import.code(), 124);
    assert!(
        import
            .stdout
            .contains("imports 3 unikernels and 1 policies"),
        "{import:?}"
    );
    for problem in [
        "'a:damaged': its image",
        "'a:absurd': ",
        "a:device: CPU id 1000 is not one",
        "a:device: there is no bridge nowhere",
        "a:machine: BHyve machines run on FreeBSD only",
    ] {
        assert!(import.stderr.contains(problem), "{problem}: {import:?}");
    }
}
