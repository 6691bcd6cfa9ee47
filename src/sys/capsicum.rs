//! Capability mode, `cap_enter(2)`, and connections to local sockets in it.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockaddrLike, UnixAddr};

unsafe extern "C" {
    /// connectat(2) of `<sys/socket.h>`.
    fn connectat(
        directory: c_int,
        socket: c_int,
        address: *const libc::sockaddr,
        length: libc::socklen_t,
    ) -> c_int;
}

/// From now on this process reaches nothing but by its descriptors.
pub fn enter() -> io::Result<()> {
    // SAFETY: it takes no argument, and changes nothing in memory.
    Ok(Errno::result(unsafe { libc::cap_enter() }).map(drop)?)
}

/// From now on this directory's descriptor is good for connections to the sockets in it, and for nothing else.
pub fn only_connect(directory: impl AsFd) -> io::Result<()> {
    // SAFETY: plain data, for which zero is a value.
    let mut rights: libc::cap_rights_t = unsafe { zeroed() };
    let end: u64 = 0;
    // SAFETY: the rights are of this version, and a zero ends the list of those that are set.
    unsafe {
        libc::__cap_rights_init(
            libc::CAP_RIGHTS_VERSION,
            &raw mut rights,
            libc::CAP_CONNECTAT,
            end,
        );
    }
    // SAFETY: the kernel reads the rights, which have been initialised.
    let limited =
        unsafe { libc::cap_rights_limit(directory.as_fd().as_raw_fd(), &raw const rights) };
    Ok(Errno::result(limited).map(drop)?)
}

/// Connects this socket to that with the name `file` in the directory.
pub fn connect_at(directory: impl AsFd, socket: impl AsFd, file: &Path) -> nix::Result<()> {
    let address = UnixAddr::new(file)?;
    // SAFETY: the address is as long as it says, and outlives the call.
    let connected = unsafe {
        connectat(
            directory.as_fd().as_raw_fd(),
            socket.as_fd().as_raw_fd(),
            address.as_ptr().cast(),
            address.len(),
        )
    };
    Errno::result(connected).map(drop)
}
