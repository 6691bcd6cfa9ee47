//! How far a transfer is, in one line on standard error, if that is a terminal.

use std::io::{self, IsTerminal, Write};

/// Bytes of a MB.
const MB: u64 = 1 << 20;

/// MB after which the line is written anew where nobody knows how many there are in all.
const STEP: u64 = 16;

/// Columns of the bar.
const COLUMNS: u64 = 30;

/// The line, which is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    total: Option<u64>,
    done: u64,
    /// The step that is shown; nothing if there is nobody to see it.
    shown: Option<u64>,
}

/// Shows how much is written to something.
#[derive(Debug)]
pub(super) struct Watched<'a, W>(pub(super) &'a mut W, pub(super) &'a mut Progress);

impl Progress {
    /// Of so many bytes in all, if that is known.
    pub(super) fn new(total: Option<u64>) -> Self {
        Self {
            total: total.filter(|total| *total > 0),
            done: 0,
            shown: io::stderr().is_terminal().then_some(0),
        }
    }

    /// Takes note of so many bytes more.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let step = match self.total {
            Some(total) => self.done.saturating_mul(100) / total,
            None => self.done / (STEP * MB),
        };
        if self.shown.is_some_and(|shown| shown < step) {
            self.shown = Some(step);
            // Whoever does not see it gets the result all the same.
            let _ = write!(io::stderr(), "\r{}", self.line());
        }
    }

    fn line(&self) -> String {
        let megabytes = self.done / MB;
        let Some(total) = self.total else {
            return format!("{megabytes} MB");
        };
        let part = |of: u64| self.done.min(total).saturating_mul(of) / total;
        let full = usize::try_from(part(COLUMNS)).unwrap_or(0);
        let bar = format!(
            "{:<1$}",
            "#".repeat(full),
            usize::try_from(COLUMNS).unwrap_or(0)
        );
        format!("[{bar}] {:3} % of {} MB", part(100), total.div_ceil(MB))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some_and(|shown| shown > 0) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1.advance(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is() {
        let mut progress = Progress {
            total: Some(3 * MB),
            done: 0,
            shown: None,
        };
        let empty = format!("[{}]   0 % of 3 MB", " ".repeat(30));
        assert_eq!(progress.line(), empty);
        progress.advance(1 << 20);
        let third = format!("[{}{}]  33 % of 3 MB", "#".repeat(10), " ".repeat(20));
        assert_eq!(progress.line(), third);
        progress.advance(5 << 20);
        let full = format!("[{}] 100 % of 3 MB", "#".repeat(30));
        assert_eq!(progress.line(), full);
        progress.total = None;
        assert_eq!(progress.line(), "6 MB");
    }
}
