//! The answer to `get`, where the image itself is sent piece by piece behind what is made here.

use super::frame::{PREFIX, prefix};
use super::{Header, WireError};

/// Identifier octets of the grammar on the way from a message to the image in it.
const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const REPLY: u8 = 0xa1;
const UNIKERNEL_IMAGE: u8 = 0xa6;

/// Everything of the framed answer with an image of `length` octets that comes before the image; nothing comes
/// after it. An error if the frame would have more than 2^31−1 octets.
pub fn answer_head(header: &Header, compressed: bool, length: u64) -> Result<Vec<u8>, WireError> {
    let too_long = || {
        WireError::Grammar(format!(
            "an image of {length} octets does not fit into a frame"
        ))
    };
    let image = usize::try_from(length).map_err(|_| too_long())?;
    let header = rasn::der::encode(header)?;
    let flag = [BOOLEAN, 1, if compressed { 0xff } else { 0 }];
    // From the inside out: each level is the head of a value that ends with the image.
    let mut head = value_head(OCTET_STRING, image);
    for (identifier, before) in [
        (SEQUENCE, &flag[..]),
        (UNIKERNEL_IMAGE, &[]),
        (REPLY, &[]),
        (SEQUENCE, &header),
    ] {
        let content = [before, &head].concat();
        head = [
            value_head(
                identifier,
                content.len().checked_add(image).ok_or_else(too_long)?,
            ),
            content,
        ]
        .concat();
    }
    let length = head.len().checked_add(image).ok_or_else(too_long)?;
    let mut framed = Vec::with_capacity(PREFIX + head.len());
    framed.extend(prefix(length).ok_or_else(too_long)?);
    framed.extend(head);
    Ok(framed)
}

/// Identifier and length octets of a DER value.
fn value_head(identifier: u8, length: usize) -> Vec<u8> {
    let octets = length.to_be_bytes();
    let significant = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => vec![identifier, short],
        // At most eight octets, so the count fits.
        _ => [
            &[
                identifier,
                0x80 | u8::try_from(significant.len()).unwrap_or(8),
            ],
            significant,
        ]
        .concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::frame;
    use crate::wire::{Image, Int, Int64, Message, Octets, Payload, Success};

    #[test]
    fn head_and_image_are_the_message() {
        let header = Header {
            version: Int::new(5),
            sequence: Int64(7),
            name: ":x".into(),
        };
        for length in [0, 1, 100, 127, 128, 255, 256, 65_535, 65_536, 1 << 20] {
            for compressed in [false, true] {
                let image = vec![0x5a; length];
                let mut streamed = answer_head(&header, compressed, length as u64).unwrap();
                streamed.extend(&image);
                let reply = Success::UnikernelImage(Image {
                    compressed,
                    image: Octets(image),
                });
                let message = Message::answer(header.clone(), Payload::Reply(reply));
                assert_eq!(streamed, frame(&message.encode().unwrap()).unwrap());
            }
        }
    }

    #[test]
    fn what_fits_no_frame_is_refused() {
        let header = Header {
            version: Int::new(5),
            sequence: Int64(0),
            name: ":".into(),
        };
        assert!(answer_head(&header, false, 1 << 31).is_err());
    }
}
