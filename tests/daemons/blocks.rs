//! Block devices from end to end: certificates, daemons, clients and tenders are the real programs, and a guest reads
//! and writes its device.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, faults, host};

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command as Process;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};
use petrel::wire::frame::{END, MAX_CHUNK, MAX_MESSAGE, frame, read_frame, write_frame};
use petrel::wire::legacy::{BlockAdd, BlockSet};
use petrel::wire::{
    BlockAddFilled, BlockCommand, BlockData, Bytes, Command, Data, Int, Message, Payload, Policy,
    PolicyCommand, Success,
};

use faults::{Fault, faulty, shim, struck};
use host::{Daemon, Host, LISTEN, Setup, eventually};
use support::{Ended, Running, guest, run, skipped};

const MB: usize = 1 << 20;

/// Content of whole blocks, each other than the others, of which the middle third is zero.
fn content(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut content: Vec<u8> = (0..bytes.div_ceil(8))
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()
        })
        .take(bytes)
        .collect();
    content[bytes / 3..bytes / 3 * 2].fill(0);
    content
}

/// What the guest says of its content (FNV-1a, 64 bits).
fn fnv(content: &[u8]) -> String {
    let sum = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("block storage: fnv1a {sum:016x}")
}

impl Host {
    fn device(&self, name: &str) -> PathBuf {
        self.path("db/block").join(name)
    }

    /// The files of the directory, those that are hidden as well.
    fn devices(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("db/block")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The content that a dump has brought; the file is removed.
    fn dumped(&self, ended: &Ended) -> Vec<u8> {
        self.expect(ended, 0, &["stored in "]);
        let (_, path) = ended.stdout.trim_end().rsplit_once(' ').unwrap();
        let path = self.path(path);
        let content = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        content
    }

    /// A connection to `petreld` with this command on it.
    fn ask(&self, name: &str, command: BlockCommand) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("run/util/vmmd.sock")).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let message = Message::command(0, &name.parse().unwrap(), Command::Block(command));
        write_frame(&mut stream, &message.encode().unwrap()).unwrap();
        stream
    }

    /// A unikernel of the keeper with `disk`, which says what is on it, and stays.
    fn run_guest(&self, name: &str, device: &str, more: &[&str]) -> Ended {
        let image = guest("block.spt");
        let block = format!("--block=storage:{device}");
        let create = [
            "create",
            name,
            image.to_str().unwrap(),
            &block,
            "--arg=--stay",
        ];
        self.keeper(&[&create, more].concat())
    }

    /// What the guest has said of its device.
    fn says(&self, name: &str) -> String {
        let mut console = self.follow(&format!("keeper:{name}"), &[]);
        let said = loop {
            let line = console.line();
            if let Some((_, sum)) = line.split_once("block storage: fnv1a") {
                break format!("block storage: fnv1a{sum}");
            }
        };
        console.signal(Signal::SIGTERM);
        said
    }
}

fn answer(stream: &mut impl Read) -> Option<Payload> {
    let content = read_frame(stream, MAX_MESSAGE).unwrap()?;
    Some(Message::decode(&content).unwrap().payload)
}

fn said(payload: Option<Payload>) -> Result<String, String> {
    match payload {
        Some(Payload::Reply(Success::String(text))) => Ok(text.to_lossy()),
        Some(Payload::Failure(text)) => Err(text.to_lossy()),
        other => panic!("{other:?}"),
    }
}

/// Of 128 MB 64 are reserved.
#[test]
fn content_ends_where_it_would_take_the_reserve_of_the_disk() {
    let mounts = Process::new("unshare").args(["-m", "true"]).output();
    if !geteuid().is_root() || !mounts.is_ok_and(|ended| ended.status.success()) {
        return skipped("the reserve of a disk", "only root can mount a small one");
    }
    let inside =
        "exec unshare -m sh -c 'mount -t tmpfs -o size=128m none db && exec \"$@\"' sh \"$@\"";
    let host = Host::with(Setup {
        before: Some(inside),
        ..Setup::default()
    });
    host.expect(&host.petrel(&["create-block", "set", "56"]), 0, &["added"]);
    let full = ["too little disk space", "64 MB stay reserved"];
    for (kind, bytes, fits) in [
        ("small", content(12 * MB), true),
        ("large", vec![7; 56 * MB], false),
        ("zeros", vec![0; 56 * MB], true),
    ] {
        host.file(kind, bytes);
        for level in ["0", "1"] {
            let level = format!("--compression-level={level}");
            let data = format!("--data={kind}");
            let created = host.petrel(&["create-block", "new", "56", &data, &level]);
            let set = host.petrel(&["set-block", "set", kind, &level]);
            if fits {
                host.expect(&created, 0, &["added block device"]);
                host.expect(&set, 0, &["set block device"]);
                let removed = host.petrel(&["destroy-block", "new"]);
                host.expect(&removed, 0, &["removed block"]);
            } else {
                host.expect(&created, 117, &full);
                host.expect(&set, 117, &full);
            }
        }
    }
}

#[test]
fn what_is_put_on_a_device_is_what_its_unikernel_reads_and_what_a_dump_brings() {
    let host = Host::start();
    let data = content(3 * MB - 5);
    host.file("data", &data);
    let whole = [&data[..], &[0; 5]].concat();
    for (level, device) in [("0", "plain"), ("9", "packed")] {
        let options = ["--compression-level", level];
        let create = ["create-block", device, "3", "--data=data"];
        let ended = host.keeper(&[&create[..], &options].concat());
        host.expect(&ended, 0, &["added block device"]);
        let found = fs::metadata(host.device(&format!("keeper:{device}"))).unwrap();
        assert_eq!(found.len(), 3 * MB as u64);
        assert_eq!(found.permissions().mode() & 0o7777, 0o600);
        // What is zero takes no room.
        assert!(
            found.blocks() * 512 < 9 * MB as u64 / 4,
            "{}",
            found.blocks()
        );
        let dump = ["dump-block", device];
        let ended = host.keeper(&[&dump[..], &options].concat());
        assert!(host.dumped(&ended) == whole);
        host.expect(
            &host.run_guest(device, device, &[]),
            0,
            &["created unikernel"],
        );
        assert_eq!(host.says(device), fnv(&whole));
    }
    let ended = host.keeper(&["block"]);
    let lines = "block [unikernel: :plain] size 3 MB active true\nblock [unikernel: :packed] size 3 MB active true";
    host.expect(&ended, 0, &[lines]);
    let ended = host.petrel(&["info", "--name", "keeper:plain"]);
    host.expect(
        &ended,
        0,
        &["storage -> plain (sector-size: 512 bytes, size 3 MB)"],
    );
    let ended = host.keeper(&["block", "--name=plain"]);
    host.expect(
        &ended,
        0,
        &["block [unikernel: keeper:plain] size 3 MB active true"],
    );
}

#[test]
fn devices_are_made_within_the_policy_and_removed() {
    let host = Host::start();
    host.expect(&host.keeper(&["create-block", "one", "30"]), 0, &["added"]);
    assert_eq!(fs::metadata(host.device("keeper:one")).unwrap().blocks(), 0);
    let exists = "there is a block device keeper:one already";
    host.file("data", content(MB));
    let again = ["create-block", "one", "5", "--data=data"];
    host.expect(&host.keeper(&again), 117, &[exists]);
    let ended = host.keeper(&["create-block", "two", "11"]);
    host.expect(
        &ended,
        117,
        &["allows 40 MB of block storage, 30 MB are used"],
    );
    // The client would sign nothing of the kind.
    let ended = host.tenant(&["create-block", "two", "1"]);
    host.expect(&ended, 124, &["block devices are not allowed"]);
    let ended = host.petrel(&["create-block", "a:huge", "16777217"]);
    host.expect(&ended, 117, &["16777216 MB"]);
    let stream = &mut host.ask("keeper:none", BlockCommand::Add(Int::new(0)));
    assert!(said(answer(stream)).unwrap_err().contains("not 0"));
    assert_eq!(host.devices(), ["keeper:one"]);
    assert_eq!(
        fs::read(host.device("keeper:one")).unwrap(),
        vec![0; 30 * MB]
    );

    host.expect(
        &host.keeper(&["destroy-block", "one"]),
        0,
        &["removed block"],
    );
    let missing = "there is no block device 'one' at keeper:";
    host.expect(&host.keeper(&["destroy-block", "one"]), 117, &[missing]);
    host.expect(&host.keeper(&["dump-block", "one"]), 117, &[missing]);
    host.expect(&host.keeper(&["set-block", "one", "data"]), 117, &[missing]);
    host.expect(&host.keeper(&["create-block", "two", "40"]), 0, &["added"]);
    host.expect(&host.keeper(&["block"]), 0, &["size 40 MB active false"]);
}

#[test]
fn a_device_in_use_is_neither_changed_nor_read_nor_had_twice() {
    let host = Host::start();
    host.file("data", content(MB));
    host.expect(
        &host.keeper(&["create-block", "disk", "1", "--data=data"]),
        0,
        &[],
    );
    host.expect(
        &host.run_guest("one", "disk", &[]),
        0,
        &["created unikernel"],
    );
    let in_use = "block device keeper:disk is in use";
    for command in [
        &["set-block", "disk", "data"][..],
        &["dump-block", "disk"],
        &["destroy-block", "disk"],
    ] {
        host.expect(&host.keeper(command), 117, &[in_use]);
    }
    host.expect(&host.run_guest("two", "disk", &[]), 117, &[in_use]);
    let before = host.tender_of("keeper:one");
    // Told before the instance that runs is touched.
    let missing = host.run_guest("one", "other", &["--force"]);
    host.expect(
        &missing,
        117,
        &["there is no block device 'other' at keeper:"],
    );
    assert_eq!(host.tender_of("keeper:one"), before);
    // The same once more is the same device.
    host.expect(
        &host.run_guest("one", "disk", &["--force"]),
        0,
        &["created"],
    );
    assert_ne!(host.tender_of("keeper:one"), before);
    // One that is stopped has it no more; nor has one that has ended.
    host.expect(&host.keeper(&["stop", "one"]), 0, &[]);
    host.expect(
        &host.keeper(&["set-block", "disk", "data"]),
        0,
        &["set block device"],
    );
    host.expect(
        &host.run_guest("two", "disk", &[]),
        0,
        &["created unikernel"],
    );
    host.expect(&host.keeper(&["start", "one"]), 117, &[in_use]);
    let tender = host.tender_of("keeper:two").unwrap();
    nix::sys::signal::kill(Pid::from_raw(tender), Signal::SIGKILL).unwrap();
    eventually("the device is free", || {
        host.keeper(&["start", "one"]).code() == 0
    });
}

#[test]
fn a_unikernel_writes_to_its_device_and_finds_it_again_after_a_restart_of_the_host() {
    let mut host = Host::start();
    host.expect(&host.keeper(&["create-block", "disk", "2"]), 0, &[]);
    let image = guest("block.spt");
    let create = [
        "create",
        "one",
        image.to_str().unwrap(),
        "--block=storage:disk@4096",
    ];
    host.expect(
        &host.keeper(&[&create[..], &["--arg=--write-block=3", "--arg=--stay"]].concat()),
        0,
        &[],
    );
    let mut whole = vec![0; 2 * MB];
    for (number, byte) in whole[3 * 4096..4 * 4096].iter_mut().enumerate() {
        *byte = u8::try_from((3 + number * 7) % 256).unwrap();
    }
    assert_eq!(host.says("one"), fnv(&whole));
    let supervisor = host.supervisor.take().unwrap();
    supervisor.stop();
    assert_eq!(fs::read(host.device("keeper:disk")).unwrap(), whole);
    host.start_supervisor();
    eventually("it runs again", || host.tender_of("keeper:one").is_some());
    let ended = host.keeper(&["block"]);
    host.expect(
        &ended,
        0,
        &["block [unikernel: :disk] size 2 MB active true"],
    );
    host.expect(&host.keeper(&["destroy", "one"]), 0, &[]);
    assert!(host.dumped(&host.keeper(&["dump-block", "disk"])) == whole);
}

#[test]
fn a_broken_upload_leaves_the_old_content() {
    let host = Host::start();
    let before = content(2 * MB);
    host.file("data", &before);
    host.expect(
        &host.petrel(&["create-block", "keeper:disk", "2", "--data=data"]),
        0,
        &[],
    );
    let unchanged = |what: &str| {
        eventually(what, || host.devices() == ["keeper:disk"]);
        assert!(
            fs::read(host.device("keeper:disk")).unwrap() == before,
            "{what}"
        );
        // Nothing keeps it.
        eventually(what, || {
            host.petrel(&["dump-block", "keeper:disk"]).code() == 0
        });
    };
    let set = |compressed| host.ask("keeper:disk", BlockCommand::Set(compressed));
    let chunk = frame(&[7; MAX_CHUNK]).unwrap();

    let mut stream = set(false);
    stream.write_all(&chunk).unwrap();
    eventually("it has begun", || host.devices().len() == 2);
    drop(stream);
    unchanged("a client that leaves between two chunks");
    let mut stream = set(false);
    stream.write_all(&chunk[..1000]).unwrap();
    eventually("it has begun", || host.devices().len() == 2);
    drop(stream);
    unchanged("a client that leaves inside a chunk");

    let mut stream = set(false);
    let too_long = (MAX_CHUNK as u32 + 1).to_be_bytes();
    stream.write_all(&too_long).unwrap();
    assert!(said(answer(&mut stream)).unwrap_err().contains("65537"));
    unchanged("a chunk that is too long");

    let mut stream = set(true);
    stream
        .write_all(&frame(b"no zlib stream").unwrap())
        .unwrap();
    assert!(said(answer(&mut stream)).unwrap_err().contains("damaged"));
    unchanged("content that is damaged");
    let packed = zlib(&before);
    let mut stream = set(true);
    stream.write_all(&frame(&packed[..1000]).unwrap()).unwrap();
    stream.write_all(&END).unwrap();
    assert!(
        said(answer(&mut stream))
            .unwrap_err()
            .contains("not complete")
    );
    unchanged("content that is cut");
    // 16 MB take 16 KiB.
    let mut stream = set(true);
    stream
        .write_all(&frame(&zlib(&[0; 16 * MB])).unwrap())
        .unwrap();
    assert!(said(answer(&mut stream)).unwrap_err().contains("2097152"));
    unchanged("content that inflates to too much");
}

#[test]
fn a_device_whose_content_does_not_arrive_whole_never_was() {
    let host = Host::start();
    let add = |size, compressed| {
        let add = BlockAddFilled {
            size: Int::new(size),
            compressed,
        };
        host.ask("keeper:new", BlockCommand::AddFilled(add))
    };
    let nothing = |what: &str| {
        eventually(what, || host.devices().is_empty());
        host.expect(&host.petrel(&["block"]), 0, &["no block devices"]);
    };
    let chunk = frame(&[7; MAX_CHUNK]).unwrap();

    let mut stream = add(1, false);
    stream.write_all(&chunk).unwrap();
    eventually("it has begun", || !host.devices().is_empty());
    // Its name is taken and its size counts, but it is not there yet.
    let mut other = host.ask("keeper:new", BlockCommand::Add(Int::new(1)));
    assert!(said(answer(&mut other)).unwrap_err().contains("already"));
    host.expect(
        &host.keeper(&["create-block", "other", "40"]),
        117,
        &["1 MB are used"],
    );
    host.expect(&host.petrel(&["block"]), 0, &["no block devices"]);
    drop(stream);
    nothing("a client that leaves");

    let mut stream = add(1, true);
    stream
        .write_all(&frame(b"no zlib stream").unwrap())
        .unwrap();
    assert!(said(answer(&mut stream)).unwrap_err().contains("damaged"));
    nothing("content that is damaged");
    let mut stream = add(1, true);
    let inflated = frame(&zlib(&vec![0; MB + 1])).unwrap();
    stream.write_all(&inflated).unwrap();
    assert!(said(answer(&mut stream)).unwrap_err().contains("1048576"));
    nothing("content that is too large");
    for size in [0, -1, 41, i64::MAX] {
        assert!(said(answer(&mut add(size, false))).is_err(), "{size}");
    }
    nothing("a size that cannot be");
    host.expect(
        &host.keeper(&["create-block", "new", "40"]),
        0,
        &["added block device"],
    );
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn one_byte_too_many_is_a_failure_on_both_sides_and_at_once() {
    let host = Host::start();
    let before = content(MB);
    host.file("data", &before);
    host.file("more", content(MB + 1));
    host.file("much-more", content(30 * MB));
    host.expect(
        &host.keeper(&["create-block", "disk", "1", "--data=data"]),
        0,
        &[],
    );
    for file in ["more", "much-more"] {
        for level in ["0", "1"] {
            let set = ["--compression-level", level, file];
            let set = [&["set-block", "disk"], &set[..]].concat();
            let too_large = ["1048576 bytes"];
            host.expect(&host.keeper(&set), 117, &too_large);
            let local = [&["set-block", "keeper:disk"], &set[2..]].concat();
            host.expect(&host.petrel(&local), 117, &too_large);
        }
    }
    assert_eq!(host.devices(), ["keeper:disk"]);
    assert!(fs::read(host.device("keeper:disk")).unwrap() == before);
}

#[test]
fn a_set_goes_on_meanwhile_and_a_crash_in_it_leaves_the_old_content() {
    let mut host = Host::start();
    let before = content(2 * MB);
    host.file("data", &before);
    host.expect(
        &host.petrel(&["create-block", "keeper:disk", "2", "--data=data"]),
        0,
        &[],
    );
    let mut stream = host.ask("keeper:disk", BlockCommand::Set(false));
    write_frame(&mut stream, &[7; MAX_CHUNK]).unwrap();
    eventually("it has begun", || host.devices().len() == 2);

    // Others are served, but not with this device.
    host.expect(&host.keeper(&["info"]), 0, &[]);
    host.expect(&host.keeper(&["create-block", "other", "1"]), 0, &["added"]);
    host.expect(&host.run_guest("one", "other", &[]), 0, &["created"]);
    let busy = "is being read or changed by another request";
    host.expect(&host.keeper(&["dump-block", "disk"]), 117, &[busy]);
    host.expect(&host.keeper(&["destroy-block", "disk"]), 117, &[busy]);
    host.expect(&host.run_guest("two", "disk", &[]), 117, &[busy]);

    host.kill_supervisor();
    host.start_supervisor();
    assert_eq!(host.devices(), ["keeper:disk", "keeper:other"]);
    assert!(fs::read(host.device("keeper:disk")).unwrap() == before);
    host.expect(&host.run_guest("two", "disk", &[]), 0, &["created"]);
}

#[test]
fn who_was_taken_over_keeps_its_device() {
    let mut host = Host::start();
    host.expect(&host.petrel(&["create-block", "keeper:disk", "1"]), 0, &[]);
    host.expect(&host.run_guest("one", "disk", &[]), 0, &["created"]);
    let locked = |host: &Host| {
        let file = File::open(host.device("keeper:disk")).unwrap();
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    };
    assert!(locked(&host));
    let tender = host.tender_of("keeper:one");
    for crash in [true, false] {
        if crash {
            host.kill_supervisor();
            assert!(locked(&host), "by the tender");
            host.start_supervisor();
        } else {
            host.supervisor().signal(Signal::SIGHUP);
            host.supervisor().says("re-executing");
        }
        assert!(locked(&host));
        host.expect(
            &host.petrel(&["destroy-block", "keeper:disk"]),
            117,
            &["in use"],
        );
        assert_eq!(host.tender_of("keeper:one"), tender);
    }
    host.expect(&host.keeper(&["destroy", "one"]), 0, &[]);
    assert!(!locked(&host));
    host.expect(
        &host.petrel(&["destroy-block", "keeper:disk"]),
        0,
        &["removed"],
    );
}

#[test]
fn a_device_that_others_have_locked_is_left_alone() {
    let host = Host::start();
    host.file("data", content(MB));
    host.expect(
        &host.petrel(&["create-block", "keeper:disk", "1", "--data=data"]),
        0,
        &[],
    );
    let file = File::open(host.device("keeper:disk")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    let locked = "another process has it locked";
    for command in [
        &["set-block", "disk", "data"][..],
        &["dump-block", "disk"],
        &["destroy-block", "disk"],
    ] {
        host.expect(&host.keeper(command), 117, &[locked]);
    }
    host.expect(&host.run_guest("one", "disk", &[]), 117, &[locked]);
    drop(lock);
    host.expect(&host.run_guest("one", "disk", &[]), 0, &["created"]);
}

#[test]
fn devices_are_the_tenders_own_as_long_as_it_has_them() {
    if !geteuid().is_root() {
        return skipped("tenders with users of their own", "that takes root");
    }
    let mut host = Host::with(Setup {
        options: &["--tender-uids", "64100-64110"],
        ..Setup::default()
    });
    for part in ["", "db", "run"] {
        let path = host.path(part);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
    }
    host.expect(&host.petrel(&["create-block", "keeper:disk", "1"]), 0, &[]);
    let owner = |host: &Host| fs::metadata(host.device("keeper:disk")).unwrap().uid();
    assert_eq!(owner(&host), 0);
    host.expect(&host.run_guest("one", "disk", &[]), 0, &["created"]);
    host.says("one");
    let user = owner(&host);
    assert!((64_101..=64_110).contains(&user), "{user}");
    host.kill_supervisor();
    host.start_supervisor();
    assert_eq!(owner(&host), user, "it still runs");
    host.expect(&host.keeper(&["destroy", "one"]), 0, &[]);
    assert_eq!(owner(&host), 0);
    // What a tender has left that nobody was there to see end.
    host.expect(&host.run_guest("one", "disk", &[]), 0, &["created"]);
    let tender = host.tender_of("keeper:one").unwrap();
    host.kill_supervisor();
    nix::sys::signal::kill(Pid::from_raw(tender), Signal::SIGKILL).unwrap();
    fs::remove_file(host.path("db/state")).unwrap();
    fs::remove_file(host.path("db/state.previous")).unwrap();
    eventually("it has ended", || host.left_tenders().is_empty());
    host.start_supervisor();
    // Whoever inherits a process that was killed may not have taken note of its end yet.
    eventually("it is taken back", || owner(&host) == 0);
}

#[test]
fn files_that_are_there_are_found_and_links_are_not_followed() {
    let mut host = Host::prepared(Setup::default());
    fs::create_dir(host.path("db/block")).unwrap();
    let file = |name: &str, bytes: u64| {
        let file = File::create(host.device(name)).unwrap();
        file.set_len(bytes).unwrap();
    };
    for (name, bytes) in [
        ("keeper:old", 5 * MB),
        (":root", MB),
        ("keeper:empty", 0),
        ("keeper:odd", MB + 1),
        ("Keeper:upper", MB),
        ("no-name", MB),
        (".new-7", MB),
    ] {
        file(name, bytes as u64);
    }
    let victim = host.file("victim", vec![7; MB]);
    symlink(&victim, host.device("keeper:link")).unwrap();
    host.start_console();
    host.start_supervisor();
    host.start_endpoint();
    let ended = host.petrel(&["block"]);
    host.expect(
        &ended,
        0,
        &[":root] size 1 MB active false\nblock [unikernel: keeper:old] size 5 MB active false"],
    );
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
    assert!(
        !host.device(".new-7").exists(),
        "left over by a broken upload"
    );
    // It counts, whoever made it.
    let ended = host.keeper(&["create-block", "new", "36"]);
    host.expect(&ended, 117, &["5 MB are used"]);
    for name in ["keeper:link", "keeper:empty"] {
        let ended = host.petrel(&["create-block", name, "1"]);
        host.expect(&ended, 117, &["is no block device"]);
    }
    // What takes its place later is not followed either.
    fs::remove_file(host.device("keeper:old")).unwrap();
    symlink(&victim, host.device("keeper:old")).unwrap();
    host.expect(&host.run_guest("one", "old", &[]), 117, &["cannot open"]);
    host.expect(
        &host.petrel(&["dump-block", "keeper:old"]),
        117,
        &["cannot open"],
    );
    let ended = host.petrel(&["block"]);
    assert!(!ended.stdout.contains("old"), "it is gone: {ended:?}");
    assert_eq!(fs::read(victim).unwrap(), vec![7; MB]);
}

#[test]
fn older_clients_bring_and_take_content_in_one_message() {
    let host = Host::start();
    let data = content(MB);
    for compress in [false, true] {
        let sent = if compress { zlib(&data) } else { data.clone() };
        let name = format!("keeper:disk{compress}");
        let add = BlockAdd {
            size: Int::new(1),
            compress,
            data: Some(Bytes(sent.clone())),
        };
        let added = said(answer(
            &mut host.ask(&name, BlockCommand::AddOld(add.clone())),
        ));
        assert_eq!(added.unwrap(), "added block device");
        let again = said(answer(&mut host.ask(&name, BlockCommand::AddOld(add))));
        assert!(again.unwrap_err().contains("already"));
        for level in [0, 6] {
            let dump = BlockCommand::DumpOld(Int::new(level));
            let mut stream = host.ask(&name, dump);
            let bytes = read_frame(&mut stream, 4 * MB).unwrap().unwrap();
            let payload = Message::decode(&bytes).unwrap().payload;
            let Payload::Reply(Success::OldBlockDeviceImage(image)) = payload else {
                panic!("{payload:?}");
            };
            assert_eq!(image.compressed, level > 0);
            let mut plain = image.image.0;
            if image.compressed {
                let packed = std::mem::take(&mut plain);
                let mut decoder = flate2::read::ZlibDecoder::new(&packed[..]);
                decoder.read_to_end(&mut plain).unwrap();
            }
            assert!(plain == data);
        }
        let set = |bytes: &[u8]| BlockSet {
            compress,
            data: Bytes(bytes.to_vec()),
        };
        let command = BlockCommand::SetOld(set(&sent));
        assert_eq!(
            said(answer(&mut host.ask(&name, command))).unwrap(),
            "set block device"
        );
        let large = content(MB + 1);
        let large = if compress { zlib(&large) } else { large };
        let command = BlockCommand::SetOld(set(&large));
        let refused = said(answer(&mut host.ask(&name, command)));
        assert!(refused.unwrap_err().contains("1048576"));
        assert!(fs::read(host.device(&name)).unwrap() == data);
    }
    // Announced, but not in the message: it follows.
    let add = |data| {
        BlockCommand::AddOld(BlockAdd {
            size: Int::new(1),
            compress: false,
            data,
        })
    };
    let mut stream = host.ask("keeper:later", add(Some(Bytes(Vec::new()))));
    for chunk in data.chunks(MAX_CHUNK) {
        write_frame(&mut stream, chunk).unwrap();
    }
    stream.write_all(&END).unwrap();
    assert_eq!(said(answer(&mut stream)).unwrap(), "added block device");
    assert!(fs::read(host.device("keeper:later")).unwrap() == data);
}

#[test]
fn a_dump_that_cannot_go_on_ends_with_a_failure() {
    let host = Host::start();
    host.file("data", content(30 * MB));
    let create = ["create-block", "keeper:disk", "30", "--data=data"];
    host.expect(&host.petrel(&create), 0, &[]);
    let mut stream = host.ask("keeper:disk", BlockCommand::Dump(Int::new(0)));
    let begun = Some(Payload::Reply(Success::BlockDeviceImage(false)));
    assert_eq!(answer(&mut stream), begun);
    // No socket holds so much.
    let file = File::options()
        .write(true)
        .open(host.device("keeper:disk"))
        .unwrap();
    file.set_len(MB as u64).unwrap();
    let mut pieces = 0;
    let end = loop {
        match answer(&mut stream).unwrap() {
            Payload::Data(Data::Block(BlockData::Some(piece))) => {
                assert!((1..=MAX_CHUNK).contains(&piece.0.len()));
                pieces += 1;
            }
            other => break other,
        }
    };
    assert!(pieces > 0);
    assert!(said(Some(end)).unwrap_err().contains("shorter"));
    assert_eq!(answer(&mut stream), None);
}

#[test]
fn who_leaves_a_dump_at_any_time_leaves_the_device_free_and_nothing_to_wait_for() {
    let mut host = Host::start();
    host.file("data", content(4 * MB));
    let create = ["create-block", "keeper:disk", "4", "--data=data"];
    host.expect(&host.petrel(&create), 0, &[]);
    for dump in [
        || BlockCommand::DumpOld(Int::new(0)),
        || BlockCommand::DumpOld(Int::new(9)),
        || BlockCommand::Dump(Int::new(9)),
    ] {
        // As soon as it was asked for; when it is under way; in the middle of the answer; before its end.
        drop(host.ask("keeper:disk", dump()));
        let stream = host.ask("keeper:disk", dump());
        eventually("it is under way", || !host.carriers().is_empty());
        drop(stream);
        for bytes in [1, 2 * MB] {
            let mut stream = host.ask("keeper:disk", dump());
            let mut some = vec![0; bytes];
            stream.read_exact(&mut some).unwrap();
        }
        let set = ["set-block", "keeper:disk", "data"];
        eventually("the device is free", || host.petrel(&set).code() == 0);
        eventually("nobody carries anything", || host.carriers().is_empty());
    }
    let supervisor = host.supervisor.take().unwrap();
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_process_that_carries_content_can_die_and_only_its_transfer_ends() {
    let host = Host::start();
    let before = content(2 * MB);
    host.file("data", &before);
    let create = ["create-block", "keeper:disk", "2", "--data=data"];
    host.expect(&host.petrel(&create), 0, &[]);
    let mut stream = host.ask("keeper:disk", BlockCommand::Set(false));
    write_frame(&mut stream, &[7; 100]).unwrap();
    let carrier = eventually_some(|| host.carriers().into_iter().next());
    // The connection, the file twice, and two of its line to the supervisor.
    let descriptors = || fs::read_dir(format!("/proc/{carrier}/fd")).unwrap().count();
    if cfg!(target_os = "linux") {
        eventually("it holds nothing else", || descriptors() == 3 + 5);
        let status = || fs::read_to_string(format!("/proc/{carrier}/status")).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            eventually(line, || status().contains(line));
        }
    }
    nix::sys::signal::kill(Pid::from_raw(carrier), Signal::SIGKILL).unwrap();
    assert!(said(answer(&mut stream)).unwrap_err().contains("has died"));
    eventually("nothing is left of it", || {
        host.devices() == ["keeper:disk"]
    });
    assert!(fs::read(host.device("keeper:disk")).unwrap() == before);
    host.expect(&host.petrel(&["set-block", "keeper:disk", "data"]), 0, &[]);
}

fn eventually_some<T>(mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually("it is there", || {
        found = find();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn answers_are_taken_before_the_next_request_is_read_and_content_follows_them() {
    const REQUESTS: usize = 20_000;
    let host = Host::start();
    host.expect(&host.petrel(&["create-block", "keeper:disk", "1"]), 0, &[]);
    let message = |name: &str, command| {
        let message = Message::command(0, &name.parse().unwrap(), command);
        frame(&message.encode().unwrap()).unwrap()
    };
    // After this the connection goes on.
    let policy = Policy {
        cpuids: vec![Int::new(0)],
        unikernels: Int::new(1),
        memory: Int::new(20),
        block: None,
        bridges: Vec::new(),
    };
    let add = message("other:", Command::Policy(PolicyCommand::Add(policy)));
    let dump = Command::Block(BlockCommand::Dump(Int::new(0)));
    let requests = [add.repeat(REQUESTS), message("keeper:disk", dump)].concat();
    let before = host.supervisor().status("VmRSS");
    let mut asking = UnixStream::connect(host.path("run/util/vmmd.sock")).unwrap();
    asking.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let mut answers = asking.try_clone().unwrap();
    asking
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    // As no answer is read, not all can be sent: it waits, and takes no memory of the supervisor's.
    let mut sent = 0;
    while let Ok(count) = asking.write(&requests[sent..]) {
        sent += count;
        assert!(sent < requests.len());
    }
    let grown = host.supervisor().status("VmRSS").saturating_sub(before);
    assert!(grown < 1 << 10, "{grown} KiB");
    asking.set_write_timeout(None).unwrap();
    let writer = std::thread::spawn(move || asking.write_all(&requests[sent..]).unwrap());
    for _ in 0..REQUESTS {
        said(answer(&mut answers)).unwrap();
    }
    let begun = Payload::Reply(Success::BlockDeviceImage(false));
    assert_eq!(answer(&mut answers), Some(begun));
    writer.join().unwrap();
}

#[test]
fn who_stops_the_supervisor_ends_what_is_sent_and_received() {
    let mut host = Host::start();
    for name in ["keeper:in", "keeper:out"] {
        host.expect(&host.petrel(&["create-block", name, "10"]), 0, &[]);
    }
    let mut set = host.ask("keeper:in", BlockCommand::Set(false));
    write_frame(&mut set, &[7; 100]).unwrap();
    let mut dump = host.ask("keeper:out", BlockCommand::Dump(Int::new(0)));
    answer(&mut dump).unwrap();
    eventually("it has begun", || host.devices().len() == 3);
    let supervisor = host.supervisor.take().unwrap();
    supervisor.signal(Signal::SIGTERM);
    assert!(said(answer(&mut set)).unwrap_err().contains("stopping"));
    assert_eq!(supervisor.end().unwrap().code(), Some(0));
    assert_eq!(host.devices(), ["keeper:in", "keeper:out"]);
}

#[test]
fn zfs_volumes_are_refused_in_words_where_there_are_none() {
    let host = Host::prepared(Setup {
        options: &["--allow-zvol-for", "keeper"],
        ..Setup::default()
    });
    let ended = run(&mut host.supervisor_command());
    assert_eq!(ended.code(), 124);
    assert!(ended.stderr.contains("on FreeBSD only"), "{ended:?}");
    let host = Host::start();
    let ended = host.run_guest("one", "/dev/zvol/tank/a", &[]);
    host.expect(&ended, 117, &["cannot have ZFS volumes"]);
}

#[test]
fn whatever_fails_or_is_killed_a_device_has_its_old_or_its_new_content() {
    let Some(shim) = shim() else {
        return;
    };
    let mut host = Host::prepared(Setup::default());
    fs::create_dir(host.path("db/block")).unwrap();
    let (old, new) = (vec![1; MB], content(MB));
    host.file("data", &new);
    let devices = |host: &Host| {
        let names = host.devices();
        let read = |name: &String| (name.clone(), fs::read(host.device(name)).unwrap());
        names.iter().map(read).collect::<Vec<_>>()
    };
    let disk = |content: &[u8]| ("keeper:disk".to_owned(), content.to_vec());
    let empty = || ("keeper:new".to_owned(), vec![0; MB]);
    let changes = [
        (&["set-block", "keeper:disk", "data"][..], vec![disk(&new)]),
        (
            &["create-block", "keeper:new", "1"],
            vec![disk(&old), empty()],
        ),
        (
            &["create-block", "keeper:new", "1", "--data=data"],
            vec![disk(&old), ("keeper:new".to_owned(), new.clone())],
        ),
        (&["destroy-block", "keeper:disk"], Vec::new()),
    ];
    for (change, after) in changes {
        for fault in [Fault::Kill, Fault::Fail] {
            for at in 1.. {
                let _ = fs::remove_file(host.device("keeper:new"));
                fs::write(host.device("keeper:disk"), &old).unwrap();
                let before = vec![disk(&old)];
                let mut command = faulty(&host, &shim, fault, at);
                host.supervisor = Some(Daemon::start(&mut command, "listening"));
                fs::write(host.path("armed"), b"").unwrap();
                let answer = host.petrel(change);
                let call = struck(&host);
                let what = format!("{fault:?} at call {at}, {call:?}: {answer:?}");
                if fault == Fault::Fail {
                    // What is told is what there is.
                    let listed = host.petrel(&["block"]).stdout.matches("block [").count();
                    assert_eq!(listed, host.devices().len(), "{what}");
                }
                host.kill_supervisor();
                host.start_supervisor();
                let now = devices(&host);
                let acknowledged = answer.code() == 0;
                assert!(now == after || now == before && !acknowledged, "{what}");
                host.kill_supervisor();
                if call.is_none() {
                    assert!(acknowledged, "{what}");
                    assert!(at > 2, "no call was counted");
                    break;
                }
            }
        }
    }
}

#[test]
fn who_stalls_is_dropped_and_the_device_is_free() {
    let mut host = Host::start();
    let mut command = host.endpoint_command("host");
    command.args(LISTEN).arg("--idle-timeout=1");
    let endpoint = Daemon::start(&mut command, "listening on ");
    host.address = endpoint.address();
    host.endpoint = Some(endpoint);
    let data = content(30 * MB);
    host.file("data", &data);
    host.expect(
        &host.petrel(&["create-block", "keeper:disk", "30", "--data=data"]),
        0,
        &[],
    );

    let pipe = host.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let set = ["set-block", "disk", "pipe", "--compression-level=0"];
    let client = Running::start(&mut host.client_of("keeper", &set));
    let mut input = File::options().write(true).open(pipe).unwrap();
    input.write_all(&data[..MB]).unwrap();
    eventually("nothing is left of it", || {
        host.devices() == ["keeper:disk"]
    });
    host.endpoint.as_ref().unwrap().says("slower than");
    // The client is told when it goes on.
    drop(input);
    host.expect(&client.end(), 117, &["slower than"]);

    let dump = ["dump-block", "disk", "-o", "dump", "--compression-level=0"];
    let client = Running::start(&mut host.client_of("keeper", &dump));
    eventually("it has begun", || host.path("dump.part").exists());
    client.signal(Signal::SIGSTOP);
    eventually("the device is free", || {
        host.petrel(&["set-block", "keeper:disk", "data"]).code() == 0
    });
    client.signal(Signal::SIGKILL);
    client.end();
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    let host = Host::start();
    host.file("data", content(3 * MB));
    host.expect(&host.petrel(&["create-block", "keeper:disk", "3"]), 0, &[]);
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = host.client(&["set-block", "keeper:disk", "data"]);
    command.stderr(terminal.slave);
    let status = command
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    drop(command);
    assert!(status.success());
    let mut said = Vec::new();
    // It ends with an error when nobody has the other end any more.
    let _ = File::from(terminal.master).read_to_end(&mut said);
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("] 100 % of 3 MB"), "{said:?}");
    assert!(said.ends_with("\r\u{1b}[K"), "{said:?}");
    // Nobody else sees anything of it.
    let ended = host.petrel(&["set-block", "keeper:disk", "data"]);
    assert_eq!(ended.stderr, "");
}
