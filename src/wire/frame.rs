//! Frames: four bytes of length, big endian, then that many bytes (WIRE 7.1).

use std::fmt;
use std::io::{self, Read, Write};

/// Most bytes of a frame that is held in memory while it is read: a request or an ordinary reply.
/// Frames with an image inside are passed on piece by piece and have no such limit.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Most bytes in one chunk of a raw stream (WIRE 7.3).
pub const MAX_CHUNK: usize = 1 << 16;

/// Bytes of the length before each frame.
pub const PREFIX: usize = 4;

/// The frame that ends a raw stream.
pub const END: [u8; PREFIX] = [0; PREFIX];

/// Why no frame could be read.
#[derive(Debug)]
pub enum FrameError {
    /// The peer announced more bytes than are accepted here (announced, accepted).
    TooLong(usize, usize),
    /// The connection ended inside a frame.
    Truncated,
    /// Reading failed.
    Io(io::Error),
}

/// The length in a frame's prefix; `None` is the end of the stream (zero or negative as a signed number).
pub fn length(prefix: [u8; PREFIX]) -> Option<usize> {
    usize::try_from(i32::from_be_bytes(prefix))
        .ok()
        .filter(|length| *length > 0)
}

/// The prefix of a frame of `length` bytes; `None` if it does not fit into 31 bits.
pub fn prefix(length: usize) -> Option<[u8; PREFIX]> {
    i32::try_from(length).ok().map(i32::to_be_bytes)
}

/// A frame around `content`, which has at most 2^31−1 bytes.
pub fn frame(content: &[u8]) -> Result<Vec<u8>, FrameError> {
    let prefix =
        prefix(content.len()).ok_or(FrameError::TooLong(content.len(), i32::MAX as usize))?;
    Ok([&prefix, content].concat())
}

/// Reads one frame of at most `limit` bytes. `None`: the peer ended the stream, by an end marker or by closing.
///
/// Memory grows with what has arrived, not with what was announced, but for little.
pub fn read_frame(reader: &mut impl Read, limit: usize) -> Result<Option<Vec<u8>>, FrameError> {
    let Some(length) = read_prefix(reader)?.and_then(length) else {
        return Ok(None);
    };
    if length > limit {
        return Err(FrameError::TooLong(length, limit));
    }
    let mut content = Vec::with_capacity(length.min(2 * MAX_CHUNK));
    reader
        .by_ref()
        .take(length as u64)
        .read_to_end(&mut content)?;
    if content.len() < length {
        return Err(FrameError::Truncated);
    }
    Ok(Some(content))
}

/// Reads the four bytes before a frame. `None`: the connection ended properly before them.
pub fn read_prefix(reader: &mut impl Read) -> Result<Option<[u8; PREFIX]>, FrameError> {
    let mut bytes = Vec::with_capacity(PREFIX);
    reader
        .by_ref()
        .take(PREFIX as u64)
        .read_to_end(&mut bytes)?;
    match <[u8; PREFIX]>::try_from(bytes) {
        Ok(prefix) => Ok(Some(prefix)),
        Err(part) if part.is_empty() => Ok(None),
        Err(_) => Err(FrameError::Truncated),
    }
}

/// Writes `content` as one frame, in one piece.
pub fn write_frame(writer: &mut impl Write, content: &[u8]) -> Result<(), FrameError> {
    Ok(writer.write_all(&frame(content)?)?)
}

/// What a [`FrameBuffer`] holds complete.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The content of a frame.
    Frame(Vec<u8>),
    /// The marker that ends a raw stream.
    End,
}

/// Frames out of bytes that arrive piece by piece, for descriptors that do not block.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    /// Bytes at the front that were handed out already.
    taken: usize,
}

impl FrameBuffer {
    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete frame, if there is one; an error as soon as a frame of more than `limit` bytes is announced.
    pub fn next(&mut self, limit: usize) -> Result<Option<Next>, FrameError> {
        let held = &self.bytes[self.taken..];
        let Some((prefix, rest)) = held.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let Some(length) = length(*prefix) else {
            self.taken += PREFIX;
            return Ok(Some(Next::End));
        };
        if length > limit {
            return Err(FrameError::TooLong(length, limit));
        }
        let Some(content) = rest.get(..length) else {
            return Ok(None);
        };
        let content = content.to_vec();
        self.taken += PREFIX + length;
        Ok(Some(Next::Frame(content)))
    }

    /// Takes what is held out as it is, as far as there is room: how many bytes.
    pub fn take(&mut self, room: &mut [u8]) -> usize {
        let held = &self.bytes[self.taken..];
        let count = held.len().min(room.len());
        room[..count].copy_from_slice(&held[..count]);
        self.taken += count;
        count
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Whether nothing is held: not even a part of a frame.
    pub fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }
}

/// Follows the boundaries of frames in bytes that pass by.
#[derive(Debug, Default)]
pub struct Frames {
    prefix: [u8; PREFIX],
    /// How much of `prefix` has passed.
    prefixed: usize,
    /// How much of the content has not passed yet.
    left: usize,
}

/// What [`Frames::next`] came upon.
#[derive(Debug, PartialEq, Eq)]
pub enum FramePart {
    /// Bytes inside a frame; the flag says whether its last one is among them.
    Content(usize, bool),
    /// The bytes that complete a prefix, and what it announces.
    Prefix(usize, u32),
    /// A part of a prefix.
    Part(usize),
}

impl Frames {
    /// Looks at the front of `bytes`, which are not empty.
    pub fn next(&mut self, bytes: &[u8]) -> FramePart {
        if self.left > 0 {
            let count = self.left.min(bytes.len());
            self.left -= count;
            return FramePart::Content(count, self.left == 0);
        }
        let count = (PREFIX - self.prefixed).min(bytes.len());
        for (place, byte) in self.prefix[self.prefixed..].iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.prefixed += count;
        if self.prefixed < PREFIX {
            return FramePart::Part(count);
        }
        self.prefixed = 0;
        let announced = u32::from_be_bytes(self.prefix);
        self.left = length(self.prefix).unwrap_or(0);
        FramePart::Prefix(count, announced)
    }

    /// The latest prefix, once it is complete.
    pub fn prefix(&self) -> [u8; PREFIX] {
        self.prefix
    }

    /// Whether content is still to come that a prefix has announced.
    pub fn is_inside(&self) -> bool {
        self.left > 0
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Truncated
        } else {
            Self::Io(error)
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(announced, limit) => {
                write!(
                    f,
                    "a frame of {announced} bytes, of which at most {limit} are accepted"
                )
            }
            Self::Truncated => f.write_str("the connection ended inside a frame"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back() {
        let bytes = frame(b"hello").unwrap();
        assert_eq!(
            read_frame(&mut &bytes[..], 5).unwrap(),
            Some(b"hello".to_vec())
        );
    }

    #[test]
    fn zero_and_negative_lengths_end_the_stream() {
        for prefix in [[0; 4], [0x80, 0, 0, 0], [0xff; 4]] {
            assert!(read_frame(&mut &prefix[..], 10).unwrap().is_none());
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_its_content() {
        let error = read_frame(&mut &[0x7f, 0xff, 0xff, 0xff][..], MAX_MESSAGE).unwrap_err();
        assert!(matches!(
            error,
            FrameError::TooLong(0x7fff_ffff, MAX_MESSAGE)
        ));
    }

    #[test]
    fn frames_are_cut_out_of_pieces_of_any_size() {
        let stream = [&frame(b"one").unwrap()[..], &frame(b"two").unwrap(), &END].concat();
        for size in 1..stream.len() {
            let mut buffer = FrameBuffer::default();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                buffer.push(piece);
                while let Some(next) = buffer.next(3).unwrap() {
                    found.push(next);
                }
            }
            assert_eq!(
                found,
                [
                    Next::Frame(b"one".into()),
                    Next::Frame(b"two".into()),
                    Next::End
                ]
            );
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error() {
        for bytes in [&b"\0"[..], b"\0\0\0\x05hell"] {
            assert!(matches!(
                read_frame(&mut &bytes[..], 10),
                Err(FrameError::Truncated)
            ));
        }
        assert!(read_frame(&mut &b""[..], 10).unwrap().is_none());
    }
}
