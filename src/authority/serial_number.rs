//! Serial numbers as text.

use std::fmt;

use super::certificate::Certificate;
use crate::serial;

/// Serial number without leading zeros: 1 to [`serial::MAX_BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Serial(Vec<u8>);

impl Serial {
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let significant = serial::magnitude(bytes);
        (1..=serial::MAX_BYTES)
            .contains(&significant.len())
            .then(|| Self(significant.to_vec()))
    }

    /// Serial number of a certificate.
    pub(super) fn of(certificate: &Certificate) -> Option<Self> {
        Self::parse(&certificate.serial)
    }

    /// Parses the text of a person or another program, which may have colons between bytes, or lack a leading zero.
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

    /// Parses hexadecimal with two digits per byte.
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

impl AsRef<[u8]> for Serial {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Formats the content of the INTEGER, as in the database and in certificates.
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
    fn a_serial_number_is_parsed_in_the_form_of_openssl() {
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
}
