//! Linux: sysinfo(2), and the kind of each interface by ethtool.

use std::collections::BTreeSet;
use std::io;

use nix::errno::Errno;
use nix::net::if_::if_nameindex;
use nix::sys::sysinfo::sysinfo;

use crate::sys::tap::Interfaces;

/// What the driver of a bridge calls itself.
const BRIDGE: &[u8] = b"bridge";

/// Octets of physical memory.
pub(super) fn memory() -> io::Result<u64> {
    Ok(sysinfo()?.ram_total())
}

/// The bridges of this process's network namespace: sysfs would show those of whoever mounted it.
pub(super) fn bridges() -> io::Result<BTreeSet<String>> {
    let interfaces = Interfaces::open()?;
    let mut bridges = BTreeSet::new();
    for interface in &if_nameindex()? {
        let name = interface.name();
        if drives_bridge(&interfaces, name.to_bytes())? {
            bridges.extend(name.to_str().map(str::to_owned));
        }
    }
    Ok(bridges)
}

pub(super) fn is_bridge(name: &str) -> io::Result<bool> {
    drives_bridge(&Interfaces::open()?, name.as_bytes())
}

fn drives_bridge(interfaces: &Interfaces, name: &[u8]) -> io::Result<bool> {
    match interfaces.driver(name) {
        Ok(driver) => Ok(driver == BRIDGE),
        // No driver at all, not there, or no name of an interface.
        Err(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
