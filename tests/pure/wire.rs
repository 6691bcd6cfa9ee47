//! The wire against recorded vectors: what albatross writes is written, what it reads is read.

use crate::support::vectors;

use petrel::name::Name;
use petrel::wire::legacy::InfoV5;
use petrel::wire::state::albatross;
use petrel::wire::{CertExtension, Message, domain};
use serde_json::{Value, json};
use sha2::Digest as _;
use vectors::{Differences, comparable, from_hex, id, load, same, to_hex};

/// What decoding gives: `decoded` where it differs from what was encoded.
fn expected(entry: &Value) -> Value {
    let decoded = entry.get("decoded").unwrap_or(&entry["value"]);
    comparable(decoded.clone())
}

fn hex(entry: &Value) -> Vec<u8> {
    from_hex(entry["hex"].as_str().unwrap())
}

fn encodes_to(encoded: &[u8], hex: &Value) -> Result<(), String> {
    same("the encoding", &to_hex(encoded).into(), hex)
}

fn decode(bytes: &[u8]) -> Result<Value, String> {
    let message = Message::decode(bytes).map_err(|error| error.to_string())?;
    // Names are read where a message is acted upon.
    domain::name(&message.header.name).map_err(|error| error.to_string())?;
    Ok(vectors::show_message(&message))
}

fn decode_extension(bytes: &[u8]) -> Result<Value, String> {
    let extension = CertExtension::decode(bytes).map_err(|error| error.to_string())?;
    Ok(vectors::show_extension(&extension))
}

#[test]
fn messages_are_written_and_read_like_albatross_does() {
    let mut differences = Differences::default();
    for entry in load("wire.json") {
        let encoded = vectors::message(&entry["value"]).encode().unwrap();
        let written = encodes_to(&encoded, &entry["hex"]);
        let read = decode(&hex(&entry))
            .and_then(|decoded| same("the message", &decoded, &expected(&entry)));
        differences.judge(id(&entry), written.and(read));
    }
    differences.finish();
}

#[test]
fn older_and_laxer_messages_are_read() {
    let mut differences = Differences::default();
    for entry in load("wire_decode_only.json") {
        let read = decode(&hex(&entry))
            .and_then(|decoded| same("the message", &decoded, &expected(&entry)))
            .and_then(|()| {
                let encoded = vectors::message(&entry["value"]).encode().unwrap();
                encodes_to(&encoded, &entry["reencoded_hex"])
            });
        differences.judge_by_rule(id(&entry), read, laxness(&hex(&entry)));
    }
    differences.finish();
}

/// What albatross accepts in a value although no released encoder writes it: this is refused. Read without
/// the code under test.
fn laxness(bytes: &[u8]) -> Option<&'static str> {
    let mut found = None;
    walk(bytes, &mut Vec::new(), &mut |path, minimal, content| {
        let is_lax = match path {
            _ if !minimal => Some("a length that is longer than it need be"),
            [.., 0x01] if !matches!(content, [0 | 0xff]) => Some("a BOOLEAN other than 00 and FF"),
            [0x30, 0x30, 0x04] if content.len() > 8 => {
                Some("a sequence number of more than 8 bytes")
            }
            [0x30, 0xa3, 0xa1, .., 0x04] if content.len() > 8 => {
                Some("a counter of more than 8 bytes")
            }
            [.., 0x18] if !is_plain_time(content) => Some("a time in a form that nobody writes"),
            _ => None,
        };
        found = found.or(is_lax);
    });
    found
}

/// Visits every element: the identifiers down to it, whether its length is minimal, its content.
fn walk(mut bytes: &[u8], path: &mut Vec<u8>, visit: &mut impl FnMut(&[u8], bool, &[u8])) {
    while let [identifier, first, rest @ ..] = bytes {
        let more = usize::from(if *first < 0x80 { 0 } else { first & 0x7f });
        let Some((long, rest)) = rest.split_at_checked(more).filter(|_| more < 5) else {
            return;
        };
        let length = match more {
            0 => usize::from(*first),
            _ => long.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)),
        };
        let Some((content, after)) = rest.split_at_checked(length) else {
            return;
        };
        path.push(*identifier);
        visit(
            path,
            more == 0 || length >= 1 << (8 * (more - 1)).max(7),
            content,
        );
        if identifier & 0x20 != 0 {
            walk(content, path, visit);
        }
        path.pop();
        bytes = after;
    }
}

/// `YYYYMMDDhhmmssZ` or `YYYYMMDDhhmmss.mmmZ`, without a leap second.
fn is_plain_time(text: &[u8]) -> bool {
    let form = match text.len() {
        15 => "dddddddddddd5dZ",
        _ => "dddddddddddd5d.dddZ",
    };
    text.len() == form.len()
        && form.bytes().zip(text).all(|(form, byte)| match form {
            b'd' => byte.is_ascii_digit(),
            b'5' => (b'0'..=b'5').contains(byte),
            other => other == *byte,
        })
}

#[test]
fn every_file_of_vectors_is_read_by_a_test() {
    vectors::assert_all_are_read();
}

#[test]
fn broken_messages_are_refused() {
    let mut differences = Differences::default();
    for entry in load("wire_reject.json") {
        let outcome = like_albatross(&entry, decode(&hex(&entry)));
        let rule = laxness(&hex(&entry))
            .or((entry["portable"] == false && outcome.is_err()).then_some(QUIRK))
            .filter(|_| entry["albatross"] == "accept");
        differences.judge_by_rule(id(&entry), outcome, rule);
    }
    differences.finish();
}

/// The rule for entries with `"portable": false`.
const QUIRK: &str = "accepted only because of how albatross scans";

#[test]
fn what_is_refused_is_named() {
    let cases = [
        ("3003020105", "malformed: it has no version"),
        (
            "30183010020104040800000000000000000c013aa104a0020500",
            "protocol version 4, only 5 is spoken here",
        ),
        (
            "30183010020105040800000000000000000c013aa104b4020500",
            "malformed: Message.payload: an alternative of Success that is not known",
        ),
        (
            "301830100201050408000000000000000013013aa104a0020500",
            "malformed: Header.name: a value of another type than expected",
        ),
        (
            "30183010020105040800000000000000000c013aa104a00205",
            "malformed: it ends too early",
        ),
        (
            "3081183010020105040800000000000000000c013aa104a0020500",
            "malformed: not in the one form that DER allows",
        ),
    ];
    for (bytes, expected) in cases {
        let error = Message::decode(&from_hex(bytes)).unwrap_err();
        assert_eq!(error.to_string(), expected, "{bytes}");
    }
}

/// Accepted with the same value, or refused, as recorded.
fn like_albatross(entry: &Value, decoded: Result<Value, String>) -> Result<(), String> {
    match (entry["albatross"].as_str().unwrap(), decoded) {
        ("accept", decoded) => same("the value", &decoded?, &expected(entry)),
        ("reject", Err(_)) => Ok(()),
        ("reject", Ok(value)) => Err(format!("accepted as {value}")),
        (other, _) => Err(format!("the vector says '{other}'")),
    }
}

#[test]
fn certificate_extensions_are_written_and_read_like_albatross_does() {
    let mut differences = Differences::default();
    for entry in load("cert_extension.json") {
        let kind = entry["kind"].as_str().unwrap();
        let written = if ["malformed", "decode_only"].contains(&kind) {
            Ok(())
        } else {
            let encoded = vectors::extension(&entry["value"]).encode().unwrap();
            encodes_to(&encoded, &entry["hex"])
        };
        let read = like_albatross(&entry, decode_extension(&hex(&entry)));
        let rule = laxness(&hex(&entry)).filter(|_| entry["albatross"] == "accept");
        differences.judge_by_rule(id(&entry), written.and(read), rule);
    }
    differences.finish();
}

#[test]
fn older_replies_name_one_processor() {
    let mut differences = Differences::default();
    for entry in load("wire_encode_error.json") {
        let success = &entry["value"]["payload"]["success"];
        let asked = success["unikernels"].as_array().unwrap();
        let told: Vec<InfoV5> = asked
            .iter()
            .filter_map(|unikernel| InfoV5::of(vectors::info(&unikernel["info"])))
            .collect();
        for (told, asked) in told.iter().zip(asked) {
            assert_eq!(told.cpuid, vectors::int(&asked["info"]["cpuids"][0]));
        }
        let outcome = if told.len() < asked.len() {
            Ok(())
        } else {
            Err(format!("told: {told:?}"))
        };
        let processors = |unikernel: &Value| unikernel["info"]["cpuids"].as_array().unwrap().len();
        let rule = asked
            .iter()
            .all(|unikernel| processors(unikernel) > 0)
            .then_some("of several processors the lowest is told, where albatross dies (W2)");
        differences.judge_by_rule(id(&entry), outcome, rule);
    }
    differences.finish();
}

/// A state of `unikernels` and `policies`, as the vectors show it.
fn state(value: &Value) -> Result<albatross::State, String> {
    let name = |entry: &Value| -> Name { entry["name"].as_str().unwrap().parse().unwrap() };
    let list = |field: &str| value[field].as_array().unwrap();
    albatross::State::new(
        list("unikernels")
            .iter()
            .map(|entry| (name(entry), vectors::config(&entry["config"]))),
        list("policies").iter().map(|entry| {
            (
                name(entry).path().clone(),
                vectors::policy(&entry["policy"]),
            )
        }),
    )
    .map_err(|error| error.to_string())
}

fn show_state(state: &albatross::State) -> Value {
    let unikernels = state.unikernels().map(
        |(name, config)| json!({"name": name.to_string(), "config": vectors::show_config(config)}),
    );
    let policies = state.policies().map(
        |(path, policy)| json!({"name": path.to_string(), "policy": vectors::show_policy(policy)}),
    );
    json!({
        "unikernels": unikernels.collect::<Vec<_>>(),
        "policies": policies.collect::<Vec<_>>(),
    })
}

/// Read, shown, and written again as a state of the current version.
fn read_and_rewrite(bytes: &[u8]) -> Result<(Value, Vec<u8>), String> {
    let state = albatross::State::decode(bytes).map_err(|error| error.to_string())?;
    Ok((show_state(&state), state.encode().unwrap()))
}

#[test]
fn state_files_of_albatross_are_read_and_written_like_albatross_does() {
    let mut differences = Differences::default();
    for entry in load("state.json") {
        let read = read_and_rewrite(&hex(&entry));
        let rewritten = match &read {
            Ok((_, rewritten)) => encodes_to(
                rewritten,
                entry.get("reencoded_hex").unwrap_or(&entry["hex"]),
            ),
            Err(_) => Ok(()),
        };
        let read = like_albatross(&entry, read.map(|(shown, _)| shown));
        let written = if entry["kind"] == "encode_v6" {
            let mut shuffled = entry["value"].clone();
            shuffled["unikernels"].as_array_mut().unwrap().reverse();
            shuffled["policies"].as_array_mut().unwrap().reverse();
            state(&shuffled).and_then(|state| encodes_to(&state.encode().unwrap(), &entry["hex"]))
        } else {
            Ok(())
        };
        differences.judge(id(&entry), read.and(rewritten).and(written));
    }
    differences.finish();
}

#[test]
fn state_files_of_a_running_albatross_are_read() {
    for entry in load("state_daemon.json") {
        let file = vectors::directory().join(entry["file"].as_str().unwrap());
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(Some(bytes.len() as u64), entry["len"].as_u64());
        assert_eq!(sha256(&bytes), entry["sha256"]);
        let state = albatross::State::decode(&bytes).unwrap();
        assert_eq!(state.encode().unwrap(), bytes, "{}", id(&entry));
        let mut shown = show_state(&state);
        for ((_, config), shown) in state
            .unikernels()
            .zip(shown["unikernels"].as_array_mut().unwrap())
        {
            let fields = shown["config"].as_object_mut().unwrap();
            fields.remove("image_hex");
            let image = &config.image.0;
            fields.insert(
                "image".to_owned(),
                json!({"len": image.len(), "sha256": sha256(image)}),
            );
        }
        same("the state", &shown, &expected(&entry)).unwrap();

        let import = state.clone().import();
        assert_eq!(import.refused, []);
        assert_eq!(import.unikernels.len(), state.unikernels().count());
        assert_eq!(import.policies.len(), state.policies().count());
        for (unikernel, (name, record)) in import.unikernels.iter().zip(state.unikernels()) {
            assert_eq!(&unikernel.name, name);
            let image = unikernel.image.clone();
            assert_eq!(
                &unikernel.config.to_wire(unikernel.compressed, image),
                record
            );
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    to_hex(&sha2::Sha256::digest(bytes))
}

#[test]
fn the_examples_of_the_document_are_read_and_written() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/doc/protocol.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (_, appendix) = document.split_once("## Appendix A").unwrap();
    let mut examples = 0;
    for (name, hex) in appendix
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| !name.contains(' '))
    {
        let bytes = from_hex(hex);
        let written = if name.starts_with("ext-") {
            CertExtension::decode(&bytes).unwrap().encode().unwrap()
        } else if name.starts_with("state-") {
            albatross::State::decode(&bytes).unwrap().encode().unwrap()
        } else {
            Message::decode(&bytes).unwrap().encode().unwrap()
        };
        assert_eq!(to_hex(&written), hex, "{name}");
        examples += 1;
    }
    assert!(examples > 20, "only {examples} examples found");
}
