//! Process of the statistics daemon: one thread around poll(2), which never waits for a single peer.

mod options;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use nix::poll::PollFlags;

use super::collect::{Interfaces, Target};
use super::registry::Registry;
use super::report::{Draft, Reporter};
use super::supervisor::{self, Announcement};
use crate::command_line;
use crate::daemon::{self, DaemonError, Manager, Signals};
use crate::logging::Verbosity;
use crate::name::{Name, Path};
use crate::sandbox::{self, Access, Breach, Need};
use crate::self_metrics::SelfMetrics;
use crate::socket::{
    self, ClientEvent, ClientId, Clients, ConnectionLimits, Directory, DisconnectReason, Link,
    Received, TENANT_PART,
};
use crate::sys::poll::Poll;
use crate::wire::{
    Command, Data, Header, Int, Int64, Message, Payload, Statistics, StatsAdd, StatsCommand,
    Success, VERSION, domain,
};

use options::Options;

pub use super::report::{DETAILS, MAX_DETAILS};

/// Maximum number of connections. While there are so many, further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 128;

/// Shares of users in the connections.
pub const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits::of(MAX_CONNECTIONS);

/// Maximum number of subscriptions of one tenant, which is the first label of a path; those of root do not count.
pub const MAX_OF_TENANT: usize = MAX_CONNECTIONS / TENANT_PART;

/// Default interval between two rounds (BEHAVIOUR 7).
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of queued bytes with which a subscriber gets a round; with more it misses the round.
pub const MAX_BACKLOG: usize = 1 << 16;

/// Maximum number of bytes queued for a client: a subscriber misses the rest of a round that is
/// larger; a client that goes on asking is disconnected.
pub const MAX_QUEUE: usize = 1 << 22;

/// Runs the daemon, and returns its exit code.
pub fn main() -> i32 {
    const PROGRAM: &str = "petrel-stats";
    let options: Options = command_line::parse(PROGRAM);
    let verbosity = Verbosity {
        quiet: options.quiet,
        verbose: options.verbose,
    };
    daemon::main(PROGRAM, verbosity, options.syslog, || run(&options))
}

fn run(options: &Options) -> Result<(), DaemonError> {
    let mut signals =
        Signals::listen().map_err(|error| DaemonError::System("receive signals", error))?;
    daemon::raise_descriptor_limit();
    daemon::runtime_directories(&options.tmpdir)
        .map_err(|(path, error)| DaemonError::Directory(path, error))?;
    let supervisor = socket::path(&options.tmpdir, socket::SUPERVISOR);
    let reporter = options
        .prometheus
        .clone()
        .map(|file| Reporter::open(file, supervisor.clone()))
        .transpose()?;
    let path = socket::path(&options.tmpdir, socket::STATISTICS);
    let listener = daemon::listener(&path, options.systemd_socket_activation)?;
    let sockets = Directory::open(&options.tmpdir);
    let mut daemon = Daemon {
        registry: Registry::new(MAX_OF_TENANT),
        clients: Clients::new(listener, CONNECTION_LIMITS),
        behind: BTreeMap::new(),
        supervisor: supervisor::link(supervisor),
        interval: options.interval,
        next_round: Instant::now() + options.interval,
        reporter,
        missed: 0,
        with_machines: options.gather_bhyve_stats,
        self_metrics: SelfMetrics::new("albatross_stats", options.influx),
        manager: Manager::ready(),
    };
    let mut needs = vec![Need::Accept, Need::Manager, Need::Counters, sockets.need()];
    if let Some(reporter) = &daemon.reporter {
        needs.push(Need::Directory(
            reporter.directory().as_fd(),
            Access::Change,
        ));
    }
    if !options.systemd_socket_activation
        && let Need::LocalSockets(directory) = sockets.need()
    {
        needs.push(Need::Directory(directory, Access::Remove));
    }
    needs.extend(daemon.self_metrics.port().map(Need::Tcp));
    sandbox::confine(&needs, Breach::Refuse);
    let ended = daemon.serve(&mut signals);
    if !options.systemd_socket_activation
        && let Err(error) = fs::remove_file(&path)
    {
        warn!("cannot remove '{}': {error}", path.display());
    }
    ended
}

/// Source of an event.
#[derive(Clone, Copy, Debug)]
enum Source {
    Client(ClientEvent),
    /// Signals and connections to other daemons, which are attended to in each turn.
    EachTurn,
}

#[derive(Debug)]
struct Daemon {
    registry: Registry<Target>,
    clients: Clients,
    /// Rounds in a row that these clients have missed.
    behind: BTreeMap<ClientId, u64>,
    supervisor: Link,
    interval: Duration,
    /// Time of the next round.
    next_round: Instant,
    reporter: Option<Reporter>,
    /// Number of rounds that subscribers have missed.
    missed: u64,
    /// Whether counters of virtual machines are gathered.
    with_machines: bool,
    self_metrics: SelfMetrics,
    manager: Manager,
}

impl Daemon {
    /// Serves until a signal ends the daemon.
    fn serve(&mut self, signals: &mut Signals) -> Result<(), DaemonError> {
        loop {
            let events = self.wait(signals)?;
            signals.drain();
            if signals.terminate() {
                info!("asked to end");
                self.manager.stopping();
                return Ok(());
            }
            let now = Instant::now();
            for told in supervisor::progress(&mut self.supervisor, now) {
                self.told(told);
            }
            for (source, events) in events {
                match source {
                    Source::Client(ClientEvent::Connection(id)) => self.attend(id, events, now),
                    Source::Client(ClientEvent::Listener) => self.clients.accept(now),
                    Source::EachTurn => {}
                }
            }
            if let Some(reporter) = &mut self.reporter {
                reporter.progress(now);
            }
            if now >= self.next_round {
                self.next_round = next_round(self.next_round, self.interval, now);
                self.gather(now);
            }
            for id in self.clients.late(now) {
                self.forget(id);
            }
            self.self_metrics.progress(now, |lines| {
                lines.connections("unix", self.clients.count(), self.clients.accepted());
            });
            self.manager.progress(now);
        }
    }

    /// Waits for events, or for the next deadline.
    fn wait(&self, signals: &Signals) -> Result<Vec<(Source, PollFlags)>, DaemonError> {
        let mut poll = Poll::new();
        self.clients.register(&mut poll, Source::Client);
        poll.add_readable(Source::EachTurn, signals);
        self.supervisor.register(&mut poll, Source::EachTurn);
        self.self_metrics.register(&mut poll, Source::EachTurn);
        if let Some(reporter) = &self.reporter {
            if let Some(peer) = reporter.peer() {
                peer.register(&mut poll, Source::EachTurn);
            }
            poll.until(reporter.deadline());
        }
        poll.until([self.next_round]);
        poll.until(self.manager.deadline());
        poll.wait()
            .map_err(|error| DaemonError::System("wait for events", error))
    }

    /// Handles events of a connection.
    fn attend(&mut self, id: ClientId, events: PollFlags, now: Instant) {
        if let Err(why) = self.converse(id, events, now) {
            debug!("connection {id}: closed: {why}");
            return self.forget(id);
        }
        let client = self.clients.get(id);
        if client.is_some_and(|client| client.is_done(events)) {
            self.forget(id);
        }
    }

    fn converse(&mut self, id: ClientId, events: PollFlags, now: Instant) -> Result<(), String> {
        let lost = |lost: DisconnectReason| lost.to_string();
        if let Some(client) = self.clients.get_mut(id) {
            client.progress(events).map_err(lost)?;
        }
        while let Some(client) = self.clients.get_mut(id) {
            let request = match client.next(now).map_err(lost)? {
                Received::Request(request) => request,
                Received::Nothing => break,
                Received::End => {
                    client.close(now);
                    break;
                }
            };
            // An invalid message ends the connection without an answer (WIRE 3).
            let message = Message::decode(&request).map_err(|error| error.to_string())?;
            let answer = self.carry_out(id, &message);
            self.answer(id, message.header, answer, now)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, id: ClientId, message: &Message) -> Result<&'static str, String> {
        let name = domain::name(&message.header.name).map_err(|error| error.to_string())?;
        let Payload::Command(Command::Statistics(command)) = &message.payload else {
            return Err("not a command for the statistics daemon".to_owned());
        };
        match command {
            StatsCommand::Subscribe(()) => {
                info!("connection {id}: subscribes to {name}");
                self.subscribe(id, name).map(|()| "subscribed")
            }
            StatsCommand::Add(add) => {
                self.check_administrator(id)?;
                self.observe(name, add).map(|()| "added")
            }
            StatsCommand::Remove(()) => {
                self.check_administrator(id)?;
                self.registry.remove(&name);
                Ok("removed")
            }
            StatsCommand::Initial(()) => {
                Err("this is the statistics daemon, which introduces itself to others".to_owned())
            }
        }
    }

    fn subscribe(&mut self, id: ClientId, to: Name) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(id) else {
            return Ok(());
        };
        let quota = client.peer().quota();
        let subscribed = self.registry.subscribe(id, to, quota);
        subscribed.map_err(|full| full.to_string())?;
        client.allow_silence();
        Ok(())
    }

    /// Refuses requests that only root may make: readers of statistics do not decide what is gathered for others.
    fn check_administrator(&self, id: ClientId) -> Result<(), String> {
        match self.clients.get(id) {
            Some(client) if !client.peer().is_trusted() => Err(
                "cannot change what is observed: only the supervisor and root may do that"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Sends an answer; an error ends the connection (WIRE 7.2).
    fn answer(
        &mut self,
        id: ClientId,
        header: Header,
        answer: Result<&'static str, String>,
        now: Instant,
    ) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(id) else {
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
        let frame = socket::framed(&Message::answer(header, payload));
        client
            .send_at_most(&frame, MAX_QUEUE)
            .map_err(|lost| lost.to_string())?;
        if refused {
            client.close(now);
        }
        Ok(())
    }

    fn told(&mut self, told: Announcement) {
        match told {
            Announcement::Add(name, add) => {
                if let Err(why) = self.observe(name.clone(), &add) {
                    warn!("{name}: cannot be observed: {why}");
                }
            }
            Announcement::Remove(name) => self.registry.remove(&name),
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

    /// Gathers the statistics that have subscribers, and sends them to those that keep up.
    fn gather(&mut self, now: Instant) {
        let interfaces = match Interfaces::now() {
            Ok(interfaces) => interfaces,
            Err(error) => return error!("cannot list network interfaces: {error}"),
        };
        let mut readers = self.readers();
        let mut broken = Vec::new();
        let (mut samples, mut disks) = (Vec::new(), Vec::new());
        let clients = &mut self.clients;
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
                    warn!("{name}: no longer observed: {error}");
                    return false;
                }
            };
            // One frame for all subscribers that get the same.
            let mut frames: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
            for (id, left_out) in wanted {
                if !readers.contains(&id) {
                    continue;
                }
                let frame = frames
                    .entry(left_out)
                    .or_insert_with(|| sample(name, left_out, &used));
                let Some(client) = clients.get_mut(id) else {
                    continue;
                };
                if client.queued() + frame.len() > MAX_QUEUE {
                    readers.remove(&id);
                    miss(&mut self.behind, id);
                    self.missed += 1;
                } else if let Err(why) = client.send(frame) {
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

    /// Clients that keep up; the others miss this round.
    fn readers(&mut self) -> BTreeSet<ClientId> {
        let mut readers = BTreeSet::new();
        for (id, client) in self.clients.iter() {
            if client.queued() <= MAX_BACKLOG {
                readers.insert(id);
                self.behind.remove(&id);
                continue;
            }
            miss(&mut self.behind, id);
            self.missed += 1;
        }
        readers
    }

    fn forget(&mut self, id: ClientId) {
        self.clients.remove(id);
        self.behind.remove(&id);
        self.registry.unsubscribe(id);
    }
}

/// Counts that a subscriber misses a round, or the rest of it.
fn miss(behind: &mut BTreeMap<ClientId, u64>, id: ClientId) {
    let missed = behind.entry(id).or_default();
    *missed += 1;
    debug!("connection {id}: does not read, and missed {missed} times");
}

/// Time of the round after the one at `due`. Missed rounds are skipped: after a delay a whole interval follows.
fn next_round(due: Instant, interval: Duration, now: Instant) -> Instant {
    let next = due + interval;
    if next <= now { now + interval } else { next }
}

/// Frame with the statistics of `name`, for subscribers for whom so many labels of its path are left out.
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
    socket::framed(&Message::answer(header, Payload::Data(data)))
}

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
