//! The newest lines of one console, each with the time of its arrival.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// Lines kept of each console (BEHAVIOUR 6).
pub const LINES: usize = 1024;

/// A point in time: seconds since 1970 (UTC), rounded down, and nanoseconds below 10^9 after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Whole seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// One line without its newline: any octets, bounded by whoever cut it out of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was read.
    pub arrived: Moment,
    /// Its octets.
    pub octets: Box<[u8]>,
}

/// A bounded number of lines; a new one replaces the oldest.
#[derive(Clone, Debug)]
pub struct Ring {
    size: usize,
    lines: VecDeque<Line>,
}

impl Ring {
    /// An empty ring for `size` lines. Memory is taken as lines arrive.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            lines: VecDeque::new(),
        }
    }

    /// Adds the newest line.
    pub fn push(&mut self, line: Line) {
        self.lines.push_back(line);
        if self.lines.len() > self.size {
            self.lines.pop_front();
        }
    }

    /// The `count` newest lines, oldest first; a negative count gives none, a large one all.
    pub fn last(&self, count: i64) -> impl Iterator<Item = &Line> {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(count))
    }

    /// All lines that did not arrive before `moment`, in the order of arrival. Where the clock was set back the lines
    /// around that are judged each by itself.
    pub fn since(&self, moment: Moment) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.arrived >= moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seconds: i64) -> Line {
        Line {
            arrived: Moment {
                seconds,
                nanoseconds: 0,
            },
            octets: seconds.to_string().into_bytes().into(),
        }
    }

    fn ring(size: usize, arrivals: &[i64]) -> Ring {
        let mut ring = Ring::new(size);
        for seconds in arrivals {
            ring.push(line(*seconds));
        }
        ring
    }

    fn seconds<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<i64> {
        lines.map(|line| line.arrived.seconds).collect()
    }

    #[test]
    fn the_newest_lines_stay() {
        for size in 1..5_usize {
            for count in 0..12_i64 {
                let arrivals: Vec<i64> = (0..count).collect();
                let kept = arrivals[arrivals.len().saturating_sub(size)..].to_vec();
                let ring = ring(size, &arrivals);
                assert_eq!(seconds(ring.last(i64::MAX)), kept);
                for wanted in 0..15_usize {
                    let newest = &kept[kept.len().saturating_sub(wanted)..];
                    let wanted = i64::try_from(wanted).unwrap();
                    assert_eq!(seconds(ring.last(wanted)), newest);
                }
            }
        }
    }

    #[test]
    fn a_negative_count_gives_nothing() {
        let ring = ring(4, &[1, 2, 3]);
        assert_eq!(seconds(ring.last(-1)), [0; 0]);
        assert_eq!(seconds(ring.last(i64::MIN)), [0; 0]);
    }

    #[test]
    fn a_clock_set_back_hides_nothing() {
        let ring = ring(8, &[100, 101, 50, 102]);
        assert_eq!(seconds(ring.since(line(100).arrived)), [100, 101, 102]);
        assert_eq!(seconds(ring.since(line(0).arrived)), [100, 101, 50, 102]);
        assert_eq!(seconds(ring.since(line(103).arrived)), [0; 0]);
    }
}
