//! FreeBSD: sysctl(3), and the interface group of bridges (`if_bridge(4)`).

use std::collections::BTreeSet;
use std::io;

use crate::sys::interfaces;

/// The group that every bridge is in.
const BRIDGE: &[u8] = b"bridge";

/// Octets of physical memory.
pub(super) fn memory() -> io::Result<u64> {
    interfaces::physical_memory()
}

/// The bridges of this process's network.
pub(super) fn bridges() -> io::Result<BTreeSet<String>> {
    let members = interfaces::members(BRIDGE)?;
    let names = members.into_iter().map(String::from_utf8);
    Ok(names.filter_map(Result::ok).collect())
}

pub(super) fn is_bridge(name: &str) -> io::Result<bool> {
    let bridges = interfaces::members(BRIDGE)?;
    Ok(bridges.iter().any(|bridge| bridge == name.as_bytes()))
}
