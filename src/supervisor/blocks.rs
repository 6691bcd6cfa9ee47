//! The block devices of the host: their names, what they take, and who has them.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{Label, Name, Path};
use crate::unikernel::Block;

/// The block devices that exist, by name, with their sizes in MB.
#[derive(Clone, Debug, Default)]
pub struct BlockDevices(BTreeMap<Name, u64>);

/// Why a block device cannot be had, made or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockRefusal {
    /// There is one of this name already.
    Exists(Name),
    /// There is none of this name at this path.
    Missing(Path, String),
    /// A unikernel has it.
    InUse(Name),
}

impl BlockDevices {
    /// The size of a device in MB, if it exists.
    pub fn size(&self, name: &Name) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// The sizes of all devices at and below `path` together, in MB.
    pub fn storage_below(&self, path: &Path) -> u64 {
        self.0
            .iter()
            .filter(|(name, _)| name.path().is_within(path))
            .fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// Adds a device.
    pub fn add(&mut self, name: Name, size: u64) -> Result<(), BlockRefusal> {
        if self.0.contains_key(&name) {
            return Err(BlockRefusal::Exists(name));
        }
        self.0.insert(name, size);
        Ok(())
    }

    /// Whether one of these unikernels has the device.
    pub fn is_in_use<'a>(
        device: &Name,
        mut unikernels: impl Iterator<Item = (&'a Name, &'a [Block])>,
    ) -> bool {
        unikernels.any(|(unikernel, blocks)| {
            blocks
                .iter()
                .any(|block| device_name(unikernel.path(), block).as_ref() == Some(device))
        })
    }

    /// Removes a device that none of these unikernels has.
    pub fn remove<'a>(
        &mut self,
        name: &Name,
        unikernels: impl Iterator<Item = (&'a Name, &'a [Block])>,
    ) -> Result<(), BlockRefusal> {
        if Self::is_in_use(name, unikernels) {
            return Err(BlockRefusal::InUse(name.clone()));
        }
        match self.0.remove(name) {
            Some(_) => Ok(()),
            None => Err(missing(name.path(), name.label().map_or("", Label::as_str))),
        }
    }

    /// Whether a unikernel at `path` can have these devices besides the other `unikernels`: each must exist at its
    /// own path, and be had once.
    pub fn admit<'a>(
        &self,
        path: &Path,
        blocks: &[Block],
        unikernels: &(impl Iterator<Item = (&'a Name, &'a [Block])> + Clone),
    ) -> Result<(), BlockRefusal> {
        for (at, block) in blocks.iter().enumerate() {
            let name = device_name(path, block)
                .filter(|name| self.0.contains_key(name))
                .ok_or_else(|| missing(path, block.host_device()))?;
            let twice = blocks[..at]
                .iter()
                .any(|other| other.host_device() == block.host_device());
            if twice || Self::is_in_use(&name, unikernels.clone()) {
                return Err(BlockRefusal::InUse(name));
            }
        }
        Ok(())
    }
}

/// The device that a unikernel at `path` asks for. Its label is taken as it is written: one that is not in lower case
/// names no device.
fn device_name(path: &Path, block: &Block) -> Option<Name> {
    let text = block.host_device();
    let label: Label = text.parse().ok()?;
    (label.as_str() == text).then(|| Name::new(path.clone(), label))
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
            Self::InUse(name) => write!(f, "block device {name} is in use"),
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
        assert_eq!(
            devices.remove(&name("a:disk"), running.iter().copied()),
            Err(BlockRefusal::InUse(name("a:disk")))
        );
        assert_eq!(devices.remove(&name("a:disk"), [].into_iter()), Ok(()));
        assert_eq!(devices.storage_below(&Path::ROOT), 0);
    }
}
