//! Private keys, written as PKCS#8 in PEM and readable only by their owner (WIRE 10.4).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData};
use ring::rand::{SecureRandom, SystemRandom};
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey;
use rsa::rand_core::OsRng;
use rustls::pki_types::PrivatePkcs8KeyDer;
use x509_parser::asn1_rs::{Any, FromBer, Oid, Sequence, oid};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::certificate::Certificate;
use super::error::AuthorityError;
use super::file;
use crate::private_key::{self, LABEL, ecdsa_with_public_key};

/// File mode of a private key.
const MODE: u32 = 0o400;

/// Type of a private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// Ed25519.
    #[default]
    Ed25519,
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 4096 bits.
    Rsa4096,
}

/// Existing key file whose key is not of the requested type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherType {
    path: PathBuf,
    requested: KeyType,
}

/// Private key that can sign.
#[derive(Debug)]
pub struct Key(KeyPair);

impl KeyType {
    const NAMES: [(&'static str, Self); 5] = [
        ("ed25519", Self::Ed25519),
        ("p256", Self::P256),
        ("p384", Self::P384),
        ("rsa2048", Self::Rsa2048),
        ("rsa4096", Self::Rsa4096),
    ];
}

impl Key {
    /// Generates a key.
    pub fn generate(key_type: KeyType) -> Result<Self, AuthorityError> {
        let generated = match key_type {
            KeyType::Ed25519 => return Self::generate_ed25519(),
            KeyType::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            KeyType::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            KeyType::Rsa2048 => return Self::generate_rsa(2048),
            KeyType::Rsa4096 => return Self::generate_rsa(4096),
        };
        generated
            .map(Self)
            .map_err(AuthorityError::crypto("generate a key"))
    }

    /// Generates an Ed25519 key in the form of RFC 8410 without the public key, as OpenSSL and albatross do not read the
    /// form of ring.
    fn generate_ed25519() -> Result<Self, AuthorityError> {
        const BEFORE_SEED: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        let mut pkcs8 = [0; 48];
        let (before, seed) = pkcs8.split_at_mut(BEFORE_SEED.len());
        before.copy_from_slice(&BEFORE_SEED);
        SystemRandom::new()
            .fill(seed)
            .map_err(|_| AuthorityError::no_random())?;
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(&pkcs8[..]), &PKCS_ED25519)
            .map(Self)
            .map_err(AuthorityError::crypto("generate a key"))
    }

    /// Generates an RSA key with another library, as ring generates none. ring checks the key and signs with it.
    fn generate_rsa(bits: usize) -> Result<Self, AuthorityError> {
        let key = RsaPrivateKey::new(&mut OsRng, bits)
            .map_err(AuthorityError::crypto("generate a key"))?;
        let pkcs8 = key
            .to_pkcs8_der()
            .map_err(AuthorityError::crypto("encode the key"))?;
        KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.as_bytes()))
            .map(Self)
            .map_err(AuthorityError::crypto("generate a key"))
    }

    /// Reads the key of `certificate`, which was read from `certificate_file`.
    ///
    /// # Errors
    /// When the file gives no key, or that of another certificate.
    pub fn load(
        path: &Path,
        certificate: &Certificate,
        certificate_file: &Path,
    ) -> Result<Self, AuthorityError> {
        let pkcs8 = private_key::read(path).map_err(AuthorityError::PrivateKey)?;
        let foreign = || AuthorityError::ForeignKey {
            key: path.to_owned(),
            certificate: certificate_file.to_owned(),
        };
        // albatross omits the public key from the files of its ECDSA keys; ring needs it, and checks that it matches.
        let key = match ecdsa_with_public_key(&pkcs8, &certificate.public_bits) {
            Some(completed) => Self::from_pkcs8(&completed).ok_or_else(foreign)?,
            None => Self::read(path, &pkcs8)?,
        };
        if key.public_bits() == certificate.public_bits {
            Ok(key)
        } else {
            Err(foreign())
        }
    }

    /// Reads the key file, or creates it with a new key of this type. An existing file is never changed, whatever its
    /// type.
    pub fn reuse_or_generate(
        path: &Path,
        key_type: KeyType,
    ) -> Result<(Self, Option<OtherType>), AuthorityError> {
        if path.exists() {
            let pkcs8 = private_key::read(path).map_err(AuthorityError::PrivateKey)?;
            let key = Self::read(path, &pkcs8)?;
            let other = (!key.is_a(key_type)).then(|| OtherType {
                path: path.to_owned(),
                requested: key_type,
            });
            return Ok((key, other));
        }
        let key = Self::generate(key_type)?;
        file::write(path, MODE, &file::encode(LABEL, key.pkcs8()), false)?;
        Ok((key, None))
    }

    fn is_a(&self, key_type: KeyType) -> bool {
        let info = self.public_key_info();
        let Ok((_, info)) = SubjectPublicKeyInfo::from_der(&info) else {
            return false;
        };
        let bits = info.parsed().map_or(0, |key| key.key_size());
        match (kind(&info.algorithm).as_deref(), key_type) {
            (Ok("Ed25519"), KeyType::Ed25519)
            | (Ok("P-256"), KeyType::P256)
            | (Ok("P-384"), KeyType::P384) => true,
            (Ok("RSA"), KeyType::Rsa2048) => bits == 2048,
            (Ok("RSA"), KeyType::Rsa4096) => bits == 4096,
            _ => false,
        }
    }

    /// Key as DER (PKCS#8).
    pub fn pkcs8(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// Content of the subjectPublicKey BIT STRING.
    pub fn public_bits(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    /// DER of the subjectPublicKeyInfo.
    pub fn public_key_info(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// Parses a key as DER (PKCS#8); `None` if it is not supported.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        KeyPair::try_from(&PrivatePkcs8KeyDer::from(der))
            .ok()
            .map(Self)
    }

    fn read(path: &Path, pkcs8: &[u8]) -> Result<Self, AuthorityError> {
        Self::from_pkcs8(pkcs8).ok_or_else(|| {
            let kind = match private_kind(pkcs8) {
                Some(Err(kind)) => format!("it is of the kind {kind}; "),
                _ => String::new(),
            };
            AuthorityError::malformed(
                path,
                "supported private key",
                format!(
                    "{kind}expected an Ed25519, P-256, P-384 or RSA key (2048 to 4096 bits), an ECDSA key with its \
                     public key inside ('openssl pkey -in OLD -out NEW' adds it)"
                ),
            )
        })
    }
}

/// Kind of a key.
///
/// # Errors
/// The kind of a key that is not supported.
pub(crate) fn kind(identifier: &AlgorithmIdentifier<'_>) -> Result<&'static str, String> {
    const ED25519: Oid<'static> = oid!(1.3.101.112);
    const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
    const ELLIPTIC: Oid<'static> = oid!(1.2.840.10045.2.1);
    const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
    const P384: Oid<'static> = oid!(1.3.132.0.34);
    const P521: Oid<'static> = oid!(1.3.132.0.35);

    let algorithm = &identifier.algorithm;
    let parameters = identifier.parameters.as_ref();
    let curve = parameters
        .filter(|_| *algorithm == ELLIPTIC)
        .and_then(|parameters| Oid::try_from(parameters.clone()).ok());
    match curve {
        _ if *algorithm == ED25519 => Ok("Ed25519"),
        _ if *algorithm == RSA => Ok("RSA"),
        Some(curve) if curve == P256 => Ok("P-256"),
        Some(curve) if curve == P384 => Ok("P-384"),
        Some(curve) if curve == P521 => Err("P-521".to_owned()),
        Some(curve) => Err(format!("curve {curve}")),
        None => Err(format!("algorithm {algorithm}")),
    }
}

/// Kind of a private key in PKCS#8: SEQUENCE { version, algorithm, ... } (RFC 5958 2), or `None` if it cannot be parsed.
pub(crate) fn private_kind(pkcs8: &[u8]) -> Option<Result<&'static str, String>> {
    let (_, sequence) = Sequence::from_der(pkcs8).ok()?;
    let (rest, _version) = <Any<'_> as FromBer<'_>>::from_ber(&sequence.content).ok()?;
    let (_, found) = AlgorithmIdentifier::from_der(rest).ok()?;
    Some(kind(&found))
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Self::NAMES.iter();
        let name = names.find(|(_, key_type)| key_type == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl fmt::Display for OtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, requested } = self;
        write!(
            f,
            "the existing key in '{}' is used, although it is not of the type {requested} (--key-type)",
            path.display()
        )
    }
}

impl FromStr for KeyType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, key_type)| *key_type)
            .ok_or_else(|| {
                let names = Self::NAMES.map(|(name, _)| name).join(", ");
                match text {
                    "p521" => format!("P-521 is not supported: expected one of {names}"),
                    _ => format!("unknown key type: expected one of {names}"),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::authority::read_chain;
    use crate::directory::{Directory, protect};

    /// Copies a file of the vectors.
    fn vector(directory: &Directory, chain: &str, file: &str) -> PathBuf {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/chains");
        let copy = directory.0.join(file);
        fs::copy(vectors.join(chain).join(file), &copy).unwrap();
        protect(&copy);
        copy
    }

    #[test]
    fn keys_of_albatross_are_read_with_their_certificates() {
        for chain in [
            "cli-info",
            "cli-key-p256",
            "cli-key-p384",
            "cli-key-rsa2048",
            "cli-key-rsa4096",
        ] {
            let directory = Directory::short();
            let certificate_file = vector(&directory, chain, "leaf.pem");
            let certificate = &read_chain(&certificate_file).unwrap()[0];
            let load = |key| {
                Key::load(
                    &vector(&directory, chain, key),
                    certificate,
                    &certificate_file,
                )
            };
            load("leaf.key").unwrap();
            let foreign = load("root.key");
            assert!(
                matches!(foreign, Err(AuthorityError::ForeignKey { .. })),
                "{chain}"
            );
        }
    }

    #[test]
    fn a_generated_key_has_the_form_that_other_programs_read() {
        let ed25519 = Key::generate(KeyType::Ed25519).unwrap();
        assert_eq!(ed25519.pkcs8().len(), 48);
        assert_ne!(
            ed25519.pkcs8(),
            Key::generate(KeyType::Ed25519).unwrap().pkcs8()
        );
        assert_eq!(
            Key::generate(KeyType::P256).unwrap().public_bits().len(),
            65
        );
        assert_eq!(
            Key::generate(KeyType::P384).unwrap().public_bits().len(),
            97
        );
    }

    #[test]
    fn rsa_keys_have_the_requested_size() {
        for (key_type, bits) in [(KeyType::Rsa2048, 2048), (KeyType::Rsa4096, 4096)] {
            let key = Key::generate(key_type).unwrap();
            let info = key.public_key_info();
            let (_, info) = SubjectPublicKeyInfo::from_der(&info).unwrap();
            assert_eq!(info.parsed().unwrap().key_size(), bits);
            let again = Key::from_pkcs8(key.pkcs8()).unwrap();
            assert_eq!(again.public_bits(), key.public_bits());
        }
    }

    #[test]
    fn an_unsupported_type_is_refused_with_the_supported_ones() {
        for (name, word) in [
            ("p521", "P-521 is not supported"),
            ("dsa", "unknown key type"),
        ] {
            let error = name.parse::<KeyType>().unwrap_err();
            assert!(error.contains(word) && error.contains("rsa4096"), "{error}");
        }
    }
}
