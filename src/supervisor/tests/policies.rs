//! Policies, and the age of certificates that carry them.

use super::*;

/// A policy for some unikernels, in a certificate of this age.
fn dated((unikernels, memory): (u64, u64), not_before: i64) -> DatedPolicy {
    let Command::Policy(PolicyCommand::Add(policy)) = policy(unikernels, memory) else {
        unreachable!()
    };
    DatedPolicy {
        policy,
        not_before: Int::new(not_before),
    }
}

/// The policies of a chain, outermost first.
fn chain(policies: &[DatedPolicy]) -> Command {
    Command::Policy(PolicyCommand::SetChain(policies.to_vec()))
}

/// The policy of a chain with one, for one unikernel.
fn link(memory: u64, not_before: i64) -> Command {
    chain(&[dated((1, memory), not_before)])
}

const REMOVE: Command = Command::Policy(PolicyCommand::Remove(()));

const INFO: Command = Command::Unikernel(UnikernelCommand::Info(()));

/// The answer to a chain that is set.
fn set() -> String {
    "set, kept: ".to_owned()
}

/// The answer to a chain where these paths keep the policy of a newer certificate.
fn kept(paths: &str) -> String {
    format!("set, kept: {paths}")
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
    assert_eq!(world.answer("a:", REMOVE), Ok("removed policy".into()));
    assert!(world.answer("a:", REMOVE).is_err());
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
    for command in [add(&smaller), REMOVE] {
        let why = world.answer(":", command).unwrap_err();
        assert!(why.contains("what the host has"), "{why}");
    }
    // No certificate is for the root.
    assert_eq!(world.answer(":", chain(&[])), Ok(set()));
    assert!(world.answer(":", link(1, 1)).is_err());
    world.create(":a").unwrap();
}

#[test]
fn an_older_certificate_never_brings_its_policy_back() {
    let mut world = World::new();
    assert_eq!(world.answer("a:", link(64, 100)), Ok(set()));
    assert_eq!(world.answer("a:", link(32, 99)), Ok(kept("a:")));
    // The same once more, and an older one with what is in force.
    assert_eq!(world.answer("a:", link(64, 100)), Ok(set()));
    assert_eq!(world.answer("a:", link(64, 1)), Ok(set()));
    assert_eq!(world.answer("a:", link(96, 101)), Ok(set()));
    assert_eq!(world.answer("a:", link(64, 100)), Ok(kept("a:")));
    // Another path has another memory.
    assert_eq!(world.answer("b:", link(32, 1)), Ok(set()));

    world.answer("a:", REMOVE).unwrap();
    // Nothing would bound what follows.
    let refused = world.answer("a:", link(64, 100));
    assert!(refused.unwrap_err().contains("newer one is needed"));
    let mut world = World::with(world.saved);
    assert!(world.answer("a:", link(64, 100)).is_err());
    assert_eq!(world.paths_saved(), ["b:"]);
    assert_eq!(world.answer("a:", link(96, 101)), Ok(set()));
}

#[test]
fn of_two_certificates_of_one_second_the_later_arrival_wins() {
    let mut world = World::new();
    world.answer("a:", link(64, 100)).unwrap();
    assert_eq!(world.answer("a:", link(32, 100)), Ok(set()));
    assert_eq!(world.saved.policies[1].1.memory, 32);
    let mut world = World::with(world.saved);
    assert_eq!(world.answer("a:", link(96, 100)), Ok(set()));
    assert_eq!(world.saved.policies[1].1.memory, 96);
}

#[test]
fn a_policy_given_without_a_certificate_is_neither_old_nor_new() {
    let mut world = World::new();
    world.answer("a:", link(64, 100)).unwrap();
    world.answer("a:", policy(1, 32)).unwrap();
    assert_eq!(world.answer("a:", link(64, 99)), Ok(kept("a:")));
    assert_eq!(world.answer("a:", link(64, 100)), Ok(set()));
}

#[test]
fn a_chain_is_set_whole_or_not_at_all() {
    let mut world = World::new();
    let saved = world.saved.clone();
    let refused = [
        (
            "a:b:",
            vec![dated((1, 32), 1), dated((2, 32), 1)],
            "2 unikernels",
        ),
        ("a:b:", vec![dated((1, 32), 1)], "needs 2 policies"),
        (
            "a:",
            vec![dated((2, 64), 1), dated((1, 32), 1)],
            "needs 1 policies",
        ),
    ];
    for (path, policies, why) in refused {
        let text = world.answer(path, chain(&policies)).unwrap_err();
        assert!(text.contains(why), "{text}");
        assert_eq!(world.saved, saved);
    }
    // A certificate of a chain that is refused is not remembered.
    let good = |age| chain(&[dated((3, 128), age), dated((2, 64), age)]);
    assert_eq!(world.answer("a:b:", good(0)), Ok(set()));
    assert_eq!(world.paths_saved(), ["a:", "a:b:"]);
    // One of it is too old, and nothing is in force there.
    world.answer("a:b:", REMOVE).unwrap();
    let before = world.saved.clone();
    let mixed = chain(&[dated((4, 256), 9), dated((2, 64), -1)]);
    assert!(world.answer("a:b:", mixed).is_err());
    assert_eq!(world.saved, before);
    // One write, which fails as a whole.
    world.fail = vec!["persist"];
    assert!(world.answer("a:b:", good(9)).is_err());
    world.pass(SAVE_RETRY);
    assert_eq!(world.paths_saved(), ["a:"]);
    assert_eq!(world.answer("a:b:", good(9)), Ok(set()));
}

#[test]
fn a_chain_is_not_refused_for_what_is_in_force_above_which_bounds_its_use() {
    let mut world = World::new();
    world.answer("a:", policy(1, 32)).unwrap();
    let larger = chain(&[dated((1, 32), 1), dated((1, 32), 1)]);
    world.answer("a:b:", larger).unwrap();
    world.answer("a:", policy(1, 20)).unwrap();
    let newer = chain(&[dated((9, 900), 0), dated((2, 64), 2)]);
    assert_eq!(world.answer("a:b:", newer), Ok(kept("a:")));
    let why = world.create("a:b:x").unwrap_err();
    assert!(why.contains("'a:' is used up"), "{why}");
    // On the host it is a mistake to allow more than above.
    let why = world.answer("a:c:", policy(1, 32)).unwrap_err();
    assert!(why.contains("policy above, of 'a:'"), "{why}");
}

#[test]
fn a_smaller_policy_is_accepted_while_more_is_in_use() {
    let mut world = World::new();
    world.answer("a:", policy(3, 100)).unwrap();
    world.answer("a:b:", policy(2, 64)).unwrap();
    let restarts = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..with_memory(32)
    };
    world.answer("a:b:x", create(&restarts, false)).unwrap();
    world
        .answer("a:y", create(&with_memory(32), false))
        .unwrap();
    world
        .answer("a:z", create(&with_memory(32), false))
        .unwrap();
    world.answer("a:z", STOP).unwrap();
    let none = Policy {
        unikernels: 0,
        cpus: [].into(),
        memory: 0,
        block: None,
        bridges: [].into(),
    };
    let none = Command::Policy(PolicyCommand::Add(WirePolicy::from(&none)));
    let told = world.answer("a:", none).unwrap();
    for part in [
        "added policy, changing unikernels from 3 to 0, memory from 100 MB to 0 MB, CPU ids from 0 to none; ",
        "more is in use (3 unikernels are more than the 0 allowed)",
        "policies below allow more, but are bounded by it: a:b:",
    ] {
        assert!(told.contains(part), "{told}");
    }
    // Nothing that runs stops, and what fails comes back.
    assert_eq!(world.names_alive(), ["a:b:x", "a:y"]);
    let (run, ..) = world.alive.remove(0);
    let death = Death::Exit(2);
    world.happen(Event::Exited { run, death });
    world.pass(restart::LONGEST_WAIT);
    assert_eq!(world.names_alive(), ["a:y", "a:b:x"]);
    // Nothing new starts.
    for (name, command) in [
        ("a:new", create(&with_memory(1), false)),
        ("a:z", START),
        ("a:y", RESTART),
        ("a:y", create(&with_memory(1), true)),
    ] {
        let why = world.answer(name, command).unwrap_err();
        assert!(why.contains("policy of"), "{why}");
    }
    // Everybody can see, stop and destroy what is theirs.
    for path in [":", "a:", "a:b:", "a:y"] {
        world.ask(path, INFO);
        assert!(matches!(
            world.answers.last(),
            Some((_, Payload::Reply(_), _))
        ));
    }
    world.answer("a:b:x", STOP).unwrap();
    for name in ["a:b:x", "a:y", "a:z"] {
        world.answer(name, DESTROY).unwrap();
    }
}

#[test]
fn nothing_below_a_path_keeps_its_policy_from_being_set() {
    let mut world = World::new();
    world.answer("a:", link(64, 1)).unwrap();
    world
        .answer("a:b:", chain(&[dated((1, 64), 1), dated((1, 64), 1)]))
        .unwrap();
    world.create("a:b:x").unwrap();
    for unikernels in [0, 1, 2] {
        for memory in [0, 32, 128] {
            world.answer("a:", policy(unikernels, memory)).unwrap();
            let newer = dated((unikernels, memory), 9);
            assert_eq!(world.answer("a:", chain(&[newer])), Ok(set()));
        }
    }
}

#[test]
fn a_restart_by_command_fits_in_the_place_of_what_runs() {
    let mut world = World::new();
    world.answer("a:", policy(2, 64)).unwrap();
    world.create("a:x").unwrap();
    world.create("a:y").unwrap();
    world.answer("a:x", RESTART).unwrap();
    world.answer("a:", policy(2, 63)).unwrap();
    let why = world.answer("a:x", RESTART).unwrap_err();
    assert!(why.contains("63 MB of memory"), "{why}");
    assert_eq!(world.alive.len(), 2);
    world.answer("a:y", DESTROY).unwrap();
    world.answer("a:x", RESTART).unwrap();
}

#[test]
fn a_policy_in_the_place_of_another_says_what_changes() {
    let mut world = World::new();
    let added = Ok("added policy".into());
    assert_eq!(world.answer("a:", policy(1, 1024)), added);
    let changed = "added policy, changing memory from 1024 MB to 512 MB";
    assert_eq!(world.answer("a:", policy(1, 512)), Ok(changed.into()));
}

#[test]
fn fresh_certificates_with_the_same_policy_are_recorded_once_a_minute() {
    let mut world = World::new();
    world.answer("a:", link(64, 1000)).unwrap();
    let mut written = 0;
    for second in 1001..1301 {
        let before = world.saved.clone();
        world.answer("a:", link(64, second)).unwrap();
        written += usize::from(world.saved != before);
        // Whatever was recorded, an older certificate does not win after a crash.
        let mut after = World::with(world.saved.clone());
        let older = after.answer("a:", link(32, second - 1));
        assert_eq!(older, Ok(kept("a:")), "{second}");
    }
    assert_eq!(written, 5);
}
