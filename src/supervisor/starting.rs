//! From a unikernel that is due to a running one; what a supervisor finds when it starts.

use std::time::Duration;

use log::{info, warn};

use super::operation::{Goal, Operation, Phase};
use super::restart;
use super::{
    Effect, History, MAX_ENDED_IN_PATH, MAX_STARTING, Moment, Run, RunId, Supervisor, Survivor,
    Timer, Unikernel,
};
use crate::name::{Name, Path};
use crate::policy::UNLIMITED;
use crate::wire::Timestamp;

impl Supervisor {
    /// Takes over a tender that runs, or has it ended on [`super::Event::Boot`] if it runs something else than it should.
    pub(super) fn adopt(&mut self, survivor: Survivor) {
        let Survivor {
            run,
            name,
            key,
            since,
            age,
            mut history,
            stopping,
        } = survivor;
        if age >= restart::STABLE {
            history.failures = 0;
        }
        self.runs.insert(run, name.clone());
        let wanted = self.unikernels.get_mut(&name).filter(|unikernel| {
            // One that is about to end is started again after that.
            matches!(unikernel.run, Run::Due) && unikernel.version.key() == key && !stopping
        });
        if let Some(unikernel) = wanted {
            unikernel.history = history;
            unikernel.run = Run::Up {
                run,
                since: Moment {
                    monotonic: Duration::ZERO,
                    wall: since,
                },
                asked_to_stop: false,
            };
        } else {
            let operation = Operation::new(None, Goal::Evict(run), Phase::Stopping);
            self.operate(&name, operation, None);
        }
    }

    /// Ends the tenders that nobody wants, and starts everything that is to run, lowest start order first.
    pub(super) fn boot(&mut self) {
        let strays: Vec<_> = self
            .operations
            .iter()
            .filter_map(|(name, operation)| match operation.goal {
                Goal::Evict(run) => Some((run, name.clone())),
                _ => None,
            })
            .collect();
        for (run, name) in strays {
            warn!(
                "{name}: a tender of an earlier supervisor, which was to end or is not recorded, is ended"
            );
            self.end_run(run, &name);
        }
        self.warn_of_duplicates();
        let mut due: Vec<_> = self
            .unikernels
            .iter()
            .filter(|(_, unikernel)| matches!(unikernel.run, Run::Due))
            .map(|(name, unikernel)| (unikernel.startup(), name.clone()))
            .collect();
        due.sort();
        // Its record is gone; until it is started, another supervisor may come.
        for (_, name) in &due {
            let unikernel = self.unikernels.get(name);
            let waited = unikernel.filter(|unikernel| unikernel.history != History::default());
            self.effects
                .extend(waited.map(|unikernel| Effect::Remember {
                    name: name.clone(),
                    version: unikernel.version.clone(),
                    history: unikernel.history.clone(),
                }));
        }
        self.queue.extend(due.into_iter().map(|(_, name)| name));
    }

    /// Puts a unikernel that is due in the queue.
    pub(super) fn enqueue(&mut self, name: &Name) {
        let due = self
            .unikernels
            .get(name)
            .is_some_and(|unikernel| matches!(unikernel.run, Run::Due));
        if due && !self.operations.contains_key(name) && !self.queue.contains(name) {
            self.queue.push_back(name.clone());
        }
    }

    /// Starts what is due, a few at a time.
    pub(super) fn start_due(&mut self) {
        while !self.stopping && !self.queue.is_empty() {
            let own_start = |operation: &&Operation| matches!(operation.goal, Goal::Start);
            if self.operations.values().filter(own_start).count() >= MAX_STARTING {
                return;
            }
            let Some(name) = self.queue.pop_front() else {
                return;
            };
            // An operation in the way decides by itself what follows.
            if !self.operations.contains_key(&name) {
                self.start(name);
            }
        }
    }

    /// A start by the supervisor itself.
    fn start(&mut self, name: Name) {
        let Some(unikernel) = self.unikernels.get_mut(&name) else {
            return;
        };
        if !matches!(unikernel.run, Run::Due) {
            return;
        }
        unikernel.run = Run::Starting;
        let version = unikernel.version.clone();
        let operation = Operation::new(None, Goal::Start, Phase::Preparing);
        self.operate(&name, operation, None);
        self.effects.push(Effect::Prepare {
            name,
            version,
            staged: None,
        });
    }

    pub(super) fn start_later(&mut self, now: &Moment, name: &Name) {
        let (wait, jitter) = (self.count(), self.random());
        let Some(unikernel) = self.unikernels.get_mut(name) else {
            return;
        };
        let failures = &mut unikernel.history.failures;
        *failures = failures.saturating_add(1);
        let after = restart::wait(*failures, jitter);
        unikernel.run = Run::Waiting(wait, later(&now.wall, after));
        info!("{name}: starts again in {} ms", after.as_millis());
        self.effects.push(Effect::Remember {
            name: name.clone(),
            version: unikernel.version.clone(),
            history: unikernel.history.clone(),
        });
        self.effects.push(Effect::Wake {
            after,
            timer: Timer::Restart(name.clone(), wait),
        });
    }

    pub(super) fn prepared(&mut self, now: &Moment, name: &Name, result: Result<(), String>) {
        if self.phase(name) != Some(Phase::Preparing) {
            return;
        }
        match result {
            Ok(()) => {
                let call = self.announce(name);
                self.set_phase(name, Phase::Announcing(call));
            }
            Err(why) => self.cannot_start(now, name, &why),
        }
    }

    pub(super) fn announced(
        &mut self,
        now: &Moment,
        name: &Name,
        call: u64,
        result: Result<(), String>,
    ) {
        let awaited = self
            .operations
            .get(name)
            .is_some_and(|operation| operation.phase == Phase::Announcing(call));
        match (awaited, result) {
            (true, Ok(())) => self.spawn(name),
            (true, Err(why)) => self.cannot_start(now, name, &format!("{UNREAD}: {why}")),
            (false, Ok(())) => {}
            (false, Err(why)) => warn!("{name}: {UNREAD}: {why}"),
        }
    }

    fn spawn(&mut self, name: &Name) {
        let run = RunId(self.count());
        let Some(unikernel) = self.unikernels.get(name) else {
            return;
        };
        let version = unikernel.version.clone();
        let mut history = unikernel.history.clone();
        if self.is_own_start(name) && history.failures > 0 {
            history.restarts += 1;
        }
        self.runs.insert(run, name.clone());
        self.set_phase(name, Phase::Spawning);
        self.effects.push(Effect::Spawn {
            run,
            name: name.clone(),
            version,
            history,
        });
    }

    fn is_own_start(&self, name: &Name) -> bool {
        let operation = self.operations.get(name);
        operation.is_some_and(|operation| matches!(operation.goal, Goal::Start))
    }

    pub(super) fn spawned(&mut self, now: &Moment, run: RunId, result: Result<(), String>) {
        let Some(name) = self.runs.get(&run).cloned() else {
            return;
        };
        let early = self.early_deaths.remove(&run);
        if let Err(why) = result {
            self.runs.remove(&run);
            return self.cannot_start(now, &name, &why);
        }
        let own_start = self.is_own_start(&name);
        if let Some(unikernel) = self.unikernels.get_mut(&name) {
            unikernel.run = Run::Up {
                run,
                since: now.clone(),
                asked_to_stop: false,
            };
            unikernel.trouble = None;
            if own_start && unikernel.history.failures > 0 {
                unikernel.history.restarts += 1;
            }
        }
        if own_start {
            self.finish(&name);
            if self.stopping {
                self.stop(&name);
            }
        } else if self.stopping {
            self.abandon(&name, "the supervisor is stopping".to_owned());
        } else {
            self.save(&name);
        }
        if let Some(death) = early {
            self.exited(now, run, death);
        }
    }

    /// Tells the console daemon of all that runs: it has just come (back).
    pub(super) fn announce_all(&mut self) {
        let running: Vec<_> = self
            .unikernels
            .iter()
            .filter(|(_, unikernel)| unikernel.is_up())
            .map(|(name, _)| name.clone())
            .collect();
        for name in running {
            self.announce(&name);
        }
    }

    /// Has the console daemon read the console; returns the number of this call.
    fn announce(&mut self, name: &Name) -> u64 {
        self.bound_archives(&name.path().tenant());
        let call = self.count();
        self.effects.push(Effect::Announce {
            name: name.clone(),
            call,
            limit: self.console_limit(name.path()).into(),
        });
        call
    }

    /// How many consoles directly at `path` are kept: of all that its policy lets run, or that are there without one,
    /// and of as many that have ended as are remembered.
    fn console_limit(&self, path: &Path) -> u64 {
        if path.is_root() {
            return UNLIMITED;
        }
        let there = || self.unikernels.keys().filter(|name| name.path() == path);
        let policy = self.ledger.at(path).map(|policy| policy.unikernels);
        let present = policy.unwrap_or_else(|| there().count() as u64);
        present
            .saturating_add(MAX_ENDED_IN_PATH as u64)
            .min(UNLIMITED)
    }
}

impl Unikernel {
    /// Its place in the start order: lower is started earlier, and stopped later.
    pub(super) fn startup(&self) -> i64 {
        self.version.config.startup()
    }
}

/// What a console that nobody reads is called.
const UNREAD: &str = "the console daemon does not read its console";

fn later(now: &Timestamp, after: Duration) -> Timestamp {
    let milliseconds = u128::from(now.milliseconds()) + after.as_millis();
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let fraction = u64::try_from(milliseconds % 1000).unwrap_or(0);
    Timestamp::from_unix(
        now.seconds().saturating_add(seconds),
        fraction * 1_000_000_000,
    )
}
