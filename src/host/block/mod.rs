//! Block devices on disk: a sparse file each, under its canonical name (WIRE 6.2).
//!
//! Whoever uses a device locks its file (flock), exclusively to change it: a tender inherits the lock, so that it lasts
//! as long as the tender, even if this program is killed.

mod content;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown,
};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, geteuid};

use super::outgoing::Outgoing;
use super::temporary_file::{UNFINISHED, Unfinished};
use crate::inflate::InflateError;
use crate::name::Name;
use crate::supervisor::{HostDevice, launch};
use crate::unikernel::Config;

pub use content::{Content, Staging};
pub use os::NO_ZVOLS;

/// Directory of the devices below the database directory.
pub(super) const DIRECTORY: &str = "block";

/// Bytes of a MB.
const MB: u64 = 1 << 20;

/// The block devices of a database.
#[derive(Debug)]
pub struct BlockStore {
    directory: PathBuf,
    counter: u64,
    /// What unikernels have.
    attached: HashMap<Name, Vec<Attached>>,
}

/// What is in the directory of the devices.
#[derive(Debug, Default)]
pub struct Inventory {
    /// The devices, with their sizes in MB.
    pub sizes: BTreeMap<Name, u64>,
    /// What a run that was broken off has left.
    pub unfinished: Vec<PathBuf>,
    /// What else there is.
    pub odd: Vec<PathBuf>,
}

/// A file of a device. A lock on it goes with the last process that has the file open as it was opened here.
#[derive(Debug)]
pub struct Attached {
    path: PathBuf,
    file: File,
}

/// A change of the devices on disk. The files and locks that it needs are open; nothing else has happened before it is
/// [carried out](Self::carry_out), which may take the disk a while.
#[derive(Debug)]
pub struct Change {
    directory: PathBuf,
    path: PathBuf,
    kind: ChangeKind,
}

#[derive(Debug)]
enum ChangeKind {
    /// A file becomes a device, all zeros and of so many bytes.
    Make(Unfinished, u64),
    /// A file that is complete becomes a device, in the place of this one.
    Install(Unfinished, Option<Attached>),
    /// A device goes.
    Remove(Attached),
}

/// Why something cannot be done with a block device.
#[derive(Debug)]
pub enum BlockError {
    /// A file operation failed (what, on which file, why).
    File(&'static str, PathBuf, io::Error),
    /// Somebody has the file locked.
    Locked(PathBuf),
    /// There is something else than a device under its name.
    NoDevice(PathBuf),
    /// The content is too large, or no complete zlib stream.
    Content(InflateError),
    /// A tender cannot be given a path with white space in it.
    WhiteSpace(PathBuf),
    /// The path of a ZFS volume leads somewhere else (there).
    Elsewhere(PathBuf, PathBuf),
}

impl BlockStore {
    /// The devices below `database`, with their sizes in MB; what an earlier run has left unfinished is removed. The
    /// group `readers` can reach files of the directory whose names it knows. `users` are those of tenders that still run:
    /// what they own stays theirs.
    pub fn open(
        database: &Path,
        readers: Option<Gid>,
        users: &BTreeMap<u32, Name>,
    ) -> Result<(Self, BTreeMap<Name, u64>), BlockError> {
        let directory = database.join(DIRECTORY);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(BlockError::file("create", &directory))?;
        if let Some(readers) = readers {
            chown(&directory, Some(0), Some(readers.as_raw()))
                .map_err(BlockError::file("change the owner of", &directory))?;
            fs::set_permissions(&directory, Permissions::from_mode(0o710))
                .map_err(BlockError::file("change the mode of", &directory))?;
        }
        let mut store = Self {
            directory,
            counter: 0,
            attached: HashMap::new(),
        };
        let found = look(database)?;
        for path in &found.unfinished {
            fs::remove_file(path).map_err(BlockError::file("remove", path))?;
        }
        for path in &found.odd {
            log::warn!("{} is no block device, and is left alone", path.display());
        }
        for name in found.sizes.keys() {
            store.take_back(name, users)?;
        }
        Ok((store, found.sizes))
    }

    /// Makes a file ours, unless a tender that runs has it.
    fn take_back(&mut self, name: &Name, users: &BTreeMap<u32, Name>) -> Result<(), BlockError> {
        let device = self.device(name)?;
        let found = device.metadata()?;
        if found.uid() == geteuid().as_raw() {
            return Ok(());
        }
        match users.get(&found.uid()) {
            Some(unikernel) => {
                let attached = self.attached.entry(unikernel.clone());
                attached.or_default().push(device);
            }
            None => device.hand_over(geteuid().as_raw()),
        }
        Ok(())
    }

    /// The directory with the files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The size of a device in MB, if it is there.
    pub fn size(&self, name: &Name) -> Option<u64> {
        size(&self.path(name))
    }

    /// Makes a device of `size` MB, all zeros and without disk space.
    pub fn make(&mut self, name: &Name, size: u64) -> Result<Change, BlockError> {
        let file = self.unfinished()?;
        Ok(self.change(name, ChangeKind::Make(file, size * MB)))
    }

    /// Removes a device that nobody uses.
    pub fn remove(&self, name: &Name) -> Result<Change, BlockError> {
        let device = self.device(name)?.lock()?;
        Ok(self.change(name, ChangeKind::Remove(device)))
    }

    /// Begins to take in the content of a device of `size` MB, which is made for it or is one that nobody uses.
    pub fn stage(
        &mut self,
        name: &Name,
        size: u64,
        make: bool,
        compressed: bool,
    ) -> Result<(Staging, Content), BlockError> {
        let before = if make {
            None
        } else {
            Some(self.device(name)?.lock()?)
        };
        let file = self.unfinished()?;
        let copy = file.file.try_clone();
        let copy = copy.map_err(BlockError::file("duplicate", &file.path))?;
        let content = Content::new(copy, self.path(name), size * MB, compressed);
        let name = name.clone();
        Ok((Staging { name, file, before }, content))
    }

    /// Puts content that is [complete](Content::finish) in the place of what there was.
    pub fn install(&self, staging: Staging) -> Change {
        let Staging { name, file, before } = staging;
        self.change(&name, ChangeKind::Install(file, before))
    }

    fn change(&self, name: &Name, kind: ChangeKind) -> Change {
        Change {
            directory: self.directory.clone(),
            path: self.path(name),
            kind,
        }
    }

    /// The content of a device that nobody changes, as it is to be sent.
    pub fn read(&self, name: &Name) -> Result<Outgoing, BlockError> {
        let device = self.device(name)?.lock_shared()?;
        Outgoing::new(device.file).map_err(BlockError::file("look at", &device.path))
    }

    /// Gives a unikernel its devices, which nobody else uses.
    pub fn attach(&mut self, unikernel: &Name, config: &Config) -> Result<(), BlockError> {
        let mut attached = Vec::new();
        for block in &config.blocks {
            let device = HostDevice::of(unikernel.path(), block);
            let Some(path) = launch::block_file(unikernel, block, &self.directory) else {
                let path = self.directory.join(block.host_device());
                return Err(BlockError::NoDevice(path));
            };
            if path.to_string_lossy().contains(char::is_whitespace) {
                return Err(BlockError::WhiteSpace(path));
            }
            let device = match device {
                Some(HostDevice::Zvol(_)) => volume(path)?,
                _ => Attached::open(path)?,
            };
            attached.push(device.lock()?);
        }
        if !attached.is_empty() {
            self.attached.insert(unikernel.clone(), attached);
        }
        Ok(())
    }

    /// What a unikernel was given.
    pub fn of(&self, unikernel: &Name) -> &[Attached] {
        self.attached.get(unikernel).map_or(&[], Vec::as_slice)
    }

    /// Takes from a unikernel what it was given.
    pub fn release(&mut self, unikernel: &Name) {
        for device in self.attached.remove(unikernel).unwrap_or_default() {
            device.hand_over(geteuid().as_raw());
        }
    }

    fn unfinished(&mut self) -> Result<Unfinished, BlockError> {
        self.counter += 1;
        let path = self.directory.join(format!("{UNFINISHED}{}", self.counter));
        Unfinished::create(&path).map_err(BlockError::file("create", &path))
    }

    fn device(&self, name: &Name) -> Result<Attached, BlockError> {
        Attached::open(self.path(name))
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.directory.join(name.to_string())
    }
}

impl Change {
    /// Carries the change out: after success it survives a crash of the host, after a failure all is as it was. A file
    /// without a name may be left over, whose disk space is freed when it is closed.
    pub fn carry_out(self) -> (Result<(), BlockError>, Option<File>) {
        let Self {
            directory,
            path,
            kind,
        } = self;
        match kind {
            ChangeKind::Make(file, size) => {
                let made = content::to_disk(&file.file, size)
                    .map_err(BlockError::file("write", &file.path))
                    .and_then(|()| install(file, &path, &directory, true));
                (made, None)
            }
            ChangeKind::Install(file, before) => {
                let installed = install(file, &path, &directory, before.is_none());
                // Its lock was held until nobody could come upon the old file any more.
                (installed, before.map(|before| before.file))
            }
            ChangeKind::Remove(device) => {
                let removed = fs::remove_file(&path)
                    .map_err(BlockError::file("remove", &path))
                    .and_then(|()| sync(&directory));
                (removed, Some(device.file))
            }
        }
    }
}

/// Renames a file to `path`; `new`: nothing may be there.
fn install(file: Unfinished, path: &Path, directory: &Path, new: bool) -> Result<(), BlockError> {
    // The supervisor knows of no such device, but there may be something else.
    if new && path.symlink_metadata().is_ok() {
        return Err(BlockError::NoDevice(path.to_path_buf()));
    }
    file.rename(path)
        .map_err(BlockError::file("rename to", path))?;
    let synced = sync(directory);
    if synced.is_err() && new {
        let removed = fs::remove_file(path).map_err(BlockError::file("remove", path));
        if let Err(error) = removed {
            log::warn!("{error}");
        }
    }
    synced
}

fn sync(directory: &Path) -> Result<(), BlockError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(BlockError::file("sync", directory))
}

impl Attached {
    /// Opens a regular file, and never through a link.
    fn open(path: PathBuf) -> Result<Self, BlockError> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&path);
        let file = opened.map_err(BlockError::file("open", &path))?;
        let device = Self { path, file };
        if !device.metadata()?.is_file() {
            return Err(BlockError::NoDevice(device.path));
        }
        Ok(device)
    }

    /// Keeps everybody else from it, as far as they ask.
    fn lock(self) -> Result<Self, BlockError> {
        let locked = self.file.try_lock();
        self.locked(locked)
    }

    /// Keeps those from it who would change it.
    fn lock_shared(self) -> Result<Self, BlockError> {
        let locked = self.file.try_lock_shared();
        self.locked(locked)
    }

    fn locked(self, locked: Result<(), TryLockError>) -> Result<Self, BlockError> {
        match locked {
            Ok(()) => Ok(self),
            Err(TryLockError::WouldBlock) => Err(BlockError::Locked(self.path)),
            Err(TryLockError::Error(error)) => Err(BlockError::File("lock", self.path, error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, and with it the lock.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the file this user's alone.
    pub fn hand_over(&self, user: u32) {
        let changed = self.metadata().and_then(|found| {
            if found.uid() == user {
                return Ok(());
            }
            fchown(self.file(), Some(user), None)
                .map_err(BlockError::file("change the owner of", &self.path))
        });
        if let Err(error) = changed {
            log::warn!("{error}");
        }
    }

    fn metadata(&self) -> Result<fs::Metadata, BlockError> {
        self.file()
            .metadata()
            .map_err(BlockError::file("look at", &self.path))
    }
}

/// Opens a ZFS volume, whose path must be its only one.
fn volume(path: PathBuf) -> Result<Attached, BlockError> {
    let leads_to = fs::canonicalize(&path).map_err(BlockError::file("find", &path))?;
    if leads_to != path {
        return Err(BlockError::Elsewhere(path, leads_to));
    }
    let file = File::open(&path).map_err(BlockError::file("open", &path))?;
    Ok(Attached { path, file })
}

/// Looks at what is there below `database`.
pub fn look(database: &Path) -> Result<Inventory, BlockError> {
    let directory = database.join(DIRECTORY);
    let failed = || BlockError::file("list", &directory);
    let mut found = Inventory::default();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed()(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed())?;
        let file = entry.file_name();
        let text = file.to_str().unwrap_or_default();
        let canonical = text
            .parse()
            .ok()
            .filter(|name: &Name| name.label().is_some() && name.to_string() == text);
        match canonical.and_then(|name| Some((name, size(&entry.path())?))) {
            Some((name, size)) => drop(found.sizes.insert(name, size)),
            None if text.starts_with(UNFINISHED) => found.unfinished.push(entry.path()),
            None => found.odd.push(entry.path()),
        }
    }
    Ok(found)
}

/// The size in MB of what is a device at this path.
fn size(path: &Path) -> Option<u64> {
    let found = path.symlink_metadata().ok()?;
    let whole = found.is_file() && found.len() > 0 && found.len() % MB == 0;
    whole.then_some(found.len() / MB)
}

impl BlockError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File(what, path, error)
    }
}

impl From<InflateError> for BlockError {
    fn from(error: InflateError) -> Self {
        Self::Content(error)
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::Locked(path) => write!(
                f,
                "{} is in use: another process has it locked",
                path.display()
            ),
            Self::NoDevice(path) => write!(
                f,
                "{} is no block device: it is to be a file of whole MB",
                path.display()
            ),
            Self::Content(error) => write!(f, "the content is refused: {error}"),
            Self::WhiteSpace(path) => write!(
                f,
                "tenders cannot open {}: there is white space in its path, choose another --dbdir",
                path.display()
            ),
            Self::Elsewhere(path, leads_to) => write!(
                f,
                "{} leads to {}: give that path, if it is one of a volume",
                path.display(),
                leads_to.display()
            ),
        }
    }
}

impl std::error::Error for BlockError {}
