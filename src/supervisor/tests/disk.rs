//! What images take on disk.

use super::*;
use crate::policy::UNLIMITED;

const MB: u64 = 1 << 20;

impl World {
    /// A world whose next images have so many MB.
    fn with_images(megabytes: u64) -> Self {
        let mut world = Self::new();
        world.image_size = megabytes * MB;
        world
    }

    /// Begins to create a unikernel, whose image arrives.
    fn begin(&mut self, name: &str, force: bool) -> (ConnectionId, UploadId) {
        self.slow_upload = true;
        let client = self.ask(name, create(&config(), force));
        self.slow_upload = false;
        (client, self.uploads.pop().unwrap())
    }

    /// An upload wants so many MB in all.
    fn grow(&mut self, upload: UploadId, megabytes: u64) -> Result<(), String> {
        let bytes = megabytes * MB;
        self.happen(Event::UploadGrows { upload, bytes });
        let (of, answer) = self.granted.pop().unwrap();
        assert!(of == upload && self.granted.is_empty());
        answer
    }

    fn arrive(&mut self, upload: UploadId) {
        let event = self.upload(upload);
        self.happen(event);
    }

    /// Creates a unikernel that ends at once.
    fn create_ended(&mut self, name: &str) {
        self.create(name).unwrap();
        self.clock += Duration::from_secs(1);
        self.die(Death::Exit(0));
    }

    fn ended(&self) -> Vec<String> {
        let ended = self.supervisor.ended.keys();
        let mut ended: Vec<_> = ended.map(ToString::to_string).collect();
        ended.sort();
        ended
    }
}

#[test]
fn an_upload_ends_where_it_exceeds_the_quota_and_takes_nothing_with_it() {
    let mut world = World::new();
    world.answer("a:", policy(1, 32)).unwrap();
    for _ in 0..2 {
        let (client, upload) = world.begin("a:x", false);
        for megabytes in [16, 24, 224] {
            assert_eq!(world.grow(upload, megabytes), Ok(()));
        }
        let why = world.grow(upload, 232).unwrap_err();
        for part in [
            "of a:x",
            "of a:",
            "224 MB of images",
            "8 MB more",
            "destroy",
        ] {
            assert!(why.contains(part), "{part}: {why}");
        }
        let answer = world.answers.pop().unwrap();
        assert!(matches!(answer, (to, Payload::Failure(text), true)
            if to == client && text.to_lossy() == why));
        // Of one that is over nothing is granted.
        assert!(world.grow(upload, 8).is_err());
    }
    assert_eq!(world.staged, 0);
    assert_eq!(world.create("a:x"), Ok("created unikernel".into()));
}

#[test]
fn uploads_at_the_same_time_share_a_quota() {
    let mut world = World::new();
    world.answer("a:", policy(4, 64)).unwrap();
    let (_, first) = world.begin("a:x", false);
    let (_, second) = world.begin("a:b:x", false);
    assert_eq!(world.grow(first, 200), Ok(()));
    assert!(world.grow(second, 32).is_err());
    assert_eq!(world.grow(first, 224), Ok(()));
    let why = world.create("a:y").unwrap_err();
    assert!(why.contains("does not fit"), "{why}");
    assert_eq!(world.create("other:y"), Ok("created unikernel".into()));
    world.happen(Event::Closed(ConnectionId(2)));
    assert_eq!(world.create("a:y"), Ok("created unikernel".into()));
}

#[test]
fn images_count_at_every_level_and_those_of_others_are_not_told() {
    let mut world = World::with_images(120);
    for (path, memory) in [("a:", 64), ("a:b:", 32), ("a:c:", 32)] {
        world.answer(path, policy(2, memory)).unwrap();
    }
    world.create("a:c:x").unwrap();
    let (_, upload) = world.begin("a:b:x", false);
    assert_eq!(world.grow(upload, 104), Ok(()));
    let why = world.grow(upload, 112).unwrap_err();
    assert!(why.contains("of a:") && !why.contains("120"), "{why}");
    assert!(why.contains("104 MB are used by a:b: alone"), "{why}");
}

#[test]
fn an_image_counts_once_for_a_path_whoever_refers_to_it() {
    let mut world = World::with_images(200);
    world.answer("a:", policy(1, 64)).unwrap();
    world.create("a:x").unwrap();
    let arguments = Config {
        arguments: vec![b"more".to_vec()],
        ..config()
    };
    // The present version and the previous one, of the same image.
    world.answer("a:x", restart(&arguments)).unwrap();
    let (_, upload) = world.begin("a:x", true);
    assert_eq!(world.grow(upload, 24), Ok(()));
    assert!(world.grow(upload, 32).is_err());
}

#[test]
fn what_has_ended_is_forgotten_for_a_new_image_the_oldest_first() {
    let mut world = World::with_images(70);
    world.answer("a:", policy(4, 64)).unwrap();
    for name in ["a:b:x", "a:z", "a:y"] {
        world.create_ended(name);
    }
    // More than would be free without all of them: none goes.
    let (_, upload) = world.begin("a:n", false);
    assert!(world.grow(upload, 232).is_err());
    assert_eq!(world.ended(), ["a:b:x", "a:y", "a:z"]);
    assert_eq!(world.create("a:n"), Ok("created unikernel".into()));
    assert_eq!(world.ended(), ["a:y", "a:z"]);
    assert_eq!(world.images.len(), 3);
    // That of the same name stays longest: it is what a rollback returns to.
    assert_eq!(world.create("a:z"), Ok("created unikernel".into()));
    assert!(world.ended().is_empty());
    assert_eq!(
        world.answer("a:z", ROLLBACK),
        Ok("rolled back unikernel".into())
    );
}

#[test]
fn nobody_makes_space_at_the_expense_of_another_path() {
    let mut world = World::with_images(200);
    world.answer("a:", policy(4, 64)).unwrap();
    world.create_ended("a:c:x");
    world.create_ended("other:x");
    assert!(world.create("a:b:x").is_err());
    assert_eq!(world.ended(), ["a:c:x", "other:x"]);
    // Whoever has an authority above both may.
    assert_eq!(world.create("a:x"), Ok("created unikernel".into()));
    assert_eq!(world.ended(), ["other:x"]);
}

#[test]
fn an_image_of_the_size_of_the_present_one_can_replace_it() {
    let mut world = World::with_images(100);
    world.answer("a:", policy(1, 32)).unwrap();
    world.create("a:x").unwrap();
    for _ in 0..3 {
        assert_eq!(
            world.answer("a:x", create(&config(), true)),
            Ok("created unikernel".into())
        );
        assert_eq!(world.images.len(), 2);
    }
    // Two of which do not fit beside each other.
    world.image_size = 200 * MB;
    let why = world.answer("a:x", create(&config(), true)).unwrap_err();
    assert!(why.contains("does not fit"), "{why}");
    assert_eq!(world.names_alive(), ["a:x"]);
    world.answer("a:x", DESTROY).unwrap();
    assert_eq!(world.create("a:x"), Ok("created unikernel".into()));
}

#[test]
fn a_smaller_policy_stops_nothing_and_lets_no_image_in() {
    let mut world = World::with_images(300);
    world.answer("a:", policy(2, 128)).unwrap();
    world.create("a:x").unwrap();
    world.answer("a:", policy(2, 64)).unwrap();
    assert!(world.create("a:y").is_err());
    assert_eq!(world.names_alive(), ["a:x"]);
    assert_eq!(world.answer("a:x", STOP), Ok("stopped unikernel".into()));
    assert_eq!(
        world.answer("a:x", DESTROY),
        Ok("destroyed unikernel".into())
    );
    world.image_size = 224 * MB;
    assert_eq!(world.create("a:y"), Ok("created unikernel".into()));
}

#[test]
fn an_image_that_did_not_ask_counts_all_the_same() {
    let mut world = World::new();
    world.answer("a:", policy(1, 32)).unwrap();
    world.image_size = 225 * MB;
    assert!(world.create("a:x").unwrap_err().contains("does not fit"));
    assert_eq!(world.staged, 0);
}

#[test]
fn images_without_a_policy_or_a_quota_are_bounded_by_the_host_only() {
    let mut world = World::with_images(5000);
    assert_eq!(world.create(":a"), Ok("created unikernel".into()));
    assert_eq!(world.create("a:x"), Ok("created unikernel".into()));
    let settings = Settings {
        disk_quota: DiskQuota::Unlimited,
        ..settings()
    };
    world.supervisor = Supervisor::new(State::default(), Vec::new(), settings);
    world.answer("a:", policy(1, 32)).unwrap();
    assert_eq!(world.create("a:x"), Ok("created unikernel".into()));
}

#[test]
fn images_that_were_there_before_a_start_count() {
    let mut world = World::with_images(200);
    world.answer("a:", policy(2, 64)).unwrap();
    world.create("a:x").unwrap();
    let settings = Settings {
        images: [(world.images[0], 200 * MB)].into(),
        ..settings()
    };
    world.supervisor = Supervisor::new(world.saved.clone(), Vec::new(), settings);
    assert!(world.create("a:y").unwrap_err().contains("does not fit"));
}

#[test]
fn no_image_is_taken_in_while_others_cannot_go_as_the_state_cannot_be_written() {
    let mut world = World::new();
    world.fail = vec!["persist", "persist"];
    assert!(world.create(":a").is_err());
    let why = world.create(":a").unwrap_err();
    assert!(why.contains("state could not be written"), "{why}");
    assert!(world.uploads.is_empty());
    world.pass(SAVE_RETRY);
    assert_eq!(world.create(":a"), Ok("created unikernel".into()));
}

#[test]
fn an_image_that_arrives_in_one_step_is_not_asked_for_twice() {
    let mut world = World::with_images(8);
    world.answer("a:", policy(1, 32)).unwrap();
    let (_, upload) = world.begin("a:x", false);
    assert_eq!(world.supervisor.state().unikernels.len(), 0);
    world.arrive(upload);
    assert_eq!(world.names_alive(), ["a:x"]);
}

#[test]
fn quotas_follow_from_memory_and_have_a_minimum() {
    let of = |quota: &str, memory| {
        let policy = Policy {
            memory,
            ..settings().resources
        };
        quota.parse::<DiskQuota>().unwrap().bytes(&policy)
    };
    assert_eq!(of("4", 32), Some(MIN_DISK_QUOTA));
    assert_eq!(of("4", 64), Some(256 * MB));
    assert_eq!(of("4", 65), Some(260 * MB));
    assert_eq!(of("1", 1024), Some(1024 * MB));
    assert_eq!(of("1024", UNLIMITED), Some(u64::MAX));
    assert_eq!(of("none", 32), None);
    for text in ["0", "1025", "-1", "", "all"] {
        assert!(text.parse::<DiskQuota>().is_err(), "{text}");
    }
    assert_eq!(
        DiskQuota::default(),
        DiskQuota::TimesMemory(DISK_QUOTA_FACTOR)
    );
}

#[test]
fn images_and_archives_together_have_the_quota() {
    for (quota, memory) in [("4", 32), ("4", 67), ("1024", UNLIMITED), ("none", 1)] {
        let quota: DiskQuota = quota.parse().unwrap();
        let policy = Policy {
            memory,
            ..settings().resources
        };
        let [images, archives, all] = [
            quota.of_images(&policy),
            quota.of_archives(&policy),
            quota.bytes(&policy),
        ];
        assert_eq!(images.zip(archives).map(|(one, other)| one + other), all);
        assert_eq!(archives, all.map(|all| all / ARCHIVE_SHARE));
    }
}

#[test]
fn the_console_daemon_is_told_what_archives_may_take_and_what_changes() {
    let mut world = World::new();
    let path: Path = "a".parse().unwrap();
    let share = |memory: u64| memory * 4 * (1 << 20) / 8;
    let set = |world: &mut World, memory| {
        world.answer("a:", policy(2, memory)).unwrap();
        world.archive_bounds[&path]
    };
    assert_eq!(set(&mut world, 128), share(128));
    assert_eq!(set(&mut world, 1024), share(1024));
    assert_eq!(set(&mut world, 1), share(64));
    // What is below has part of it, and no bound of its own.
    world.answer("a:b:", policy(1, 1)).unwrap();
    assert_eq!(world.archive_bounds.len(), 1);
    // Larger ones count once they are on disk.
    world.fail = vec!["persist"];
    assert!(world.answer("a:", policy(2, 512)).is_err());
    assert_eq!(world.archive_bounds[&path], share(64));
    world.pass(SAVE_RETRY);
    // A console daemon that comes hears it before it hears of consoles.
    world.answer("a:", policy(2, 64)).unwrap();
    world.create("a:x").unwrap();
    world.create("other:x").unwrap();
    world.create(":x").unwrap();
    world.archive_bounds.clear();
    world.happen(Event::ConsoleUp);
    let other: Path = "other".parse().unwrap();
    let told = [(path.clone(), share(64)), (other, UNLIMITED)];
    assert_eq!(world.archive_bounds, BTreeMap::from(told));
    let remove = Command::Policy(PolicyCommand::Remove(()));
    world.answer("a:", remove).unwrap();
    assert_eq!(world.archive_bounds[&path], UNLIMITED);
}
