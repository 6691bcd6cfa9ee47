//! The loop of `petreld`: it waits for what happens, and feeds it to the supervisor.

mod bhyve;
mod content;
mod effects;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::unistd::Pid;

use super::bhyve::Machines;
use super::block::BlockStore;
use super::client_connection::{Arrival, Connection};
use super::console::{ConsoleLink, Outcome};
use super::disk_reserve::Reserve;
use super::images::{ImageStore, Staged};
use super::import::{self, Imported};
use super::preflight::Preflight;
use super::reexec::{Inherited, Kept, Program};
use super::run::{FinishedRun, Runs, TenderUsers};
use super::state_store::{Content, StateSource, Store};
use super::statistics::StatisticsLink;
use super::tap::Taps;
use super::tender::{Fifo, Tenders};
use super::writer::{Done, Writer};
use super::{
    CLIENT_LIMITS, HostError, LARGE_FILE, MAX_LARGE, Options, RELOAD_DEADLINE, RELOAD_STEP, System,
    TAP_INTERVAL, protection, tap,
};
use crate::daemon::{self, ACCEPT_PAUSE, Manager, Signals};
use crate::manifest::Target;
use crate::name::Name;
use crate::self_metrics::SelfMetrics;
use crate::socket::{self, ACCEPT_BURST, Accepted, Acceptor};
use crate::supervisor::{
    BlockDevices, ConnectionId, Event, History, Moment, Owner, RunId, Settings, Supervisor,
    Survivor, Timer, UploadId, launch,
};
use crate::sys::child::{self, Ended};
use crate::sys::poll::Poll;
use crate::sys::process::End;
use crate::sys::{descriptor, worker};
use crate::unikernel::{Death, Version};
use crate::wire::Timestamp;
use crate::wire::state::State;

use content::Underway;

/// `petreld`, as it runs.
pub(super) struct Daemon {
    options: Options,
    supervisor: Supervisor,
    events: VecDeque<Event>,
    /// What came of the effects of the event that is being handled.
    results: Vec<Event>,
    start: Instant,
    signals: Signals,
    listener: UnixListener,
    reception: Acceptor,
    /// After accepting has failed.
    accept_after: Option<Instant>,
    connections: BTreeMap<ConnectionId, Connection>,
    counter: u64,
    console: ConsoleLink,
    statistics: StatisticsLink,
    /// What keeps other supervisors from the database.
    lock: OwnedFd,
    images: Arc<ImageStore>,
    /// Unikernels whose image is on its way into the store.
    installing: HashMap<Name, Arc<Version>>,
    writer: Writer,
    staged: HashMap<UploadId, Staged>,
    blocks: BlockStore,
    reserve: Reserve,
    /// What is sent to clients, or received from them, by processes of their own.
    transfers: BTreeMap<ConnectionId, Underway>,
    tenders: Tenders,
    /// The consoles of what runs, or is about to.
    fifos: HashMap<Name, Fifo>,
    taps: Taps,
    /// The BHyve machines, or why there are none.
    machines: Result<Machines, &'static str>,
    /// What is about to run.
    prepared: HashMap<Name, Prepared>,
    runs: Runs,
    program: Program,
    /// Since when this program is to be executed anew.
    reload: Option<Instant>,
    /// All unikernels are being stopped, and then this program.
    stopping: bool,
    timers: Vec<(Instant, Timer)>,
    /// When it is looked at whether taps are on their bridges.
    look_at_taps: Instant,
    self_metrics: SelfMetrics,
    manager: Manager,
    done: bool,
}

/// Source of an event of the system.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Listener,
    Client(ConnectionId),
    Writer,
    Transfer(ConnectionId),
    /// A tender of an earlier supervisor.
    Adopted,
    /// Connections to other daemons, which are attended to in each turn.
    EachTurn,
}

/// What is to run a unikernel.
enum Prepared {
    /// This tender, its image being for this target.
    Image(PathBuf, Target),
    /// These programs.
    Machine(bhyve::Programs),
}

/// A run that is about to begin.
struct Starting {
    run: RunId,
    name: Name,
    version: Arc<Version>,
    history: History,
}

impl Daemon {
    /// With everything at hand that it needs; nothing of the state is started yet.
    pub(super) fn start(options: Options, system: System) -> Result<Self, HostError> {
        let program = Program::of_this_process()
            .map_err(|error| HostError::System("find this program's file", error))?;
        let kept = Inherited::take()
            .map_err(|error| HostError::System("take over what was kept for it", error))?;
        let (kept_listener, kept_lock) = kept.map(|kept| (kept.listener, kept.lock)).unzip();
        // Before the first child, so that no death is missed.
        let signals =
            Signals::listen().map_err(|error| HostError::System("listen to signals", error))?;
        descriptor::keep_from_children();
        daemon::raise_descriptor_limit();
        let Preflight {
            mut store,
            listener,
            resources,
            undo,
        } = Preflight::take(&options, kept_lock, kept_listener)?;
        let readers = options.tender_uids.map(TenderUsers::group);
        let images = ImageStore::open(&options.dbdir, readers).map_err(HostError::Images)?;
        let state = load(&mut store, &images, &system)?;
        let mut runs = Runs::open(&options.tmpdir, options.tender_uids).map_err(HostError::Runs)?;
        protection::warn(&options, runs.unlimited());
        let (survivors, fifos) = adopt(&mut runs, &options.tmpdir);
        let (blocks, sizes) = BlockStore::open(&options.dbdir, readers, &runs.users_of_adopted())
            .map_err(HostError::Blocks)?;
        log::info!(
            "{} unikernels, {} policies and {} block devices in {}",
            state.unikernels.len(),
            state.policies.len(),
            sizes.len(),
            options.dbdir.display()
        );
        let machines = machines(system, &options, &survivors)?;
        let settings = Settings {
            machines: naming(&machines),
            resources,
            devices: BlockDevices::new(sizes, options.allow_zvol_for.clone()),
            images: images.sizes().map_err(HostError::Images)?,
            disk_quota: options.image_quota_factor,
            stop_deadline: options.stop_deadline,
            histories: runs.histories(),
            seed: seed(),
        };
        // What is in the console of one that is started again was not read yet.
        let names = state.unikernels.iter().map(|recorded| &recorded.name);
        let wanted = names.chain(fifos.keys()).cloned().collect();
        Fifo::remove_others(&options.tmpdir, &wanted);
        let running = survivors.iter().map(|survivor| {
            let mut recorded = state.unikernels.iter();
            let recorded = recorded.find(|recorded| recorded.name == survivor.name);
            let version = recorded.map(|recorded| &recorded.version);
            let known = version.filter(|version| version.key() == survivor.key);
            (&survivor.name, known.map(|version| &version.config))
        });
        let taps =
            Taps::open(&options.dbdir, options.lock_mac, running).map_err(HostError::Taps)?;
        let lock = store.lock().try_clone_to_owned();
        let lock = lock.map_err(|error| HostError::System("duplicate a descriptor", error))?;
        let images = Arc::new(images);
        let writer = Writer::start(store, images.clone(), &state)
            .map_err(|error| HostError::System("start a thread", error))?;
        let mut daemon = Self {
            supervisor: Supervisor::new(state, survivors, settings),
            events: VecDeque::new(),
            results: Vec::new(),
            start: Instant::now(),
            signals,
            listener,
            reception: Acceptor::new(CLIENT_LIMITS),
            accept_after: None,
            connections: BTreeMap::new(),
            counter: 0,
            console: ConsoleLink::new(socket::path(&options.tmpdir, socket::CONSOLE)),
            statistics: StatisticsLink::default(),
            lock,
            images,
            installing: HashMap::new(),
            writer,
            staged: HashMap::new(),
            blocks,
            reserve: Reserve::of_mb(options.disk_reserve),
            transfers: BTreeMap::new(),
            tenders: Tenders::new(&options.dbdir),
            fifos,
            taps,
            machines,
            prepared: HashMap::new(),
            runs,
            program,
            reload: None,
            stopping: false,
            timers: Vec::new(),
            look_at_taps: Instant::now(),
            self_metrics: SelfMetrics::new("albatross", options.influx),
            manager: Manager::ready(),
            done: false,
            options,
        };
        daemon.tenders.look_around();
        undo.forget(&daemon.options);
        // A child may have ended when nobody listened.
        daemon.reap();
        daemon.connect_console(false);
        Ok(daemon)
    }

    /// Works until it is told to end.
    pub(super) fn run(mut self) -> Result<(), HostError> {
        self.events.push_back(Event::Boot);
        while self.settle() {
            self.wait()?;
        }
        Ok(())
    }

    /// Handles all events that are there. `false`: there is nothing more to do, ever.
    fn settle(&mut self) -> bool {
        while let Some(event) = self.events.pop_front() {
            let now = Moment {
                monotonic: self.start.elapsed(),
                wall: wall_clock(),
            };
            for effect in self.supervisor.handle(&now, event) {
                self.carry_out(effect);
            }
            // What came of it goes before what happens outside.
            while let Some(result) = self.results.pop() {
                self.events.push_front(result);
            }
        }
        !self.done || !self.is_idle_about_machines()
    }

    /// Whether no machine is being loaded or destroyed.
    fn is_idle_about_machines(&self) -> bool {
        self.machines.as_ref().map_or(true, Machines::is_idle)
    }

    /// Waits for events of the system, and turns them into events of the supervisor.
    fn wait(&mut self) -> Result<(), HostError> {
        let held_back = self.held_back();
        let ready = self
            .register(&held_back)
            .wait()
            .map_err(|error| HostError::System("poll", error))?;
        let now = Instant::now();
        for id in held_back {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.excuse(now);
            }
        }
        let quiet = ready.is_empty();
        let mut adopted = false;
        for (source, events) in ready {
            match source {
                Source::Signals => self.signalled(now),
                Source::Client(id) => self.progress(id, events, now),
                Source::Listener => self.accept(now),
                Source::Writer => self.look_at_writer()?,
                Source::Transfer(id) => self.look_at_transfer(id),
                Source::Adopted => adopted = true,
                Source::EachTurn => {}
            }
        }
        for id in self.due(now) {
            self.progress(id, PollFlags::empty(), now);
        }
        if adopted {
            // Those that are children after all tell more.
            self.reap();
            self.look_at_adopted();
        }
        self.attend(now);
        // What is readable was read: a client whose next request is on its way is not idle.
        if quiet
            || self
                .reload
                .is_some_and(|since| now >= since + RELOAD_DEADLINE)
        {
            self.reload_when_quiet(now);
        }
        Ok(())
    }

    /// Registers what this process waits for; requests of the clients in `held_back` are not read.
    fn register(&self, held_back: &BTreeSet<ConnectionId>) -> Poll<'_, Source> {
        let mut poll = Poll::new();
        poll.add_readable(Source::Signals, &self.signals);
        for (id, connection) in self.present() {
            let mut interest = connection.interest();
            if held_back.contains(id) {
                interest.remove(PollFlags::POLLIN);
            }
            poll.add(Source::Client(*id), connection.as_fd(), interest);
            poll.until(connection.deadline());
        }
        // Clients that come while this program is being re-executed wait for the new one.
        if self.connections.len() < self.reception.total()
            && self.accept_after.is_none()
            && self.reload.is_none()
        {
            poll.add_readable(Source::Listener, &self.listener);
        }
        let links = [self.console.peer(), self.statistics.peer()];
        for peer in links.into_iter().flatten() {
            peer.register(&mut poll, Source::EachTurn);
        }
        self.self_metrics.register(&mut poll, Source::EachTurn);
        poll.add_readable(Source::Writer, &self.writer);
        for (id, underway) in &self.transfers {
            poll.add(Source::Transfer(*id), underway.as_fd(), PollFlags::POLLIN);
        }
        for (_, process) in self.runs.adopted() {
            poll.add_readable(Source::Adopted, process);
        }
        poll.until(self.deadlines());
        poll
    }

    /// Deadlines beside those of what is registered.
    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let machines = self.machines.as_ref().ok();
        let timers = self.timers.iter().map(|(at, _)| *at);
        timers
            .chain(self.accept_after)
            .chain(self.console.deadline())
            .chain(self.statistics.deadline())
            .chain(self.manager.deadline())
            .chain(machines.and_then(Machines::deadline))
            .chain(self.reload.map(|_| Instant::now() + RELOAD_STEP))
            .chain([self.look_at_taps])
    }

    /// Clients whose connection this process has, and no transfer.
    fn present(&self) -> impl Iterator<Item = (&ConnectionId, &Connection)> {
        let clients = self.connections.iter();
        clients.filter(|(_, client)| !client.is_away())
    }

    /// Clients whose deadline has passed.
    fn due(&self, now: Instant) -> Vec<ConnectionId> {
        let due = |client: &Connection| client.deadline().is_some_and(|deadline| deadline <= now);
        let clients = self.present().filter(|(_, client)| due(client));
        clients.map(|(id, _)| *id).collect()
    }

    /// Goes on with what is under way beside the clients.
    fn attend(&mut self, now: Instant) {
        for Outcome { name, call, result } in self.console.progress(now) {
            self.events
                .push_back(Event::Announced { name, call, result });
        }
        if let Ok(machines) = &mut self.machines {
            for outcome in machines.progress(now) {
                let event = self.booted(outcome);
                self.events.extend(event);
            }
        }
        self.connect_console(false);
        self.statistics.progress(now);
        self.self_metrics.progress(now, |lines| {
            lines.connections("unix", self.connections.len(), self.counter);
            lines.domains(&self.supervisor.domains());
        });
        self.manager.progress(now);
        self.look_at_taps(now);
        self.expire(now);
    }

    /// Takes note of the signals that have come.
    fn signalled(&mut self, now: Instant) {
        self.signals.drain();
        self.reap();
        if self.signals.reload() {
            if self.stopping {
                log::info!("this program is stopping, and not executed anew");
            } else {
                log::info!("this program is executed anew when nothing is under way");
                self.reload.get_or_insert(now);
                self.manager.reloading();
            }
        }
        if self.signals.terminate() {
            (self.stopping, self.reload) = (true, None);
            self.manager.stopping();
            if let Ok(machines) = &mut self.machines {
                machines.close();
            }
            // Before the deaths that were found: whoever ends a service asks all of its processes.
            self.events.push_front(Event::Terminate);
        }
    }

    /// The clients whose requests are not read further for now, as those of others take so much room.
    fn held_back(&self) -> BTreeSet<ConnectionId> {
        let clients = self.connections.values();
        let unpacking = clients.filter(|client| client.is_unpacking()).count();
        let large = self.connections.iter();
        let large = large.filter(|(_, client)| client.is_large());
        let others = large.skip(MAX_LARGE.saturating_sub(unpacking));
        let reading = |client: &Connection| client.interest().contains(PollFlags::POLLIN);
        let held_back = others.filter(|(_, client)| reading(client));
        held_back.map(|(id, _)| *id).collect()
    }

    fn progress(&mut self, id: ConnectionId, ready: PollFlags, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let arrival = connection.progress(ready, now).or_else(|| {
            let idle = connection
                .deadline()
                .is_some_and(|deadline| deadline <= now);
            idle.then_some(Arrival::Gone)
        });
        if let Some(arrival) = arrival {
            self.arrived(id, arrival);
        }
    }

    fn arrived(&mut self, from: ConnectionId, arrival: Arrival) {
        match arrival {
            Arrival::Message(message) => {
                let message = *message;
                self.events.push_back(Event::Message { from, message });
            }
            Arrival::Gone => {
                self.connections.remove(&from);
                self.events.push_back(Event::Closed(from));
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BURST {
            if self.connections.len() >= self.reception.total() {
                return;
            }
            let users = self.connections.values().map(Connection::user);
            match self.reception.accept(&self.listener, users) {
                Ok(Accepted::Peer(peer)) => {
                    self.counter += 1;
                    self.connections
                        .insert(ConnectionId(self.counter), Connection::new(peer, now));
                }
                Ok(Accepted::Refused) => {}
                Ok(Accepted::Nothing) => return,
                Err(error) => {
                    log::warn!("cannot accept connections: {error}");
                    self.accept_after = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Takes note of what the writer has done.
    fn look_at_writer(&mut self) -> Result<(), HostError> {
        let done = self.writer.progress();
        for done in done.map_err(|error| HostError::System("write to the database", error))? {
            match done {
                Done::Saved(ticket, result) => {
                    self.events.push_back(Event::Persisted { ticket, result });
                }
                Done::Installed(name, result) => self.installed(name, result),
                Done::Changed(task, name, result) => self.told(task, &name, result),
                Done::Freed(file) => close(file),
            }
        }
        Ok(())
    }

    /// Collects the tenders that have ended.
    fn reap(&mut self) {
        loop {
            let (process, ended) = match child::reap() {
                Ok(Some(ended)) => ended,
                Ok(None) => return,
                Err(error) => return log::error!("cannot ask for ended processes: {error}"),
            };
            let machines = self.machines.as_mut().ok();
            if let Some(outcome) = machines.and_then(|machines| machines.ended(process, ended)) {
                let event = self.booted(outcome);
                self.events.extend(event);
            } else {
                self.over(process, End::Known(ended));
            }
        }
    }

    /// Looks for those among the tenders of an earlier supervisor that have ended, and are no children.
    fn look_at_adopted(&mut self) {
        let ended: Vec<_> = self
            .runs
            .adopted()
            .filter_map(|(_, process)| {
                let pid = process.id().pid;
                let end = process.ended().unwrap_or_else(|error| {
                    log::error!("cannot ask how process {pid} ended: {error}");
                    Some(End::Unknown)
                })?;
                Some((pid, end))
            })
            .collect();
        for (pid, end) in ended {
            self.over(pid, end);
        }
    }

    /// Tells of the end of this process, if it was a tender.
    fn over(&mut self, process: Pid, end: End) {
        let Some((name, over)) = self.runs.ended(process, end) else {
            return;
        };
        self.statistics.remove(&name);
        let FinishedRun { run, out_of_memory } = over;
        let death = match end {
            _ if out_of_memory => Death::OutOfMemory,
            End::Known(Ended::Exit(code)) => Death::Exit(code),
            End::Known(Ended::Signal(signal)) => Death::Signal(signal),
            End::Unknown => Death::Unknown,
        };
        self.events.push_back(Event::Exited { run, death });
    }

    /// Executes this program anew when nothing is under way, or has been for too long.
    fn reload_when_quiet(&mut self, now: Instant) {
        let Some(since) = self.reload else {
            return;
        };
        let busy = !self.events.is_empty()
            || !self.supervisor.is_quiet()
            || !self.is_idle_about_machines()
            || !self.connections.values().all(Connection::is_idle);
        if busy && now < since + RELOAD_DEADLINE {
            return;
        }
        if busy {
            log::warn!("some requests are broken off: they took longer than {RELOAD_DEADLINE:?}");
            if let Ok(machines) = &mut self.machines {
                machines.break_off();
            }
        }
        log::info!("this program is executed anew");
        let error = self.program.execute(Kept {
            listener: self.listener.as_fd(),
            lock: self.lock.as_fd(),
        });
        log::error!("{error}");
        self.reload = None;
        self.manager.still_ready();
    }

    fn connect_console(&mut self, wanted: bool) {
        if self.console.connect(Instant::now(), wanted) {
            self.events.push_back(Event::ConsoleUp);
        }
    }

    /// Looks from time to time whether the taps of what runs are on their bridges.
    fn look_at_taps(&mut self, now: Instant) {
        if now < self.look_at_taps {
            return;
        }
        self.look_at_taps = now + TAP_INTERVAL;
        match self.taps.off_bridge() {
            Ok(off_bridge) => self.events.push_back(Event::Networks(off_bridge)),
            Err(error) => log::warn!("{error}"),
        }
    }

    fn expire(&mut self, now: Instant) {
        self.accept_after.take_if(|until| *until <= now);
        let (due, later) = self.timers.drain(..).partition(|(at, _)| *at <= now);
        self.timers = later;
        self.events
            .extend(due.into_iter().map(|(_, timer)| Event::Timer(timer)));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Otherwise unikernels go on.
        if self.done {
            self.taps.close();
        }
        if !self.options.systemd_socket_activation {
            let path = socket::path(&self.options.tmpdir, socket::SUPERVISOR);
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

/// The state on disk; one of albatross is imported.
fn load(store: &mut Store, images: &ImageStore, system: &System) -> Result<State, HostError> {
    let (content, complete) = match store.load().map_err(HostError::Store)? {
        StateSource::Nothing => return Ok(State::default()),
        StateSource::Present(content, _) => (content, true),
        StateSource::Fallback(content, _) => (content, false),
    };
    match content {
        Content::Native(state) => {
            // Nobody knows which images a file that was set aside refers to.
            if complete && !store.has_set_aside() {
                images
                    .keep_only(store.images())
                    .map_err(HostError::Images)?;
            } else if !complete && let Err(error) = store.save(&state) {
                log::error!("{error}; it is tried again with the next change");
            }
            Ok(state)
        }
        Content::Albatross(file) => {
            let keep = |image: &[u8], compressed| images.import(image, compressed);
            let Imported { state, refused } =
                import::import(file, keep).map_err(HostError::Images)?;
            for why in refused {
                log::error!("{why}; not imported");
            }
            for recorded in &state.unikernels {
                let machines = system.machines.as_ref().map(drop);
                if let Err(why) = launch::supported(&recorded.version.config, machines) {
                    log::warn!("{}: {why}: imported, but cannot be started", recorded.name);
                }
            }
            log::info!(
                "{} unikernels and {} policies of albatross are imported",
                state.unikernels.len(),
                state.policies.len()
            );
            let kept = store.keep_original().map_err(HostError::Store)?;
            log::info!("the state file of albatross is kept as {}", kept.display());
            store.save(&state).map_err(HostError::Store)?;
            Ok(state)
        }
    }
}

/// Takes over the tenders of an earlier supervisor, and their consoles.
fn adopt(runs: &mut Runs, runtime_directory: &Path) -> (Vec<Survivor>, HashMap<Name, Fifo>) {
    let mut survivors = Vec::new();
    let mut fifos = HashMap::new();
    for (number, survivor) in (1..).zip(runs.survivors()) {
        let run = RunId(number);
        let name = survivor.name.clone();
        match Fifo::create(runtime_directory, &name) {
            Ok(fifo) => drop(fifos.insert(name.clone(), fifo)),
            Err(error) => log::warn!("{name}: {error}"),
        }
        survivors.push(Survivor {
            run,
            name,
            key: survivor.record.key,
            since: timestamp(survivor.record.started),
            age: daemon::wall_clock().saturating_sub(survivor.record.started),
            history: survivor.record.history.clone(),
            stopping: survivor.record.stopping,
        });
        runs.adopt(run, survivor);
    }
    (survivors, fifos)
}

/// Closes a file without a name, here if it is small.
fn close(file: File) {
    if file.metadata().is_ok_and(|found| found.len() >= LARGE_FILE) {
        worker::close(file);
    }
}

/// What names machines, or why there are none.
fn naming(machines: &Result<Machines, &'static str>) -> Result<Owner, &'static str> {
    let machines = machines.as_ref();
    machines
        .map(|machines| machines.owner().clone())
        .map_err(|why| *why)
}

/// The BHyve machines. What an earlier supervisor has left is destroyed, but for those of tenders that run.
fn machines(
    system: System,
    options: &Options,
    survivors: &[Survivor],
) -> Result<Result<Machines, &'static str>, HostError> {
    let directory = match system.machines {
        Ok(directory) => directory,
        Err(why) => return Ok(Err(why)),
    };
    let owner = tap::owner(&options.dbdir).map_err(HostError::Taps)?;
    let running = survivors.iter().map(|survivor| &survivor.name);
    let machines = Machines::open(directory, &options.tmpdir, owner, running);
    Ok(Ok(machines))
}

fn wall_clock() -> Timestamp {
    timestamp(daemon::wall_clock())
}

fn timestamp(since: Duration) -> Timestamp {
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_unix(seconds, u64::from(since.subsec_nanos()) * 1000)
}

/// Anything that differs from one start to the next.
fn seed() -> u32 {
    daemon::wall_clock().subsec_nanos() ^ std::process::id()
}
