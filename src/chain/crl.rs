//! CRLs (RFC 5280 5): their validity, issuer and entries. The time is an argument.
//!
//! Common names are not unique: two tenants may both have an authority `web`. A CRL belongs to the issuer whose key
//! signed it. In case of doubt, certificates are refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use webpki::BorrowedCertRevocationList;
use x509_parser::asn1_rs::{Any, BitString};
use x509_parser::error::X509Error;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::verify::verify_signature;
use x509_parser::x509::{AlgorithmIdentifier, X509Name, X509Version};

use super::algorithm::{SHA1_SIGNATURES, describe, is_supported};
use super::certificate::Certificate;
use super::validity::{self, ends_soon};
use super::words::{in_words, unreadable as unreadable_der};
use crate::serial::magnitude;

/// PEM label of a CRL (RFC 7468 6).
pub const LABEL: &str = "X509 CRL";

/// Maximum size of a file of CRLs, in bytes.
pub const MAX_CRL_FILE: u64 = 4 << 20;

/// CRL whose signature has not been verified.
#[derive(Clone, Debug)]
pub struct Crl {
    /// DER of the signed part (`TBSCertList`).
    signed: Vec<u8>,
    /// DER of the signature algorithm and the signature.
    signature: Vec<u8>,
    /// Results of earlier verifications, by public key (DER).
    signers: RefCell<BTreeMap<Vec<u8>, Signed>>,
    /// DER of the issuer's name.
    issuer: Vec<u8>,
    /// Key identifier of the issuer.
    authority_key: Option<Vec<u8>>,
    /// Seconds since 1970.
    this_update: i64,
    next_update: i64,
    /// Magnitudes of the revoked serial numbers. A negative number and its absolute value are both revoked.
    serials: BTreeSet<Vec<u8>>,
}

/// Result of verifying the signature of a CRL with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    Yes,
    No,
    /// The algorithm, or its parameters, are not supported.
    Unsupported,
}

/// Reason why a CRL cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlError {
    /// The CRL is not of version 2, or has parts that are not supported.
    Unreadable(String),
    /// The CRL covers only some certificates of its issuer.
    Partial,
    /// The CRL is not valid before this time, in seconds since 1970.
    NotValidYet(i64),
    /// The CRL expired at this time, in seconds since 1970.
    Expired(i64),
    /// The CRL names this issuer, but was not signed by its key.
    Signature(String),
    /// The CRL names this issuer, but its signature cannot be verified.
    Algorithm {
        /// Common name of the issuer.
        issuer: String,
        /// Name of the signature algorithm.
        algorithm: String,
    },
    /// The key usage of this issuer does not allow signing CRLs.
    KeyUsage(String),
}

impl Crl {
    /// Parses one CRL. Parts that are not supported are refused, as they could revoke something.
    pub fn read(der: &[u8]) -> Result<Self, CrlError> {
        let unreadable = |reason: &dyn fmt::Display| CrlError::Unreadable(reason.to_string());
        // webpki refuses delta and indirect CRLs, unknown critical extensions of the CRL and its entries, and a missing
        // nextUpdate. x509-parser skips extensions of entries that it cannot parse, but gives the issuer's key identifier.
        if let Ok((_, list)) = CertificateRevocationList::from_der(der)
            && list
                .version()
                .is_none_or(|version| version == X509Version::V1)
        {
            return Err(unreadable(
                &"it is of version 1, but version 2 is required (set crl_extensions in the configuration of openssl)",
            ));
        }
        let strict = BorrowedCertRevocationList::from_der(der)
            .map_err(|error| unreadable(&in_words(&error)))?;
        let serials = strict
            .into_iter()
            .map(|entry| entry.map(|entry| magnitude(entry.serial_number).to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|error: webpki::Error| unreadable(&in_words(&error)))?;
        let (_, list) = CertificateRevocationList::from_der(der)
            .map_err(|error| unreadable(&unreadable_der(error)))?;
        let next_update = list
            .next_update()
            .ok_or_else(|| unreadable(&"it has no nextUpdate"))?;
        let mut authority_key = None;
        for extension in list.extensions() {
            if extension.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT {
                return Err(CrlError::Partial);
            }
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(identifier) if authority_key.is_none() => {
                    authority_key =
                        Some(identifier.key_identifier.as_ref().map(|key| key.0.to_vec()));
                }
                ParsedExtension::AuthorityKeyIdentifier(_) => {
                    return Err(unreadable(&"it has an extension more than once"));
                }
                ParsedExtension::ParseError { .. } => {
                    return Err(unreadable(&"the encoding of an extension is damaged"));
                }
                _ => {}
            }
        }
        if SHA1_SIGNATURES.contains(&list.signature_algorithm.algorithm) {
            return Err(unreadable(&"SHA-1 is not accepted"));
        }
        let signed = list.tbs_cert_list.as_ref();
        let signature = Any::from_der(der)
            .ok()
            .and_then(|(_, whole)| whole.data.strip_prefix(signed))
            .ok_or_else(|| unreadable(&"its signed part is not at its start"))?;
        Ok(Self {
            signed: signed.to_vec(),
            signature: signature.to_vec(),
            signers: RefCell::default(),
            issuer: list.issuer().as_raw().to_vec(),
            authority_key: authority_key.flatten(),
            this_update: list.last_update().timestamp(),
            next_update: next_update.timestamp(),
            serials,
        })
    }

    /// Checks that the CRL is valid at `now`.
    pub fn check_time(&self, now: UnixTime) -> Result<(), CrlError> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < self.this_update {
            Err(CrlError::NotValidYet(self.this_update))
        } else if now >= self.next_update {
            Err(CrlError::Expired(self.next_update))
        } else {
            Ok(())
        }
    }

    /// Time until the CRL expires, if that is less than `notice` and than a quarter of its validity.
    pub fn ends_soon(&self, now: UnixTime, notice: Duration) -> Option<Duration> {
        ends_soon(self.this_update, self.next_update, now, notice)
    }

    /// Name of the issuer, in one line.
    pub fn issuer(&self) -> String {
        X509Name::from_der(&self.issuer)
            .map_or_else(|_| String::new(), |(_, name)| name.to_string())
    }

    /// Whether the CRL was issued by `issuer`.
    ///
    /// # Errors
    /// When the CRL names the issuer, but was not signed by its key, or the key must not sign CRLs.
    pub fn is_of(&self, issuer: &Certificate<'_>) -> Result<bool, CrlError> {
        let same_name = self.has_name_of(issuer);
        let same_key = self
            .authority_key
            .as_deref()
            .zip(key_identifier(issuer))
            .map(|(one, other)| one == other);
        if !same_name && same_key != Some(true) {
            return Ok(false);
        }
        let name = || issuer.common_name().unwrap_or_default();
        let signed = self.signed_by(issuer);
        if signed == Signed::Yes {
            return if may_sign(issuer) {
                Ok(true)
            } else {
                Err(CrlError::KeyUsage(name()))
            };
        }
        match (same_name, same_key) {
            (false, _) | (_, Some(false)) => Ok(false),
            (true, _) if signed == Signed::Unsupported => Err(CrlError::Algorithm {
                issuer: name(),
                algorithm: self.algorithm(),
            }),
            (true, _) => Err(CrlError::Signature(name())),
        }
    }

    /// Whether the CRL names `issuer` as its issuer.
    pub fn has_name_of(&self, issuer: &Certificate<'_>) -> bool {
        self.issuer == issuer.x509().subject().as_raw()
    }

    /// Whether the CRL revokes `certificate`, which its issuer issued.
    pub fn revokes(&self, certificate: &Certificate<'_>) -> bool {
        self.serials
            .contains(magnitude(certificate.x509().raw_serial()))
    }

    /// Name of the signature algorithm.
    fn algorithm(&self) -> String {
        AlgorithmIdentifier::from_der(&self.signature)
            .map_or_else(|_| String::new(), |(_, algorithm)| describe(&algorithm))
    }

    fn signed_by(&self, issuer: &Certificate<'_>) -> Signed {
        let key = issuer.x509().public_key();
        let mut signers = self.signers.borrow_mut();
        *signers.entry(key.raw.to_vec()).or_insert_with(|| {
            let Ok((signature, algorithm)) = AlgorithmIdentifier::from_der(&self.signature) else {
                return Signed::No;
            };
            let Ok((_, signature)) = BitString::from_der(signature) else {
                return Signed::No;
            };
            match verify_signature(key, &algorithm, &signature, &self.signed) {
                Ok(()) => Signed::Yes,
                Err(_) if !is_supported(&algorithm) => Signed::Unsupported,
                Err(X509Error::SignatureUnsupportedAlgorithm) => Signed::Unsupported,
                Err(_) => Signed::No,
            }
        })
    }
}

fn key_identifier<'a>(issuer: &'a Certificate<'_>) -> Option<&'a [u8]> {
    issuer
        .x509()
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
            _ => None,
        })
}

/// Whether the key usage, if there is one, allows signing CRLs (RFC 5280 6.3.3 (f)).
fn may_sign(issuer: &Certificate<'_>) -> bool {
    match issuer.x509().key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
        Err(_) => false,
    }
}

impl fmt::Display for CrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => {
                write!(f, "the CRL cannot be read: {reason}")
            }
            Self::Partial => f.write_str(
                "the CRL covers only some certificates of its issuer, which is not supported",
            ),
            Self::NotValidYet(time) => {
                write!(f, "the CRL is not valid before {}", validity::time(*time))
            }
            Self::Expired(time) => write!(
                f,
                "the CRL expired at {}: the holder of the authority's key can renew it with 'petrel revoke' without names",
                validity::time(*time)
            ),
            Self::Algorithm { issuer, algorithm } => write!(
                f,
                "the CRL of '{}' is signed with {algorithm}, which is not supported for its key (sign it with an algorithm listed in \
                 petrel-tls(8))",
                issuer.escape_default()
            ),
            Self::Signature(issuer) => write!(
                f,
                "the CRL of '{}' was not signed by its key",
                issuer.escape_default()
            ),
            Self::KeyUsage(issuer) => write!(
                f,
                "the key usage of '{}', which issued a CRL, lacks cRLSign",
                issuer.escape_default()
            ),
        }
    }
}

impl std::error::Error for CrlError {}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, date_time_ymd,
    };

    use super::*;

    #[test]
    fn a_signature_is_verified_once_for_each_key() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut issuer = CertificateParams::default();
        issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        issuer.key_usages = vec![KeyUsagePurpose::CrlSign];
        let der = issuer.self_signed(&key).unwrap().der().to_vec();
        let certificate = Certificate::read(&der).unwrap();
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2027, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&Issuer::new(issuer, &key)).unwrap();
        let mut list = Crl::read(list.der()).unwrap();
        let mut forged = list.clone();
        forged.signed.push(0);
        assert!(forged.is_of(&certificate).is_err());
        assert_eq!(list.is_of(&certificate), Ok(true));
        list.signed.push(0);
        assert_eq!(
            list.is_of(&certificate),
            Ok(true),
            "the result is remembered"
        );
    }
}
