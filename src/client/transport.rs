//! The connection to a daemon, local or over TLS.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::display::Output;
use super::error::ClientError;
use super::tls::TlsStream;
use crate::sys::poll::{Poll, wait_for};

/// A connection whose two directions fail apart from each other: what the peer said is readable even if it takes nothing more.
#[derive(Debug)]
pub(super) enum Transport {
    Local(UnixStream),
    Remote(Box<TlsStream>),
}

/// Source of an event while an answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Peer,
    Output,
}

impl Transport {
    /// Waits until something can be sent, or the peer has said something or closed. `true`: the latter.
    pub(super) fn answer_comes_first(&mut self) -> io::Result<bool> {
        match self {
            Self::Local(socket) => Ok(ready(socket)?.intersects(SPEAKS)),
            Self::Remote(stream) => loop {
                if stream.take_in()? {
                    return Ok(true);
                }
                // A record of TLS need not be one of ours: look into it.
                if !ready(&**stream)?.intersects(SPEAKS) {
                    return Ok(false);
                }
            },
        }
    }

    /// Waits until the peer has said something or closed, as long as somebody reads what is shown.
    ///
    /// # Errors
    ///
    /// [`ClientError::Output`] when nobody does.
    pub(super) fn wait(&mut self, output: &Output) -> Result<(), ClientError> {
        loop {
            // An error of the connection is told by what reads from it.
            if let Self::Remote(stream) = self
                && stream.take_in().unwrap_or(true)
            {
                return Ok(());
            }
            let socket = match &*self {
                Self::Local(socket) => socket.as_fd(),
                Self::Remote(stream) => stream.as_fd(),
            };
            let mut poll = Poll::new();
            poll.add(Source::Peer, socket, PollFlags::POLLIN);
            poll.add(Source::Output, output.as_fd(), PollFlags::empty());
            let Ok(ready) = poll.wait() else {
                return Ok(());
            };
            let speaks = ready.iter().any(|(source, _)| *source == Source::Peer);
            if !speaks {
                output.check_reader()?;
            } else if matches!(self, Self::Local(_)) {
                return Ok(());
            }
        }
    }

    /// Whether more has arrived already, or arrives in this time.
    pub(super) fn says_more(&self, within: Duration) -> bool {
        let socket = match self {
            Self::Local(socket) => socket.as_fd(),
            Self::Remote(stream) => stream.as_fd(),
        };
        let deadline = Some(Instant::now() + within);
        wait_for(socket, PollFlags::POLLIN, deadline).is_ok_and(|events| !events.is_empty())
    }

    /// Says good-bye; whether the peer still hears it is of no consequence.
    pub(super) fn close(mut self) {
        if let Self::Remote(stream) = &mut self {
            let _ = stream.close();
        }
    }
}

/// The peer has sent something, or is gone.
const SPEAKS: PollFlags = PollFlags::POLLIN
    .union(PollFlags::POLLHUP)
    .union(PollFlags::POLLERR);

/// What a socket is ready for, after waiting until it is ready for anything.
fn ready(socket: &impl AsFd) -> io::Result<PollFlags> {
    wait_for(socket, PollFlags::POLLIN | PollFlags::POLLOUT, None)
}

impl Read for Transport {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Local(socket) => socket.read(bytes),
            Self::Remote(stream) => stream.read(bytes),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local(socket) => socket.write(bytes),
            Self::Remote(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Local(socket) => socket.write_vectored(parts),
            Self::Remote(stream) => stream.write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Local(socket) => socket.flush(),
            Self::Remote(stream) => stream.flush(),
        }
    }
}
