//! Connections that are made without waiting.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, connect, socket,
};

/// Begins to connect a non-blocking stream socket.
///
/// # Errors
/// For a local socket `EAGAIN` (`ECONNREFUSED` on FreeBSD) if the backlog of its daemon is full.
pub fn begin(family: AddressFamily, address: &dyn SockaddrLike) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Begins to connect to a TCP server; the socket is writable when [`is_connected`] knows the outcome.
pub fn begin_tcp(address: SocketAddr) -> nix::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    begin(family, &SockaddrStorage::from(address)).map(TcpStream::from)
}

/// Whether a connection that was begun is established; `false` while it is still being made.
///
/// # Errors
/// The reason why it cannot be made.
pub fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream.peer_addr().is_ok()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpListener};

    use nix::poll::PollFlags;

    use super::*;
    use crate::sys::poll;

    /// Outcome of a connection to this port.
    fn outcome(port: u16) -> io::Result<bool> {
        let stream = begin_tcp((Ipv4Addr::LOCALHOST, port).into())?;
        poll::wait_for(&stream, PollFlags::POLLOUT, None)?;
        is_connected(&stream)
    }

    #[test]
    fn a_connection_is_established_or_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(outcome(port).unwrap());
        drop(listener);
        let error = outcome(port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
