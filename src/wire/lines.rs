//! Frames with console lines, many in a row: the same bytes that `Message::encode` gives, at the speed at which guests
//! write.
//!
//! All lines of a console have one header, and those that were read at once one time. These are encoded as everything
//! else is; only the lengths around them are put together here.

use super::{Header, Int, Int64, Text, Timestamp, VERSION, WireError, encode, frame};
use crate::name::Name;

/// Tags (WIRE 4): SEQUENCE, the alternatives data (3) and console (3), `UTF8String`.
const SEQUENCE: u8 = 0x30;
const ALTERNATIVE: u8 = 0xa3;
const STRING: u8 = 0x0c;

/// The frames of one console.
#[derive(Debug)]
pub struct LineFrames {
    header: Vec<u8>,
    /// The time of the last line, and its encoding.
    time: Option<(Timestamp, Vec<u8>)>,
}

impl LineFrames {
    /// Frames of the console of `name`.
    ///
    /// # Errors
    /// As of [`super::Message::encode`].
    pub fn new(name: &Name) -> Result<Self, WireError> {
        let header = Header {
            version: Int::new(VERSION),
            sequence: Int64(0),
            name: Text::from(name.to_string()),
        };
        Ok(Self {
            header: encode(&header)?,
            time: None,
        })
    }

    /// Appends the frame with `line`, which was read at `time`, to `frames`.
    ///
    /// # Errors
    /// As of [`super::Message::encode`].
    pub fn push(
        &mut self,
        time: &Timestamp,
        line: &[u8],
        frames: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        let time = match self.time.take() {
            Some((last, encoded)) if last == *time => self.time.insert((last, encoded)),
            _ => self.time.insert((time.clone(), encode(time)?)),
        };
        let time = &time.1[..];
        let data = time.len() + whole(line.len());
        let console = whole(data);
        let payload = whole(whole(console));
        let message = self.header.len() + payload;
        let prefix = frame::prefix(whole(message));
        frames.extend(prefix.ok_or_else(|| WireError::Grammar("too long".to_owned()))?);
        head(SEQUENCE, message, frames);
        frames.extend_from_slice(&self.header);
        head(ALTERNATIVE, whole(console), frames);
        head(ALTERNATIVE, console, frames);
        head(SEQUENCE, data, frames);
        frames.extend_from_slice(time);
        head(STRING, line.len(), frames);
        frames.extend_from_slice(line);
        Ok(())
    }
}

/// Bytes of a value with so many bytes of content.
fn whole(content: usize) -> usize {
    1 + length_bytes(content) + content
}

/// Bytes of a length: the shortest form (X.690, 8.1.3 and 10.1).
fn length_bytes(length: usize) -> usize {
    if length < 0x80 {
        1
    } else {
        1 + significant(length)
    }
}

fn significant(length: usize) -> usize {
    length.to_be_bytes().len() - (length.leading_zeros() / 8) as usize
}

fn head(tag: u8, length: usize, bytes: &mut Vec<u8>) {
    bytes.push(tag);
    let all = length.to_be_bytes();
    if length < 0x80 {
        bytes.push(all[all.len() - 1]);
    } else {
        let significant = &all[all.len() - significant(length)..];
        bytes.push(0x80 | significant.len().to_be_bytes()[all.len() - 1]);
        bytes.extend_from_slice(significant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConsoleData, Data, Message, Payload};

    #[test]
    fn a_frame_is_that_of_the_message() {
        for name in [":a", &format!("{}:b", "x".repeat(63)), &"y:".repeat(90)] {
            let name: Name = name.parse().unwrap();
            let mut frames = LineFrames::new(&name).unwrap();
            for length in (0..700).chain([0xfff0, 0xffff, 0x1_0000]) {
                let (line, time) = (vec![b'x'; length], length as u64 / 3);
                let time = Timestamp::from_unix(1_700_000_000, time * 1_000_000_000);
                let mut bytes = Vec::new();
                frames.push(&time, &line, &mut bytes).unwrap();
                let header = Header {
                    version: Int::new(VERSION),
                    sequence: Int64(0),
                    name: Text::from(name.to_string()),
                };
                let data = ConsoleData {
                    timestamp: time,
                    data: Text(line),
                };
                let data = Payload::Data(Data::Console(data));
                let message = Message::answer(header, data).encode().unwrap();
                assert_eq!(bytes, frame::frame(&message).unwrap(), "{length}");
            }
        }
    }
}
