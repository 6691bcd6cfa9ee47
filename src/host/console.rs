//! The connection to the console daemon (WIRE 9.1); lost ones are made anew.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::name::{Name, Path};
use crate::socket::Peer;
use crate::wire::frame::MAX_MESSAGE;
use crate::wire::{Command, ConsoleCommand, Int, Int64, Message, Payload, extensions};

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
    /// Whether the daemon has not refused to be told of bounds.
    bounds: bool,
    /// Whether it is known to the log that it cannot be reached.
    reported: bool,
}

/// A request that was not answered yet.
#[derive(Debug)]
struct PendingConsole {
    sequence: i64,
    request: Request,
    deadline: Instant,
}

#[derive(Debug)]
enum Request {
    /// A console, with the supervisor's number of this request.
    Add(Name, u64),
    /// A bound of a tenant's archives.
    Bound,
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
    /// Outcome for the supervisor, which does not wait for that of a bound.
    fn ends(self, result: Result<(), String>) -> Option<Outcome> {
        match self.request {
            Request::Add(name, call) => Some(Outcome { name, call, result }),
            Request::Bound => None,
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
            bounds: true,
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
                self.bounds = true;
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
    /// the consoles of what runs. A daemon that has refused it is not told again.
    pub fn bound(&mut self, tenant: &Path, bytes: u64) {
        let Some((name, number)) =
            extensions::bound_archives(tenant, bytes).filter(|_| self.bounds)
        else {
            return;
        };
        self.ask(&name, number, Request::Bound);
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
        self.asked.push_back(PendingConsole {
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
            let result = match message.payload {
                Payload::Reply(_) => Ok(()),
                Payload::Failure(text) => Err(text.to_lossy()),
                _ => Err("it answers with something else than an answer".to_owned()),
            };
            if let (Request::Bound, Err(why)) = (&asked.request, &result)
                && std::mem::replace(&mut self.bounds, false)
            {
                log::info!("console daemon: policies do not bound its archives: {why}");
            }
            outcomes.extend(asked.ends(result));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::directory::Directory;
    use crate::wire::Success;
    use crate::wire::frame::{read_frame, write_frame};

    /// Reads a request, answers it, and returns its name and number.
    fn answer(daemon: &mut UnixStream, payload: Payload) -> (String, i64) {
        let request = read_frame(daemon, MAX_MESSAGE).unwrap().unwrap();
        let request = Message::decode(&request).unwrap();
        let Payload::Command(Command::Console(ConsoleCommand::Add(number))) = request.payload
        else {
            panic!("{request:?}");
        };
        let name = request.header.name.to_lossy();
        let answer = Message::answer(request.header, payload);
        write_frame(daemon, &answer.encode().unwrap()).unwrap();
        (name, number.get())
    }

    #[test]
    fn a_daemon_that_does_not_know_of_bounds_serves_on_and_is_not_told_again() {
        let directory = Directory::short();
        let path = directory.0.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut link = ConsoleLink::new(path);
        assert!(link.connect(Instant::now(), true));
        let (mut daemon, _) = listener.accept().unwrap();
        let (tenant, name): (Path, Name) = ("t".parse().unwrap(), "t:a".parse().unwrap());
        link.bound(&tenant, 5);
        link.add(&name, 1, Int::new(7)).unwrap();
        let refusal = Payload::Failure("opening".into());
        let done = || Payload::Reply(Success::Empty(()));
        assert_eq!(answer(&mut daemon, refusal), ("t:archive-bound".into(), -5));
        assert_eq!(answer(&mut daemon, done()), ("t:a".into(), 7));
        let outcomes = link.progress(Instant::now());
        assert!(matches!(
            &outcomes[..],
            [Outcome {
                call: 1,
                result: Ok(()),
                ..
            }]
        ));
        link.bound(&tenant, 6);
        link.add(&name, 2, Int::new(8)).unwrap();
        assert_eq!(answer(&mut daemon, done()), ("t:a".into(), 8));
    }
}
