//! CRLs (RFC 5280 5): read, checked, extended, signed anew.

use std::collections::HashSet;
use std::fmt;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::der_parser::num_bigint::BigUint;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};
use x509_parser::x509::ReasonCode;

use super::issue::unusual_issuer;
use super::{AuthorityError, Certificate, Issuer, Validity};
use crate::chain::algorithm::objection;
use crate::{chain, serial};

/// A serial number: its bytes without leading zeros, at least one and at most [`serial::MAX_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Serial(Vec<u8>);

/// The entries of a CRL, and its number.
#[derive(Debug, Default)]
pub(super) struct Crl {
    number: Option<BigUint>,
    entries: Vec<RevokedCertParams>,
    /// The serial numbers of the entries.
    known: HashSet<Serial>,
}

impl Serial {
    fn new(bytes: &[u8]) -> Option<Self> {
        let significant = serial::magnitude(bytes);
        (1..=serial::MAX_BYTES)
            .contains(&significant.len())
            .then(|| Self(significant.to_vec()))
    }

    /// That of a certificate.
    pub(super) fn of(certificate: &Certificate) -> Option<Self> {
        Self::parse(&certificate.serial)
    }

    /// Reads what a person or another program wrote: colons between the bytes, or no leading zero.
    pub(super) fn parse_written(text: &str) -> Option<Self> {
        if text.contains(':') {
            let bytes = text.split(':');
            return bytes
                .clone()
                .all(|byte| byte.len() == 2)
                .then(|| Self::parse(&bytes.collect::<String>()))?;
        }
        Self::parse(text).or_else(|| Self::parse(&format!("0{text}")))
    }

    /// Reads hexadecimal, two digits an byte.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let bytes: Option<Vec<u8>> = (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .collect();
        Self::new(&bytes?)
    }
}

impl Crl {
    /// Reads the list of this issuer. The text says why it is not to be extended.
    pub(super) fn read(der: &[u8], issuer: &Issuer) -> Result<Self, String> {
        let list = match CertificateRevocationList::from_der(der) {
            Ok((&[], list)) => list,
            Ok(_) => return Err("has bytes after its end".to_owned()),
            Err(error) => return Err(format!("cannot be read: {}", chain::unreadable(error))),
        };
        let certificate = issuer.certificate();
        if list.issuer().as_raw() != certificate.subject {
            return Err("is that of another authority".to_owned());
        }
        let read = chain::Certificate::read(&certificate.der)?;
        list.verify_signature(read.x509().public_key())
            .map_err(|_| match objection(&list.signature_algorithm) {
                Some(objection) => format!("cannot be checked: {objection}"),
                None => "is not signed with the authority's key".to_owned(),
            })?;
        // What is not understood here would be lost.
        for extension in list.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::CRLNumber(_) => {}
                _ => return Err(format!("has the extension {}", extension.oid)),
            }
        }
        let mut kept = Self {
            number: list.crl_number().cloned(),
            ..Self::default()
        };
        for revoked in list.iter_revoked_certificates() {
            let (serial, entry) = entry(revoked)?;
            kept.known.insert(serial);
            kept.entries.push(entry);
        }
        Ok(kept)
    }

    /// Adds an entry; `false`: it was there already, and stays as it was.
    pub(super) fn add(&mut self, serial: &Serial, now: OffsetDateTime) -> bool {
        if !self.known.insert(serial.clone()) {
            return false;
        }
        self.entries.push(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial.0),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        true
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Signs the list anew, with the next number. Gives DER and the number.
    pub(super) fn sign(
        &self,
        issuer: &Issuer,
        validity: Validity,
    ) -> Result<(Vec<u8>, String), AuthorityError> {
        let number = next_number(self.number.as_ref(), validity.begin())
            .ok_or_else(|| AuthorityError::Crypto("number the list", "none is left".to_owned()))?;
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
        // Names that cannot be written again byte by byte would make it the list of nobody.
        Self::read(&der, issuer).map_err(|_| unusual_issuer())?;
        Ok((der, BigUint::from_bytes_be(&number).to_string()))
    }
}

/// One more than the number before, and not less than the time: numbers do not go back when a list is lost.
fn next_number(before: Option<&BigUint>, now: OffsetDateTime) -> Option<Vec<u8>> {
    let time = BigUint::from(now.unix_timestamp().unsigned_abs());
    let next = before.map_or(BigUint::ZERO, |before| before + 1_u32);
    let bytes = next.max(time).to_bytes_be();
    (bytes.len() <= serial::MAX_BYTES).then_some(bytes)
}

/// An entry as it will be written again, with its serial number.
fn entry(entry: &RevokedCertificate<'_>) -> Result<(Serial, RevokedCertParams), String> {
    // A negative number would be another one when it is written again.
    let serial = Some(entry.raw_serial())
        .filter(|bytes| bytes.first().is_some_and(|first| *first < 0x80))
        .and_then(Serial::new)
        .ok_or_else(|| "has an entry whose serial number is out of range".to_owned())?;
    let time = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| format!("has an impossible date in the entry for {serial}"))
    };
    let mut kept = RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial.0),
        revocation_time: time(entry.revocation_date.timestamp())?,
        reason_code: None,
        invalidity_date: None,
    };
    for extension in entry.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ReasonCode(code) if reason(*code).is_some() => {
                kept.reason_code = reason(*code);
            }
            ParsedExtension::InvalidityDate(date) => {
                kept.invalidity_date = Some(time(date.timestamp())?);
            }
            _ => {
                return Err(format!(
                    "has an entry for {serial} with the extension {}",
                    extension.oid
                ));
            }
        }
    }
    Ok((serial, kept))
}

/// RFC 5280 5.3.1; removeFromCRL has no place in a complete list.
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

/// As the data base and certificates have it: the content bytes of the INTEGER.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.first().is_some_and(|first| *first >= 0x80) {
            f.write_str("00")?;
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_compared_without_leading_zeros() {
        let serial = Serial::parse("00ABcd").unwrap();
        assert_eq!(Some(&serial), Serial::parse("abcd").as_ref());
        assert_eq!(serial.to_string(), "00abcd");
        assert_eq!(Serial::parse("000102").unwrap().to_string(), "0102");
        let longest = "ff".repeat(serial::MAX_BYTES);
        assert!(Serial::parse(&longest).is_some());
        for wrong in [
            "",
            "00",
            "abc",
            "xy",
            "+1",
            "\u{fc}",
            &format!("ff{longest}"),
        ] {
            assert_eq!(Serial::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_serial_number_may_be_written_as_openssl_prints_it() {
        for (written, expected) in [
            ("22:0d:37", Some("220d37")),
            ("1", Some("01")),
            ("00:FF", Some("00ff")),
            ("220d37", Some("220d37")),
            ("2:20", None),
            (":22", None),
            ("22:", None),
            ("22::0d", None),
            ("0", None),
            ("", None),
        ] {
            let parsed = Serial::parse_written(written).map(|serial| serial.to_string());
            assert_eq!(parsed.as_deref(), expected, "{written}");
        }
    }

    #[test]
    fn numbers_of_lists_only_grow() {
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
