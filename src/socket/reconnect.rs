//! Link to a daemon that sends messages once it was greeted. A lost connection is re-established, for ever.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Peer;
use crate::daemon::Retry;
use crate::sys::poll::Poll;
use crate::wire::frame::MAX_MESSAGE;
use crate::wire::{Message, Payload};

/// Timeout for the answer to the greeting.
pub const ANSWER: Duration = Duration::from_secs(5);

/// Longest wait between two attempts to connect.
pub const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Link and its state.
#[derive(Debug)]
pub struct Link {
    /// Name of the daemon in the log.
    who: &'static str,
    path: PathBuf,
    greeting: Message,
    state: State,
    retry: Retry,
    /// Whether the failure is in the log already.
    reported: bool,
}

#[derive(Debug)]
enum State {
    Away,
    /// The answer to the greeting is due at this time.
    Greeted(Peer, Instant),
    Up(Peer),
}

impl Link {
    /// Link to the daemon at `path`, not connected yet.
    pub fn new(who: &'static str, path: PathBuf, greeting: Message) -> Self {
        Self {
            who,
            path,
            greeting,
            state: State::Away,
            retry: Retry::new(LONGEST_RETRY),
            reported: false,
        }
    }

    /// Registers the connection, if there is one, and when [`Self::progress`] is to be called.
    pub fn register<'a, T>(&'a self, poll: &mut Poll<'a, T>, token: T) {
        match &self.state {
            State::Away => poll.until([self.retry.at()]),
            State::Greeted(peer, deadline) => {
                peer.register(poll, token);
                poll.until([*deadline]);
            }
            State::Up(peer) => peer.register(poll, token),
        }
    }

    /// Connects if that is due, reads and writes. `hears` gets each message, can answer it, and closes the
    /// connection by an error.
    pub fn progress(
        &mut self,
        now: Instant,
        hears: impl FnMut(&mut Peer, Message) -> Result<(), String>,
    ) {
        let result = match &self.state {
            State::Away if now < self.retry.at() => Ok(()),
            State::Away => self.greet(now),
            State::Greeted(..) | State::Up(_) => self.listen(now, hears),
        };
        if let Err(why) = result {
            if !self.reported {
                log::warn!("{} at {}: {why}", self.who, self.path.display());
            }
            self.reported = true;
            self.state = State::Away;
            self.retry.failed(now);
        }
    }

    fn greet(&mut self, now: Instant) -> Result<(), String> {
        let mut peer = Peer::dial(&self.path)?;
        peer.tell(&self.greeting)?;
        self.state = State::Greeted(peer, now + ANSWER);
        Ok(())
    }

    fn listen(
        &mut self,
        now: Instant,
        mut hears: impl FnMut(&mut Peer, Message) -> Result<(), String>,
    ) -> Result<(), String> {
        loop {
            match &mut self.state {
                State::Away => return Ok(()),
                State::Up(peer) => match peer.hear(MAX_MESSAGE)? {
                    Some(message) => hears(peer, message)?,
                    None => return Ok(()),
                },
                State::Greeted(peer, deadline) => match peer.hear(MAX_MESSAGE)? {
                    Some(answer) => self.welcome(answer)?,
                    None if *deadline <= now => return Err("it does not answer".to_owned()),
                    None => return Ok(()),
                },
            }
        }
    }

    fn welcome(&mut self, answer: Message) -> Result<(), String> {
        match answer.payload {
            Payload::Reply(_) if answer.header.sequence == self.greeting.header.sequence => {}
            Payload::Failure(why) => return Err(why.to_lossy()),
            _ => return Err("it answers what was not asked".to_owned()),
        }
        if let State::Greeted(peer, _) = std::mem::replace(&mut self.state, State::Away) {
            log::info!("the {} at {} is there", self.who, self.path.display());
            self.state = State::Up(peer);
            self.retry.succeeded();
            self.reported = false;
        }
        Ok(())
    }
}
