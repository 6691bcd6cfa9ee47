//! The revocation lists of `--crl`, read anew for each connection.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use log::warn;
use rustls::pki_types::UnixTime;

use crate::chain::revocation::{RevocationError, RevocationList};
use crate::chain::verify::Anchor;

/// Most octets in a file with revocation lists.
pub const MAX_LIST_FILE: u64 = 4 << 20;

/// Most revocation lists in all files together.
pub const MAX_LISTS: usize = 256;

/// The label of a list in PEM (RFC 7468 6).
const LABEL: &str = "X509 CRL";

/// Why the lists cannot be used, so that no certificate is accepted.
#[derive(Debug)]
pub struct ListsError {
    file: PathBuf,
    reason: Reason,
}

/// What is wrong with the file.
#[derive(Debug)]
pub enum Reason {
    /// It cannot be read.
    Read(io::Error),
    /// More than [`MAX_LIST_FILE`].
    TooLarge,
    /// Not PEM, or not of lists only.
    Content(String),
    /// No list in it.
    Empty,
    /// [`MAX_LISTS`] are exceeded.
    TooMany,
    /// One of its lists cannot be used.
    List(RevocationError),
}

/// Reads all lists. Those that have expired are used with a warning if `accept_expired`.
pub fn read(
    files: &[PathBuf],
    anchor: &Anchor,
    now: UnixTime,
    accept_expired: bool,
) -> Result<Vec<RevocationList>, ListsError> {
    let mut lists = Vec::new();
    for file in files {
        let failed = |reason| ListsError {
            file: file.clone(),
            reason,
        };
        let found = read_file(file).map_err(failed)?;
        if lists.len() + found.len() > MAX_LISTS {
            return Err(failed(Reason::TooMany));
        }
        for list in &found {
            match list.check_time(now) {
                Err(error @ RevocationError::Expired(_)) if accept_expired => {
                    warn!("{}: {error}, and is used nevertheless", file.display());
                }
                outcome => outcome.map_err(|error| failed(Reason::List(error)))?,
            }
            anchor
                .check_list(list)
                .map_err(|error| failed(Reason::List(error)))?;
        }
        lists.extend(found);
    }
    Ok(lists)
}

fn read_file(file: &Path) -> Result<Vec<RevocationList>, Reason> {
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(MAX_LIST_FILE + 1).read_to_string(&mut text))
        .map_err(Reason::Read)?;
    if text.len() as u64 > MAX_LIST_FILE {
        return Err(Reason::TooLarge);
    }
    let sections = pem::parse_many(&text).map_err(|error| Reason::Content(error.to_string()))?;
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
        .map(|section| RevocationList::read(section.contents()).map_err(Reason::List))
        .collect()
}

impl ListsError {
    /// What is wrong, without the name of the file.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "a revocation list cannot be read: {error}"),
            Self::TooLarge => write!(f, "revocation lists of more than {MAX_LIST_FILE} octets"),
            Self::Content(reason) => write!(f, "a file of revocation lists is damaged: {reason}"),
            Self::Empty => f.write_str("a file without any revocation list"),
            Self::TooMany => write!(f, "more than {MAX_LISTS} revocation lists"),
            Self::List(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for ListsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; no certificate is accepted",
            self.file.display(),
            self.reason
        )
    }
}

impl std::error::Error for ListsError {}
