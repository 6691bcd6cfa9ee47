//! Messages to and from another daemon. An error ends the connection.

use std::io;
use std::path::Path;

use super::{NoPlace, Peer, connect};
use crate::wire::frame::{Next, frame};
use crate::wire::{Header, Int, Int64, Message, Payload, VERSION};

/// Encodes and frames a message of our own, all of which are far below what a frame can hold.
pub fn framed(message: &Message) -> Vec<u8> {
    message
        .encode()
        .map_err(|error| error.to_string())
        .and_then(|bytes| frame(&bytes).map_err(|error| error.to_string()))
        .unwrap_or_else(|error| {
            log::error!("cannot encode a message: {error}");
            Vec::new()
        })
}

/// Frame with the failure for a client whose connection is refused. The header is that of no request, as none was read.
pub(super) fn refusal(why: &NoPlace) -> Vec<u8> {
    let header = Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: ":".into(),
    };
    let why = Payload::Failure(why.to_string().into());
    framed(&Message::answer(header, why))
}

impl Peer {
    /// Connects to the daemon at `path`, without waiting for it.
    pub fn dial(path: &Path) -> Result<Self, String> {
        connect(path)
            .map_err(io::Error::from)
            .and_then(Self::new)
            .map_err(|error| error.to_string())
    }

    /// Writes as much of a message as is possible at once, and queues the rest.
    pub fn tell(&mut self, message: &Message) -> Result<(), String> {
        let bytes = message.encode().map_err(|error| error.to_string())?;
        let bytes = frame(&bytes).map_err(|error| error.to_string())?;
        self.send(&bytes).map_err(|error| error.to_string())
    }

    /// Writes what goes of what is queued. Returns the next message, of so many bytes at most, if there is one already.
    pub fn hear(&mut self, limit: usize) -> Result<Option<Message>, String> {
        self.flush().map_err(|error| error.to_string())?;
        loop {
            match self.next(limit).map_err(|error| error.to_string())? {
                Some(Next::Frame(bytes)) => {
                    let message = Message::decode(&bytes);
                    return message.map(Some).map_err(|error| error.to_string());
                }
                Some(Next::End) => return Err("it ended the conversation".to_owned()),
                None => {}
            }
            let held = self.held();
            if !self.receive().map_err(|error| error.to_string())? {
                return Err("it has closed the connection".to_owned());
            }
            if self.held() == held {
                return Ok(None);
            }
        }
    }
}
