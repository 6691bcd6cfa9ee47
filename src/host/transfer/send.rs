//! From a file to a client.

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::client::{Client, Stop};
use crate::host::outgoing::Outgoing;
use crate::wire::frame::{MAX_CHUNK, frame};
use crate::wire::image::{self, Pieces, Tail};
use crate::wire::{BlockData, Data, Header, Message, Payload, Success};

/// Content that is sent.
#[derive(Debug)]
pub struct Send {
    /// The file.
    pub content: Outgoing,
    /// The header of the answer.
    pub header: Header,
    /// zlib level, 0 for not compressed.
    pub level: u8,
    /// What the answer is like.
    pub form: Form,
}

/// What an answer with content is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The image of a unikernel, all of it in one message.
    Image,
    /// A block device, all of it in one message.
    Device,
    /// A block device, in as many messages as it takes.
    Pieces,
}

impl Send {
    pub(super) fn is_compressed(&self) -> bool {
        self.level > 0
    }

    pub(super) fn files(&self) -> Vec<RawFd> {
        vec![self.content.as_raw_fd()]
    }

    /// Sends all but the bytes that are returned.
    pub(super) fn run(self, client: &mut Client) -> Result<Vec<u8>, Stop> {
        let compressed = self.is_compressed();
        match self.form {
            Form::Image => self.whole(Tail::Image(compressed), client),
            Form::Device => self.whole(Tail::Block(compressed), client),
            Form::Pieces => self.pieces(client),
        }
    }

    /// One message, in which the length of the content comes before it: what is compressed is so twice, so that nothing
    /// of it has to be kept in between.
    fn whole(mut self, tail: Tail, client: &mut Client) -> Result<Vec<u8>, Stop> {
        let mut length = 0;
        if self.is_compressed() {
            self.pump(|bytes| {
                length += bytes.len() as u64;
                client.stays()
            })?;
            self.content.rewind();
        } else {
            length = self.content.left();
        }
        let mut before = image::head(&self.header, tail, length).map_err(refused)?;
        self.pump(|bytes| {
            client.send(&[&before])?;
            before.clear();
            before.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(before)
    }

    fn pieces(mut self, client: &mut Client) -> Result<Vec<u8>, Stop> {
        let begin = Payload::Reply(Success::BlockDeviceImage(self.is_compressed()));
        client.send(&[&self.message(begin)?])?;
        client.end();
        let mut pieces = Pieces::new(self.header.clone());
        // The last of it is copied: the file is let go of before the client has everything.
        let copied = client.room().saturating_add(MAX_CHUNK as u64);
        while !self.is_compressed() && self.content.left() > copied {
            client.send(&[pieces.head(MAX_CHUNK).map_err(refused)?])?;
            let end = self.content.left() - MAX_CHUNK as u64;
            let sent = client.send_pages(&mut self.content, MAX_CHUNK);
            if let Err(Stop::Content(_)) = &sent {
                // Only after a whole piece can the client be told.
                let missing = usize::try_from(self.content.left() - end).unwrap_or_default();
                client.send(&[&vec![0; missing]])?;
            }
            client.end();
            sent?;
        }
        self.pump(|bytes| {
            for piece in bytes.chunks(MAX_CHUNK) {
                let head = pieces.head(piece.len()).map_err(refused)?;
                client.send(&[head, piece])?;
                client.end();
            }
            if bytes.is_empty() {
                client.stays()?;
            }
            Ok(())
        })?;
        self.message(Payload::Data(Data::Block(BlockData::End(()))))
    }

    /// Hands all of the content to `emit`, piece by piece and compressed if it is to be.
    fn pump(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), Stop>) -> Result<(), Stop> {
        let level = Compression::new(self.level.into());
        let mut encoder = (self.level > 0).then(|| ZlibEncoder::new(Vec::new(), level));
        let mut piece = Vec::new();
        while self.content.left() > 0 {
            self.content.read(&mut piece).map_err(Stop::Content)?;
            let Some(encoder) = &mut encoder else {
                emit(&piece)?;
                continue;
            };
            encoder.write_all(&piece).map_err(Stop::Content)?;
            emit(encoder.get_ref())?;
            encoder.get_mut().clear();
        }
        if let Some(encoder) = encoder {
            emit(&encoder.finish().map_err(Stop::Content)?)?;
        }
        Ok(())
    }

    fn message(&self, payload: Payload) -> Result<Vec<u8>, Stop> {
        let message = Message::answer(self.header.clone(), payload);
        frame(&message.encode().map_err(refused)?).map_err(refused)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: impl ToString) -> Stop {
    Stop::Refused(error.to_string())
}
