//! The wire against messages nobody wrote down: whatever is encoded is read back, whatever is damaged is refused in
//! peace, within bounded memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/arbitrary.rs"]
mod arbitrary;
#[path = "support/random.rs"]
mod random;
#[path = "support/vectors.rs"]
mod vectors;

use arbitrary::Arbitrary;
use petrel::wire::{CertExtension, Message, domain};
use random::Random;
use vectors::{from_hex, load};

#[test]
fn every_message_is_read_back_as_it_was() {
    let mut random = Random::new(20);
    for round in 0..5_000 {
        let message = Message::arbitrary(&mut random);
        let octets = message.encode().unwrap();
        assert_eq!(Message::decode(&octets), Ok(message), "round {round}");
    }
}

#[test]
fn every_extension_is_read_back_as_it_was() {
    let mut random = Random::new(21);
    for round in 0..1_000 {
        let extension = CertExtension::arbitrary(&mut random);
        let octets = extension.encode().unwrap();
        assert_eq!(
            CertExtension::decode(&octets),
            Ok(extension),
            "round {round}"
        );
    }
}

/// One to three changes: an octet, a bit, a piece left out, a piece repeated, the end cut off.
fn damage(octets: &mut Vec<u8>, random: &mut Random) {
    const TELLING: [u8; 10] = [0, 1, 0x7f, 0x80, 0x81, 0x84, 0x88, 0xff, 0x30, 0xa0];
    for _ in 0..=random.below(3) {
        if octets.is_empty() {
            return;
        }
        let at = random.below(octets.len());
        let end = (at + 1 + random.below(8)).min(octets.len());
        match random.below(6) {
            0 => octets[at] = random.octet(),
            1 => octets[at] = TELLING[random.below(TELLING.len())],
            2 => octets[at] ^= 1 << random.below(8),
            3 => drop(octets.drain(at..end)),
            4 => octets.extend_from_within(at..end),
            _ => octets.truncate(at),
        }
    }
}

/// What is accepted is canonical, and looking at it closely does no harm either.
fn inspect(octets: &[u8]) -> bool {
    let _ = CertExtension::decode(octets).map(|extension| vectors::show_extension(&extension));
    let Ok(message) = Message::decode(octets) else {
        return false;
    };
    assert_eq!(message.encode().unwrap(), octets);
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
        .filter(|octets| octets.len() < 2_000)
        .collect();
    let (mut refused, mut accepted) = (0, 0);
    for octets in &small {
        for _ in 0..300 {
            let mut damaged = octets.clone();
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

#[test]
fn noise_is_refused() {
    let mut random = Random::new(23);
    for length in 0..2_000 {
        let noise: Vec<u8> = (0..length).map(|_| random.octet()).collect();
        assert!(!inspect(&noise));
    }
}
