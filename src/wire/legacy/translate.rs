//! What the older records mean in the current form (WIRE 5), and what of the current form the older replies can tell.

use super::{
    ArgumentsV0, ArgumentsV1, ConfigV0, ConfigV1, ConfigV2, ConfigV3, ConfigV4, ImageV0, InfoV4,
    InfoV5, Net2,
};
use crate::wire::primitive::{Int, Set, Text};
use crate::wire::unikernel::{Arguments, Block3, Config, FailBehaviour, Info, Net3, Typ};

/// Older machines have one virtual processor.
fn one_cpu() -> Int {
    Int::new(1)
}

impl From<ConfigV4> for Config {
    fn from(old: ConfigV4) -> Self {
        Self {
            typ: old.typ,
            compressed: old.compressed,
            image: old.image,
            startup: old.startup,
            add_name: old.add_name,
            fail_behaviour: old.fail_behaviour,
            cpuids: Set::sorted([old.cpuid]),
            memory: old.memory,
            blocks: old.blocks,
            bridges: old.bridges,
            arguments: old.arguments,
            cpus: Some(one_cpu()),
            linux_boot_partition: None,
        }
    }
}

impl From<ConfigV3> for ConfigV4 {
    fn from(old: ConfigV3) -> Self {
        Self {
            typ: old.typ,
            compressed: old.compressed,
            image: old.image,
            startup: None,
            add_name: true,
            fail_behaviour: old.fail_behaviour,
            cpuid: old.cpuid,
            memory: old.memory,
            blocks: old.blocks,
            bridges: old.bridges,
            arguments: old.arguments,
        }
    }
}

impl From<ConfigV2> for ConfigV3 {
    fn from(old: ConfigV2) -> Self {
        Self {
            typ: old.typ,
            compressed: old.compressed,
            image: old.image,
            fail_behaviour: old.fail_behaviour,
            cpuid: old.cpuid,
            memory: old.memory,
            blocks: set_of(old.blocks.map(Set::into_items), Block3::from),
            bridges: set_of(old.bridges, Net3::from),
            arguments: old.arguments,
        }
    }
}

impl From<ConfigV1> for ConfigV3 {
    fn from(old: ConfigV1) -> Self {
        Self {
            typ: old.typ,
            compressed: old.compressed,
            image: old.image,
            fail_behaviour: old.fail_behaviour,
            cpuid: old.cpuid,
            memory: old.memory,
            blocks: set_of(old.blocks.map(Set::into_items), Block3::from),
            bridges: set_of(old.bridges.map(Set::into_items), Net3::from),
            arguments: old.arguments,
        }
    }
}

impl From<ConfigV0> for ConfigV3 {
    fn from(old: ConfigV0) -> Self {
        let (compressed, image) = match old.image {
            ImageV0::HvtAmd64(image) | ImageV0::HvtArm64(image) => (false, image),
            ImageV0::HvtAmd64Compressed(image) => (true, image),
        };
        Self {
            typ: Typ::Solo5(()),
            compressed,
            image,
            fail_behaviour: FailBehaviour::Quit(()),
            cpuid: old.cpu,
            memory: old.memory,
            blocks: set_of(old.block.map(|block| vec![block]), Block3::from),
            bridges: set_of(old.network_interfaces, Net3::from),
            arguments: old.arguments,
        }
    }
}

/// From the third form on, each is read by way of the next.
macro_rules! by_way_of {
    ($next:ty: $($old:ty),*) => {
        $(impl From<$old> for Config {
            fn from(old: $old) -> Self {
                <$next>::from(old).into()
            }
        })*
    };
}

by_way_of!(ConfigV4: ConfigV3);
by_way_of!(ConfigV3: ConfigV2, ConfigV1, ConfigV0);

impl From<ArgumentsV1> for Arguments {
    fn from(old: ArgumentsV1) -> Self {
        Self {
            fail_behaviour: old.fail_behaviour,
            startup: old.startup,
            add_name: old.add_name,
            cpuids: Set::sorted([old.cpuid]),
            memory: old.memory,
            blocks: old.blocks,
            bridges: old.bridges,
            arguments: old.arguments,
            cpus: Some(one_cpu()),
            linux_boot_partition: None,
        }
    }
}

impl From<ArgumentsV0> for Arguments {
    fn from(old: ArgumentsV0) -> Self {
        ArgumentsV1 {
            fail_behaviour: old.fail_behaviour,
            startup: None,
            add_name: true,
            cpuid: old.cpuid,
            memory: old.memory,
            blocks: old.blocks,
            bridges: old.bridges,
            arguments: old.arguments,
        }
        .into()
    }
}

/// Devices that were given by name only; their order is the host's too (WIRE 1.11).
fn set_of<T, U>(items: Option<Vec<T>>, current: fn(T) -> U) -> Option<Set<U>> {
    items.map(|items| Set::unsorted(items.into_iter().map(current).collect()))
}

impl From<Text> for Block3 {
    fn from(name: Text) -> Self {
        Self {
            block_name: name,
            block_device_name: None,
            block_sector_size: None,
        }
    }
}

impl From<Text> for Net3 {
    fn from(name: Text) -> Self {
        Net2 {
            netif: name,
            bridge: None,
        }
        .into()
    }
}

impl From<Net2> for Net3 {
    fn from(old: Net2) -> Self {
        Self {
            netif: old.netif,
            bridge: old.bridge,
            mac: None,
        }
    }
}

impl InfoV5 {
    /// What this form can tell of a unikernel: of several host processors the lowest. `None` where there is no
    /// processor at all, which no running unikernel has.
    pub fn of(info: Info) -> Option<Self> {
        Some(Self {
            cpuid: *info.cpuids.items().iter().min()?,
            typ: info.typ,
            startup: info.startup,
            fail_behaviour: info.fail_behaviour,
            memory: info.memory,
            digest: info.digest,
            blocks: info.blocks,
            bridges: info.bridges,
            arguments: info.arguments,
            started: info.started,
        })
    }
}

impl From<InfoV5> for InfoV4 {
    fn from(info: InfoV5) -> Self {
        Self {
            typ: info.typ,
            fail_behaviour: info.fail_behaviour,
            cpuid: info.cpuid,
            memory: info.memory,
            digest: info.digest,
            blocks: info.blocks,
            bridges: info.bridges,
            arguments: info.arguments,
            started: info.started,
        }
    }
}

impl From<InfoV5> for Info {
    fn from(old: InfoV5) -> Self {
        Self {
            typ: old.typ,
            startup: old.startup,
            fail_behaviour: old.fail_behaviour,
            cpuids: Set::sorted([old.cpuid]),
            memory: old.memory,
            digest: old.digest,
            blocks: old.blocks,
            bridges: old.bridges,
            arguments: old.arguments,
            started: old.started,
            cpus: Some(one_cpu()),
            linux_boot_partition: None,
        }
    }
}

impl From<InfoV4> for Info {
    fn from(old: InfoV4) -> Self {
        InfoV5 {
            typ: old.typ,
            startup: None,
            fail_behaviour: old.fail_behaviour,
            cpuid: old.cpuid,
            memory: old.memory,
            digest: old.digest,
            blocks: old.blocks,
            bridges: old.bridges,
            arguments: old.arguments,
            started: old.started,
        }
        .into()
    }
}
