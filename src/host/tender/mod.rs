//! Tenders: where they are, and how one is started.

mod fifo;
mod search;
mod start;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::tap::TapError;
use crate::manifest::Target;
use crate::policy::CpuId;
use crate::sys::spawn::SpawnError;

pub use fifo::Fifo;
pub use os::{MACHINES, ONLY_ROOT, destroy_vmm_device, vmm_device};
pub use search::{PROBE_DEADLINE, PROBE_PAUSE, Tenders, program};
pub use start::{
    ADDRESS_SPACE_SLACK, Guest, HVT_PROCESSES, MACHINE_SLACK, OOM_SCORE, OPEN_FILES, SPT_PROCESSES,
    Start, check_cpus,
};

/// Why a unikernel cannot be started.
#[derive(Debug)]
pub enum TenderError {
    /// No tender runs images for this target.
    Target(Target),
    /// No tender was found under these names (and the ABI version asked for).
    Missing(Vec<String>, u32),
    /// A program of the system's is not in `PATH`.
    NoProgram(&'static str),
    /// A file operation failed (what, on which file, why).
    File(&'static str, PathBuf, io::Error),
    /// Something that is no fifo has the name of the console's fifo.
    NotAFifo(PathBuf),
    /// This host has no such processor, or none that may be used.
    NoCpu(CpuId),
    /// The tender cannot be started (as this user, if not as ours).
    Start(PathBuf, Option<u32>, SpawnError),
    /// Its taps.
    Tap(TapError),
    /// A tender that runs as this user cannot open the device it needs.
    Device(&'static str, u32),
}

impl TenderError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File(what, path, error)
    }
}

impl fmt::Display for TenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(target) => {
                write!(
                    f,
                    "the image is made for {target}, only hvt and spt can be run"
                )
            }
            Self::Missing(names, abi) => write!(
                f,
                "no tender: none of {} with ABI version {abi} in the database directory or in PATH",
                names.join(", ")
            ),
            Self::NoProgram(name) => write!(f, "BHyve machines need {name}, which is not in PATH"),
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::NoCpu(cpu) => write!(f, "CPU id {cpu} is not one that can be used on this host"),
            Self::NotAFifo(path) => write!(f, "{} exists and is no fifo", path.display()),
            Self::Start(tender, None, error) => {
                write!(f, "cannot start {}: {error}", tender.display())
            }
            Self::Start(tender, Some(user), error) if error.is_limit_of_processes() => write!(
                f,
                "cannot start {} as user {user}: the user has as many processes as a tender may have, perhaps in a \
                 container: give --tender-uids a range of its own",
                tender.display()
            ),
            Self::Start(tender, Some(user), error) => {
                write!(
                    f,
                    "cannot start {} as user {user}: {error}",
                    tender.display()
                )
            }
            Self::Tap(error) => error.fmt(f),
            Self::Device(device, user) => write!(
                f,
                "a tender that runs as user {user} cannot open {device}: give the device to a group of its own, readable and writable for it"
            ),
        }
    }
}

impl std::error::Error for TenderError {}
