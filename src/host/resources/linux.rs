//! Linux: sysinfo(2).

use std::io;

use nix::sys::sysinfo::sysinfo;

/// Bytes of physical memory.
pub(super) fn memory() -> io::Result<u64> {
    Ok(sysinfo()?.ram_total())
}
