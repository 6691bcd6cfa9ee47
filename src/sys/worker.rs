//! A copy of this process that does one thing, and ends.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use log::LevelFilter;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{ForkResult, fork};

use super::descriptor;

/// How far a worker stands back for others that want a processor, if it is told to (nice(2)).
const NICENESS: i32 = 10;

/// Has `work` done by a new process, at whose end it is given the other end of what is returned. Of the descriptors of
/// this process it has the standard ones and `keep`, so that it holds nothing up that is closed here. No signal but
/// SIGKILL reaches it: it has to end when its line is closed. `modest`: whether it leaves processors to others.
///
/// # Safety
/// The new process has a copy of all memory, but one thread and few descriptors. So `work` must
/// - use and drop no descriptor but the standard ones, those of `keep`, its line, and those that it opens;
/// - take no lock that another thread of this process may hold now; those of the allocator are taken care of.
pub unsafe fn start(
    work: impl FnOnce(UnixStream),
    keep: &[RawFd],
    modest: bool,
) -> io::Result<UnixStream> {
    let (mut ours, mut theirs) = UnixStream::pair()?;
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: the work waits for no other thread, says the caller; the child never returns from here.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            // SAFETY: this process does nothing but the work, which uses none of the others, says the caller.
            unsafe { descriptor::close_others(&[keep, &[theirs.as_raw_fd()]].concat()) };
            let _ = theirs.write(&[0]);
            // What it would be written to is closed.
            log::set_max_level(LevelFilter::Off);
            if modest {
                // SAFETY: it takes a number; that it may be refused is no harm.
                let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
            }
            let done = catch_unwind(AssertUnwindSafe(|| work(theirs)));
            // SAFETY: it ends this process without running what is meant for the end of its parent.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        outcome => {
            let _ = mask.thread_set_mask();
            outcome?;
            drop(theirs);
            // Until the child has closed it, what is closed here stays open: locks would be found taken.
            while let Err(error) = ours.read(&mut [0])
                && error.kind() == ErrorKind::Interrupted
            {}
            Ok(ours)
        }
    }
}

/// Closes a file that has no name any more, by a process of its own: what it takes on the disk takes a while to be
/// freed. It is closed here if there can be no such process.
pub fn close(file: File) {
    let number = file.as_raw_fd();
    let last = move |mut line: UnixStream| {
        // Until nobody else has it.
        let _ = line.read(&mut [0]);
        drop(file);
    };
    // SAFETY: it uses the file that is kept, and its line; it takes no lock.
    if let Err(error) = unsafe { start(last, &[number], true) } {
        log::debug!("a file is freed by this process: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::alone;

    #[test]
    fn what_is_closed_here_is_held_by_no_worker() {
        let path = std::env::temp_dir().join(format!("petrel-worker-{}", std::process::id()));
        let held = || {
            let file = File::create(&path).unwrap();
            file.try_lock().map(|()| file)
        };
        let test = "sys::worker::tests::what_is_closed_here_is_held_by_no_worker";
        alone(test, || {
            for _ in 0..20 {
                let file = held().unwrap();
                let until_hung_up = |mut line: UnixStream| drop(line.read(&mut [0]));
                // SAFETY: it uses its line only.
                let worker = unsafe { start(until_hung_up, &[], false) }.unwrap();
                drop(file);
                held().unwrap();
                drop(worker);
            }
            std::fs::remove_file(&path).unwrap();
        });
    }
}
