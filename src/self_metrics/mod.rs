//! What a daemon tells a collector of InfluxDB about itself, beside its work (BEHAVIOUR 10).
//!
//! Every ten seconds there is a round of lines. A collector that is away or slow keeps nobody waiting: what it has
//! not taken when the next round comes is dropped, as lines have no time of their own and would be taken for what is now.
#![forbid(unsafe_code)]

mod lines;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::daemon::wall_clock;
use crate::influx::upstream::{Destination, HostAddress, Upstream};
use crate::logging;
use crate::stats::collect::SelfUsage;
use crate::sys::poll::Poll;

pub use crate::influx::upstream::address;
pub use lines::Lines;

/// From one round to the next (BEHAVIOUR 10).
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Most lines of a round: further ones take the places of the first.
pub const MAX_LINES: usize = 1 << 14;

/// What is told of a daemon, if anybody wants to know.
#[derive(Debug)]
pub struct SelfMetrics(Option<Rounds>);

#[derive(Debug)]
struct Rounds {
    /// What the tag `vm` says.
    vm: &'static str,
    /// Nothing if the system does not tell of it.
    own: Option<SelfUsage>,
    upstream: Upstream,
    next: Instant,
}

impl SelfMetrics {
    /// About this process, whose lines have this tag `vm`, to a listener for lines.
    pub fn new(vm: &'static str, collector: Option<SocketAddr>) -> Self {
        Self(collector.map(|address| Rounds {
            vm,
            own: own(),
            upstream: Upstream::new(
                Destination::Lines(address),
                HostAddress::Known(vec![address]),
                MAX_LINES,
            ),
            next: Instant::now(),
        }))
    }

    /// What this process reads about itself.
    pub fn own(&self) -> Option<&SelfUsage> {
        self.0.as_ref()?.own.as_ref()
    }

    /// The port to which connections are made.
    pub fn port(&self) -> Option<u16> {
        Some(self.0.as_ref()?.upstream.port())
    }

    /// Registers the connection to the collector, and when [`Self::progress`] is to be called.
    pub fn register<'a, T>(&'a self, poll: &mut Poll<'a, T>, token: T) {
        if let Some(rounds) = &self.0 {
            poll.until([rounds.next]);
            rounds.upstream.register(poll, token);
        }
    }

    /// Sends what goes without waiting; if a round is due, with what the daemon `adds` to it.
    pub fn progress(&mut self, now: Instant, adds: impl FnOnce(&mut Lines)) {
        let Some(rounds) = &mut self.0 else {
            return;
        };
        if now >= rounds.next {
            // Those that were slept through are left out.
            let next = rounds.next + INTERVAL;
            rounds.next = if next > now { next } else { now + INTERVAL };
            let mut lines = rounds.lines();
            adds(&mut lines);
            rounds.upstream.drop_waiting();
            for line in lines.into_inner() {
                rounds.upstream.push(line);
            }
        }
        rounds.upstream.progress(now);
    }
}

impl Rounds {
    /// Those that every daemon has.
    fn lines(&mut self) -> Lines {
        let mut lines = Lines::new(self.vm);
        match self.own.as_mut().map(SelfUsage::usage) {
            Some(Ok(used)) => lines.process(&used, wall_clock()),
            Some(Err(error)) => log::debug!("what this process uses is not told: {error}"),
            None => {}
        }
        let (warnings, errors) = logging::counts();
        lines.log(warnings, errors);
        lines
    }
}

fn own() -> Option<SelfUsage> {
    SelfUsage::open()
        .inspect_err(|error| log::warn!("what this process uses is not told: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A round at `now`, which has a line that says `number`.
    fn round(self_metrics: &mut SelfMetrics, now: Instant, number: u64) {
        self_metrics.progress(now, |lines| lines.connections("unix", 0, number));
    }

    /// Goes on from `now`, for less than until the next round, until there is a connection to which lines have gone.
    fn connected(
        self_metrics: &mut SelfMetrics,
        now: Instant,
        listener: &TcpListener,
    ) -> TcpStream {
        listener.set_nonblocking(true).unwrap();
        for step in 0..500 {
            self_metrics.progress(now + step * INTERVAL / 1000, |_| {});
            if let Ok((stream, _)) = listener.accept() {
                self_metrics.progress(now, |_| {});
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            std::thread::yield_now();
        }
        panic!("no connection");
    }

    #[test]
    fn a_round_comes_every_ten_seconds_and_those_slept_through_are_left_out() {
        let (_listener, address) = listener();
        let mut self_metrics = SelfMetrics::new("x", Some(address));
        let first = Instant::now();
        let mut rounds = Vec::new();
        for second in [0, 1, 9, 10, 11, 20, 75, 76, 85] {
            let now = first + Duration::from_secs(second);
            self_metrics.progress(now, |_| rounds.push(second));
        }
        assert_eq!(rounds, [0, 10, 20, 75, 85]);
    }

    #[test]
    fn nobody_who_did_not_ask_is_told_anything() {
        let mut self_metrics = SelfMetrics::new("x", None);
        self_metrics.progress(Instant::now(), |_| panic!("a round"));
        let mut poll = Poll::new();
        self_metrics.register(&mut poll, ());
        assert!(poll.is_empty() && poll.deadline().is_none());
    }

    #[test]
    fn a_collector_that_comes_late_gets_the_latest_round_only() {
        let (listener, address) = listener();
        drop(listener);
        let mut self_metrics = SelfMetrics::new("x", Some(address));
        let mut now = Instant::now();
        for number in 1..=3 {
            round(&mut self_metrics, now, number);
            now += INTERVAL;
        }
        let listener = TcpListener::bind(address).unwrap();
        round(&mut self_metrics, now, 4);
        let mut stream = connected(&mut self_metrics, now, &listener);
        drop(self_metrics);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("connections,").count(), 1, "{text}");
        assert!(text.contains("total=4i\n"), "{text}");
    }

    #[test]
    fn a_collector_that_does_not_read_takes_no_time_and_little_memory() {
        let (listener, address) = listener();
        let mut self_metrics = SelfMetrics::new("x", Some(address));
        let mut now = Instant::now();
        round(&mut self_metrics, now, 0);
        let _stream = connected(&mut self_metrics, now, &listener);
        for _ in 0..3 {
            now += INTERVAL;
            self_metrics.progress(now, |lines| {
                for number in 0..2 * MAX_LINES as u64 {
                    lines.connections("unix", 0, number);
                }
            });
            // It may only read more than it has: then the socket takes more, and not this process.
            let mut poll = Poll::new();
            self_metrics.register(&mut poll, ());
            assert!(poll.deadline().is_some_and(|at| at <= now + INTERVAL));
        }
        let upstream = &self_metrics.0.as_ref().unwrap().upstream;
        assert!(upstream.waiting() <= MAX_LINES, "{}", upstream.waiting());
    }
}
