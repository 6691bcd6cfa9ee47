//! Event loop of `petreld`: waits for events of the system, and feeds them to the supervisor.

mod bhyve;
mod clients;
mod content;
mod effects;
mod ends;
mod start;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::bhyve::Machines;
use super::block::BlockStore;
use super::client_connection::Arrival;
use super::console::{ConsoleLink, Outcome};
use super::disk_reserve::Reserve;
use super::images::{ImageStore, Staged};
use super::reexec::{Kept, Program};
use super::run::Runs;
use super::statistics::StatisticsLink;
use super::tap::Taps;
use super::tender::{Fifo, Tenders};
use super::writer::{Done, Writer};
use super::{HostError, LARGE_FILE, Options, RELOAD_DEADLINE, RELOAD_STEP, TAP_INTERVAL};
use crate::daemon::{self, Manager, Signals};
use crate::manifest::Target;
use crate::name::Name;
use crate::self_metrics::SelfMetrics;
use crate::socket::{self};
use crate::supervisor::{ConnectionId, Event, History, Moment, RunId, Supervisor, Timer, UploadId};
use crate::sys::poll::Poll;
use crate::sys::worker;
use crate::unikernel::Version;
use crate::wire::Timestamp;

use clients::Clients;
use content::Underway;

/// State of a running `petreld`.
pub(super) struct Daemon {
    options: Options,
    supervisor: Supervisor,
    events: VecDeque<Event>,
    /// Results of the effects of the event that is being handled.
    results: Vec<Event>,
    start: Instant,
    signals: Signals,
    clients: Clients,
    console: ConsoleLink,
    statistics: StatisticsLink,
    /// Lock that keeps other supervisors from the database.
    lock: OwnedFd,
    images: Arc<ImageStore>,
    /// Unikernels whose image is being installed in the store.
    installing: HashMap<Name, Arc<Version>>,
    writer: Writer,
    staged: HashMap<UploadId, Staged>,
    blocks: BlockStore,
    reserve: Reserve,
    /// Transfers to and from clients, each by a process of its own.
    transfers: BTreeMap<ConnectionId, Underway>,
    tenders: Tenders,
    /// Consoles of the unikernels that run or are about to.
    fifos: HashMap<Name, Fifo>,
    taps: Taps,
    /// BHyve machines, or why there are none.
    machines: Result<Machines, &'static str>,
    /// Unikernels that are about to run.
    prepared: HashMap<Name, Prepared>,
    runs: Runs,
    program: Program,
    /// When re-execution was asked for.
    reload: Option<Instant>,
    /// Whether all unikernels are being stopped, and this program after them.
    stopping: bool,
    timers: Vec<(Instant, Timer)>,
    /// When taps are checked for being on their bridges.
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

/// Programs that are to run a unikernel.
enum Prepared {
    /// Tender of an image for this target.
    Image(PathBuf, Target),
    /// Programs of a BHyve machine.
    Machine(bhyve::Programs),
}

/// Run that is about to begin.
struct Starting {
    run: RunId,
    name: Name,
    version: Arc<Version>,
    history: History,
}

impl Daemon {
    /// Runs the event loop until the supervisor ends it.
    pub(super) fn run(mut self) -> Result<(), HostError> {
        self.events.push_back(Event::Boot);
        while self.settle() {
            self.wait()?;
        }
        Ok(())
    }

    /// Handles all queued events. Returns `false` at the end of the program.
    fn settle(&mut self) -> bool {
        while let Some(event) = self.events.pop_front() {
            let now = Moment {
                monotonic: self.start.elapsed(),
                wall: wall_clock(),
            };
            for effect in self.supervisor.handle(&now, event) {
                self.carry_out(effect);
            }
            // Results go before events of the system.
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
        let held_back = self.clients.held_back();
        let ready = self
            .register(&held_back)
            .wait()
            .map_err(|error| HostError::System("wait for events", error))?;
        let now = Instant::now();
        for id in held_back {
            if let Some(connection) = self.clients.get_mut(id) {
                connection.excuse(now);
            }
        }
        let quiet = ready.is_empty();
        let mut adopted = false;
        for (source, events) in ready {
            match source {
                Source::Signals => self.signalled(now),
                Source::Client(id) => self.progress(id, events, now),
                Source::Listener => self.clients.accept(now),
                Source::Writer => self.look_at_writer()?,
                Source::Transfer(id) => self.look_at_transfer(id),
                Source::Adopted => adopted = true,
                Source::EachTurn => {}
            }
        }
        for id in self.clients.overdue(now) {
            self.progress(id, PollFlags::empty(), now);
        }
        if adopted {
            // The exit status of a child says more.
            self.reap();
            self.look_at_adopted();
        }
        self.attend(now);
        // All input was read: a client whose next request is on its way is not idle.
        if quiet
            || self
                .reload
                .is_some_and(|since| now >= since + RELOAD_DEADLINE)
        {
            self.reload_when_quiet(now);
        }
        Ok(())
    }

    /// Registers all descriptors and deadlines; requests of the clients in `held_back` are not read.
    fn register(&self, held_back: &BTreeSet<ConnectionId>) -> Poll<'_, Source> {
        let mut poll = Poll::new();
        poll.add_readable(Source::Signals, &self.signals);
        // Clients that come while this program is about to be re-executed wait for its successor.
        let accepting = self.reload.is_none();
        self.clients.register(&mut poll, held_back, accepting);
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

    /// Deadlines that belong to no descriptor.
    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let machines = self.machines.as_ref().ok();
        let timers = self.timers.iter().map(|(at, _)| *at);
        timers
            .chain(self.console.deadline())
            .chain(self.statistics.deadline())
            .chain(self.manager.deadline())
            .chain(machines.and_then(Machines::deadline))
            .chain(self.reload.map(|_| Instant::now() + RELOAD_STEP))
            .chain([self.look_at_taps])
    }

    /// Makes progress beside the clients: other daemons, machines, taps, timers.
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
            lines.connections("unix", self.clients.count(), self.clients.accepted());
            lines.domains(&self.supervisor.domains());
        });
        self.manager.progress(now);
        self.look_at_taps(now);
        self.expire(now);
    }

    /// Handles the signals that have arrived.
    fn signalled(&mut self, now: Instant) {
        self.signals.drain();
        self.reap();
        if self.signals.reload() {
            if self.stopping {
                log::info!("not re-executing, as this program is stopping");
            } else {
                log::info!("re-executing as soon as nothing is under way");
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
            // Before the deaths that were found: a service manager that ends a service signals all of its processes.
            self.events.push_front(Event::Terminate);
        }
    }

    fn progress(&mut self, id: ConnectionId, ready: PollFlags, now: Instant) {
        let Some(connection) = self.clients.get_mut(id) else {
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
                self.clients.remove(from);
                self.events.push_back(Event::Closed(from));
            }
        }
    }

    /// Handles the results of the writer.
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

    /// Re-executes this program when nothing is under way, or [`RELOAD_DEADLINE`] is over.
    fn reload_when_quiet(&mut self, now: Instant) {
        let Some(since) = self.reload else {
            return;
        };
        let busy = !self.events.is_empty()
            || !self.supervisor.is_quiet()
            || !self.is_idle_about_machines()
            || !self.clients.are_idle();
        if busy && now < since + RELOAD_DEADLINE {
            return;
        }
        if busy {
            log::warn!("some requests are aborted: they took longer than {RELOAD_DEADLINE:?}");
            if let Ok(machines) = &mut self.machines {
                machines.break_off();
            }
        }
        log::info!("re-executing now");
        let error = self.program.execute(Kept {
            listener: self.clients.as_fd(),
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

    /// Checks periodically that the taps of running unikernels are on their bridges.
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
        self.clients.resume_accepting(now);
        let (due, later) = self.timers.drain(..).partition(|(at, _)| *at <= now);
        self.timers = later;
        self.events
            .extend(due.into_iter().map(|(_, timer)| Event::Timer(timer)));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Otherwise unikernels go on running.
        if self.done {
            self.taps.close();
        }
        if !self.options.systemd_socket_activation {
            let path = socket::path(&self.options.tmpdir, socket::SUPERVISOR);
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("cannot remove '{}': {error}", path.display());
            }
        }
    }
}

/// Closes an unlinked file: a large one in a worker process, as freeing it takes time.
fn close(file: File) {
    if file.metadata().is_ok_and(|found| found.len() >= LARGE_FILE) {
        worker::close(file);
    }
}

fn wall_clock() -> Timestamp {
    timestamp(daemon::wall_clock())
}

fn timestamp(since: Duration) -> Timestamp {
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_unix(seconds, u64::from(since.subsec_nanos()) * 1000)
}
