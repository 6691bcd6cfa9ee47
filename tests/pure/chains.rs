//! The recorded certificate chains of albatross: what they ask for, and whether they are valid.
//!
//! `PETREL_VECTORS` names another directory with vectors than `tests/vectors`.

use crate::support::{self, vectors};

use std::process::Command;
use std::time::Duration;

use petrel::chain::verify::{Anchor, PathError, Usage, verify};
use petrel::chain::{Certificate, ChainError, request};
use petrel::policy::Policy;
use petrel::wire::CertExtension;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::Value;
use vectors::{Differences, OWN_RULE, from_hex, id, load, same, skipped};
use x509_parser::oid_registry::asn1_rs::oid;

/// 2030-01-01T00:00:00Z
const THEN: u64 = 1_893_456_000;

/// Why a chain is refused that albatross validates: words of the error, and the reason.
fn refusal(case: &Case) -> Option<(&'static str, &'static str)> {
    let p521 = oid!(1.3.132.0.35);
    let certificates: Vec<_> = case
        .chain
        .iter()
        .filter_map(|der| Certificate::read(der).ok())
        .collect();
    let is_p521 = |certificate: &Certificate| {
        let key = &certificate.x509().public_key().algorithm;
        key.parameters
            .as_ref()
            .and_then(|curve| curve.as_oid().ok())
            == Some(p521.clone())
    };
    let intermediates = case.chain[1..]
        .iter()
        .filter(|certificate| case.root.as_ref() != Some(certificate));
    if certificates.iter().any(is_p521) {
        Some((
            "P-521",
            "ring does not implement it, so webpki cannot check the signature",
        ))
    } else if intermediates.count() > 6 {
        Some((
            "more than six",
            "webpki accepts at most six intermediate certificates",
        ))
    } else {
        None
    }
}

struct Case {
    value: Value,
    chain: Vec<CertificateDer<'static>>,
    root: Option<CertificateDer<'static>>,
}

#[test]
fn chains_ask_for_what_albatross_reads_in_them() {
    let mut differences = Differences::default();
    for case in cases() {
        let expected = &case.value["handle"];
        let found = request(&case.chain);
        let same = match (&found, expected.get("ok")) {
            (Ok(request), Some(ok)) => {
                let leaf = Certificate::read(&case.chain[0]).unwrap();
                // Older encodings of the same command are as good.
                let expected_command = CertExtension::decode(&from_hex(
                    case.value["leaf"]["extension_hex"].as_str().unwrap(),
                ))
                .unwrap();
                let extension = leaf.extension().unwrap().unwrap();
                request.name.to_string() == ok["name"].as_str().unwrap()
                    && policies(&request.policies) == expected_policies(&ok["policies"])
                    && ok["version"].as_i64() == Some(extension.version.get())
                    && expected_command == extension
                    && request.command == extension.command
            }
            (Err(error), None) => {
                [OWN_RULE, expected["error"]["kind"].as_str().unwrap()].contains(&kind(error))
            }
            _ => false,
        };
        let outcome = same
            .then_some(())
            .ok_or_else(|| format!("{found:?} instead of {expected}"));
        let is_own = |error: &ChainError| expected.get("ok").is_some() && kind(error) == OWN_RULE;
        let rule = found
            .as_ref()
            .is_err_and(is_own)
            .then_some("the policies of a chain make sense and do not exceed each other");
        differences.judge_by_rule(id(&case.value), outcome, rule);
    }
    differences.finish();
}

#[test]
fn chains_are_valid_where_albatross_says_so() {
    let mut problems = Vec::new();
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
        match refusal(&case) {
            Some((words, reason)) if expected => match &found {
                Err(error) if error.to_string().contains(words) => eprintln!("{id}: {reason}"),
                Err(error) => {
                    problems.push(format!("{id}: refused, but for another reason: {error}"))
                }
                Ok(_) => problems.push(format!("{id} should differ ({reason}), but agrees")),
            },
            _ if found.is_ok() != expected => {
                problems.push(format!("{id}: {found:?}, expected valid: {expected}"));
            }
            _ => {}
        }
        if let Ok(path) = found {
            assert_eq!(path[0], *leaf, "{id}");
            assert!(
                !path.contains(root),
                "{id}: the anchor is no part of the path"
            );
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_chain_that_is_too_deep_is_refused_with_the_reason() {
    let cases = cases();
    let deep = cases.iter().find(|case| {
        let is_valid = case.value["validation_2030"]["ok"] == true;
        let words = refusal(case).map(|(words, _)| words);
        is_valid && case.root.is_some() && words == Some("more than six")
    });
    let Some(deep) = deep else {
        return skipped("a chain that is too deep", "the vectors have none");
    };
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

#[test]
fn what_albatross_refuses_to_sign_or_to_ask_for_is_refused() {
    let directory = support::Directory::new("chains-refused");
    let petrel = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_petrel"));
        support::run(program.args(arguments).current_dir(directory.path("")))
    };
    let succeeds = |arguments: &[&str]| {
        let ended = petrel(arguments);
        assert_eq!(ended.code(), 0, "{arguments:?}: {ended:?}");
    };
    succeeds(&["generate", "ca", "db"]);
    succeeds(&["add-policy", "tenant", "2", "--mem=64", "--csr"]);
    succeeds(&["sign", "cacert.pem", "db", "ca.key", "tenant.req"]);
    let sign = ["sign", "tenant.pem", "db", "tenant.key", "more.req"];
    let create = |option: &'static str| {
        if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
            return None;
        }
        let image = support::guest("hello.spt");
        succeeds(&["create", "more", image.to_str().unwrap(), option, "--csr"]);
        Some(petrel(&sign))
    };
    let mut differences = Differences::default();
    for entry in load("chains/refused.json") {
        let id = entry["id"].as_str().unwrap();
        for file in ["more.req", "more.key"] {
            let _ = std::fs::remove_file(directory.path(file));
        }
        let ended = match id {
            "sign-larger-policy" => {
                succeeds(&["add-policy", "more", "3", "--mem=64", "--csr"]);
                Some(petrel(&sign))
            }
            "sign-larger-memory" => create("--mem=65"),
            "sign-foreign-cpu" => create("--cpu=1"),
            "unusable-policy" => Some(petrel(&["add-policy", "more", "1", "--mem=16", "--csr"])),
            "csr-without-name" => Some(petrel(&["info", "--csr"])),
            "csr-with-path" => Some(petrel(&["info", "--name=a:b", "--csr"])),
            _ => {
                skipped(id, "the test does not know how to ask for this");
                continue;
            }
        };
        let Some(ended) = ended else {
            skipped(id, "test guests are built for Linux on amd64 only");
            continue;
        };
        let outcome = same("exit code", &ended.code().into(), &entry["client_exit"]);
        let rule = (id == "csr-without-name")
            .then_some("a request about the path itself has the name '.', as its certificate has");
        differences.judge_by_rule(id, outcome, rule);
    }
    differences.finish();
}

fn cases() -> Vec<Case> {
    let directory = vectors::directory().join("chains");
    let certificate = |file: &Value| {
        CertificateDer::from_pem_file(directory.join(file.as_str().unwrap()))
            .unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    load("chains/chains.json")
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
        ChainError::BadPolicy(..) | ChainError::PolicyExceeds(..) => OWN_RULE,
    }
}

/// Deepest path first, as albatross has them.
fn policies(found: &[(petrel::name::Path, petrel::wire::DatedPolicy)]) -> Vec<(String, Policy)> {
    found
        .iter()
        .rev()
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
