//! `petrel-metrics`: answers one request of Prometheus on standard input and output, with the file that
//! `petrel-stats --prometheus` writes. What listens is inetd or systemd.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use argh::FromArgs;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};

use crate::command_line;
use crate::sandbox::{self, Breach};
use crate::sys::poll::wait_for;

/// Most bytes of a request.
pub const MAX_REQUEST: usize = 1 << 13;

/// Most bytes of the file.
pub const MAX_FILE: u64 = 1 << 24;

/// How long all of it may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How old the file may be, unless the operator says otherwise.
pub const AGE: Duration = Duration::from_secs(120);

/// Bytes written at once: a pipe that can be written to takes as many.
const PIECE: usize = 4096;

/// Exit code if there was nobody to answer.
const NO_ANSWER: i32 = 1;

/// Answer one request of Prometheus on standard input and output.
#[derive(FromArgs, Debug)]
struct Options {
    /// what petrel-stats --prometheus writes
    #[argh(positional)]
    file: PathBuf,

    /// seconds that it may be old, 1 to 86400 (default 120)
    #[argh(option, arg_name = "seconds", default = "AGE", from_str_fn(seconds))]
    max_age: Duration,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    status: &'static str,
    /// Empty for a request of the head alone.
    body: String,
    length: usize,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// The metrics, or (`false`) only the head of that answer.
    Metrics(bool),
    /// Something else, which is answered so.
    Other(&'static str, &'static str),
}

/// Answers one request, and returns the exit code.
pub fn main() -> i32 {
    let options: Options = command_line::parse("petrel-metrics");
    let end = Instant::now() + REQUEST_TIMEOUT;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let file = open(&options.file);
    sandbox::confine(&[], Breach::Kill);
    let Ok(head) = receive(&stdin, end) else {
        return NO_ANSWER;
    };
    let reply = match request(&head) {
        Request::Metrics(with_body) => match read(&options.file, file, options.max_age) {
            Ok(text) => Reply::new("200 OK", text, with_body),
            Err(why) => Reply::new("503 Service Unavailable", why + "\n", with_body),
        },
        Request::Other(status, why) => Reply::new(status, format!("{why}\n"), true),
    };
    let sent = transmit(&stdout, &reply.to_bytes(), end);
    // Where it is no socket, the end of this process says the same.
    let _ = shutdown(stdout.as_raw_fd(), Shutdown::Write);
    sent.map_or(NO_ANSWER, |()| 0)
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("'{text}' is no number of seconds from 1 to 86400")),
    }
}

/// The head of a request, complete unless it is too long. It is read from the descriptor itself: poll(2) would not tell of
/// what a buffer has taken out of it.
fn receive(input: impl AsFd, end: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    while head.len() < MAX_REQUEST && !is_complete(&head) {
        wait(input.as_fd(), PollFlags::POLLIN, end)?;
        match nix::unistd::read(&input, &mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&bytes[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(head)
}

fn is_complete(head: &[u8]) -> bool {
    without_empty_line(head)
        .windows(4)
        .any(|end| end == b"\r\n\r\n")
}

/// Skips the empty line that some clients send before a request (RFC 9112 2.2).
fn without_empty_line(head: &[u8]) -> &[u8] {
    head.strip_prefix(b"\r\n").unwrap_or(head)
}

/// Path of a request target, in origin form (`/metrics?x`) or in the absolute form that proxies get
/// (`http://host/metrics?x`; RFC 9112 3.2).
fn path(target: &str) -> &str {
    const SCHEME: &str = "http://";
    let target = match target.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            rest.find(['/', '?']).map_or("/", |start| &rest[start..])
        }
        _ => target,
    };
    target.split('?').next().unwrap_or_default()
}

fn request(head: &[u8]) -> Request {
    let head = without_empty_line(head);
    let line = head.split(|byte| *byte == b'\r').next();
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    let ([method, target, version], true) = (&words[..], is_complete(head)) else {
        return Request::Other(
            "400 Bad Request",
            "this is no request that is understood here",
        );
    };
    if !version.starts_with("HTTP/1.") {
        return Request::Other(
            "505 HTTP Version Not Supported",
            "only HTTP/1 is spoken here",
        );
    }
    match (*method, path(target)) {
        ("GET" | "HEAD", "/metrics") => Request::Metrics(*method == "GET"),
        ("GET" | "HEAD", _) => Request::Other("404 Not Found", "metrics are at /metrics"),
        _ => Request::Other("405 Method Not Allowed", "metrics can only be read"),
    }
}

/// The file, and when it was written.
fn open(file: &Path) -> io::Result<(File, SystemTime)> {
    let open = File::open(file)?;
    let modified = open.metadata()?.modified()?;
    Ok((open, modified))
}

/// What is in the file, or why it tells nothing.
fn read(
    file: &Path,
    opened: io::Result<(File, SystemTime)>,
    most: Duration,
) -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", file.display());
    let (open, modified) = opened.map_err(failed)?;
    // One from the future is as young as can be.
    let age = modified.elapsed().unwrap_or_default();
    if age > most {
        return Err(format!(
            "{} is {} s old: does petrel-stats --prometheus run?",
            file.display(),
            age.as_secs()
        ));
    }
    let mut text = String::new();
    open.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

impl Reply {
    fn new(status: &'static str, body: String, with_body: bool) -> Self {
        Self {
            status,
            length: body.len(),
            body: if with_body { body } else { String::new() },
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let allow = if self.status.starts_with("405") {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n{allow}\
             Connection: close\r\n\r\n{}",
            self.status, self.length, self.body
        )
        .into_bytes()
    }
}

fn transmit(output: &io::Stdout, mut bytes: &[u8], end: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        wait(output.as_fd(), PollFlags::POLLOUT, end)?;
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match send(output.as_raw_fd(), piece, flags) {
            Err(Errno::ENOTSOCK) => nix::unistd::write(output, piece),
            sent => sent,
        };
        match sent {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    output.lock().flush()
}

fn wait(descriptor: impl AsFd, wanted: PollFlags, end: Instant) -> io::Result<()> {
    if Instant::now() >= end || wait_for(descriptor, wanted, Some(end))?.is_empty() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_head_of_any_size_that_is_taken_is_read_whole() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        for size in [100, 1000, 1024, 2000, 5000, 7000] {
            let start = "GET /metrics HTTP/1.1\r\nX: ";
            let head = format!("{start}{}\r\n\r\n", "x".repeat(size - start.len()));
            client.write_all(head.as_bytes()).unwrap();
            let end = Instant::now() + REQUEST_TIMEOUT;
            assert_eq!(receive(&ours, end).unwrap(), head.as_bytes(), "{size}");
        }
    }

    #[test]
    fn a_client_that_says_nothing_is_not_waited_for_beyond_the_end() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        let nothing = receive(&ours, soon()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::TimedOut);
        client.write_all(b"GET /metr").unwrap();
        let too_little = receive(&ours, soon()).unwrap_err();
        assert_eq!(too_little.kind(), io::ErrorKind::TimedOut);
        drop(client);
        let gone = receive(&ours, Instant::now() + REQUEST_TIMEOUT).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_the_metrics_can_be_asked_for() {
        for (head, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "metrics"),
            ("GET /metrics?x=y HTTP/1.0\r\n\r\n", "metrics"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "head"),
            ("\r\nGET /metrics HTTP/1.1\r\n\r\n", "metrics"),
            ("GET http://[::1]:9559/metrics HTTP/1.1\r\n\r\n", "metrics"),
            ("HEAD HTTP://x/metrics?y HTTP/1.1\r\n\r\n", "head"),
            ("GET http://x HTTP/1.1\r\n\r\n", "404"),
            ("GET http://x?/metrics HTTP/1.1\r\n\r\n", "404"),
            ("GET http:///metrics/ HTTP/1.1\r\n\r\n", "404"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics HTTP/2\r\n\r\n", "505"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n", "400"),
            ("\r\n\r\n", "400"),
        ] {
            let told = match request(head.as_bytes()) {
                Request::Metrics(true) => "metrics",
                Request::Metrics(false) => "head",
                Request::Other(status, _) => &status[..3],
            };
            assert_eq!(told, expected, "{head:?}");
        }
        assert!(matches!(
            request(b"\xff \xff \xff\r\n\r\n"),
            Request::Other(..)
        ));
    }

    #[test]
    fn a_head_alone_tells_the_length_of_the_body() {
        let reply = Reply::new("200 OK", "12345".to_owned(), false).to_bytes();
        let text = String::from_utf8(reply).unwrap();
        assert!(text.contains("\r\nContent-Length: 5\r\n") && text.ends_with("\r\n\r\n"));
    }
}
