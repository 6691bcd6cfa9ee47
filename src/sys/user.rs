//! Users of this host, by their numbers.
#![allow(unsafe_code)]
// Constants of fcntl(2) have other types on other systems; all are small.
#![allow(clippy::unnecessary_cast, clippy::cast_possible_truncation)]

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, SEEK_SET, c_short};

/// Whether a process has this real user; only those of this process's PID namespace are seen.
pub fn has_processes(user: u32) -> io::Result<bool> {
    Errno::clear();
    // SAFETY: getpriority(2) takes two numbers.
    #[allow(clippy::cast_possible_wrap, clippy::cast_lossless)]
    let _ = unsafe { libc::getpriority(libc::PRIO_USER, user as _) };
    // Every number can be a priority: only errno tells.
    match Errno::last() {
        Errno::UnknownErrno => Ok(true),
        Errno::ESRCH => Ok(false),
        error => Err(error.into()),
    }
}

/// Locks this user in a file of locks, one byte a user. `false`: somebody else has the lock.
pub fn lock(file: &File, user: u32) -> io::Result<bool> {
    match set_lock(file, user, libc::F_WRLCK as c_short) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a lock back.
pub fn unlock(file: &File, user: u32) -> io::Result<()> {
    Ok(set_lock(file, user, libc::F_UNLCK as c_short)?)
}

fn set_lock(file: &File, user: u32, kind: c_short) -> nix::Result<()> {
    // SAFETY: `flock` is plain data, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind;
    lock.l_whence = SEEK_SET as c_short;
    lock.l_start = user.into();
    lock.l_len = 1;
    // The lock belongs to the open file: a child that closes it changes nothing.
    #[cfg(target_os = "linux")]
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?;
    #[cfg(not(target_os = "linux"))]
    fcntl(file, FcntlArg::F_SETLK(&lock))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::getuid;

    #[test]
    fn a_user_with_a_process_is_told_from_one_without() {
        assert!(has_processes(getuid().as_raw()).unwrap());
        assert!(!has_processes(1_987_654_321).unwrap());
    }
}
