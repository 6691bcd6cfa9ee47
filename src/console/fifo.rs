//! The reading end of a unikernel's console.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::lines::Splitter;
use crate::name::Name;

/// A fifo that is read without waiting, and the line begun.
#[derive(Debug)]
pub(super) struct Fifo {
    file: File,
    pub(super) splitter: Splitter,
}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// So many bytes.
    Bytes(usize),
    /// Nothing, for now.
    Nothing,
    /// Nobody writes any longer.
    End,
}

impl Fifo {
    /// Opens the fifo of `name` in `directory`, never through a symbolic link.
    ///
    /// As long as nobody has opened it for writing since, it is not at its end and poll(2) does not report it.
    pub(super) fn open(directory: impl AsFd, name: &Name) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_NONBLOCK
            | OFlag::O_NOFOLLOW
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let file: File = openat(directory, name.to_string().as_str(), flags, Mode::empty())?.into();
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a fifo"));
        }
        Ok(Self {
            file,
            splitter: Splitter::default(),
        })
    }

    /// Reads once.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> io::Result<Arrived> {
        match self.file.read(bytes) {
            Ok(0) => Ok(Arrived::End),
            Ok(count) => Ok(Arrived::Bytes(count)),
            Err(error) if is_transient(&error) => Ok(Arrived::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Whether both are the same fifo, opened twice.
    pub(super) fn is_same(&self, other: &Self) -> bool {
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
