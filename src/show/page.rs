//! Text that grows line by line; what belongs to something else is indented below it.

use std::fmt::{Display, Write as _};

pub(super) use crate::chain::time;

/// A text under construction.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    depth: usize,
}

impl Page {
    /// One line.
    pub(super) fn line(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = 2 * self.depth);
    }

    /// One line with a name and a value.
    pub(super) fn field(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("{name}: {value}"));
    }

    /// A line, and what belongs to it.
    pub(super) fn group(&mut self, heading: impl Display, content: impl FnOnce(&mut Self)) {
        self.line(heading);
        self.depth += 1;
        content(self);
        self.depth -= 1;
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Bytes of somebody else in quotes; all but printable ASCII is escaped, and so cannot steer a terminal or end the
/// quotes.
pub(super) fn quoted(bytes: impl AsRef<[u8]>) -> String {
    format!("\"{}\"", bytes.as_ref().escape_ascii())
}

/// Lower case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// From when until when something is valid, and whether it is.
pub(super) fn validity(from: i64, until: i64, now: i64) -> String {
    let verdict = if now < from {
        ", NOT YET VALID"
    } else if now > until {
        ", EXPIRED"
    } else {
        ""
    };
    format!("{} to {}{verdict}", time(from), time(until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_quotes_steers_a_terminal_or_ends_them() {
        assert_eq!(
            quoted("a\x1b[2J\"\\\n\u{fc}"),
            r#""a\x1b[2J\"\\\n\xc3\xbc""#
        );
    }

    #[test]
    fn both_ends_of_a_validity_belong_to_it() {
        let verdict = |now| validity(10, 20, now);
        assert!(verdict(9).ends_with("NOT YET VALID"));
        assert!(verdict(10).ends_with('Z') && verdict(20).ends_with('Z'));
        assert_eq!(
            verdict(21),
            "1970-01-01T00:00:10Z to 1970-01-01T00:00:20Z, EXPIRED"
        );
        assert_eq!(time(i64::MAX), format!("{} seconds since 1970", i64::MAX));
    }
}
