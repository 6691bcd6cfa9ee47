//! The vocabulary of a unikernel: its configuration, and what is told of a running one.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;

use md5::{Digest as _, Md5};

use crate::name::Name;
use crate::policy::CpuId;

/// Most bytes of an image that a host takes, uncompressed.
pub const MAX_IMAGE: u64 = 1 << 30;

/// What kind of virtual machine runs the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Solo5 image under `solo5-spt` or `solo5-hvt`.
    Solo5,
    /// A BHyve virtual machine (FreeBSD).
    Bhyve,
}

/// What happens when the unikernel ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailBehaviour {
    /// It stays down.
    Quit,
    /// It is started again after these exit codes; an empty set means every code that is eligible.
    Restart(BTreeSet<u8>),
}

/// A block device of the image and where the host keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Device name in the image's manifest.
    pub device: String,
    /// Block device of the host; `None`: of the same name.
    pub host_device: Option<String>,
    /// Bytes in a sector, a power of two from 512; `None` leaves it to the tender (512).
    pub sector_size: Option<u16>,
}

/// A network device of the image and the bridge it is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// Device name in the image's manifest.
    pub device: String,
    /// Bridge of the host; `None`: of the same name.
    pub bridge: Option<String>,
    /// Hardware address; `None`: derived from the names.
    pub mac: Option<Mac>,
}

/// A hardware address in transmission order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// The SHA-256 of an uncompressed image, which is also its name in the image store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageDigest(pub [u8; 32]);

/// Everything about a unikernel but its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Kind of virtual machine.
    pub kind: Kind,
    /// Start order after a restart of the supervisor: lower first, absent counts as [`Config::DEFAULT_STARTUP`].
    pub startup: Option<i64>,
    /// Whether `--name=LABEL` becomes the first guest argument.
    pub add_name: bool,
    /// What happens when it ends by itself.
    pub fail_behaviour: FailBehaviour,
    /// Host processors the tender is pinned to; never empty.
    pub cpus: BTreeSet<CpuId>,
    /// Memory in MB (2^20 bytes), from 1 to [`Config::MAX_MEMORY`].
    pub memory: u32,
    /// Block devices.
    pub blocks: Vec<Block>,
    /// Network devices.
    pub nets: Vec<Net>,
    /// Guest arguments, arbitrary bytes without NUL.
    pub arguments: Vec<Vec<u8>>,
    /// Virtual processors, BHyve only.
    pub vcpus: u16,
    /// Boot partition, BHyve with Linux only.
    pub linux_boot_partition: Option<String>,
}

/// What is run: a configuration and an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// How.
    pub config: Config,
    /// Which image; [`ImageDigest::NONE`] for a BHyve machine.
    pub image: ImageDigest,
}

/// How a tender ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// With this exit code.
    Exit(u8),
    /// By this signal.
    Signal(i32),
    /// Killed by the system, which had no memory left for it.
    OutOfMemory,
    /// Nobody knows: it was not a child of the supervisor, and this system does not tell.
    Unknown,
}

impl ImageDigest {
    /// What a BHyve machine, which has no image, has in place of one: the SHA-256 of nothing.
    pub const NONE: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ]);

    /// Reads the 64 hexadecimal digits in lower case that it is shown as.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = Self([0; 32]);
        for (at, byte) in digest.0.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        (digest.to_string() == text).then_some(digest)
    }
}

impl Version {
    /// The image that has to be in the store for it.
    pub fn stored_image(&self) -> Option<ImageDigest> {
        (self.config.kind == Kind::Solo5).then_some(self.image)
    }
}

impl Config {
    /// Start order of a unikernel that does not state one.
    pub const DEFAULT_STARTUP: i64 = 50;
    /// Most memory in MB a unikernel can ask for (16 TB).
    pub const MAX_MEMORY: u32 = 1 << 24;
    /// Most devices of both kinds together, as in a Solo5 manifest (SOLO5 3).
    pub const MAX_DEVICES: usize = 63;
    /// Most bytes of all guest arguments joined by spaces (SOLO5 4).
    pub const MAX_COMMAND_LINE: usize = 8191;

    /// The place in the start order: lower is started earlier, and stopped later.
    pub fn startup(&self) -> i64 {
        self.startup.unwrap_or(Self::DEFAULT_STARTUP)
    }
}

impl Block {
    /// Where the system has the volumes of ZFS (FreeBSD): a host device that begins so is the path of one.
    pub const VOLUMES: &str = "/dev/zvol/";

    /// The host's name of the device.
    pub fn host_device(&self) -> &str {
        self.host_device.as_deref().unwrap_or(&self.device)
    }
}

impl Net {
    /// The host bridge.
    pub fn bridge(&self) -> &str {
        self.bridge.as_deref().unwrap_or(&self.device)
    }

    /// The address in effect: given, or derived.
    pub fn mac(&self, unikernel: &Name) -> Mac {
        self.mac
            .unwrap_or_else(|| Mac::derived(&self.device, unikernel))
    }
}

impl Mac {
    /// The address of a device without a given one: `00:80:41` and three bytes of an MD5 (WIRE 2).
    pub fn derived(device: &str, unikernel: &Name) -> Self {
        let digest = Md5::new()
            .chain_update(device)
            .chain_update(unikernel.to_string())
            .finalize();
        Self([0x00, 0x80, 0x41, digest[0], digest[1], digest[2]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<_> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Unknown => f.write_str("an exit that was not seen"),
        }
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Solo5 => "solo5",
            Self::Bhyve => "bhyve",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derived_address_depends_on_device_and_name() {
        let name: Name = ":net".parse().unwrap();
        assert_eq!(
            Mac::derived("service0", &name).to_string(),
            "00:80:41:26:a8:89"
        );
    }
}
