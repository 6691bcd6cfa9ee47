//! Content on its way between a client and a file. Each has a process of its own, which holds the connection, the file
//! and nothing else of this host: whatever takes its time, be it the client, zlib or the disk, nobody else waits for it.
//!
//! The line between such a process and `petreld` carries, from the process:
//!
//! ```text
//! '?' <bytes: u64, big-endian>   before the file grows: may it have so many bytes?
//! '+' | '-' | '!' <text>         the report; the end of the line follows
//! ```
//!
//! and from `petreld` `'+'` for each `'?'` that is granted. It hangs up to call the transfer off.

mod client;
mod receive;
mod send;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::SndBuf};

use crate::sandbox::{self, Breach, Need};
use crate::sys::worker;

use client::{Client, Stop, is_transient};
pub use receive::{Incoming, Receive};
pub use send::{Form, Send};

/// How long a client may take for each [`STEP`] of what it sends, and for each of what it is sent.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that a client need not have taken for more to be sent to it.
const AHEAD: usize = 1 << 20;

/// What a client has to send or take to be waited for afresh.
pub const STEP: usize = 1 << 16;

/// What a process carries.
#[derive(Debug)]
pub enum TransferKind {
    /// From the client into a file.
    Receive(Box<Receive>),
    /// From a file to the client.
    Send(Send),
}

/// A process that carries content. It breaks off when this is dropped.
#[derive(Debug)]
pub struct Transfer {
    line: UnixStream,
    /// Whether the client is sent anything.
    sends: bool,
    report: Vec<u8>,
}

/// What a process says.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// It waits until its file may have so many bytes: see [`Transfer::grant`].
    Grows(u64),
    /// It is done.
    Ended(Outcome),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is where it was to go, but for these bytes, which the client is to get at last: whoever has everything finds
    /// that nothing is under way any more.
    Done(Vec<u8>),
    /// It went wrong, and the client can be told why.
    Failed(String),
    /// It went wrong, and the client cannot be told any more.
    Lost(String),
}

/// Most bytes of a report: the last of what a client is sent is part of it.
pub const MAX_REPORT: usize = 1 << 18;

/// The first byte of a report.
const DONE: u8 = b'+';
const FAILED: u8 = b'-';
const LOST: u8 = b'!';

/// The first byte of a request to grow.
const GROWS: u8 = b'?';

/// The answer to it.
const GRANTED: u8 = b'+';

impl Transfer {
    /// Has `cargo` carried for the client on `socket`, from which nothing is read and to which nothing is sent meanwhile.
    pub fn start(socket: BorrowedFd<'_>, cargo: TransferKind) -> io::Result<Self> {
        let socket = UnixStream::from(socket.try_clone_to_owned()?);
        let (mut keep, modest) = match &cargo {
            TransferKind::Receive(receive) => (receive.files(), receive.is_modest()),
            TransferKind::Send(send) => (send.files(), send.is_compressed()),
        };
        keep.push(socket.as_raw_fd());
        let sends = matches!(cargo, TransferKind::Send(_));
        let work = |line: UnixStream| carry(cargo, socket, line);
        // SAFETY: it uses the files of the cargo and the socket, which are kept, and what it opens. Other
        // threads of this process may hold locks of the allocator and of the log, which is off in the new process.
        #[allow(unsafe_code)]
        let line = unsafe { worker::start(work, &keep, modest) }?;
        line.set_nonblocking(true)?;
        Ok(Self {
            line,
            sends,
            report: Vec::new(),
        })
    }

    /// Reads once what the process says, if that is complete.
    pub fn progress(&mut self) -> Option<Report> {
        let mut bytes = [0; 1 << 12];
        match self.line.read(&mut bytes) {
            Ok(0) => {}
            Ok(count) if self.report.len() + count > MAX_REPORT => {
                return Some(Report::Ended(self.died()));
            }
            Ok(count) => {
                self.report.extend_from_slice(&bytes[..count]);
                return self.growth();
            }
            Err(error) if is_transient(&error) => return None,
            Err(_) => {}
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(Report::Ended(match self.report.split_first() {
            Some((&DONE, last)) => Outcome::Done(last.to_vec()),
            Some((&FAILED, why)) => Outcome::Failed(text(why)),
            Some((&LOST, why)) => Outcome::Lost(text(why)),
            _ => self.died(),
        }))
    }

    /// The request to grow that has arrived, if it has: nothing follows one before it is answered.
    fn growth(&mut self) -> Option<Report> {
        let (&GROWS, bytes) = self.report.split_first()? else {
            return None;
        };
        let bytes = u64::from_be_bytes(*bytes.first_chunk()?);
        self.report.clear();
        Some(Report::Grows(bytes))
    }

    /// Lets the file grow as far as the process asked. One that has died reports that by itself.
    pub fn grant(&mut self) {
        if let Err(error) = self.line.write_all(&[GRANTED]) {
            log::debug!("a transfer cannot be granted anything: {error}");
        }
    }

    /// Without a report nobody knows what the client was sent.
    fn died(&self) -> Outcome {
        let why = "the process that carried its content has died".to_owned();
        if self.sends {
            Outcome::Lost(why)
        } else {
            Outcome::Failed(why)
        }
    }
}

impl AsFd for Transfer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

/// The work of the process.
fn carry(cargo: TransferKind, socket: UnixStream, mut line: UnixStream) {
    let Ok(supervisor) = line.try_clone() else {
        return;
    };
    // What is sent waits in the kernel while this process goes on; where it allows less it is less.
    let _ = setsockopt(&socket, SndBuf, &AHEAD);
    // zlib meets what clients send in a process that can do nothing else.
    sandbox::confine(&[Need::OpenFiles], Breach::Kill);
    let mut client = Client::new(socket, supervisor, TRANSFER_TIMEOUT);
    let (result, useless) = match cargo {
        TransferKind::Receive(receive) => receive.run(&mut client),
        TransferKind::Send(send) => (send.run(&mut client), None),
    };
    let (kind, content) = match result {
        Ok(last) => (DONE, last),
        Err(Stop::Refused(why)) => (FAILED, why.into_bytes()),
        Err(stop @ Stop::Content(_)) if client.can_be_told() => {
            (FAILED, stop.to_string().into_bytes())
        }
        Err(stop) => (LOST, stop.to_string().into_bytes()),
    };
    // Whoever hears this finds the file free, and nobody else on the connection.
    drop(client);
    let _ = line.write_all(&[&[kind], &content[..]].concat());
    let _ = line.shutdown(Shutdown::Write);
    // It takes a while to be freed, by whoever is the last to have it.
    let _ = line.read(&mut [0]);
    drop(useless);
}
