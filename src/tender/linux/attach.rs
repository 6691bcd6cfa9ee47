//! Opens what the devices of a guest are attached to.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;

use crate::sys::tap::{self, Attachment, Interfaces};
use crate::tender::boot::{Attached, Details};
use crate::tender::devices::{Assignment, Backing};
use crate::tender::options::NetSource;

const TUN: &str = "/dev/net/tun";
const RANDOM: &str = "/dev/urandom";

/// A device with its open descriptor.
pub struct Device {
    descriptor: OwnedFd,
    /// What the guest and the filter need to know of it.
    pub attached: Attached,
}

/// Why a device could not be attached: its name, and the reason.
#[derive(Debug)]
pub struct AttachError {
    device: String,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// An operation on a file failed.
    File(&'static str, OsString, io::Error),
    /// An operation on an interface failed.
    Interface(&'static str, String, Errno),
    /// The interface exists and cannot be used.
    Unusable(String, &'static str),
    /// An inherited descriptor is no tap that can be used.
    Descriptor(i32, &'static str),
    /// The size of a block device does not fit: its file, its size and block size in bytes.
    Size(OsString, u64, u16),
}

impl Device {
    /// Opens the backing of one device.
    pub fn open(assignment: &Assignment) -> Result<Self, AttachError> {
        let opened = match &assignment.to {
            Backing::Net(source, mac) => open_net(source, *mac),
            Backing::Block(path, block_size) => open_block(path, *block_size),
        };
        let (descriptor, details) = opened.map_err(|why| AttachError {
            device: assignment.name.clone(),
            why,
        })?;
        Ok(Self {
            attached: Attached {
                handle: assignment.handle,
                descriptor: descriptor.as_raw_fd(),
                details,
            },
            descriptor,
        })
    }

    /// Whether frames arrive at it.
    pub fn is_net(&self) -> bool {
        matches!(self.attached.details, Details::Net { .. })
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot attach device {:?}: ", self.device)?;
        match &self.why {
            Why::File(what, path, error) => {
                write!(f, "{what} {}: {error}", path.display())
            }
            Why::Interface(what, name, error) => {
                write!(f, "{what} interface {name:?}: {}", error.desc())
            }
            Why::Unusable(name, why) => write!(f, "interface {name:?} {why}"),
            Why::Descriptor(descriptor, why) => write!(f, "descriptor {descriptor} {why}"),
            Why::Size(path, size, block_size) => write!(
                f,
                "Backing storage size must be block aligned, and at least one block: {} has {size} \
                 bytes, blocks have {block_size}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for AttachError {}

fn open_net(source: &NetSource, mac: Option<[u8; 6]>) -> Result<(OwnedFd, Details), Why> {
    let (descriptor, mtu) = match source {
        NetSource::Interface(name) => open_interface(name)?,
        NetSource::Descriptor(descriptor) => inherit_interface(*descriptor)?,
    };
    let mac = match mac {
        Some(mac) => mac,
        None => random_mac().map_err(|error| Why::File("reading", RANDOM.into(), error))?,
    };
    Ok((descriptor, Details::Net { mac, mtu }))
}

fn open_interface(name: &str) -> Result<(OwnedFd, u16), Why> {
    let failed = |what| move |error| Why::Interface(what, name.to_owned(), error);
    let interfaces = Interfaces::open().map_err(failed("asking about"))?;
    match interfaces.is_up(name.as_bytes()) {
        Ok(true) => {}
        Ok(false) => return Err(Why::Interface("using", name.to_owned(), Errno::ENETDOWN)),
        // The kernel's word for it reads as if a device node were missing.
        Err(Errno::ENODEV) => {
            return Err(Why::Interface("finding", name.to_owned(), Errno::ENOENT));
        }
        Err(error) => return Err(failed("asking about")(error)),
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(TUN)
        .map_err(|error| Why::File("opening", TUN.into(), error))?;
    let attached = tap::attach(&tun, name.as_bytes()).map_err(failed("attaching to"))?;
    if attached != name.as_bytes() {
        return Err(Why::Unusable(
            name.to_owned(),
            "is not the one the kernel attached",
        ));
    }
    let mtu = interfaces
        .mtu(name.as_bytes())
        .map_err(failed("asking for the MTU of"))?;
    interfaces.disable_offloads(name.as_bytes());
    Ok((tun.into(), mtu))
}

fn inherit_interface(number: i32) -> Result<(OwnedFd, u16), Why> {
    let (descriptor, attachment) = tap::inherit(number).map_err(|error| match error {
        Errno::EBADF => Why::Descriptor(number, "is not an open descriptor"),
        _ => Why::Descriptor(number, "is not attached to a tap interface"),
    })?;
    if let Some(why) = unusable(&attachment) {
        return Err(Why::Descriptor(number, why));
    }
    let failed = |error| {
        let name = String::from_utf8_lossy(&attachment.interface).into_owned();
        Why::Interface("asking for the MTU of", name, error)
    };
    let interfaces = Interfaces::open().map_err(failed)?;
    let mtu = interfaces.mtu(&attachment.interface).map_err(failed)?;
    Ok((descriptor, mtu))
}

/// Why a tap that somebody else set up cannot be given to a guest, which reads and writes bare
/// Ethernet frames.
fn unusable(attachment: &Attachment) -> Option<&'static str> {
    if !attachment.tap {
        Some("is a tun, not a tap, interface")
    } else if attachment.framed {
        Some("has a header before each frame (it needs IFF_NO_PI and no IFF_VNET_HDR)")
    } else {
        None
    }
}

/// A random unicast address, marked as locally administered.
fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    File::open(RANDOM)?.read_exact(&mut mac)?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}

fn open_block(path: &OsString, block_size: u16) -> Result<(OwnedFd, Details), Why> {
    let failed = |what| move |error| Why::File(what, path.clone(), error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed("opening"))?;
    let capacity = file
        .seek(SeekFrom::End(0))
        .map_err(failed("finding the size of"))?;
    if capacity == 0 || !capacity.is_multiple_of(u64::from(block_size)) {
        return Err(Why::Size(path.clone(), capacity, block_size));
    }
    let details = Details::Block {
        capacity,
        block_size,
    };
    Ok((file.into(), details))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_tap_of_bare_frames_is_usable() {
        for (tap, framed, usable) in [
            (true, false, true),
            (true, true, false),
            (false, false, false),
            (false, true, false),
        ] {
            let interface = b"tap0".to_vec();
            let attachment = Attachment {
                interface,
                tap,
                framed,
            };
            assert_eq!(unusable(&attachment).is_none(), usable);
        }
    }

    #[test]
    fn a_random_address_is_unicast_and_local() {
        for _ in 0..32 {
            assert_eq!(random_mac().unwrap()[0] & 3, 2);
        }
    }
}
