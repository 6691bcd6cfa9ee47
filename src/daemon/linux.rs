//! Linux: systemd.

use std::io;
use std::time::Duration;

use libsystemd::daemon::{NotifyState, notify, watchdog_enabled};

/// Sends a notification to the socket named by `NOTIFY_SOCKET`, if there is one.
pub(super) fn tell(what: &str) -> io::Result<()> {
    notify(false, &[NotifyState::Other(what.to_owned())])
        .map(drop)
        .map_err(io::Error::other)
}

/// Timeout of the watchdog (`WATCHDOG_USEC`).
pub(super) fn watchdog() -> Option<Duration> {
    watchdog_enabled(false).filter(|timeout| !timeout.is_zero())
}
