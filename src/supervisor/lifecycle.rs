//! From a request to a running unikernel, and from a death to what follows.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use log::{info, warn};

use super::restart::{self, Decision};
use super::{
    Asker, Claim, ConnectionId, Creation, Death, Effect, Goal, MAX_UPLOADS, MAX_WAITING, Moment,
    Operation, Phase, Request, Run, RunId, SAVE_RETRY, STOP_DEADLINE, StagedImage, Successor,
    Supervisor, Timer, Unikernel, Upload, UploadId, Written, claims, runnable,
};
use crate::manifest::Manifest;
use crate::name::Name;
use crate::policy::UNLIMITED;
use crate::unikernel::{Config, ImageDigest};
use crate::wire::{self, Int};

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

    /// A create or force-create: its image has to arrive first, which keeps nobody from the name.
    pub(super) fn upload(&mut self, asker: Asker, name: Name, config: wire::Config, force: bool) {
        let admitted = runnable(&name, &config).and_then(|config| {
            if self.uploads.len() >= MAX_UPLOADS {
                return Err(format!(
                    "{MAX_UPLOADS} images are arriving already, try again later"
                ));
            }
            // What is under way may make room; then this is decided when it is this request's turn.
            if !self.operations.contains_key(&name) {
                self.admit(&name, &config, force)?;
            }
            Ok(config)
        });
        let admitted = match admitted {
            Ok(config) => config,
            Err(why) => return self.refuse(&asker, &why),
        };
        let (upload, from) = (UploadId(self.count()), asker.connection);
        let arriving = Upload {
            asker,
            name,
            config: admitted,
            force,
        };
        self.uploads.insert(upload, arriving);
        self.effects.push(Effect::ReceiveImage {
            upload,
            from,
            embedded: Some(config.image.0).filter(|image| !image.is_empty()),
            compressed: config.compressed,
        });
    }

    /// Begins a request, now or when those before it on the same name are done.
    pub(super) fn request(&mut self, asker: Asker, name: &Name, request: Request) {
        let waiting = self
            .waiting
            .get(name)
            .map_or(0, std::collections::VecDeque::len);
        if self.stopping {
            self.drop_request(&asker, &request, "the supervisor is stopping");
        } else if !self.operations.contains_key(name) {
            match request {
                Request::Destroy => self.destroy(asker, name),
                Request::Create(creation) => self.create(asker, name, *creation),
            }
        } else if waiting >= MAX_WAITING {
            self.drop_request(&asker, &request, "too many requests wait for this name");
        } else {
            self.waiting
                .entry(name.clone())
                .or_default()
                .push_back((asker, request));
        }
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        let of_it = |(_, upload): &(&UploadId, &Upload)| upload.asker.connection == connection;
        let aborted: Vec<_> = self
            .uploads
            .iter()
            .filter(of_it)
            .map(|(id, _)| *id)
            .collect();
        for upload in aborted {
            self.uploads.remove(&upload);
            self.effects.push(Effect::DiscardImage(upload));
        }
        for queue in self.waiting.values_mut() {
            let gone = |(asker, _): &(Asker, Request)| asker.connection == connection;
            let effects = queue
                .iter()
                .filter(|waiting| gone(waiting))
                .filter_map(|(_, request)| request.discard());
            self.effects.extend(effects);
            queue.retain(|waiting| !gone(waiting));
        }
    }

    pub(super) fn staged(&mut self, upload: UploadId, result: Result<StagedImage, String>) {
        // Of a client that is gone nothing is left to be answered.
        let Some(Upload {
            asker,
            name,
            config,
            force,
        }) = self.uploads.remove(&upload)
        else {
            return self.effects.push(Effect::DiscardImage(upload));
        };
        match result {
            Ok(image) => {
                let creation = Creation {
                    upload,
                    config,
                    force,
                    image,
                };
                self.request(asker, &name, Request::Create(Box::new(creation)));
            }
            Err(why) => self.refuse(&asker, &why),
        }
    }

    fn create(&mut self, asker: Asker, name: &Name, creation: Creation) {
        let Creation {
            upload,
            config,
            force,
            image,
        } = creation;
        let fits =
            check_devices(&image.manifest, &config).and_then(|()| self.admit(name, &config, force));
        if let Err(why) = fits {
            self.effects.push(Effect::DiscardImage(upload));
            return self.refuse(&asker, &why);
        }
        let claim = Claim::of(&config);
        let unikernel = Unikernel {
            config,
            image: image.digest,
            run: Run::Starting,
            successor: None,
            failures: 0,
        };
        self.operate(name, Some(asker), Goal::Create, Phase::Stopping);
        if let Some(operation) = self.operations.get_mut(name) {
            operation.successor = Some(Successor { unikernel, upload });
        }
        match self.unikernels.get_mut(name) {
            Some(old) if matches!(old.run, Run::Up { .. }) => {
                old.successor = Some(claim);
                self.stop(name);
            }
            _ => {
                let previous = self.unikernels.remove(name);
                self.replace(name, previous);
            }
        }
    }

    fn drop_request(&mut self, asker: &Asker, request: &Request, why: &str) {
        self.effects.extend(request.discard());
        self.refuse(asker, why);
    }

    pub(super) fn prepared(&mut self, name: &Name, result: Result<(), String>) {
        if self.phase(name) != Some(Phase::Preparing) {
            return;
        }
        match result {
            Ok(()) => {
                let call = self.announce(name);
                self.set_phase(name, Phase::Announcing(call));
            }
            Err(why) => self.cannot_start(name, &why),
        }
    }

    pub(super) fn announced(&mut self, name: &Name, call: u64, result: Result<(), String>) {
        let awaited = self
            .operations
            .get(name)
            .is_some_and(|operation| operation.phase == Phase::Announcing(call));
        match (awaited, result) {
            (true, Ok(())) => self.spawn(name),
            (true, Err(why)) => self.cannot_start(name, &format!("{UNREAD}: {why}")),
            (false, Ok(())) => {}
            (false, Err(why)) => warn!("{name}: {UNREAD}: {why}"),
        }
    }

    fn spawn(&mut self, name: &Name) {
        let run = RunId(self.count());
        let Some(unikernel) = self.unikernels.get(name) else {
            return;
        };
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

    pub(super) fn spawned(&mut self, now: &Moment, run: RunId, result: Result<(), String>) {
        let Some(name) = self.runs.get(&run).cloned() else {
            return;
        };
        let early = self.early_deaths.remove(&run);
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
        if let Some(death) = early {
            self.exited(now, run, death);
        }
    }

    /// The last write of an operation is done.
    pub(super) fn saved(&mut self, name: &Name, result: Result<(), String>) {
        let Some(operation) = self.operations.get_mut(name) else {
            return;
        };
        let creates = matches!(operation.goal, Goal::Create);
        match result {
            Ok(()) => {
                // First, so that nothing of it is left when the answer arrives.
                let previous = operation.previous.take().map(|previous| previous.image);
                self.superfluous.extend(previous);
                self.forget_images();
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
            Err(why) => {
                let previous = operation.previous.take().map(|previous| previous.image);
                self.superfluous.extend(previous);
                self.save_later();
                self.fail(
                    name,
                    &format!("destroyed, but that could not be recorded: {why}"),
                );
            }
        }
    }

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
        if asked || death == Death::Exit(0) {
            info!("{name}: ended with {death}");
        } else {
            warn!("{name}: ended with {death}, which nobody asked for");
        }
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
                self.superfluous.insert(unikernel.image);
                self.unikernels.remove(&name);
                self.persist(Written::Change);
            }
            Decision::Again => self.start_later(&name),
            Decision::AgainWithoutName => {
                unikernel.config.add_name = false;
                self.persist(Written::Change);
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
                let free = !self.operations.contains_key(&name);
                match self.unikernels.get_mut(&name) {
                    Some(Unikernel {
                        run: Run::Waiting(latest),
                        ..
                    }) if *latest == wait && free => {
                        self.start(name);
                    }
                    // The operation may replace it, or fail and leave it to us: see `finish`.
                    Some(unikernel) if matches!(unikernel.run, Run::Waiting(latest) if latest == wait) =>
                    {
                        unikernel.run = Run::Due;
                    }
                    _ => {}
                }
            }
            Timer::Save if !self.stopping => self.persist(Written::Change),
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
        for (upload, Upload { asker, .. }) in std::mem::take(&mut self.uploads) {
            self.effects.push(Effect::DiscardImage(upload));
            self.refuse(&asker, "the supervisor is stopping");
        }
        for (asker, request) in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.drop_request(&asker, &request, "the supervisor is stopping");
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
        let mut old = self.unikernels.remove(name);
        if let Some(old) = &mut old {
            old.successor = None;
            old.run = Run::Waiting(0);
        }
        match self.operations.get(name).map(|operation| &operation.goal) {
            Some(Goal::Create) if self.stopping => {
                if let Some(old) = old {
                    self.unikernels.insert(name.clone(), old);
                }
                self.discard_successor(name);
                self.fail(name, "the supervisor is stopping");
            }
            Some(Goal::Create) => self.replace(name, old),
            Some(Goal::Abandon(why)) => {
                let why = why.clone();
                // A write that failed may have reached the disk all the same.
                self.come_back(name, &why, old.map(|old| old.image));
            }
            _ => {
                if let Some(operation) = self.operations.get_mut(name) {
                    operation.phase = Phase::Saving;
                    operation.previous = old;
                }
                self.persist(Written::Operation(name.clone()));
            }
        }
    }

    /// Puts the successor in the place of `previous`, and prepares it.
    fn replace(&mut self, name: &Name, previous: Option<Unikernel>) {
        let Some(operation) = self.operations.get_mut(name) else {
            return;
        };
        let Some(Successor { unikernel, upload }) = operation.successor.take() else {
            return;
        };
        operation.previous = previous;
        operation.phase = Phase::Preparing;
        let image = unikernel.image;
        self.unikernels.insert(name.clone(), unikernel);
        self.effects.push(Effect::Prepare {
            name: name.clone(),
            image,
            staged: Some(upload),
        });
    }

    fn discard_successor(&mut self, name: &Name) {
        let operation = self.operations.get_mut(name);
        if let Some(successor) = operation.and_then(|operation| operation.successor.take()) {
            self.effects.push(Effect::DiscardImage(successor.upload));
        }
    }

    /// A start by the supervisor itself.
    fn start(&mut self, name: Name) {
        let Some(unikernel) = self.unikernels.get_mut(&name) else {
            return;
        };
        unikernel.run = Run::Starting;
        let image = unikernel.image;
        self.operate(&name, None, Goal::Start, Phase::Preparing);
        self.effects.push(Effect::Prepare {
            name,
            image,
            staged: None,
        });
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
        self.come_back(name, why, image);
    }

    /// Ends a failed create, whose image was `image`; the instance it replaced, if any, comes back.
    fn come_back(&mut self, name: &Name, why: &str, image: Option<ImageDigest>) {
        let operation = self.operations.get_mut(name);
        let previous = operation.and_then(|operation| operation.previous.take());
        let mut why = why.to_owned();
        if let Some(mut previous) = previous {
            previous.run = Run::Due;
            self.unikernels.insert(name.clone(), previous);
            why += " (the previous instance is started again)";
        }
        self.superfluous.extend(image);
        self.fail(name, &why);
        self.persist(Written::Change);
    }

    /// Takes down what a create has just started.
    fn abandon(&mut self, name: &Name, why: String) {
        if let Some(operation) = self.operations.get_mut(name) {
            operation.phase = Phase::Stopping;
            operation.goal = Goal::Abandon(why);
        }
        match self.unikernels.get(name) {
            Some(Unikernel {
                run: Run::Up { .. },
                ..
            }) => self.stop(name),
            // It has ended meanwhile.
            _ => self.stopped(name),
        }
    }

    /// Tries again after a while to record what is.
    pub(super) fn save_later(&mut self) {
        self.effects.push(Effect::Wake {
            after: SAVE_RETRY,
            timer: Timer::Save,
        });
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

    /// Has the console daemon read the console; returns the number of this call.
    fn announce(&mut self, name: &Name) -> u64 {
        let call = self.count();
        let limit = match self.ledger.at(name.path()) {
            _ if name.path().is_root() => UNLIMITED.into(),
            Some(policy) => policy.unikernels.into(),
            None => Int::new(0),
        };
        self.effects.push(Effect::Announce {
            name: name.clone(),
            call,
            limit,
        });
        call
    }

    /// Whether a new unikernel of this configuration may be.
    fn admit(&self, name: &Name, config: &Config, force: bool) -> Result<(), String> {
        if !force && self.unikernels.contains_key(name) {
            return Err(
                match self.unikernels.get(name).map(|unikernel| &unikernel.run) {
                    Some(Run::Waiting(_) | Run::Due) => {
                        format!("there is a unikernel {name} already, which waits for its restart")
                    }
                    _ => format!("there is a unikernel {name} already"),
                },
            );
        }
        let mut others = claims(&self.unikernels, &self.operations);
        others.retain(|(other, _)| *other != name);
        let claim = Claim::of(config);
        self.ledgers()
            .try_for_each(|ledger| ledger.admit(name.path(), &claim, &others))
            .map_err(|refusal| refusal.to_string())
    }

    fn operate(&mut self, name: &Name, asked_by: Option<Asker>, goal: Goal, phase: Phase) {
        let operation = Operation {
            asked_by,
            goal,
            phase,
            previous: None,
            successor: None,
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

    /// Ends an operation, and begins the next request for the same name, or a start that had to wait for this.
    fn finish(&mut self, name: &Name) {
        self.operations.remove(name);
        while !self.operations.contains_key(name) {
            let next = self
                .waiting
                .get_mut(name)
                .and_then(std::collections::VecDeque::pop_front);
            let Some((asker, request)) = next else {
                break;
            };
            self.request(asker, name, request);
        }
        if self
            .waiting
            .get(name)
            .is_some_and(std::collections::VecDeque::is_empty)
        {
            self.waiting.remove(name);
        }
        let due = self
            .unikernels
            .get(name)
            .is_some_and(|unikernel| matches!(unikernel.run, Run::Due));
        if due && !self.stopping && !self.operations.contains_key(name) {
            self.start(name.clone());
        }
    }

    /// Removes the images that nothing refers to any more: nothing here, and nothing that is still being written.
    pub(super) fn forget_images(&mut self) {
        if !self.writes.is_empty() {
            return;
        }
        let kept = self
            .operations
            .values()
            .filter_map(|operation| operation.previous.as_ref());
        let in_use: BTreeSet<_> = self
            .unikernels
            .values()
            .chain(kept)
            .map(|unikernel| unikernel.image)
            .collect();
        let unused = std::mem::take(&mut self.superfluous);
        let unused = unused.difference(&in_use).copied();
        self.effects.extend(unused.map(Effect::RemoveImage));
    }
}

/// What a console that nobody reads is called.
const UNREAD: &str = "the console daemon does not read its console";

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
