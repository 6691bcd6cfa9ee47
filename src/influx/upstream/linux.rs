//! Linux: `TCP_USER_TIMEOUT` of tcp(7).

use std::net::TcpStream;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// Limits how long the peer may acknowledge nothing before the connection fails: by default the system would try for a quarter
/// of an hour, in which it takes lines that nobody receives.
pub(super) fn limit_silence(socket: &TcpStream, most: Duration) -> nix::Result<()> {
    let milliseconds = u32::try_from(most.as_millis()).unwrap_or(u32::MAX);
    setsockopt(socket, sockopt::TcpUserTimeout, &milliseconds)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::sys::socket::getsockopt;

    use super::super::{EXCHANGE, begin};
    use super::*;

    #[test]
    fn a_collector_that_has_vanished_is_noticed_as_soon_as_one_that_does_not_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = begin(listener.local_addr().unwrap()).unwrap();
        let limit = getsockopt(&stream, sockopt::TcpUserTimeout).unwrap();
        assert_eq!(u128::from(limit), EXCHANGE.as_millis());
    }
}
