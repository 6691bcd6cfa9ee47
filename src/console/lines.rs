//! Lines out of the bytes that a guest writes.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::mem;

use memchr::{memchr, memchr_iter, memrchr_iter};

/// Most bytes of a line; the rest up to the next newline is dropped and [`TRUNCATED`] appended.
pub const MAX_LINE: usize = 512;

/// What marks a line that was cut.
pub const TRUNCATED: &[u8] = b" [truncated]";

/// Cuts a stream into lines, wherever its pieces end; holds at most [`MAX_LINE`] bytes between them.
///
/// Newlines are removed, all other bytes are kept, empty lines too: the reader of a console sees what the guest wrote.
#[derive(Debug, Default)]
pub struct Splitter {
    pending: Vec<u8>,
    /// The rest of a line that was cut is passed over.
    skipping: bool,
}

impl Splitter {
    /// Takes the next piece of the stream and hands out the lines it completes, in order, but at most `most`; returns
    /// what is left of the piece then. A line too long is handed out as soon as that is known.
    pub fn push<'a>(
        &mut self,
        mut bytes: &'a [u8],
        most: usize,
        mut line: impl FnMut(&[u8]),
    ) -> &'a [u8] {
        let mut count = 0;
        while count < most && !bytes.is_empty() {
            let newline = memchr(b'\n', bytes);
            let (content, rest) = match newline {
                Some(at) => (&bytes[..at], &bytes[at + 1..]),
                None => (bytes, &[][..]),
            };
            bytes = rest;
            // As nearly all are: nothing of them is copied.
            if newline.is_some() && self.is_fresh() && content.len() <= MAX_LINE {
                line(content);
                count += 1;
                continue;
            }
            if self.extend(content) {
                line(&self.pending);
                self.pending.clear();
                count += 1;
            }
            if newline.is_some() && !mem::take(&mut self.skipping) {
                line(&self.pending);
                self.pending.clear();
                count += 1;
            }
        }
        bytes
    }

    /// Passes over those lines that at least `keep` others follow in this piece of the stream: returns what is left of
    /// it, and how many lines that were.
    pub fn pass_over<'a>(&mut self, bytes: &'a [u8], keep: usize) -> (&'a [u8], u64) {
        let count = memchr_iter(b'\n', bytes).count();
        if count <= keep {
            return (bytes, 0);
        }
        let last = memrchr_iter(b'\n', bytes).nth(keep);
        let rest = last.and_then(|at| bytes.get(at + 1..)).unwrap_or_default();
        self.pending.clear();
        // The first one may be the end of a line that was cut, and handed out then.
        let lines = count - keep - usize::from(mem::take(&mut self.skipping));
        (rest, lines as u64)
    }

    /// The stream has ended: hands out its last line if there was no newline after it, and starts anew.
    pub fn finish(&mut self, line: impl FnOnce(&[u8])) {
        let Self { pending, skipping } = mem::take(self);
        if !skipping && !pending.is_empty() {
            line(&pending);
        }
    }

    fn is_fresh(&self) -> bool {
        self.pending.is_empty() && !self.skipping
    }

    /// Adds to the line that has begun. `true`: it is too long, and what is pending is all that is left of it.
    fn extend(&mut self, content: &[u8]) -> bool {
        if self.skipping {
            return false;
        }
        let free = MAX_LINE - self.pending.len();
        if content.len() <= free {
            self.pending.extend_from_slice(content);
            return false;
        }
        self.pending.extend_from_slice(&content[..free]);
        self.pending.extend_from_slice(TRUNCATED);
        self.skipping = true;
        true
    }
}

/// A line as it is shown: everything that is not printable ASCII is escaped, bytes as three decimal digits
/// (BEHAVIOUR 4), so that no line can steer a terminal.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            8 => text.push_str("\\b"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            0x20..0x7f => text.push(char::from(*byte)),
            other => {
                let _ = write!(text, "\\{other:03}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for piece in pieces {
            let mut left = piece;
            while !left.is_empty() {
                let before = lines.len();
                left = splitter.push(left, 3, |line| lines.push(line.to_vec()));
                assert!(splitter.pending.len() <= MAX_LINE);
                assert!(left.is_empty() || (3..=4).contains(&(lines.len() - before)));
            }
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    fn cut(byte: u8) -> Vec<u8> {
        [&[byte; MAX_LINE][..], TRUNCATED].concat()
    }

    #[test]
    fn lines_are_what_stands_between_newlines() {
        assert_eq!(lines([&b""[..]]), [b""; 0]);
        assert_eq!(lines([&b"one\ntwo\n"[..]]), [b"one", b"two"]);
        assert_eq!(lines([&b"one\r\n\n"[..]]), [&b"one\r"[..], b""]);
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        assert_eq!(lines([&b"one\ntw"[..], b"o"]), [b"one", b"two"]);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let exactly = [b'x'; MAX_LINE];
        assert_eq!(lines([&exactly[..], b"\nnext\n"]), [&exactly[..], b"next"]);
        let long = [b'x'; MAX_LINE + 1];
        assert_eq!(lines([&long[..], b"yy\nnext"]), [&cut(b'x')[..], b"next"]);
        assert_eq!(lines([&long[..]]), [cut(b'x')]);
        assert_eq!(lines([&vec![b'z'; 1 << 20][..]]), [cut(b'z')]);
    }

    #[test]
    fn lines_are_passed_over_as_if_they_had_been_handed_out() {
        let long = "z".repeat(MAX_LINE + 9);
        let stream = format!("{long}\none\n\ntwo\n{long}\nthree\nfour");
        let whole = lines([stream.as_bytes()]);
        for (size, keep) in [(1, 0), (700, 1), (700, 2), (stream.len(), 3), (530, 0)] {
            let mut splitter = Splitter::default();
            let (mut kept, mut passed) = (Vec::new(), 0);
            for piece in stream.as_bytes().chunks(size) {
                let (rest, count) = splitter.pass_over(piece, keep);
                if count > 0 {
                    passed += count + kept.len() as u64;
                    kept.clear();
                }
                splitter.push(rest, usize::MAX, |line| kept.push(line.to_vec()));
            }
            splitter.finish(|line| kept.push(line.to_vec()));
            assert_eq!(kept, whole[usize::try_from(passed).unwrap()..], "{size}");
            assert!(kept.len() >= keep && passed > 0);
        }
    }

    #[test]
    fn where_the_pieces_end_makes_no_difference() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 33).unwrap() % below
        };
        for _ in 0..200 {
            let mut stream = Vec::new();
            for _ in 0..random(12) {
                let length = [
                    random(3),
                    random(80),
                    MAX_LINE - 2 + random(5),
                    random(2000),
                ];
                let byte = [b'a', b'\r', 0, 0xff][random(4)];
                stream.resize(stream.len() + length[random(4)], byte);
                stream.resize(stream.len() + random(3), b'\n');
            }
            let whole = lines([&stream[..]]);
            for size in [1, 2, 511, 512, 513, 1 + random(700)] {
                assert_eq!(lines(stream.chunks(size)), whole);
            }
            let mut rest = &stream[..];
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((1 + random(600)).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(lines(pieces), whole);
        }
    }
}
