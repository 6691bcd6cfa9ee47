//! The life of unikernels, played against a host that is a few lines of test.

use std::collections::VecDeque;
use std::time::Duration;

use super::fixtures::config;
use super::*;
use crate::elf::test_image::Image;
use crate::unikernel::FailBehaviour;
use crate::wire::{BlockCommand, ConsoleCommand, Policy as WirePolicy};

/// A host that carries out what it can at once, and can be told to fail.
struct World {
    supervisor: Supervisor,
    clock: Duration,
    answers: Vec<(ConnectionId, Payload, bool)>,
    alive: Vec<(RunId, Name, Config)>,
    announced: Vec<Name>,
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
    uploads: Vec<(ConnectionId, Name)>,
}

impl World {
    fn new() -> Self {
        Self::with(State::default())
    }

    fn with(state: State) -> Self {
        Self {
            supervisor: Supervisor::new(state.clone(), 1),
            clock: Duration::ZERO,
            answers: Vec::new(),
            alive: Vec::new(),
            announced: Vec::new(),
            images: state
                .unikernels
                .iter()
                .map(|(_, _, image)| *image)
                .collect(),
            saved: state,
            timers: Vec::new(),
            connections: 0,
            done: false,
            fail: Vec::new(),
            obedient: true,
            slow_upload: false,
            uploads: Vec::new(),
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
                wall: Timestamp::from_unix(0, 0),
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
            Effect::SendImage { .. } | Effect::DiscardImage(_) | Effect::Release(_) => {}
            Effect::ReceiveImage { from, name, .. } => {
                if self.slow_upload {
                    self.uploads.push((from, name));
                } else {
                    events.push_back(self.upload(name));
                }
            }
            Effect::Prepare { name, image } => {
                self.images.push(image);
                events.push_back(Event::Prepared {
                    name,
                    result: self.fails("prepare"),
                });
            }
            Effect::Announce { name, .. } => {
                self.announced.push(name.clone());
                events.push_back(Event::Announced {
                    name,
                    result: self.fails("announce"),
                });
            }
            Effect::Spawn {
                run, name, config, ..
            } => {
                let result = self.fails("spawn");
                if result.is_ok() {
                    self.alive.push((run, name, *config));
                }
                events.push_back(Event::Spawned { run, result });
            }
            Effect::Signal { run, kill } => {
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
                events.push_back(Event::Persisted { ticket, result });
            }
            Effect::RemoveImage(image) => self.images.retain(|kept| *kept != image),
            Effect::Exit => self.done = true,
        }
    }

    fn upload(&mut self, name: Name) -> Event {
        let result = self.fails("upload").map(|()| StagedImage {
            digest: ImageDigest([self.connections.to_le_bytes()[0]; 32]),
            manifest: manifest(),
        });
        Event::Staged { name, result }
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

    fn names_saved(&self) -> Vec<String> {
        self.saved
            .unikernels
            .iter()
            .map(|(name, _, _)| name.to_string())
            .collect()
    }

    fn names_alive(&self) -> Vec<String> {
        self.alive
            .iter()
            .map(|(_, name, _)| name.to_string())
            .collect()
    }
}

fn manifest() -> Manifest {
    Manifest::read(&mut std::io::Cursor::new(Image::solo5(2, &[]).build())).unwrap()
}

fn create(config: &Config, force: bool) -> Command {
    let wire = config.to_wire(false, Vec::new());
    Command::Unikernel(if force {
        UnikernelCommand::ForceCreate(wire)
    } else {
        UnikernelCommand::Create(wire)
    })
}

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
    for step in ["upload", "prepare", "announce", "spawn", "persist"] {
        let mut world = World::new();
        world.fail = vec![step];
        let why = world.create(":a").unwrap_err();
        assert!(why.contains(step), "{step}: {why}");
        assert!(
            world.alive.is_empty() && world.saved.unikernels.is_empty(),
            "{step}"
        );
        assert!(world.images.is_empty(), "{step}");
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
        assert_eq!(world.saved.unikernels[0].1, config(), "{step}");
        assert_eq!(world.images.len(), 2, "{step}: prepared twice, once each");
    }
}

#[test]
fn a_refused_replacement_leaves_the_running_one_alone() {
    let mut world = World::new();
    world.answer(":", policy(1, 32)).unwrap();
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
    world.fail = vec!["upload"];
    assert!(world.answer(":a", create(&config(), true)).is_err());
    assert_eq!(world.alive[0].0, before);
}

#[test]
fn a_replacement_counts_once() {
    let mut world = World::new();
    world.answer(":", policy(1, 32)).unwrap();
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
    let late = world.upload(":a".parse().unwrap());
    world.happen(late);
    assert!(world.alive.is_empty() && world.answers.is_empty());
    world.slow_upload = false;
    assert!(world.create(":a").is_ok());
}

#[test]
fn two_uploads_cannot_share_the_last_place() {
    let mut world = World::new();
    world.answer(":", policy(1, 64)).unwrap();
    world.slow_upload = true;
    world.ask(":a", create(&config(), false));
    world.ask(":b", create(&config(), false));
    for name in [":a", ":b"] {
        let image = world.upload(name.parse().unwrap());
        world.happen(image);
    }
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
    assert!(world.saved.unikernels.is_empty());
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
    assert!(world.alive.is_empty() && world.saved.unikernels.is_empty());
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
        Ok("destroyed unikernel".into())
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
            (":late".parse().unwrap(), at(60), ImageDigest([1; 32])),
            (":middle".parse().unwrap(), config(), ImageDigest([2; 32])),
            (":early".parse().unwrap(), at(1), ImageDigest([3; 32])),
        ],
        policies: Vec::new(),
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
        unikernels: vec![(":a".parse().unwrap(), config(), ImageDigest([1; 32]))],
        policies: Vec::new(),
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
    assert_eq!(
        world.answer("a:", policy(1, 32)),
        Ok("no modification of policy".into())
    );
    let remove = || Command::Policy(PolicyCommand::Remove(()));
    assert_eq!(world.answer("a:", remove()), Ok("removed policy".into()));
    assert!(world.answer("a:", remove()).is_err());
    assert!(world.saved.policies.is_empty());
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
        Command::Block(BlockCommand::Info(())),
    ] {
        assert_eq!(world.answer(":", command), Err("unknown command".into()));
    }
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
