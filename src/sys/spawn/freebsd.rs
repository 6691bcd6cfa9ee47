//! FreeBSD: there are no capabilities that a process holds, no OOM score and no control groups.
#![allow(unsafe_code, clippy::unnecessary_wraps)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::{self, P_PID, PROC_NO_NEW_PRIVS_CTL, PROC_NO_NEW_PRIVS_ENABLE, c_int};
use nix::sys::resource::Resource;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, fork, pipe2, read, setgroups, setresgid, setresuid, write,
};

use super::Failure;

/// Those that nix has a name for; it gives petreld no others.
pub(super) const LAST_SIGNAL: c_int = libc::SIGUSR2;

/// The limit of address space.
pub(super) const ADDRESS_SPACE: Resource = Resource::RLIMIT_VMEM;

/// What a new process says with why it executes nothing.
pub(super) struct Report {
    told: OwnedFd,
    tell: OwnedFd,
}

impl Report {
    pub(super) fn open() -> nix::Result<Self> {
        let (told, tell) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self { told, tell })
    }

    /// What the new process has to keep for it.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        Some(self.tell.as_raw_fd())
    }
}

/// Runs `child` in a new process. When it comes back, the new process is over, and what it says is returned, too.
pub(super) fn start(
    report: Report,
    child: &dyn Fn() -> Failure,
) -> nix::Result<(Pid, Option<Failure>)> {
    let Report { told, tell } = report;
    // SAFETY: the new process makes system calls only.
    let pid = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let Failure { step, error } = child();
            let [a, b, c, d] = (error as i32).to_ne_bytes();
            let _ = write(&tell, &[u8::try_from(step).unwrap_or(u8::MAX), a, b, c, d]);
            // SAFETY: it ends at once.
            unsafe { libc::_exit(libc::EXIT_FAILURE) }
        }
    };
    drop(tell);
    let mut failure = [0; 5];
    // Exec closes the other end.
    let length = loop {
        match read(&told, &mut failure) {
            Err(Errno::EINTR) => {}
            read => break read?,
        }
    };
    let [step, errno @ ..] = failure;
    let failure = (length == failure.len()).then(|| Failure {
        step: step.into(),
        error: Errno::from_raw(i32::from_ne_bytes(errno)),
    });
    Ok((pid, failure))
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
