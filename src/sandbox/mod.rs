//! What a daemon can still reach once it has all it needs: the folders it names, and nothing else of the file system.
#![forbid(unsafe_code)]

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::os::fd::BorrowedFd;

/// What stays possible with the files in a folder, and in all folders below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Opening them for reading.
    Read,
    /// Making, opening, renaming and removing them.
    Change,
    /// Removing them.
    Remove,
}

/// From now on this process reaches files in these folders only, and only so; what is open already stays as it is.
///
/// On FreeBSD (Capsicum) they can be reached by their descriptors alone, whatever the access, and no connection can be
/// made any more, so that it cannot be used with a `port`. On Linux (Landlock) this is about the calling thread and those
/// that it makes, TCP connections can be made to this `port` only, and no signal sent to others, as far as the kernel
/// knows how to.
///
/// Where the system cannot do that it is logged, and all goes on without.
pub fn confine(folders: &[(BorrowedFd<'_>, Access)], port: Option<u16>) {
    if let Err(error) = os::confine(folders, port) {
        log::warn!("going on without a sandbox: {error}");
    }
}
