//! Content as it arrives, perhaps as a zlib stream (RFC 1950): what it is uncompressed, in pieces, and no more than a
//! limit.
#![forbid(unsafe_code)]

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

/// Bytes uncompressed at a time.
const PIECE: usize = 1 << 16;

/// Content that arrives.
#[derive(Debug)]
pub struct Arriving {
    size: u64,
    limit: u64,
    inflate: Option<Inflate>,
}

#[derive(Debug)]
struct Inflate {
    stream: Decompress,
    ended: bool,
}

/// Why something is no zlib stream, or too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// More bytes than allowed, uncompressed.
    TooLarge(u64),
    /// The zlib stream is damaged.
    Damaged,
    /// The zlib stream ends too early.
    Incomplete,
    /// Something follows the zlib stream.
    Trailing,
}

impl Arriving {
    /// Content of at most `limit` bytes uncompressed.
    pub fn new(compressed: bool, limit: u64) -> Self {
        Self {
            size: 0,
            limit,
            inflate: compressed.then(|| Inflate {
                stream: Decompress::new(true),
                ended: false,
            }),
        }
    }

    /// Whether it is a zlib stream.
    pub fn is_compressed(&self) -> bool {
        self.inflate.is_some()
    }

    /// Takes the next piece, and hands what it is uncompressed to `keep`.
    pub fn write<E: From<InflateError>>(
        &mut self,
        mut piece: &[u8],
        mut keep: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (size, limit) = (&mut self.size, self.limit);
        let mut keep = |plain: &[u8]| {
            *size += plain.len() as u64;
            if *size > limit {
                return Err(InflateError::TooLarge(limit).into());
            }
            keep(plain)
        };
        let Some(inflate) = &mut self.inflate else {
            return keep(piece);
        };
        let mut plain = vec![0; PIECE];
        while !inflate.ended {
            let (before_in, before_out) = (inflate.stream.total_in(), inflate.stream.total_out());
            let status = inflate
                .stream
                .decompress(piece, &mut plain, FlushDecompress::None)
                .map_err(|_| InflateError::Damaged)?;
            let taken = difference(inflate.stream.total_in(), before_in);
            let made = difference(inflate.stream.total_out(), before_out);
            piece = piece.get(taken..).unwrap_or_default();
            keep(plain.get(..made).unwrap_or_default())?;
            inflate.ended = status == Status::StreamEnd;
            if taken == 0 && made == 0 {
                break;
            }
        }
        if inflate.ended && !piece.is_empty() {
            return Err(InflateError::Trailing.into());
        }
        Ok(())
    }

    /// Nothing follows: whether the content is complete.
    pub fn finish(&self) -> Result<(), InflateError> {
        match &self.inflate {
            Some(Inflate { ended: false, .. }) => Err(InflateError::Incomplete),
            _ => Ok(()),
        }
    }
}

/// How far a counter of zlib's has moved; never more than the buffers' sizes.
fn difference(now: u64, before: u64) -> usize {
    usize::try_from(now - before).unwrap_or(usize::MAX)
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(limit) => {
                write!(f, "there are more than the {limit} bytes allowed")
            }
            Self::Damaged => f.write_str("the zlib stream is damaged"),
            Self::Incomplete => f.write_str("the zlib stream is not complete"),
            Self::Trailing => f.write_str("something follows the end of the zlib stream"),
        }
    }
}

impl std::error::Error for InflateError {}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// What arrives when `bytes` are cut into pieces of this size.
    fn arrives(bytes: &[u8], size: usize, limit: u64) -> Result<Vec<u8>, InflateError> {
        let mut arriving = Arriving::new(true, limit);
        let mut plain = Vec::new();
        for piece in bytes.chunks(size) {
            arriving.write(piece, |piece| {
                plain.extend_from_slice(piece);
                Ok::<_, InflateError>(())
            })?;
        }
        arriving.finish().map(|()| plain)
    }

    #[test]
    fn a_stream_is_uncompressed_however_it_is_cut_and_no_more_than_is_allowed() {
        let plain = vec![7; 200_000];
        let stream = compressed(&plain);
        for size in [1, 7, 100, stream.len()] {
            assert_eq!(arrives(&stream, size, 200_000).as_ref(), Ok(&plain));
            let little = arrives(&stream, size, 199_999);
            assert_eq!(little, Err(InflateError::TooLarge(199_999)));
            let more = arrives(&[&stream[..], b"x"].concat(), size, 200_000);
            assert_eq!(more, Err(InflateError::Trailing));
            let cut = arrives(&stream[..stream.len() - 1], size, 200_000);
            assert_eq!(cut, Err(InflateError::Incomplete));
            let damaged = arrives(&[&stream[..20], &[0xff; 40]].concat(), size, 200_000);
            assert_eq!(damaged, Err(InflateError::Damaged));
        }
    }
}
