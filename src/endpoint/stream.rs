//! Interface to a TLS library: a byte stream over a non-blocking socket.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::PollFlags;

use crate::sys::poll::wait_for;

/// Encrypted side of the endpoint. All calls return at once; [`ErrorKind::WouldBlock`] means "poll first".
pub trait SecureStream {
    /// Reads what has arrived; 0 once the peer has closed its side properly.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] if the peer vanished without closing.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes some bytes, perhaps not all, and sends what the socket accepts.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends the bytes that [`Self::write`] took. Returns whether none are left.
    fn flush(&mut self) -> io::Result<bool>;

    /// Announces the end of the output, with the next [`Self::flush`].
    fn close(&mut self);

    /// Socket for poll(2).
    fn socket(&self) -> BorrowedFd<'_>;
}

/// Writes all of `bytes`, after those written before, until `deadline`.
pub fn write_all(
    stream: &mut impl SecureStream,
    mut bytes: &[u8],
    deadline: Instant,
) -> io::Result<()> {
    loop {
        if !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if stream.flush()? && bytes.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        wait_for(stream.socket(), PollFlags::POLLOUT, Some(deadline))?;
    }
}

/// Reads and drops further input of the peer, until it closes: a socket that is closed with unread input answers
/// with a reset, which may destroy what was written last.
pub fn drain(mut socket: &TcpStream, deadline: Instant, most: u64) {
    let mut scratch = vec![0; 1 << 15];
    let mut drained = 0;
    while drained < most && Instant::now() < deadline {
        match socket.read(&mut scratch) {
            Ok(0) => return,
            Ok(count) => drained += count as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if wait_for(socket, PollFlags::POLLIN, Some(deadline)).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
