//! One client of the supervisor, and the state of its request.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::unistd::Uid;

use crate::socket::{FIRST_BYTE_TIMEOUT, Peer};
use crate::wire::Message;
use crate::wire::frame::{MAX_MESSAGE, Next};

/// Maximum size of a request in bytes. Requests of older clients contain images.
pub const MAX_REQUEST: usize = 32 << 20;

/// Timeout of a client for a whole request, for [`ANSWER_STEP`] bytes of an answer, and until its next request.
pub const IDLE: Duration = Duration::from_secs(60);

/// Bytes of an answer that restart the timeout of a client that reads them.
pub const ANSWER_STEP: usize = 1 << 16;

/// Client of the supervisor.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    state: ClientState,
    /// Deadline of the client for its next step.
    due: Instant,
    /// Whether a part of a request has arrived.
    begun: bool,
    /// Bytes of answers that the client has read since its deadline was set.
    taken: usize,
}

#[derive(Debug)]
enum ClientState {
    /// A request is expected.
    Asking,
    /// The supervisor works on its request.
    Waiting,
    /// A [process](super::transfer) has the connection; whether it also has content that came with the request.
    Away(bool),
    /// The rest of its last answer is sent.
    Leaving,
}

/// Event of a client.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A request.
    Message(Box<Message>),
    /// The connection is over.
    Gone,
}

impl Connection {
    pub(super) fn new(peer: Peer, now: Instant) -> Self {
        Self {
            peer,
            state: ClientState::Asking,
            due: now + FIRST_BYTE_TIMEOUT,
            begun: false,
            taken: 0,
        }
    }

    /// User at the other end.
    pub(super) fn user(&self) -> Uid {
        self.peer.user()
    }

    /// Gives up the connection, for another daemon link.
    pub(super) fn into_peer(self) -> Peer {
        self.peer
    }

    /// Events to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        // Backpressure: requests are not read while an answer is queued.
        let reading = matches!(self.state, ClientState::Asking) && self.peer.queued() == 0;
        self.peer.interest(reading)
    }

    /// Whether nothing is under way: neither a request of it nor an answer to it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, ClientState::Asking)
            && self.peer.held() == 0
            && self.peer.queued() == 0
    }

    /// Whether the request held in memory is larger than an ordinary one.
    pub(super) fn is_large(&self) -> bool {
        self.peer.held() > MAX_MESSAGE
    }

    /// Whether content of the request is in memory.
    pub(super) fn is_unpacking(&self) -> bool {
        matches!(self.state, ClientState::Away(true))
    }

    /// Restarts the timeout of a client that is not read from.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.due = now + IDLE;
    }

    /// Time at which the client will have taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!matches!(self.state, ClientState::Waiting | ClientState::Away(_))).then_some(self.due)
    }

    /// Reads and writes what is possible without waiting. `ready`: events of poll(2).
    pub(super) fn progress(&mut self, ready: PollFlags, now: Instant) -> Option<Arrival> {
        let queued = self.peer.queued();
        let exchanged = self.exchange(ready);
        self.extend_timeout(queued.saturating_sub(self.peer.queued()), now);
        self.start_timeout(now);
        match exchanged {
            Ok(arrival) => arrival,
            Err(why) => {
                log::info!("a client's connection ends: {why}");
                Some(Arrival::Gone)
            }
        }
    }

    /// Restarts the timeout of a client that reads its answers, though slowly.
    fn extend_timeout(&mut self, count: usize, now: Instant) {
        self.taken += count;
        if self.taken >= ANSWER_STEP || (count > 0 && self.peer.queued() == 0) {
            self.taken = 0;
            self.due = now + IDLE;
        }
    }

    /// Starts the timeout of a request with its first byte: further bytes do not extend it.
    fn start_timeout(&mut self, now: Instant) {
        let begins = matches!(self.state, ClientState::Asking) && self.peer.held() > 0;
        if begins && !std::mem::replace(&mut self.begun, true) {
            self.due = now + IDLE;
        }
    }

    fn exchange(&mut self, ready: PollFlags) -> Result<Option<Arrival>, String> {
        self.peer.flush().map_err(|error| error.to_string())?;
        let gone = ready.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL)
            || (ready.contains(PollFlags::POLLHUP) && !ready.contains(PollFlags::POLLIN));
        if gone {
            return Ok(Some(Arrival::Gone));
        }
        if ready.contains(PollFlags::POLLIN) {
            self.peer.receive().map_err(|error| error.to_string())?;
        }
        match self.state {
            ClientState::Asking => self.request(),
            ClientState::Waiting | ClientState::Away(_) => Ok(None),
            ClientState::Leaving => Ok(self.leave()),
        }
    }

    /// Takes the next request. One that cannot be decoded ends the connection without an answer (WIRE 3).
    fn request(&mut self) -> Result<Option<Arrival>, String> {
        if self.peer.queued() > 0 {
            return Ok(None);
        }
        match self
            .peer
            .next(MAX_REQUEST)
            .map_err(|error| error.to_string())?
        {
            Some(Next::Frame(bytes)) => {
                let message = Message::decode(&bytes).map_err(|error| error.to_string())?;
                self.state = ClientState::Waiting;
                Ok(Some(Arrival::Message(Box::new(message))))
            }
            Some(Next::End) => Ok(Some(Arrival::Gone)),
            None => Ok(self.peer.has_ended().then_some(Arrival::Gone)),
        }
    }

    /// Changes the state, and restarts the timeout.
    fn become_active(&mut self, state: ClientState) {
        self.state = state;
        self.due = Instant::now() + IDLE;
        (self.begun, self.taken) = (false, 0);
    }

    /// Sends an answer, the last one if `close`. Afterwards a further request may have arrived already.
    pub(super) fn answer(&mut self, bytes: &[u8], close: bool) -> Option<Arrival> {
        self.become_active(if close {
            ClientState::Leaving
        } else {
            ClientState::Asking
        });
        if let Err(error) = self.peer.send(bytes) {
            log::info!("a client's answer is lost: {error}");
            return Some(Arrival::Gone);
        }
        self.progress(PollFlags::empty(), Instant::now())
    }

    /// Gives the connection to a transfer, and returns the bytes that have arrived already.
    pub(super) fn give_away(&mut self, embedded: bool) -> Vec<u8> {
        self.state = ClientState::Away(embedded);
        let mut held = vec![0; self.peer.held()];
        self.peer.take(&mut held);
        held
    }

    /// Whether a transfer has the connection.
    pub(super) fn is_away(&self) -> bool {
        matches!(self.state, ClientState::Away(_))
    }

    /// Takes the connection back from a transfer.
    pub(super) fn come_back(&mut self) {
        self.become_active(ClientState::Waiting);
    }

    /// Ends the connection once everything is written.
    fn leave(&self) -> Option<Arrival> {
        (self.peer.queued() == 0).then_some(Arrival::Gone)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_client_has_so_long_for_the_first_byte_and_no_longer_for_many_small_pieces() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let now = Instant::now();
        let mut connection = Connection::new(Peer::new(ours).unwrap(), now);
        assert_eq!(connection.deadline(), Some(now + FIRST_BYTE_TIMEOUT));
        let began = now + FIRST_BYTE_TIMEOUT / 2;
        for (count, byte) in (0..).zip(b"\0\0\0\x02a") {
            theirs.write_all(&[*byte]).unwrap();
            let later = began + IDLE / 8 * count;
            assert!(connection.progress(PollFlags::POLLIN, later).is_none());
            assert_eq!(connection.deadline(), Some(began + IDLE));
        }
    }

    #[test]
    fn a_client_that_takes_its_answer_byte_by_byte_is_not_waited_for_afresh() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(Peer::new(ours).unwrap(), Instant::now());
        assert!(connection.answer(&vec![0; 1 << 22], true).is_none());
        let due = connection.deadline().unwrap();
        let later = due + IDLE / 2;
        theirs.read_exact(&mut [0; 64]).unwrap();
        connection.progress(PollFlags::POLLOUT, later);
        assert_eq!(connection.deadline(), Some(due));
        // Nothing more goes than was taken, but for what is on its way.
        let mut piece = [0; 1 << 12];
        for _ in 0..(ANSWER_STEP + (1 << 19)) / piece.len() {
            theirs.read_exact(&mut piece).unwrap();
            connection.progress(PollFlags::POLLOUT, later);
        }
        assert_eq!(connection.deadline(), Some(later + IDLE));
    }
}
