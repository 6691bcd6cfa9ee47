//! One client of the supervisor: what it is doing at the moment, and how far it got.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use nix::poll::PollFlags;

use super::outgoing::Outgoing;
use super::{block, images};
use crate::socket::Peer;
use crate::supervisor::{TaskId, UploadId};
use crate::wire::frame::{FrameError, Frames, MAX_CHUNK, MAX_MESSAGE, Next, Passed, frame, length};
use crate::wire::image::{self, Pieces, Tail};
use crate::wire::{BlockData, Data, Header, Message, Payload, Success};

/// Most octets of a request. Images can be part of it: older clients send them so.
pub const MAX_REQUEST: usize = 32 << 20;

/// How long a client may do nothing while something is expected of it.
pub const IDLE: Duration = Duration::from_secs(60);

/// Octets of an upload read at once, and of one that is compressed: it becomes up to a thousand times as many.
const READ: usize = 1 << 16;
/// See [`READ`].
const READ_COMPRESSED: usize = 1 << 14;

/// Pieces sent or received for one client before others have their turn.
const PIECES: usize = 4;

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    doing: Doing,
    active: Instant,
}

#[derive(Debug)]
enum Doing {
    /// A request is expected.
    Asking,
    /// The supervisor works on its request.
    Waiting,
    /// What it uploads arrives.
    Uploading(Box<Uploading>),
    /// That came with its request, and is unpacked from this offset on.
    Unpacking(Box<Intake>, Vec<u8>, usize),
    /// Something is compressed for it.
    Compressing(Box<Compressing>),
    /// It is sent a message that ends with an image.
    Downloading(Download),
    /// It is sent the content of a block device, in messages.
    Dumping(Box<Dump>),
    /// It is sent the rest of its answer.
    Leaving,
}

/// What is taken in for a client.
#[derive(Debug)]
pub(super) enum Intake {
    /// The image of a create.
    Image(UploadId, images::Staging),
    /// The content of a block device.
    Block(TaskId, block::Staging),
}

#[derive(Debug)]
struct Uploading {
    intake: Intake,
    frames: Frames,
    room: Vec<u8>,
}

#[derive(Debug)]
struct Download {
    content: Outgoing,
    task: Option<TaskId>,
    /// Whether the file is a scratch file of this client's own.
    scratch: bool,
}

#[derive(Debug)]
struct Compressing {
    header: Header,
    content: Outgoing,
    task: Option<TaskId>,
    to: ZlibEncoder<File>,
}

#[derive(Debug)]
struct Dump {
    task: TaskId,
    header: Header,
    pieces: Pieces,
    content: Outgoing,
    /// Where it is compressed.
    encoder: Option<ZlibEncoder<Vec<u8>>>,
    /// A message in the making.
    message: Vec<u8>,
}

/// What came of a piece of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// A message.
    Message,
    /// Nothing yet: it compresses well.
    Nothing,
    /// There is no more.
    All,
}

/// What a client has brought, or what came of what it is sent.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A request.
    Message(Box<Message>),
    /// An upload is complete.
    Complete(Box<Intake>),
    /// An upload will not come.
    Broken(Box<Intake>, String),
    /// All of a block device is on its way, or no more will be.
    Sent(TaskId, Result<(), String>),
    /// The connection is over.
    Gone,
}

impl Intake {
    fn write(&mut self, piece: &[u8]) -> Result<(), String> {
        match self {
            Self::Image(_, staging) => staging.write(piece).map_err(|error| error.to_string()),
            Self::Block(_, staging) => staging.write(piece).map_err(|error| error.to_string()),
        }
    }

    fn is_compressed(&self) -> bool {
        match self {
            Self::Image(_, staging) => staging.is_compressed(),
            Self::Block(_, staging) => staging.is_compressed(),
        }
    }

    fn task(&self) -> Option<TaskId> {
        match self {
            Self::Image(..) => None,
            Self::Block(task, _) => Some(*task),
        }
    }
}

impl Connection {
    pub(super) fn new(peer: Peer, now: Instant) -> Self {
        Self {
            peer,
            doing: Doing::Asking,
            active: now,
        }
    }

    /// The connection, to be used by somebody else.
    pub(super) fn into_peer(self) -> Peer {
        self.peer
    }

    /// What to poll for; `None`: nothing is needed but a turn.
    pub(super) fn interest(&self) -> Option<PollFlags> {
        match self.doing {
            Doing::Compressing(_) | Doing::Unpacking(..) => None,
            // Nothing tells that everything is written.
            Doing::Leaving if self.peer.queued() == 0 => None,
            Doing::Asking | Doing::Uploading(_) => Some(self.peer.interest(true)),
            Doing::Downloading(_) | Doing::Dumping(_) => Some(PollFlags::POLLOUT),
            Doing::Waiting | Doing::Leaving => Some(self.peer.interest(false)),
        }
    }

    /// Whether nothing is under way: neither a request of it nor an answer to it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Asking) && self.peer.held() == 0 && self.peer.queued() == 0
    }

    /// Whether more of its request is held than an ordinary one has.
    pub(super) fn is_large(&self) -> bool {
        self.peer.held() > MAX_MESSAGE
    }

    /// Whether an image that came with its request is in memory.
    pub(super) fn is_unpacking(&self) -> bool {
        matches!(self.doing, Doing::Unpacking(..))
    }

    /// It is not idle: it is not read from.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.active = now;
    }

    /// When it will have been idle for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!matches!(
            self.doing,
            Doing::Waiting | Doing::Compressing(_) | Doing::Unpacking(..)
        ))
        .then(|| self.active + IDLE)
    }

    /// Does what goes without waiting. `ready`: what poll(2) said.
    pub(super) fn progress(&mut self, ready: PollFlags, now: Instant) -> Option<Arrival> {
        if !ready.is_empty() {
            self.active = now;
        }
        match self.exchange(ready) {
            Ok(arrival) => arrival,
            Err(why) => {
                log::info!("a client's connection ends: {why}");
                Some(Arrival::Gone)
            }
        }
    }

    fn exchange(&mut self, ready: PollFlags) -> Result<Option<Arrival>, String> {
        self.peer.flush().map_err(|error| error.to_string())?;
        let gone = ready.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL)
            || (ready.contains(PollFlags::POLLHUP) && !ready.contains(PollFlags::POLLIN));
        if gone {
            return Ok(Some(Arrival::Gone));
        }
        let uploading = matches!(self.doing, Doing::Uploading(_));
        if ready.contains(PollFlags::POLLIN) && !uploading {
            self.peer.receive().map_err(|error| error.to_string())?;
        }
        match &mut self.doing {
            Doing::Asking => self.request(),
            Doing::Uploading(_) => self.upload(),
            Doing::Unpacking(..) => Ok(self.unpack()),
            Doing::Waiting => Ok(None),
            Doing::Compressing(_) => self.compress().map(|()| None),
            Doing::Downloading(_) => self.download(),
            Doing::Dumping(_) => self.dump(),
            Doing::Leaving => Ok(self.leave()),
        }
    }

    /// The next request. One that cannot be decoded ends the connection without an answer (WIRE 3).
    fn request(&mut self) -> Result<Option<Arrival>, String> {
        match self
            .peer
            .next(MAX_REQUEST)
            .map_err(|error| error.to_string())?
        {
            Some(Next::Frame(octets)) => {
                let message = Message::decode(&octets).map_err(|error| error.to_string())?;
                self.doing = Doing::Waiting;
                Ok(Some(Arrival::Message(Box::new(message))))
            }
            Some(Next::End) => Ok(Some(Arrival::Gone)),
            None => Ok(self.peer.has_ended().then_some(Arrival::Gone)),
        }
    }

    fn upload(&mut self) -> Result<Option<Arrival>, String> {
        let Doing::Uploading(uploading) = &mut self.doing else {
            return Ok(None);
        };
        let turns = if uploading.intake.is_compressed() {
            1
        } else {
            PIECES
        };
        let mut result = Ok(false);
        for _ in 0..turns {
            let read = self.peer.read(&mut uploading.room);
            let count = read.map_err(|error| error.to_string())?;
            if count == 0 {
                // Without an end that was sent there is none.
                return Ok(self.peer.has_ended().then_some(Arrival::Gone));
            }
            result = uploading.take(count);
            if !matches!(result, Ok(false)) {
                break;
            }
        }
        if let Ok(false) = result {
            return Ok(None);
        }
        let doing = std::mem::replace(&mut self.doing, Doing::Waiting);
        let Doing::Uploading(uploading) = doing else {
            return Ok(None);
        };
        let intake = Box::new(uploading.intake);
        Ok(Some(match result {
            Ok(_) => Arrival::Complete(intake),
            Err(why) => Arrival::Broken(intake, why),
        }))
    }

    /// Takes an upload in: `embedded`, or as raw frames, of which some may have arrived already.
    pub(super) fn receive(&mut self, intake: Intake, embedded: Option<Vec<u8>>) -> Option<Arrival> {
        self.become_active(match embedded {
            Some(content) => Doing::Unpacking(Box::new(intake), content, 0),
            None => Doing::Uploading(Box::new(Uploading {
                room: vec![
                    0;
                    if intake.is_compressed() {
                        READ_COMPRESSED
                    } else {
                        READ
                    }
                ],
                intake,
                frames: Frames::default(),
            })),
        });
        self.progress(PollFlags::empty(), self.active)
    }

    /// One piece of an upload that came with its request.
    fn unpack(&mut self) -> Option<Arrival> {
        let Doing::Unpacking(intake, content, taken) = &mut self.doing else {
            return None;
        };
        let rest = content.get(*taken..).unwrap_or_default();
        let piece = rest.get(..MAX_CHUNK).unwrap_or(rest);
        *taken += piece.len();
        let result = intake.write(piece);
        if result.is_ok() && *taken < content.len() {
            return None;
        }
        let doing = std::mem::replace(&mut self.doing, Doing::Waiting);
        let Doing::Unpacking(intake, ..) = doing else {
            return None;
        };
        Some(match result {
            Ok(()) => Arrival::Complete(intake),
            Err(why) => Arrival::Broken(intake, why),
        })
    }

    /// Does something new: its time to be idle begins now.
    fn become_active(&mut self, doing: Doing) {
        self.doing = doing;
        self.active = Instant::now();
    }

    /// Sends an answer, the last one if `close`. Afterwards a further request may have arrived already.
    pub(super) fn answer(&mut self, octets: &[u8], close: bool) -> Option<Arrival> {
        self.doing = if close { Doing::Leaving } else { Doing::Asking };
        if let Err(error) = self.peer.send(octets) {
            log::info!("a client's answer is lost: {error}");
            return Some(Arrival::Gone);
        }
        self.progress(PollFlags::empty(), self.active)
    }

    /// Sends a message that ends with all of `content`: of a task, or an image.
    pub(super) fn send_whole(
        &mut self,
        header: &Header,
        content: Outgoing,
        task: Option<TaskId>,
    ) -> Result<(), String> {
        self.begin_download(header, content, task, false)
    }

    fn begin_download(
        &mut self,
        header: &Header,
        content: Outgoing,
        task: Option<TaskId>,
        compressed: bool,
    ) -> Result<(), String> {
        let tail = match task {
            None => Tail::Image(compressed),
            Some(_) => Tail::Block(compressed),
        };
        let head = image::head(header, tail, content.left()).map_err(|error| error.to_string())?;
        self.peer.send(&head).map_err(|error| error.to_string())?;
        self.become_active(Doing::Downloading(Download {
            content,
            task,
            scratch: compressed,
        }));
        Ok(())
    }

    /// The same compressed; `scratch` is where it is kept until its size is known.
    pub(super) fn send_compressed(
        &mut self,
        header: Header,
        level: u8,
        content: Outgoing,
        task: Option<TaskId>,
        scratch: File,
    ) {
        let to = ZlibEncoder::new(scratch, Compression::new(level.into()));
        self.doing = Doing::Compressing(Box::new(Compressing {
            header,
            content,
            task,
            to,
        }));
    }

    /// Sends the content of a block device in pieces, and its end.
    pub(super) fn send_pieces(
        &mut self,
        task: TaskId,
        header: Header,
        level: u8,
        content: Outgoing,
    ) -> Result<(), String> {
        let reply = Payload::Reply(Success::BlockDeviceImage(level > 0));
        self.tell(&Message::answer(header.clone(), reply))?;
        let level = Some(Compression::new(level.into())).filter(|_| level > 0);
        self.become_active(Doing::Dumping(Box::new(Dump {
            task,
            pieces: Pieces::new(header.clone()),
            header,
            content,
            encoder: level.map(|level| ZlibEncoder::new(Vec::new(), level)),
            message: Vec::new(),
        })));
        Ok(())
    }

    /// The task that this connection sends or receives for.
    pub(super) fn task(&self) -> Option<TaskId> {
        match &self.doing {
            Doing::Uploading(uploading) => uploading.intake.task(),
            Doing::Unpacking(intake, ..) => intake.task(),
            Doing::Compressing(job) => job.task,
            Doing::Downloading(download) => download.task,
            Doing::Dumping(dump) => Some(dump.task),
            Doing::Asking | Doing::Waiting | Doing::Leaving => None,
        }
    }

    /// Breaks off what is sent or received. `false`: in the middle of a message, after which nothing can be said.
    pub(super) fn stop(&mut self) -> bool {
        let doing = std::mem::replace(&mut self.doing, Doing::Waiting);
        !matches!(doing, Doing::Downloading(_))
    }

    fn tell(&mut self, message: &Message) -> Result<(), String> {
        let octets = message.encode().map_err(|error| error.to_string())?;
        let octets = frame(&octets).map_err(|error| error.to_string())?;
        self.peer.send(&octets).map_err(|error| error.to_string())
    }

    /// Whether it takes room on the disk for an image that is compressed for it.
    pub(super) fn is_compressing(&self) -> bool {
        match &self.doing {
            Doing::Compressing(_) => true,
            Doing::Downloading(download) => download.scratch,
            _ => false,
        }
    }

    fn compress(&mut self) -> Result<(), String> {
        let Doing::Compressing(job) = &mut self.doing else {
            return Ok(());
        };
        let text = |error: std::io::Error| error.to_string();
        if job.content.left() > 0 {
            let mut piece = Vec::new();
            job.content.read(&mut piece, 0).map_err(text)?;
            return job.to.write_all(&piece).map_err(text);
        }
        if let Doing::Compressing(job) = std::mem::replace(&mut self.doing, Doing::Waiting) {
            let Compressing {
                header, task, to, ..
            } = *job;
            let scratch = to.finish().map_err(text)?;
            let content = Outgoing::new(scratch, None).map_err(text)?;
            return self.begin_download(&header, content, task, true);
        }
        Ok(())
    }

    fn download(&mut self) -> Result<Option<Arrival>, String> {
        let Doing::Downloading(Download { content, task, .. }) = &mut self.doing else {
            return Ok(None);
        };
        let mut piece = Vec::new();
        for _ in 0..PIECES {
            if content.left() == 0 || self.peer.queued() > 0 {
                break;
            }
            content
                .read(&mut piece, 0)
                .and_then(|()| self.peer.send(&piece))
                .map_err(|error| error.to_string())?;
        }
        if content.left() > 0 {
            return Ok(None);
        }
        let task = *task;
        self.doing = Doing::Leaving;
        Ok(match task {
            Some(task) => Some(Arrival::Sent(task, Ok(()))),
            None => self.leave(),
        })
    }

    fn dump(&mut self) -> Result<Option<Arrival>, String> {
        for _ in 0..PIECES {
            let Doing::Dumping(dump) = &mut self.doing else {
                return Ok(None);
            };
            if self.peer.queued() > 0 {
                return Ok(None);
            }
            let task = dump.task;
            match dump.next() {
                Ok(Made::Nothing) => {}
                Ok(Made::Message) => {
                    let sent = self.peer.send(&dump.message);
                    sent.map_err(|error| error.to_string())?;
                }
                Ok(Made::All) => {
                    let end = Payload::Data(Data::Block(BlockData::End(())));
                    let end = Message::answer(dump.header.clone(), end);
                    self.tell(&end)?;
                    self.doing = Doing::Leaving;
                    return Ok(Some(Arrival::Sent(task, Ok(()))));
                }
                // Between two messages the client can be told.
                Err(why) => {
                    self.doing = Doing::Waiting;
                    return Ok(Some(Arrival::Sent(task, Err(why))));
                }
            }
        }
        Ok(None)
    }

    /// The end of the conversation, once everything is written.
    fn leave(&self) -> Option<Arrival> {
        (self.peer.queued() == 0).then_some(Arrival::Gone)
    }
}

impl Uploading {
    /// Takes octets from the front of the room; whether the upload ends among them.
    fn take(&mut self, count: usize) -> Result<bool, String> {
        let mut rest = self.room.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let passed = self.frames.next(rest);
            let (Passed::Content(count, _) | Passed::Prefix(count, _) | Passed::Part(count)) =
                passed;
            let (front, back) = rest.split_at(count);
            match passed {
                Passed::Content(..) => self.intake.write(front)?,
                Passed::Part(_) => {}
                Passed::Prefix(..) => match length(self.frames.prefix()) {
                    None => return Ok(true),
                    Some(announced) if announced > MAX_CHUNK => {
                        return Err(FrameError::TooLong(announced, MAX_CHUNK).to_string());
                    }
                    Some(_) => {}
                },
            }
            rest = back;
        }
        Ok(false)
    }
}

impl Dump {
    /// Goes on by one piece.
    fn next(&mut self) -> Result<Made, String> {
        let text = |error: std::io::Error| format!("it cannot be read: {error}");
        let count = self.content.next();
        let Some(encoder) = &mut self.encoder else {
            if count == 0 {
                return Ok(Made::All);
            }
            let head = self.pieces.head(count).map_err(|error| error.to_string())?;
            let read = self.content.read(&mut self.message, head.len());
            read.map_err(text)?;
            if let Some(front) = self.message.get_mut(..head.len()) {
                front.copy_from_slice(head);
            }
            return Ok(Made::Message);
        };
        if encoder.get_ref().is_empty() && count > 0 {
            let mut piece = Vec::new();
            self.content.read(&mut piece, 0).map_err(text)?;
            encoder.write_all(&piece).map_err(text)?;
            if self.content.left() == 0 {
                encoder.try_finish().map_err(text)?;
            }
        }
        let made = std::mem::take(encoder.get_mut());
        let (now, later) = made.split_at(made.len().min(MAX_CHUNK));
        encoder.get_mut().extend_from_slice(later);
        if now.is_empty() {
            return Ok(if count == 0 { Made::All } else { Made::Nothing });
        }
        let head = self.pieces.head(now.len());
        self.message = head.map_err(|error| error.to_string())?.to_vec();
        self.message.extend_from_slice(now);
        Ok(Made::Message)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::frame;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_upload_or_dump_that_stands_still_has_a_deadline_and_each_step_a_new_one() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let began = Instant::now();
        let mut connection = Connection::new(Peer::new(ours).unwrap(), began);
        let folder = std::env::temp_dir().join(format!("petrel-stall-{}", std::process::id()));
        let mut images = images::ImageStore::open(&folder, None).unwrap();
        let staging = images.stage(false, 100).unwrap();
        let intake = Intake::Image(UploadId(1), staging);
        assert!(connection.receive(intake, None).is_none());
        let deadline = connection.deadline().unwrap();
        assert!(deadline >= began + IDLE);
        // Time alone does not move it.
        let later = began + IDLE / 2;
        assert!(connection.progress(PollFlags::empty(), later).is_none());
        assert_eq!(connection.deadline(), Some(deadline));
        theirs.write_all(&frame(b"abc").unwrap()).unwrap();
        assert!(connection.progress(PollFlags::POLLIN, later).is_none());
        assert_eq!(connection.deadline(), Some(later + IDLE));

        let file = folder.join("content");
        std::fs::write(&file, vec![7; 1 << 22]).unwrap();
        let content = Outgoing::new(File::open(file).unwrap(), None).unwrap();
        let command = crate::wire::Command::Block(crate::wire::BlockCommand::Info(()));
        let header = Message::command(0, &":x".parse().unwrap(), command).header;
        connection
            .send_pieces(TaskId(1), header, 0, content)
            .unwrap();
        assert!(connection.deadline().is_some());
        while connection.peer.queued() == 0 {
            assert!(connection.progress(PollFlags::POLLOUT, later).is_none());
        }
        assert_eq!(
            connection.task(),
            Some(TaskId(1)),
            "it is not read to its end"
        );
        assert_eq!(connection.deadline(), Some(later + IDLE));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
