//! One connection of the console daemon: a supervisor, a single question, or a subscriber.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::socket::Peer;
use crate::wire::frame::{FrameError, Next};

/// Most octets of a request; the longest are those about a deep path.
pub const MAX_REQUEST: usize = 1 << 16;

/// Most octets that wait for a peer which does not read them. The longest answer, a list of all consoles with the longest
/// names, takes about half of it.
pub const MAX_QUEUE: usize = 1 << 19;

/// How long a peer may take for the rest of a request it has begun, or to read its last answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A peer and what is expected of it.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    state: State,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests may come.
    Open,
    /// Lines go out; whatever comes in ends the session.
    Subscribed,
    /// The last answer is on its way.
    Closing,
}

/// What a peer has sent.
#[derive(Debug)]
pub(super) enum Received {
    /// A complete request.
    Request(Vec<u8>),
    /// Nothing that could be acted upon yet.
    Nothing,
    /// Nothing more will come, or nothing that is wanted.
    End,
}

/// Why a connection is given up.
#[derive(Debug)]
pub(super) enum Lost {
    /// The peer broke the framing.
    Frame(FrameError),
    /// Reading or writing failed.
    Io(io::Error),
    /// More than [`MAX_QUEUE`] octets wait for the peer.
    Slow,
}

impl Connection {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            state: State::Open,
            deadline: None,
        }
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        self.peer.interest(self.state != State::Closing)
    }

    /// When patience with the peer ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Reads what has arrived. Requests are handed out by [`Self::next`].
    pub(super) fn receive(&mut self) -> Result<(), Lost> {
        self.peer.receive().map(drop).map_err(Lost::Io)
    }

    /// The next request among what has been received.
    pub(super) fn next(&mut self, now: Instant) -> Result<Received, Lost> {
        match self.state {
            State::Closing => return Ok(Received::Nothing),
            State::Subscribed => {
                let speaks = self.peer.is_inside_frame() || self.peer.has_ended();
                return Ok(if speaks {
                    Received::End
                } else {
                    Received::Nothing
                });
            }
            State::Open => {}
        }
        match self.peer.next(MAX_REQUEST).map_err(Lost::Frame)? {
            Some(Next::Frame(request)) => {
                self.deadline = None;
                Ok(Received::Request(request))
            }
            Some(Next::End) => Ok(Received::End),
            None if self.peer.has_ended() && self.peer.is_inside_frame() => {
                Err(Lost::Frame(FrameError::Truncated))
            }
            None if self.peer.has_ended() => Ok(Received::End),
            None => {
                if !self.peer.is_inside_frame() {
                    self.deadline = None;
                } else if self.deadline.is_none() {
                    self.deadline = Some(now + PATIENCE);
                }
                Ok(Received::Nothing)
            }
        }
    }

    /// Queues octets and writes what goes.
    pub(super) fn send(&mut self, octets: &[u8]) -> Result<(), Lost> {
        self.peer.send(octets).map_err(Lost::Io)?;
        if self.peer.queued() > MAX_QUEUE {
            return Err(Lost::Slow);
        }
        Ok(())
    }

    /// Octets queued and not yet written.
    pub(super) fn queued(&self) -> usize {
        self.peer.queued()
    }

    /// Writes what is queued, as far as it goes.
    pub(super) fn flush(&mut self) -> Result<(), Lost> {
        self.peer.flush().map_err(Lost::Io)
    }

    /// From now on only lines go out.
    pub(super) fn subscribed(&mut self) {
        self.state = State::Subscribed;
    }

    /// Nothing more is read; what is queued still goes out.
    pub(super) fn close(&mut self, now: Instant) {
        if self.state != State::Closing {
            self.state = State::Closing;
            self.deadline = Some(now + PATIENCE);
        }
    }

    /// Whether the last answer is on its way.
    pub(super) fn is_closing(&self) -> bool {
        self.state == State::Closing
    }

    /// Whether nothing is left to do.
    pub(super) fn is_done(&self) -> bool {
        self.is_closing() && self.peer.queued() == 0
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Slow => write!(
                f,
                "it does not read: more than {MAX_QUEUE} octets wait for it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn connection() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(Peer::new(ours).unwrap()), theirs)
    }

    #[test]
    fn patience_is_for_the_rest_of_a_request_only() {
        let (mut connection, mut peer) = connection();
        let now = Instant::now();
        assert_eq!(connection.deadline(), None);
        peer.write_all(b"\0\0\0\x02a").unwrap();
        connection.receive().unwrap();
        assert!(matches!(connection.next(now), Ok(Received::Nothing)));
        assert_eq!(connection.deadline(), Some(now + PATIENCE));
        let later = now + PATIENCE / 2;
        assert!(matches!(connection.next(later), Ok(Received::Nothing)));
        assert_eq!(connection.deadline(), Some(now + PATIENCE));
        peer.write_all(b"b").unwrap();
        connection.receive().unwrap();
        assert!(matches!(connection.next(later), Ok(Received::Request(_))));
        assert_eq!(connection.deadline(), None);
    }

    #[test]
    fn patience_is_limited_for_the_last_answer() {
        let (mut connection, _peer) = connection();
        let now = Instant::now();
        connection.send(&vec![0; MAX_QUEUE]).unwrap();
        connection.close(now);
        assert!(!connection.is_done());
        assert_eq!(connection.deadline(), Some(now + PATIENCE));
    }

    #[test]
    fn whoever_does_not_read_is_given_up() {
        let (mut connection, _peer) = connection();
        let lost = connection.send(&vec![0; 2 * MAX_QUEUE]);
        assert!(matches!(lost, Err(Lost::Slow)));
    }
}
