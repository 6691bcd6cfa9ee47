//! FreeBSD: no socket is handed over; daemons listen by themselves.

use std::io;
use std::os::unix::net::UnixListener;

/// Default of `--tmpdir`.
pub(super) const RUNTIME_FOLDER: &str = "/var/run/petrel";

/// Default of `--dbdir`.
pub(super) const DATABASE_FOLDER: &str = "/var/db/petrel";

/// The listening socket of a service manager.
pub fn activated() -> io::Result<UnixListener> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "socket activation is a matter of systemd, which this system does not have",
    ))
}
