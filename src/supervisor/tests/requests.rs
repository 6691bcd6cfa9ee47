//! What is asked for, one after the other or at once.

use super::*;

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
