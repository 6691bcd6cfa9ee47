//! What is told of keys: their type and the identifier of their public half.

use x509_parser::asn1_rs::{Any, FromBer, Oid, Sequence, oid};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::page::{Page, hex, quoted};
use crate::authority::{Key, key_identifier};

const ED25519: Oid<'static> = oid!(1.3.101.112);
const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const ELLIPTIC: Oid<'static> = oid!(1.2.840.10045.2.1);
const CURVES: [(Oid<'static>, &str); 3] = [
    (oid!(1.2.840.10045.3.1.7), "P-256"),
    (oid!(1.3.132.0.34), "P-384"),
    (oid!(1.3.132.0.35), "P-521 (not supported)"),
];

/// A public key: type, and the identifier that certificates refer to it by.
pub(super) fn public_key(info: &SubjectPublicKeyInfo<'_>) -> String {
    let bits = match info.parsed() {
        Ok(key) if info.algorithm.algorithm == RSA => format!(" of {} bits", key.key_size()),
        _ => String::new(),
    };
    format!(
        "{}{bits}, identifier {}",
        algorithm(&info.algorithm),
        hex(&key_identifier(&info.subject_public_key.data))
    )
}

/// A private key in PKCS#8, of which nothing secret is shown.
pub(super) fn private_key(page: &mut Page, pkcs8: &[u8]) -> Result<(), String> {
    let unreadable = || "it is no key in PKCS#8".to_owned();
    let kind = private_algorithm(pkcs8).ok_or_else(unreadable)?;
    let info = Key::from_pkcs8(pkcs8).map(|key| key.public_key_info());
    match info
        .as_deref()
        .and_then(|info| SubjectPublicKeyInfo::from_der(info).ok())
    {
        Some((_, info)) => page.field("private key", public_key(&info)),
        // Such as an ECDSA key of albatross, whose public half is not in the file.
        None => page.field("private key", format_args!("{kind}, identifier unknown")),
    }
    Ok(())
}

/// A private key in another form than PKCS#8.
pub(super) fn other_private_key(page: &mut Page, label: &str) {
    page.field(
        "private key",
        format_args!("{}, a form that is not used here", quoted(label)),
    );
}

/// SEQUENCE { version, algorithm, ... } (RFC 5958 2)
fn private_algorithm(pkcs8: &[u8]) -> Option<String> {
    let (_, sequence) = Sequence::from_der(pkcs8).ok()?;
    let (rest, _version) = <Any<'_> as FromBer<'_>>::from_ber(&sequence.content).ok()?;
    let (_, found) = AlgorithmIdentifier::from_der(rest).ok()?;
    Some(algorithm(&found))
}

fn algorithm(identifier: &AlgorithmIdentifier<'_>) -> String {
    let oid = &identifier.algorithm;
    if *oid == ED25519 {
        return "Ed25519".to_owned();
    }
    if *oid == RSA {
        return "RSA".to_owned();
    }
    let curve = identifier
        .parameters
        .as_ref()
        .filter(|_| *oid == ELLIPTIC)
        .and_then(|parameters| Oid::try_from(parameters.clone()).ok());
    match curve {
        Some(curve) => CURVES
            .iter()
            .find(|(known, _)| *known == curve)
            .map_or_else(|| format!("curve {curve}"), |(_, name)| (*name).to_owned()),
        None => format!("algorithm {oid}"),
    }
}
