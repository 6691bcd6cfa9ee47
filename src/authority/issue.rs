//! Issue of certificates with exactly the profiles of WIRE 10.2.

use std::path::Path;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PublicKeyData,
    SerialNumber, SubjectPublicKeyInfo,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ring::rand::{SecureRandom, SystemRandom};
use x509_parser::asn1_rs::FromDer;
use x509_parser::x509::X509Name;

use super::certificate::{Certificate, check_links, distinguished_name, read_chain};
use super::database::{Details, KeyIdentifier, Kind};
use super::error::AuthorityError;
use super::key::Key;
use super::validity::Validity;
use crate::chain::{EXTENSION, IMAGE_EXTENSION, image_extension_value, numbers};
use crate::policy::Policy;
use crate::unikernel::ImageDigest;
use crate::wire::{CertExtension, Command};

/// Size of a new serial number in bytes.
const SERIAL_SIZE: usize = 10;

/// Kind of a new certificate.
#[derive(Clone, Debug, PartialEq)]
pub enum Profile {
    /// Self-signed authority.
    Root,
    /// Authority below another one; the command adds the policy of its path.
    Intermediate(Command),
    /// Client that may run this command; if it creates a unikernel, perhaps only with this image.
    Client(Command, Option<ImageDigest>),
    /// Server, such as `petrel-tls`.
    Server,
}

/// Certificate that issues others, and its key.
#[derive(Debug)]
pub struct Issuer {
    /// Issuing certificate, followed by the others of its file.
    chain: Vec<Certificate>,
    key: Key,
}

impl Issuer {
    /// Reads the certificate file of an authority, whose first certificate is the issuer, and its key.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, AuthorityError> {
        let chain = read_chain(certificate_file)?;
        let first = chain.first().ok_or_else(|| {
            AuthorityError::malformed(certificate_file, "file of certificates", "it is empty")
        })?;
        first
            .check_authority()
            .map_err(|why| AuthorityError::Issuer(why.to_owned()))?;
        let key = Key::load(key_file, first, certificate_file)?;
        Ok(Self { chain, key })
    }

    /// Issuer with a new self-signed certificate.
    pub fn new(certificate: Certificate, key: Key) -> Self {
        Self {
            chain: vec![certificate],
            key,
        }
    }

    /// Issuing certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.chain[0]
    }

    /// Issuing certificate, followed by the others of its file.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// Certificates that a client or server sends: all except a self-signed one at the end.
    pub fn without_root(&self) -> &[Certificate] {
        match self.chain.split_last() {
            Some((root, below)) if root.is_self_signed() => below,
            _ => &self.chain,
        }
    }

    /// Policies of the issuing certificate and of those above it.
    pub fn policies(&self) -> Result<Vec<Policy>, AuthorityError> {
        self.chain
            .iter()
            .filter_map(|certificate| certificate.policy().transpose())
            .collect()
    }

    /// Checks that each certificate of the file was issued by the one after it.
    pub fn check_links(&self) -> Result<(), AuthorityError> {
        Ok(check_links(&self.chain)?)
    }

    /// Details of an issued certificate, for the database.
    pub(super) fn details(&self, certificate: &Certificate) -> Details {
        let kind = if certificate.is_authority {
            Kind::Authority
        } else if certificate.is_server {
            Kind::Server
        } else {
            Kind::Client
        };
        Details {
            kind,
            key: KeyIdentifier::new(&key_identifier(&certificate.public_bits)),
            issuer: KeyIdentifier::new(&self.key_identifier()),
        }
    }

    /// Key identifier of the issuing certificate.
    pub(super) fn key_identifier(&self) -> Vec<u8> {
        let certificate = self.certificate();
        certificate
            .key_identifier
            .clone()
            .unwrap_or_else(|| key_identifier(&certificate.public_bits))
    }

    /// Name and key in the form of rcgen, which may encode the name differently: the caller compares the result.
    pub(super) fn signer(&self) -> Result<rcgen::Issuer<'_, &KeyPair>, AuthorityError> {
        let (_, name) = X509Name::from_der(&self.certificate().subject)
            .map_err(AuthorityError::crypto("read the issuer's name"))?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = distinguished_name(&name).ok_or_else(unusual_issuer)?;
        Ok(rcgen::Issuer::new(parameters, self.key.pair()))
    }

    /// Issues a certificate, which is valid within the validity of the issuer.
    pub fn issue(
        &self,
        subject: DistinguishedName,
        public_key_info: &[u8],
        profile: &Profile,
        validity: Validity,
    ) -> Result<Certificate, AuthorityError> {
        let certificate = self.certificate();
        let key_identifier = self.key_identifier();
        let public_key = SubjectPublicKeyInfo::from_der(public_key_info)
            .map_err(AuthorityError::crypto("use the public key of the subject"))?;
        let parameters = parameters(
            subject,
            extensions(profile, public_key.der_bytes(), &key_identifier)?,
            within(validity, certificate)?,
        )?;
        let signed = parameters
            .signed_by(&public_key, &self.signer()?)
            .map_err(AuthorityError::crypto("sign the certificate"))?;
        let leaf = parse(signed.der())?;
        // A name that is not reproduced byte by byte would break the chain.
        if leaf.issuer != certificate.subject {
            return Err(unusual_issuer());
        }
        Ok(leaf)
    }
}

/// Part of the validity in which the issuer is valid too.
fn within(validity: Validity, issuer: &Certificate) -> Result<Validity, AuthorityError> {
    let clipped = validity.clipped(issuer.not_before, issuer.not_after);
    if !clipped.is_empty() {
        return Ok(clipped);
    }
    let name = issuer.name();
    Err(if issuer.not_before > validity.begin().unix_timestamp() {
        AuthorityError::NotValidYet {
            name,
            not_before: issuer.not_before,
        }
    } else {
        AuthorityError::Expired {
            name,
            not_after: issuer.not_after,
        }
    })
}

/// Creates a self-signed certificate of an authority with this common name.
pub fn self_signed(
    name: &str,
    key: &Key,
    validity: Validity,
) -> Result<Certificate, AuthorityError> {
    let extensions = extensions(&Profile::Root, key.public_bits(), &[])?;
    let issued = parameters(common_name(name), extensions, validity)?
        .self_signed(key.pair())
        .map_err(AuthorityError::crypto("sign the certificate"))?;
    parse(issued.der())
}

/// Subject of one common name, as `UTF8String`.
pub fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// Extension that carries `command`.
pub(super) fn command_extension(command: &Command) -> Result<CustomExtension, AuthorityError> {
    let content = CertExtension::new(command.clone())
        .encode()
        .map_err(AuthorityError::Command)?;
    Ok(CustomExtension::from_oid_content(
        &numbers(&EXTENSION),
        content,
    ))
}

/// Extension that fixes the image.
pub(super) fn image_extension(image: &ImageDigest) -> CustomExtension {
    CustomExtension::from_oid_content(&numbers(&IMAGE_EXTENSION), image_extension_value(image))
}

pub(super) fn unusual_issuer() -> AuthorityError {
    AuthorityError::Issuer(
        "has a subject that cannot be reproduced (use a single common name)".to_owned(),
    )
}

fn parse(der: &[u8]) -> Result<Certificate, AuthorityError> {
    Certificate::parse(der).map_err(AuthorityError::crypto("read the issued certificate"))
}

fn parameters(
    subject: DistinguishedName,
    extensions: Vec<CustomExtension>,
    validity: Validity,
) -> Result<CertificateParams, AuthorityError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = subject;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial()?));
    parameters.not_before = validity.begin();
    parameters.not_after = validity.end();
    parameters.custom_extensions = extensions;
    Ok(parameters)
}

/// Random serial number. The first byte is not zero, so that the INTEGER keeps all bytes.
fn serial() -> Result<[u8; SERIAL_SIZE], AuthorityError> {
    let mut bytes = [0; SERIAL_SIZE];
    while bytes[0] == 0 {
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| AuthorityError::no_random())?;
    }
    Ok(bytes)
}

/// Key identifier: SHA-1 over the content of the subjectPublicKey BIT STRING, as in all certificates of albatross.
pub fn key_identifier(public_bits: &[u8]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, public_bits)
        .as_ref()
        .to_vec()
}

/// Extensions of a profile in their order (WIRE 10.2). rcgen does not write them, as it has another order, other key
/// identifiers, and a non-critical extKeyUsage.
fn extensions(
    profile: &Profile,
    public_bits: &[u8],
    issuer_key_identifier: &[u8],
) -> Result<Vec<CustomExtension>, AuthorityError> {
    const AUTHORITY_USAGE: [u8; 5] = [0x03, 0x03, 0x07, 0xc6, 0x00];
    const LEAF_USAGE: [u8; 5] = [0x03, 0x03, 0x07, 0xa0, 0x00];
    const AUTHORITY: [u8; 5] = [0x30, 0x03, 0x01, 0x01, 0xff];
    const LEAF: [u8; 2] = [0x30, 0x00];
    const PURPOSE: [u8; 9] = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03];
    const SERVER_PURPOSE: u8 = 1;
    const CLIENT_PURPOSE: u8 = 2;

    let (command, image, is_authority, purpose) = match profile {
        Profile::Root => (None, None, true, None),
        Profile::Intermediate(command) => (Some(command), None, true, None),
        Profile::Client(command, image) => {
            (Some(command), image.as_ref(), false, Some(CLIENT_PURPOSE))
        }
        Profile::Server => (None, None, false, Some(SERVER_PURPOSE)),
    };
    let is_root = *profile == Profile::Root;
    let subject_identifier = || [&[0x04, 0x14], &key_identifier(public_bits)[..]].concat();
    let issuer_identifier = || {
        // SEQUENCE { [0] IMPLICIT OCTET STRING }
        let short = |tag: u8, content: &[u8]| {
            u8::try_from(content.len())
                .ok()
                .filter(|length| *length < 0x80)
                .map(|length| [&[tag, length], content].concat())
        };
        short(0x80, issuer_key_identifier)
            .and_then(|identifier| short(0x30, &identifier))
            .ok_or_else(|| {
                AuthorityError::Issuer("has a subject key identifier that is too long".to_owned())
            })
    };
    let extension = |last: u64, critical, content| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, last], content);
        extension.set_criticality(critical);
        extension
    };

    let mut table = Vec::with_capacity(7);
    // Sorted by object identifier: that of the image begins with the smallest number.
    table.extend(image.map(image_extension));
    table.extend(command.map(command_extension).transpose()?);
    if !is_root {
        table.push(extension(14, false, subject_identifier()));
    }
    table.push(extension(
        15,
        true,
        if is_authority {
            AUTHORITY_USAGE
        } else {
            LEAF_USAGE
        }
        .to_vec(),
    ));
    table.push(extension(
        19,
        true,
        if is_authority {
            AUTHORITY.to_vec()
        } else {
            LEAF.to_vec()
        },
    ));
    if !is_root {
        table.push(extension(35, false, issuer_identifier()?));
    }
    if let Some(purpose) = purpose {
        // SEQUENCE { OBJECT IDENTIFIER id-kp.purpose }
        let content = [&[0x30, 0x0a], &PURPOSE[..], &[purpose]].concat();
        table.push(extension(37, true, content));
    }
    Ok(table)
}
