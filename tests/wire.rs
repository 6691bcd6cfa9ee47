//! The wire against recorded vectors: what albatross writes is written, what it reads is read.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/vectors.rs"]
mod vectors;

use petrel::wire::{CertExtension, Message, domain};
use serde_json::Value;
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
