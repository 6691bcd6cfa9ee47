//! Matches the devices of the command line with those of the manifest.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use super::options::{DEFAULT_SECTOR_SIZE, NetSource, Options};
use crate::manifest::{DeviceKind, DeviceMismatch, Manifest};

/// A device of the manifest and what it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its index in the manifest, 1..=63.
    pub handle: u32,
    /// Its name.
    pub name: String,
    /// What it is attached to.
    pub to: Backing,
}

/// What a device is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A network device: its source, and its MAC address unless one is to be chosen.
    Net(NetSource, Option<[u8; 6]>),
    /// A block device: the file, and its block size in bytes.
    Block(OsString, u16),
}

/// Why the devices asked for cannot be given to the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// They are not the ones it declares.
    Mismatch(DeviceMismatch),
    /// An option such as `--net-mac` is about a device that is not asked for.
    Detached(&'static str, String),
}

/// Gives every device of `manifest` what `options` say, in the order of the manifest.
/// Of a device given twice the last one counts, as for Solo5's tender.
pub fn assign(manifest: &Manifest, options: &Options) -> Result<Vec<Assignment>, DeviceError> {
    let nets: Vec<&str> = options.nets.iter().map(|(name, _)| name.as_str()).collect();
    let blocks: Vec<&str> = options
        .blocks
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    manifest
        .check_devices(&nets, &blocks)
        .map_err(DeviceError::Mismatch)?;
    check_details("--net-mac", &options.macs, &nets)?;
    check_details("--block-sector-size", &options.sector_sizes, &blocks)?;

    let macs: BTreeMap<_, _> = options.macs.iter().cloned().collect();
    let sizes: BTreeMap<_, _> = options.sector_sizes.iter().cloned().collect();
    let nets = options.nets.iter().map(|(name, source)| {
        let mac = macs.get(name).copied().filter(|mac| *mac != [0; 6]);
        (DeviceKind::Net, name, Backing::Net(source.clone(), mac))
    });
    let blocks = options.blocks.iter().map(|(name, path)| {
        let size = sizes.get(name).copied().unwrap_or(DEFAULT_SECTOR_SIZE);
        (DeviceKind::Block, name, Backing::Block(path.clone(), size))
    });
    let mut assigned = BTreeMap::new();
    for (kind, name, to) in nets.chain(blocks) {
        if let Some(device) = manifest.device(name, kind) {
            let assignment = Assignment {
                handle: device.handle,
                name: name.clone(),
                to,
            };
            assigned.insert(device.handle, assignment);
        }
    }
    Ok(assigned.into_values().collect())
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Detached(option, name) => {
                write!(f, "{option} is given for {name:?}, which is not attached")
            }
        }
    }
}

impl std::error::Error for DeviceError {}

fn check_details<T>(
    option: &'static str,
    details: &[(String, T)],
    attached: &[&str],
) -> Result<(), DeviceError> {
    match details
        .iter()
        .find(|(name, _)| !attached.contains(&name.as_str()))
    {
        Some((name, _)) => Err(DeviceError::Detached(option, name.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Cursor;

    use super::*;
    use crate::elf::test_image::Image;

    fn assign(words: &[&str]) -> Result<Vec<Assignment>, DeviceError> {
        let image = Image::solo5(
            2,
            &[("service", 2), ("storage", 1), ("same", 1), ("same", 2)],
        );
        let manifest = Manifest::read(&mut Cursor::new(image.build())).unwrap();
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        super::assign(&manifest, &Options::parse(&words).unwrap())
    }

    const ALL: [&str; 4] = [
        "--block:same=b",
        "--net:same=tap1",
        "--net:service=tap0",
        "--block:storage=a",
    ];

    fn refusal(more: &[&str]) -> String {
        assign(&[&ALL[..], more].concat()).unwrap_err().to_string()
    }

    #[test]
    fn every_device_gets_its_backing_by_name_and_kind() {
        let net = |name: &str| NetSource::Interface(name.to_owned());
        let more = [
            "--net-mac:service=2:0:0:0:0:1",
            "--net-mac:same=0:0:0:0:0:0",
            "--block-sector-size:same=4096",
        ];
        let assigned = assign(&[&more[..], &ALL].concat()).unwrap();
        let backings: Vec<_> = assigned
            .into_iter()
            .map(|assignment| (assignment.handle, assignment.to))
            .collect();
        assert_eq!(
            backings,
            [
                (1, Backing::Net(net("tap0"), Some([2, 0, 0, 0, 0, 1]))),
                (2, Backing::Block("a".into(), 512)),
                (3, Backing::Block("b".into(), 4096)),
                (4, Backing::Net(net("tap1"), None)),
            ]
        );
    }

    #[test]
    fn missing_and_undeclared_devices_are_refused() {
        assert!(assign(&ALL[1..]).is_err());
        assert!(refusal(&["--net:other=tap2"]).contains("not declared: net \"other\""));
        assert!(refusal(&["--net:storage=tap2"]).contains("not declared: net \"storage\""));
    }

    #[test]
    fn of_a_device_given_twice_the_last_one_counts() {
        let assigned = assign(&[&ALL[..], &["--block:storage=c"]].concat()).unwrap();
        assert_eq!(assigned[1].to, Backing::Block("c".into(), 512));
        assert_eq!(assigned.len(), 4);
    }

    #[test]
    fn details_of_devices_that_are_not_attached_are_refused() {
        assert!(refusal(&["--net-mac:storage=2:0:0:0:0:1"]).contains("--net-mac"));
        assert!(refusal(&["--block-sector-size:service=512"]).contains("not attached"));
    }
}
