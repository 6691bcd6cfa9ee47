//! A file that is sent piece by piece: an image, or a block device.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;

/// Bytes read at once.
const PIECE: usize = 1 << 16;

/// What is left of a file.
#[derive(Debug)]
pub struct Outgoing {
    file: File,
    at: u64,
    length: u64,
}

impl Outgoing {
    /// The whole file, as long as it is now.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            length: file.metadata()?.len(),
            at: 0,
            file,
        })
    }

    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.length - self.at
    }

    /// All are to come again.
    pub fn rewind(&mut self) {
        self.at = 0;
    }

    /// The next piece: [`PIECE`] bytes, less at the end, none after it.
    pub fn read(&mut self, to: &mut Vec<u8>) -> io::Result<()> {
        self.read_up_to(PIECE, to)
    }

    /// The next `most` bytes, less at the end, none after it.
    pub fn read_up_to(&mut self, most: usize, to: &mut Vec<u8>) -> io::Result<()> {
        let count = usize::try_from(self.left()).unwrap_or(most).min(most);
        to.resize(count, 0);
        let read = self.file.read_exact_at(to, self.at);
        read.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => shorter(),
            _ => error,
        })?;
        self.skip(count);
        Ok(())
    }

    /// This many bytes, of those that are left, were sent in another way.
    pub fn skip(&mut self, count: usize) {
        self.at = self.length.min(self.at + count as u64);
    }

    /// Where the next piece begins.
    pub fn at(&self) -> u64 {
        self.at
    }
}

/// A file ends before its end.
pub fn shorter() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it is shorter than it was")
}

impl AsFd for Outgoing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Outgoing {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
