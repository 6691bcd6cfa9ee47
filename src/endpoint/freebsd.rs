//! FreeBSD: no socket is handed over; inetd gives the connection as standard input.

use std::io;
use std::os::fd::OwnedFd;

/// The socket that a service manager hands over.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the interface is that of the other systems"
)]
pub fn passed_socket() -> io::Result<Option<OwnedFd>> {
    Ok(None)
}
