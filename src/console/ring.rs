//! The newest lines of one console, each with the time of its arrival, and how far somebody has read them.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::VecDeque;

/// Lines kept of each console (BEHAVIOUR 6).
pub const LINES: usize = 1024;

/// Bytes kept of each console, all its lines together.
pub const BYTES: usize = 1 << 18;

/// A point in time: seconds since 1970 (UTC), rounded down, and nanoseconds below 10^9 after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Whole seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// One line without its newline: any bytes, bounded by whoever cut it out of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When the read that completed it returned.
    pub arrived: Moment,
    /// Its bytes.
    pub bytes: Cow<'a, [u8]>,
}

impl Line<'_> {
    /// What stands for lines that were missed.
    pub fn missed(count: u64, now: Moment) -> Self {
        Self {
            arrived: now,
            bytes: format!("[petrel-console: {count} lines missed]")
                .into_bytes()
                .into(),
        }
    }
}

/// How much history somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Lines that did not arrive before this. Where the clock was set back the lines around that are judged each by
    /// itself.
    Since(Moment),
    /// So many of the newest lines; a negative count is none, a large one all.
    Count(i64),
}

/// What a reader comes to next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A line.
    Line(Line<'a>),
    /// So many lines were replaced by newer ones before they were read.
    Missed(u64),
}

/// How far somebody has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// The number of the line to be read next.
    next: u64,
    /// Lines up to this number are history, of which only what did not arrive before this is wanted.
    history: Option<(u64, Moment)>,
}

/// A bounded number of lines and bytes; a new line replaces the oldest ones.
///
/// Lines are numbered from 0 in the order of their arrival, those replaced since included.
#[derive(Clone, Debug)]
pub struct Ring {
    max_lines: usize,
    max_bytes: usize,
    /// The number of the oldest line.
    first: u64,
    lines: VecDeque<Entry>,
    /// All lines without anything between them.
    bytes: VecDeque<u8>,
    /// Bytes that were replaced.
    gone: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    arrived: Moment,
    /// Where the line ends, counted from the first byte there ever was.
    end: u64,
}

impl Ring {
    /// An empty ring for so many lines of so many bytes together. Memory is taken as lines arrive.
    pub fn new(max_lines: usize, max_bytes: usize) -> Self {
        Self {
            max_lines,
            max_bytes,
            first: 0,
            lines: VecDeque::new(),
            bytes: VecDeque::new(),
            gone: 0,
        }
    }

    /// Adds the newest line. One that is longer than the ring is left with nothing else in it.
    pub fn push(&mut self, arrived: Moment, bytes: &[u8]) {
        while self.lines.len() >= self.max_lines || self.bytes.len() + bytes.len() > self.max_bytes
        {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.first += 1;
            self.bytes.drain(..as_index(oldest.end - self.gone));
            self.gone = oldest.end;
        }
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            // As a vector grows by itself, but not beyond what it may hold.
            let capacity = (2 * self.bytes.capacity()).min(self.max_bytes);
            let more = capacity.max(needed) - self.bytes.len();
            self.bytes.reserve_exact(more);
        }
        self.bytes.extend(bytes);
        let end = self.gone + self.bytes.len() as u64;
        self.lines.push_back(Entry { arrived, end });
    }

    /// So many lines came and went, with all those before them.
    pub fn pass_over(&mut self, lines: u64) {
        if lines > 0 {
            self.first = self.end() + lines;
            self.gone += self.bytes.len() as u64;
            self.lines.clear();
            self.bytes.clear();
        }
    }

    /// The number of the next line to arrive.
    pub fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Somebody who begins with this history.
    pub fn reader(&self, history: History) -> Reader {
        match history {
            History::Since(moment) => Reader {
                next: self.first,
                history: Some((self.end(), moment)),
            },
            History::Count(count) => {
                let held = self.lines.len() as u64;
                let count = u64::try_from(count).unwrap_or(0).min(held);
                Reader {
                    next: self.end() - count,
                    history: None,
                }
            }
        }
    }

    /// What `reader` comes to next; `None` if it has read everything.
    pub fn read(&self, reader: &mut Reader) -> Option<Item<'_>> {
        let missed = self.first.saturating_sub(reader.next);
        if missed > 0 {
            reader.next = self.first;
            return Some(Item::Missed(missed));
        }
        loop {
            let line = self.line(as_index(reader.next - self.first))?;
            let number = reader.next;
            reader.next += 1;
            let wanted = reader
                .history
                .is_none_or(|(until, since)| number >= until || line.arrived >= since);
            if wanted {
                return Some(Item::Line(line));
            }
        }
    }

    fn line(&self, index: usize) -> Option<Line<'_>> {
        let entry = self.lines.get(index)?;
        let before = index.checked_sub(1).map(|before| self.lines[before].end);
        let start = as_index(before.unwrap_or(self.gone) - self.gone);
        let end = as_index(entry.end - self.gone);
        let (front, back) = self.bytes.as_slices();
        let bytes = match (start.checked_sub(front.len()), front.get(start..end)) {
            (_, Some(bytes)) => Cow::Borrowed(bytes),
            (Some(start), None) => Cow::Borrowed(&back[start..end - front.len()]),
            (None, None) => Cow::Owned(self.bytes.range(start..end).copied().collect()),
        };
        Some(Line {
            arrived: entry.arrived,
            bytes,
        })
    }
}

impl Reader {
    /// Somebody who has read all lines before this number.
    pub fn at(next: u64) -> Self {
        Self {
            next,
            history: None,
        }
    }

    /// The number of the line to be read next.
    pub fn position(&self) -> u64 {
        self.next
    }
}

/// Differences of numbers in a ring are below its bounds.
fn as_index(difference: u64) -> usize {
    usize::try_from(difference).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Moment {
        Moment {
            seconds,
            nanoseconds: 0,
        }
    }

    fn ring(size: usize, arrivals: &[i64]) -> Ring {
        let mut ring = Ring::new(size, 1 << 10);
        for seconds in arrivals {
            ring.push(at(*seconds), seconds.to_string().as_bytes());
        }
        ring
    }

    /// The lines that are left to read, and how many were missed.
    fn rest(ring: &Ring, reader: &mut Reader) -> (Vec<String>, u64) {
        let (mut lines, mut missed) = (Vec::new(), 0);
        while let Some(item) = ring.read(reader) {
            match item {
                Item::Line(line) => lines.push(String::from_utf8(line.bytes.into()).unwrap()),
                Item::Missed(count) => missed += count,
            }
        }
        (lines, missed)
    }

    fn seconds(ring: &Ring, history: History) -> Vec<i64> {
        let (lines, missed) = rest(ring, &mut ring.reader(history));
        assert_eq!(missed, 0);
        lines.iter().map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn the_newest_lines_stay() {
        for size in 1..5_usize {
            for count in 0..12_i64 {
                let arrivals: Vec<i64> = (0..count).collect();
                let kept = arrivals[arrivals.len().saturating_sub(size)..].to_vec();
                let ring = ring(size, &arrivals);
                assert_eq!(seconds(&ring, History::Count(i64::MAX)), kept);
                for wanted in 0..15_usize {
                    let newest = &kept[kept.len().saturating_sub(wanted)..];
                    let wanted = i64::try_from(wanted).unwrap();
                    assert_eq!(seconds(&ring, History::Count(wanted)), newest);
                }
            }
        }
    }

    #[test]
    fn a_negative_count_gives_nothing() {
        let ring = ring(4, &[1, 2, 3]);
        assert_eq!(seconds(&ring, History::Count(-1)), [0; 0]);
        assert_eq!(seconds(&ring, History::Count(i64::MIN)), [0; 0]);
    }

    #[test]
    fn a_clock_set_back_hides_nothing() {
        let mut ring = ring(8, &[100, 101, 50, 102]);
        let since = |seconds| History::Since(at(seconds));
        assert_eq!(seconds(&ring, since(100)), [100, 101, 102]);
        assert_eq!(seconds(&ring, since(0)), [100, 101, 50, 102]);
        let mut reader = ring.reader(since(103));
        assert_eq!(ring.read(&mut reader), None);
        // What comes later is live, whatever the clock says.
        ring.push(at(7), b"7");
        assert_eq!(rest(&ring, &mut reader), (vec!["7".to_owned()], 0));
    }

    #[test]
    fn the_bytes_of_all_lines_are_bounded_wherever_they_wrap() {
        const MOST: usize = 64;
        let mut ring = Ring::new(20, MOST);
        let mut all: Vec<Vec<u8>> = Vec::new();
        for number in 0..500_usize {
            let line = vec![b'a' + u8::try_from(number % 26).unwrap(); number * 7 % 23];
            ring.push(at(0), &line);
            all.push(line);
            assert!(ring.bytes.len() <= MOST && ring.bytes.capacity() <= MOST);
            let held = all.iter().rev().scan(0, |bytes, line| {
                *bytes += line.len();
                (*bytes <= MOST).then_some(line)
            });
            let mut held: Vec<_> = held.take(20).cloned().collect();
            held.reverse();
            let mut reader = ring.reader(History::Count(i64::MAX));
            for expected in held {
                let Some(Item::Line(line)) = ring.read(&mut reader) else {
                    panic!("line {number}: not all are there");
                };
                assert_eq!(line.bytes, expected);
            }
            assert_eq!(ring.read(&mut reader), None);
        }
    }

    #[test]
    fn who_reads_too_slowly_learns_how_many_lines_were_missed() {
        let mut ring = ring(3, &[1, 2]);
        let mut reader = ring.reader(History::Count(1));
        let mut quick = Reader::at(ring.end());
        for seconds in 3..9_i64 {
            ring.push(at(seconds), seconds.to_string().as_bytes());
            assert_eq!(rest(&ring, &mut quick), (vec![seconds.to_string()], 0));
        }
        ring.pass_over(0);
        let left = ["6", "7", "8"].map(str::to_owned).to_vec();
        assert_eq!(rest(&ring, &mut reader), (left, 4));
        assert_eq!(rest(&ring, &mut Reader::default()).1, 5);
        ring.pass_over(7);
        ring.push(at(9), b"9");
        assert_eq!(rest(&ring, &mut reader), (vec!["9".to_owned()], 7));
    }
}
