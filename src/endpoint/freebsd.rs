//! FreeBSD: no socket is passed; inetd gives the connection as standard input.

use std::io;
use std::os::fd::OwnedFd;

/// Takes the socket that a service manager passed, which is none here.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the interface is that of the other systems"
)]
pub fn passed_socket() -> io::Result<Option<OwnedFd>> {
    Ok(None)
}
