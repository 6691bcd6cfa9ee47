//! What is stopped, has ended, or returns to what it was.

use super::*;

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
    assert_eq!(
        world.details(":a").standing,
        extensions::Standing::Stopped(())
    );
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
    assert_eq!(
        world.details(":a").standing,
        extensions::Standing::Ended(())
    );
    world.create(":b").unwrap();
    assert!(world.answer(":a", START).is_err());
    world.answer(":b", DESTROY).unwrap();
    world.crash();
    let told = world.details(":a");
    assert_eq!(told.standing, extensions::Standing::Ended(()));
    let exit = told.last_exit.unwrap();
    assert_eq!(Death::from(&exit.death), Death::Exit(3));
    assert!(world.answer(":a", RESTART).unwrap_err().contains("ended"));
    let get = Command::Unikernel(UnikernelCommand::Get(Int::new(0)));
    world.ask(":a", get);
    assert_eq!(world.sent, world.images);
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
    assert_eq!(ended(&world, "").len(), MAX_ENDED);
}

/// Those at and below a path that have ended, on disk.
fn ended(world: &World, path: &str) -> Vec<String> {
    let path = path.parse().unwrap();
    let ended = world.saved.unikernels.iter();
    let ended = ended.filter(|recorded| {
        recorded.standing != DesiredState::Up && recorded.name.path().is_within(&path)
    });
    ended.map(|recorded| recorded.name.to_string()).collect()
}

#[test]
fn the_tenant_with_the_most_that_have_ended_has_its_oldest_forgotten() {
    let mut world = World::new();
    let end = |world: &mut World, name: String| {
        world.clock += Duration::from_secs(1);
        world.create(&name).unwrap();
        world.die(Death::Exit(0));
    };
    // The oldest of all.
    for number in 0..3 {
        end(&mut world, format!("b:u{number}"));
    }
    for number in 0..MAX_ENDED + 16 {
        end(&mut world, format!("a:p{}:u{number}", number / 4));
    }
    assert_eq!(ended(&world, "b"), ["b:u0", "b:u1", "b:u2"]);
    let left = ended(&world, "a");
    assert_eq!(left.len(), MAX_ENDED - 3);
    assert!(!left.contains(&"a:p0:u0".to_owned()));
    assert!(left.contains(&format!("a:p67:u{}", MAX_ENDED + 15)));
}

#[test]
fn as_many_consoles_are_kept_as_may_run_and_are_remembered() {
    let remembered = i64::try_from(MAX_ENDED_IN_PATH).unwrap();
    let mut world = World::new();
    world.create("a:x").unwrap();
    assert_eq!(world.console_limit, 1 + remembered);
    world.create("a:y").unwrap();
    assert_eq!(world.console_limit, 2 + remembered);
    world.answer("b:", policy(5, 500)).unwrap();
    world.create("b:x").unwrap();
    assert_eq!(world.console_limit, 5 + remembered);
}
