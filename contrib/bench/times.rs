//! Times that count, and how they are told.

use std::time::Duration;

/// Rounds before those that count.
pub const WARM_UP: usize = 10;

/// Adds the time of a round, if it is one that counts.
pub fn keep(times: &mut Vec<Duration>, round: usize, time: Duration) {
    if round >= WARM_UP {
        times.push(time);
    }
}

/// Prints and returns the median, in seconds.
pub fn report(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = |percent: usize| {
        let time = times.get(times.len() * percent / 100);
        time.copied().unwrap_or_default()
    };
    println!(
        "{what:<9}  p50 {:>6} us  p95 {:>6} us  n {}",
        at(50).as_micros(),
        at(95).as_micros(),
        times.len()
    );
    at(50).as_secs_f64()
}
