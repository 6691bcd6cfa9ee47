//! What is on disk, and what is while a write is under way or has failed.

use super::*;

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
    world.ask("b:", policy(9, 90));
    world.ask(":a", DESTROY);
    world.release();
    assert!(world.images.contains(&image));
    world.release();
    assert!(world.images.is_empty());
}

#[test]
fn however_busy_the_disk_is_images_and_devices_go_that_nothing_on_it_names() {
    let mut world = World::new();
    world
        .answer("a:disk", block(BlockCommand::Add(Int::new(1))))
        .unwrap();
    world.create("a:x").unwrap();
    let image = world.saved.unikernels[0].version.image;
    world.hold = vec!["persist"];
    // There is never a moment without a write that is under way.
    world.ask("b:", policy(1, 50));
    let destroyed = world.ask("a:x", DESTROY);
    let removed = world.ask("a:disk", block(BlockCommand::Remove(())));
    let has_answer = |world: &World, asked| world.answers.iter().any(|(to, ..)| *to == asked);
    for memory in 51..53 {
        world.ask("b:", policy(1, memory));
        assert!(!has_answer(&world, removed) && world.images.contains(&image));
        assert!(world.devices.contains_key(&"a:disk".parse().unwrap()));
        world.release();
    }
    assert!(!world.held.is_empty());
    assert!(has_answer(&world, destroyed) && has_answer(&world, removed));
    assert!(world.images.is_empty() && world.devices.is_empty());
}

#[test]
fn a_device_whose_removal_waits_for_the_disk_is_nobody_elses_and_stays_if_that_fails() {
    let mut world = World::new();
    let device = || block(BlockCommand::Add(Int::new(1)));
    let remove = || block(BlockCommand::Remove(()));
    world.answer("a:disk", device()).unwrap();
    world.hold = vec!["persist"];
    world.ask("b:", policy(1, 50));
    let removed = world.ask("a:disk", remove());
    assert!(world.answer("a:disk", device()).is_err());
    assert!(world.answer("a:disk", remove()).is_err());
    fail_held(&mut world);
    let failed = |(to, answer, _): &(ConnectionId, Payload, bool)| {
        *to == removed && matches!(answer, Payload::Failure(_))
    };
    assert!(world.answers.iter().any(failed));
    world.pass(SAVE_RETRY);
    world.answer("a:disk", remove()).unwrap();
    assert!(world.devices.is_empty() && world.supervisor.is_quiet());
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
