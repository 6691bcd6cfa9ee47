//! Delivery of console lines to subscribers and archives.

use std::time::Instant;

use log::{error, info};

use super::{Daemon, MAX_WAITING_LINES, clock};
use crate::console::registry::{DroppedSubscriber, Next};
use crate::console::ring::{Item, Line};
use crate::name::Name;
use crate::socket::{self, ClientId};
use crate::wire::lines::LineFrames;
use crate::wire::{Header, Int, Int64, Message, Payload, Success, Timestamp, VERSION};

impl Daemon {
    /// Whether a subscriber or an archive takes every line of `name`. Otherwise lines that newer ones replace at once are skipped.
    pub(super) fn is_read_along(&self, name: &Name) -> bool {
        let takes = |id| {
            let client = self.clients.get(id);
            client.is_some_and(|client| client.queued() < MAX_WAITING_LINES)
        };
        self.archives.iter().any(|archive| archive.takes(name))
            || self.registry.subscribers(name).any(takes)
    }

    /// Sends new lines to all subscribers of `name`, and to the archives.
    pub(super) fn deliver(&mut self, name: &Name) {
        let subscribers: Vec<_> = self.registry.subscribers(name).collect();
        for id in subscribers {
            self.feed(id);
        }
        if let Some(ring) = self.registry.ring(name) {
            for archive in &mut self.archives {
                archive.go_on(name, ring, Instant::now(), clock());
            }
        }
    }

    /// Sends lines to a subscriber until [`MAX_WAITING_LINES`] are queued, after which poll(2) reports that
    /// it takes more, or there are none left.
    pub(super) fn feed(&mut self, id: ClientId) {
        let mut frames = None;
        let mut ended = false;
        while let Some(client) = self.clients.get(id) {
            let waiting = client.queued();
            let mut bytes = Vec::new();
            while waiting + bytes.len() < MAX_WAITING_LINES && !ended {
                match self.registry.next(id) {
                    Next::Item(name, item) => {
                        let line = match item {
                            Item::Line(line) => line,
                            Item::Missed(count) => Line::missed(count, clock()),
                        };
                        push_line(&mut frames, name, &line, &mut bytes);
                    }
                    Next::RunEnded(name) => bytes.extend(end_frame(name)),
                    Next::HistoryEnded(name) => {
                        bytes.extend(end_frame(name));
                        ended = true;
                    }
                    Next::Nothing => break,
                }
            }
            if bytes.is_empty() {
                break;
            }
            self.send(id, &bytes);
        }
        if ended {
            self.registry.unsubscribe(id);
            self.close(id);
        }
    }

    /// Sends a client the reason why its subscription has ended, and closes the connection.
    pub(super) fn turn_out(&mut self, dropped: &DroppedSubscriber) {
        let DroppedSubscriber {
            subscriber,
            of,
            why,
        } = dropped;
        info!("connection {subscriber}: closed: {why}");
        let failure = Payload::Failure(why.to_string().into());
        let message = Message::answer(unasked(of), failure);
        self.send(*subscriber, &socket::framed(&message));
        self.close(*subscriber);
    }
}

/// Appends the frame that carries a line of `name` to `bytes`; `frames` are those of `name` once there has been one.
fn push_line(frames: &mut Option<LineFrames>, name: &Name, line: &Line<'_>, bytes: &mut Vec<u8>) {
    let picoseconds = u64::from(line.arrived.nanoseconds) * 1000;
    let time = Timestamp::from_unix(line.arrived.seconds, picoseconds);
    let pushed = match frames {
        Some(frames) => frames.push(&time, &line.bytes, bytes),
        None => {
            LineFrames::new(name).and_then(|new| frames.insert(new).push(&time, &line.bytes, bytes))
        }
    };
    if let Err(error) = pushed {
        error!("cannot encode a line: {error}");
    }
}

/// Frame that ends the lines of `name`, for now or for good.
fn end_frame(name: &Name) -> Vec<u8> {
    let ended = Payload::Reply(Success::Empty(()));
    socket::framed(&Message::answer(unasked(name), ended))
}

/// Header of messages to a subscriber of `name` after the answer.
pub(super) fn unasked(name: &Name) -> Header {
    Header {
        version: Int::new(VERSION),
        sequence: Int64(0),
        name: name.to_string().into(),
    }
}
