//! Trust anchors.

use std::ops::RangeInclusive;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};

use super::certificate::Certificate;
use super::crl::{Crl, CrlError};
use super::path_error::PathError;
use super::words::in_words;

/// Trusted certificate.
#[derive(Clone, Debug)]
pub struct Anchor {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) trust: TrustAnchor<'static>,
    /// Validity in seconds since 1970, both ends included.
    validity: RangeInclusive<i64>,
    is_authority: bool,
    /// Maximum number of intermediate certificates below the anchor.
    pub(super) path_length: Option<u32>,
}

impl Anchor {
    /// Anchor of this certificate.
    pub fn new(certificate: &CertificateDer<'_>) -> Result<Self, PathError> {
        let parsed = Certificate::read(certificate).map_err(PathError::BadAnchor)?;
        let trust = webpki::anchor_from_trusted_cert(certificate)
            .map_err(|error| PathError::BadAnchor(PathError::Webpki(error).to_string()))?
            .to_owned();
        let validity = parsed.x509().validity();
        let constraints = parsed
            .x509()
            .basic_constraints()
            .map_err(|error| PathError::BadAnchor(in_words(&error)))?;
        Ok(Self {
            certificate: certificate.clone().into_owned(),
            trust,
            validity: validity.not_before.timestamp()..=validity.not_after.timestamp(),
            is_authority: parsed.x509().is_ca(),
            path_length: constraints.and_then(|found| found.value.path_len_constraint),
        })
    }

    /// Whether the certificate is that of an authority (CA).
    pub fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Whether the anchor issued `crl`.
    ///
    /// # Errors
    /// When the CRL names the anchor as its issuer, but was not signed by its key.
    pub fn has_issued(&self, crl: &Crl) -> Result<bool, CrlError> {
        let issuer = self.read()?;
        match crl.is_of(&issuer) {
            Ok(false) if crl.has_name_of(&issuer) => Err(CrlError::Signature(
                issuer.common_name().unwrap_or_default(),
            )),
            outcome => outcome,
        }
    }

    fn read(&self) -> Result<Certificate<'_>, CrlError> {
        Certificate::read(&self.certificate).map_err(CrlError::Unreadable)
    }

    pub(super) fn is_valid_at(&self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs()).is_ok_and(|now| self.validity.contains(&now))
    }
}
