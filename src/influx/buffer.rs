//! Lines that wait for the collector: so many at most, of which the oldest are dropped.

use std::collections::VecDeque;

/// Most bytes of a line; a longer one is dropped.
pub const MAX_LINE: usize = 1 << 16;

/// Most bytes of what is sent at once.
pub const MAX_BATCH: usize = 1 << 18;

/// The lines, oldest first.
#[derive(Debug)]
pub struct Buffer {
    lines: VecDeque<String>,
    most: usize,
    dropped: u64,
}

impl Buffer {
    /// An empty one for so many lines, at least one.
    pub fn new(most: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            most: most.max(1),
            dropped: 0,
        }
    }

    /// Adds a line, in place of the oldest one if there is no room.
    pub fn push(&mut self, line: String) {
        if line.len() > MAX_LINE {
            self.dropped += 1;
            return;
        }
        self.lines.push_back(line);
        self.trim();
    }

    /// Takes out the oldest lines, as many as are sent at once.
    pub fn take(&mut self) -> Vec<String> {
        let mut bytes = 0;
        let fits = self.lines.iter().take_while(|line| {
            bytes += line.len();
            bytes <= MAX_BATCH
        });
        let count = fits.count();
        self.lines.drain(..count).collect()
    }

    /// Puts back what was taken out and not sent.
    pub fn put_back(&mut self, lines: Vec<String>) {
        for line in lines.into_iter().rev() {
            self.lines.push_front(line);
        }
        self.trim();
    }

    /// Drops all lines.
    pub fn clear(&mut self) {
        self.dropped += self.lines.len() as u64;
        self.lines.clear();
    }

    /// Whether no line waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many lines wait.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many lines were dropped since this was asked last.
    pub fn dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn trim(&mut self) {
        while self.lines.len() > self.most {
            self.lines.pop_front();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(most: usize, lines: &[&str]) -> Buffer {
        let mut buffer = Buffer::new(most);
        for line in lines {
            buffer.push((*line).to_owned());
        }
        buffer
    }

    #[test]
    fn the_oldest_lines_are_dropped_and_counted() {
        let mut buffer = buffer(2, &["a", "b", "c"]);
        assert_eq!((buffer.dropped(), buffer.dropped()), (1, 0));
        assert_eq!(buffer.take(), ["b", "c"]);
        buffer.push("d".to_owned());
        buffer.put_back(vec!["b".to_owned(), "c".to_owned()]);
        assert_eq!(buffer.dropped(), 1);
        assert_eq!(buffer.take(), ["c", "d"]);
        assert!(buffer.is_empty());
        buffer.push("e".to_owned());
        buffer.clear();
        assert_eq!((buffer.len(), buffer.dropped()), (0, 1));
    }

    #[test]
    fn what_is_sent_at_once_is_bounded_and_so_is_a_line() {
        let line = "x".repeat(MAX_LINE);
        let mut buffer = buffer(9, &[&line[..]; 6]);
        buffer.push(line.clone() + "x");
        assert_eq!(buffer.dropped(), 1);
        assert_eq!(buffer.take().len(), MAX_BATCH / MAX_LINE);
        assert_eq!(buffer.len(), 2);
    }
}
