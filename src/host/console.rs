//! The connection to the console daemon (WIRE 9.1); lost ones are made anew.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::name::{Name, Path};
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
    asked: VecDeque<Asked>,
    next_attempt: Instant,
    /// Whether it is known to the log that it cannot be reached.
    reported: bool,
}

/// A request that was not answered yet.
#[derive(Debug)]
struct Asked {
    sequence: i64,
    request: Request,
    deadline: Instant,
}

#[derive(Debug)]
enum Request {
    /// A console, with the supervisor's number of this request.
    Add(Name, u64),
    /// A bound of a tenant's archives.
    Bound(Path),
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

impl Asked {
    fn ends(self, result: Result<(), String>) -> Option<Outcome> {
        match (self.request, result) {
            (Request::Add(name, call), result) => Some(Outcome { name, call, result }),
            // A daemon that does not know of bounds has those of its own options only.
            (Request::Bound(tenant), Err(why)) => {
                log::info!("console daemon: it does not bound the archives of {tenant}: {why}");
                None
            }
            (Request::Bound(_), Ok(())) => None,
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
        if self.peer.is_none() {
            return Err(format!("it cannot be reached at {}", self.path.display()));
        }
        self.ask(name, limit, Request::Add(name.clone(), call));
        Ok(())
    }

    /// Tells how many bytes the archives of a tenant may take. Without a connection that is in vain, and told anew with
    /// the consoles of what runs.
    ///
    /// This is a request of Petrel's own in the form of one that every console daemon knows: for the console of a path,
    /// which others refuse, as there is none, and then go on.
    pub fn bound(&mut self, tenant: Path, bytes: Int) {
        let name = Name::from(tenant.clone());
        self.ask(&name, bytes, Request::Bound(tenant));
    }

    fn ask(&mut self, name: &Name, number: Int, request: Request) {
        let now = Instant::now();
        let Some(peer) = &mut self.peer else {
            return;
        };
        self.sequence += 1;
        let command = Command::Console(ConsoleCommand::Add(number));
        let message = Message::command(self.sequence, name, command);
        // Recorded first: if sending fails, the answer comes with the loss of the connection.
        self.asked.push_back(Asked {
            sequence: self.sequence,
            request,
            deadline: now + ANSWER_DEADLINE,
        });
        if peer.tell(&message).is_err() {
            self.next_attempt = now;
        }
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
                .filter_map(|asked| asked.ends(Err(why.clone())));
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
            outcomes.extend(asked.ends(match message.payload {
                Payload::Reply(_) => Ok(()),
                Payload::Failure(text) => Err(text.to_lossy()),
                _ => Err("it answers with something else than an answer".to_owned()),
            }));
        }
        Ok(())
    }
}
