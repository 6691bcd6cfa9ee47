//! `petrel revoke`: the real program, and what other programs think of its lists.

use crate::support::{self, client};

use std::fs;
use std::path::Path;
use std::process::Stdio;

use client::{expect, petrel};
use petrel::authority::{Issuer, Key, KeyType, Profile, Validity, common_name, to_pem};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use support::{Directory, Ended};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

const COMMAND: [&str; 4] = ["revoke", "cacert.pem", "root.key", "db"];

/// A directory with an authority, its server, and these lines in the list of issued certificates.
fn directory(test: &str, lines: &str) -> Directory {
    let directory = Directory::new(&format!("revoke-{test}"));
    expect(&directory.path(""), 0, &["generate", "root", "db"]);
    directory.file("db", lines);
    directory
}

fn revoke(directory: &Directory, code: i32, words: &[&str]) -> Ended {
    expect(&directory.path(""), code, &[&COMMAND[..], words].concat())
}

/// What a list says: number, next update, entries with serial number and date.
#[derive(Debug, PartialEq)]
struct List {
    number: u64,
    next_update: i64,
    entries: Vec<(String, i64)>,
}

fn list(path: &Path) -> List {
    let block = pem::parse(fs::read(path).unwrap()).unwrap();
    assert_eq!(block.tag(), "X509 CRL");
    let (rest, list) = CertificateRevocationList::from_der(block.contents()).unwrap();
    assert!(rest.is_empty());
    let entries = list.iter_revoked_certificates().map(|entry| {
        let serial = entry.raw_serial_as_string().replace(':', "");
        (serial, entry.revocation_date.timestamp())
    });
    List {
        number: list.crl_number().unwrap().try_into().unwrap(),
        next_update: list.next_update().unwrap().timestamp(),
        entries: entries.collect(),
    }
}

fn serials(directory: &Directory) -> Vec<String> {
    let list = list(&directory.path("cacert.crl"));
    list.entries.into_iter().map(|(serial, _)| serial).collect()
}

#[test]
fn a_name_stands_for_all_its_serial_numbers() {
    let directory = directory("name", "00aa01 web\n0b02 other\n0b03 my server\n0b04 web\n");
    let ended = revoke(&directory, 0, &["Web"]);
    assert!(ended.stdout.contains("revoked 00aa01 (web)"), "{ended:?}");
    assert!(ended.stdout.contains("revoked 0b04 (web)"), "{ended:?}");
    assert!(ended.stdout.contains("cacert.crl"), "{ended:?}");
    assert_eq!(serials(&directory), ["00aa01", "0b04"]);
    revoke(&directory, 0, &["my server", "0B02"]);
    assert_eq!(serials(&directory), ["00aa01", "0b04", "0b03", "0b02"]);
}

#[test]
fn a_list_is_extended_and_its_entries_keep_their_dates() {
    let directory = directory("extended", "0a01 web\n0a02 old\n");
    let path = directory.path("cacert.crl");
    // As another tool may have left it: with dates of its own, reasons, and a large number.
    let issuer = Issuer::load(&directory.path("cacert.pem"), &directory.path("root.key")).unwrap();
    let dated = OffsetDateTime::from_unix_timestamp(1_600_000_000).unwrap();
    foreign_list(&directory, &issuer, dated);
    revoke(&directory, 0, &["web", "old"]);
    let extended = list(&path);
    assert_eq!(extended.number, 9_000_000_001);
    assert_eq!(extended.entries[0], ("0a02".to_owned(), 1_600_000_000));
    assert_eq!(extended.entries[1].0, "0a01");
    let shown = expect(&directory.path(""), 0, &["show", "cacert.crl"]).stdout;
    assert!(
        shown.contains("0a02 on 2020-09-13T12:26:40Z, KeyCompromise"),
        "{shown}"
    );

    let ended = revoke(&directory, 0, &["web", "--days=60"]);
    assert!(ended.stdout.contains("revoked before: 0a01"), "{ended:?}");
    let again = list(&path);
    assert_eq!(again.number, 9_000_000_002);
    assert_eq!(again.entries, extended.entries);
    assert!(again.next_update > extended.next_update + 29 * 86_400);
}

/// A list of this authority, which rcgen signs with the authority's key.
fn foreign_list(directory: &Directory, issuer: &Issuer, dated: OffsetDateTime) {
    let pair = pem::parse(fs::read(directory.path("root.key")).unwrap()).unwrap();
    let pair = rcgen::KeyPair::try_from(pair.contents()).unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = common_name("root");
    let list = CertificateRevocationListParams {
        this_update: dated,
        next_update: dated + Duration::days(1),
        crl_number: SerialNumber::from(9_000_000_000),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[0x0a, 2]),
            revocation_time: dated,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    assert_eq!(issuer.certificate().public_bits, pair.public_key_raw());
    let signed = list
        .signed_by(&rcgen::Issuer::new(parameters, pair))
        .unwrap();
    directory.file("cacert.crl", signed.pem().unwrap());
}

#[test]
fn webpki_finds_what_was_revoked() {
    let directory = directory("webpki", "00aa01 web\n0b02 other\n");
    revoke(&directory, 0, &["web"]);
    let block = pem::parse(fs::read(directory.path("cacert.crl")).unwrap()).unwrap();
    let list = webpki::OwnedCertRevocationList::from_der(block.contents()).unwrap();
    let list = webpki::CertRevocationList::from(list);
    assert!(list.find_serial(&[0, 0xaa, 1]).unwrap().is_some());
    assert!(list.find_serial(&[0x0b, 2]).unwrap().is_none());
}

#[test]
fn without_certificates_the_list_is_renewed() {
    let directory = directory("renewed", "0a01 web\n");
    let path = directory.path("cacert.crl");
    // Even a list of nothing is a list, for which the list of certificates is not needed.
    fs::remove_file(directory.path("db")).unwrap();
    revoke(&directory, 0, &["--days=1"]);
    let first = list(&path);
    assert_eq!(first.entries, []);
    revoke(&directory, 0, &["--days=3"]);
    let second = list(&path);
    assert!(second.number > first.number);
    assert!(second.next_update >= first.next_update + 2 * 86_400);
    // A list that was lost does not begin again with the first number.
    fs::remove_file(&path).unwrap();
    revoke(&directory, 0, &["--days=1", "--crl=other.crl"]);
    assert!(!path.exists());
    assert!(list(&directory.path("other.crl")).number >= first.number);
}

#[test]
fn what_is_unknown_or_ambiguous_is_named_and_nothing_is_revoked() {
    let directory = directory("unknown", "0a01 web\n0a02 cafe\ncafe other\n");
    for (words, reason) in [
        (&["web", "nobody"][..], "nobody"),
        (&["web", "file:missing.pem"], "missing.pem"),
        (&["web", "file:db"], "CERTIFICATE"),
        (&["web", "0a03"], "serial:HEX"),
        (&["web", "name:nobody"], "nobody"),
        (&["web", "cafe"], "name:cafe or serial:cafe"),
        (&["web", "serial:xyz"], "xyz"),
        (&["web", "serial:"], "invalid serial number"),
        (&["web", "serial:00"], "invalid serial number"),
        (&["web", "--days=0"], "invalid validity of 0 days"),
    ] {
        let ended = revoke(&directory, 124, words);
        assert!(ended.stderr.contains(reason), "{words:?}: {ended:?}");
        assert!(!directory.path("cacert.crl").exists());
    }
    let ended = revoke(&directory, 0, &["serial:0a03"]);
    assert!(ended.stderr.contains("0a03 is not in 'db'"), "{ended:?}");
    revoke(&directory, 0, &["name:cafe", "serial:ca:fe", "serial:a01"]);
    assert_eq!(serials(&directory), ["0a03", "0a02", "00cafe", "0a01"]);
}

#[test]
fn damaged_lines_are_named_by_their_numbers() {
    let directory = directory(
        "damaged",
        "0a01 web\nxx y\n0a02 other\n0a03\n0a04 \n0a 05 x\n",
    );
    let ended = revoke(&directory, 124, &["web"]);
    assert!(ended.stderr.contains("line 2, 4, 5"), "{ended:?}");
    assert!(!directory.path("cacert.crl").exists());
}

#[test]
fn a_list_of_somebody_else_or_a_damaged_one_is_left_alone() {
    let directory = directory("left", "0a01 web\n");
    let other = self::directory("left-other", "0a01 web\n");
    revoke(&other, 0, &["web"]);
    revoke(&directory, 0, &["web"]);
    let mine = fs::read_to_string(directory.path("cacert.crl")).unwrap();
    let others = fs::read_to_string(other.path("cacert.crl")).unwrap();
    let mut forged = pem::parse(&mine).unwrap().into_contents();
    let position = forged.len() - 100;
    forged[position] ^= 1;
    let forged = pem::encode(&pem::Pem::new("X509 CRL", forged));
    for text in [&others, &forged, "garbage", "", &mine.repeat(2)] {
        directory.file("cacert.crl", text);
        let ended = revoke(&directory, 124, &["web"]);
        assert!(ended.stderr.contains("cacert.crl"), "{ended:?}");
        let kept = fs::read_to_string(directory.path("cacert.crl")).unwrap();
        assert_eq!(&kept, text);
    }
}

#[test]
fn only_an_authority_that_may_revoke_does_with_its_own_key() {
    let directory = directory("may", "0a01 web\n");
    let mut command = COMMAND;
    command[2] = "server.key";
    let ended = expect(&directory.path(""), 124, &[&command[..], &["web"]].concat());
    assert!(ended.stderr.contains("does not belong"), "{ended:?}");

    let key = Key::generate(KeyType::Ed25519).unwrap();
    let pair = rcgen::KeyPair::try_from(key.pkcs8()).unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = common_name("root");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    directory.file("cacert.pem", parameters.self_signed(&pair).unwrap().pem());
    let text = pem::encode(&pem::Pem::new("PRIVATE KEY", key.pkcs8()));
    directory.file("other.key", text);
    command[2] = "other.key";
    let ended = expect(&directory.path(""), 124, &[&command[..], &["web"]].concat());
    assert!(ended.stderr.contains("cRLSign"), "{ended:?}");
}

#[test]
fn an_authority_below_the_root_has_a_list_of_its_own() {
    let directory = directory("below", "");
    let root = Issuer::load(&directory.path("cacert.pem"), &directory.path("root.key")).unwrap();
    let key = Key::generate(KeyType::P256).unwrap();
    let policy = petrel::wire::Policy {
        cpuids: vec![0_u64.into()],
        unikernels: 1_u64.into(),
        memory: 64_u64.into(),
        block: None,
        bridges: Vec::new(),
    };
    let command = petrel::wire::Command::Policy(petrel::wire::PolicyCommand::Add(policy));
    let validity = Validity::days(OffsetDateTime::now_utc(), 1).unwrap();
    let tenant = root.issue(
        common_name("tenant"),
        &key.public_key_info(),
        &Profile::Intermediate(command),
        validity,
    );
    directory.file("tenant.pem", to_pem([&tenant.unwrap()]));
    let text = pem::encode(&pem::Pem::new("PRIVATE KEY", key.pkcs8()));
    directory.file("tenant.key", text);
    let revoke = ["revoke", "tenant.pem", "tenant.key", "db", "serial:0a01"];
    expect(&directory.path(""), 0, &revoke);
    assert_eq!(list(&directory.path("tenant.crl")).entries[0].0, "0a01");
}

#[test]
fn what_another_authority_issued_is_not_revoked_by_mistake() {
    let directory = directory("whose", "");
    let run = |code, command: &[&str]| expect(&directory.path(""), code, command);
    run(0, &["add-policy", "a", "2", "--mem=64", "--csr"]);
    run(0, &["sign", "cacert.pem", "db", "root.key", "a.req"]);
    run(0, &["info", "-n", "b", "--csr"]);
    run(0, &["sign", "a.pem", "db", "a.key", "b.req"]);
    let ended = revoke(&directory, 124, &["file:a.pem", "file:b.pem"]);
    assert!(
        ended.stderr.contains("not issued by this authority"),
        "{ended:?}"
    );
    assert!(!directory.path("cacert.crl").exists());

    let ended = run(0, &["revoke", "a.pem", "a.key", "db", "file:b.pem"]);
    assert!(
        ended.stdout.contains("only about what 'a' issued"),
        "{ended:?}"
    );
    assert!(!ended.stdout.contains("'db' does not say"), "{ended:?}");
    let [block, ..] = &pem::parse_many(fs::read(directory.path("b.pem")).unwrap()).unwrap()[..]
    else {
        panic!("an empty file");
    };
    let (_, leaf) = X509Certificate::from_der(block.contents()).unwrap();
    let serial = leaf.raw_serial_as_string().replace(':', "");
    assert_eq!(list(&directory.path("a.crl")).entries[0].0, serial);

    // A name says nothing about the issuer, which is told.
    let ended = revoke(&directory, 0, &["b"]);
    assert!(
        ended.stdout.contains("only about what 'root' issued"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("'db' does not say"), "{ended:?}");
    assert!(ended.stdout.contains("servers stay good"), "{ended:?}");
    let ended = revoke(&directory, 0, &["file:server.pem"]);
    assert!(
        ended.stderr.contains("certificate of a server"),
        "{ended:?}"
    );
}

#[test]
fn a_list_never_gets_larger_than_endpoints_read() {
    let line = |number: u32| format!("7f{number:038x} many\n");
    let directory = directory("large", &(0..40_000).map(line).collect::<String>());
    revoke(&directory, 0, &["many"]);
    let path = directory.path("cacert.crl");
    let before = fs::read(&path).unwrap();
    assert!(before.len() as u64 <= petrel::chain::crl::MAX_CRL_FILE);
    directory.file("db", (40_000..85_000).map(line).collect::<String>());
    let ended = revoke(&directory, 124, &["many"]);
    assert!(ended.stderr.contains("85000 entries"), "{ended:?}");
    assert!(ended.stderr.contains("nothing was revoked"), "{ended:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn revocations_at_the_same_time_lose_nothing() {
    let lines: String = (10..20).map(|n| format!("{n} name{n}\n")).collect();
    let directory = directory("together", &lines);
    let running: Vec<_> = (10..20)
        .map(|n| {
            let name = format!("name{n}");
            let command = [&COMMAND[..], &[&name]].concat();
            petrel(&directory.path(""), &command)
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    let mut serials = serials(&directory);
    serials.sort();
    let expected: Vec<_> = (10..20).map(|n| n.to_string()).collect();
    assert_eq!(serials, expected);
}

#[test]
fn it_is_said_where_the_crl_has_to_be() {
    let directory = directory("where", "");
    let root = revoke(&directory, 0, &[]);
    assert!(
        root.stdout.contains("/etc/petrel/cacert.crl"),
        "{}",
        root.stdout
    );
    let quiet = revoke(&directory, 0, &["-q"]);
    assert_eq!(quiet.stdout.lines().count(), 1, "{quiet:?}");
    let policy = ["add-policy", "tenant", "1", "--mem=32", "--csr"];
    expect(&directory.path(""), 0, &policy);
    let sign = ["sign", "cacert.pem", "db", "root.key", "tenant.req"];
    expect(&directory.path(""), 0, &sign);
    let below = ["revoke", "tenant.pem", "tenant.key", "db"];
    let below = expect(&directory.path(""), 0, &below);
    assert!(below.stdout.contains("--crl"), "{}", below.stdout);
}
