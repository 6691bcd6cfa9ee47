//! The connection to a daemon, local or over TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::tls::Stream;

/// A connection whose two directions fail apart from each other: what the peer said is readable even if it takes nothing more.
#[derive(Debug)]
pub(super) enum Transport {
    Local(UnixStream),
    Remote(Box<Stream>),
}

impl Transport {
    /// Waits until something can be sent, or the peer has said something or closed. `true`: the latter.
    pub(super) fn answer_comes_first(&mut self) -> io::Result<bool> {
        loop {
            let ready = match self {
                Self::Local(socket) => ready(socket)?,
                Self::Remote(stream) => {
                    let state = stream
                        .conn
                        .process_new_packets()
                        .map_err(io::Error::other)?;
                    if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                        return Ok(true);
                    }
                    ready(&stream.sock)?
                }
            };
            let speaks =
                ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR);
            match self {
                Self::Local(_) => return Ok(speaks),
                // A record of TLS need not be one of ours: look into it.
                Self::Remote(stream) if speaks => {
                    if stream.conn.read_tls(&mut stream.sock)? == 0 {
                        return Ok(true);
                    }
                }
                Self::Remote(_) => return Ok(false),
            }
        }
    }

    /// Says good-bye; whether the peer still hears it is of no consequence.
    pub(super) fn close(mut self) {
        if let Self::Remote(stream) = &mut self {
            stream.conn.send_close_notify();
            let _ = stream.conn.write_tls(&mut stream.sock);
        }
    }
}

/// What a socket is ready for, after waiting until it is ready for anything.
fn ready(socket: &impl AsFd) -> io::Result<PollFlags> {
    let mut sockets = [PollFd::new(
        socket.as_fd(),
        PollFlags::POLLIN | PollFlags::POLLOUT,
    )];
    loop {
        match poll(&mut sockets, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(sockets[0].revents().unwrap_or(PollFlags::POLLERR)),
        }
    }
}

impl Read for Transport {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let stream = match self {
            Self::Local(socket) => return socket.read(octets),
            Self::Remote(stream) => stream,
        };
        // Not as the stream does it, which first sends what is left to send, and fails with that.
        loop {
            match stream.conn.reader().read(octets) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            stream.conn.read_tls(&mut stream.sock)?;
            stream
                .conn
                .process_new_packets()
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}

impl Write for Transport {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local(socket) => socket.write(octets),
            Self::Remote(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Local(socket) => socket.flush(),
            Self::Remote(stream) => stream.flush(),
        }
    }
}
