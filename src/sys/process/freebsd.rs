//! FreeBSD: kqueue(2) with `NOTE_EXIT`, and sysctl(3) `kern.proc.pid`.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc::{
    self, CTL_KERN, KERN_BOOTTIME, KERN_PROC, KERN_PROC_PID, c_int, kinfo_proc, timeval,
};
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{End, ProcessId, ProcessInfo, at_one_time};
use crate::sys::child::Ended;

/// `SZOMB` of `<sys/proc.h>`.
const ZOMBIE: libc::c_char = 5;

const BOOT_ID: &CStr = c"kern.boot_id";

/// A queue that gets one event: the end.
#[derive(Debug)]
pub(super) struct Handle {
    queue: Kqueue,
    /// Once it was taken out of the queue.
    end: Cell<Option<End>>,
}

/// What identifies this run of the system; a dash where it does not tell (before FreeBSD 13).
pub fn boot_id() -> io::Result<String> {
    let mut id = [0_u8; 16];
    let mut length = id.len();
    // SAFETY: at most `length` bytes are written to `id`, and nothing is set.
    let asked = unsafe {
        libc::sysctlbyname(
            BOOT_ID.as_ptr(),
            id.as_mut_ptr().cast(),
            &raw mut length,
            ptr::null(),
            0,
        )
    };
    match Errno::result(asked) {
        Ok(_) => Ok(format!("{:032x}", u128::from_be_bytes(id))),
        Err(Errno::ENOENT) => Ok("-".to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// What is known about a process; nothing if there is none.
pub(super) fn look(pid: Pid) -> io::Result<Option<ProcessInfo>> {
    let name = [CTL_KERN, KERN_PROC, KERN_PROC_PID, pid.as_raw()];
    let boot = || sysctl::<timeval>(&[CTL_KERN, KERN_BOOTTIME])?.ok_or(Errno::ENOENT.into());
    let boot = || boot().map(microseconds);
    // The system tells both on the wall clock, which may be set meanwhile; the difference stays.
    let (boot, process) = at_one_time(boot, || sysctl::<kinfo_proc>(&name))?;
    let Some(process) = process else {
        return Ok(None);
    };
    let start = microseconds(process.ki_start) - boot;
    Ok(Some(ProcessInfo {
        start: start.try_into().unwrap_or(0),
        ended: process.ki_stat == ZOMBIE,
    }))
}

/// All that is known about a process; nothing if there is none, or it has ended.
pub fn usage(pid: Pid) -> io::Result<Option<kinfo_proc>> {
    let name = [CTL_KERN, KERN_PROC, KERN_PROC_PID, pid.as_raw()];
    let found = sysctl::<kinfo_proc>(&name)?;
    Ok(found.filter(|process| process.ki_stat != ZOMBIE))
}

fn microseconds(time: timeval) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_usec)
}

/// A value of fixed size, plain data; nothing if there is no such process.
fn sysctl<T>(name: &[c_int]) -> io::Result<Option<T>> {
    // SAFETY: only called for structures of numbers and pointers, for which zero is a value.
    let mut value: T = unsafe { zeroed() };
    let mut length = size_of::<T>();
    let parts = u32::try_from(name.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `name` has `parts` numbers, at most `length` bytes of `value` are written, and nothing is set.
    let asked = unsafe {
        libc::sysctl(
            name.as_ptr(),
            parts,
            (&raw mut value).cast(),
            &raw mut length,
            ptr::null(),
            0,
        )
    };
    match Errno::result(asked) {
        Ok(_) if length == size_of::<T>() => Ok(Some(value)),
        Ok(_) if length == 0 => Ok(None),
        Ok(_) => Err(Errno::EPROTO.into()),
        Err(Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Handle {
    pub(super) fn open(pid: Pid) -> io::Result<Option<Self>> {
        let queue = Kqueue::new()?;
        let event = KEvent::new(
            usize::try_from(pid.as_raw()).map_err(|_| Errno::ESRCH)?,
            EventFilter::EVFILT_PROC,
            EvFlags::EV_ADD,
            FilterFlag::NOTE_EXIT,
            0,
            0,
        );
        match queue.kevent(&[event], &mut [], None) {
            Ok(_) => Ok(Some(Self {
                queue,
                end: Cell::new(None),
            })),
            Err(Errno::ESRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn ended(&self, _: ProcessId) -> io::Result<Option<End>> {
        if self.end.get().is_none() {
            let mut events = [KEvent::new(
                0,
                EventFilter::EVFILT_PROC,
                EvFlags::empty(),
                FilterFlag::empty(),
                0,
                0,
            )];
            let no_wait = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            if self.queue.kevent(&[], &mut events, Some(no_wait))? == 1 {
                // The status as wait(2) has it.
                let status = c_int::try_from(events[0].data()).ok();
                let ended = status.and_then(Ended::from_status);
                self.end.set(Some(ended.map_or(End::Unknown, End::Known)));
            }
        }
        Ok(self.end.get())
    }

    /// There is no signal to a handle here; what is left is the moment between looking and sending.
    pub(super) fn signal(&self, id: ProcessId, signal: Signal) -> io::Result<()> {
        if self.ended(id)?.is_some() || ProcessId::of(id.pid)? != Some(id) {
            return Ok(());
        }
        match kill(id.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
