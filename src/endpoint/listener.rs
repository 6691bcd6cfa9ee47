//! Listener with one process for each connection, which gets the socket as its standard input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
};
use nix::unistd::Pid;

use super::audit::{Audit, Outcome};
use super::slot_request::{self, SlotChannel, SlotMessage};
use super::slots::{Arrival, ConnectionId, ConnectionLimits, Decision, Slots};
use crate::command_line::USAGE;
use crate::daemon::Signals;
use crate::sys::child::{self, Ended};
use crate::sys::poll::Poll;

/// Backlog of the listener: connections that the kernel completes while all slots are taken.
pub const BACKLOG: i32 = 128;

/// Pause after accepting has failed, as it does when the system is short of descriptors or memory.
pub const SHORTAGE: Duration = Duration::from_millis(200);

/// Listens on `address`; the unspecified IPv6 address takes IPv4 connections, too.
pub fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&descriptor, ReuseAddr, &true)?;
    if address.is_ipv6() {
        // The systems' defaults differ.
        setsockopt(&descriptor, Ipv6V6Only, &false)?;
    }
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&descriptor, Backlog::new(BACKLOG)?)?;
    Ok(descriptor.into())
}

/// Listens on all addresses; on a host without IPv6, on those of IPv4.
pub fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    match listen_on((IpAddr::from(Ipv6Addr::UNSPECIFIED), port).into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            listen_on((IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into())
        }
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            listen_on((IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into())
        }
        outcome => outcome,
    }
}

/// Processes of connections.
type Processes = BTreeMap<Pid, Connection>;

/// Connection that a process serves.
struct Connection {
    id: ConnectionId,
    peer: SocketAddr,
    began: Instant,
    /// Channel on which its process asks for a slot, until it has an answer.
    asking: Option<SlotChannel>,
    /// Whether it was ended for a newer one.
    displaced: bool,
}

/// Source of an event.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    /// The channel of a connection's process that asks for a slot.
    Process(Pid),
    Listener,
}

/// Program that is run for each connection.
#[derive(Debug)]
pub struct Program {
    /// Arguments of the program.
    pub arguments: Vec<OsString>,
    /// Whether the program inherits standard error: a reader of it would wait for the program after this process has ended.
    pub errors: bool,
}

/// Announces the address, accepts connections until SIGTERM or SIGINT, and runs this program with
/// `arguments` for each. Connections that are under way at the end go on.
///
/// A process whose client is authenticated asks for a slot. While all are taken, it waits. Until then, a connection counts as
/// one of the handshakes: further ones of one source are closed, and a new one replaces the oldest when there are too many.
pub fn serve(
    listener: &TcpListener,
    program: &Program,
    limits: ConnectionLimits,
) -> io::Result<()> {
    let mut signals = Signals::listen()?;
    listener.set_nonblocking(true)?;
    announce(listener)?;
    let mut server = Server {
        executable: std::env::current_exe()?,
        program,
        limits,
        places: Slots::new(limits),
        processes: Processes::new(),
        arrivals: 0,
    };
    let mut pause: Option<Instant> = None;
    while !signals.terminate() {
        server.reap();
        if pause.is_some_and(|until| Instant::now() >= until) {
            pause = None;
        }
        let mut poll = Poll::new();
        poll.add_readable(Source::Signals, &signals);
        // Before the listener: clients that are authenticated now are not to end for a stranger.
        for (pid, connection) in &server.processes {
            if let Some(asking) = &connection.asking {
                poll.add_readable(Source::Process(*pid), asking);
            }
        }
        if pause.is_none() && server.places.takes_arrivals() {
            poll.add_readable(Source::Listener, listener);
        }
        poll.until(pause);
        for (source, _) in poll.wait()? {
            match source {
                Source::Signals => signals.drain(),
                Source::Process(pid) => server.hear(pid),
                Source::Listener => {
                    if let Err(error) = server.accept(listener) {
                        error!("cannot accept connections: {error}");
                        pause = Some(Instant::now() + SHORTAGE);
                    }
                }
            }
        }
    }
    info!("asked to end, {} connections go on", server.processes.len());
    Ok(())
}

/// State of the listener.
struct Server<'a> {
    executable: PathBuf,
    program: &'a Program,
    limits: ConnectionLimits,
    places: Slots,
    processes: Processes,
    /// Number of connections so far.
    arrivals: ConnectionId,
}

impl Server<'_> {
    /// Accepts a connection, if one still waits.
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let (socket, peer) = match listener.accept() {
            Ok(connection) => connection,
            Err(error) if is_about_one_connection(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let began = Instant::now();
        let refused = |outcome, reason: &str| {
            Audit::new(&address(peer), began).write(outcome, reason);
        };
        match self.places.arrival(peer.ip()) {
            Arrival::Free => {}
            Arrival::InPlaceOf(oldest) => self.displace(oldest),
            Arrival::SourceFull(count) => {
                let reason = format!(
                    "there are {count} connections from its address already whose handshake is not complete"
                );
                refused(Outcome::Refused, &reason);
                return Ok(());
            }
        }
        match self.run(socket) {
            Ok((pid, asking)) => {
                self.arrivals += 1;
                let connection = Connection {
                    id: self.arrivals,
                    peer,
                    began,
                    asking: Some(asking),
                    displaced: false,
                };
                self.places.enter(connection.id, peer.ip());
                self.processes.insert(pid, connection);
                debug!(
                    "{peer}: process {pid}, {} connections",
                    self.processes.len()
                );
            }
            Err(error) => {
                let reason = format!("cannot run {}: {error}", self.executable.display());
                refused(Outcome::Broken, &reason);
            }
        }
        Ok(())
    }

    /// Ends a connection whose client is not authenticated.
    fn displace(&mut self, id: ConnectionId) {
        self.places.leave(id);
        let process = self.processes.iter_mut().find(|(_, other)| other.id == id);
        if let Some((pid, connection)) = process {
            connection.asking = None;
            connection.displaced = true;
            // It is a child that was not reaped yet.
            if let Err(error) = kill(*pid, Signal::SIGKILL) {
                error!("cannot end process {pid}: {error}");
            }
        }
    }

    /// Answers the process of a connection that asks for a slot.
    fn hear(&mut self, pid: Pid) {
        let Some(connection) = self.processes.get_mut(&pid) else {
            return;
        };
        let asked = connection.asking.as_mut().map(SlotChannel::read);
        let decision = match asked {
            Some(SlotMessage::Slot(tenant, occupation)) => {
                self.places.ask(connection.id, tenant, occupation)
            }
            Some(SlotMessage::Invalid) => {
                connection.asking = None;
                return;
            }
            Some(SlotMessage::Nothing) | None => return,
        };
        match (decision, connection.asking.take()) {
            (Decision::Granted, Some(asking)) => asking.grant(),
            (Decision::Refused(why), Some(asking)) => asking.refuse(&why.to_string()),
            (Decision::Wait, asking) => {
                warn!(
                    "{} connections, {} waits until one ends",
                    self.limits.places, connection.peer
                );
                connection.asking = asking;
            }
            (_, None) => {}
        }
    }

    /// Reaps ended children; one that this process was started with is none of the connections.
    fn reap(&mut self) {
        loop {
            match child::reap() {
                Ok(None) => return,
                Ok(Some((pid, how))) => {
                    let Some(connection) = self.processes.remove(&pid) else {
                        continue;
                    };
                    connection.audit_end(pid, how);
                    if let Some(next) = self.places.leave(connection.id) {
                        self.grant(next);
                    }
                }
                Err(error) => {
                    error!("cannot tell which connections have ended: {error}");
                    return;
                }
            }
        }
    }

    /// Grants a slot to a connection that has waited for it.
    fn grant(&mut self, id: ConnectionId) {
        let mut processes = self.processes.values_mut();
        if let Some(asking) = processes
            .find(|connection| connection.id == id)
            .and_then(|connection| connection.asking.take())
        {
            asking.grant();
        }
    }

    fn run(&self, socket: TcpStream) -> io::Result<(Pid, SlotChannel)> {
        let errors = if self.program.errors {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let (asking, theirs) = SlotChannel::pair()?;
        // The child is not waited for by this handle, but by `reap`.
        let child = Command::new(&self.executable)
            .args(&self.program.arguments)
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env(slot_request::LISTENER, "1")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(errors)
            .spawn()?;
        Ok((Pid::from_raw(child.id().cast_signed()), asking))
    }
}

impl Connection {
    /// Writes the audit line of a connection whose process has written none.
    fn audit_end(&self, pid: Pid, how: Ended) {
        let audit = || Audit::new(&address(self.peer), self.began);
        if matches!(how, Ended::Exit(code) if [0, USAGE].contains(&code.into())) {
            return;
        }
        if self.displaced {
            let reason = "too many handshakes are under way, and this was the oldest";
            return audit().write(Outcome::Refused, reason);
        }
        audit().write(
            Outcome::Broken,
            &format!("process {pid} was ended by {how}"),
        );
    }
}

/// Address for messages: IPv4 also where the socket takes both.
pub(super) fn address(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

/// Prints the address of the listener on standard output, for port 0.
fn announce(listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    info!("listening on {address}");
    // Standard output may be closed.
    let _ = writeln!(io::stdout().lock(), "listening on {address}");
    Ok(())
}

/// Whether an error of accept(2) is about one connection only.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::PermissionDenied
    )
}
