//! Linux: sockets passed by systemd.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

use libsystemd::activation::{IsType, receive_descriptors};

use crate::sys::descriptor;

/// Takes the socket that systemd passed to this process (`LISTEN_PID`, `LISTEN_FDS`), if any.
///
/// # Errors
/// When systemd passed several sockets, or another one than an internet socket.
pub fn passed_socket() -> io::Result<Option<OwnedFd>> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    // Saves system calls in a process that serves a single connection.
    if std::env::var_os("LISTEN_PID").is_none() {
        return Ok(None);
    }
    let mut sockets = receive_descriptors(false).map_err(|error| refused(&error.to_string()))?;
    let Some(socket) = sockets.pop() else {
        return Ok(None);
    };
    if !sockets.is_empty() {
        return Err(refused("systemd passed more than one socket"));
    }
    if !socket.is_inet() {
        return Err(refused(
            "systemd passed something else than an internet socket",
        ));
    }
    descriptor::inherited(socket.into_raw_fd()).map(Some)
}
