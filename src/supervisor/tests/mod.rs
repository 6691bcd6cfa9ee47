//! The life of unikernels, played against a host that is a few lines of test.

mod addresses;
mod blocks;
mod disk;
mod host;
mod machines;
mod policies;
mod requests;
mod restarts;
mod standing;
mod successor;
mod weaknesses;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::fixtures::{config, settings};
use super::*;
use crate::elf::test_image::Image;
use crate::manifest::Manifest;
use crate::name::Path;
use crate::unikernel::{Block, Death, FailBehaviour, Net};
use crate::wire::{
    BlockCommand, Bytes, ConsoleCommand, DatedPolicy, Header, Policy as WirePolicy, Restart,
    StatsCommand, Text, extensions,
};

/// A host that carries out what it can at once, and can be told to fail.
struct World {
    supervisor: Supervisor,
    clock: Duration,
    answers: Vec<(ConnectionId, Payload, bool)>,
    alive: Vec<(RunId, Name, Config)>,
    announced: Vec<Name>,
    /// How many consoles are kept, as was announced last.
    console_limit: i64,
    /// Bytes that the archives of each tenant may take, as last told.
    archive_bounds: BTreeMap<Path, u64>,
    observers: Vec<(ConnectionId, Header)>,
    saved: State,
    images: Vec<ImageDigest>,
    /// Those that were sent to clients.
    sent: Vec<ImageDigest>,
    timers: Vec<(Duration, Timer)>,
    connections: u64,
    done: bool,
    /// Failures to come, by the effect's name.
    fail: Vec<&'static str>,
    /// Whether tenders obey SIGTERM.
    obedient: bool,
    /// Images arrive only when a test says so.
    slow_upload: bool,
    /// Bytes of each image that arrives.
    image_size: u64,
    /// Uploads that may go on, or why not.
    granted: Vec<(UploadId, Result<(), String>)>,
    uploads: Vec<UploadId>,
    /// Results of these effects come only when a test says so.
    hold: Vec<&'static str>,
    held: VecDeque<Event>,
    staged: usize,
    /// Images have a block device.
    device: bool,
    /// Images have so many network devices, `net0` and so on.
    nets: usize,
    /// The block devices on disk, in MB.
    devices: BTreeMap<Name, u64>,
    /// What is sent or received until a test says that it ends.
    streams: Vec<(TaskId, Name, BlockWork)>,
    /// As the records of runs have it.
    histories: BTreeMap<Name, History>,
    stopping: BTreeSet<RunId>,
    /// The records of those that wait for their next start.
    waiting: BTreeMap<Name, ([u8; 32], History)>,
    /// What the host has when it is looked at.
    host: Policy,
}

impl World {
    fn new() -> Self {
        Self::with(State::default())
    }

    fn with(state: State) -> Self {
        Self {
            supervisor: Supervisor::new(state.clone(), Vec::new(), settings()),
            clock: Duration::ZERO,
            answers: Vec::new(),
            alive: Vec::new(),
            announced: Vec::new(),
            console_limit: 0,
            archive_bounds: BTreeMap::new(),
            observers: Vec::new(),
            images: state.images().collect(),
            saved: state,
            sent: Vec::new(),
            timers: Vec::new(),
            connections: 0,
            done: false,
            fail: Vec::new(),
            obedient: true,
            slow_upload: false,
            image_size: 1,
            granted: Vec::new(),
            uploads: Vec::new(),
            hold: Vec::new(),
            held: VecDeque::new(),
            staged: 0,
            device: false,
            nets: 0,
            devices: BTreeMap::new(),
            streams: Vec::new(),
            histories: BTreeMap::new(),
            stopping: BTreeSet::new(),
            waiting: BTreeMap::new(),
            host: settings().resources,
        }
    }

    /// This is the policy of the root.
    fn host_has(&mut self, unikernels: u64, memory: u64) {
        let has = Policy {
            unikernels,
            memory,
            ..settings().resources
        };
        self.host = has.clone();
        let Supervisor {
            ledger,
            acknowledged,
            ..
        } = &mut self.supervisor;
        for ledger in [ledger, acknowledged] {
            ledger.reset(Path::ROOT, Some(has.clone()));
        }
    }

    /// The host has these bridges, and they are known.
    fn host_has_bridges(&mut self, bridges: BTreeSet<String>) {
        self.host.bridges = bridges;
        let found = Ok(self.host.clone());
        self.happen(Event::HostResources(found));
    }

    fn fails(&mut self, effect: &str) -> Result<(), String> {
        match self.fail.iter().position(|name| *name == effect) {
            Some(index) => Err(format!("{} failed", self.fail.remove(index))),
            None => Ok(()),
        }
    }

    fn happen(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = Moment {
                monotonic: self.clock,
                wall: Timestamp::from_unix(i64::try_from(self.clock.as_secs()).unwrap(), 0),
            };
            for effect in self.supervisor.handle(&now, event) {
                self.carry_out(effect, &mut events);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Answer { to, message, close } => {
                self.answers.push((to, message.payload, close));
            }
            Effect::Remember {
                name,
                version,
                history,
            } => drop(self.waiting.insert(name, (version.key(), history))),
            Effect::Forget(name) => drop(self.waiting.remove(&name)),
            Effect::SendImage { image, .. } => self.sent.push(image),
            Effect::Release(_) => {}
            Effect::DiscardImage(_) => self.staged = self.staged.saturating_sub(1),
            Effect::ReceiveImage { upload, .. } => events.extend(self.receive(upload)),
            Effect::GrantUpload { upload } => self.granted.push((upload, Ok(()))),
            Effect::RefuseUpload { upload, why } => events.push_back(self.refuse(upload, why)),
            Effect::Inspect { name, version, .. } => {
                let declared = version.stored_image().map(|_| self.manifest());
                let result = self.fails("inspect").map(|()| declared);
                self.result("inspect", Event::Inspected { name, result }, events);
            }
            Effect::Prepare {
                name,
                version,
                staged,
            } => {
                self.images.extend(version.stored_image());
                self.staged -= usize::from(staged.is_some());
                let result = self.fails("prepare");
                self.result("prepare", Event::Prepared { name, result }, events);
            }
            Effect::Announce { name, call, limit } => {
                self.console_limit = limit.get();
                self.announced.push(name.clone());
                let result = self.fails("announce");
                self.result("announce", Event::Announced { name, call, result }, events);
            }
            Effect::BoundArchives { tenant, bytes } => {
                self.archive_bounds.insert(tenant, bytes);
            }
            Effect::Spawn {
                run,
                name,
                version,
                history,
            } => {
                let result = self.fails("spawn");
                if result.is_ok() {
                    self.alive.push((run, name.clone(), version.config.clone()));
                    self.histories.insert(name, history);
                }
                self.result("spawn", Event::Spawned { run, result }, events);
            }
            Effect::Block { task, name, work } => match work {
                BlockWork::Make(_) | BlockWork::Remove => {
                    let event = self.block_event(task, &name, &work);
                    self.result("block", event, events);
                }
                BlockWork::Receive(_) | BlockWork::Send { .. } => {
                    self.streams.push((task, name, work));
                }
            },
            Effect::EndBlock(ended) => {
                let mut streams = self.streams.iter();
                if let Some(at) = streams.position(|(task, ..)| *task == ended) {
                    let (task, name, work) = self.streams.remove(at);
                    self.fail.push("block");
                    let event = self.block_event(task, &name, &work);
                    events.push_back(event);
                }
            }
            Effect::Signal { run, kill } => {
                self.stopping.insert(run);
                let before = self.alive.len();
                if kill || self.obedient {
                    self.alive.retain(|(alive, _, _)| *alive != run);
                }
                if self.alive.len() < before {
                    events.push_back(Event::Exited {
                        run,
                        death: Death::Signal(15),
                    });
                }
            }
            Effect::Wake { after, timer } => self.timers.push((self.clock + after, timer)),
            Effect::Persist { ticket, state } => {
                let result = self.fails("persist");
                if result.is_ok() {
                    self.saved = state;
                }
                self.result("persist", Event::Persisted { ticket, result }, events);
            }
            Effect::RemoveImage(image) => self.images.retain(|kept| *kept != image),
            Effect::LookAtHost => {
                let result = self.fails("look").map(|()| self.host.clone());
                self.result("look", Event::HostResources(result), events);
            }
            Effect::Observe { by, header, .. } => self.observers.push((by, header)),
            Effect::Exit => self.done = true,
        }
    }

    /// What comes of a task, which is done now.
    fn block_event(&mut self, task: TaskId, name: &Name, work: &BlockWork) -> Event {
        let result = self.fails("block");
        match work {
            _ if result.is_err() => {}
            BlockWork::Make(size) | BlockWork::Receive(BlockContent { size, .. }) => {
                self.devices.insert(name.clone(), *size);
            }
            BlockWork::Remove => drop(self.devices.remove(name)),
            BlockWork::Send { .. } => {}
        }
        let left = self.devices.get(name).copied();
        Event::Block { task, result, left }
    }

    /// The oldest of the streams comes to its end.
    fn end_stream(&mut self) {
        let (task, name, work) = self.streams.remove(0);
        let event = self.block_event(task, &name, &work);
        self.happen(event);
    }

    fn result(&mut self, effect: &str, event: Event, events: &mut VecDeque<Event>) {
        if self.hold.contains(&effect) {
            self.held.push_back(event);
        } else {
            events.push_back(event);
        }
    }

    /// The oldest result that was held back arrives.
    fn release(&mut self) {
        let event = self.held.pop_front().unwrap();
        self.happen(event);
    }

    /// What images declare.
    fn manifest(&self) -> Manifest {
        const BLOCK: u32 = 1;
        const NET: u32 = 2;
        let nets: Vec<_> = (0..self.nets)
            .map(|number| format!("net{number}"))
            .collect();
        let nets = nets.iter().map(|name| (name.as_str(), NET));
        let block = self.device.then_some(("data", BLOCK));
        let devices: Vec<_> = block.into_iter().chain(nets).collect();
        Manifest::read(&mut std::io::Cursor::new(Image::solo5(2, &devices).build())).unwrap()
    }

    /// An upload begins, and is over at once unless a test wants to say so.
    fn receive(&mut self, upload: UploadId) -> Option<Event> {
        if self.slow_upload {
            self.uploads.push(upload);
            return None;
        }
        Some(self.upload(upload))
    }

    /// An upload may not go on.
    fn refuse(&mut self, upload: UploadId, why: String) -> Event {
        self.granted.push((upload, Err(why.clone())));
        let result = Err(why);
        Event::Staged { upload, result }
    }

    fn upload(&mut self, upload: UploadId) -> Event {
        let result = self.fails("upload").map(|()| StagedImage {
            digest: ImageDigest([self.connections.to_le_bytes()[0]; 32]),
            manifest: self.manifest(),
            size: self.image_size,
        });
        self.staged += usize::from(result.is_ok());
        Event::Staged { upload, result }
    }

    fn ask(&mut self, name: &str, command: Command) -> ConnectionId {
        self.connections += 1;
        let from = ConnectionId(self.connections);
        let message = Message::command(0, &name.parse().unwrap(), command);
        self.happen(Event::Message { from, message });
        from
    }

    /// Asks, and returns the text of the one answer.
    fn answer(&mut self, name: &str, command: Command) -> Result<String, String> {
        let from = self.ask(name, command);
        let answers: Vec<_> = self
            .answers
            .extract_if(.., |(to, _, _)| *to == from)
            .collect();
        match &answers[..] {
            [(_, Payload::Reply(Success::String(text)), _)] => Ok(text.to_lossy()),
            [(_, Payload::Reply(Success::ChainSet(kept)), false)] => {
                let kept: Vec<_> = kept.iter().map(Text::to_lossy).collect();
                Ok(format!("set, kept: {}", kept.join(",")))
            }
            [(_, Payload::Failure(text), true)] => Err(text.to_lossy()),
            other => panic!("not one answer: {other:?}"),
        }
    }

    /// What is told of one unikernel.
    fn details(&mut self, name: &str) -> extensions::Details {
        let from = self.ask(name, Command::Unikernel(UnikernelCommand::Details(())));
        let answer = self.answers.extract_if(.., |(to, _, _)| *to == from).next();
        match answer {
            Some((_, Payload::Reply(Success::UnikernelDetails(mut told)), true)) => {
                assert_eq!(told.len(), 1);
                told.remove(0).details
            }
            other => panic!("another answer: {other:?}"),
        }
    }

    /// The memory of those that run.
    fn memories(&self) -> Vec<u32> {
        let alive = self.alive.iter();
        alive.map(|(_, _, config)| config.memory).collect()
    }

    /// The supervisor is killed, and another one starts, while the tenders live on.
    fn crash(&mut self) {
        let survivors = self.alive.iter().map(|(run, name, config)| {
            let recorded = self.saved.unikernels.iter();
            let mut image = recorded
                .filter(|recorded| recorded.name == *name)
                .map(|recorded| recorded.version.image);
            let version = Version {
                config: config.clone(),
                image: image.next().unwrap_or(ImageDigest([1; 32])),
            };
            Survivor {
                run: *run,
                name: name.clone(),
                key: version.key(),
                since: Timestamp::from_unix(7, 0),
                // At most: they were started after it.
                age: self.clock,
                history: self.histories.get(name).cloned().unwrap_or_default(),
                stopping: self.stopping.contains(run),
            }
        });
        let survivors = survivors.collect();
        let settings = Settings {
            histories: self.waiting.clone(),
            ..settings()
        };
        self.supervisor = Supervisor::new(self.saved.clone(), survivors, settings);
        self.timers.clear();
        self.happen(Event::Boot);
    }

    fn create(&mut self, name: &str) -> Result<String, String> {
        self.answer(name, create(&config(), false))
    }

    fn pass(&mut self, time: Duration) {
        self.clock += time;
        let clock = self.clock;
        let due: Vec<_> = self.timers.extract_if(.., |(at, _)| *at <= clock).collect();
        for (_, timer) in due {
            self.happen(Event::Timer(timer));
        }
    }

    /// The only tender that is alive ends by itself.
    fn die(&mut self, death: Death) {
        let (run, _, _) = self.alive.pop().unwrap();
        self.happen(Event::Exited { run, death });
    }

    /// What is to run, or was stopped, on disk.
    fn names_saved(&self) -> Vec<String> {
        let saved = self.saved.unikernels.iter();
        saved
            .filter(|recorded| !matches!(recorded.standing, DesiredState::Ended(_)))
            .map(|recorded| recorded.name.to_string())
            .collect()
    }

    /// The paths with a policy on disk, but for the root.
    fn paths_saved(&self) -> Vec<String> {
        let paths = self.saved.policies.iter().map(|(path, _)| path);
        paths
            .filter(|path| !path.is_root())
            .map(ToString::to_string)
            .collect()
    }

    fn names_alive(&self) -> Vec<String> {
        self.alive
            .iter()
            .map(|(_, name, _)| name.to_string())
            .collect()
    }
}

fn recorded(name: &str, config: Config) -> Arc<Recorded> {
    Arc::new(Recorded {
        name: name.parse().unwrap(),
        version: Arc::new(Version {
            config,
            image: ImageDigest([1; 32]),
        }),
        previous: None,
        standing: DesiredState::Up,
    })
}

fn create(config: &Config, force: bool) -> Command {
    let wire = config.to_wire(false, Vec::new());
    Command::Unikernel(if force {
        UnikernelCommand::ForceCreate(wire)
    } else {
        UnikernelCommand::Create(wire)
    })
}

fn restart(config: &Config) -> Command {
    let arguments = Restart::NewArguments(config.to_wire_arguments());
    Command::Unikernel(UnikernelCommand::Restart(arguments))
}

fn with_memory(memory: u32) -> Config {
    Config { memory, ..config() }
}

const STOP: Command = Command::Unikernel(UnikernelCommand::Stop(()));

const START: Command = Command::Unikernel(UnikernelCommand::Start(()));

const ROLLBACK: Command = Command::Unikernel(UnikernelCommand::Rollback(()));

const RESTART: Command = Command::Unikernel(UnikernelCommand::Restart(Restart::NoArguments(())));

const DESTROY: Command = Command::Unikernel(UnikernelCommand::Destroy(()));

fn policy(unikernels: u64, memory: u64) -> Command {
    let policy = Policy {
        unikernels,
        cpus: [0].into(),
        memory,
        block: None,
        bridges: [].into(),
    };
    Command::Policy(PolicyCommand::Add(WirePolicy::from(&policy)))
}

fn block(command: BlockCommand) -> Command {
    Command::Block(command)
}
