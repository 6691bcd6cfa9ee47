//! The rules by which `sign` refuses, warns and asks.

use crate::support::{self, client};

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use client::{expect, petrel};
use petrel::authority::{Key, KeyType, read_chain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use support::{Directory, Ended, on_path, run, skipped};
use time::{Duration, OffsetDateTime};

const SIGN: [&str; 4] = ["sign", "ca.pem", "db", "ca.key"];

/// A directory with an authority `ca` of these parameters, and the requests `tenant` and `web`.
fn authority(test: &str, change: impl FnOnce(&mut CertificateParams)) -> Directory {
    let directory = Directory::new(&format!("signing-{test}"));
    let key = Key::generate(KeyType::Ed25519).unwrap();
    let pair = KeyPair::try_from(key.pkcs8()).unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "ca");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.not_before = OffsetDateTime::now_utc() - Duration::minutes(5);
    parameters.not_after = OffsetDateTime::now_utc() + Duration::days(9);
    change(&mut parameters);
    directory.file("ca.pem", parameters.self_signed(&pair).unwrap().pem());
    directory.file("ca.key", pair.serialize_pem());
    let policy = ["add-policy", "tenant", "2", "--mem=64", "--csr"];
    expect(&directory.path(""), 0, &policy);
    expect(&directory.path(""), 0, &["info", "-n", "web", "--csr"]);
    directory
}

fn sign(directory: &Directory, code: i32, request: &str, options: &[&str]) -> Ended {
    let command = [&SIGN[..], &[request], options].concat();
    expect(&directory.path(""), code, &command)
}

#[test]
fn nothing_is_signed_below_an_authority_that_does_not_allow_it() {
    let hour = Duration::hours(1);
    let constrained = |parameters: &mut CertificateParams| {
        parameters.name_constraints = Some(NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees: vec![GeneralSubtree::DirectoryName({
                let mut name = DistinguishedName::new();
                name.push(DnType::CommonName, "web");
                name
            })],
        });
    };
    let constrained = authority("constrained", constrained);
    let early = authority("early", |parameters| {
        parameters.not_before = OffsetDateTime::now_utc() + hour;
    });
    let late = authority("late", |parameters| {
        parameters.not_after = OffsetDateTime::now_utc() - Duration::minutes(1);
    });
    for (directory, word) in [
        (constrained, "endpoints and clients would refuse it"),
        (early, "is not valid before"),
        (late, "expired at"),
    ] {
        for request in ["tenant.req", "web.req"] {
            let ended = sign(&directory, 124, request, &[]);
            assert!(ended.stderr.contains(word), "{request}: {ended:?}");
        }
        assert!(!directory.path("db").exists());
    }
}

#[test]
fn the_path_length_of_every_authority_counts() {
    let directory = authority("length", |parameters| {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let ended = sign(&directory, 124, "tenant.req", &[]);
    assert!(ended.stderr.contains("at most 0 authorities"), "{ended:?}");
    sign(&directory, 0, "web.req", &[]);

    let directory = authority("length-above", |parameters| {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    });
    sign(&directory, 0, "tenant.req", &[]);
    let tenant = fs::read_to_string(directory.path("tenant.pem")).unwrap();
    let ca = fs::read_to_string(directory.path("ca.pem")).unwrap();
    directory.file("whole.pem", tenant + &ca);
    let policy = ["add-policy", "team", "1", "--mem=32", "--csr"];
    expect(&directory.path(""), 0, &policy);
    let below = ["sign", "whole.pem", "db", "tenant.key"];
    let ended = expect(
        &directory.path(""),
        124,
        &[&below[..], &["team.req"]].concat(),
    );
    assert!(ended.stderr.contains("at most 1 authorities"), "{ended:?}");
    expect(&directory.path(""), 0, &[&below[..], &["web.req"]].concat());
}

#[test]
fn a_second_authority_of_a_name_needs_force_and_is_warned_of() {
    let directory = authority("second", |_| {});
    sign(&directory, 0, "tenant.req", &[]);
    // Its renewal, with the same key.
    let ended = sign(&directory, 0, "tenant.req", &["--force"]);
    assert!(!ended.stderr.contains("ANOTHER"), "{ended:?}");
    fs::remove_file(directory.path("tenant.key")).unwrap();
    fs::rename(directory.path("tenant.pem"), directory.path("old.pem")).unwrap();
    let policy = ["add-policy", "tenant", "2", "--mem=64", "--csr"];
    expect(&directory.path(""), 0, &policy);
    let listed = fs::read(directory.path("db")).unwrap();
    let ended = sign(&directory, 124, "tenant.req", &[]);
    assert!(ended.stderr.contains("with another key"), "{ended:?}");
    assert_eq!(fs::read(directory.path("db")).unwrap(), listed);
    let ended = sign(&directory, 0, "tenant.req", &["--force"]);
    assert!(
        ended.stderr.contains("ANOTHER AUTHORITY 'tenant'"),
        "{ended:?}"
    );
    // Without a line that says so, the file that is replaced is looked at.
    fs::rename(directory.path("old.pem"), directory.path("tenant.pem")).unwrap();
    fs::remove_file(directory.path("db")).unwrap();
    let ended = sign(&directory, 0, "tenant.req", &["--force"]);
    assert!(
        ended.stderr.contains("ANOTHER AUTHORITY 'tenant'"),
        "{ended:?}"
    );
}

#[test]
fn a_dry_run_shows_and_writes_nothing() {
    let directory = authority("dry", |_| {});
    let ended = sign(&directory, 0, "web.req", &["--dry-run"]);
    assert!(
        ended.stdout.contains("command: unikernel info"),
        "{ended:?}"
    );
    assert!(!directory.path("web.pem").exists() && !directory.path("db").exists());
}

/// Runs `sign` on a terminal where somebody types `answer`.
fn typed(directory: &Directory, answer: &str, options: &[&str]) -> (Output, String) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut master = fs::File::from(terminal.master);
    master.write_all(answer.as_bytes()).unwrap();
    let command = [&SIGN[..], &["web.req"], options].concat();
    let mut command = petrel(&directory.path(""), &command);
    let output = command
        .stdin(terminal.slave.try_clone().unwrap())
        .stdout(terminal.slave)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    drop(command);
    let mut shown = Vec::new();
    // The end of a terminal without a program is an error.
    let _ = master.read_to_end(&mut shown);
    (output, String::from_utf8(shown).unwrap())
}

#[test]
fn on_a_terminal_sign_asks_before_it_writes() {
    let directory = authority("asked", |_| {});
    for answer in ["n\n", "\n", "yesterday\n", "\u{4}"] {
        let (output, shown) = typed(&directory, answer, &[]);
        assert_eq!(output.status.code(), Some(124), "{answer:?}: {output:?}");
        assert!(shown.contains("command: unikernel info"), "{shown}");
        let asked = String::from_utf8(output.stderr).unwrap();
        assert!(asked.contains("[y/N]"), "{asked}");
        assert!(asked.contains("nothing was signed"), "{asked}");
        assert!(!directory.path("web.pem").exists() && !directory.path("db").exists());
    }
    let (output, _) = typed(&directory, "y\n", &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(directory.path("web.pem").exists());
    let (output, _) = typed(&directory, "", &["--yes", "--force"]);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_key_that_others_may_read_signs_nothing() {
    let directory = authority("readable", |_| {});
    let key = directory.path("ca.key");
    for mode in [0o644, 0o604, 0o620, 0o601] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let ended = sign(&directory, 124, "web.req", &[]);
        let words = format!("accessible to other users (mode {mode:04o})");
        assert!(ended.stderr.contains(&words), "{ended:?}");
        assert!(ended.stderr.contains("chmod 600 ca.key"), "{ended:?}");
    }
    let own = directory.path("web.key");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o644)).unwrap();
    let again = ["info", "-n", "web", "--csr"];
    let ended = expect(&directory.path(""), 124, &again);
    assert!(ended.stderr.contains("chmod 600 web.key"), "{ended:?}");
}

#[test]
fn keys_in_the_forms_of_openssl_sign_and_encrypted_ones_are_named() {
    if on_path("openssl").is_none() {
        return skipped("forms of keys", "openssl is missing");
    }
    let directory = authority("forms", |_| {});
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let ended = run(command
            .args(arguments.split(' '))
            .current_dir(directory.path("")));
        assert_eq!(ended.code(), 0, "openssl {arguments}: {ended:?}");
    };
    for (form, commands) in [
        (
            "sec1",
            ["ecparam -genkey -name prime256v1 -out KEY"].as_slice(),
        ),
        ("bare", &["ecparam -genkey -noout -name secp384r1 -out KEY"]),
        ("pkcs1", &["genrsa -traditional -out KEY 2048"]),
        (
            "no-public",
            &[
                "ecparam -genkey -name prime256v1 -out whole",
                "ec -in whole -no_public -out KEY",
            ],
        ),
    ] {
        let key = format!("{form}.key");
        for command in commands {
            openssl(&command.replace("KEY", &key));
        }
        let source = if form == "no-public" { "whole" } else { &key };
        openssl(&format!(
            "req -x509 -new -key {source} -subj /CN=ca -days 9 -out {form}.pem"
        ));
        let certificate = format!("{form}.pem");
        let command = ["sign", &certificate, "db", &key, "web.req", "--force"];
        expect(&directory.path(""), 0, &command);
        let signed = read_chain(&directory.path("web.pem")).unwrap();
        let issuer = read_chain(&directory.path(&certificate)).unwrap();
        assert_eq!(signed[0].check_issuer(&issuer[0]), Ok(()), "{form}");
    }
    // A key that was made before is used for a request.
    fs::rename(directory.path("sec1.key"), directory.path("other.key")).unwrap();
    expect(&directory.path(""), 0, &["info", "-n", "other", "--csr"]);

    openssl("pkey -in pkcs1.key -aes256 -passout pass:x -out new.key");
    openssl("pkey -in pkcs1.key -traditional -aes128 -passout pass:x -out old.key");
    for key in ["new.key", "old.key"] {
        let command = ["sign", "pkcs1.pem", "db", key, "web.req", "--force"];
        let ended = expect(&directory.path(""), 124, &command);
        assert!(
            ended.stderr.contains("encrypted with a passphrase"),
            "{ended:?}"
        );
    }
}
