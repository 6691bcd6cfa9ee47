//! Between the records of the wire and the vocabulary of the house: numbers are bounded, texts are text,
//! missing fields take their defaults (WIRE 5).

use std::collections::BTreeSet;
use std::fmt;

use super::{
    Arguments, Block3, Bytes, Config as WireConfig, DatedPolicy,
    FailBehaviour as WireFailBehaviour, Int, MacAddress, Net3, Policy as WirePolicy, Set, Text,
    Typ,
};
use crate::name::{Name, NameError};
use crate::policy::{Age, CpuId, Policy, UNLIMITED};
use crate::unikernel::{Block, Config, FailBehaviour, Kind, Mac, Net};

/// A field whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// A number outside its range (field, value).
    Number(&'static str, i64),
    /// A text that is no text, or has a character that its field cannot have (field, value).
    Text(&'static str, String),
    /// No processor at all.
    NoCpus,
    /// More devices than a manifest can declare.
    TooManyDevices(usize),
    /// A name that is none.
    Name(NameError),
}

/// Reads the name of a message.
pub fn name(text: &Text) -> Result<Name, DomainError> {
    let text = text
        .as_str()
        .ok_or_else(|| DomainError::Text("name", text.to_lossy()))?;
    text.parse().map_err(DomainError::Name)
}

impl TryFrom<&WirePolicy> for Policy {
    type Error = DomainError;

    fn try_from(policy: &WirePolicy) -> Result<Self, DomainError> {
        let count = |field, value: Int| {
            value
                .unsigned()
                .ok_or(DomainError::Number(field, value.get()))
        };
        Ok(Self {
            unikernels: count("number of unikernels", policy.unikernels)?,
            cpus: cpus(&policy.cpuids)?,
            memory: count("memory", policy.memory)?,
            block: policy
                .block
                .map(|block| count("block storage", block))
                .transpose()?,
            bridges: policy
                .bridges
                .iter()
                .map(|b| host_name("bridge", b))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Policy> for WirePolicy {
    fn from(policy: &Policy) -> Self {
        Self {
            cpuids: policy
                .cpus
                .iter()
                .map(|cpu| Int::from(u64::from(*cpu)))
                .collect(),
            unikernels: policy.unikernels.min(UNLIMITED).into(),
            memory: policy.memory.into(),
            block: policy.block.map(Into::into),
            bridges: policy
                .bridges
                .iter()
                .map(|bridge| bridge.as_str().into())
                .collect(),
        }
    }
}

impl From<&DatedPolicy> for Age {
    /// The age of the certificate that carried this policy.
    fn from(dated: &DatedPolicy) -> Self {
        Self::new(dated.not_before.get())
    }
}

/// Reads a configuration; the image and whether it is compressed are the caller's.
impl TryFrom<&WireConfig> for Config {
    type Error = DomainError;

    fn try_from(wire: &WireConfig) -> Result<Self, DomainError> {
        let kind = match wire.typ {
            Typ::Solo5(()) => Kind::Solo5,
            Typ::Bhyve(()) => Kind::Bhyve,
        };
        let blocks = wire.blocks.as_ref().map_or(Ok(Vec::new()), |set| {
            set.items().iter().map(block).collect()
        })?;
        let nets = wire
            .bridges
            .as_ref()
            .map_or(Ok(Vec::new()), |set| set.items().iter().map(net).collect())?;
        Self {
            kind,
            startup: wire.startup.map(Int::get),
            add_name: wire.add_name,
            fail_behaviour: fail_behaviour(&wire.fail_behaviour)?,
            cpus: cpus(wire.cpuids.items())?,
            memory: number("memory", wire.memory)?,
            blocks,
            nets,
            arguments: arguments(wire.arguments.as_deref().unwrap_or_default())?,
            vcpus: wire
                .cpus
                .map_or(Ok(1), |cpus| number("number of virtual CPUs", cpus))?,
            linux_boot_partition: wire
                .linux_boot_partition
                .as_ref()
                .map(|partition| host_name("boot partition", partition))
                .transpose()?,
        }
        .checked()
    }
}

impl Arguments {
    /// Configuration record of a unikernel of this kind with these arguments, without an image.
    pub fn for_kind(self, typ: Typ) -> WireConfig {
        let Self {
            fail_behaviour,
            startup,
            add_name,
            cpuids,
            memory,
            blocks,
            bridges,
            arguments,
            cpus,
            linux_boot_partition,
        } = self;
        WireConfig {
            typ,
            compressed: false,
            image: Bytes::default(),
            startup,
            add_name,
            fail_behaviour,
            cpuids,
            memory,
            blocks,
            bridges,
            arguments,
            cpus,
            linux_boot_partition,
        }
    }
}

impl Config {
    fn checked(self) -> Result<Self, DomainError> {
        if self.cpus.is_empty() {
            return Err(DomainError::NoCpus);
        }
        if !(1..=Self::MAX_MEMORY).contains(&self.memory) {
            return Err(DomainError::Number("memory", self.memory.into()));
        }
        let devices = self.blocks.len() + self.nets.len();
        if devices > Self::MAX_DEVICES {
            return Err(DomainError::TooManyDevices(devices));
        }
        Ok(self)
    }

    /// The record of this configuration with `image`.
    pub fn to_wire(&self, compressed: bool, image: Vec<u8>) -> WireConfig {
        WireConfig {
            compressed,
            image: Bytes(image),
            ..self.with_arguments(self.to_wire_arguments())
        }
    }

    /// The record of this configuration as new arguments change it, without an image.
    pub fn with_arguments(&self, arguments: Arguments) -> WireConfig {
        arguments.for_kind(self.wire_kind())
    }

    /// The record of everything a restart may change.
    pub fn to_wire_arguments(&self) -> Arguments {
        Arguments {
            fail_behaviour: self.wire_fail_behaviour(),
            startup: self.startup.map(Int::new),
            add_name: self.add_name,
            cpuids: self.wire_cpus(),
            memory: u64::from(self.memory).into(),
            blocks: set_unless_empty(self.blocks.iter().map(|block| Block3 {
                block_name: block.device.as_str().into(),
                block_device_name: block.host_device.as_deref().map(Into::into),
                block_sector_size: block.sector_size.map(|size| u64::from(size).into()),
            })),
            bridges: set_unless_empty(self.nets.iter().map(|net| Net3 {
                netif: net.device.as_str().into(),
                bridge: net.bridge.as_deref().map(Into::into),
                mac: net.mac.map(|mac| MacAddress(mac.0)),
            })),
            arguments: self.wire_arguments(),
            cpus: Some(u64::from(self.vcpus).into()),
            linux_boot_partition: self.linux_boot_partition.as_deref().map(Into::into),
        }
    }

    pub(crate) fn wire_kind(&self) -> Typ {
        match self.kind {
            Kind::Solo5 => Typ::Solo5(()),
            Kind::Bhyve => Typ::Bhyve(()),
        }
    }

    pub(crate) fn wire_fail_behaviour(&self) -> WireFailBehaviour {
        match &self.fail_behaviour {
            FailBehaviour::Quit => WireFailBehaviour::Quit(()),
            FailBehaviour::Restart(codes) => WireFailBehaviour::RestartExitCodes(Set::sorted(
                codes.iter().map(|code| Int::from(u64::from(*code))),
            )),
        }
    }

    pub(crate) fn wire_cpus(&self) -> Set<Int> {
        Set::sorted(self.cpus.iter().map(|cpu| Int::from(u64::from(*cpu))))
    }

    pub(crate) fn wire_arguments(&self) -> Option<Vec<Text>> {
        (!self.arguments.is_empty()).then(|| self.arguments.iter().cloned().map(Text).collect())
    }
}

/// A writer omits empty sets of devices (WIRE 1.13).
pub(crate) fn set_unless_empty<T: rasn::Encode>(items: impl Iterator<Item = T>) -> Option<Set<T>> {
    let set = Set::sorted(items);
    (!set.items().is_empty()).then_some(set)
}

fn number<N: TryFrom<i64>>(field: &'static str, value: Int) -> Result<N, DomainError> {
    N::try_from(value.get()).map_err(|_| DomainError::Number(field, value.get()))
}

fn cpus(ids: &[Int]) -> Result<BTreeSet<CpuId>, DomainError> {
    ids.iter().map(|id| number("CPU id", *id)).collect()
}

/// Exit codes outside 0 to 255 never occur: they are dropped, but do not turn a list into "every code".
fn fail_behaviour(wire: &WireFailBehaviour) -> Result<FailBehaviour, DomainError> {
    match wire {
        WireFailBehaviour::Quit(()) => Ok(FailBehaviour::Quit),
        WireFailBehaviour::RestartExitCodes(codes) => codes
            .items()
            .iter()
            .map(|code| number("exit code", *code))
            .collect::<Result<_, _>>()
            .map(FailBehaviour::Restart),
    }
}

/// The name of a thing on the host: becomes part of paths, arguments and system calls.
fn host_name(field: &'static str, text: &Text) -> Result<String, DomainError> {
    let refused = || DomainError::Text(field, text.to_lossy());
    let name = text.as_str().ok_or_else(refused)?;
    let fits =
        !name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(name.to_owned())
    } else {
        Err(refused())
    }
}

/// The name of a device in a manifest: 1 to 67 letters and digits (SOLO5 3); albatross's clients send no others.
fn device_name(text: &Text) -> Result<String, DomainError> {
    let refused = || DomainError::Text("device name", text.to_lossy());
    let name = text.as_str().ok_or_else(refused)?;
    let fits =
        (1..=67).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if fits {
        Ok(name.to_owned())
    } else {
        Err(refused())
    }
}

fn block(wire: &Block3) -> Result<Block, DomainError> {
    let sector_size = wire.block_sector_size.map(|size| {
        number::<u16>("sector size", size)?;
        sector_size(size.get()).ok_or(DomainError::Number("sector size", size.get()))
    });
    Ok(Block {
        device: device_name(&wire.block_name)?,
        host_device: wire
            .block_device_name
            .as_ref()
            .map(|d| host_name("block device", d))
            .transpose()?,
        sector_size: sector_size.transpose()?,
    })
}

/// Sector sizes the tenders take: powers of two from 512 to 32768 (SOLO5 4).
pub fn sector_size(bytes: i64) -> Option<u16> {
    u16::try_from(bytes)
        .ok()
        .filter(|size| size.is_power_of_two() && *size >= 512)
}

fn net(wire: &Net3) -> Result<Net, DomainError> {
    Ok(Net {
        device: device_name(&wire.netif)?,
        bridge: wire
            .bridge
            .as_ref()
            .map(|bridge| host_name("bridge", bridge))
            .transpose()?,
        mac: wire.mac.map(|mac| Mac(mac.0)),
    })
}

fn arguments(texts: &[Text]) -> Result<Vec<Vec<u8>>, DomainError> {
    texts
        .iter()
        .map(|text| {
            if text.0.contains(&0) {
                Err(DomainError::Text("guest argument", text.to_lossy()))
            } else {
                Ok(text.0.clone())
            }
        })
        .collect()
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(field, value) => write!(f, "{field} {value} is out of range"),
            Self::Text(field, value) => {
                write!(f, "{field} '{}' is not allowed", value.escape_default())
            }
            Self::NoCpus => f.write_str("no CPU id is given, at least one is needed"),
            Self::TooManyDevices(count) => {
                write!(
                    f,
                    "{count} devices, at most {} are possible",
                    Config::MAX_DEVICES
                )
            }
            Self::Name(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DomainError {}
