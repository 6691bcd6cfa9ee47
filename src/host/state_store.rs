//! The state file, and the one before it: written so that a crash or a failure at any point leaves a complete file.
//!
//! A write makes `.state.new`, gives the present `state` the second name `state.previous`, and then renames the new
//! file to `state`. So there is a complete `state` at every moment, and if somebody else damages it, the one before.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::unikernel::ImageDigest;
use crate::wire::WireError;
use crate::wire::state::{Encoder, State, StateError, albatross};

/// Name of the state file below the database directory.
const FILE: &str = "state";
/// Name of the one before it.
const PREVIOUS: &str = "state.previous";
/// What is locked as long as a supervisor runs.
pub(super) const LOCK: &str = ".lock";
/// How long another supervisor that has the database is waited for.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const NEW: &str = ".state.new";
const PREVIOUS_NEW: &str = ".state.previous.new";
/// What a state file that cannot be used is renamed to; a number follows if that is taken.
const BAD: &str = "state.bad";
/// Where a state file of albatross is kept; a number follows if that is taken.
const ALBATROSS: &str = "state.albatross";

/// The place of the state file, held by this process alone.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    lock: Flock<File>,
    encoder: Encoder,
    /// The images that `state` may refer to, and those that `state.previous` may.
    generations: [BTreeSet<ImageDigest>; 2],
}

/// What a state file says.
#[derive(Debug)]
pub enum Content {
    /// One of ours.
    Native(State),
    /// One of albatross, images included.
    Albatross(albatross::State),
}

/// What is on disk.
#[derive(Debug)]
pub enum StateSource {
    /// Nothing yet.
    Nothing,
    /// The state, and the one before it, if that is there and can be used.
    Present(Content, Result<Option<Content>, StoreError>),
    /// Only the state before can be used: the file is missing, or (why) makes no sense.
    Fallback(Content, Option<StoreError>),
}

/// Why the state was not read or written.
#[derive(Debug)]
pub enum StoreError {
    /// A file operation failed (what, on which file, why).
    File(&'static str, PathBuf, io::Error),
    /// Another supervisor has this database.
    Locked(PathBuf),
    /// The file makes no sense.
    State(PathBuf, StateError),
    /// The file cannot be used (why), nor can the one before it (why).
    Unusable(Box<(StoreError, StoreError)>),
    /// The file is missing, as if somebody had removed it (its path).
    Missing(PathBuf),
    /// The state cannot be encoded.
    Encode(WireError),
}

/// Reads what is on disk, and changes nothing.
pub fn read(directory: &Path) -> Result<StateSource, StoreError> {
    let present = directory.join(FILE);
    let previous = directory.join(PREVIOUS);
    let why = match content(&present) {
        Ok(Some(present)) => return Ok(StateSource::Present(present, content(&previous))),
        Ok(None) => None,
        Err(error @ StoreError::State(..)) => Some(error),
        // Nobody knows what it says: another time it may be read.
        Err(error) => return Err(error),
    };
    match (content(&previous), why) {
        (Ok(Some(content)), why) => Ok(StateSource::Fallback(content, why)),
        (Ok(None), None) => Ok(StateSource::Nothing),
        (Ok(None), Some(why)) => Err(StoreError::Unusable(Box::new((
            why,
            StoreError::Missing(previous),
        )))),
        (Err(error), why) => {
            let why = why.unwrap_or(StoreError::Missing(present));
            Err(StoreError::Unusable(Box::new((why, error))))
        }
    }
}

/// Whether a state file is in the directory that could not be used.
pub fn has_set_aside(directory: &Path) -> bool {
    directory.join(BAD).exists()
}

/// Whether a supervisor has this database now. One that starts at the very moment of this call may fail.
pub fn is_in_use(directory: &Path) -> bool {
    let lock = File::open(directory.join(LOCK));
    lock.is_ok_and(|lock| Flock::lock(lock, FlockArg::LockSharedNonblock).is_err())
}

fn content(path: &Path) -> Result<Option<Content>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::File("read", path.to_path_buf(), error)),
    };
    let content = match bytes.first() {
        Some(first) if albatross::VERSIONS.contains(first) => {
            albatross::State::decode(&bytes).map(Content::Albatross)
        }
        _ => State::decode(&bytes).map(Content::Native),
    };
    content
        .map(Some)
        .map_err(|error| StoreError::State(path.to_path_buf(), error))
}

impl Content {
    /// The images in the image store that it refers to.
    pub fn images(&self) -> BTreeSet<ImageDigest> {
        match self {
            Self::Native(state) => state.images().collect(),
            Self::Albatross(_) => BTreeSet::new(),
        }
    }
}

impl Store {
    /// The store in `directory`, which is made if missing; what a write that was broken off has left is removed. `kept`
    /// is a lock that this process has had before it was executed anew.
    pub fn open(directory: &Path, kept: Option<OwnedFd>) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(StoreError::file("create", directory))?;
        let path = directory.join(LOCK);
        let lock = match kept {
            Some(kept) => File::from(kept),
            None => open(&path).map_err(StoreError::file("open", &path))?,
        };
        let lock = take(lock).ok_or_else(|| StoreError::Locked(directory.to_path_buf()))?;
        let store = Self {
            directory: directory.to_path_buf(),
            lock,
            encoder: Encoder::default(),
            generations: Default::default(),
        };
        for name in [NEW, PREVIOUS_NEW] {
            store.remove(name)?;
        }
        Ok(store)
    }

    /// What keeps other supervisors away, to be kept when this program is executed anew.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The state on disk. One that makes no sense is kept aside, loudly, in favour of the one before it.
    pub fn load(&mut self) -> Result<StateSource, StoreError> {
        let found = read(&self.directory)?;
        match &found {
            StateSource::Nothing => {}
            StateSource::Present(present, previous) => {
                let previous = match previous {
                    Ok(previous) => previous.as_ref().map(Content::images).unwrap_or_default(),
                    Err(error) => {
                        log::error!("{error}: there is no state to fall back to");
                        BTreeSet::new()
                    }
                };
                self.generations = [present.images(), previous];
            }
            StateSource::Fallback(used, why) => {
                self.generations = [BTreeSet::new(), used.images()];
                self.set_aside(why.as_ref())?;
            }
        }
        Ok(found)
    }

    fn set_aside(&self, why: Option<&StoreError>) -> Result<(), StoreError> {
        let (path, previous) = (self.directory.join(FILE), self.directory.join(PREVIOUS));
        let (path, previous) = (path.display(), previous.display());
        let Some(why) = why else {
            log::error!("{path} is missing: {previous} is used, the last change may be lost");
            return Ok(());
        };
        let bad = self.unused(BAD)?;
        fs::rename(self.directory.join(FILE), &bad).map_err(StoreError::file("rename to", &bad))?;
        log::error!(
            "{why}: {previous} is used, the last change may be lost; the file is kept as {}",
            bad.display()
        );
        Ok(())
    }

    /// Keeps the state file, which is one of albatross, under a name where it is never overwritten: returns it.
    pub fn keep_original(&self) -> Result<PathBuf, StoreError> {
        let mut original = self.directory.join(FILE);
        if !original.exists() {
            original = self.directory.join(PREVIOUS);
        }
        let first = self.directory.join(ALBATROSS);
        // As an import has left it that was broken off.
        if same_file(&original, &first) {
            return Ok(first);
        }
        let kept = self.unused(ALBATROSS)?;
        fs::hard_link(&original, &kept).map_err(StoreError::file("link to", &kept))?;
        self.sync()?;
        Ok(kept)
    }

    /// Whether a state file is there that could not be used.
    pub fn has_set_aside(&self) -> bool {
        has_set_aside(&self.directory)
    }

    /// Whether the state on disk, or the one before it, refers to this image.
    pub fn refers_to(&self, image: &ImageDigest) -> bool {
        self.generations.iter().any(|images| images.contains(image))
    }

    /// The images that either of them refers to.
    pub fn images(&self) -> impl Iterator<Item = ImageDigest> {
        self.generations.iter().flatten().copied()
    }

    /// Writes the state. After success it survives a crash of the host, and the one before is kept; after a failure
    /// there is the one before, or this one.
    pub fn save(&mut self, state: &State) -> Result<(), StoreError> {
        let saved = self.try_save(state);
        let images = state.images().collect();
        let [present, previous] = &mut self.generations;
        if saved.is_ok() {
            *previous = std::mem::replace(present, images);
            return saved;
        }
        // How far it got is anybody's guess.
        previous.extend(&*present);
        present.extend(images);
        for name in [NEW, PREVIOUS_NEW] {
            if let Err(error) = self.remove(name) {
                log::warn!("{error}");
            }
        }
        saved
    }

    fn try_save(&mut self, state: &State) -> Result<(), StoreError> {
        let bytes = self.encoder.encode(state).map_err(StoreError::Encode)?;
        let (new, path) = (self.directory.join(NEW), self.directory.join(FILE));
        let mut file = open(&new).map_err(StoreError::file("create", &new))?;
        file.set_len(0)
            .and_then(|()| file.write_all(&bytes))
            .and_then(|()| file.sync_all())
            .map_err(StoreError::file("write", &new))?;
        self.keep_previous()?;
        fs::rename(&new, &path).map_err(StoreError::file("rename to", &path))?;
        self.sync()
    }

    fn keep_previous(&self) -> Result<(), StoreError> {
        let (present, previous) = (self.directory.join(FILE), self.directory.join(PREVIOUS));
        let new = self.directory.join(PREVIOUS_NEW);
        match fs::hard_link(&present, &new) {
            // The first one, or the one before has just been fallen back to.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            linked => linked.map_err(StoreError::file("link to", &new))?,
        }
        fs::rename(&new, &previous).map_err(StoreError::file("rename to", &previous))?;
        // A rename does nothing where both are the same file, as after a write that was broken off.
        self.remove(PREVIOUS_NEW)
    }

    /// Makes the names in the directory survive a crash of the host.
    fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(StoreError::file("sync", &self.directory))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StoreError::File("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// This name, or the first one with a number that nothing has.
    fn unused(&self, name: &str) -> Result<PathBuf, StoreError> {
        let numbered = (2_u64..).map(|number| self.directory.join(format!("{name}.{number}")));
        for path in std::iter::once(self.directory.join(name)).chain(numbered) {
            match fs::symlink_metadata(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(StoreError::File("look at", path, error)),
            }
        }
        Ok(self.directory.join(name))
    }
}

/// Locks the database, waiting for one that is about to let go: a supervisor that was killed, or the child that it had
/// just forked.
fn take(mut lock: File) -> Option<Flock<File>> {
    let end = Instant::now() + LOCK_TIMEOUT;
    loop {
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(taken) => return Some(taken),
            Err(_) if Instant::now() >= end => return None,
            Err((again, _)) => lock = again,
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| {
        let data = fs::symlink_metadata(path).ok()?;
        Some((data.dev(), data.ino()))
    };
    identity(one).is_some_and(|found| identity(other) == Some(found))
}

impl StoreError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File(what, path, error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::Locked(directory) => {
                write!(
                    f,
                    "{} belongs to a supervisor that is running",
                    directory.display()
                )
            }
            Self::State(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Missing(path) => write!(f, "{} is missing", path.display()),
            Self::Unusable(both) => {
                let (present, previous) = &**both;
                write!(
                    f,
                    "{present}; {previous}: bring one of them back from a backup, or move both away to begin with \
                     nothing, which ends the tenders that run"
                )
            }
            Self::Encode(error) => write!(f, "cannot encode the state: {error}"),
        }
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests;
