//! The supervisor's decisions: an event comes in, a list of effects comes out.
//!
//! Nothing here does I/O or reads a clock. [`crate::host`] carries the effects out, in their order, and feeds the
//! results back as events.
#![forbid(unsafe_code)]

mod accounting;
mod addresses;
mod block_devices;
mod block_requests;
mod certificate_ages;
pub mod disk;
mod event;
mod host;
mod lifecycle;
mod operation;
mod policies;
mod reply;
mod starting;
mod termination;
mod usage;

pub mod bhyve;
pub mod launch;
pub mod owner;
pub mod restart;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::name::Name;
use crate::policy::Policy;
use crate::unikernel::{Config, ImageDigest, Kind, Version};
use crate::wire::domain::{self, DomainError};
use crate::wire::state::{DesiredState, LastExit, Recorded, State};
use crate::wire::{
    Command, Config as WireConfig, Int, Message, NamedInfo, Payload, PolicyCommand, StatsCommand,
    Success, Timestamp, UnikernelCommand,
};

use self::disk::DiskUsage;
use self::operation::{Operation, Request, StoredStart, Upload, Written};

pub use accounting::{Claim, Ledger, MAX_POLICIES, Refusal, TopConsumers, Usage};
pub use block_devices::{
    BlockDevices, BlockRefusal, HostDevice, MAX_BLOCK_DEVICES, MAX_BLOCK_SIZE,
};
pub use block_requests::{MAX_BLOCK_STREAMS, MAX_BLOCK_STREAMS_OF_TENANT};
pub use certificate_ages::{AGE_STEP, Ages};
pub use disk::{
    ARCHIVE_SHARE, DISK_QUOTA_FACTOR, DiskQuota, MAX_DISK_QUOTA_FACTOR, MIN_DISK_QUOTA,
    QuotaRefusal, UPLOAD_STEP_BYTES,
};
pub use event::{
    BlockContent, BlockWork, ConnectionId, Effect, Event, History, Moment, RunId, StagedImage,
    Survivor, TaskId, Ticket, Timer, UploadId,
};
pub use owner::Owner;
pub use usage::Domain;

/// Most images that arrive at the same time.
pub const MAX_UPLOADS: usize = 32;

/// Most of them for one tenant.
pub const MAX_UPLOADS_OF_TENANT: usize = 8;

/// Most requests that wait for one name.
pub const MAX_WAITING: usize = 64;

/// Most unikernels that the supervisor starts at the same time by itself: after it was started, or after failures.
pub const MAX_STARTING: usize = 8;

/// Most unikernels that have ended and are still remembered, for each path; the oldest is forgotten first.
pub const MAX_ENDED_IN_PATH: usize = 8;

/// Most unikernels that have ended and are still remembered in all.
pub const MAX_ENDED: usize = 256;

/// After how long a state that could not be written is written again.
pub const SAVE_RETRY: Duration = Duration::from_secs(5);

/// How long a tender has between SIGTERM and SIGKILL.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long a BHyve machine has at least: its guest shuts down as when its power button is pressed. FreeBSD gives all
/// services 90 s at its own end (`rcshutdown_timeout` of rc.conf(5)).
pub const MACHINE_STOP_DEADLINE: Duration = Duration::from_secs(60);

/// What the supervisor is told once and for all.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the host has: the policy of the root.
    pub resources: Policy,
    /// The block devices that it has.
    pub devices: BlockDevices,
    /// The images in its store, with their sizes in bytes.
    pub images: BTreeMap<ImageDigest, u64>,
    /// How much disk space policies leave to images.
    pub disk_quota: DiskQuota,
    /// What names its BHyve machines, or why it runs none.
    pub machines: Result<Owner, &'static str>,
    /// How long a tender has between SIGTERM and SIGKILL; that of a machine [longer](MACHINE_STOP_DEADLINE).
    pub stop_deadline: Duration,
    /// What went before the next start of the unikernels that wait for it, each with the
    /// [key](crate::unikernel::Version::key) of its version.
    pub histories: BTreeMap<Name, ([u8; 32], History)>,
    /// Any number, for jitter.
    pub seed: u32,
}

/// The state machine.
#[derive(Debug)]
pub struct Supervisor {
    stop_deadline: Duration,
    ledger: Ledger,
    ages: Ages,
    devices: BlockDevices,
    disk: DiskUsage,
    machines: Result<Owner, &'static str>,
    /// What is done about block devices.
    tasks: BTreeMap<TaskId, block_requests::Task>,
    unikernels: BTreeMap<Name, Unikernel>,
    /// What ended by itself; out of the accounting.
    ended: BTreeMap<Name, Ended>,
    uploads: BTreeMap<UploadId, Upload>,
    operations: BTreeMap<Name, Operation>,
    /// Requests for names with an operation, oldest first.
    waiting: BTreeMap<Name, VecDeque<(Asker, Request)>>,
    /// What is due, in the order in which it is started.
    queue: VecDeque<Name>,
    /// The tenders that may be alive.
    runs: BTreeMap<RunId, Name>,
    /// Deaths that were told before the birth.
    early_deaths: BTreeMap<RunId, crate::unikernel::Death>,
    /// Writes under way, with the policies that each records.
    writes: BTreeMap<Ticket, (Written, Policies)>,
    /// The policies on disk; after a write that failed, which may have reached it all the same, nobody knows.
    recorded: Option<Policies>,
    /// A write has failed, and is tried again when a timer says so.
    save_due: bool,
    /// The entries of the last write, by name: most are those of the next one, too.
    latest: Vec<Arc<Recorded>>,
    /// The policies that hold if the writes under way fail.
    acknowledged: Ledger,
    /// The last write that went well.
    written: Ticket,
    /// Images to be removed once nothing refers to them, each with the last write that may name it.
    superfluous: BTreeMap<ImageDigest, Ticket>,
    /// Removals of block devices that wait for a write, oldest first: what had them may come back before.
    removals: VecDeque<(Ticket, TaskId)>,
    /// Commands that wait until the host was looked at.
    postponed: VecDeque<host::DeferredCommand>,
    /// The unikernels with a tap that is not on its bridge, and what is wrong.
    off_bridge: BTreeMap<Name, String>,
    counter: u64,
    random: u32,
    stopping: bool,
    effects: Vec<Effect>,
}

/// The policies of a state file, and the ages of their certificates.
#[derive(Clone, Debug)]
struct Policies {
    ledger: Ledger,
    ages: Ages,
}

/// A unikernel that is in the accounting.
#[derive(Clone, Debug)]
struct Unikernel {
    version: Arc<Version>,
    /// What a rollback returns to.
    previous: Option<Arc<Version>>,
    run: Run,
    history: History,
    /// Why it could not be started last time.
    trouble: Option<String>,
}

/// Where a unikernel is in its life.
#[derive(Clone, Debug)]
enum Run {
    /// An operation is about to start it.
    Starting,
    /// It runs.
    Up {
        run: RunId,
        since: Moment,
        asked_to_stop: bool,
    },
    /// It waits for its next start (the number of the wait, and when it is over).
    Waiting(u64, Timestamp),
    /// It is started when its turn comes, and no operation is in the way.
    Due,
    /// It stays down until somebody asks for it.
    Stopped,
}

/// A unikernel that ended by itself.
#[derive(Clone, Debug)]
struct Ended {
    version: Arc<Version>,
    previous: Option<Arc<Version>>,
    exit: LastExit,
}

/// An entry of the state file.
#[derive(Debug)]
struct Entry<'a> {
    name: &'a Name,
    version: &'a Arc<Version>,
    previous: Option<&'a Arc<Version>>,
    standing: DesiredState,
}

#[derive(Clone, Debug)]
struct Asker {
    connection: ConnectionId,
    header: crate::wire::Header,
}

impl Supervisor {
    /// A supervisor of what `state` says and of the tenders that still run. Nothing happens before [`Event::Boot`].
    pub fn new(state: State, survivors: Vec<Survivor>, settings: Settings) -> Self {
        let ages = Ages::new(state.ages, state.forgotten);
        let mut ledger: Ledger = state.policies.into_iter().collect();
        ledger.reset(crate::name::Path::ROOT, Some(settings.resources));
        let mut supervisor = Self {
            stop_deadline: settings.stop_deadline,
            recorded: Some(Policies {
                ledger: ledger.clone(),
                ages: ages.clone(),
            }),
            acknowledged: ledger.clone(),
            save_due: false,
            latest: Vec::new(),
            ledger,
            ages,
            devices: settings.devices,
            disk: DiskUsage::new(settings.disk_quota, settings.images),
            machines: settings.machines,
            tasks: BTreeMap::new(),
            unikernels: BTreeMap::new(),
            ended: BTreeMap::new(),
            uploads: BTreeMap::new(),
            operations: BTreeMap::new(),
            waiting: BTreeMap::new(),
            queue: VecDeque::new(),
            runs: BTreeMap::new(),
            early_deaths: BTreeMap::new(),
            writes: BTreeMap::new(),
            written: Ticket(0),
            superfluous: BTreeMap::new(),
            removals: VecDeque::new(),
            postponed: VecDeque::new(),
            off_bridge: BTreeMap::new(),
            counter: survivors
                .iter()
                .map(|survivor| survivor.run.0)
                .max()
                .unwrap_or(0),
            random: settings.seed | 1,
            stopping: false,
            effects: Vec::new(),
        };
        for recorded in state.unikernels {
            let Recorded {
                name,
                version,
                previous,
                standing,
            } = Arc::unwrap_or_clone(recorded);
            let run = match standing {
                DesiredState::Up => Run::Due,
                DesiredState::Stopped => Run::Stopped,
                DesiredState::Ended(exit) => {
                    let ended = Ended {
                        version,
                        previous,
                        exit,
                    };
                    supervisor.ended.insert(name, ended);
                    continue;
                }
            };
            let history = settings.histories.get(&name);
            let history = history.filter(|(key, _)| *key == version.key());
            let history = history.map(|(_, history)| history.clone());
            let unikernel = Unikernel {
                previous,
                history: history.unwrap_or_default(),
                ..Unikernel::new(version, run)
            };
            supervisor.unikernels.insert(name, unikernel);
        }
        for survivor in survivors {
            supervisor.adopt(survivor);
        }
        supervisor
    }

    /// What to do now that `event` has happened at `now`.
    pub fn handle(&mut self, now: &Moment, event: Event) -> Vec<Effect> {
        match event {
            Event::Boot => self.boot(),
            Event::Message { from, message } => self.message(from, message),
            Event::Closed(connection) => self.closed(connection),
            Event::Staged { upload, result } => self.staged(upload, result),
            Event::UploadGrows { upload, bytes } => self.upload_grows(upload, bytes),
            Event::Inspected { name, result } => self.inspected(&name, result),
            Event::Prepared { name, result } => self.prepared(now, &name, result),
            Event::Announced { name, call, result } => self.announced(now, &name, call, result),
            Event::Spawned { run, result } => self.spawned(now, run, result),
            Event::Exited { run, death } => self.exited(now, run, death),
            Event::Persisted { ticket, result } => self.persisted(ticket, result),
            Event::Block { task, result, left } => self.block_done(task, result, left),
            Event::Timer(timer) => self.timer(timer),
            Event::HostResources(found) => self.looked_at_host(found),
            Event::Networks(off_bridge) => self.networks(off_bridge),
            Event::ConsoleUp => self.announce_all(),
            Event::Terminate => self.terminate(),
        }
        self.start_due();
        if self.is_done() {
            self.effects.push(Effect::Exit);
        }
        self.disk.follow(&self.effects);
        std::mem::take(&mut self.effects)
    }

    /// What the state file has to say now: what is acknowledged, or is acknowledged once this is written.
    pub fn state(&self) -> State {
        let unikernels = self.unikernels.iter();
        let mut entries: Vec<_> = unikernels.map(Entry::of_unikernel).collect();
        let ended = self.ended.iter();
        let ended = ended.filter(|(name, _)| !self.unikernels.contains_key(name));
        entries.extend(ended.map(Entry::of_ended));
        entries.sort_by_key(|entry| entry.name);
        // Until the new one runs, what it replaces is what is to come back.
        let unacknowledged = self.operations.iter();
        for (name, operation) in unacknowledged.filter(|(_, one)| one.is_unacknowledged()) {
            let previous = operation.previous.as_ref();
            let ended = operation.ended.as_ref();
            let before = previous
                .map(|previous| Entry::of_unikernel((name, previous)))
                .or(ended.map(|ended| Entry::of_ended((name, ended))));
            match entries.binary_search_by_key(&name, |entry| entry.name) {
                Ok(at) => drop(entries.splice(at..=at, before)),
                Err(at) => drop(entries.splice(at..at, before)),
            }
        }
        let mut before = self.latest.iter().peekable();
        let recorded = entries.into_iter().map(|entry| {
            loop {
                if let Some(same) = before.next_if(|old| entry.is(old)) {
                    return same.clone();
                }
                if before.next_if(|old| old.name < *entry.name).is_none() {
                    return Arc::new(entry.recorded());
                }
            }
        });
        let unikernels = recorded.collect();
        let (ages, forgotten) = self.ages.recorded();
        State {
            unikernels,
            policies: self
                .ledger
                .all()
                .map(|(path, policy)| (path.clone(), policy.clone()))
                .collect(),
            ages,
            forgotten,
        }
    }

    /// Whether nothing is under way, and all is on disk: another supervisor could take over.
    pub fn is_quiet(&self) -> bool {
        !self.save_due
            && self.postponed.is_empty()
            && self.operations.is_empty()
            && self.uploads.is_empty()
            && self.tasks.is_empty()
            && self.writes.is_empty()
            && self.early_deaths.is_empty()
    }

    fn message(&mut self, from: ConnectionId, message: Message) {
        let asker = Asker {
            connection: from,
            header: message.header.clone(),
        };
        let name = match domain::name(&message.header.name) {
            Ok(name) => name,
            Err(error) => return self.refuse(&asker, &error),
        };
        let Payload::Command(command) = message.payload else {
            return self.refuse(&asker, "unknown command");
        };
        if self.stopping {
            return self.refuse(&asker, "the supervisor is stopping");
        }
        match command {
            Command::Unikernel(command) => {
                if let Some((asker, name, command)) = self.postpone(asker, name, command) {
                    self.carry_out(asker, name, command);
                }
            }
            Command::Policy(PolicyCommand::Info(())) => {
                let answer = reply::policies(name.path(), self.ledger.below(name.path()));
                self.succeed(&asker, answer);
            }
            Command::Policy(PolicyCommand::Add(policy)) => {
                self.add_policy(asker, name.path(), &policy);
            }
            Command::Policy(PolicyCommand::SetChain(chain)) => {
                self.set_chain(asker, name.path(), &chain);
            }
            Command::Policy(PolicyCommand::Remove(())) => self.remove_policy(asker, name.path()),
            Command::Statistics(StatsCommand::Initial(())) => {
                let running = self.unikernels.iter();
                let running = running.filter(|(_, unikernel)| unikernel.started().is_some());
                let networks = running.map(|(name, unikernel)| {
                    let nets = unikernel.version.config.nets.iter();
                    (name.clone(), nets.map(|net| net.device.clone()).collect())
                });
                self.effects.push(Effect::Observe {
                    by: from,
                    header: asker.header,
                    networks: networks.collect(),
                });
            }
            Command::Block(command) => self.block_command(asker, name, command),
            Command::Console(_) | Command::Statistics(_) => self.refuse(&asker, "unknown command"),
        }
    }

    fn carry_out(&mut self, asker: Asker, name: Name, command: UnikernelCommand) {
        use UnikernelCommand as U;

        match command {
            U::Info(()) => {
                let answer = Success::UnikernelInfo(self.running(&name));
                self.succeed(&asker, answer);
            }
            U::InfoOld5(()) => {
                let answer = Success::OldUnikernelInfo5(reply::old5(self.running(&name)));
                self.succeed(&asker, answer);
            }
            U::InfoOld4(()) => {
                let answer = Success::OldUnikernelInfo4(reply::old4(self.running(&name)));
                self.succeed(&asker, answer);
            }
            U::Details(()) => {
                let answer = reply::details(&name, &self.unikernels, &self.ended, self.known());
                self.succeed(&asker, Success::UnikernelDetails(answer));
            }
            U::Get(level) => self.get(&asker, &name, level),
            _ if name.label().is_none() => self.refuse(
                &asker,
                &format!("'{name}' is a path, a unikernel's name is needed"),
            ),
            U::Create(config) => self.upload(asker, name, config, false),
            U::ForceCreate(config) => self.upload(asker, name, config, true),
            U::Destroy(()) => self.request(asker, &name, Request::Destroy),
            U::Stop(()) => self.request(asker, &name, Request::Stop),
            U::Start(()) => self.request(asker, &name, Request::Revive(StoredStart::Start)),
            U::Rollback(()) => self.request(asker, &name, Request::Revive(StoredStart::Rollback)),
            U::Restart(restart) => {
                self.request(asker, &name, Request::Revive(restart.into()));
            }
        }
    }

    /// What is told of the running unikernels that `name` covers.
    fn running(&self, name: &Name) -> Vec<NamedInfo> {
        let running = self.unikernels.iter().filter_map(|(name, unikernel)| {
            let started = unikernel.started()?;
            Some(reply::Subject {
                name,
                version: &unikernel.version,
                started: started.clone(),
                known: self.known(),
            })
        });
        reply::unikernels(name, running)
    }

    /// What else than a unikernel itself is known of it.
    fn known(&self) -> reply::Known<'_> {
        reply::Known {
            devices: &self.devices,
            off_bridge: &self.off_bridge,
            machines: self.machines.as_ref().ok(),
        }
    }

    /// Reads a configuration and refuses what this supervisor cannot run.
    fn runnable(&self, name: &Name, config: &WireConfig) -> Result<Config, String> {
        let config = Config::try_from(config).map_err(|error: DomainError| error.to_string())?;
        launch::supported(&config, self.machines.as_ref().map(drop))?;
        let bytes = launch::command_line(name, &config);
        if bytes > Config::MAX_COMMAND_LINE {
            return Err(format!(
                "the guest's arguments have {bytes} bytes, at most {} are possible",
                Config::MAX_COMMAND_LINE
            ));
        }
        Ok(config)
    }

    fn get(&mut self, asker: &Asker, name: &Name, level: Int) {
        let level = match reply::compression_level(level) {
            Ok(level) => level,
            Err(why) => return self.refuse(asker, &why),
        };
        let running = self.unikernels.get(name).map(|found| &found.version);
        let ended = self.ended.get(name).map(|found| &found.version);
        let Some(version) = running.or(ended) else {
            return self.refuse(asker, &format!("there is no unikernel {name}"));
        };
        if version.config.kind == Kind::Bhyve {
            return self.refuse(
                asker,
                &format!("{name} is a BHyve machine, which has no image"),
            );
        }
        self.effects.push(Effect::SendImage {
            to: asker.connection,
            header: asker.header.clone(),
            image: version.image,
            level,
        });
    }

    fn persisted(&mut self, ticket: Ticket, result: Result<(), String>) {
        let Some((why, policies)) = self.writes.remove(&ticket) else {
            return;
        };
        if let (Written::Policies { paths, .. }, Ok(())) = (&why, &result) {
            for path in paths {
                let policy = policies.ledger.at(path).cloned();
                self.acknowledged.reset(path.clone(), policy);
            }
        }
        self.recorded = result.is_ok().then_some(policies);
        if result.is_ok() {
            self.written = ticket;
        }
        let tenant = match &why {
            Written::Policies { paths, .. } => paths.first().map(crate::name::Path::tenant),
            _ => None,
        };
        match (why, result) {
            (Written::Operation(name), result) => self.saved(&name, result),
            (
                Written::Policies {
                    asker,
                    paths,
                    answer,
                    close,
                },
                result,
            ) => match result {
                Ok(()) => self.answer(&asker, Payload::Reply(answer), close),
                Err(why) => self.policies_not_persisted(&asker, paths, &why),
            },
            (Written::Change, Ok(())) => {}
            (Written::Change, Err(error)) => {
                log::warn!("the state was not recorded, which is tried again: {error}");
                self.save_later();
            }
        }
        if let Some(tenant) = tenant {
            self.bound_archives(&tenant);
        }
        if self.recorded.is_some() {
            self.forget_images();
        }
        self.go_on_with_removals(ticket);
    }

    fn persist(&mut self, why: Written) {
        let ticket = Ticket(self.count());
        let policies = Policies {
            ledger: self.ledger.clone(),
            ages: self.ages.clone(),
        };
        self.writes.insert(ticket, (why, policies));
        let state = self.state();
        self.latest.clone_from(&state.unikernels);
        self.effects.push(Effect::Persist { ticket, state });
    }

    /// Tries again after a while to record what is.
    fn save_later(&mut self) {
        if !std::mem::replace(&mut self.save_due, true) {
            self.effects.push(Effect::Wake {
                after: SAVE_RETRY,
                timer: Timer::Save,
            });
        }
    }

    /// Tries it now, if it is to be tried again.
    fn save_again(&mut self) {
        if std::mem::take(&mut self.save_due) {
            self.persist(Written::Change);
        }
    }

    /// Notes that one reference less is left to these images. Writes that are under way may still name them.
    fn let_go(&mut self, images: impl IntoIterator<Item = ImageDigest>) {
        self.let_go_after(Ticket(self.counter), images);
    }

    /// The same, for images that no write after `last` names.
    fn let_go_after(&mut self, last: Ticket, images: impl IntoIterator<Item = ImageDigest>) {
        for image in images {
            let until = self.superfluous.entry(image).or_insert(last);
            *until = last.max(*until);
        }
    }

    /// Removes the images that nothing refers to any more: nothing here, and nothing that is still being written.
    fn forget_images(&mut self) {
        let written = self.written;
        if self.superfluous.values().all(|until| *until >= written) {
            return;
        }
        let operations = self.operations.values();
        let versions = self
            .unikernels
            .values()
            .flat_map(Unikernel::versions)
            .chain(self.ended.values().flat_map(Ended::versions))
            .chain(operations.flat_map(Operation::versions));
        let in_use: BTreeSet<_> = versions
            .filter_map(|version| version.stored_image())
            .collect();
        let effects = &mut self.effects;
        self.superfluous.retain(|image, until| {
            let named = *until >= written;
            if !named && !in_use.contains(image) {
                effects.push(Effect::RemoveImage(*image));
            }
            named
        });
    }

    fn succeed(&mut self, asker: &Asker, success: Success) {
        self.answer(asker, Payload::Reply(success), true);
    }

    fn tell(&mut self, asker: &Asker, text: &str, close: bool) {
        self.answer(asker, Payload::Reply(Success::String(text.into())), close);
    }

    fn refuse(&mut self, asker: &Asker, why: &(impl ToString + ?Sized)) {
        self.answer(asker, Payload::Failure(why.to_string().into()), true);
    }

    fn answer(&mut self, asker: &Asker, payload: Payload, close: bool) {
        self.effects.push(Effect::Answer {
            to: asker.connection,
            message: Message::answer(asker.header.clone(), payload),
            close,
        });
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// The next number of a xorshift generator: for jitter, nothing secret.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}

impl<'a> Entry<'a> {
    fn of_unikernel((name, unikernel): (&'a Name, &'a Unikernel)) -> Self {
        Self {
            name,
            version: &unikernel.version,
            previous: unikernel.previous.as_ref(),
            standing: match unikernel.run {
                Run::Stopped => DesiredState::Stopped,
                _ => DesiredState::Up,
            },
        }
    }

    fn of_ended((name, ended): (&'a Name, &'a Ended)) -> Self {
        Self {
            name,
            version: &ended.version,
            previous: ended.previous.as_ref(),
            standing: DesiredState::Ended(ended.exit.clone()),
        }
    }

    /// Whether it is this one, versions being the same in memory.
    fn is(&self, recorded: &Recorded) -> bool {
        let previous = match (self.previous, &recorded.previous) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        Arc::ptr_eq(self.version, &recorded.version)
            && previous
            && self.standing == recorded.standing
            && *self.name == recorded.name
    }

    fn recorded(self) -> Recorded {
        Recorded {
            name: self.name.clone(),
            version: self.version.clone(),
            previous: self.previous.cloned(),
            standing: self.standing,
        }
    }
}

impl Unikernel {
    fn new(version: Arc<Version>, run: Run) -> Self {
        Self {
            version,
            previous: None,
            run,
            history: History::default(),
            trouble: None,
        }
    }

    /// When it was started, if it runs.
    fn started(&self) -> Option<&Timestamp> {
        match &self.run {
            Run::Up { since, .. } => Some(&since.wall),
            _ => None,
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.run, Run::Up { .. })
    }

    /// What it takes: one that was stopped takes nothing but its place.
    fn claim(&self) -> Claim<'_> {
        match self.run {
            Run::Stopped => Claim::default(),
            _ => Claim::of(&self.version.config),
        }
    }

    fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        std::iter::once(&self.version).chain(&self.previous)
    }
}

impl Ended {
    fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        std::iter::once(&self.version).chain(&self.previous)
    }
}

/// What every unikernel takes, or took and may take again, or will take in the place of another.
fn claims<'a>(
    unikernels: &'a BTreeMap<Name, Unikernel>,
    operations: &'a BTreeMap<Name, Operation>,
) -> Vec<(&'a Name, Claim<'a>)> {
    let mut claims: Vec<_> = unikernels
        .iter()
        .map(|(name, unikernel)| (name, unikernel.claim()))
        .collect();
    let mut coming = Vec::new();
    for (name, operation) in operations {
        let claim = operation.claims().reduce(Claim::or);
        let Some(claim) = claim else {
            continue;
        };
        if let Ok(at) = claims.binary_search_by_key(&name, |(name, _)| name) {
            let present = std::mem::take(&mut claims[at].1);
            claims[at].1 = present.or(claim);
        } else {
            coming.push((name, claim));
        }
    }
    claims.extend(coming);
    claims
}

#[cfg(test)]
pub(crate) mod fixtures {
    use std::collections::BTreeMap;

    use super::{BlockDevices, DiskQuota, Owner, STOP_DEADLINE, Settings};
    use crate::policy::{Policy, UNLIMITED};
    use crate::unikernel::{Config, FailBehaviour, Kind};

    /// Of a host that never is the limit.
    pub(crate) fn settings() -> Settings {
        Settings {
            resources: Policy {
                unikernels: UNLIMITED,
                cpus: (0..8).collect(),
                memory: UNLIMITED,
                block: Some(UNLIMITED),
                bridges: [].into(),
            },
            devices: BlockDevices::default(),
            images: BTreeMap::new(),
            disk_quota: DiskQuota::default(),
            machines: Ok(Owner::of(1, 2, b"")),
            stop_deadline: STOP_DEADLINE,
            histories: BTreeMap::new(),
            seed: 1,
        }
    }

    /// A small unikernel.
    pub(crate) fn config() -> Config {
        Config {
            kind: Kind::Solo5,
            startup: None,
            add_name: true,
            fail_behaviour: FailBehaviour::Quit,
            cpus: [0].into(),
            memory: 32,
            blocks: Vec::new(),
            nets: Vec::new(),
            arguments: Vec::new(),
            vcpus: 1,
            linux_boot_partition: None,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// Whether there is room for one more of what all and a tenant, which is the first label of a path, have so many of now
/// and at most.
pub fn share(
    (all, most): (usize, usize),
    (own, share): (usize, usize),
    what: &str,
    doing: &str,
) -> Result<(), String> {
    let (count, whose) = match (all >= most, own >= share) {
        (true, _) => (most, ""),
        (false, true) => (share, " of this tenant"),
        (false, false) => return Ok(()),
    };
    Err(format!(
        "{count} {what}{whose} are {doing} already, try again later"
    ))
}
