//! Files with secrets, such as keys and tokens: who may have access to them.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

/// Reasons why a file gives no secret.
#[derive(Debug)]
pub enum PrivateFileFault {
    /// The file cannot be read.
    Io(io::Error),
    /// The file exceeds this number of bytes.
    TooLarge(u64),
    /// The wrong users have access.
    Access(Exposure),
}

/// Ways in which the wrong users have access to a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// The file belongs to `owner`, and is read by `reader`.
    Owner {
        /// User that owns the file.
        owner: u32,
        /// User that reads the file.
        reader: u32,
    },
    /// The permissions of the file let other users read or change it.
    Mode(u32),
}

/// Reads a file of at most `max` bytes to which only its reader and root have access.
///
/// # Errors
/// When others have access to the file, or it cannot be read.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, PrivateFileFault> {
    let (text, access) = read_any(path, max)?;
    access.map_err(PrivateFileFault::Access)?;
    Ok(text)
}

/// Reads a file of at most `max` bytes, and checks who else has access to it.
///
/// # Errors
/// When the file cannot be read.
pub fn read_any(
    path: &Path,
    max: u64,
) -> Result<(Vec<u8>, Result<(), Exposure>), PrivateFileFault> {
    let file = File::open(path).map_err(PrivateFileFault::Io)?;
    // Of the open file: its name may lead to another one by now.
    let status = file.metadata().map_err(PrivateFileFault::Io)?;
    let access = check_access(status.uid(), status.mode(), geteuid().as_raw());
    let mut text = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut text)
        .map_err(PrivateFileFault::Io)?;
    if text.len() as u64 > max {
        return Err(PrivateFileFault::TooLarge(max));
    }
    Ok((text, access))
}

/// Checks that only its `owner` and root have access to a file, and that `reader` is one of them. The group may read a
/// file that belongs to root, as a daemon without privileges has to.
///
/// # Errors
/// When other users have access.
pub fn check_access(owner: u32, mode: u32, reader: u32) -> Result<(), Exposure> {
    const ROOT: u32 = 0;
    const OTHERS: u32 = 0o077;
    const OTHERS_BUT_GROUP_READS: u32 = 0o037;

    if owner != ROOT && owner != reader {
        return Err(Exposure::Owner { owner, reader });
    }
    let refused = if owner == ROOT {
        OTHERS_BUT_GROUP_READS
    } else {
        OTHERS
    };
    if mode & refused == 0 {
        Ok(())
    } else {
        Err(Exposure::Mode(mode & 0o7777))
    }
}

impl PrivateFileFault {
    /// Writes why the `secret` in the file at `path` is not used, and what to do about it.
    ///
    /// # Errors
    /// When `f` cannot be written to.
    pub fn explain(&self, f: &mut impl fmt::Write, secret: &str, path: &Path) -> fmt::Result {
        let path = path.display();
        match self {
            Self::Io(error) => write!(f, "cannot read the {secret} '{path}': {error}"),
            Self::Access(Exposure::Owner { owner, reader }) => write!(
                f,
                "the {secret} '{path}' belongs to user {owner}, but must belong to root or to user {reader}, who reads \
                 it: change its owner with chown"
            ),
            Self::Access(Exposure::Mode(mode)) => write!(
                f,
                "the {secret} '{path}' is accessible to other users (mode {mode:04o}): run 'chmod 600 {path}', and \
                 replace the {secret} if somebody may have read it"
            ),
            Self::TooLarge(_) => write!(f, "cannot use the {secret} '{path}': {self}"),
        }
    }
}

impl fmt::Display for PrivateFileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::TooLarge(max) => write!(f, "the file exceeds {} KiB", max >> 10),
            Self::Access(_) => f.write_str("it is accessible to other users"),
        }
    }
}

impl std::error::Error for PrivateFileFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_only_if_nobody_else_has_access() {
        let (petrel, other) = (100, 200);
        for (owner, mode, reader, good) in [
            (petrel, 0o400, petrel, true),
            (petrel, 0o600, petrel, true),
            (petrel, 0o640, petrel, false),
            (petrel, 0o604, petrel, false),
            (petrel, 0o620, petrel, false),
            (0, 0o400, 0, true),
            (0, 0o640, 0, true),
            (0, 0o644, 0, false),
            (0, 0o660, 0, false),
            (0, 0o440, petrel, true),
            (0, 0o444, petrel, false),
            (other, 0o400, petrel, false),
            (other, 0o400, 0, false),
        ] {
            let checked = check_access(owner, mode, reader);
            assert_eq!(checked.is_ok(), good, "{owner} {mode:o} {reader}");
        }
        let file = 0o100_000;
        let exposure = check_access(petrel, file | 0o644, petrel);
        assert_eq!(exposure, Err(Exposure::Mode(0o644)));
    }
}
