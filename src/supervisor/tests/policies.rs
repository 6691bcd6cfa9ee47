//! Policies, and the age of certificates that carry them.

use super::*;

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
