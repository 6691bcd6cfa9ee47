//! Lines on their way to where they outlast this daemon: files, or the local syslog daemon.
//!
//! Each console has a place in its ring of its own there, as a subscriber has: what is slow, full or gone takes lines
//! later, and is told how many it missed, while neither the guest nor anybody else waits for it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::ring::{Item, Line, Moment, Reader, Ring};
use crate::name::{Name, Path};

/// Bytes of one console that are archived in a second, in the long run: a guest that floods its console neither keeps
/// disks from others nor wears them out. How much it fills of them is up to what it is archived in.
pub const RATE: usize = 1 << 20;

/// Bytes of one console that are archived at once; of another one with a new name as many.
pub const BURST: usize = 1 << 23;

/// How long nothing is archived of a console after that was refused, or went beyond its rate.
pub const PAUSE: Duration = Duration::from_millis(250);

/// Maximum number of tenants whose archives have bounds: twice as many as can have consoles, or policies.
pub const MAX_BOUNDS: usize = 2048;

/// Where lines are archived.
pub(super) trait Sink: fmt::Debug {
    /// Takes a line, but may hold it back until [`Self::flush`].
    fn put(&mut self, name: &Name, line: &Line<'_>) -> Result<(), Refused>;

    /// Passes on what is held back of a console; what cannot be passed on is still held back.
    fn flush(&mut self, name: &Name) -> Result<(), Refused>;

    /// The unikernel has ended, and all its lines were taken.
    fn close(&mut self, name: &Name);

    /// Somebody may have moved what lines are passed on to.
    fn reopen(&mut self);

    /// Lets the lines of a tenant take so many bytes on disk at most, from now on. Nothing else than files has bounds.
    fn bound(&mut self, _tenant: &Path, _bytes: u64) {}
}

/// Something was not taken, and may be offered again after [`PAUSE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// What is archived, and how far.
#[derive(Debug)]
pub(super) struct Archive {
    sink: Box<dyn Sink>,
    consoles: BTreeMap<Name, Progress>,
}

#[derive(Debug)]
struct Progress {
    reader: Reader,
    /// Bytes that may be archived since then.
    allowed: usize,
    since: Instant,
    /// When to go on with what could not be archived.
    again: Option<Instant>,
    /// Whether no more lines come.
    ended: bool,
}

impl Archive {
    pub(super) fn new(sink: Box<dyn Sink>) -> Self {
        Self {
            sink,
            consoles: BTreeMap::new(),
        }
    }

    /// Archives the lines of `name` from the next one on.
    pub(super) fn begin(&mut self, name: &Name, ring: &Ring, now: Instant) {
        let progress = self.consoles.entry(name.clone()).or_insert(Progress {
            reader: Reader::at(ring.end()),
            allowed: BURST,
            since: now,
            again: None,
            ended: false,
        });
        progress.ended = false;
        // The ring that it was a place in may have been forgotten since.
        if progress.reader.position() > ring.end() {
            progress.reader = Reader::default();
        }
    }

    /// Whether lines of `name` are archived as they come.
    pub(super) fn takes(&self, name: &Name) -> bool {
        let progress = self.consoles.get(name);
        progress.is_some_and(|progress| progress.again.is_none())
    }

    /// Archives what is new, as far as that is possible.
    pub(super) fn go_on(&mut self, name: &Name, ring: &Ring, now: Instant, clock: Moment) {
        let Some(progress) = self.consoles.get_mut(name) else {
            return;
        };
        if progress.again.is_some_and(|again| now < again) {
            return;
        }
        progress.refill(now);
        progress.again = None;
        loop {
            let before = progress.reader;
            let Some(item) = ring.read(&mut progress.reader) else {
                break;
            };
            let line = match item {
                Item::Line(line) => line,
                Item::Missed(count) => Line::missed(count, clock),
            };
            if progress.allowed == 0 || self.sink.put(name, &line).is_err() {
                progress.reader = before;
                progress.again = Some(now + PAUSE);
                break;
            }
            progress.allowed = progress.allowed.saturating_sub(line.bytes.len() + 1);
        }
        if self.sink.flush(name).is_err() {
            progress.again = Some(now + PAUSE);
        }
        if progress.ended && progress.again.is_none() {
            self.consoles.remove(name);
            self.sink.close(name);
        }
    }

    /// No more lines come; what is left is still archived.
    pub(super) fn end(&mut self, name: &Name, ring: &Ring, now: Instant, clock: Moment) {
        if let Some(progress) = self.consoles.get_mut(name) {
            progress.ended = true;
            self.go_on(name, ring, now, clock);
        }
    }

    /// The console is no more. What is held back of it is lost if it cannot be passed on now.
    pub(super) fn forget(&mut self, name: &Name) {
        self.consoles.remove(name);
        let _ = self.sink.flush(name);
        self.sink.close(name);
    }

    /// What could not be archived yet, and when to [`Self::go_on`] with it.
    pub(super) fn behind(&self) -> impl Iterator<Item = (&Name, Instant)> {
        self.consoles
            .iter()
            .filter_map(|(name, progress)| Some((name, progress.again?)))
    }

    /// Lets the lines of a tenant take so many bytes on disk at most.
    pub(super) fn bound(&mut self, tenant: &Path, bytes: u64) {
        self.sink.bound(tenant, bytes);
    }

    /// Somebody may have moved what lines are passed on to.
    pub(super) fn reopen(&mut self) {
        self.sink.reopen();
    }
}

impl Progress {
    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let more = usize::try_from(elapsed).unwrap_or(usize::MAX);
        let more = more.saturating_mul(RATE) / 1000;
        if more > 0 {
            self.allowed = self.allowed.saturating_add(more).min(BURST);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// What a sink was given, and how many more lines it takes.
    #[derive(Debug, Default)]
    struct Seen {
        lines: Vec<String>,
        room: usize,
        closed: usize,
        /// How often nothing can be passed on.
        stuck: usize,
    }

    impl Sink for Rc<RefCell<Seen>> {
        fn put(&mut self, _: &Name, line: &Line<'_>) -> Result<(), Refused> {
            let mut seen = self.borrow_mut();
            seen.room = seen.room.checked_sub(1).ok_or(Refused)?;
            let line = String::from_utf8(line.bytes.to_vec()).unwrap();
            seen.lines.push(line);
            Ok(())
        }

        fn flush(&mut self, _: &Name) -> Result<(), Refused> {
            let mut seen = self.borrow_mut();
            match seen.stuck.checked_sub(1) {
                Some(left) => {
                    seen.stuck = left;
                    Err(Refused)
                }
                None => Ok(()),
            }
        }

        fn close(&mut self, _: &Name) {
            self.borrow_mut().closed += 1;
        }

        fn reopen(&mut self) {}
    }

    struct Case {
        archive: Archive,
        seen: Rc<RefCell<Seen>>,
        ring: Ring,
        name: Name,
        now: Instant,
    }

    impl Case {
        fn new(lines: usize, room: usize) -> Self {
            let seen = Rc::new(RefCell::new(Seen {
                room,
                ..Seen::default()
            }));
            let mut case = Self {
                archive: Archive::new(Box::new(Rc::clone(&seen))),
                seen,
                ring: Ring::new(lines, 1 << 20),
                name: ":a".parse().unwrap(),
                now: Instant::now(),
            };
            case.ring.push(Moment::default(), b"of an earlier run");
            case.archive.begin(&case.name, &case.ring, case.now);
            case
        }

        fn say(&mut self, lines: &[&str]) {
            for line in lines {
                self.ring.push(Moment::default(), line.as_bytes());
            }
            let moment = Moment::default();
            self.archive.go_on(&self.name, &self.ring, self.now, moment);
        }

        fn lines(&self) -> Vec<String> {
            std::mem::take(&mut self.seen.borrow_mut().lines)
        }
    }

    #[test]
    fn lines_are_archived_once_from_the_beginning_of_the_run() {
        let mut case = Case::new(8, 100);
        case.say(&["one", "two"]);
        case.say(&[]);
        case.archive.begin(&case.name, &case.ring, case.now);
        case.say(&["three"]);
        assert_eq!(case.lines(), ["one", "two", "three"]);
    }

    #[test]
    fn what_was_refused_is_offered_again_and_what_is_gone_by_then_counted() {
        let mut case = Case::new(3, 1);
        case.say(&["one", "two"]);
        assert_eq!(case.archive.behind().count(), 1);
        case.seen.borrow_mut().room = 100;
        case.say(&["three", "four", "five"]);
        assert_eq!(case.lines(), ["one"]);
        case.now += PAUSE;
        case.say(&[]);
        let missed = "[petrel-console: 1 lines missed]";
        assert_eq!(case.lines(), [missed, "three", "four", "five"]);
        assert_eq!(case.archive.behind().count(), 0);
    }

    #[test]
    fn a_console_that_has_ended_is_closed_once_all_its_lines_are_taken() {
        let mut case = Case::new(8, 0);
        case.say(&["last"]);
        let clock = Moment::default();
        case.archive.end(&case.name, &case.ring, case.now, clock);
        assert_eq!(case.seen.borrow().closed, 0);
        case.seen.borrow_mut().room = 1;
        case.now += PAUSE;
        case.say(&[]);
        assert_eq!(case.lines(), ["last"]);
        assert_eq!(case.seen.borrow().closed, 1);
    }

    #[test]
    fn what_could_not_be_passed_on_is_tried_again_before_the_end() {
        let mut case = Case::new(8, 100);
        case.seen.borrow_mut().stuck = 3;
        case.say(&["quiet from now on"]);
        case.archive
            .end(&case.name, &case.ring, case.now, Moment::default());
        for stuck in [2, 1, 0] {
            let seen = case.seen.borrow();
            assert_eq!((seen.stuck, seen.closed), (stuck, 0));
            drop(seen);
            assert_eq!(case.archive.behind().count(), 1);
            case.now += PAUSE;
            case.say(&[]);
        }
        assert_eq!(case.seen.borrow().closed, 1);
        assert_eq!(case.archive.behind().count(), 0);
    }

    #[test]
    fn a_flood_is_archived_at_its_rate_only() {
        let line = "x".repeat(1023);
        let mut case = Case::new(1024, usize::MAX);
        let burst = BURST / 1024;
        for _ in 0..2 * burst {
            case.say(&[&line]);
        }
        assert_eq!(case.lines().len(), burst);
        case.now += Duration::from_secs(1);
        case.say(&[]);
        let lines = case.lines();
        assert_eq!(lines.len(), 1024 + 1);
        assert!(lines[0].ends_with("lines missed]"), "{}", lines[0]);
    }
}
