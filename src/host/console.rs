//! The connection to the console daemon (WIRE 9.1); lost ones are made anew.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::name::Name;
use crate::socket::Peer;
use crate::wire::frame::MAX_MESSAGE;
use crate::wire::{Command, ConsoleCommand, Int, Int64, Message, Payload};

/// How long the console daemon may take for an answer.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait between two attempts to reach it.
pub const RETRY: Duration = Duration::from_secs(1);

/// The connection, and what is still to be answered on it.
#[derive(Debug)]
pub struct ConsoleLink {
    path: PathBuf,
    peer: Option<Peer>,
    sequence: i64,
    /// Oldest first, as the answers come.
    asked: VecDeque<PendingConsole>,
    next_attempt: Instant,
    /// Whether it is known to the log that it cannot be reached.
    reported: bool,
}

/// A console asked for.
#[derive(Debug)]
struct PendingConsole {
    sequence: i64,
    name: Name,
    /// The supervisor's number of this request.
    call: u64,
    deadline: Instant,
}

/// What became of a console asked for.
#[derive(Debug)]
pub struct Outcome {
    /// The unikernel.
    pub name: Name,
    /// The supervisor's number of this request.
    pub call: u64,
    /// Why its console is not read.
    pub result: Result<(), String>,
}

impl PendingConsole {
    fn ends(self, result: Result<(), String>) -> Outcome {
        Outcome {
            name: self.name,
            call: self.call,
            result,
        }
    }
}

impl ConsoleLink {
    /// A link to the daemon at `path`, not connected yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            peer: None,
            sequence: 0,
            asked: VecDeque::new(),
            next_attempt: Instant::now(),
            reported: false,
        }
    }

    /// Connects if that is due, or `wanted` at once. `true`: there is a new connection, on which nothing is known
    /// yet.
    pub fn connect(&mut self, now: Instant, wanted: bool) -> bool {
        if self.peer.is_some() || (now < self.next_attempt && !wanted) {
            return false;
        }
        self.next_attempt = now + RETRY;
        match Peer::dial(&self.path) {
            Ok(peer) => {
                self.peer = Some(peer);
                self.reported = false;
                true
            }
            Err(error) => {
                if !self.reported {
                    log::warn!("console daemon at {}: {error}", self.path.display());
                }
                self.reported = true;
                false
            }
        }
    }

    /// Asks for the console of `name` to be read. A failure here is the answer.
    pub fn add(&mut self, name: &Name, call: u64, limit: Int) -> Result<(), String> {
        let now = Instant::now();
        let Some(peer) = &mut self.peer else {
            return Err(format!("it cannot be reached at {}", self.path.display()));
        };
        self.sequence += 1;
        let command = Command::Console(ConsoleCommand::Add(limit));
        let message = Message::command(self.sequence, name, command);
        // Recorded first: if sending fails, the answer comes with the loss of the connection.
        self.asked.push_back(PendingConsole {
            sequence: self.sequence,
            name: name.clone(),
            call,
            deadline: now + ANSWER_DEADLINE,
        });
        if peer.tell(&message).is_err() {
            self.next_attempt = now;
        }
        Ok(())
    }

    /// The connection, to be polled.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Reads and writes what goes; answers that are due by now.
    pub fn progress(&mut self, now: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        // First what has arrived: it may have been this process that was late.
        let result = self.exchange(&mut outcomes).and_then(|()| {
            let late = self
                .asked
                .front()
                .is_some_and(|asked| asked.deadline <= now);
            if late {
                Err("it does not answer".to_owned())
            } else {
                Ok(())
            }
        });
        if let Err(why) = result {
            log::warn!("console daemon: {why}");
            self.peer = None;
            let lost = self
                .asked
                .drain(..)
                .map(|asked| asked.ends(Err(why.clone())));
            outcomes.extend(lost);
        }
        outcomes
    }

    /// When [`Self::progress`] or [`Self::connect`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match (&self.peer, self.asked.front()) {
            (None, _) => Some(self.next_attempt),
            (Some(_), Some(asked)) => Some(asked.deadline),
            (Some(_), None) => None,
        }
    }

    fn exchange(&mut self, outcomes: &mut Vec<Outcome>) -> Result<(), String> {
        let Some(peer) = &mut self.peer else {
            return Ok(());
        };
        while let Some(message) = peer.hear(MAX_MESSAGE)? {
            let Some(asked) = self.asked.pop_front() else {
                return Err("it answers what was not asked".to_owned());
            };
            if message.header.sequence != Int64(asked.sequence) {
                self.asked.push_front(asked);
                return Err("it answers something else".to_owned());
            }
            outcomes.push(asked.ends(match message.payload {
                Payload::Reply(_) => Ok(()),
                Payload::Failure(text) => Err(text.to_lossy()),
                _ => Err("it answers with something else than an answer".to_owned()),
            }));
        }
        Ok(())
    }
}
