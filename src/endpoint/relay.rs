//! Passes a request on to its daemon, an upload after it, and the daemon's answers back, in pieces and as they are
//! (WIRE 9.5, 11.4, 11.5). Neither an image nor an answer is ever held whole.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use log::warn;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::image::{FixedImage, ImageRefusal};
use super::stream::{SecureStream, wait};
use crate::chain::{Answer, Daemon, Request, is_followed_by_stream, route};
use crate::name::{self, Name};
use crate::socket;
use crate::wire::frame::{self, FrameError, MAX_CHUNK, MAX_MESSAGE, PREFIX};
use crate::wire::{
    Command, Header, Int, Int64, Message, POLICY_KEPT, Payload, PolicyCommand, Success, VERSION,
};

/// Most octets that wait in one direction, above those in the TLS library and the kernel.
const PIECE: usize = 1 << 15;

/// How long a daemon may take to accept a connection.
pub const DAEMON_CONNECT: Duration = Duration::from_secs(10);

/// How long a daemon may take to answer a request, or to take a piece of an upload: long enough for a unikernel that is
/// asked to stop and does not.
pub const DAEMON_PATIENCE: Duration = Duration::from_secs(300);

/// What a client has to upload to be waited for afresh.
pub const UPLOAD_STEP: usize = 1 << 16;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The daemon's answer was passed on, whose kind is known if it could be told from its first octets.
    Answered(Option<Verdict>),
    /// Not carried out, or not completely; the text is for the client.
    Failure(String),
    /// The client left before the end.
    ClientGone(String),
    /// The daemon left inside a message, so that the client can be told nothing any more.
    Broken,
}

impl End {
    fn gone(error: &io::Error) -> Self {
        // The TLS library explains this one at length, and with an address on the web.
        Self::ClientGone(match error.kind() {
            ErrorKind::UnexpectedEof => "without a word".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// What the daemon answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request was carried out, or a stream began.
    Success,
    /// It was not.
    Failure,
}

/// The message that tells the client of a failure (WIRE 11.6), as a frame.
pub fn failure(name: &Name, text: &str) -> Vec<u8> {
    let header = Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: name.to_string().into(),
    };
    let message = Message::answer(header, Payload::Failure(text.into()));
    // A failure with a short text has an encoding, and its frame a length.
    message
        .encode()
        .ok()
        .and_then(|content| frame::frame(&content).ok())
        .unwrap_or_default()
}

/// Carries `request` out over the daemons' sockets below `runtime_folder`. The client is waited for `idle` in all for
/// each [`UPLOAD_STEP`] of an upload, and may not take answers for as long.
///
/// With [`End::Failure`] the client has not been told yet. Also returned are the paths whose policy stayed as it was,
/// as that of a newer certificate had been set before.
pub fn relay(
    client: &mut impl SecureStream,
    request: &Request,
    runtime_folder: &Path,
    idle: Duration,
) -> (End, Vec<name::Path>) {
    match start(client, request, runtime_folder, idle) {
        Ok(mut relay) => {
            let end = relay.run();
            let kept = relay.answers.kept.iter();
            let path = |index: &usize| Some(request.policies.get(*index)?.0.clone());
            (end, kept.filter_map(path).collect())
        }
        Err(reason) => (End::Failure(reason), Vec::new()),
    }
}

/// Connects to the daemon; an error is for the client.
fn start<'a, S: SecureStream>(
    client: &'a mut S,
    request: &Request,
    runtime_folder: &Path,
    idle: Duration,
) -> Result<Relay<'a, S>, String> {
    let route = route(&request.command);
    let (file, who) = match route.daemon {
        Daemon::Supervisor => (socket::SUPERVISOR, "the supervisor"),
        Daemon::Console => (socket::CONSOLE, "the console daemon"),
        Daemon::Statistics => (socket::STATISTICS, "the statistics daemon"),
    };
    let policies = match route.daemon {
        Daemon::Supervisor => &request.policies[..],
        Daemon::Console | Daemon::Statistics => &[],
    };
    if !is_followed_by_stream(&request.command)
        && let Some(digest) = request.image
    {
        FixedImage::check_embedded(&request.command, digest).map_err(|error| error.to_string())?;
    }
    let octets = encode(request, policies.len())
        .map_err(|error| format!("the request cannot be passed on: {error}"))?;
    let path = socket::path(runtime_folder, file);
    let daemon = connect_to(&path).map_err(|error| {
        warn!("cannot connect to {}: {error}", path.display());
        format!("{who} cannot be reached")
    })?;
    Ok(Relay {
        client,
        daemon,
        who,
        answer: route.answer,
        idle,
        to_daemon: Piece { octets, written: 0 },
        to_client: Piece::default(),
        scratch: vec![0; PIECE],
        upload: is_followed_by_stream(&request.command).then(|| RawStream::of(request)),
        pace: Pace::default(),
        answers: Answers::new(policies.len()),
        client_ended: false,
        daemon_ended: false,
        flushed: true,
        last_progress: Instant::now(),
    })
}

/// All policies and the command, to be written at once: the daemon stops at the first policy that it refuses. The
/// command's sequence number is 0, so that the answer fits the client as it is (WIRE 11.6).
fn encode(request: &Request, policies: usize) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut add = |message: &Message| {
        let content = message.encode().map_err(|error| error.to_string())?;
        let framed = frame::frame(&content).map_err(|error| error.to_string())?;
        octets.extend(framed);
        Ok::<_, String>(())
    };
    for (number, (path, policy)) in (1..).zip(&request.policies[..policies]) {
        let command = Command::Policy(PolicyCommand::AddDated(policy.clone()));
        add(&Message::command(number, &path.clone().into(), command))?;
    }
    add(&Message::command(0, &request.name, request.command.clone()))?;
    Ok(octets)
}

fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let socket = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let daemon = UnixStream::from(socket);
    // A daemon that does not accept blocks connect(2) once its backlog is full.
    daemon.set_write_timeout(Some(DAEMON_CONNECT))?;
    connect(daemon.as_raw_fd(), &address)?;
    daemon.set_nonblocking(true)?;
    Ok(daemon)
}

struct Relay<'a, S> {
    client: &'a mut S,
    daemon: UnixStream,
    who: &'static str,
    answer: Answer,
    idle: Duration,
    to_daemon: Piece,
    to_client: Piece,
    scratch: Vec<u8>,
    /// What the client still uploads.
    upload: Option<RawStream>,
    pace: Pace,
    answers: Answers,
    client_ended: bool,
    daemon_ended: bool,
    /// Whether the TLS library holds nothing for the client.
    flushed: bool,
    last_progress: Instant,
}

impl<S: SecureStream> Relay<'_, S> {
    fn run(&mut self) -> End {
        loop {
            match self.step() {
                Ok(true) => self.last_progress = Instant::now(),
                Ok(false) => {}
                // What the client cannot be told between two messages, it cannot be told at all.
                Err(End::Failure(_)) if !self.is_between_messages() => return End::Broken,
                Err(end) => return end,
            }
        }
    }

    /// Moves what can be moved, else waits; whether something moved.
    fn step(&mut self) -> Result<bool, End> {
        let mut moved = self.write_daemon();
        moved |= self.read_daemon()?;
        moved |= self.write_client()?;
        // Before the client is looked at, which may leave as soon as it has its answer.
        if let Some(end) = self.end() {
            return Err(end);
        }
        moved |= self.read_client()?;
        if !moved {
            self.wait()?;
        }
        Ok(moved)
    }

    fn read_client(&mut self) -> Result<bool, End> {
        if self.client_ended || (self.upload.is_some() && !self.to_daemon.is_empty()) {
            return Ok(false);
        }
        let count = match self.client.read(&mut self.scratch) {
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
                (Ok(0), _) => Err(End::ClientGone("closed".to_owned())),
                (Err(error), _) => Err(End::gone(&error)),
            };
        };
        match count {
            Ok(0) => Err(End::ClientGone(
                "closed before the end of the upload".to_owned(),
            )),
            Ok(count) => {
                self.pace.arrived(count);
                let arrived = self.scratch.get(..count).unwrap_or_default();
                let taken = upload
                    .scan(arrived)
                    .map_err(|error| End::Failure(error.to_string()))?;
                self.to_daemon
                    .push(arrived.get(..taken).unwrap_or_default());
                if upload.ended {
                    self.upload = None;
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(End::ClientGone("in the middle of the upload".to_owned()))
            }
            Err(error) => Err(End::ClientGone(format!(
                "in the middle of the upload: {error}"
            ))),
        }
    }

    fn write_daemon(&mut self) -> bool {
        let mut moved = false;
        while !self.to_daemon.is_empty() {
            match self.daemon.write(self.to_daemon.rest()) {
                Ok(count) => self.to_daemon.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // The daemon does not listen any more, but may have said why.
                    self.to_daemon = Piece::default();
                    self.upload = None;
                }
            }
            moved = true;
        }
        moved
    }

    fn read_daemon(&mut self) -> Result<bool, End> {
        if !self.wants_answer() {
            return Ok(false);
        }
        match self.daemon.read(&mut self.scratch) {
            Ok(0) => self.daemon_ended = true,
            Ok(count) => {
                let arrived = self.scratch.get(..count).unwrap_or_default();
                let single = self.answer == Answer::Single;
                self.answers
                    .pass(arrived, single, &mut self.to_client.octets)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.daemon_ended = true,
        }
        Ok(true)
    }

    fn write_client(&mut self) -> Result<bool, End> {
        let gone = |error: io::Error| End::gone(&error);
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

    fn end(&self) -> Option<End> {
        if !self.to_client.is_empty() || !self.flushed {
            return None;
        }
        if self.answers.complete {
            return Some(End::Answered(self.answers.verdict));
        }
        if !self.daemon_ended {
            return None;
        }
        Some(match (self.answer, self.answers.passed_on) {
            (_, 0) => End::Failure(format!("{} ended without an answer", self.who)),
            (Answer::Subscription, _) => End::Failure(format!("{} ended the stream", self.who)),
            _ if !self.is_between_messages() => End::Broken,
            _ => End::Answered(self.answers.verdict),
        })
    }

    fn is_between_messages(&self) -> bool {
        self.to_client.is_empty() && (self.answers.policies > 0 || self.answers.frames.left == 0)
    }

    fn wants_answer(&self) -> bool {
        !self.daemon_ended && !self.answers.complete && self.to_client.is_empty()
    }

    fn wait(&mut self) -> Result<(), End> {
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

        let mut descriptors = vec![PollFd::new(self.client.socket(), from_client)];
        // poll(2) always reports a peer that has left, even if there is no use for the news yet.
        if !from_daemon.is_empty() {
            descriptors.push(PollFd::new(self.daemon.as_fd(), from_daemon));
        }
        let patience = self.patience();
        let until = patience.as_ref().map(|(until, _)| *until);
        let awaits_upload = self.awaits_upload();
        let began = Instant::now();
        wait(&mut descriptors, until)
            .map_err(|error| End::Failure(format!("waiting failed: {error}")))?;

        let happened = descriptors
            .first()
            .and_then(PollFd::revents)
            .unwrap_or(PollFlags::empty());
        if awaits_upload {
            self.pace.waited += began.elapsed();
        }
        if !listening && happened.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            return Err(End::ClientGone("connection lost".to_owned()));
        }
        match patience {
            Some((until, end)) if Instant::now() >= until => Err(end),
            _ => Ok(()),
        }
    }

    /// Whether it is the client's turn.
    fn awaits_upload(&self) -> bool {
        self.upload.is_some() && self.to_daemon.is_empty()
    }

    /// Until when nothing may happen, and what it means; streams may be silent for ever.
    fn patience(&self) -> Option<(Instant, End)> {
        let seconds = self.idle.as_secs();
        if !self.to_client.is_empty() || !self.flushed {
            let reason = format!("took nothing for {seconds} s");
            Some((self.last_progress + self.idle, End::ClientGone(reason)))
        } else if self.awaits_upload() {
            let reason = format!(
                "the upload is slower than {} KiB in {seconds} s",
                UPLOAD_STEP >> 10
            );
            let left = self.idle.saturating_sub(self.pace.waited);
            Some((Instant::now() + left, End::Failure(reason)))
        } else if self.answer == Answer::Single || self.answers.passed_on == 0 {
            let reason = format!("{} does not answer", self.who);
            Some((self.last_progress + DAEMON_PATIENCE, End::Failure(reason)))
        } else {
            None
        }
    }
}

/// Whether an upload goes on fast enough: counted is only the time in which it is the client's turn, so that a slow
/// daemon is not held against it.
#[derive(Debug, Default)]
struct Pace {
    /// What has arrived since the last whole [`UPLOAD_STEP`].
    octets: usize,
    /// How long the client was waited for since.
    waited: Duration,
}

impl Pace {
    fn arrived(&mut self, count: usize) {
        self.octets += count;
        if self.octets >= UPLOAD_STEP {
            *self = Self::default();
        }
    }
}

/// Octets on their way.
#[derive(Debug, Default)]
struct Piece {
    octets: Vec<u8>,
    written: usize,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn rest(&self) -> &[u8] {
        self.octets.get(self.written..).unwrap_or_default()
    }

    fn push(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        if self.is_empty() {
            self.octets.clear();
            self.written = 0;
        }
    }
}

/// Follows the boundaries of frames in octets that pass by.
#[derive(Debug, Default)]
struct Frames {
    prefix: [u8; PREFIX],
    /// How much of `prefix` has passed.
    prefixed: usize,
    /// How much of the content has not passed yet.
    left: usize,
}

/// What [`Frames::next`] came upon.
#[derive(Debug, PartialEq, Eq)]
enum Passed {
    /// Octets inside a frame; the flag says whether its last one is among them.
    Content(usize, bool),
    /// The octets that complete a prefix, and what it announces.
    Prefix(usize, u32),
    /// A part of a prefix.
    Part(usize),
}

impl Frames {
    /// Looks at the front of `octets`, which are not empty.
    fn next(&mut self, octets: &[u8]) -> Passed {
        if self.left > 0 {
            let count = self.left.min(octets.len());
            self.left -= count;
            return Passed::Content(count, self.left == 0);
        }
        let count = (PREFIX - self.prefixed).min(octets.len());
        for (place, octet) in self.prefix[self.prefixed..].iter_mut().zip(octets) {
            *place = *octet;
        }
        self.prefixed += count;
        if self.prefixed < PREFIX {
            return Passed::Part(count);
        }
        self.prefixed = 0;
        let announced = u32::from_be_bytes(self.prefix);
        self.left = frame::length(self.prefix).unwrap_or(0);
        Passed::Prefix(count, announced)
    }
}

/// An upload: frames of at most [`MAX_CHUNK`] octets up to an empty one (WIRE 7.3).
#[derive(Debug, Default)]
struct RawStream {
    frames: Frames,
    /// What the content must be, where the certificate fixes it.
    fixed: Option<FixedImage>,
    ended: bool,
}

/// Why an upload goes no further. Its end is not passed on then, so that nothing comes of it.
#[derive(Debug)]
enum UploadError {
    Frame(FrameError),
    Image(ImageRefusal),
}

impl RawStream {
    fn of(request: &Request) -> Self {
        let fixed = request
            .image
            .and_then(|digest| FixedImage::of(&request.command, digest));
        Self {
            fixed,
            ..Self::default()
        }
    }

    /// How many of `octets` belong to the upload: all, unless it ends among them.
    fn scan(&mut self, octets: &[u8]) -> Result<usize, UploadError> {
        let mut taken = 0;
        while let Some(rest) = octets.get(taken..).filter(|rest| !rest.is_empty()) {
            match self.frames.next(rest) {
                Passed::Content(count, _) => {
                    if let Some(fixed) = &mut self.fixed {
                        fixed.pass(rest.get(..count).unwrap_or_default())?;
                    }
                    taken += count;
                }
                Passed::Part(count) => taken += count,
                Passed::Prefix(count, 0) => {
                    if let Some(fixed) = self.fixed.take() {
                        fixed.finish()?;
                    }
                    self.ended = true;
                    return Ok(taken + count);
                }
                Passed::Prefix(count, announced) => {
                    let announced = announced as usize;
                    if announced > MAX_CHUNK {
                        let error = FrameError::TooLong(announced, MAX_CHUNK);
                        return Err(UploadError::Frame(error));
                    }
                    taken += count;
                }
            }
        }
        Ok(taken)
    }
}

impl From<ImageRefusal> for UploadError {
    fn from(error: ImageRefusal) -> Self {
        Self::Image(error)
    }
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "upload refused: {error}"),
            Self::Image(error) => error.fmt(f),
        }
    }
}

/// What comes from the daemon: an answer to each policy, which stays here, then what goes on to the client.
#[derive(Debug)]
struct Answers {
    /// Policies that are not answered yet.
    policies: usize,
    /// How many were answered.
    answered: usize,
    /// Those of the answered ones, counted from 0, that were not set because of a newer certificate's.
    kept: Vec<usize>,
    /// The answer to a policy, as far as it has arrived.
    held: Vec<u8>,
    frames: Frames,
    /// The first octets of the first frame for the client, from which its kind is told.
    head: Vec<u8>,
    verdict: Option<Verdict>,
    /// Frames that were passed on completely.
    passed_on: usize,
    /// Nothing more is to be passed on.
    complete: bool,
}

impl Answers {
    /// Longer headers than fit into this many octets occur in no sane name.
    const HEAD: usize = 1 << 10;

    fn new(policies: usize) -> Self {
        Self {
            policies,
            answered: 0,
            kept: Vec::new(),
            held: Vec::new(),
            frames: Frames::default(),
            head: Vec::new(),
            verdict: None,
            passed_on: 0,
            complete: false,
        }
    }

    /// Appends to `out` what is for the client. With `single` that is one frame, otherwise all.
    fn pass(&mut self, octets: &[u8], single: bool, out: &mut Vec<u8>) -> Result<(), End> {
        let mut rest = octets;
        while !rest.is_empty() && !self.complete {
            let passed = self.frames.next(rest);
            let (Passed::Content(count, _) | Passed::Prefix(count, _) | Passed::Part(count)) =
                passed;
            let (front, back) = rest.split_at(count);
            rest = back;
            if self.policies > 0 {
                self.hold(&passed, front)?;
                continue;
            }
            match passed {
                Passed::Prefix(_, announced) if self.frames.left == 0 => {
                    // No daemon ends its answers so. The client may be told nothing or everything after it.
                    return Err(End::Failure(format!(
                        "an unexpected frame of length {announced:#x} arrived from the daemon"
                    )));
                }
                Passed::Part(_) => {}
                Passed::Prefix(..) => out.extend_from_slice(&self.frames.prefix),
                Passed::Content(_, last) => {
                    out.extend_from_slice(front);
                    self.look_at(front);
                    if last {
                        self.passed_on += 1;
                        self.complete = single;
                    }
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, passed: &Passed, octets: &[u8]) -> Result<(), End> {
        let refused =
            |text: &str| End::Failure(format!("the policy of a certificate was refused: {text}"));
        match passed {
            Passed::Prefix(_, announced) => {
                let fits = (1..=MAX_MESSAGE).contains(&(*announced as usize));
                fits.then_some(())
                    .ok_or_else(|| refused("the supervisor's answer is too long"))
            }
            Passed::Part(_) => Ok(()),
            Passed::Content(_, last) => {
                self.held.extend_from_slice(octets);
                if !last {
                    return Ok(());
                }
                let answer = Message::decode(&std::mem::take(&mut self.held));
                match answer.map(|message| message.payload) {
                    Ok(Payload::Reply(success)) => {
                        if success == Success::String(POLICY_KEPT.into()) {
                            self.kept.push(self.answered);
                        }
                        self.answered += 1;
                        self.policies -= 1;
                        Ok(())
                    }
                    Ok(Payload::Failure(text)) => Err(refused(&text.to_lossy())),
                    Ok(_) => Err(refused("the supervisor's answer is no answer")),
                    Err(error) => Err(refused(&error.to_string())),
                }
            }
        }
    }

    fn look_at(&mut self, octets: &[u8]) {
        if self.passed_on > 0 || self.verdict.is_some() || self.head.len() >= Self::HEAD {
            return;
        }
        self.head
            .extend(octets.iter().take(Self::HEAD - self.head.len()));
        self.verdict = kind_of(&self.head);
    }
}

/// The kind of an answer by the tag after its header (WIRE 4): SEQUENCE { SEQUENCE header, [n] payload }.
fn kind_of(head: &[u8]) -> Option<Verdict> {
    let (0x30, _, message) = element(head)? else {
        return None;
    };
    let (0x30, length, header) = element(message)? else {
        return None;
    };
    match header.get(length?)? {
        0xa1 | 0xa3 => Some(Verdict::Success),
        0xa2 => Some(Verdict::Failure),
        _ => None,
    }
}

/// Tag, length and what follows them of a DER element with a one-octet tag.
fn element(octets: &[u8]) -> Option<(u8, Option<usize>, &[u8])> {
    let (tag, rest) = octets.split_first()?;
    let (first, rest) = rest.split_first()?;
    match first {
        0..=0x7f => Some((*tag, Some(usize::from(*first)), rest)),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length
                .iter()
                .fold(0_usize, |length, octet| length << 8 | usize::from(*octet));
            Some((*tag, Some(length), rest))
        }
        _ => Some((*tag, None, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{DatedPolicy, Octets};

    fn answer(payload: Payload) -> Vec<u8> {
        let header = Header {
            version: Int::new(VERSION),
            sequence: Int64(0),
            name: "a:b".into(),
        };
        frame::frame(&Message::answer(header, payload).encode().unwrap()).unwrap()
    }

    fn success() -> Vec<u8> {
        answer(Payload::Reply(Success::String("done".into())))
    }

    #[test]
    fn an_upload_ends_at_the_empty_frame_wherever_it_is_cut() {
        let stream = b"\0\0\0\x03abc\0\0\0\x01x\0\0\0\0more";
        for size in 1..stream.len() {
            let mut upload = RawStream::default();
            let mut taken = 0;
            for piece in stream.chunks(size) {
                taken += upload.scan(piece).unwrap();
                if upload.ended {
                    break;
                }
            }
            assert!(upload.ended);
            assert_eq!(taken, stream.len() - 4, "cut every {size}");
        }
    }

    #[test]
    fn only_whole_steps_of_an_upload_renew_the_patience() {
        let waited = Duration::from_secs(59);
        let mut pace = Pace { octets: 0, waited };
        for _ in 1..UPLOAD_STEP {
            pace.arrived(1);
            assert_eq!(pace.waited, waited);
        }
        pace.arrived(1);
        assert_eq!((pace.octets, pace.waited), (0, Duration::ZERO));
    }

    #[test]
    fn a_chunk_over_the_limit_is_refused_with_its_prefix() {
        let mut upload = RawStream::default();
        assert!(upload.scan(&[0, 1, 0, 0, b'x']).is_ok());
        for prefix in [[0, 1, 0, 1], [0x80, 0, 0, 0], [0xff; 4]] {
            assert!(RawStream::default().scan(&prefix).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn answers_to_policies_stay_here_and_the_last_one_is_passed_on_as_it_is() {
        let octets = [success(), success(), success(), b"junk".to_vec()].concat();
        for size in 1..octets.len() {
            let mut answers = Answers::new(2);
            let mut out = Vec::new();
            for piece in octets.chunks(size) {
                answers.pass(piece, true, &mut out).unwrap();
            }
            assert_eq!(out, success(), "cut every {size}");
            assert!(answers.complete);
            assert_eq!(answers.verdict, Some(Verdict::Success));
        }
    }

    #[test]
    fn a_refused_policy_ends_it_with_the_daemons_words() {
        let octets = [success(), answer(Payload::Failure("too large".into()))].concat();
        let mut out = Vec::new();
        let Err(End::Failure(text)) = Answers::new(2).pass(&octets, true, &mut out) else {
            panic!("accepted");
        };
        assert!(text.contains("too large"), "{text}");
        assert!(out.is_empty());
    }

    #[test]
    fn the_kind_of_an_answer_is_told_from_its_head() {
        assert_eq!(kind_of(&success()[4..]), Some(Verdict::Success));
        let failed = answer(Payload::Failure("x".repeat(300).as_str().into()));
        assert_eq!(kind_of(&failed[4..]), Some(Verdict::Failure));
        for end in 0..20 {
            assert_eq!(kind_of(&failed[4..4 + end]), None);
        }
        assert_eq!(kind_of(b"\x30\x80\x30\x80"), None);
    }

    #[test]
    fn the_command_comes_last_with_sequence_0() {
        let policy = crate::wire::Policy {
            cpuids: vec![Int::new(0)],
            unikernels: Int::new(1),
            memory: Int::new(32),
            block: None,
            bridges: Vec::new(),
        };
        let dated = DatedPolicy {
            policy,
            not_before: Int::new(1),
            serial: Octets(vec![7]),
        };
        let request = Request {
            name: "foo:bar".parse().unwrap(),
            policies: vec![("foo".parse().unwrap(), dated)],
            command: Command::Unikernel(crate::wire::UnikernelCommand::Info(())),
            image: None,
        };
        let octets = encode(&request, 1).unwrap();
        let mut reader = &octets[..];
        let mut next = || {
            let content = frame::read_frame(&mut reader, MAX_MESSAGE)
                .unwrap()
                .unwrap();
            Message::decode(&content).unwrap().header
        };
        assert_eq!(next().name, "foo:".into());
        let last = next();
        assert_eq!((last.name, last.sequence), ("foo:bar".into(), Int64(0)));
        assert!(reader.is_empty());
    }
}
