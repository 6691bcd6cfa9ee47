//! From a request to a running unikernel, and from a death to what follows.

use std::cmp::Reverse;

use log::{info, warn};

use super::restart::{self, Decision};
use super::{
    Asker, Claim, ConnectionId, Death, Effect, Goal, Moment, Operation, Phase, Run, RunId,
    STOP_DEADLINE, StagedImage, Supervisor, Timer, Unikernel, Written, claims, create_of, runnable,
};
use crate::manifest::Manifest;
use crate::name::Name;
use crate::policy::UNLIMITED;
use crate::unikernel::{Config, ImageDigest};
use crate::wire::{Command, Int, Message, Payload, UnikernelCommand};

impl Supervisor {
    /// Starts everything that the state knows, lowest start order first.
    pub(super) fn boot(&mut self) {
        let mut names: Vec<_> = self
            .unikernels
            .iter()
            .map(|(name, unikernel)| (startup(&unikernel.config), name.clone()))
            .collect();
        names.sort();
        for (_, name) in names {
            self.start(name);
        }
    }

    /// Begins a request that nothing on this name is in the way of.
    pub(super) fn begin(&mut self, asker: Asker, name: Name, message: Message) {
        let Payload::Command(Command::Unikernel(command)) = message.payload else {
            return;
        };
        match create_of(&command) {
            None => self.destroy(asker, &name),
            Some((wire, force)) => {
                let admitted = runnable(&name, wire).and_then(|config| {
                    self.admit(&name, &config, force)?;
                    Ok(config)
                });
                let config = match admitted {
                    Ok(config) => config,
                    Err(why) => return self.refuse(&asker, &why),
                };
                let (compressed, from) = (wire.compressed, asker.connection);
                let embedded = match command {
                    UnikernelCommand::Create(wire) | UnikernelCommand::ForceCreate(wire) => {
                        wire.image.0
                    }
                    _ => Vec::new(),
                };
                self.operate(
                    &name,
                    Some(asker),
                    Goal::Create { config, force },
                    Phase::Staging,
                );
                self.effects.push(Effect::ReceiveImage {
                    from,
                    name,
                    embedded: (!embedded.is_empty()).then_some(embedded),
                    compressed,
                });
            }
        }
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        let aborted = self.operations.iter().find(|(_, operation)| {
            operation.phase == Phase::Staging
                && operation
                    .asked_by
                    .as_ref()
                    .is_some_and(|asker| asker.connection == connection)
        });
        if let Some(name) = aborted.map(|(name, _)| name.clone()) {
            info!("{name}: its client left before the image was complete");
            self.effects.push(Effect::DiscardImage(name.clone()));
            self.finish(&name);
        }
    }

    pub(super) fn staged(&mut self, name: &Name, result: Result<StagedImage, String>) {
        let Some(Operation {
            goal: Goal::Create { config, force },
            phase: Phase::Staging,
            ..
        }) = self.operations.get(name)
        else {
            // Its client is gone; the operation went with it.
            return self.effects.push(Effect::DiscardImage(name.clone()));
        };
        let (config, force) = (config.clone(), *force);
        let fits = result.and_then(|image| {
            if self.stopping {
                return Err("the supervisor is stopping".to_owned());
            }
            check_devices(&image.manifest, &config)?;
            self.admit(name, &config, force)?;
            Ok(image.digest)
        });
        let image = match fits {
            Ok(image) => image,
            Err(why) => {
                self.effects.push(Effect::DiscardImage(name.clone()));
                return self.fail(name, &why);
            }
        };
        match self.unikernels.get_mut(name) {
            Some(old) if matches!(old.run, Run::Up { .. }) => {
                old.successor = Some(Claim::of(&config));
                self.set_phase(name, Phase::Stopping);
                self.replacements(name, config, image);
                self.stop(name);
            }
            _ => {
                let previous = self.unikernels.remove(name);
                self.replacements(name, config, image);
                self.replace(name, previous);
            }
        }
    }

    pub(super) fn prepared(&mut self, name: &Name, result: Result<(), String>) {
        if self.phase(name) != Some(Phase::Preparing) {
            return;
        }
        match result {
            Ok(()) => {
                self.set_phase(name, Phase::Announcing);
                self.announce(name);
            }
            Err(why) => self.cannot_start(name, &why),
        }
    }

    pub(super) fn announced(&mut self, name: &Name, result: Result<(), String>) {
        if self.phase(name) != Some(Phase::Announcing) {
            if let Err(why) = result {
                warn!("{name}: the console daemon does not read its console: {why}");
            }
            return;
        }
        let run = RunId(self.count());
        match (result, self.unikernels.get(name)) {
            (Ok(()), Some(unikernel)) => {
                let (config, image) = (Box::new(unikernel.config.clone()), unikernel.image);
                self.runs.insert(run, name.clone());
                self.set_phase(name, Phase::Spawning);
                self.effects.push(Effect::Spawn {
                    run,
                    name: name.clone(),
                    config,
                    image,
                });
            }
            (Err(why), _) => self.cannot_start(
                name,
                &format!("the console daemon does not read its console: {why}"),
            ),
            (Ok(()), None) => {}
        }
    }

    pub(super) fn spawned(&mut self, now: &Moment, run: RunId, result: Result<(), String>) {
        let Some(name) = self.runs.get(&run).cloned() else {
            return;
        };
        if let Err(why) = result {
            self.runs.remove(&run);
            return self.cannot_start(&name, &why);
        }
        if let Some(unikernel) = self.unikernels.get_mut(&name) {
            unikernel.run = Run::Up {
                run,
                since: now.clone(),
                asked_to_stop: false,
            };
        }
        let own_start = matches!(
            self.operations.get(&name),
            Some(Operation {
                goal: Goal::Start,
                ..
            })
        );
        if own_start {
            self.finish(&name);
            if self.stopping {
                self.stop(&name);
            }
        } else if self.stopping {
            self.abandon(&name, "the supervisor is stopping".to_owned());
        } else {
            self.set_phase(&name, Phase::Saving);
            self.persist(Written::Operation(name));
        }
    }

    /// The last write of an operation is done.
    pub(super) fn saved(&mut self, name: &Name, result: Result<(), String>) {
        let Some(operation) = self.operations.get_mut(name) else {
            return;
        };
        let creates = matches!(operation.goal, Goal::Create { .. });
        match result {
            Ok(()) => {
                // First, so that nothing of it is left when the answer arrives.
                let previous = operation.previous.take().map(|previous| previous.image);
                self.forget_image(previous);
                self.report(
                    name,
                    if creates {
                        "created unikernel"
                    } else {
                        "destroyed unikernel"
                    },
                );
                self.finish(name);
            }
            Err(why) if creates => self.abandon(name, format!("could not be recorded: {why}")),
            Err(why) => self.fail(
                name,
                &format!("destroyed, but that could not be recorded: {why}"),
            ),
        }
    }

    pub(super) fn exited(&mut self, now: &Moment, run: RunId, death: Death) {
        let Some(name) = self.runs.remove(&run) else {
            return;
        };
        self.effects.push(Effect::Release(name.clone()));
        let phase = self.phase(&name);
        let Some(unikernel) = self.unikernels.get_mut(&name) else {
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
        unikernel.run = Run::Waiting(0);
        info!(
            "{name}: ended with {death}{}",
            if asked { ", as asked" } else { "" }
        );
        if phase == Some(Phase::Stopping) {
            return self.stopped(&name);
        }
        if self.stopping {
            return;
        }
        if now.monotonic.saturating_sub(since) >= restart::STABLE {
            unikernel.failures = 0;
        }
        match restart::decide(&unikernel.config, death) {
            Decision::Stay => {
                let image = unikernel.image;
                self.unikernels.remove(&name);
                self.persist(Written::Change(Some(image)));
            }
            Decision::Again => self.start_later(&name),
            Decision::AgainWithoutName => {
                unikernel.config.add_name = false;
                self.persist(Written::Change(None));
                self.start_later(&name);
            }
        }
    }

    pub(super) fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Kill(run) if self.runs.contains_key(&run) => {
                warn!("{}: did not stop in time and is killed", self.runs[&run]);
                self.effects.push(Effect::Signal { run, kill: true });
            }
            Timer::Restart(name, wait) if !self.stopping => {
                let due = self.unikernels.get(&name).is_some_and(
                    |unikernel| matches!(unikernel.run, Run::Waiting(latest) if latest == wait),
                );
                if due && self.operations.contains_key(&name) {
                    // The operation may replace it, or fail and leave it to us.
                    let timer = Timer::Restart(name, wait);
                    self.effects.push(Effect::Wake {
                        after: restart::SHORTEST_WAIT,
                        timer,
                    });
                } else if due {
                    self.start(name);
                }
            }
            _ => {}
        }
    }

    /// Tells the console daemon of all that runs: it has just come (back).
    pub(super) fn announce_all(&mut self) {
        let running: Vec<_> = self
            .unikernels
            .iter()
            .filter(|(_, unikernel)| matches!(unikernel.run, Run::Up { .. }))
            .map(|(name, _)| name.clone())
            .collect();
        for name in running {
            self.announce(&name);
        }
    }

    /// Stops everything, last started first.
    pub(super) fn terminate(&mut self) {
        self.stopping = true;
        let mut running: Vec<_> = self
            .unikernels
            .iter()
            .filter(|(_, unikernel)| matches!(unikernel.run, Run::Up { .. }))
            .map(|(name, unikernel)| (Reverse(startup(&unikernel.config)), name.clone()))
            .collect();
        running.sort();
        for (_, name) in running {
            self.stop(&name);
        }
        let staging: Vec<_> = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.phase == Phase::Staging)
            .map(|(name, _)| name.clone())
            .collect();
        for name in staging {
            self.effects.push(Effect::DiscardImage(name.clone()));
            self.fail(&name, "the supervisor is stopping");
        }
    }

    /// Whether a stopping supervisor has nothing left to wait for.
    pub(super) fn is_done(&self) -> bool {
        self.stopping
            && self.runs.is_empty()
            && self.operations.is_empty()
            && self.writes.is_empty()
    }

    fn destroy(&mut self, asker: Asker, name: &Name) {
        match self.unikernels.get(name).map(|unikernel| &unikernel.run) {
            None => self.refuse(&asker, &format!("there is no unikernel {name}")),
            Some(Run::Up { .. }) => {
                self.operate(name, Some(asker), Goal::Destroy, Phase::Stopping);
                self.stop(name);
            }
            Some(_) => {
                self.operate(name, Some(asker), Goal::Destroy, Phase::Stopping);
                self.stopped(name);
            }
        }
    }

    /// The instance that an operation had to stop is gone.
    fn stopped(&mut self, name: &Name) {
        let Some(mut old) = self.unikernels.remove(name) else {
            return;
        };
        old.successor = None;
        match self.operations.get(name).map(|operation| &operation.goal) {
            Some(Goal::Create { .. }) if self.stopping => {
                old.run = Run::Waiting(0);
                self.unikernels.insert(name.clone(), old);
                self.effects.push(Effect::DiscardImage(name.clone()));
                self.fail(name, "the supervisor is stopping");
            }
            Some(Goal::Create { .. }) => self.replace(name, Some(old)),
            Some(Goal::Abandon(why)) => {
                let why = why.clone();
                self.come_back(name, &why);
                self.forget_image(Some(old.image));
            }
            _ => {
                if let Some(operation) = self.operations.get_mut(name) {
                    operation.phase = Phase::Saving;
                    operation.previous = Some(old);
                }
                self.persist(Written::Operation(name.clone()));
            }
        }
    }

    /// Remembers what the running create on `name` will start once nothing is in its way.
    fn replacements(&mut self, name: &Name, config: Config, image: ImageDigest) {
        let unikernel = Unikernel {
            config,
            image,
            run: Run::Starting,
            successor: None,
            failures: 0,
        };
        self.successors.insert(name.clone(), unikernel);
    }

    /// Puts the successor in the place of `previous`, and prepares it.
    fn replace(&mut self, name: &Name, previous: Option<Unikernel>) {
        let Some(successor) = self.successors.remove(name) else {
            return;
        };
        let image = successor.image;
        self.unikernels.insert(name.clone(), successor);
        if let Some(operation) = self.operations.get_mut(name) {
            operation.previous = previous;
            operation.phase = Phase::Preparing;
        }
        self.effects.push(Effect::Prepare {
            name: name.clone(),
            image,
        });
    }

    /// A start by the supervisor itself.
    fn start(&mut self, name: Name) {
        let Some(unikernel) = self.unikernels.get_mut(&name) else {
            return;
        };
        unikernel.run = Run::Starting;
        let image = unikernel.image;
        self.operate(&name, None, Goal::Start, Phase::Preparing);
        self.effects.push(Effect::Prepare { name, image });
    }

    fn start_later(&mut self, name: &Name) {
        let (wait, jitter) = (self.count(), self.random());
        let Some(unikernel) = self.unikernels.get_mut(name) else {
            return;
        };
        unikernel.failures = unikernel.failures.saturating_add(1);
        unikernel.run = Run::Waiting(wait);
        let after = restart::wait(unikernel.failures, jitter);
        info!("{name}: starts again in {} ms", after.as_millis());
        self.effects.push(Effect::Wake {
            after,
            timer: Timer::Restart(name.clone(), wait),
        });
    }

    /// The unikernel that an operation was about to start cannot be started.
    fn cannot_start(&mut self, name: &Name, why: &str) {
        self.effects.push(Effect::Release(name.clone()));
        self.effects.push(Effect::DiscardImage(name.clone()));
        if matches!(
            self.operations.get(name),
            Some(Operation {
                goal: Goal::Start,
                ..
            })
        ) {
            warn!("{name}: cannot be started: {why}");
            self.start_later(name);
            return self.finish(name);
        }
        let image = self
            .unikernels
            .remove(name)
            .map(|unikernel| unikernel.image);
        self.come_back(name, why);
        self.forget_image(image);
    }

    /// Ends a failed create; the instance it replaced, if any, comes back.
    fn come_back(&mut self, name: &Name, why: &str) {
        let previous = self
            .operations
            .get_mut(name)
            .and_then(|operation| operation.previous.take());
        let Some(mut previous) = previous else {
            return self.fail(name, why);
        };
        previous.run = Run::Waiting(0);
        self.unikernels.insert(name.clone(), previous);
        self.fail(
            name,
            &format!("{why} (the previous instance is started again)"),
        );
        // What was asked for meanwhile goes first, and finds the previous instance.
        if self.operations.contains_key(name) || self.stopping {
            return;
        }
        self.start(name.clone());
    }

    /// Takes down what a create has just started.
    fn abandon(&mut self, name: &Name, why: String) {
        if let Some(operation) = self.operations.get_mut(name) {
            operation.phase = Phase::Stopping;
            if matches!(operation.goal, Goal::Create { .. }) {
                operation.goal = Goal::Abandon(why);
            }
        }
        self.stop(name);
    }

    fn stop(&mut self, name: &Name) {
        if let Some(Unikernel {
            run: Run::Up {
                run, asked_to_stop, ..
            },
            ..
        }) = self.unikernels.get_mut(name)
        {
            *asked_to_stop = true;
            let run = *run;
            self.effects.push(Effect::Signal { run, kill: false });
            self.effects.push(Effect::Wake {
                after: STOP_DEADLINE,
                timer: Timer::Kill(run),
            });
        }
    }

    fn announce(&mut self, name: &Name) {
        let limit = match self.ledger.at(name.path()) {
            _ if name.path().is_root() => UNLIMITED.into(),
            Some(policy) => policy.unikernels.into(),
            None => Int::new(0),
        };
        self.effects.push(Effect::Announce {
            name: name.clone(),
            limit,
        });
    }

    /// Whether a new unikernel of this configuration may be.
    fn admit(&self, name: &Name, config: &Config, force: bool) -> Result<(), String> {
        if !force && self.unikernels.contains_key(name) {
            return Err(format!("there is a unikernel {name} already"));
        }
        let mut others = claims(&self.unikernels);
        others.retain(|(other, _)| *other != name);
        self.ledger
            .admit(name.path(), &Claim::of(config), &others)
            .map_err(|refusal| refusal.to_string())
    }

    fn operate(&mut self, name: &Name, asked_by: Option<Asker>, goal: Goal, phase: Phase) {
        let operation = Operation {
            asked_by,
            goal,
            phase,
            previous: None,
        };
        self.operations.insert(name.clone(), operation);
    }

    fn phase(&self, name: &Name) -> Option<Phase> {
        self.operations.get(name).map(|operation| operation.phase)
    }

    fn set_phase(&mut self, name: &Name, phase: Phase) {
        if let Some(operation) = self.operations.get_mut(name) {
            operation.phase = phase;
        }
    }

    /// Tells who asked for the operation that it succeeded.
    fn report(&mut self, name: &Name, text: &str) {
        if let Some(asker) = self
            .operations
            .get(name)
            .and_then(|operation| operation.asked_by.clone())
        {
            self.tell(&asker, text, true);
        }
    }

    /// Ends an operation with a failure.
    fn fail(&mut self, name: &Name, why: &str) {
        if let Some(asker) = self
            .operations
            .get(name)
            .and_then(|operation| operation.asked_by.clone())
        {
            self.refuse(&asker, why);
        }
        self.finish(name);
    }

    /// Ends an operation, and begins the next request for the same name.
    fn finish(&mut self, name: &Name) {
        self.operations.remove(name);
        self.successors.remove(name);
        while !self.operations.contains_key(name) {
            let next = self
                .waiting
                .get_mut(name)
                .and_then(std::collections::VecDeque::pop_front);
            let Some((from, message)) = next else {
                self.waiting.remove(name);
                return;
            };
            self.message(from, message);
        }
    }

    /// Removes an image that nothing refers to any more.
    pub(super) fn forget_image(&mut self, image: Option<ImageDigest>) {
        let Some(image) = image else { return };
        let previous = self
            .operations
            .values()
            .filter_map(|operation| operation.previous.as_ref());
        let in_use = self
            .unikernels
            .values()
            .chain(previous)
            .any(|unikernel| unikernel.image == image);
        if !in_use {
            self.effects.push(Effect::RemoveImage(image));
        }
    }
}

fn startup(config: &Config) -> i64 {
    config.startup.unwrap_or(Config::DEFAULT_STARTUP)
}

fn check_devices(manifest: &Manifest, config: &Config) -> Result<(), String> {
    let nets: Vec<_> = config.nets.iter().map(|net| net.device.as_str()).collect();
    let blocks: Vec<_> = config
        .blocks
        .iter()
        .map(|block| block.device.as_str())
        .collect();
    manifest
        .check_devices(&nets, &blocks)
        .map_err(|mismatch| mismatch.to_string())
}
