//! What the targets begin with: the recorded vectors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petrel::unikernel::{ImageDigest, Version};
use petrel::wire::frame::frame;
use petrel::wire::state::{Recorded, Standing, State, albatross};
use petrel::wire::{Header, Int, Int64, Message, Payload, Success, VERSION};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
};
use serde_json::Value;

/// The seeds of a target; the vectors are where `PETREL_VECTORS` says, or in the project.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "answers" => answers(),
        "chain" => entries("chains/chains.json")
            .iter()
            .map(certificates)
            .collect(),
        "console" => lines(),
        "download" => hex_in(&["wire.json"]),
        "ecdsa_key" => bare_keys(),
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
        "revocation_file" => vec![pem::encode(&list_section()).into_bytes()],
        "revocation_list" => vec![revocation_list()],
        "show" => shown(),
        "state" => imported(),
        "state_albatross" => states(),
        "upload" => vec![b"\x05\0\0\0\x03abc\0\0\0\x01x\0\0\0\0more".to_vec()],
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
                    .map(|one| {
                        Arc::new(Recorded {
                            name: one.name,
                            version: Arc::new(Version {
                                config: one.config,
                                image: ImageDigest([0; 32]),
                            }),
                            previous: None,
                            standing: Standing::Up,
                        })
                    })
                    .collect(),
                policies: import.policies,
                ..State::default()
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
            petrel::authority::create_request("hello", &extension.command, None, &key).unwrap()
        })
        .collect()
}

/// A list of two certificates.
fn revocation_list() -> Vec<u8> {
    let time = |year| rcgen::date_time_ymd(year, 1, 1);
    let revoked = |number: u64| RevokedCertParams {
        serial_number: number.into(),
        revocation_time: time(2026),
        reason_code: None,
        invalidity_date: None,
    };
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut issuer = CertificateParams::default();
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    issuer.key_usages = vec![KeyUsagePurpose::CrlSign];
    let list = CertificateRevocationListParams {
        this_update: time(2026),
        next_update: time(2027),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked(7), revoked(8)],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(issuer, &key)).unwrap();
    list.der().to_vec()
}

fn list_section() -> pem::Pem {
    pem::Pem::new("X509 CRL", revocation_list())
}

/// Every message as an answer: alone, and after one to a policy.
fn answers() -> Vec<Vec<u8>> {
    let header = Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: "a:b".into(),
    };
    let done = Payload::Reply(Success::String("done".into()));
    let kept = frame(&Message::answer(header, done).encode().unwrap()).unwrap();
    hex_in(&["wire.json"])
        .iter()
        .map(|one| frame(one).unwrap())
        .flat_map(|one| {
            [
                [&[0, 7], &one[..]].concat(),
                [&[1, 7], &kept[..], &one].concat(),
            ]
        })
        .collect()
}

/// ECDSA keys without their public halves, as albatross writes them: PKCS#8 of P-256 and of P-384.
fn bare_keys() -> Vec<Vec<u8>> {
    let algorithms: [(&[u8], u8); 2] = [
        (&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], 32),
        (&[6, 5, 0x2b, 0x81, 4, 0, 0x22], 48),
    ];
    let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    algorithms
        .iter()
        .map(|(curve, size)| {
            let is_ec = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
            let algorithm = element(0x30, &[&is_ec, *curve].concat());
            let scalar = element(4, &vec![7; usize::from(*size)]);
            let key = element(4, &element(0x30, &[&[2, 1, 1], &scalar[..]].concat()));
            element(0x30, &[&[2, 1, 0], &algorithm[..], &key].concat())
        })
        .collect()
}

/// State files, and certificates in PEM.
fn shown() -> Vec<Vec<u8>> {
    let list = entries("chains/chains.json");
    let files = list
        .iter()
        .flat_map(|entry| entry["files"].as_array().unwrap().first())
        .map(|file| fs::read(folder().join("chains").join(file.as_str().unwrap())).unwrap());
    let lists = pem::encode(&list_section());
    let states = states().into_iter().chain(imported());
    let small = states.filter(|octets| octets.len() <= 1 << 14);
    files.chain([lists.into_bytes()]).chain(small).collect()
}
