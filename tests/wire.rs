//! The wire against recorded vectors: what albatross writes is written, what it reads is read.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/vectors.rs"]
mod vectors;

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

fn decode(octets: &[u8]) -> Result<Value, String> {
    let message = Message::decode(octets).map_err(|error| error.to_string())?;
    // Names are read where a message is acted upon.
    domain::name(&message.header.name).map_err(|error| error.to_string())?;
    Ok(vectors::show_message(&message))
}

fn decode_extension(octets: &[u8]) -> Result<Value, String> {
    let extension = CertExtension::decode(octets).map_err(|error| error.to_string())?;
    Ok(vectors::show_extension(&extension))
}

#[test]
fn messages_are_written_and_read_like_albatross_does() {
    let mut differences = Differences::listed(&[]);
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
    const LAX: &str = "DER laxness that no released encoder writes";
    let mut differences = Differences::listed(&[
        ("bool-01", LAX),
        ("seq-9-octets", LAX),
        ("seq-16-octets", LAX),
        ("time-offset-plus", LAX),
        ("time-offset-minus", LAX),
        ("time-frac-2-digits", LAX),
        ("time-offset-frac-console", LAX),
    ]);
    for entry in load("wire_decode_only.json") {
        let read = decode(&hex(&entry))
            .and_then(|decoded| same("the message", &decoded, &expected(&entry)))
            .and_then(|()| {
                let encoded = vectors::message(&entry["value"]).encode().unwrap();
                encodes_to(&encoded, &entry["reencoded_hex"])
            });
        differences.judge(id(&entry), read);
    }
    differences.finish();
}

#[test]
fn broken_messages_are_refused() {
    const LAX: &str = "DER laxness that no released encoder writes";
    let mut differences = Differences::listed(&[
        ("len-nonmin-81-127", LAX),
        ("bool-01", LAX),
        ("seq-9-octets", LAX),
        ("time-04", LAX),
        ("time-07", LAX),
        ("time-12", LAX),
        ("time-14", LAX),
        ("time-16", LAX),
        ("time-17", LAX),
        ("time-23", LAX),
        ("time-31", LAX),
        ("time-32", LAX),
        ("time-39", LAX),
        ("time-40", LAX),
    ]);
    for entry in load("wire_reject.json") {
        differences.judge(id(&entry), like_albatross(&entry, decode(&hex(&entry))));
    }
    differences.finish();
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
    let mut differences = Differences::listed(&[]);
    for entry in load("cert_extension.json") {
        let kind = entry["kind"].as_str().unwrap();
        let written = if ["malformed", "decode_only"].contains(&kind) {
            Ok(())
        } else {
            let encoded = vectors::extension(&entry["value"]).encode().unwrap();
            encodes_to(&encoded, &entry["hex"])
        };
        let read = like_albatross(&entry, decode_extension(&hex(&entry)));
        differences.judge(id(&entry), written.and(read));
    }
    differences.finish();
}

#[test]
fn older_replies_name_one_processor() {
    let mut differences = Differences::listed(&[(
        "info5-two-cpus",
        "answers with the lowest processor, where albatross dies (W2)",
    )]);
    for entry in load("wire_encode_error.json") {
        let success = &entry["value"]["payload"]["success"];
        assert_eq!(success["type"], "old_unikernel_info5");
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
        differences.judge(id(&entry), outcome);
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
fn read_and_rewrite(octets: &[u8]) -> Result<(Value, Vec<u8>), String> {
    let state = albatross::State::decode(octets).map_err(|error| error.to_string())?;
    Ok((show_state(&state), state.encode().unwrap()))
}

#[test]
fn state_files_of_albatross_are_read_and_written_like_albatross_does() {
    let mut differences = Differences::listed(&[]);
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
        let file = vectors::folder().join(entry["file"].as_str().unwrap());
        let octets = std::fs::read(&file).unwrap();
        assert_eq!(Some(octets.len() as u64), entry["len"].as_u64());
        assert_eq!(sha256(&octets), entry["sha256"]);
        let state = albatross::State::decode(&octets).unwrap();
        assert_eq!(state.encode().unwrap(), octets, "{}", id(&entry));
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

fn sha256(octets: &[u8]) -> String {
    to_hex(&sha2::Sha256::digest(octets))
}
