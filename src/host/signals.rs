//! Signals as something that poll(2) sees.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM, SIGXFSZ};

/// The signals a daemon listens to, and the pipe that wakes it.
#[derive(Debug)]
pub struct Signals {
    wake: UnixStream,
    terminate: Arc<AtomicBool>,
}

impl Signals {
    /// From now on SIGTERM, SIGINT and SIGCHLD wake the daemon instead of their default.
    pub fn listen() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let terminate = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&terminate))?;
        }
        // A write over the limit of file sizes (setrlimit(2)) fails then, as on a full disk, and ends nothing.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        for signal in [SIGTERM, SIGINT, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { wake, terminate })
    }

    /// Whether the daemon was asked to end since the last call.
    pub fn terminate(&self) -> bool {
        self.terminate.swap(false, Ordering::Relaxed)
    }

    /// Makes the pipe silent until the next signal. To be called before looking at what the signals tell.
    pub fn drain(&mut self) {
        let mut octets = [0; 64];
        while matches!(self.wake.read(&mut octets), Ok(count) if count == octets.len()) {}
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
