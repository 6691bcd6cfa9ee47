//! One client of the supervisor: what it is doing at the moment, and how far it got.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use nix::poll::PollFlags;

use super::images::Staging;
use crate::socket::Peer;
use crate::supervisor::UploadId;
use crate::wire::frame::{MAX_CHUNK, MAX_MESSAGE, Next};
use crate::wire::{Header, Message, image};

/// Most octets of a request. Images can be part of it: older clients send them so.
pub const MAX_REQUEST: usize = 32 << 20;

/// How long a client may do nothing while something is expected of it.
pub const IDLE: Duration = Duration::from_secs(60);

/// Octets of an image sent, or compressed, before others have their turn.
const PIECE: u64 = 1 << 16;

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
    /// Its image arrives.
    Uploading(UploadId, Box<Staging>),
    /// Its image arrived with the request, and is unpacked from this offset on.
    Unpacking(UploadId, Box<Staging>, Vec<u8>, usize),
    /// An image is compressed for it.
    Compressing(Box<Compressing>),
    /// It is sent an image, of which this is left.
    Downloading(Download),
    /// It is sent the rest of its answer.
    Leaving,
}

#[derive(Debug)]
struct Download {
    image: File,
    left: u64,
    /// Whether the file is a scratch file of this client's own.
    scratch: bool,
}

#[derive(Debug)]
struct Compressing {
    header: Header,
    from: File,
    to: ZlibEncoder<File>,
}

/// What a client has brought.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A request.
    Message(Box<Message>),
    /// An image is complete.
    Image(UploadId, Box<Staging>),
    /// An image will not come.
    NoImage(UploadId, String),
    /// The connection is over.
    Gone,
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
            Doing::Asking | Doing::Uploading(..) => Some(self.peer.interest(true)),
            Doing::Downloading(..) => Some(PollFlags::POLLOUT),
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
        if ready.contains(PollFlags::POLLIN) {
            self.peer.receive().map_err(|error| error.to_string())?;
        }
        match &mut self.doing {
            Doing::Asking => self.request(),
            Doing::Uploading(..) => Ok(self.upload()),
            Doing::Unpacking(..) => Ok(self.unpack()),
            Doing::Waiting => Ok(None),
            Doing::Compressing(_) => self.compress().map(|()| None),
            Doing::Downloading(..) => self.download(),
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

    fn upload(&mut self) -> Option<Arrival> {
        let Doing::Uploading(_, staging) = &mut self.doing else {
            return None;
        };
        let result = loop {
            match self.peer.next(MAX_CHUNK) {
                Ok(Some(Next::Frame(chunk))) => {
                    if let Err(error) = staging.write(&chunk) {
                        break Err(error.to_string());
                    }
                }
                Ok(Some(Next::End)) => break Ok(()),
                Ok(None) if self.peer.has_ended() => return Some(Arrival::Gone),
                Ok(None) => return None,
                Err(error) => break Err(error.to_string()),
            }
        };
        let Doing::Uploading(upload, staging) = std::mem::replace(&mut self.doing, Doing::Waiting)
        else {
            return None;
        };
        Some(match result {
            Ok(()) => Arrival::Image(upload, staging),
            Err(why) => Arrival::NoImage(upload, why),
        })
    }

    /// Takes the image in: `embedded`, or as raw frames, of which some may have arrived already.
    pub(super) fn receive_image(
        &mut self,
        upload: UploadId,
        staging: Staging,
        embedded: Option<Vec<u8>>,
    ) -> Option<Arrival> {
        let staging = Box::new(staging);
        self.become_active(match embedded {
            Some(image) => Doing::Unpacking(upload, staging, image, 0),
            None => Doing::Uploading(upload, staging),
        });
        self.progress(PollFlags::empty(), self.active)
    }

    /// One piece of an image that came with its request.
    fn unpack(&mut self) -> Option<Arrival> {
        let Doing::Unpacking(_, staging, image, taken) = &mut self.doing else {
            return None;
        };
        let rest = image.get(*taken..).unwrap_or_default();
        let piece = rest.get(..MAX_CHUNK).unwrap_or(rest);
        *taken += piece.len();
        let result = staging.write(piece);
        if result.is_ok() && *taken < image.len() {
            return None;
        }
        let doing = std::mem::replace(&mut self.doing, Doing::Waiting);
        let Doing::Unpacking(upload, staging, ..) = doing else {
            return None;
        };
        Some(match result {
            Ok(()) => Arrival::Image(upload, staging),
            Err(error) => Arrival::NoImage(upload, error.to_string()),
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

    /// Sends an image as it is.
    pub(super) fn send_image(
        &mut self,
        header: &Header,
        compressed: bool,
        mut image: File,
    ) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let length = image.seek(SeekFrom::End(0)).map_err(text)?;
        image.seek(SeekFrom::Start(0)).map_err(text)?;
        let head =
            image::answer_head(header, compressed, length).map_err(|error| error.to_string())?;
        self.peer.send(&head).map_err(text)?;
        self.become_active(Doing::Downloading(Download {
            image,
            left: length,
            scratch: compressed,
        }));
        Ok(())
    }

    /// Sends an image compressed; `scratch` is where it is kept until its size is known.
    pub(super) fn send_compressed(&mut self, header: Header, level: u8, from: File, scratch: File) {
        let to = ZlibEncoder::new(scratch, Compression::new(level.into()));
        self.doing = Doing::Compressing(Box::new(Compressing { header, from, to }));
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
        let mut piece = Vec::new();
        (&job.from)
            .take(PIECE)
            .read_to_end(&mut piece)
            .map_err(text)?;
        if !piece.is_empty() {
            return job.to.write_all(&piece).map_err(text);
        }
        if let Doing::Compressing(job) = std::mem::replace(&mut self.doing, Doing::Waiting) {
            let Compressing { header, to, .. } = *job;
            let image = to.finish().map_err(text)?;
            return self.send_image(&header, true, image);
        }
        Ok(())
    }

    fn download(&mut self) -> Result<Option<Arrival>, String> {
        let Doing::Downloading(Download { image, left, .. }) = &mut self.doing else {
            return Ok(None);
        };
        while *left > 0 && self.peer.queued() == 0 {
            let mut piece = Vec::new();
            image
                .take((*left).min(PIECE))
                .read_to_end(&mut piece)
                .map_err(|error| error.to_string())?;
            if piece.is_empty() {
                return Err("the image is shorter than it was".to_owned());
            }
            *left -= piece.len() as u64;
            self.peer.send(&piece).map_err(|error| error.to_string())?;
        }
        if *left > 0 {
            return Ok(None);
        }
        self.doing = Doing::Leaving;
        Ok(self.leave())
    }

    /// The end of the conversation, once everything is written.
    fn leave(&self) -> Option<Arrival> {
        (self.peer.queued() == 0).then_some(Arrival::Gone)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }
}
