//! Linux: socket activation of systemd.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use libsystemd::activation::{IsType, receive_descriptors};

use nix::fcntl::OFlag;
use nix::sys::socket::{UnixAddr, connect as connect_to, getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;

use super::Directory;
use crate::sys::descriptor;

/// Default of `--tmpdir`.
pub(super) const RUNTIME_DIRECTORY: &str = "/run/petrel";

/// Default of `--dbdir`.
pub(super) const DATABASE_DIRECTORY: &str = "/var/lib/petrel";

/// Whether a daemon whose queue of connections is full refuses further ones, as if there were none: here one waits.
pub(super) const FULL_QUEUE_REFUSES: bool = false;

/// Flag to open a directory only for looking up its entries.
pub(crate) const SEARCH: OFlag = OFlag::O_PATH;

/// Does nothing: a new socket has the group of its daemon, one of systemd that of its unit.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the interface is that of the other systems"
)]
pub(super) fn set_group(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Takes the listening Unix socket that systemd passes; it must be the only descriptor.
pub fn activated() -> io::Result<UnixListener> {
    let refused = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let mut sockets = receive_descriptors(true).map_err(|error| refused(error.to_string()))?;
    let Some(socket) = sockets.pop() else {
        return Err(refused("systemd handed over no socket".to_owned()));
    };
    if !sockets.is_empty() {
        return Err(refused(
            "systemd handed over more than one socket".to_owned(),
        ));
    }
    if !socket.is_unix() {
        return Err(refused(
            "systemd handed over something else than a Unix socket".to_owned(),
        ));
    }
    let listener = UnixListener::from(descriptor::inherited(socket.into_raw_fd())?);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to a socket in the directory, by its path: there is no other way.
pub(super) fn connect(directory: &Directory, socket: &UnixStream, file: &str) -> nix::Result<()> {
    connect_to(socket.as_raw_fd(), &UnixAddr::new(&directory.path(file))?)
}

/// User who made this connection, at the time when it was made (`SO_PEERCRED`).
pub(super) fn peer_user(socket: &UnixStream) -> nix::Result<Uid> {
    getsockopt(socket, PeerCredentials).map(|peer| Uid::from_raw(peer.uid()))
}
