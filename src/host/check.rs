//! `petreld --check`: what a start would find and do. Nothing is changed, and nothing is executed but `--version` of
//! tenders.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::images::ImageError;
use super::import::{self, Imported};
use super::run::{self, Survivor};
use super::state_store::{self, Content, StateSource};
use super::tender::Tenders;
use super::{Options, System, block, check_zvols, images, protection, resources, tap, tender};
use crate::command_line;
use crate::manifest::Manifest;
use crate::name::Name;
use crate::policy::Policy;
use crate::socket;
use crate::supervisor::{BlockDevices, bhyve, disk, launch};
use crate::unikernel::{Config, ImageDigest};
use crate::wire::state::{DesiredState, Recorded, State};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What a start would do, in this order.
    plan: Vec<String>,
    problems: Vec<String>,
}

/// Looks at everything that a start with these options needs.
pub fn check(options: &Options, system: &System) -> Report {
    let mut report = Report::default();
    report.note(run::check_users(options.tender_uids));
    report.note(check_zvols(options));
    if report.directory(&options.tmpdir).is_none() {
        let directory = options.tmpdir.display();
        report.problem(format!(
            "{directory} is missing: make it, or name another with --tmpdir"
        ));
    }
    for below in [socket::DIRECTORY, socket::FIFOS] {
        report.directory(&options.tmpdir.join(below));
    }
    let database = &options.dbdir;
    if report.directory(database).is_none() {
        report.plan(format!("makes {}", database.display()));
    }
    if state_store::is_in_use(database) {
        let database = database.display();
        report.plan(format!("not now: a petreld with {database} is running"));
    }
    if options.lock_mac {
        report.note(tap::check_lock());
    }
    for off in protection::off(options, run::unlimited().as_ref()) {
        report.plan(off.to_string());
    }
    let state = report.state(database, system);
    report.usage(options, &state);
    let devices = report.devices(options);
    report.unikernels(options, system, &state, &devices);
    report
}

impl Report {
    /// Prints the plan, and the problems on standard error. Returns the exit code.
    pub fn tell(&self) -> i32 {
        for line in &self.plan {
            let _ = writeln!(io::stdout(), "{line}");
        }
        for line in &self.problems {
            let _ = writeln!(io::stderr(), "{}: {line}", super::PROGRAM);
        }
        if self.problems.is_empty() {
            0
        } else {
            command_line::USAGE
        }
    }

    fn plan(&mut self, line: String) {
        self.plan.push(line);
    }

    fn problem(&mut self, line: impl Display) {
        self.problems.push(line.to_string());
    }

    fn note<T>(&mut self, result: Result<T, impl Display>) -> Option<T> {
        result.map_err(|error| self.problem(error)).ok()
    }

    /// Whether this is a directory that can be written to; nothing if it is not there.
    fn directory(&mut self, path: &Path) -> Option<()> {
        let shown = path.display();
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => self.problem(format!("{shown} is no directory")),
            Ok(_) => {
                let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
                if let Err(error) = access(path, all) {
                    self.problem(format!("cannot write to {shown}: {}", error.desc()));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => self.problem(format!("cannot look at {shown}: {error}")),
        }
        Some(())
    }

    /// The state that a start would use.
    fn state(&mut self, database: &Path, system: &System) -> State {
        let (content, previous) = match self.note(state_store::read(database)) {
            None | Some(StateSource::Nothing) => return State::default(),
            Some(StateSource::Present(content, previous)) => {
                (content, self.note(previous).flatten())
            }
            Some(StateSource::Fallback(content, why)) => {
                match why {
                    Some(why) => self.problem(why),
                    None => self.problem(format!("the state in {} is missing", database.display())),
                }
                self.plan("uses the state before the last change".to_owned());
                return self.recorded(database, system, content);
            }
        };
        let mut wanted = content.images();
        wanted.extend(previous.iter().flat_map(Content::images));
        let state = self.recorded(database, system, content);
        if state_store::has_set_aside(database) {
            self.plan("keeps all images, as there is a state.bad".to_owned());
        } else if let Some(unwanted) = self.unwanted(database, wanted) {
            let removed = unwanted
                .iter()
                .map(|image| format!("removes image {image}"));
            self.plan.extend(removed);
        }
        state
    }

    /// The disk space that each path takes.
    fn usage(&mut self, options: &Options, state: &State) {
        let stored = match images::sizes(&options.dbdir) {
            Err(ImageError::File(_, _, error)) if error.kind() == ErrorKind::NotFound => {
                return;
            }
            stored => self.note(stored).unwrap_or_default(),
        };
        let paths = disk::usage(state, &stored, options.image_quota_factor);
        self.plan.extend(paths.iter().map(ToString::to_string));
    }

    fn unwanted(
        &mut self,
        database: &Path,
        wanted: impl IntoIterator<Item = ImageDigest>,
    ) -> Option<Vec<String>> {
        match images::superfluous(database, wanted.into_iter()) {
            Err(ImageError::File(_, _, error)) if error.kind() == ErrorKind::NotFound => None,
            unwanted => self.note(unwanted),
        }
    }

    /// What is recorded; its images are looked at, and whether there is what runs them.
    fn recorded(&mut self, database: &Path, system: &System, content: Content) -> State {
        let mut examined = BTreeMap::new();
        let state = match content {
            Content::Native(state) => {
                for image in state.unikernels.iter().flat_map(|one| images_of(one)) {
                    examined
                        .entry(image)
                        .or_insert_with(|| images::examine(database, &image));
                }
                state
            }
            Content::Albatross(file) => {
                let keep = |image: &[u8], compressed| {
                    let (digest, manifest) = images::inspect(image, compressed)?;
                    examined.insert(digest, manifest);
                    Ok(digest)
                };
                let Some(Imported { state, refused }) = self.note(import::import(file, keep))
                else {
                    return State::default();
                };
                for why in refused {
                    self.problem(format!("{why}; is not imported"));
                }
                self.plan(format!(
                    "imports {} unikernels and {} policies of albatross",
                    state.unikernels.len(),
                    state.policies.len()
                ));
                state
            }
        };
        let mut tenders = Tenders::new(database);
        for recorded in &state.unikernels {
            self.images(&mut tenders, &examined, recorded);
            self.machine(system, recorded);
        }
        state
    }

    /// The images of a unikernel, and the tender for that which is to run.
    fn images(
        &mut self,
        tenders: &mut Tenders,
        examined: &BTreeMap<ImageDigest, Result<Manifest, ImageError>>,
        recorded: &Recorded,
    ) {
        let Recorded { name, version, .. } = recorded;
        for image in images_of(recorded) {
            let runs = recorded.standing == DesiredState::Up && image == version.image;
            match examined.get(&image) {
                Some(Ok(manifest)) if runs => {
                    if let Err(error) = tenders.find(manifest.target, manifest.abi_version) {
                        self.problem(format!("{name}: {error}"));
                    }
                }
                Some(Err(why)) => self.problem(format!("{name}: {why}")),
                Some(Ok(_)) | None => {}
            }
        }
    }

    /// The programs for a BHyve machine that is to run.
    fn machine(&mut self, system: &System, recorded: &Recorded) {
        let Recorded { name, version, .. } = recorded;
        let is_machine = version.stored_image().is_none();
        if !is_machine || recorded.standing != DesiredState::Up || system.machines.is_err() {
            return;
        }
        let loader = bhyve::loader(&version.config);
        for program in [loader, bhyve::BHYVE_PROGRAM, bhyve::BHYVECTL_PROGRAM] {
            if let Err(error) = tender::program(program) {
                self.problem(format!("{name}: {error}"));
            }
        }
    }

    /// The block devices that there are.
    fn devices(&mut self, options: &Options) -> BlockDevices {
        let found = self.note(block::look(&options.dbdir)).unwrap_or_default();
        for path in &found.unfinished {
            self.plan(format!("removes {}", path.display()));
        }
        for path in &found.odd {
            self.problem(format!("{} is no block device", path.display()));
        }
        BlockDevices::new(found.sizes, options.allow_zvol_for.clone())
    }

    /// What would become of the unikernels, lowest start order first.
    fn unikernels(
        &mut self,
        options: &Options,
        system: &System,
        state: &State,
        devices: &BlockDevices,
    ) {
        let has = self.resources(&options.dbdir);
        let looked = self.note(run::look(&options.tmpdir));
        let (survivors, damaged) = looked.unwrap_or_default();
        self.problems.extend(damaged);
        if options.dbdir.is_dir() {
            let running = survivors.iter().map(|survivor| &survivor.name);
            let left = self.note(tap::leftovers(&options.dbdir, running));
            let removed = left.into_iter().flatten();
            self.plan
                .extend(removed.map(|tap| format!("removes tap {tap}, which nobody uses")));
            self.machines(options, system, &survivors);
        }
        let mut survivors: BTreeMap<Name, Survivor> = survivors
            .into_iter()
            .map(|survivor| (survivor.name.clone(), survivor))
            .collect();
        let mut recorded: Vec<_> = state.unikernels.iter().collect();
        recorded.sort_by_key(|recorded| (recorded.version.config.startup(), &recorded.name));
        let mut starts = Vec::new();
        for recorded in recorded {
            let Recorded {
                name,
                version,
                standing,
                ..
            } = &**recorded;
            let order = version.config.startup();
            match standing {
                DesiredState::Up => {}
                DesiredState::Stopped => {
                    self.plan(format!("leaves {name} stopped"));
                    continue;
                }
                DesiredState::Ended(exit) => {
                    self.plan(format!("remembers {name}, which ended with {}", exit.death));
                    continue;
                }
            }
            if let Some(has) = &has {
                self.needs(name, &version.config, has, devices, system);
            }
            let goes_on = |survivor: &Survivor| {
                survivor.record.key == version.key() && !survivor.record.stopping
            };
            match survivors.remove(name) {
                Some(survivor) if goes_on(&survivor) => {
                    let process = survivor.process.id().pid;
                    self.plan(format!(
                        "goes on with {name}, which runs as process {process}"
                    ));
                    let off = tap::off_bridge(&options.dbdir, name, &version.config);
                    for (tap, bridge) in self.note(off).unwrap_or_default() {
                        self.plan(format!("puts tap {tap} of {name} on bridge {bridge} again"));
                    }
                }
                Some(survivor) => {
                    survivors.insert(name.clone(), survivor);
                    starts.push(format!("starts {name} (order {order})"));
                }
                None => starts.push(format!("starts {name} (order {order})")),
            }
        }
        for survivor in survivors.into_values() {
            let (name, process) = (survivor.name, survivor.process.id().pid);
            let why = if survivor.record.stopping {
                "which was to end"
            } else {
                "which runs what is not recorded"
            };
            self.plan(format!("ends process {process} of {name}, {why}"));
        }
        self.plan.extend(starts);
    }

    fn resources(&mut self, database: &Path) -> Option<Policy> {
        // Where it is missing, it will be on the file system of the first directory above that is there.
        let there = database.ancestors().find(|directory| directory.is_dir())?;
        self.note(resources::discover(there))
    }

    /// The machines that a start would destroy.
    fn machines(&mut self, options: &Options, system: &System, survivors: &[Survivor]) {
        let Ok(directory) = &system.machines else {
            return;
        };
        if let Some(owner) = self.note(tap::owner(&options.dbdir)) {
            let running = survivors.iter().map(|survivor| &survivor.name);
            let left = super::bhyve::leftovers(directory, &owner, running);
            let destroyed = left.into_iter();
            self.plan.extend(
                destroyed.map(|left| format!("destroys machine {left}, which nobody uses")),
            );
        }
    }

    fn needs(
        &mut self,
        name: &Name,
        config: &Config,
        has: &Policy,
        devices: &BlockDevices,
        system: &System,
    ) {
        if let Err(why) = launch::supported(config, system.machines.as_ref().map(drop)) {
            self.problem(format!("{name}: {why}"));
        }
        for cpu in config.cpus.difference(&has.cpus) {
            self.problem(format!(
                "{name}: CPU id {cpu} is not one that can be used on this host"
            ));
        }
        if let Err(why) = devices.admit(name.path(), &config.blocks, &[].into_iter()) {
            self.problem(format!("{name}: {why}"));
        }
        for net in &config.nets {
            let bridge = net.bridge();
            if !has.bridges.contains(bridge) {
                self.problem(format!("{name}: there is no bridge {bridge} on this host"));
            }
        }
    }
}

/// Images of a unikernel, each once: that of its version, and that of the version before.
fn images_of(recorded: &Recorded) -> BTreeSet<ImageDigest> {
    [Some(&recorded.version), recorded.previous.as_ref()]
        .into_iter()
        .flatten()
        .filter_map(|version| version.stored_image())
        .collect()
}
