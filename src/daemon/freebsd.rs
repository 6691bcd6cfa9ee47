//! FreeBSD: rc(8) takes no notifications.

use std::io;
use std::time::Duration;

/// Does nothing.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the interface is that of the other systems"
)]
pub(super) fn tell(_: &str) -> io::Result<()> {
    Ok(())
}

/// There is no watchdog.
pub(super) fn watchdog() -> Option<Duration> {
    None
}
