//! How much of a disk a tenant's files of lines may take: consoles come and go under ever new names, and their files stay.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use log::{info, warn};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::log_directory::owner;
use crate::name::{Name, Path};

/// MiB of all files of a tenant unless the operator says otherwise.
pub const LOG_TENANT: u64 = 4096;

/// Bytes for which a file of an ended console counts at least, so that the number of a tenant's files is bounded, too.
pub const LEAST: u64 = 1 << 20;

/// Part of what a tenant may have that is freed beyond what is needed, so that the directory is not looked through for each
/// line: one of so many.
const SLACK: u64 = 16;

/// A file of a tenant.
#[derive(Debug)]
struct TenantFile {
    name: String,
    console: Name,
    age: Age,
    /// Seconds, and nanoseconds.
    modified: (i64, i64),
    bytes: u64,
}

/// Order in which files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// Of a console of which no more is written.
    Ended,
    /// An older one of a console of which there may be more.
    Older,
    /// The one that is, or will be, written to.
    Newest,
}

/// Files of a tenant that are left.
#[derive(Debug)]
pub(super) struct Left {
    /// Bytes in them; those of ended consoles count for [`LEAST`] at least.
    pub(super) bytes: u64,
    /// Consoles whose newest file had to go.
    pub(super) begun_anew: Vec<Name>,
}

/// Makes sure that the files of a tenant, which is the first label of a path, have `most` bytes less `wanted` at most:
/// the oldest ones go, first those of consoles of which `goes_on` says no, then older ones of others. Of those that are
/// written to, which are small enough for all of a tenant to have one, any but that of `kept` goes last of all.
pub(super) fn make_room(
    directory: &File,
    tenant: &Path,
    (most, wanted): (u64, u64),
    kept: Option<&Name>,
    goes_on: impl Fn(&Name) -> bool,
) -> io::Result<Left> {
    let mut files = files(directory, tenant, goes_on)?;
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let most_left = most.saturating_sub(wanted);
    let mut begun_anew = Vec::new();
    if bytes > most_left {
        files.sort_unstable_by_key(|file| (file.age, file.modified));
        for file in files {
            let is_newest = file.age == Age::Newest;
            let slack = if is_newest { 0 } else { most / SLACK };
            if bytes <= most_left.saturating_sub(slack)
                || (is_newest && kept == Some(&file.console))
            {
                continue;
            }
            match unlinkat(directory, &*file.name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) => info!(
                    "removed {}: its tenant has more in files than may be",
                    file.name
                ),
                Err(Errno::ENOENT) => {}
                Err(error) => {
                    warn!("cannot remove {}: {error}", file.name);
                    continue;
                }
            }
            bytes -= file.bytes;
            if is_newest {
                begun_anew.push(file.console);
            }
        }
    }
    Ok(Left { bytes, begun_anew })
}

/// The files of a tenant; nothing else that is in the directory.
fn files(
    directory: &File,
    tenant: &Path,
    goes_on: impl Fn(&Name) -> bool,
) -> io::Result<Vec<TenantFile>> {
    let mut found = Vec::new();
    let beginning = tenant.to_string();
    // By the descriptor, as the directory itself is out of reach in a sandbox; with its place in it, which goes back to the
    // beginning in the end.
    let mut entries = Dir::from_fd(OwnedFd::from(directory.try_clone()?))?;
    for entry in entries.iter() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        // Of the many that there may be, most are not read any further.
        if !name.starts_with(&beginning) {
            continue;
        }
        let Some((console, number)) = owner(name) else {
            continue;
        };
        if console.path().tenant() != *tenant {
            continue;
        }
        let status = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            Err(Errno::ENOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            continue;
        }
        let age = match (goes_on(&console), number) {
            (false, _) => Age::Ended,
            (true, 0) => Age::Newest,
            (true, _) => Age::Older,
        };
        // The others are bounded by the consoles that there are.
        let least = if age == Age::Ended { LEAST } else { 0 };
        found.push(TenantFile {
            name: name.to_owned(),
            console,
            age,
            modified: (status.st_mtime, status.st_mtime_nsec),
            bytes: u64::try_from(status.st_size).unwrap_or(0).max(least),
        });
    }
    Ok(found)
}
