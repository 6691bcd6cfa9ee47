//! Descriptors that this process was started with.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::{self, CLOSE_RANGE_CLOEXEC, STDERR_FILENO, c_uint};

/// The first descriptor that is no standard one.
const FIRST: RawFd = STDERR_FILENO + 1;

/// How many descriptors a process may have been given by whoever started it, where the system cannot be told to mind
/// them all.
const INHERITED: RawFd = 4096;

/// What [`inherited`] has given away. A number stays here when it is closed: whoever gets it next opened it.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Has every descriptor but the standard ones closed by the next exec. Makes system calls only.
pub fn keep_from_children() {
    let (first, flags) = (FIRST.cast_unsigned(), CLOSE_RANGE_CLOEXEC.cast_signed());
    // SAFETY: this closes nothing now.
    if unsafe { libc::close_range(first, c_uint::MAX, flags) } == 0 {
        return;
    }
    // Before Linux 5.11 and FreeBSD 14.
    for number in FIRST..INHERITED {
        // SAFETY: as above; it fails where there is no such descriptor.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes every descriptor but the standard ones and these. Makes system calls only.
///
/// # Safety
/// Nothing in this process may use another descriptor any more, nor be dropped that owns one: it is meant for a process
/// that was just made, and that ends or executes a program without returning to its callers.
pub unsafe fn close_others(kept: &[RawFd]) {
    let mut first = FIRST;
    while let Some(next) = kept.iter().filter(|kept| **kept >= first).min() {
        if *next > first {
            // SAFETY: none of these is kept, so the caller uses none of them any more.
            unsafe { close_range(first, next - 1) };
        }
        first = next + 1;
    }
    // SAFETY: as above.
    unsafe { close_range(first, RawFd::MAX) };
}

/// # Safety
/// As that of [`close_others`], for these.
unsafe fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: the caller uses none of them any more.
    if unsafe { libc::close_range(first.cast_unsigned(), last.cast_unsigned(), 0) } == 0 {
        return;
    }
    // Before Linux 5.9 and FreeBSD 12.2.
    for number in first..=last.min(INHERITED) {
        // SAFETY: as above.
        unsafe { libc::close(number) };
    }
}

/// Lets the program that is executed next have this descriptor, or not any more.
pub fn keep_over_exec(descriptor: impl AsFd, keep: bool) -> nix::Result<()> {
    let mut flags = FdFlag::empty();
    flags.set(FdFlag::FD_CLOEXEC, !keep);
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Takes an inherited descriptor into ownership and keeps it from the children of this process.
///
/// Meant for descriptors that somebody outside announced by number, before this process opens others.
///
/// # Errors
/// `EBADF` if the descriptor is not open, is a standard one, or was taken before.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if number <= STDERR_FILENO || !is_open(number) || !taken.insert(number) {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: the descriptor is open, none of those that the standard library uses unasked, and given away only once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(descriptor)
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: this only asks, and about any number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags != -1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_descriptor_is_given_away_once_if_it_is_open_and_no_standard_one() {
        for number in [-1, 0, 1, 2, RawFd::MIN, RawFd::MAX] {
            assert!(inherited(number).is_err(), "{number}");
        }
        // Far above those that other tests open meanwhile.
        let file = File::open("/dev/null").unwrap();
        let number = fcntl(&file, FcntlArg::F_DUPFD(500)).unwrap();
        let owned = inherited(number).unwrap();
        assert_eq!(owned.as_raw_fd(), number);
        assert_eq!(fcntl(&owned, FcntlArg::F_GETFD), Ok(1), "close-on-exec");
        assert!(inherited(number).is_err(), "it has an owner");
        drop(owned);
        assert!(inherited(number).is_err(), "it is closed");
    }
}
