//! Block devices from the client's side: the real program, and daemons of a few lines.

use crate::support::{self, client};

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command as Process;
use std::sync::mpsc::channel;

use client::{
    Daemon, answer, command, daemon_of_several, directory, downloads, expect, failure, inflated,
    local, petrel, say, success, upload, zlib,
};
use petrel::wire::{
    BlockAddFilled, BlockCommand, BlockData, BlockDevice, Bytes, Command, Data, Int, Message,
    Payload, Success,
};
use support::{DEADLINE, Directory, Running, run};

fn asked(command: BlockCommand) -> Payload {
    Payload::Command(Command::Block(command))
}

#[test]
fn block_devices_are_listed() {
    for (devices, shown) in [
        (
            vec![("foo:data", 10, true), ("foo:old", 1, false)],
            "block [unikernel: foo:data] size 10 MB active true\nblock [unikernel: foo:old] size 1 MB active false",
        ),
        (Vec::new(), "no block devices"),
    ] {
        let directory = directory("blocks");
        let devices = devices.into_iter().map(|(name, size, active)| BlockDevice {
            name: name.into(),
            size: Int::new(size),
            active,
        });
        let reply = Success::BlockDevices(devices.collect());
        let daemon = say(&directory, Payload::Reply(reply));
        let ended = local(&directory, 0, &["block", "--name=foo:"]);
        assert_eq!(ended.stdout, format!("host [unikernel: foo:]: {shown}\n"));
        assert_eq!(daemon.result().payload, asked(BlockCommand::Info(())));
    }
}

#[test]
fn block_devices_are_created_and_destroyed() {
    for (arguments, word, command) in [
        (
            &["create-block", "data", "10"][..],
            "added block device",
            BlockCommand::Add(Int::new(10)),
        ),
        (
            &["destroy-block", "data"],
            "removed block",
            BlockCommand::Remove(()),
        ),
    ] {
        let directory = directory("block");
        let daemon = say(&directory, success(word));
        let ended = local(&directory, 0, arguments);
        let line = format!("host [unikernel: :data]: success: {word}\n");
        assert_eq!(ended.stdout, line);
        assert_eq!(daemon.result().payload, asked(command));
    }
}

/// What a daemon was asked for, and the content that followed; `knows`: whether it is one of Petrel.
fn serve_content(stream: &mut UnixStream, knows: bool) -> (Payload, Vec<u8>) {
    let request = command(stream);
    let bytes = match &request.payload {
        Payload::Command(Command::Block(BlockCommand::AddFilled(_))) if !knows => {
            return (request.payload, Vec::new());
        }
        Payload::Command(Command::Block(BlockCommand::AddFilled(_) | BlockCommand::Set(_))) => {
            upload(stream)
        }
        _ => Vec::new(),
    };
    answer(stream, &request, success("done"));
    (request.payload, bytes)
}

#[test]
fn a_device_with_data_is_created_with_it_in_one_go() {
    for (options, compressed) in [(&[][..], false), (&["--compression-level=5"], true)] {
        let directory = directory("create-data");
        // As large as the device may be.
        let content = vec![7; 1 << 20];
        directory.file("content", &content);
        let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
            serve_content(&mut stream, true)
        });
        let create = ["create-block", "foo:data", "1", "--data=content"];
        let ended = local(&directory, 0, &[&create, options].concat());
        assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
        let (request, sent) = daemon.result();
        assert_eq!(request, asked(add_filled(compressed)));
        let sent = if compressed { inflated(&sent) } else { sent };
        assert!(sent == content, "the content differs");
    }
}

#[test]
fn a_daemon_of_albatross_is_asked_to_create_a_device_and_then_to_fill_it() {
    for (options, compressed) in [(&[][..], false), (&["--compression-level=5"], true)] {
        let directory = directory("create-data-old");
        let content = vec![7; 1 << 20];
        directory.file("content", &content);
        let daemon = daemon_of_several(&directory.path("util/vmmd.sock"), 3, |mut stream| {
            serve_content(&mut stream, false)
        });
        let create = ["create-block", "foo:data", "1", "--data=content"];
        let ended = local(&directory, 0, &[&create, options].concat());
        assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
        let served = daemon.result();
        assert_eq!(served[0].0, asked(add_filled(compressed)));
        assert_eq!(served[1].0, asked(BlockCommand::Add(Int::new(1))));
        assert_eq!(served[2].0, asked(BlockCommand::Set(compressed)));
        let sent = &served[2].1;
        let sent = if compressed {
            inflated(sent)
        } else {
            sent.clone()
        };
        assert!(sent == content, "the content differs");
    }
}

fn add_filled(compressed: bool) -> BlockCommand {
    BlockCommand::AddFilled(BlockAddFilled {
        size: Int::new(1),
        compressed,
    })
}

#[test]
fn one_request_is_for_a_device_with_its_data() {
    let directory = directory("create-request");
    directory.file("content", "x");
    let create = ["create-block", "data", "1", "--data=content", "--csr"];
    let ended = expect(&directory.path(""), 0, &create);
    assert!(ended.stdout.contains(" --data content "), "{ended:?}");
    let shown = expect(&directory.path(""), 0, &["show", "data.req"]);
    for word in ["block add", "1 MB", "sent along"] {
        assert!(shown.stdout.contains(word), "{shown:?}");
    }
}

#[test]
fn a_device_that_could_not_be_created_is_not_filled() {
    let directory = directory("create-refused");
    directory.file("content", "x");
    // Another connection would be refused, with another exit code. It answers before anything of the content is read.
    let daemon = say(&directory, failure("exists"));
    let ended = local(
        &directory,
        117,
        &["create-block", "data", "1", "--data=content"],
    );
    assert!(ended.stderr.contains("command failed exists"), "{ended:?}");
    daemon.result();
}

#[test]
fn data_larger_than_the_device_is_refused_before_anything_is_sent() {
    let directory = directory("too-large");
    directory.file("content", vec![7; (1 << 20) + 1]);
    let create = ["create-block", "data", "1", "--data"];
    for (file, why) in [
        ("content", "1048577 bytes"),
        ("/dev/null/x", "cannot open"),
        ("util", "cannot read"),
    ] {
        // There is no daemon.
        let ended = local(&directory, 124, &[&create[..], &[file]].concat());
        assert!(ended.stderr.contains(why), "{ended:?}");
    }
}

#[test]
fn the_content_of_a_device_is_replaced() {
    for (level, compressed) in [("0", false), ("9", true)] {
        let directory = directory("set");
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
        directory.file("content", &content);
        let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
            let request = command(&mut stream);
            let bytes = upload(&mut stream);
            answer(&mut stream, &request, success("set block device"));
            (request.payload, bytes)
        });
        let set = ["set-block", "data", "content", "--compression-level", level];
        local(&directory, 0, &set);
        let (payload, bytes) = daemon.result();
        assert_eq!(payload, asked(BlockCommand::Set(compressed)));
        let bytes = if compressed { inflated(&bytes) } else { bytes };
        assert!(bytes == content, "the content differs");
    }
}

#[test]
fn an_empty_file_needs_force_and_is_only_an_end() {
    let directory = directory("empty");
    directory.file("content", "");
    let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
        let request = command(&mut stream);
        let mut end = [1; 4];
        stream.read_exact(&mut end).unwrap();
        answer(&mut stream, &request, success("set block device"));
        end
    });
    // Nothing is asked of the daemon, which serves one client.
    local(&directory, 124, &["set-block", "data", "content"]);
    local(&directory, 0, &["set-block", "--force", "data", "content"]);
    assert_eq!(daemon.result(), [0; 4]);
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_has_no_end() {
    let directory = directory("shrink");
    let content = directory.file("content", vec![7; 32 << 20]);
    let (open, opened) = channel();
    let (shrunk, wait) = channel();
    let daemon = Daemon::start(&directory.path("util/vmmd.sock"), move |mut stream| {
        command(&mut stream);
        // The client has opened the file, and cannot be at its end: no socket holds so much.
        open.send(()).unwrap();
        wait.recv_timeout(DEADLINE).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let set = ["set-block", "data", "content", "--tmpdir=."];
    let running = Running::start(&mut petrel(&directory.path(""), &set));
    opened.recv_timeout(DEADLINE).unwrap();
    let file = fs::File::options().write(true).open(content).unwrap();
    file.set_len(31 << 20).unwrap();
    shrunk.send(()).unwrap();
    let ended = running.end();
    assert_eq!(ended.code(), 124, "{ended:?}");
    assert!(ended.stderr.contains("changed its size"), "{ended:?}");
    assert!(!daemon.result().ends_with(&[0; 4]));
}

/// Answers `dump` with these pieces, and then `last`.
fn dump(
    directory: &Directory,
    compressed: bool,
    pieces: Vec<Vec<u8>>,
    last: Option<Payload>,
) -> Daemon<Message> {
    Daemon::start(&directory.path("util/vmmd.sock"), move |mut stream| {
        let request = command(&mut stream);
        let begin = Payload::Reply(Success::BlockDeviceImage(compressed));
        answer(&mut stream, &request, begin);
        for piece in pieces {
            let data = Data::Block(BlockData::Some(Bytes(piece)));
            answer(&mut stream, &request, Payload::Data(data));
        }
        if let Some(last) = last {
            answer(&mut stream, &request, last);
        }
        request
    })
}

fn end() -> Payload {
    Payload::Data(Data::Block(BlockData::End(())))
}

#[test]
fn a_dump_is_stored_in_the_current_directory() {
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    for compressed in [false, true] {
        let directory = directory("dump");
        let sent = if compressed {
            zlib(&content)
        } else {
            content.clone()
        };
        let pieces = sent.chunks(4096).map(<[u8]>::to_vec).collect();
        let daemon = dump(&directory, compressed, pieces, Some(end()));
        let ended = local(
            &directory,
            0,
            &["dump-block", "foo:data", "--compression-level=3"],
        );
        let files = downloads(&directory);
        let name = files[0].file_name().unwrap().to_str().unwrap();
        assert!(
            name.starts_with("foo_data.2") && name.ends_with('Z') && !name.contains(':'),
            "{name}"
        );
        let line = format!(
            "host [unikernel: foo:data]: block device image, compressed {compressed}, {} bytes\nstored in ",
            sent.len()
        );
        assert!(ended.stdout.starts_with(&line), "{ended:?}");
        assert!(ended.stdout.trim_end().ends_with(name), "{ended:?}");
        assert_eq!(files.len(), 1);
        assert!(
            fs::read(&files[0]).unwrap() == content,
            "the content differs"
        );
        let mode = fs::metadata(&files[0]).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let payload = daemon.result().payload;
        assert_eq!(payload, asked(BlockCommand::Dump(Int::new(3))));
    }
}

#[test]
fn a_dump_that_is_not_complete_is_not_kept() {
    let stream = zlib(&[7; 10_000]);
    let piece = |bytes: &[u8]| vec![bytes.to_vec()];
    let cases = [
        (121, "closed", false, piece(b"abc"), None),
        (
            117,
            "broken disk",
            false,
            piece(b"abc"),
            Some(failure("broken disk")),
        ),
        (
            121,
            "unexpected",
            false,
            piece(b"abc"),
            Some(success("what")),
        ),
        (121, "not complete", true, piece(&stream[..9]), Some(end())),
        (121, "damaged", true, piece(b"no stream"), Some(end())),
        (
            121,
            "follows the end",
            true,
            vec![stream.clone(), b"x".to_vec()],
            Some(end()),
        ),
    ];
    for (code, why, compressed, pieces, last) in cases {
        let directory = directory("dump-cut");
        let daemon = dump(&directory, compressed, pieces, last);
        let ended = local(&directory, code, &["dump-block", "data"]);
        assert!(ended.stderr.contains(why), "{why}: {ended:?}");
        assert!(downloads(&directory).is_empty(), "{why}");
        assert_eq!(ended.stdout, "");
        daemon.result();
    }
}

#[test]
fn a_dump_in_the_middle_of_a_frame_ends_with_121() {
    let directory = directory("dump-frame");
    let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
        let request = command(&mut stream);
        let begin = Payload::Reply(Success::BlockDeviceImage(false));
        answer(&mut stream, &request, begin);
        stream.write_all(&[0, 0, 0, 9, 0x30]).unwrap();
    });
    local(&directory, 121, &["dump-block", "data"]);
    assert!(downloads(&directory).is_empty());
    daemon.result();
}

#[test]
fn a_dump_that_is_refused_leaves_no_file() {
    let directory = directory("dump-refused");
    let daemon = say(&directory, failure("in use"));
    local(&directory, 117, &["dump-block", "data"]);
    assert!(downloads(&directory).is_empty());
    daemon.result();
}

#[test]
fn a_large_dump_needs_little_memory() {
    const SIZE: usize = 96 << 20;
    let directory = directory("dump-large");
    let pieces = zlib(&vec![0; SIZE])
        .chunks(1 << 16)
        .map(<[u8]>::to_vec)
        .collect();
    let daemon = dump(&directory, true, pieces, Some(end()));
    // 64 MiB of address space, the program itself included.
    let mut limited = Process::new("sh");
    limited
        .args(["-c", "ulimit -v 65536; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_petrel"))
        .args(["dump-block", "data", "--tmpdir=."])
        .current_dir(directory.path(""));
    let ended = run(&mut limited);
    assert_eq!(ended.code(), 0, "{ended:?}");
    let length = fs::metadata(&downloads(&directory)[0]).unwrap().len();
    assert_eq!(length, SIZE as u64);
    daemon.result();
}
