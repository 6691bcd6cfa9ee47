//! The certificate authority from outside: the real program in directories of its own.

use crate::support::{self, client};

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use client::{expect, petrel};
use petrel::authority::{
    self, Certificate, Issuer, Key, KeyType, Profile, Validity, create_request, read_chain,
};
use petrel::chain;
use petrel::chain::verify::{Anchor, Usage, verify};
use petrel::name::Label;
use petrel::unikernel::{Block, Config, FailBehaviour, ImageDigest, Kind, Mac, Net};
use petrel::wire::{self, PolicyCommand, UnikernelCommand};
use rustls::pki_types::{CertificateDer, UnixTime};
use support::{Directory, Ended, guest, on_path, run, skipped};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

const INFO: wire::Command = wire::Command::Unikernel(UnikernelCommand::Info(()));

fn directory(test: &str) -> Directory {
    Directory::new(&format!("authority-{test}"))
}

/// A directory with a root authority `root` and the certificate of a server.
fn generated(test: &str) -> Directory {
    let directory = directory(test);
    expect(&directory.path(""), 0, &["generate", "root", "db"]);
    directory
}

/// Delegates `tenant` with room for 4 unikernels and 256 MB.
fn delegate(directory: &Path) {
    let policy = [
        "add-policy",
        "tenant",
        "4",
        "--mem=256",
        "--cpu=0",
        "--cpu=1",
        "--bridge=service",
        "--csr",
    ];
    expect(directory, 0, &policy);
    expect(
        directory,
        0,
        &["sign", "cacert.pem", "db", "root.key", "tenant.req"],
    );
}

/// A request with any common name, as a hostile client might send it.
fn write_request(directory: &Directory, file: &str, name: &str, command: &wire::Command) {
    let key = Key::generate(KeyType::Ed25519).unwrap();
    let der = create_request(name, command, None, &key).unwrap();
    let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
    directory.file(file, text);
}

fn first(path: &Path) -> Certificate {
    read_chain(path).unwrap().remove(0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Names of all files, sorted.
fn files(directory: &Directory) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Object identifiers and criticality of all extensions, in their order.
fn extensions(certificate: &Certificate) -> Vec<(String, bool)> {
    let (_, parsed) = X509Certificate::from_der(&certificate.der).unwrap();
    parsed
        .extensions()
        .iter()
        .map(|extension| (extension.oid.to_id_string(), extension.critical))
        .collect()
}

fn value(certificate: &Certificate, oid: &str) -> Vec<u8> {
    let (_, parsed) = X509Certificate::from_der(&certificate.der).unwrap();
    let found = parsed
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == oid);
    found.unwrap().value.to_vec()
}

const COMMAND: (&str, bool) = ("1.3.6.1.4.1.49836.42", false);
const SUBJECT_KEY: (&str, bool) = ("2.5.29.14", false);
const KEY_USAGE: (&str, bool) = ("2.5.29.15", true);
const CONSTRAINTS: (&str, bool) = ("2.5.29.19", true);
const ISSUER_KEY: (&str, bool) = ("2.5.29.35", false);
const PURPOSE: (&str, bool) = ("2.5.29.37", true);

#[test]
fn generate_makes_an_authority_and_a_server() {
    let directory = generated("generate");
    let expected = ["cacert.pem", "db", "root.key", "server.key", "server.pem"];
    assert_eq!(files(&directory), expected);
    for key in ["root.key", "server.key"] {
        assert_eq!(mode(&directory.path(key)), 0o400);
    }
    let root = first(&directory.path("cacert.pem"));
    assert!(root.is_self_signed() && root.is_authority);
    assert_eq!(root.not_after - root.not_before, 3650 * 86_400 + 10);
    let server = first(&directory.path("server.pem"));
    assert_eq!(server.issuer, root.subject);
    assert_eq!(server.not_after - server.not_before, 365 * 86_400 + 10);
    // The server is in the list, the root is not.
    let listed = fs::read_to_string(directory.path("db")).unwrap();
    let key = hex(&value(&server, SUBJECT_KEY.0)[2..]);
    let issuer = hex(&authority::key_identifier(&root.public_bits));
    let line = format!("{} server\tserver {key} {issuer}\n", server.serial);
    assert_eq!(listed, line);
}

#[test]
fn every_profile_has_exactly_the_extensions_of_the_table() {
    let directory = generated("profiles");
    delegate(&directory.path(""));
    expect(&directory.path(""), 0, &["info", "--name=web", "--csr"]);
    let sign = ["sign", "tenant.pem", "db", "tenant.key", "web.req"];
    expect(&directory.path(""), 0, &sign);

    let named = |list: &[(&str, bool)]| -> Vec<(String, bool)> {
        list.iter()
            .map(|(oid, critical)| ((*oid).to_owned(), *critical))
            .collect()
    };
    let root = first(&directory.path("cacert.pem"));
    let tenant = first(&directory.path("tenant.pem"));
    let leaf = first(&directory.path("web.pem"));
    let server = first(&directory.path("server.pem"));
    let authority = [COMMAND, SUBJECT_KEY, KEY_USAGE, CONSTRAINTS, ISSUER_KEY];
    let client = [
        COMMAND,
        SUBJECT_KEY,
        KEY_USAGE,
        CONSTRAINTS,
        ISSUER_KEY,
        PURPOSE,
    ];
    assert_eq!(extensions(&root), named(&[KEY_USAGE, CONSTRAINTS]));
    assert_eq!(extensions(&tenant), named(&authority));
    assert_eq!(extensions(&leaf), named(&client));
    assert_eq!(extensions(&server), named(&client[1..]));
    for (certificate, usage, constraints) in [
        (&root, 0xc6, &[0x30, 3, 1, 1, 0xff][..]),
        (&tenant, 0xc6, &[0x30, 3, 1, 1, 0xff]),
        (&leaf, 0xa0, &[0x30, 0]),
        (&server, 0xa0, &[0x30, 0]),
    ] {
        assert_eq!(value(certificate, KEY_USAGE.0), [3, 3, 7, usage, 0]);
        assert_eq!(value(certificate, CONSTRAINTS.0), constraints);
        let bytes = certificate.serial.len() / 2;
        assert!((10..=11).contains(&bytes), "{}", certificate.serial);
    }
    // The issuer's key identifier is the one its own certificate states.
    assert_eq!(
        value(&leaf, ISSUER_KEY.0)[4..],
        value(&tenant, SUBJECT_KEY.0)[2..]
    );
    // RFC 5280 4.2.1.12: id-kp-serverAuth ends in 1, id-kp-clientAuth in 2.
    assert_eq!(value(&server, PURPOSE.0).last(), Some(&1));
    assert_eq!(value(&leaf, PURPOSE.0).last(), Some(&2));
}

#[test]
fn a_profile_is_byte_by_byte_that_of_albatross() {
    let vectors =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/chains/cli-sub1-create");
    let directory = generated("same");
    delegate(&directory.path(""));
    let theirs = first(&vectors.join("inter1.pem"));
    let ours = first(&directory.path("tenant.pem"));
    assert_eq!(extensions(&ours), extensions(&theirs));
    for oid in [KEY_USAGE.0, CONSTRAINTS.0] {
        assert_eq!(value(&ours, oid), value(&theirs, oid));
    }
    // Their key identifiers are computed from their keys as ours are: an authority of theirs issues for us.
    for (file, text) in [("a.pem", "root.pem"), ("a.key", "root.key")] {
        directory.file(file, fs::read(vectors.join(text)).unwrap());
    }
    expect(&directory.path(""), 0, &["info", "--csr", "--name=x"]);
    expect(
        &directory.path(""),
        0,
        &["sign", "a.pem", "db", "a.key", "x.req"],
    );
    let issued = first(&directory.path("x.pem"));
    assert_eq!(value(&issued, ISSUER_KEY.0), value(&theirs, ISSUER_KEY.0));
}

#[test]
fn a_signed_chain_says_what_was_asked_for() {
    let directory = generated("chain");
    delegate(&directory.path(""));
    expect(&directory.path(""), 0, &["destroy", "Web", "--csr"]);
    let sign = ["sign", "tenant.pem", "db", "tenant.key", "web.req"];
    expect(&directory.path(""), 0, &sign);
    let path = read_chain(&directory.path("web.pem")).unwrap();
    assert_eq!(path.len(), 2, "the leaf and its issuer, without the root");
    assert_eq!(read_chain(&directory.path("tenant.pem")).unwrap().len(), 1);
    let path: Vec<_> = path
        .into_iter()
        .map(|certificate| certificate.der)
        .collect();
    let request = chain::request(&path).unwrap();
    assert_eq!(request.name.to_string(), "tenant:web");
    assert_eq!(
        request.command,
        wire::Command::Unikernel(UnikernelCommand::Destroy(()))
    );
    assert_eq!(request.policies.len(), 1);
    let leaf = first(&directory.path("web.pem"));
    assert_eq!(leaf.not_after - leaf.not_before, 86_400 + 10);
    let listed = fs::read_to_string(directory.path("db")).unwrap();
    let last = listed.lines().last().unwrap();
    assert!(last.starts_with(&format!("{} web\tclient ", leaf.serial)));
}

#[test]
fn an_authority_two_levels_down_signs_with_its_file_as_it_is() {
    let directory = generated("levels");
    delegate(&directory.path(""));
    expect(
        &directory.path(""),
        0,
        &["add-policy", "team", "2", "--mem=128", "--csr"],
    );
    expect(
        &directory.path(""),
        0,
        &["sign", "tenant.pem", "db", "tenant.key", "team.req"],
    );
    expect(&directory.path(""), 0, &["info", "--csr"]);
    expect(
        &directory.path(""),
        0,
        &["sign", "team.pem", "db", "team.key", "_path.req"],
    );
    let path = read_chain(&directory.path("_path.pem")).unwrap();
    let path: Vec<_> = path
        .into_iter()
        .map(|certificate| certificate.der)
        .collect();
    let request = chain::request(&path).unwrap();
    assert_eq!(request.name.to_string(), "tenant:team:");
    assert_eq!(request.policies.len(), 2);
}

#[test]
fn openssl_verifies_what_was_issued_with_every_type_of_key() {
    if on_path("openssl").is_none() {
        skipped("certificates against openssl verify", "there is no openssl");
        return;
    }
    for key_type in ["ed25519", "p256", "p384", "rsa2048", "rsa4096"] {
        let directory = directory(&format!("openssl-{key_type}"));
        if key_type == "rsa4096" {
            // It takes seconds to make one: all use the same.
            let key = Key::generate(KeyType::Rsa4096).unwrap();
            let text = pem::encode(&pem::Pem::new("PRIVATE KEY", key.pkcs8()));
            for name in ["root", "server", "tenant", "web"] {
                directory.file(&format!("{name}.key"), &text);
            }
        }
        let key_type = format!("--key-type={key_type}");
        expect(
            &directory.path(""),
            0,
            &["generate", "root", "db", &key_type],
        );
        let policy = ["add-policy", "tenant", "4", "--csr", &key_type];
        expect(&directory.path(""), 0, &policy);
        expect(
            &directory.path(""),
            0,
            &["sign", "cacert.pem", "db", "root.key", "tenant.req"],
        );
        expect(
            &directory.path(""),
            0,
            &["info", "-n", "web", "--csr", &key_type],
        );
        expect(
            &directory.path(""),
            0,
            &["sign", "tenant.pem", "db", "tenant.key", "web.req"],
        );
        let openssl = |arguments: &[&str]| {
            let ended = run(Command::new("openssl")
                .args(arguments)
                .current_dir(directory.path("")));
            assert_eq!(ended.code(), 0, "{arguments:?}: {ended:?}");
        };
        openssl(&[
            "verify",
            "-CAfile",
            "cacert.pem",
            "-purpose",
            "sslserver",
            "server.pem",
        ]);
        let verify = [
            "verify",
            "-CAfile",
            "cacert.pem",
            "-untrusted",
            "web.pem",
            "-purpose",
            "sslclient",
            "web.pem",
        ];
        openssl(&verify);
        openssl(&["req", "-verify", "-noout", "-in", "web.req"]);
        openssl(&["pkey", "-noout", "-in", "web.key"]);
        expect(
            &directory.path(""),
            0,
            &["revoke", "cacert.pem", "root.key", "db", "tenant"],
        );
        openssl(&[
            "crl",
            "-noout",
            "-in",
            "cacert.crl",
            "-CAfile",
            "cacert.pem",
        ]);
        let verify = ["verify", "-CAfile", "cacert.pem", "-CRLfile", "cacert.crl"];
        openssl(&[&verify[..], &["-crl_check", "server.pem"]].concat());
        let ended = run(Command::new("openssl")
            .args(verify)
            .args(["-crl_check", "tenant.pem"])
            .current_dir(directory.path("")));
        assert!(ended.stderr.contains("revoked"), "{ended:?}");
    }
}

#[test]
fn keys_are_kept_and_certificates_replaced_only_when_asked() {
    let directory = generated("keep");
    let before = |file: &str| fs::read(directory.path(file)).unwrap();
    let all = ["root.key", "server.key", "cacert.pem", "server.pem", "db"];
    let contents = all.map(before);
    let ended = expect(&directory.path(""), 124, &["generate", "root", "db"]);
    assert!(ended.stderr.contains("--force"), "{ended:?}");
    assert_eq!(all.map(before), contents);

    expect(
        &directory.path(""),
        0,
        &["generate", "root", "db", "--force"],
    );
    let after = all.map(before);
    assert_eq!(after[..2], contents[..2], "the keys");
    assert_ne!(after[2..], contents[2..], "the certificates");

    delegate(&directory.path(""));
    let sign = ["sign", "cacert.pem", "db", "root.key", "tenant.req"];
    let listed = before("db");
    expect(&directory.path(""), 124, &sign);
    assert_eq!(before("db"), listed, "nothing was issued");
    expect(&directory.path(""), 0, &[&sign[..], &["--force"]].concat());
}

#[test]
fn a_key_that_is_no_key_is_never_overwritten() {
    let directory = directory("broken");
    directory.file("root.key", "no key");
    expect(&directory.path(""), 124, &["generate", "root", "db"]);
    assert_eq!(files(&directory), ["db", "root.key"]);
    assert_eq!(fs::read(directory.path("root.key")).unwrap(), b"no key");
}

#[test]
fn without_a_list_of_what_is_issued_nothing_is_generated() {
    let directory = directory("no-list");
    let ended = expect(&directory.path(""), 124, &["generate", "root", "none/db"]);
    assert!(ended.stderr.contains("none/db"), "{ended:?}");
    assert!(files(&directory).is_empty());
    // The second attempt does not find leftovers of the first.
    expect(&directory.path(""), 0, &["generate", "root", "db"]);
    // A certificate would take the place of the list.
    let server = ["generate", "root", "server.pem", "--force"];
    let before = fs::read(directory.path("server.pem")).unwrap();
    expect(&directory.path(""), 124, &server);
    assert_eq!(fs::read(directory.path("server.pem")).unwrap(), before);
}

#[test]
fn a_key_that_exists_is_used_and_another_type_than_asked_for_is_told() {
    let directory = directory("type");
    let generate = ["generate", "root", "db", "--key-type=p384"];
    let ended = expect(&directory.path(""), 0, &generate);
    assert_eq!(ended.stderr, "");
    let again = [&generate[..3], &["--force", "--key-type=p256"]].concat();
    let ended = expect(&directory.path(""), 0, &again);
    for key in ["'root.key'", "'server.key'"] {
        assert!(ended.stderr.contains(key), "{ended:?}");
    }
    assert!(ended.stderr.contains("not of the type p256"), "{ended:?}");
    let quietly = [&again[..], &["-q"]].concat();
    assert_eq!(expect(&directory.path(""), 0, &quietly).stderr, "");

    let info = ["info", "--csr", "-n", "web"];
    expect(&directory.path(""), 0, &info);
    let ended = expect(&directory.path(""), 0, &info);
    assert_eq!(ended.stderr, "");
    for other in ["p256", "p384", "rsa2048"] {
        let option = format!("--key-type={other}");
        let ended = expect(&directory.path(""), 0, &[&info[..], &[&option]].concat());
        assert!(
            ended.stderr.contains(&format!("not of the type {other}")),
            "{ended:?}"
        );
    }
}

#[test]
fn a_key_on_p521_is_named_wherever_it_is_met() {
    if on_path("openssl").is_none() {
        return skipped("keys on P-521", "openssl is not on PATH");
    }
    let directory = generated("p521");
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let command = command
            .args(arguments.split(' '))
            .current_dir(directory.path(""));
        assert_eq!(run(command).code(), 0, "openssl {arguments}");
    };
    openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out big.key");
    openssl("req -new -key big.key -subj /CN=big -out big.req");
    let sign = ["sign", "cacert.pem", "db", "root.key", "big.req"];
    let with_key = ["sign", "cacert.pem", "db", "big.key", "big.req"];
    let shown = ["info", "--csr", "-n", "big"];
    for command in [&sign[..], &with_key, &shown] {
        let ended = expect(&directory.path(""), 124, command);
        assert!(ended.stderr.contains("P-521"), "{ended:?}");
    }
    let ended = expect(&directory.path(""), 0, &["show", "big.req"]);
    assert!(
        ended.stdout.contains("P-521, which is not supported"),
        "{ended:?}"
    );
}

#[test]
fn a_foreign_key_signs_nothing() {
    let directory = generated("foreign");
    expect(&directory.path(""), 0, &["info", "--csr", "-n", "web"]);
    let ended = expect(
        &directory.path(""),
        124,
        &["sign", "cacert.pem", "db", "server.key", "web.req"],
    );
    assert!(ended.stderr.contains("does not belong"), "{ended:?}");
    // A server is no authority, even with its own key.
    let ended = expect(
        &directory.path(""),
        124,
        &["sign", "server.pem", "db", "server.key", "web.req"],
    );
    assert!(ended.stderr.contains("authority"), "{ended:?}");
    assert!(!directory.path("web.pem").exists());
}

#[test]
fn a_name_that_is_no_label_signs_nothing() {
    let directory = generated("names");
    let before = files(&directory);
    for name in [
        "../../x",
        "/etc/x",
        "a/b",
        "",
        "-x",
        "a:b",
        "x y",
        "x\n0 y",
        &"x".repeat(64),
    ] {
        write_request(&directory, "bad.req", name, &INFO);
        let sign = ["sign", "cacert.pem", "db", "root.key", "bad.req"];
        expect(&directory.path(""), 124, &sign);
        fs::remove_file(directory.path("bad.req")).unwrap();
        assert_eq!(files(&directory), before, "{name:?}");
    }
    // Names of files that are there already do not help either.
    write_request(&directory, "bad.req", "cacert", &INFO);
    let root = fs::read(directory.path("cacert.pem")).unwrap();
    expect(
        &directory.path(""),
        124,
        &["sign", "cacert.pem", "db", "root.key", "bad.req"],
    );
    assert_eq!(fs::read(directory.path("cacert.pem")).unwrap(), root);
}

#[test]
fn nothing_beyond_the_policy_of_the_authority_is_signed() {
    let directory = generated("beyond");
    delegate(&directory.path(""));
    let image = guest("net.spt");
    let image = image.to_str().unwrap();
    let refused: [(&str, &[&str], &str); 7] = [
        (
            "team",
            &["add-policy", "team", "5", "--mem=128"],
            "unikernels",
        ),
        ("team", &["add-policy", "team", "1", "--mem=257"], "memory"),
        (
            "team",
            &["add-policy", "team", "1", "--mem=64", "--cpu=2"],
            "CPU",
        ),
        (
            "team",
            &["add-policy", "team", "1", "--mem=64", "--network=other"],
            "bridges",
        ),
        (
            "team",
            &["add-policy", "team", "1", "--mem=64", "--block=1"],
            "block",
        ),
        (
            "web",
            &["create", "web", image, "--net=service", "--mem=300"],
            "memory",
        ),
        (
            "web",
            &["create", "web", image, "--net=service:other"],
            "bridges",
        ),
    ];
    for (name, arguments, reason) in refused {
        expect(&directory.path(""), 0, &[arguments, &["--csr"]].concat());
        let request = format!("{name}.req");
        let sign = ["sign", "tenant.pem", "db", "tenant.key", &request];
        let ended = expect(&directory.path(""), 124, &sign);
        assert!(ended.stderr.contains(reason), "{arguments:?}: {ended:?}");
        assert!(!directory.path(&format!("{name}.pem")).exists());
    }
    expect(
        &directory.path(""),
        0,
        &["create", "web", image, "--net=service", "--cpu=1", "--csr"],
    );
    expect(
        &directory.path(""),
        0,
        &["sign", "tenant.pem", "db", "tenant.key", "web.req"],
    );
}

#[test]
fn useless_and_forbidden_commands_are_not_signed() {
    let directory = generated("useless");
    for useless in [["0", "--mem=64"], ["1", "--mem=16"]] {
        let add = [&["add-policy", "team", "--csr"], &useless[..]].concat();
        expect(&directory.path(""), 124, &add);
    }
    let useless = wire::Policy {
        cpuids: Vec::new(),
        unikernels: 1_u64.into(),
        memory: 64_u64.into(),
        block: None,
        bridges: Vec::new(),
    };
    for command in [
        wire::Command::Policy(PolicyCommand::Add(useless)),
        wire::Command::Policy(PolicyCommand::Remove(())),
        wire::Command::Statistics(wire::StatsCommand::Initial(())),
    ] {
        write_request(&directory, "bad.req", "bad", &command);
        expect(
            &directory.path(""),
            124,
            &["sign", "cacert.pem", "db", "root.key", "bad.req"],
        );
        assert!(!directory.path("bad.pem").exists());
    }
}

#[test]
fn a_certificate_ends_with_its_issuer() {
    let directory = directory("clipped");
    expect(
        &directory.path(""),
        0,
        &["generate", "root", "db", "--days=2", "--server-days=1"],
    );
    expect(
        &directory.path(""),
        0,
        &["add-policy", "tenant", "4", "--csr"],
    );
    expect(
        &directory.path(""),
        0,
        &[
            "sign",
            "cacert.pem",
            "db",
            "root.key",
            "tenant.req",
            "--days",
            "500",
        ],
    );
    let root = first(&directory.path("cacert.pem"));
    let tenant = first(&directory.path("tenant.pem"));
    assert_eq!(tenant.not_after, root.not_after);
    assert!(tenant.not_before >= root.not_before);
    for days in ["--days=0", "--days=36526", "--days=x", "--days=-1"] {
        let sign = [
            "sign",
            "cacert.pem",
            "db",
            "root.key",
            "tenant.req",
            "--force",
            days,
        ];
        expect(&directory.path(""), 124, &sign);
    }
}

#[test]
fn a_request_without_a_command_is_for_a_server_only_if_that_is_asked_for() {
    let directory = generated("server");
    write_server_request(&directory);
    let ended = sign(&directory, 124, "root", "other", &[]);
    assert!(ended.stderr.contains("--server"), "{ended:?}");
    assert!(!directory.path("other.pem").exists());
    let ended = sign(&directory, 0, "root", "other", &["--server"]);
    assert!(ended.stderr.contains("OF A SERVER"), "{ended:?}");
    let server = first(&directory.path("other.pem"));
    assert_eq!(
        extensions(&server),
        extensions(&first(&directory.path("server.pem")))
    );
}

#[test]
fn warnings_can_be_silenced() {
    let directory = generated("silent");
    write_server_request(&directory);
    let sign = [
        "sign",
        "cacert.pem",
        "db",
        "root.key",
        "other.req",
        "--force",
        "--server",
    ];
    let policy = ["add-policy", "team", "1", "--csr"];
    for (option, silent) in [
        ("-q", true),
        ("--verbosity=quiet", true),
        ("--verbosity=error", true),
        ("--verbosity=info", false),
        ("--color=always", false),
    ] {
        for command in [&sign[..], &policy] {
            let ended = expect(&directory.path(""), 0, &[command, &[option]].concat());
            assert_eq!(ended.stderr.is_empty(), silent, "{option}: {ended:?}");
        }
    }
    for option in ["--verbosity=nonsense", "--verbosity=", "--color=nonsense"] {
        let ended = expect(&directory.path(""), 124, &[&policy[..], &[option]].concat());
        assert!(ended.stderr.contains("there are"), "{ended:?}");
    }
}

#[test]
fn a_tenant_cannot_issue_a_server() {
    let directory = generated("tenants-server");
    delegate(&directory.path(""));
    write_server_request(&directory);
    let sign = ["sign", "tenant.pem", "db", "tenant.key", "other.req"];
    let ended = expect(&directory.path(""), 124, &sign);
    assert!(ended.stderr.contains("carries a policy"), "{ended:?}");
    assert!(!directory.path("other.pem").exists());
}

#[test]
fn a_request_with_a_command_is_not_signed_for_a_server() {
    let directory = generated("no-server");
    expect(&directory.path(""), 0, &["info", "-n", "web", "--csr"]);
    let ended = sign(&directory, 124, "root", "web", &["--server"]);
    assert!(ended.stderr.contains("'unikernel info'"), "{ended:?}");
}

/// A request that carries no command.
fn write_server_request(directory: &Directory) {
    let key = Key::generate(KeyType::P256).unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = authority::common_name("other");
    let pair = rcgen::KeyPair::try_from(key.pkcs8()).unwrap();
    let request = parameters.serialize_request(&pair).unwrap();
    directory.file("other.req", request.pem().unwrap());
}

#[test]
fn requests_that_are_none_are_refused() {
    let directory = generated("requests");
    write_request(&directory, "good.req", "good", &INFO);
    let good = fs::read_to_string(directory.path("good.req")).unwrap();
    let certificate = fs::read_to_string(directory.path("cacert.pem")).unwrap();
    let cases = [
        "",
        "garbage",
        &good.repeat(2),
        &certificate,
        &good.replace("REQUEST", "REQUESTS"),
    ];
    for text in cases {
        directory.file("bad.req", text);
        let ended = expect(
            &directory.path(""),
            124,
            &["sign", "cacert.pem", "db", "root.key", "bad.req"],
        );
        assert!(ended.stderr.contains("bad.req"), "{ended:?}");
    }
    let ended = expect(
        &directory.path(""),
        124,
        &["sign", "cacert.pem", "db", "root.key", "missing.req"],
    );
    assert!(ended.stderr.contains("missing.req"), "{ended:?}");
}

#[test]
fn the_files_of_a_request_are_named_after_its_label() {
    let directory = directory("csr");
    let ended = expect(&directory.path(""), 0, &["destroy", "web", "--csr"]);
    assert!(ended.stdout.contains("web.req"), "{ended:?}");
    assert_eq!(files(&directory), ["web.key", "web.req"]);
    let key = fs::read(directory.path("web.key")).unwrap();
    expect(&directory.path(""), 0, &["info", "-n", "web", "--csr"]);
    assert_eq!(fs::read(directory.path("web.key")).unwrap(), key);
    for refused in [
        &["destroy", "foo:web", "--csr"][..],
        &["add-policy", "foo:bar", "1", "--csr"],
        &["add-policy", ":", "1", "--csr"],
        &["remove-policy", "--csr"],
        &["policy", "--path=foo", "--csr"],
        &["inactive-consoles", "--path=foo", "--csr"],
        &["info", "-n", "foo:", "--csr"],
        &["info", "-n", "x", "--csr", "--key-type=p521"],
    ] {
        let ended = expect(&directory.path(""), 124, refused);
        assert!(ended.stderr.starts_with("petrel: "), "{ended:?}");
        let path = ended.stderr.contains("'foo:' has a path");
        assert_eq!(
            path,
            ended.stderr.contains("give no name or path"),
            "{ended:?}"
        );
    }
    assert_eq!(files(&directory), ["web.key", "web.req"]);
    assert!("..".parse::<Label>().is_ok());
}

#[test]
fn names_of_authorities_stay_in_the_directory() {
    let directory = directory("root-names");
    for name in ["../x", "a/b", "", ".x", "a\nb", &"x".repeat(65)] {
        expect(&directory.path(""), 124, &["generate", name, "db"]);
    }
    for server in ["--server=root", "--server=cacert", "--server=a/b"] {
        expect(
            &directory.path(""),
            124,
            &["generate", "root", "db", server],
        );
    }
    assert!(files(&directory).is_empty());
    expect(
        &directory.path(""),
        0,
        &["generate", "my root", "db", "--server=host.example"],
    );
}

/// Signs `name.req` with the authority of these files.
fn sign(directory: &Directory, code: i32, authority: &str, name: &str, options: &[&str]) -> Ended {
    let request = format!("{name}.req");
    let (certificate, key) = match authority {
        "root" => ("cacert.pem".to_owned(), "root.key".to_owned()),
        other => (format!("{other}.pem"), format!("{other}.key")),
    };
    let command = ["sign", &certificate, "db", &key, &request];
    expect(&directory.path(""), code, &[&command[..], options].concat())
}

#[test]
fn six_authorities_below_the_root_are_the_most() {
    let directory = generated("depth");
    let path = |name: &str| directory.path(&format!("{name}.pem"));
    let mut authority = "root".to_owned();
    for level in 1..=6 {
        let name = format!("l{level}");
        expect(&directory.path(""), 0, &["add-policy", &name, "1", "--csr"]);
        sign(&directory, 0, &authority, &name, &[]);
        assert_eq!(read_chain(&path(&name)).unwrap().len(), level);
        authority = name;
    }
    expect(&directory.path(""), 0, &["add-policy", "l7", "1", "--csr"]);
    let ended = sign(&directory, 124, &authority, "l7", &[]);
    assert!(ended.stderr.contains("more than the 6"), "{ended:?}");
    assert!(!path("l7").exists());

    expect(&directory.path(""), 0, &["info", "-n", "web", "--csr"]);
    sign(&directory, 0, &authority, "web", &[]);
    let chain: Vec<CertificateDer<'_>> = read_chain(&path("web"))
        .unwrap()
        .into_iter()
        .map(|certificate| certificate.der.into())
        .collect();
    let root = Anchor::new(&first(&directory.path("cacert.pem")).der.into()).unwrap();
    let verified = verify(
        &chain[0],
        &chain[1..],
        &[root],
        UnixTime::now(),
        Usage::Client,
    );
    let request = chain::request(&verified.unwrap()).unwrap();
    assert_eq!(request.name.to_string(), "l1:l2:l3:l4:l5:l6:web");
}

#[test]
fn a_file_of_an_authority_must_be_a_chain() {
    let directory = generated("links");
    delegate(&directory.path(""));
    let root = fs::read_to_string(directory.path("cacert.pem")).unwrap();
    let tenant = fs::read_to_string(directory.path("tenant.pem")).unwrap();
    expect(&directory.path(""), 0, &["info", "-n", "web", "--csr"]);
    // With the root in it, too, which is not sent along.
    directory.file("whole.pem", format!("{tenant}{root}"));
    fs::copy(directory.path("tenant.key"), directory.path("whole.key")).unwrap();
    sign(&directory, 0, "whole", "web", &[]);
    assert_eq!(read_chain(&directory.path("web.pem")).unwrap().len(), 2);

    let other = generated("links-other");
    let other = fs::read_to_string(other.path("cacert.pem")).unwrap();
    // An authority that may revoke and not sign.
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    directory.file("revoker.pem", parameters.self_signed(&pair).unwrap().pem());
    directory.file("revoker.key", pair.serialize_pem());
    let ended = sign(&directory, 124, "revoker", "web", &["--force"]);
    assert!(ended.stderr.contains("keyCertSign"), "{ended:?}");

    for wrong in [&other, &tenant] {
        directory.file("whole.pem", format!("{tenant}{wrong}"));
        let ended = sign(&directory, 124, "whole", "web", &["--force"]);
        assert!(ended.stderr.contains("certificate 1: "), "{ended:?}");
    }
}

#[test]
fn the_policy_of_every_authority_in_the_chain_counts() {
    let directory = generated("every-policy");
    delegate(&directory.path(""));
    // An authority that had more signed than it may, by other means.
    let tenant =
        Issuer::load(&directory.path("tenant.pem"), &directory.path("tenant.key")).unwrap();
    let key = Key::generate(KeyType::Ed25519).unwrap();
    let policy = wire::Policy {
        cpuids: vec![0_u64.into(), 7_u64.into()],
        unikernels: 9_u64.into(),
        memory: 9999_u64.into(),
        block: None,
        bridges: Vec::new(),
    };
    let greedy = tenant
        .issue(
            authority::common_name("greedy"),
            &key.public_key_info(),
            &Profile::Intermediate(wire::Command::Policy(PolicyCommand::Add(policy))),
            Validity::days(OffsetDateTime::now_utc(), 1).unwrap(),
        )
        .unwrap();
    let chain = [&[greedy], tenant.chain()].concat();
    directory.file("greedy.pem", authority::to_pem(&chain));
    let text = pem::encode(&pem::Pem::new("PRIVATE KEY", key.pkcs8()));
    directory.file("greedy.key", text);

    let image = guest("hello.spt");
    let create = ["create", "web", image.to_str().unwrap(), "--csr"];
    for (excess, reason) in [("--mem=300", "memory"), ("--cpu=7", "CPU")] {
        expect(&directory.path(""), 0, &[&create[..], &[excess]].concat());
        let ended = sign(&directory, 124, "greedy", "web", &[]);
        assert!(ended.stderr.contains(reason), "{ended:?}");
        // Nor for a command that is sent at once.
        let send = ["--ca=greedy.pem", "--ca-key=greedy.key", "-d", "-", excess];
        let ended = expect(
            &directory.path(""),
            124,
            &[&create[..3], &send[..]].concat(),
        );
        assert!(ended.stderr.contains(reason), "{ended:?}");
    }
    expect(&directory.path(""), 0, &create);
    sign(&directory, 0, "greedy", "web", &[]);
}

#[test]
fn a_validity_may_be_given_in_hours_and_a_shorter_one_is_told() {
    let directory = generated("hours");
    expect(&directory.path(""), 0, &["info", "-n", "web", "--csr"]);
    let ended = sign(&directory, 0, "root", "web", &["--hours=3"]);
    assert_eq!(ended.stderr, "");
    let leaf = first(&directory.path("web.pem"));
    assert_eq!(leaf.not_after - leaf.not_before, 3 * 3600 + 10);
    let ended = sign(&directory, 0, "root", "web", &["--days=4000", "--force"]);
    assert!(ended.stderr.contains("earlier than requested"), "{ended:?}");
    for wrong in [
        &["--hours=1", "--days=1"][..],
        &["--hours=0"],
        &["--hours=876601"],
    ] {
        sign(
            &directory,
            124,
            "root",
            "web",
            &[wrong, &["--force"]].concat(),
        );
    }
}

#[test]
fn the_authority_does_not_overwrite_itself() {
    let directory = generated("itself");
    delegate(&directory.path(""));
    write_request(&directory, "bad.req", "tenant", &INFO);
    let before = fs::read(directory.path("tenant.pem")).unwrap();
    for options in [&[][..], &["--force"]] {
        sign(&directory, 124, "tenant", "bad", options);
    }
    assert_eq!(fs::read(directory.path("tenant.pem")).unwrap(), before);
}

#[test]
fn no_request_chooses_which_file_of_the_authority_is_replaced() {
    let directory = generated("chosen");
    for (from, to) in [("root.key", "ca-key.pem"), ("db", "issued.pem")] {
        fs::rename(directory.path(from), directory.path(to)).unwrap();
    }
    directory.file("notes.pem", "no certificate");
    let key = fs::read_to_string(directory.path("ca-key.pem")).unwrap();
    directory.file(
        "both.pem",
        fs::read_to_string(directory.path("cacert.pem")).unwrap() + &key,
    );
    fs::copy(directory.path("ca-key.pem"), directory.path("copy.pem")).unwrap();
    for name in ["ca-key", "issued", "notes", "both", "copy", "request"] {
        let file = format!("{name}.pem");
        write_request(&directory, "request.pem", name, &INFO);
        let before = fs::read(directory.path(&file)).unwrap();
        for authority in ["cacert.pem", "./cacert.pem"] {
            let request = ["issued.pem", "./ca-key.pem", "request.pem", "--force"];
            let sign = [&["sign", authority][..], &request].concat();
            let ended = expect(&directory.path(""), 124, &sign);
            assert!(
                [
                    "the authority itself uses",
                    "something else than certificates"
                ]
                .iter()
                .any(|reason| ended.stderr.contains(reason)),
                "{ended:?}"
            );
        }
        assert_eq!(fs::read(directory.path(&file)).unwrap(), before, "{name}");
    }
}

/// A create with device mappings and arguments that are hard to print.
fn create() -> wire::Command {
    let config = Config {
        kind: Kind::Solo5,
        startup: Some(7),
        add_name: true,
        fail_behaviour: FailBehaviour::Restart([3, 4].into()),
        cpus: [0, 5].into(),
        memory: 48,
        blocks: vec![Block {
            device: "storage".to_owned(),
            host_device: Some("data".to_owned()),
            sector_size: Some(4096),
        }],
        nets: vec![Net {
            device: "service".to_owned(),
            bridge: Some("br7".to_owned()),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        }],
        arguments: vec![b"--key=\x1b[2J\"\xff".to_vec()],
        vcpus: 1,
        linux_boot_partition: None,
    };
    wire::Command::Unikernel(UnikernelCommand::Create(config.to_wire(false, Vec::new())))
}

fn write_create(directory: &Directory, image: Option<ImageDigest>) {
    let key = Key::generate(KeyType::Ed25519).unwrap();
    let der = create_request("web", &create(), image.as_ref(), &key).unwrap();
    let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
    directory.file("web.req", text);
}

#[test]
fn what_is_signed_is_shown_in_the_words_of_show_before_it_is_written() {
    let directory = generated("shown");
    write_create(&directory, Some(ImageDigest([0xab; 32])));
    let ended = sign(&directory, 0, "root", "web", &[]);
    for words in [
        "command: unikernel create",
        "CPU ids: 0, 5",
        "memory: 48 MB",
        "block device: storage -> data, sectors of 4096 bytes",
        "network device: service -> br7, hardware address 02:00:00:00:00:01",
        r#"argument: "--key=\x1b[2J\"\xff""#,
        "when it ends: it is restarted after the exit codes 3, 4",
        "start order: 7",
        "image: sent along",
        &format!("only with the image: SHA-256 {}", "ab".repeat(32)),
        &first(&directory.path("web.pem")).serial,
        "subject: \"CN=web\"",
    ] {
        assert!(ended.stdout.contains(words), "{words}: {ended:?}");
    }
    assert!(!ended.stdout.contains('\x1b'));
    let shown = expect(&directory.path(""), 0, &["show", "web.pem"]).stdout;
    let certificate = ended.stdout.trim_end_matches("written to web.pem\n");
    assert_eq!(
        shown.strip_prefix(certificate),
        Some("command for: :web (not verified)\n")
    );

    if Path::new("/dev/full").exists() {
        let listed = fs::read(directory.path("db")).unwrap();
        fs::remove_file(directory.path("web.pem")).unwrap();
        let full = fs::File::create("/dev/full").unwrap();
        let sign = ["sign", "cacert.pem", "db", "root.key", "web.req"];
        let ended = petrel(&directory.path(""), &sign).stdout(full).output();
        assert_eq!(ended.unwrap().status.code(), Some(124));
        assert!(!directory.path("web.pem").exists());
        assert_eq!(fs::read(directory.path("db")).unwrap(), listed);
    } else {
        skipped("sign without a place to show", "there is no /dev/full");
    }
}

#[test]
fn the_image_of_a_request_is_that_of_the_certificate() {
    let directory = generated("image");
    let digest = ImageDigest([7; 32]);
    write_create(&directory, Some(digest));
    let ended = sign(&directory, 0, "root", "web", &[]);
    assert_eq!(ended.stderr, "");
    let leaf = first(&directory.path("web.pem"));
    let request = chain::request(&[&leaf.der]).unwrap();
    assert_eq!(request.image, Some(digest));
    let image = chain::IMAGE_EXTENSION.to_id_string();
    let found = extensions(&leaf);
    assert_eq!(found[0], (image, false), "the first, and not critical");
    assert_eq!(found[1].0, COMMAND.0);

    write_create(&directory, None);
    let ended = sign(&directory, 0, "root", "web", &["--force"]);
    assert!(ended.stderr.contains("fixes no image"), "{ended:?}");
    let leaf = first(&directory.path("web.pem"));
    assert_eq!(chain::request(&[&leaf.der]).unwrap().image, None);

    let key = Key::generate(KeyType::Ed25519).unwrap();
    let der = create_request("web", &INFO, Some(&digest), &key).unwrap();
    let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
    directory.file("web.req", text);
    sign(&directory, 124, "root", "web", &["--force"]);
}
