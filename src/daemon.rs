//! Shared by all daemons: signals for poll(2), directories, descriptors, the time, the service manager.
#![forbid(unsafe_code)]

mod manager;

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

pub use manager::Manager;

use crate::command_line::USAGE;
use crate::logging::{self, Verbosity};
use crate::socket;

/// Pause after accepting has failed, as it does when descriptors have run out: the
/// reason will not have gone away at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Error that ends a daemon.
#[derive(Debug)]
pub enum DaemonError {
    /// The directory is missing and cannot be made, or is none.
    Directory(PathBuf, io::Error),
    /// The directory cannot be opened.
    Open(PathBuf, io::Error),
    /// Listening on this socket failed.
    Listen(PathBuf, io::Error),
    /// No socket was handed over.
    Activation(io::Error),
    /// Another system call failed: the operation, and the error.
    System(&'static str, io::Error),
}

/// Runs a daemon with its log, and returns its exit code.
pub fn main<E: fmt::Display>(
    program: &'static str,
    verbosity: Verbosity,
    syslog: bool,
    run: impl FnOnce() -> Result<(), E>,
) -> i32 {
    if let Err(code) = logging::start_daemon(program, verbosity, syslog) {
        return code;
    }
    match run() {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{error}");
            USAGE
        }
    }
}

/// Listens on `path`, or on the socket that the service manager hands over.
pub fn listener(path: &Path, handed_over: bool) -> Result<UnixListener, DaemonError> {
    let listener = if handed_over {
        socket::activated().map_err(DaemonError::Activation)?
    } else {
        socket::listen(path).map_err(|error| DaemonError::Listen(path.to_owned(), error))?
    };
    log::info!("listening on {}", path.display());
    Ok(listener)
}

/// Raises the limit of descriptors to its maximum: each running unikernel needs one.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Creates the directories of sockets and fifos below the runtime directory, which must exist. An error has the path.
pub fn runtime_directories(runtime_directory: &Path) -> Result<(), (PathBuf, io::Error)> {
    for (name, mode) in [(socket::DIRECTORY, 0o770), (socket::FIFOS, 0o2750)] {
        let path = runtime_directory.join(name);
        directory(&path, mode).map_err(|error| (path, error))?;
    }
    Ok(())
}

/// Writes that a directory below the runtime directory could not be created, and what to do about it.
pub fn explain_runtime_directory(
    f: &mut fmt::Formatter<'_>,
    path: &Path,
    error: &io::Error,
) -> fmt::Result {
    write!(
        f,
        "cannot create the directory '{}': {error}",
        path.display()
    )?;
    match path.parent() {
        Some(parent) if error.kind() == ErrorKind::NotFound => {
            write!(
                f,
                " (create '{}' first, or pass another directory with --tmpdir)",
                parent.display()
            )
        }
        _ => Ok(()),
    }
}

/// Creates the directory, if it is missing, with this mode whatever the umask is.
fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode & 0o777).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && fs::metadata(path)?.is_dir() => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Time since 1970.
pub fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// First wait of [`Retry`].
pub const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Exponential back-off: waits double up to a longest one.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    at: Instant,
    wait: Duration,
    longest: Duration,
}

impl Retry {
    /// Back-off whose first attempt is due at once.
    pub fn new(longest: Duration) -> Self {
        Self {
            at: Instant::now(),
            wait: RETRY_FIRST,
            longest,
        }
    }

    /// Time of the next attempt.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Records a failure at `now`.
    pub fn failed(&mut self, now: Instant) {
        self.at = now + self.wait;
        self.wait = (self.wait * 2).min(self.longest);
    }

    /// Records a success: the next wait is [`RETRY_FIRST`].
    pub fn succeeded(&mut self) {
        self.wait = RETRY_FIRST;
    }
}

/// Signals that a daemon handles, and the pipe that wakes it.
#[derive(Debug)]
pub struct Signals {
    wake: UnixStream,
    terminate: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Installs handlers: SIGTERM, SIGINT, SIGHUP and SIGCHLD wake the daemon. No signal is blocked.
    pub fn listen() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let terminate = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&terminate))?;
        }
        let reload = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, Arc::clone(&reload))?;
        // SIGXFSZ only wakes, as its default would end the daemon: a write beyond the limit of file sizes
        // (setrlimit(2)) fails like one to a full disk.
        for signal in [SIGTERM, SIGINT, SIGCHLD, SIGHUP, SIGXFSZ] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        // The predecessor blocks signals before it re-executes this program, so that none is lost.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        Ok(Self {
            wake,
            terminate,
            reload,
        })
    }

    /// Whether the daemon was asked to end since the last call.
    pub fn terminate(&self) -> bool {
        self.terminate.swap(false, Ordering::Relaxed)
    }

    /// Whether there was a SIGHUP since the last call.
    pub fn reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Empties the pipe. To be called before [`Self::terminate`] and [`Self::reload`].
    pub fn drain(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.wake.read(&mut bytes), Ok(count) if count == bytes.len()) {}
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, error) => explain_runtime_directory(f, path, error),
            Self::Open(path, error) => {
                write!(f, "cannot open the directory '{}': {error}", path.display())
            }
            Self::Listen(path, error) => {
                write!(f, "cannot listen on '{}': {error}", path.display())
            }
            Self::Activation(error) => {
                write!(f, "no socket to listen on was handed over: {error}")
            }
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for DaemonError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_until_it_went_well() {
        let now = Instant::now();
        let mut retry = Retry::new(RETRY_FIRST * 3);
        let mut waits = Vec::new();
        for _ in 0..4 {
            retry.failed(now);
            waits.push((retry.at() - now).as_millis() / RETRY_FIRST.as_millis());
        }
        assert_eq!(waits, [1, 2, 3, 3]);
        retry.succeeded();
        retry.failed(now);
        assert_eq!(retry.at() - now, RETRY_FIRST);
    }
}
