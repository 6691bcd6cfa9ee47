//! What happens after a death nobody asked for (BEHAVIOUR 5.9), and how long it waits.

use std::time::Duration;

use super::bhyve;
use crate::unikernel::{Config, Death, FailBehaviour, Kind};

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays down.
    Stay,
    /// It is started again.
    Again,
    /// It is started again without the `--name` that was added, which it did not know.
    AgainWithoutName,
}

/// Exit codes of a guest that does not know the added `--name` (64 by convention, 124 of some libraries).
const UNKNOWN_ARGUMENT: [u8; 2] = [64, 124];

/// Exit codes that mean "do not try again", whatever the configuration says.
const FINAL: [u8; 6] = [1, 60, 61, 62, 63, 64];

/// A run of this length is stable: the next failure waits as short as the first.
pub const STABLE: Duration = Duration::from_secs(60);

/// Shortest and longest wait before a restart, without jitter.
pub const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// See [`SHORTEST_WAIT`].
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What follows this death of a unikernel with this configuration, which nobody asked for. Only an exit code can say
/// that all is well: every other end is a failure.
pub fn decide(config: &Config, death: Death) -> Decision {
    if config.kind == Kind::Bhyve {
        return after_machine(&config.fail_behaviour, death);
    }
    match death {
        Death::Exit(code) if config.add_name && UNKNOWN_ARGUMENT.contains(&code) => {
            Decision::AgainWithoutName
        }
        Death::Exit(code) if FINAL.contains(&code) => Decision::Stay,
        _ => match (&config.fail_behaviour, death) {
            (FailBehaviour::Quit, _) => Decision::Stay,
            (FailBehaviour::Restart(codes), Death::Exit(code))
                if !codes.is_empty() && !codes.contains(&code) =>
            {
                Decision::Stay
            }
            (FailBehaviour::Restart(_), _) => Decision::Again,
        },
    }
}

/// Whether this end, which nobody asked for, is no failure.
pub fn is_well(config: &Config, death: Death) -> bool {
    match (config.kind, death) {
        (_, Death::Exit(0)) => true,
        (Kind::Bhyve, Death::Exit(code)) => bhyve::ENDED.contains(&code),
        _ => false,
    }
}

/// The exit codes of bhyve(8) tell what the guest did. A reboot is no end: the machine is started again whatever the
/// configuration says. To be off or halted is what a guest asks for, and only a list of codes that has these says otherwise.
/// Everything else is a failure: a triple fault, an error of bhyve itself, a signal.
fn after_machine(fail_behaviour: &FailBehaviour, death: Death) -> Decision {
    let again = match (fail_behaviour, death) {
        (_, Death::Exit(bhyve::REBOOTED)) => true,
        (FailBehaviour::Quit, _) => false,
        (FailBehaviour::Restart(codes), Death::Exit(code)) if codes.is_empty() => {
            !bhyve::ENDED.contains(&code)
        }
        (FailBehaviour::Restart(codes), Death::Exit(code)) => codes.contains(&code),
        (FailBehaviour::Restart(_), _) => true,
    };
    if again {
        Decision::Again
    } else {
        Decision::Stay
    }
}

/// How long to wait before restart number `failures` (from 1) in a row: doubled each time up to
/// [`LONGEST_WAIT`], and up to a quarter more, by `jitter` (any number).
pub fn wait(failures: u32, jitter: u32) -> Duration {
    let doubled = SHORTEST_WAIT.saturating_mul(
        1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    let wait = doubled.min(LONGEST_WAIT);
    wait + wait.mul_f64(f64::from(jitter) / f64::from(u32::MAX) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::fixtures::config;

    #[test]
    fn the_table_of_deaths() {
        use Death::{Exit, Signal};
        use Decision::{Again, AgainWithoutName, Stay};
        let any = FailBehaviour::Restart([].into());
        let listed = FailBehaviour::Restart([2, 64].into());
        for (add_name, fail_behaviour, death, expected) in [
            (true, FailBehaviour::Quit, Exit(64), AgainWithoutName),
            (true, FailBehaviour::Quit, Exit(124), AgainWithoutName),
            (false, FailBehaviour::Quit, Exit(124), Stay),
            (false, any.clone(), Exit(64), Stay),
            (false, any.clone(), Exit(1), Stay),
            (true, any.clone(), Exit(0), Again),
            (true, any.clone(), Exit(255), Again),
            (true, any, Signal(9), Again),
            (false, listed.clone(), Exit(2), Again),
            (false, listed.clone(), Exit(3), Stay),
            (false, listed.clone(), Exit(64), Stay),
            (false, listed, Signal(11), Again),
            (true, FailBehaviour::Quit, Signal(11), Stay),
        ] {
            let config = Config {
                add_name,
                fail_behaviour,
                ..config()
            };
            assert_eq!(
                decide(&config, death),
                expected,
                "{add_name} {:?} {death}",
                config.fail_behaviour
            );
        }
    }

    #[test]
    fn the_table_of_ends_of_machines() {
        use Death::{Exit, Signal};
        use Decision::{Again, Stay};
        let any = FailBehaviour::Restart([].into());
        let listed = |codes: &[u8]| FailBehaviour::Restart(codes.iter().copied().collect());
        for (fail_behaviour, death, expected) in [
            (FailBehaviour::Quit, Exit(0), Again),
            (FailBehaviour::Quit, Exit(1), Stay),
            (FailBehaviour::Quit, Exit(3), Stay),
            (FailBehaviour::Quit, Signal(11), Stay),
            (FailBehaviour::Quit, Exit(64), Stay),
            (any.clone(), Exit(0), Again),
            (any.clone(), Exit(1), Stay),
            (any.clone(), Exit(2), Stay),
            (any.clone(), Exit(3), Again),
            (any.clone(), Exit(4), Again),
            (any.clone(), Exit(64), Again),
            (any.clone(), Signal(9), Again),
            (any, Death::Unknown, Again),
            (listed(&[3]), Exit(0), Again),
            (listed(&[3]), Exit(3), Again),
            (listed(&[3]), Exit(4), Stay),
            (listed(&[1, 2]), Exit(1), Again),
            (listed(&[1, 2]), Exit(2), Again),
            (listed(&[3]), Signal(9), Again),
        ] {
            let config = Config {
                kind: Kind::Bhyve,
                add_name: true,
                fail_behaviour,
                ..config()
            };
            let told = format!("{:?} {death}", config.fail_behaviour);
            assert_eq!(decide(&config, death), expected, "{told}");
        }
    }

    #[test]
    fn waits_double_up_to_a_cap() {
        assert_eq!(wait(1, 0), SHORTEST_WAIT);
        assert_eq!(wait(3, 0), SHORTEST_WAIT * 4);
        assert_eq!(wait(40, 0), LONGEST_WAIT);
        assert_eq!(wait(40, u32::MAX), LONGEST_WAIT * 5 / 4);
    }
}
