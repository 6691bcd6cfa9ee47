//! The connection to the supervisor, which says what to observe (WIRE 9.2); a lost one is made anew, for ever.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::daemon::Retry;
use crate::name::{Name, Path};
use crate::socket::{self, Peer};
use crate::wire::frame::{MAX_MESSAGE, Next, frame};
use crate::wire::{
    Command, Header, Int64, Message, Payload, StatsAdd, StatsCommand, Success, domain,
};

/// How long the supervisor may take for its answer to the introduction.
pub const ANSWER: Duration = Duration::from_secs(5);

/// The longest wait between two attempts to reach it.
pub const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// What the supervisor has said.
#[derive(Debug)]
pub(super) enum Told {
    /// Observe this process as this unikernel.
    Add(Name, StatsAdd),
    /// Observe it no longer.
    Remove(Name),
}

/// The connection, and how far it got.
#[derive(Debug)]
pub(super) struct SupervisorLink {
    path: PathBuf,
    state: State,
    retry: Retry,
    /// Whether it is known to the log that it cannot be reached.
    reported: bool,
}

#[derive(Debug)]
enum State {
    Away,
    /// Its answer is awaited, until then.
    Introduced(Peer, Instant),
    Told(Peer),
}

impl SupervisorLink {
    /// A link to the supervisor at `path`, not connected yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: State::Away,
            retry: Retry::new(LONGEST_RETRY),
            reported: false,
        }
    }

    /// The connection, to be polled.
    pub(super) fn peer(&self) -> Option<&Peer> {
        match &self.state {
            State::Away => None,
            State::Introduced(peer, _) | State::Told(peer) => Some(peer),
        }
    }

    /// When [`Self::progress`] is wanted at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Away => Some(self.retry.at()),
            State::Introduced(_, deadline) => Some(deadline),
            State::Told(_) => None,
        }
    }

    /// Connects if that is due, reads and writes what goes; what was said.
    pub(super) fn progress(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        let result = match &self.state {
            State::Away if now < self.retry.at() => Ok(()),
            State::Away => self.introduce(now),
            _ => self.listen(now, &mut told),
        };
        if let Err(why) = result {
            if !self.reported {
                log::warn!("supervisor at {}: {why}", self.path.display());
            }
            self.reported = true;
            self.state = State::Away;
            self.retry.failed(now);
        }
        told
    }

    fn introduce(&mut self, now: Instant) -> Result<(), String> {
        let connected = socket::connect(&self.path).map_err(io::Error::from);
        let mut peer = connected
            .and_then(Peer::new)
            .map_err(|error| error.to_string())?;
        let root = Name::from(Path::ROOT);
        let command = Command::Statistics(StatsCommand::Initial(()));
        send(&mut peer, &Message::command(0, &root, command))?;
        self.state = State::Introduced(peer, now + ANSWER);
        Ok(())
    }

    fn listen(&mut self, now: Instant, told: &mut Vec<Told>) -> Result<(), String> {
        while let State::Introduced(peer, _) | State::Told(peer) = &mut self.state {
            peer.flush().map_err(|error| error.to_string())?;
            let Some(Message { header, payload }) = next(peer)? else {
                break;
            };
            let State::Told(peer) = &mut self.state else {
                self.welcome(&header, payload)?;
                continue;
            };
            let said = command(&header, payload)?;
            let word = match &said {
                Told::Add(..) => "added",
                Told::Remove(_) => "removed",
            };
            told.push(said);
            // Whatever becomes of it: a process that cannot be observed is no reason to part.
            let answer = Payload::Reply(Success::String(word.into()));
            send(peer, &Message::answer(header, answer))?;
        }
        match self.state {
            State::Introduced(_, deadline) if deadline <= now => {
                Err("it does not answer".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn welcome(&mut self, header: &Header, payload: Payload) -> Result<(), String> {
        match payload {
            Payload::Reply(_) if header.sequence == Int64(0) => {}
            Payload::Failure(why) => return Err(why.to_lossy()),
            _ => return Err("it answers what was not asked".to_owned()),
        }
        if let State::Introduced(peer, _) = std::mem::replace(&mut self.state, State::Away) {
            log::info!("the supervisor at {} is there", self.path.display());
            self.state = State::Told(peer);
            self.retry.succeeded();
            self.reported = false;
        }
        Ok(())
    }
}

/// The next message, if there is one already.
fn next(peer: &mut Peer) -> Result<Option<Message>, String> {
    loop {
        match peer.next(MAX_MESSAGE).map_err(|error| error.to_string())? {
            Some(Next::Frame(octets)) => {
                let message = Message::decode(&octets);
                return message.map(Some).map_err(|error| error.to_string());
            }
            Some(Next::End) => return Err("it ended the conversation".to_owned()),
            None => {}
        }
        let held = peer.held();
        if !peer.receive().map_err(|error| error.to_string())? {
            return Err("it has closed the connection".to_owned());
        }
        if peer.held() == held {
            return Ok(None);
        }
    }
}

fn command(header: &Header, payload: Payload) -> Result<Told, String> {
    let name = domain::name(&header.name).map_err(|error| error.to_string())?;
    match payload {
        Payload::Command(Command::Statistics(StatsCommand::Add(add))) => Ok(Told::Add(name, add)),
        Payload::Command(Command::Statistics(StatsCommand::Remove(()))) => Ok(Told::Remove(name)),
        _ => Err("it says something else than what to observe".to_owned()),
    }
}

fn send(peer: &mut Peer, message: &Message) -> Result<(), String> {
    let octets = message.encode().map_err(|error| error.to_string())?;
    let octets = frame(&octets).map_err(|error| error.to_string())?;
    peer.send(&octets).map_err(|error| error.to_string())
}
