//! Certificates as read: the extensions, names and serial numbers that matter here.

use std::error::Error;
use std::fmt::{self, Write as _};

use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::FromDer;

use super::words::unreadable;
use crate::unikernel::ImageDigest;
use crate::wire::{CertExtension, Command, DatedPolicy, Int, Policy, PolicyCommand, WireError};

/// Object identifier of the extension that carries a command (WIRE 10.1).
pub const EXTENSION: Oid<'static> = oid!(1.3.6.1.4.1.49836.42);

/// Object identifier of the extension that fixes the image of a command: a non-critical extension, whose value is an
/// OCTET STRING with the SHA-256 of the uncompressed image. Albatross ignores it. The numbers below the registered
/// arc are those of the UUID 5907282c-f7a8-40f6-a9c0-5f2666b0315f.
pub const IMAGE_EXTENSION: Oid<'static> = oid!(
    1.2.840
        .113556
        .1
        .8000
        .2554
        .22791
        .10284
        .63400
        .16630
        .43456
        .6235750
        .11546975
);
/// DER of the identifier and length bytes of an OCTET STRING of 32 bytes.
const DIGEST_HEAD: [u8; 2] = [0x04, 32];

/// Numbers of an object identifier, such as [`EXTENSION`].
pub fn numbers(extension: &Oid<'_>) -> Vec<u64> {
    extension.iter().into_iter().flatten().collect()
}

/// Encodes the value of the extension [`IMAGE_EXTENSION`].
pub fn image_extension_value(digest: &ImageDigest) -> Vec<u8> {
    [&DIGEST_HEAD[..], &digest.0].concat()
}

/// Decodes the value of the extension [`IMAGE_EXTENSION`].
pub fn read_image_extension(value: &[u8]) -> Result<ImageDigest, ExtensionError> {
    value
        .strip_prefix(&DIGEST_HEAD)
        .and_then(|digest| digest.try_into().ok())
        .map(ImageDigest)
        .ok_or(ExtensionError::Digest)
}
/// Parsed certificate whose signature has not been verified.
#[derive(Debug)]
pub struct Certificate<'a>(X509Certificate<'a>);
/// Reason why an extension of a certificate cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtensionError {
    /// The extension occurs more than once.
    Duplicate,
    /// The value cannot be decoded.
    Value(WireError),
    /// The digest of the image is not a SHA-256.
    Digest,
}
impl<'a> Certificate<'a> {
    /// Parses one certificate; `der` holds nothing else.
    pub fn read(der: &'a [u8]) -> Result<Self, String> {
        match X509Certificate::from_der(der) {
            Ok((&[], certificate)) => Ok(Self(certificate)),
            Ok(_) => Err("bytes follow the certificate".to_owned()),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Content of the extension [`EXTENSION`], if the certificate has one.
    pub fn extension(&self) -> Result<Option<CertExtension>, ExtensionError> {
        let extension = self
            .0
            .get_extension_unique(&EXTENSION)
            .map_err(|_| ExtensionError::Duplicate)?;
        extension
            .map(|extension| CertExtension::decode(extension.value).map_err(ExtensionError::Value))
            .transpose()
    }

    /// Digest of the only image that the certificate allows to be created, if it names one.
    pub fn image_digest(&self) -> Result<Option<ImageDigest>, ExtensionError> {
        let extension = self
            .0
            .get_extension_unique(&IMAGE_EXTENSION)
            .map_err(|_| ExtensionError::Duplicate)?;
        extension
            .map(|extension| read_image_extension(extension.value))
            .transpose()
    }

    /// Whether the certificate has the extension [`EXTENSION`], valid or not.
    pub fn has_extension(&self) -> bool {
        !matches!(self.0.get_extension_unique(&EXTENSION), Ok(None))
    }

    /// Policy that the certificate delegates, if any.
    pub fn policy(&self) -> Option<Policy> {
        match self.extension() {
            Ok(Some(CertExtension {
                command: Command::Policy(PolicyCommand::Add(policy)),
                ..
            })) => Some(policy),
            _ => None,
        }
    }

    /// Dates a policy with the begin of this certificate's validity.
    pub(super) fn dated(&self, policy: Policy) -> DatedPolicy {
        DatedPolicy {
            policy,
            not_before: Int::new(self.0.validity().not_before.timestamp()),
        }
    }

    /// Last common name of the subject. Bytes that are not UTF-8 are replaced.
    pub fn common_name(&self) -> Option<String> {
        let name = self.0.subject().iter_common_name().last()?;
        Some(String::from_utf8_lossy(name.attr_value().data).into_owned())
    }

    /// Serial number in lower case hexadecimal.
    pub fn serial(&self) -> String {
        let mut text = String::new();
        for byte in self.0.raw_serial() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Certificate as parsed by the library.
    pub fn x509(&self) -> &X509Certificate<'a> {
        &self.0
    }
}
impl fmt::Display for ExtensionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate => f.write_str("an extension occurs more than once"),
            Self::Value(error) => write!(f, "its command extension cannot be read: {error}"),
            Self::Digest => f.write_str("its image digest is not a SHA-256"),
        }
    }
}
impl Error for ExtensionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Value(error) => Some(error),
            Self::Duplicate | Self::Digest => None,
        }
    }
}
