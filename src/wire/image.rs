//! Answers that end with an image or a piece of one, which is sent behind what is made here.

use super::frame::{PREFIX, prefix};
use super::{Header, WireError};

/// Identifier bytes of the grammar on the way from a message to the image in it.
const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const REPLY: u8 = 0xa1;
const UNIKERNEL_IMAGE: u8 = 0xa6;
const OLD_BLOCK_DEVICE_IMAGE: u8 = 0xa7;
const DATA: u8 = 0xa3;
const BLOCK: u8 = 0xa4;
const SOME: u8 = 0xa0;

/// Values around an image or a piece, itself included, each with a length.
const LEVELS: usize = 5;

/// What the bytes are that end a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The image of a unikernel; whether it is compressed.
    Image(bool),
    /// The whole content of a block device, likewise.
    Block(bool),
    /// A piece of the content of a block device.
    Piece,
}

/// Everything of the framed message with a tail of `length` bytes that comes before the tail; nothing comes after it.
/// An error if the frame would have more than 2^31−1 bytes.
pub fn head(header: &Header, tail: Tail, length: u64) -> Result<Vec<u8>, WireError> {
    let too_long = || {
        WireError::Grammar(format!(
            "an image of {length} bytes does not fit into a frame"
        ))
    };
    let size = usize::try_from(length).map_err(|_| too_long())?;
    let header = rasn::der::encode(header)?;
    let flag = |compressed| vec![BOOLEAN, 1, if compressed { 0xff } else { 0 }];
    let (innermost, choice, payload) = match tail {
        Tail::Image(compressed) => ((SEQUENCE, flag(compressed)), UNIKERNEL_IMAGE, REPLY),
        Tail::Block(compressed) => ((SEQUENCE, flag(compressed)), OLD_BLOCK_DEVICE_IMAGE, REPLY),
        Tail::Piece => ((SOME, Vec::new()), BLOCK, DATA),
    };
    let around = [
        (choice, Vec::new()),
        (payload, Vec::new()),
        (SEQUENCE, header),
    ];
    // From the inside out: each level is the head of a value that ends with the tail.
    let mut head = value_head(OCTET_STRING, size);
    for (identifier, before) in [innermost].into_iter().chain(around) {
        let content = [before, head].concat();
        let inside = content.len().checked_add(size).ok_or_else(too_long)?;
        head = [value_head(identifier, inside), content].concat();
    }
    let length = head.len().checked_add(size).ok_or_else(too_long)?;
    let mut framed = Vec::with_capacity(PREFIX + head.len());
    framed.extend(prefix(length).ok_or_else(too_long)?);
    framed.extend(head);
    Ok(framed)
}

/// Messages with pieces of one block device, which differ in nothing but the piece: most of them have the same length.
#[derive(Debug)]
pub struct Pieces {
    header: Header,
    /// The latest length of a piece, and what came before it.
    latest: Option<(usize, Vec<u8>)>,
}

impl Pieces {
    /// Those with this header.
    pub fn new(header: Header) -> Self {
        Self {
            header,
            latest: None,
        }
    }

    /// What comes before a piece of this length, framed.
    pub fn head(&mut self, length: usize) -> Result<&[u8], WireError> {
        let head = match self.latest.take() {
            Some((latest, head)) if latest == length => head,
            _ => head(&self.header, Tail::Piece, length as u64)?,
        };
        Ok(&self.latest.insert((length, head)).1)
    }

    /// The piece that is all of this message, which is not framed any more. Nothing of any other message, or of one that
    /// is written in another way.
    pub fn of<'a>(&mut self, message: &'a [u8]) -> Option<&'a [u8]> {
        let latest = self.latest.as_ref();
        let like_latest = latest
            .filter(|(length, head)| head.len() - PREFIX + length == message.len())
            .map(|(length, _)| *length);
        let least = if let Some(length) = like_latest {
            length
        } else {
            let longest = self.head(message.len()).ok()?.len() - PREFIX;
            message.len().checked_sub(longest)?
        };
        // Next to a power of 256 each of its values may be shorter by one than with that.
        (least..=least + LEVELS).find_map(|length| {
            let piece = message.strip_prefix(self.head(length).ok()?.get(PREFIX..)?)?;
            (piece.len() == length).then_some(piece)
        })
    }
}

/// Identifier and length bytes of a DER value.
fn value_head(identifier: u8, length: usize) -> Vec<u8> {
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => vec![identifier, short],
        // At most eight bytes, so the count fits.
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
    use crate::wire::{BlockData, Bytes, Data, Image, Int, Int64, Message, Payload, Success};

    #[test]
    fn head_and_tail_are_the_message() {
        let header = Header {
            version: Int::new(5),
            sequence: Int64(7),
            name: ":x".into(),
        };
        for length in [0, 1, 100, 127, 128, 255, 256, 65_535, 65_536, 1 << 20] {
            let bytes = vec![0x5a; length];
            let check = |tail, payload| {
                let mut streamed = head(&header, tail, length as u64).unwrap();
                streamed.extend(&bytes);
                let message = Message::answer(header.clone(), payload);
                assert_eq!(streamed, frame(&message.encode().unwrap()).unwrap());
            };
            for compressed in [false, true] {
                let image = || Image {
                    compressed,
                    image: Bytes(bytes.clone()),
                };
                let reply = Success::UnikernelImage(image());
                check(Tail::Image(compressed), Payload::Reply(reply));
                let reply = Success::OldBlockDeviceImage(image());
                check(Tail::Block(compressed), Payload::Reply(reply));
            }
            let piece = BlockData::Some(Bytes(bytes.clone()));
            check(Tail::Piece, Payload::Data(Data::Block(piece)));
            let mut message = head(&header, Tail::Piece, length as u64).unwrap();
            message.extend(&bytes);
            let message = &mut message[PREFIX..];
            let mut pieces = Pieces::new(header.clone());
            let found = pieces.of(message);
            assert_eq!(found, Some(&bytes[..]));
            let other = Header {
                name: ":y".into(),
                ..header.clone()
            };
            assert_eq!(pieces.of(message), Some(&bytes[..]), "once more");
            assert_eq!(Pieces::new(other).of(message), None);
            for position in 0..message.len() - length {
                message[position] ^= 1;
                assert_eq!(pieces.of(message), None);
                message[position] ^= 1;
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
        assert!(head(&header, Tail::Image(false), 1 << 31).is_err());
    }
}
