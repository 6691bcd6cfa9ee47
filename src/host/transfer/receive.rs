//! From a client into a file.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use super::client::{Client, Stop};
use crate::host::block::{BlockError, Content};
use crate::wire::frame::{FrameError, Frames, MAX_CHUNK, Passed, length};

/// Octets read at once.
const READ: usize = 1 << 18;

/// The content of a block device that arrives.
#[derive(Debug)]
pub struct Receive {
    /// Where it goes.
    pub content: Content,
    /// The file that it replaces.
    pub replaces: Option<File>,
    /// The content, where it came with the request; otherwise it comes in frames.
    pub embedded: Option<Vec<u8>>,
    /// What has arrived of the frames already.
    pub held: Vec<u8>,
}

impl Receive {
    pub(super) fn is_compressed(&self) -> bool {
        self.content.is_compressed()
    }

    pub(super) fn files(&self) -> Vec<RawFd> {
        let replaces = self.replaces.iter().map(AsRawFd::as_raw_fd);
        replaces.chain([self.content.as_raw_fd()]).collect()
    }

    /// Takes all of it in, and has it on the disk. What is of no use any more is returned, too: what was replaced, or
    /// what was not finished.
    pub(super) fn run(self, client: &mut Client) -> (Result<Vec<u8>, Stop>, Option<File>) {
        let Self {
            content,
            replaces,
            embedded,
            held,
        } = self;
        let unfinished = content.file();
        match take_in(content, embedded, held, client) {
            Ok(last) => (Ok(last), replaces),
            Err(stop) => (Err(stop), unfinished),
        }
    }
}

fn take_in(
    mut content: Content,
    embedded: Option<Vec<u8>>,
    held: Vec<u8>,
    client: &mut Client,
) -> Result<Vec<u8>, Stop> {
    let refused = |error: BlockError| Stop::Refused(error.to_string());
    if let Some(octets) = embedded {
        for piece in octets.chunks(MAX_CHUNK) {
            client.stays()?;
            content.write(piece).map_err(refused)?;
        }
    } else {
        let mut frames = Frames::default();
        let mut ended = take(&mut frames, &held, &mut content)?;
        drop(held);
        let mut room = vec![0; READ];
        while !ended {
            let count = client.read(&mut room)?;
            let arrived = room.get(..count).unwrap_or_default();
            ended = take(&mut frames, arrived, &mut content)?;
        }
    }
    content.finish().map_err(refused)?;
    Ok(Vec::new())
}

/// Takes octets of the frames; whether they end among them.
fn take(frames: &mut Frames, mut octets: &[u8], content: &mut Content) -> Result<bool, Stop> {
    while !octets.is_empty() {
        let passed = frames.next(octets);
        let (Passed::Content(count, _) | Passed::Prefix(count, _) | Passed::Part(count)) = passed;
        let (front, rest) = octets.split_at(count);
        octets = rest;
        match passed {
            Passed::Content(..) => content
                .write(front)
                .map_err(|error| Stop::Refused(error.to_string()))?,
            Passed::Part(_) => {}
            Passed::Prefix(..) => match length(frames.prefix()) {
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
