//! What the targets begin with: the recorded vectors.

use std::fs;
use std::path::{Path, PathBuf};

use petrel::unikernel::ImageDigest;
use petrel::wire::frame::frame;
use petrel::wire::state::{State, albatross};
use serde_json::Value;

/// The seeds of a target; the vectors are where `PETREL_VECTORS` says, or in the project.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "chain" => entries("chains/chains.json")
            .iter()
            .map(certificates)
            .collect(),
        "console" => lines(),
        "extension" => hex_in(&["cert_extension.json"]),
        "frame" => hex_in(&["wire.json"])
            .iter()
            .map(|one| pieces(&frame(one).unwrap_or_default()))
            .collect(),
        "image_extension" => vec![petrel::chain::image_extension_value(&ImageDigest([7; 32]))],
        "inflate" => hex_in(&["compress.json"])
            .iter()
            .map(|one| pieces(one))
            .collect(),
        "manifest" => images(),
        "message" => hex_in(&["wire.json", "wire_decode_only.json", "wire_reject.json"]),
        "name" => names(),
        "request" => requests(),
        "state" => imported(),
        "state_albatross" => states(),
        other => panic!("there is no target {other}"),
    }
}

fn folder() -> PathBuf {
    std::env::var_os("PETREL_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors"),
        PathBuf::from,
    )
}

fn entries(file: &str) -> Vec<Value> {
    let path = folder().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// The octets of all entries of these files, as far as they are small.
fn hex_in(files: &[&str]) -> Vec<Vec<u8>> {
    files
        .iter()
        .flat_map(|file| entries(file))
        .map(|entry| from_hex(entry["hex"].as_str().unwrap()))
        .filter(|octets| octets.len() <= 1 << 14)
        .collect()
}

/// Octets that are to be cut into pieces of seven.
fn pieces(octets: &[u8]) -> Vec<u8> {
    [&[7], octets].concat()
}

/// The certificates of a chain, each in a frame.
fn certificates(entry: &Value) -> Vec<u8> {
    let files = entry["files"].as_array().unwrap();
    files
        .iter()
        .flat_map(|file| {
            let path = folder().join("chains").join(file.as_str().unwrap());
            let certificate = pem::parse(fs::read(path).unwrap()).unwrap();
            frame(certificate.contents()).unwrap()
        })
        .collect()
}

fn lines() -> Vec<Vec<u8>> {
    entries("console.json")
        .iter()
        .map(|entry| {
            let lines = entry["entries"].as_array().unwrap();
            let lines = lines.iter().filter_map(|line| line["line"].as_str());
            let size = entry["size"].as_u64().unwrap().min(255) as u8;
            let text = lines.flat_map(|line| [line.as_bytes(), b"\n"].concat());
            [5, size].into_iter().chain(text).collect()
        })
        .collect()
}

fn names() -> Vec<Vec<u8>> {
    entries("names.json")
        .iter()
        .filter_map(|entry| entry["input"].as_str())
        .map(|text| text.as_bytes().to_vec())
        .collect()
}

/// State files of albatross, those that a daemon wrote included.
fn states() -> Vec<Vec<u8>> {
    let written = entries("state_daemon.json");
    let written = written
        .iter()
        .map(|entry| fs::read(folder().join(entry["file"].as_str().unwrap())).unwrap());
    hex_in(&["state.json"]).into_iter().chain(written).collect()
}

/// The images in them.
fn images() -> Vec<Vec<u8>> {
    states()
        .iter()
        .filter_map(|octets| albatross::State::decode(octets).ok())
        .flat_map(|state| state.import().unikernels)
        .filter(|unikernel| !unikernel.compressed)
        .map(|unikernel| unikernel.image)
        .collect()
}

/// The same states as ours.
fn imported() -> Vec<Vec<u8>> {
    states()
        .iter()
        .filter_map(|octets| albatross::State::decode(octets).ok())
        .map(|state| {
            let import = state.import();
            let unikernels = import.unikernels.into_iter();
            let state = State {
                unikernels: unikernels
                    .map(|one| (one.name, one.config, ImageDigest([0; 32])))
                    .collect(),
                policies: import.policies,
            };
            state.encode().unwrap()
        })
        .collect()
}

/// Signing requests for what the extensions hold.
fn requests() -> Vec<Vec<u8>> {
    let key = petrel::authority::Key::generate(petrel::authority::KeyType::Ed25519).unwrap();
    hex_in(&["cert_extension.json"])
        .iter()
        .filter_map(|octets| petrel::wire::CertExtension::decode(octets).ok())
        .take(10)
        .map(|extension| {
            petrel::authority::create_request("hello", &extension.command, &key).unwrap()
        })
        .collect()
}
