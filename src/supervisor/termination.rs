//! From a death to what follows; stopping one, and stopping all.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};

use super::operation::{Goal, Operation, Phase, Upload, Written};
use super::restart::{self, Decision};
use super::{
    Effect, Ended, MACHINE_STOP_DEADLINE, MAX_ENDED, MAX_ENDED_IN_PATH, Moment, Run, RunId,
    Supervisor, Timer, Unikernel,
};
use crate::name::{Name, Path};
use crate::unikernel::{Death, Kind};
use crate::wire::state::LastExit;

impl Supervisor {
    pub(super) fn exited(&mut self, now: &Moment, run: RunId, death: Death) {
        let spawning =
            self.runs.get(&run).and_then(|name| self.phase(name)) == Some(Phase::Spawning);
        if spawning {
            self.early_deaths.insert(run, death);
            return;
        }
        let Some(name) = self.runs.remove(&run) else {
            return;
        };
        self.effects.push(Effect::Release(name.clone()));
        if let Some(Operation {
            goal: Goal::Evict(_),
            ..
        }) = self.operations.get(&name)
        {
            info!("{name}: the tender of an earlier supervisor ended with {death}");
            return self.finish(&name);
        }
        self.after_death(now, &name, death);
        if self.stopping {
            self.stop_last();
        }
    }

    fn after_death(&mut self, now: &Moment, name: &Name, death: Death) {
        let phase = self.phase(name);
        let Some(unikernel) = self.unikernels.get_mut(name) else {
            return;
        };
        let (since, asked) = match &unikernel.run {
            Run::Up {
                since,
                asked_to_stop,
                ..
            } => (since.monotonic, *asked_to_stop),
            _ => (now.monotonic, false),
        };
        let exit = LastExit {
            death,
            at: now.wall.clone(),
        };
        if !asked {
            unikernel.history.last_exit = Some(exit.clone());
        }
        unikernel.run = Run::Due;
        if asked || restart::is_well(&unikernel.version.config, death) {
            info!("{name}: ended with {death}");
        } else {
            warn!("{name}: ended with {death}, which nobody asked for");
        }
        if phase == Some(Phase::Stopping) {
            return self.stopped(name);
        }
        if self.stopping {
            return;
        }
        if now.monotonic.saturating_sub(since) >= restart::STABLE {
            unikernel.history.failures = 0;
        }
        match restart::decide(&unikernel.version.config, death) {
            Decision::Stay => {
                self.remember(name, exit);
                self.persist(Written::Change);
            }
            Decision::Again => self.start_later(now, name),
            Decision::AgainWithoutName => {
                let before = unikernel.version.clone();
                Arc::make_mut(&mut unikernel.version).config.add_name = false;
                // A restart that is being looked at is of the same.
                let successor = self.operations.get_mut(name);
                let successor = successor.and_then(|operation| operation.successor.as_mut());
                if let Some(same) = successor.filter(|successor| successor.version == before) {
                    same.version = unikernel.version.clone();
                }
                self.persist(Written::Change);
                self.start_later(now, name);
            }
        }
    }

    /// Takes a unikernel that has ended for good out of the accounting.
    fn remember(&mut self, name: &Name, exit: LastExit) {
        let Some(Unikernel {
            version, previous, ..
        }) = self.unikernels.remove(name)
        else {
            return;
        };
        let ended = Ended {
            version,
            previous,
            exit,
        };
        self.ended.insert(name.clone(), ended);
        self.forget_oldest(MAX_ENDED_IN_PATH, |other| other.path() == name.path());
        while self.ended.len() > MAX_ENDED {
            let (tenant, count) = self.tenant_with_most_ended();
            self.forget_oldest(count - 1, |other| other.path().tenant() == tenant);
        }
    }

    /// The tenant that has the most unikernels that have ended, and how many.
    fn tenant_with_most_ended(&self) -> (Path, usize) {
        let mut counts = BTreeMap::<_, usize>::new();
        for name in self.ended.keys() {
            *counts.entry(name.path().tenant()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.unwrap_or((Path::ROOT, 1))
    }

    /// Forgets the oldest of these that have ended, if they are more than `most`.
    fn forget_oldest(&mut self, most: usize, of_these: impl Fn(&Name) -> bool) {
        let mut these: Vec<_> = self
            .ended
            .iter()
            .filter(|(name, _)| of_these(name))
            .map(|(name, ended)| {
                let at = (ended.exit.at.seconds(), ended.exit.at.milliseconds());
                (Reverse(at), name.clone())
            })
            .collect();
        these.sort();
        for (_, name) in these.into_iter().skip(most) {
            let forgotten = self.ended.remove(&name);
            let images = forgotten.iter().flat_map(Ended::versions);
            self.let_go(images.filter_map(|version| version.stored_image()));
        }
    }

    pub(super) fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Kill(run) if self.runs.contains_key(&run) => {
                warn!("{}: did not stop in time and is killed", self.runs[&run]);
                self.effects.push(Effect::Signal { run, kill: true });
            }
            Timer::Restart(name, wait) if !self.stopping => {
                let waits = self.unikernels.get_mut(&name).filter(
                    |unikernel| matches!(unikernel.run, Run::Waiting(latest, _) if latest == wait),
                );
                if let Some(unikernel) = waits {
                    unikernel.run = Run::Due;
                    self.enqueue(&name);
                }
            }
            Timer::Save if !self.stopping => self.save_again(),
            _ => {}
        }
    }

    pub(super) fn stop(&mut self, name: &Name) {
        if let Some(Unikernel {
            run: Run::Up {
                run, asked_to_stop, ..
            },
            ..
        }) = self.unikernels.get_mut(name)
        {
            *asked_to_stop = true;
            let run = *run;
            self.end_run(run, name);
        }
    }

    /// SIGTERM now, SIGKILL when that was not enough.
    pub(super) fn end_run(&mut self, run: RunId, name: &Name) {
        let present = self.unikernels.get(name);
        let machine = present.is_some_and(|present| present.version.config.kind == Kind::Bhyve);
        let least = if machine {
            MACHINE_STOP_DEADLINE
        } else {
            Duration::ZERO
        };
        self.effects.push(Effect::Signal { run, kill: false });
        self.effects.push(Effect::Wake {
            after: self.stop_deadline.max(least),
            timer: Timer::Kill(run),
        });
    }

    /// Stops everything, in reverse start order.
    pub(super) fn terminate(&mut self) {
        self.stopping = true;
        self.queue.clear();
        for (upload, Upload { asker, .. }) in std::mem::take(&mut self.uploads) {
            self.effects.push(Effect::DiscardImage(upload));
            self.refuse(&asker, "the supervisor is stopping");
        }
        for postponed in std::mem::take(&mut self.postponed) {
            self.refuse(&postponed.asker, "the supervisor is stopping");
        }
        for (asker, request) in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.drop_request(&asker, &request, "the supervisor is stopping");
        }
        self.end_streams();
        // There is no later any more.
        self.save_again();
        self.stop_last();
    }

    /// Stops those that run and were started last: all of the highest start order that is left.
    fn stop_last(&mut self) {
        let up = || {
            self.unikernels
                .iter()
                .filter(|(_, unikernel)| unikernel.is_up())
        };
        let Some(last) = up().map(|(_, unikernel)| unikernel.startup()).max() else {
            return;
        };
        let asked = |unikernel: &Unikernel| {
            matches!(
                unikernel.run,
                Run::Up {
                    asked_to_stop: true,
                    ..
                }
            )
        };
        let names: Vec<_> = up()
            .filter(|(_, unikernel)| unikernel.startup() == last && !asked(unikernel))
            .map(|(name, _)| name.clone())
            .rev()
            .collect();
        for name in names {
            self.stop(&name);
        }
    }

    /// Whether a stopping supervisor has nothing left to wait for.
    pub(super) fn is_done(&self) -> bool {
        self.stopping
            && self.runs.is_empty()
            && self.operations.is_empty()
            && self.tasks.is_empty()
            && self.writes.is_empty()
    }
}
