//! Every target over its seeds and what lies near to them, without a fuzzer.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use petrel_fuzz::{TARGETS, seeds};

#[test]
fn every_target_holds_over_its_seeds() {
    for (target, body) in TARGETS {
        let seeds = seeds::of(target);
        let mut accepted = 0;
        for seed in &seeds {
            accepted += usize::from(body(seed));
            // Cut short, and one byte wrong: some thirty of each.
            let step = seed.len() / 30 + 1;
            for at in (0..seed.len()).step_by(step) {
                body(&seed[..at]);
                let mut damaged = seed.clone();
                damaged[at] ^= 0x81;
                body(&damaged);
            }
        }
        println!("{target}: {accepted} of {} seeds are accepted", seeds.len());
        assert!(
            accepted > 0,
            "{target} accepts none of its {} seeds",
            seeds.len()
        );
    }
}

#[test]
fn every_target_is_a_program() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let programs: BTreeSet<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let targets: BTreeSet<String> = TARGETS
        .iter()
        .map(|(target, _)| format!("{target}.rs"))
        .collect();
    assert_eq!(programs, targets);
}

#[test]
fn files_of_lists_and_uploads_have_seeds_of_many_kinds() {
    for (target, kinds) in [("revocation_file", 8), ("upload", 20)] {
        let (_, body) = TARGETS
            .into_iter()
            .find(|(name, _)| *name == target)
            .unwrap();
        let accepted = seeds::of(target).iter().filter(|seed| body(seed)).count();
        assert!(accepted >= kinds, "{target}: {accepted}");
    }
}
