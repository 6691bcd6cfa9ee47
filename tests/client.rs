//! The client from outside: the real program, and daemons of a few lines.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/client.rs"]
mod client;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use client::{Daemon, answer, command, expect, failure, petrel, success, upload};
use flate2::read::{ZlibDecoder, ZlibEncoder};
use petrel::authority::{Certificate, Key, read_chain};
use petrel::name::Name;
use petrel::wire::frame::{MAX_CHUNK, frame, read_frame};
use petrel::wire::{
    Command, Config, ConsoleCommand, ConsoleData, Data, FailBehaviour, Image, Info, Int, Message,
    NamedInfo, NamedPolicy, Octets, Payload, Policy, PolicyCommand, Set, SinceCount, Success,
    Timestamp, Typ, UnikernelCommand,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use support::{DEADLINE, Folder, Running, guest};

fn folder(test: &str) -> Folder {
    let folder = Folder::new(&format!("client-{test}"));
    fs::create_dir_all(folder.path("util")).unwrap();
    folder
}

/// Serves one client on the supervisor's socket of `folder`, and says nothing but `payload`.
fn say(folder: &Folder, payload: Payload) -> Daemon<Message> {
    Daemon::start(&folder.path("util/vmmd.sock"), |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, payload);
        request
    })
}

/// Runs the client with the folder as its runtime folder.
fn local(folder: &Folder, code: i32, arguments: &[&str]) -> support::Ended {
    expect(
        &folder.path(""),
        code,
        &[arguments, &["--tmpdir=."]].concat(),
    )
}

/// A runnable image with this many octets after it, which do not compress.
fn image(folder: &Folder, more: usize) -> PathBuf {
    let mut octets = fs::read(guest("hello.spt")).unwrap();
    let mut random = 1_u32;
    octets.extend(
        std::iter::repeat_with(|| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_be_bytes()[0]
        })
        .take(more),
    );
    folder.file("image", octets)
}

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
        digest: Octets(vec![0xab; 32]),
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
        let folder = folder("info");
        let infos = vec![NamedInfo {
            name: "foo:web".into(),
            info: info(),
        }];
        let daemon = say(&folder, Payload::Reply(Success::UnikernelInfo(infos)));
        let ended = local(
            &folder,
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
        let request = daemon.result();
        assert_eq!(request.header.name.to_lossy(), "foo:");
        assert_eq!(request.header.sequence.0, 0);
        let asked = Payload::Command(Command::Unikernel(UnikernelCommand::Info(())));
        assert_eq!(request.payload, asked);
    }
}

#[test]
fn empty_lists_say_so() {
    for (arguments, reply, word) in [
        (
            &["info"][..],
            Success::UnikernelInfo(Vec::new()),
            "no unikernels",
        ),
        (&["policy"], Success::Policies(Vec::new()), "no policies"),
    ] {
        let folder = folder("empty");
        let daemon = say(&folder, Payload::Reply(reply));
        let ended = local(&folder, 0, arguments);
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
    let folder = folder("policies");
    let socket = folder.path("util/vmmd.sock");
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
        let daemon = say(&folder, success("added policy"));
        let ended = local(&folder, 0, &[&[name, "foo:bar"], &add[..]].concat());
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
    let daemon = say(&folder, Payload::Reply(Success::Policies(policies)));
    let ended = local(&folder, 0, &["policy", "-p", "foo:"]);
    let line = "[unikernel: bar:]: policy: 4 unikernels 0,2 CPUids 512 MB memory 10 MB block, bridges: a, service\n";
    assert_eq!(ended.stdout, format!("host [unikernel: foo:]: {line}"));
    daemon.result();
    fs::remove_file(&socket).unwrap();
    let daemon = say(&folder, success("removed policy"));
    local(&folder, 0, &["remove-policy", "--path=foo"]);
    let asked = Command::Policy(PolicyCommand::Remove(()));
    assert_eq!(daemon.result().payload, Payload::Command(asked));
}

#[test]
fn a_failure_is_shown_and_ends_with_117() {
    let folder = folder("failure");
    let daemon = say(&folder, failure("no such\x1b[2J unikernel"));
    let ended = local(&folder, 117, &["destroy", "web"]);
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
        for arguments in [&["info"][..], &["get", "web"]] {
            let folder = folder("none");
            let daemon = Daemon::start(&folder.path("util/vmmd.sock"), move |mut stream| {
                command(&mut stream);
                serve(&mut stream);
            });
            let ended = local(&folder, 121, arguments);
            assert!(ended.stderr.starts_with("petrel: "), "{what}: {ended:?}");
            assert_eq!(ended.stdout, "", "{what}");
            daemon.result();
        }
    }
}

const INFO: Command = Command::Unikernel(UnikernelCommand::Info(()));

#[test]
fn a_daemon_that_speaks_in_commands_ends_with_125() {
    let folder = folder("command");
    let daemon = say(&folder, Payload::Command(INFO));
    local(&folder, 125, &["info"]);
    daemon.result();
}

#[test]
fn a_daemon_that_is_not_there_ends_with_122() {
    let folder = folder("unreachable");
    let ended = local(&folder, 122, &["info"]);
    assert!(ended.stderr.contains("vmmd.sock"), "{ended:?}");
    let ended = local(&folder, 122, &["console", "web"]);
    assert!(ended.stderr.contains("console.sock"), "{ended:?}");
    let ended = expect(&folder.path(""), 122, &["info", "--socket=none"]);
    assert!(ended.stderr.contains("'none'"), "{ended:?}");
}

#[test]
fn wrong_command_lines_end_with_124() {
    let folder = folder("usage");
    let net = guest("net.spt");
    let net = net.to_str().unwrap();
    let none = folder.file("text", "no image");
    let none = none.to_str().unwrap();
    let cases: [&[&str]; 31] = [
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
        &[
            "certificate",
            "missing.pem",
            "missing.key",
            "-d",
            "localhost",
        ],
    ];
    for arguments in cases {
        let ended = expect(&folder.path(""), 124, arguments);
        assert!(
            ended.stderr.starts_with("petrel: "),
            "{arguments:?}: {ended:?}"
        );
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn help_and_version_need_nothing() {
    let folder = folder("help");
    let help = expect(&folder.path(""), 0, &["--help"]).stdout;
    assert_eq!(expect(&folder.path(""), 0, &[]).stdout, help);
    for name in ["create", "replace-policy", "certificate", "generate"] {
        assert!(help.contains(name), "{name}");
        let ended = expect(&folder.path(""), 0, &[name, "--help"]);
        assert!(ended.stdout.contains("Usage: petrel"), "{ended:?}");
    }
    let ended = expect(&folder.path(""), 0, &["--version"]);
    assert!(ended.stdout.contains("protocol version 5"), "{ended:?}");
}

#[test]
fn create_streams_the_image_after_the_command() {
    for (level, compressed) in [(None, false), (Some("--compression-level=1"), true)] {
        let folder = folder("create");
        let image = image(&folder, 3_000_001);
        let daemon = Daemon::start(&folder.path("util/vmmd.sock"), |mut stream| {
            let request = command(&mut stream);
            let octets = upload(&mut stream);
            answer(&mut stream, &request, success("created unikernel"));
            (request, octets)
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
        let ended = local(&folder, 0, &arguments);
        assert_eq!(
            ended.stdout,
            "host [unikernel: foo:web]: success: created unikernel\n"
        );
        let (request, octets) = daemon.result();
        let config = created(&request);
        assert!(config.image.0.is_empty());
        assert_eq!(config.compressed, compressed);
        assert_eq!(config.memory.get(), 64);
        assert_eq!(config.cpuids.items(), [Int::new(1)]);
        let restart = FailBehaviour::RestartExitCodes(Set::sorted([Int::new(2)]));
        assert_eq!(config.fail_behaviour, restart);
        let guest_arguments = ["--ipv4=10.0.0.2/24".into(), "x".into()];
        assert_eq!(config.arguments.as_deref(), Some(&guest_arguments[..]));
        let octets = if compressed {
            let mut plain = Vec::new();
            ZlibDecoder::new(&octets[..])
                .read_to_end(&mut plain)
                .unwrap();
            plain
        } else {
            octets
        };
        assert!(octets == fs::read(image).unwrap(), "the image differs");
    }
}

#[test]
fn a_failure_in_the_middle_of_an_upload_is_shown() {
    for level in ["0", "1"] {
        let folder = folder("early");
        image(&folder, 16 << 20);
        let daemon = Daemon::start(&folder.path("util/vmmd.sock"), |mut stream| {
            let request = command(&mut stream);
            read_frame(&mut stream, MAX_CHUNK).unwrap().unwrap();
            // Says why, and goes without reading on.
            answer(&mut stream, &request, failure("no room"));
        });
        let ended = local(
            &folder,
            117,
            &["create", "web", "image", "--compression-level", level],
        );
        assert!(ended.stderr.contains("command failed no room"), "{ended:?}");
        daemon.result();
    }
}

#[test]
fn a_failure_is_noticed_while_the_daemon_does_not_read() {
    let folder = folder("stuck");
    image(&folder, 16 << 20);
    let (end, ended) = channel::<()>();
    let daemon = Daemon::start(&folder.path("util/vmmd.sock"), move |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, failure("too large"));
        // Stays, so that the client cannot learn it from a broken pipe.
        ended.recv_timeout(DEADLINE).unwrap();
    });
    let stopped = local(&folder, 117, &["create", "web", "image"]);
    assert!(stopped.stderr.contains("too large"), "{stopped:?}");
    end.send(()).unwrap();
    daemon.result();
}

#[test]
fn an_upload_without_a_listener_ends_with_121() {
    let folder = folder("gone");
    image(&folder, 16 << 20);
    let daemon = Daemon::start(&folder.path("util/vmmd.sock"), |mut stream| {
        command(&mut stream);
    });
    let ended = local(&folder, 121, &["create", "web", "image"]);
    assert!(ended.stderr.starts_with("petrel: "), "{ended:?}");
    daemon.result();
}

#[test]
fn a_success_before_the_end_of_an_upload_is_none() {
    let folder = folder("hasty");
    image(&folder, 16 << 20);
    let daemon = say(&folder, success("created unikernel"));
    let ended = local(&folder, 121, &["create", "web", "image"]);
    assert_eq!(ended.stdout, "");
    daemon.result();
}

/// The files that `get` left in the folder.
fn downloads(folder: &Folder) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path("")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().contains("web."))
        .collect()
}

fn zlib(octets: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    ZlibEncoder::new(octets, flate2::Compression::fast())
        .read_to_end(&mut compressed)
        .unwrap();
    compressed
}

fn image_reply(compressed: bool, image: Vec<u8>) -> Payload {
    Payload::Reply(Success::UnikernelImage(Image {
        compressed,
        image: Octets(image),
    }))
}

#[test]
fn get_stores_the_image() {
    let content: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_be_bytes).collect();
    for compressed in [false, true] {
        let folder = folder("get");
        let sent = if compressed {
            zlib(&content)
        } else {
            content.clone()
        };
        let daemon = say(&folder, image_reply(compressed, sent));
        let ended = local(&folder, 0, &["get", "foo:web", "--compression-level=3"]);
        let files = downloads(&folder);
        let name = files[0].file_name().unwrap().to_str().unwrap();
        assert!(ended.stdout.contains(name), "{ended:?}");
        // foo:web.2026-11-22T22:08:16-00:00
        assert!(
            name.starts_with("foo:web.2") && name.ends_with("-00:00"),
            "{name}"
        );
        assert!(fs::read(&files[0]).unwrap() == content, "the image differs");
        assert_eq!(
            fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
            0o644
        );
        let asked = Command::Unikernel(UnikernelCommand::Get(Int::new(3)));
        assert_eq!(daemon.result().payload, Payload::Command(asked));
    }
}

#[test]
fn an_image_that_is_not_complete_is_not_kept() {
    let content = vec![7; 100_000];
    let truncated = |octets: &[u8]| octets[..octets.len() - 1].to_vec();
    let cases = [
        ("too short a stream", true, truncated(&zlib(&content)), 0),
        (
            "octets after the stream",
            true,
            [&zlib(&content)[..], b"x"].concat(),
            0,
        ),
        ("no stream", true, content.clone(), 0),
        ("a cut message", true, zlib(&content), 1),
        ("a cut message", false, content.clone(), 1),
    ];
    for (what, compressed, image, missing) in cases {
        let folder = folder("incomplete");
        let daemon = Daemon::start(&folder.path("util/vmmd.sock"), move |mut stream| {
            let request = command(&mut stream);
            let message = Message::answer(request.header, image_reply(compressed, image));
            let octets = frame(&message.encode().unwrap()).unwrap();
            stream.write_all(&octets[..octets.len() - missing]).unwrap();
        });
        let ended = local(&folder, 121, &["get", "web"]);
        assert!(downloads(&folder).is_empty(), "{what}");
        assert_eq!(ended.stdout, "", "{what}");
        daemon.result();
    }
}

#[test]
fn get_of_a_unikernel_that_is_not_there_is_a_failure() {
    let folder = folder("get-failure");
    let daemon = say(&folder, failure("no such unikernel"));
    local(&folder, 117, &["get", "web"]);
    assert!(downloads(&folder).is_empty());
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
    let folder = folder("console");
    let (next, wait): (_, Receiver<()>) = channel();
    let daemon = Daemon::start(&folder.path("util/console.sock"), move |mut stream| {
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
    let mut running = Running::start(&mut petrel(&folder.path(""), &arguments));
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
    let asked = Command::Console(ConsoleCommand::Subscribe(SinceCount::Count(Int::new(7))));
    assert_eq!(daemon.result().payload, Payload::Command(asked));
}

#[test]
fn a_time_wins_over_a_count() {
    let folder = folder("since");
    let daemon = Daemon::start(&folder.path("util/console.sock"), |mut stream| {
        command(&mut stream)
    });
    let since = "--since=2026-01-02T03:04:05.5Z";
    // It ends without an answer.
    local(&folder, 121, &["console", "web", "--count=7", since]);
    let history = SinceCount::Since(Timestamp::from_unix(1_767_323_045, 500_000_000_000));
    let asked = Command::Console(ConsoleCommand::Subscribe(history));
    assert_eq!(daemon.result().payload, Payload::Command(asked));
}

#[test]
fn a_console_that_breaks_in_the_middle_of_a_line_is_an_error() {
    let folder = folder("console-cut");
    let daemon = Daemon::start(&folder.path("util/console.sock"), |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, success("subscribed"));
        stream.write_all(&[0, 0, 0, 9, 0x30]).unwrap();
    });
    local(&folder, 121, &["console", "web"]);
    daemon.result();
}

#[test]
fn output_that_nobody_reads_is_an_error_and_no_panic() {
    let folder = folder("closed");
    let daemon = say(&folder, success("destroyed unikernel"));
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let arguments = ["destroy", "web", "--tmpdir=."];
    let mut command = petrel(&folder.path(""), &arguments);
    let ended = Running::start_with(&mut command, writer.into()).end();
    assert_eq!(ended.code(), 124, "{ended:?}");
    assert!(ended.stderr.contains("standard output"), "{ended:?}");
    daemon.result();
}

#[test]
fn a_dash_prints_instead_of_sending() {
    let folder = with_tenant("dash");
    let ended = expect(&folder.path(""), 121, &["info", "--socket=-"]);
    assert!(ended.stdout.starts_with("00000000  30 "), "{ended:?}");
    let arguments = [
        "destroy",
        "web",
        "-d",
        "-",
        "--ca=tenant.pem",
        "--ca-key=tenant.key",
    ];
    let ended = expect(&folder.path(""), 121, &arguments);
    assert_eq!(ended.stderr, "");
    let chain = read_chain(&folder.file("printed.pem", ended.stdout)).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], read_chain(&folder.path("tenant.pem")).unwrap()[0]);
    assert_eq!(chain[0].not_after - chain[0].not_before, 310);
    let path: Vec<_> = chain
        .iter()
        .map(|certificate| &certificate.der[..])
        .collect();
    let request = petrel::chain::request(&path).unwrap();
    assert_eq!(request.name.to_string(), "tenant:web");
}

/// A folder with a root authority, a server below it, and a tenant with a policy.
fn with_tenant(test: &str) -> Folder {
    let folder = folder(test);
    let run = |arguments: &[&str]| expect(&folder.path(""), 0, arguments);
    run(&["generate", "root", "db"]);
    run(&["add-policy", "tenant", "2", "--mem=64", "--csr"]);
    run(&["sign", "cacert.pem", "db", "root.key", "tenant.req"]);
    folder
}

fn der(chain: &[Certificate]) -> Vec<CertificateDer<'static>> {
    chain
        .iter()
        .map(|certificate| certificate.der.clone().into())
        .collect()
}

type ServerStream = StreamOwned<ServerConnection, std::net::TcpStream>;

/// An endpoint that shows the certificate in `name.pem`, takes clients below `authority`, and lets `serve` speak.
fn endpoint<T: Send + 'static>(
    folder: &Folder,
    name: &str,
    authority: &str,
    serve: impl FnOnce(&mut ServerStream) -> T + Send + 'static,
) -> (String, Receiver<T>) {
    let chain = read_chain(&folder.path(&format!("{name}.pem"))).unwrap();
    let key_file = folder.path(&format!("{name}.key"));
    let key = Key::load(&key_file, &chain[0], Path::new("")).unwrap();
    let mut roots = RootCertStore::empty();
    for root in der(&read_chain(&folder.path(authority)).unwrap()) {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            der(&chain),
            PrivateKeyDer::Pkcs8(key.pkcs8().to_vec().into()),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let (send, result) = channel();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                // With the alert that says why, and until the client has read it.
                let _ = stream.sock.shutdown(Shutdown::Write);
                let _ = stream.sock.read_to_end(&mut Vec::new());
                return;
            }
        }
        let served = serve(&mut stream);
        stream.conn.send_close_notify();
        let _ = stream.conn.complete_io(&mut stream.sock);
        // As the endpoint does: closed with something unread, the socket would take the answer back.
        let _ = stream.sock.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut stream.sock, &mut std::io::sink());
        let _ = send.send(served);
    });
    (place, result)
}

/// An answer of the endpoint, which has no request to answer but the chain.
fn tell(stream: &mut ServerStream, payload: Payload) {
    let header = Message::command(0, &"tenant:web".parse().unwrap(), INFO).header;
    let octets = frame(&Message::answer(header, payload).encode().unwrap()).unwrap();
    stream.write_all(&octets).unwrap();
}

const TENANT: [&str; 2] = ["--ca=tenant.pem", "--ca-key=tenant.key"];

#[test]
fn over_tls_the_certificate_is_the_command() {
    let folder = with_tenant("tls");
    let (place, served) = endpoint(&folder, "server", "cacert.pem", |stream| {
        let chain = stream.conn.peer_certificates().unwrap().to_vec();
        tell(stream, success("destroyed unikernel"));
        petrel::chain::request(&chain).unwrap()
    });
    let arguments = [&["destroy", "web", "-d", &place], &TENANT[..]].concat();
    let ended = expect(&folder.path(""), 0, &arguments);
    assert_eq!(
        ended.stdout,
        "host [unikernel: tenant:web]: success: destroyed unikernel\n"
    );
    let request = served.recv_timeout(DEADLINE).unwrap();
    assert_eq!(request.name.to_string(), "tenant:web");
    assert_eq!(
        request.command,
        Command::Unikernel(UnikernelCommand::Destroy(()))
    );
}

#[test]
fn over_tls_an_image_is_streamed_compressed() {
    let folder = with_tenant("tls-create");
    let image = image(&folder, 2_000_000);
    let (place, served) = endpoint(&folder, "server", "cacert.pem", |stream| {
        let octets = upload(stream);
        tell(stream, success("created unikernel"));
        octets
    });
    let arguments = [&["create", "web", "image", "-d", &place], &TENANT[..]].concat();
    expect(&folder.path(""), 0, &arguments);
    let sent = served.recv_timeout(DEADLINE).unwrap();
    // The zlib header of levels 7 to 9.
    assert_eq!(sent[..2], [0x78, 0xda]);
    let mut octets = Vec::new();
    ZlibDecoder::new(&sent[..])
        .read_to_end(&mut octets)
        .unwrap();
    assert!(octets == fs::read(image).unwrap(), "the image differs");
}

#[test]
fn over_tls_a_failure_in_the_middle_of_an_upload_is_shown() {
    let folder = with_tenant("tls-early");
    image(&folder, 16 << 20);
    let (place, served) = endpoint(&folder, "server", "cacert.pem", |stream| {
        read_frame(stream, MAX_CHUNK).unwrap().unwrap();
        tell(stream, failure("no room"));
    });
    let create = [
        "create",
        "web",
        "image",
        "--compression-level=0",
        "-d",
        &place,
    ];
    let ended = expect(&folder.path(""), 117, &[&create, &TENANT[..]].concat());
    assert!(ended.stderr.contains("no room"), "{ended:?}");
    served.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn a_signed_certificate_is_used_with_its_image() {
    let folder = with_tenant("certificate");
    let image = image(&folder, 100_000);
    let run = |code, arguments: &[&str]| expect(&folder.path(""), code, arguments);
    run(0, &["create", "web", "image", "--csr"]);
    run(0, &["sign", "tenant.pem", "db", "tenant.key", "web.req"]);
    let (place, served) = endpoint(&folder, "server", "cacert.pem", |stream| {
        let octets = upload(stream);
        tell(stream, success("created unikernel"));
        octets
    });
    let certificate = ["certificate", "web.pem", "web.key", "-d", &place];
    run(124, &certificate);
    run(
        124,
        &[
            "certificate",
            "web.pem",
            "tenant.key",
            "-d",
            &place,
            "--image=image",
        ],
    );
    run(
        124,
        &[
            &certificate[..],
            &["--image=image", "--compression-level=0"],
        ]
        .concat(),
    );
    let printed = run(
        121,
        &[
            "certificate",
            "web.pem",
            "web.key",
            "-d",
            "-",
            "--image=image",
        ],
    );
    assert_eq!(
        printed.stdout,
        fs::read_to_string(folder.path("web.pem")).unwrap()
    );
    run(0, &[&certificate[..], &["--image=image"]].concat());
    let sent = served.recv_timeout(DEADLINE).unwrap();
    let mut octets = Vec::new();
    ZlibDecoder::new(&sent[..])
        .read_to_end(&mut octets)
        .unwrap();
    assert!(octets == fs::read(image).unwrap(), "the image differs");
}

#[test]
fn over_tls_an_end_without_an_answer_is_no_success() {
    let folder = with_tenant("tls-none");
    let (place, served) = endpoint(&folder, "server", "cacert.pem", |_| ());
    let ended = expect(
        &folder.path(""),
        121,
        &[&["info", "-d", &place], &TENANT[..]].concat(),
    );
    assert!(ended.stderr.contains("without an answer"), "{ended:?}");
    served.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn each_side_that_is_not_trusted_has_its_exit_code() {
    let folder = with_tenant("trust");
    let other = with_tenant("trust-other");
    fs::copy(other.path("cacert.pem"), folder.path("other.pem")).unwrap();
    let info = |place: &str, code, more: &[&str]| {
        let arguments = [&["info", "-d", place], &TENANT[..], more].concat();
        expect(&folder.path(""), code, &arguments)
    };

    // Our chain does not lead to the server's authority: there is not even a connection.
    info("127.0.0.1:1", 116, &["--server-ca=other.pem"]);
    // Nobody is there.
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    info(&closed.to_string(), 122, &[]);
    // Another authority's server.
    let (place, _) = endpoint(&other, "server", "cacert.pem", |_| ());
    info(&place, 120, &[]);
    // The server does not know our authority.
    let (place, _) = endpoint(&folder, "server", "other.pem", |_| ());
    info(&place, 119, &[]);
}

#[test]
fn a_tenant_cannot_play_the_server() {
    let folder = with_tenant("tenant-server");
    let key = Key::reuse_or_generate(
        &folder.path("fake.key"),
        petrel::authority::KeyType::Ed25519,
    );
    let (key, _) = key.unwrap();
    let issuer =
        petrel::authority::Issuer::load(&folder.path("tenant.pem"), &folder.path("tenant.key"))
            .unwrap();
    let certificate = issuer
        .issue(
            petrel::authority::common_name("server"),
            &key.public_key_info(),
            &petrel::authority::Profile::Server,
            petrel::authority::Validity::days(time::OffsetDateTime::now_utc(), 1).unwrap(),
        )
        .unwrap();
    let chain = petrel::authority::to_pem([&certificate, issuer.certificate()]);
    folder.file("fake.pem", chain);
    let (place, _) = endpoint(&folder, "fake", "cacert.pem", |_| ());
    let ended = expect(
        &folder.path(""),
        120,
        &[&["info", "-d", &place], &TENANT[..]].concat(),
    );
    assert!(ended.stderr.contains("tenant"), "{ended:?}");
}

#[test]
fn what_the_policy_forbids_is_not_even_sent() {
    let folder = with_tenant("precheck");
    image(&folder, 0);
    let create = ["create", "web", "image", "--mem=65", "-d", "127.0.0.1:1"];
    let ended = expect(&folder.path(""), 124, &[&create, &TENANT[..]].concat());
    assert!(ended.stderr.contains("beyond the policy"), "{ended:?}");
    for refused in [
        &["destroy", "foo:web"][..],
        &["add-policy", "foo", "1"],
        &["remove-policy"],
        &["policy", "--path=foo"],
    ] {
        let arguments = [refused, &["-d", "127.0.0.1:1"], &TENANT[..]].concat();
        expect(&folder.path(""), 124, &arguments);
    }
    // A key of somebody else.
    let arguments = [
        "info",
        "-d",
        "127.0.0.1:1",
        "--ca=tenant.pem",
        "--ca-key=root.key",
    ];
    expect(&folder.path(""), 124, &arguments);
}
