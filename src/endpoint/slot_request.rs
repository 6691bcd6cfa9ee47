//! Request for a slot: one line from the process of a connection to its listener, and one line back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::slots::ConnectionKind;
use crate::name::{Label, Path};

/// Environment variable of the process of a connection whose standard output is a socket to its listener.
pub const LISTENER: &str = "PETREL_TLS_LISTENER";

/// Time for which a command waits for a slot.
pub const SLOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Length of the longest line from the process of a connection, in bytes.
const MAX_REQUEST: usize = Label::MAX_BYTES + 3;

/// Length of the longest line from the listener, in bytes.
const MAX_ANSWER: usize = 512;

const GRANTED: &str = "granted";

/// Connection to the listener, if there is one.
#[derive(Debug, Default)]
pub struct Slot(Option<UnixStream>);

impl Slot {
    /// Takes the connection to the listener from standard output, if there is one.
    pub fn of_listener() -> Self {
        if std::env::var_os(LISTENER).is_none() {
            return Self(None);
        }
        Self(
            io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .ok()
                .map(UnixStream::from),
        )
    }

    /// Waits for a slot in the name of `tenant`. Without a listener, every connection has one.
    ///
    /// # Errors
    /// The reason for the client.
    pub fn ask(self, tenant: &Path, kind: ConnectionKind) -> Result<(), String> {
        let Some(mut line) = self.0 else {
            return Ok(());
        };
        let answer = line
            .write_all(request(tenant, kind).as_bytes())
            .and_then(|()| read_answer(&line, Instant::now() + SLOT_TIMEOUT));
        match answer {
            Ok(answer) if answer == GRANTED => Ok(()),
            Ok(answer) if !answer.is_empty() => Err(answer),
            Err(error) if error.kind() == ErrorKind::TimedOut => Err(format!(
                "the maximum number of connections to this host is reached, and none ended within {} s (try again later)",
                SLOT_TIMEOUT.as_secs()
            )),
            // The listener has ended; existing connections continue.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Reads the answer without its end of line. It is empty if the listener has ended.
fn read_answer(mut line: &UnixStream, deadline: Instant) -> io::Result<String> {
    let mut text = Vec::new();
    while text.last() != Some(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        line.set_read_timeout(Some(left))?;
        let mut bytes = [0; 64];
        match line.read(&mut bytes) {
            Ok(0) => return Ok(String::new()),
            Ok(count) => text.extend_from_slice(&bytes[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if text.len() > MAX_ANSWER {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    text.pop();
    String::from_utf8(text).map_err(|_| ErrorKind::InvalidData.into())
}

/// Line of a request.
fn request(tenant: &Path, kind: ConnectionKind) -> String {
    let kind = match kind {
        ConnectionKind::Command => 'c',
        ConnectionKind::Transfer => 't',
        ConnectionKind::Stream => 's',
    };
    format!("{kind} {}\n", tenant.joined())
}

/// Listener's end of the channel to the process of a connection.
#[derive(Debug)]
pub struct SlotChannel {
    line: UnixStream,
    arrived: Vec<u8>,
}

/// Message from the process of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum SlotMessage {
    /// The message is not complete yet.
    Nothing,
    /// Request for a slot of this tenant.
    Slot(Path, ConnectionKind),
    /// End of the channel, or an invalid message.
    Invalid,
}

impl SlotChannel {
    /// Creates a channel. Returns also the socket that becomes the standard output of the process.
    pub fn pair() -> io::Result<(Self, UnixStream)> {
        let (line, theirs) = UnixStream::pair()?;
        line.set_nonblocking(true)?;
        let arrived = Vec::new();
        Ok((Self { line, arrived }, theirs))
    }

    /// Reads the bytes that have arrived.
    pub fn read(&mut self) -> SlotMessage {
        let mut bytes = [0; MAX_REQUEST];
        match self.line.read(&mut bytes) {
            Ok(0) => return SlotMessage::Invalid,
            Ok(count) => self.arrived.extend_from_slice(&bytes[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return SlotMessage::Nothing;
            }
            Err(_) => return SlotMessage::Invalid,
        }
        match parse(&self.arrived) {
            None if self.arrived.len() < MAX_REQUEST && !self.arrived.contains(&b'\n') => {
                SlotMessage::Nothing
            }
            None => SlotMessage::Invalid,
            Some((tenant, kind)) => SlotMessage::Slot(tenant, kind),
        }
    }

    /// Grants the slot.
    pub fn grant(self) {
        self.answer(GRANTED);
    }

    /// Refuses the slot, for this reason.
    pub fn refuse(self, reason: &str) {
        self.answer(reason);
    }

    fn answer(mut self, text: &str) {
        // A process that does not read the answer has ended.
        let _ = self.line.write_all(format!("{text}\n").as_bytes());
        let _ = self.line.shutdown(Shutdown::Write);
    }
}

impl AsFd for SlotChannel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.line.as_fd()
    }
}

fn parse(line: &[u8]) -> Option<(Path, ConnectionKind)> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (kind, tenant) = text.split_once(' ')?;
    let kind = match kind {
        "c" => ConnectionKind::Command,
        "t" => ConnectionKind::Transfer,
        "s" => ConnectionKind::Stream,
        _ => return None,
    };
    let tenant = match tenant {
        "" => Path::ROOT,
        label => Path::ROOT.child(label.parse().ok()?),
    };
    Some((tenant, kind))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn only_requests_of_a_tenant_are_parsed() {
        let longest = "x".repeat(Label::MAX_BYTES);
        for tenant in ["", "a", &longest] {
            let tenant = match tenant {
                "" => Path::ROOT,
                label => Path::ROOT.child(label.parse().unwrap()),
            };
            for kind in [
                ConnectionKind::Command,
                ConnectionKind::Transfer,
                ConnectionKind::Stream,
            ] {
                let line = request(&tenant, kind);
                assert!(line.len() <= MAX_REQUEST);
                assert_eq!(parse(line.as_bytes()), Some((tenant.clone(), kind)));
            }
        }
        for line in [
            "",
            "\n",
            "c a",
            "x a\n",
            "c a b\n",
            "c a:b\n",
            "c a\nc b\n",
            "c \u{fc}\n",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn a_process_waits_until_its_listener_answers_or_ends() {
        let tenant = Path::ROOT.child("a".parse().unwrap());
        for answer in [Some(GRANTED), Some("no"), None] {
            let (mut asking, theirs) = SlotChannel::pair().unwrap();
            let slot = Slot(Some(theirs));
            let asked = tenant.clone();
            let process = thread::spawn(move || slot.ask(&asked, ConnectionKind::Stream));
            asking.line.set_nonblocking(false).unwrap();
            assert_eq!(
                asking.read(),
                SlotMessage::Slot(tenant.clone(), ConnectionKind::Stream)
            );
            match answer {
                Some(text) => asking.answer(text),
                None => drop(asking),
            }
            let expected = match answer {
                Some("no") => Err("no".to_owned()),
                _ => Ok(()),
            };
            assert_eq!(process.join().unwrap(), expected);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (mut asking, mut theirs) = SlotChannel::pair().unwrap();
        assert_eq!(asking.read(), SlotMessage::Nothing);
        theirs.write_all(b"c a").unwrap();
        assert_eq!(asking.read(), SlotMessage::Nothing);
        theirs.write_all(&[b'x'; 1000]).unwrap();
        assert_eq!(asking.read(), SlotMessage::Invalid);
    }
}
