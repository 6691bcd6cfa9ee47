//! Runs of tenders: each with a user, a record and a control group for as long as it lasts.

mod limits;
mod record;
mod reservation;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::mem;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use self::limits::{Group, Groups};
use self::record::{Ended, Record, RecordError, RecordedRuns, Records};
use self::reservation::Reservations;
use self::users::Exhausted;
use super::tender::{self, Start, TenderError};
use crate::daemon;
use crate::manifest::Target;
use crate::name::Name;
use crate::socket;
use crate::supervisor::{History, RunId};
use crate::sys::process::{End, Process};
use crate::unikernel::{Config, Death};
use crate::wire::Timestamp;
use crate::wire::state::LastExit;

pub use limits::{GroupError, MACHINE_MEMORY_SLACK, MEMORY_SLACK, SLACK_PART};
pub use record::{DIRECTORY, RECORD_TIMEOUT, Survivor};
pub use users::{MAX_PASSED_OVER, TenderUsers};

/// The runs of tenders that are not over.
#[derive(Debug)]
pub struct Runs {
    users: Option<TenderUsers>,
    reservations: Option<Reservations>,
    latest_user: Option<u32>,
    records: Records,
    groups: Result<Groups, GroupError>,
    /// Until they are asked for; their users are taken.
    survivors: Vec<Survivor>,
    histories: BTreeMap<Name, ([u8; 32], History)>,
    running: HashMap<RunId, Running>,
}

/// A tender that runs, or that nobody has asked yet how it ended.
#[derive(Debug)]
struct Running {
    name: Name,
    pid: Pid,
    /// Of one that was adopted, and may be no child.
    process: Option<Process>,
    user: Option<u32>,
    group: Option<Group>,
    stopping: bool,
}

/// A run that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedRun {
    /// Which.
    pub run: RunId,
    /// Its tender was killed because it would have taken more memory than it may; known only where there are control
    /// groups.
    pub out_of_memory: bool,
}

/// Why a tender does not run.
#[derive(Debug)]
pub enum RunError {
    /// The tender.
    Tender(TenderError),
    /// Its record.
    Record(RecordError),
    /// Its control group.
    Group(GroupError),
    /// Its user.
    User(Exhausted),
    /// This program may not give tenders users of their own (why).
    Users(&'static str),
}

impl Runs {
    /// No run but those that an earlier supervisor has left.
    pub fn open(runtime_directory: &Path, users: Option<TenderUsers>) -> Result<Self, RunError> {
        let groups = Groups::take();
        let records = Records::open(runtime_directory).map_err(RunError::Record)?;
        let RecordedRuns { survivors, ended } =
            records.survivors(clear_up).map_err(RunError::Record)?;
        let histories = ended.into_iter().map(|Ended { name, mut record }| {
            let group = groups.as_ref().ok().map(|groups| groups.of(&name));
            if group.is_some_and(|group| group.out_of_memory(None)) {
                record.history.last_exit = Some(LastExit {
                    death: Death::OutOfMemory,
                    at: wall_clock(),
                });
            }
            (name, (record.key, record.history))
        });
        let histories = histories.collect();
        for Survivor { name, process, .. } in &survivors {
            let pid = process.id().pid;
            log::info!("{name} runs already, as process {pid}");
        }
        if let Ok(groups) = &groups {
            groups.remove_others(&survivors.iter().map(|survivor| &survivor.name).collect());
        }
        Ok(Self {
            users,
            reservations: users.map(|_| Reservations::open(Path::new(socket::RUNTIME_DIRECTORY))),
            latest_user: None,
            records,
            groups,
            survivors,
            histories,
            running: HashMap::new(),
        })
    }

    /// Reason why tenders have no limits beside those that a process has, if they have none.
    pub fn unlimited(&self) -> Option<&GroupError> {
        self.groups.as_ref().err()
    }

    /// Hands out the tenders that an earlier supervisor has left running. Those that are not [adopted](Self::adopt)
    /// go on running, and nobody knows of them any more.
    pub fn survivors(&mut self) -> Vec<Survivor> {
        mem::take(&mut self.survivors)
    }

    /// Hands out what went before the next start of unikernels that did not run when this supervisor was started, and
    /// the keys of their versions.
    pub fn histories(&mut self) -> BTreeMap<Name, ([u8; 32], History)> {
        mem::take(&mut self.histories)
    }

    /// Records what went before the next start of a unikernel that does not run. `key` is that of its version.
    pub fn remember(&self, name: &Name, key: [u8; 32], history: History) {
        let record = Record {
            user: None,
            started: daemon::wall_clock(),
            key,
            history,
            stopping: false,
        };
        if let Err(error) = self.records.create(name, &record) {
            log::warn!("{error}");
        }
    }

    /// Forgets it.
    pub fn forget(&self, name: &Name) {
        if let Err(error) = self.records.remove(name) {
            log::warn!("{error}");
        }
    }

    /// Takes over a survivor as this run.
    pub fn adopt(&mut self, run: RunId, survivor: Survivor) {
        let name = survivor.name;
        if let (Some(reservations), Some(user)) = (&self.reservations, survivor.record.user) {
            reservations.keep(user);
        }
        let running = Running {
            group: self.groups.as_ref().ok().map(|groups| groups.of(&name)),
            name,
            pid: survivor.process.id().pid,
            process: Some(survivor.process),
            user: survivor.record.user,
            stopping: survivor.record.stopping,
        };
        self.running.insert(run, running);
    }

    /// The processes that were adopted, which may be no children of this one: to be polled for reading and asked for
    /// their end. [`Self::ended`] is to be told of that, as of the end of a child.
    pub fn adopted(&self) -> impl Iterator<Item = (RunId, &Process)> {
        let running = self.running.iter();
        running.filter_map(|(run, running)| Some((*run, running.process.as_ref()?)))
    }

    /// The users that adopted tenders have of their own.
    pub fn users_of_adopted(&self) -> BTreeMap<u32, Name> {
        let running = self.running.values();
        let adopted = running.filter(|running| running.process.is_some());
        adopted
            .filter_map(|running| Some((running.user?, running.name.clone())))
            .collect()
    }

    /// Whether a tender for images of this target will be able to open the devices that it needs.
    pub fn check_devices(&self, target: Target, config: &Config) -> Result<(), RunError> {
        // If no user is left now, that of what is replaced will be.
        let user = self.next_user(|_| true).unwrap_or(self.latest_user);
        let networks = !config.nets.is_empty();
        let groups = user.map(|user| tender::Guest::Image(target).groups(networks, user));
        groups.transpose().map(drop).map_err(RunError::Tender)
    }

    /// Starts a tender as this run. `key` is that of the version it runs. Returns its process.
    pub fn start(
        &mut self,
        run: RunId,
        key: [u8; 32],
        history: History,
        start: Start<'_>,
    ) -> Result<Pid, RunError> {
        let name = start.name.clone();
        let started = self.try_start(run, key, history, start);
        if started.is_err()
            && let Err(error) = self.records.remove(&name)
        {
            log::warn!("{error}");
        }
        started
    }

    /// Starts what loads a machine, before the run of its tender. `key` is that of the version that it is. The record says
    /// that it is to end: a supervisor that finds it begins again. Returns its process.
    pub fn load(&self, key: [u8; 32], mut start: Start<'_>) -> Result<Pid, RunError> {
        let record = Record {
            user: None,
            started: daemon::wall_clock(),
            key,
            history: History::default(),
            stopping: true,
        };
        let name = start.name.clone();
        let started = self.records.create(&name, &record).and_then(|opened| {
            start.record = Some(opened.for_child()?);
            Ok(opened)
        });
        let started = started.map_err(RunError::Record);
        let started = started.and_then(|_opened| start.run().map_err(RunError::Tender));
        if started.is_err() {
            self.not_loaded(&name);
        }
        started
    }

    /// What loads the machine of this unikernel has failed.
    pub fn not_loaded(&self, name: &Name) {
        if let Err(error) = self.records.remove(name) {
            log::warn!("{error}");
        }
    }

    fn try_start(
        &mut self,
        run: RunId,
        key: [u8; 32],
        history: History,
        start: Start<'_>,
    ) -> Result<Pid, RunError> {
        let user = match start.guest {
            tender::Guest::Image(_) => self.reserve_user().map_err(RunError::User)?,
            // Only root can make machines.
            tender::Guest::Machine => None,
        };
        let started = self.start_as(user, run, key, history, start);
        // The next start takes another one, also where this one has failed: its user may have too many processes.
        self.latest_user = user.or(self.latest_user);
        if started.is_err() {
            self.give_back(user);
        }
        started
    }

    fn start_as(
        &mut self,
        user: Option<u32>,
        run: RunId,
        key: [u8; 32],
        history: History,
        mut start: Start<'_>,
    ) -> Result<Pid, RunError> {
        let record = Record {
            user,
            started: daemon::wall_clock(),
            key,
            history,
            stopping: false,
        };
        let name = start.name.clone();
        let opened = self.records.create(&name, &record);
        let opened = opened.map_err(RunError::Record)?;
        start.record = Some(opened.for_child().map_err(RunError::Record)?);
        let users = self.users.as_ref();
        start.user = user.zip(users.map(|users| users.group()));
        let groups = self.groups.as_ref().ok();
        let group = groups
            .map(|groups| groups.create(&name, start.config))
            .transpose()
            .map_err(RunError::Group)?;
        start.group = group.as_ref().and_then(Group::entrance);
        let pid = match start.run() {
            Ok(pid) => pid,
            Err(error) => {
                group.into_iter().for_each(Group::remove);
                return Err(RunError::Tender(error));
            }
        };
        if let Some(group) = &group
            && let Err(error) = group.entered(pid)
        {
            log::warn!("{name}: {error}");
        }
        let running = Running {
            name,
            pid,
            process: None,
            user,
            group,
            stopping: false,
        };
        self.running.insert(run, running);
        Ok(pid)
    }

    /// Asks the tender to end, or ends it, and never another process. The record says so first: a supervisor that
    /// finds the tender knows that its end was asked for.
    pub fn end(&mut self, run: RunId, signal: Signal) {
        let Some(running) = self.running.get_mut(&run) else {
            return;
        };
        if !mem::replace(&mut running.stopping, true)
            && let Err(error) = self.records.stopping(&running.name)
        {
            log::warn!("{error}");
        }
        let Running { pid, process, .. } = running;
        let sent = match process {
            Some(process) => process.signal(signal),
            // A child whose end nobody has asked for yet: its number is not given away before.
            None => kill(*pid, signal).map_err(Into::into),
        };
        if let Err(error) = sent {
            log::warn!("cannot send {signal} to process {pid}: {error}");
        }
    }

    /// The processes of all runs, and which unikernels they are.
    pub fn processes(&self) -> impl Iterator<Item = (&Name, Pid)> {
        self.running
            .values()
            .map(|running| (&running.name, running.pid))
    }

    /// Takes note that this process has ended: forgets the run, and removes what there was only for it. Nothing if it
    /// was no tender, otherwise also the name of its unikernel. Before anything else is started: that might get its
    /// number.
    pub fn ended(&mut self, pid: Pid, end: End) -> Option<(Name, FinishedRun)> {
        let mut runs = self.running.iter();
        let run = *runs.find(|(_, running)| running.pid == pid)?.0;
        let running = self.running.remove(&run)?;
        clear_up(pid);
        self.give_back(running.user);
        let group = running.group;
        let out_of_memory = group
            .as_ref()
            .is_some_and(|group| group.out_of_memory(Some(end)));
        group.into_iter().for_each(Group::remove);
        if let Err(error) = self.records.remove(&running.name) {
            log::warn!("{error}");
        }
        Some((running.name, FinishedRun { run, out_of_memory }))
    }

    /// A user of its own for the next tender, reserved on this host.
    fn reserve_user(&self) -> Result<Option<u32>, Exhausted> {
        let reservations = self.reservations.as_ref();
        self.next_user(|user| reservations.is_none_or(|reservations| reservations.take(user)))
    }

    fn give_back(&self, user: Option<u32>) {
        if let (Some(reservations), Some(user)) = (&self.reservations, user) {
            reservations.give_back(user);
        }
    }

    fn next_user(&self, is_free: impl Fn(u32) -> bool) -> Result<Option<u32>, Exhausted> {
        let Some(users) = self.users else {
            return Ok(None);
        };
        let left = self.survivors.iter().map(|survivor| survivor.record.user);
        let running = self.running.values().map(|running| running.user);
        let taken: BTreeSet<_> = left.chain(running).flatten().collect();
        users.next(self.latest_user, &taken, is_free).map(Some)
    }
}

fn wall_clock() -> Timestamp {
    let since = daemon::wall_clock();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_unix(seconds, u64::from(since.subsec_nanos()) * 1000)
}

/// Removes what a tender that has ended may have left in the kernel.
fn clear_up(pid: Pid) {
    match tender::destroy_vmm_device(pid) {
        Ok(true) => log::info!("the virtual machine that process {pid} has left is destroyed"),
        Ok(false) => {}
        Err(error) => {
            log::warn!("cannot destroy the virtual machine that process {pid} has left: {error}");
        }
    }
}

/// The tenders that an earlier supervisor has left running, or that one runs now, and what is wrong with other records.
/// Nothing is changed.
pub fn look(runtime_directory: &Path) -> Result<(Vec<Survivor>, Vec<String>), RunError> {
    record::look(runtime_directory).map_err(RunError::Record)
}

/// Reason why tenders of a supervisor that was started like this process would have no limits beside those that a process
/// has, if they would have none. Nothing is changed.
pub fn unlimited() -> Option<GroupError> {
    Groups::check().err()
}

/// Whether this program can give tenders these users.
pub fn check_users(users: Option<TenderUsers>) -> Result<(), RunError> {
    match (users, tender::ONLY_ROOT) {
        (None, _) => Ok(()),
        (Some(_), Some(why)) => Err(RunError::Users(why)),
        (Some(_), None) if geteuid().is_root() => Ok(()),
        (Some(_), None) => Err(RunError::Users("only root can do that")),
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tender(error) => error.fmt(f),
            Self::Record(error) => error.fmt(f),
            Self::Group(error) => error.fmt(f),
            Self::User(error) => error.fmt(f),
            Self::Users(why) => write!(
                f,
                "tenders cannot be given users of their own (--tender-uids): {why}"
            ),
        }
    }
}

impl std::error::Error for RunError {}
