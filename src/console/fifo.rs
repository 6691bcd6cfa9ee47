//! The reading end of a unikernel's console.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::lines::Splitter;

/// Most octets read at once.
const READ: usize = 1 << 12;

/// Most reads of what a replaced descriptor still holds: as much as a pipe of the greatest usual size (1 MB) can.
const DRAIN: usize = 1 << 8;

/// A fifo that is read without waiting, cut into lines.
#[derive(Debug)]
pub(super) struct Fifo {
    file: File,
    splitter: Splitter,
}

impl Fifo {
    /// Opens the fifo at `path`, never through a symbolic link.
    ///
    /// As long as nobody has opened it for writing since, it is not at its end and poll(2) does not report it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY).bits())
            .open(path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a fifo"));
        }
        Ok(Self {
            file,
            splitter: Splitter::default(),
        })
    }

    /// Reads once and hands out complete lines. `false`: nobody writes any longer, and all was handed out.
    pub(super) fn read(&mut self, mut line: impl FnMut(Vec<u8>)) -> io::Result<bool> {
        let mut octets = [0; READ];
        match self.file.read(&mut octets) {
            Ok(0) => {
                self.splitter.finish().into_iter().for_each(line);
                Ok(false)
            }
            Ok(count) => {
                self.splitter.push(&octets[..count], &mut line);
                Ok(true)
            }
            Err(error) if is_transient(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Goes on with `self` where `before`, opened earlier for the same console, has been read to, so that no line
    /// is lost: neither what waits in another fifo of that name, nor a line begun.
    pub(super) fn succeed(&mut self, mut before: Self, mut line: impl FnMut(Vec<u8>)) {
        let mut octets = [0; READ];
        for _ in 0..DRAIN {
            match before.file.read(&mut octets) {
                Ok(0) => {
                    before.end(&mut line);
                    break;
                }
                Ok(count) => before.splitter.push(&octets[..count], &mut line),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if self.is_same(&before) {
            self.splitter = before.splitter;
        } else {
            before.end(&mut line);
        }
    }

    /// Hands out the last line, if there was no newline after it.
    pub(super) fn end(&mut self, line: impl FnMut(Vec<u8>)) {
        self.splitter.finish().into_iter().for_each(line);
    }

    fn is_same(&self, other: &Self) -> bool {
        let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino())).ok();
        let own = identity(&self.file);
        own.is_some() && own == identity(&other.file)
    }
}

impl AsFd for Fifo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
