//! FreeBSD: an option of tcp(4) that nix does not know.
#![allow(unsafe_code)]

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc::{IPPROTO_TCP, TCP_MAXUNACKTIME, c_uint, setsockopt, socklen_t};

/// `TCP_MAXUNACKTIME`: seconds within which the peer has to take note of something that was sent.
pub fn limit_silence(socket: impl AsFd, seconds: c_uint) -> nix::Result<()> {
    let length = socklen_t::try_from(size_of::<c_uint>()).map_err(|_| Errno::EOVERFLOW)?;
    let descriptor = socket.as_fd().as_raw_fd();
    let value = (&raw const seconds).cast();
    // SAFETY: `value` points to `length` bytes, which the kernel reads during the call only.
    let set = unsafe { setsockopt(descriptor, IPPROTO_TCP, TCP_MAXUNACKTIME, value, length) };
    Errno::result(set).map(drop)
}
