//! The command line of a tender (BEHAVIOUR 5.5).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{HostDevice, bhyve};
use crate::name::Name;
use crate::unikernel::{Block, Config, Kind};

/// The arguments of the tender that runs `image` as `name`, with block devices from the directory `blocks`. `whole_name`
/// puts the path into the added `--name`, too. `taps` are those of its networks, in their order.
pub fn arguments(
    name: &Name,
    config: &Config,
    image: &Path,
    blocks: &Path,
    whole_name: bool,
    taps: &[&str],
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![format!("--mem={}", config.memory).into()];
    let nets = || config.nets.iter();
    let attached = nets().zip(taps);
    arguments.extend(attached.map(|(net, tap)| format!("--net:{}={tap}", net.device).into()));
    arguments.extend(nets().map(|net| {
        let (device, mac) = (&net.device, net.mac(name));
        format!("--net-mac:{device}={mac}").into()
    }));
    arguments.extend(block_arguments(name, config, blocks));
    arguments.push("--".into());
    arguments.push(image.into());
    if config.add_name {
        let shown = match name.label() {
            Some(label) if !whole_name => label.to_string(),
            _ => name.to_string(),
        };
        arguments.push(format!("--name={shown}").into());
    }
    arguments.extend(config.arguments.iter().cloned().map(OsString::from_vec));
    arguments
}

/// The block devices: all files, then the sector sizes that are not the tender's own.
fn block_arguments<'a>(
    name: &'a Name,
    config: &'a Config,
    directory: &'a Path,
) -> impl Iterator<Item = OsString> {
    let file = move |block: &Block| {
        let mut argument = OsString::from(format!("--block:{}=", block.device));
        argument.push(block_file(name, block, directory)?);
        Some(argument)
    };
    let sector_size = |block: &Block| {
        let size = block.sector_size?;
        Some(format!("--block-sector-size:{}={size}", block.device).into())
    };
    let blocks = config.blocks.iter();
    blocks
        .clone()
        .filter_map(file)
        .chain(blocks.filter_map(sector_size))
}

/// What the unikernel has as this block device: a file in `directory` with the canonical name of the device (WIRE 6.2), or
/// a volume. Nothing if there is no such device.
pub fn block_file(unikernel: &Name, block: &Block, directory: &Path) -> Option<PathBuf> {
    HostDevice::of(unikernel.path(), block).map(|device| match device {
        HostDevice::Ours(name) => directory.join(name.to_string()),
        HostDevice::Zvol(volume) => volume.into(),
    })
}

/// Refuses what cannot be started, `machines` being why BHyve machines cannot.
pub fn supported(config: &Config, machines: Result<(), &&str>) -> Result<(), String> {
    if config.kind == Kind::Bhyve {
        machines.map_err(|why| (*why).to_owned())?;
        return bhyve::check(config).map_err(|refusal| refusal.to_string());
    }
    let devices: BTreeSet<_> = config.blocks.iter().map(|block| &block.device).collect();
    if devices.len() < config.blocks.len() {
        return Err("two block devices have the same name".to_owned());
    }
    Ok(())
}

/// How many bytes the guest's command line has at most: its arguments with a space between.
pub fn command_line(name: &Name, config: &Config) -> usize {
    let added = config.add_name.then(|| format!("--name={name}").len());
    let given = config.arguments.iter().map(Vec::len);
    added
        .into_iter()
        .chain(given)
        .map(|bytes| bytes + 1)
        .sum::<usize>()
        .saturating_sub(1)
}

/// The file names under which a tender for `target` (`spt`, `hvt`) and this ABI version is looked for, in this order.
pub fn tender_names(target: &str, abi_version: u32) -> [String; 2] {
    [
        format!("solo5-{target}.{abi_version}"),
        format!("solo5-{target}"),
    ]
}

/// Whether the output of a tender's `--version` says that it has this ABI version.
pub fn speaks(output: &[u8], abi_version: u32) -> bool {
    let wanted = format!("ABI version {abi_version}");
    output
        .split(|byte| *byte == b'\n')
        .any(|line| line.trim_ascii() == wanted.as_bytes())
}

/// The name of the embedded tender.
pub const EMBEDDED: &str = "petrel-spt";

/// Directories of a `PATH`, the empty ones left out.
pub fn directories(path: &OsStr) -> impl Iterator<Item = PathBuf> {
    std::env::split_paths(path).filter(|directory| directory.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::fixtures::config;
    use crate::unikernel::{Mac, Net};

    #[test]
    fn the_name_is_the_first_guest_argument() {
        let name = "a:b".parse().unwrap();
        let config = Config {
            arguments: vec![b"--x".to_vec()],
            ..config()
        };
        let image = Path::new("/i");
        let blocks = Path::new("/b");
        assert_eq!(
            arguments(&name, &config, image, blocks, false, &[]),
            ["--mem=32", "--", "/i", "--name=b", "--x"]
        );
        assert_eq!(
            arguments(&name, &config, image, blocks, true, &[])[3],
            "--name=a:b"
        );
        let config = Config {
            add_name: false,
            ..config
        };
        assert_eq!(
            arguments(&name, &config, image, blocks, false, &[]),
            ["--mem=32", "--", "/i", "--x"]
        );
    }

    #[test]
    fn networks_come_before_their_addresses_in_the_order_of_the_configuration() {
        let net = |device: &str, bridge: &str, mac| Net {
            device: device.to_owned(),
            bridge: Some(bridge.to_owned()),
            mac,
        };
        let given = Mac([2, 0, 0, 0, 0, 0xfe]);
        let config = Config {
            nets: vec![
                net("service0", "br1", None),
                net("admin", "br0", Some(given)),
            ],
            ..config()
        };
        let name = ":net".parse().unwrap();
        assert_eq!(
            arguments(
                &name,
                &config,
                Path::new("/i"),
                Path::new("/b"),
                false,
                &["pt0", "pt1"]
            )[1..6],
            [
                "--net:service0=pt0",
                "--net:admin=pt1",
                "--net-mac:service0=00:80:41:26:a8:89",
                "--net-mac:admin=02:00:00:00:00:fe",
                "--",
            ]
        );
    }

    #[test]
    fn files_of_block_devices_come_before_sector_sizes() {
        let block = |device: &str, host: Option<&str>, sector_size| Block {
            device: device.into(),
            host_device: host.map(Into::into),
            sector_size,
        };
        let config = Config {
            blocks: vec![
                block("data", None, Some(4096)),
                block("log", Some("disk.2"), None),
                block("vol", Some("/dev/zvol/tank/v"), Some(512)),
            ],
            add_name: false,
            ..config()
        };
        let directory = Path::new("/db/block");
        let given = arguments(
            &"a:b:x".parse().unwrap(),
            &config,
            Path::new("/i"),
            directory,
            false,
            &[],
        );
        assert_eq!(
            given,
            [
                "--mem=32",
                "--block:data=/db/block/a:b:data",
                "--block:log=/db/block/a:b:disk.2",
                "--block:vol=/dev/zvol/tank/v",
                "--block-sector-size:data=4096",
                "--block-sector-size:vol=512",
                "--",
                "/i"
            ]
        );
    }

    #[test]
    fn the_command_line_counts_the_name_and_the_spaces() {
        let name = "a:b".parse().unwrap();
        let config = Config {
            arguments: vec![b"--x".to_vec(), Vec::new()],
            ..config()
        };
        assert_eq!(command_line(&name, &config), "--name=a:b --x ".len());
        let config = Config {
            add_name: false,
            ..config
        };
        assert_eq!(command_line(&name, &config), "--x ".len());
    }

    #[test]
    fn the_abi_version_is_a_line_of_its_own() {
        assert!(speaks(b"x tender, version 1\nABI version 2\n", 2));
        assert!(!speaks(b"ABI version 21\n", 2));
        assert!(!speaks(b"the ABI version 2\n", 2));
    }
}
