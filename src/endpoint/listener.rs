//! A listening socket and one process for each connection, which gets the socket as its standard input.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
};
use signal_hook::consts::signal::{SIGCHLD, SIGINT, SIGTERM};

use super::stream::wait;
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

/// Accepts connections until SIGTERM or SIGINT (from when the address is announced on), and runs this program with `arguments` for each, at most `most` at a
/// time. Connections that are under way at the end go on.
///
/// Beyond `most`, connections wait in the kernel's queue: they are served in turn, where closing them would leave the
/// service to whoever asks most often.
pub fn serve(listener: &TcpListener, arguments: &[String], most: usize) -> io::Result<()> {
    let program = std::env::current_exe()?;
    listener.set_nonblocking(true)?;
    let mut signals = Signals::new()?;
    announce(listener)?;
    let mut running: usize = 0;
    let mut pause: Option<Instant> = None;
    while !signals.asked_to_end() {
        running -= reap().min(running);
        if pause.is_some_and(|until| Instant::now() >= until) {
            pause = None;
        }
        let mut descriptors = vec![PollFd::new(signals.pipe.as_fd(), PollFlags::POLLIN)];
        if running < most && pause.is_none() {
            descriptors.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut descriptors, pause)?;
        let ready = |descriptor: &PollFd<'_>| descriptor.any().unwrap_or(false);
        let connection = descriptors.get(1).is_some_and(ready);
        if descriptors.first().is_some_and(ready) {
            signals.clear();
        }
        if !connection {
            continue;
        }
        match listener.accept() {
            Ok((socket, peer)) => match spawn(&program, arguments, socket) {
                Ok(pid) => {
                    running += 1;
                    debug!("{peer}: process {pid}, {running} of {most}");
                    if running == most {
                        warn!("{most} connections, no more are taken until one ends");
                    }
                }
                Err(error) => {
                    error!("cannot run {} for {peer}: {error}", program.display());
                }
            },
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                error!("cannot accept connections: {error}");
                pause = Some(Instant::now() + SHORTAGE);
            }
        }
    }
    info!("asked to end, {running} connections go on");
    Ok(())
}

/// Says on standard output where connections are taken, for whoever asked for port 0.
fn announce(listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    info!("listening on {address}");
    // Nobody needs to listen.
    let _ = writeln!(io::stdout().lock(), "listening on {address}");
    Ok(())
}

fn spawn(program: &std::path::Path, arguments: &[String], socket: TcpStream) -> io::Result<u32> {
    // The child is not waited for by this handle, but by `reap`.
    Command::new(program)
        .args(arguments)
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .spawn()
        .map(|child| child.id())
}

/// Takes note of the children that have ended; how many.
fn reap() -> usize {
    let mut ended = 0;
    loop {
        match child::reap() {
            Ok(None) => return ended,
            Ok(Some((pid, how))) => {
                if matches!(how, Ended::Signal(_)) {
                    warn!("process {pid} of a connection was ended by {how}");
                }
                ended += 1;
            }
            Err(error) => {
                error!("cannot tell which connections have ended: {error}");
                return ended;
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

struct Signals {
    pipe: UnixStream,
    end: Arc<AtomicBool>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let end = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&end))?;
        }
        // Registered after the flag, so that the flag is up when the pipe wakes the loop.
        for signal in [SIGTERM, SIGINT, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { pipe, end })
    }

    fn asked_to_end(&self) -> bool {
        self.end.load(Ordering::SeqCst)
    }

    fn clear(&mut self) {
        let mut scratch = [0; 64];
        while self.pipe.read(&mut scratch).is_ok_and(|count| count > 0) {}
    }
}
