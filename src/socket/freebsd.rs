//! FreeBSD: there is no socket activation.

use std::io;
use std::os::unix::fs::lchown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::{Group, Uid, getegid, geteuid, getpeereid};

use super::Directory;
use crate::sys::capsicum;

/// Default of `--tmpdir`.
pub(super) const RUNTIME_DIRECTORY: &str = "/var/run/petrel";

/// Default of `--dbdir`.
pub(super) const DATABASE_DIRECTORY: &str = "/var/db/petrel";

/// Whether a daemon whose queue of connections is full refuses further ones, as if there were none.
pub(super) const FULL_QUEUE_REFUSES: bool = true;

/// Flag to open a directory only for looking up its entries: `O_SEARCH` of `<fcntl.h>`, which is `O_EXEC`.
pub(crate) const SEARCH: OFlag = OFlag::from_bits_retain(libc::O_EXEC);

/// Group whose members may command the supervisor.
const COMMANDERS: &str = "petrel";

/// Gives a new socket the group of those who may connect. By itself it has that of its directory, whose members make sockets
/// there: it gets that of its daemon instead, and one of root's, if there is such a group, that of the [`COMMANDERS`].
pub(super) fn set_group(path: &Path) -> io::Result<()> {
    let group = if geteuid().is_root() {
        Group::from_name(COMMANDERS)?.map(|group| group.gid)
    } else {
        None
    };
    lchown(path, None, Some(group.unwrap_or_else(getegid).as_raw()))
}

/// Socket activation, which this system does not have.
pub fn activated() -> io::Result<UnixListener> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "socket activation is a matter of systemd, which this system does not have",
    ))
}

/// Connects to a socket in the directory, also in capability mode.
pub(super) fn connect(directory: &Directory, socket: &UnixStream, file: &str) -> nix::Result<()> {
    let held = directory.open.as_ref().map_err(|error| *error)?;
    capsicum::connect_at(held, socket, Path::new(file))
}

/// User who made this connection, at the time when it was made (`LOCAL_PEERCRED`).
pub(super) fn peer_user(socket: &UnixStream) -> nix::Result<Uid> {
    getpeereid(socket).map(|(user, _)| user)
}
