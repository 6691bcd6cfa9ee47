//! The statistics daemon's process: one thread around poll(2), in which nothing waits for a single peer.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use argh::FromArgs;
use log::{debug, error, info, warn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::collect::{Interfaces, Target};
use super::connection::Connection;
use super::registry::Registry;
use super::report::{Draft, Reporter};
use super::supervisor::{SupervisorLink, Told};
use crate::command_line::{self, USAGE};
use crate::daemon::{self, ACCEPT_PAUSE, Manager, Signals};
use crate::logging::{self, Verbosity};
use crate::name::{Name, Path};
use crate::socket;
use crate::wire::{
    Command, Data, Header, Int, Int64, Message, Payload, Statistics, StatsAdd, StatsCommand,
    Success, VERSION, domain, frame,
};

pub use super::connection::{MAX_BACKLOG, MAX_QUEUE, MAX_REQUEST, PATIENCE};
pub use super::report::{DETAILS, MAX_DETAILS};
pub use super::supervisor::{ANSWER, LONGEST_RETRY};

/// Most connections at once. While there are so many, further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 128;

/// How often something is gathered unless the operator says otherwise (BEHAVIOUR 7).
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Connections accepted in one round.
const ACCEPT_BURST: usize = 16;

/// Gather what unikernels use, and hand it to clients.
#[derive(FromArgs, Debug)]
struct Options {
    /// folder of sockets
    #[argh(
        option,
        arg_name = "folder",
        default = "PathBuf::from(socket::RUNTIME_FOLDER)"
    )]
    tmpdir: PathBuf,

    /// seconds from one time that something is gathered to the next, 0.1 to 3600 (default 10)
    #[argh(
        option,
        arg_name = "seconds",
        default = "INTERVAL",
        from_str_fn(interval)
    )]
    interval: Duration,

    /// rewrite this file for `node_exporter` each time
    #[argh(option, arg_name = "file")]
    prometheus: Option<PathBuf>,

    /// gather counters of virtual machines, too; only FreeBSD has them
    #[argh(switch)]
    gather_bhyve_stats: bool,

    /// log to syslog
    #[argh(switch)]
    syslog: bool,

    /// listen on the socket that systemd hands over
    #[argh(switch)]
    systemd_socket_activation: bool,

    /// log more; twice for every detail
    #[argh(switch, short = 'v')]
    verbose: u8,

    /// log nothing
    #[argh(switch, short = 'q')]
    quiet: bool,
}

/// Why the daemon could not start or go on.
#[derive(Debug)]
pub enum DaemonError {
    /// The folder is missing and cannot be made, or is none.
    Folder(PathBuf, io::Error),
    /// Listening on this socket failed.
    Listen(PathBuf, io::Error),
    /// No socket was handed over.
    Activation(io::Error),
    /// Something else of the system's.
    System(&'static str, io::Error),
}

/// Runs the daemon to its end and returns its exit code.
pub fn main() -> i32 {
    const PROGRAM: &str = "petrel-stats";
    let options: Options = command_line::parse(PROGRAM);
    let verbosity = Verbosity {
        quiet: options.quiet,
        verbose: options.verbose,
    };
    if let Err(code) = logging::start_daemon(PROGRAM, verbosity, options.syslog) {
        return code;
    }
    match run(&options) {
        Ok(()) => 0,
        Err(error) => {
            error!("{error}");
            USAGE
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0.1..=3600.0) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("'{text}' is no number of seconds from 0.1 to 3600")),
    }
}

fn run(options: &Options) -> Result<(), DaemonError> {
    let mut signals =
        Signals::listen().map_err(|error| DaemonError::System("receive signals", error))?;
    daemon::raise_descriptor_limit();
    daemon::runtime_folders(&options.tmpdir)
        .map_err(|(path, error)| DaemonError::Folder(path, error))?;
    let supervisor = socket::path(&options.tmpdir, socket::SUPERVISOR);
    let reporter = options
        .prometheus
        .clone()
        .map(|file| Reporter::new(file, supervisor.clone()))
        .transpose()
        .map_err(|error| DaemonError::System("ask for the size of a page", error))?;
    let path = socket::path(&options.tmpdir, socket::STATISTICS);
    let listener = if options.systemd_socket_activation {
        socket::activated().map_err(DaemonError::Activation)?
    } else {
        socket::listen(&path).map_err(|error| DaemonError::Listen(path.clone(), error))?
    };
    info!("listening on {}", path.display());
    let mut daemon = Daemon {
        registry: Registry::default(),
        connections: BTreeMap::new(),
        next_connection: 0,
        no_accept_before: None,
        supervisor: SupervisorLink::new(supervisor),
        interval: options.interval,
        next_round: Instant::now() + options.interval,
        reporter,
        missed: 0,
        with_machines: options.gather_bhyve_stats,
        manager: Manager::ready(),
    };
    let ended = daemon.serve(&listener, &mut signals);
    if !options.systemd_socket_activation
        && let Err(error) = fs::remove_file(&path)
    {
        warn!("cannot remove {}: {error}", path.display());
    }
    ended
}

/// Numbers connections, and with that subscribers, in the order of arrival.
type ConnectionId = u64;

#[derive(Debug)]
struct Daemon {
    registry: Registry<Target>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    no_accept_before: Option<Instant>,
    supervisor: SupervisorLink,
    interval: Duration,
    /// When something is gathered next.
    next_round: Instant,
    reporter: Option<Reporter>,
    /// How often subscribers missed a round.
    missed: u64,
    /// Whether counters of virtual machines are gathered.
    with_machines: bool,
    manager: Manager,
}

impl Daemon {
    /// Serves until a signal asks for the end.
    fn serve(&mut self, listener: &UnixListener, signals: &mut Signals) -> Result<(), DaemonError> {
        loop {
            let (acceptable, ready) = self.wait(listener, signals)?;
            signals.drain();
            if signals.terminate() {
                info!("asked to end");
                self.manager.stopping();
                return Ok(());
            }
            let now = Instant::now();
            for told in self.supervisor.progress(now) {
                self.told(told);
            }
            for (id, ready) in ready {
                self.attend(id, ready, now);
            }
            if acceptable {
                self.accept(listener, now);
            }
            if let Some(reporter) = &mut self.reporter {
                reporter.progress(now);
            }
            if now >= self.next_round {
                self.next_round = next_round(self.next_round, self.interval, now);
                self.gather(now);
            }
            self.end_patience(now);
            self.manager.progress(now);
        }
    }

    /// Waits for something to happen, or for the next deadline: whether there is somebody to accept, and which
    /// connections are ready.
    fn wait(
        &self,
        listener: &UnixListener,
        signals: &Signals,
    ) -> Result<(bool, Vec<(ConnectionId, PollFlags)>), DaemonError> {
        let accepting = self.connections.len() < MAX_CONNECTIONS && self.no_accept_before.is_none();
        let listening = if accepting {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        };
        let mut waiting = vec![PollFd::new(listener.as_fd(), listening)];
        for connection in self.connections.values() {
            waiting.push(PollFd::new(connection.as_fd(), connection.interest()));
        }
        waiting.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        let reports = self.reporter.as_ref().and_then(Reporter::peer);
        for peer in self.supervisor.peer().into_iter().chain(reports) {
            waiting.push(PollFd::new(peer.as_fd(), peer.interest(true)));
        }
        match poll(&mut waiting, self.timeout()) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(DaemonError::System("wait for events", error.into())),
        }
        let mut ready = waiting
            .iter()
            .map(|one| one.revents().unwrap_or(PollFlags::POLLERR));
        let acceptable = ready.next().is_some_and(|ready| !ready.is_empty());
        let connections = self.connections.keys().copied().zip(ready);
        Ok((
            acceptable,
            connections.filter(|(_, ready)| !ready.is_empty()).collect(),
        ))
    }

    fn timeout(&self) -> PollTimeout {
        let patience = self.connections.values().filter_map(Connection::deadline);
        daemon::timeout(
            patience
                .chain(self.no_accept_before)
                .chain(self.supervisor.deadline())
                .chain(self.reporter.as_ref().and_then(Reporter::deadline))
                .chain([self.next_round])
                .chain(self.manager.deadline())
                .min(),
        )
    }

    fn end_patience(&mut self, now: Instant) {
        self.no_accept_before.take_if(|until| *until <= now);
        let overdue = |connection: &Connection| connection.deadline().is_some_and(|at| at <= now);
        let late: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| overdue(connection))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            warn!("connection {id}: closed, as its peer takes more than {PATIENCE:?}");
            self.forget(id);
        }
    }

    fn accept(&mut self, listener: &UnixListener, now: Instant) {
        for _ in 0..ACCEPT_BURST {
            if self.connections.len() >= MAX_CONNECTIONS {
                warn!("{MAX_CONNECTIONS} connections are open, further ones have to wait");
                return;
            }
            match socket::accept(listener) {
                Ok(Some(peer)) => {
                    let connection = Connection::new(peer);
                    self.connections.insert(self.next_connection, connection);
                    self.next_connection += 1;
                }
                Ok(None) => return,
                Err(error) => {
                    error!("cannot accept connections: {error}");
                    self.no_accept_before = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Something happened on a connection.
    fn attend(&mut self, id: ConnectionId, ready: PollFlags, now: Instant) {
        if let Err(why) = self.converse(id, ready, now) {
            debug!("connection {id}: closed: {why}");
            return self.forget(id);
        }
        let connection = self.connections.get(&id);
        if connection.is_some_and(|connection| connection.is_done(ready)) {
            self.forget(id);
        }
    }

    fn converse(&mut self, id: ConnectionId, ready: PollFlags, now: Instant) -> Result<(), String> {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.progress(ready)?;
        }
        while let Some(connection) = self.connections.get_mut(&id) {
            let Some(request) = connection.next(now)? else {
                return Ok(());
            };
            // What is no message ends the connection without an answer (WIRE 3).
            let message = Message::decode(&request).map_err(|error| error.to_string())?;
            let answer = self.carry_out(id, &message);
            self.answer(id, message.header, answer, now)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, id: ConnectionId, message: &Message) -> Result<&'static str, String> {
        let name = domain::name(&message.header.name).map_err(|error| error.to_string())?;
        let Payload::Command(Command::Statistics(command)) = &message.payload else {
            return Err("not a command for the statistics daemon".to_owned());
        };
        match command {
            StatsCommand::Subscribe(()) => {
                info!("connection {id}: subscribes to {name}");
                self.registry.subscribe(id, name);
                Ok("subscribed")
            }
            StatsCommand::Add(add) => self.observe(name, add).map(|()| "added"),
            StatsCommand::Remove(()) => {
                self.registry.remove(&name);
                Ok("removed")
            }
            StatsCommand::Initial(()) => {
                Err("this is the statistics daemon, which introduces itself to others".to_owned())
            }
        }
    }

    /// An error is told, and ends the conversation (WIRE 7.2).
    fn answer(
        &mut self,
        id: ConnectionId,
        header: Header,
        answer: Result<&'static str, String>,
        now: Instant,
    ) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        let refused = answer.is_err();
        let payload = match answer {
            Ok(word) => Payload::Reply(Success::String(word.into())),
            Err(why) => {
                warn!("connection {id}: refused: {why}");
                Payload::Failure(why.into())
            }
        };
        connection.send(&framed(&Message::answer(header, payload)))?;
        if connection.queued_too_much() {
            return Err("it does not read its answers".to_owned());
        }
        if refused {
            connection.close(now);
        }
        Ok(())
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Add(name, add) => {
                if let Err(why) = self.observe(name.clone(), &add) {
                    warn!("{name} is not observed: {why}");
                }
            }
            Told::Remove(name) => self.registry.remove(&name),
        }
    }

    fn observe(&mut self, name: Name, add: &StatsAdd) -> Result<(), String> {
        let target = Target::open(&name, add, self.with_machines);
        let mut target = target.map_err(|error| error.to_string())?;
        if let Some(before) = self.registry.get(&name) {
            target.succeed(before);
        }
        debug!("{name}: process {} is observed", add.pid.get());
        self.registry
            .add(name, target, Target::has_ended)
            .map_err(|error| error.to_string())
    }

    /// Gathers what somebody wants to know, and sends it to all that do and keep up.
    fn gather(&mut self, now: Instant) {
        let interfaces = match Interfaces::now() {
            Ok(interfaces) => interfaces,
            Err(error) => return error!("cannot ask for network interfaces: {error}"),
        };
        let mut readers = BTreeMap::new();
        for (id, connection) in &mut self.connections {
            let keeps_up = connection.keeps_up();
            if !keeps_up {
                self.missed += 1;
                debug!(
                    "connection {id}: does not read, and missed {} times",
                    connection.missed()
                );
            }
            readers.insert(*id, keeps_up);
        }
        let mut broken = Vec::new();
        let (mut samples, mut disks) = (Vec::new(), Vec::new());
        let connections = &mut self.connections;
        let reporting = self.reporter.is_some();
        self.registry.retain(|name, target, subscriptions| {
            let mut wanted = subscriptions.of(name).peekable();
            if wanted.peek().is_none() && !reporting {
                return true;
            }
            let (used, disk) = match target.gather(&interfaces) {
                Ok(Some(used)) => (used.statistics, used.disk),
                Ok(None) => {
                    debug!("{name}: its process has ended");
                    return false;
                }
                Err(error) => {
                    warn!("{name}: is observed no longer: {error}");
                    return false;
                }
            };
            // One frame for all that get the same.
            let mut frames: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
            for (id, left_out) in wanted.filter(|(id, _)| readers.get(id) == Some(&true)) {
                let frame = frames
                    .entry(left_out)
                    .or_insert_with(|| sample(name, left_out, &used));
                if let Some(connection) = connections.get_mut(&id)
                    && let Err(why) = connection.send(frame)
                {
                    debug!("connection {id}: closed: {why}");
                    broken.push(id);
                }
            }
            if reporting {
                samples.push((name.clone(), used));
                disks.extend(disk.map(|disk| (name.clone(), disk)));
            }
            true
        });
        for id in broken {
            self.forget(id);
        }
        if let Some(reporter) = &mut self.reporter {
            let subscribers = self.registry.subscribers();
            let draft = Draft::new(samples, disks, subscribers, self.missed);
            reporter.begin(draft, now);
        }
    }

    fn forget(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.registry.unsubscribe(id);
    }
}

/// When something is gathered after `due`. What was slept through is left out: after a delay a whole interval follows.
fn next_round(due: Instant, interval: Duration, now: Instant) -> Instant {
    let next = due + interval;
    if next <= now { now + interval } else { next }
}

/// The frame with what `name` has used, for those for whom so many labels of its path are left out.
fn sample(name: &Name, left_out: usize, used: &Statistics) -> Vec<u8> {
    let prefix: Path = name
        .path()
        .labels()
        .iter()
        .take(left_out)
        .cloned()
        .collect();
    let shown = name.relative_to(&prefix).unwrap_or_else(|| name.clone());
    let header = Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: shown.to_string().into(),
    };
    let data = Data::Statistics(Box::new(used.clone()));
    framed(&Message::answer(header, Payload::Data(data)))
}

/// The frame around a message of our own, all of which are far below what a frame can hold.
fn framed(message: &Message) -> Vec<u8> {
    message
        .encode()
        .map_err(|error| error.to_string())
        .and_then(|octets| frame::frame(&octets).map_err(|error| error.to_string()))
        .unwrap_or_else(|error| {
            error!("cannot encode a message: {error}");
            Vec::new()
        })
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path, error) => daemon::explain_runtime_folder(f, path, error),
            Self::Listen(path, error) => write!(f, "cannot listen on {}: {error}", path.display()),
            Self::Activation(error) => {
                write!(f, "no socket to listen on was handed over: {error}")
            }
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for DaemonError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_keep_their_beat_and_after_a_delay_there_is_one_not_two() {
        let due = Instant::now();
        let at = |tenths: u32| due + INTERVAL * tenths / 10;
        for (now, next) in [(0, 10), (1, 10), (9, 10), (10, 20), (13, 23), (99, 109)] {
            assert_eq!(next_round(due, INTERVAL, at(now)), at(next), "{now}");
        }
    }
}
