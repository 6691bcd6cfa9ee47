//! Origin of connections: standard input, a socket passed by systemd, or a new listener.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::stat::{FileStat, fstat};

use super::error::EndpointError;
use super::options::Options;
use super::{listener, os};
use crate::tls::PORT;

/// Origin of connections.
pub enum Source {
    /// A single connection.
    Connection(TcpStream),
    /// A socket that accepts connections.
    Listener(TcpListener),
}

/// Origin that the options choose.
///
/// # Errors
/// When options exclude each other, or a socket cannot be used.
pub fn source(options: &Options) -> Result<Source, EndpointError> {
    let listens = options.ip.is_some() || options.port.is_some();
    for (given, option) in [
        (options.inetd, "--inetd"),
        (
            options.systemd_socket_activation,
            "--systemd-socket-activation",
        ),
    ] {
        if given && listens {
            return Err(EndpointError::Contradiction("--ip and --port", option));
        }
    }
    if options.inetd && options.systemd_socket_activation {
        return Err(EndpointError::Contradiction(
            "--inetd",
            "--systemd-socket-activation",
        ));
    }
    if options.inetd {
        return standard_input()
            .map(Source::Connection)
            .map_err(EndpointError::NoSocket);
    }
    if !listens {
        if !options.systemd_socket_activation
            && let Ok(socket) = standard_input()
            && socket.peer_addr().is_ok()
        {
            return Ok(Source::Connection(socket));
        }
        match os::passed_socket().map_err(EndpointError::Activation)? {
            Some(socket) => return passed(socket).map_err(EndpointError::Activation),
            None if options.systemd_socket_activation => return Err(EndpointError::NotActivated),
            None => {}
        }
    }
    let port = options.port.unwrap_or(PORT);
    let (listener, address) = match options.ip {
        Some(ip) => (
            listener::listen_on((ip, port).into()),
            SocketAddr::from((ip, port)).to_string(),
        ),
        None => (listener::listen_everywhere(port), format!("port {port}")),
    };
    listener
        .map(Source::Listener)
        .map_err(|source| EndpointError::Listen { address, source })
}

/// Takes standard input as a connection: a stream socket that does not listen.
fn standard_input() -> io::Result<TcpStream> {
    let input = io::stdin();
    if getsockopt(&input, SockType)? != nix::sys::socket::SockType::Stream
        || getsockopt(&input, AcceptConn)?
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(input.as_fd().try_clone_to_owned()?.into())
}

fn passed(socket: OwnedFd) -> io::Result<Source> {
    Ok(if getsockopt(&socket, AcceptConn)? {
        Source::Listener(socket.into())
    } else {
        Source::Connection(socket.into())
    })
}

/// Redirects standard output and standard error to `/dev/null` where they are the same socket as standard input.
/// Returns whether standard error is another file, and so can be used.
pub fn leave_connection_alone() -> bool {
    let file = |status: Result<FileStat, _>| status.ok().map(|s| (s.st_dev, s.st_ino));
    let connection = file(fstat(io::stdin()));
    if connection.is_none() {
        return true;
    }
    let output = file(fstat(io::stdout())) == connection;
    let errors = file(fstat(io::stderr())) == connection;
    if (output || errors)
        && let Ok(null) = File::options().write(true).open("/dev/null")
    {
        // Nothing is written to them on purpose, so a failure has no effect.
        if output {
            let _ = nix::unistd::dup2_stdout(&null);
        }
        if errors {
            let _ = nix::unistd::dup2_stderr(&null);
        }
    }
    !errors
}
