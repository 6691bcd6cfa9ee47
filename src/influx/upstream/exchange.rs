//! One connection to the collector: lines that are sent together, and the answer to them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::{Destination, EXCHANGE};
use crate::influx::http::{self, Answer, MAX_ANSWER};

/// Bytes read at once.
const READ: usize = 1 << 12;

/// Lines that are sent together, and the answer so far.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) stream: TcpStream,
    pub(super) lines: Vec<String>,
    pub(super) request: Vec<u8>,
    pub(super) written: usize,
    pub(super) answer: Vec<u8>,
    pub(super) deadline: Option<Instant>,
}

impl Exchange {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            lines: Vec::new(),
            request: Vec::new(),
            written: 0,
            answer: Vec::new(),
            deadline: None,
        }
    }

    pub(super) fn begin(&mut self, lines: Vec<String>, destination: &Destination, now: Instant) {
        self.request = match destination {
            Destination::Lines(_) => lines.concat().into_bytes(),
            Destination::Server(url, place, token) => {
                http::request(url, place, token.as_deref(), &lines)
            }
        };
        self.deadline = (!lines.is_empty()).then(|| now + EXCHANGE);
        (self.lines, self.written) = (lines, 0);
    }

    /// Writes and reads without waiting. Returns `false` at the end of the input. A collector that has answered before it broke
    /// off may have refused what it had not read to its end, so that is no error.
    pub(super) fn converse(&mut self) -> io::Result<bool> {
        let written = self.write();
        let read = self.read();
        let error = match (written, read) {
            (Ok(()), Ok(open)) => return Ok(open),
            (Err(error), _) | (Ok(()), Err(error)) => error,
        };
        let broken_off = matches!(
            error.kind(),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
        );
        if broken_off && !self.answer.is_empty() {
            return Ok(false);
        }
        Err(error)
    }

    /// Answer of the server; when the deadline is over, the part that has arrived, if that is enough.
    pub(super) fn answer(&self, open: bool, late: bool) -> Result<Option<Answer>, &'static str> {
        match http::answer(&self.answer, !open)? {
            None if late => Ok(http::answer(&self.answer, true).unwrap_or_default()),
            answer => Ok(answer),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads without waiting. Returns `false` at the end of the input.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; READ];
        while self.answer.len() < MAX_ANSWER {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => self.answer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Lines that are not written completely.
    pub(super) fn unsent(self) -> Vec<String> {
        let mut end = 0;
        let mut lines = self.lines;
        let sent = lines.iter().take_while(|line| {
            end += line.len();
            end <= self.written
        });
        let sent = sent.count();
        lines.split_off(sent)
    }
}
