//! Starts and stops: at boot, after deaths, and in which order.

use super::*;

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
    let extensions::Standing::Waiting(waiting) = world.details(":a").standing else {
        panic!("another standing");
    };
    assert_eq!(waiting.trouble.unwrap().to_lossy(), "spawn failed");
    assert!(waiting.until.unwrap().milliseconds() >= 100);
    world.pass(restart::LONGEST_WAIT);
    let told = world.details(":a");
    assert_eq!(told.standing, extensions::Standing::Running(()));
    assert_eq!(told.restarts.get(), 1);
}

#[test]
fn one_that_waits_for_its_restart_keeps_its_counts_when_the_supervisor_is_killed() {
    let mut world = World::new();
    let again = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..config()
    };
    world.answer(":a", create(&again, false)).unwrap();
    for _ in 0..3 {
        world.die(Death::Signal(11));
        world.pass(restart::LONGEST_WAIT * 2);
    }
    world.die(Death::OutOfMemory);
    let before = world.details(":a");
    assert_eq!(before.restarts, Int::new(3));
    world.crash();
    let after = world.details(":a");
    assert_eq!(after.restarts, Int::new(4), "it is started at once");
    assert_eq!(after.last_exit, before.last_exit);
    world.die(Death::Signal(11));
    let failures = |world: &World| {
        let waiting = world.waiting.values();
        waiting.map(|(_, history)| history.failures).next()
    };
    assert_eq!(failures(&world), Some(5), "the back-off goes on");
    world.answer(":a", DESTROY).unwrap();
    assert_eq!(failures(&world), None);
}
