//! CRLs (RFC 5280 5): they are read, checked, extended and signed again.

use std::collections::HashSet;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::der_parser::num_bigint::BigUint;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};
use x509_parser::x509::ReasonCode;

use super::error::AuthorityError;
use super::issue::{Issuer, unusual_issuer};
use super::serial_number::Serial;
use super::validity::Validity;
use crate::chain::algorithm::objection;
use crate::{chain, serial};

/// Entries and number of a CRL.
#[derive(Debug, Default)]
pub(super) struct Crl {
    number: Option<BigUint>,
    entries: Vec<RevokedCertParams>,
    /// Serial numbers of the entries.
    known: HashSet<Serial>,
}

impl Crl {
    /// Parses a CRL of this issuer.
    ///
    /// # Errors
    /// The reason why the CRL must not be extended.
    pub(super) fn read(der: &[u8], issuer: &Issuer) -> Result<Self, String> {
        let crl = match CertificateRevocationList::from_der(der) {
            Ok((&[], crl)) => crl,
            Ok(_) => return Err("is followed by other bytes".to_owned()),
            Err(error) => return Err(format!("cannot be read: {}", chain::unreadable(error))),
        };
        let certificate = issuer.certificate();
        if crl.issuer().as_raw() != certificate.subject {
            return Err("was issued by another authority".to_owned());
        }
        let read = chain::Certificate::read(&certificate.der)?;
        crl.verify_signature(read.x509().public_key())
            .map_err(|_| match objection(&crl.signature_algorithm) {
                Some(objection) => format!("cannot be verified: {objection}"),
                None => "is not signed with the authority's key".to_owned(),
            })?;
        // Unknown extensions would be lost.
        for extension in crl.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::CRLNumber(_) => {}
                _ => return Err(format!("has the extension {}", extension.oid)),
            }
        }
        let mut read = Self {
            number: crl.crl_number().cloned(),
            ..Self::default()
        };
        for revoked in crl.iter_revoked_certificates() {
            let (serial, entry) = entry(revoked)?;
            read.known.insert(serial);
            read.entries.push(entry);
        }
        Ok(read)
    }

    /// Adds an entry. Returns `false` if the certificate was revoked before; its entry stays unchanged.
    pub(super) fn add(&mut self, serial: &Serial, now: OffsetDateTime) -> bool {
        if !self.known.insert(serial.clone()) {
            return false;
        }
        self.entries.push(RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_ref()),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        true
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Signs the CRL with its next number. Returns DER and the number.
    pub(super) fn sign(
        &self,
        issuer: &Issuer,
        validity: Validity,
    ) -> Result<(Vec<u8>, String), AuthorityError> {
        let number = next_number(self.number.as_ref(), validity.begin()).ok_or_else(|| {
            AuthorityError::Crypto {
                operation: "number the CRL",
                reason: "no number is left".to_owned(),
            }
        })?;
        let parameters = CertificateRevocationListParams {
            this_update: validity.begin(),
            next_update: validity.end(),
            crl_number: SerialNumber::from_slice(&number),
            issuing_distribution_point: None,
            revoked_certs: self.entries.clone(),
            key_identifier_method: KeyIdMethod::PreSpecified(issuer.key_identifier()),
        };
        let der = parameters
            .signed_by(&issuer.signer()?)
            .map_err(AuthorityError::crypto("sign the CRL"))?
            .der()
            .to_vec();
        // A name that is not reproduced byte by byte would separate the CRL from its issuer.
        Self::read(&der, issuer).map_err(|_| unusual_issuer())?;
        Ok((der, BigUint::from_bytes_be(&number).to_string()))
    }
}

/// Number after `before`, and not less than the time, so that numbers never decrease even if a CRL is lost.
fn next_number(before: Option<&BigUint>, now: OffsetDateTime) -> Option<Vec<u8>> {
    let time = BigUint::from(now.unix_timestamp().unsigned_abs());
    let next = before.map_or(BigUint::ZERO, |before| before + 1_u32);
    let bytes = next.max(time).to_bytes_be();
    (bytes.len() <= serial::MAX_BYTES).then_some(bytes)
}

/// Copies an entry for the next CRL, with its serial number.
fn entry(entry: &RevokedCertificate<'_>) -> Result<(Serial, RevokedCertParams), String> {
    // A negative number would be written as another one.
    let serial = Some(entry.raw_serial())
        .filter(|bytes| bytes.first().is_some_and(|first| *first < 0x80))
        .and_then(Serial::new)
        .ok_or_else(|| "has an entry whose serial number is out of range".to_owned())?;
    let time = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| format!("has an impossible date in the entry for {serial}"))
    };
    let mut copy = RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial.as_ref()),
        revocation_time: time(entry.revocation_date.timestamp())?,
        reason_code: None,
        invalidity_date: None,
    };
    for extension in entry.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ReasonCode(code) if reason(*code).is_some() => {
                copy.reason_code = reason(*code);
            }
            ParsedExtension::InvalidityDate(date) => {
                copy.invalidity_date = Some(time(date.timestamp())?);
            }
            _ => {
                return Err(format!(
                    "has an entry for {serial} with the extension {}",
                    extension.oid
                ));
            }
        }
    }
    Ok((serial, copy))
}

/// Reason code (RFC 5280 5.3.1). removeFromCRL does not occur in a complete CRL.
fn reason(code: ReasonCode) -> Option<RevocationReason> {
    use RevocationReason as R;
    [
        R::Unspecified,
        R::KeyCompromise,
        R::CaCompromise,
        R::AffiliationChanged,
        R::Superseded,
        R::CessationOfOperation,
        R::CertificateHold,
        R::PrivilegeWithdrawn,
        R::AaCompromise,
    ]
    .into_iter()
    .find(|reason| *reason as u8 == code.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_crls_only_grow() {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let next = |before: u64, now| next_number(Some(&BigUint::from(before)), at(now)).unwrap();
        assert_eq!(next_number(None, at(0x0102)), Some(vec![1, 2]));
        assert_eq!(next(0xffff, 5), [1, 0, 0]);
        assert_eq!(next(7, 5), [8]);
        assert_eq!(next(7, 9), [9]);
        let last = BigUint::from_bytes_be(&[0xff; serial::MAX_BYTES]);
        assert_eq!(next_number(Some(&last), at(0)), None);
    }
}
