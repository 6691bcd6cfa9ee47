//! Linux: tenders need no rights, but hvt and networks their devices.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Pid};

use super::TenderError;
use crate::manifest::Target;

/// Why tenders cannot run as other users than root on this system, if so.
pub const ONLY_ROOT: Option<&str> = None;

/// Where the system has the BHyve machines, or why it has none.
pub const MACHINES: Result<&str, &str> = Err("BHyve machines run on FreeBSD only");

/// The virtual machine of the tender with this process in vmm(4), which there is none of on this system.
pub fn vmm_device(_: Pid) -> String {
    String::new()
}

/// Destroys that virtual machine; here it is gone with its tender.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the interface is that of the other systems"
)]
pub fn destroy_vmm_device(_: Pid) -> io::Result<bool> {
    Ok(false)
}

/// What hvt needs.
const KVM: &str = "/dev/kvm";

/// What networks need.
const TUN: &str = "/dev/net/tun";

/// The groups that a tender which runs as `user` must be in for its devices.
pub fn groups_of_devices(
    target: Target,
    networks: bool,
    user: u32,
) -> Result<Vec<Gid>, TenderError> {
    let needed = [(KVM, target == Target::Hvt), (TUN, networks)];
    let mut groups = Vec::new();
    for (path, _) in needed.into_iter().filter(|(_, needed)| *needed) {
        // Without the device the tender itself says so.
        if let Ok(device) = Path::new(path).metadata() {
            groups.extend(group_of(path, device.mode(), device.gid(), user)?);
        }
    }
    Ok(groups)
}

fn group_of(
    device: &'static str,
    mode: u32,
    group: u32,
    user: u32,
) -> Result<Option<Gid>, TenderError> {
    if mode & 0o006 == 0o006 {
        Ok(None)
    } else if mode & 0o060 == 0o060 && group != 0 {
        Ok(Some(Gid::from_raw(group)))
    } else {
        Err(TenderError::Device(device, user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_device_is_taken_where_it_helps_and_is_not_roots() {
        assert_eq!(group_of(KVM, 0o666, 7, 1).unwrap(), None);
        assert_eq!(group_of(KVM, 0o660, 7, 1).unwrap(), Some(Gid::from_raw(7)));
        for (mode, group) in [(0o600, 7), (0o640, 7), (0o660, 0)] {
            let error = group_of(KVM, mode, group, 2001).unwrap_err().to_string();
            assert!(error.contains("user 2001 cannot open /dev/kvm"), "{error}");
        }
    }
}
