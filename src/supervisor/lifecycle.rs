//! From a request to what it asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use log::warn;

use super::operation::{
    Creation, Goal, Operation, Phase, Request, StoredStart, Successor, Upload, Written,
};
use super::{
    Asker, Claim, ConnectionId, Effect, MAX_UPLOADS, MAX_UPLOADS_OF_TENANT, MAX_WAITING, Run,
    StagedImage, Supervisor, Ticket, Unikernel, UploadId, claims, share,
};
use crate::manifest::Manifest;
use crate::name::Name;
use crate::unikernel::{Config, ImageDigest, Kind, Version};
use crate::wire;

impl Supervisor {
    /// A create or force-create: its image has to arrive first, which keeps nobody from the name. Of a BHyve machine none
    /// is to come.
    pub(super) fn upload(&mut self, asker: Asker, name: Name, config: wire::Config, force: bool) {
        let admitted = self.runnable(&name, &config).and_then(|config| {
            if config.kind == Kind::Bhyve {
                return Ok(config);
            }
            let tenant = name.path().tenant();
            let uploads = self.uploads.values();
            let own = uploads.filter(|upload| upload.name.path().tenant() == tenant);
            share(
                (self.uploads.len(), MAX_UPLOADS),
                (own.count(), MAX_UPLOADS_OF_TENANT),
                "images",
                "arriving",
            )?;
            // What is under way may make room; then this is decided when it is this request's turn.
            if !self.operations.contains_key(&name) {
                self.check_free(&name, force)?;
                self.admit(&name, &config)?;
            }
            Ok(config)
        });
        let admitted = match admitted {
            Ok(config) => config,
            Err(why) => return self.refuse(&asker, &why),
        };
        if admitted.kind == Kind::Bhyve {
            let creation = Creation {
                config: admitted,
                force,
                image: None,
            };
            return self.request(asker, &name, Request::Create(Box::new(creation)));
        }
        let (upload, from) = (UploadId(self.count()), asker.connection);
        let arriving = Upload {
            asker,
            name,
            config: admitted,
            force,
        };
        if let Err(why) = self.admit_upload(upload, &arriving) {
            return self.refuse(&arriving.asker, &why);
        }
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
                Request::Create(creation) => self.create(asker, name, *creation),
                Request::Revive(revival) => self.revive(asker, name, &revival),
                Request::Stop => self.stop_request(asker, name),
                Request::Destroy => self.destroy(asker, name),
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
        self.postponed
            .retain(|postponed| postponed.asker.connection != connection);
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
        let Some(arrived) = self.uploads.remove(&upload) else {
            return self.effects.push(Effect::DiscardImage(upload));
        };
        let fits = self.upload_ended(upload, &arrived, result.as_ref());
        let Upload {
            asker,
            name,
            config,
            force,
        } = arrived;
        match fits.and(result) {
            Ok(image) => {
                let creation = Creation {
                    config,
                    force,
                    image: Some((upload, image)),
                };
                self.request(asker, &name, Request::Create(Box::new(creation)));
            }
            Err(why) => self.refuse(&asker, &why),
        }
    }

    fn create(&mut self, asker: Asker, name: &Name, creation: Creation) {
        let Creation {
            config,
            force,
            image,
        } = creation;
        let (upload, image) = image.unzip();
        let manifest = image.as_ref().map(|image| &image.manifest);
        let fits = check_devices(manifest, &config)
            .and_then(|()| self.check_free(name, force))
            .and_then(|()| self.admit(name, &config));
        if let Err(why) = fits {
            self.effects.extend(upload.map(Effect::DiscardImage));
            return self.refuse(&asker, &why);
        }
        let image = image.map_or(ImageDigest::NONE, |image| image.digest);
        let version = Arc::new(Version { config, image });
        self.inspect(asker, name, "created unikernel", version, upload);
    }

    /// Begins to put this version in the place of what is there, if the host can run it.
    fn inspect(
        &mut self,
        asker: Asker,
        name: &Name,
        answer: &'static str,
        version: Arc<Version>,
        upload: Option<UploadId>,
    ) {
        let operation = Operation::new(Some(asker), Goal::Replace(answer), Phase::Inspecting);
        let successor = Successor {
            version: version.clone(),
            upload,
        };
        self.operate(name, operation, Some(successor));
        self.effects.push(Effect::Inspect {
            name: name.clone(),
            version,
            staged: upload,
        });
    }

    /// A start from an image in the store.
    fn revive(&mut self, asker: Asker, name: &Name, revival: &StoredStart) {
        let version = self
            .revived(name, revival)
            .and_then(|version| self.admit(name, &version.config).map(|()| version));
        let version = match version {
            Ok(version) => version,
            Err(why) => return self.refuse(&asker, &why),
        };
        self.inspect(asker, name, revival.answer(), version, None);
    }

    /// What a revival starts.
    pub(super) fn revived(
        &self,
        name: &Name,
        revival: &StoredStart,
    ) -> Result<Arc<Version>, String> {
        let present = self.unikernels.get(name);
        let ended = self.ended.get(name);
        let (version, previous) = match (present, ended) {
            (Some(unikernel), _) => (&unikernel.version, &unikernel.previous),
            (None, Some(ended)) => (&ended.version, &ended.previous),
            (None, None) => return Err(format!("there is no unikernel {name}")),
        };
        match revival {
            StoredStart::Start if present.is_some_and(Unikernel::is_up) => {
                Err(format!("{name} runs already"))
            }
            StoredStart::Restart(_) if present.is_none() => Err(format!(
                "there is no unikernel {name}: it has ended, start it instead"
            )),
            StoredStart::Start | StoredStart::Restart(None) => Ok(version.clone()),
            StoredStart::Restart(Some(arguments)) => Ok(Arc::new(Version {
                config: self
                    .runnable(name, &version.config.with_arguments((**arguments).clone()))?,
                image: version.image,
            })),
            StoredStart::Rollback => previous.clone().ok_or_else(|| {
                format!("{name} has no previous image or configuration to return to")
            }),
        }
    }

    pub(super) fn inspected(&mut self, name: &Name, result: Result<Option<Manifest>, String>) {
        let Some(operation) = self.operations.get(name) else {
            return;
        };
        let (Phase::Inspecting, Some(successor)) = (operation.phase, &operation.successor) else {
            return;
        };
        let fits = match result {
            Ok(_) if self.stopping => Err("the supervisor is stopping".to_owned()),
            Ok(manifest) => check_devices(manifest.as_ref(), &successor.version.config),
            Err(why) => Err(why),
        };
        match fits {
            Ok(()) => {
                self.set_phase(name, Phase::Stopping);
                self.take_over(name);
            }
            Err(why) => {
                self.discard_successor(name);
                self.fail(name, &why);
            }
        }
    }

    /// Everything that can be checked was: now the present instance has to go.
    fn take_over(&mut self, name: &Name) {
        match self.unikernels.get(name) {
            Some(old) if old.is_up() => self.stop(name),
            _ => self.replace(name),
        }
    }

    /// Also of what is down: that may not be on disk yet.
    fn stop_request(&mut self, asker: Asker, name: &Name) {
        let present = self.unikernels.get(name);
        if present.is_none() && !self.ended.contains_key(name) {
            return self.refuse(&asker, &format!("there is no unikernel {name}"));
        }
        let runs = present.is_some_and(Unikernel::is_up);
        let operation = Operation::new(Some(asker), Goal::Stop, Phase::Stopping);
        self.operate(name, operation, None);
        if runs {
            self.stop(name);
        } else {
            self.stopped(name);
        }
    }

    fn destroy(&mut self, asker: Asker, name: &Name) {
        let run = self.unikernels.get(name).map(|unikernel| &unikernel.run);
        let answer = match run {
            None if !self.ended.contains_key(name) => {
                return self.refuse(&asker, &format!("there is no unikernel {name}"));
            }
            Some(Run::Waiting(..) | Run::Due) => "destroyed: removed from restarting",
            _ => "destroyed unikernel",
        };
        let runs = matches!(run, Some(Run::Up { .. }));
        let operation = Operation::new(Some(asker), Goal::Destroy(answer), Phase::Stopping);
        self.operate(name, operation, None);
        if runs {
            self.stop(name);
        } else {
            self.stopped(name);
        }
    }

    pub(super) fn drop_request(&mut self, asker: &Asker, request: &Request, why: &str) {
        self.effects.extend(request.discard());
        self.refuse(asker, why);
    }

    /// The instance that an operation had to stop is gone.
    pub(super) fn stopped(&mut self, name: &Name) {
        if let Some(unikernel) = self.unikernels.get_mut(name)
            && !matches!(unikernel.run, Run::Stopped)
        {
            unikernel.run = Run::Due;
        }
        match self.operations.get(name).map(|operation| &operation.goal) {
            Some(Goal::Replace(_)) if self.stopping => {
                self.discard_successor(name);
                self.fail(name, "the supervisor is stopping");
            }
            Some(Goal::Replace(_)) => self.replace(name),
            Some(Goal::Abandon(why)) => {
                let why = why.clone();
                let abandoned = self.unikernels.remove(name);
                // Where it has ended meanwhile.
                let ended = self.ended.remove(name);
                let images = ended.iter().flat_map(super::Ended::versions);
                self.let_go(images.filter_map(|version| version.stored_image()));
                // A write that failed may have reached the disk all the same.
                self.come_back(name, &why, abandoned.as_ref());
            }
            Some(Goal::Stop) => {
                if let Some(unikernel) = self.unikernels.get_mut(name) {
                    unikernel.run = Run::Stopped;
                }
                self.effects.push(Effect::Forget(name.clone()));
                self.save(name);
            }
            Some(Goal::Destroy(_)) => {
                let (previous, ended) = (self.unikernels.remove(name), self.ended.remove(name));
                if let Some(operation) = self.operations.get_mut(name) {
                    operation.previous = previous;
                    operation.ended = ended;
                }
                self.effects.push(Effect::Forget(name.clone()));
                self.save(name);
            }
            Some(Goal::Start | Goal::Evict(_)) | None => self.finish(name),
        }
    }

    /// The last step of an operation: its answer is given when this is on disk.
    pub(super) fn save(&mut self, name: &Name) {
        self.set_phase(name, Phase::Saving);
        self.persist(Written::Operation(name.clone()));
    }

    /// Puts the successor in the place of what is there, and prepares it.
    fn replace(&mut self, name: &Name) {
        let (previous, ended) = (self.unikernels.remove(name), self.ended.remove(name));
        let Some(operation) = self.operations.get_mut(name) else {
            return;
        };
        let Some(Successor { version, upload }) = operation.successor.take() else {
            return;
        };
        let before = match (&previous, &ended) {
            (Some(old), _) => Some((&old.version, &old.previous)),
            (None, Some(old)) => Some((&old.version, &old.previous)),
            (None, None) => None,
        };
        let mut unikernel = Unikernel::new(version.clone(), Run::Starting);
        unikernel.previous = match before {
            // The same once more is nothing to return to.
            Some((old, older)) if *old == unikernel.version => older.clone(),
            Some((old, _)) => Some(old.clone()),
            None => None,
        };
        unikernel.history.last_exit = match (&previous, &ended) {
            (Some(old), _) => old.history.last_exit.clone(),
            (None, old) => old.as_ref().map(|old| old.exit.clone()),
        };
        operation.previous = previous;
        operation.ended = ended;
        operation.phase = Phase::Preparing;
        self.unikernels.insert(name.clone(), unikernel);
        self.effects.push(Effect::Prepare {
            name: name.clone(),
            version,
            staged: upload,
        });
    }

    fn discard_successor(&mut self, name: &Name) {
        let operation = self.operations.get_mut(name);
        let successor = operation.and_then(|operation| operation.successor.take());
        if let Some(upload) = successor.and_then(|successor| successor.upload) {
            self.effects.push(Effect::DiscardImage(upload));
        }
    }

    /// The last write of an operation is done.
    pub(super) fn saved(&mut self, name: &Name, result: Result<(), String>) {
        let Some(operation) = self.operations.get_mut(name) else {
            return;
        };
        let (answer, undone) = match operation.goal {
            Goal::Replace(answer) => (answer, None),
            Goal::Stop => ("stopped unikernel", Some("stopped")),
            Goal::Destroy(answer) => (answer, Some("destroyed")),
            Goal::Start | Goal::Abandon(_) | Goal::Evict(_) => return,
        };
        let failure = match (result, undone) {
            (Ok(()), _) => None,
            (Err(why), None) => {
                return self.abandon(name, format!("could not be recorded: {why}"));
            }
            (Err(why), Some(done)) => {
                Some(format!("{done}, but that could not be recorded: {why}"))
            }
        };
        let (previous, ended) = (operation.previous.take(), operation.ended.take());
        let images = previous
            .iter()
            .flat_map(Unikernel::versions)
            .chain(ended.iter().flat_map(super::Ended::versions))
            .filter_map(|version| version.stored_image());
        if let Some(why) = failure {
            self.let_go(images);
            self.save_later();
            return self.fail(name, &why);
        }
        // The write that is done does not name them, nor does one after it.
        self.let_go_after(Ticket(0), images);
        // First, so that nothing of it is left when the answer arrives.
        self.forget_images();
        self.report(name, answer);
        self.finish(name);
    }

    /// The unikernel that an operation was about to start cannot be started.
    pub(super) fn cannot_start(&mut self, now: &super::Moment, name: &Name, why: &str) {
        self.effects.push(Effect::Release(name.clone()));
        let operation = self.operations.get(name);
        if operation.is_some_and(|operation| matches!(operation.goal, Goal::Start)) {
            warn!("{name}: cannot be started: {why}");
            if let Some(unikernel) = self.unikernels.get_mut(name) {
                unikernel.trouble = Some(why.to_owned());
            }
            self.start_later(now, name);
            return self.finish(name);
        }
        let failed = self.unikernels.remove(name);
        self.come_back(name, why, failed.as_ref());
    }

    /// Ends an operation of which `failed` came; the instance it replaced, if any, comes back.
    fn come_back(&mut self, name: &Name, why: &str, failed: Option<&Unikernel>) {
        let Some(operation) = self.operations.get_mut(name) else {
            return;
        };
        let mut why = why.to_owned();
        if let Some(mut previous) = operation.previous.take() {
            if !matches!(previous.run, Run::Stopped) {
                previous.run = Run::Due;
                why += " (the previous instance is started again)";
            }
            self.unikernels.insert(name.clone(), previous);
        }
        if let Some(ended) = operation.ended.take() {
            self.ended.insert(name.clone(), ended);
        }
        let images = failed.into_iter().flat_map(Unikernel::versions);
        self.let_go(images.filter_map(|version| version.stored_image()));
        self.fail(name, &why);
        self.persist(Written::Change);
    }

    /// Takes down what a create has just started.
    pub(super) fn abandon(&mut self, name: &Name, why: String) {
        if let Some(operation) = self.operations.get_mut(name) {
            operation.phase = Phase::Stopping;
            operation.goal = Goal::Abandon(why);
        }
        if self.unikernels.get(name).is_some_and(Unikernel::is_up) {
            self.stop(name);
        } else {
            // It has ended meanwhile.
            self.stopped(name);
        }
    }

    fn check_free(&self, name: &Name, force: bool) -> Result<(), String> {
        let what = match self.unikernels.get(name).map(|unikernel| &unikernel.run) {
            None => return Ok(()),
            Some(_) if force => return Ok(()),
            Some(Run::Waiting(..) | Run::Due) => ", which waits for its restart",
            Some(Run::Stopped) => ", which is stopped",
            Some(Run::Starting | Run::Up { .. }) => "",
        };
        Err(format!("there is a unikernel {name} already{what}"))
    }

    /// Whether a unikernel of this configuration may be, in the place of one of this name.
    fn admit(&self, name: &Name, config: &Config) -> Result<(), String> {
        let mut others = claims(&self.unikernels, &self.operations);
        others.retain(|(other, _)| *other != name);
        let claim = Claim::of(config);
        self.ledgers()
            .try_for_each(|ledger| ledger.admit(name.path(), &claim, &others))
            .map_err(|refusal| refusal.to_string())?;
        self.admit_addresses(name, config)
            .map_err(|refusal| refusal.to_string())?;
        self.admit_blocks(name, &config.blocks)
            .map_err(|refusal| refusal.to_string())
    }

    pub(super) fn operate(
        &mut self,
        name: &Name,
        operation: Operation,
        successor: Option<Successor>,
    ) {
        let operation = Operation {
            successor,
            ..operation
        };
        self.operations.insert(name.clone(), operation);
    }

    pub(super) fn phase(&self, name: &Name) -> Option<Phase> {
        self.operations.get(name).map(|operation| operation.phase)
    }

    pub(super) fn set_phase(&mut self, name: &Name, phase: Phase) {
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
    pub(super) fn fail(&mut self, name: &Name, why: &str) {
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
    pub(super) fn finish(&mut self, name: &Name) {
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
        self.enqueue(name);
    }
}

/// Whether an image declares these devices. Those of a BHyve machine, which has none, were looked at before.
fn check_devices(manifest: Option<&Manifest>, config: &Config) -> Result<(), String> {
    let Some(manifest) = manifest else {
        return Ok(());
    };
    let nets: Vec<_> = config.nets.iter().map(|net| net.device.as_str()).collect();
    let blocks: Vec<_> = config
        .blocks
        .iter()
        .map(|block| block.device.as_str())
        .collect();
    // Otherwise one of the two would do nothing.
    for devices in [&nets, &blocks] {
        let mut seen = BTreeSet::new();
        if let Some(twice) = devices.iter().find(|device| !seen.insert(**device)) {
            return Err(format!("device '{twice}' is given twice"));
        }
    }
    manifest
        .check_devices(&nets, &blocks)
        .map_err(|mismatch| mismatch.to_string())
}
