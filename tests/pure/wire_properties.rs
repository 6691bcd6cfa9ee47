//! The wire against messages nobody wrote down: whatever is encoded is read back, whatever is damaged is refused in
//! peace, within bounded memory.

use crate::support::{arbitrary, random, vectors};

use std::sync::Arc;

use arbitrary::Arbitrary;
use petrel::name::{Label, Name, Path};
use petrel::policy::Age;
use petrel::unikernel::{Death, ImageDigest, Version};
use petrel::wire::state::{DesiredState, LastExit, Recorded, State, albatross};
use petrel::wire::{CertExtension, Config, Message, Policy, Timestamp, domain, v5};
use random::Random;
use vectors::{from_hex, load};

#[test]
fn every_message_is_read_back_as_it_was() {
    let mut random = Random::new(20);
    for round in 0..5_000 {
        let message = Message::arbitrary(&mut random);
        let bytes = message.encode().unwrap();
        assert_eq!(Message::decode(&bytes), Ok(message), "round {round}");
    }
}

#[test]
fn every_extension_is_read_back_as_it_was() {
    let mut random = Random::new(21);
    for round in 0..1_000 {
        let extension = CertExtension::arbitrary(&mut random);
        let bytes = extension.encode().unwrap();
        assert_eq!(
            CertExtension::decode(&bytes),
            Ok(extension),
            "round {round}"
        );
    }
}

#[test]
fn every_message_of_an_older_release_is_read_as_it_is_meant() {
    let mut random = Random::new(24);
    for round in 0..3_000 {
        let old = v5::Message::arbitrary(&mut random);
        let bytes = old.encode().unwrap();
        assert_eq!(Message::decode(&bytes), Ok(old.into()), "round {round}");
        let old = v5::CertExtension::arbitrary(&mut random);
        let bytes = old.encode().unwrap();
        let meant = CertExtension::from(old);
        assert_eq!(CertExtension::decode(&bytes), Ok(meant), "round {round}");
    }
}

#[test]
fn every_state_of_albatross_is_read_back_as_it_was() {
    let mut random = Random::new(25);
    for round in 0..500 {
        let state = albatross_state(&mut random);
        let bytes = state.encode().unwrap();
        let read = albatross::State::decode(&bytes).unwrap();
        assert_eq!(read.encode().as_ref(), Ok(&bytes), "round {round}");
        let names = |state: &albatross::State| -> Vec<String> {
            let unikernels = state.unikernels().map(|(name, _)| name.to_string());
            let policies = state.policies().map(|(path, _)| path.to_string());
            unikernels.chain(policies).collect()
        };
        assert_eq!(names(&read), names(&state));
        assert!(State::decode(&bytes).is_err(), "it is not one of ours");
    }
}

/// Any records under names that nobody has twice.
fn albatross_state(random: &mut Random) -> albatross::State {
    let mut label = |number: usize| -> Label {
        let letter = ["a", "B", "-", "."][random.below(4)];
        format!("x{letter}{number}").parse().unwrap()
    };
    let path: Path = (0..3).map(&mut label).collect();
    let names: Vec<Name> = (3..6).map(|n| Name::new(path.clone(), label(n))).collect();
    let unikernels: Vec<_> = names
        .into_iter()
        .map(|name| (name, Config::arbitrary(random)))
        .collect();
    let policies: Vec<_> = path
        .ancestry()
        .map(|path| (path, Policy::arbitrary(random)))
        .collect();
    albatross::State::new(unikernels, policies).unwrap()
}

/// One to three changes: an byte, a bit, a piece left out, a piece repeated, the end cut off.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    const TELLING: [u8; 10] = [0, 1, 0x7f, 0x80, 0x81, 0x84, 0x88, 0xff, 0x30, 0xa0];
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(8)).min(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] = TELLING[random.below(TELLING.len())],
            2 => bytes[at] ^= 1 << random.below(8),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.extend_from_within(at..end),
            _ => bytes.truncate(at),
        }
    }
}

/// What is accepted is canonical, and looking at it closely does no harm either.
fn inspect(bytes: &[u8]) -> bool {
    let _ = CertExtension::decode(bytes).map(|extension| vectors::show_extension(&extension));
    let Ok(message) = Message::decode(bytes) else {
        return false;
    };
    if message.encode().unwrap() != bytes {
        let old: v5::Message = rasn::der::decode(bytes).unwrap();
        assert_eq!(old.encode().unwrap(), bytes);
        assert_eq!(Message::from(old), message);
    }
    let _ = domain::name(&message.header.name);
    let _ = vectors::show_message(&message);
    true
}

#[test]
fn damaged_messages_are_refused_or_canonical() {
    let mut random = Random::new(22);
    let entries = load("wire.json")
        .into_iter()
        .chain(load("wire_reject.json"));
    let small: Vec<Vec<u8>> = entries
        .map(|entry| from_hex(entry["hex"].as_str().unwrap()))
        .filter(|bytes| bytes.len() < 2_000)
        .collect();
    let (mut refused, mut accepted) = (0, 0);
    for bytes in &small {
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            damage(&mut damaged, &mut random);
            if inspect(&damaged) {
                accepted += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(refused > 10_000 && accepted > 100, "{refused} {accepted}");
}

/// What is accepted as a state, ours or albatross's, is written and read again as the same.
fn inspect_state(bytes: &[u8]) -> bool {
    let ours = State::decode(bytes);
    if let Ok(state) = &ours {
        let written = state.encode().unwrap();
        assert_eq!(State::decode(&written).as_ref(), Ok(state));
    }
    let theirs = albatross::State::decode(bytes);
    if let Ok(state) = &theirs {
        let written = state.encode().unwrap();
        let read = albatross::State::decode(&written).unwrap();
        assert_eq!(read.encode().unwrap(), written);
        let _ = state.clone().import();
    }
    ours.is_ok() || theirs.is_ok()
}

#[test]
fn damaged_states_are_refused_or_written_again() {
    let mut random = Random::new(26);
    let (mut refused, mut accepted) = (0, 0);
    for entry in load("state.json") {
        let bytes = from_hex(entry["hex"].as_str().unwrap());
        let mut kinds = vec![bytes.clone()];
        if let Ok(state) = albatross::State::decode(&bytes) {
            kinds.push(ours(state.import()).encode().unwrap());
        }
        for bytes in kinds {
            for _ in 0..300 {
                let mut damaged = bytes.clone();
                damage(&mut damaged, &mut random);
                if inspect_state(&damaged) {
                    accepted += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 3_000 && accepted > 100, "{refused} {accepted}");
}

/// A state of ours with the same entries.
fn ours(import: albatross::Import) -> State {
    let unikernels = import.unikernels.into_iter();
    let paths = import.policies.iter().map(|(path, _)| path.clone());
    let age = Age::new(1_700_000_000);
    State {
        ages: paths.map(|path| (path, age)).collect(),
        forgotten: vec![(Path::ROOT, age)],
        unikernels: unikernels
            .enumerate()
            .map(|(number, one)| {
                let version = Arc::new(Version {
                    config: one.config,
                    image: ImageDigest([0; 32]),
                });
                let exit = LastExit {
                    death: Death::Signal(9),
                    at: Timestamp::from_unix(1_700_000_000, 0),
                };
                Arc::new(Recorded {
                    name: one.name,
                    previous: (number % 2 == 0).then(|| version.clone()),
                    version,
                    standing: [
                        DesiredState::Up,
                        DesiredState::Stopped,
                        DesiredState::Ended(exit),
                    ][number % 3]
                        .clone(),
                })
            })
            .collect(),
        policies: import.policies,
    }
}

#[test]
fn noise_is_refused() {
    let mut random = Random::new(23);
    for length in 0..2_000 {
        let noise: Vec<u8> = (0..length).map(|_| random.byte()).collect();
        assert!(!inspect(&noise) && !inspect_state(&noise));
    }
}
