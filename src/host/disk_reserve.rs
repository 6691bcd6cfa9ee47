//! Reserve of free disk space: images and devices are refused below it, so that the state can still be written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

/// Default reserve in MB.
pub const DISK_RESERVE: u64 = 64;

/// Greatest reserve that can be asked for, in MB.
pub const MAX_DISK_RESERVE: u64 = 1 << 24;

/// Bytes of a MB.
const MB: u64 = 1 << 20;

/// Free disk space that images and devices leave, in bytes; 0: they may take all of it.
#[derive(Clone, Copy, Debug)]
pub struct Reserve(u64);

/// Why something is not written.
#[derive(Debug)]
pub enum ReserveError {
    /// Too little would be left.
    Low {
        /// Where it was to be written.
        directory: PathBuf,
        /// Bytes that are free.
        available: u64,
        /// Bytes that were to be written.
        wanted: u64,
        /// Bytes that are to be left.
        reserve: u64,
    },
    /// The file system does not say.
    System(PathBuf, io::Error),
}

impl Reserve {
    /// A reserve of so many MB.
    pub fn of_mb(megabytes: u64) -> Self {
        Self(megabytes.saturating_mul(MB))
    }

    /// Checks that the file system of `directory` can take `wanted` bytes and keep the reserve.
    ///
    /// # Errors
    /// If it cannot, or does not say what is free.
    pub fn check(self, directory: &Path, wanted: u64) -> Result<(), ReserveError> {
        if self.0 == 0 {
            return Ok(());
        }
        let available =
            available(directory).map_err(|error| ReserveError::System(directory.into(), error))?;
        if self.is_kept(available, wanted) {
            return Ok(());
        }
        Err(ReserveError::Low {
            directory: directory.into(),
            available,
            wanted,
            reserve: self.0,
        })
    }

    fn is_kept(self, available: u64, wanted: u64) -> bool {
        available
            .checked_sub(wanted)
            .is_some_and(|left| left >= self.0)
    }
}

/// Bytes that anybody may still write to the file system of `directory`.
fn available(directory: &Path) -> io::Result<u64> {
    let system = statvfs(directory)?;
    // Their types differ from system to system.
    #[allow(clippy::useless_conversion)]
    let (free, available, size) = (
        u64::from(system.blocks_free()),
        u64::from(system.blocks_available()),
        u64::from(system.fragment_size()),
    );
    // What is available is less than nothing where root has written into what is kept for it.
    Ok(available.min(free).saturating_mul(size))
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low {
                directory,
                available,
                wanted,
                reserve,
            } => write!(
                f,
                "too little disk space is left on this host: {} MB are free in {}, {} MB are needed, and {} MB stay \
                 reserved for the state (make space, or lower --disk-reserve)",
                available / MB,
                directory.display(),
                wanted.div_ceil(MB),
                reserve / MB,
            ),
            Self::System(directory, error) => write!(
                f,
                "cannot find out how much space is free in '{}': {error}",
                directory.display()
            ),
        }
    }
}

impl std::error::Error for ReserveError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_leaves_the_reserve() {
        let reserve = Reserve::of_mb(64);
        for (available, wanted, kept) in [
            (64, 0, true),
            (63, 0, false),
            (72, 8, true),
            (71, 8, false),
            (0, 1, false),
        ] {
            let is_kept = reserve.is_kept(available * MB, wanted * MB);
            assert_eq!(is_kept, kept, "{available} {wanted}");
        }
    }

    #[test]
    fn a_host_that_has_less_says_what_to_do() {
        let all = Reserve::of_mb(MAX_DISK_RESERVE);
        let why = all.check(Path::new("/"), 1).unwrap_err().to_string();
        assert!(why.contains("lower --disk-reserve"), "{why}");
        let nowhere = Path::new("/nowhere");
        let why = all.check(nowhere, 1).unwrap_err().to_string();
        assert!(why.contains("'/nowhere': No such"), "{why}");
        Reserve::of_mb(0).check(nowhere, u64::MAX).unwrap();
    }
}
