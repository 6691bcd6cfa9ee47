//! The life of unikernels, played against a host that is a few lines of test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::fixtures::{config, settings};
use super::*;
use crate::elf::test_image::Image;
use crate::manifest::Manifest;
use crate::unikernel::{Block, Death, FailBehaviour, Net};
use crate::wire::{
    BlockCommand, ConsoleCommand, DatedPolicy, Header, Octets, Policy as WirePolicy, Restart,
    StatsCommand,
};
use crate::wire::{POLICY_KEPT, own};

/// A host that carries out what it can at once, and can be told to fail.
struct World {
    supervisor: Supervisor,
    clock: Duration,
    answers: Vec<(ConnectionId, Payload, bool)>,
    alive: Vec<(RunId, Name, Config)>,
    announced: Vec<Name>,
    observers: Vec<(ConnectionId, Header)>,
    saved: State,
    images: Vec<ImageDigest>,
    timers: Vec<(Duration, Timer)>,
    connections: u64,
    done: bool,
    /// Failures to come, by the effect's name.
    fail: Vec<&'static str>,
    /// Whether tenders obey SIGTERM.
    obedient: bool,
    /// Images arrive only when a test says so.
    slow_upload: bool,
    uploads: Vec<UploadId>,
    /// Results of these effects come only when a test says so.
    hold: Vec<&'static str>,
    held: VecDeque<Event>,
    staged: usize,
    /// Images have a block device.
    device: bool,
    /// The block devices on disk, in MB.
    devices: BTreeMap<Name, u64>,
    /// What is sent or received until a test says that it ends.
    streams: Vec<(TaskId, Name, BlockWork)>,
    /// As the records of runs have it.
    histories: BTreeMap<Name, History>,
    stopping: BTreeSet<RunId>,
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
            observers: Vec::new(),
            images: state.images().collect(),
            saved: state,
            timers: Vec::new(),
            connections: 0,
            done: false,
            fail: Vec::new(),
            obedient: true,
            slow_upload: false,
            uploads: Vec::new(),
            hold: Vec::new(),
            held: VecDeque::new(),
            staged: 0,
            device: false,
            devices: BTreeMap::new(),
            streams: Vec::new(),
            histories: BTreeMap::new(),
            stopping: BTreeSet::new(),
        }
    }

    /// This is the policy of the root.
    fn host_has(&mut self, unikernels: u64, memory: u64) {
        let has = Policy {
            unikernels,
            memory,
            ..settings().resources
        };
        let Supervisor {
            ledger,
            acknowledged,
            ..
        } = &mut self.supervisor;
        for ledger in [ledger, acknowledged] {
            ledger.reset(crate::name::Path::ROOT, Some(has.clone()));
        }
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
            Effect::SendImage { .. } | Effect::Release(_) => {}
            Effect::DiscardImage(_) => self.staged = self.staged.saturating_sub(1),
            Effect::ReceiveImage { upload, .. } => {
                if self.slow_upload {
                    self.uploads.push(upload);
                } else {
                    events.push_back(self.upload(upload));
                }
            }
            Effect::Inspect { name, version, .. } => {
                let declared = version.stored_image().map(|_| manifest(self.device));
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
            Effect::Announce { name, call, .. } => {
                self.announced.push(name.clone());
                let result = self.fails("announce");
                self.result("announce", Event::Announced { name, call, result }, events);
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

    fn upload(&mut self, upload: UploadId) -> Event {
        let result = self.fails("upload").map(|()| StagedImage {
            digest: ImageDigest([self.connections.to_le_bytes()[0]; 32]),
            manifest: manifest(self.device),
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
            [(_, Payload::Failure(text), true)] => Err(text.to_lossy()),
            other => panic!("not one answer: {other:?}"),
        }
    }

    /// What is told of one unikernel.
    fn details(&mut self, name: &str) -> own::Details {
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
        self.supervisor = Supervisor::new(self.saved.clone(), survivors, settings());
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
            .filter(|recorded| !matches!(recorded.standing, Standing::Ended(_)))
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

/// That of an image with the block device `data`, or of one without any.
fn manifest(device: bool) -> Manifest {
    let devices: &[_] = if device { &[("data", 1)] } else { &[] };
    Manifest::read(&mut std::io::Cursor::new(Image::solo5(2, devices).build())).unwrap()
}

fn recorded(name: &str, config: Config) -> Arc<Recorded> {
    Arc::new(Recorded {
        name: name.parse().unwrap(),
        version: Arc::new(Version {
            config,
            image: ImageDigest([1; 32]),
        }),
        previous: None,
        standing: Standing::Up,
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

#[test]
fn a_created_unikernel_runs_and_is_recorded_and_a_destroyed_one_is_neither() {
    let mut world = World::new();
    assert_eq!(world.create(":a"), Ok("created unikernel".into()));
    assert_eq!(world.names_alive(), [":a"]);
    assert_eq!(world.names_saved(), [":a"]);
    assert_eq!(
        world.answer(":a", DESTROY),
        Ok("destroyed unikernel".into())
    );
    assert!(world.alive.is_empty() && world.saved.unikernels.is_empty());
    assert!(world.images.is_empty());
    assert!(world.answer(":a", DESTROY).is_err());
}

#[test]
fn a_name_is_taken_once() {
    let mut world = World::new();
    world.create(":a").unwrap();
    assert!(world.create(":a").unwrap_err().contains("already"));
    assert!(world.create("a:").unwrap_err().contains("path"));
}

#[test]
fn what_fails_on_the_way_leaves_nothing_behind() {
    for step in [
        "upload", "inspect", "prepare", "announce", "spawn", "persist",
    ] {
        let mut world = World::new();
        world.fail = vec![step];
        let why = world.create(":a").unwrap_err();
        assert!(why.contains(step), "{step}: {why}");
        assert!(
            world.alive.is_empty() && world.saved.unikernels.is_empty(),
            "{step}"
        );
        assert!(world.images.is_empty() && world.staged == 0, "{step}");
        assert_eq!(world.create(":a"), Ok("created unikernel".into()), "{step}");
    }
}

#[test]
fn a_failed_replacement_brings_the_previous_instance_back() {
    for step in ["prepare", "announce", "spawn", "persist"] {
        let mut world = World::new();
        world.create(":a").unwrap();
        world.fail = vec![step];
        let bigger = Config {
            memory: 64,
            ..config()
        };
        let why = world.answer(":a", create(&bigger, true)).unwrap_err();
        assert!(why.contains(step), "{step}: {why}");
        let memories: Vec<_> = world
            .alive
            .iter()
            .map(|(_, _, config)| config.memory)
            .collect();
        assert_eq!(memories, [config().memory], "{step}");
        assert_eq!(world.saved.unikernels[0].version.config, config(), "{step}");
        assert_eq!(world.images.len(), 2, "{step}: prepared twice, once each");
    }
}

#[test]
fn a_refused_replacement_leaves_the_running_one_alone() {
    let mut world = World::new();
    world.host_has(1, 32);
    world.create(":a").unwrap();
    let before = world.alive[0].0;
    let bigger = Config {
        memory: 64,
        ..config()
    };
    assert!(
        world
            .answer(":a", create(&bigger, true))
            .unwrap_err()
            .contains("64 MB")
    );
    for step in ["upload", "inspect"] {
        world.fail = vec![step];
        assert!(world.answer(":a", create(&config(), true)).is_err());
        assert_eq!((world.alive[0].0, world.staged), (before, 0), "{step}");
    }
    // What the host lacks for a restart is found before, too.
    world.fail = vec!["inspect"];
    assert!(world.answer(":a", RESTART).is_err());
    assert_eq!(world.alive[0].0, before);
}

#[test]
fn a_device_cannot_be_given_twice() {
    let net = |bridge: &str| Net {
        device: "service".to_owned(),
        bridge: Some(bridge.to_owned()),
        mac: None,
    };
    let mut settings = settings();
    settings.resources.bridges = ["one", "two"].map(str::to_owned).into();
    let mut world = World::new();
    world.supervisor = Supervisor::new(State::default(), Vec::new(), settings);
    let config = Config {
        nets: vec![net("one"), net("two")],
        ..config()
    };
    assert_eq!(
        world.answer(":a", create(&config, false)),
        Err("device 'service' is given twice".into())
    );
    assert_eq!(world.staged, 0);
}

#[test]
fn a_replacement_counts_once() {
    let mut world = World::new();
    world.host_has(1, 32);
    world.create(":a").unwrap();
    assert_eq!(
        world.answer(":a", create(&config(), true)),
        Ok("created unikernel".into())
    );
    assert_eq!(world.names_alive(), [":a"]);
    assert!(world.create(":b").unwrap_err().contains("1 unikernels"));
}

#[test]
fn a_tender_that_does_not_stop_is_killed_and_the_answer_waits_for_its_end() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.obedient = false;
    let from = world.ask(":a", DESTROY);
    assert!(world.answers.iter().all(|(to, _, _)| *to != from));
    world.pass(STOP_DEADLINE);
    assert!(world.alive.is_empty());
    assert!(world.answers.iter().any(|(to, _, _)| *to == from));
}

#[test]
fn requests_for_the_same_name_wait_for_each_other() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.obedient = false;
    let destroyed = world.ask(":a", DESTROY);
    let created = world.ask(":a", create(&config(), false));
    let again = world.ask(":a", DESTROY);
    world.answers.clear();
    world.pass(STOP_DEADLINE);
    world.pass(STOP_DEADLINE);
    let order: Vec<_> = world.answers.iter().map(|(to, _, _)| *to).collect();
    assert_eq!(order, [destroyed, created, again]);
}

#[test]
fn a_client_that_leaves_during_its_upload_takes_the_request_with_it() {
    let mut world = World::new();
    world.slow_upload = true;
    let from = world.ask(":a", create(&config(), false));
    world.happen(Event::Closed(from));
    assert_eq!(world.staged, 0);
    let upload = world.uploads.remove(0);
    let late = world.upload(upload);
    world.happen(late);
    assert_eq!(world.staged, 0);
    assert!(world.alive.is_empty() && world.answers.is_empty());
    world.slow_upload = false;
    assert!(world.create(":a").is_ok());
}

#[test]
fn two_uploads_cannot_share_the_last_place() {
    let mut world = World::new();
    world.host_has(1, 64);
    world.slow_upload = true;
    world.ask(":a", create(&config(), false));
    world.ask(":b", create(&config(), false));
    for upload in std::mem::take(&mut world.uploads) {
        let image = world.upload(upload);
        world.happen(image);
    }
    assert_eq!(world.staged, 0);
    assert_eq!(world.names_alive(), [":a"]);
    assert!(
        world
            .answers
            .iter()
            .any(|(_, payload, _)| matches!(payload, Payload::Failure(_)))
    );
}

#[test]
fn deaths_follow_the_restart_policy_and_the_back_off() {
    let mut world = World::new();
    let again = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..config()
    };
    world.answer(":a", create(&again, false)).unwrap();
    for round in 1..4 {
        world.die(Death::Signal(11));
        assert!(world.alive.is_empty());
        assert_eq!(world.names_saved(), [":a"]);
        world.pass(restart::SHORTEST_WAIT / 2);
        assert!(world.alive.is_empty(), "round {round}: too early");
        world.pass(restart::LONGEST_WAIT);
        assert_eq!(world.names_alive(), [":a"], "round {round}");
    }
    world.die(Death::Exit(1));
    assert!(world.names_saved().is_empty());
}

#[test]
fn an_unknown_name_argument_is_left_out_once() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.die(Death::Exit(64));
    world.pass(restart::LONGEST_WAIT);
    assert!(!world.alive[0].2.add_name);
    world.die(Death::Exit(64));
    world.pass(restart::LONGEST_WAIT);
    assert!(world.alive.is_empty() && world.names_saved().is_empty());
}

#[test]
fn one_that_waits_for_its_restart_can_be_destroyed() {
    let mut world = World::new();
    let again = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..config()
    };
    world.answer(":a", create(&again, false)).unwrap();
    world.die(Death::Exit(2));
    assert_eq!(
        world.answer(":a", DESTROY),
        Ok("destroyed: removed from restarting".into())
    );
    world.pass(restart::LONGEST_WAIT * 2);
    assert!(world.alive.is_empty() && world.saved.unikernels.is_empty());
}

#[test]
fn what_is_stored_starts_again_in_its_order_and_stops_in_reverse() {
    let at = |startup| Config {
        startup: Some(startup),
        ..config()
    };
    let state = State {
        unikernels: vec![
            recorded(":late", at(60)),
            recorded(":middle", config()),
            recorded(":early", at(1)),
        ],
        ..State::default()
    };
    let mut world = World::with(state.clone());
    world.happen(Event::Boot);
    assert_eq!(world.names_alive(), [":early", ":middle", ":late"]);
    world.happen(Event::Terminate);
    assert!(world.done && world.alive.is_empty());
    assert_eq!(world.saved.unikernels.len(), state.unikernels.len());
}

#[test]
fn one_that_cannot_start_at_boot_stays_in_the_state_and_is_tried_again() {
    let state = State {
        unikernels: vec![recorded(":a", config())],
        ..State::default()
    };
    let mut world = World::with(state);
    world.fail = vec!["announce", "spawn"];
    world.happen(Event::Boot);
    assert!(world.alive.is_empty());
    world.pass(restart::LONGEST_WAIT);
    assert!(world.alive.is_empty());
    world.pass(restart::LONGEST_WAIT);
    assert_eq!(world.names_alive(), [":a"]);
    assert_eq!(world.names_saved(), [":a"]);
}

#[test]
fn a_stopping_supervisor_refuses_and_ends_when_all_is_down() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.obedient = false;
    world.happen(Event::Terminate);
    assert!(!world.done);
    assert!(world.create(":b").unwrap_err().contains("stopping"));
    world.pass(STOP_DEADLINE);
    assert!(world.done);
    assert_eq!(world.names_saved(), [":a"]);
}

#[test]
fn a_console_daemon_that_comes_back_is_told_of_all_that_runs() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.create("b:c").unwrap();
    world.announced.clear();
    world.happen(Event::ConsoleUp);
    assert_eq!(world.announced.len(), 2);
}

#[test]
fn policies_are_recorded_before_they_are_acknowledged() {
    let mut world = World::new();
    assert_eq!(world.answer("a:", policy(1, 32)), Ok("added policy".into()));
    assert_eq!(
        world.answer("a:", policy(1, 32)),
        Ok("no modification of policy".into())
    );
    world.fail = vec!["persist"];
    assert!(world.answer("a:", policy(2, 64)).is_err());
    world.pass(SAVE_RETRY);
    assert_eq!(
        world.answer("a:", policy(1, 32)),
        Ok("no modification of policy".into())
    );
    let remove = || Command::Policy(PolicyCommand::Remove(()));
    assert_eq!(world.answer("a:", remove()), Ok("removed policy".into()));
    assert!(world.answer("a:", remove()).is_err());
    assert!(world.paths_saved().is_empty());
}

#[test]
fn the_policy_of_the_root_is_neither_changed_nor_removed() {
    let mut world = World::new();
    let add = |policy: &Policy| Command::Policy(PolicyCommand::Add(policy.into()));
    let host = settings().resources;
    assert_eq!(
        world.answer(":", add(&host)),
        Ok("no modification of policy".into())
    );
    let smaller = Policy { memory: 1, ..host };
    let remove = Command::Policy(PolicyCommand::Remove(()));
    for command in [add(&smaller), dated(1, 1, b"a"), remove] {
        let why = world.answer(":", command).unwrap_err();
        assert!(why.contains("what the host has"), "{why}");
    }
    world.create(":a").unwrap();
}

/// The policy of a certificate for one unikernel.
fn dated(memory: u64, not_before: i64, serial: &[u8]) -> Command {
    let Command::Policy(PolicyCommand::Add(policy)) = policy(1, memory) else {
        unreachable!()
    };
    Command::Policy(PolicyCommand::AddDated(DatedPolicy {
        policy,
        not_before: Int::new(not_before),
        serial: Octets(serial.to_vec()),
    }))
}

#[test]
fn an_older_certificate_never_brings_its_policy_back() {
    let (added, kept) = (Ok("added policy".into()), Ok(POLICY_KEPT.into()));
    let mut world = World::new();
    assert_eq!(world.answer("a:", dated(64, 100, &[5])), added);
    assert_eq!(world.answer("a:", dated(32, 100, &[4])), kept);
    assert_eq!(world.answer("a:", dated(32, 99, &[9])), kept);
    // The same certificate again, and another one with what is in force.
    let same = Ok("no modification of policy".into());
    assert_eq!(world.answer("a:", dated(64, 100, &[5])), same);
    assert_eq!(world.answer("a:", dated(64, 1, &[5])), same);
    assert_eq!(world.answer("a:", dated(96, 100, &[0, 0xff])), added);
    assert_eq!(world.answer("a:", dated(64, 100, &[5])), kept);
    // Another path has another memory.
    assert_eq!(world.answer("b:", dated(32, 1, &[1])), added);

    let remove = Command::Policy(PolicyCommand::Remove(()));
    world.answer("a:", remove).unwrap();
    // Nothing would bound what follows.
    let refused = world.answer("a:", dated(64, 100, &[5]));
    assert!(refused.unwrap_err().contains("newer one is needed"));
    let mut world = World::with(world.saved);
    assert!(world.answer("a:", dated(64, 100, &[5])).is_err());
    assert_eq!(world.paths_saved(), ["b:"]);
    assert_eq!(world.answer("a:", dated(96, 100, &[0xff])), added);
}

#[test]
fn a_policy_given_without_a_certificate_is_neither_old_nor_new() {
    let mut world = World::new();
    world.answer("a:", dated(64, 100, &[5])).unwrap();
    let added = Ok("added policy".into());
    assert_eq!(world.answer("a:", policy(1, 32)), added);
    assert_eq!(
        world.answer("a:", dated(64, 99, &[5])),
        Ok(POLICY_KEPT.into())
    );
    assert_eq!(world.answer("a:", dated(64, 100, &[5])), added);
}

#[test]
fn a_certificate_whose_policy_is_refused_is_not_remembered() {
    let mut world = World::new();
    world.answer("a:", policy(1, 32)).unwrap();
    assert!(world.answer("a:b:", dated(64, 100, &[5])).is_err());
    assert_eq!(
        world.answer("a:b:", dated(32, 99, &[5])),
        Ok("added policy".into())
    );
    let long = world.answer("a:b:", dated(32, 100, &[1; 21]));
    assert!(long.unwrap_err().contains("serial number"));
}

#[test]
fn fresh_certificates_with_the_same_policy_are_recorded_once_a_minute() {
    let mut world = World::new();
    world.answer("a:", dated(64, 1000, &[5])).unwrap();
    let mut written = 0;
    for second in 1001..1301 {
        let before = world.saved.clone();
        world.answer("a:", dated(64, second, &[5])).unwrap();
        written += usize::from(world.saved != before);
        // Whatever was recorded, an older certificate does not win after a crash.
        let mut after = World::with(world.saved.clone());
        let older = after.answer("a:", dated(32, second - 1, &[5]));
        assert_eq!(older, Ok(POLICY_KEPT.into()), "{second}");
    }
    assert_eq!(written, 5);
}

#[test]
fn only_an_added_policy_keeps_the_conversation_open() {
    let mut world = World::new();
    world.ask("a:", policy(1, 32));
    assert!(matches!(
        world.answers.last(),
        Some((_, Payload::Reply(_), false))
    ));
    world.ask("a:", Command::Policy(PolicyCommand::Remove(())));
    assert!(matches!(
        world.answers.last(),
        Some((_, Payload::Reply(_), true))
    ));
}

#[test]
fn commands_of_other_daemons_are_refused() {
    let mut world = World::new();
    for command in [
        Command::Console(ConsoleCommand::Inactive(())),
        Command::Statistics(StatsCommand::Subscribe(())),
    ] {
        assert_eq!(world.answer(":", command), Err("unknown command".into()));
    }
}

#[test]
fn whoever_introduces_itself_observes_and_asks_nothing_more() {
    let mut world = World::new();
    let command = Command::Statistics(StatsCommand::Initial(()));
    world.ask(":", command);
    assert!(world.answers.is_empty());
    assert_eq!(world.observers.len(), 1);
    assert_eq!(world.observers[0].1.name, ":".into());
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let mut world = World::new();
    for level in [-1, 10, i64::MAX] {
        let get = Command::Unikernel(UnikernelCommand::Get(Int::new(level)));
        assert!(world.answer(":a", get).unwrap_err().contains("level"));
    }
    let mut wire = config().to_wire(false, Vec::new());
    wire.memory = Int::new(-5);
    let create = Command::Unikernel(UnikernelCommand::Create(wire));
    assert!(
        world
            .answer(":a", create)
            .unwrap_err()
            .contains("memory -5")
    );
}

/// A world in which `:a` with 30 MB runs, and a replacement with 20 MB waits for the result of `held`.
fn replacement_at(held: &'static str) -> (World, ConnectionId) {
    let mut world = World::new();
    let first = Config {
        memory: 30,
        ..config()
    };
    world.answer(":a", create(&first, false)).unwrap();
    world.hold = vec![held];
    let second = Config {
        memory: 20,
        ..config()
    };
    let asked = world.ask(":a", create(&second, true));
    assert_eq!(world.held.len(), 1, "{held}");
    (world, asked)
}

fn fail_held(world: &mut World) {
    let mut event = world.held.pop_front().unwrap();
    match &mut event {
        Event::Prepared { result, .. }
        | Event::Announced { result, .. }
        | Event::Spawned { result, .. }
        | Event::Persisted { result, .. } => *result = Err("no".into()),
        other => panic!("{other:?}"),
    }
    world.hold.clear();
    world.happen(event);
}

#[test]
fn what_is_not_acknowledged_yet_is_not_recorded_by_others() {
    for step in ["prepare", "announce", "spawn"] {
        let (mut world, _) = replacement_at(step);
        world.ask("b:", policy(1, 50));
        assert_eq!(world.paths_saved(), ["b:"]);
        assert_eq!(
            world.saved.unikernels[0].version.config.memory, 30,
            "{step}"
        );
        world.alive.clear();
        fail_held(&mut world);
        assert_eq!(world.alive[0].2.memory, 30, "{step}");
        let image = world.saved.unikernels[0].version.image;
        assert!(world.images.contains(&image), "{step}");
    }
}

#[test]
fn what_comes_back_is_not_forgotten_when_others_wait_for_its_name() {
    let (mut world, _) = replacement_at("prepare");
    world.slow_upload = true;
    world.ask(":a", create(&config(), true));
    fail_held(&mut world);
    assert_eq!(world.alive[0].2.memory, 30);
    world.fail = vec!["upload"];
    let upload = world.uploads.remove(0);
    let failed = world.upload(upload);
    world.happen(failed);
    assert_eq!(world.names_alive(), [":a"]);
}

#[test]
fn room_is_kept_for_what_may_come_back() {
    let mut world = World::new();
    world.host_has(9, 100);
    let all = Config {
        memory: 100,
        ..config()
    };
    world.answer(":a", create(&all, false)).unwrap();
    world.hold = vec!["prepare"];
    world.ask(":a", create(&config(), true));
    assert!(world.create(":b").unwrap_err().contains("MB"));
    fail_held(&mut world);
    assert_eq!(world.names_alive(), [":a"]);
}

#[test]
fn room_is_kept_for_what_may_come_back_after_its_replacement_has_ended() {
    let (mut world, _) = replacement_at("persist");
    world.hold.clear();
    world.host_has(1, 30);
    world.die(Death::Exit(0));
    assert!(world.create(":b").unwrap_err().contains("1 unikernels"));
    fail_held(&mut world);
    assert_eq!(world.names_alive(), [":a"]);
}

#[test]
fn a_policy_whose_write_fails_takes_no_later_one_with_it() {
    let mut world = World::new();
    world.hold = vec!["persist"];
    let first = world.ask("a:", policy(1, 50));
    let second = world.ask("a:", policy(1, 60));
    let third = world.ask("a:", policy(1, 60));
    assert!(world.answers.is_empty());
    fail_held(&mut world);
    world.release();
    world.release();
    let texts: Vec<_> = [first, second, third]
        .map(|asked| world.answers.iter().find(|(to, _, _)| *to == asked))
        .into_iter()
        .map(|answer| matches!(answer, Some((_, Payload::Reply(_), _))))
        .collect();
    assert_eq!(texts, [false, true, true]);
    assert_eq!(
        world.answer("a:", policy(1, 60)),
        Ok("no modification of policy".into())
    );
}

#[test]
fn a_policy_whose_write_fails_leaves_room_for_nothing() {
    let mut world = World::new();
    world.answer("a:", policy(1, 50)).unwrap();
    world.hold = vec!["persist"];
    world.ask("a:", policy(1, 100));
    let bigger = Config {
        memory: 80,
        ..config()
    };
    let created = world.answer("a:b", create(&bigger, false));
    assert!(created.unwrap_err().contains("50 MB"));
    let below = world.answer("a:c:", policy(1, 80));
    assert!(below.unwrap_err().contains("50"));
    fail_held(&mut world);
    assert!(world.alive.is_empty());
}

#[test]
fn a_policy_whose_write_fails_is_not_on_disk_in_the_end() {
    let mut world = World::new();
    world.answer("a:", policy(1, 50)).unwrap();
    world.hold = vec!["persist"];
    world.ask("a:", policy(1, 60));
    fail_held(&mut world);
    // It did reach the disk, and so the old one is acknowledged only by a write.
    assert_eq!(world.saved.policies[1].1.memory, 60);
    world.hold = vec!["persist"];
    let again = world.ask("a:", policy(1, 50));
    assert!(world.answers.iter().all(|(to, _, _)| *to != again));
    fail_held(&mut world);
    world.pass(SAVE_RETRY);
    assert_eq!(world.saved.policies[1].1.memory, 50);
}

#[test]
fn a_refused_policy_does_not_come_with_the_write_of_another() {
    let mut world = World::new();
    world.hold = vec!["persist"];
    world.ask("a:", policy(1, 60));
    world.ask("b:", policy(1, 60));
    fail_held(&mut world);
    world.release();
    assert_eq!(world.paths_saved(), ["a:", "b:"]);
    world.hold = vec!["persist"];
    world.ask("a:", policy(1, 70));
    fail_held(&mut world);
    world.pass(SAVE_RETRY);
    assert_eq!(world.paths_saved(), ["b:"]);
}

#[test]
fn an_image_stays_while_a_write_that_names_it_is_under_way() {
    let mut world = World::new();
    world.create(":a").unwrap();
    let image = world.saved.unikernels[0].version.image;
    world.hold = vec!["persist"];
    world.ask(":a", DESTROY);
    world.ask("b:", policy(9, 90));
    world.release();
    assert!(world.images.contains(&image));
    world.release();
    assert!(world.images.is_empty());
}

#[test]
fn a_death_before_the_birth_is_told_or_recorded_is_not_lost() {
    for step in ["spawn", "persist"] {
        let mut world = World::new();
        world.hold = vec![step];
        let asked = world.ask(":a", create(&config(), false));
        world.hold.clear();
        world.die(Death::Exit(0));
        world.release();
        assert!(
            world.answers.iter().any(|(to, _, _)| *to == asked),
            "{step}"
        );
        assert!(world.names_saved().is_empty(), "{step}");
        assert!(world.create(":a").is_ok(), "{step}");
    }
}

#[test]
fn a_death_before_a_write_that_fails_leaves_nothing() {
    let mut world = World::new();
    world.hold = vec!["persist"];
    let asked = world.ask(":a", create(&config(), false));
    world.die(Death::Exit(0));
    fail_held(&mut world);
    while !world.held.is_empty() {
        world.release();
    }
    assert!(world.answers.iter().any(|(to, _, _)| *to == asked));
    assert!(world.images.is_empty() && world.saved.unikernels.is_empty());
    assert!(world.create(":a").is_ok());
}

#[test]
fn requests_that_wait_go_with_their_clients() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.obedient = false;
    world.ask(":a", DESTROY);
    let waiting = world.ask(":a", create(&config(), false));
    assert_eq!(world.staged, 1);
    world.happen(Event::Closed(waiting));
    assert_eq!(world.staged, 0);
    world.pass(STOP_DEADLINE);
    assert!(world.alive.is_empty());
}

#[test]
fn images_and_requests_that_wait_are_bounded() {
    let mut world = World::new();
    world.slow_upload = true;
    for number in 0..MAX_UPLOADS_OF_TENANT {
        world.ask(&format!(":u{number}"), create(&config(), false));
    }
    let more = world.create(":more").unwrap_err();
    assert!(more.starts_with("8 images of this tenant are"), "{more}");
    for number in MAX_UPLOADS_OF_TENANT..MAX_UPLOADS {
        world.ask(&format!("t{}:u", number / 2), create(&config(), false));
    }
    let more = world.create("another:more").unwrap_err();
    assert!(more.starts_with("32 images are"), "{more}");
    world.create(":more").unwrap_err();

    let mut world = World::new();
    world.create(":a").unwrap();
    world.obedient = false;
    for _ in 0..=MAX_WAITING {
        world.ask(":a", DESTROY);
    }
    assert!(
        world
            .answer(":a", DESTROY)
            .unwrap_err()
            .contains("too many")
    );
}

#[test]
fn what_could_not_be_recorded_is_recorded_later() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.fail = vec!["persist"];
    assert!(
        world
            .answer(":a", DESTROY)
            .unwrap_err()
            .contains("recorded")
    );
    assert_eq!(world.names_saved(), [":a"]);
    world.pass(SAVE_RETRY);
    assert!(world.saved.unikernels.is_empty() && world.images.is_empty());
}

#[test]
fn however_many_writes_fail_one_timer_runs() {
    let mut world = World::new();
    let timers = |world: &World| {
        let timers = world.timers.iter();
        timers.filter(|(_, timer)| *timer == Timer::Save).count()
    };
    world.fail = vec!["persist"; 4];
    for _ in 0..3 {
        world.answer("a:", policy(1, 32)).unwrap_err();
        assert_eq!(timers(&world), 1);
    }
    world.pass(SAVE_RETRY);
    assert!(world.fail.is_empty());
    assert_eq!(timers(&world), 1);
    world.pass(SAVE_RETRY);
    assert_eq!(timers(&world), 0);
}

#[test]
fn what_could_not_be_recorded_is_recorded_before_the_supervisor_ends_or_another_takes_over() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.fail = vec!["persist"];
    world.answer(":a", DESTROY).unwrap_err();
    assert_eq!(world.names_saved(), [":a"]);
    assert!(!world.supervisor.is_quiet());
    world.happen(Event::Terminate);
    assert!(world.done && world.supervisor.is_quiet());
    assert!(world.saved.unikernels.is_empty());
}

#[test]
fn an_upload_keeps_nobody_from_its_name() {
    let mut world = World::new();
    let again = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..config()
    };
    world.answer(":a", create(&again, false)).unwrap();
    world.slow_upload = true;
    world.ask(":a", create(&config(), true));
    world.die(Death::Exit(2));
    world.pass(restart::LONGEST_WAIT);
    assert_eq!(world.names_alive(), [":a"]);
    assert_eq!(
        world.answer(":a", DESTROY),
        Ok("destroyed unikernel".into())
    );
}

#[test]
fn a_stopped_unikernel_stays_down_until_it_is_started() {
    let mut world = World::new();
    world.create(":a").unwrap();
    assert_eq!(world.answer(":a", STOP), Ok("stopped unikernel".into()));
    assert!(world.alive.is_empty());
    assert_eq!(world.answer(":a", STOP), Ok("stopped unikernel".into()));
    assert!(world.create(":a").unwrap_err().contains("stopped"));
    world.crash();
    assert!(world.alive.is_empty());
    assert_eq!(world.details(":a").standing, own::Standing::Stopped(()));
    assert_eq!(world.answer(":a", START), Ok("started unikernel".into()));
    assert_eq!(world.names_alive(), [":a"]);
    assert!(world.answer(":a", START).unwrap_err().contains("already"));
    assert!(world.answer(":b", STOP).is_err());
}

#[test]
fn a_stopped_unikernel_takes_its_place_but_no_memory() {
    let mut world = World::new();
    world.host_has(2, 40);
    world.create(":a").unwrap();
    world.answer(":a", STOP).unwrap();
    world.create(":b").unwrap();
    assert!(world.create(":c").unwrap_err().contains("2 unikernels"));
    let why = world.answer(":a", START).unwrap_err();
    assert!(why.contains("40 MB"), "{why}");
    world.answer(":b", DESTROY).unwrap();
    world.answer(":a", START).unwrap();
}

#[test]
fn a_restart_is_checked_before_the_running_instance_is_touched() {
    let mut world = World::new();
    world.host_has(1, 64);
    world.create(":a").unwrap();
    let before = world.alive[0].0;
    let too_large = world.answer(":a", restart(&with_memory(65)));
    assert!(too_large.unwrap_err().contains("64 MB"));
    world.fail = vec!["inspect"];
    assert!(world.answer(":a", RESTART).unwrap_err().contains("inspect"));
    assert_eq!(world.alive[0].0, before);
    assert_eq!(world.answer(":a", RESTART), Ok("created unikernel".into()));
    assert_ne!(world.alive[0].0, before);
    world.answer(":a", restart(&with_memory(64))).unwrap();
    assert_eq!(world.memories(), [64]);
    assert_eq!(world.saved.unikernels[0].version.config, with_memory(64));
    assert!(world.answer(":b", RESTART).is_err());
}

#[test]
fn a_restart_of_one_that_waits_starts_it_at_once() {
    let mut world = World::new();
    let again = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..config()
    };
    world.answer(":a", create(&again, false)).unwrap();
    world.die(Death::Exit(2));
    world.answer(":a", RESTART).unwrap();
    assert_eq!(world.names_alive(), [":a"]);
    world.pass(restart::LONGEST_WAIT * 2);
    assert_eq!(world.names_alive(), [":a"]);
}

#[test]
fn a_rollback_returns_to_what_was_there_before_and_back_again() {
    let mut world = World::new();
    world.create(":a").unwrap();
    assert!(world.answer(":a", ROLLBACK).is_err());
    let first = world.saved.unikernels[0].version.clone();
    world.answer(":a", create(&with_memory(64), true)).unwrap();
    let second = world.saved.unikernels[0].version.clone();
    for (expected, other) in [(&first, &second), (&second, &first)] {
        assert_eq!(
            world.answer(":a", ROLLBACK),
            Ok("rolled back unikernel".into())
        );
        let saved = &world.saved.unikernels[0];
        assert_eq!(&saved.version, expected);
        assert_eq!(saved.previous.as_ref(), Some(other));
        assert_eq!(world.memories(), [expected.config.memory]);
    }
    world.answer(":a", DESTROY).unwrap();
    assert!(world.images.is_empty() && world.saved.unikernels.is_empty());
}

#[test]
fn one_that_ended_leaves_the_accounting_and_can_be_started_again() {
    let mut world = World::new();
    world.host_has(1, 32);
    world.create(":a").unwrap();
    world.die(Death::Exit(3));
    assert_eq!(world.details(":a").standing, own::Standing::Ended(()));
    world.create(":b").unwrap();
    assert!(world.answer(":a", START).is_err());
    world.answer(":b", DESTROY).unwrap();
    world.crash();
    let told = world.details(":a");
    assert_eq!(told.standing, own::Standing::Ended(()));
    let exit = told.last_exit.unwrap();
    assert_eq!(Death::from(&exit.death), Death::Exit(3));
    assert!(world.answer(":a", RESTART).unwrap_err().contains("ended"));
    world.answer(":a", START).unwrap();
    assert_eq!(world.names_alive(), [":a"]);
    world.answer(":a", DESTROY).unwrap();
    assert!(world.images.is_empty() && world.saved.unikernels.is_empty());
}

#[test]
fn those_that_ended_are_remembered_in_a_bounded_number() {
    let mut world = World::new();
    for number in 0..=MAX_ENDED_IN_PATH {
        world.clock += Duration::from_secs(1);
        world.create(&format!("a:u{number}")).unwrap();
        world.die(Death::Exit(0));
    }
    assert_eq!(world.saved.unikernels.len(), MAX_ENDED_IN_PATH);
    assert!(world.answer("a:u0", START).is_err());
    assert!(world.answer("a:u1", START).is_ok());
    for number in 0..=MAX_ENDED {
        world.create(&format!("p{number}:u")).unwrap();
        world.die(Death::Exit(0));
    }
    let ended = world.saved.unikernels.iter();
    let ended = ended.filter(|recorded| recorded.standing != Standing::Up);
    assert_eq!(ended.count(), MAX_ENDED);
}

#[test]
fn a_run_that_is_stable_stays_so_for_who_takes_it_over() {
    let mut world = World::new();
    let again = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..config()
    };
    world.answer(":a", create(&again, false)).unwrap();
    world.die(Death::Exit(3));
    world.pass(restart::SHORTEST_WAIT * 2);
    for (time, failures) in [(Duration::ZERO, 1), (restart::STABLE, 0)] {
        world.pass(time);
        world.crash();
        let name = world.alive[0].1.clone();
        assert_eq!(
            world.supervisor.unikernels[&name].history.failures,
            failures
        );
    }
}

#[test]
fn tenders_that_outlived_a_supervisor_are_taken_over() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.create("b:c").unwrap();
    let before: Vec<_> = world.alive.iter().map(|(run, ..)| *run).collect();
    world.crash();
    let after: Vec<_> = world.alive.iter().map(|(run, ..)| *run).collect();
    assert_eq!(before, after);
    assert_eq!(
        world.details(":a").info.started,
        Some(Timestamp::from_unix(7, 0))
    );
    assert_eq!(
        world.answer(":a", DESTROY),
        Ok("destroyed unikernel".into())
    );
    assert_eq!(world.names_alive(), ["b:c"]);
    world.happen(Event::Terminate);
    assert!(world.done && world.alive.is_empty());
}

#[test]
fn a_tender_that_nobody_recorded_is_ended_before_its_name_is_used() {
    let mut world = World::new();
    world.create(":a").unwrap();
    world.alive[0].2.memory = 64;
    let stray = world.alive[0].0;
    world
        .alive
        .push((RunId(1000), "b:x".parse().unwrap(), config()));
    world.obedient = false;
    world.crash();
    assert_eq!(world.alive.len(), 2);
    let waiting = world.ask("b:x", create(&config(), false));
    assert!(world.answers.iter().all(|(to, ..)| *to != waiting));
    world.pass(STOP_DEADLINE);
    assert!(world.alive.iter().all(|(run, ..)| *run != stray));
    let mut names = world.names_alive();
    names.sort();
    assert_eq!(names, [":a", "b:x"]);
    assert_eq!(world.memories(), [32, 32]);
}

#[test]
fn one_that_was_asked_to_stop_is_ended_and_started_again_after_a_crash() {
    let mut world = World::new();
    world.obedient = false;
    world.create(":a").unwrap();
    let before = world.alive[0].0;
    world.ask(":a", DESTROY);
    world.crash();
    assert_eq!(world.alive[0].0, before);
    world.pass(STOP_DEADLINE);
    assert_eq!(world.names_alive(), [":a"]);
    assert_ne!(world.alive[0].0, before);
}

#[test]
fn what_went_before_a_run_is_known_to_who_finds_it() {
    let mut world = World::new();
    let restarting = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..config()
    };
    world.answer(":a", create(&restarting, false)).unwrap();
    world.die(Death::Exit(3));
    world.pass(Duration::from_mins(1));
    world.crash();
    let told = world.details(":a");
    let exit = told.last_exit.unwrap();
    assert_eq!(Death::from(&exit.death), Death::Exit(3));
    assert_eq!(told.restarts.get(), 1);
}

#[test]
fn a_few_are_started_at_a_time() {
    let state = State {
        unikernels: (0..3 * MAX_STARTING)
            .map(|number| recorded(&format!(":u{number}"), config()))
            .collect(),
        ..State::default()
    };
    let mut world = World::with(state);
    world.hold = vec!["announce"];
    world.happen(Event::Boot);
    assert_eq!(world.held.len(), MAX_STARTING);
    world.release();
    assert_eq!(world.held.len(), MAX_STARTING);
    assert_eq!(world.alive.len(), 1);
    while !world.held.is_empty() {
        world.release();
    }
    assert_eq!(world.alive.len(), 3 * MAX_STARTING);
}

#[test]
fn those_started_last_are_down_before_those_before_them_are_stopped() {
    let at = |startup| Config {
        startup: Some(startup),
        ..config()
    };
    let state = State {
        unikernels: vec![recorded(":first", at(1)), recorded(":last", at(2))],
        ..State::default()
    };
    let mut world = World::with(state);
    world.happen(Event::Boot);
    world.obedient = false;
    world.happen(Event::Terminate);
    world.obedient = true;
    world.pass(STOP_DEADLINE);
    assert!(world.done && world.alive.is_empty());
}

#[test]
fn what_is_told_of_one_that_waits_says_why_and_until_when() {
    let state = State {
        unikernels: vec![recorded(":a", config())],
        ..State::default()
    };
    let mut world = World::with(state);
    world.fail = vec!["spawn"];
    world.happen(Event::Boot);
    let own::Standing::Waiting(waiting) = world.details(":a").standing else {
        panic!("another standing");
    };
    assert_eq!(waiting.trouble.unwrap().to_lossy(), "spawn failed");
    assert!(waiting.until.unwrap().milliseconds() >= 100);
    world.pass(restart::LONGEST_WAIT);
    let told = world.details(":a");
    assert_eq!(told.standing, own::Standing::Running(()));
    assert_eq!(told.restarts.get(), 1);
}

fn block(command: BlockCommand) -> Command {
    Command::Block(command)
}

fn add_block(size: i64) -> Command {
    block(BlockCommand::Add(Int::new(size)))
}

/// A policy that allows so many MB of block storage.
fn storage(megabytes: u64) -> Command {
    let policy = Policy {
        block: Some(megabytes),
        ..settings().resources
    };
    Command::Policy(PolicyCommand::Add(WirePolicy::from(&policy)))
}

/// A unikernel with this block device of the host.
fn with_device(device: &str) -> Config {
    Config {
        blocks: vec![Block {
            device: "data".into(),
            host_device: Some(device.into()),
            sector_size: None,
        }],
        ..config()
    }
}

/// What is told of the block devices that a name covers: name, MB, whether a unikernel has it.
fn listed(world: &mut World, name: &str) -> Vec<(String, i64, bool)> {
    let from = world.ask(name, block(BlockCommand::Info(())));
    let answers = world.answers.extract_if(.., |(to, ..)| *to == from);
    answers
        .flat_map(|(_, payload, _)| match payload {
            Payload::Reply(Success::BlockDevices(devices)) => devices,
            other => panic!("{other:?}"),
        })
        .map(|device| (device.name.to_lossy(), device.size.get(), device.active))
        .collect()
}

#[test]
fn a_device_counts_from_the_moment_it_is_asked_for_and_no_longer_if_nothing_comes_of_it() {
    let mut world = World::new();
    world.answer("a:", storage(10)).unwrap();
    world.hold.push("block");
    let first = world.ask("a:b:one", add_block(6));
    assert!(listed(&mut world, "a:").is_empty(), "not there yet");
    let refused = world.answer("a:two", add_block(5)).unwrap_err();
    assert!(
        refused.contains("10 MB of block storage, 6 MB are used"),
        "{refused}"
    );
    let exists = world.answer("a:b:one", add_block(1)).unwrap_err();
    assert!(exists.contains("already"), "{exists}");
    let smaller = world.answer("a:", storage(5)).unwrap_err();
    assert!(smaller.contains("in use"), "{smaller}");
    world.hold.clear();
    world.release();
    assert_eq!(listed(&mut world, "a:"), [("b:one".into(), 6, false)]);
    assert_eq!(
        listed(&mut world, "a:b:one"),
        [("a:b:one".into(), 6, false)]
    );
    assert!(world.answers.iter().any(|(to, ..)| *to == first));

    world.fail.push("block");
    let failed = world.answer("a:two", add_block(4)).unwrap_err();
    assert_eq!(failed, "block device a:two: block failed");
    assert_eq!(
        world.answer("a:two", add_block(4)).unwrap(),
        "added block device"
    );
    assert_eq!(
        world
            .answer("a:two", block(BlockCommand::Remove(())))
            .unwrap(),
        "removed block"
    );
    for size in [0, -1, i64::try_from(MAX_BLOCK_SIZE).unwrap() + 1] {
        assert!(world.answer("a:two", add_block(size)).is_err(), "{size}");
    }
}

#[test]
fn a_device_whose_content_is_on_its_way_is_nobody_elses() {
    let mut world = World::new();
    world.answer("a:disk", add_block(1)).unwrap();
    let (set, dump) = (
        || block(BlockCommand::Set(false)),
        || block(BlockCommand::Dump(Int::new(0))),
    );
    let level = world.answer("a:disk", block(BlockCommand::Dump(Int::new(10))));
    assert!(level.unwrap_err().contains("level 10"));
    let busy = |answer: Result<String, String>| {
        let why = answer.unwrap_err();
        assert!(why.contains("by another request"), "{why}");
    };
    let first = world.ask("a:disk", set());
    busy(world.answer("a:disk", set()));
    busy(world.answer("a:disk", dump()));
    busy(world.answer("a:disk", block(BlockCommand::Remove(()))));
    world.device = true;
    busy(world.answer("a:x", create(&with_device("disk"), false)));
    world.end_stream();
    let done = Payload::Reply(Success::String("set block device".into()));
    assert!(world.answers.contains(&(first, done, true)));

    // Several can read.
    world.ask("a:disk", dump());
    world.ask("a:disk", dump());
    assert_eq!(world.streams.len(), 2);
    busy(world.answer("a:disk", set()));
    world.end_stream();
    world.fail.push("block");
    let before = world.answers.len();
    world.end_stream();
    assert_eq!(world.answers.len(), before + 1, "of the one that failed");
    for number in 0..MAX_BLOCK_STREAMS {
        if number % MAX_BLOCK_STREAMS_OF_TENANT == 0 && number > 0 {
            let tenant = (number - 1) / MAX_BLOCK_STREAMS_OF_TENANT;
            let name = format!("t{tenant}:b:more");
            world.answer(&name, add_block(1)).unwrap();
            let own = world.answer(&name, set()).unwrap_err();
            assert!(own.starts_with("4 block devices of this tenant"), "{own}");
        }
        let tenant = number / MAX_BLOCK_STREAMS_OF_TENANT;
        let name = format!("t{tenant}:d{number}");
        world.answer(&name, add_block(1)).unwrap();
        world.ask(&name, set());
    }
    let many = world.answer("a:disk", set()).unwrap_err();
    assert!(many.starts_with("16 block devices are"), "{many}");
    world.happen(Event::Terminate);
    assert!(world.streams.is_empty());
    assert!(world.done);
}

#[test]
fn a_unikernel_that_waits_for_its_restart_keeps_its_device_and_one_that_is_stopped_does_not() {
    let mut world = World::new();
    world.device = true;
    world.answer("a:disk", add_block(1)).unwrap();
    let restarts = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..with_device("disk")
    };
    let missing = world.answer("b:x", create(&with_device("disk"), false));
    assert_eq!(
        missing.unwrap_err(),
        "there is no block device 'disk' at b:"
    );
    world.answer("a:x", create(&restarts, false)).unwrap();
    assert_eq!(listed(&mut world, "a:"), [(":disk".into(), 1, true)]);
    let (run, ..) = world.alive.remove(0);
    let death = Death::Exit(2);
    world.happen(Event::Exited { run, death });
    let remove = || block(BlockCommand::Remove(()));
    assert!(
        world
            .answer("a:disk", remove())
            .unwrap_err()
            .contains("in use")
    );
    assert!(
        world
            .answer("a:y", create(&with_device("disk"), false))
            .is_err()
    );
    world.answer("a:x", STOP).unwrap();
    world
        .answer("a:y", create(&with_device("disk"), false))
        .unwrap();
    assert!(world.answer("a:x", START).unwrap_err().contains("in use"));
    world.answer("a:y", DESTROY).unwrap();
    world.answer("a:x", START).unwrap();
}

/// A BHyve machine with a ZFS volume.
fn machine() -> Config {
    Config {
        kind: Kind::Bhyve,
        blocks: vec![Block {
            device: "0".to_owned(),
            host_device: Some("/dev/zvol/tank/a".to_owned()),
            sector_size: None,
        }],
        ..config()
    }
}

/// On a host where unikernels at `a:` can have ZFS volumes.
fn with_volumes() -> World {
    let mut world = World::new();
    let devices = BlockDevices::new(BTreeMap::new(), Some("a".parse().unwrap()));
    let settings = Settings {
        devices,
        ..settings()
    };
    world.supervisor = Supervisor::new(State::default(), Vec::new(), settings);
    world
}

#[test]
fn a_machine_is_created_and_no_image_is_waited_for() {
    let mut world = with_volumes();
    world.slow_upload = true;
    let created = world.answer("a:x", create(&machine(), false));
    assert_eq!(created.unwrap(), "created unikernel");
    assert!(world.uploads.is_empty() && world.images.is_empty() && world.staged == 0);
    assert_eq!(world.saved.images().count(), 0);
    // Its name is told in place of a digest.
    let name = Owner::of(1, 2, b"").machine(&"a:x".parse().unwrap());
    assert_eq!(world.details("a:x").info.digest, Octets(name.into_bytes()));
    let get = Command::Unikernel(UnikernelCommand::Get(Int::new(0)));
    let refused = world.answer("a:x", get).unwrap_err();
    assert_eq!(refused, "a:x is a BHyve machine, which has no image");
}

#[test]
fn a_machine_is_restarted_on_request_also_with_other_arguments() {
    let mut world = with_volumes();
    world.answer("a:x", create(&machine(), false)).unwrap();
    world.answer("a:x", RESTART).unwrap();
    let larger = Config {
        memory: 64,
        vcpus: 4,
        ..machine()
    };
    world.answer("a:x", restart(&larger)).unwrap();
    assert_eq!(world.memories(), [64]);
    // What cannot be is refused before anything is stopped.
    let refused = world.answer("a:x", restart(&config())).unwrap_err();
    assert!(refused.contains("needs a block device 0"), "{refused}");
    assert_eq!(world.memories(), [64]);
    world.answer("a:x", ROLLBACK).unwrap();
    assert_eq!(world.memories(), [32]);
}

#[test]
fn a_machine_that_reboots_is_started_again_and_one_that_is_off_stays_so() {
    let mut world = with_volumes();
    world.answer("a:x", create(&machine(), false)).unwrap();
    world.die(Death::Exit(0));
    assert!(world.alive.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.memories(), [32]);
    // No guest of a machine knows of a name that was added.
    world.die(Death::Exit(64));
    world.pass(Duration::from_secs(600));
    assert!(world.alive.is_empty());
    world.answer("a:x", START).unwrap();
    assert!(world.alive[0].2.add_name);
    world.die(Death::Exit(1));
    world.pass(Duration::from_secs(600));
    assert!(world.alive.is_empty());
    assert_eq!(world.details("a:x").standing, own::Standing::Ended(()));
}

#[test]
fn a_volume_is_had_by_one_machine_at_the_path_that_may() {
    let mut world = with_volumes();
    world.answer("a:x", create(&machine(), false)).unwrap();
    let taken = world.answer("a:y", create(&machine(), false)).unwrap_err();
    assert_eq!(taken, "volume /dev/zvol/tank/a is in use");
    for name in ["b:x", "a:b:x", "x"] {
        let refused = world.answer(name, create(&machine(), false));
        assert!(refused.unwrap_err().contains("--allow-zvol-for"), "{name}");
    }
    for odd in ["/dev/zvol/../ada0", "/dev/zvol/tank/../../ada0"] {
        let mut config = machine();
        config.blocks[0].host_device = Some(odd.to_owned());
        let refused = world.answer("a:y", create(&config, false)).unwrap_err();
        assert!(refused.contains("no block device"), "{refused}");
    }
}

#[test]
fn a_system_without_machines_says_so_before_anything_else() {
    let mut world = World::new();
    world.slow_upload = true;
    let settings = Settings {
        machines: Err("machines run elsewhere"),
        ..settings()
    };
    world.supervisor = Supervisor::new(State::default(), Vec::new(), settings);
    for config in [
        machine(),
        Config {
            blocks: Vec::new(),
            ..machine()
        },
    ] {
        let refused = world.answer("a:x", create(&config, false));
        assert_eq!(refused.unwrap_err(), "machines run elsewhere");
    }
    assert!(world.uploads.is_empty());
}

#[test]
fn what_a_path_uses_is_that_of_all_below_it_and_shown_beside_its_policy() {
    let mut world = World::new();
    world.answer("a:", storage(10)).unwrap();
    world.answer("a:b:disk", add_block(3)).unwrap();
    world.answer("a:free", add_block(4)).unwrap();
    world.device = true;
    let with_disk = create(&with_device("disk"), false);
    world.answer("a:b:x", with_disk).unwrap();
    world.device = false;
    world.create("z").unwrap();
    let domains = world.supervisor.domains();
    let figures = domains.iter().map(|(path, domain)| {
        let uses = (domain.unikernels, domain.memory, domain.attached);
        (path.to_string(), uses, domain.unattached)
    });
    let expected = [
        (":".to_owned(), (2, 64, 3), 4),
        ("a:".to_owned(), (1, 32, 3), 4),
        ("a:b:".to_owned(), (1, 32, 3), 0),
    ];
    assert!(figures.eq(expected), "{domains:?}");
    let policies = domains.values().map(|domain| domain.policy.is_some());
    assert!(policies.eq([true, true, false]));
}

#[test]
fn a_device_stays_until_no_state_on_disk_has_who_had_it() {
    let mut world = World::new();
    world.device = true;
    world.answer("a:disk", add_block(1)).unwrap();
    world
        .answer("a:x", create(&with_device("disk"), false))
        .unwrap();
    let remove = || block(BlockCommand::Remove(()));
    world.hold = vec!["persist"];
    let (run, ..) = world.alive.remove(0);
    let death = Death::Signal(9);
    world.happen(Event::Exited { run, death });
    let refused = world.answer("a:disk", remove()).unwrap_err();
    assert!(refused.contains("is being written"), "{refused}");
    world.hold.clear();
    world.release();
    world.answer("a:disk", remove()).unwrap();

    // After a write that failed nobody knows.
    world.answer("a:disk", add_block(1)).unwrap();
    world
        .answer("a:y", create(&with_device("disk"), false))
        .unwrap();
    world.fail = vec!["persist"];
    let (run, ..) = world.alive.remove(0);
    world.happen(Event::Exited { run, death });
    let refused = world.answer("a:disk", remove()).unwrap_err();
    assert!(refused.contains("could not be written"), "{refused}");
    world.pass(SAVE_RETRY);
    world.answer("a:disk", remove()).unwrap();
}
