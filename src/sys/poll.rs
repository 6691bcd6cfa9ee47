//! Registry of descriptors for poll(2): each descriptor carries a token of its caller's, which comes back with its events.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Descriptors to wait for, and until when.
#[derive(Debug)]
pub struct Poll<'a, T> {
    descriptors: Vec<PollFd<'a>>,
    tokens: Vec<T>,
    deadline: Option<Instant>,
}

impl<'a, T> Poll<'a, T> {
    /// Registry without descriptors and without a deadline.
    pub fn new() -> Self {
        Self {
            descriptors: Vec::new(),
            tokens: Vec::new(),
            deadline: None,
        }
    }

    /// Registers a descriptor. poll(2) reports errors and hang-ups even if `interest` is empty.
    pub fn add(&mut self, token: T, descriptor: BorrowedFd<'a>, interest: PollFlags) {
        self.descriptors.push(PollFd::new(descriptor, interest));
        self.tokens.push(token);
    }

    /// Registers a descriptor for reading.
    pub fn add_readable(&mut self, token: T, descriptor: &'a impl AsFd) {
        self.add(token, descriptor.as_fd(), PollFlags::POLLIN);
    }

    /// Ends the wait at the earliest of these deadlines, and of those that were given before.
    pub fn until(&mut self, deadlines: impl IntoIterator<Item = Instant>) {
        self.deadline = deadlines.into_iter().chain(self.deadline).min();
    }

    /// Whether no descriptor is registered.
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// Earliest deadline so far.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Waits until a descriptor is ready or the deadline has passed, and returns the ready descriptors in the order of their
    /// registration: none after the deadline. Signals do not end the wait.
    pub fn wait(mut self) -> io::Result<Vec<(T, PollFlags)>> {
        loop {
            match poll(&mut self.descriptors, timeout(self.deadline)) {
                Ok(0) if self.deadline.is_some_and(|end| Instant::now() < end) => {}
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let events = self.descriptors.iter();
        let events = events.map(|one| one.revents().unwrap_or(PollFlags::POLLERR));
        let events = self.tokens.into_iter().zip(events);
        Ok(events.filter(|(_, events)| !events.is_empty()).collect())
    }
}

impl<T> Default for Poll<'_, T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits until one descriptor is ready, and returns its events: none if the deadline has passed.
pub fn wait_for(
    descriptor: impl AsFd,
    interest: PollFlags,
    deadline: Option<Instant>,
) -> io::Result<PollFlags> {
    let mut poll = Poll::new();
    poll.add((), descriptor.as_fd(), interest);
    poll.until(deadline);
    let events = poll.wait()?.into_iter().map(|((), events)| events);
    Ok(events.collect())
}

/// Events of one descriptor at this moment.
pub fn events_now(descriptor: impl AsFd, interest: PollFlags) -> io::Result<PollFlags> {
    wait_for(descriptor, interest, Some(Instant::now()))
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    deadline.map_or(PollTimeout::NONE, |deadline| {
        // Rounded up to whole milliseconds, or the last one would be spent in a busy loop.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn ready_descriptors_come_back_with_their_tokens_in_the_order_of_registration() {
        let (mut first, one) = UnixStream::pair().unwrap();
        let (_second, two) = UnixStream::pair().unwrap();
        let (third, three) = UnixStream::pair().unwrap();
        first.write_all(b"x").unwrap();
        drop(third);
        let mut poll = Poll::new();
        poll.add_readable("two", &two);
        poll.add("three", three.as_fd(), PollFlags::empty());
        poll.add_readable("one", &one);
        let ready = poll.wait().unwrap();
        assert_eq!(ready.len(), 2);
        assert!(ready[0].0 == "three" && ready[0].1.contains(PollFlags::POLLHUP));
        assert_eq!(ready[1], ("one", PollFlags::POLLIN));
    }

    #[test]
    fn the_earliest_deadline_ends_the_wait_and_not_before() {
        let (_theirs, ours) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let mut poll = Poll::new();
        poll.add_readable((), &ours);
        let step = Duration::from_millis(3);
        poll.until([start + Duration::from_secs(3600), start + step]);
        poll.until(None);
        assert!(poll.wait().unwrap().is_empty());
        assert!(start.elapsed() >= step);
    }

    #[test]
    fn a_deadline_that_has_passed_is_a_look_at_what_is_ready() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let look = || events_now(&ours, PollFlags::POLLIN).unwrap();
        assert_eq!(look(), PollFlags::empty());
        theirs.write_all(b"x").unwrap();
        assert_eq!(look(), PollFlags::POLLIN);
    }

    #[test]
    fn a_far_deadline_is_beyond_no_limit_of_the_system() {
        let far = Instant::now() + Duration::from_secs(1 << 32);
        assert_eq!(timeout(Some(far)), PollTimeout::MAX);
        assert_eq!(timeout(None), PollTimeout::NONE);
    }
}
