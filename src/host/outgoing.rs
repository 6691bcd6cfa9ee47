//! A file that is sent piece by piece: an image, or a block device.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use super::block::Attached;

/// Octets read at once.
pub const PIECE: usize = 1 << 16;

/// What is left of a file.
#[derive(Debug)]
pub struct Outgoing {
    file: File,
    /// Keeps others from changing it.
    _lock: Option<Attached>,
    at: u64,
    left: u64,
}

impl Outgoing {
    /// The whole file, as long as it is now.
    pub fn new(file: File, lock: Option<Attached>) -> io::Result<Self> {
        Ok(Self {
            left: file.metadata()?.len(),
            at: 0,
            _lock: lock,
            file,
        })
    }

    /// Octets that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// How many octets the next piece has: [`PIECE`], less at the end, 0 after it.
    pub fn next(&self) -> usize {
        usize::try_from(self.left).unwrap_or(PIECE).min(PIECE)
    }

    /// Puts the next piece behind the first `before` octets of `to`, and nothing behind it.
    pub fn read(&mut self, to: &mut Vec<u8>, before: usize) -> io::Result<()> {
        let count = self.next();
        // What is there from the piece before is as good as zeros.
        to.resize(before + count, 0);
        let room = to.get_mut(before..).unwrap_or_default();
        let read = self.file.read_exact_at(room, self.at);
        read.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it is shorter than it was"),
            _ => error,
        })?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(())
    }
}
