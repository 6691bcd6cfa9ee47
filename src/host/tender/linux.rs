//! Linux: tenders need no rights, but hvt and networks their devices.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Pid};

use super::TenderError;
use crate::manifest::Target;
use crate::supervisor::launch;

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

/// Moves the arguments of the guest from the command line of the embedded tender, which everybody can read, to a file
/// without a name that is returned, and that the tender is to inherit. The name of the unikernel, if it is the first of
/// them, stays for ps(1). Other tenders cannot take arguments from a file.
pub fn hide_arguments(
    tender: &Path,
    arguments: &mut Vec<OsString>,
) -> Result<Option<File>, TenderError> {
    let image = arguments.iter().position(|argument| argument == "--");
    let Some(end) = image.filter(|_| tender.file_name() == Some(launch::EMBEDDED.as_ref())) else {
        return Ok(None);
    };
    let mut first = end + 2;
    let is_name = |argument: &OsString| argument.as_bytes().starts_with(b"--name=");
    first += usize::from(arguments.get(first).is_some_and(is_name));
    let guest = arguments.split_off(first.min(arguments.len()));
    if guest.is_empty() {
        return Ok(None);
    }
    let failed = |error| TenderError::file("hide the arguments for", tender)(error);
    let file = memfd_create(c"arguments", MFdFlags::MFD_CLOEXEC);
    let mut file = File::from(file.map_err(|error| failed(error.into()))?);
    for argument in guest {
        file.write_all(argument.as_bytes()).map_err(failed)?;
        file.write_all(&[0]).map_err(failed)?;
    }
    file.rewind().map_err(failed)?;
    arguments.insert(end, format!("--arguments=@{}", file.as_raw_fd()).into());
    Ok(Some(file))
}

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
    fn arguments_are_hidden_for_the_embedded_tender_only() {
        use std::io::Read;

        let all = || {
            ["--mem=8", "--", "/i", "--name=x", "--", "a b"]
                .map(OsString::from)
                .to_vec()
        };
        let mut arguments = all();
        let hidden = hide_arguments(Path::new("/bin/solo5-spt"), &mut arguments);
        assert!(hidden.unwrap().is_none());
        assert_eq!(arguments, all());
        let hidden = hide_arguments(Path::new("/bin/petrel-spt"), &mut arguments);
        let mut file = hidden.unwrap().unwrap();
        let option = format!("--arguments=@{}", file.as_raw_fd());
        assert_eq!(
            arguments,
            ["--mem=8", &option, "--", "/i", "--name=x"].map(OsString::from)
        );
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"--\0a b\0");
        let mut none = ["--mem=8", "--", "/i", "--name=x"]
            .map(OsString::from)
            .to_vec();
        let hidden = hide_arguments(Path::new("/bin/petrel-spt"), &mut none);
        assert!(hidden.unwrap().is_none());
    }

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
