//! Clients of a daemon: bounded in number, never waited for, and closed if they send half a request or do
//! not read its last answer.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::{ACCEPT_BURST, Accepted, Acceptor, ConnectionLimits, FIRST_BYTE_TIMEOUT, Peer};
use crate::daemon::ACCEPT_PAUSE;
use crate::sys::poll::Poll;
use crate::wire::frame::{FrameError, Next};

/// Maximum size of a request in bytes: those about a deep path, or with the most network devices, are smaller.
pub const MAX_REQUEST: usize = 1 << 16;

/// Timeout for the rest of a request, and for reading the last answer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout between two requests, unless the client is [trusted](Peer::is_trusted): the supervisor's
/// connection is quiet while nothing starts.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of a client, in the order of arrival.
pub type ClientId = u64;

/// Clients of a daemon, and their listener.
#[derive(Debug)]
pub struct Clients {
    listener: UnixListener,
    open: BTreeMap<ClientId, Client>,
    reception: Acceptor,
    accepted: u64,
    no_accept_before: Option<Instant>,
}

/// Client and its state.
#[derive(Debug)]
pub struct Client {
    peer: Peer,
    state: State,
    /// Whether a part of a request has arrived.
    begun: bool,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests may come.
    Open,
    /// Subscribed: any input ends that.
    Subscribed,
    /// The last answer is being written.
    Closing,
}

/// Input of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A complete request.
    Request(Vec<u8>),
    /// No complete request yet.
    Nothing,
    /// End of the input, or input that is not wanted.
    End,
}

/// Reason why a client is disconnected.
#[derive(Debug)]
pub enum DisconnectReason {
    /// Invalid frame.
    Frame(FrameError),
    /// Failure to read or write.
    Io(io::Error),
    /// More than so many bytes are queued for it.
    Slow(usize),
}

/// Source of an event of poll(2) among the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The connection of this client.
    Connection(ClientId),
    /// The listener: a client waits to be accepted.
    Listener,
}

impl Clients {
    /// Set without clients. While there are as many as `limits` allow, further ones wait to be accepted; one whose user has a
    /// share of them already is refused.
    pub fn new(listener: UnixListener, limits: ConnectionLimits) -> Self {
        Self {
            listener,
            open: BTreeMap::new(),
            reception: Acceptor::new(limits),
            accepted: 0,
            no_accept_before: None,
        }
    }

    /// Registers the connections, the listener after them, and their deadline.
    pub fn register<'a, T>(&'a self, poll: &mut Poll<'a, T>, token: impl Fn(ClientEvent) -> T) {
        for (id, client) in &self.open {
            let token = token(ClientEvent::Connection(*id));
            poll.add(token, client.peer.as_fd(), client.interest());
        }
        if self.open.len() < self.reception.total() && self.no_accept_before.is_none() {
            poll.add_readable(token(ClientEvent::Listener), &self.listener);
        }
        poll.until(self.deadline());
    }

    /// Time at which [`Self::late`] is to be called.
    fn deadline(&self) -> Option<Instant> {
        let deadlines = self.open.values().filter_map(|client| client.deadline);
        deadlines.chain(self.no_accept_before).min()
    }

    /// Clients whose deadline has passed, to be [removed](Self::remove).
    pub fn late(&mut self, now: Instant) -> Vec<ClientId> {
        self.no_accept_before.take_if(|until| *until <= now);
        let late = |client: &Client| client.deadline.is_some_and(|at| at <= now);
        let late = self.open.iter().filter(|(_, client)| late(client));
        late.map(|(id, _)| *id)
            .inspect(|id| {
                log::warn!(
                    "connection {id}: closed: its peer did not send or take in time what was due"
                );
            })
            .collect()
    }

    /// Accepts the clients that wait.
    pub fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BURST {
            let total = self.reception.total();
            if self.open.len() >= total {
                log::warn!("{total} connections are open, further ones have to wait");
                return;
            }
            let users = self.open.values().map(|client| client.peer.user());
            match self.reception.accept(&self.listener, users) {
                Ok(Accepted::Peer(peer)) => {
                    self.open.insert(self.accepted, Client::new(peer, now));
                    self.accepted += 1;
                }
                Ok(Accepted::Refused) => {}
                Ok(Accepted::Nothing) => return,
                Err(error) => {
                    log::error!("cannot accept connections: {error}");
                    self.no_accept_before = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Client with this number, if it is still connected.
    pub fn get(&self, id: ClientId) -> Option<&Client> {
        self.open.get(&id)
    }

    /// Client with this number, if it is still connected.
    pub fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.open.get_mut(&id)
    }

    /// All clients.
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.open.iter().map(|(id, client)| (*id, client))
    }

    /// Closes the connection of a client.
    pub fn remove(&mut self, id: ClientId) {
        self.open.remove(&id);
    }

    /// Number of clients.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Number of clients so far, including the current ones.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }
}

impl Client {
    fn new(peer: Peer, now: Instant) -> Self {
        let deadline = (!peer.is_trusted()).then(|| now + FIRST_BYTE_TIMEOUT);
        Self {
            peer,
            state: State::Open,
            begun: false,
            deadline,
        }
    }

    /// Connection to the client.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    fn interest(&self) -> PollFlags {
        self.peer.interest(self.state != State::Closing)
    }

    /// Writes and reads as much as is possible without waiting.
    pub fn progress(&mut self, events: PollFlags) -> Result<(), DisconnectReason> {
        self.peer.flush().map_err(DisconnectReason::Io)?;
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        if events.intersects(readable) && self.state != State::Closing {
            self.peer.receive().map_err(DisconnectReason::Io)?;
        }
        Ok(())
    }

    /// Takes the next request that has been received.
    pub fn next(&mut self, now: Instant) -> Result<Received, DisconnectReason> {
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
        match self
            .peer
            .next(MAX_REQUEST)
            .map_err(DisconnectReason::Frame)?
        {
            Some(Next::Frame(request)) => {
                self.begun = false;
                self.deadline = (!self.peer.is_trusted()).then(|| now + IDLE_TIMEOUT);
                Ok(Received::Request(request))
            }
            Some(Next::End) => Ok(Received::End),
            None if self.peer.has_ended() && self.peer.is_inside_frame() => {
                Err(DisconnectReason::Frame(FrameError::Truncated))
            }
            None if self.peer.has_ended() => Ok(Received::End),
            None => {
                // Further bytes of a request do not extend its deadline.
                if self.peer.is_inside_frame() && !std::mem::replace(&mut self.begun, true) {
                    self.deadline = Some(now + WRITE_TIMEOUT);
                }
                Ok(Received::Nothing)
            }
        }
    }

    /// Writes as much as is possible at once, and queues the rest.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), DisconnectReason> {
        self.peer.send(bytes).map_err(DisconnectReason::Io)
    }

    /// Sends like [`Self::send`]; an error if more than `most` bytes are queued then.
    pub fn send_at_most(&mut self, bytes: &[u8], most: usize) -> Result<(), DisconnectReason> {
        self.send(bytes)?;
        if self.queued() > most {
            return Err(DisconnectReason::Slow(most));
        }
        Ok(())
    }

    /// Bytes queued and not yet written.
    pub fn queued(&self) -> usize {
        self.peer.queued()
    }

    /// Marks the client as subscribed: its further input ends the subscription.
    pub fn subscribed(&mut self) {
        self.state = State::Subscribed;
        self.allow_silence();
    }

    /// Removes the timeout of the client, as it has subscribed to something.
    pub fn allow_silence(&mut self) {
        self.deadline = None;
    }

    /// Closes the client once everything that is queued is written.
    pub fn close(&mut self, now: Instant) {
        if self.state != State::Closing {
            self.state = State::Closing;
            self.deadline = Some(now + WRITE_TIMEOUT);
        }
    }

    /// Whether the connection can be closed.
    pub fn is_done(&self, events: PollFlags) -> bool {
        let gone = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        self.state == State::Closing && (gone || self.queued() == 0)
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Slow(most) => {
                write!(f, "it does not read: more than {most} bytes wait for it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use nix::unistd::{Uid, geteuid};

    use super::*;

    fn client() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::new(ours).unwrap();
        (Client::new(peer, Instant::now()), theirs)
    }

    /// A client of another user than root and the daemon's own, that connects at `now`.
    fn stranger(now: Instant) -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours).unwrap();
        peer.user = Uid::from_raw(geteuid().as_raw() + 1);
        (Client::new(peer, now), theirs)
    }

    #[test]
    fn patience_is_for_the_rest_of_a_request_only() {
        let (mut client, mut peer) = client();
        let now = Instant::now();
        peer.write_all(b"\0\0\0\x02a").unwrap();
        client.progress(PollFlags::POLLIN).unwrap();
        assert_eq!(client.next(now).unwrap(), Received::Nothing);
        assert_eq!(client.deadline, Some(now + WRITE_TIMEOUT));
        let later = now + WRITE_TIMEOUT / 2;
        assert_eq!(client.next(later).unwrap(), Received::Nothing);
        assert_eq!(client.deadline, Some(now + WRITE_TIMEOUT));
        peer.write_all(b"b").unwrap();
        client.progress(PollFlags::POLLIN).unwrap();
        let request = Received::Request(b"ab".into());
        assert_eq!(client.next(later).unwrap(), request);
        assert_eq!(client.next(later).unwrap(), Received::Nothing);
        assert_eq!(client.deadline, None);
    }

    #[test]
    fn a_stranger_has_so_long_for_the_first_byte_and_no_longer_for_many_small_pieces() {
        let now = Instant::now();
        let (mut client, mut peer) = stranger(now);
        assert_eq!(client.deadline, Some(now + FIRST_BYTE_TIMEOUT));
        let began = now + FIRST_BYTE_TIMEOUT / 2;
        for (count, byte) in (0..).zip(b"\0\0\0\x02a") {
            peer.write_all(&[*byte]).unwrap();
            client.progress(PollFlags::POLLIN).unwrap();
            let later = began + WRITE_TIMEOUT / 8 * count;
            assert_eq!(client.next(later).unwrap(), Received::Nothing);
            assert_eq!(client.deadline, Some(began + WRITE_TIMEOUT));
        }
        peer.write_all(b"b").unwrap();
        client.progress(PollFlags::POLLIN).unwrap();
        let request = Received::Request(b"ab".into());
        assert_eq!(client.next(began).unwrap(), request);
        assert_eq!(client.next(began).unwrap(), Received::Nothing);
        assert_eq!(client.deadline, Some(began + IDLE_TIMEOUT));
        client.subscribed();
        assert_eq!(client.deadline, None);
    }

    #[test]
    fn patience_is_limited_for_the_last_answer() {
        let (mut client, _peer) = client();
        let now = Instant::now();
        client.send(&vec![0; 1 << 22]).unwrap();
        client.close(now);
        assert!(!client.is_done(PollFlags::empty()));
        assert!(client.is_done(PollFlags::POLLHUP));
        assert_eq!(client.deadline, Some(now + WRITE_TIMEOUT));
    }

    #[test]
    fn one_that_has_left_is_done_and_one_that_broke_off_is_lost() {
        let (mut client, peer) = client();
        drop(peer);
        client.progress(PollFlags::POLLIN).unwrap();
        assert_eq!(client.next(Instant::now()).unwrap(), Received::End);
        client.close(Instant::now());
        assert!(client.is_done(PollFlags::empty()));
        let (mut client, mut peer) = self::client();
        peer.write_all(b"\0").unwrap();
        drop(peer);
        for _ in 0..2 {
            client.progress(PollFlags::POLLIN).unwrap();
        }
        assert!(client.next(Instant::now()).is_err());
    }

    #[test]
    fn whoever_does_not_read_is_lost_where_so_much_is_not_to_wait() {
        let (mut client, _peer) = client();
        let lost = client.send_at_most(&vec![0; 1 << 22], 1 << 20);
        assert!(matches!(lost, Err(DisconnectReason::Slow(_))));
    }
}
