//! CRLs (RFC 5280 5): whether one can be used, whose it is, and what it revokes. The time is an argument.
//!
//! Common names are not unique: two tenants may both have an authority `web`. A list belongs to the issuer whose key
//! signed it, and what cannot be told for sure refuses.

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

use super::algorithm::{describe, is_supported};
use super::{Certificate, SHA1_SIGNATURES};
use crate::serial::magnitude;

/// The label of a list in PEM (RFC 7468 6).
pub const LABEL: &str = "X509 CRL";

/// A CRL whose signature says nothing yet.
#[derive(Clone, Debug)]
pub struct Crl {
    /// DER of what is signed, and of the algorithm and signature after it.
    signed: (Vec<u8>, Vec<u8>),
    /// Whether these public keys (DER) are the one that signed it, as far as that was asked.
    signers: RefCell<BTreeMap<Vec<u8>, Signed>>,
    /// DER of the issuer's name.
    issuer: Vec<u8>,
    /// The issuer's key identifier.
    authority_key: Option<Vec<u8>>,
    /// Seconds since 1970.
    this_update: i64,
    next_update: i64,
    /// Magnitudes of the revoked serial numbers; that of a negative one is another's, too: at worst too much is revoked.
    serials: BTreeSet<Vec<u8>>,
}

/// Whether a key has signed a CRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    Yes,
    No,
    /// The algorithm, or its parameters, cannot be checked.
    Unsupported,
}

/// Why a CRL cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlError {
    /// Not a list of version 2, or one with something that is not understood.
    Unreadable(String),
    /// It covers some certificates of its issuer only.
    Partial,
    /// Not valid before this time, seconds since 1970.
    NotValidYet(i64),
    /// No longer valid since this time, seconds since 1970.
    Expired(i64),
    /// It has the name of this issuer, but was not signed by its key.
    Signature(String),
    /// It has the name of this issuer, but its signature is of this kind, which cannot be checked.
    Algorithm(String, String),
    /// The key of this issuer is not meant to sign CRLs.
    KeyUsage(String),
}

impl Crl {
    /// Reads one list, strictly: what is not understood could revoke something.
    pub fn read(der: &[u8]) -> Result<Self, CrlError> {
        let unreadable = |reason: &dyn fmt::Display| CrlError::Unreadable(reason.to_string());
        // webpki refuses delta lists, indirect ones, unknown critical extensions of list and entries, and a missing
        // nextUpdate; x509-parser skips an entry's extensions that it cannot read, but knows the issuer's key.
        if let Ok((_, list)) = CertificateRevocationList::from_der(der)
            && list
                .version()
                .is_none_or(|version| version == X509Version::V1)
        {
            return Err(unreadable(
                &"it is of version 1, and has to be of version 2: openssl makes that with crl_extensions",
            ));
        }
        let strict = BorrowedCertRevocationList::from_der(der)
            .map_err(|error| unreadable(&super::in_words(&error)))?;
        let serials = strict
            .into_iter()
            .map(|entry| entry.map(|entry| magnitude(entry.serial_number).to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|error: webpki::Error| unreadable(&super::in_words(&error)))?;
        let (_, list) = CertificateRevocationList::from_der(der)
            .map_err(|error| unreadable(&super::unreadable(error)))?;
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
                    return Err(unreadable(&"an extension is there more than once"));
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
            .ok_or_else(|| unreadable(&"its parts do not make a whole"))?;
        Ok(Self {
            signed: (signed.to_vec(), signature.to_vec()),
            signers: RefCell::default(),
            issuer: list.issuer().as_raw().to_vec(),
            authority_key: authority_key.flatten(),
            this_update: list.last_update().timestamp(),
            next_update: next_update.timestamp(),
            serials,
        })
    }

    /// Whether it can be used now.
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

    /// How long it can still be used, if that is less than `notice` and less than a quarter of all the time that it can.
    pub fn ends_soon(&self, now: UnixTime, notice: Duration) -> Option<Duration> {
        super::ends_soon(self.this_update, self.next_update, now, notice)
    }

    /// Its issuer's name, in one line.
    pub fn issuer(&self) -> String {
        X509Name::from_der(&self.issuer)
            .map_or_else(|_| String::new(), |(_, name)| name.to_string())
    }

    /// Whether it is a list of this issuer.
    ///
    /// # Errors
    /// If it should be, but was not signed by the issuer's key, or with a key that is not meant for it.
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
            (true, _) if signed == Signed::Unsupported => {
                Err(CrlError::Algorithm(name(), self.algorithm()))
            }
            (true, _) => Err(CrlError::Signature(name())),
        }
    }

    /// Whether its issuer has the same name as this one.
    pub fn has_name_of(&self, issuer: &Certificate<'_>) -> bool {
        self.issuer == issuer.x509().subject().as_raw()
    }

    /// Whether it revokes this certificate of its issuer.
    pub fn revokes(&self, certificate: &Certificate<'_>) -> bool {
        self.serials
            .contains(magnitude(certificate.x509().raw_serial()))
    }

    /// Name of the algorithm of its signature.
    fn algorithm(&self) -> String {
        AlgorithmIdentifier::from_der(&self.signed.1)
            .map_or_else(|_| String::new(), |(_, algorithm)| describe(&algorithm))
    }

    fn signed_by(&self, issuer: &Certificate<'_>) -> Signed {
        let key = issuer.x509().public_key();
        let mut signers = self.signers.borrow_mut();
        *signers.entry(key.raw.to_vec()).or_insert_with(|| {
            let (signed, signature) = &self.signed;
            let Ok((signature, algorithm)) = AlgorithmIdentifier::from_der(signature) else {
                return Signed::No;
            };
            let Ok((_, signature)) = BitString::from_der(signature) else {
                return Signed::No;
            };
            match verify_signature(key, &algorithm, &signature, signed) {
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

/// RFC 5280 6.3.3 (f): a key usage, if there is one, has to allow it.
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
                "the CRL is for some certificates of its issuer only, which is not supported",
            ),
            Self::NotValidYet(time) => {
                write!(f, "the CRL is not valid before {}", super::time(*time))
            }
            Self::Expired(time) => write!(
                f,
                "the CRL has expired, at {}: whoever has the authority's key can renew it by 'petrel \
                 revoke' without names",
                super::time(*time)
            ),
            Self::Algorithm(issuer, algorithm) => write!(
                f,
                "the CRL of '{}' is signed with {algorithm}, which is not supported for its key: sign it with one of the \
                 algorithms in petrel-tls(8)",
                issuer.escape_default()
            ),
            Self::Signature(issuer) => write!(
                f,
                "the CRL of '{}' was not signed by its key",
                issuer.escape_default()
            ),
            Self::KeyUsage(issuer) => write!(
                f,
                "the key usage of '{}' lacks cRLSign, but there is a CRL of it",
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
        forged.signed.0.push(0);
        assert!(forged.is_of(&certificate).is_err());
        assert_eq!(list.is_of(&certificate), Ok(true));
        list.signed.0.push(0);
        assert_eq!(list.is_of(&certificate), Ok(true), "asked again");
    }
}
