//! The file for `node_exporter`'s textfile collector: what was gathered, and what the supervisor tells of its unikernels.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::prometheus::{self, Report};
use crate::daemon::wall_clock;
use crate::name::{Name, Path as NamePath};
use crate::socket::Peer;
use crate::wire::own::NamedDetails;
use crate::wire::{Command, Message, Payload, Statistics, Success, UnikernelCommand};

/// How long the supervisor may take to tell of its unikernels; the file is written without that then.
pub const DETAILS: Duration = Duration::from_secs(2);

/// Most octets of what it tells.
pub const MAX_DETAILS: usize = 1 << 24;

/// Writes the file each time that something was gathered.
#[derive(Debug)]
pub(super) struct Reporter {
    file: PathBuf,
    supervisor: PathBuf,
    page: i64,
    draft: Option<Draft>,
    /// Whether the log knows that the file cannot be written.
    reported: bool,
}

/// What was gathered, and waits for the supervisor's answer.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) samples: Vec<(Name, Statistics)>,
    pub(super) subscribers: usize,
    pub(super) missed: u64,
    collected: Duration,
    asked: Option<(Peer, Instant)>,
}

impl Draft {
    /// What was gathered just now.
    pub(super) fn new(samples: Vec<(Name, Statistics)>, subscribers: usize, missed: u64) -> Self {
        Self {
            samples,
            subscribers,
            missed,
            collected: wall_clock(),
            asked: None,
        }
    }
}

impl Reporter {
    /// Writes `file`; the supervisor's socket is `supervisor`.
    pub(super) fn new(file: PathBuf, supervisor: PathBuf) -> io::Result<Self> {
        Ok(Self {
            file,
            supervisor,
            page: super::collect::page_size()?,
            draft: None,
            reported: false,
        })
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
            details,
            subscribers: draft.subscribers,
            missed: draft.missed,
            page: self.page,
        });
        match replace(&self.file, &text) {
            Ok(()) => self.reported = false,
            Err(error) => {
                if !self.reported {
                    log::error!("cannot write {}: {error}", self.file.display());
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

/// Puts a file with this text in place of that which is there: a reader finds the one or the other, whole.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // Not the ending of those that `node_exporter` reads.
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
    fs::rename(&new, file)
}
