//! The file for `node_exporter`'s textfile collector: what was gathered, and what the supervisor tells of its unikernels.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::collect::Disk;
use super::prometheus::{self, Report};
use crate::daemon::{DaemonError, wall_clock};
use crate::name::{Name, Path as NamePath};
use crate::socket::Peer;
use crate::wire::extensions::NamedDetails;
use crate::wire::{Command, Message, Payload, Statistics, Success, UnikernelCommand};

/// How long the supervisor may take to tell of its unikernels; the file is written without that then.
pub const DETAILS: Duration = Duration::from_secs(2);

/// Most bytes of what it tells.
pub const MAX_DETAILS: usize = 1 << 24;

/// Writes the file each time that something was gathered.
#[derive(Debug)]
pub(super) struct Reporter {
    place: ReportFile,
    supervisor: PathBuf,
    page: i64,
    draft: Option<Draft>,
    /// Whether the log knows that the file cannot be written.
    reported: bool,
}

/// Where the file is.
#[derive(Debug)]
struct ReportFile {
    path: PathBuf,
    directory: File,
    name: OsString,
}

/// What was gathered, and waits for the supervisor's answer.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) samples: Vec<(Name, Statistics)>,
    pub(super) disks: Vec<(Name, Disk)>,
    pub(super) subscribers: usize,
    pub(super) missed: u64,
    collected: Duration,
    asked: Option<(Peer, Instant)>,
}

impl Draft {
    /// What was gathered just now.
    pub(super) fn new(
        samples: Vec<(Name, Statistics)>,
        disks: Vec<(Name, Disk)>,
        subscribers: usize,
        missed: u64,
    ) -> Self {
        Self {
            samples,
            disks,
            subscribers,
            missed,
            collected: wall_clock(),
            asked: None,
        }
    }
}

impl Reporter {
    /// Writes `file`, whose directory must be there; the supervisor's socket is `supervisor`.
    pub(super) fn open(file: PathBuf, supervisor: PathBuf) -> Result<Self, DaemonError> {
        let page = super::collect::page_size();
        Ok(Self {
            place: ReportFile::open(file)?,
            supervisor,
            page: page.map_err(|error| DaemonError::System("ask for the size of a page", error))?,
            draft: None,
            reported: false,
        })
    }

    /// The directory of the file.
    pub(super) fn directory(&self) -> &File {
        &self.place.directory
    }

    /// Asks the supervisor, and writes the file once it has answered, or will not.
    pub(super) fn begin(&mut self, mut draft: Draft, now: Instant) {
        self.finish(None);
        match ask(&self.supervisor) {
            Ok(peer) => {
                draft.asked = Some((peer, now + DETAILS));
                self.draft = Some(draft);
            }
            Err(error) => {
                log::debug!("the supervisor is not asked for its unikernels: {error}");
                self.draft = Some(draft);
                self.finish(None);
            }
        }
    }

    /// The connection to the supervisor, to be polled.
    pub(super) fn peer(&self) -> Option<&Peer> {
        let (peer, _) = self.draft.as_ref()?.asked.as_ref()?;
        Some(peer)
    }

    /// When [`Self::progress`] is wanted at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let (_, deadline) = self.draft.as_ref()?.asked.as_ref()?;
        Some(*deadline)
    }

    /// Reads and writes what goes.
    pub(super) fn progress(&mut self, now: Instant) {
        let Some((peer, deadline)) = self.draft.as_mut().and_then(|draft| draft.asked.as_mut())
        else {
            return;
        };
        match details(peer) {
            Ok(None) if now < *deadline => {}
            Ok(details) => self.finish(details.as_deref()),
            Err(why) => {
                log::debug!("the supervisor does not tell of its unikernels: {why}");
                self.finish(None);
            }
        }
    }

    fn finish(&mut self, details: Option<&[NamedDetails]>) {
        let Some(draft) = self.draft.take() else {
            return;
        };
        let text = prometheus::text(&Report {
            collected: draft.collected,
            samples: &draft.samples,
            disks: &draft.disks,
            details,
            subscribers: draft.subscribers,
            missed: draft.missed,
            page: self.page,
        });
        match self.place.replace(&text) {
            Ok(()) => self.reported = false,
            Err(error) => {
                if !self.reported {
                    log::error!("cannot write {}: {error}", self.place.path.display());
                }
                self.reported = true;
            }
        }
    }
}

/// A connection on which the supervisor is asked for all unikernels.
fn ask(socket: &Path) -> Result<Peer, String> {
    let mut peer = Peer::dial(socket)?;
    let command = Command::Unikernel(UnikernelCommand::Details(()));
    peer.tell(&Message::command(0, &Name::from(NamePath::ROOT), command))?;
    Ok(peer)
}

/// The answer, if it is complete.
fn details(peer: &mut Peer) -> Result<Option<Vec<NamedDetails>>, String> {
    match peer.hear(MAX_DETAILS)?.map(|message| message.payload) {
        None => Ok(None),
        Some(Payload::Reply(Success::UnikernelDetails(details))) => Ok(Some(details)),
        Some(Payload::Failure(why)) => Err(why.to_lossy()),
        Some(_) => Err("it answers something else".to_owned()),
    }
}

impl ReportFile {
    fn open(path: PathBuf) -> Result<Self, DaemonError> {
        let directory = match path.parent() {
            Some(directory) if directory.as_os_str().is_empty() => Path::new("."),
            Some(directory) => directory,
            None => &path,
        };
        let opened = File::open(directory);
        let directory = opened.map_err(|error| DaemonError::Open(directory.to_owned(), error))?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Self {
            path,
            directory,
            name,
        })
    }

    /// Puts a file with this text in place of that which is there: a reader finds the one or the other, whole. The directory
    /// may be another user's: what that has put there is replaced, never written to, nor what it leads to.
    fn replace(&self, text: &str) -> io::Result<()> {
        // Not the ending of those that `node_exporter` reads.
        let mut new = self.name.clone();
        new.push(".new");
        match unlinkat(&self.directory, &*new, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file: File = openat(&self.directory, &*new, flags, mode)?.into();
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(renameat(
            &self.directory,
            &*new,
            &self.directory,
            &*self.name,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::directory::Directory;

    #[test]
    fn nothing_is_written_through_what_somebody_else_has_put_there() {
        let Directory(directory) = &Directory::short();
        let [victim, file, new] =
            ["victim", "a.prom", "a.prom.new"].map(|name| directory.join(name));
        let place = ReportFile::open(file.clone()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let tricks: [fn(&Path, &Path) -> io::Result<()>; 2] = [
            |from, to| symlink(from, to),
            |from, to| fs::hard_link(from, to),
        ];
        for trick in tricks {
            fs::write(&victim, "kept").unwrap();
            fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
            trick(&victim, &file).unwrap();
            trick(&victim, &new).unwrap();
            place.replace("text").unwrap();
            assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
            assert_eq!(mode(&victim), 0o600);
            assert!(fs::symlink_metadata(&file).unwrap().is_file());
            assert_eq!(fs::read_to_string(&file).unwrap(), "text");
            assert_eq!(mode(&file), 0o644);
            assert!(!new.exists());
            fs::remove_file(&file).unwrap();
        }
        // What is no file stays, and is told.
        fs::create_dir(&new).unwrap();
        assert!(place.replace("text").is_err());
    }
}
