//! What a host has, and gets meanwhile.

use super::*;

fn on_bridge() -> Config {
    Config {
        nets: vec![Net {
            device: "net0".into(),
            bridge: Some("late".into()),
            mac: None,
        }],
        ..config()
    }
}

/// One whose bridge the host has only from now on.
fn started_before_its_bridge() -> World {
    let state = State {
        unikernels: vec![recorded(":a", on_bridge())],
        ..State::default()
    };
    let mut world = World::with(state);
    world.happen(Event::Boot);
    world.nets = 1;
    world.host.bridges.insert("late".into());
    world
}

#[test]
fn a_bridge_that_comes_later_is_found_when_a_command_needs_it() {
    for command in [RESTART, create(&on_bridge(), true), restart(&on_bridge())] {
        let mut world = started_before_its_bridge();
        assert_eq!(world.answer(":a", command), Ok("created unikernel".into()));
    }
    // Arguments may ask for it.
    let mut world = World::new();
    world.nets = 1;
    let elsewhere = Config {
        nets: vec![Net {
            bridge: Some("service".into()),
            ..on_bridge().nets.remove(0)
        }],
        ..config()
    };
    world.host_has_bridges(["service".to_owned()].into());
    world.answer(":a", create(&elsewhere, false)).unwrap();
    world.host.bridges.insert("late".into());
    let restarted = world.answer(":a", restart(&on_bridge()));
    assert_eq!(restarted, Ok("created unikernel".into()));
    let mut world = started_before_its_bridge();
    world.answer(":a", STOP).unwrap();
    assert_eq!(world.answer(":a", START), Ok("started unikernel".into()));
    world.answer(":b", create(&on_bridge(), false)).unwrap();
}

#[test]
fn what_the_host_still_lacks_is_refused_once_and_for_all() {
    let mut world = World::new();
    world.nets = 1;
    let answer = world.answer(":a", create(&on_bridge(), false));
    assert_eq!(answer, Err("this host has no bridge late".into()));
    // Looking can fail.
    world.host.bridges.insert("late".into());
    world.fail.push("look");
    let answer = world.answer(":a", create(&on_bridge(), false));
    assert_eq!(answer, Err("this host has no bridge late".into()));
    world.answer(":a", create(&on_bridge(), false)).unwrap();
}

#[test]
fn a_cpu_and_memory_that_come_later_are_found() {
    let mut world = World::new();
    world.host_has(10, 40);
    world.host.memory = 4096;
    world.host.cpus.insert(64);
    world
        .answer(":a", create(&with_memory(1024), false))
        .unwrap();
    let pinned = Config {
        cpus: [64].into(),
        ..config()
    };
    world.answer(":b", create(&pinned, false)).unwrap();
}

#[test]
fn a_client_that_leaves_meanwhile_leaves_nothing_behind() {
    let mut world = World::new();
    world.slow_upload = true;
    world.host.bridges.insert("late".into());
    world.hold.push("look");
    let client = world.ask(":a", create(&on_bridge(), false));
    assert!(!world.supervisor.is_quiet());
    world.happen(Event::Closed(client));
    world.release();
    assert!(world.supervisor.is_quiet() && world.uploads.is_empty());
}

#[test]
fn a_supervisor_that_stops_meanwhile_refuses() {
    let mut world = World::new();
    world.hold.push("look");
    let client = world.ask(":a", create(&on_bridge(), false));
    world.happen(Event::Terminate);
    assert!(world.done);
    let mut answers = world.answers.iter();
    assert!(answers.any(|(to, answer, _)| *to == client && matches!(answer, Payload::Failure(_))));
}

#[test]
fn one_that_is_off_its_bridge_says_so_as_long_as_it_runs() {
    let mut world = World::new();
    world.create(":a").unwrap();
    let why = "tap pt0 is not on bridge late";
    let off = || Event::Networks([(":a".parse().unwrap(), why.to_owned())].into());
    world.happen(off());
    assert_eq!(world.details(":a").off_bridge, Some(why.into()));
    world.happen(Event::Networks(BTreeMap::new()));
    assert_eq!(world.details(":a").off_bridge, None);
    world.happen(off());
    world.answer(":a", STOP).unwrap();
    assert_eq!(world.details(":a").off_bridge, None);
}
