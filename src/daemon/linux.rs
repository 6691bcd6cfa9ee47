//! Linux: systemd.

use std::io;
use std::time::Duration;

use libsystemd::daemon::{NotifyState, notify, watchdog_enabled};

/// Sends this to whom `NOTIFY_SOCKET` names, if it is there.
pub(super) fn tell(what: &str) -> io::Result<()> {
    notify(false, &[NotifyState::Other(what.to_owned())])
        .map(drop)
        .map_err(io::Error::other)
}

/// After how long without a word this program is taken for hung (`WATCHDOG_USEC`).
pub(super) fn watchdog() -> Option<Duration> {
    watchdog_enabled(false).filter(|patience| !patience.is_zero())
}
