//! Buffers of a relay, and the pace of an upload.

use std::time::Duration;

use super::{PIECE, UPLOAD_STEP};

/// Pace of an upload. Only the time in which the client has to send is counted, so that a slow
/// daemon is not held against it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes since the last whole [`UPLOAD_STEP`].
    bytes: usize,
    /// Time spent waiting for the client since.
    pub(super) waited: Duration,
}

impl Pace {
    pub(super) fn arrived(&mut self, count: usize) {
        self.bytes += count;
        if self.bytes >= UPLOAD_STEP {
            *self = Self::default();
        }
    }
}

/// Bytes on their way to the daemon: the request, then each piece of an upload where it was read.
#[derive(Debug, Default)]
pub(super) struct PendingBytes {
    bytes: Vec<u8>,
    written: usize,
    end: usize,
}

impl PendingBytes {
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self {
            written: 0,
            end: bytes.len(),
            bytes,
        }
    }

    /// Space for a piece, when nothing is pending.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.bytes.len() < PIECE {
            self.bytes = vec![0; PIECE];
        }
        &mut self.bytes
    }

    /// First `count` bytes of the buffer.
    pub(super) fn front(&self, count: usize) -> &[u8] {
        self.bytes.get(..count).unwrap_or_default()
    }

    /// Marks the first `count` bytes of the buffer as pending.
    pub(super) fn hold(&mut self, count: usize) {
        (self.written, self.end) = (0, count);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..self.end).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.written += count;
    }
}

/// Bytes on their way to the client.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    written: usize,
}

impl Piece {
    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.written += count;
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_steps_of_an_upload_restart_the_timeout() {
        let waited = Duration::from_secs(59);
        let mut pace = Pace { bytes: 0, waited };
        for _ in 1..UPLOAD_STEP {
            pace.arrived(1);
            assert_eq!(pace.waited, waited);
        }
        pace.arrived(1);
        assert_eq!((pace.bytes, pace.waited), (0, Duration::ZERO));
    }
}
