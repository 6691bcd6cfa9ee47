//! Local stream sockets: listeners (own or inherited) and peers that never block the daemon.
#![forbid(unsafe_code)]

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

mod acceptor;
mod clients;
mod connection_shares;
mod messages;
mod reconnect;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, geteuid};

pub use acceptor::{ACCEPT_BURST, Accepted, Acceptor};
pub use clients::{
    Client, ClientEvent, ClientId, Clients, DisconnectReason, IDLE_TIMEOUT, MAX_REQUEST, Received,
    WRITE_TIMEOUT,
};
pub use connection_shares::{ConnectionLimits, NoPlace, Quota, TENANT_PART};
pub use messages::framed;
pub(crate) use os::SEARCH;
pub use os::activated;
pub use reconnect::{ANSWER, LONGEST_RETRY, Link};

use crate::sandbox::Need;
use crate::sys::connect;
use crate::sys::poll::Poll;
use crate::wire::frame::{FrameBuffer, FrameError, Next};

/// Directory of the daemons' sockets below the runtime directory (WIRE 6.3).
pub const DIRECTORY: &str = "util";

/// Directory of the consoles' fifos below the runtime directory (WIRE 6.3).
pub const FIFOS: &str = "fifo";

/// File name of the supervisor's socket.
pub const SUPERVISOR: &str = "vmmd.sock";

/// File name of the console daemon's socket.
pub const CONSOLE: &str = "console.sock";

/// File name of the statistics daemon's socket.
pub const STATISTICS: &str = "stat.sock";

/// Default of `--tmpdir`, the runtime directory.
pub const RUNTIME_DIRECTORY: &str = os::RUNTIME_DIRECTORY;

/// Default of `--dbdir`, the database directory.
pub const DATABASE_DIRECTORY: &str = os::DATABASE_DIRECTORY;

/// How long a socket may refuse connections before it counts as one without a daemon, where a full backlog refuses
/// them (FreeBSD).
pub const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a refused connection is tried again there.
pub const REFUSED_STEP: Duration = Duration::from_millis(50);

/// Timeout for the first byte of a client's first request.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of bytes read from a peer at once.
const READ: usize = 1 << 14;

/// Path of the daemon's socket `file` below the runtime directory.
pub fn path(runtime_directory: &Path, file: &str) -> PathBuf {
    runtime_directory.join(DIRECTORY).join(file)
}

/// Open directory of the daemons' sockets: a process in a [sandbox](crate::sandbox) connects by it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    open: nix::Result<OwnedFd>,
}

impl Directory {
    /// Opens the directory below the runtime directory. It may be missing.
    pub fn open(runtime_directory: &Path) -> Self {
        let path = runtime_directory.join(DIRECTORY);
        let flags = SEARCH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = open(&path, flags, Mode::empty());
        Self { path, open }
    }

    /// Need of [`Self::connect`] in a sandbox: a missing directory may come to be anywhere.
    pub fn need(&self) -> Need<'_> {
        match &self.open {
            Ok(directory) => Need::LocalSockets(directory.as_fd()),
            Err(_) => Need::AllLocalSockets,
        }
    }

    /// Path of a socket, for messages.
    pub fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Connects to the daemon with the socket `file`, which has to accept within `timeout`.
    pub fn connect(&self, file: &str, timeout: Duration) -> io::Result<UnixStream> {
        let refused = timeout.min(REFUSAL_TIMEOUT);
        let daemon = retry_refused(os::FULL_QUEUE_REFUSES, refused, || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let family = AddressFamily::Unix;
            let socket = nix::sys::socket::socket(family, SockType::Stream, flags, None)?;
            let daemon = UnixStream::from(socket);
            // On Linux a daemon that does not accept blocks connect(2) once its backlog is full.
            daemon.set_write_timeout(Some(timeout))?;
            os::connect(self, &daemon, file)?;
            Ok(daemon)
        })?;
        daemon.set_nonblocking(true)?;
        Ok(daemon)
    }
}

/// Repeats a refused attempt until `timeout` is over, if a full backlog refuses.
fn retry_refused<T>(
    full_queue_refuses: bool,
    timeout: Duration,
    attempt: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    let end = Instant::now() + timeout;
    loop {
        match attempt() {
            Err(error)
                if full_queue_refuses
                    && error.kind() == ErrorKind::ConnectionRefused
                    && Instant::now() < end =>
            {
                thread::sleep(REFUSED_STEP);
            }
            result => return result,
        }
    }
}

/// Listens on `path` with file mode 0660, in place of a socket whose daemon is gone.
///
/// # Errors
/// `AddrInUse` if a daemon answers there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    // A daemon whose backlog is full exists, too.
    let answer = retry_refused(os::FULL_QUEUE_REFUSES, REFUSAL_TIMEOUT, || {
        connect(path).map_err(io::Error::from)
    });
    match answer.map_err(|error| (error.kind(), error)) {
        Err((ErrorKind::NotFound, _)) => {}
        Err((ErrorKind::ConnectionRefused, _)) => fs::remove_file(path)?,
        Ok(_) | Err((ErrorKind::WouldBlock, _)) => {
            return Err(io::Error::new(
                ErrorKind::AddrInUse,
                "another daemon answers on this socket",
            ));
        }
        Err((_, error)) => return Err(error),
    }
    // Between bind and chmod only those may connect who can afterwards.
    let before = umask(Mode::from_bits_truncate(0o777));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    os::set_group(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to the daemon at `path`, without waiting for space in its backlog.
///
/// # Errors
/// `EAGAIN` if the queue is full; on FreeBSD that is `ECONNREFUSED`, as if there were no daemon.
pub fn connect(path: &Path) -> Result<UnixStream, Errno> {
    connect::begin(AddressFamily::Unix, &UnixAddr::new(path)?).map(UnixStream::from)
}

/// Errors of accept(2) and of reading that mean "not now".
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
    )
}

/// Non-blocking connection of a daemon: reads frames and writes bytes.
#[derive(Debug)]
pub struct Peer {
    stream: UnixStream,
    user: Uid,
    incoming: FrameBuffer,
    outgoing: Vec<u8>,
    ended: bool,
}

impl Peer {
    /// Peer on this connection, which becomes non-blocking.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            user: geteuid(),
            incoming: FrameBuffer::default(),
            outgoing: Vec::new(),
            ended: false,
        })
    }

    /// User who made this connection.
    pub fn user(&self) -> Uid {
        self.user
    }

    /// Quota of the peer's subscriptions.
    pub fn quota(&self) -> Quota {
        Quota::of(self.user)
    }

    /// Whether the peer may change what this daemon does for others: it belongs to root, or to this daemon's own user.
    pub fn is_trusted(&self) -> bool {
        self.user.is_root() || self.user == geteuid()
    }

    /// Reads once. `false`: the peer has closed its side.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; READ];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(count) => self.incoming.push(&bytes[..count]),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(!self.ended)
    }

    /// Reads once into `buffer`: bytes that were received and not taken, or bytes that arrive. Returns 0 if there are
    /// none, or the peer [has closed](Self::has_ended) its side.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let held = self.incoming.take(buffer);
        if held > 0 {
            return Ok(held);
        }
        match self.stream.read(buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => return Ok(count),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(0)
    }

    /// Takes as many received bytes as fit into `buffer`.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        self.incoming.take(buffer)
    }

    /// Takes the next complete frame that was received.
    pub fn next(&mut self, limit: usize) -> Result<Option<Next>, FrameError> {
        self.incoming.next(limit)
    }

    /// Whether the peer has closed its side, and everything it sent was taken but perhaps a part of a frame.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a part of a frame has arrived, whose rest is still to come.
    pub fn is_inside_frame(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Writes as much as is possible at once, and queues the rest.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.flush()?;
        let written = match self.queued() {
            0 => write(&mut self.stream, bytes)?,
            _ => 0,
        };
        self.outgoing.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// Writes as much of the queue as is possible at once.
    pub fn flush(&mut self) -> io::Result<()> {
        let written = write(&mut self.stream, &self.outgoing)?;
        self.outgoing.drain(..written);
        Ok(())
    }

    /// Bytes received and not yet taken.
    pub fn held(&self) -> usize {
        self.incoming.len()
    }

    /// Bytes queued and not yet written.
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Registers this connection, for reading and for what is queued.
    pub fn register<'a, T>(&'a self, poll: &mut Poll<'a, T>, token: T) {
        poll.add(token, self.as_fd(), self.interest(true));
    }

    /// Events to poll for; for writing always while something is queued.
    pub fn interest(&self, reading: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reading && !self.ended);
        flags.set(PollFlags::POLLOUT, self.queued() > 0);
        flags
    }
}

/// Writes as much as is possible at once, and returns the number of bytes.
fn write(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use crate::wire::frame::frame;
    use nix::sys::socket::Backlog;
    use std::cell::Cell;

    #[test]
    fn a_peer_receives_frames_and_sends_bytes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours).unwrap();
        theirs.write_all(&frame(b"hello").unwrap()).unwrap();
        assert!(peer.receive().unwrap());
        assert_eq!(peer.next(10).unwrap(), Some(Next::Frame(b"hello".into())));
        peer.send(b"world").unwrap();
        let mut answer = [0; 5];
        theirs.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"world");
        drop(theirs);
        assert!(!peer.receive().unwrap());
    }

    #[test]
    fn a_queue_that_refuses_is_tried_until_there_is_a_place_in_it() {
        let attempts = Cell::new(0);
        let attempt = |refusals: u32, error: Errno| {
            attempts.set(attempts.get() + 1);
            if attempts.get() > refusals {
                return Ok(());
            }
            Err(io::Error::from(error))
        };
        let tried = |full_queue_refuses, timeout, refusals, error| {
            attempts.set(0);
            let result = retry_refused(full_queue_refuses, timeout, || attempt(refusals, error));
            (result.is_ok(), attempts.get())
        };
        let long = Duration::from_secs(60);
        assert_eq!(tried(true, long, 2, Errno::ECONNREFUSED), (true, 3));
        // Not for ever; not where there is nobody then; not for another reason.
        assert_eq!(
            tried(true, Duration::ZERO, 2, Errno::ECONNREFUSED),
            (false, 1)
        );
        assert_eq!(tried(false, long, 2, Errno::ECONNREFUSED), (false, 1));
        assert_eq!(tried(true, long, 2, Errno::ENOENT), (false, 1));
    }

    #[test]
    fn a_daemon_whose_queue_is_full_is_not_taken_for_a_dead_one() {
        let Directory(directory) = &Directory::short();
        let path = directory.join("daemon.sock");
        let listener = listen(&path).unwrap();
        nix::sys::socket::listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match connect(&path) {
                Ok(client) => waiting.push(client),
                Err(error) => break error,
            }
        };
        assert!([Errno::EAGAIN, Errno::ECONNREFUSED].contains(&full));
        let place = thread::spawn({
            let path = path.clone();
            move || listen(&path).map(drop)
        });
        // Where it refuses there is a place in time.
        if os::FULL_QUEUE_REFUSES {
            drop(listener.accept().unwrap());
        }
        let error = place.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_peer_that_does_not_read_fills_the_queue_but_blocks_nobody() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours).unwrap();
        peer.send(&vec![0; 1 << 22]).unwrap();
        assert!(peer.queued() > 0);
        assert!(peer.interest(true).contains(PollFlags::POLLOUT));
    }
}
