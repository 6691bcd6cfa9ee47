//! From a client into a file.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use super::client::{Client, Stop};
use crate::host::block::{BlockError, Content};
use crate::host::images::{ImageContent, ImageError};
use crate::inflate::InflateError;
use crate::supervisor::UPLOAD_STEP_BYTES;
use crate::wire::frame::{FrameError, FramePart, Frames, MAX_CHUNK, length};

/// Bytes read at once, and of what is compressed: it becomes up to a thousand times as many.
const READ: usize = 1 << 18;
/// See [`READ`].
const READ_COMPRESSED: usize = 1 << 14;

/// Content that arrives.
#[derive(Debug)]
pub struct Receive {
    /// Where it goes.
    pub incoming: Incoming,
    /// The content, where it came with the request; otherwise it comes in frames.
    pub embedded: Option<Vec<u8>>,
    /// What has arrived of the frames already.
    pub held: Vec<u8>,
}

/// Where content goes. The first [`UPLOAD_STEP_BYTES`] are granted; further ones have to be asked for.
#[derive(Debug)]
pub enum Incoming {
    /// To a block device, whose size is known.
    Device(Content),
    /// To an image.
    Image(ImageContent),
}

/// Bytes that may be written.
#[derive(Debug)]
struct Granted(u64);

impl Receive {
    /// Whether it leaves processors to others.
    pub(super) fn is_modest(&self) -> bool {
        match &self.incoming {
            Incoming::Device(content) => content.is_compressed(),
            Incoming::Image(_) => true,
        }
    }

    pub(super) fn files(&self) -> Vec<RawFd> {
        vec![match &self.incoming {
            Incoming::Device(content) => content.as_raw_fd(),
            Incoming::Image(content) => content.as_raw_fd(),
        }]
    }

    /// Takes all of it in, and has it on the disk: the report is empty for a device, and the SHA-256 of an image. A file
    /// that was not finished is returned, too.
    pub(super) fn run(self, client: &mut Client) -> (Result<Vec<u8>, Stop>, Option<File>) {
        let Self {
            incoming,
            embedded,
            held,
        } = self;
        match incoming {
            Incoming::Device(mut content) => {
                let unfinished = content.file();
                let mut granted = Granted::default();
                let write = |client: &mut Client, piece: &[u8]| {
                    content.write(piece, |bytes| granted.reach(client, bytes))
                };
                let done = take_in(client, embedded, held, READ, write)
                    .and_then(|()| Ok(content.finish()?));
                match done {
                    Ok(()) => (Ok(Vec::new()), None),
                    Err(stop) => (Err(stop), unfinished),
                }
            }
            Incoming::Image(mut content) => {
                let unfinished = content.file();
                let mut granted = Granted::default();
                let at_once = if content.is_compressed() {
                    READ_COMPRESSED
                } else {
                    READ
                };
                let write = |client: &mut Client, piece: &[u8]| {
                    content.write(piece, |bytes| granted.reach(client, bytes))
                };
                let done = take_in(client, embedded, held, at_once, write)
                    .and_then(|()| Ok(content.finish()?));
                match done {
                    Ok(digest) => (Ok(digest.0.to_vec()), None),
                    Err(stop) => (Err(stop), unfinished),
                }
            }
        }
    }
}

impl Default for Granted {
    fn default() -> Self {
        Self(UPLOAD_STEP_BYTES)
    }
}

impl Granted {
    /// Asks step by step until so many bytes may be written.
    fn reach(&mut self, client: &mut Client, bytes: u64) -> Result<(), Stop> {
        while bytes > self.0 {
            client.grow(self.0 + UPLOAD_STEP_BYTES)?;
            self.0 += UPLOAD_STEP_BYTES;
        }
        Ok(())
    }
}

/// Hands all of the content to `write`, piece by piece.
fn take_in(
    client: &mut Client,
    embedded: Option<Vec<u8>>,
    held: Vec<u8>,
    at_once: usize,
    mut write: impl FnMut(&mut Client, &[u8]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    if let Some(bytes) = embedded {
        for piece in bytes.chunks(MAX_CHUNK) {
            client.stays()?;
            write(client, piece)?;
        }
        return Ok(());
    }
    let mut frames = Frames::default();
    let mut ended = take(&mut frames, &held, |piece| write(client, piece))?;
    drop(held);
    let mut buffer = vec![0; at_once];
    while !ended {
        let count = client.read(&mut buffer)?;
        let arrived = buffer.get(..count).unwrap_or_default();
        ended = take(&mut frames, arrived, |piece| write(client, piece))?;
    }
    Ok(())
}

/// Takes bytes of the frames; whether they end among them.
fn take(
    frames: &mut Frames,
    mut bytes: &[u8],
    mut write: impl FnMut(&[u8]) -> Result<(), Stop>,
) -> Result<bool, Stop> {
    while !bytes.is_empty() {
        let passed = frames.next(bytes);
        let (FramePart::Content(count, _) | FramePart::Prefix(count, _) | FramePart::Part(count)) =
            passed;
        let (front, rest) = bytes.split_at(count);
        bytes = rest;
        match passed {
            FramePart::Content(..) => write(front)?,
            FramePart::Part(_) => {}
            FramePart::Prefix(..) => match length(frames.prefix()) {
                None => return Ok(true),
                Some(announced) if announced > MAX_CHUNK => {
                    let error = FrameError::TooLong(announced, MAX_CHUNK);
                    return Err(Stop::Refused(error.to_string()));
                }
                Some(_) => {}
            },
        }
    }
    Ok(false)
}

impl From<BlockError> for Stop {
    fn from(error: BlockError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<InflateError> for Stop {
    fn from(error: InflateError) -> Self {
        ImageError::from(error).into()
    }
}
