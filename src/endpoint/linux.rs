//! Linux: sockets handed over by systemd.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

use libsystemd::activation::{IsType, receive_descriptors};

use crate::sys::descriptor;

/// The socket that systemd hands over to this process (`LISTEN_PID`, `LISTEN_FDS`), if it does.
pub fn passed_socket() -> io::Result<Option<OwnedFd>> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    // Cheaper than asking, for a process that lives for one connection.
    if std::env::var_os("LISTEN_PID").is_none() {
        return Ok(None);
    }
    let mut sockets = receive_descriptors(false).map_err(|error| refused(&error.to_string()))?;
    let Some(socket) = sockets.pop() else {
        return Ok(None);
    };
    if !sockets.is_empty() {
        return Err(refused("systemd handed over more than one socket"));
    }
    if !socket.is_inet() {
        return Err(refused(
            "systemd handed over something else than an internet socket",
        ));
    }
    descriptor::inherited(socket.into_raw_fd()).map(Some)
}
