//! The console daemon's process: one thread around poll(2), in which nothing waits for a single peer or guest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use argh::FromArgs;
use log::{debug, error, info, warn};
use nix::poll::PollFlags;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::archive::Archive;
use super::fifo::{Arrived, Fifo};
use super::log_directory::{LOG_FILES, LOG_SIZE, Limits, LogDirectory};
use super::log_quota::LOG_TENANT;
use super::registry::{
    Displaced, DroppedSubscriber, Extent, Next, Registry, SUBSCRIBERS, Subscribed,
};
use super::ring::{History, Item, LINES, Line, Moment};
use super::syslog::{self, Syslog};
use crate::command_line;
use crate::daemon::{self, DaemonError, Manager, Signals};
use crate::logging::Verbosity;
use crate::name::{self, Name};
use crate::sandbox::{self, Access, Breach, Need};
use crate::self_metrics::{SelfMetrics, address};
use crate::socket::{
    self, ClientEvent, ClientId, Clients, ConnectionLimits, DisconnectReason, Quota, Received,
};
use crate::stats::collect::SelfUsage;
use crate::sys::poll::Poll;
use crate::wire::lines::LineFrames;
use crate::wire::{
    CONSOLE_WAITS, Command, ConsoleCommand, ConsoleRead, Header, Int, Int64, Message, Payload,
    SinceCount, Success, Timestamp, VERSION, domain, extensions::archive_bound,
};

/// Most connections at once: subscribers, supervisors, single questions. While there are so many, further ones wait to be
/// accepted.
pub const MAX_CONNECTIONS: usize = 256;

/// Shares of users of these.
pub const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits::of(MAX_CONNECTIONS);

/// Bytes of lines that wait for a subscriber at most, and a line more. What arrives meanwhile is read from the console's
/// ring later; what is no longer there then is missed.
pub const MAX_WAITING_LINES: usize = 1 << 18;

/// Bytes read from a fifo at once: what a pipe of the usual size can hold.
const READ: usize = 1 << 16;

/// Reads of one fifo before the others have their turn.
const READS: usize = 16;

/// Reads of what a replaced fifo still holds: as much as a pipe of the greatest usual size (1 MB) can.
const LAST_READS: usize = 1 << 5;

/// Lines that are kept before those who read along get them: fewer than a ring has, or even quick readers would miss some.
const LINES_AT_ONCE: usize = LINES / 2;

/// Most bytes that wait for a client which does not read them. The longest answer, a list of all consoles with the longest
/// names, takes about half of it.
pub const MAX_QUEUE: usize = 1 << 19;

/// Keep the console output of unikernels and hand it to clients.
#[derive(FromArgs, Debug)]
struct Options {
    /// directory of sockets and fifos
    #[argh(
        option,
        arg_name = "directory",
        default = "PathBuf::from(socket::RUNTIME_DIRECTORY)"
    )]
    tmpdir: PathBuf,

    /// most subscribers of one console; a further one replaces the oldest (default 5)
    #[argh(
        option,
        arg_name = "number",
        default = "SUBSCRIBERS",
        from_str_fn(at_least_one)
    )]
    max_subscribers: usize,

    /// write each console to a file in this directory
    #[argh(option, arg_name = "directory")]
    log_dir: Option<PathBuf>,

    /// with --log-dir: most MiB of a file (default 10)
    #[argh(
        option,
        arg_name = "MiB",
        default = "LOG_SIZE",
        from_str_fn(at_least_one)
    )]
    log_size: u64,

    /// with --log-dir: most files of a console (default 5)
    #[argh(
        option,
        arg_name = "number",
        default = "LOG_FILES",
        from_str_fn(at_least_one)
    )]
    log_files: u32,

    /// with --log-dir: most MiB of all files of a tenant (default 4096)
    #[argh(
        option,
        arg_name = "MiB",
        default = "LOG_TENANT",
        from_str_fn(at_least_one)
    )]
    log_tenant: u64,

    /// send the consoles to syslog
    #[argh(switch)]
    syslog_consoles: bool,

    /// tell this collector of InfluxDB about the daemon itself, IP[:PORT] (port 8094)
    #[argh(option, arg_name = "address", from_str_fn(address))]
    influx: Option<SocketAddr>,

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
pub enum ConsoleError {
    /// What every daemon needs.
    Daemon(DaemonError),
    /// Files cannot be written to this directory.
    LogDirectory(PathBuf, io::Error),
    /// The local syslog daemon cannot be reached.
    Syslog(io::Error),
}

/// Runs the daemon to its end and returns its exit code.
pub fn main() -> i32 {
    const PROGRAM: &str = "petrel-console";
    let options: Options = command_line::parse(PROGRAM);
    let verbosity = Verbosity {
        quiet: options.quiet,
        verbose: options.verbose,
    };
    daemon::main(PROGRAM, verbosity, options.syslog, || run(&options))
}

fn at_least_one<N: FromStr + From<u8> + PartialOrd>(text: &str) -> Result<N, String> {
    match text.parse() {
        Ok(number) if number >= N::from(1) => Ok(number),
        _ => Err(format!("'{text}' is no number of at least 1")),
    }
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
    // That of systemd is not to be removed at the end.
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
        warn!("cannot remove {}: {error}", path.display());
    }
    Ok(ended?)
}

impl Options {
    fn archives(&self) -> Result<Vec<Archive>, ConsoleError> {
        let mut archives = Vec::new();
        if let Some(path) = &self.log_dir {
            let limits = Limits {
                size: self.log_size.saturating_mul(1 << 20),
                files: self.log_files,
                tenant: self.log_tenant.saturating_mul(1 << 20),
            };
            let directory = LogDirectory::open(path, limits)
                .map_err(|error| ConsoleError::LogDirectory(path.clone(), error))?;
            archives.push(Archive::new(Box::new(directory)));
        }
        if self.syslog_consoles {
            let syslog = Syslog::connect(&syslog::SOCKETS).map_err(ConsoleError::Syslog)?;
            archives.push(Archive::new(Box::new(syslog)));
        }
        Ok(archives)
    }
}

#[derive(Debug)]
struct Daemon {
    fifo_directory: File,
    registry: Registry,
    /// What running unikernels write to.
    fifos: BTreeMap<Name, Fifo>,
    clients: Clients,
    archives: Vec<Archive>,
    /// What a fifo is read into.
    buffer: Vec<u8>,
    /// How many fifos were opened so far.
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
    /// Serves until a signal asks for the end.
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

    /// Archives what could not be archived before.
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

    /// Reads a fifo until it is empty or at its end, but so many times at most.
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

    /// Whether somebody takes every line of `name`. Otherwise those need not be kept that newer ones replace at once.
    fn is_read_along(&self, name: &Name) -> bool {
        let takes = |id| {
            let client = self.clients.get(id);
            client.is_some_and(|client| client.queued() < MAX_WAITING_LINES)
        };
        self.archives.iter().any(|archive| archive.takes(name))
            || self.registry.subscribers(name).any(takes)
    }

    /// The last line needs no newline.
    fn end_line(&mut self, name: &Name, fifo: &mut Fifo) {
        if let Some(ring) = self.registry.ring_mut(name) {
            fifo.splitter.finish(|line| ring.push(clock(), line));
        }
    }

    /// Everybody who reads along gets what is new, and the archives.
    fn deliver(&mut self, name: &Name) {
        let subscribers: Vec<_> = self.registry.subscribers(name).collect();
        for id in subscribers {
            self.feed(id);
        }
        if let Some(ring) = self.registry.ring(name) {
            for archive in &mut self.archives {
                archive.go_on(name, ring, Instant::now(), clock());
            }
        }
    }

    /// Sends a subscriber what it has not got yet, as far as it takes it: until enough waits for it that poll(2) tells when
    /// it takes more, or there is nothing left.
    fn feed(&mut self, id: ClientId) {
        let mut frames = None;
        let mut ended = false;
        while let Some(client) = self.clients.get(id) {
            let waiting = client.queued();
            let mut bytes = Vec::new();
            while waiting + bytes.len() < MAX_WAITING_LINES && !ended {
                match self.registry.next(id) {
                    Next::Item(name, item) => {
                        let line = match item {
                            Item::Line(line) => line,
                            Item::Missed(count) => Line::missed(count, clock()),
                        };
                        push_line(&mut frames, name, &line, &mut bytes);
                    }
                    Next::RunEnded(name) => bytes.extend(end_frame(name)),
                    Next::HistoryEnded(name) => {
                        bytes.extend(end_frame(name));
                        ended = true;
                    }
                    Next::Nothing => break,
                }
            }
            if bytes.is_empty() {
                break;
            }
            self.send(id, &bytes);
        }
        if ended {
            self.registry.unsubscribe(id);
            self.close(id);
        }
    }

    /// Something happened on a connection.
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

    /// Reads a request and acts upon it. What is no request to this daemon ends the connection without a reply (WIRE 3).
    fn request(&mut self, id: ClientId, request: &[u8]) {
        let message = match Message::decode(request) {
            Ok(message) => message,
            Err(error) => {
                warn!("connection {id}: closed: {error}");
                return self.forget(id);
            }
        };
        let name = match domain::name(&message.header.name) {
            Ok(name) => name,
            Err(error) => {
                warn!("connection {id}: closed: {error}");
                return self.forget(id);
            }
        };
        let Payload::Command(Command::Console(command)) = message.payload else {
            warn!("connection {id}: closed: not a command for the console daemon");
            return self.forget(id);
        };
        match command {
            ConsoleCommand::Add(max) => {
                let added =
                    self.check_supervisor(id)
                        .and_then(|()| match archive_bound(&name, &max) {
                            Some(bytes) => {
                                self.bound(&name.path().tenant(), bytes);
                                Ok(())
                            }
                            None => self.add(&name, max.unsigned().unwrap_or(0)),
                        });
                self.answer(id, message.header, added.map(|()| Success::Empty(())));
            }
            ConsoleCommand::Subscribe(from) => {
                self.subscribe(id, message.header, &name, &from, Extent::Lines);
            }
            ConsoleCommand::Read(ConsoleRead { from, follow }) => {
                let extent = if follow {
                    Extent::Runs
                } else {
                    Extent::History
                };
                self.subscribe(id, message.header, &name, &from, extent);
            }
            ConsoleCommand::Inactive(()) => {
                let answer = self.inactive(&name);
                self.answer(id, message.header, answer);
                self.close(id);
            }
        }
    }

    /// Refuses what only the supervisor asks for: others would have consoles forgotten, and read what is written for others.
    fn check_supervisor(&self, id: ClientId) -> Result<(), String> {
        match self.clients.get(id) {
            Some(client) if !client.peer().is_trusted() => Err(
                "cannot read a further console: only the supervisor, as root, may ask for that"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Begins to read the console of `name`, or goes on with the lines it had.
    fn add(&mut self, name: &Name, max: u64) -> Result<(), String> {
        if name.label().is_none() {
            return Err(format!(
                "{name} is a path, but only unikernels have consoles"
            ));
        }
        let mut fifo = Fifo::open(&self.fifo_directory, name)
            .map_err(|error| format!("cannot open the fifo of {name}: {error}"))?;
        let dropped = self
            .registry
            .add(name, max)
            .map_err(|error| error.to_string())?;
        for dropped in dropped {
            self.turn_out(&dropped);
        }
        if let Some(mut before) = self.fifos.remove(name) {
            // No line is lost: neither what waits in another fifo of that name, nor a line begun.
            let ended = self.take_in(name, &mut before, LAST_READS) == Arrived::End;
            if !ended && fifo.is_same(&before) {
                fifo.splitter = before.splitter;
            } else {
                self.end_line(name, &mut before);
            }
            self.deliver(name);
        }
        if let Some(ring) = self.registry.ring(name) {
            for archive in &mut self.archives {
                archive.begin(name, ring, Instant::now());
            }
        }
        self.fifos.insert(name.clone(), fifo);
        self.opened += 1;
        debug!("{name}: reading the console");
        Ok(())
    }

    /// Bounds the archives of a tenant.
    fn bound(&mut self, tenant: &name::Path, bytes: u64) {
        for archive in &mut self.archives {
            archive.bound(tenant, bytes);
        }
    }

    fn inactive(&self, name: &Name) -> Result<Success, String> {
        if name.label().is_some() {
            return Err(format!("{name} is no path, so no consoles lie below it"));
        }
        let names = self.registry.inactive(name.path());
        Ok(Success::Consoles(
            names.map(|name| name.to_string().into()).collect(),
        ))
    }

    /// Answers, then sends the history, then is ready for live lines: all in the one queue of the connection.
    fn subscribe(
        &mut self,
        id: ClientId,
        header: Header,
        name: &Name,
        from: &SinceCount,
        extent: Extent,
    ) {
        let refused = if name.label().is_none() {
            Some(format!(
                "{name} is a path, but only unikernels have consoles"
            ))
        } else if extent == Extent::History && self.registry.ring(name).is_none() {
            Some(format!("there is no console of {name}"))
        } else {
            None
        };
        if let Some(reason) = refused {
            self.answer(id, header, Err(reason));
            return self.close(id);
        }
        let history = match from {
            SinceCount::Since(time) => History::Since(moment(time)),
            SinceCount::Count(count) => History::Count(count.get()),
        };
        let client = self.clients.get(id);
        let quota = client.map_or(Quota::Tenant, |client| client.peer().quota());
        let subscribed = match self.registry.subscribe(id, name, (history, extent), quota) {
            Ok(subscribed) => subscribed,
            Err(full) => {
                self.answer(id, header, Err(full.to_string()));
                return self.close(id);
            }
        };
        let answer = answer_to(&subscribed);
        if let Some(client) = self.clients.get_mut(id) {
            client.subscribed();
        }
        self.answer(id, header, Ok(Success::String(answer.as_str().into())));
        self.feed(id);
        for dropped in subscribed.dropped {
            self.turn_out(&dropped);
        }
    }

    /// Tells a client that its subscription has ended, and closes the connection.
    fn turn_out(&mut self, dropped: &DroppedSubscriber) {
        let DroppedSubscriber {
            subscriber,
            of,
            why,
        } = dropped;
        info!("connection {subscriber}: closed: {why}");
        let failure = Payload::Failure(why.to_string().into());
        let message = Message::answer(unasked(of), failure);
        self.send(*subscriber, &socket::framed(&message));
        self.close(*subscriber);
    }

    fn answer(&mut self, id: ClientId, header: Header, answer: Result<Success, String>) {
        let payload = answer.map_or_else(
            |reason| {
                warn!("connection {id}: refused: {reason}");
                Payload::Failure(reason.into())
            },
            Payload::Reply,
        );
        self.send(id, &socket::framed(&Message::answer(header, payload)));
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

/// Appends the frame that carries a line of `name` to `bytes`; `frames` are those of `name` once there has been one.
fn push_line(frames: &mut Option<LineFrames>, name: &Name, line: &Line<'_>, bytes: &mut Vec<u8>) {
    let picoseconds = u64::from(line.arrived.nanoseconds) * 1000;
    let time = Timestamp::from_unix(line.arrived.seconds, picoseconds);
    let pushed = match frames {
        Some(frames) => frames.push(&time, &line.bytes, bytes),
        None => {
            LineFrames::new(name).and_then(|new| frames.insert(new).push(&time, &line.bytes, bytes))
        }
    };
    if let Err(error) = pushed {
        error!("cannot encode a line: {error}");
    }
}

/// The frame that ends the lines of `name`, for now or for good.
fn end_frame(name: &Name) -> Vec<u8> {
    let ended = Payload::Reply(Success::Empty(()));
    socket::framed(&Message::answer(unasked(name), ended))
}

/// Header of what goes to a subscriber of `name` after the answer.
fn unasked(name: &Name) -> Header {
    Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: name.to_string().into(),
    }
}

/// Words for a new subscriber: it is told, too, whose place it has.
fn answer_to(subscribed: &Subscribed) -> String {
    let replaced = subscribed
        .dropped
        .iter()
        .find_map(|dropped| match dropped.why {
            Displaced::OfConsole(most) => Some(most),
            Displaced::Forgotten | Displaced::Waiting | Displaced::OfAll => None,
        });
    match (subscribed.known, replaced) {
        (true, Some(most)) => format!("subscribed, in place of the oldest of {most} subscribers"),
        (true, None) => "subscribed".to_owned(),
        (false, _) => CONSOLE_WAITS.to_owned(),
    }
}

fn moment(time: &Timestamp) -> Moment {
    Moment {
        seconds: time.seconds(),
        nanoseconds: u32::from(time.milliseconds()) * 1_000_000,
    }
}

/// The time of the host's clock; a clock before 1970 counts as 1970.
fn clock() -> Moment {
    let since = daemon::wall_clock();
    Moment {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

impl fmt::Display for ConsoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(error) => error.fmt(f),
            Self::LogDirectory(path, error) => write!(
                f,
                "cannot use the directory {}: {error}; --log-dir makes it, but not the one that it is in",
                path.display()
            ),
            Self::Syslog(error) => write!(
                f,
                "cannot reach a syslog daemon at {}: {error}",
                syslog::SOCKETS.join(" or ")
            ),
        }
    }
}

impl std::error::Error for ConsoleError {}

impl From<DaemonError> for ConsoleError {
    fn from(error: DaemonError) -> Self {
        Self::Daemon(error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::directory::Directory;

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
        // What waits is sent as soon as poll(2) says so, and then the rest; without that nobody would come back.
        let client = daemon.clients.get(0).unwrap();
        assert!(client.queued() > 0 || client.is_done(PollFlags::empty()));
    }
}
