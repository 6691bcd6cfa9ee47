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

/// Bytes for which a file counts at least, so that the number of a tenant's files is bounded, too.
pub const LEAST: u64 = 1 << 20;

/// A file of a tenant.
#[derive(Debug)]
struct TenantFile {
    name: String,
    /// Whether there is, or will be, more to write of its console.
    goes_on: bool,
    /// Whether it is the one which that is written to.
    is_newest: bool,
    /// Seconds, and nanoseconds.
    modified: (i64, i64),
    bytes: u64,
}

/// Removes as many files of a tenant, which is the first label of a path, as are beyond `most` bytes: the oldest ones of
/// consoles of which `goes_on` says no, then those of others, but none that is written to. Returns how many bytes there
/// are room for.
pub(super) fn make_room(
    directory: &File,
    tenant: &Path,
    most: u64,
    goes_on: impl Fn(&Name) -> bool,
) -> io::Result<u64> {
    let mut files = files(directory, tenant, goes_on)?;
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    files.retain(|file| !(file.goes_on && file.is_newest));
    files.sort_unstable_by_key(|file| (file.goes_on, file.modified));
    for file in files {
        if bytes <= most {
            break;
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
    }
    Ok(most.saturating_sub(bytes))
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
        found.push(TenantFile {
            name: name.to_owned(),
            goes_on: goes_on(&console),
            is_newest: number == 0,
            modified: (status.st_mtime, status.st_mtime_nsec),
            bytes: u64::try_from(status.st_size).unwrap_or(0).max(LEAST),
        });
    }
    Ok(found)
}
