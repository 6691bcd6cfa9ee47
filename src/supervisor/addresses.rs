//! Hardware addresses: on a bridge each belongs to one unikernel at most.

use std::collections::BTreeMap;
use std::fmt;

use log::warn;

use super::Supervisor;
use crate::name::Name;
use crate::unikernel::{Config, Mac};

/// The bit of the first byte that says that an address is that of a group.
const GROUP: u8 = 0x01;

/// Why a unikernel cannot have a hardware address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AddressRefusal {
    /// It is that of a group of hosts (multicast, broadcast), or none at all.
    NoHost(Mac),
    /// Two network devices of the unikernel would have it on this bridge.
    Twice(Mac, String),
    /// Another unikernel has it on this bridge.
    Taken(Mac, String),
}

impl Supervisor {
    /// Whether a unikernel can have the hardware addresses of a configuration besides all others. Those that it has
    /// already stay its own.
    pub(super) fn admit_addresses(
        &self,
        name: &Name,
        config: &Config,
    ) -> Result<(), AddressRefusal> {
        let present = self.unikernels.get(name);
        let own: Vec<_> = present
            .map(|present| addresses(name, &present.version.config).collect())
            .unwrap_or_default();
        let mut wanted = Vec::new();
        for (bridge, mac) in addresses(name, config) {
            if wanted.contains(&(bridge, mac)) {
                return Err(AddressRefusal::Twice(mac, bridge.to_owned()));
            }
            wanted.push((bridge, mac));
            if own.contains(&(bridge, mac)) {
                continue;
            }
            if mac.0[0] & GROUP != 0 || mac.0 == [0; 6] {
                return Err(AddressRefusal::NoHost(mac));
            }
            let mut held = self.held_addresses().filter(|(other, ..)| *other != name);
            if held.any(|(_, other, held)| (other, held) == (bridge, mac)) {
                return Err(AddressRefusal::Taken(mac, bridge.to_owned()));
            }
        }
        Ok(())
    }

    /// The addresses that unikernels have or are about to have, with their bridges. One that is stopped keeps its own,
    /// so that it can be started again; one that has ended does not, nor does an earlier version.
    fn held_addresses(&self) -> impl Iterator<Item = (&Name, &str, Mac)> {
        let present = self.unikernels.iter();
        let present = present.map(|(name, unikernel)| (name, &unikernel.version.config));
        let coming = self.operations.iter().flat_map(|(name, operation)| {
            let successor = operation.successor.as_ref();
            let successor = successor.map(|successor| &successor.version.config);
            let previous = operation.previous.as_ref();
            let previous = previous.map(|previous| &previous.version.config);
            successor
                .into_iter()
                .chain(previous)
                .map(move |config| (name, config))
        });
        present.chain(coming).flat_map(|(name, config)| {
            addresses(name, config).map(move |(bridge, mac)| (name, bridge, mac))
        })
    }

    /// Warns of unikernels that had one address before such were refused: they run as they did.
    pub(super) fn warn_of_duplicates(&self) {
        let mut first = BTreeMap::new();
        for (name, bridge, mac) in self.held_addresses() {
            let holder = *first.entry((bridge, mac)).or_insert(name);
            if holder != name {
                warn!("{name}: has hardware address {mac} on bridge {bridge}, as {holder} has");
            }
        }
    }
}

/// The addresses of a unikernel, each with its bridge.
fn addresses<'a>(name: &'a Name, config: &'a Config) -> impl Iterator<Item = (&'a str, Mac)> {
    config.nets.iter().map(|net| (net.bridge(), net.mac(name)))
}

impl fmt::Display for AddressRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost(mac) => write!(
                f,
                "hardware address {mac} is not one of a single host: ask for another one"
            ),
            Self::Twice(mac, bridge) => write!(
                f,
                "two network devices have hardware address {mac} on bridge {bridge}: ask for another one"
            ),
            Self::Taken(mac, bridge) => write!(
                f,
                "hardware address {mac} is taken on bridge {bridge}: ask for another one"
            ),
        }
    }
}
