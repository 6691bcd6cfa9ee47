//! Process of the console daemon: one thread around poll(2), which never waits for a single peer or guest.

mod delivery;
mod options;
mod requests;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use log::{debug, error, info, warn};
use nix::poll::PollFlags;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::archive::Archive;
use super::fifo::{Arrived, Fifo};
use super::registry::Registry;
use super::ring::{LINES, Moment};
use crate::command_line;
use crate::daemon::{self, DaemonError, Manager, Signals};
use crate::logging::Verbosity;
use crate::name::Name;
use crate::sandbox::{self, Access, Breach, Need};
use crate::self_metrics::SelfMetrics;
use crate::socket::{
    self, ClientEvent, ClientId, Clients, ConnectionLimits, DisconnectReason, Received,
};
use crate::stats::collect::SelfUsage;
use crate::sys::poll::Poll;

pub use options::ConsoleError;
use options::Options;

/// Maximum number of connections: subscribers, supervisors, single questions. While there are so many, further ones wait to be
/// accepted.
pub const MAX_CONNECTIONS: usize = 256;

/// Shares of users in the connections.
pub const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits::of(MAX_CONNECTIONS);

/// Maximum number of bytes of lines queued for a subscriber, and a line more. Later lines are read from the console's
/// ring when there is space; those that the ring has dropped by then are missed.
pub const MAX_WAITING_LINES: usize = 1 << 18;

/// Bytes read from a fifo at once: the capacity of a pipe of the usual size.
const READ: usize = 1 << 16;

/// Reads of one fifo before the others have their turn.
const READS: usize = 16;

/// Reads of the rest of a replaced fifo: the capacity of a pipe of the greatest usual size (1 MB).
const LAST_READS: usize = 1 << 5;

/// Lines stored before subscribers get them: fewer than a ring holds, or even quick readers would miss some.
const LINES_AT_ONCE: usize = LINES / 2;

/// Maximum number of bytes queued for a client. The longest answer, all consoles with the longest
/// names, takes about half of it.
pub const MAX_QUEUE: usize = 1 << 19;

/// Runs the daemon, and returns its exit code.
pub fn main() -> i32 {
    const PROGRAM: &str = "petrel-console";
    let options: Options = command_line::parse(PROGRAM);
    let verbosity = Verbosity {
        quiet: options.quiet,
        verbose: options.verbose,
    };
    daemon::main(PROGRAM, verbosity, options.syslog, || run(&options))
}

fn run(options: &Options) -> Result<(), ConsoleError> {
    let mut signals =
        Signals::listen().map_err(|error| DaemonError::System("receive signals", error))?;
    daemon::raise_descriptor_limit();
    let fifo_directory = options.tmpdir.join(socket::FIFOS);
    daemon::runtime_directories(&options.tmpdir)
        .map_err(|(path, error)| DaemonError::Directory(path, error))?;
    let open =
        |path: &Path| File::open(path).map_err(|error| DaemonError::Open(path.to_owned(), error));
    let fifos = open(&fifo_directory)?;
    let archives = options.archives()?;
    let logs = options.log_dir.as_deref().map(open).transpose()?;
    let path = socket::path(&options.tmpdir, socket::CONSOLE);
    let listener = daemon::listener(&path, options.systemd_socket_activation)?;
    // A socket of systemd is not removed at the end.
    let sockets = (!options.systemd_socket_activation)
        .then(|| open(&options.tmpdir.join(socket::DIRECTORY)))
        .transpose()?;
    let mut daemon = Daemon {
        fifo_directory: fifos,
        registry: Registry::new(options.max_subscribers),
        fifos: BTreeMap::new(),
        clients: Clients::new(listener, CONNECTION_LIMITS),
        archives,
        buffer: vec![0; READ],
        opened: 0,
        self_metrics: SelfMetrics::new("albatross_console", options.influx),
        manager: Manager::ready(),
    };
    let directories = [
        (Some(&daemon.fifo_directory), Access::Read),
        (sockets.as_ref(), Access::Remove),
        (logs.as_ref(), Access::Change),
    ];
    let directories = directories.into_iter();
    let mut needs: Vec<_> = directories
        .filter_map(|(directory, access)| Some(Need::Directory(directory?.as_fd(), access)))
        .collect();
    needs.extend([Need::Accept, Need::Manager]);
    if options.syslog_consoles {
        needs.push(Need::AllLocalSockets);
    }
    let own = daemon.self_metrics.own().and_then(SelfUsage::directory);
    needs.extend(own.map(|directory| Need::Directory(directory, Access::Read)));
    needs.extend(daemon.self_metrics.port().map(Need::Tcp));
    sandbox::confine(&needs, Breach::Refuse);
    info!("ready, fifos in {}", fifo_directory.display());
    let ended = daemon.serve(&mut signals);
    if let Some(sockets) = sockets
        && let Err(error) = unlinkat(&sockets, socket::CONSOLE, UnlinkatFlags::NoRemoveDir)
    {
        warn!("cannot remove '{}': {error}", path.display());
    }
    Ok(ended?)
}

#[derive(Debug)]
struct Daemon {
    fifo_directory: File,
    registry: Registry,
    /// Fifos of running unikernels.
    fifos: BTreeMap<Name, Fifo>,
    clients: Clients,
    archives: Vec<Archive>,
    /// Buffer for reading fifos.
    buffer: Vec<u8>,
    /// Number of fifos opened so far.
    opened: u64,
    self_metrics: SelfMetrics,
    manager: Manager,
}

/// Source of an event.
#[derive(Debug)]
enum Source<N> {
    Signals,
    /// The console of this name.
    Fifo(N),
    Client(ClientEvent),
    /// The collector, which is attended to in each turn.
    Collector,
}

impl Source<&Name> {
    fn cloned(self) -> Source<Name> {
        match self {
            Self::Signals => Source::Signals,
            Self::Fifo(name) => Source::Fifo(name.clone()),
            Self::Client(event) => Source::Client(event),
            Self::Collector => Source::Collector,
        }
    }
}

impl Daemon {
    /// Serves until a signal ends the daemon.
    fn serve(&mut self, signals: &mut Signals) -> Result<(), DaemonError> {
        loop {
            for (source, events) in self.wait(signals)? {
                match source {
                    Source::Signals => {
                        signals.drain();
                        if signals.terminate() {
                            info!("asked to end");
                            self.manager.stopping();
                            return Ok(());
                        }
                        if signals.reload() {
                            self.archives.iter_mut().for_each(Archive::reopen);
                        }
                    }
                    Source::Fifo(name) => self.read_fifo(&name),
                    Source::Client(ClientEvent::Connection(id)) => self.attend(id, events),
                    Source::Client(ClientEvent::Listener) => self.clients.accept(Instant::now()),
                    Source::Collector => {}
                }
            }
            let now = Instant::now();
            for id in self.clients.late(now) {
                self.forget(id);
            }
            self.self_metrics.progress(now, |lines| {
                lines.connections("unix", self.clients.count(), self.clients.accepted());
                lines.connections("fifo", self.fifos.len(), self.opened);
            });
            self.manager.progress(now);
            self.catch_up();
        }
    }

    /// Waits for the next events, or for the next deadline.
    fn wait(&self, signals: &Signals) -> Result<Vec<(Source<Name>, PollFlags)>, DaemonError> {
        let mut poll = Poll::new();
        poll.add_readable(Source::Signals, signals);
        // Before the clients: an event of a fifo is never applied to one that a request has opened since.
        for (name, fifo) in &self.fifos {
            poll.add_readable(Source::Fifo(name), fifo);
        }
        self.clients.register(&mut poll, Source::Client);
        self.self_metrics.register(&mut poll, Source::Collector);
        poll.until(self.manager.deadline());
        let behind = self.archives.iter().flat_map(Archive::behind);
        poll.until(behind.map(|(_, again)| again));
        let ready = poll
            .wait()
            .map_err(|error| DaemonError::System("wait for events", error))?;
        // Only the names of ready consoles are copied.
        let ready = ready.into_iter();
        Ok(ready
            .map(|(source, events)| (source.cloned(), events))
            .collect())
    }

    /// Archives lines that could not be archived before.
    fn catch_up(&mut self) {
        let (now, clock) = (Instant::now(), clock());
        for archive in &mut self.archives {
            let behind: Vec<_> = archive.behind().map(|(name, _)| name.clone()).collect();
            for name in behind {
                match self.registry.ring(&name) {
                    Some(ring) => archive.go_on(&name, ring, now, clock),
                    None => archive.forget(&name),
                }
            }
        }
    }

    fn read_fifo(&mut self, name: &Name) {
        let Some(mut fifo) = self.fifos.remove(name) else {
            return;
        };
        if self.take_in(name, &mut fifo, READS) == Arrived::End {
            // A fifo at its end would be reported by poll(2) for ever.
            self.end_line(name, &mut fifo);
            self.registry.deactivate(name);
            self.deliver(name);
            if let Some(ring) = self.registry.ring(name) {
                for archive in &mut self.archives {
                    archive.end(name, ring, Instant::now(), clock());
                }
            }
            debug!("{name}: nobody writes to the console any longer");
        } else {
            self.fifos.insert(name.clone(), fifo);
        }
    }

    /// Reads a fifo until it is empty or at its end, at most so many times.
    fn take_in(&mut self, name: &Name, fifo: &mut Fifo, reads: usize) -> Arrived {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut outcome = Arrived::Nothing;
        for _ in 0..reads {
            outcome = fifo.read(&mut buffer).unwrap_or_else(|error| {
                error!("{name}: cannot read the console: {error}");
                Arrived::End
            });
            let Arrived::Bytes(count) = outcome else {
                break;
            };
            let arrived = clock();
            let mut bytes = &buffer[..count];
            if !self.is_read_along(name)
                && let Some(ring) = self.registry.ring_mut(name)
            {
                let (rest, lines) = fifo.splitter.pass_over(bytes, LINES);
                ring.pass_over(lines);
                bytes = rest;
            }
            while !bytes.is_empty() {
                let Some(ring) = self.registry.ring_mut(name) else {
                    break;
                };
                bytes = fifo
                    .splitter
                    .push(bytes, LINES_AT_ONCE, |line| ring.push(arrived, line));
                self.deliver(name);
            }
        }
        self.buffer = buffer;
        outcome
    }

    /// Ends the last line, which needs no newline.
    fn end_line(&mut self, name: &Name, fifo: &mut Fifo) {
        if let Some(ring) = self.registry.ring_mut(name) {
            fifo.splitter.finish(|line| ring.push(clock(), line));
        }
    }

    /// Handles events of a connection.
    fn attend(&mut self, id: ClientId, events: PollFlags) {
        if let Err(lost) = self.converse(id, events) {
            self.lose(id, &lost);
        }
        let client = self.clients.get(id);
        if client.is_some_and(|client| client.is_done(events)) {
            self.forget(id);
        }
    }

    fn converse(&mut self, id: ClientId, events: PollFlags) -> Result<(), DisconnectReason> {
        if let Some(client) = self.clients.get_mut(id) {
            client.progress(events)?;
        }
        if events.contains(PollFlags::POLLOUT) {
            self.feed(id);
        }
        let now = Instant::now();
        while let Some(client) = self.clients.get_mut(id) {
            match client.next(now)? {
                Received::Request(request) => self.request(id, &request),
                Received::Nothing => break,
                Received::End => {
                    self.registry.unsubscribe(id);
                    client.close(now);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, id: ClientId, bytes: &[u8]) {
        if let Some(client) = self.clients.get_mut(id)
            && let Err(lost) = client.send_at_most(bytes, MAX_QUEUE)
        {
            self.lose(id, &lost);
        }
    }

    fn close(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id) {
            client.close(Instant::now());
        }
    }

    fn lose(&mut self, id: ClientId, lost: &DisconnectReason) {
        match lost {
            DisconnectReason::Io(error) => debug!("connection {id}: closed: {error}"),
            DisconnectReason::Frame(_) | DisconnectReason::Slow(_) => {
                warn!("connection {id}: closed: {lost}");
            }
        }
        self.forget(id);
    }

    fn forget(&mut self, id: ClientId) {
        self.clients.remove(id);
        self.registry.unsubscribe(id);
    }
}

/// Time of the host's clock; a clock before 1970 counts as 1970.
fn clock() -> Moment {
    let since = daemon::wall_clock();
    Moment {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::console::registry::Extent;
    use crate::console::ring::History;
    use crate::directory::Directory;
    use crate::socket::Quota;

    #[test]
    fn whoever_takes_all_at_once_gets_all() {
        let directory = Directory::short();
        let path = directory.0.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut clients = Clients::new(listener, ConnectionLimits::of(8));
        let _peer = UnixStream::connect(&path).unwrap();
        clients.accept(Instant::now());
        // As much as the ring has with its frames, and more than may wait for a subscriber.
        let ours = clients.get(0).unwrap().peer();
        setsockopt(ours, sockopt::SndBuf, &(1 << 20)).unwrap();
        let mut daemon = Daemon {
            fifo_directory: File::open(&directory.0).unwrap(),
            registry: Registry::new(1),
            fifos: BTreeMap::new(),
            clients,
            archives: Vec::new(),
            buffer: Vec::new(),
            opened: 0,
            self_metrics: SelfMetrics::new("", None),
            manager: Manager::ready(),
        };
        let name: Name = ":a".parse().unwrap();
        daemon.registry.add(&name, 1).unwrap();
        let ring = daemon.registry.ring_mut(&name).unwrap();
        for number in 0..LINES {
            ring.push(clock(), format!("{number:0250}").as_bytes());
        }
        let all = History::Count(i64::MAX);
        let all = (all, Extent::History);
        let subscribed = daemon.registry.subscribe(0, &name, all, Quota::Tenant);
        assert!(subscribed.unwrap().known);
        daemon.feed(0);
        // Queued bytes are sent as soon as poll(2) allows, and then the rest: without a queue there would be no such event.
        let client = daemon.clients.get(0).unwrap();
        assert!(client.queued() > 0 || client.is_done(PollFlags::empty()));
    }
}
