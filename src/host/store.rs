//! The state file: written so that a crash at any point leaves the old state or the new one.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::wire::WireError;
use crate::wire::state::{State, StateError};

/// Name of the state file below the database folder.
const FILE: &str = "state";
const NEW: &str = ".state.new";
const LOCK: &str = ".lock";

/// The place of the state file, held by this process alone.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    lock: Flock<File>,
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
    /// The state cannot be encoded.
    Encode(WireError),
}

impl Store {
    /// The store in `folder`, which is made if missing. `kept` is a lock that this process has had before it was
    /// executed anew.
    pub fn open(folder: &Path, kept: Option<OwnedFd>) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(StoreError::file("create", folder))?;
        let path = folder.join(LOCK);
        let lock = match kept {
            Some(kept) => File::from(kept),
            None => open(&path).map_err(StoreError::file("open", &path))?,
        };
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::Locked(folder.to_path_buf()))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            lock,
        })
    }

    /// What keeps other supervisors away, to be kept when this program is executed anew.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The state on disk, if there is a file.
    pub fn load(&self) -> Result<Option<State>, StoreError> {
        let path = self.folder.join(FILE);
        match fs::read(&path) {
            Ok(octets) => State::decode(&octets)
                .map(Some)
                .map_err(|error| StoreError::State(path, error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::File("read", path, error)),
        }
    }

    /// Writes the state. After success it survives a crash of the host; after a failure the old one does.
    pub fn save(&self, state: &State) -> Result<(), StoreError> {
        let octets = state.encode().map_err(StoreError::Encode)?;
        let (new, path) = (self.folder.join(NEW), self.folder.join(FILE));
        let mut file = open(&new).map_err(StoreError::file("create", &new))?;
        file.set_len(0)
            .and_then(|()| file.write_all(&octets))
            .and_then(|()| file.sync_all())
            .map_err(StoreError::file("write", &new))?;
        fs::rename(&new, &path).map_err(StoreError::file("rename to", &path))?;
        let folder = File::open(&self.folder).map_err(StoreError::file("open", &self.folder))?;
        folder
            .sync_all()
            .map_err(StoreError::file("sync", &self.folder))
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
            Self::Locked(folder) => {
                write!(
                    f,
                    "{} belongs to a supervisor that is running",
                    folder.display()
                )
            }
            Self::State(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Encode(error) => write!(f, "cannot encode the state: {error}"),
        }
    }
}

impl std::error::Error for StoreError {}
