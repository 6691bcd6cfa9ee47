//! The content of a block device that arrives, beside the file that it replaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{Attached, BlockError};
use crate::host::temporary_file::{Unfinished, WriteBehind};
use crate::inflate::{Arriving, InflateError};
use crate::name::Name;

/// What is to be a device, and is not yet.
#[derive(Debug)]
pub struct Staging {
    pub(super) name: Name,
    pub(super) file: Unfinished,
    /// The file that it replaces, locked.
    pub(super) before: Option<Attached>,
}

/// Content that arrives.
#[derive(Debug)]
pub struct Content {
    file: File,
    path: PathBuf,
    /// Bytes of the device.
    size: u64,
    arriving: Arriving,
    at: u64,
    /// Bytes written, which is what takes disk space.
    written: u64,
    behind: WriteBehind,
}

impl Content {
    pub(super) fn new(file: File, path: PathBuf, size: u64, compressed: bool) -> Self {
        Self {
            file,
            path,
            size,
            arriving: Arriving::new(compressed, size),
            at: 0,
            written: 0,
            behind: WriteBehind::default(),
        }
    }

    /// Whether it arrives as a zlib stream.
    pub fn is_compressed(&self) -> bool {
        self.arriving.is_compressed()
    }

    /// Takes the next piece. What is zero takes no room; before anything else is written `reach` is asked, with the bytes
    /// that are written then.
    ///
    /// # Errors
    /// Those of `reach`; if the content is too large or not a zlib stream; if the file cannot be written.
    pub fn write<E: From<BlockError> + From<InflateError>>(
        &mut self,
        piece: &[u8],
        mut reach: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self {
            file,
            path,
            arriving,
            at,
            written,
            behind,
            ..
        } = self;
        arriving.write(piece, |plain| {
            if !is_zero(plain) {
                *written += plain.len() as u64;
                reach(*written)?;
                file.write_all_at(plain, *at)
                    .map_err(BlockError::file("write", path))?;
            }
            *at += plain.len() as u64;
            behind.reached(*at, file);
            Ok(())
        })
    }

    /// The file once more: whoever is the last to have one that was not finished waits until it is freed.
    pub fn file(&self) -> Option<File> {
        self.file.try_clone().ok()
    }

    /// Nothing follows: it is complete, and on the disk.
    pub fn finish(self) -> Result<(), BlockError> {
        self.arriving.finish()?;
        to_disk(&self.file, self.size).map_err(BlockError::file("write", &self.path))
    }
}

impl AsRawFd for Content {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Gives a file its size, and has all of it on the disk.
pub(super) fn to_disk(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)?;
    file.sync_all()
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| *chunk == ZEROS[..chunk.len()])
}
