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

/// How long a socket may refuse connections before it is taken for one that no daemon listens on, where a full queue refuses
/// them (FreeBSD).
pub const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait before a connection that was refused is tried again there.
pub const REFUSED_STEP: Duration = Duration::from_millis(50);

/// How long a client may take for the first byte of its first request.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes read from a peer at once.
const READ: usize = 1 << 14;

/// The path of the daemon's socket `file` below the runtime directory.
pub fn path(runtime_directory: &Path, file: &str) -> PathBuf {
    runtime_directory.join(DIRECTORY).join(file)
}

/// The directory of the daemons' sockets, held open: a process in a [sandbox](crate::sandbox) connects by it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    open: nix::Result<OwnedFd>,
}

impl Directory {
    /// That below the runtime directory. It need not be there.
    pub fn open(runtime_directory: &Path) -> Self {
        let path = runtime_directory.join(DIRECTORY);
        let flags = SEARCH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = open(&path, flags, Mode::empty());
        Self { path, open }
    }

    /// What a sandbox has to leave for [`Self::connect`]: a directory that is not there may come to be anywhere.
    pub fn need(&self) -> Need<'_> {
        match &self.open {
            Ok(directory) => Need::LocalSockets(directory.as_fd()),
            Err(_) => Need::AllLocalSockets,
        }
    }

    /// The path of a socket, for people.
    pub fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Connects to the daemon with the socket `file`, which may take until `patience` is over to accept.
    pub fn connect(&self, file: &str, patience: Duration) -> io::Result<UnixStream> {
        let refused = patience.min(REFUSAL_TIMEOUT);
        let daemon = patiently(os::FULL_QUEUE_REFUSES, refused, || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let family = AddressFamily::Unix;
            let socket = nix::sys::socket::socket(family, SockType::Stream, flags, None)?;
            let daemon = UnixStream::from(socket);
            // On Linux a daemon that does not accept blocks connect(2) once its backlog is full.
            daemon.set_write_timeout(Some(patience))?;
            os::connect(self, &daemon, file)?;
            Ok(daemon)
        })?;
        daemon.set_nonblocking(true)?;
        Ok(daemon)
    }
}

/// Tries until `patience` is over, if a refusal may be one of a full queue.
fn patiently<T>(
    full_queue_refuses: bool,
    patience: Duration,
    attempt: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    let end = Instant::now() + patience;
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
    // A daemon whose queue of connections is full is there, too.
    let answer = patiently(os::FULL_QUEUE_REFUSES, REFUSAL_TIMEOUT, || {
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
    // Between bind and chmod nobody may connect who could not afterwards.
    let before = umask(Mode::from_bits_truncate(0o777));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    os::set_group(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to the daemon at `path`, without waiting for a place in its queue.
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

/// One connection of a daemon: frames come in, bytes go out, nothing blocks.
#[derive(Debug)]
pub struct Peer {
    stream: UnixStream,
    user: Uid,
    incoming: FrameBuffer,
    outgoing: Vec<u8>,
    ended: bool,
}

impl Peer {
    /// A peer on this connection, which becomes non-blocking.
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

    /// Whether the peer may do what changes this daemon's work for all others: it is root's, or of this daemon's own user.
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

    /// Reads once into `room`, as it is, what was received and not handed out, or what arrives; nothing if there is
    /// neither, or the peer [has closed](Self::has_ended) its side.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let held = self.incoming.take(room);
        if held > 0 {
            return Ok(held);
        }
        match self.stream.read(room) {
            Ok(0) => self.ended = true,
            Ok(count) => return Ok(count),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(0)
    }

    /// Hands out what was received, as it is, as far as there is `room`.
    pub fn take(&mut self, room: &mut [u8]) -> usize {
        self.incoming.take(room)
    }

    /// The next complete frame that was received.
    pub fn next(&mut self, limit: usize) -> Result<Option<Next>, FrameError> {
        self.incoming.next(limit)
    }

    /// Whether the peer has closed its side and everything it sent was handed out, but perhaps a part of a frame.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a part of a frame has arrived, whose rest is still to come.
    pub fn is_inside_frame(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Writes what goes at once, and queues the rest.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.flush()?;
        let written = match self.queued() {
            0 => write(&mut self.stream, bytes)?,
            _ => 0,
        };
        self.outgoing.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// Writes what is queued, as far as it goes.
    pub fn flush(&mut self) -> io::Result<()> {
        let written = write(&mut self.stream, &self.outgoing)?;
        self.outgoing.drain(..written);
        Ok(())
    }

    /// Bytes received and not yet handed out.
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

    /// What to poll this connection for: always for writing while something is queued.
    pub fn interest(&self, reading: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reading && !self.ended);
        flags.set(PollFlags::POLLOUT, self.queued() > 0);
        flags
    }
}

/// Writes what goes without waiting: how many bytes.
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
        let tried = |full_queue_refuses, patience, refusals, error| {
            attempts.set(0);
            let result = patiently(full_queue_refuses, patience, || attempt(refusals, error));
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
