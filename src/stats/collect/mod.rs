//! What the system tells of a process and of network interfaces.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

#[cfg(any(test, target_os = "linux"))]
mod cgroup;
#[cfg(any(test, not(target_os = "linux")))]
mod ifmib;
#[cfg(any(test, target_os = "linux"))]
mod procfs;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use nix::libc::pid_t;
use nix::unistd::Pid;

use crate::name::Name;
use crate::unikernel::Config;
use crate::wire::{IfData, KInfoMem, RUsage, Statistics, StatsAdd, Text, TimeVal};

pub use os::{Interfaces, page_size};

/// Most bytes in the name of an interface, on Linux and on FreeBSD.
pub const MAX_INTERFACE: usize = 15;

/// Most bytes read of a file of `proc(5)`; the longest, `net/dev`, has some 130 a line.
pub const MAX_TEXT: u64 = 1 << 20;

/// A process that is observed, with its network devices. It is never taken for another one with the same number.
#[derive(Debug)]
pub struct Target {
    process: os::Process,
    network: Vec<(Text, String)>,
    machine: Option<os::Machine>,
}

/// What a process has used so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// What is told of it: where disks are not known, 0 blocks.
    pub statistics: Statistics,
    /// What it read from disks and wrote to them, where the system tells.
    pub disk: Option<Disk>,
}

/// Bytes that a process read from disks and wrote to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Read.
    pub read: i64,
    /// Written.
    pub written: i64,
}

/// The parts of it that are the process's.
#[derive(Debug)]
struct Usage {
    resources: RUsage,
    memory: KInfoMem,
    disk: Option<Disk>,
}

/// This process.
#[derive(Debug)]
pub struct SelfUsage(os::Process);

/// Why a process cannot be observed.
#[derive(Debug)]
pub enum CollectError {
    /// There can be none with this number.
    Number(i64),
    /// There is none, or none that this program can see.
    Absent(Pid),
    /// It has more network devices than a unikernel.
    TooManyDevices(usize),
    /// No interface has such a name.
    Interface(String),
    /// Two network devices of the unikernel have this name.
    Repeated(String),
    /// The system does not tell (of which process, why).
    System(Pid, io::Error),
}

impl Target {
    /// The process that `add` is about, of the unikernel `name`; with the counters of its virtual machine, if so wanted and
    /// there are any.
    pub fn open(name: &Name, add: &StatsAdd, with_machine: bool) -> Result<Self, CollectError> {
        let number = add.pid.get();
        let pid = pid_t::try_from(number).ok().filter(|pid| *pid > 0);
        let pid = Pid::from_raw(pid.ok_or(CollectError::Number(number))?);
        let count = add.network.len();
        if count > Config::MAX_DEVICES {
            return Err(CollectError::TooManyDevices(count));
        }
        let mut devices = BTreeSet::new();
        let network = add.network.iter().map(|pair| {
            let tap = interface(&pair.tap)?;
            if !devices.insert(&pair.bridge.0) {
                return Err(CollectError::Repeated(pair.bridge.to_lossy()));
            }
            Ok((pair.bridge.clone(), tap))
        });
        let network = network.collect::<Result<_, _>>()?;
        let opened =
            os::Process::open(pid, Some(name)).map_err(|error| CollectError::System(pid, error))?;
        let machine = add.vmmdev.as_str().filter(|name| !name.is_empty());
        let machine = machine.filter(|name| with_machine && !name.contains('/'));
        Ok(Self {
            process: opened.ok_or(CollectError::Absent(pid))?,
            network,
            machine: machine.map(os::Machine::new),
        })
    }

    /// It was observed as `before` until now. What is the same process is told of as before.
    pub fn succeed(&mut self, before: &Self) {
        self.process.succeed(&before.process);
    }

    /// Whether there is nothing more to gather.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.usage(), Ok(Some(_)))
    }

    /// What it has used so far; nothing if it has ended.
    pub fn gather(&mut self, interfaces: &Interfaces) -> io::Result<Option<Used>> {
        let Some(usage) = self.process.usage()? else {
            return Ok(None);
        };
        let ifdata = self.network.iter().filter_map(|(device, tap)| {
            // The unikernel's name of the device stands where the host's stood (BEHAVIOUR 7).
            Some(IfData {
                bridge: device.clone(),
                ..interfaces.get(tap)?
            })
        });
        Ok(Some(Used {
            statistics: Statistics {
                resource_usage: usage.resources,
                ifdata: ifdata.collect(),
                vmm_stats: self.machine.as_mut().and_then(os::Machine::counters),
                kinfo_mem: Some(usage.memory),
            },
            disk: usage.disk,
        }))
    }
}

impl SelfUsage {
    /// Looks for it.
    pub fn open() -> io::Result<Self> {
        let opened = os::Process::open(Pid::this(), None)?;
        opened.map(Self).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// What it has used so far.
    pub fn usage(&mut self) -> io::Result<Statistics> {
        let used = self.0.usage()?.ok_or(ErrorKind::NotFound)?;
        Ok(Statistics {
            resource_usage: used.resources,
            ifdata: Vec::new(),
            vmm_stats: None,
            kinfo_mem: Some(used.memory),
        })
    }

    /// The directory that is read for that, if there is one: a sandbox must leave it.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.0.directory()
    }
}

/// The name of an interface, which also is safe as the name of a file.
fn interface(text: &Text) -> Result<String, CollectError> {
    let refused = || CollectError::Interface(text.to_lossy());
    let name = text.as_str().ok_or_else(refused)?;
    let fits = (1..=MAX_INTERFACE).contains(&name.len());
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if fits && name.bytes().all(plain) && !matches!(name, "." | "..") {
        Ok(name.to_owned())
    } else {
        Err(refused())
    }
}

/// So many microseconds.
fn time(microseconds: i64) -> TimeVal {
    TimeVal {
        seconds: crate::wire::Int64(microseconds.div_euclid(1_000_000)),
        microseconds: crate::wire::Int::new(microseconds.rem_euclid(1_000_000)),
    }
}

impl fmt::Display for CollectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "no process can have the number {number}"),
            Self::Absent(pid) => write!(
                f,
                "there is no process {pid}, or none that this program can see ({})",
                os::VISIBILITY
            ),
            Self::TooManyDevices(count) => write!(
                f,
                "{count} network devices are more than the {} of a unikernel",
                Config::MAX_DEVICES
            ),
            Self::Interface(name) => write!(f, "no interface can have the name '{name}'"),
            Self::Repeated(name) => write!(f, "two network devices have the name '{name}'"),
            Self::System(pid, error) => write!(f, "cannot observe process {pid}: {error}"),
        }
    }
}

impl std::error::Error for CollectError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{BridgeTap, Int, Int64};

    fn add(pid: i64, taps: &[&str]) -> StatsAdd {
        let network = taps.iter().enumerate().map(|(number, tap)| BridgeTap {
            bridge: format!("service{number}").into(),
            tap: (*tap).into(),
        });
        StatsAdd {
            vmmdev: "".into(),
            pid: Int::new(pid),
            network: network.collect(),
        }
    }

    #[test]
    fn what_can_be_no_process_and_no_interface_is_refused() {
        let own = i64::from(std::process::id());
        let open = |add: StatsAdd| Target::open(&":a".parse().unwrap(), &add, false);
        for pid in [0, -1, i64::from(i32::MAX) + 1] {
            assert!(matches!(open(add(pid, &[])), Err(CollectError::Number(_))));
        }
        for tap in ["", ".", "..", "a/b", "a b", "sixteen-bytes-xx", "a\nb"] {
            assert!(matches!(
                open(add(own, &[tap])),
                Err(CollectError::Interface(_))
            ));
        }
        let many = vec!["tap0"; Config::MAX_DEVICES + 1];
        assert!(matches!(
            open(add(own, &many)),
            Err(CollectError::TooManyDevices(_))
        ));
        assert!(matches!(
            open(add(i64::from(i32::MAX), &[])),
            Err(CollectError::Absent(_))
        ));
        let mut twice = add(own, &["tap0", "tap1"]);
        twice.network[1].bridge = twice.network[0].bridge.clone();
        let why = open(twice).unwrap_err().to_string();
        assert_eq!(why, "two network devices have the name 'service0'");
    }

    #[test]
    fn times_before_and_after_1970_have_six_places() {
        let split = |microseconds| {
            let time = time(microseconds);
            (time.seconds, time.microseconds.get())
        };
        assert_eq!(split(1_500_000), (Int64(1), 500_000));
        assert_eq!(split(-1), (Int64(-1), 999_999));
    }
}
