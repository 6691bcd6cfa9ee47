use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::*;
use crate::directory::Directory;
use crate::unikernel::Version;
use crate::wire::state::{DesiredState, Recorded};

impl Directory {
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }
}

/// A state of one unikernel, with this image.
fn state(image: u8) -> State {
    let unikernel = Recorded {
        name: "a:b".parse().unwrap(),
        version: Arc::new(Version {
            config: crate::supervisor::fixtures::config(),
            image: ImageDigest([image; 32]),
        }),
        previous: None,
        standing: DesiredState::Up,
    };
    State {
        unikernels: vec![unikernel.into()],
        ..State::default()
    }
}

fn loaded(directory: &Directory) -> (Store, Result<StateSource, StoreError>) {
    let mut store = Store::open(&directory.0, None).unwrap();
    let found = store.load();
    (store, found)
}

#[test]
fn a_write_keeps_the_state_before_it() {
    let directory = Directory::short();
    let (mut store, found) = loaded(&directory);
    assert!(
        matches!(found, Ok(StateSource::Nothing)),
        "no file is no error"
    );
    store.save(&state(1)).unwrap();
    assert_eq!(directory.names(), [".lock", "state"]);
    store.save(&state(2)).unwrap();
    assert_eq!(directory.names(), [".lock", "state", "state.previous"]);
    assert_eq!(directory.get("state"), state(2).encode().unwrap());
    assert_eq!(directory.get("state.previous"), state(1).encode().unwrap());
    assert!(store.refers_to(&ImageDigest([1; 32])));
    store.save(&state(3)).unwrap();
    assert_eq!(directory.get("state.previous"), state(2).encode().unwrap());
    assert!(!store.refers_to(&ImageDigest([1; 32])));
    drop(store);
    let (store, _) = loaded(&directory);
    let images: Vec<_> = store.images().map(|image| image.0[0]).collect();
    assert_eq!(images, [3, 2]);
}

#[test]
fn a_write_that_was_broken_off_between_its_renames_is_made_up_for() {
    let directory = Directory::short();
    let (mut store, _) = loaded(&directory);
    store.save(&state(1)).unwrap();
    drop(store);
    fs::hard_link(directory.0.join(FILE), directory.0.join(PREVIOUS)).unwrap();
    directory.put(NEW, b"half");
    fs::hard_link(directory.0.join(FILE), directory.0.join(PREVIOUS_NEW)).unwrap();
    let (mut store, _) = loaded(&directory);
    assert_eq!(directory.names(), [".lock", "state", "state.previous"]);
    store.save(&state(2)).unwrap();
    assert_eq!(directory.names(), [".lock", "state", "state.previous"]);
    assert_eq!(directory.get("state.previous"), state(1).encode().unwrap());
}

#[test]
fn a_damaged_or_missing_state_gives_way_to_the_one_before() {
    let directory = Directory::short();
    let (mut store, _) = loaded(&directory);
    store.save(&state(1)).unwrap();
    store.save(&state(2)).unwrap();
    drop(store);
    let good = directory.get("state");
    for (round, damaged) in [&b""[..], &good[..good.len() - 1], b"hello"]
        .into_iter()
        .enumerate()
    {
        directory.put("state", damaged);
        let (mut store, found) = loaded(&directory);
        let Ok(StateSource::Fallback(Content::Native(found), Some(_))) = found else {
            panic!("{found:?}");
        };
        assert_eq!(found, state(1));
        let aside = if round == 0 {
            BAD.to_owned()
        } else {
            format!("{BAD}.{}", round + 1)
        };
        assert_eq!(directory.get(&aside), damaged, "kept aside");
        assert!(store.has_set_aside());
        store.save(&found).unwrap();
        assert_eq!(directory.get("state.previous"), state(1).encode().unwrap());
    }
    fs::remove_file(directory.0.join("state")).unwrap();
    let (_, found) = loaded(&directory);
    assert!(
        matches!(found, Ok(StateSource::Fallback(_, None))),
        "{found:?}"
    );
}

#[test]
fn without_a_state_that_can_be_used_nothing_is_touched_and_it_is_said_what_to_do() {
    let directory = Directory::short();
    for (files, says) in [
        (&[("state", "x")][..], "state.previous is missing"),
        (
            &[("state", "x"), ("state.previous", "")],
            "state.previous: not a state file",
        ),
        (&[("state.previous", "x")], "/state is missing"),
    ] {
        for (name, bytes) in files {
            directory.put(name, bytes.as_bytes());
        }
        let before = directory.names();
        let (_, found) = loaded(&directory);
        let error = found.unwrap_err().to_string();
        assert!(
            error.contains(says) && error.contains("from a backup"),
            "{error}"
        );
        let mut after = directory.names();
        after.retain(|name| name != LOCK);
        assert_eq!(
            after,
            before
                .into_iter()
                .filter(|name| name != LOCK)
                .collect::<Vec<_>>()
        );
        for (name, _) in files {
            fs::remove_file(directory.0.join(name)).unwrap();
        }
    }
}

#[test]
fn a_write_that_fails_leaves_the_state_and_nothing_else() {
    let directory = Directory::short();
    let (mut store, _) = loaded(&directory);
    store.save(&state(1)).unwrap();
    // A directory cannot be replaced by a file, whoever asks for it.
    fs::create_dir(directory.0.join(PREVIOUS)).unwrap();
    let error = store.save(&state(2)).unwrap_err().to_string();
    assert!(error.contains("cannot rename to"), "{error}");
    assert_eq!(directory.names(), [".lock", "state", "state.previous"]);
    assert_eq!(directory.get("state"), state(1).encode().unwrap());
    // Either may be on disk, for all that is known.
    for image in [1, 2] {
        assert!(store.refers_to(&ImageDigest([image; 32])));
    }
    let mode = fs::metadata(directory.0.join("state"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_original_of_albatross_is_kept_once_and_overwrites_nothing() {
    let directory = Directory::short();
    let file = albatross::State::default().encode().unwrap();
    directory.put("state", &file);
    directory.put("state.albatross", b"an older one");
    let (mut store, found) = loaded(&directory);
    assert!(
        matches!(
            found,
            Ok(StateSource::Present(Content::Albatross(_), Ok(None)))
        ),
        "{found:?}"
    );
    let kept = store.keep_original().unwrap();
    assert_eq!(kept, directory.0.join("state.albatross.2"));
    fs::remove_file(directory.0.join("state.albatross")).unwrap();
    fs::rename(kept, directory.0.join("state.albatross")).unwrap();
    let again = store.keep_original().unwrap();
    assert_eq!(
        again,
        directory.0.join("state.albatross"),
        "it is kept already"
    );
    store.save(&state(1)).unwrap();
    assert_eq!(directory.get("state.albatross"), file);
    assert_eq!(directory.get("state"), state(1).encode().unwrap());
}
