//! `petrel show`: every certificate, request, list and state that there is, in words.

use crate::support::{self, client};

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use client::{expect, petrel};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use petrel::authority::{Key, KeyType, create_request};
use petrel::policy::{Age, Policy, UNLIMITED};
use petrel::show;
use petrel::unikernel::{Config, FailBehaviour, Kind};
use petrel::wire::state::State;
use petrel::wire::{Command, UnikernelCommand};
use support::Directory;
use time::OffsetDateTime;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn json(file: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(vectors().join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The year for which the vectors were made.
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_893_456_000).unwrap()
}

fn directory(test: &str) -> Directory {
    Directory::new(&format!("show-{test}"))
}

#[test]
fn every_chain_of_the_vectors_is_shown_with_the_name_it_stands_for() {
    let cases = json("chains/chains.json");
    let mut named = 0;
    for case in &cases {
        let files = case["files"].as_array().unwrap();
        let text: String = files
            .iter()
            .map(|file| vectors().join("chains").join(file.as_str().unwrap()))
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        if text.is_empty() {
            continue;
        }
        let shown = show::file(text.as_bytes(), &[], now())
            .unwrap_or_else(|error| panic!("{}: {error}", case["id"]));
        let count = shown
            .lines()
            .filter(|line| line.starts_with("certificate: "));
        assert_eq!(count.count(), files.len(), "{}: {shown}", case["id"]);
        if let Some(name) = case["handle"]["ok"]["name"].as_str() {
            let line = format!("command for: {name} (");
            assert!(shown.contains(&line), "{}: {shown}", case["id"]);
            named += 1;
        }
    }
    assert!(named > 20, "only {named} names of {}", cases.len());
}

#[test]
fn every_state_of_the_vectors_is_shown() {
    let mut shown = 0;
    for case in json("state.json") {
        let Some(hex) = case["hex"].as_str() else {
            continue;
        };
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let result = show::file(&bytes, &[], now());
        if case["kind"] == "malformed" {
            assert!(result.is_err(), "{}", case["id"]);
        } else {
            let text = result.unwrap_or_else(|error| panic!("{}: {error}", case["id"]));
            assert!(text.starts_with("state of albatross\n"), "{text}");
            shown += 1;
        }
    }
    assert!(shown > 5, "only {shown} states");
    let recorded = fs::read(vectors().join("albatross-state.bin")).unwrap();
    let text = show::file(&recorded, &[], now()).unwrap();
    assert!(
        text.contains("unikernel: ") && text.contains("SHA-256"),
        "{text}"
    );
}

#[test]
fn a_state_of_ours_tells_which_certificates_are_too_old_for_their_policy() {
    let unlimited = Policy {
        unikernels: UNLIMITED,
        cpus: [0].into(),
        memory: 64,
        block: None,
        bridges: [].into(),
    };
    let state = State {
        policies: vec![("c".parse().unwrap(), unlimited)],
        ages: vec![("a:b".parse().unwrap(), Age::new(1_700_000_000))],
        forgotten: vec![("a".parse().unwrap(), Age::new(1_600_000_000))],
        ..State::default()
    };
    let text = show::file(&state.encode().unwrap(), &[], now()).unwrap();
    for line in [
        "policy: c: unlimited unikernels; 64 MB of memory; CPU ids 0; no block devices; no bridges",
        "newest certificate: a:b: valid from 2023-11-14T22:13:20Z; older ones set no policy",
        "newest certificate: and forgotten, below a: valid from 2020-09-13T12:26:40Z; older ones set no policy",
    ] {
        assert!(text.lines().any(|shown| shown.trim() == line), "{text}");
    }
}

#[test]
fn an_image_that_no_host_would_take_has_no_digest() {
    let mut stream = ZlibEncoder::new(Vec::new(), Compression::fast());
    stream.write_all(b"abc").unwrap();
    let stream = stream.finish().unwrap();
    let key = Key::generate(KeyType::Ed25519).unwrap();
    for (image, words) in [
        (stream.clone(), "bytes, SHA-256 ba7816bf"),
        (
            [&stream[..], b"TRAILING"].concat(),
            "cannot be unpacked: something follows",
        ),
        (stream[..stream.len() - 1].to_vec(), "cannot be unpacked: "),
    ] {
        let config = Config {
            kind: Kind::Solo5,
            startup: None,
            add_name: false,
            fail_behaviour: FailBehaviour::Quit,
            cpus: [0].into(),
            memory: 32,
            blocks: Vec::new(),
            nets: Vec::new(),
            arguments: Vec::new(),
            vcpus: 1,
            linux_boot_partition: None,
        };
        let command = Command::Unikernel(UnikernelCommand::Create(config.to_wire(true, image)));
        let der = create_request("web", &command, None, &key).unwrap();
        let request = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        let text = show::file(request.as_bytes(), &[], now()).unwrap();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_chain_counts_as_verified_from_its_root_only() {
    let directory = directory("verified");
    let chain = vectors().join("chains/cli-sub1-create");
    let read = |file: &str| fs::read_to_string(chain.join(file)).unwrap();
    directory.file("chain.pem", read("leaf.pem") + &read("inter1.pem"));
    directory.file("reversed.pem", read("inter1.pem") + &read("leaf.pem"));
    directory.file("twice.pem", read("leaf.pem").repeat(2));
    let root = chain.join("root.pem");
    expect(&directory.path(""), 0, &["generate", "root", "db"]);
    let other = directory.path("cacert.pem");
    for (file, trusted, verdict) in [
        ("chain.pem", None, "(not verified)"),
        (
            "chain.pem",
            Some(&root),
            "(signed from the trusted certificate down)",
        ),
        (
            "chain.pem",
            Some(&other),
            "(NOT signed by the trusted certificate)",
        ),
        ("reversed.pem", None, "of no use: "),
        ("twice.pem", Some(&root), "of no use: "),
    ] {
        let trusted = trusted.map(|path| format!("--cacert={}", path.display()));
        let mut command = vec!["show", file];
        command.extend(trusted.as_deref());
        let shown = expect(&directory.path(""), 0, &command).stdout;
        assert!(shown.contains(verdict), "{shown}");
    }
    let policy = chain.join("inter1.pem");
    let policy = policy.to_str().unwrap();
    let shown = expect(&directory.path(""), 0, &["show", policy]).stdout;
    assert!(shown.contains("policy of: "), "{shown}");
}

#[test]
fn of_a_private_key_nothing_secret_is_shown() {
    let directory = directory("keys");
    for (chain, kind) in [
        ("cli-info", "Ed25519, identifier"),
        ("cli-key-p256", "P-256, identifier unknown"),
        ("cli-key-p384", "P-384, identifier unknown"),
        ("cli-key-p521", "P-521 (not supported), identifier unknown"),
        ("cli-key-rsa2048", "RSA of 2048 bits, identifier"),
        ("cli-key-rsa4096", "RSA of 4096 bits, identifier"),
    ] {
        let key = vectors().join("chains").join(chain).join("leaf.key");
        let shown = expect(&directory.path(""), 0, &["show", key.to_str().unwrap()]).stdout;
        assert!(
            shown.starts_with(&format!("private key: {kind}")),
            "{shown}"
        );
        assert!(shown.len() < 100, "{shown}");
    }
    // The identifier is that of the certificate.
    let leaf = vectors().join("chains/cli-info/leaf");
    let show = |suffix: &str| {
        let file = leaf.with_extension(suffix);
        expect(&directory.path(""), 0, &["show", file.to_str().unwrap()]).stdout
    };
    let identifier = show("key")
        .trim_end()
        .rsplit_once(' ')
        .unwrap()
        .1
        .to_owned();
    assert!(show("pem").contains(&identifier));
    directory.file(
        "old.key",
        "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
    );
    let shown = expect(&directory.path(""), 0, &["show", "old.key"]).stdout;
    assert!(shown.contains("not readable here"), "{shown}");
}

#[test]
fn requests_and_several_files_and_standard_input_are_shown() {
    let directory = directory("requests");
    let policy = ["add-policy", "tenant", "4", "--mem=64", "--csr"];
    expect(&directory.path(""), 0, &policy);
    let shown = expect(
        &directory.path(""),
        0,
        &["show", "tenant.req", "tenant.key"],
    )
    .stdout;
    assert!(
        shown.contains("== tenant.req\nsigning request\n"),
        "{shown}"
    );
    assert!(shown.contains("signature: verifies"), "{shown}");
    assert!(
        shown.contains(
            "policy: 4 unikernels; 64 MB of memory; CPU ids 0; no block devices; no bridges"
        ),
        "{shown}"
    );
    assert!(
        shown.contains("== tenant.key\nprivate key: Ed25519"),
        "{shown}"
    );

    let request = fs::read(directory.path("tenant.req")).unwrap();
    for command in [&["show"][..], &["show", "--", "-"]] {
        let mut child = petrel(&directory.path(""), command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&request).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("signing request\n"), "{text}");
    }

    // A request whose signature is broken is shown, and that it will not be signed.
    let mut der = pem::parse(&request).unwrap().into_contents();
    *der.last_mut().unwrap() ^= 1;
    directory.file(
        "bad.req",
        pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)),
    );
    let shown = expect(&directory.path(""), 0, &["show", "bad.req"]).stdout;
    assert!(shown.contains("not to be signed: "), "{shown}");
}

#[test]
fn what_is_none_of_these_is_refused_by_name() {
    let directory = directory("refused");
    directory.file("garbage", b"\xff\x00garbage");
    directory.file("empty", "");
    directory.file("state", [0xa6, 0x06, 0x30, 0x04, 0x30, 0x00, 0x30]);
    directory.file(
        "bad.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    directory.file("half.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    for label in ["CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL"] {
        let form = pem::encode(&pem::Pem::new(label, [0x30, 3, 2, 1, 0]));
        let cut = pem::encode(&pem::Pem::new(label, [0x30, 0x82, 1, 0, 0x30]));
        directory.file(&format!("form {label}"), form);
        directory.file(&format!("cut {label}"), cut);
    }
    for file in [
        "garbage",
        "empty",
        "state",
        "bad.pem",
        "half.pem",
        "missing",
        "form CERTIFICATE",
        "form CERTIFICATE REQUEST",
        "form X509 CRL",
        "cut CERTIFICATE",
        "cut CERTIFICATE REQUEST",
        "cut X509 CRL",
    ] {
        let ended = expect(&directory.path(""), 124, &["show", file]);
        assert!(ended.stderr.contains(file), "{ended:?}");
        for insides in ["Parsing", "Der(", "Tag", "nom"] {
            assert!(!ended.stderr.contains(insides), "{ended:?}");
        }
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn no_wrong_byte_is_a_panic() {
    let directory = directory("bytes");
    expect(&directory.path(""), 0, &["generate", "root", "db"]);
    let policy = ["add-policy", "tenant", "4", "--mem=64", "--csr"];
    expect(&directory.path(""), 0, &policy);
    let revoke = ["revoke", "cacert.pem", "root.key", "db", "server"];
    expect(&directory.path(""), 0, &revoke);
    let chain = vectors().join("chains/cli-sub1-create");
    let state = vectors().join("albatross-state.bin");
    let text = fs::read(state).unwrap();
    for position in 0..text.len().min(512) {
        let mut wrong = text.clone();
        wrong[position] ^= 0x41;
        let _ = show::file(&wrong, &[], now());
    }
    for path in [
        chain.join("leaf.pem"),
        chain.join("leaf.key"),
        directory.path("tenant.req"),
        directory.path("cacert.crl"),
    ] {
        let block = pem::parse(fs::read(path).unwrap()).unwrap();
        for position in 0..block.contents().len() {
            for bits in [1, 0x80, 0xff] {
                let mut wrong = block.contents().to_vec();
                wrong[position] ^= bits;
                let wrong = pem::encode(&pem::Pem::new(block.tag(), wrong));
                let _ = show::file(wrong.as_bytes(), &[], now());
            }
        }
    }
}

#[test]
fn times_tell_whether_something_is_valid() {
    let leaf = fs::read(vectors().join("chains/cli-info/leaf.pem")).unwrap();
    let at = |seconds| {
        let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        show::file(&leaf, &[], now).unwrap()
    };
    assert!(at(0).contains("NOT YET VALID"));
    assert!(!at(1_893_456_000).contains("VALID"));
    assert!(at(99_999_999_999).contains("EXPIRED"));
}
