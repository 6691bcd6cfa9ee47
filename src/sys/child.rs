//! Children that have ended. nix reaps one that a real-time signal killed, but then returns an error without its pid.
#![allow(unsafe_code)]

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::libc::{self, WEXITSTATUS, WIFEXITED, WIFSIGNALED, WTERMSIG, c_int, pid_t};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exit(u8),
    /// By this signal, real-time ones included.
    Signal(i32),
}

/// Takes note of one child that has ended, without waiting; nothing if there is none, or no child at all.
pub fn reap() -> io::Result<Option<(Pid, Ended)>> {
    wait(-1, libc::WNOHANG)
}

/// Whether this is a child of this process that has ended, and was not [reaped](reap).
pub fn is_unreaped(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => false,
        // Of one that a real-time signal ended, too.
        Ok(_) | Err(_) => true,
    }
}

/// waitpid(2).
fn wait(which: pid_t, options: c_int) -> io::Result<Option<(Pid, Ended)>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a place for the status, and nothing else is written.
        let pid = match unsafe { libc::waitpid(which, &raw mut status, options) } {
            0 => return Ok(None),
            -1 => match Errno::last() {
                Errno::EINTR => continue,
                Errno::ECHILD => return Ok(None),
                error => return Err(error.into()),
            },
            pid => Pid::from_raw(pid),
        };
        if let Some(ended) = Ended::from_status(status) {
            return Ok(Some((pid, ended)));
        }
        // Stopped or continued, which only a debugger is told.
    }
}

impl Ended {
    /// What a status of wait(2) tells; nothing if it is of a process that goes on.
    pub fn from_status(status: c_int) -> Option<Self> {
        if WIFEXITED(status) {
            // An exit code has eight bits.
            return Some(Self::Exit(
                u8::try_from(WEXITSTATUS(status)).unwrap_or(u8::MAX),
            ));
        }
        WIFSIGNALED(status).then(|| Self::Signal(WTERMSIG(status)))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// `reap` itself would take the children of other tests.
    fn end_of(script: &str) -> Ended {
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let (who, ended) = wait(pid, 0).unwrap().unwrap();
        assert_eq!(who.as_raw(), pid);
        assert_eq!(wait(pid, 0).unwrap(), None, "it is reaped");
        assert!(child.wait().is_err());
        ended
    }

    #[test]
    fn a_child_that_ends_is_reported_however_it_does() {
        for (script, expected) in [
            ("exit 0", Ended::Exit(0)),
            ("exit 255", Ended::Exit(255)),
            ("kill -9 $$", Ended::Signal(9)),
            ("kill -34 $$", Ended::Signal(34)),
            ("kill -64 $$", Ended::Signal(64)),
        ] {
            assert_eq!(end_of(script), expected, "{script}");
        }
    }
}
