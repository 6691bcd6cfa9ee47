//! Block devices, and what a path uses.

use super::*;

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

/// A policy that allows so many MB of block storage.
fn storage(megabytes: u64) -> Command {
    let policy = Policy {
        block: Some(megabytes),
        ..settings().resources
    };
    Command::Policy(PolicyCommand::Add(WirePolicy::from(&policy)))
}

fn add_block(size: i64) -> Command {
    block(BlockCommand::Add(Int::new(size)))
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
    let smaller = world.answer("a:", storage(5)).unwrap();
    assert!(smaller.contains("more is in use"), "{smaller}");
    world.answer("a:", storage(10)).unwrap();
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
    let removed = world.ask("a:disk", remove());
    assert!(!world.devices.is_empty() && world.answers.iter().all(|(to, ..)| *to != removed));
    world.hold.clear();
    world.release();
    assert!(world.devices.is_empty() && world.answers.iter().any(|(to, ..)| *to == removed));

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
