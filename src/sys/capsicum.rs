//! Capability mode, `cap_enter(2)`.
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;
use nix::libc;

/// From now on this process reaches nothing but by its descriptors.
pub fn enter() -> io::Result<()> {
    // SAFETY: it takes no argument, and changes nothing in memory.
    Ok(Errno::result(unsafe { libc::cap_enter() }).map(drop)?)
}
