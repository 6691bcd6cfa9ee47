//! Processes, children of ours or not, known by their id *and* start time: an id that was given to another process
//! is never taken for the one that was meant.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::child::{self, Ended};

pub use os::boot_id;
#[cfg(target_os = "freebsd")]
pub use os::usage;

/// What tells a process from every other one since the system was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// Its number.
    pub pid: Pid,
    /// When it was started, since the start of the system: on Linux in clock ticks (`proc_pid_stat(5)`, field 22), on
    /// FreeBSD in microseconds.
    pub start: u64,
}

/// A process that can be waited for and signalled, whosoever child it is.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    handle: os::Handle,
}

/// How a process has ended, as far as the system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Like this.
    Known(Ended),
    /// It is gone, and nobody knows how: it was no child of ours, and the kernel is older than Linux 6.15.
    Unknown,
}

impl ProcessId {
    /// The process that has this number now; nothing if there is none, or it has ended. Allocates nothing on Linux.
    pub fn of(pid: Pid) -> io::Result<Option<Self>> {
        let found = os::look(pid)?.filter(|found| !found.ended);
        Ok(found.map(|found| Self {
            pid,
            start: found.start,
        }))
    }

    /// This very process. Between fork and exec it may be asked, too: it makes system calls only.
    pub fn own() -> io::Result<Self> {
        let pid = Pid::this();
        Self::of(pid)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Process {
    /// The process, if it still runs, or if it is a child of this one that nobody has asked yet how it ended.
    pub fn open(id: ProcessId) -> io::Result<Option<Self>> {
        // The handle first: what is looked at after it is what it stands for, or has ended.
        let Some(handle) = os::Handle::open(id.pid)? else {
            return Ok(None);
        };
        let same = os::look(id.pid)?.is_some_and(|found| {
            found.start == id.start && (!found.ended || child::is_unreaped(id.pid))
        });
        Ok(same.then_some(Self { id, handle }))
    }

    /// Which process this is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// How it has ended, if it has. Does not wait; [`Self::as_fd`] is readable from then on.
    pub fn ended(&self) -> io::Result<Option<End>> {
        self.handle.ended(self.id)
    }

    /// Sends it a signal. Nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.handle.signal(self.id, signal)
    }
}

/// To be polled for reading.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// What the system tells about a process.
#[derive(Clone, Copy, Debug)]
struct ProcessInfo {
    start: u64,
    /// It only waits for its parent to ask how.
    ended: bool,
}

/// How often [`at_one_time`] tries.
#[cfg(any(target_os = "freebsd", test))]
const ATTEMPTS: usize = 16;

/// What is read while something else, such as the clock, stays as it is: that, too.
///
/// # Errors
/// `EAGAIN` if it changes each time.
#[cfg(any(target_os = "freebsd", test))]
fn at_one_time<A: PartialEq, B>(
    frame: impl Fn() -> io::Result<A>,
    mut read: impl FnMut() -> io::Result<B>,
) -> io::Result<(A, B)> {
    let mut before = frame()?;
    for _ in 0..ATTEMPTS {
        let value = read()?;
        let after = frame()?;
        if before == after {
            return Ok((after, value));
        }
        before = after;
    }
    Err(nix::errno::Errno::EAGAIN.into())
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(ended) => ended.fmt(f),
            Self::Unknown => f.write_str("unknown end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::{BufRead, BufReader};
    use std::process::{ChildStdin, Command, Stdio};
    use std::time::{Duration, Instant};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    /// A process that is nobody's child here, and runs `script` when its input ends.
    fn stranger(script: &str) -> (ProcessId, ChildStdin) {
        // The shell in between ends, and with it the relationship.
        let script = format!("{{ read line; {script}; }} <&3 >/dev/null & echo $!");
        let mut shell = Command::new("sh")
            .args(["-c", &format!("exec 3<&0; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = shell.stdin.take().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(shell.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        shell.wait().unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap());
        (ProcessId::of(pid).unwrap().unwrap(), input)
    }

    fn end_of(process: &Process) -> End {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < end, "it does not end");
            let mut waits = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            poll(&mut waits, PollTimeout::from(1000_u16)).unwrap();
            if let Some(end) = process.ended().unwrap() {
                return end;
            }
        }
    }

    /// The status of a process that is no child needs Linux 6.15, or to be faster than its parent.
    fn assert_end(end: End, expected: Ended) {
        if end == End::Unknown {
            println!("SKIPPED: how a stranger has ended: this kernel does not tell");
        } else {
            assert_eq!(end, End::Known(expected));
        }
    }

    #[test]
    fn a_clock_that_is_set_meanwhile_makes_no_other_process() {
        // What the clock is before and after each look, with a look between each two.
        let start = |clock: &[i64]| {
            let (clock, at) = (clock.to_vec(), Cell::new(0));
            let now = || clock[at.get().min(clock.len() - 1)];
            let frame = || {
                let boot = now();
                at.set(at.get() + 1);
                Ok(boot)
            };
            let (boot, started) = at_one_time(frame, || Ok(now() + 42))?;
            Ok::<_, io::Error>(started - boot)
        };
        assert_eq!(start(&[1000]).unwrap(), 42);
        assert_eq!(start(&[1000, 2000]).unwrap(), 42);
        assert_eq!(start(&[1000, 2000, 1000]).unwrap(), 42);
        let restless: Vec<_> = (0..100).collect();
        let error = start(&restless).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_process_that_is_no_child_is_watched_and_its_exit_code_is_known() {
        let (id, input) = stranger("exit 61");
        let process = Process::open(id).unwrap().unwrap();
        assert_eq!(process.ended().unwrap(), None);
        drop(input);
        assert_end(end_of(&process), Ended::Exit(61));
        // It stays so.
        assert_end(process.ended().unwrap().unwrap(), Ended::Exit(61));
        assert!(Process::open(id).unwrap().is_none());
        process.signal(Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_process_that_is_no_child_can_be_signalled() {
        let (id, _input) = stranger("exit 1");
        let process = Process::open(id).unwrap().unwrap();
        process.signal(Signal::SIGKILL).unwrap();
        assert_end(end_of(&process), Ended::Signal(9));
    }

    #[test]
    fn another_process_of_the_same_number_is_not_meant() {
        let (id, _input) = stranger("exit 1");
        let other = ProcessId {
            start: id.start + 1,
            ..id
        };
        assert!(Process::open(other).unwrap().is_none());
        assert!(Process::open(id).unwrap().is_some());
    }

    #[test]
    fn a_child_that_has_ended_is_no_running_process() {
        let mut child = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags).unwrap();
        assert_eq!(ProcessId::of(pid).unwrap(), None);
        child.wait().unwrap();
        assert_eq!(ProcessId::of(pid).unwrap(), None);
    }

    #[test]
    fn this_process_knows_itself_and_its_boot() {
        let own = ProcessId::own().unwrap();
        assert_eq!(own.pid, Pid::this());
        assert_eq!(ProcessId::of(own.pid).unwrap(), Some(own));
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert!(!boot_id().unwrap().is_empty());
    }
}
