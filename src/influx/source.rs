//! The subscription to the statistics daemon; a lost one is made anew, for ever.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::daemon::Retry;
use crate::name::Name;
use crate::socket::{self, Peer};
use crate::wire::frame::{MAX_MESSAGE, Next, frame};
use crate::wire::{
    Command, Data, Message, Payload, Statistics, StatsCommand, Success, Text, domain,
};

/// How long the statistics daemon may take to answer the subscription.
pub const ANSWER: Duration = Duration::from_secs(5);

/// The longest wait between two attempts to reach it.
pub const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// What somebody used, and when it was told.
pub(super) type Sample = (Name, Box<Statistics>);

/// The subscription, and how far it got.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    name: Name,
    sequence: i64,
    peer: Option<Peer>,
    /// Until when the subscription is to be answered.
    unanswered: Option<Instant>,
    retry: Retry,
    /// Whether it is known to the log that it cannot be reached.
    reported: bool,
}

impl Source {
    /// What is told of `name`, by the daemon at `path`.
    pub(super) fn new(path: PathBuf, name: Name) -> Self {
        Self {
            path,
            name,
            sequence: 0,
            peer: None,
            unanswered: None,
            retry: Retry::new(LONGEST_RETRY),
            reported: false,
        }
    }

    /// The connection, to be polled.
    pub(super) fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// When [`Self::progress`] is wanted at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.peer {
            None => Some(self.retry.at()),
            Some(_) => self.unanswered,
        }
    }

    /// Connects if that is due, reads and writes what goes; what was told.
    pub(super) fn progress(&mut self, now: Instant) -> Vec<Sample> {
        let mut samples = Vec::new();
        let result = match self.peer {
            None if now < self.retry.at() => Ok(()),
            None => self.subscribe(now),
            Some(_) => self.listen(now, &mut samples),
        };
        if let Err(why) = result {
            if !self.reported {
                log::warn!("statistics daemon at {}: {why}", self.path.display());
            }
            self.reported = true;
            (self.peer, self.unanswered) = (None, None);
            self.retry.failed(now);
        }
        samples
    }

    fn subscribe(&mut self, now: Instant) -> Result<(), String> {
        let connected = socket::connect(&self.path).map_err(io::Error::from);
        let mut peer = connected
            .and_then(Peer::new)
            .map_err(|error| error.to_string())?;
        self.sequence += 1;
        let command = Command::Statistics(StatsCommand::Subscribe(()));
        let message = Message::command(self.sequence, &self.name, command);
        let octets = message.encode().map_err(|error| error.to_string())?;
        let octets = frame(&octets).map_err(|error| error.to_string())?;
        peer.send(&octets).map_err(|error| error.to_string())?;
        (self.peer, self.unanswered) = (Some(peer), Some(now + ANSWER));
        Ok(())
    }

    fn listen(&mut self, now: Instant, samples: &mut Vec<Sample>) -> Result<(), String> {
        let Some(peer) = &mut self.peer else {
            return Ok(());
        };
        peer.flush().map_err(|error| error.to_string())?;
        let open = peer.receive().map_err(|error| error.to_string())?;
        while let Some(next) = peer.next(MAX_MESSAGE).map_err(|error| error.to_string())? {
            let Next::Frame(octets) = next else {
                return Err("it ended the conversation".to_owned());
            };
            let message = Message::decode(&octets).map_err(|error| error.to_string())?;
            match message.payload {
                Payload::Reply(Success::String(Text(_))) if self.unanswered.is_some() => {
                    log::info!("subscribed to {} at {}", self.name, self.path.display());
                    self.unanswered = None;
                    self.reported = false;
                    self.retry.succeeded();
                }
                Payload::Data(Data::Statistics(used)) if self.unanswered.is_none() => {
                    let name = domain::name(&message.header.name);
                    samples.push((name.map_err(|error| error.to_string())?, used));
                }
                Payload::Failure(why) => return Err(why.to_lossy()),
                _ => return Err("it says what was not asked for".to_owned()),
            }
        }
        if !open {
            return Err("it has closed the connection".to_owned());
        }
        if self.unanswered.is_some_and(|until| until <= now) {
            return Err("it does not answer".to_owned());
        }
        Ok(())
    }
}
