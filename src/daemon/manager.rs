//! What a daemon tells the service manager that has started it, if that wants to know (`sd_notify(3)`): that it is ready,
//! that it still goes on, that it is being executed anew or ends.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The service manager.
#[derive(Debug)]
pub struct Manager {
    /// How often it wants to hear of this program, and when it hears next.
    alive: Option<(Duration, Instant)>,
}

impl Manager {
    /// Tells it that this program serves from now on.
    pub fn ready() -> Self {
        tell("READY=1");
        let now = Instant::now();
        Self {
            // Half of it, as the manual page says: one that comes late is no harm.
            alive: os::watchdog().map(|patience| (patience / 2, now)),
        }
    }

    /// When [`Self::progress`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.alive.map(|(_, next)| next)
    }

    /// This program goes round its loop.
    pub fn progress(&mut self, now: Instant) {
        if let Some((interval, next)) = &mut self.alive
            && now >= *next
        {
            *next = now + *interval;
            tell("WATCHDOG=1");
        }
    }

    /// It is going to be executed anew, and [ready](Self::ready) again then.
    pub fn reloading(&self) {
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(now) => {
                let now = Duration::from(now).as_micros();
                tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
            }
            Err(error) => log::warn!("cannot read the clock: {error}"),
        }
    }

    /// It is not executed anew after all.
    pub fn still_ready(&self) {
        tell("READY=1");
    }

    /// It ends as soon as it can.
    pub fn stopping(&self) {
        tell("STOPPING=1");
    }
}

fn tell(what: &str) {
    if let Err(error) = os::tell(what) {
        log::warn!("cannot tell the service manager {what:?}: {error}");
    }
}
