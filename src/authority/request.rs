//! Signing requests (PKCS#10): one common name, and one requested extension with the command (WIRE 12.1).

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName};
use x509_parser::asn1_rs::{FromDer, Oid};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::X509Extension;

use super::certificate::{Certificate, distinguished_name, last_common_name};
use super::error::AuthorityError;
use super::file;
use super::file_name::file_stem;
use super::issue::{command_extension, common_name, image_extension};
use super::key::{Key, KeyType, OtherType, kind as key_kind};
use crate::chain::algorithm::{SHA1_SIGNATURES, objection};
use crate::chain::{EXTENSION, IMAGE_EXTENSION, read_image_extension, unreadable};
use crate::unikernel::ImageDigest;
use crate::wire::{CertExtension, Command};

const LABEL: &str = "CERTIFICATE REQUEST";

/// A signing request whose signature has been verified.
#[derive(Debug)]
pub struct Request {
    /// DER of the subject.
    subject: Vec<u8>,
    /// Subject for the certificate.
    name: DistinguishedName,
    /// Last common name of the subject.
    pub common_name: String,
    /// DER of the subjectPublicKeyInfo.
    pub public_key_info: Vec<u8>,
    /// Command, or `None` in the request of a server.
    pub command: Option<Command>,
    /// Digest of the only image that may be created, if the request fixes it.
    pub image: Option<ImageDigest>,
}

/// Files of a new request.
#[derive(Debug)]
pub struct WrittenRequest {
    /// File of the request.
    pub request: PathBuf,
    /// File of the key.
    pub key: PathBuf,
    /// Set if an existing key is used although it is not of the requested type.
    pub of_other_type: Option<OtherType>,
}

impl Request {
    /// Reads a file with exactly one request, and verifies the signature.
    pub fn read(path: &Path) -> Result<Self, AuthorityError> {
        let der = file::read_block(path, LABEL)?;
        Self::parse(&der).map_err(|error| match error {
            AuthorityError::Request(why) => {
                AuthorityError::malformed(path, "usable signing request", why)
            }
            other => other,
        })
    }

    /// Parses the DER of a request, and verifies the signature.
    pub fn parse(der: &[u8]) -> Result<Self, AuthorityError> {
        let refused = |why: &str| AuthorityError::Request(why.to_owned());
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| AuthorityError::Request(unreadable(error)))?;
        if !rest.is_empty() {
            return Err(refused("it is followed by other bytes"));
        }
        if SHA1_SIGNATURES.contains(&request.signature_algorithm.algorithm) {
            return Err(refused("it is signed with SHA-1"));
        }
        let information = &request.certification_request_info;
        key_kind(&information.subject_pki.algorithm).map_err(|kind| {
            AuthorityError::Request(format!(
                "its key is of the kind {kind}, which is not supported"
            ))
        })?;
        request.verify_signature().map_err(|_| {
            let objection = objection(&request.signature_algorithm);
            AuthorityError::Request(
                objection.unwrap_or_else(|| "its signature does not verify".to_owned()),
            )
        })?;
        let unusual = || refused("its subject cannot be reproduced (use a single common name)");
        let extensions = requested_extensions(&request);
        let command = single(&extensions, &EXTENSION)?
            .map(|value| CertExtension::decode(value).map_err(AuthorityError::Command))
            .transpose()?
            .map(|extension| extension.command);
        let image = single(&extensions, &IMAGE_EXTENSION)?
            .map(|value| read_image_extension(value).map_err(|error| refused(&error.to_string())))
            .transpose()?;
        Ok(Self {
            subject: information.subject.as_raw().to_vec(),
            name: distinguished_name(&information.subject).ok_or_else(unusual)?,
            common_name: last_common_name(&information.subject).ok_or_else(unusual)?,
            public_key_info: information.subject_pki.raw.to_vec(),
            command,
            image,
        })
    }

    /// Subject for the certificate.
    pub(super) fn name(&self) -> DistinguishedName {
        self.name.clone()
    }

    /// Checks that a certificate has the subject of the request, byte by byte.
    pub(super) fn check_subject(&self, issued: &Certificate) -> Result<(), AuthorityError> {
        if issued.subject == self.subject {
            Ok(())
        } else {
            Err(AuthorityError::Request(
                "its subject cannot be reproduced (use a single common name)".to_owned(),
            ))
        }
    }
}

/// Extensions that a request asks for.
pub(crate) fn requested_extensions<'a>(
    request: &'a X509CertificationRequest<'a>,
) -> Vec<&'a X509Extension<'a>> {
    let attributes = request.certification_request_info.attributes().iter();
    attributes
        .filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
            _ => None,
        })
        .flatten()
        .collect()
}

/// Value of the extension `wanted`, which may occur once.
fn single<'a>(
    extensions: &[&'a X509Extension<'a>],
    wanted: &Oid<'_>,
) -> Result<Option<&'a [u8]>, AuthorityError> {
    let mut found = extensions
        .iter()
        .filter(|extension| extension.oid == *wanted);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(extension), None) => Ok(Some(extension.value)),
        _ => Err(AuthorityError::Request(
            "it asks for an extension more than once".to_owned(),
        )),
    }
}

/// Creates the DER of a request for `command`, signed with `key`. If `image` is given, it is the only image allowed.
pub fn create_request(
    name: &str,
    command: &Command,
    image: Option<&ImageDigest>,
    key: &Key,
) -> Result<Vec<u8>, AuthorityError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = common_name(name);
    parameters.custom_extensions = vec![command_extension(command)?];
    parameters
        .custom_extensions
        .extend(image.map(image_extension));
    parameters
        .serialize_request(key.pair())
        .map(|request| request.der().to_vec())
        .map_err(AuthorityError::crypto("sign the request"))
}

/// Writes `<stem>.req` into `directory`, signed with the key in `<stem>.key` there, which is created unless it exists.
/// An existing request is replaced. See [`file_stem`].
pub fn write_request(
    directory: &Path,
    name: &str,
    command: &Command,
    image: Option<&ImageDigest>,
    key_type: KeyType,
) -> Result<WrittenRequest, AuthorityError> {
    let stem = file_stem(name);
    let request_file = directory.join(format!("{stem}.req"));
    let key_file = directory.join(format!("{stem}.key"));
    let (key, of_other_type) = Key::reuse_or_generate(&key_file, key_type)?;
    let request = create_request(name, command, image, &key)?;
    file::write(&request_file, 0o644, &file::encode(LABEL, &request), true)?;
    Ok(WrittenRequest {
        request: request_file,
        key: key_file,
        of_other_type,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::UnikernelCommand;

    const COMMAND: Command = Command::Unikernel(UnikernelCommand::Info(()));

    #[test]
    fn a_request_is_parsed_as_it_was_created() {
        for key_type in [KeyType::Ed25519, KeyType::P256, KeyType::P384] {
            let key = Key::generate(key_type).unwrap();
            let request =
                Request::parse(&create_request("foo", &COMMAND, None, &key).unwrap()).unwrap();
            assert_eq!(request.common_name, "foo");
            assert_eq!(request.command, Some(COMMAND));
            assert_eq!(request.public_key_info, key.public_key_info());
        }
    }

    #[test]
    fn a_request_whose_content_was_changed_is_refused() {
        let key = Key::generate(KeyType::Ed25519).unwrap();
        let der = create_request("foo", &COMMAND, None, &key).unwrap();
        // SEQUENCE { content, algorithm, signature }: of 128 to 255 bytes, the content of less.
        let content = 3..3 + 2 + usize::from(der[4]);
        assert!(content.end < der.len());
        for position in content {
            let mut changed = der.clone();
            changed[position] ^= 1;
            assert!(Request::parse(&changed).is_err(), "byte {position}");
        }
    }
}
