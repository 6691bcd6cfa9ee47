//! FreeBSD: there are no capabilities that a process holds, no OOM score and no control groups.
#![allow(unsafe_code, clippy::unnecessary_wraps)]

use std::ffi::CStr;

use nix::errno::Errno;
use nix::libc::{self, P_PID, PROC_NO_NEW_PRIVS_CTL, PROC_NO_NEW_PRIVS_ENABLE, c_int};
use nix::sys::resource::Resource;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid};

/// Those that nix has a name for; it gives petreld no others.
pub(super) const LAST_SIGNAL: c_int = libc::SIGUSR2;

/// The limit of address space.
pub(super) const ADDRESS_SPACE: Resource = Resource::RLIMIT_VMEM;

/// Runs `child` in a new process. When it comes back, the new process is over.
pub(super) fn start(child: &dyn Fn()) -> nix::Result<Pid> {
    // SAFETY: the new process makes system calls only.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            child();
            // SAFETY: it ends at once.
            unsafe { libc::_exit(libc::EXIT_FAILURE) }
        }
    }
}

pub(super) fn set_groups(groups: &[Gid]) -> nix::Result<()> {
    setgroups(groups)
}

/// Real, effective and saved.
pub(super) fn set_group(id: u32) -> nix::Result<()> {
    let id = Gid::from_raw(id);
    setresgid(id, id, id)
}

/// Real, effective and saved.
pub(super) fn set_user(id: u32) -> nix::Result<()> {
    let id = Uid::from_raw(id);
    setresuid(id, id, id)
}

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
