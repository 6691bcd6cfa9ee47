//! The block devices of the host: their names, what they take, and who has them.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{Label, Name, Path};
use crate::unikernel::Block;

/// Most MB of a block device (16 TB).
pub const MAX_BLOCK_SIZE: u64 = 1 << 24;

/// Most block devices of one tenant, which is the first label of a path: each takes a file and memory.
pub const MAX_BLOCK_DEVICES: usize = 1024;

/// The block devices that exist, by name, with their sizes in MB.
#[derive(Clone, Debug, Default)]
pub struct BlockDevices {
    sizes: BTreeMap<Name, u64>,
    /// The path whose unikernels can have ZFS volumes, too.
    zvols_of: Option<Path>,
}

/// What a unikernel's block device is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostDevice {
    /// A block device of ours.
    Ours(Name),
    /// A ZFS volume, by the path of its device.
    Zvol(String),
}

/// Why a block device cannot be had, made or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockRefusal {
    /// There is one of this name already.
    Exists(Name),
    /// There is none of this name at this path.
    Missing(Path, String),
    /// A unikernel has it.
    InUse(Name),
    /// A unikernel has this ZFS volume.
    ZvolInUse(String),
    /// Another request reads or changes it.
    Busy(Name),
    /// Unikernels at this path cannot have ZFS volumes such as this one.
    NoZvols(Path, String),
    /// This tenant has [`MAX_BLOCK_DEVICES`].
    TooMany(Path),
}

/// A unikernel, and the block devices that it has or may have.
pub type User<'a> = (&'a Name, &'a [Block]);

impl HostDevice {
    /// What a unikernel at `path` asks for: a label at its own path, or `PATH:LABEL` at a path below that. It is taken
    /// as it is written: what is not in lower case names no device. Nor does a path of a volume with `..` in it, or anything else that leads somewhere in two ways.
    pub fn of(path: &Path, block: &Block) -> Option<Self> {
        let text = block.host_device();
        if let Some(volume) = text.strip_prefix(Block::VOLUMES) {
            let odd = |part: &str| matches!(part, "" | "." | "..");
            let canonical = !volume.split('/').any(odd) && !volume.contains(char::is_whitespace);
            return canonical.then(|| Self::Zvol(text.to_owned()));
        }
        if text.contains(':') {
            let below: Name = text.parse().ok()?;
            let label = below.label()?.clone();
            let canonical = !below.path().is_root() && below.to_string() == text;
            let labels = below.path().labels().iter();
            let at = labels.fold(path.clone(), |at, label| at.child(label.clone()));
            return canonical.then(|| Self::Ours(Name::new(at, label)));
        }
        let label: Label = text.parse().ok()?;
        (label.as_str() == text).then(|| Self::Ours(Name::new(path.clone(), label)))
    }
}

impl BlockDevices {
    /// Devices with their sizes in MB; only unikernels at `zvols_of` can have ZFS volumes.
    pub fn new(sizes: BTreeMap<Name, u64>, zvols_of: Option<Path>) -> Self {
        Self { sizes, zvols_of }
    }

    /// The size of a device in MB, if it exists.
    pub fn size(&self, name: &Name) -> Option<u64> {
        self.sizes.get(name).copied()
    }

    /// All devices with their sizes in MB.
    pub fn all(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.sizes.iter().map(|(name, size)| (name, *size))
    }

    /// The sizes of all devices at and below `path` together, in MB.
    pub fn storage_below(&self, path: &Path) -> u64 {
        self.sizes
            .iter()
            .filter(|(name, _)| name.path().is_within(path))
            .fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// Adds a device.
    pub fn add(&mut self, name: Name, size: u64) -> Result<(), BlockRefusal> {
        if self.sizes.contains_key(&name) {
            return Err(BlockRefusal::Exists(name));
        }
        let tenant = name.path().tenant();
        let of_tenant = |other: &&Name| other.path().tenant() == tenant;
        if self.sizes.keys().filter(of_tenant).count() >= MAX_BLOCK_DEVICES {
            return Err(BlockRefusal::TooMany(tenant));
        }
        self.sizes.insert(name, size);
        Ok(())
    }

    /// Takes note of what there is of a device: its size, or that it is not there.
    pub fn set(&mut self, name: &Name, size: Option<u64>) {
        match size {
            Some(size) => self.sizes.insert(name.clone(), size),
            None => self.sizes.remove(name),
        };
    }

    /// The size of a device that none of these unikernels has.
    pub fn free<'a>(
        &self,
        name: &Name,
        unikernels: impl Iterator<Item = User<'a>>,
    ) -> Result<u64, BlockRefusal> {
        let label = name.label().map_or("", Label::as_str);
        let size = self.size(name).ok_or_else(|| missing(name.path(), label))?;
        if is_in_use(&HostDevice::Ours(name.clone()), unikernels) {
            return Err(BlockRefusal::InUse(name.clone()));
        }
        Ok(size)
    }

    /// Whether a unikernel at `path` can have these devices besides the other `unikernels`: each must exist at its
    /// own path, and be had once.
    pub fn admit<'a>(
        &self,
        path: &Path,
        blocks: &[Block],
        unikernels: &(impl Iterator<Item = User<'a>> + Clone),
    ) -> Result<(), BlockRefusal> {
        for (at, block) in blocks.iter().enumerate() {
            let no_such = || missing(path, block.host_device());
            let device = HostDevice::of(path, block).ok_or_else(no_such)?;
            let twice = blocks[..at]
                .iter()
                .any(|other| other.host_device() == block.host_device());
            let in_use = twice || is_in_use(&device, unikernels.clone());
            match device {
                HostDevice::Zvol(volume) if self.zvols_of.as_ref() != Some(path) => {
                    return Err(BlockRefusal::NoZvols(path.clone(), volume));
                }
                HostDevice::Ours(name) if self.size(&name).is_none() => return Err(no_such()),
                HostDevice::Zvol(volume) if in_use => return Err(BlockRefusal::ZvolInUse(volume)),
                HostDevice::Ours(name) if in_use => return Err(BlockRefusal::InUse(name)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether one of these unikernels has the device.
pub fn is_in_use<'a>(device: &HostDevice, mut unikernels: impl Iterator<Item = User<'a>>) -> bool {
    unikernels.any(|(unikernel, blocks)| {
        let mut devices = blocks
            .iter()
            .filter_map(|block| HostDevice::of(unikernel.path(), block));
        devices.any(|other| other == *device)
    })
}

fn missing(path: &Path, device: &str) -> BlockRefusal {
    BlockRefusal::Missing(path.clone(), device.to_owned())
}

impl fmt::Display for BlockRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => write!(f, "there is a block device {name} already"),
            Self::Missing(path, device) => write!(
                f,
                "there is no block device '{}' at {path}",
                device.escape_default()
            ),
            Self::InUse(name) => write!(
                f,
                "block device {name} is in use: stop or destroy the unikernel that has it"
            ),
            Self::ZvolInUse(volume) => write!(f, "volume {} is in use", volume.escape_default()),
            Self::Busy(name) => write!(
                f,
                "block device {name} is being read or changed by another request, try again later"
            ),
            Self::NoZvols(path, volume) => write!(
                f,
                "unikernels at {path} cannot have ZFS volumes such as {}: that takes --allow-zvol-for of petreld, on \
                 FreeBSD",
                volume.escape_default()
            ),
            Self::TooMany(tenant) => write!(
                f,
                "there are {MAX_BLOCK_DEVICES} block devices at and below {tenant} already"
            ),
        }
    }
}

impl std::error::Error for BlockRefusal {}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(device: &str, host_device: Option<&str>) -> Block {
        Block {
            device: device.to_owned(),
            host_device: host_device.map(str::to_owned),
            sector_size: None,
        }
    }

    #[test]
    fn a_device_is_had_by_one_unikernel_at_its_own_path() {
        let name = |text: &str| -> Name { text.parse().unwrap() };
        let mut devices = BlockDevices::default();
        devices.add(name("a:disk"), 5).unwrap();
        assert_eq!(
            devices.add(name("a:disk"), 6),
            Err(BlockRefusal::Exists(name("a:disk")))
        );
        let owner = name("a:one");
        let has = [block("disk", None)];
        let running = [(&owner, &has[..])];
        let admit = |path: &str, blocks: &[Block], running: &[(&Name, &[Block])]| {
            let path = path.parse().unwrap();
            devices.admit(&path, blocks, &running.iter().copied())
        };
        assert_eq!(admit("a", &has, &[]), Ok(()));
        assert_eq!(admit("a", &[block("x", Some("disk"))], &[]), Ok(()));
        let in_use = Err(BlockRefusal::InUse(name("a:disk")));
        assert_eq!(admit("a", &has, &running), in_use);
        assert_eq!(
            admit("a", &[block("x", Some("disk")), block("disk", None)], &[]),
            in_use
        );
        for (path, device) in [
            ("a:b", "disk"),
            ("", "disk"),
            ("a", "DISK"),
            ("a", "../disk"),
        ] {
            let missing = BlockRefusal::Missing(path.parse().unwrap(), device.to_owned());
            assert_eq!(admit(path, &[block("x", Some(device))], &[]), Err(missing));
        }
        let free = devices.free(&name("a:disk"), running.iter().copied());
        assert_eq!(free, in_use.map(|()| 0));
        assert_eq!(devices.free(&name("a:disk"), [].into_iter()), Ok(5));
        devices.set(&name("a:disk"), None);
        assert_eq!(devices.storage_below(&Path::ROOT), 0);
    }

    #[test]
    fn a_volume_is_had_by_one_unikernel_at_the_path_that_may_and_by_its_only_name() {
        let path: Path = "z".parse().unwrap();
        let devices = BlockDevices::new(BTreeMap::new(), Some(path.clone()));
        let volume = [block("x", Some("/dev/zvol/tank/a"))];
        assert_eq!(devices.admit(&path, &volume, &[].into_iter()), Ok(()));
        let owner: Name = "z:one".parse().unwrap();
        let running = [(&owner, &volume[..])];
        let in_use = BlockRefusal::ZvolInUse("/dev/zvol/tank/a".into());
        let admitted = devices.admit(&path, &volume, &running.into_iter());
        assert_eq!(admitted, Err(in_use));
        for other in ["", "z:y"] {
            let other: Path = other.parse().unwrap();
            let admitted = devices.admit(&other, &volume, &[].into_iter());
            assert!(matches!(admitted, Err(BlockRefusal::NoZvols(..))));
        }
        for text in [
            "/dev/zvol/../ada0",
            "/dev/zvol//tank/a",
            "/dev/zvol/tank/./a",
            "/dev/zvol/",
            "/dev/ada0",
        ] {
            let admitted = devices.admit(&path, &[block("x", Some(text))], &[].into_iter());
            assert_eq!(admitted, Err(missing(&path, text)));
        }
    }

    #[test]
    fn a_device_is_at_the_path_of_its_unikernel_or_below_and_has_one_spelling() {
        let of = |path: &str, text: &str| {
            let path: Path = path.parse().unwrap();
            match HostDevice::of(&path, &block("data", Some(text)))? {
                HostDevice::Ours(name) => Some(name.to_string()),
                HostDevice::Zvol(_) => None,
            }
        };
        assert_eq!(of("a", "disk").as_deref(), Some("a:disk"));
        assert_eq!(of("a", "b:c:disk").as_deref(), Some("a:b:c:disk"));
        assert_eq!(HostDevice::of(&Path::ROOT, &block("d", Some("b:disk"))), {
            Some(HostDevice::Ours("b:disk".parse().unwrap()))
        });
        for odd in [":disk", "b:", "B:disk", "b:Disk", "b::disk", "b/c:disk"] {
            assert_eq!(of("a", odd), None, "{odd}");
        }
    }

    #[test]
    fn a_tenant_has_so_many_devices_and_no_more() {
        let mut devices = BlockDevices::default();
        for number in 0..MAX_BLOCK_DEVICES {
            let path = if number % 2 == 0 { "a" } else { "a:b" };
            devices
                .add(format!("{path}:d{number}").parse().unwrap(), 1)
                .unwrap();
        }
        let tenant = BlockRefusal::TooMany("a".parse().unwrap());
        assert_eq!(devices.add("a:b:c:more".parse().unwrap(), 1), Err(tenant));
        for other in [":more", "b:more"] {
            assert_eq!(devices.add(other.parse().unwrap(), 1), Ok(()));
        }
    }
}
