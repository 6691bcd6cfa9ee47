//! One client of the supervisor: what it is doing at the moment, and how far it got.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::images::Staging;
use crate::socket::Peer;
use crate::supervisor::UploadId;
use crate::wire::Message;
use crate::wire::frame::{FrameError, Frames, MAX_CHUNK, MAX_MESSAGE, Next, Passed, length};

/// Most octets of a request. Images can be part of it: older clients send them so.
pub const MAX_REQUEST: usize = 32 << 20;

/// How long a client may do nothing while something is expected of it.
pub const IDLE: Duration = Duration::from_secs(60);

/// Octets of an upload read at once, and of one that is compressed: it becomes up to a thousand times as many.
const READ: usize = 1 << 16;
/// See [`READ`].
const READ_COMPRESSED: usize = 1 << 14;

/// Pieces received from one client before others have their turn.
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
    /// The image that it uploads arrives.
    Uploading(Box<Uploading>),
    /// That came with its request, and is unpacked from this offset on.
    Unpacking(Box<Intake>, Vec<u8>, usize),
    /// A [process](super::transfer) has the connection; whether it also has content that came with the request.
    Away(bool),
    /// It is sent the rest of its answer.
    Leaving,
}

/// An image that is taken in for a client.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) upload: UploadId,
    pub(super) staging: Staging,
}

#[derive(Debug)]
struct Uploading {
    intake: Intake,
    frames: Frames,
    room: Vec<u8>,
}

/// What a client has brought.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A request.
    Message(Box<Message>),
    /// An upload is complete.
    Complete(Box<Intake>),
    /// An upload will not come.
    Broken(UploadId, String),
    /// The connection is over.
    Gone,
}

impl Intake {
    fn write(&mut self, piece: &[u8]) -> Result<(), String> {
        self.staging.write(piece).map_err(|error| error.to_string())
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
            Doing::Unpacking(..) => None,
            // Nothing tells that everything is written.
            Doing::Leaving if self.peer.queued() == 0 => None,
            // Who does not take its answers is not read from.
            Doing::Asking => Some(self.peer.interest(self.peer.queued() == 0)),
            Doing::Uploading(_) => Some(self.peer.interest(true)),
            Doing::Waiting | Doing::Away(_) | Doing::Leaving => Some(self.peer.interest(false)),
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

    /// Whether content that came with its request is in memory.
    pub(super) fn is_unpacking(&self) -> bool {
        matches!(self.doing, Doing::Unpacking(..) | Doing::Away(true))
    }

    /// It is not idle: it is not read from.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.active = now;
    }

    /// When it will have been idle for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!matches!(
            self.doing,
            Doing::Waiting | Doing::Away(_) | Doing::Unpacking(..)
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
            Doing::Waiting | Doing::Away(_) => Ok(None),
            Doing::Leaving => Ok(self.leave()),
        }
    }

    /// The next request. One that cannot be decoded ends the connection without an answer (WIRE 3).
    fn request(&mut self) -> Result<Option<Arrival>, String> {
        if self.peer.queued() > 0 {
            return Ok(None);
        }
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
        let turns = if uploading.intake.staging.is_compressed() {
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
            Err(why) => Arrival::Broken(intake.upload, why),
        }))
    }

    /// Takes an upload in: `embedded`, or as raw frames, of which some may have arrived already.
    pub(super) fn receive(&mut self, intake: Intake, embedded: Option<Vec<u8>>) -> Option<Arrival> {
        self.become_active(match embedded {
            Some(content) => Doing::Unpacking(Box::new(intake), content, 0),
            None => Doing::Uploading(Box::new(Uploading {
                room: vec![
                    0;
                    if intake.staging.is_compressed() {
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

    /// One piece of an image that came with its request.
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
            Err(why) => Arrival::Broken(intake.upload, why),
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

    /// Gives the connection to a process: with it goes what has arrived already.
    pub(super) fn give_away(&mut self, embedded: bool) -> Vec<u8> {
        self.doing = Doing::Away(embedded);
        let mut held = vec![0; self.peer.held()];
        self.peer.take(&mut held);
        held
    }

    /// Whether a process has the connection, which is not looked at meanwhile.
    pub(super) fn is_away(&self) -> bool {
        matches!(self.doing, Doing::Away(_))
    }

    /// That process has given it back.
    pub(super) fn come_back(&mut self) {
        self.become_active(Doing::Waiting);
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

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;
    use crate::host::images::ImageStore;
    use crate::wire::frame::frame;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_upload_that_stands_still_has_a_deadline_and_each_step_a_new_one() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let began = Instant::now();
        let mut connection = Connection::new(Peer::new(ours).unwrap(), began);
        let folder = Folder::short();
        let folder = &folder.0;
        let mut images = ImageStore::open(folder, None).unwrap();
        let intake = Intake {
            upload: UploadId(1),
            staging: images.stage(false).unwrap(),
        };
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
    }
}
