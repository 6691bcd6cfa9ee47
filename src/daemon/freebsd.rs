//! FreeBSD: rc(8) does not listen.

use std::io;
use std::time::Duration;

/// Tells nobody.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the interface is that of the other systems"
)]
pub(super) fn tell(_: &str) -> io::Result<()> {
    Ok(())
}

/// Nobody waits for a word of this program.
pub(super) fn watchdog() -> Option<Duration> {
    None
}
