//! The client from outside: the real program, and daemons of a few lines.

use crate::support::{self, client};

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};

use client::{
    Daemon, answer, command, daemon_of_several, directory, downloads, expect, failure, image,
    inflated, local, petrel, say, success, upload, zlib,
};
use petrel::name::Name;
use petrel::wire::extensions::{Death, Details, Exit, NamedDetails, Standing, Waiting};
use petrel::wire::frame::{MAX_CHUNK, frame, read_frame};
use petrel::wire::{
    Arguments, BridgeTap, Bytes, Command, Config, ConsoleCommand, ConsoleData, ConsoleRead, Data,
    FailBehaviour, IfData, Image, Info, Int, Int32, Int64, KInfoMem, Message, NamedInfo,
    NamedPolicy, Payload, Policy, PolicyCommand, RUsage, Restart, Set, SinceCount, Statistics,
    StatsAdd, StatsCommand, Success, TimeVal, Timestamp, Typ, UnikernelCommand, VmmStat,
};
use signal_hook::consts::SIGPIPE;
use support::{DEADLINE, Directory, Running, guest, skipped};

fn created(request: &Message) -> &Config {
    match &request.payload {
        Payload::Command(Command::Unikernel(UnikernelCommand::Create(config))) => config,
        other => panic!("{other:?}"),
    }
}

fn info() -> Info {
    Info {
        typ: Typ::Solo5(()),
        startup: Some(Int::new(10)),
        fail_behaviour: FailBehaviour::Quit(()),
        cpuids: Set::sorted([Int::new(0), Int::new(1)]),
        memory: Int::new(32),
        digest: Bytes(vec![0xab; 32]),
        blocks: None,
        bridges: None,
        arguments: Some(vec!["--secret=x".into()]),
        started: Some(Timestamp::from_unix(0, 0)),
        cpus: Some(Int::new(1)),
        linux_boot_partition: None,
    }
}

#[test]
fn info_prints_one_line_for_each_unikernel() {
    let line = "[unikernel: foo:web]: typ solo5 started 1970-01-01T00:00:00-00:00 fail behaviour quit startup at 10 \
                CPUids 0,1 32 MB memory";
    for (verbosity, with_arguments) in [
        (&[][..], false),
        (&["-v", "-v"], true),
        (&["--verbosity=debug"], true),
    ] {
        let directory = directory("info");
        let infos = vec![NamedInfo {
            name: "foo:web".into(),
            info: info(),
        }];
        let daemon = albatross(&directory, Payload::Reply(Success::UnikernelInfo(infos)));
        let ended = local(
            &directory,
            0,
            &[&["info", "--name", "foo:"], verbosity].concat(),
        );
        assert_eq!(ended.stdout.lines().count(), 1);
        assert!(
            ended
                .stdout
                .starts_with(&format!("host [unikernel: foo:]: {line}")),
            "{ended:?}"
        );
        assert!(
            ended
                .stdout
                .contains(&format!("digest {} #cpus 1", "ab".repeat(32)))
        );
        assert_eq!(ended.stdout.contains("argv --secret=x"), with_arguments);
        let requests = daemon.result();
        for (request, asked) in requests
            .iter()
            .zip([UnikernelCommand::Details(()), UnikernelCommand::Info(())])
        {
            assert_eq!(request.header.name.to_lossy(), "foo:");
            assert_eq!(request.header.sequence.0, 0);
            let asked = Payload::Command(Command::Unikernel(asked));
            assert_eq!(request.payload, asked);
        }
    }
}

/// A daemon that closes when it is asked for details, and then answers what it knows.
fn albatross(directory: &Directory, payload: Payload) -> Daemon<Vec<Message>> {
    let mut known = false;
    daemon_of_several(&directory.path("util/vmmd.sock"), 2, move |mut stream| {
        let request = command(&mut stream);
        if known {
            answer(&mut stream, &request, payload.clone());
        }
        known = true;
        request
    })
}

/// A unikernel that may not run.
fn detailed(name: &str, standing: Standing, last_exit: Option<Death>) -> NamedDetails {
    NamedDetails {
        name: name.into(),
        details: Details {
            info: info(),
            standing,
            restarts: Int::new(0),
            last_exit: last_exit.map(|death| Exit {
                death,
                at: Timestamp::from_unix(60, 0),
            }),
            off_bridge: None,
            previous: None,
        },
    }
}

#[test]
fn details_are_appended_and_what_runs_is_shown_first() {
    let directory = directory("details");
    let told = "fail behaviour quit startup at 10 CPUids 0,1 32 MB memory";
    let started = format!("typ solo5 started 1970-01-01T00:00:00-00:00 {told}");
    let down = format!("typ solo5 {told}");
    let digest = format!("digest {} #cpus 1", "ab".repeat(32));
    let waiting = |until: Option<i64>, trouble: Option<&str>| {
        Standing::Waiting(Waiting {
            until: until.map(|seconds| Timestamp::from_unix(seconds, 0)),
            trouble: trouble.map(Into::into),
        })
    };
    let mut failed = detailed(
        ":failed",
        Standing::Running(()),
        Some(Death::Exit(Int::new(2))),
    );
    failed.details.restarts = Int::new(3);
    failed.details.previous = Some(Bytes(vec![0xcd; 32]));
    let unikernels = vec![
        detailed(":ended", Standing::Ended(()), Some(Death::OutOfMemory(()))),
        detailed(":stopped", Standing::Stopped(()), None),
        detailed(
            ":later",
            waiting(Some(120), Some("no tender\nfor \u{1b}it")),
            Some(Death::Signal(Int::new(9))),
        ),
        detailed(":soon", waiting(None, None), None),
        failed,
        detailed(":web", Standing::Running(()), None),
    ];
    let daemon = say(
        &directory,
        Payload::Reply(Success::UnikernelDetails(unikernels)),
    );
    let ended = local(&directory, 0, &["info"]);
    let at = "last exit 1970-01-01T00:01:00-00:00";
    let previous = "cd".repeat(32);
    let lines = [
        format!(
            "[unikernel: :failed]: {started} {digest} restarts 3 {at} (exit 2) previous digest {previous}"
        ),
        format!("[unikernel: :web]: {started} {digest}"),
        format!(
            "[unikernel: :later]: {down} {digest} next start 1970-01-01T00:02:00-00:00 \
             (could not be started: no tender\\nfor \\u{{1b}}it) {at} (signal 9)"
        ),
        format!("[unikernel: :soon]: {down} {digest} next start in its turn"),
        format!("[unikernel: :stopped]: {down} {digest} stopped"),
        format!("[unikernel: :ended]: {down} {digest} ended {at} (out of memory)"),
    ];
    assert_eq!(
        ended.stdout,
        format!("host [unikernel: :]: {}\n", lines.join("\n"))
    );
    let asked = Command::Unikernel(UnikernelCommand::Details(()));
    assert_eq!(daemon.result().payload, Payload::Command(asked));
}

#[test]
fn who_wants_details_only_is_told_that_there_are_none() {
    let directory = directory("details-only");
    let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
        command(&mut stream)
    });
    let ended = local(&directory, 121, &["info", "--details"]);
    let sentence = "without an answer to 'unikernel details', which albatross does not know";
    assert!(ended.stderr.contains(sentence), "{ended:?}");
    daemon.result();
}

#[test]
fn stop_start_and_rollback_are_asked_for_as_what_only_petrel_knows() {
    let cases = [
        ("stop", UnikernelCommand::Stop(())),
        ("start", UnikernelCommand::Start(())),
        ("rollback", UnikernelCommand::Rollback(())),
    ];
    for (word, asked) in cases {
        let directory = directory("own");
        let daemon = say(&directory, success("done"));
        let ended = local(&directory, 0, &[word, "foo:web"]);
        assert_eq!(ended.stdout, "host [unikernel: foo:web]: success: done\n");
        let request = daemon.result();
        assert_eq!(request.header.name.to_lossy(), "foo:web");
        let asked = Payload::Command(Command::Unikernel(asked));
        assert_eq!(request.payload, asked);
        let ended = local(&directory, 124, &[word, "foo:"]);
        assert!(ended.stderr.contains("is a path"), "{ended:?}");
    }
}

#[test]
fn empty_lists_say_so() {
    for (arguments, reply, word) in [
        (
            &["info"][..],
            Success::UnikernelDetails(Vec::new()),
            "no unikernels",
        ),
        (&["policy"], Success::Policies(Vec::new()), "no policies"),
    ] {
        let directory = directory("empty");
        let daemon = say(&directory, Payload::Reply(reply));
        let ended = local(&directory, 0, arguments);
        assert_eq!(ended.stdout, format!("host [unikernel: :]: {word}\n"));
        daemon.result();
    }
}

#[test]
fn policies_are_set_shown_and_removed() {
    let wanted = Policy {
        cpuids: vec![Int::new(0), Int::new(2)],
        unikernels: Int::new(4),
        memory: Int::new(512),
        block: Some(Int::new(10)),
        bridges: vec!["a".into(), "service".into()],
    };
    let directory = directory("policies");
    let socket = directory.path("util/vmmd.sock");
    let add = [
        "4",
        "--cpu=2",
        "--cpu",
        "0",
        "--size=10",
        "--bridge=service",
        "--network=a",
    ];
    for name in ["add-policy", "replace-policy"] {
        let daemon = say(&directory, success("added policy"));
        let ended = local(&directory, 0, &[&[name, "foo:bar"], &add[..]].concat());
        assert_eq!(
            ended.stdout,
            "host [unikernel: foo:bar:]: success: added policy\n"
        );
        let request = daemon.result();
        assert_eq!(request.header.name.to_lossy(), "foo:bar:");
        let asked = Command::Policy(PolicyCommand::Add(wanted.clone()));
        assert_eq!(request.payload, Payload::Command(asked));
        fs::remove_file(&socket).unwrap();
    }
    let policies = vec![NamedPolicy {
        name: "bar:".into(),
        policy: wanted,
    }];
    let daemon = say(&directory, Payload::Reply(Success::Policies(policies)));
    let ended = local(&directory, 0, &["policy", "-p", "foo:"]);
    let line = "[unikernel: bar:]: policy: 4 unikernels 0,2 CPUids 512 MB memory 10 MB block, bridges: a, service\n";
    assert_eq!(ended.stdout, format!("host [unikernel: foo:]: {line}"));
    daemon.result();
    fs::remove_file(&socket).unwrap();
    let daemon = say(&directory, success("removed policy"));
    local(&directory, 0, &["remove-policy", "--path=foo"]);
    let asked = Command::Policy(PolicyCommand::Remove(()));
    assert_eq!(daemon.result().payload, Payload::Command(asked));
}

#[test]
fn a_failure_is_shown_and_ends_with_117() {
    let directory = directory("failure");
    let daemon = say(&directory, failure("no such\x1b[2J unikernel"));
    let ended = local(&directory, 117, &["destroy", "web"]);
    let text = "petrel: host [unikernel: :web]: command failed no such\\u{1b}[2J unikernel\n";
    assert_eq!((&ended.stdout[..], &ended.stderr[..]), ("", text));
    daemon.result();
}

#[test]
fn an_answer_that_is_none_ends_with_121() {
    type Serve = fn(&mut UnixStream);
    let cases: [(&str, Serve); 7] = [
        ("nothing", |_| ()),
        ("end marker", |stream| stream.write_all(&[0; 4]).unwrap()),
        ("half a length", |stream| stream.write_all(&[0; 3]).unwrap()),
        ("half a frame", |stream| {
            stream.write_all(&[0, 0, 0, 9, 0x30]).unwrap()
        }),
        ("a frame of 2 GiB", |stream| {
            stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 0]).unwrap()
        }),
        ("garbage", |stream| {
            stream.write_all(&[0, 0, 0, 2, 0x30, 0]).unwrap()
        }),
        ("data", |stream| {
            let line = ConsoleData {
                timestamp: Timestamp::from_unix(0, 0),
                data: "x".into(),
            };
            let header = Message::command(0, &Name::default(), INFO).header;
            let message = Message {
                header,
                payload: Payload::Data(Data::Console(line)),
            };
            stream
                .write_all(&frame(&message.encode().unwrap()).unwrap())
                .unwrap();
        }),
    ];
    for (what, serve) in cases {
        for arguments in [&["policy"][..], &["get", "web"]] {
            let directory = directory("none");
            let daemon = Daemon::start(&directory.path("util/vmmd.sock"), move |mut stream| {
                command(&mut stream);
                serve(&mut stream);
            });
            let ended = local(&directory, 121, arguments);
            assert!(ended.stderr.starts_with("petrel: "), "{what}: {ended:?}");
            assert_eq!(ended.stdout, "", "{what}");
            daemon.result();
        }
    }
}

const INFO: Command = Command::Unikernel(UnikernelCommand::Info(()));

#[test]
fn a_daemon_that_speaks_in_commands_ends_with_125() {
    let directory = directory("command");
    let daemon = say(&directory, Payload::Command(INFO));
    local(&directory, 125, &["info"]);
    daemon.result();
}

#[test]
fn a_daemon_that_is_not_there_ends_with_122() {
    let directory = directory("unreachable");
    for (command, program, socket) in [
        (&["info"][..], "petreld", "vmmd.sock"),
        (&["block"], "petreld", "vmmd.sock"),
        (&["console", "web"], "petrel-console", "console.sock"),
        (&["inactive-consoles"], "petrel-console", "console.sock"),
        (&["stats"], "petrel-stats", "stat.sock"),
    ] {
        let ended = local(&directory, 122, command);
        for hint in [
            &format!("'./util/{socket}'"),
            &format!("is {program} running?"),
            "--tmpdir",
            "--socket",
        ] {
            assert!(ended.stderr.contains(hint), "{hint}: {ended:?}");
        }
    }
    let ended = expect(&directory.path(""), 122, &["info", "--socket=none"]);
    assert!(ended.stderr.contains("'none'"), "{ended:?}");
}

#[test]
fn wrong_command_lines_end_with_124() {
    let directory = directory("usage");
    let net = guest("net.spt");
    let net = net.to_str().unwrap();
    let none = directory.file("text", "no image");
    let none = none.to_str().unwrap();
    let cases: [&[&str]; 43] = [
        &["no-such-command"],
        &["info", "--no-such-option"],
        &["info", "--name=a::b"],
        &["info", "--name="],
        &["info", "--tmpdir=missing"],
        &["info", "--csr", "--socket=x"],
        &["info", "-d", "host", "--csr"],
        &["info", "-d", "host:port"],
        &["destroy"],
        &["destroy", "foo:"],
        &["get", "web", "--compression-level=10"],
        &["console", ":"],
        &["console", "web", "--count=-1"],
        &["console", "web", "--since=yesterday"],
        &["create", "web"],
        &["create", "web", "missing"],
        &["create", "web", none],
        &["create", "web", net],
        &["create", "web", net, "--net=other"],
        &["create", "web", net, "--net=service", "--net=service:br1"],
        &["create", "web", net, "--net=service", "--block=data"],
        &["create", "web", net, "--net=service", "--exit-code=3"],
        &[
            "create",
            "web",
            net,
            "--net=service",
            "--restart",
            "--exit-code=256",
        ],
        &["create", "web", net, "--net=service", "--mem=0"],
        &["create", "web", net, "--net=service", "--cpu=70000"],
        &["create", "web", net, "--net=service", "--typ=xen"],
        &[
            "create",
            "web",
            net,
            "--net=service",
            "--compression-level",
            "10",
        ],
        &["create", "web", net, "--net=service@00:11"],
        &["add-policy", "foo"],
        &["add-policy", "foo", "1", "--block=1", "--size=1"],
        &["info", "-d", "::1"],
        &["restart", "foo:"],
        &["restart", "web", "--exit-code=1"],
        &[
            "restart",
            "web",
            "--net=a",
            "--net=a",
            "--replace-arguments",
        ],
        &["stats-add", "0"],
        &["stats-add", "1", "--bridge=br0"],
        &["create-block", "data"],
        &["create-block", "data", "0"],
        &["create-block", "foo:", "1"],
        &["set-block", "data", "missing"],
        &["set-block", "data", "."],
        &["dump-block", "data", "--compression-level=10"],
        &[
            "certificate",
            "missing.pem",
            "missing.key",
            "-d",
            "localhost",
        ],
    ];
    for arguments in cases {
        let ended = expect(&directory.path(""), 124, arguments);
        assert!(
            ended.stderr.starts_with("petrel: "),
            "{arguments:?}: {ended:?}"
        );
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn help_and_version_need_nothing() {
    let directory = directory("help");
    let help = expect(&directory.path(""), 0, &["--help"]).stdout;
    assert_eq!(expect(&directory.path(""), 0, &[]).stdout, help);
    for name in ["create", "replace-policy", "certificate", "generate"] {
        assert!(help.contains(name), "{name}");
        let ended = expect(&directory.path(""), 0, &[name, "--help"]);
        assert!(ended.stdout.contains("Usage: petrel"), "{ended:?}");
    }
    let ended = expect(&directory.path(""), 0, &["--version"]);
    assert!(ended.stdout.contains("protocol version 5"), "{ended:?}");
}

#[test]
fn create_streams_the_image_after_the_command() {
    for (level, compressed) in [(None, false), (Some("--compression-level=1"), true)] {
        let directory = directory("create");
        let image = image(&directory, 3_000_001);
        let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
            let request = command(&mut stream);
            let bytes = upload(&mut stream);
            answer(&mut stream, &request, success("created unikernel"));
            (request, bytes)
        });
        let options = [
            "--mem=64",
            "--cpu=1",
            "--arg=--ipv4=10.0.0.2/24",
            "--arg",
            "x",
            "--restart",
            "--exit-code=2",
        ];
        let mut arguments = vec!["create", "foo:web", "image"];
        arguments.extend(options);
        arguments.extend(level);
        let ended = local(&directory, 0, &arguments);
        assert_eq!(
            ended.stdout,
            "host [unikernel: foo:web]: success: created unikernel\n"
        );
        let (request, bytes) = daemon.result();
        let config = created(&request);
        assert!(config.image.0.is_empty());
        assert_eq!(config.compressed, compressed);
        assert_eq!(config.memory.get(), 64);
        assert_eq!(config.cpuids.items(), [Int::new(1)]);
        let restart = FailBehaviour::RestartExitCodes(Set::sorted([Int::new(2)]));
        assert_eq!(config.fail_behaviour, restart);
        let guest_arguments = ["--ipv4=10.0.0.2/24".into(), "x".into()];
        assert_eq!(config.arguments.as_deref(), Some(&guest_arguments[..]));
        let bytes = if compressed { inflated(&bytes) } else { bytes };
        assert!(bytes == fs::read(image).unwrap(), "the image differs");
    }
}

#[test]
fn a_failure_in_the_middle_of_an_upload_is_shown() {
    for level in ["0", "1"] {
        let directory = directory("early");
        image(&directory, 16 << 20);
        let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
            let request = command(&mut stream);
            read_frame(&mut stream, MAX_CHUNK).unwrap().unwrap();
            // Says why, and goes without reading on.
            answer(&mut stream, &request, failure("no room"));
        });
        let ended = local(
            &directory,
            117,
            &["create", "web", "image", "--compression-level", level],
        );
        assert!(ended.stderr.contains("command failed no room"), "{ended:?}");
        daemon.result();
    }
}

#[test]
fn a_failure_is_noticed_while_the_daemon_does_not_read() {
    let directory = directory("stuck");
    image(&directory, 16 << 20);
    let (end, ended) = channel::<()>();
    let daemon = Daemon::start(&directory.path("util/vmmd.sock"), move |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, failure("too large"));
        // Stays, so that the client cannot learn it from a broken pipe.
        ended.recv_timeout(DEADLINE).unwrap();
    });
    let stopped = local(&directory, 117, &["create", "web", "image"]);
    assert!(stopped.stderr.contains("too large"), "{stopped:?}");
    end.send(()).unwrap();
    daemon.result();
}

#[test]
fn an_upload_without_a_listener_ends_with_121() {
    let directory = directory("gone");
    image(&directory, 16 << 20);
    let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
        command(&mut stream);
    });
    let ended = local(&directory, 121, &["create", "web", "image"]);
    assert!(ended.stderr.starts_with("petrel: "), "{ended:?}");
    daemon.result();
}

#[test]
fn a_success_before_the_end_of_an_upload_is_none() {
    let directory = directory("hasty");
    image(&directory, 16 << 20);
    let daemon = say(&directory, success("created unikernel"));
    let ended = local(&directory, 121, &["create", "web", "image"]);
    assert_eq!(ended.stdout, "");
    daemon.result();
}

fn image_reply(compressed: bool, image: Vec<u8>) -> Payload {
    Payload::Reply(Success::UnikernelImage(Image {
        compressed,
        image: Bytes(image),
    }))
}

#[test]
fn get_stores_the_image() {
    let content: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_be_bytes).collect();
    for compressed in [false, true] {
        let directory = directory("get");
        let sent = if compressed {
            zlib(&content)
        } else {
            content.clone()
        };
        let daemon = say(&directory, image_reply(compressed, sent));
        let ended = local(&directory, 0, &["get", "foo:web", "--compression-level=3"]);
        let files = downloads(&directory);
        let name = files[0].file_name().unwrap().to_str().unwrap();
        assert!(ended.stdout.contains(name), "{ended:?}");
        // foo_web.20261122T220816Z: a colon would end a host name for scp and tar.
        assert!(
            name.starts_with("foo_web.2") && name.ends_with('Z') && !name.contains(':'),
            "{name}"
        );
        assert!(fs::read(&files[0]).unwrap() == content, "the image differs");
        assert_eq!(
            fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let asked = Command::Unikernel(UnikernelCommand::Get(Int::new(3)));
        assert_eq!(daemon.result().payload, Payload::Command(asked));
    }
}

#[test]
fn a_download_goes_where_it_is_asked_to_and_replaces_nothing() {
    let directory = directory("get-to");
    let daemon = say(&directory, image_reply(false, b"content".to_vec()));
    let ended = local(&directory, 0, &["get", "foo:web", "-o", "util/web.spt"]);
    assert!(ended.stdout.ends_with("stored in util/web.spt\n"));
    let file = directory.path("util/web.spt");
    assert_eq!(fs::read(&file).unwrap(), b"content");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.result();
    for command in ["get", "dump-block"] {
        // Nobody is asked: nobody listens any more.
        let ended = local(
            &directory,
            124,
            &[command, "foo:web", "--output=util/web.spt"],
        );
        assert!(ended.stderr.contains("exists already"), "{ended:?}");
        let ended = expect(
            &directory.path(""),
            124,
            &[command, "web", "--csr", "-o", "x"],
        );
        assert!(ended.stderr.contains("petrel certificate"), "{ended:?}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"content");
    // A download that was killed leaves such a file.
    directory.file("x.part", "");
    fs::remove_file(directory.path("util/vmmd.sock")).unwrap();
    let daemon = say(&directory, image_reply(false, b"content".to_vec()));
    let ended = local(&directory, 124, &["get", "web", "-o", "x"]);
    assert!(ended.stderr.contains("'x.part'"), "{ended:?}");
    assert!(ended.stderr.contains("remove it"), "{ended:?}");
    drop(daemon);
}

#[test]
fn an_image_that_is_not_complete_is_not_kept() {
    let content = vec![7; 100_000];
    let truncated = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
    let cases = [
        ("too short a stream", true, truncated(&zlib(&content)), 0),
        (
            "bytes after the stream",
            true,
            [&zlib(&content)[..], b"x"].concat(),
            0,
        ),
        ("no stream", true, content.clone(), 0),
        ("a cut message", true, zlib(&content), 1),
        ("a cut message", false, content.clone(), 1),
    ];
    for (what, compressed, image, missing) in cases {
        let directory = directory("incomplete");
        let daemon = Daemon::start(&directory.path("util/vmmd.sock"), move |mut stream| {
            let request = command(&mut stream);
            let message = Message::answer(request.header, image_reply(compressed, image));
            let bytes = frame(&message.encode().unwrap()).unwrap();
            stream.write_all(&bytes[..bytes.len() - missing]).unwrap();
        });
        let ended = local(&directory, 121, &["get", "web"]);
        assert!(downloads(&directory).is_empty(), "{what}");
        assert_eq!(ended.stdout, "", "{what}");
        daemon.result();
    }
}

#[test]
fn get_of_a_unikernel_that_is_not_there_is_a_failure() {
    let directory = directory("get-failure");
    let daemon = say(&directory, failure("no such unikernel"));
    local(&directory, 117, &["get", "web"]);
    assert!(downloads(&directory).is_empty());
    daemon.result();
}

fn console_line(seconds: i64, line: &[u8]) -> Payload {
    Payload::Data(Data::Console(ConsoleData {
        timestamp: Timestamp::from_unix(seconds, 5_000_000_000),
        data: petrel::wire::Text(line.to_vec()),
    }))
}

#[test]
fn console_lines_are_printed_as_they_come() {
    let directory = directory("console");
    let (next, wait): (_, Receiver<()>) = channel();
    let daemon = Daemon::start(&directory.path("util/console.sock"), move |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, success("subscribed"));
        for second in 0..3 {
            wait.recv_timeout(DEADLINE).unwrap();
            answer(
                &mut stream,
                &request,
                console_line(second, b"a\x1b\xff\"\\"),
            );
        }
        request
    });
    let arguments = ["console", "foo:web", "--count=7", "--tmpdir=."];
    let mut running = Running::start(&mut petrel(&directory.path(""), &arguments));
    assert_eq!(
        running.line(),
        "host [unikernel: foo:web]: success: subscribed"
    );
    for second in 0..3 {
        next.send(()).unwrap();
        let line = format!("console 1970-01-01T00:00:0{second}-00:00: a\\027\\255\\\"\\\\");
        assert_eq!(running.line(), line);
    }
    // The daemon goes: nobody wanted that.
    let ended = running.end();
    assert_eq!(ended.code(), 121);
    assert!(ended.stderr.contains("broken off"), "{ended:?}");
    let asked = read(SinceCount::Count(Int::new(7)), true);
    assert_eq!(daemon.result().payload, asked);
}

/// Runs the client with a pipe as standard output that nobody reads.
fn into_closed_pipe(directory: &Directory, arguments: &[&str]) -> support::Ended {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    Running::start_with(
        &mut petrel(&directory.path(""), &[arguments, &["--tmpdir=."]].concat()),
        writer.into(),
    )
    .end()
}

#[test]
fn a_closed_pipe_ends_a_command_by_its_signal_and_without_a_word() {
    let directory = directory("pipe");
    let socket = directory.path("util/console.sock");
    for command in [&["info"][..], &["policy"], &["destroy", "web"]] {
        let daemon = say(&directory, success("done"));
        let ended = into_closed_pipe(&directory, command);
        assert_eq!(ended.status.signal(), Some(SIGPIPE), "{ended:?}");
        assert_eq!(ended.stderr, "");
        daemon.result();
        fs::remove_file(directory.path("util/vmmd.sock")).unwrap();
    }
    let daemon = Daemon::start(&socket, |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, success("subscribed"));
        stream.read(&mut [0]).unwrap_or_default()
    });
    let ended = into_closed_pipe(&directory, &["console", "web"]);
    assert_eq!(ended.status.signal(), Some(SIGPIPE), "{ended:?}");
    assert_eq!(ended.stderr, "");
    assert_eq!(daemon.result(), 0);
    // Without a daemon there is still something to say.
    let ended = into_closed_pipe(&directory, &["info"]);
    assert_eq!(ended.code(), 122, "{ended:?}");
}

#[test]
fn a_quiet_console_that_nobody_reads_any_more_ends() {
    for (command, socket) in [("console", "console.sock"), ("stats", "stat.sock")] {
        let directory = directory("pipe-quiet");
        let (gone, when_gone): (_, Receiver<()>) = channel();
        let daemon = Daemon::start(&directory.path("util").join(socket), move |mut stream| {
            let request = self::command(&mut stream);
            answer(&mut stream, &request, success("subscribed"));
            when_gone.recv_timeout(DEADLINE).unwrap();
            // Nothing is said; the client closes by itself.
            stream.read(&mut [0]).unwrap_or_default()
        });
        let (reader, writer) = pipe().unwrap();
        let arguments: &[&str] = match command {
            "stats" => &["stats", "--tmpdir=."],
            _ => &["console", "web", "--tmpdir=."],
        };
        let mut client = petrel(&directory.path(""), arguments);
        let running = Running::start_with(&mut client, writer.into());
        // Not the client's end of the pipe is kept open by this.
        drop(client);
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains("success"), "{line}");
        drop(reader);
        gone.send(()).unwrap();
        let ended = running.end();
        assert_eq!(ended.status.signal(), Some(SIGPIPE), "{ended:?}");
        assert_eq!(ended.stderr, "");
        assert_eq!(daemon.result(), 0);
    }
}

#[test]
fn a_time_wins_over_a_count() {
    let directory = directory("since");
    let daemon = Daemon::start(&directory.path("util/console.sock"), |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, success("subscribed"));
        request
    });
    let since = "--since=2026-01-02T03:04:05.5Z";
    // It ends without an end.
    local(&directory, 121, &["console", "web", "--count=7", since]);
    let history = SinceCount::Since(Timestamp::from_unix(1_767_323_045, 500_000_000_000));
    assert_eq!(daemon.result().payload, read(history, true));
}

/// What Petrel's client asks a console daemon of its host.
fn read(from: SinceCount, follow: bool) -> Payload {
    let read = ConsoleRead { from, follow };
    Payload::Command(Command::Console(ConsoleCommand::Read(read)))
}

/// No more lines, for now or for good.
fn no_more() -> Payload {
    Payload::Reply(Success::Empty(()))
}

#[test]
fn a_console_daemon_of_albatross_is_asked_as_one() {
    let directory = directory("console-plain");
    let socket = directory.path("util/console.sock");
    let mut connection = 0;
    let daemon = daemon_of_several(&socket, 2, move |mut stream| {
        let request = command(&mut stream);
        connection += 1;
        // It ends what it does not know without a word.
        if connection == 2 {
            answer(&mut stream, &request, success("subscribed"));
            answer(&mut stream, &request, console_line(1, b"hello"));
        }
        request.payload
    });
    let ended = local(&directory, 121, &["console", "web"]);
    assert!(ended.stdout.ends_with(": hello\n"), "{ended:?}");
    let history = SinceCount::Count(Int::new(20));
    let plain = Command::Console(ConsoleCommand::Subscribe(history.clone()));
    let asked = [read(history, true), Payload::Command(plain)];
    assert_eq!(daemon.result(), asked);
    // Whoever asks for one of the two gets that or nothing.
    for option in ["--follow", "--no-follow"] {
        fs::remove_file(&socket).unwrap();
        let daemon = Daemon::start(&socket, |mut stream| command(&mut stream));
        let ended = local(&directory, 121, &["console", "web", option]);
        assert!(ended.stderr.contains("'console read'"), "{ended:?}");
        daemon.result();
    }
    local(
        &directory,
        124,
        &["console", "web", "--follow", "--no-follow"],
    );
}

#[test]
fn without_following_the_history_is_all() {
    let directory = directory("console-history");
    let daemon = Daemon::start(&directory.path("util/console.sock"), |mut stream| {
        let request = command(&mut stream);
        for payload in [success("subscribed"), console_line(1, b"hello"), no_more()] {
            answer(&mut stream, &request, payload);
        }
        request.payload
    });
    let ended = local(
        &directory,
        0,
        &["console", "web", "--no-follow", "--count=3"],
    );
    assert!(ended.stdout.ends_with(": hello\n"), "{ended:?}");
    assert_eq!(daemon.result(), read(SinceCount::Count(Int::new(3)), false));
}

#[test]
fn a_run_whose_end_nobody_can_explain_is_over_all_the_same() {
    let directory = directory("console-end");
    let daemon = Daemon::start(&directory.path("util/console.sock"), |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, success("subscribed"));
        answer(&mut stream, &request, no_more());
    });
    let ended = local(&directory, 0, &["console", "web"]);
    let last = "host [unikernel: :web]: the run has ended\n";
    assert!(ended.stdout.ends_with(last), "{ended:?}");
    daemon.result();
}

#[test]
fn a_console_that_breaks_in_the_middle_of_a_line_is_an_error() {
    let directory = directory("console-cut");
    let daemon = Daemon::start(&directory.path("util/console.sock"), |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, success("subscribed"));
        stream.write_all(&[0, 0, 0, 9, 0x30]).unwrap();
    });
    local(&directory, 121, &["console", "web"]);
    daemon.result();
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        return skipped("output to a full device", "there is no /dev/full");
    };
    let directory = directory("full");
    let daemon = say(&directory, success("destroyed unikernel"));
    let mut command = petrel(&directory.path(""), &["destroy", "web", "--tmpdir=."]);
    let ended = Running::start_with(&mut command, full.into()).end();
    daemon.result();
    assert_eq!(ended.code(), 124, "{ended:?}");
    assert!(ended.stderr.contains("standard output"), "{ended:?}");
}

#[test]
fn a_hint_names_the_help_of_the_command() {
    let directory = directory("hint");
    for (arguments, hint) in [
        (&["create", "web"][..], "Try 'petrel create --help'."),
        (&["dump-block", "--x"], "Try 'petrel dump-block --help'."),
        (&["no-such-command"], "Try 'petrel --help'."),
    ] {
        let ended = expect(&directory.path(""), 124, arguments);
        assert!(ended.stderr.trim_end().ends_with(hint), "{ended:?}");
    }
}

#[test]
fn no_message_that_nobody_reads_is_a_panic() {
    let directory = directory("deaf");
    for (code, arguments) in [
        (0, &["--help"][..]),
        (0, &["--version"]),
        (0, &["create", "--help"]),
        (124, &["no-such-command"]),
        (124, &["info", "--tmpdir=missing"]),
    ] {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let status = petrel(&directory.path(""), arguments)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn on_a_terminal_long_lines_are_wrapped() {
    let directory = directory("terminal");
    let infos = vec![NamedInfo {
        name: "foo:web".into(),
        info: info(),
    }];
    let daemon = say(&directory, Payload::Reply(Success::UnikernelInfo(infos)));
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = petrel(&directory.path(""), &["info", "--tmpdir=."]);
    let ended = Running::start_with(&mut command, terminal.slave.into()).end();
    assert_eq!(ended.code(), 0, "{ended:?}");
    drop(command);
    let mut shown = Vec::new();
    // The end of a terminal without a program is an error.
    let _ = fs::File::from(terminal.master).read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() > 2, "{shown}");
    assert!(lines.iter().all(|line| line.len() <= 78), "{shown}");
    assert!(lines[1..].iter().all(|line| line.starts_with("  ")));
    daemon.result();
}

#[test]
fn a_command_that_the_daemon_does_not_know_gets_a_sentence() {
    let unknown = "either the other side does not know this command, or it stopped; \
                   whether the command was carried out is unknown\n";
    let own = "which albatross does not know; if the other side is Petrel, \
               whether the command was carried out is unknown\n";
    for (word, sentence) in [
        ("restart", format!("'unikernel restart': {unknown}")),
        ("stop", format!("'unikernel stop', {own}")),
        ("start", format!("'unikernel start', {own}")),
        ("rollback", format!("'unikernel rollback', {own}")),
    ] {
        let directory = directory("unknown");
        let daemon = Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
            command(&mut stream);
        });
        let ended = local(&directory, 121, &[word, "web"]);
        let whole = format!("petrel: the connection ended without an answer to {sentence}");
        assert_eq!(ended.stderr, whole);
        daemon.result();
    }
}

#[test]
fn restart_keeps_or_replaces_the_settings() {
    let kept = Restart::NoArguments(());
    let replaced = Restart::NewArguments(Arguments {
        fail_behaviour: FailBehaviour::Quit(()),
        startup: None,
        add_name: true,
        cpuids: Set::sorted([Int::new(0)]),
        memory: Int::new(64),
        blocks: None,
        bridges: None,
        arguments: None,
        cpus: Some(Int::new(1)),
        linux_boot_partition: None,
    });
    for (options, asked, warned) in [
        (&[][..], kept.clone(), false),
        (&["--mem=64"], kept, true),
        (&["--mem=64", "--replace-arguments"], replaced, false),
    ] {
        let directory = directory("restart");
        let daemon = say(&directory, success("restarted unikernel"));
        let ended = local(&directory, 0, &[&["restart", "foo:web"], options].concat());
        let warning = ended.stderr.contains("--replace-arguments");
        assert_eq!(warning, warned, "{ended:?}");
        let request = daemon.result();
        assert_eq!(request.header.name.to_lossy(), "foo:web");
        let asked = Command::Unikernel(UnikernelCommand::Restart(asked));
        assert_eq!(request.payload, Payload::Command(asked));
    }
}

#[test]
fn inactive_consoles_are_listed() {
    for (consoles, shown) in [
        (
            vec!["foo:a".into(), "foo:b".into()],
            "[unikernel: foo:a]\n[unikernel: foo:b]",
        ),
        (Vec::new(), "no consoles"),
    ] {
        let directory = directory("inactive");
        let socket = directory.path("util/console.sock");
        let reply = Payload::Reply(Success::Consoles(consoles));
        let daemon = Daemon::start(&socket, |mut stream| {
            let request = command(&mut stream);
            answer(&mut stream, &request, reply);
            request
        });
        let ended = local(&directory, 0, &["inactive-consoles", "--path", "foo"]);
        assert_eq!(ended.stdout, format!("host [unikernel: foo:]: {shown}\n"));
        let request = daemon.result();
        assert_eq!(request.header.name.to_lossy(), "foo:");
        let asked = Command::Console(ConsoleCommand::Inactive(()));
        assert_eq!(request.payload, Payload::Command(asked));
    }
}

fn used() -> Statistics {
    let time = TimeVal {
        seconds: Int64(7),
        microseconds: Int::new(42),
    };
    let none = Int64(0);
    Statistics {
        resource_usage: RUsage {
            utime: time.clone(),
            stime: time.clone(),
            maxrss: Int64(1024),
            ixrss: none,
            idrss: none,
            isrss: none,
            minflt: none,
            majflt: none,
            nswap: none,
            inblock: none,
            outblock: none,
            msgsnd: none,
            msgrcv: none,
            nsignals: none,
            nvcsw: none,
            nivcsw: Int64(-1),
        },
        ifdata: vec![IfData {
            bridge: "service".into(),
            flags: Int32(0x8843),
            send_length: Int32(0),
            max_send_length: Int32(-1),
            send_drops: Int32(0),
            mtu: Int32(1500),
            baudrate: none,
            input_packets: Int64(5),
            input_errors: none,
            output_packets: none,
            output_errors: none,
            collisions: none,
            input_bytes: none,
            output_bytes: none,
            input_mcast: none,
            output_mcast: none,
            input_dropped: none,
            output_dropped: Int64(9),
        }],
        vmm_stats: Some(vec![VmmStat {
            key: "vm\x1bexits".into(),
            value: Int64(3),
        }]),
        kinfo_mem: Some(KInfoMem {
            vsize: Int64(4096),
            rss: none,
            tsize: none,
            dsize: none,
            ssize: none,
            runtime: none,
            cow: Int::new(2),
            start: time,
        }),
    }
}

#[test]
fn statistics_are_shown_in_four_blocks_until_the_daemon_goes() {
    let directory = directory("stats");
    let daemon = Daemon::start(&directory.path("util/stat.sock"), |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, success("subscribed"));
        let bare = Statistics {
            ifdata: Vec::new(),
            vmm_stats: None,
            kinfo_mem: None,
            ..used()
        };
        for statistics in [used(), bare] {
            let data = Payload::Data(Data::Statistics(Box::new(statistics)));
            answer(&mut stream, &request, data);
        }
        request
    });
    let ended = local(&directory, 121, &["stats", "-n", "foo:web"]);
    let shown: Vec<&str> = ended.stdout.lines().collect();
    let usage = "usage: utime 7.000042 stime 7.000042 maxrss 1024 ixrss 0 idrss 0 isrss 0 minflt 0 majflt 0 nswap 0 \
                 inblock 0 outblock 0 msgsnd 0 msgrcv 0 nsignals 0 nvcsw 0 nivcsw 18446744073709551615";
    let interface = "interface service: flags 0x8843 send_length 0 max_send_length 4294967295 send_drops 0 mtu 1500 \
                     baudrate 0 input_packets 5 input_errors 0 output_packets 0 output_errors 0 collisions 0 \
                     input_bytes 0 output_bytes 0 input_mcast 0 output_mcast 0 input_dropped 0 output_dropped 9";
    assert_eq!(
        shown,
        [
            "host [unikernel: foo:web]: success: subscribed",
            "stats [unikernel: foo:web]:",
            usage,
            "memory: vsize 4096 rss 0 tsize 0 dsize 0 ssize 0 runtime 0 cow 2 start 7.000042",
            "vmm: vm\\027exits 3",
            interface,
            "stats [unikernel: foo:web]:",
            usage,
            "no kinfo_mem stats",
            "no vmm stats",
        ]
    );
    let asked = Command::Statistics(StatsCommand::Subscribe(()));
    assert_eq!(daemon.result().payload, Payload::Command(asked));
}

#[test]
fn processes_are_added_to_the_statistics_and_removed() {
    let add = StatsCommand::Add(StatsAdd {
        vmmdev: "".into(),
        pid: Int::new(17),
        network: vec![BridgeTap {
            bridge: "service".into(),
            tap: "vmmtap0".into(),
        }],
    });
    for (arguments, word, asked) in [
        (
            &["stats-add", "17", "-n", "web", "--bridge=service:vmmtap0"][..],
            "added",
            add,
        ),
        (
            &["stats-remove", "--name=web"],
            "removed",
            StatsCommand::Remove(()),
        ),
    ] {
        let directory = directory("stats-add");
        let daemon = Daemon::start(&directory.path("util/stat.sock"), |mut stream| {
            let request = command(&mut stream);
            answer(&mut stream, &request, success(word));
            // The daemon would take further commands.
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            request
        });
        let ended = local(&directory, 0, arguments);
        assert!(ended.stdout.ends_with(&format!("success: {word}\n")));
        let asked = Payload::Command(Command::Statistics(asked));
        assert_eq!(daemon.result().payload, asked);
    }
}

#[test]
fn verbosity_tells_where_a_command_goes() {
    let directory = directory("verbosity");
    let place = "petrel: 'unikernel details' goes to './util/vmmd.sock'\n";
    for (options, said) in [
        (&[][..], false),
        (&["-v"], true),
        (&["-v", "-v"], true),
        (&["--verbosity=info"], true),
        (&["-v", "--verbosity", "warning"], false),
        (&["-v", "-q", "--verbosity=debug"], false),
        (&["--color=always"], false),
    ] {
        // There is no daemon.
        let ended = local(&directory, 122, &[&["info"], options].concat());
        assert_eq!(ended.stderr.starts_with(place), said, "{options:?}");
    }
    for wrong in ["--verbosity=loud", "--color=red"] {
        local(&directory, 124, &["info", wrong]);
    }
}
