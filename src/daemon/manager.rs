//! Notifications to the service manager, if it takes any (`sd_notify(3)`): the daemon is ready,
//! alive, re-executed, or stopping.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Service manager of this daemon.
#[derive(Debug)]
pub struct Manager {
    /// Interval of the watchdog's notifications, and the time of the next one.
    alive: Option<(Duration, Instant)>,
}

impl Manager {
    /// Notifies that this daemon is ready.
    pub fn ready() -> Self {
        tell("READY=1");
        let now = Instant::now();
        Self {
            // Half of the timeout, as the manual page says: one that comes late is no harm.
            alive: os::watchdog().map(|timeout| (timeout / 2, now)),
        }
    }

    /// Time at which [`Self::progress`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.alive.map(|(_, next)| next)
    }

    /// Notifies the watchdog, if that is due.
    pub fn progress(&mut self, now: Instant) {
        if let Some((interval, next)) = &mut self.alive
            && now >= *next
        {
            *next = now + *interval;
            tell("WATCHDOG=1");
        }
    }

    /// Notifies that this daemon is about to be re-executed, and will be [ready](Self::ready) again then.
    pub fn reloading(&self) {
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(now) => {
                let now = Duration::from(now).as_micros();
                tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
            }
            Err(error) => log::warn!("cannot read the clock: {error}"),
        }
    }

    /// Notifies that re-execution has failed.
    pub fn still_ready(&self) {
        tell("READY=1");
    }

    /// Notifies that this daemon is stopping.
    pub fn stopping(&self) {
        tell("STOPPING=1");
    }
}

fn tell(what: &str) {
    if let Err(error) = os::tell(what) {
        log::warn!("cannot notify the service manager of {what:?}: {error}");
    }
}
