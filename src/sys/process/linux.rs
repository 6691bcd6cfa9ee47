//! Linux: `pidfd_open(2)`, and `PIDFD_GET_INFO` of `<linux/pidfd.h>` for how a process has ended.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::str;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::{
    self, PIDFD_GET_INFO, PIDFD_INFO_EXIT, SYS_pidfd_open, SYS_pidfd_send_signal, pidfd_info,
};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, read};

use super::{End, ProcessId, ProcessInfo};
use crate::sys::child::Ended;
use crate::sys::poll::events_now;

/// Enough for the 52 numbers and the name of `proc_pid_stat(5)`.
const STAT: usize = 2048;

/// Places of the fields after the name, the third of all being the first: 22 and 52 of `proc_pid_stat(5)`.
const START_TIME: usize = 22 - 3;
const EXIT_CODE: usize = 52 - 3;

/// A descriptor of the process.
#[derive(Debug)]
pub(super) struct Handle(OwnedFd);

/// What identifies this run of the system.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// What is known about a process; nothing if there is none.
pub(super) fn look(pid: Pid) -> io::Result<Option<ProcessInfo>> {
    Ok(stat(pid)?.map(|stat| ProcessInfo {
        start: stat.start,
        ended: stat.is_zombie(),
    }))
}

impl Handle {
    pub(super) fn open(pid: Pid) -> io::Result<Option<Self>> {
        // SAFETY: pidfd_open(2) takes two numbers.
        let descriptor = unsafe { libc::syscall(SYS_pidfd_open, pid.as_raw(), 0) };
        match (RawFd::try_from(descriptor), Errno::last()) {
            // SAFETY: just made, with close-on-exec set, and owned by nobody else.
            (Ok(number @ 0..), _) => Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(number) }))),
            // Of a thread that is not the first of its process: ENOENT, on earlier kernels EINVAL.
            (_, Errno::ESRCH | Errno::ENOENT | Errno::EINVAL) => Ok(None),
            (_, error) => Err(error.into()),
        }
    }

    pub(super) fn ended(&self, id: ProcessId) -> io::Result<Option<End>> {
        if events_now(self, PollFlags::POLLIN)?.is_empty() {
            return Ok(None);
        }
        // The kernel tells the status once the parent has taken note of the end, /proc until then. If that happens
        // between the two questions, the first has an answer now.
        let status = match self.exit_status() {
            Some(status) => Some(status),
            None => match stat(id.pid)? {
                Some(stat) if stat.start == id.start && stat.is_zombie() => Some(stat.exit_code),
                _ => self.exit_status(),
            },
        };
        let ended = status.and_then(Ended::from_status);
        Ok(Some(ended.map_or(End::Unknown, End::Known)))
    }

    pub(super) fn signal(&self, _: ProcessId, signal: Signal) -> io::Result<()> {
        let (descriptor, no_details) = (self.0.as_raw_fd(), ptr::null::<libc::siginfo_t>());
        // SAFETY: pidfd_send_signal(2) with a descriptor that is open, and no details to be read.
        let sent = unsafe {
            libc::syscall(
                SYS_pidfd_send_signal,
                descriptor,
                signal as libc::c_int,
                no_details,
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The status as wait(2) has it. Linux 6.15 and later know it of a process whose parent has taken note of its end.
    fn exit_status(&self) -> Option<i32> {
        // SAFETY: plain data, for which zero is a value.
        let mut info: pidfd_info = unsafe { zeroed() };
        let exit = u64::from(PIDFD_INFO_EXIT);
        info.mask = exit;
        // SAFETY: the kernel writes this structure only, whose size is part of the request's number.
        let asked = unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
        (asked == 0 && info.mask & exit != 0).then_some(info.exit_code)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Fields of `proc_pid_stat(5)`.
struct Stat {
    state: u8,
    start: u64,
    exit_code: i32,
}

impl Stat {
    fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// The name before the fields may have anything in it.
    fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let fields = || {
            text.get(name_end + 1..)
                .unwrap_or_default()
                .split(u8::is_ascii_whitespace)
                .filter(|field| !field.is_empty())
        };
        let number = |place| str::from_utf8(fields().nth(place)?).ok();
        Some(Self {
            state: *fields().next()?.first()?,
            start: number(START_TIME)?.parse().ok()?,
            // Absent before Linux 3.5.
            exit_code: number(EXIT_CODE)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        })
    }
}

/// Without allocation, as it is also asked between fork and exec.
fn stat(pid: Pid) -> io::Result<Option<Stat>> {
    let mut path = [0; 32];
    let path = path_of(pid, &mut path);
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = [0; STAT];
    match read(&file, &mut text) {
        Ok(count) => Stat::parse(&text[..count])
            .map(Some)
            .ok_or_else(|| Errno::EPROTO.into()),
        // It ended after the file was opened.
        Err(Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `/proc/PID/stat`.
fn path_of(pid: Pid, buffer: &mut [u8; 32]) -> &str {
    use std::io::Write;
    let mut rest = &mut buffer[..];
    // 10 bytes around a number of 11 at most.
    let _ = write!(rest, "/proc/{pid}/stat");
    let unused = rest.len();
    let used = buffer.len() - unused;
    str::from_utf8(&buffer[..used]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_no_field() {
        let mut text = b"7 (a) Z 1 (b) S 1".to_vec();
        for field in 5..=52 {
            text.extend(format!(" {field}").bytes());
        }
        let stat = Stat::parse(&text).unwrap();
        assert_eq!((stat.state, stat.start, stat.exit_code), (b'S', 22, 52));
        assert!(Stat::parse(b"7 (a").is_none());
        assert!(Stat::parse(b"7 (a) S 1 2").is_none());
        assert!(Stat::parse(b"").is_none());
    }

    #[test]
    fn the_number_of_a_thread_is_no_process() {
        let opened = std::thread::spawn(|| Handle::open(nix::unistd::gettid()));
        assert!(opened.join().unwrap().unwrap().is_none());
    }

    #[test]
    fn the_path_of_the_largest_number_fits() {
        let mut buffer = [0; 32];
        let path = path_of(Pid::from_raw(i32::MIN), &mut buffer);
        assert_eq!(path, "/proc/-2147483648/stat");
    }
}
