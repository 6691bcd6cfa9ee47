//! Serial numbers of certificates, as DER has them: bytes, the highest first.
#![forbid(unsafe_code)]

/// Most bytes of a serial number, and of the number of a CRL (RFC 5280 4.1.2.2, 5.2.3).
pub const MAX_BYTES: usize = 20;

/// A number without the leading zeros of its encoding. One that is negative counts as the positive one with the same
/// bytes.
pub fn magnitude(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_do_not_count() {
        for (bytes, expected) in [
            (&[0, 0, 7][..], &[7][..]),
            (&[7, 0], &[7, 0]),
            (&[0, 0xff], &[0xff]),
            (&[0, 0], &[]),
            (&[], &[]),
        ] {
            assert_eq!(magnitude(bytes), expected);
        }
    }
}
