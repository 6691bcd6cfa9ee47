//! FreeBSD: nothing is sent without a copy.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

pub fn send_pages(_: BorrowedFd<'_>, _: BorrowedFd<'_>, _: u64, _: usize) -> nix::Result<usize> {
    Err(Errno::EINVAL)
}
