//! FreeBSD: all tenders use vmm(4).
#![allow(clippy::unnecessary_wraps)]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;

use nix::unistd::{Gid, Pid};

use super::TenderError;
use crate::manifest::Target;
use crate::sys::vmm;

/// Why tenders cannot run as other users than root on this system, if so.
pub const ONLY_ROOT: Option<&str> =
    Some("on FreeBSD only root can make the virtual machines of hvt (vmm), so tenders run as root");

/// Where the system has the BHyve machines, or why it has none.
pub const MACHINES: Result<&str, &str> = Ok("/dev/vmm");

/// The virtual machine of the tender with this process in vmm(4), as Solo5's hvt names it.
pub fn vmm_device(process: Pid) -> String {
    format!("solo5-{process}")
}

/// Destroys that virtual machine. Solo5's hvt does so itself, but only where it exits: after its death by a signal the
/// kernel keeps all of the guest's memory. `false`: it is gone.
pub fn destroy_vmm_device(process: Pid) -> io::Result<bool> {
    vmm::destroy(&vmm_device(process))
}

/// Hides nothing: no tender of this system takes arguments from a file.
pub fn hide_arguments(_: &Path, _: &mut Vec<OsString>) -> Result<Option<File>, TenderError> {
    Ok(None)
}

/// The groups that a tender which runs as `user` must be in for its devices.
pub fn groups_of_devices(_: Target, _: bool, _: u32) -> Result<Vec<Gid>, TenderError> {
    Ok(Vec::new())
}
