//! Effects: what the supervisor decided is carried out.

use nix::sys::signal::Signal;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::resources;
use super::super::statistics::to_observe;
use super::super::tender::{Fifo, Guest, Start};
use super::bhyve::{UNPREPARED, is_machine};
use super::{Daemon, Prepared, Starting};
use crate::manifest::Manifest;
use crate::name::Name;
use crate::supervisor::{ConnectionId, Effect, Event, RunId, UploadId, launch};
use crate::unikernel::{ImageDigest, Version};
use crate::wire::frame::frame;
use crate::wire::{Header, Message, Payload};

impl Daemon {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { to, message, close } => self.answer(to, &message, close),
            Effect::SendImage {
                to,
                header,
                image,
                level,
            } => self.send_image(to, header, &image, level),
            Effect::ReceiveImage {
                upload,
                from,
                embedded,
                compressed,
            } => {
                self.receive_image(upload, from, embedded, compressed);
            }
            Effect::GrantUpload { upload } => self.grant_upload(upload),
            Effect::RefuseUpload { upload, why } => self.refuse_upload(upload, why),
            Effect::DiscardImage(upload) => self.discard_image(upload),
            Effect::Inspect {
                name,
                version,
                staged,
            } => {
                let result = self.can_run(&name, &version, staged);
                self.results.push(Event::Inspected { name, result });
            }
            Effect::Prepare {
                name,
                version,
                staged,
            } => {
                if let Some(staged) = staged.and_then(|upload| self.staged.remove(&upload)) {
                    self.installing.insert(name.clone(), version);
                    self.writer.install(name, staged);
                } else {
                    let result = self.prepare(&name, &version);
                    self.results.push(Event::Prepared { name, result });
                }
            }
            Effect::Announce { name, call, limit } => {
                self.connect_console(true);
                if let Err(why) = self.console.add(&name, call, limit) {
                    let result = Err(why);
                    self.results.push(Event::Announced { name, call, result });
                }
            }
            Effect::BoundArchives { tenant, bytes } => self.console.bound(&tenant, bytes),
            Effect::Spawn {
                run,
                name,
                version,
                history,
            } => {
                let start = Starting {
                    run,
                    name,
                    version,
                    history,
                };
                self.spawn(start);
            }
            Effect::Release(name) => {
                self.prepared.remove(&name);
                if let Ok(machines) = &mut self.machines {
                    machines.release(&name);
                }
                self.taps.remove(&name);
                if let Some(fifo) = self.fifos.remove(&name) {
                    fifo.remove();
                }
                self.blocks.release(&name);
            }
            Effect::Block { task, name, work } => self.work(task, &name, work),
            Effect::EndBlock(task) => self.break_off(task),
            Effect::Signal { run, kill } => self.signal(run, kill),
            Effect::Wake { after, timer } => self.timers.push((Instant::now() + after, timer)),
            Effect::Persist { ticket, state } => self.writer.save(ticket, state),
            Effect::RemoveImage(digest) => self.writer.remove(digest),
            Effect::Observe {
                by,
                header,
                networks,
            } => self.observe(by, header, &networks),
            Effect::Remember {
                name,
                version,
                history,
            } => self.runs.remember(&name, version.key(), history),
            Effect::Forget(name) => self.runs.forget(&name),
            Effect::LookAtHost => {
                let found = resources::discover(&self.options.dbdir);
                let found = found.map_err(|error| error.to_string());
                self.results.push(Event::HostResources(found));
            }
            Effect::Exit => self.done = true,
        }
    }

    pub(super) fn answer(&mut self, to: ConnectionId, message: &Message, close: bool) {
        if let Payload::Failure(why) = &message.payload {
            log::info!("{}: {}", message.header.name.to_lossy(), why.to_lossy());
        }
        let Some(connection) = self.clients.get_mut(to) else {
            return;
        };
        let bytes = message
            .encode()
            .map_err(|error| error.to_string())
            .and_then(|bytes| frame(&bytes).map_err(|error| error.to_string()));
        let arrival = match bytes {
            Ok(bytes) => connection.answer(&bytes, close),
            Err(error) => {
                log::warn!("an answer cannot be sent: {error}");
                Some(super::Arrival::Gone)
            }
        };
        if let Some(arrival) = arrival {
            self.arrived(to, arrival);
        }
    }

    /// Sends the last bytes of an answer, and closes the connection.
    pub(super) fn answer_with(&mut self, to: ConnectionId, bytes: &[u8]) {
        let connection = self.clients.get_mut(to);
        let arrival = connection.and_then(|connection| connection.answer(bytes, true));
        if let Some(arrival) = arrival {
            self.arrived(to, arrival);
        }
    }

    /// Manifest of the image of a version, if it has one; an error if this host cannot run the version.
    fn can_run(
        &mut self,
        name: &Name,
        version: &Version,
        staged: Option<UploadId>,
    ) -> Result<Option<Manifest>, String> {
        let networks = self.taps.check_networks(name, &version.config);
        networks.map_err(|error| error.to_string())?;
        if is_machine(version) {
            return self.programs(name, &version.config).map(|_| None);
        }
        let manifest = match staged.and_then(|upload| self.staged.get(&upload)) {
            // Its tender was found when it was staged.
            Some(staged) => staged.manifest.clone(),
            None => self.inspect(&version.image)?.0,
        };
        let devices = self.runs.check_devices(manifest.target, &version.config);
        devices.map_err(|error| error.to_string())?;
        Ok(Some(manifest))
    }

    /// Manifest of an image of the store, and the tender that runs it.
    fn inspect(&mut self, image: &ImageDigest) -> Result<(Manifest, PathBuf), String> {
        let mut file = self.images.read(image).map_err(|error| error.to_string())?;
        let manifest = Manifest::read(&mut file).map_err(|error| error.to_string())?;
        let tender = self
            .tenders
            .find(manifest.target, manifest.abi_version)
            .map_err(|error| error.to_string())?;
        Ok((manifest, tender))
    }

    /// Prepares a unikernel whose image is in the store now.
    pub(super) fn installed(&mut self, name: Name, result: Result<(), String>) {
        let Some(version) = self.installing.remove(&name) else {
            return;
        };
        let result = result.and_then(|()| self.prepare(&name, &version));
        self.events.push_back(Event::Prepared { name, result });
    }

    fn prepare(&mut self, name: &Name, version: &Version) -> Result<(), String> {
        let prepared = if is_machine(version) {
            Prepared::Machine(self.programs(name, &version.config)?)
        } else {
            let (manifest, tender) = self.inspect(&version.image)?;
            Prepared::Image(tender, manifest.target)
        };
        self.blocks
            .attach(name, &version.config)
            .map_err(|error| error.to_string())?;
        let fifo = Fifo::create(&self.options.tmpdir, name).map_err(|error| error.to_string())?;
        self.fifos.insert(name.clone(), fifo);
        let made = self.taps.make(name, &version.config);
        made.map_err(|error| error.to_string())?;
        self.prepared.insert(name.clone(), prepared);
        Ok(())
    }

    fn spawn(&mut self, start: Starting) {
        let Starting {
            run, name, version, ..
        } = &start;
        let run = *run;
        let result = match self.prepared.remove(name) {
            Some(Prepared::Machine(programs)) => return self.boot(programs, start),
            Some(Prepared::Image(tender, target)) => {
                let Version { config, image } = &**version;
                let arguments = launch::arguments(
                    name,
                    config,
                    &self.images.path(image),
                    self.blocks.directory(),
                    self.options.no_drop_path,
                    &self.taps.names(name),
                );
                self.start_tender(start, &tender, arguments, Guest::Image(target))
            }
            None => Err(UNPREPARED.to_owned()),
        };
        self.results.push(Event::Spawned { run, result });
    }

    pub(super) fn start_tender(
        &mut self,
        start: Starting,
        tender: &Path,
        arguments: Vec<OsString>,
        guest: Guest,
    ) -> Result<(), String> {
        let Starting {
            run,
            name,
            version,
            history,
        } = start;
        let Some(fifo) = self.fifos.get(&name) else {
            return Err(UNPREPARED.to_owned());
        };
        let config = &version.config;
        let start = Start {
            tender,
            arguments,
            guest,
            attached: self.blocks.of(&name),
            name: &name,
            config,
            fifo,
            taps: &mut self.taps,
            user: None,
            group: None,
            record: None,
        };
        let started = self.runs.start(run, version.key(), history, start);
        let process = started.map_err(|error| error.to_string())?;
        log::info!("{name}: started as process {process}");
        let devices = config.nets.iter().map(|net| &net.device);
        let taps = self.taps.names(&name);
        let to_observe = to_observe(process, self.machine_of(&name), devices, &taps);
        self.statistics.add(&name, to_observe);
        Ok(())
    }

    /// BHyve machine of a unikernel.
    fn machine_of(&self, name: &Name) -> Option<String> {
        self.machines.as_ref().ok()?.of(name)
    }

    fn observe(
        &mut self,
        by: ConnectionId,
        header: Header,
        networks: &BTreeMap<Name, Vec<String>>,
    ) {
        let Some(connection) = self.clients.remove(by) else {
            return;
        };
        let running = self.runs.processes().map(|(name, process)| {
            let devices = networks.get(name).into_iter().flatten();
            let taps = self.taps.names(name);
            let to_observe = to_observe(process, self.machine_of(name), devices, &taps);
            (name.clone(), to_observe)
        });
        let running: Vec<_> = running.collect();
        self.statistics
            .serve(connection.into_peer(), header, running);
    }

    fn signal(&mut self, run: RunId, urgent: bool) {
        let signal = if urgent {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        self.runs.end(run, signal);
    }
}
