//! zlib streams (RFC 1950), uncompressed as they arrive, in bounded memory.
#![forbid(unsafe_code)]

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

/// Octets uncompressed at a time.
const PIECE: usize = 1 << 16;

/// A stream that arrives piece by piece.
#[derive(Debug)]
pub struct Inflate {
    stream: Decompress,
    ended: bool,
}

/// Why octets are no zlib stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// It is damaged.
    Damaged,
    /// It ends too early.
    Incomplete,
    /// Something follows it.
    Trailing,
}

impl Default for Inflate {
    fn default() -> Self {
        Self {
            stream: Decompress::new(true),
            ended: false,
        }
    }
}

impl Inflate {
    /// Takes the next piece, and hands what is in it to `keep`, at most 2^16 octets at a time: whatever bounds the
    /// size of the whole is there. After an error the stream is of no use.
    pub fn write<E: From<InflateError>>(
        &mut self,
        mut piece: &[u8],
        mut keep: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut plain = vec![0; PIECE];
        while !self.ended {
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(piece, &mut plain, FlushDecompress::None)
                .map_err(|_| InflateError::Damaged)?;
            let taken = difference(self.stream.total_in(), before_in);
            let made = difference(self.stream.total_out(), before_out);
            piece = piece.get(taken..).unwrap_or_default();
            keep(plain.get(..made).unwrap_or_default())?;
            self.ended = status == Status::StreamEnd;
            if taken == 0 && made == 0 {
                break;
            }
        }
        if self.ended && !piece.is_empty() {
            return Err(InflateError::Trailing.into());
        }
        Ok(())
    }

    /// Nothing follows: checks that the stream is complete.
    pub fn finish(self) -> Result<(), InflateError> {
        if self.ended {
            Ok(())
        } else {
            Err(InflateError::Incomplete)
        }
    }
}

/// How far a counter of zlib's has moved; never more than the buffers' sizes.
fn difference(now: u64, before: u64) -> usize {
    usize::try_from(now - before).unwrap_or(usize::MAX)
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "the compressed image is damaged",
            Self::Incomplete => "the compressed image is not complete",
            Self::Trailing => "something follows the end of the compressed image",
        })
    }
}

impl std::error::Error for InflateError {}
