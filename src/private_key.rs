//! Private keys in files, and the forms in which they come.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};

use pem::Pem;
use x509_parser::asn1_rs::{Any, Class, Oid, Sequence, oid};
use x509_parser::prelude::FromDer;

use crate::private_file::{self, PrivateFileFault};

/// Maximum size of a key file in bytes; one that also holds certificates is usual.
pub const MAX_KEY_FILE: u64 = 1 << 20;

/// PEM label of a key in PKCS#8 (RFC 7468 10), the form in which keys are written.
pub const LABEL: &str = "PRIVATE KEY";

/// PEM label of an ECDSA key in SEC1 (RFC 5915).
const SEC1: &str = "EC PRIVATE KEY";

/// PEM label of the curve that OpenSSL writes before a key in SEC1.
pub const CURVE: &str = "EC PARAMETERS";

/// PEM label of an RSA key in PKCS#1 (RFC 8017 A.1.2).
const PKCS1: &str = "RSA PRIVATE KEY";

/// PEM label of an encrypted key in PKCS#8 (RFC 7468 11).
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const ELLIPTIC: Oid<'static> = oid!(1.2.840.10045.2.1);

/// Failure to get a private key out of a file.
#[derive(Debug)]
pub struct KeyFileError {
    path: PathBuf,
    fault: KeyFault,
}

/// Reasons why a file gives no private key.
#[derive(Debug)]
pub enum KeyFault {
    /// The file cannot be read, or others have access to it.
    File(PrivateFileFault),
    /// The file is not valid PEM.
    Pem(String),
    /// The file holds no private key.
    Missing,
    /// The file holds several private keys.
    Several,
    /// The key is encrypted with a passphrase.
    Encrypted,
    /// The block with this label has a form that cannot be read.
    Form(String),
}

/// Reads the only private key of a PEM file, as DER of PKCS#8.
///
/// # Errors
/// When others have access to the file, or its key cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    read_checked(path).map_err(|fault| KeyFileError {
        path: path.to_owned(),
        fault,
    })
}

fn read_checked(path: &Path) -> Result<Vec<u8>, KeyFault> {
    let (text, access) = private_file::read_any(path, MAX_KEY_FILE).map_err(KeyFault::File)?;
    match (from_pem(&text), access) {
        // Another file was given by mistake: who can read it does not matter.
        (Err(fault @ (KeyFault::Missing | KeyFault::Pem(_))), _) => Err(fault),
        (_, Err(exposure)) => Err(KeyFault::File(PrivateFileFault::Access(exposure))),
        (key, Ok(())) => key,
    }
}

/// Finds the only private key of a PEM text, as DER of PKCS#8.
///
/// # Errors
/// When there is none or more than one, or its form is unknown.
pub fn from_pem(text: &[u8]) -> Result<Vec<u8>, KeyFault> {
    let blocks = pem::parse_many(text).map_err(|error| KeyFault::Pem(error.to_string()))?;
    let mut keys = blocks.iter().filter(|block| is_private_key(block));
    let key = keys.next().ok_or(KeyFault::Missing)?;
    if keys.next().is_some() {
        return Err(KeyFault::Several);
    }
    let curve = blocks.iter().find(|block| block.tag() == CURVE);
    to_pkcs8(key, curve.map(Pem::contents))
}

/// Tells whether a PEM block is a private key of whatever form.
pub fn is_private_key(block: &Pem) -> bool {
    block.tag().ends_with(LABEL)
}

/// Converts a PEM block with a private key to DER of PKCS#8. `curve` is the content of an `EC PARAMETERS` block.
///
/// # Errors
/// When the key is encrypted, or its form is unknown.
pub fn to_pkcs8(block: &Pem, curve: Option<&[u8]>) -> Result<Vec<u8>, KeyFault> {
    // RFC 1421 4.6.1.1, as OpenSSL's older commands encrypt.
    let headers = block.headers();
    let header = headers.get("Proc-Type");
    if block.tag() == ENCRYPTED || header.is_some_and(|value| value.ends_with("ENCRYPTED")) {
        return Err(KeyFault::Encrypted);
    }
    let key = block.contents();
    let converted = match block.tag() {
        LABEL => Some(key.to_vec()),
        PKCS1 => Some(wrap(&RSA, &NULL, key)),
        SEC1 => sec1_to_pkcs8(key, curve),
        _ => None,
    };
    converted.ok_or_else(|| KeyFault::Form(block.tag().to_owned()))
}

const NULL: [u8; 2] = [0x05, 0x00];

/// PKCS#8 (RFC 5208 5): SEQUENCE { INTEGER 0, SEQUENCE { algorithm, parameters }, OCTET STRING { key } }.
fn wrap(algorithm: &Oid<'_>, parameters: &[u8], key: &[u8]) -> Vec<u8> {
    let algorithm = element(0x06, algorithm.as_bytes());
    let identifier = element(0x30, &[&algorithm[..], parameters].concat());
    let content = [&[2, 1, 0], &identifier[..], &element(0x04, key)[..]].concat();
    element(0x30, &content)
}

/// SEC1 (RFC 5915 3): `SEQUENCE { INTEGER 1, OCTET STRING, [0] curve OPTIONAL, [1] public key OPTIONAL }`. The curve
/// moves to the algorithm.
fn sec1_to_pkcs8(key: &[u8], outside: Option<&[u8]>) -> Option<Vec<u8>> {
    let (rest, sequence) = Sequence::from_der(key).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let content: &[u8] = &sequence.content;
    let mut curve = outside;
    let mut kept = Vec::new();
    let mut left = content;
    while !left.is_empty() {
        let (rest, field) = Any::from_der(left).ok()?;
        if field.class() == Class::ContextSpecific && field.tag().0 == 0 {
            curve = Some(field.data);
        } else {
            kept.extend_from_slice(left.get(..left.len() - rest.len())?);
        }
        left = rest;
    }
    let curve = curve?;
    // Curves have names here; one whose parameters are written out is not supported.
    let (_, named) = Any::from_der(curve).ok()?;
    Oid::try_from(named).ok()?;
    Some(wrap(&ELLIPTIC, curve, &element(0x30, &kept)))
}

/// DER of an element with this tag.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let significant = length.get(zeros..).unwrap_or_default();
    let mut der = vec![tag];
    match (significant, u8::try_from(significant.len())) {
        ([], _) => der.push(0),
        ([short @ 0..0x80], _) => der.push(*short),
        (long, Ok(count)) => {
            der.push(0x80 | count);
            der.extend_from_slice(long);
        }
        // A length has at most 8 bytes.
        (_, Err(_)) => {}
    }
    der.extend_from_slice(content);
    der
}

/// Adds the public key to an ECDSA key in PKCS#8 that lacks it; `None` for everything else. albatross writes such keys.
///
/// The layout is fixed: SEQUENCE { INTEGER 0, algorithm, OCTET STRING { SEQUENCE { INTEGER 1, OCTET STRING scalar } } }
/// with every length below 128, as P-521 is out of reach anyway.
pub fn ecdsa_with_public_key(pkcs8: &[u8], public: &[u8]) -> Option<Vec<u8>> {
    let content = short_element(pkcs8, 0x30)?.strip_prefix(&[2, 1, 0])?;
    let algorithm_length = 2 + usize::from(*content.get(1)?);
    let (algorithm, rest) = content.split_at_checked(algorithm_length)?;
    let ec_key = short_element(short_element(rest, 0x04)?, 0x30)?;
    let scalar = ec_key.strip_prefix(&[2, 1, 1])?;
    short_element(scalar, 0x04)?;
    if public.len() > PUBLIC_KEY_SIZE {
        return None;
    }
    let bits = element(0x03, &[&[0], public].concat());
    let ec_key = element(0x30, &[ec_key, &element(0xa1, &bits)].concat());
    let wrapped = element(0x04, &ec_key);
    Some(element(0x30, &[&[2, 1, 0], algorithm, &wrapped].concat()))
}

/// Size that the public half of an ECDSA key has at most, in bytes: P-384 has 97.
const PUBLIC_KEY_SIZE: usize = 128;

/// Content of an element that is all of `der` and shorter than 128 bytes.
fn short_element(der: &[u8], tag: u8) -> Option<&[u8]> {
    match der {
        [first, length, content @ ..]
            if *first == tag && *length < 0x80 && usize::from(*length) == content.len() =>
        {
            Some(content)
        }
        _ => None,
    }
}

impl KeyFileError {
    /// Reason why the file gives no key.
    pub fn fault(&self) -> &KeyFault {
        &self.fault
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            KeyFault::File(fault) => fault.explain(f, "private key", &self.path),
            KeyFault::Encrypted => write!(
                f,
                "the private key '{path}' is encrypted with a passphrase, which is not supported: write a copy without \
                 one by 'openssl pkey -in {path} -out NEW'"
            ),
            fault => write!(f, "cannot use the private key '{path}': {fault}"),
        }
    }
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(fault) => fault.fmt(f),
            Self::Pem(why) => write!(f, "the file is not valid PEM: {why}"),
            Self::Missing => write!(f, "the file holds no complete PEM block '{LABEL}'"),
            Self::Several => f.write_str("the file holds more than one private key"),
            Self::Encrypted => f.write_str("it is encrypted with a passphrase"),
            Self::Form(label) => write!(
                f,
                "the content of its PEM block '{}' is not supported: write a copy by 'openssl pkey -in OLD -out NEW'",
                label.escape_default()
            ),
        }
    }
}

impl std::error::Error for KeyFileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_der_has_them() {
        for (length, head) in [
            (0, &[4, 0][..]),
            (0x7f, &[4, 0x7f]),
            (0x80, &[4, 0x81, 0x80]),
            (0x100, &[4, 0x82, 1, 0]),
        ] {
            let der = element(4, &vec![0; length]);
            assert_eq!(der[..head.len()], *head);
            assert_eq!(der.len(), head.len() + length);
        }
    }

    #[test]
    fn what_is_no_single_readable_key_is_named() {
        let block = |label: &str, content: &str| {
            format!("-----BEGIN {label}-----\n{content}\n-----END {label}-----\n")
        };
        let encrypted = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMAA=";
        let cases = [
            (String::new(), "no complete PEM block"),
            (block("CERTIFICATE", "MAA="), "no complete PEM block"),
            (block(LABEL, "MAA=").repeat(2), "more than one"),
            (block(ENCRYPTED, "MAA="), "passphrase"),
            (block(PKCS1, encrypted), "passphrase"),
            (block(SEC1, "MAA="), "'EC PRIVATE KEY' is not supported"),
            (block("DSA PRIVATE KEY", "MAA="), "is not supported"),
            (block(LABEL, "-"), "not valid PEM"),
        ];
        for (text, word) in cases {
            let fault = from_pem(text.as_bytes()).unwrap_err().to_string();
            assert!(fault.contains(word), "{text}: {fault}");
        }
    }
}
