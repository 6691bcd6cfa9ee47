//! A listening socket and one process for each connection, which gets the socket as its standard input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
};
use nix::unistd::Pid;

use super::audit::{Audit, Outcome};
use super::stream::wait;
use crate::command_line::USAGE;
use crate::daemon::Signals;
use crate::sys::child::{self, Ended};

/// Connections that the kernel completes while all processes are taken.
pub const BACKLOG: i32 = 128;

/// How long to wait before trying again when the system is short of descriptors or memory.
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

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Altogether.
    pub all: usize,
    /// Of one source, which is an IPv4 address or a /64 network of IPv6.
    pub per_source: usize,
}

/// The processes of connections.
type Processes = BTreeMap<Pid, Connection>;

/// A connection that a process serves.
struct Connection {
    peer: SocketAddr,
    began: Instant,
}

/// Accepts connections until SIGTERM or SIGINT, from when the address is announced on, and runs this program with
/// `arguments` for each. Connections that are under way at the end go on.
///
/// Beyond all that there may be, connections wait in the kernel's queue: they are served in turn, where closing them
/// would leave the service to whoever asks most often. One source's further connections are closed, so that it cannot
/// take all places.
///
/// Without `errors` the processes do not get standard error: who reads that would wait for them when this one has ended.
pub fn serve(
    listener: &TcpListener,
    arguments: &[OsString],
    most: Most,
    errors: bool,
) -> io::Result<()> {
    let program = std::env::current_exe()?;
    listener.set_nonblocking(true)?;
    let mut signals = Signals::listen()?;
    announce(listener)?;
    let mut processes = Processes::new();
    let mut pause: Option<Instant> = None;
    while !signals.terminate() {
        reap(&mut processes);
        if pause.is_some_and(|until| Instant::now() >= until) {
            pause = None;
        }
        let mut descriptors = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if processes.len() < most.all && pause.is_none() {
            descriptors.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut descriptors, pause)?;
        let ready = |descriptor: &PollFd<'_>| descriptor.any().unwrap_or(false);
        let connection = descriptors.get(1).is_some_and(ready);
        if descriptors.first().is_some_and(ready) {
            signals.drain();
        }
        if !connection {
            continue;
        }
        match listener.accept() {
            Ok((socket, peer)) => {
                let began = Instant::now();
                let refused = |outcome, reason: &str| {
                    Audit::new(&address(peer), began).write(outcome, reason);
                };
                let of_source = source(peer.ip());
                let same = processes
                    .values()
                    .filter(|other| source(other.peer.ip()) == of_source)
                    .count();
                if same >= most.per_source {
                    let reason = format!("there are {same} connections from its address already");
                    refused(Outcome::Refused, &reason);
                    continue;
                }
                match spawn(&program, arguments, socket, errors) {
                    Ok(pid) => {
                        processes.insert(pid, Connection { peer, began });
                        let (running, most) = (processes.len(), most.all);
                        debug!("{peer}: process {pid}, {running} of {most}");
                        if running == most {
                            warn!("{most} connections, no more are taken until one ends");
                        }
                    }
                    Err(error) => {
                        let reason = format!("cannot run {}: {error}", program.display());
                        refused(Outcome::Broken, &reason);
                    }
                }
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                error!("cannot accept connections: {error}");
                pause = Some(Instant::now() + SHORTAGE);
            }
        }
    }
    info!("asked to end, {} connections go on", processes.len());
    Ok(())
}

/// An address as people write it: IPv4, also where the socket takes both.
pub(super) fn address(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

/// What counts as one source: of IPv6 a whole /64, as a single host has all of its addresses.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
    }
}

/// Says on standard output where connections are taken, for whoever asked for port 0.
fn announce(listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    info!("listening on {address}");
    // Nobody needs to listen.
    let _ = writeln!(io::stdout().lock(), "listening on {address}");
    Ok(())
}

fn spawn(
    program: &Path,
    arguments: &[OsString],
    socket: TcpStream,
    errors: bool,
) -> io::Result<Pid> {
    let errors = if errors {
        Stdio::inherit()
    } else {
        Stdio::null()
    };
    // The child is not waited for by this handle, but by `reap`.
    Command::new(program)
        .args(arguments)
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map(|child| Pid::from_raw(child.id().cast_signed()))
}

/// Takes note of the children that have ended; one that this process was started with is none of the connections.
fn reap(processes: &mut Processes) {
    loop {
        match child::reap() {
            Ok(None) => return,
            Ok(Some((pid, how))) => {
                let Some(Connection { peer, began }) = processes.remove(&pid) else {
                    continue;
                };
                // Otherwise the process has written the line of its connection.
                if !matches!(how, Ended::Exit(code) if [0, USAGE].contains(&code.into())) {
                    let reason = format!("process {pid} was ended by {how}");
                    Audit::new(&address(peer), began).write(Outcome::Broken, &reason);
                }
            }
            Err(error) => {
                error!("cannot tell which connections have ended: {error}");
                return;
            }
        }
    }
}

/// Errors of accept(2) that say nothing about the next connection.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_of_ipv4_or_a_network_of_ipv6() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3::", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let expected: IpAddr = expected.parse().unwrap();
            assert_eq!(source(address), expected, "{address}");
        }
    }
}
