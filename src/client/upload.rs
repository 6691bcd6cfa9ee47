//! Sending a file as a stream of raw frames (WIRE 7.3) while it is read, and noticing when the peer has heard enough.

use std::io::{self, IoSlice, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::error::ClientError;
use super::progress::{Progress, Watched};
use super::request::Body;
use super::transport::Transport;
use crate::wire::frame::{END, MAX_CHUNK, PREFIX, prefix};

/// How far an upload came.
#[derive(Debug)]
pub(super) enum Sent {
    /// To its end.
    All,
    /// The peer spoke or closed before.
    Interrupted,
    /// Sending failed; the peer may have said why.
    Failed(io::Error),
}

/// Sends what follows a command. An error is one of our side alone: the stream is left without its end then.
pub(super) fn send(transport: &mut Transport, body: Body) -> Result<Sent, ClientError> {
    let (mut file, level) = match body {
        Body::None => return Ok(Sent::All),
        Body::File(file, level) => (file, level),
    };
    let mut progress = Progress::new(file.length());
    let mut frames = Frames::new(transport);
    if level == 0 {
        return Ok(
            match file.copy_to(&mut Watched(&mut frames, &mut progress))? {
                Ok(()) => frames.finish(),
                Err(error) => frames.failed(error),
            },
        );
    }
    let mut encoder = ZlibEncoder::new(frames, Compression::new(level));
    let copied = file.copy_to(&mut Watched(&mut encoder, &mut progress));
    if copied.is_err() {
        // What the encoder still has would go out when it is dropped.
        encoder.get_mut().interrupted = true;
    }
    let finished = copied?.and_then(|()| encoder.try_finish());
    // The encoder's own end would try to send once more.
    let frames = encoder.get_mut();
    Ok(match finished {
        Ok(()) => frames.finish(),
        Err(error) => frames.failed(error),
    })
}

/// Most bytes in a frame: with their prefix they fill whole records of TLS.
pub(super) const CHUNK: usize = MAX_CHUNK - PREFIX;

/// Cuts what is written into frames of at most [`CHUNK`] bytes.
struct Frames<'a> {
    transport: &'a mut Transport,
    /// The prefix, still empty, and what is to follow it.
    frame: Vec<u8>,
    interrupted: bool,
}

impl<'a> Frames<'a> {
    fn new(transport: &'a mut Transport) -> Self {
        Self {
            transport,
            frame: vec![0; PREFIX],
            interrupted: false,
        }
    }

    /// Sends the frame that has been gathered.
    fn send(&mut self) -> io::Result<()> {
        let length = self.frame.len() - PREFIX;
        if length == 0 {
            return Ok(());
        }
        let prefix = prefix(length).ok_or(io::ErrorKind::InvalidInput)?;
        self.frame[..PREFIX].copy_from_slice(&prefix);
        self.transmit()?;
        self.frame.truncate(PREFIX);
        Ok(())
    }

    fn transmit(&mut self) -> io::Result<()> {
        self.check_silence()?;
        self.transport.write_all(&self.frame)
    }

    /// Sends a frame of this chunk, which is not copied for it.
    fn send_whole(&mut self, chunk: &[u8]) -> io::Result<usize> {
        let prefix = prefix(chunk.len()).ok_or(io::ErrorKind::InvalidInput)?;
        self.check_silence()?;
        let mut parts = &mut [IoSlice::new(&prefix), IoSlice::new(chunk)][..];
        while !parts.is_empty() {
            match self.transport.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(chunk.len())
    }

    fn check_silence(&mut self) -> io::Result<()> {
        // Once stopped for good: an encoder tries again when it is dropped.
        if self.interrupted || self.transport.answer_comes_first()? {
            self.interrupted = true;
            return Err(io::Error::other("the peer has answered before the end"));
        }
        Ok(())
    }

    fn finish(&mut self) -> Sent {
        let sent = self.send().and_then(|()| {
            self.frame = END.to_vec();
            self.transmit()?;
            self.transport.flush()
        });
        match sent {
            Ok(()) => Sent::All,
            Err(error) => self.failed(error),
        }
    }

    /// Also ends all sending: an encoder writes what it still has when it is dropped.
    fn failed(&mut self, error: io::Error) -> Sent {
        if self.interrupted {
            return Sent::Interrupted;
        }
        self.interrupted = true;
        Sent::Failed(error)
    }
}

impl Write for Frames<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.frame.len() == PREFIX && bytes.len() >= CHUNK {
            return self.send_whole(&bytes[..CHUNK]);
        }
        let room = PREFIX + CHUNK - self.frame.len();
        let count = bytes.len().min(room);
        self.frame.extend_from_slice(&bytes[..count]);
        if self.frame.len() == PREFIX + CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
