//! Relay: passes a request and its upload on to a daemon, and the answers back, in pieces and unchanged
//! (WIRE 9.5, 11.4, 11.5). Neither an image nor an answer is ever held whole.

mod buffers;
mod messages;

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use log::warn;
use nix::poll::PollFlags;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use rustls::pki_types::UnixTime;

use super::frames::{Answers, RawStream};
use super::image::FixedImage;
use super::outcome::{Fault, RequestEnd};
use super::revalidation::Revalidation;
use super::stream::SecureStream;
use crate::chain::{Answer, Daemon, Request, is_answered_by_content, is_followed_by_stream, route};
use crate::name;
use crate::socket::{self, Directory};
use crate::sys::poll::Poll;

use buffers::{Pace, PendingBytes, Piece};
use messages::encode;
pub use messages::failure;

/// Maximum number of bytes buffered in one direction, beside those in the TLS library and the kernel.
const PIECE: usize = 1 << 18;

/// Send buffer of a daemon's socket in bytes.
const AHEAD: usize = 1 << 20;

/// Timeout of a daemon for accepting a connection.
pub const DAEMON_CONNECT: Duration = Duration::from_secs(10);

/// Timeout of a daemon for answering a request, or taking a piece of an upload: long enough for a unikernel that is
/// asked to stop and does not.
pub const DAEMON_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of an upload that restart the timeout of the client.
pub const UPLOAD_STEP: usize = 1 << 16;

/// Carries `request` out over the daemons' `sockets`. The client has `idle` in all for
/// each [`UPLOAD_STEP`] of an upload, and may leave answers unread for as long. A stream or a transfer goes on only as long
/// as the client's certificates stay valid (`revalidation`).
///
/// A [`RequestEnd::Failure`] has not been sent to the client yet. Also returned are the paths whose policy stayed unchanged,
/// as that of a newer certificate had been set before.
pub fn relay(
    client: &mut impl SecureStream,
    request: &Request,
    sockets: &Directory,
    idle: Duration,
    revalidation: &Revalidation,
) -> (RequestEnd, Vec<name::Path>) {
    match start(client, request, sockets, idle, revalidation) {
        Ok(mut relay) => {
            let end = relay.run();
            let is_kept = |path: &name::Path| relay.answers.kept.contains(&path.to_string().into());
            let paths = request.policies.iter().map(|(path, _)| path);
            (end, paths.filter(|path| is_kept(path)).cloned().collect())
        }
        Err(end) => (end, Vec::new()),
    }
}

/// Connects to the daemon.
fn start<'a, S: SecureStream>(
    client: &'a mut S,
    request: &Request,
    sockets: &Directory,
    idle: Duration,
    revalidation: &'a Revalidation,
) -> Result<Relay<'a, S>, RequestEnd> {
    let refused = |reason| RequestEnd::Failure(Fault::Request, reason);
    let route = route(&request.command);
    let (file, who) = match route.daemon {
        Daemon::Supervisor => (socket::SUPERVISOR, "the supervisor"),
        Daemon::Console => (socket::CONSOLE, "the console daemon"),
        Daemon::Statistics => (socket::STATISTICS, "the statistics daemon"),
    };
    let sends_chain = route.daemon == Daemon::Supervisor && !request.policies.is_empty();
    if !is_followed_by_stream(&request.command)
        && let Some(digest) = request.image
    {
        FixedImage::check_embedded(&request.command, digest)
            .map_err(|error| refused(error.to_string()))?;
    }
    let bytes = encode(request, sends_chain)
        .map_err(|error| refused(format!("the request cannot be passed on: {error}")))?;
    let unreachable = |error: io::Error| {
        warn!(
            "cannot connect to {}: {error}",
            sockets.path(file).display()
        );
        RequestEnd::Failure(Fault::Host, format!("{who} cannot be reached"))
    };
    let daemon = sockets.connect(file, DAEMON_CONNECT).map_err(unreachable)?;
    // The kernel buffers uploads while this process goes on, as far as its limits allow.
    let _ = setsockopt(&daemon, SndBuf, &AHEAD);
    Ok(Relay {
        client,
        daemon,
        who,
        answer: route.answer,
        idle,
        to_daemon: PendingBytes::holding(bytes),
        to_client: Piece::default(),
        scratch: vec![0; PIECE],
        upload: is_followed_by_stream(&request.command).then(|| RawStream::of(request)),
        pace: Pace::default(),
        takes_content: is_answered_by_content(&request.command),
        answers: if sends_chain {
            Answers::to_chain_and_request()
        } else {
            Answers::to_request()
        },
        client_ended: false,
        daemon_ended: false,
        flushed: true,
        last_progress: Instant::now(),
        revalidation,
        recheck: Instant::now() + revalidation.next_check(UnixTime::now()),
    })
}

/// Side of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Daemon,
}

struct Relay<'a, S> {
    client: &'a mut S,
    daemon: UnixStream,
    who: &'static str,
    answer: Answer,
    idle: Duration,
    to_daemon: PendingBytes,
    to_client: Piece,
    scratch: Vec<u8>,
    /// Rest of the upload.
    upload: Option<RawStream>,
    pace: Pace,
    /// Whether the answer is content, for which the client has no total time limit.
    takes_content: bool,
    answers: Answers,
    client_ended: bool,
    daemon_ended: bool,
    /// Whether the TLS library holds nothing for the client.
    flushed: bool,
    last_progress: Instant,
    revalidation: &'a Revalidation,
    /// Time of the next check of the client's certificates.
    recheck: Instant,
}

impl<S: SecureStream> Relay<'_, S> {
    fn run(&mut self) -> RequestEnd {
        loop {
            match self.step() {
                Ok(true) => self.last_progress = Instant::now(),
                Ok(false) => {}
                // A failure can be sent only between two messages.
                Err(RequestEnd::Failure(..)) if !self.is_between_messages() => {
                    return RequestEnd::Broken;
                }
                Err(end) => return end,
            }
        }
    }

    /// Moves bytes, or waits if none can be moved. Returns whether some were moved.
    fn step(&mut self) -> Result<bool, RequestEnd> {
        self.check_certificates()?;
        let mut moved = self.write_daemon();
        moved |= self.read_daemon()?;
        moved |= self.write_client()?;
        // Before reading from the client, which may leave as soon as it has its answer.
        if let Some(end) = self.end() {
            return Err(end);
        }
        moved |= self.read_client()?;
        if !moved {
            self.wait()?;
        }
        Ok(moved)
    }

    /// Ends the relay if the client's certificates have expired or were revoked meanwhile.
    fn check_certificates(&mut self) -> Result<(), RequestEnd> {
        if !self.goes_on() || Instant::now() < self.recheck {
            return Ok(());
        }
        let now = UnixTime::now();
        self.recheck = Instant::now() + self.revalidation.next_check(now);
        self.revalidation
            .check(now)
            .map_err(|reason| RequestEnd::Failure(Fault::Request, reason))
    }

    /// Whether the relay may last for as long as the client likes. A command that the daemon has gets its answer.
    fn goes_on(&self) -> bool {
        self.answer != Answer::Single || self.takes_content || self.upload.is_some()
    }

    fn read_client(&mut self) -> Result<bool, RequestEnd> {
        if self.client_ended || (self.upload.is_some() && !self.to_daemon.is_empty()) {
            return Ok(false);
        }
        let count = match self.take_in() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            outcome => outcome,
        };
        let Some(upload) = &mut self.upload else {
            // Nothing more is expected of the client, but it may leave. A command that is under way gets its answer
            // nevertheless, for the log.
            return match (count, self.answer) {
                (Ok(1..), _) => Ok(false),
                (Ok(0), Answer::Single) => {
                    self.client_ended = true;
                    Ok(false)
                }
                (Ok(0), _) => Err(RequestEnd::ClientGone("closed".to_owned())),
                (Err(error), _) => Err(RequestEnd::gone(&error)),
            };
        };
        match count {
            Ok(0) => Err(RequestEnd::ClientGone(
                "closed before the end of the upload".to_owned(),
            )),
            Ok(count) => {
                self.pace.arrived(count);
                let taken = upload
                    .scan(self.to_daemon.front(count))
                    .map_err(|error| RequestEnd::Failure(Fault::Request, error.to_string()))?;
                self.to_daemon.hold(taken);
                if upload.ended {
                    self.upload = None;
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(RequestEnd::ClientGone(
                "in the middle of the upload".to_owned(),
            )),
            Err(error) => Err(RequestEnd::ClientGone(format!(
                "in the middle of the upload: {error}"
            ))),
        }
    }

    /// Reads from the client; of an upload, as many records of at most 16 KiB as have arrived and fit into the buffer.
    fn take_in(&mut self) -> io::Result<usize> {
        if self.upload.is_none() {
            return self.client.read(&mut self.scratch);
        }
        let space = self.to_daemon.space();
        let mut count = self.client.read(space)?;
        while count > 0 {
            // The next call reports the error again.
            match self.client.read(space.get_mut(count..).unwrap_or_default()) {
                Ok(0) | Err(_) => break,
                Ok(more) => count += more,
            }
        }
        Ok(count)
    }

    fn write_daemon(&mut self) -> bool {
        let mut moved = false;
        while !self.to_daemon.is_empty() {
            match self.daemon.write(self.to_daemon.rest()) {
                Ok(count) => self.to_daemon.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // The daemon reads no more, but may have sent the reason.
                    self.to_daemon = PendingBytes::default();
                    self.upload = None;
                }
            }
            moved = true;
        }
        moved
    }

    fn read_daemon(&mut self) -> Result<bool, RequestEnd> {
        if !self.wants_answer() {
            return Ok(false);
        }
        match self.daemon.read(&mut self.scratch) {
            Ok(0) => self.daemon_ended = true,
            Ok(count) => {
                let arrived = self.scratch.get(..count).unwrap_or_default();
                let single = self.answer == Answer::Single;
                self.answers
                    .pass(arrived, single, &mut self.to_client.bytes)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.daemon_ended = true,
        }
        Ok(true)
    }

    fn write_client(&mut self) -> Result<bool, RequestEnd> {
        let gone = |error: io::Error| RequestEnd::gone(&error);
        let mut moved = false;
        while !self.to_client.is_empty() {
            match self.client.write(self.to_client.rest()) {
                Ok(count) => {
                    self.to_client.advance(count);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(gone(error)),
            }
        }
        let before = self.flushed;
        self.flushed = self.client.flush().map_err(gone)?;
        Ok(moved || before != self.flushed)
    }

    fn end(&self) -> Option<RequestEnd> {
        if !self.to_client.is_empty() || !self.flushed {
            return None;
        }
        if self.answers.complete {
            return Some(RequestEnd::Answered(self.answers.verdict));
        }
        if !self.daemon_ended {
            return None;
        }
        let who = self.who;
        let failed = |reason| RequestEnd::Failure(Fault::Host, reason);
        Some(match (self.answer, self.answers.passed_on) {
            (_, 0) if self.answers.awaits_chain => failed(format!(
                "{who} ended without an answer to the policies of the certificates; if its log names no other reason, \
                 it is of an older release that does not know them as a whole, and has to be upgraded"
            )),
            (_, 0) => failed(format!("{who} ended without an answer")),
            (Answer::Subscription, _) => failed(format!("{who} ended the stream")),
            _ if !self.is_between_messages() => RequestEnd::Broken,
            _ => RequestEnd::Answered(self.answers.verdict),
        })
    }

    fn is_between_messages(&self) -> bool {
        self.to_client.is_empty() && (self.answers.awaits_chain || !self.answers.frames.is_inside())
    }

    fn wants_answer(&self) -> bool {
        !self.daemon_ended && !self.answers.complete && self.to_client.is_empty()
    }

    fn wait(&mut self) -> Result<(), RequestEnd> {
        let mut from_client = PollFlags::empty();
        let uploading = self.upload.is_some();
        let listening = !self.client_ended && (!uploading || self.to_daemon.is_empty());
        from_client.set(PollFlags::POLLIN, listening);
        from_client.set(
            PollFlags::POLLOUT,
            !self.to_client.is_empty() || !self.flushed,
        );
        let mut from_daemon = PollFlags::empty();
        from_daemon.set(PollFlags::POLLIN, self.wants_answer());
        from_daemon.set(PollFlags::POLLOUT, !self.to_daemon.is_empty());

        let mut poll = Poll::new();
        poll.add(Side::Client, self.client.socket(), from_client);
        // poll(2) always reports a hang-up, even of a peer that is not needed yet.
        if !from_daemon.is_empty() {
            poll.add(Side::Daemon, self.daemon.as_fd(), from_daemon);
        }
        let limit = self.time_limit();
        poll.until(limit.as_ref().map(|(until, _)| *until));
        poll.until(self.goes_on().then_some(self.recheck));
        let awaits_upload = self.awaits_upload();
        let began = Instant::now();
        let ready = poll.wait().map_err(|error| {
            RequestEnd::Failure(Fault::Host, format!("cannot wait for events: {error}"))
        })?;

        if awaits_upload {
            self.pace.waited += began.elapsed();
        }
        let lost = PollFlags::POLLERR | PollFlags::POLLHUP;
        let lost =
            |(side, events): &(Side, PollFlags)| *side == Side::Client && events.intersects(lost);
        if !listening && ready.iter().any(lost) {
            return Err(RequestEnd::ClientGone("connection lost".to_owned()));
        }
        match limit {
            Some((until, end)) if Instant::now() >= until => Err(end),
            _ => Ok(()),
        }
    }

    /// Whether the client has to send the next piece of an upload.
    fn awaits_upload(&self) -> bool {
        self.upload.is_some() && self.to_daemon.is_empty()
    }

    /// Deadline of the next progress, and the end of the request if it passes. Streams may be silent for ever.
    fn time_limit(&self) -> Option<(Instant, RequestEnd)> {
        let seconds = self.idle.as_secs();
        if !self.to_client.is_empty() || !self.flushed {
            let reason = format!("took nothing for {seconds} s");
            Some((
                self.last_progress + self.idle,
                RequestEnd::ClientGone(reason),
            ))
        } else if self.awaits_upload() {
            let reason = format!(
                "the upload is slower than {} KiB in {seconds} s",
                UPLOAD_STEP >> 10
            );
            let left = self.idle.saturating_sub(self.pace.waited);
            Some((
                Instant::now() + left,
                RequestEnd::Failure(Fault::Client, reason),
            ))
        } else if self.answer == Answer::Single || self.answers.passed_on == 0 {
            let reason = format!("{} does not answer", self.who);
            Some((
                self.last_progress + DAEMON_TIMEOUT,
                RequestEnd::Failure(Fault::Host, reason),
            ))
        } else {
            None
        }
    }
}
