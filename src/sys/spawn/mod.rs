//! Starting a process in a state that does not depend on who starts it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, setsid};

/// How many descriptors this process may have been given by whoever started it.
const INHERITED: i32 = 4096;

/// Keeps what this process inherited, beyond its standard descriptors, from its children.
pub fn keep_descriptors_from_children() {
    for number in 3..INHERITED {
        // SAFETY: borrowed for this call only, which fails if there is no such descriptor.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

/// Starts `command` in a session of its own, pinned to `cpus` (host processors; none: not pinned), with default
/// signal dispositions, an empty signal mask and a umask of 077.
pub fn detached(command: &mut Command, cpus: &[usize]) -> io::Result<Child> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    let pinned = !cpus.is_empty();
    let in_child = move || {
        setsid()?;
        umask(Mode::from_bits_truncate(0o077));
        for number in Signal::iterator() {
            if !matches!(number, Signal::SIGKILL | Signal::SIGSTOP) {
                // SAFETY: the default disposition runs no code of ours.
                unsafe { signal(number, SigHandler::SigDfl) }?;
            }
        }
        if pinned {
            sched_setaffinity(Pid::from_raw(0), &set)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, nothing allocates or takes a lock.
    unsafe { command.pre_exec(in_child) };
    command.spawn()
}
