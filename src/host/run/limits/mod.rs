//! Limits of a tender beside those that a process has: a control group on Linux, rctl(8) on FreeBSD.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::unikernel::{Config, Kind};

pub use os::{Group, Groups};

/// MB that a tender may take beyond its guest's memory, and beyond a [`SLACK_PART`] of that: page tables, and its own.
pub const MEMORY_SLACK: u64 = 32;

/// The same of bhyve, which has buffers and threads for each device.
pub const MACHINE_MEMORY_SLACK: u64 = 128;

/// Which part of the guest's memory comes on top.
pub const SLACK_PART: u64 = 32;

/// Why a tender has no such limits.
#[derive(Debug)]
pub enum GroupError {
    /// The system, or how this program was started, does not allow for them.
    Absent(&'static str),
    /// A file operation failed (what, on which file, why).
    File(&'static str, PathBuf, io::Error),
    /// A rule was not taken (the rule, why).
    Rule(String, io::Error),
}

/// Bytes of memory that the tender of a unikernel may take.
fn memory(config: &Config) -> u64 {
    let guest = u64::from(config.memory);
    let slack = match config.kind {
        Kind::Solo5 => MEMORY_SLACK,
        Kind::Bhyve => MACHINE_MEMORY_SLACK,
    };
    (guest + guest / SLACK_PART + slack) << 20
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(why) => f.write_str(why),
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::Rule(rule, error) => write!(f, "cannot set the limit {rule}: {error}"),
        }
    }
}

impl std::error::Error for GroupError {}
