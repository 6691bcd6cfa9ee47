//! A supervisor that finds the tenders of an earlier one.

use super::*;

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
