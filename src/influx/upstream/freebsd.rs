//! FreeBSD: `TCP_MAXUNACKTIME` of tcp(4).

use std::net::TcpStream;
use std::time::Duration;

use nix::errno::Errno;

use crate::sys::tcp;

/// Limits how long the peer may acknowledge nothing before the connection fails: by default the system would try for several
/// minutes, in which it takes lines that nobody receives. FreeBSD 13 has no such option.
pub(super) fn limit_silence(socket: &TcpStream, most: Duration) -> nix::Result<()> {
    let seconds = u32::try_from(most.as_secs()).unwrap_or(u32::MAX);
    match tcp::limit_silence(socket, seconds) {
        Err(Errno::ENOPROTOOPT) => Ok(()),
        set => set,
    }
}
