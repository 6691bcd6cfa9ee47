//! Start of `petreld`: opens the database, and takes over the tenders of an earlier supervisor.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::clients::Clients;
use super::{Daemon, timestamp};
use crate::daemon::{self, Manager, Signals};
use crate::host::bhyve::Machines;
use crate::host::block::BlockStore;
use crate::host::console::ConsoleLink;
use crate::host::disk_reserve::Reserve;
use crate::host::images::ImageStore;
use crate::host::import::{self, Imported};
use crate::host::preflight::Preflight;
use crate::host::reexec::{Inherited, Program};
use crate::host::run::{Runs, TenderUsers};
use crate::host::state_store::{Content, StateSource, Store};
use crate::host::statistics::StatisticsLink;
use crate::host::tap::{self, Taps};
use crate::host::tender::{Fifo, Tenders};
use crate::host::writer::Writer;
use crate::host::{HostError, Options, System, protection};
use crate::name::Name;
use crate::policy::Policy;
use crate::self_metrics::SelfMetrics;
use crate::socket;
use crate::supervisor::{BlockDevices, Owner, RunId, Settings, Supervisor, Survivor, launch};
use crate::sys::descriptor;
use crate::wire::state::State;

/// State of the host at the start.
struct Opened {
    state: State,
    images: ImageStore,
    blocks: BlockStore,
    runs: Runs,
    survivors: Vec<Survivor>,
    fifos: HashMap<Name, Fifo>,
    machines: Result<Machines, &'static str>,
    taps: Taps,
    settings: Settings,
}

impl Daemon {
    /// Opens everything that the daemon needs; no unikernel is started yet.
    pub(in crate::host) fn start(options: Options, system: System) -> Result<Self, HostError> {
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
        let opened = open(&options, system, &mut store, resources)?;
        let mut daemon = Self::assemble(options, program, signals, listener, store, opened)?;
        daemon.tenders.look_around();
        undo.forget(&daemon.options);
        // A child may have ended before signals were handled.
        daemon.reap();
        daemon.connect_console(false);
        Ok(daemon)
    }

    fn assemble(
        options: Options,
        program: Program,
        signals: Signals,
        listener: UnixListener,
        store: Store,
        opened: Opened,
    ) -> Result<Self, HostError> {
        let lock = store.lock().try_clone_to_owned();
        let lock = lock.map_err(|error| HostError::System("duplicate a descriptor", error))?;
        let images = Arc::new(opened.images);
        let writer = Writer::start(store, images.clone(), &opened.state)
            .map_err(|error| HostError::System("start a thread", error))?;
        Ok(Self {
            supervisor: Supervisor::new(opened.state, opened.survivors, opened.settings),
            events: VecDeque::new(),
            results: Vec::new(),
            start: Instant::now(),
            signals,
            clients: Clients::new(listener),
            console: ConsoleLink::new(socket::path(&options.tmpdir, socket::CONSOLE)),
            statistics: StatisticsLink::default(),
            lock,
            images,
            installing: HashMap::new(),
            writer,
            staged: HashMap::new(),
            blocks: opened.blocks,
            reserve: Reserve::of_mb(options.disk_reserve),
            transfers: BTreeMap::new(),
            tenders: Tenders::new(&options.dbdir),
            fifos: opened.fifos,
            taps: opened.taps,
            machines: opened.machines,
            prepared: HashMap::new(),
            runs: opened.runs,
            program,
            reload: None,
            stopping: false,
            timers: Vec::new(),
            look_at_taps: Instant::now(),
            self_metrics: SelfMetrics::new("albatross", options.influx),
            manager: Manager::ready(),
            done: false,
            options,
        })
    }
}

/// Opens the database, and takes over the tenders of an earlier supervisor.
fn open(
    options: &Options,
    system: System,
    store: &mut Store,
    resources: Policy,
) -> Result<Opened, HostError> {
    let readers = options.tender_uids.map(TenderUsers::group);
    let images = ImageStore::open(&options.dbdir, readers).map_err(HostError::Images)?;
    let state = load(store, &images, &system)?;
    let mut runs = Runs::open(&options.tmpdir, options.tender_uids).map_err(HostError::Runs)?;
    protection::warn(options, runs.unlimited());
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
    let machines = machines(system, options, &survivors)?;
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
    // The console of a unikernel that is started again may hold output that was not read yet.
    let names = state.unikernels.iter().map(|recorded| &recorded.name);
    let wanted = names.chain(fifos.keys()).cloned().collect();
    Fifo::remove_others(&options.tmpdir, &wanted);
    let taps = open_taps(options, &state, &survivors)?;
    Ok(Opened {
        state,
        images,
        blocks,
        runs,
        survivors,
        fifos,
        machines,
        taps,
        settings,
    })
}

/// Opens the taps, with those of the unikernels that run.
fn open_taps(options: &Options, state: &State, survivors: &[Survivor]) -> Result<Taps, HostError> {
    let running = survivors.iter().map(|survivor| {
        let mut recorded = state.unikernels.iter();
        let recorded = recorded.find(|recorded| recorded.name == survivor.name);
        let version = recorded.map(|recorded| &recorded.version);
        let known = version.filter(|version| version.key() == survivor.key);
        (&survivor.name, known.map(|version| &version.config))
    });
    Taps::open(&options.dbdir, options.lock_mac, running).map_err(HostError::Taps)
}

/// Loads the state from disk; a state file of albatross is imported.
fn load(store: &mut Store, images: &ImageStore, system: &System) -> Result<State, HostError> {
    let (content, complete) = match store.load().map_err(HostError::Store)? {
        StateSource::Nothing => return Ok(State::default()),
        StateSource::Present(content, _) => (content, true),
        StateSource::Fallback(content, _) => (content, false),
    };
    match content {
        Content::Native(state) => {
            // A file that was set aside may refer to further images.
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

/// Namespace of machines, or why there are none.
fn naming(machines: &Result<Machines, &'static str>) -> Result<Owner, &'static str> {
    let machines = machines.as_ref();
    machines
        .map(|machines| machines.owner().clone())
        .map_err(|why| *why)
}

/// Opens the BHyve machines. Those without a running tender are destroyed.
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

/// Number that differs from one start to the next.
fn seed() -> u32 {
    daemon::wall_clock().subsec_nanos() ^ std::process::id()
}
