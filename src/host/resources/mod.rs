//! What this host has: the policy of the root, below which all others are (BEHAVIOUR 5.7).

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use super::bridges::Bridges;
use crate::policy::{CpuId, Policy, UNLIMITED};

/// Directory of block devices below the database directory (WIRE 6.3).
const BLOCK: &str = "block";

/// Bytes in an MB.
const MB: u64 = 1 << 20;

/// What cannot be found out.
#[derive(Debug)]
pub enum ResourceError {
    /// Which processors may be used.
    Processors(io::Error),
    /// How much memory there is.
    Memory(io::Error),
    /// How large the file system of this directory is.
    FileSystem(PathBuf, io::Error),
    /// Which bridges there are.
    Bridges(io::Error),
}

/// Everything that unikernels can have of this host: any number of them; the processors that are online and that this
/// process may use; the physical memory; the size of the file system of `<database>/block`, or of `database` as long
/// as that is not there; and the bridges that exist, of this process's network.
pub fn discover(database: &Path) -> Result<Policy, ResourceError> {
    let block = database.join(BLOCK);
    let storage = if block.is_dir() { &block } else { database };
    Ok(Policy {
        unikernels: UNLIMITED,
        cpus: processors().map_err(ResourceError::Processors)?,
        memory: os::memory().map_err(ResourceError::Memory)? / MB,
        block: Some(
            size(storage)
                .map_err(|error| ResourceError::FileSystem(storage.to_path_buf(), error))?
                / MB,
        ),
        bridges: Bridges::look().map_err(ResourceError::Bridges)?.names(),
    })
}

/// Those that are online and in the affinity of this process: the system leaves out the others.
fn processors() -> io::Result<BTreeSet<CpuId>> {
    let ours = sched_getaffinity(Pid::from_raw(0));
    usable(ours, || Ok(thread::available_parallelism()?.get()))
}

/// Where a set of processors has no room for all that the host has (FreeBSD from 14 on has more than the C library's 256),
/// those for which it has.
fn usable(
    ours: nix::Result<CpuSet>,
    online: impl FnOnce() -> io::Result<usize>,
) -> io::Result<BTreeSet<CpuId>> {
    let most = CpuId::try_from(CpuSet::count()).unwrap_or(CpuId::MAX);
    match ours {
        Ok(ours) => {
            let usable = |cpu: &CpuId| ours.is_set((*cpu).into()).unwrap_or(false);
            Ok((0..most).filter(usable).collect())
        }
        Err(Errno::ERANGE | Errno::EINVAL) => {
            Ok((0..most.min(CpuId::try_from(online()?).unwrap_or(CpuId::MAX))).collect())
        }
        Err(error) => Err(error.into()),
    }
}

/// Bytes of the file system that the directory is on.
fn size(directory: &Path) -> io::Result<u64> {
    let system = statvfs(directory)?;
    // Their types differ from system to system.
    #[allow(clippy::useless_conversion)]
    let (blocks, bytes) = (
        u64::from(system.blocks()),
        u64::from(system.fragment_size()),
    );
    Ok(blocks.saturating_mul(bytes))
}

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, error) = match self {
            Self::Processors(error) => ("which CPUs can be used", error),
            Self::Memory(error) => ("how much memory there is", error),
            Self::FileSystem(directory, error) => {
                let directory = directory.display();
                return write!(
                    f,
                    "cannot find out how large the file system of {directory} is: {error}"
                );
            }
            Self::Bridges(error) => ("which bridges there are", error),
        };
        write!(f, "cannot find out {what}: {error}")
    }
}

impl std::error::Error for ResourceError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    #[test]
    fn a_host_with_more_processors_than_a_set_has_room_for_has_those_of_the_set() {
        let mut ours = CpuSet::new();
        ours.set(1).unwrap();
        ours.set(5).unwrap();
        let nobody_asks = || Err(io::ErrorKind::Other.into());
        assert_eq!(usable(Ok(ours), nobody_asks).unwrap(), [1, 5].into());
        let four = usable(Err(Errno::ERANGE), || Ok(4)).unwrap();
        assert_eq!(four, (0..4).collect());
        let all = usable(Err(Errno::EINVAL), || Ok(1 << 20)).unwrap();
        assert_eq!(all.len(), CpuSet::count());
        let error = usable(Err(Errno::EPERM), || Ok(4)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_database_that_is_not_there_is_named() {
        let error = discover(Path::new("/nowhere/db")).unwrap_err().to_string();
        assert!(
            error.contains("the file system of /nowhere/db is: No such"),
            "{error}"
        );
    }

    #[test]
    fn the_directory_of_block_devices_counts_once_it_is_there() {
        let directory = Directory::short();
        let directory = &directory.0;
        assert!(
            discover(directory)
                .unwrap()
                .block
                .is_some_and(|size| size > 0)
        );
        // Another file system than that of the database, where there is one of a known size.
        std::os::unix::fs::symlink("/proc", directory.join(BLOCK)).unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(discover(directory).unwrap().block, Some(0));
        }
    }
}
