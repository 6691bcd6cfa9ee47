//! Names of signature algorithms, and which of them are supported.

use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::{RsaSsaPssParams, SignatureAlgorithm};
use x509_parser::x509::AlgorithmIdentifier;

const SHA256: Oid<'static> = oid!(2.16.840.1.101.3.4.2.1);
const SHA384: Oid<'static> = oid!(2.16.840.1.101.3.4.2.2);
const SHA512: Oid<'static> = oid!(2.16.840.1.101.3.4.2.3);
const SHA1: Oid<'static> = oid!(1.3.14.3.2.26);

/// Signature algorithms with SHA-1 (RSA by two identifiers, ECDSA), which are refused.
pub const SHA1_SIGNATURES: [Oid<'static>; 3] = [
    oid!(1.2.840.113549.1.1.5),
    oid!(1.3.14.3.2.29),
    oid!(1.2.840.10045.4.1),
];
/// Signature algorithms without relevant parameters: identifier, name, and whether they are supported.
static NAMES: [(Oid<'static>, &str, bool); 11] = [
    (oid!(1.3.101.112), "Ed25519", true),
    (oid!(1.3.101.113), "Ed448", false),
    (oid!(1.2.840.10045.4.1), "ECDSA with SHA-1", false),
    (oid!(1.2.840.10045.4.3.1), "ECDSA with SHA-224", false),
    (oid!(1.2.840.10045.4.3.2), "ECDSA with SHA-256", true),
    (oid!(1.2.840.10045.4.3.3), "ECDSA with SHA-384", true),
    (oid!(1.2.840.10045.4.3.4), "ECDSA with SHA-512", false),
    (oid!(1.2.840.113549.1.1.5), "RSA with SHA-1", false),
    (oid!(1.2.840.113549.1.1.11), "RSA with SHA-256", true),
    (oid!(1.2.840.113549.1.1.12), "RSA with SHA-384", true),
    (oid!(1.2.840.113549.1.1.13), "RSA with SHA-512", true),
];

/// Digests: identifier, name, and size in bytes.
static DIGESTS: [(Oid<'static>, &str, u32); 4] = [
    (SHA256, "SHA-256", 32),
    (SHA384, "SHA-384", 48),
    (SHA512, "SHA-512", 64),
    (SHA1, "SHA-1", 20),
];

/// Name of a signature algorithm, with its relevant parameters.
pub fn describe(algorithm: &AlgorithmIdentifier<'_>) -> String {
    if let Some(pss) = pss(algorithm) {
        let digest = DIGESTS
            .iter()
            .find(|(digest, ..)| digest == pss.hash_algorithm_oid());
        let digest = digest.map_or("another digest", |(_, name, _)| name);
        return format!(
            "RSA-PSS with {digest} and a salt of {} bytes",
            pss.salt_length()
        );
    }
    let known = NAMES.iter().find(|(oid, ..)| *oid == algorithm.algorithm);
    known.map_or_else(
        || format!("the algorithm {}", algorithm.algorithm),
        |(_, name, _)| (*name).to_owned(),
    )
}

/// Whether signatures of this algorithm can be verified, with a key of the right kind.
pub fn is_supported(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    match pss(algorithm) {
        Some(pss) => DIGESTS.iter().any(|(digest, _, size)| {
            *digest != SHA1 && digest == pss.hash_algorithm_oid() && pss.salt_length() == *size
        }),
        None => NAMES
            .iter()
            .any(|(oid, _, supported)| *supported && *oid == algorithm.algorithm),
    }
}

/// Name of the algorithm whose identifier has this content: OBJECT IDENTIFIER and parameters, without the SEQUENCE.
pub fn describe_content(content: &[u8]) -> String {
    let mut der = vec![0x30];
    match u8::try_from(content.len()) {
        Ok(short @ 0..0x80) => der.push(short),
        Ok(long) => der.extend([0x81, long]),
        Err(_) => return "an unknown algorithm".to_owned(),
    }
    der.extend_from_slice(content);
    match AlgorithmIdentifier::from_der(&der) {
        Ok((_, algorithm)) => describe(&algorithm),
        Err(_) => "an unknown algorithm".to_owned(),
    }
}

/// Text that an algorithm is not supported, so that its signature could be right although it does not verify.
pub fn objection(algorithm: &AlgorithmIdentifier<'_>) -> Option<String> {
    (!is_supported(algorithm)).then(|| {
        format!(
            "it is signed with {}, which is not supported",
            describe(algorithm)
        )
    })
}

fn pss<'a>(algorithm: &'a AlgorithmIdentifier<'a>) -> Option<Box<RsaSsaPssParams<'a>>> {
    match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => Some(parameters),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring::default_provider;

    use super::*;

    /// DER of RSASSA-PSS with SHA-256, MGF1 and this salt length (RFC 4055 3.1).
    fn pss_identifier(salt: u8) -> Vec<u8> {
        const SHA256: [u8; 15] = [
            0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
            0x00,
        ];
        const PSS: [u8; 11] = [
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a,
        ];
        const MGF1: [u8; 11] = [
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08,
        ];
        let element =
            |tag, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
        let mgf = element(0x30, &[&MGF1[..], &SHA256].concat());
        let parameters = [
            element(0xa0, &SHA256),
            element(0xa1, &mgf),
            element(0xa2, &[2, 1, salt]),
        ];
        let parameters = element(0x30, &parameters.concat());
        [&PSS[..], &parameters].concat()
    }

    #[test]
    fn every_algorithm_of_the_verifier_has_a_name() {
        let provider = default_provider();
        for algorithm in provider.signature_verification_algorithms.all {
            let content = algorithm.signature_alg_id();
            let described = describe_content(&content);
            let known = ["Ed25519", "ECDSA with", "RSA with", "RSA-PSS with"];
            assert!(
                known.iter().any(|known| described.starts_with(known)),
                "{described}"
            );
            let der = [&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat();
            let (_, parsed) = AlgorithmIdentifier::from_der(&der).unwrap();
            assert!(is_supported(&parsed), "{described}");
        }
    }

    #[test]
    fn other_salts_and_digests_are_named() {
        let content = pss_identifier(22);
        let described = describe_content(&content);
        assert_eq!(described, "RSA-PSS with SHA-256 and a salt of 22 bytes");
        for (salt, supported) in [(22, false), (32, true)] {
            let content = pss_identifier(salt);
            let der = [&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat();
            let (_, parsed) = AlgorithmIdentifier::from_der(&der).unwrap();
            assert_eq!(is_supported(&parsed), supported, "{salt}");
        }
        let ecdsa_sha512 = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
        assert_eq!(describe_content(&ecdsa_sha512), "ECDSA with SHA-512");
        assert_eq!(describe_content(&[6, 1, 0x2a]), "the algorithm 1.2");
        assert_eq!(describe_content(&[1; 300]), "an unknown algorithm");
    }
}
