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
        match interfaces.driver(name.to_bytes()) {
            Ok(driver) if driver == BRIDGE => bridges.extend(name.to_str().map(str::to_owned)),
            // No driver at all, or gone meanwhile.
            Ok(_) | Err(Errno::EOPNOTSUPP | Errno::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bridges)
}
