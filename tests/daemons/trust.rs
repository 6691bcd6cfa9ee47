//! What `petrel-tls` refuses, and what it tells of it: images, chains, and the audit lines.

use crate::support::{endpoint, pki};

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use endpoint::{
    Endpoint, Host, config, failure, failure_text, greets, info, read_message, receive,
    receive_upload, reply, success, tls12_hello,
};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use petrel::chain::{EXTENSION, IMAGE_EXTENSION, image_extension_value, numbers};
use petrel::unikernel::ImageDigest;
use petrel::wire::frame::{END, write_frame};
use petrel::wire::legacy::{ConfigV3, ConfigV4};
use petrel::wire::{Bytes, Config, Int, Payload, Success};
use pki::{Authority, Identity, policy};
use rcgen::CustomExtension;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sha2::{Digest as _, Sha256};

const IMAGE: &[u8] = b"an image that is approved, and no other one: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn only_the_image_that_the_certificate_fixes_is_passed_on() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let compressed = deflated(IMAGE);
    let mut damaged = compressed.clone();
    damaged[12] ^= 0xff;
    let other = deflated(b"another image");
    let more = [&compressed[..], b"x"].concat();
    let (found, allowed) = (digest(b"another image"), digest(IMAGE));
    let (found, allowed) = (found.to_string(), allowed.to_string());
    let none = digest(b"").to_string();
    let cases: [(bool, &[u8], &[&str]); 9] = [
        (false, IMAGE, &[]),
        (true, &compressed, &[]),
        (false, b"another image", &[&found, &allowed]),
        (true, &other, &[&found, &allowed]),
        (false, b"", &[&none, &allowed]),
        (true, &damaged, &["image refused"]),
        (true, &compressed[..compressed.len() - 1], &["not complete"]),
        (true, &more, &["follows the end"]),
        (true, IMAGE, &["damaged"]),
    ];
    for (compression, image, refusal) in cases {
        for command in creates(compression, b"") {
            let daemon = host.daemon("vmmd", |mut connection| {
                let request = receive(&mut connection);
                let chunks = receive_upload(&mut connection)?;
                reply(&mut connection, &request, success());
                Some(chunks.concat())
            });
            let identity = leaf(&host.root, &command, digest(IMAGE));
            let mut client = endpoint.connect(&identity).unwrap();
            for chunk in image.chunks(20) {
                write_frame(&mut client, chunk).unwrap();
            }
            client.write_all(&END).unwrap();
            let answer = read_message(&mut client).unwrap();
            if refusal.is_empty() {
                assert_eq!(answer.payload, success());
                assert_eq!(daemon.wait().as_deref(), Some(image));
            } else {
                let text = failure_text(&answer);
                for part in refusal {
                    assert!(text.contains(part), "'{part}' in {text}");
                }
                assert_eq!(daemon.wait(), None, "the end is withheld: {text}");
            }
        }
    }
}

#[test]
fn an_image_inside_the_command_is_checked_before_anything_is_sent() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let compressed = deflated(IMAGE);
    for (compression, image) in [(false, IMAGE), (true, &compressed)] {
        for command in creates(compression, image) {
            let tenant = host.root.delegate("foo", policy(1));
            // There is no daemon: whatever is sent fails for another reason.
            let identity = leaf(&tenant, &command, digest(b"another image"));
            let mut client = endpoint.connect(&identity).unwrap();
            let text = failure_text(&read_message(&mut client).unwrap());
            assert!(text.contains(&digest(IMAGE).to_string()), "{text}");
            assert!(text.contains(&digest(b"another image").to_string()));

            let identity = leaf(&tenant, &command, digest(IMAGE));
            let daemon = host.daemon("vmmd", endpoint::answer_all);
            let mut client = endpoint.connect(&identity).unwrap();
            assert_eq!(read_message(&mut client).unwrap().payload, success());
            daemon.wait();
            fs::remove_file(host.directory.root().join("util/vmmd.sock")).unwrap();
        }
    }
}

#[test]
fn a_refused_chain_gets_the_alert_of_its_fault() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let tenant = host.root.delegate("foo", policy(1));
    let server = host.root.server();
    let not_yet = host.root.leaf_with("x", info(), |params| {
        params.not_before = time::OffsetDateTime::now_utc() + time::Duration::minutes(5);
    });
    let mut unknown = tenant.leaf("x", info());
    unknown.chain.truncate(1);
    for (identity, alert, reason) in [
        (
            host.root.expired_leaf("x", info()),
            "certificate_expired",
            "a certificate expired at",
        ),
        (not_yet, "certificate_expired", "is not valid before"),
        (unknown, "unknown_ca", "no path leads"),
        (server, "bad_certificate", "is not for clients"),
        (
            deep(&host.root, 7),
            "bad_certificate",
            "more than six intermediate certificates",
        ),
    ] {
        let error = endpoint.rejection(&identity);
        assert!(error.to_string().contains(alert), "{reason}: {error}");
        let audit = endpoint.log("verdict=\"refused\"");
        assert!(audit.contains(reason), "{audit}");
        assert!(!audit.contains("certificates=\""), "{audit}");
    }
    // Six are possible.
    let daemon = host.daemon("vmmd", endpoint::answer_all);
    let mut client = endpoint.connect(&deep(&host.root, 6)).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    daemon.wait();
}

#[test]
fn a_certificate_that_is_too_large_is_refused_with_a_line_that_says_so() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let large = creates(false, &[7; 70_000]).remove(0);
    let identity = leaf(&host.root, &large, digest(b""));
    // Our own client would not show such a certificate.
    let key = rustls::crypto::ring::sign::any_supported_type(&identity.key_der()).unwrap();
    let shown = CertifiedKey::new(identity.chain.clone(), key);
    let resolver = Arc::new(SingleCertAndKey::from(shown));
    endpoint.raw_error(|config| config.with_client_cert_resolver(resolver));
    let audit = endpoint.log("verdict=");
    assert!(audit.contains("over 64 KiB"), "{audit}");
}

#[test]
fn a_chain_that_asks_for_nothing_allowed_is_told_why_after_the_handshake() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let tenant = host.root.delegate("not a label!", policy(1));
    let mut client = endpoint.connect(&tenant.leaf("x", info())).unwrap();
    let text = failure_text(&read_message(&mut client).unwrap());
    assert!(
        text.contains("common name of intermediate certificate 1"),
        "{text}"
    );
    assert!(read_message(&mut client).is_none(), "closed properly");
    let audit = Line::next(&endpoint);
    assert_eq!(audit["verdict"], "refused");
    assert_eq!(audit["certificates"], r"x,not\u{20}a\u{20}label!");
}

#[test]
fn every_connection_leaves_one_line_of_the_documented_grammar() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let tenant = host.root.delegate("Foo", policy(1));
    let identity = tenant.leaf("x", info());
    let fingerprint = digest(&identity.chain[0]).to_string();

    // Carried out, within the policy of a newer certificate.
    let daemon = host.daemon("vmmd", |mut connection| {
        let kept = receive(&mut connection);
        let answer = Payload::Reply(Success::ChainSet(vec!["foo:".into()]));
        reply(&mut connection, &kept, answer);
        let request = receive(&mut connection);
        reply(&mut connection, &request, success());
    });
    let mut client = endpoint.connect(&identity).unwrap();
    read_message(&mut client).unwrap();
    daemon.wait();
    drop(client);
    let line = Line::next(&endpoint);
    let serials: Vec<_> = line["serials"].split(',').collect();
    assert_eq!(serials.len(), 2);
    assert!(
        serials
            .iter()
            .all(|serial| serial.bytes().all(|byte| byte.is_ascii_hexdigit()))
    );
    for (key, value) in [
        ("certificates", "x,Foo"),
        ("fingerprint", &fingerprint),
        ("command", "unikernel-info"),
        ("name", "foo:x"),
        ("policy-kept", "foo:"),
        ("verdict", "success"),
    ] {
        assert_eq!(line[key], value);
    }
    assert!(!line.contains_key("reason"));

    // Refused by the daemon, by the endpoint, and in the handshake.
    let daemon = host.answering("vmmd", failure("no\" verdict=\"success"));
    let mut client = endpoint.connect(&host.root.leaf("x", info())).unwrap();
    read_message(&mut client).unwrap();
    daemon.wait();
    drop(client);
    assert_eq!(Line::next(&endpoint)["verdict"], "failure");

    let daemon = host.answering("vmmd", failure("no\" verdict=\"success\n"));
    let mut client = endpoint.connect(&identity).unwrap();
    read_message(&mut client).unwrap();
    daemon.wait();
    drop(client);
    let line = Line::next(&endpoint);
    assert_eq!(line["verdict"], "refused");
    assert!(line["reason"].contains(r"no\u{22} verdict\u{3d}\u{22}success\u{a}"));

    let stranger = Authority::root("root").leaf("x", info());
    endpoint.rejection(&stranger);
    let line = Line::next(&endpoint);
    assert_eq!(line["verdict"], "refused");
    assert_eq!(
        line["unverified-fingerprint"],
        digest(&stranger.chain[0]).to_string()
    );
    assert!(!line.contains_key("certificates") && !line.contains_key("fingerprint"));

    // Not TLS 1.3, closed at once.
    let mut old = endpoint.tcp();
    old.write_all(&tls12_hello()).unwrap();
    assert_eq!(Line::next(&endpoint)["verdict"], "refused");
    drop(old);
    drop(endpoint.tcp());
    assert_eq!(Line::next(&endpoint)["verdict"], "gone");
    assert!(endpoint.log.try_recv().is_err(), "nothing else was logged");

    let hasty = host.listen(&["--handshake-timeout=1"]);
    let idle = hasty.tcp();
    let line = Line::next(&hasty);
    assert!(line["reason"].contains("not completed in time"));
    assert_eq!(line["verdict"], "gone");
    assert_eq!(line["peer"], idle.local_addr().unwrap().to_string());
    drop(idle);
    assert!(hasty.log.try_recv().is_err(), "nothing else was logged");
}

#[test]
fn what_fails_on_this_host_is_broken_and_not_refused() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let tenant = host.root.delegate("foo", policy(1));
    let fails = |reason: &str| {
        let mut client = endpoint.connect(&tenant.leaf("x", info())).unwrap();
        let text = failure_text(&read_message(&mut client).unwrap());
        assert!(text.contains(reason), "{text}");
        drop(client);
        let line = Line::next(&endpoint);
        assert_eq!(line["verdict"], "broken");
        assert!(line["reason"].contains(reason), "{line:?}");
    };
    fails("the supervisor cannot be reached");
    // A supervisor of an older release does not know the message with the policies of a chain, and closes.
    let daemon = host.daemon("vmmd", |mut connection| {
        receive(&mut connection);
    });
    fails("of an older release that does not know them as a whole");
    daemon.wait();
    let daemon = host.daemon("vmmd", |mut connection| {
        let policy = receive(&mut connection);
        reply(&mut connection, &policy, success());
        receive(&mut connection);
    });
    fails("the supervisor ended without an answer");
    daemon.wait();
}

#[test]
fn connections_that_the_listener_closes_and_those_whose_process_dies_leave_a_line_too() {
    let host = Host::new();
    let endpoint = host.listen(&["--max-connections-per-source=1", "-v", "-v"]);
    let first = endpoint.tcp();
    let started = endpoint.log(": process ");
    let mut second = endpoint.tcp();
    assert!(!greets(&mut second));
    let line = Line::next(&endpoint);
    assert_eq!(line["peer"], second.local_addr().unwrap().to_string());
    assert_eq!(line["verdict"], "refused");
    let (_, rest) = started.split_once(": process ").unwrap();
    let (pid, _) = rest.split_once(',').unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let line = Line::next(&endpoint);
    assert_eq!(line["peer"], first.local_addr().unwrap().to_string());
    assert_eq!(line["verdict"], "broken");
}

#[test]
fn the_journal_gets_the_line_with_its_priority() {
    let host = Host::new();
    let log = host.directory.write("log", "");
    let file = File::create(&log).unwrap();
    let journal = file.metadata().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let (socket, _) = listener.accept().unwrap();
    let status = host
        .program(&["--inetd"])
        .env(
            "JOURNAL_STREAM",
            format!("{}:{}", journal.dev(), journal.ino()),
        )
        .stdin(OwnedFd::from(socket))
        .stderr(file)
        .status();
    assert!(status.unwrap().success());
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("<6>peer=\""), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn nothing_in_a_certificate_looks_like_a_field_of_the_line() {
    let host = Host::new();
    let endpoint = host.listen(&[]);
    let nasty = "x\" verdict=\"success\"\nname=y,\\\u{1b}[2J ü";
    let identity = host.root.delegate(nasty, policy(1)).leaf("x", info());
    let mut client = endpoint.connect(&identity).unwrap();
    read_message(&mut client).unwrap();
    let line = Line::next(&endpoint);
    assert_eq!(line["verdict"], "refused");
    assert_eq!(
        line["certificates"],
        concat!(
            r"x,x\u{22}\u{20}verdict\u{3d}\u{22}success\u{22}\u{a}name\u{3d}y\u{2c}\u{5c}",
            r"\u{1b}[2J\u{20}\u{fc}"
        )
    );
}

/// The fields of an audit line.
struct Line;

impl Line {
    /// Parses the next one by the grammar of petrel-tls(8).
    fn next(endpoint: &Endpoint) -> BTreeMap<String, String> {
        const KEYS: [&str; 11] = [
            "peer",
            "certificates",
            "serials",
            "fingerprint",
            "unverified-fingerprint",
            "command",
            "name",
            "policy-kept",
            "verdict",
            "reason",
            "ms",
        ];
        let line = endpoint.log("petrel-tls: peer=");
        let mut rest = line.strip_prefix("petrel-tls: ").unwrap();
        let mut fields = BTreeMap::new();
        let mut keys = KEYS.iter();
        loop {
            let (key, after) = rest.split_once('=').unwrap();
            assert!(keys.any(|known| *known == key), "{key} in {line}");
            if key == "ms" {
                after.parse::<u64>().unwrap();
                return fields;
            }
            let (value, after) = after.strip_prefix('"').unwrap().split_once('"').unwrap();
            let shown = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            assert!(value.bytes().all(shown), "{line}");
            assert!(
                value.replace(r"\u{", "").bytes().all(|byte| byte != b'\\'),
                "{line}"
            );
            assert!(
                !value.contains('=') && (key == "reason" || !value.contains(' ')),
                "{line}"
            );
            fields.insert(key.to_owned(), value.to_owned());
            rest = after.strip_prefix(' ').unwrap();
        }
    }
}

/// A leaf below so many intermediate certificates, one below the other.
fn deep(root: &Authority, intermediates: usize) -> Identity {
    let mut issuer = root.delegate("t", policy(1));
    for level in 1..intermediates {
        issuer = issuer.delegate(&format!("t{level}"), policy(1));
    }
    issuer.leaf("x", info())
}

/// The extensions with all forms of create and force-create of this image, those of older releases included.
fn creates(compressed: bool, image: &[u8]) -> Vec<Vec<u8>> {
    let current = config().to_wire(compressed, image.to_vec());
    let Config {
        typ,
        startup,
        add_name,
        fail_behaviour,
        memory,
        ..
    } = current.clone();
    let (cpuid, image) = (Int::new(0), Bytes(image.to_vec()));
    let v4 = ConfigV4 {
        typ: typ.clone(),
        compressed,
        image: image.clone(),
        startup,
        add_name,
        fail_behaviour: fail_behaviour.clone(),
        cpuid,
        memory,
        blocks: None,
        bridges: None,
        arguments: None,
    };
    let v3 = ConfigV3 {
        typ,
        compressed,
        image,
        fail_behaviour,
        cpuid,
        memory,
        blocks: None,
        bridges: None,
        arguments: None,
    };
    let current = rasn::der::encode(&current).unwrap();
    let v4 = rasn::der::encode(&v4).unwrap();
    let v3 = rasn::der::encode(&v3).unwrap();
    // The alternatives of WIRE 4: create, force-create, create-old2, force-create-old2, create-old, force-create-old.
    [
        (20, &current),
        (21, &current),
        (16, &v4),
        (17, &v4),
        (9, &v3),
        (10, &v3),
    ]
    .map(|(number, config)| {
        let command = element(0xa3, &element(0xa0 | number, config));
        element(0x30, &[&[2, 1, 5], &command[..]].concat())
    })
    .into()
}

/// A value of DER.
fn element(identifier: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let head = match length {
        [0, 0, 0, short] if short < 0x80 => vec![short],
        [0, 0, 0, length] => vec![0x81, length],
        [0, 0, high, low] => vec![0x82, high, low],
        [_, high, middle, low] => vec![0x83, high, middle, low],
    };
    [&[identifier], &head[..], content].concat()
}

/// A leaf with this extension, for this image only.
fn leaf(issuer: &Authority, extension: &[u8], image: ImageDigest) -> Identity {
    issuer.leaf_with("x", info(), |params| {
        let value = image_extension_value(&image);
        params.custom_extensions = vec![
            CustomExtension::from_oid_content(&numbers(&EXTENSION), extension.to_vec()),
            CustomExtension::from_oid_content(&numbers(&IMAGE_EXTENSION), value),
        ];
    })
}

fn digest(bytes: &[u8]) -> ImageDigest {
    ImageDigest(Sha256::digest(bytes).into())
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
