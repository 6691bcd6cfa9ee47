//! Weaknesses of albatross that no other test shows to be absent (`doc/albatross-bugs.md`).

use super::*;

#[test]
fn destroying_a_path_is_refused_and_ends_nothing() {
    let mut world = World::new();
    world.create(":a").unwrap();
    assert!(world.answer("a:", DESTROY).unwrap_err().contains("path"));
    assert_eq!(world.names_alive(), [":a"]);
}

#[test]
fn a_replacement_ends_the_wait_for_a_restart() {
    let mut world = World::new();
    let again = Config {
        fail_behaviour: FailBehaviour::Restart([].into()),
        ..with_memory(32)
    };
    world.answer(":a", create(&again, false)).unwrap();
    world.die(Death::Exit(2));
    world.answer(":a", create(&with_memory(64), true)).unwrap();
    world.pass(restart::LONGEST_WAIT * 2);
    assert_eq!(world.memories(), [64]);
}

#[test]
fn info_about_a_path_has_the_sizes_of_block_devices() {
    let mut world = World::new();
    let add = BlockCommand::Add(Int::new(5));
    world.answer("a:disk", block(add)).unwrap();
    world.device = true;
    let with_disk = Config {
        blocks: vec![Block {
            device: "data".into(),
            host_device: Some("disk".into()),
            sector_size: None,
        }],
        ..config()
    };
    world.answer("a:x", create(&with_disk, false)).unwrap();
    for asked in [":", "a:", "a:x"] {
        let sizes: Vec<_> = world
            .info(asked)
            .into_iter()
            .filter_map(|unikernel| unikernel.info.blocks)
            .flat_map(|blocks| blocks.items().to_vec())
            .map(|block| block.block_size)
            .collect();
        assert_eq!(sizes, [Int::new(5)], "{asked}");
    }
}

impl World {
    /// The answer to `info`.
    fn info(&mut self, name: &str) -> Vec<NamedInfo> {
        let from = self.ask(name, Command::Unikernel(UnikernelCommand::Info(())));
        let answer = self.answers.extract_if(.., |(to, _, _)| *to == from).next();
        match answer {
            Some((_, Payload::Reply(Success::UnikernelInfo(unikernels)), true)) => unikernels,
            other => panic!("another answer: {other:?}"),
        }
    }
}
