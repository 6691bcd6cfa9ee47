//! The content of a block device that arrives, beside the file that it replaces.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::{Attached, BlockError};
use crate::host::unfinished::Unfinished;
use crate::inflate::Arriving;
use crate::name::Name;

/// After how many octets the system is asked to begin writing them to the disk, so that there is little left for the
/// end, when all of it has to be there.
const WRITE_BEHIND: u64 = 1 << 23;

/// Content that arrives.
#[derive(Debug)]
pub struct Staging {
    name: Name,
    file: Unfinished,
    /// The file that it replaces, locked.
    before: Option<Attached>,
    /// Octets of the device.
    size: u64,
    arriving: Arriving,
    at: u64,
    /// Up to here it is on its way to the disk.
    begun: u64,
}

impl Staging {
    /// Whether it arrives as a zlib stream.
    pub fn is_compressed(&self) -> bool {
        self.arriving.is_compressed()
    }

    pub(super) fn new(
        name: Name,
        file: Unfinished,
        before: Option<Attached>,
        size: u64,
        compressed: bool,
    ) -> Self {
        Self {
            name,
            file,
            before,
            size,
            arriving: Arriving::new(compressed, size),
            at: 0,
            begun: 0,
        }
    }

    /// The device.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Takes the next piece. What is zero takes no room.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), BlockError> {
        let Self {
            file,
            arriving,
            at,
            begun,
            ..
        } = self;
        arriving.write(piece, |plain| {
            if !is_zero(plain) {
                file.file
                    .write_all_at(plain, *at)
                    .map_err(BlockError::file("write", &file.path))?;
            }
            *at += plain.len() as u64;
            if *at - *begun >= WRITE_BEHIND {
                write_behind(&file.file, *begun, *at - *begun);
                *begun = *at;
            }
            Ok(())
        })
    }

    /// Nothing follows: the file, the one that it replaces, and the octets of the device.
    pub(super) fn complete(self) -> Result<(Unfinished, Option<Attached>, u64), BlockError> {
        self.arriving.finish()?;
        Ok((self.file, self.before, self.size))
    }
}

fn is_zero(octets: &[u8]) -> bool {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    octets
        .chunks(ZEROS.len())
        .all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// A hint only: what comes of it is told by the end.
fn write_behind(file: &File, from: u64, octets: u64) {
    if let (Ok(from), Ok(octets)) = (i64::try_from(from), i64::try_from(octets)) {
        let _ = posix_fadvise(file, from, octets, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}
