//! Issuing certificates with exactly the profiles of WIRE 10.2.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, PublicKeyData,
    SerialNumber, SubjectPublicKeyInfo,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use x509_parser::asn1_rs::FromDer;
use x509_parser::x509::X509Name;

use super::certificate::distinguished_name;
use super::database::{Details, KeyIdentifier, Kind};
use super::{AuthorityError, Certificate, Key, check_links, read_chain};
use crate::chain::{EXTENSION, IMAGE_EXTENSION, image_extension_value, numbers};
use crate::policy::Policy;
use crate::unikernel::ImageDigest;
use crate::wire::{CertExtension, Command};

/// Validity starts this long before now, for clocks that are late.
pub const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// Bytes of a serial number.
const SERIAL: usize = 10;

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Profile {
    /// A self-signed authority.
    Root,
    /// An authority below another one, whose command is the policy of its path.
    Intermediate(Command),
    /// A client, which may have this command carried out; if it creates a unikernel, perhaps with this image only.
    Client(Command, Option<ImageDigest>),
    /// The endpoint.
    Server,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// How long a certificate is to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Days, 1 to [`Validity::MAX_DAYS`].
    Days(u32),
    /// Hours, at most as long.
    Hours(u32),
}

/// A certificate that issues others, and its key.
#[derive(Debug)]
pub struct Issuer {
    /// The issuing certificate, then whatever else is in its file.
    chain: Vec<Certificate>,
    key: Key,
}

impl Validity {
    /// The longest lifetime in days that is accepted: a hundred years.
    pub const MAX_DAYS: u32 = 36_525;

    /// A lifetime that begins at `now`, in whole seconds.
    pub fn from(now: OffsetDateTime, lifetime: Duration) -> Option<Self> {
        let now = now.replace_nanosecond(0).ok()?;
        Some(Self {
            not_before: now.checked_sub(CLOCK_SKEW.try_into().ok()?)?,
            not_after: now.checked_add(lifetime.try_into().ok()?)?,
        })
    }

    /// A lifetime of at least 1 and at most [`Self::MAX_DAYS`] days, or as many hours.
    pub fn lasting(now: OffsetDateTime, lifetime: Lifetime) -> Result<Self, AuthorityError> {
        let hours = match lifetime {
            Lifetime::Days(days) => u64::from(days) * 24,
            Lifetime::Hours(hours) => u64::from(hours),
        };
        Some(hours)
            .filter(|hours| (1..=u64::from(Self::MAX_DAYS) * 24).contains(hours))
            .and_then(|hours| Self::from(now, Duration::from_secs(hours * 3600)))
            .ok_or(AuthorityError::Lifetime(lifetime))
    }

    /// A lifetime of this many days.
    pub fn days(now: OffsetDateTime, days: u32) -> Result<Self, AuthorityError> {
        Self::lasting(now, Lifetime::Days(days))
    }

    /// When it begins.
    pub fn begin(&self) -> OffsetDateTime {
        self.not_before
    }

    /// When it ends.
    pub fn end(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The part of it in which the issuer is valid too.
    fn within(self, issuer: &Certificate) -> Result<Self, AuthorityError> {
        let clipped =
            |seconds, otherwise| OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(otherwise);
        let not_before = self
            .not_before
            .max(clipped(issuer.not_before, self.not_before));
        let not_after = self
            .not_after
            .min(clipped(issuer.not_after, self.not_after));
        if not_before >= not_after {
            let name = issuer.name();
            return Err(if issuer.not_before > self.not_before.unix_timestamp() {
                AuthorityError::NotValidYet(name, issuer.not_before)
            } else {
                AuthorityError::Expired(name, issuer.not_after)
            });
        }
        Ok(Self {
            not_before,
            not_after,
        })
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => write!(f, "{days} days"),
            Self::Hours(hours) => write!(f, "{hours} hours"),
        }
    }
}

impl Issuer {
    /// Reads an authority's certificate file, whose first certificate is the issuer, and its key.
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

    /// The authority of a self-signed certificate made just now.
    pub fn new(certificate: Certificate, key: Key) -> Self {
        Self {
            chain: vec![certificate],
            key,
        }
    }

    /// The issuing certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.chain[0]
    }

    /// The issuing certificate and those that were in its file after it.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The certificates to be sent along below the root: all but a self-signed one at the end.
    pub fn without_root(&self) -> &[Certificate] {
        match self.chain.split_last() {
            Some((root, below)) if root.is_self_signed() => below,
            _ => &self.chain,
        }
    }

    /// The policies that the issuing certificate and those above it carry.
    pub fn policies(&self) -> Result<Vec<Policy>, AuthorityError> {
        self.chain
            .iter()
            .filter_map(|certificate| certificate.policy().transpose())
            .collect()
    }

    /// Checks that each certificate of the file was issued by the one after it.
    pub fn check_links(&self) -> Result<(), AuthorityError> {
        check_links(&self.chain).map_err(|(position, why)| AuthorityError::Link(position, why))
    }

    /// Details of a certificate that it issued, for the database.
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

    /// How the issuing certificate is referred to in what it signs.
    pub(super) fn key_identifier(&self) -> Vec<u8> {
        let certificate = self.certificate();
        certificate
            .key_identifier
            .clone()
            .unwrap_or_else(|| key_identifier(&certificate.public_bits))
    }

    /// Name and key, as rcgen takes them. The name may come out differently: that of the result must be compared.
    pub(super) fn signer(&self) -> Result<rcgen::Issuer<'_, &KeyPair>, AuthorityError> {
        let (_, name) = X509Name::from_der(&self.certificate().subject)
            .map_err(AuthorityError::crypto("read the issuer's name"))?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = distinguished_name(&name).ok_or_else(unusual_issuer)?;
        Ok(rcgen::Issuer::new(parameters, self.key.pair()))
    }

    /// Issues a certificate; it is not valid longer than the issuer.
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
            validity.within(certificate)?,
        )?;
        let signed = parameters
            .signed_by(&public_key, &self.signer()?)
            .map_err(AuthorityError::crypto("sign the certificate"))?;
        let leaf = parse(signed.der())?;
        // Names that cannot be written again byte by byte would break the chain.
        if leaf.issuer != certificate.subject {
            return Err(unusual_issuer());
        }
        Ok(leaf)
    }
}

/// A self-signed authority with this common name.
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

/// A subject of one common name, as `UTF8String`.
pub fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// The extension that carries `command`, as rcgen takes it.
pub(super) fn command_extension(command: &Command) -> Result<CustomExtension, AuthorityError> {
    let content = CertExtension::new(command.clone())
        .encode()
        .map_err(AuthorityError::Command)?;
    Ok(CustomExtension::from_oid_content(
        &numbers(&EXTENSION),
        content,
    ))
}

/// The extension that fixes the image, as rcgen takes it.
pub(super) fn image_extension(image: &ImageDigest) -> CustomExtension {
    CustomExtension::from_oid_content(&numbers(&IMAGE_EXTENSION), image_extension_value(image))
}

pub(super) fn unusual_issuer() -> AuthorityError {
    AuthorityError::Issuer(
        "has a subject that cannot be reproduced: it should be one common name".to_owned(),
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
    parameters.not_before = validity.not_before;
    parameters.not_after = validity.not_after;
    parameters.custom_extensions = extensions;
    Ok(parameters)
}

/// Ten random bytes, the first not zero, so that none is lost in the INTEGER.
fn serial() -> Result<[u8; SERIAL], AuthorityError> {
    let mut bytes = [0; SERIAL];
    while bytes[0] == 0 {
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| AuthorityError::no_random())?;
    }
    Ok(bytes)
}

/// SHA-1 over the content of the subjectPublicKey BIT STRING, as all of albatross's certificates have it.
pub fn key_identifier(public_bits: &[u8]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, public_bits)
        .as_ref()
        .to_vec()
}

/// The table of WIRE 10.2: the extensions of a profile in their order. All are written here rather than by rcgen, which has
/// another order, other key identifiers, and leaves extKeyUsage uncritical.
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
        // SEQUENCE { [0] IMPLICIT OCTET STRING }; identifiers of foreign authorities are short, too.
        let short = |tag: u8, content: &[u8]| {
            u8::try_from(content.len())
                .ok()
                .filter(|length| *length < 0x80)
                .map(|length| [&[tag, length], content].concat())
        };
        short(0x80, issuer_key_identifier)
            .and_then(|identifier| short(0x30, &identifier))
            .ok_or_else(|| {
                AuthorityError::Issuer("has a subject key identifier too long".to_owned())
            })
    };
    let extension = |last: u64, critical, content| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, last], content);
        extension.set_criticality(critical);
        extension
    };

    let mut table = Vec::with_capacity(7);
    // Sorted by their identifiers: that of the image begins with the smallest number.
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
