//! What the targets begin with: the recorded vectors.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use petrel::unikernel::{ImageDigest, Version};
use petrel::wire::frame::frame;
use petrel::wire::state::{DesiredState, Recorded, State, albatross};
use petrel::wire::{Header, Int, Int64, Message, Payload, Success, VERSION};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SignatureAlgorithm,
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
        "revocation_file" => list_files(),
        "crl" => vec![crl()],
        "show" => shown(),
        "state" => imported(),
        "state_albatross" => states(),
        "upload" => uploads(),
        other => panic!("there is no target {other}"),
    }
}

fn directory() -> PathBuf {
    std::env::var_os("PETREL_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors"),
        PathBuf::from,
    )
}

fn entries(file: &str) -> Vec<Value> {
    let path = directory().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// The bytes of all entries of these files, as far as they are small.
fn hex_in(files: &[&str]) -> Vec<Vec<u8>> {
    files
        .iter()
        .flat_map(|file| entries(file))
        .map(|entry| from_hex(entry["hex"].as_str().unwrap()))
        .filter(|bytes| bytes.len() <= 1 << 14)
        .collect()
}

/// Bytes that are to be cut into pieces of seven.
fn pieces(bytes: &[u8]) -> Vec<u8> {
    [&[7], bytes].concat()
}

/// The certificates of a chain, each in a frame.
fn certificates(entry: &Value) -> Vec<u8> {
    let files = entry["files"].as_array().unwrap();
    files
        .iter()
        .flat_map(|file| {
            let path = directory().join("chains").join(file.as_str().unwrap());
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
        .map(|entry| fs::read(directory().join(entry["file"].as_str().unwrap())).unwrap());
    hex_in(&["state.json"]).into_iter().chain(written).collect()
}

/// The images in them.
fn images() -> Vec<Vec<u8>> {
    states()
        .iter()
        .filter_map(|bytes| albatross::State::decode(bytes).ok())
        .flat_map(|state| state.import().unikernels)
        .filter(|unikernel| !unikernel.compressed)
        .map(|unikernel| unikernel.image)
        .collect()
}

/// The same states as ours.
fn imported() -> Vec<Vec<u8>> {
    states()
        .iter()
        .filter_map(|bytes| albatross::State::decode(bytes).ok())
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
                            standing: DesiredState::Up,
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
        .filter_map(|bytes| petrel::wire::CertExtension::decode(bytes).ok())
        .take(10)
        .map(|extension| {
            petrel::authority::create_request("hello", &extension.command, None, &key).unwrap()
        })
        .collect()
}

/// Uploads of every image and of what is none, as they are and compressed, in frames of several sizes; and the ends that an
/// upload can have.
fn uploads() -> Vec<Vec<u8>> {
    const COMPRESSED: u8 = 0x80;
    let mut uploads = vec![
        b"\x05\0\0\0\x03abc\0\0\0\x01x\0\0\0\0more".to_vec(),
        b"\x01\0\0\0\0".to_vec(),
        b"\x01\0\0\0\x03ab".to_vec(),
        b"\x01\0\0".to_vec(),
        b"\x07\xff\xff\xff\xffabc".to_vec(),
    ];
    let images = images().into_iter().filter(|image| image.len() <= 1 << 16);
    let images = images.take(4).chain([b"no image".to_vec(), Vec::new()]);
    for image in images {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&image).unwrap();
        let stream = encoder.finish().unwrap();
        for (flag, content) in [(0, &image), (COMPRESSED, &stream)] {
            for size in [11, 4096, 1 << 16] {
                let frames = content
                    .chunks(size)
                    .filter(|piece| size >= 4096 || piece.len() * content.len() < 1 << 16)
                    .flat_map(|piece| frame(piece).unwrap());
                let upload: Vec<u8> = [flag | 0x3f].into_iter().chain(frames).collect();
                uploads.push([&upload[..], &[0; 4]].concat());
            }
        }
    }
    uploads
}

/// Files of lists: one and several, of every kind of key, with text around and other ends of lines, and such that are
/// refused late.
fn list_files() -> Vec<Vec<u8>> {
    let encoded = |list: Vec<u8>| pem::encode(&pem::Pem::new("X509 CRL", list));
    let with = |change: fn(&mut CertificateRevocationListParams)| {
        let mut list = list_of(vec![revoked(7), revoked(8)]);
        change(&mut list);
        encoded(signed(list, &rcgen::PKCS_ED25519))
    };
    let reasons = [
        RevocationReason::Unspecified,
        RevocationReason::KeyCompromise,
        RevocationReason::CaCompromise,
        RevocationReason::AffiliationChanged,
        RevocationReason::Superseded,
        RevocationReason::CessationOfOperation,
        RevocationReason::CertificateHold,
        RevocationReason::PrivilegeWithdrawn,
        RevocationReason::AaCompromise,
    ];
    let detailed = reasons.into_iter().zip(1_u64..).map(|(reason, number)| {
        let mut entry = revoked(number << (7 * number - 7));
        entry.reason_code = Some(reason);
        entry.invalidity_date = Some(rcgen::date_time_ymd(2025, 1, 1));
        entry
    });
    let detailed = encoded(signed(list_of(detailed.collect()), &rcgen::PKCS_ED25519));
    let mut files = vec![pem::encode(&list_section()), detailed.clone()];
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ] {
        files.push(encoded(signed(list_of(vec![revoked(1)]), algorithm)));
    }
    // Without entries; of a part of the certificates only; after the last date of UTCTime.
    files.push(encoded(signed(list_of(Vec::new()), &rcgen::PKCS_ED25519)));
    files.push(with(|list| {
        list.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec!["http://localhost/crl".into()],
            },
            scope: Some(CrlScope::UserCertsOnly),
        });
    }));
    files.push(with(|list| {
        list.next_update = rcgen::date_time_ymd(2060, 1, 1)
    }));
    files.push(with(|list| {
        list.key_identifier_method = KeyIdMethod::PreSpecified(vec![0xff; 21]);
    }));
    let several = files.concat();
    files.push(format!("a comment\n{several}another\n"));
    files.push(detailed.replace("\r\n", "\n"));
    files.push(detailed.replace("X509 CRL", "CERTIFICATE"));
    files.push(detailed.replace("-----END", "-----ENT"));
    files.into_iter().map(String::into_bytes).collect()
}

/// A list of two certificates.
fn crl() -> Vec<u8> {
    signed(list_of(vec![revoked(7), revoked(8)]), &rcgen::PKCS_ED25519)
}

fn revoked(number: u64) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: number.into(),
        revocation_time: rcgen::date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    }
}

fn list_of(revoked_certs: Vec<RevokedCertParams>) -> CertificateRevocationListParams {
    CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2027, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// The list, signed with a new key.
fn signed(
    list: CertificateRevocationListParams,
    algorithm: &'static SignatureAlgorithm,
) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut issuer = CertificateParams::default();
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    issuer.key_usages = vec![KeyUsagePurpose::CrlSign];
    let list = list.signed_by(&Issuer::new(issuer, &key)).unwrap();
    list.der().to_vec()
}

fn list_section() -> pem::Pem {
    pem::Pem::new("X509 CRL", crl())
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
        .map(|file| fs::read(directory().join("chains").join(file.as_str().unwrap())).unwrap());
    let lists = pem::encode(&list_section());
    let states = states().into_iter().chain(imported());
    let small = states.filter(|bytes| bytes.len() <= 1 << 14);
    files.chain([lists.into_bytes()]).chain(small).collect()
}
