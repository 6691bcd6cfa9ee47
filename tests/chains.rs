//! The recorded certificate chains of albatross: what they ask for, and whether they are valid.
//!
//! `PETREL_VECTORS` names another folder with vectors than `tests/vectors`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows only the tests themselves as tests, not what helps them"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use petrel::chain::verify::{Anchor, PathError, Usage, verify};
use petrel::chain::{Certificate, ChainError, request};
use petrel::policy::Policy;
use petrel::wire::CertExtension;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::Value;

/// 2030-01-01T00:00:00Z
const THEN: u64 = 1_893_456_000;

/// Chains that albatross validates and Petrel does not, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "cli-key-p521",
        "ring does not implement P-521, so webpki cannot check the signature",
    ),
    (
        "cli-len-9",
        "webpki accepts at most six intermediate certificates",
    ),
    (
        "cli-len-10",
        "webpki accepts at most six intermediate certificates",
    ),
    (
        "lib-len-9",
        "webpki accepts at most six intermediate certificates",
    ),
    (
        "lib-len-10",
        "webpki accepts at most six intermediate certificates",
    ),
];

struct Case {
    value: Value,
    chain: Vec<CertificateDer<'static>>,
    root: Option<CertificateDer<'static>>,
}

#[test]
fn chains_ask_for_what_albatross_reads_in_them() {
    let mut differences = Vec::new();
    for case in cases() {
        let expected = &case.value["handle"];
        let found = request(&case.chain);
        let same = match (&found, expected.get("ok")) {
            (Ok(request), Some(ok)) => {
                let leaf = Certificate::read(&case.chain[0]).unwrap();
                let expected_command = hex(case.value["leaf"]["extension_hex"].as_str().unwrap());
                let extension = leaf.extension().unwrap().unwrap();
                request.name.to_string() == ok["name"].as_str().unwrap()
                    && policies(&request.policies) == expected_policies(&ok["policies"])
                    && ok["version"].as_i64() == Some(extension.version.get())
                    && CertExtension::new(request.command.clone())
                        .encode()
                        .unwrap()
                        == expected_command
            }
            (Err(error), None) => expected["error"]["kind"].as_str() == Some(kind(error)),
            _ => false,
        };
        if !same {
            differences.push(format!(
                "{}: {found:?} instead of {expected}",
                case.value["id"]
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn chains_are_valid_where_albatross_says_so() {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for case in cases() {
        let (Some(root), Some((leaf, others))) = (&case.root, case.chain.split_first()) else {
            continue;
        };
        let id = case.value["id"].as_str().unwrap();
        let expected = case.value["validation_2030"]["ok"].as_bool().unwrap()
            && case.value["tls_client_usage_ok"].as_bool().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(THEN));
        let anchor = Anchor::new(root).unwrap();
        let found = verify(leaf, others, &[anchor], now, Usage::Client);
        match REFUSED.iter().find(|(listed, _)| *listed == id) {
            Some((_, reason)) => {
                seen.insert(id.to_owned());
                let told = match &found {
                    Err(error) => error.to_string(),
                    Ok(_) => String::new(),
                };
                let words = if reason.contains("P-521") {
                    "P-521"
                } else {
                    "more than six"
                };
                assert!(told.contains(words), "{id}: {told}");
                if !expected || found.is_ok() {
                    problems.push(format!("{id} is listed ({reason}), but agrees: {found:?}"));
                }
            }
            None if found.is_ok() != expected => {
                problems.push(format!("{id}: {found:?}, expected valid: {expected}"));
            }
            None => {}
        }
        if let Ok(path) = found {
            assert_eq!(path[0], *leaf, "{id}");
            assert!(
                !path.contains(root),
                "{id}: the anchor is no part of the path"
            );
        }
    }
    for (id, _) in REFUSED {
        if !seen.contains(*id) {
            problems.push(format!("{id} is listed, but not among the vectors"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_chain_that_is_too_deep_is_refused_with_the_reason() {
    let cases = cases();
    let deep = cases
        .iter()
        .find(|case| case.value["id"] == "cli-len-9")
        .unwrap();
    let anchor = Anchor::new(deep.root.as_ref().unwrap()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(THEN));
    let error = verify(
        &deep.chain[0],
        &deep.chain[1..],
        &[anchor],
        now,
        Usage::Client,
    )
    .unwrap_err();
    assert!(matches!(error, PathError::Webpki(_)));
    assert!(error.to_string().contains("six intermediate"), "{error}");
}

fn cases() -> Vec<Case> {
    let folder = std::env::var_os("PETREL_VECTORS")
        .map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"),
            PathBuf::from,
        )
        .join("chains");
    let list = folder.join("chains.json");
    let text = fs::read_to_string(&list).unwrap_or_else(|error| panic!("{list:?}: {error}"));
    let values: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(!values.is_empty(), "{list:?} holds no chains");
    let certificate = |file: &Value| {
        CertificateDer::from_pem_file(folder.join(file.as_str().unwrap()))
            .unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    values
        .into_iter()
        .map(|value| Case {
            chain: value["files"]
                .as_array()
                .unwrap()
                .iter()
                .map(certificate)
                .collect(),
            root: value.get("root").filter(|r| r.is_string()).map(certificate),
            value,
        })
        .collect()
}

fn kind(error: &ChainError) -> &'static str {
    match error {
        ChainError::EmptyChain => "empty_chain",
        ChainError::ChainTooLong(_) => "chain_too_long",
        ChainError::BadCertificate(..) => "bad_certificate",
        ChainError::BadExtension(..) => "bad_extension",
        ChainError::BadName(..) => "bad_name",
        ChainError::NameRequired(_) => "name_required",
        ChainError::CommandInIntermediate(..) => "command_in_intermediate",
        ChainError::NoExtensionInLeaf => "no_extension_in_leaf",
        ChainError::CommandNotAllowed(..) => "command_not_allowed",
    }
}

fn policies(found: &[(petrel::name::Path, petrel::wire::DatedPolicy)]) -> Vec<(String, Policy)> {
    found
        .iter()
        .map(|(path, dated)| (path.joined(), Policy::try_from(&dated.policy).unwrap()))
        .collect()
}

fn expected_policies(value: &Value) -> Vec<(String, Policy)> {
    let items = |value: &Value| value.as_array().unwrap().clone();
    items(value)
        .iter()
        .map(|entry| {
            let policy = &entry["policy"];
            let number = |field: &str| policy[field].as_u64().unwrap();
            let policy = Policy {
                unikernels: number("unikernels"),
                cpus: items(&policy["cpuids"])
                    .iter()
                    .map(|cpu| u16::try_from(cpu.as_u64().unwrap()).unwrap())
                    .collect(),
                memory: number("memory"),
                block: policy["block"].as_u64(),
                bridges: items(&policy["bridges"])
                    .iter()
                    .map(|bridge| bridge.as_str().unwrap().to_owned())
                    .collect(),
            };
            (entry["path"].as_str().unwrap().to_owned(), policy)
        })
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
