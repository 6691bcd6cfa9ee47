//! Hardware addresses of unikernels on the same and on other bridges.

use super::*;
use crate::unikernel::Mac;

const GIVEN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn world() -> World {
    let mut world = World::new();
    let bridges = ["lan", "wan"].map(str::to_owned).into();
    world.host_has_bridges(bridges);
    world.nets = 1;
    world
}

fn on(bridge: &str, mac: Option<Mac>) -> Config {
    on_all(&[(bridge, mac)])
}

fn on_all(nets: &[(&str, Option<Mac>)]) -> Config {
    let net = |(number, (bridge, mac)): (usize, &(&str, Option<Mac>))| Net {
        device: format!("net{number}"),
        bridge: Some((*bridge).to_owned()),
        mac: *mac,
    };
    Config {
        nets: nets.iter().enumerate().map(net).collect(),
        ..config()
    }
}

fn refused(answer: Result<String, String>, why: &str) {
    let text = answer.unwrap_err();
    assert!(text.contains(why), "{text}");
}

const TAKEN: &str = "02:00:00:00:00:01 is taken on bridge lan";

#[test]
fn an_address_is_had_once_on_a_bridge_whoever_asks() {
    let mut world = world();
    world
        .answer("b:x", create(&on("lan", Some(GIVEN)), false))
        .unwrap();
    for force in [false, true] {
        let same = create(&on("lan", Some(GIVEN)), force);
        refused(world.answer("a:x", same), TAKEN);
    }
    world
        .answer("a:wan", create(&on("wan", Some(GIVEN)), false))
        .unwrap();
    world
        .answer("a:x", create(&on("lan", Some(OTHER)), false))
        .unwrap();
    // The derived address of another one, too.
    world
        .answer("b:y", create(&on("lan", None), false))
        .unwrap();
    let derived = Mac::derived("net0", &"b:y".parse().unwrap());
    let answer = world.answer("a:y", create(&on("lan", Some(derived)), false));
    refused(answer, "is taken on bridge lan");
}

#[test]
fn a_unikernel_keeps_its_address_however_it_is_started_again() {
    let mut world = world();
    for (name, mac) in [("b:x", Some(GIVEN)), ("b:y", None)] {
        let same = || create(&on("lan", mac), true);
        world.answer(name, same()).unwrap();
        world.answer(name, same()).unwrap();
        world.answer(name, RESTART).unwrap();
        world.answer(name, STOP).unwrap();
        let thief = Mac::derived("net0", &name.parse().unwrap());
        let thief = on("lan", Some(mac.unwrap_or(thief)));
        refused(world.answer("a:x", create(&thief, false)), "is taken");
        world.answer(name, START).unwrap();
        world.answer(name, same()).unwrap();
    }
}

#[test]
fn what_has_ended_or_was_replaced_holds_no_address() {
    let mut world = world();
    let with = |mac| create(&on("lan", Some(mac)), true);
    world.answer("b:x", with(GIVEN)).unwrap();
    world.answer("b:x", with(OTHER)).unwrap();
    world.answer("a:x", with(GIVEN)).unwrap();
    refused(world.answer("b:x", ROLLBACK), TAKEN);
    world.answer("b:x", DESTROY).unwrap();
    world.die(Death::Exit(0));
    world.answer("b:x", with(GIVEN)).unwrap();
    refused(world.answer("a:x", START), TAKEN);
}

#[test]
fn an_address_that_is_about_to_be_had_is_taken() {
    let mut world = world();
    world.hold.push("inspect");
    world.ask("b:x", create(&on("lan", Some(GIVEN)), false));
    let same = create(&on("lan", Some(GIVEN)), false);
    refused(world.answer("a:x", same), TAKEN);
}

#[test]
fn an_address_is_that_of_one_host() {
    let mut world = world();
    for mac in [[1, 0, 0x5e, 0, 0, 1], [0xff; 6], [0; 6]] {
        let answer = world.answer("a:x", create(&on("lan", Some(Mac(mac))), false));
        refused(answer, "is not one of a single host");
    }
    world.nets = 2;
    let twice = on_all(&[("lan", Some(GIVEN)), ("lan", Some(GIVEN))]);
    refused(
        world.answer("a:x", create(&twice, false)),
        "two network devices",
    );
    let both = on_all(&[("lan", Some(GIVEN)), ("wan", Some(GIVEN))]);
    world.answer("a:x", create(&both, false)).unwrap();
}

#[test]
fn duplicates_of_an_old_state_run_as_before() {
    let state = State {
        unikernels: vec![
            recorded("a:x", on("lan", Some(GIVEN))),
            recorded("b:x", on("lan", Some(GIVEN))),
        ],
        ..State::default()
    };
    let mut world = World::with(state);
    world.nets = 1;
    world.host_has_bridges(["lan".to_owned()].into());
    world.happen(Event::Boot);
    assert_eq!(world.names_alive().len(), 2);
    world.answer("a:x", RESTART).unwrap();
    world
        .answer("b:x", create(&on("lan", Some(GIVEN)), true))
        .unwrap();
    refused(
        world.answer("c:x", create(&on("lan", Some(GIVEN)), false)),
        TAKEN,
    );
}
