//! Linux: sendfile(2) knows local sockets.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;

/// Sends up to `count` bytes of a file, from `at` on, without a copy of them: the socket refers to the system's pages of
/// the file until the other side has read them. How many were sent, none if the file ends there.
///
/// # Errors
/// `EINVAL` if this file cannot be sent in this way.
pub fn send_pages(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    at: u64,
    count: usize,
) -> nix::Result<usize> {
    let mut at = i64::try_from(at).map_err(|_| Errno::EINVAL)?;
    sendfile64(socket, file, Some(&mut at), count)
}
