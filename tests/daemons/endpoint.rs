//! The real `petrel-tls` between a TLS client and a daemon that says what each test needs.

use crate::support::{endpoint, pki};

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use endpoint::*;
use nix::sys::signal::Signal;
use petrel::chain::verify::Anchor;
use petrel::client::tls::TlsStream;
use petrel::endpoint::LINGER;
use petrel::wire::frame::{END, write_frame};
use petrel::wire::legacy::{BlockAdd, BlockSet};
use petrel::wire::{
    BlockCommand, BlockData, Bytes, Command, ConsoleCommand, Data, DatedPolicy, Int, Int64,
    Message, Payload, PolicyCommand, SinceCount, StatsCommand, Success, UnikernelCommand, VERSION,
};
use pki::{Authority, policy};

#[test]
fn a_request_reaches_the_daemon_and_its_answer_the_client() {
    let host = Host::new();
    let tenant = host.root.delegate("Foo", policy(7));
    let sub_tenant = tenant.delegate("bar", policy(3));
    let identity = sub_tenant.leaf("hello", info());
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        let requests: Vec<_> = (0..2).map(|_| receive(&mut connection)).collect();
        for request in &requests {
            reply(&mut connection, request, success());
        }
        requests
    });
    let mut client = endpoint.connect(&identity).unwrap();
    let answer = read_message(&mut client).unwrap();
    assert_eq!(answer.payload, success());
    assert_eq!(answer.header.name, "foo:bar:hello".into());
    assert_eq!(answer.header.sequence, Int64(0));
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "closed properly");
    let requests = daemon.wait();
    let names: Vec<_> = requests.iter().map(|r| r.header.name.to_lossy()).collect();
    assert_eq!(names, ["foo:bar:", "foo:bar:hello"]);
    let Payload::Command(Command::Policy(PolicyCommand::SetChain(chain))) = &requests[0].payload
    else {
        panic!("{:?}", requests[0]);
    };
    let chain: Vec<_> = chain.iter().map(|dated| dated.policy.clone()).collect();
    assert_eq!(chain, [policy(7), policy(3)], "outermost first");
    let audit = endpoint.log("verdict=");
    for part in [
        "peer=\"127.0.0.1:",
        "certificates=\"hello,bar,Foo\"",
        "command=\"unikernel-info\"",
        "name=\"foo:bar:hello\"",
        "verdict=\"success\"",
    ] {
        assert!(audit.contains(part), "{part} in {audit}");
    }
}

#[test]
fn standard_input_can_be_the_connection() {
    let host = Host::new();
    let identity = host.root.leaf("hello", info());
    for arguments in [&["--inetd"][..], &[]] {
        let daemon = host.answering("vmmd", success());
        let endpoint = host.inetd(arguments);
        let mut client = endpoint.connect(&identity).unwrap();
        assert_eq!(read_message(&mut client).unwrap().payload, success());
        daemon.wait();
        drop(client);
        assert!(wait_for_exit(endpoint.take_spawned()).success());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn systemd_may_hand_over_a_connection_or_a_listener() {
    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    // What systemd does: the socket as descriptor 3, and the number of the process in its environment.
    const ACTIVATE: &str =
        r#"LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec "$@" 3<&0 </dev/null"#;
    let host = Host::new();
    let identity = host.root.leaf("hello", info());
    let anchor = Anchor::new(&host.root.certificate()).unwrap();
    for listens in [false, true] {
        let daemon = host.answering("vmmd", success());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let program = host.program(&["--systemd-socket-activation"]);
        let mut shell = Process::new("sh");
        shell
            .args(["-c", ACTIVATE, "sh"])
            .arg(program.get_program())
            .args(program.get_args())
            .stdout(Stdio::null());
        let (give, started) = channel();
        thread::spawn(move || {
            let socket: OwnedFd = if listens {
                listener.into()
            } else {
                listener.accept().unwrap().0.into()
            };
            give.send(shell.stdin(Stdio::from(socket)).spawn().unwrap())
        });
        let mut client = connect(address, &identity, anchor.clone()).unwrap();
        assert_eq!(read_message(&mut client).unwrap().payload, success());
        daemon.wait();
        drop(client);
        let child = started.recv_timeout(PATIENCE).unwrap();
        if listens {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
        }
        assert!(wait_for_exit(child).success());
    }
}

#[test]
fn log_lines_never_get_into_the_connection() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let stdio = || Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
    let child = host
        .program(&["-v", "-v"])
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    drop(socket);
    client.write_all(&tls12_hello()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, PROTOCOL_VERSION_ALERT);
    assert!(wait_for_exit(child).success());
}

#[test]
fn certificates_outside_the_verified_path_have_no_influence() {
    let host = Host::new();
    let tenant = host.root.delegate("foo", policy(1));
    let stranger = Authority::root("root").delegate("evil", policy(1000));
    let other_tenant = host.root.delegate("other", policy(1000));
    let mut identity = tenant.leaf("hello", info());
    identity.chain.insert(1, stranger.certificate());
    identity.chain.insert(1, other_tenant.certificate());
    identity.chain.push(host.root.certificate());
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        let requests: Vec<_> = (0..2).map(|_| receive(&mut connection)).collect();
        for request in &requests {
            reply(&mut connection, request, success());
        }
        requests
    });
    let mut client = endpoint.connect(&identity).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    let names: Vec<_> = daemon
        .wait()
        .iter()
        .map(|request| request.header.name.to_lossy())
        .collect();
    assert_eq!(names, ["foo:", "foo:hello"]);
}

#[test]
fn a_refused_policy_stops_the_command_and_is_quoted() {
    let host = Host::new();
    let identity = host.root.delegate("foo", policy(1)).leaf("hello", info());
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        let request = receive(&mut connection);
        reply(&mut connection, &request, failure("larger than above"));
    });
    let mut client = endpoint.connect(&identity).unwrap();
    let answer = read_message(&mut client).unwrap();
    assert!(failure_text(&answer).contains("larger than above"));
    assert_eq!(answer.header.name, "foo:hello".into());
    daemon.wait();
}

#[test]
fn a_chain_whose_policies_grow_is_refused_before_anything_is_sent() {
    let host = Host::new();
    let tenant = host.root.delegate("foo", policy(1));
    let identity = tenant.delegate("bar", policy(2)).leaf("hello", info());
    let endpoint = host.listen(&[]);
    // No daemon is there: nothing is asked of any.
    let answer = read_message(&mut endpoint.connect(&identity).unwrap()).unwrap();
    let text = failure_text(&answer);
    assert!(
        text.contains("the policy of 'foo:bar:' allows more"),
        "{text}"
    );
    assert_eq!(answer.header.name, "foo:bar:".into());
    assert!(endpoint.log("verdict=").contains("refused"));
}

#[test]
fn a_daemon_that_is_not_there_is_named_without_its_path() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let mut client = endpoint.connect(&host.root.leaf("x", info())).unwrap();
    let text = failure_text(&read_message(&mut client).unwrap());
    assert!(text.contains("supervisor") && !text.contains('/'), "{text}");
}

#[test]
fn a_daemon_that_closes_without_an_answer_is_reported() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", drop);
    let mut client = endpoint.connect(&host.root.leaf("x", info())).unwrap();
    let text = failure_text(&read_message(&mut client).unwrap());
    assert!(text.contains("without an answer"), "{text}");
    daemon.wait();
}

#[test]
fn a_command_that_no_leaf_may_carry_is_answered_with_a_failure() {
    let host = Host::new();
    let remove = Command::Policy(PolicyCommand::Remove(()));
    let identity = host.root.delegate("foo", policy(1)).leaf(".", remove);
    let endpoint = host.listen(&[]);
    let answer = read_message(&mut endpoint.connect(&identity).unwrap()).unwrap();
    assert!(failure_text(&answer).contains("policy remove"));
    assert_eq!(answer.header.name, "foo:".into());
    assert_eq!(answer.header.version, Int::new(VERSION));
}

#[test]
fn an_expired_leaf_is_rejected_by_an_alert() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let error = endpoint.rejection(&host.root.expired_leaf("x", info()));
    assert_eq!(error.exit_code(), 119, "{error}");
    assert!(error.to_string().contains("certificate_expired"), "{error}");
    assert!(endpoint.log("verdict=").contains("expired"));
}

#[test]
fn a_leaf_of_another_root_or_for_servers_is_rejected() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    for identity in [
        Authority::root("root").leaf("x", info()),
        host.root.server(),
    ] {
        let error = endpoint.rejection(&identity);
        assert_eq!(error.exit_code(), 119, "{error}");
    }
}

#[test]
fn a_client_that_does_not_have_the_key_is_rejected() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let identity = host.root.leaf("x", info());
    let other = host.root.leaf("x", info());
    let key = rustls::crypto::ring::sign::any_supported_type(&other.key_der()).unwrap();
    let resolver = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(
        identity.chain.clone(),
        key,
    ));
    let error = endpoint.raw_error(|config| config.with_client_cert_resolver(Arc::new(resolver)));
    assert!(error.to_string().contains("alert"), "{error}");
    endpoint.log("reason=\"handshake failed");
}

#[test]
fn a_client_without_a_certificate_is_rejected() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let error = endpoint.raw_error(Unidentified::with_no_client_auth);
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[test]
fn tls_1_2_is_refused_by_an_alert() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let mut client = endpoint.tcp();
    client.write_all(&tls12_hello()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, PROTOCOL_VERSION_ALERT);
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let host = Host::new();
    let endpoint = host.listen(&["--handshake-timeout=1"]);
    let mut client = endpoint.tcp();
    // One byte resets no clock: the limit is for the whole handshake.
    client.write_all(&tls12_hello()[..1]).unwrap();
    let audit = endpoint.log("verdict=");
    assert!(audit.contains("not completed in time"), "{audit}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_upload_arrives_as_it_was_sent_and_the_answer_comes_after_it() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        let request = receive(&mut connection);
        let chunks = receive_upload(&mut connection);
        reply(&mut connection, &request, success());
        chunks
    });
    let mut client = endpoint.connect(&host.root.leaf("x", create())).unwrap();
    let chunks = [vec![1; 1], vec![2; 65_536], vec![3; 4096]];
    for chunk in &chunks {
        write_frame(&mut client, chunk).unwrap();
    }
    client.write_all(&END).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    assert_eq!(daemon.wait(), Some(chunks.to_vec()));
}

#[test]
fn the_content_of_a_block_device_is_passed_on_in_the_same_way() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        let request = receive(&mut connection);
        let chunks = receive_upload(&mut connection);
        reply(&mut connection, &request, success());
        chunks
    });
    let set = Command::Block(BlockCommand::Set(true));
    let mut client = endpoint.connect(&host.root.leaf("disk", set)).unwrap();
    write_frame(&mut client, b"content").unwrap();
    client.write_all(&END).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    assert_eq!(daemon.wait(), Some(vec![b"content".to_vec()]));
}

#[test]
fn the_older_block_commands_without_content_are_followed_by_it_too() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let (compress, size) = (false, Int::new(1));
    let add = |data: Option<&[u8]>| {
        let data = data.map(|data| Bytes(data.to_vec()));
        BlockCommand::AddOld(BlockAdd {
            size,
            compress,
            data,
        })
    };
    let set = |data: &[u8]| {
        let data = Bytes(data.to_vec());
        BlockCommand::SetOld(BlockSet { compress, data })
    };
    let chunks = vec![b"one".to_vec(), b"two".to_vec()];
    for (command, streamed) in [
        (set(b""), true),
        (add(Some(b"")), true),
        (set(b"x"), false),
        (add(Some(b"x")), false),
        (add(None), false),
    ] {
        let daemon = host.daemon("vmmd", move |mut connection| {
            let request = receive(&mut connection);
            let chunks = streamed.then(|| receive_upload(&mut connection).unwrap());
            reply(&mut connection, &request, success());
            (request.payload, chunks)
        });
        let command = Command::Block(command);
        let identity = host.root.leaf("disk", command.clone());
        let mut client = endpoint.connect(&identity).unwrap();
        if streamed {
            for chunk in &chunks {
                write_frame(&mut client, chunk).unwrap();
            }
            client.write_all(&END).unwrap();
        }
        assert_eq!(read_message(&mut client).unwrap().payload, success());
        let expected = (Payload::Command(command), streamed.then(|| chunks.clone()));
        assert_eq!(daemon.wait(), expected);
    }
}

#[test]
fn a_dump_is_passed_on_and_its_refusal_is_the_only_failure() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let dump = || Command::Block(BlockCommand::Dump(Int::new(0)));
    let identity = host.root.delegate("foo", policy(1)).leaf("disk", dump());
    let messages = [
        Payload::Reply(Success::BlockDeviceImage(false)),
        Payload::Data(Data::Block(BlockData::Some(Bytes(vec![7; 4096])))),
        Payload::Data(Data::Block(BlockData::End(()))),
    ];
    for answers in [messages.to_vec(), vec![failure("it is in use")]] {
        let sent = answers.clone();
        let daemon = host.daemon("vmmd", move |mut connection| {
            let policy = receive(&mut connection);
            reply(&mut connection, &policy, success());
            let request = receive(&mut connection);
            for answer in sent {
                reply(&mut connection, &request, answer);
            }
        });
        let mut client = endpoint.connect(&identity).unwrap();
        let mut received = Vec::new();
        while let Some(message) = read_message(&mut client) {
            assert_eq!(message.header.name, "foo:disk".into());
            received.push(message.payload);
        }
        assert_eq!(received, answers);
        daemon.wait();
    }
}

#[test]
fn statistics_are_passed_on_with_the_names_that_their_daemon_gives_them() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let subscribe = Command::Statistics(StatsCommand::Subscribe(()));
    let identity = host.root.delegate("foo", policy(1)).leaf(".", subscribe);
    let daemon = host.daemon("stat", |mut connection| {
        // Policies are for the supervisor only.
        let request = receive(&mut connection);
        assert_eq!(request.header.name, "foo:".into());
        reply(&mut connection, &request, success());
        for name in [":x", "bar:y"] {
            let mut tick = request.clone();
            tick.header.name = name.into();
            tick.header.sequence = Int64(9);
            reply(&mut connection, &tick, success());
        }
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    });
    let mut client = endpoint.connect(&identity).unwrap();
    for (name, sequence) in [("foo:", 0), (":x", 9), ("bar:y", 9)] {
        let header = read_message(&mut client).unwrap().header;
        assert_eq!(
            (header.name, header.sequence),
            (name.into(), Int64(sequence))
        );
        assert_eq!(header.version, Int::new(VERSION));
    }
    drop(client);
    daemon.wait();
}

#[test]
fn the_listener_takes_ipv4_and_ipv6() {
    let host = Host::new();
    let loopback = |port| SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    if TcpListener::bind(loopback(0)).is_err() {
        eprintln!("SKIPPED: IPv6: there is none on this host");
        return;
    }
    let everywhere = host.listen_on(&["--port", "0"]);
    assert!(everywhere.address.is_ipv6());
    let port = everywhere.address.port();
    for address in [loopback(port), (Ipv4Addr::LOCALHOST, port).into()] {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(greets(&mut client), "{address}");
    }
    let one = host.listen_on(&["--ip", "::1", "--port", "0"]);
    assert_eq!(one.address.ip(), Ipv6Addr::LOCALHOST);
    assert!(greets(&mut one.tcp()));
    let elsewhere = TcpStream::connect((Ipv4Addr::LOCALHOST, one.address.port()));
    assert!(elsewhere.is_err(), "only the address that was asked for");
}

#[test]
fn no_leaf_may_carry_a_command_of_operators_or_daemons() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let tenant = host.root.delegate("foo", policy(1));
    let dated = DatedPolicy {
        policy: policy(9),
        not_before: Int::new(0),
    };
    for command in [
        Command::Policy(PolicyCommand::Add(policy(9))),
        Command::Policy(PolicyCommand::SetChain(vec![dated])),
        Command::Policy(PolicyCommand::Remove(())),
        Command::Statistics(StatsCommand::Remove(())),
        Command::Statistics(StatsCommand::Initial(())),
        Command::Console(ConsoleCommand::Add(Int::new(9))),
    ] {
        // No daemon is there: nothing is asked of any.
        let mut client = endpoint.connect(&tenant.leaf("x", command)).unwrap();
        let text = failure_text(&read_message(&mut client).unwrap());
        assert!(text.contains("not allowed in a leaf"), "{text}");
    }
}

#[test]
fn a_chunk_that_is_too_long_fails_and_never_ends_the_upload() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        receive(&mut connection);
        receive_upload(&mut connection)
    });
    let mut client = endpoint.connect(&host.root.leaf("x", create())).unwrap();
    client.write_all(&[0, 1, 0, 1]).unwrap();
    let text = failure_text(&read_message(&mut client).unwrap());
    assert!(text.contains("65537"), "{text}");
    assert_eq!(daemon.wait(), None);
}

#[test]
fn a_client_that_vanishes_never_ends_the_upload() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    for closes_properly in [false, true] {
        let daemon = host.daemon("vmmd", |mut connection| {
            receive(&mut connection);
            receive_upload(&mut connection)
        });
        let mut client = endpoint.connect(&host.root.leaf("x", create())).unwrap();
        write_frame(&mut client, b"half an image").unwrap();
        if closes_properly {
            client.close().unwrap();
        }
        drop(client);
        assert_eq!(daemon.wait(), None, "the daemon sees the end, but no END");
        let audit = endpoint.log("verdict=");
        assert!(audit.contains("verdict=\"gone\""), "{audit}");
    }
}

#[test]
fn a_failure_in_the_middle_of_an_upload_reaches_the_client() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        let request = receive(&mut connection);
        reply(&mut connection, &request, failure("no such bridge"));
    });
    let mut client = endpoint.connect(&host.root.leaf("x", create())).unwrap();
    // A client that only looks for an answer when it has sent everything.
    let chunk = vec![7; 65_536];
    for _ in 0..500 {
        write_frame(&mut client, &chunk).unwrap();
    }
    client.write_all(&END).unwrap();
    let text = failure_text(&read_message(&mut client).unwrap());
    assert_eq!(text, "no such bridge");
    daemon.wait();
}

#[test]
fn a_stranger_whose_handshake_failed_is_not_listened_to_for_long() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-connections=1"]);
    let mut silent = endpoint.tcp();
    assert!(greets(&mut silent));
    let refused = Instant::now();
    let mut talkative = endpoint.tcp();
    assert!(greets(&mut talkative));
    assert!(refused.elapsed() < LINGER.time);

    let mut taken = 0;
    let piece = vec![0; 1 << 20];
    talkative.set_write_timeout(Some(PATIENCE)).unwrap();
    while talkative.write_all(&piece).is_ok() {
        taken += piece.len() as u64;
        // The kernel's buffers take some more.
        assert!(taken < LINGER.bytes / 8);
    }
}

#[test]
fn a_client_without_an_upload_keeps_its_place_for_no_longer_than_its_answer_takes() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let daemon = host.answering("vmmd", success());
    let mut client = endpoint.connect(&host.root.leaf("x", info())).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    daemon.wait();
    let mut taken = 0;
    let piece = vec![0; 1 << 20];
    while client.write_all(&piece).is_ok() {
        taken += piece.len() as u64;
        // The kernel's buffers take some more.
        assert!(taken < LINGER.bytes / 8);
    }
}

#[test]
fn an_upload_that_pauses_too_long_fails() {
    let host = Host::new();
    let endpoint = host.listen(&["--idle-timeout=1"]);
    let daemon = host.daemon("vmmd", |mut connection| {
        receive(&mut connection);
        receive_upload(&mut connection)
    });
    let mut client = endpoint.connect(&host.root.leaf("x", create())).unwrap();
    write_frame(&mut client, b"and then").unwrap();
    let text = failure_text(&read_message(&mut client).unwrap());
    assert!(text.contains("slower than 64 KiB in 1 s"), "{text}");
    assert_eq!(daemon.wait(), None);
}

#[test]
fn an_upload_that_trickles_fails() {
    let host = Host::new();
    let endpoint = host.listen(&["--idle-timeout=1"]);
    let daemon = host.daemon("vmmd", |mut connection| {
        receive(&mut connection);
        receive_upload(&mut connection)
    });
    let mut client = endpoint.connect(&host.root.leaf("x", create())).unwrap();
    let end = Instant::now() + PATIENCE;
    let uploaded = loop {
        assert!(Instant::now() < end, "it may go on for ever");
        write_frame(&mut client, b"x").unwrap();
        if let Ok(uploaded) = daemon.0.recv_timeout(Duration::from_millis(20)) {
            break uploaded;
        }
    };
    assert_eq!(uploaded, None);
    let text = failure_text(&read_message(&mut client).unwrap());
    assert!(text.contains("slower than 64 KiB in 1 s"), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_depend_on_the_size_of_an_image() {
    use std::io;

    use petrel::wire::frame::{MAX_MESSAGE, read_frame};

    const CHUNKS: usize = 3200;
    const BYTES: usize = CHUNKS * 65_536;
    let host = Host::new();
    let endpoint = host.inetd(&[]);
    let (measured, go_on) = channel();
    let daemon = host.daemon("vmmd", move |mut connection| {
        receive(&mut connection);
        let mut bytes = 0;
        while let Some(chunk) = read_frame(&mut connection, MAX_MESSAGE).unwrap() {
            bytes += chunk.len();
        }
        // The endpoint is looked at while it waits for this answer, which is as large.
        go_on.recv_timeout(PATIENCE).unwrap();
        let prefix = u32::try_from(BYTES).unwrap().to_be_bytes();
        connection.write_all(&prefix).unwrap();
        io::copy(&mut io::repeat(7).take(BYTES as u64), &mut connection).unwrap();
        bytes
    });
    let mut client = endpoint.connect(&host.root.leaf("x", create())).unwrap();
    let child = endpoint.take_spawned();
    let chunk = vec![7; 65_536];
    for _ in 0..CHUNKS {
        write_frame(&mut client, &chunk).unwrap();
    }
    client.write_all(&END).unwrap();
    let uploading = peak_memory(child.id());
    measured.send(()).unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    // The last byte stays behind, so that the process is still there.
    let expected = BYTES as u64 - 1;
    let mut bytes = Read::by_ref(&mut client).take(expected);
    assert_eq!(io::copy(&mut bytes, &mut io::sink()).unwrap(), expected);
    assert_eq!(daemon.wait(), BYTES);
    let downloading = peak_memory(child.id()).max(uploading);
    drop(client);
    assert!(wait_for_exit(child).success());
    println!("peak of petrel-tls: {uploading} KiB after the upload, {downloading} KiB at the end");
    assert!(downloading < 9 * 1024, "{downloading} KiB");
}

#[test]
fn a_subscription_goes_on_until_the_client_leaves() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let subscribe = Command::Console(ConsoleCommand::Subscribe(SinceCount::Count(Int::new(20))));
    let identity = host.root.delegate("foo", policy(1)).leaf("x", subscribe);
    let daemon = host.daemon("console", |mut connection| {
        let request = receive(&mut connection);
        reply(&mut connection, &request, success());
        reply(&mut connection, &request, success());
        connection.read(&mut [0]).unwrap()
    });
    let mut client = endpoint.connect(&identity).unwrap();
    for _ in 0..2 {
        assert_eq!(read_message(&mut client).unwrap().payload, success());
    }
    drop(client);
    assert_eq!(daemon.wait(), 0, "the daemon is told at once");
}

#[test]
fn the_end_of_a_subscription_is_told_as_a_failure_and_that_of_a_dump_is_not() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let answers = |connection: &mut UnixStream| {
        let request = receive(connection);
        reply(connection, &request, success());
        reply(connection, &request, success());
    };
    let subscribe = Command::Console(ConsoleCommand::Subscribe(SinceCount::Count(Int::new(1))));
    let daemon = host.daemon("console", move |mut connection| answers(&mut connection));
    let mut client = endpoint.connect(&host.root.leaf("x", subscribe)).unwrap();
    for _ in 0..2 {
        assert_eq!(read_message(&mut client).unwrap().payload, success());
    }
    failure_text(&read_message(&mut client).unwrap());
    assert!(read_message(&mut client).is_none());
    daemon.wait();

    let dump = Command::Block(BlockCommand::Dump(Int::new(0)));
    let daemon = host.daemon("vmmd", move |mut connection| answers(&mut connection));
    let mut client = endpoint.connect(&host.root.leaf("x", dump)).unwrap();
    for _ in 0..2 {
        assert_eq!(read_message(&mut client).unwrap().payload, success());
    }
    assert!(read_message(&mut client).is_none());
    daemon.wait();
}

fn subscribe() -> Command {
    Command::Console(ConsoleCommand::Subscribe(SinceCount::Count(Int::new(1))))
}

/// Answers connections to the console daemon with the start of a stream, which ends with the test.
fn streaming(host: &Host) {
    let path = host.directory.root().join("util/console.sock");
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut streams = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let request = receive(&mut connection);
            reply(&mut connection, &request, success());
            streams.push(connection);
        }
    });
}

/// The first answer on a connection of this client.
fn first_answer(endpoint: &Endpoint, identity: &pki::Identity) -> (TlsStream, Message) {
    let mut client = endpoint.connect(identity).unwrap();
    let answer = read_message(&mut client).unwrap();
    (client, answer)
}

#[test]
fn a_command_waits_until_there_is_a_place() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-connections=1"]);
    streaming(&host);
    let identity = host.root.delegate("a", policy(1)).leaf("x", subscribe());
    let (first, _) = first_answer(&endpoint, &identity);
    let daemon = host.answering("vmmd", success());
    let (identity, address) = (host.root.leaf("x", info()), endpoint.address);
    let anchor = Anchor::new(&host.root.certificate()).unwrap();
    let (done, second) = channel();
    thread::spawn(move || {
        let mut client = connect(address, &identity, anchor).unwrap();
        done.send(read_message(&mut client).unwrap()).unwrap();
    });
    endpoint.log("waits until one ends");
    assert!(second.try_recv().is_err(), "it has to wait");
    drop(first);
    let answer = second.recv_timeout(PATIENCE).unwrap();
    assert_eq!(answer.payload, success());
    daemon.wait();
}

#[test]
fn one_tenant_cannot_take_all_connections() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-connections=8", "--max-connections-per-tenant=4"]);
    streaming(&host);
    let [a, b] = ["a", "b"].map(|tenant| host.root.delegate(tenant, policy(1)));
    let of_a = [
        a.leaf("x", subscribe()),
        a.delegate("c", policy(1)).leaf("x", subscribe()),
    ];
    let mut streams = Vec::new();
    for identity in of_a.iter().cycle().take(3) {
        let (stream, answer) = first_answer(&endpoint, identity);
        assert_eq!(answer.payload, success());
        streams.push(stream);
    }
    for identity in &of_a {
        let (_, refused) = first_answer(&endpoint, identity);
        let why = failure_text(&refused);
        assert!(why.contains("'a' has 3 streams"), "{why}");
        endpoint.log("verdict=\"refused\" reason=\"'a' has 3 streams");
    }
    let daemon = host.daemon("vmmd", answer_all);
    let (command, answer) = first_answer(&endpoint, &a.leaf("x", info()));
    assert_eq!(answer.payload, success(), "a command of the same tenant");
    daemon.wait();
    drop(command);
    let (_stream, answer) = first_answer(&endpoint, &b.leaf("x", subscribe()));
    assert_eq!(answer.payload, success(), "a stream of another tenant");
    endpoint.log("name=\"a:x\" verdict=\"success\"");
    streams.pop();
    endpoint.log("verdict=\"gone\"");
    let end = Instant::now() + PATIENCE;
    while first_answer(&endpoint, &of_a[0]).1.payload != success() {
        assert!(Instant::now() < end, "its place is never free again");
    }
}

#[test]
fn an_upload_leaves_a_place_to_commands_of_its_tenant() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-connections=8", "--max-connections-per-tenant=2"]);
    let a = host.root.delegate("a", policy(1));
    let (arrived, arrival) = channel();
    let uploading = host.daemon("vmmd", move |mut connection| {
        arrived.send(receive(&mut connection)).unwrap();
        receive_upload(&mut connection)
    });
    let upload = endpoint.connect(&a.leaf("x", create())).unwrap();
    arrival.recv_timeout(PATIENCE).unwrap();
    let (_, refused) = first_answer(&endpoint, &a.leaf("y", create()));
    let why = failure_text(&refused);
    assert!(why.contains("'a' has 1 streams and transfers"), "{why}");
    let commanded = host.daemon("vmmd", answer_all);
    let (_command, answer) = first_answer(&endpoint, &a.leaf("x", info()));
    assert_eq!(answer.payload, success());
    commanded.wait();
    drop(upload);
    assert_eq!(uploading.wait(), None);
}

#[test]
#[cfg(target_os = "linux")]
fn one_address_cannot_take_all_handshakes() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-connections-per-source=2"]);
    let first = endpoint.tcp();
    let _second = endpoint.tcp();
    assert!(!greets(&mut endpoint.tcp()), "the third is closed");
    endpoint.log("2 connections from its address");
    // Any address of 127.0.0.0/8 is this host's.
    assert!(greets(&mut endpoint.tcp_from([127, 0, 0, 2])));
    drop(first);
    endpoint.log("the peer closed");
    let end = Instant::now() + PATIENCE;
    while !greets(&mut endpoint.tcp()) {
        assert!(Instant::now() < end, "its place is never free again");
    }
}

#[test]
fn a_client_that_is_known_counts_for_no_address() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-connections-per-source=1"]);
    streaming(&host);
    let identity = host.root.leaf("x", subscribe());
    let streams = [(); 3].map(|()| first_answer(&endpoint, &identity));
    for (_, answer) in &streams {
        assert_eq!(answer.payload, success());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn strangers_of_many_addresses_do_not_keep_a_client_out() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-handshakes=8"]);
    streaming(&host);
    let identity = host.root.leaf("x", subscribe());
    let (mut stream, answer) = first_answer(&endpoint, &identity);
    assert_eq!(answer.payload, success());
    let strangers: Vec<_> = (1..=40)
        .map(|last| endpoint.tcp_from([127, 0, 1, last]))
        .collect();
    endpoint.log("too many handshakes are under way, and this was the oldest");
    let daemon = host.answering("vmmd", success());
    let (_, answer) = first_answer(&endpoint, &host.root.leaf("x", info()));
    assert_eq!(answer.payload, success());
    daemon.wait();
    drop(strangers);
    stream.close().unwrap();
    endpoint.log("command=\"console-subscribe\"");
}

#[test]
fn a_stream_ends_when_a_certificate_of_its_client_expires() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    streaming(&host);
    let identity = host.root.leaf_with("x", subscribe(), |params| {
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(3);
    });
    let (mut client, answer) = first_answer(&endpoint, &identity);
    assert_eq!(answer.payload, success());
    let why = failure_text(&read_message(&mut client).unwrap());
    assert!(
        why.contains("not accepted any more: a certificate expired"),
        "{why}"
    );
    endpoint.log("verdict=\"refused\"");
}

#[test]
fn an_image_is_sent_no_further_when_a_certificate_of_its_client_expires() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let daemon = host.daemon("vmmd", |mut connection| {
        receive(&mut connection);
        connection.write_all(&1000u32.to_be_bytes()).unwrap();
        // The end of the connection, not that of the image.
        connection.read(&mut [0])
    });
    let get = Command::Unikernel(UnikernelCommand::Get(Int::new(0)));
    let identity = host.root.leaf_with("x", get, |params| {
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(3);
    });
    let mut client = endpoint.connect(&identity).unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(daemon.wait().unwrap(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn the_listener_has_no_privilege_that_it_does_not_use() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    assert!(greets(&mut endpoint.tcp()));
    let pid = endpoint.child.as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:\t"));
    let bounding = u64::from_str_radix(bounding.unwrap(), 16).unwrap();
    // CAP_DAC_OVERRIDE; who is not root cannot change it, and gets no capability anyway.
    if nix::unistd::geteuid().is_root() {
        assert_eq!(bounding & !0b10, 0, "{bounding:x}");
    }
}

#[test]
fn who_does_not_speak_tls_is_named_so_at_either_end() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    for text in ["GET / HTTP/1.1\r\n\r\n", "SSH-2.0-OpenSSH_10.0\r\n"] {
        endpoint.tcp().write_all(text.as_bytes()).unwrap();
        endpoint.log("the client does not speak TLS");
    }
    for greeting in [
        "SSH-2.0-OpenSSH_10.0\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "220 mail\r\n",
    ] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            let (mut client, _) = server.accept().unwrap();
            client.write_all(greeting.as_bytes()).unwrap();
            let _ = client.read_to_end(&mut Vec::new());
        });
        let identity = host.root.leaf("x", info());
        let error = connect(address, &identity, endpoint.anchor.clone()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("{address} does not speak TLS")),
            "{text}"
        );
        assert_eq!(error.exit_code(), 121);
    }
}

#[test]
fn a_runtime_directory_that_is_not_there_is_named_at_the_start() {
    let host = Host::new();
    fs::remove_dir(host.directory.root().join("util")).unwrap();
    let endpoint = host.listen(&[]);
    let line = endpoint.log("cannot pass on commands");
    assert!(line.contains("/util'"), "{line}");
}

#[test]
fn a_process_that_a_real_time_signal_kills_gives_its_place_back() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-handshakes=1", "-v", "-v"]);
    let _first = endpoint.tcp();
    let line = endpoint.log(": process ");
    let (_, rest) = line.split_once(": process ").unwrap();
    let (pid, _) = rest.split_once(',').unwrap();
    let kill = format!("kill -34 {pid}");
    let killed = Process::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(killed.success());
    endpoint.log("ended by signal 34");
    assert!(greets(&mut endpoint.tcp()));
}

/// Who reads its standard error to the end, such as FreeBSD's daemon(8), starts it anew only then.
#[test]
fn a_listener_that_logs_to_syslog_leaves_its_standard_error_to_no_connection() {
    let host = Host::new();
    // With -q no syslog is needed.
    let mut endpoint = host.listen(&["--syslog", "-q"]);
    let mut held = endpoint.tcp();
    assert!(
        greets(&mut endpoint.tcp()),
        "the first one has its process, too"
    );
    let mut listener = endpoint.child.take().unwrap();
    listener.kill().unwrap();
    listener.wait().unwrap();
    let end = endpoint.log.recv_timeout(PATIENCE);
    assert_eq!(end, Err(RecvTimeoutError::Disconnected));
    assert!(greets(&mut held), "that goes on");
}

#[test]
fn the_listener_ends_when_asked_to() {
    let host = Host::new();
    let mut endpoint = host.listen(&[]);
    endpoint.signal(Signal::SIGHUP);
    assert!(
        greets(&mut endpoint.tcp()),
        "another signal changes nothing"
    );
    endpoint.signal(Signal::SIGTERM);
    assert!(wait_for_exit(endpoint.child.take().unwrap()).success());
}

#[test]
fn wrong_files_are_named_before_anything_listens() {
    let host = Host::new();
    let two = format!("{0}{0}", host.root.pem());
    host.directory.write("two.pem", &two);
    let other = host.root.server();
    host.directory
        .write("other.key", &other.key.serialize_pem());
    host.directory.write("server.pem.key", &other.pem);
    for (files, reason) in [
        (["missing.pem", "server.pem", "server.key"], "missing.pem"),
        (
            ["server.pem", "server.pem", "server.key"],
            "the certificate of an authority",
        ),
        (["two.pem", "server.pem", "server.key"], "but there are 2"),
        (
            ["ca.pem", "server.key", "server.key"],
            "expected a certificate",
        ),
        (["ca.pem", "server.pem", "server.pem.key"], "PRIVATE KEY"),
        (["ca.pem", "server.pem", "other.key"], "cannot be used"),
    ] {
        let output = Process::new(PROGRAM)
            .args(["--ip", "127.0.0.1", "--port", "0"])
            .args(files)
            .current_dir(host.directory.root())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(124), "{text}");
        assert!(text.contains(reason), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_key_that_others_may_read_serves_nobody() {
    let host = Host::new();
    let key = host.directory.root().join("server.key");
    for (mode, serves) in [(0o600, true), (0o644, false), (0o602, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        if serves {
            host.listen(&[]);
            continue;
        }
        let output = host
            .program(&["--ip", "127.0.0.1", "--port", "0"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(124), "{text}");
        assert!(text.contains("accessible to other users"), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_server_below_a_tenant_is_not_trusted() {
    let host = Host::new();
    let tenant = host.root.delegate("foo", policy(1));
    let fake = tenant.server();
    host.directory
        .write("server.pem", &format!("{}{}", fake.pem, tenant.pem()));
    host.directory
        .write("server.key", &fake.key.serialize_pem());
    let endpoint = host.listen(&[]);
    let error = endpoint
        .connect(&host.root.leaf("x", info()))
        .expect_err("trusted");
    assert_eq!(error.exit_code(), 120, "{error}");
    assert!(error.to_string().contains("'foo'"), "{error}");
}

#[test]
fn a_server_of_another_root_is_not_trusted() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let anchor = Anchor::new(&Authority::root("root").certificate()).unwrap();
    let identity = host.root.leaf("x", info());
    let error = connect(endpoint.address, &identity, anchor).expect_err("trusted");
    assert_eq!(error.exit_code(), 120, "{error}");
}
