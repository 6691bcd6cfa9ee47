//! Acceptance of connections within the shares of their users.

use std::io;
use std::os::unix::net::UnixListener;

use nix::unistd::Uid;

use super::{ConnectionLimits, Peer, is_transient, messages, os};

/// Connections accepted in one round, so that a storm of them does not keep others waiting.
pub const ACCEPT_BURST: usize = 16;

/// Limits of connections, and whether they refuse any.
#[derive(Debug)]
pub struct Acceptor {
    limits: ConnectionLimits,
    /// Whether refusals are in the log already.
    refusing: bool,
}

/// Outcome of accepting a connection.
#[derive(Debug)]
pub enum Accepted {
    /// Accepted connection.
    Peer(Peer),
    /// Refused connection: its user was sent the reason, and it is closed.
    Refused,
    /// No connection waits.
    Nothing,
}

impl Acceptor {
    /// Acceptor of connections within `limits`.
    pub const fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            refusing: false,
        }
    }

    /// Connections of all users together.
    pub const fn total(&self) -> usize {
        self.limits.total()
    }

    /// Accepts the next waiting connection, if its user gets one beside those of the users in `open`, one entry a
    /// connection. Only the first refusal in a row is logged.
    pub fn accept(
        &mut self,
        listener: &UnixListener,
        open: impl Iterator<Item = Uid>,
    ) -> io::Result<Accepted> {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_transient(&error) => return Ok(Accepted::Nothing),
            Err(error) => return Err(error),
        };
        // A connection that was closed meanwhile may have none.
        let Ok(user) = os::peer_user(&stream) else {
            return Ok(Accepted::Nothing);
        };
        let mut peer = Peer::new(stream)?;
        peer.user = user;
        let Err(why) = self.limits.admit(user, open) else {
            self.refusing = false;
            return Ok(Accepted::Peer(peer));
        };
        if !std::mem::replace(&mut self.refusing, true) {
            log::warn!("connections are refused: {why}");
        }
        // A client that does not read its refusal goes without.
        let _ = peer.send(&messages::refusal(&why));
        Ok(Accepted::Refused)
    }
}
