//! One client of the supervisor: what it is doing at the moment, and how far it got.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::socket::Peer;
use crate::wire::Message;
use crate::wire::frame::{MAX_MESSAGE, Next};

/// Most octets of a request. Images can be part of it: older clients send them so.
pub const MAX_REQUEST: usize = 32 << 20;

/// How long a client may do nothing while something is expected of it.
pub const IDLE: Duration = Duration::from_secs(60);

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    doing: Doing,
    active: Instant,
}

#[derive(Debug)]
enum Doing {
    /// A request is expected.
    Asking,
    /// The supervisor works on its request.
    Waiting,
    /// A [process](super::transfer) has the connection; whether it also has content that came with the request.
    Away(bool),
    /// It is sent the rest of its answer.
    Leaving,
}

/// What a client has brought.
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
            doing: Doing::Asking,
            active: now,
        }
    }

    /// The connection, to be used by somebody else.
    pub(super) fn into_peer(self) -> Peer {
        self.peer
    }

    /// What to poll for; `None`: nothing is needed but a turn.
    pub(super) fn interest(&self) -> Option<PollFlags> {
        match self.doing {
            // Nothing tells that everything is written.
            Doing::Leaving if self.peer.queued() == 0 => None,
            // Who does not take its answers is not read from.
            Doing::Asking => Some(self.peer.interest(self.peer.queued() == 0)),
            Doing::Waiting | Doing::Away(_) | Doing::Leaving => Some(self.peer.interest(false)),
        }
    }

    /// Whether nothing is under way: neither a request of it nor an answer to it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Asking) && self.peer.held() == 0 && self.peer.queued() == 0
    }

    /// Whether more of its request is held than an ordinary one has.
    pub(super) fn is_large(&self) -> bool {
        self.peer.held() > MAX_MESSAGE
    }

    /// Whether content that came with its request is in memory.
    pub(super) fn is_unpacking(&self) -> bool {
        matches!(self.doing, Doing::Away(true))
    }

    /// It is not idle: it is not read from.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.active = now;
    }

    /// When it will have been idle for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!matches!(self.doing, Doing::Waiting | Doing::Away(_))).then(|| self.active + IDLE)
    }

    /// Does what goes without waiting. `ready`: what poll(2) said.
    pub(super) fn progress(&mut self, ready: PollFlags, now: Instant) -> Option<Arrival> {
        if !ready.is_empty() {
            self.active = now;
        }
        match self.exchange(ready) {
            Ok(arrival) => arrival,
            Err(why) => {
                log::info!("a client's connection ends: {why}");
                Some(Arrival::Gone)
            }
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
        match self.doing {
            Doing::Asking => self.request(),
            Doing::Waiting | Doing::Away(_) => Ok(None),
            Doing::Leaving => Ok(self.leave()),
        }
    }

    /// The next request. One that cannot be decoded ends the connection without an answer (WIRE 3).
    fn request(&mut self) -> Result<Option<Arrival>, String> {
        if self.peer.queued() > 0 {
            return Ok(None);
        }
        match self
            .peer
            .next(MAX_REQUEST)
            .map_err(|error| error.to_string())?
        {
            Some(Next::Frame(octets)) => {
                let message = Message::decode(&octets).map_err(|error| error.to_string())?;
                self.doing = Doing::Waiting;
                Ok(Some(Arrival::Message(Box::new(message))))
            }
            Some(Next::End) => Ok(Some(Arrival::Gone)),
            None => Ok(self.peer.has_ended().then_some(Arrival::Gone)),
        }
    }

    /// Does something new: its time to be idle begins now.
    fn become_active(&mut self, doing: Doing) {
        self.doing = doing;
        self.active = Instant::now();
    }

    /// Sends an answer, the last one if `close`. Afterwards a further request may have arrived already.
    pub(super) fn answer(&mut self, octets: &[u8], close: bool) -> Option<Arrival> {
        self.doing = if close { Doing::Leaving } else { Doing::Asking };
        if let Err(error) = self.peer.send(octets) {
            log::info!("a client's answer is lost: {error}");
            return Some(Arrival::Gone);
        }
        self.progress(PollFlags::empty(), self.active)
    }

    /// Gives the connection to a process: with it goes what has arrived already.
    pub(super) fn give_away(&mut self, embedded: bool) -> Vec<u8> {
        self.doing = Doing::Away(embedded);
        let mut held = vec![0; self.peer.held()];
        self.peer.take(&mut held);
        held
    }

    /// Whether a process has the connection, which is not looked at meanwhile.
    pub(super) fn is_away(&self) -> bool {
        matches!(self.doing, Doing::Away(_))
    }

    /// That process has given it back.
    pub(super) fn come_back(&mut self) {
        self.become_active(Doing::Waiting);
    }

    /// The end of the conversation, once everything is written.
    fn leave(&self) -> Option<Arrival> {
        (self.peer.queued() == 0).then_some(Arrival::Gone)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }
}
