//! Parsed certificates, with the fields that the authority and the client use.

use std::error::Error;
use std::fmt;
use std::path::Path;

use rcgen::{DistinguishedName, DnType, DnValue};
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::{KeyUsage, ParsedExtension};
use x509_parser::x509::X509Name;

use super::error::AuthorityError;
use super::file::{self, CERTIFICATE};
use crate::chain::algorithm::objection;
use crate::chain::{self, ExtensionError, route};
use crate::policy::Policy;
use crate::wire::{Command, PolicyCommand};

/// Parsed certificate whose signature has *not* been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// DER of the whole certificate.
    pub der: Vec<u8>,
    /// Content bytes of the serial number in lower case hexadecimal.
    pub serial: String,
    /// DER of the subject.
    pub subject: Vec<u8>,
    /// DER of the issuer.
    pub issuer: Vec<u8>,
    /// Start of the validity, seconds since 1970.
    pub not_before: i64,
    /// End of the validity, seconds since 1970.
    pub not_after: i64,
    /// Content of the subjectPublicKey BIT STRING.
    pub public_bits: Vec<u8>,
    /// Subject key identifier, if any.
    pub key_identifier: Option<Vec<u8>>,
    /// Whether the certificate is that of an authority (CA).
    pub is_authority: bool,
    /// Maximum number of authorities below it on a path, if any.
    pub path_length: Option<u32>,
    /// Key usage, if any.
    pub key_usage: Option<KeyUsage>,
    /// Whether the certificate is for servers only.
    pub is_server: bool,
}

/// Certificate of a chain that was not issued by the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkError {
    /// Position in the chain, from 1.
    position: usize,
    reason: String,
}

impl Certificate {
    /// Parses DER; nothing may follow it.
    ///
    /// # Errors
    /// The reason why the certificate cannot be parsed.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let read = chain::Certificate::read(der)?;
        let certificate = read.x509();
        let mut parsed = Self {
            der: der.to_vec(),
            serial: read.serial(),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            public_bits: certificate.public_key().subject_public_key.data.to_vec(),
            key_identifier: None,
            is_authority: false,
            path_length: None,
            key_usage: None,
            is_server: false,
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(identifier) => {
                    parsed.key_identifier = Some(identifier.0.to_vec());
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    parsed.is_authority = constraints.ca;
                    parsed.path_length = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => parsed.key_usage = Some(*usage),
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    parsed.is_server = usage.server_auth && !usage.client_auth && !usage.any;
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// Common name for messages, empty if there is none.
    pub fn name(&self) -> String {
        let read = chain::Certificate::read(&self.der).ok();
        let name = read.and_then(|read| read.common_name());
        name.unwrap_or_default()
    }

    /// Whether the certificate was issued with its own key.
    pub fn is_self_signed(&self) -> bool {
        self.subject == self.issuer && self.check_issuer(self).is_ok()
    }

    /// Checks that the certificate may issue others. Only a root may lack the key usage (WIRE 11.2).
    ///
    /// # Errors
    /// The reason why it may not.
    pub fn check_authority(&self) -> Result<(), &'static str> {
        let may_sign = match self.key_usage {
            Some(usage) => usage.key_cert_sign(),
            None => self.subject == self.issuer,
        };
        if !self.is_authority {
            Err("is not an authority (its basic constraints lack cA)")
        } else if !may_sign {
            Err("may not sign certificates (its key usage lacks keyCertSign)")
        } else {
            Ok(())
        }
    }

    /// Checks that `issuer` is an authority and signed the certificate, at any time.
    ///
    /// # Errors
    /// The reason why it did not.
    pub fn check_issuer(&self, issuer: &Self) -> Result<(), String> {
        if self.issuer != issuer.subject {
            return Err("its issuer has another name".to_owned());
        }
        issuer
            .check_authority()
            .map_err(|why| format!("its issuer {why}"))?;
        let issuer = chain::Certificate::read(&issuer.der)?;
        let read = chain::Certificate::read(&self.der)?;
        read.x509()
            .verify_signature(Some(issuer.x509().public_key()))
            .map_err(|_| {
                objection(&read.x509().signature_algorithm).unwrap_or_else(|| {
                    "its issuer's key did not sign it, or is not supported".to_owned()
                })
            })
    }

    /// Command that the certificate carries, if any.
    pub fn command(&self) -> Result<Option<Command>, AuthorityError> {
        let read = chain::Certificate::read(&self.der)
            .map_err(AuthorityError::crypto("parse the certificate"))?;
        match read.extension() {
            Ok(extension) => Ok(extension.map(|extension| extension.command)),
            Err(ExtensionError::Value(error)) => Err(AuthorityError::Command(error)),
            Err(ExtensionError::Duplicate | ExtensionError::Digest) => {
                Err(AuthorityError::SeveralCommands)
            }
        }
    }

    /// Policy that the certificate carries, if any; an authority carries nothing else.
    pub fn policy(&self) -> Result<Option<Policy>, AuthorityError> {
        match self.command()? {
            None => Ok(None),
            Some(Command::Policy(PolicyCommand::Add(policy))) => Policy::try_from(&policy)
                .map(Some)
                .map_err(AuthorityError::Meaning),
            Some(other) => Err(AuthorityError::Issuer(format!(
                "carries '{}', where only a policy is allowed",
                route(&other).kind
            ))),
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {}: {}", self.position, self.reason)
    }
}

impl Error for LinkError {}

/// Reads all certificates of a PEM file, in their order; at least one.
///
/// # Errors
/// When the file cannot be read, or has no certificate.
pub fn read_chain(path: &Path) -> Result<Vec<Certificate>, AuthorityError> {
    file::read_blocks(path, CERTIFICATE)?
        .iter()
        .map(|der| {
            Certificate::parse(der)
                .map_err(|why| AuthorityError::malformed(path, "file of certificates", why))
        })
        .collect()
}

/// Checks that each certificate was issued by the next one.
///
/// # Errors
/// The first certificate that was not.
pub fn check_links(chain: &[Certificate]) -> Result<(), LinkError> {
    for (position, pair) in chain.windows(2).enumerate() {
        pair[0].check_issuer(&pair[1]).map_err(|reason| LinkError {
            position: position + 1,
            reason,
        })?;
    }
    Ok(())
}

/// Encodes certificates as PEM, in their order.
pub fn to_pem<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    certificates
        .into_iter()
        .map(|certificate| file::encode(CERTIFICATE, &certificate.der))
        .collect()
}

/// Last common name of a subject, which may have several.
pub(super) fn last_common_name(name: &X509Name<'_>) -> Option<String> {
    let bytes = name.iter_common_name().last()?.attr_value().data;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Copies a name for rcgen. Names that rcgen cannot reproduce are refused here, or found by comparing the result.
pub(super) fn distinguished_name(name: &X509Name<'_>) -> Option<DistinguishedName> {
    let mut copy = DistinguishedName::new();
    for attribute in name.iter_attributes() {
        let text = std::str::from_utf8(attribute.attr_value().data).ok()?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into().ok()?),
            _ => return None,
        };
        let kind = attribute.attr_type().iter()?.collect();
        copy.push(DnType::CustomDnType(kind), value);
    }
    Some(copy)
}
