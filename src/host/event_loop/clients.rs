//! Clients of the supervisor, and their listener.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use nix::poll::PollFlags;

use super::Source;
use crate::daemon::ACCEPT_PAUSE;
use crate::host::client_connection::Connection;
use crate::host::{CLIENT_LIMITS, MAX_LARGE};
use crate::socket::{ACCEPT_BURST, Accepted, Acceptor};
use crate::supervisor::ConnectionId;
use crate::sys::poll::Poll;

pub(super) struct Clients {
    listener: UnixListener,
    acceptor: Acceptor,
    open: BTreeMap<ConnectionId, Connection>,
    /// Number of clients so far.
    accepted: u64,
    /// End of the pause after accepting has failed.
    accept_after: Option<Instant>,
}

impl Clients {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self {
            listener,
            acceptor: Acceptor::new(CLIENT_LIMITS),
            open: BTreeMap::new(),
            accepted: 0,
            accept_after: None,
        }
    }

    /// Registers the connections that no transfer has, without reading requests of the clients in `held_back`; and the
    /// listener, if further clients are wanted.
    pub(super) fn register<'a>(
        &'a self,
        poll: &mut Poll<'a, Source>,
        held_back: &BTreeSet<ConnectionId>,
        accepting: bool,
    ) {
        for (id, connection) in self.present() {
            let mut interest = connection.interest();
            if held_back.contains(&id) {
                interest.remove(PollFlags::POLLIN);
            }
            poll.add(Source::Client(id), connection.as_fd(), interest);
            poll.until(connection.deadline());
        }
        if accepting && self.open.len() < self.acceptor.total() && self.accept_after.is_none() {
            poll.add_readable(Source::Listener, &self.listener);
        }
        poll.until(self.accept_after);
    }

    /// Accepts the clients that wait.
    pub(super) fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BURST {
            if self.open.len() >= self.acceptor.total() {
                return;
            }
            let users = self.open.values().map(Connection::user);
            match self.acceptor.accept(&self.listener, users) {
                Ok(Accepted::Peer(peer)) => {
                    self.accepted += 1;
                    let id = ConnectionId(self.accepted);
                    self.open.insert(id, Connection::new(peer, now));
                }
                Ok(Accepted::Refused) => {}
                Ok(Accepted::Nothing) => return,
                Err(error) => {
                    log::warn!("cannot accept connections: {error}");
                    self.accept_after = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Accepts again, if the pause after a failure is over.
    pub(super) fn resume_accepting(&mut self, now: Instant) {
        self.accept_after.take_if(|until| *until <= now);
    }

    /// Clients whose large requests are not read further for now, as [`MAX_LARGE`] of others are in memory.
    pub(super) fn held_back(&self) -> BTreeSet<ConnectionId> {
        let unpacking = self.open.values().filter(|client| client.is_unpacking());
        let capacity = MAX_LARGE.saturating_sub(unpacking.count());
        let large = self.open.iter().filter(|(_, client)| client.is_large());
        let reading = |client: &Connection| client.interest().contains(PollFlags::POLLIN);
        let held_back = large.skip(capacity).filter(|(_, client)| reading(client));
        held_back.map(|(id, _)| *id).collect()
    }

    /// Clients whose deadline has passed.
    pub(super) fn overdue(&self, now: Instant) -> Vec<ConnectionId> {
        let due = |client: &Connection| client.deadline().is_some_and(|deadline| deadline <= now);
        let clients = self.present().filter(|(_, client)| due(client));
        clients.map(|(id, _)| id).collect()
    }

    /// Clients whose connection no transfer has.
    fn present(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        let clients = self.open.iter().map(|(id, client)| (*id, client));
        clients.filter(|(_, client)| !client.is_away())
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.open.get_mut(&id)
    }

    pub(super) fn contains(&self, id: ConnectionId) -> bool {
        self.open.contains_key(&id)
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.open.remove(&id)
    }

    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Number of clients so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Whether neither requests nor answers are under way.
    pub(super) fn are_idle(&self) -> bool {
        self.open.values().all(Connection::is_idle)
    }
}

/// Descriptor of the listener.
impl AsFd for Clients {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
