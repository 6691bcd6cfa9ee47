//! Lines for the local syslog daemon.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::archive::{Refused, Sink};
use super::lines::escaped;
use super::ring::Line;
use crate::name::Name;

/// Where syslog daemons listen: on Linux, and on FreeBSD.
pub(super) const SOCKETS: [&str; 2] = ["/dev/log", "/var/run/log"];

/// Facility 3, system daemons; severity 6, informational (RFC 5424, 6.2.1).
const PRIORITY: u8 = 3 * 8 + 6;

/// A connection that never waits. Messages have no time: whoever receives them sets it.
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// Whether that it cannot be reached is in the log.
    reported: bool,
}

impl Syslog {
    /// Connects to the first of `paths` on which somebody listens.
    pub(super) fn connect(paths: &[impl AsRef<Path>]) -> io::Result<Self> {
        let mut failed = ErrorKind::NotFound.into();
        for path in paths {
            match open(path.as_ref()) {
                Ok(socket) => {
                    return Ok(Self {
                        path: path.as_ref().to_owned(),
                        socket: Some(socket),
                        reported: false,
                    });
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open(&self.path)?,
        };
        let sent = socket.send(message);
        // One that is only busy is kept; one that has gone may be back under that path.
        if sent.as_ref().map_or_else(is_busy, |_| true) {
            self.socket = Some(socket);
        }
        sent.map(drop)
    }
}

impl Sink for Syslog {
    fn put(&mut self, name: &Name, line: &Line<'_>) -> Result<(), Refused> {
        let message = format!(
            "<{PRIORITY}>petrel-console[{}]: {name}: {}",
            std::process::id(),
            escaped(&line.bytes)
        );
        match self.send(message.as_bytes()) {
            Ok(()) => {
                self.reported = false;
                Ok(())
            }
            Err(error) => {
                if !is_busy(&error) && !std::mem::replace(&mut self.reported, true) {
                    log::error!("cannot send to {}: {error}", self.path.display());
                }
                Err(Refused)
            }
        }
    }

    fn flush(&mut self, _: &Name) -> Result<(), Refused> {
        Ok(())
    }

    fn close(&mut self, _: &Name) {}

    fn reopen(&mut self) {
        self.socket = None;
    }
}

fn open(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// Its queue is full, on Linux, and on FreeBSD.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ring::Moment;
    use crate::directory::Directory;

    #[test]
    fn lines_go_out_one_a_message_and_wait_while_nobody_takes_them() {
        let directory = Directory::short();
        let directory = &directory.0;
        let path = directory.join("log");
        let missing = directory.join("missing");
        assert!(Syslog::connect(&[&missing]).is_err());
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::connect(&[&missing, &path]).unwrap();
        let name: Name = "t:a".parse().unwrap();
        let line = Line {
            arrived: Moment::default(),
            bytes: b"hello\x1b".into(),
        };
        let expected = format!(
            "<30>petrel-console[{}]: t:a: hello\\027",
            std::process::id()
        );
        let received = |daemon: &UnixDatagram| {
            let mut message = [0; 256];
            let count = daemon.recv(&mut message).unwrap();
            String::from_utf8(message[..count].to_vec()).unwrap()
        };
        let mut sent = 0;
        while syslog.put(&name, &line).is_ok() {
            sent += 1;
            assert!(sent < 1 << 20, "nothing ever waits");
        }
        assert_eq!(received(&daemon), expected);
        assert_eq!(syslog.put(&name, &line), Ok(()));
        // Gone, and back.
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(syslog.put(&name, &line), Err(Refused));
        let daemon = UnixDatagram::bind(&path).unwrap();
        assert_eq!(syslog.put(&name, &line), Ok(()));
        assert_eq!(received(&daemon), expected);
    }
}
