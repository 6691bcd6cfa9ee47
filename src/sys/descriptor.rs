//! Descriptors that this process was started with.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes an inherited descriptor into ownership and keeps it from the children of this process.
///
/// Meant for descriptors that somebody outside announced by number, each once.
///
/// # Errors
/// `EBADF` if the descriptor is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow ends with this call, which fails if the descriptor is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open, and nobody in this process opened it or was given it before.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
