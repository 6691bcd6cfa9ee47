//! The console daemon's process: one thread around poll(2), in which nothing waits for a single peer or guest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use argh::FromArgs;
use log::{debug, error, info, warn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::connection::{Connection, Lost, Received};
use super::fifo::Fifo;
use super::registry::{History, Registry, SUBSCRIBERS};
use super::ring::{Line, Moment};
use crate::command_line::{self, USAGE};
use crate::daemon::{self, ACCEPT_PAUSE, Manager, Signals};
use crate::logging::{self, Verbosity};
use crate::name::Name;
use crate::socket;
use crate::wire::{
    Command, ConsoleCommand, ConsoleData, Data, Header, Int, Int64, Message, Payload, SinceCount,
    Success, Text, Timestamp, VERSION, domain, frame,
};

pub use super::connection::{MAX_QUEUE, MAX_REQUEST, PATIENCE};

/// Most connections at once: subscribers, supervisors, single questions. While there are so many, further ones wait to be
/// accepted.
pub const MAX_CONNECTIONS: usize = 256;

/// Connections accepted in one round, so that a storm of them does not keep the guests waiting.
const ACCEPT_BURST: usize = 16;

/// Keep the console output of unikernels and hand it to clients.
#[derive(FromArgs, Debug)]
struct Options {
    /// folder of sockets and fifos
    #[argh(
        option,
        arg_name = "folder",
        default = "PathBuf::from(socket::RUNTIME_FOLDER)"
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
    /// Signals cannot be received.
    Signals(io::Error),
    /// Waiting for events failed.
    Poll(io::Error),
}

/// Runs the daemon to its end and returns its exit code.
pub fn main() -> i32 {
    const PROGRAM: &str = "petrel-console";
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

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("'{text}' is no number of at least 1")),
    }
}

fn run(options: &Options) -> Result<(), DaemonError> {
    let mut signals = Signals::listen().map_err(DaemonError::Signals)?;
    daemon::raise_descriptor_limit();
    let fifo_folder = options.tmpdir.join(socket::FIFOS);
    daemon::runtime_folders(&options.tmpdir)
        .map_err(|(path, error)| DaemonError::Folder(path, error))?;
    let path = socket::path(&options.tmpdir, socket::CONSOLE);
    let listener = if options.systemd_socket_activation {
        socket::activated().map_err(DaemonError::Activation)?
    } else {
        socket::listen(&path).map_err(|error| DaemonError::Listen(path.clone(), error))?
    };
    info!("listening on {}", path.display());
    info!("ready, fifos in {}", fifo_folder.display());
    let mut daemon = Daemon {
        fifo_folder,
        registry: Registry::new(options.max_subscribers),
        fifos: BTreeMap::new(),
        connections: BTreeMap::new(),
        next_connection: 0,
        no_accept_before: None,
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
    fifo_folder: PathBuf,
    registry: Registry,
    /// What running unikernels write to.
    fifos: BTreeMap<Name, Fifo>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    no_accept_before: Option<Instant>,
    manager: Manager,
}

/// What a descriptor that is waited for belongs to.
#[derive(Clone, Debug)]
enum Source {
    Signals,
    Fifo(Name),
    Connection(ConnectionId),
    Listener,
}

impl Daemon {
    /// Serves until a signal asks for the end.
    fn serve(&mut self, listener: &UnixListener, signals: &mut Signals) -> Result<(), DaemonError> {
        loop {
            // In this order: an event of a fifo is never applied to one that a request has opened since.
            for (source, events) in self.wait(listener, signals)? {
                match source {
                    Source::Signals => {
                        signals.drain();
                        if signals.terminate() {
                            info!("asked to end");
                            self.manager.stopping();
                            return Ok(());
                        }
                    }
                    Source::Fifo(name) => self.read_fifo(&name),
                    Source::Connection(id) => self.attend(id, events),
                    Source::Listener => self.accept(listener),
                }
            }
            self.end_patience();
            self.manager.progress(Instant::now());
        }
    }

    /// Waits for the next events, or for the next deadline.
    fn wait(
        &self,
        listener: &UnixListener,
        signals: &Signals,
    ) -> Result<Vec<(Source, PollFlags)>, DaemonError> {
        let mut sources = vec![Source::Signals];
        let mut waiting = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        for (name, fifo) in &self.fifos {
            sources.push(Source::Fifo(name.clone()));
            waiting.push(PollFd::new(fifo.as_fd(), PollFlags::POLLIN));
        }
        for (id, connection) in &self.connections {
            sources.push(Source::Connection(*id));
            waiting.push(PollFd::new(connection.as_fd(), connection.interest()));
        }
        if self.connections.len() < MAX_CONNECTIONS && self.no_accept_before.is_none() {
            sources.push(Source::Listener);
            waiting.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut waiting, self.timeout()) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(DaemonError::Poll(error.into())),
        }
        let events = waiting
            .iter()
            .map(|one| one.revents().unwrap_or(PollFlags::POLLERR));
        Ok(sources
            .into_iter()
            .zip(events)
            .filter(|(_, events)| !events.is_empty())
            .collect())
    }

    fn timeout(&self) -> PollTimeout {
        let deadlines = self.connections.values().filter_map(Connection::deadline);
        let others = self
            .no_accept_before
            .into_iter()
            .chain(self.manager.deadline());
        daemon::timeout(deadlines.chain(others).min())
    }

    fn end_patience(&mut self) {
        let now = Instant::now();
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

    fn accept(&mut self, listener: &UnixListener) {
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
                    self.no_accept_before = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn read_fifo(&mut self, name: &Name) {
        let Some(fifo) = self.fifos.get_mut(name) else {
            return;
        };
        let mut lines = Vec::new();
        let writers = fifo.read(|line| lines.push(line)).unwrap_or_else(|error| {
            error!("{name}: cannot read the console: {error}");
            false
        });
        if !writers {
            // A fifo at its end would be reported by poll(2) for ever.
            self.fifos.remove(name);
            self.registry.deactivate(name);
            debug!("{name}: nobody writes to the console any longer");
        }
        self.deliver(name, lines);
    }

    /// Keeps the lines and sends them to everybody who reads along.
    fn deliver(&mut self, name: &Name, lines: Vec<Vec<u8>>) {
        if lines.is_empty() {
            return;
        }
        let arrived = now();
        let mut frames = Vec::new();
        for octets in lines {
            let line = Line {
                arrived,
                octets: octets.into(),
            };
            frames.extend(line_frame(name, &line));
            self.registry.push(name, line);
        }
        let subscribers: Vec<_> = self.registry.subscribers(name).collect();
        for id in subscribers {
            self.send(id, &frames);
        }
    }

    /// Something happened on a connection.
    fn attend(&mut self, id: ConnectionId, events: PollFlags) {
        if let Err(lost) = self.converse(id, events) {
            self.lose(id, &lost);
        }
        let done = |connection: &Connection| {
            connection.is_done()
                || connection.is_closing()
                    && events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)
        };
        if self.connections.get(&id).is_some_and(done) {
            self.forget(id);
        }
    }

    fn converse(&mut self, id: ConnectionId, events: PollFlags) -> Result<(), Lost> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        if events.contains(PollFlags::POLLOUT) {
            connection.flush()?;
        }
        if !events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
            || connection.is_closing()
        {
            return Ok(());
        }
        connection.receive()?;
        let moment = Instant::now();
        while let Some(connection) = self.connections.get_mut(&id) {
            match connection.next(moment)? {
                Received::Request(request) => self.request(id, &request),
                Received::Nothing => break,
                Received::End => {
                    self.registry.unsubscribe(id);
                    connection.close(moment);
                }
            }
        }
        Ok(())
    }

    /// Reads a request and acts upon it. What is no request to this daemon ends the connection without a reply (WIRE 3).
    fn request(&mut self, id: ConnectionId, request: &[u8]) {
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
                let max = max.unsigned().unwrap_or(0);
                let answer = self.add(&name, max).map(|()| Success::Empty(()));
                self.answer(id, message.header, answer);
            }
            ConsoleCommand::Subscribe(wanted) => {
                self.subscribe(id, message.header, &name, &wanted);
            }
            ConsoleCommand::Inactive(()) => {
                let answer = self.inactive(&name);
                self.answer(id, message.header, answer);
                self.close(id);
            }
        }
    }

    /// Begins to read the console of `name`, or goes on with the lines it had.
    fn add(&mut self, name: &Name, max: u64) -> Result<(), String> {
        if name.label().is_none() {
            return Err(format!(
                "{name} is a path, but only unikernels have consoles"
            ));
        }
        let path = self.fifo_folder.join(name.to_string());
        let mut fifo = Fifo::open(&path)
            .map_err(|error| format!("cannot open the fifo {}: {error}", path.display()))?;
        let dropped = self
            .registry
            .add(name, max)
            .map_err(|error| error.to_string())?;
        for id in dropped {
            info!("connection {id}: closed, its console made room for {name}");
            self.forget(id);
        }
        if let Some(before) = self.fifos.remove(name) {
            let mut lines = Vec::new();
            fifo.succeed(before, |line| lines.push(line));
            self.deliver(name, lines);
        }
        self.fifos.insert(name.clone(), fifo);
        debug!("{name}: reading the console");
        Ok(())
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
    fn subscribe(&mut self, id: ConnectionId, header: Header, name: &Name, wanted: &SinceCount) {
        if name.label().is_none() {
            let reason = format!("{name} is a path, but only unikernels have consoles");
            self.answer(id, header, Err(reason));
            return self.close(id);
        }
        let wanted = match wanted {
            SinceCount::Since(time) => History::Since(moment(time)),
            SinceCount::Count(count) => History::Count(count.get()),
        };
        let subscription = self.registry.subscribe(id, name, wanted);
        let dropped = subscription.dropped;
        let known = subscription.history.is_some();
        let mut history = Vec::new();
        for line in subscription.history.into_iter().flatten() {
            history.extend(line_frame(name, line));
        }
        let answer = if known {
            "subscribed"
        } else {
            "waiting for VM"
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.subscribed();
        }
        self.answer(id, header, Ok(Success::String(answer.into())));
        self.send(id, &history);
        for id in dropped {
            info!("connection {id}: closed, a newer subscriber took its place");
            self.forget(id);
        }
    }

    fn answer(&mut self, id: ConnectionId, header: Header, answer: Result<Success, String>) {
        let payload = answer.map_or_else(
            |reason| {
                warn!("connection {id}: refused: {reason}");
                Payload::Failure(reason.into())
            },
            Payload::Reply,
        );
        self.send(id, &framed(&Message::answer(header, payload)));
    }

    fn send(&mut self, id: ConnectionId, octets: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Err(lost) = connection.send(octets)
        {
            self.lose(id, &lost);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.close(Instant::now());
        }
    }

    fn lose(&mut self, id: ConnectionId, lost: &Lost) {
        match lost {
            Lost::Io(error) => debug!("connection {id}: closed: {error}"),
            Lost::Frame(_) | Lost::Slow => warn!("connection {id}: closed: {lost}"),
        }
        self.forget(id);
    }

    fn forget(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.registry.unsubscribe(id);
    }
}

/// The frame that carries a line of `name`.
fn line_frame(name: &Name, line: &Line) -> Vec<u8> {
    let header = Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: name.to_string().into(),
    };
    let picoseconds = u64::from(line.arrived.nanoseconds) * 1000;
    let data = ConsoleData {
        timestamp: Timestamp::from_unix(line.arrived.seconds, picoseconds),
        data: Text(line.octets.to_vec()),
    };
    framed(&Message::answer(header, Payload::Data(Data::Console(data))))
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

fn moment(time: &Timestamp) -> Moment {
    Moment {
        seconds: time.seconds(),
        nanoseconds: u32::from(time.milliseconds()) * 1_000_000,
    }
}

/// The time of the host's clock; a clock before 1970 counts as 1970.
fn now() -> Moment {
    let since = daemon::wall_clock();
    Moment {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path, error) => daemon::explain_runtime_folder(f, path, error),
            Self::Listen(path, error) => write!(f, "cannot listen on {}: {error}", path.display()),
            Self::Activation(error) => {
                write!(f, "no socket to listen on was handed over: {error}")
            }
            Self::Signals(error) => write!(f, "cannot receive signals: {error}"),
            Self::Poll(error) => write!(f, "cannot wait for events: {error}"),
        }
    }
}

impl std::error::Error for DaemonError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::lines::{MAX_LINE, TRUNCATED};
    use crate::console::ring::LINES;

    #[test]
    fn the_longest_history_fits_twice_into_a_queue() {
        // The name of a fifo has at most 255 octets.
        let name: Name = format!("{}{}", "x:".repeat(126), "abc").parse().unwrap();
        let line = Line {
            arrived: now(),
            octets: vec![0; MAX_LINE + TRUNCATED.len()].into(),
        };
        assert_eq!(name.to_string().len(), 255);
        assert!(line_frame(&name, &line).len() * LINES * 2 <= MAX_QUEUE);
    }
}
