//! One connection of the statistics daemon: a single question, a process added by hand, or a subscriber.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::socket::Peer;
use crate::wire::frame::Next;

/// Most octets of a request: one with the most network devices has less.
pub const MAX_REQUEST: usize = 1 << 16;

/// Octets that wait for a subscriber at most while it is told more: as long as more wait, it misses what is gathered.
pub const MAX_BACKLOG: usize = 1 << 16;

/// Most octets that wait for a peer which goes on asking: more than what is gathered at once.
pub const MAX_QUEUE: usize = 1 << 22;

/// How long a peer may take for the rest of a request it has begun, or to read its last answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A peer and what is expected of it.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    /// The last answer is on its way.
    closing: bool,
    deadline: Option<Instant>,
    /// What it missed since it last kept up, in times that something was gathered.
    missed: u64,
}

impl Connection {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            closing: false,
            deadline: None,
            missed: 0,
        }
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        self.peer.interest(!self.closing)
    }

    /// When patience with the peer ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Reads and writes what goes. An error ends the connection.
    pub(super) fn progress(&mut self, ready: PollFlags) -> Result<(), String> {
        self.peer.flush().map_err(|error| error.to_string())?;
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        if ready.intersects(readable) && !self.closing {
            self.peer.receive().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The next request among what was received.
    pub(super) fn next(&mut self, now: Instant) -> Result<Option<Vec<u8>>, String> {
        if self.closing {
            return Ok(None);
        }
        match self
            .peer
            .next(MAX_REQUEST)
            .map_err(|error| error.to_string())?
        {
            Some(Next::Frame(request)) => {
                self.deadline = None;
                Ok(Some(request))
            }
            Some(Next::End) => {
                self.close(now);
                Ok(None)
            }
            None if self.peer.has_ended() && self.peer.is_inside_frame() => {
                Err("it ended within a request".to_owned())
            }
            None => {
                if self.peer.has_ended() {
                    self.close(now);
                } else if self.peer.is_inside_frame() {
                    self.deadline.get_or_insert(now + PATIENCE);
                } else {
                    self.deadline = None;
                }
                Ok(None)
            }
        }
    }

    /// Queues octets and writes what goes.
    pub(super) fn send(&mut self, octets: &[u8]) -> Result<(), String> {
        self.peer.send(octets).map_err(|error| error.to_string())
    }

    /// Whether it reads what it is told, as far as what is gathered now goes; counts what it misses.
    pub(super) fn keeps_up(&mut self) -> bool {
        let keeps_up = self.peer.queued() <= MAX_BACKLOG;
        self.missed = if keeps_up { 0 } else { self.missed + 1 };
        keeps_up
    }

    /// Whether more answers wait for it than can: it asks, and does not read.
    pub(super) fn queued_too_much(&self) -> bool {
        self.peer.queued() > MAX_QUEUE
    }

    /// How often in a row it has missed what was gathered.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    /// Nothing more is read; what is queued still goes out.
    pub(super) fn close(&mut self, now: Instant) {
        if !self.closing {
            self.closing = true;
            self.deadline = Some(now + PATIENCE);
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_done(&self, ready: PollFlags) -> bool {
        let gone = ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        self.closing && (gone || self.peer.queued() == 0)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
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
        peer.write_all(b"\0\0\0\x02a").unwrap();
        connection.progress(PollFlags::POLLIN).unwrap();
        assert_eq!(connection.next(now), Ok(None));
        assert_eq!(connection.deadline(), Some(now + PATIENCE));
        peer.write_all(b"b").unwrap();
        connection.progress(PollFlags::POLLIN).unwrap();
        assert_eq!(connection.next(now), Ok(Some(b"ab".into())));
        assert_eq!(connection.next(now), Ok(None));
        assert_eq!(connection.deadline(), None);
    }

    #[test]
    fn a_peer_that_has_left_is_done_and_one_that_broke_off_is_wrong() {
        let (mut connection, peer) = connection();
        drop(peer);
        connection.progress(PollFlags::POLLIN).unwrap();
        assert_eq!(connection.next(Instant::now()), Ok(None));
        assert!(connection.is_done(PollFlags::empty()));
        let (mut connection, mut peer) = self::connection();
        peer.write_all(b"\0").unwrap();
        drop(peer);
        for _ in 0..2 {
            connection.progress(PollFlags::POLLIN).unwrap();
        }
        assert!(connection.next(Instant::now()).is_err());
    }

    #[test]
    fn whoever_does_not_read_misses_something_until_it_does() {
        let (mut connection, mut peer) = connection();
        assert!(connection.keeps_up());
        let much = vec![0; 1 << 22];
        connection.send(&much).unwrap();
        assert!(!connection.keeps_up() && !connection.keeps_up());
        assert_eq!(connection.missed(), 2);
        let reader = std::thread::spawn(move || {
            let mut octets = vec![0; 1 << 22];
            peer.read_exact(&mut octets).map(|()| peer)
        });
        while connection.peer.queued() > 0 {
            connection.progress(PollFlags::POLLOUT).unwrap();
        }
        assert!(connection.keeps_up());
        assert_eq!(connection.missed(), 0);
        reader.join().unwrap().unwrap();
    }
}
