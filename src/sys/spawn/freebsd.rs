//! FreeBSD: there are no capabilities that a process holds, no OOM score and no control groups.
#![allow(unsafe_code, clippy::unnecessary_wraps)]

use std::ffi::CStr;

use nix::errno::Errno;
use nix::libc::{self, P_PID, PROC_NO_NEW_PRIVS_CTL, PROC_NO_NEW_PRIVS_ENABLE, c_int};
use nix::sys::resource::Resource;
use nix::sys::signal::{SigHandler, Signal, signal};

/// Those that nix has a name for; it gives petreld no others.
pub(super) const LAST_SIGNAL: c_int = libc::SIGUSR2;

/// The limit of address space.
pub(super) const ADDRESS_SPACE: Resource = Resource::RLIMIT_VMEM;

/// Its default; nothing happens to those that have no other.
pub(super) fn reset_signal(number: c_int) -> nix::Result<()> {
    let Ok(number) = Signal::try_from(number) else {
        return Ok(());
    };
    // SAFETY: the default disposition runs no code of ours.
    match unsafe { signal(number, SigHandler::SigDfl) } {
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn set_oom_score(_: &str) -> nix::Result<()> {
    Ok(())
}

pub(super) fn enter_group(_: &CStr) -> nix::Result<()> {
    Ok(())
}

pub(super) fn empty_bounding_set() -> nix::Result<()> {
    Ok(())
}

pub(super) fn drop_ambient_capabilities() -> nix::Result<()> {
    Ok(())
}

pub(super) fn drop_capabilities() -> nix::Result<()> {
    Ok(())
}

/// procctl(2); it is there since FreeBSD 13.1.
pub(super) fn forbid_new_privileges() -> nix::Result<()> {
    let mut enable = PROC_NO_NEW_PRIVS_ENABLE;
    // SAFETY: procctl(2) reads this number; a process id of 0 is this process.
    let set = unsafe { libc::procctl(P_PID, 0, PROC_NO_NEW_PRIVS_CTL, (&raw mut enable).cast()) };
    Errno::result(set).map(drop)
}
