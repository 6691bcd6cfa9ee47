//! BHyve machines (BEHAVIOUR 5.6): what one has to be like, and the programs that are run for it.
//!
//! A machine is loaded by one program, which ends, is run by another, which is its tender, and is destroyed by a third when
//! that has ended. bhyve(8), bhyveload(8) and bhyvectl(8) come with FreeBSD, grub-bhyve with its package grub2-bhyve.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::name::Name;
use crate::unikernel::Config;

/// Runs a machine that is loaded.
pub const BHYVE_PROGRAM: &str = "bhyve";

/// Loads FreeBSD.
pub const BHYVELOAD_PROGRAM: &str = "bhyveload";

/// Loads Linux.
pub const LOADS_LINUX: &str = "grub-bhyve";

/// Destroys a machine.
pub const BHYVECTL_PROGRAM: &str = "bhyvectl";

/// Exit code of [`BHYVE_PROGRAM`] when the guest has rebooted, bhyve(8).
pub const REBOOTED: u8 = 0;

/// Exit codes of [`BHYVE_PROGRAM`] when the guest has ended by itself: powered off, halted. 3 is a triple fault, 4 an error.
pub const ENDED: [u8; 2] = [1, 2];

/// Most devices of both kinds together: a PCI bus has 32 slots, of which two are taken.
pub const MAX_DEVICES: usize = 30;

/// The slot of the first device.
const FIRST_SLOT: usize = 2;

/// Most characters of the name of a boot partition.
pub const MAX_PARTITION: usize = 32;

/// How long a machine may take to be loaded: the loader of FreeBSD counts down ten seconds unless it is told otherwise.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(20);

/// How long it may take until a machine is destroyed.
pub const DESTROY_DEADLINE: Duration = Duration::from_secs(10);

/// Why there can be no such machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineRefusal {
    /// It has no virtual processor.
    NoProcessor,
    /// The devices of this kind have other names than numbers from 0 on.
    Numbers(&'static str),
    /// It has no block device 0 to be loaded from.
    NoDisk,
    /// It has more than [`MAX_DEVICES`].
    TooManyDevices(usize),
    /// No partition has such a name.
    Partition(String),
    /// The programs of BHyve would not understand this path of a block device.
    Path(PathBuf),
    /// A block device is none of the host's (its number).
    NoDevice(usize),
}

/// The programs that are run for a machine, in this order, and their arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Loads the machine: [`BHYVELOAD_PROGRAM`] or [`LOADS_LINUX`]. It has [`LOAD_DEADLINE`], and exit code 0 is success.
    pub loader: &'static str,
    /// Its arguments.
    pub load: Vec<OsString>,
    /// What is to be in the file that is the device map of the loader, if it needs one.
    pub device_map: Option<String>,
    /// The arguments of [`BHYVE_PROGRAM`].
    pub run: Vec<OsString>,
}

/// The arguments of [`BHYVECTL_PROGRAM`] for a machine of this name.
pub fn destroy(machine: &str) -> Vec<OsString> {
    vec!["--destroy".into(), format!("--vm={machine}").into()]
}

/// The program that loads a machine of this configuration.
pub fn loader(config: &Config) -> &'static str {
    match config.linux_boot_partition {
        Some(_) => LOADS_LINUX,
        None => BHYVELOAD_PROGRAM,
    }
}

/// Whether there can be a machine of this configuration, on whatever host.
pub fn check(config: &Config) -> Result<(), MachineRefusal> {
    if config.vcpus == 0 {
        return Err(MachineRefusal::NoProcessor);
    }
    let devices = config.nets.len() + config.blocks.len();
    if devices > MAX_DEVICES {
        return Err(MachineRefusal::TooManyDevices(devices));
    }
    numbered("network", config.nets.iter().map(|net| &net.device))?;
    let blocks = config.blocks.iter().map(|block| &block.device);
    if numbered("block", blocks)?.is_empty() {
        return Err(MachineRefusal::NoDisk);
    }
    match &config.linux_boot_partition {
        Some(partition) if !is_partition(partition) => {
            Err(MachineRefusal::Partition(partition.clone()))
        }
        _ => Ok(()),
    }
}

impl Plan {
    /// The plan for `machine`, which is that of `name`. `taps` and `disks` are the host's, in the order of the
    /// configuration; `device_map` is where that of the loader will be.
    pub fn new(
        machine: &str,
        name: &Name,
        config: &Config,
        taps: &[&str],
        disks: &[Option<PathBuf>],
        device_map: &Path,
    ) -> Result<Self, MachineRefusal> {
        check(config)?;
        let disks = numbered("block", config.blocks.iter().map(|block| &block.device))?
            .into_iter()
            .enumerate()
            .map(|(number, at)| {
                let path = disks.get(at).and_then(Option::as_deref);
                let path = path.ok_or(MachineRefusal::NoDevice(number))?;
                let sectors = config.blocks[at].sector_size;
                Ok((plain(path)?, sectors))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (first, _) = *disks.first().ok_or(MachineRefusal::NoDisk)?;
        let memory = config.memory;
        let (load, map) = match &config.linux_boot_partition {
            None => {
                let load = [format!("-m{memory}m"), format!("-d{first}")];
                (load.map(OsString::from).to_vec(), None)
            }
            Some(partition) => {
                let mut map = OsString::from("-m");
                map.push(plain(device_map)?);
                let root = format!("-rhd0,{partition}").into();
                let load = vec![map, root, format!("-M{memory}").into()];
                (load, Some(format!("(hd0) {first}\n")))
            }
        };
        let nets = numbered("network", config.nets.iter().map(|net| &net.device))?;
        let nets = nets.into_iter().filter_map(|at| {
            let tap = taps.get(at)?;
            let mac = config.nets[at].mac(name);
            // By its name alone bhyve knows a tap only if that begins with "tap".
            Some(format!("virtio-net,{tap},mac={mac},type=tap"))
        });
        let disks = disks.iter().map(|(path, sectors)| match sectors {
            Some(bytes) => format!("virtio-blk,{path},sectorsize={bytes}"),
            None => format!("virtio-blk,{path}"),
        });
        let slots = (FIRST_SLOT..).zip(nets.chain(disks));
        let mut run: Vec<OsString> = ["-A", "-H", "-P", "-s0,hostbridge", "-s1,lpc"]
            .map(OsString::from)
            .to_vec();
        run.extend(slots.map(|(slot, device)| format!("-s{slot},{device}").into()));
        run.push("-lcom1,stdio".into());
        run.push(format!("-c{}", config.vcpus).into());
        run.push(format!("-m{memory}M").into());
        let named = |mut arguments: Vec<OsString>| {
            arguments.push(machine.into());
            arguments
        };
        Ok(Self {
            loader: loader(config),
            load: named(load),
            device_map: map,
            run: named(run),
        })
    }
}

/// The places of the devices with the names `0`, `1`, … in this order: a configuration has them in any.
fn numbered<'a>(
    kind: &'static str,
    devices: impl Iterator<Item = &'a String>,
) -> Result<Vec<usize>, MachineRefusal> {
    let numbers: Option<Vec<_>> = devices
        .enumerate()
        .map(|(at, device)| {
            let number: usize = device.parse().ok()?;
            (number.to_string() == *device).then_some((number, at))
        })
        .collect();
    let mut numbers = numbers.ok_or(MachineRefusal::Numbers(kind))?;
    numbers.sort_unstable();
    let complete = (0..)
        .zip(&numbers)
        .all(|(number, (device, _))| number == *device);
    if !complete {
        return Err(MachineRefusal::Numbers(kind));
    }
    Ok(numbers.into_iter().map(|(_, at)| at).collect())
}

fn is_partition(text: &str) -> bool {
    (1..=MAX_PARTITION).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A path that stays one word in a device map, and one value in an option, whose others follow a comma and in which `%`
/// begins a variable.
fn plain(path: &Path) -> Result<&str, MachineRefusal> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:-+~".contains(&byte);
    path.to_str()
        .filter(|text| text.starts_with('/') && text.bytes().all(fits))
        .ok_or_else(|| MachineRefusal::Path(path.to_path_buf()))
}

impl fmt::Display for MachineRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProcessor => f.write_str("a BHyve machine needs a virtual CPU"),
            Self::Numbers(kind) => write!(
                f,
                "the {kind} devices of a BHyve machine are named 0, 1 and so on, each once"
            ),
            Self::NoDisk => {
                f.write_str("a BHyve machine needs a block device 0, from which it is loaded")
            }
            Self::TooManyDevices(count) => write!(
                f,
                "a BHyve machine has at most {MAX_DEVICES} devices, not {count}"
            ),
            Self::Partition(name) => write!(
                f,
                "a boot partition has 1 to {MAX_PARTITION} letters and digits, as msdos1 or gpt2, not '{}'",
                name.escape_default()
            ),
            Self::Path(path) => write!(
                f,
                "a BHyve machine cannot have {}: a path with other characters than letters, digits and /._:-+~",
                path.display()
            ),
            Self::NoDevice(number) => {
                write!(f, "there is no such block device as {number} is to be")
            }
        }
    }
}

impl std::error::Error for MachineRefusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::fixtures;
    use crate::unikernel::{Block, Kind, Mac, Net};

    fn net(device: &str) -> Net {
        Net {
            device: device.to_owned(),
            bridge: Some("br0".to_owned()),
            mac: None,
        }
    }

    fn block(device: &str) -> Block {
        Block {
            device: device.to_owned(),
            host_device: Some(format!("/dev/zvol/tank/v{device}")),
            sector_size: None,
        }
    }

    fn config(nets: &[&str], blocks: &[&str]) -> Config {
        Config {
            kind: Kind::Bhyve,
            memory: 512,
            vcpus: 2,
            nets: nets.iter().map(|device| net(device)).collect(),
            blocks: blocks.iter().map(|device| block(device)).collect(),
            ..fixtures::config()
        }
    }

    fn linux(partition: &str) -> Config {
        Config {
            linux_boot_partition: Some(partition.to_owned()),
            ..config(&[], &["0"])
        }
    }

    /// With taps and disks as they are called in the configuration.
    fn plan(config: &Config) -> Result<Plan, MachineRefusal> {
        let taps: Vec<_> = config
            .nets
            .iter()
            .map(|net| format!("pt{}", net.device))
            .collect();
        let taps: Vec<_> = taps.iter().map(String::as_str).collect();
        let disks = config.blocks.iter();
        let disks: Vec<_> = disks
            .map(|block| Some(block.host_device().into()))
            .collect();
        let map = Path::new("/run/boot/pta");
        Plan::new("pta", &"a:b".parse().unwrap(), config, &taps, &disks, map)
    }

    #[test]
    fn a_machine_is_loaded_from_its_first_disk() {
        let plan = plan(&config(&[], &["0"])).unwrap();
        assert_eq!((plan.loader, plan.device_map), ("bhyveload", None));
        assert_eq!(plan.load, ["-m512m", "-d/dev/zvol/tank/v0", "pta"]);
        assert_eq!(
            plan.run,
            [
                "-A",
                "-H",
                "-P",
                "-s0,hostbridge",
                "-s1,lpc",
                "-s2,virtio-blk,/dev/zvol/tank/v0",
                "-lcom1,stdio",
                "-c2",
                "-m512M",
                "pta"
            ]
        );
        assert_eq!(destroy("pta"), ["--destroy", "--vm=pta"]);
    }

    #[test]
    fn linux_is_loaded_from_a_partition_of_its_first_disk() {
        let plan = plan(&linux("msdos1")).unwrap();
        assert_eq!(plan.loader, "grub-bhyve");
        assert_eq!(
            plan.load,
            ["-m/run/boot/pta", "-rhd0,msdos1", "-M512", "pta"]
        );
        assert_eq!(plan.device_map.unwrap(), "(hd0) /dev/zvol/tank/v0\n");
        assert_eq!(plan.run[0], "-A");
    }

    #[test]
    fn networks_come_before_disks_each_by_number() {
        // As a set is encoded: shorter names first, and those of one length in order of what else is in them.
        let ten = ["1", "0", "3", "2", "4", "9", "8", "7", "6", "5", "11", "10"];
        let plan = plan(&config(&["1", "0"], &ten)).unwrap();
        let slots: Vec<_> = plan.run[5..19]
            .iter()
            .map(|slot| slot.to_str().unwrap())
            .collect();
        assert!(slots[0].starts_with("-s2,virtio-net,pt0,mac=00:80:41:"));
        assert!(slots[1].starts_with("-s3,virtio-net,pt1,mac=00:80:41:"));
        for number in 0..12 {
            let expected = format!("-s{},virtio-blk,/dev/zvol/tank/v{number}", number + 4);
            assert_eq!(slots[number + 2], expected);
        }
        assert_eq!(plan.run[19], "-lcom1,stdio");
    }

    #[test]
    fn addresses_and_sector_sizes_that_are_given_are_passed_on() {
        let mut config = config(&["0"], &["0"]);
        config.nets[0].mac = Some(Mac([2, 0, 0, 0, 0, 0xfe]));
        config.blocks[0].sector_size = Some(4096);
        let run = plan(&config).unwrap().run;
        assert_eq!(run[5], "-s2,virtio-net,pt0,mac=02:00:00:00:00:fe,type=tap");
        assert_eq!(run[6], "-s3,virtio-blk,/dev/zvol/tank/v0,sectorsize=4096");
    }

    #[test]
    fn devices_are_numbered_and_there_is_a_disk() {
        use MachineRefusal::{NoDisk, NoProcessor, Numbers, TooManyDevices};
        let many: Vec<_> = (0..MAX_DEVICES).map(|number| number.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (nets, blocks, expected) in [
            (&["0"][..], &["0"][..], Ok(())),
            (&["1", "0"], &["0", "2", "1"], Ok(())),
            (&[], &many, Ok(())),
            (&["0"], &many, Err(TooManyDevices(MAX_DEVICES + 1))),
            (&[], &[], Err(NoDisk)),
            (&["0"], &[], Err(NoDisk)),
            (&[], &["1"], Err(Numbers("block"))),
            (&[], &["0", "2"], Err(Numbers("block"))),
            (&[], &["0", "0"], Err(Numbers("block"))),
            (&[], &["disk"], Err(Numbers("block"))),
            (&[], &["00"], Err(Numbers("block"))),
            (&[], &["+0"], Err(Numbers("block"))),
            (&["service"], &["0"], Err(Numbers("network"))),
            (&["1"], &["0"], Err(Numbers("network"))),
        ] {
            let config = config(nets, blocks);
            assert_eq!(check(&config), expected, "{nets:?} {blocks:?}");
            assert_eq!(plan(&config).map(drop), expected, "{nets:?} {blocks:?}");
        }
        let none = Config {
            vcpus: 0,
            ..config(&[], &["0"])
        };
        assert_eq!(check(&none), Err(NoProcessor));
    }

    #[test]
    fn a_partition_is_one_word() {
        for partition in ["msdos1", "gpt2", "1", &"a".repeat(MAX_PARTITION)] {
            assert_eq!(check(&linux(partition)), Ok(()), "{partition}");
        }
        let long = "a".repeat(MAX_PARTITION + 1);
        for partition in [
            "",
            "msdos1 -h",
            "msdos1,bsd1",
            "-r",
            "(hd1)",
            "a\n",
            "é",
            &long,
        ] {
            let refused = Err(MachineRefusal::Partition(partition.to_owned()));
            assert_eq!(check(&linux(partition)), refused, "{partition}");
        }
    }

    #[test]
    fn a_path_cannot_smuggle_in_an_option() {
        for path in [
            "/dev/zvol/tank/a,ro",
            "/dev/zvol/tank/a b",
            "/dev/zvol/tank/%(name)",
            "/dev/zvol/tank/a\n(hd1)",
            "/dev/zvol/tank/a=b",
            "disk",
        ] {
            let mut config = config(&[], &["0"]);
            config.blocks[0].host_device = Some(path.to_owned());
            assert_eq!(plan(&config), Err(MachineRefusal::Path(path.into())));
        }
    }

    #[test]
    fn a_disk_that_is_none_is_refused() {
        let name = "a:b".parse().unwrap();
        let made = Plan::new(
            "pta",
            &name,
            &config(&[], &["0"]),
            &[],
            &[None],
            Path::new("/m"),
        );
        assert_eq!(made, Err(MachineRefusal::NoDevice(0)));
    }
}
