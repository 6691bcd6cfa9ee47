//! FreeBSD: no socket is handed over; daemons listen by themselves.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;

use super::Folder;
use crate::sys::capsicum;

/// Default of `--tmpdir`.
pub(super) const RUNTIME_FOLDER: &str = "/var/run/petrel";

/// Default of `--dbdir`.
pub(super) const DATABASE_FOLDER: &str = "/var/db/petrel";

/// Opens a folder for what is in it only: `O_SEARCH` of `<fcntl.h>`, which is `O_EXEC`.
pub(super) const SEARCH: OFlag = OFlag::from_bits_retain(libc::O_EXEC);

/// The listening socket of a service manager.
pub fn activated() -> io::Result<UnixListener> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "socket activation is a matter of systemd, which this system does not have",
    ))
}

/// Connects to a socket in the folder, also in capability mode.
pub(super) fn connect(folder: &Folder, socket: &UnixStream, file: &str) -> nix::Result<()> {
    let held = folder.open.as_ref().map_err(|error| *error)?;
    capsicum::connect_at(held, socket, Path::new(file))
}
