//! BHyve machines.

use super::*;

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
    assert_eq!(world.details("a:x").info.digest, Bytes(name.into_bytes()));
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
    assert_eq!(
        world.details("a:x").standing,
        extensions::Standing::Ended(())
    );
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

/// A guest shuts down when its power button is pressed, and that takes its time.
#[test]
fn a_machine_has_longer_to_stop_than_an_image() {
    let second = Duration::from_secs(1);
    for (configured, expected) in [
        (STOP_DEADLINE, MACHINE_STOP_DEADLINE),
        (MACHINE_STOP_DEADLINE * 2, MACHINE_STOP_DEADLINE * 2),
    ] {
        let mut world = with_volumes();
        let settings = Settings {
            stop_deadline: configured,
            devices: BlockDevices::new(BTreeMap::new(), Some("a".parse().unwrap())),
            ..settings()
        };
        world.supervisor = Supervisor::new(State::default(), Vec::new(), settings);
        world.answer("a:x", create(&machine(), false)).unwrap();
        world.obedient = false;
        world.happen(Event::Terminate);
        world.pass(expected.saturating_sub(second));
        assert!(!world.done);
        world.pass(second);
        assert!(world.done);
    }
    // FreeBSD's rc.shutdown(8) waits no longer, for all of its services together.
    assert!(MACHINE_STOP_DEADLINE < Duration::from_secs(90));
}
