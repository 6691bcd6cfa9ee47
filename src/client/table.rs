//! The live table of `petrel stats`: one row a unikernel, from one sample to the next.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::display::escaped;
use crate::wire::extensions::{NamedDetails, Standing};
use crate::wire::{Statistics, Text, TimeVal};

/// Most unikernels of which there is a row.
pub const MAX_ROWS: usize = 4096;

/// Samples in a sparkline.
const HISTORY: usize = 8;

/// Columns of everything but the name, of which those are left at least and at most.
const OTHERS: usize = 65;
const NAME: (usize, usize) = (12, 40);

/// Bytes of a page, in which memory is told: that of the hosts there are.
const PAGE: u64 = 4096;

/// After how many rounds without it a unikernel is gone.
const ROUNDS: u64 = 3;

/// From nothing to a whole processor and more.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The unikernels, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<Vec<u8>, Row>,
    /// How often a unikernel was told of again.
    round: u64,
    /// Lines shown, which the next ones replace.
    shown: usize,
}

#[derive(Debug, Default)]
struct Row {
    last: Option<Sample>,
    /// Parts of a processor, bytes a second in and out; since the sample before.
    rates: Option<[f64; 3]>,
    /// The first of those, newest last.
    history: VecDeque<f64>,
    round: u64,
    state: Option<&'static str>,
    restarts: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    /// Since 1970, microseconds.
    started: i64,
    /// Microseconds of processors.
    processors: i64,
    resident: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Table {
    /// Somebody was told of at `at`, which never runs backwards.
    pub(super) fn sample(&mut self, name: &Text, used: &Statistics, at: Duration) {
        let known = self.rows.contains_key(&name.0);
        if !known && self.rows.len() >= MAX_ROWS {
            return;
        }
        let row = self.rows.entry(name.0.clone()).or_default();
        if row.last.is_some() && row.round == self.round {
            self.round += 1;
            let round = self.round;
            self.rows
                .retain(|_, row| row.last.is_none() || row.round + ROUNDS > round);
        }
        let row = self.rows.entry(name.0.clone()).or_default();
        row.round = self.round;
        row.add(Sample::new(used, at));
    }

    /// What the supervisor tells of all its unikernels.
    pub(super) fn lives(&mut self, details: &[NamedDetails]) {
        self.rows.retain(|name, row| {
            row.state = None;
            row.last.is_some() || details.iter().any(|entry| entry.name.0 == *name)
        });
        for NamedDetails { name, details } in details {
            if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&name.0) {
                continue;
            }
            let row = self.rows.entry(name.0.clone()).or_default();
            row.state = Some(match details.standing {
                Standing::Running(()) => "running",
                Standing::Starting(()) => "starting",
                Standing::Waiting(_) => "waiting",
                Standing::Stopped(()) => "stopped",
                Standing::Ended(()) => "ended",
            });
            row.restarts = Some(details.restarts.get());
            if !matches!(details.standing, Standing::Running(())) {
                (row.last, row.rates) = (None, None);
            }
        }
    }

    /// What is written to a terminal of this size, `now` being the time since 1970: it replaces what was written
    /// before, and changes nothing else of the terminal.
    pub(super) fn draw(&mut self, (rows, columns): (usize, usize), now: Duration) -> String {
        let width = columns.saturating_sub(OTHERS).clamp(NAME.0, NAME.1);
        let head = [
            "STATE", "CPU%", "MEMORY", "IN/s", "OUT/s", "RESTARTS", "UP", "CPU",
        ];
        let mut lines = vec![line("UNIKERNEL", width, head)];
        let mut all: Vec<_> = self.rows.iter().collect();
        // The last line is for the cursor, the one before for how many are left out.
        let room = rows.saturating_sub(3).max(1);
        if all.len() > room {
            let busy = |row: &Row| row.rates.map_or(0.0, |rates| rates[0]);
            all.sort_by(|(_, one), (_, other)| busy(other).total_cmp(&busy(one)));
        }
        let left_out = all.len().saturating_sub(room);
        lines.extend(
            all.iter()
                .take(room)
                .map(|(name, row)| row.line(name, width, now)),
        );
        if left_out > 0 {
            lines.push(format!("and {left_out} more, which are less busy"));
        }
        let mut text = match self.shown {
            0 => String::new(),
            shown => format!("\x1b[{shown}A\r\x1b[J"),
        };
        self.shown = lines.len();
        for line in lines {
            text.extend(line.chars().take(columns.max(1)));
            text.push('\n');
        }
        text
    }
}

impl Row {
    fn add(&mut self, sample: Sample) {
        let before = self.last.replace(sample);
        let before = before.filter(|before| before.started == sample.started);
        if before.is_none() {
            self.history.clear();
        }
        self.rates = before.and_then(|before| before.rates_until(&sample));
        if let Some([processors, ..]) = self.rates {
            self.history.push_back(processors);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
    }

    fn line(&self, name: &[u8], width: usize, now: Duration) -> String {
        let missing = || "-".to_owned();
        let rate = |which: usize| self.rates.map_or_else(missing, |rates| bytes(rates[which]));
        #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
        let memory = self
            .last
            .map_or_else(missing, |last| bytes(last.resident as f64));
        let share = |rates: [f64; 3]| format!("{:.1}", rates[0] * 100.0);
        let graph: String = self.history.iter().map(|value| bar(*value)).collect();
        let columns = [
            self.state.unwrap_or("-"),
            &self.rates.map_or_else(missing, share),
            &memory,
            &rate(1),
            &rate(2),
            &self
                .restarts
                .map_or_else(missing, |count| count.to_string()),
            &self.last.map_or_else(missing, |last| last.uptime(now)),
            &graph,
        ];
        line(&shortened(&escaped(name), width), width, columns)
    }
}

/// A line of the table, in which the name has this width.
fn line(name: &str, width: usize, columns: [&str; 8]) -> String {
    let [state, share, memory, taken, sent, restarts, up, graph] = columns;
    let text = format!(
        "{name:<width$} {state:<8} {share:>6} {memory:>7} {taken:>7} {sent:>7} {restarts:>8} {up:>6} {graph}"
    );
    text.trim_end().to_owned()
}

impl Sample {
    fn new(used: &Statistics, at: Duration) -> Self {
        let memory = used.kinfo_mem.as_ref();
        let usage = &used.resource_usage;
        let sum = |field: fn(&crate::wire::IfData) -> i64| {
            used.ifdata.iter().fold(0_u64, |sum, data| {
                sum.wrapping_add(field(data).cast_unsigned())
            })
        };
        Self {
            at,
            started: memory.map_or(0, |memory| microseconds(&memory.start)),
            processors: microseconds(&usage.utime).saturating_add(microseconds(&usage.stime)),
            resident: memory.map_or(0, |memory| {
                u64::try_from(memory.rss.0)
                    .unwrap_or(0)
                    .saturating_mul(PAGE)
            }),
            // What the host sends out is what the unikernel takes in.
            bytes_in: sum(|data| data.output_bytes.0),
            bytes_out: sum(|data| data.input_bytes.0),
        }
    }

    /// Nothing if no time has passed, or counters have begun anew.
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    fn rates_until(&self, later: &Self) -> Option<[f64; 3]> {
        let seconds = later.at.checked_sub(self.at)?.as_secs_f64();
        let rate = |before: u64, after: u64| Some(after.checked_sub(before)? as f64 / seconds);
        let processors = later.processors.checked_sub(self.processors)?;
        let processors = u64::try_from(processors).ok()?;
        if seconds <= 0.0 {
            return None;
        }
        Some([
            processors as f64 / 1e6 / seconds,
            rate(self.bytes_in, later.bytes_in)?,
            rate(self.bytes_out, later.bytes_out)?,
        ])
    }

    fn uptime(&self, now: Duration) -> String {
        let started = u64::try_from(self.started).unwrap_or(0);
        let seconds = now.saturating_sub(Duration::from_micros(started)).as_secs();
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        match (days, hours) {
            (0, 0) => format!("{minutes}m{:02}s", seconds % 60),
            (0, _) => format!("{hours}h{minutes:02}m"),
            _ => format!("{days}d{hours:02}h"),
        }
    }
}

fn microseconds(time: &TimeVal) -> i64 {
    let seconds = time.seconds.0.saturating_mul(1_000_000);
    seconds.saturating_add(time.microseconds.get())
}

/// A number of bytes in three digits or four.
fn bytes(number: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut number = number;
    for unit in units {
        if number < 1000.0 || unit == "TiB" {
            let places = usize::from(number < 10.0 && unit != "B");
            return format!("{number:.places$}{unit}");
        }
        number /= 1024.0;
    }
    String::new()
}

/// The bar for a part of a processor.
fn bar(part: f64) -> char {
    let steps = [0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85];
    let step = steps.iter().take_while(|step| part >= **step).count();
    BARS.get(step).copied().unwrap_or('█')
}

/// The end of a name that is too long: what tells it from its siblings.
fn shortened(name: &str, most: usize) -> String {
    let length = name.chars().count();
    if length <= most {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length + 1 - most).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Int, Int64, KInfoMem, RUsage};

    fn at(microseconds: i64) -> TimeVal {
        TimeVal {
            seconds: Int64(microseconds / 1_000_000),
            microseconds: Int::new(microseconds % 1_000_000),
        }
    }

    fn used(microseconds: i64, started: i64) -> Statistics {
        let n = Int64(0);
        Statistics {
            resource_usage: RUsage {
                utime: at(microseconds),
                stime: at(0),
                maxrss: n,
                ixrss: n,
                idrss: n,
                isrss: n,
                minflt: n,
                majflt: n,
                nswap: n,
                inblock: n,
                outblock: n,
                msgsnd: n,
                msgrcv: n,
                nsignals: n,
                nvcsw: n,
                nivcsw: n,
            },
            ifdata: Vec::new(),
            vmm_stats: None,
            kinfo_mem: Some(KInfoMem {
                vsize: n,
                rss: Int64(2560),
                tsize: n,
                dsize: n,
                ssize: n,
                runtime: n,
                cow: Int::new(0),
                start: at(started),
            }),
        }
    }

    fn sample(table: &mut Table, name: &str, microseconds: i64, second: u64) {
        let used = used(microseconds, 1_000_000);
        table.sample(&name.into(), &used, Duration::from_secs(second));
    }

    fn lines(table: &mut Table, size: (usize, usize)) -> Vec<String> {
        let text = table.draw(size, Duration::from_secs(3661));
        let text = text
            .rsplit_once("\x1b[J")
            .map_or(&text[..], |(_, text)| text);
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_row_tells_what_was_used_since_the_sample_before() {
        let mut table = Table::default();
        sample(&mut table, ":a", 1_000_000, 10);
        let first: Vec<_> = lines(&mut table, (24, 200))[1]
            .split_whitespace()
            .map(ToOwned::to_owned)
            .collect();
        assert_eq!(first, [":a", "-", "-", "10MiB", "-", "-", "-", "1h01m"]);
        sample(&mut table, ":a", 6_000_000, 20);
        let second = &lines(&mut table, (24, 200))[1];
        assert!(
            second.contains(" 50.0 ") && second.ends_with('▅'),
            "{second}"
        );
        // A new process under the same name begins anew.
        table.sample(&":a".into(), &used(0, 5_000_000), Duration::from_secs(30));
        assert!(!lines(&mut table, (24, 200))[1].contains('▅'));
    }

    #[test]
    fn what_is_told_of_no_longer_disappears() {
        let mut table = Table::default();
        for second in 0..9 {
            if second < 3 {
                sample(&mut table, ":gone", 0, second);
            }
            sample(&mut table, ":stays", 0, second);
        }
        let lines = lines(&mut table, (24, 200));
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with(":stays "));
    }

    #[test]
    fn the_table_never_leaves_the_screen_and_shows_the_busy_ones() {
        let mut table = Table::default();
        for second in [0, 10] {
            for number in 0..100 {
                let used = i64::try_from(second).unwrap() * number * 1000;
                sample(&mut table, &format!(":n{number}"), used, second);
            }
        }
        let lines = lines(&mut table, (10, 20));
        assert_eq!(lines.len(), 9);
        assert!(lines.iter().all(|line| line.chars().count() <= 20));
        assert!(lines[1].starts_with(":n99 "), "{lines:?}");
        assert_eq!(
            lines[8],
            "and 93 more, which are less busy".get(..20).unwrap()
        );
        assert!(
            table
                .draw((10, 20), Duration::ZERO)
                .starts_with("\x1b[9A\r\x1b[J")
        );
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut table = Table::default();
        let name = Text(b"\x1b[2J\xff\xc2\x9b:x".to_vec());
        table.sample(&name, &used(0, 0), Duration::ZERO);
        let line = &lines(&mut table, (24, 200))[1];
        assert!(line.starts_with("\\027[2J\\255\\194\\155:x "), "{line}");
        let long = shortened(&"x".repeat(100), 28);
        assert_eq!((long.chars().count(), long.chars().next()), (28, Some('…')));
    }

    #[test]
    fn rows_are_bounded() {
        let mut table = Table::default();
        for number in 0..MAX_ROWS + 10 {
            sample(&mut table, &format!(":{number}"), 0, 0);
        }
        assert_eq!(table.rows.len(), MAX_ROWS);
    }

    #[test]
    fn sizes_have_few_digits() {
        for (number, text) in [
            (0.0, "0B"),
            (999.0, "999B"),
            (1000.0, "1.0KiB"),
            (10_240.0, "10KiB"),
            (1.5 * 1024.0 * 1024.0, "1.5MiB"),
            (1e18, "909495TiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
