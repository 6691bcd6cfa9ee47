//! Files of `--crl`, which each connection opens.

use std::error::Error;
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

/// Maximum number of CRLs in all files together.
pub const MAX_CRLS: usize = 256;

/// Open files of CRLs, which are read in the sandbox.
#[derive(Debug, Default)]
pub struct CrlFiles {
    files: Vec<(PathBuf, io::Result<File>)>,
    /// Directory of each file, and its name there.
    locations: Vec<io::Result<(OwnedFd, OsString)>>,
    /// File that may be created later: its path, its directory and its name there.
    awaited: Option<(PathBuf, OwnedFd, OsString)>,
    /// Whether expired CRLs are used.
    accept_expired: bool,
}

/// Reason why the CRLs cannot be used, so that no certificate is accepted.
#[derive(Debug)]
pub struct CrlFilesError {
    file: PathBuf,
    reason: Reason,
}

/// Reason why a file of CRLs cannot be used.
#[derive(Debug)]
pub enum Reason {
    /// The file cannot be read.
    Read(io::Error),
    /// The file exceeds [`MAX_CRL_FILE`].
    TooLarge,
    /// The file is not PEM, or holds something else than CRLs.
    Content(String),
    /// The file holds no CRL.
    Empty,
    /// The files hold more than [`MAX_CRLS`] CRLs.
    TooMany,
    /// No file holds a CRL of the anchor.
    NoneOfAnchor,
    /// A CRL of the file cannot be used.
    Crl(CrlError),
}

/// CRLs that were read.
#[derive(Debug)]
pub struct LoadedCrls {
    /// All CRLs.
    pub crls: Vec<Crl>,
    /// Files and issuers of the CRLs that are not the anchor's.
    others: Vec<(PathBuf, String)>,
}

impl CrlFiles {
    /// Opens the files. [`Self::read`] reports those that cannot be opened.
    pub fn open(files: &[PathBuf], accept_expired: bool) -> Self {
        // A named pipe without a writer must not block.
        let open = |file: &PathBuf| {
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_NONBLOCK);
            (file.clone(), options.open(file))
        };
        Self {
            files: files.iter().map(open).collect(),
            locations: files.iter().map(|file| location(file)).collect(),
            awaited: None,
            accept_expired,
        }
    }

    /// No CRLs yet: the file is used once it [exists](Self::reopen).
    pub fn awaiting(file: PathBuf, accept_expired: bool) -> Self {
        let location = location(&file).ok();
        Self {
            awaited: location.map(|(directory, name)| (file, directory, name)),
            accept_expired,
            ..Self::default()
        }
    }

    /// Paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Opens the files again in their directories, as they may have been replaced.
    pub fn reopen(&self) -> Self {
        let again = |((path, _), location): (&(PathBuf, _), &io::Result<(OwnedFd, OsString)>)| {
            let open = match location {
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
        let created = awaited
            .map(|(path, directory, name)| (path.clone(), open_at(directory, name)))
            .filter(|(_, open)| !missing(open));
        let files = self.files.iter().zip(&self.locations).map(again);
        Self {
            files: files.chain(created).collect(),
            locations: Vec::new(),
            awaited: None,
            accept_expired: self.accept_expired,
        }
    }

    /// Rights that [`Self::reopen`] needs in a sandbox.
    pub fn needs(&self) -> impl Iterator<Item = Need<'_>> {
        let directories = self.locations.iter().flatten();
        let directories = directories.map(|(directory, _)| directory);
        let awaited = self.awaited.iter().map(|(_, directory, _)| directory);
        directories
            .chain(awaited)
            .map(|directory| Need::Reopen(directory.as_fd()))
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads all CRLs, once. Expired ones are used with a warning if that is allowed.
    ///
    /// # Errors
    /// When a CRL cannot be used, or none is the anchor's: the files may be those of another host.
    pub fn read(&self, anchor: &Anchor, now: UnixTime) -> Result<LoadedCrls, CrlFilesError> {
        let mut loaded = LoadedCrls {
            crls: Vec::new(),
            others: Vec::new(),
        };
        for (file, open) in &self.files {
            let failed = |reason| CrlFilesError {
                file: file.clone(),
                reason,
            };
            let crls = read_file(open).map_err(failed)?;
            if loaded.crls.len() + crls.len() > MAX_CRLS {
                return Err(failed(Reason::TooMany));
            }
            for crl in &crls {
                let unusable = |error| failed(Reason::Crl(error));
                self.check_time(file, crl, now).map_err(unusable)?;
                if !anchor.has_issued(crl).map_err(unusable)? {
                    loaded.others.push((file.clone(), crl.issuer()));
                }
            }
            loaded.crls.extend(crls);
        }
        match self.files.first() {
            Some((file, _)) if loaded.others.len() == loaded.crls.len() => Err(CrlFilesError {
                file: file.clone(),
                reason: Reason::NoneOfAnchor,
            }),
            _ => Ok(loaded),
        }
    }

    fn check_time(&self, file: &Path, crl: &Crl, now: UnixTime) -> Result<(), CrlError> {
        match crl.check_time(now) {
            Err(error @ CrlError::Expired(_)) if self.accept_expired => {
                warn!("{}: {error}; it is used nevertheless", file.display());
                return Ok(());
            }
            outcome => outcome?,
        }
        if let Some(left) = crl.ends_soon(now, EXPIRY_NOTICE) {
            let then = if self.accept_expired {
                "certificates revoked later are accepted then"
            } else {
                "no certificate is accepted then"
            };
            warn!(
                "{}: the CRL of '{}' expires in {} h; renew it with 'petrel revoke' without names, or {then}",
                file.display(),
                crl.issuer().escape_default(),
                left.as_secs() / 3600
            );
        }
        Ok(())
    }
}

impl LoadedCrls {
    /// Logs a warning for each CRL that is not the anchor's.
    pub fn warn_of_others(&self) {
        for (file, issuer) in &self.others {
            warn!(
                "{}: the CRL of '{}' is not that of the trusted certificate: it applies only to certificates of an authority \
                 below with this name and its key",
                file.display(),
                issuer.escape_default()
            );
        }
    }
}

/// Directory of a file, and the file's name in it. A symbolic link is followed only here.
fn location(file: &Path) -> io::Result<(OwnedFd, OsString)> {
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

/// Parses the content of a file, which holds only CRLs.
///
/// # Errors
/// When a CRL cannot be parsed, or the file holds none or something else.
pub fn read_lists(text: &str) -> Result<Vec<Crl>, Reason> {
    let sections = pem::parse_many(text).map_err(|error| Reason::Content(error.to_string()))?;
    // The parser would skip a truncated section, and with it its entries.
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
        .map(|section| Crl::read(section.contents()).map_err(Reason::Crl))
        .collect()
}

impl CrlFilesError {
    /// Reason, without the name of the file.
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
            Self::Crl(error) => error.fmt(f),
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

impl Error for CrlFilesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            Reason::Read(error) => Some(error),
            Reason::Crl(error) => Some(error),
            _ => None,
        }
    }
}
