//! The CRLs of `--crl`, opened anew for each connection.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use log::warn;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::stat::Mode;
use rustls::pki_types::UnixTime;

use super::expiry::EXPIRY_NOTICE;
use crate::chain::crl::{Crl, CrlError, LABEL, MAX_CRL_FILE};
use crate::chain::verify::Anchor;
use crate::sandbox::Need;
use crate::socket::SEARCH;

/// Most CRLs in all files together.
pub const MAX_CRLS: usize = 256;

/// What `--crl` and the options with it say: files that are open, as they are read in a sandbox.
#[derive(Debug, Default)]
pub struct CrlFiles {
    files: Vec<(PathBuf, io::Result<File>)>,
    /// For each file its directory, and its name there.
    places: Vec<io::Result<(OwnedFd, OsString)>>,
    /// A file that is not there, and may come: its path, its directory and its name there.
    awaited: Option<(PathBuf, OwnedFd, OsString)>,
    /// Whether those that have expired are used.
    accept_expired: bool,
}

/// Why the lists cannot be used, so that no certificate is accepted.
#[derive(Debug)]
pub struct CrlFilesError {
    file: PathBuf,
    reason: Reason,
}

/// What is wrong with the file.
#[derive(Debug)]
pub enum Reason {
    /// It cannot be read.
    Read(io::Error),
    /// More than [`MAX_CRL_FILE`].
    TooLarge,
    /// Not PEM, or not of lists only.
    Content(String),
    /// No list in it.
    Empty,
    /// [`MAX_CRLS`] are exceeded.
    TooMany,
    /// Neither in it nor in the others is one of the anchor.
    NoneOfAnchor,
    /// One of its lists cannot be used.
    List(CrlError),
}

/// The lists that were read.
#[derive(Debug)]
pub struct LoadedCrls {
    /// All of them.
    pub lists: Vec<Crl>,
    /// The files and issuers of those that are not the anchor's.
    others: Vec<(PathBuf, String)>,
}

impl CrlFiles {
    /// Opens the files. One that cannot be opened is a matter of [`Self::read`].
    pub fn open(files: &[PathBuf], accept_expired: bool) -> Self {
        // What is no file, and waits for somebody, is not waited for.
        let open = |file: &PathBuf| {
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_NONBLOCK);
            (file.clone(), options.open(file))
        };
        Self {
            files: files.iter().map(open).collect(),
            places: files.iter().map(|file| place(file)).collect(),
            awaited: None,
            accept_expired,
        }
    }

    /// No lists yet: the file is not there, and counts once it [is](Self::reopen).
    pub fn awaiting(file: PathBuf, accept_expired: bool) -> Self {
        let place = place(&file).ok();
        Self {
            awaited: place.map(|(directory, name)| (file, directory, name)),
            accept_expired,
            ..Self::default()
        }
    }

    /// Paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Opens the files again by their directories, as others may have taken their places.
    pub fn reopen(&self) -> Self {
        let again = |((path, _), place): (&(PathBuf, _), &io::Result<(OwnedFd, OsString)>)| {
            let open = match place {
                Ok((directory, name)) => open_at(directory, name),
                Err(error) => Err(copy(error)),
            };
            (path.clone(), open)
        };
        let missing = |open: &io::Result<File>| {
            let error = open.as_ref().err();
            error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let awaited = self.awaited.iter();
        let come = awaited
            .map(|(path, directory, name)| (path.clone(), open_at(directory, name)))
            .filter(|(_, open)| !missing(open));
        let files = self.files.iter().zip(&self.places).map(again);
        Self {
            files: files.chain(come).collect(),
            places: Vec::new(),
            awaited: None,
            accept_expired: self.accept_expired,
        }
    }

    /// Rights that a sandbox has to leave for [`Self::reopen`].
    pub fn needs(&self) -> impl Iterator<Item = Need<'_>> {
        let places = self.places.iter().flatten();
        let places = places.map(|(directory, _)| directory);
        let awaited = self.awaited.iter().map(|(_, directory, _)| directory);
        places
            .chain(awaited)
            .map(|directory| Need::Reopen(directory.as_fd()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads all lists, once. Those that have expired are used with a warning if that is allowed.
    ///
    /// # Errors
    /// If one cannot be used, or there are some, but none of them is the anchor's: then they are perhaps another host's,
    /// and what is revoked here is not known.
    pub fn read(&self, anchor: &Anchor, now: UnixTime) -> Result<LoadedCrls, CrlFilesError> {
        let mut found = LoadedCrls {
            lists: Vec::new(),
            others: Vec::new(),
        };
        for (file, open) in &self.files {
            let failed = |reason| CrlFilesError {
                file: file.clone(),
                reason,
            };
            let lists = read_file(open).map_err(failed)?;
            if found.lists.len() + lists.len() > MAX_CRLS {
                return Err(failed(Reason::TooMany));
            }
            for list in &lists {
                let unusable = |error| failed(Reason::List(error));
                self.check_time(file, list, now).map_err(unusable)?;
                if !anchor.has_issued(list).map_err(unusable)? {
                    found.others.push((file.clone(), list.issuer()));
                }
            }
            found.lists.extend(lists);
        }
        match self.files.first() {
            Some((file, _)) if found.others.len() == found.lists.len() => Err(CrlFilesError {
                file: file.clone(),
                reason: Reason::NoneOfAnchor,
            }),
            _ => Ok(found),
        }
    }

    fn check_time(&self, file: &Path, list: &Crl, now: UnixTime) -> Result<(), CrlError> {
        match list.check_time(now) {
            Err(error @ CrlError::Expired(_)) if self.accept_expired => {
                warn!("{}: {error}, and is used nevertheless", file.display());
                return Ok(());
            }
            outcome => outcome?,
        }
        if let Some(left) = list.ends_soon(now, EXPIRY_NOTICE) {
            let then = if self.accept_expired {
                "what is revoked later is accepted then"
            } else {
                "no certificate is accepted then"
            };
            warn!(
                "{}: the CRL of '{}' expires in {} h; renew it by 'petrel revoke' without names, or {then}",
                file.display(),
                list.issuer().escape_default(),
                left.as_secs() / 3600
            );
        }
        Ok(())
    }
}

impl LoadedCrls {
    /// Tells the log of lists that may be of no use.
    pub fn warn_of_others(&self) {
        for (file, issuer) in &self.others {
            warn!(
                "{}: the CRL of '{}' is not of the trusted certificate: it counts only for what an \
                 authority below with this name and its key has issued",
                file.display(),
                issuer.escape_default()
            );
        }
    }
}

/// The directory of a file, and the file's name in it. A symbolic link is followed now, and not again.
fn place(file: &Path) -> io::Result<(OwnedFd, OsString)> {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = SEARCH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok((open(directory, flags, Mode::empty())?, name.to_owned()))
}

/// Opens a file by its name in a directory, for reading.
fn open_at(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    Ok(file.into())
}

fn read_file(file: &io::Result<File>) -> Result<Vec<Crl>, Reason> {
    let mut text = String::new();
    let file = file.as_ref().map_err(|error| Reason::Read(copy(error)))?;
    file.take(MAX_CRL_FILE + 1)
        .read_to_string(&mut text)
        .map_err(Reason::Read)?;
    if text.len() as u64 > MAX_CRL_FILE {
        return Err(Reason::TooLarge);
    }
    read_lists(&text)
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}

/// The lists in the content of a file, which holds nothing else.
pub fn read_lists(text: &str) -> Result<Vec<Crl>, Reason> {
    let sections = pem::parse_many(text).map_err(|error| Reason::Content(error.to_string()))?;
    // A section that was cut off would be skipped, and with it what it revokes.
    let begun = text.lines().filter(|line| line.contains("-----BEGIN"));
    if begun.count() != sections.len() || sections.iter().any(|section| section.tag() != LABEL) {
        return Err(Reason::Content(format!(
            "something else than complete sections {LABEL}"
        )));
    }
    if sections.is_empty() {
        return Err(Reason::Empty);
    }
    sections
        .iter()
        .map(|section| Crl::read(section.contents()).map_err(Reason::List))
        .collect()
}

impl CrlFilesError {
    /// What is wrong, without the name of the file.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "a CRL cannot be read: {error}"),
            Self::TooLarge => write!(f, "CRLs of more than {MAX_CRL_FILE} bytes"),
            Self::Content(reason) => write!(f, "a file of CRLs is damaged: {reason}"),
            Self::Empty => f.write_str("a file without any CRL"),
            Self::TooMany => write!(f, "more than {MAX_CRLS} CRLs"),
            Self::NoneOfAnchor => f.write_str("no CRL is that of the trusted certificate"),
            Self::List(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for CrlFilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; no certificate is accepted",
            self.file.display(),
            self.reason
        )
    }
}

impl std::error::Error for CrlFilesError {}
