//! The bridges of this host, and which interfaces are on them.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::collections::BTreeSet;
use std::io;

use crate::unikernel::Mac;

/// The bridges of this process's network at one moment.
#[derive(Debug, Default)]
pub struct Bridges {
    bridges: Vec<Bridge>,
}

/// A bridge.
#[derive(Debug)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its other names (Linux).
    pub other_names: Vec<String>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The addresses that the host has on it: its own, and on Linux those of its ports.
    pub addresses: BTreeSet<Mac>,
    ports: os::Ports,
}

impl Bridges {
    /// Asks the system.
    pub fn look() -> io::Result<Self> {
        let bridges = os::look()?;
        Ok(Self { bridges })
    }

    /// All names of all bridges.
    pub fn names(&self) -> BTreeSet<String> {
        let names = self.bridges.iter().flat_map(Bridge::names);
        names.map(str::to_owned).collect()
    }

    /// The bridge with this name.
    pub fn named(&self, name: &str) -> Option<&Bridge> {
        let mut bridges = self.bridges.iter();
        bridges.find(|bridge| bridge.names().any(|other| other == name))
    }
}

impl Bridge {
    /// All names of this bridge.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = [&self.name].into_iter().chain(&self.other_names);
        names.map(String::as_str)
    }

    /// Whether an interface is on this bridge.
    pub fn has(&self, interface: &str) -> io::Result<bool> {
        self.ports.have(interface)
    }
}
