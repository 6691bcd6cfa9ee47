//! Lines out of the octets that a guest writes.
#![forbid(unsafe_code)]

/// Most octets of a line; the rest up to the next newline is dropped and [`TRUNCATED`] appended.
pub const MAX_LINE: usize = 512;

/// What marks a line that was cut.
pub const TRUNCATED: &[u8] = b" [truncated]";

/// Cuts a stream into lines, wherever its pieces end; holds at most [`MAX_LINE`] octets between them.
///
/// Newlines are removed, all other octets are kept, empty lines too: the reader of a console sees what the guest wrote.
#[derive(Debug, Default)]
pub struct Splitter {
    pending: Vec<u8>,
    /// The rest of a line that was cut is passed over.
    skipping: bool,
}

impl Splitter {
    /// Takes the next piece of the stream and hands out the lines it completes, in order. A line too long is handed
    /// out as soon as that is known.
    pub fn push(&mut self, octets: &[u8], mut line: impl FnMut(Vec<u8>)) {
        for part in octets.split_inclusive(|octet| *octet == b'\n') {
            match part.split_last() {
                Some((b'\n', content)) => {
                    self.extend(content, &mut line);
                    let complete = std::mem::take(&mut self.pending);
                    if !std::mem::take(&mut self.skipping) {
                        line(complete);
                    }
                }
                _ => self.extend(part, &mut line),
            }
        }
    }

    /// The stream has ended: hands out its last line if there was no newline after it, and starts anew.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let Self { pending, skipping } = std::mem::take(self);
        (!skipping && !pending.is_empty()).then_some(pending)
    }

    fn extend(&mut self, content: &[u8], line: &mut impl FnMut(Vec<u8>)) {
        if self.skipping {
            return;
        }
        let free = MAX_LINE - self.pending.len();
        if let Some(fitting) = content.get(..free)
            && content.len() > free
        {
            let mut cut = std::mem::take(&mut self.pending);
            cut.extend_from_slice(fitting);
            cut.extend_from_slice(TRUNCATED);
            self.skipping = true;
            line(cut);
        } else {
            self.pending.extend_from_slice(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.push(piece, |line| lines.push(line));
            assert!(splitter.pending.len() <= MAX_LINE);
        }
        lines.extend(splitter.finish());
        lines
    }

    fn cut(octet: u8) -> Vec<u8> {
        [&[octet; MAX_LINE][..], TRUNCATED].concat()
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
                let octet = [b'a', b'\r', 0, 0xff][random(4)];
                stream.resize(stream.len() + length[random(4)], octet);
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
