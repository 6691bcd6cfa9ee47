//! FreeBSD: sysctl(3).

use std::io;

use crate::sys::interfaces;

/// Bytes of physical memory.
pub(super) fn memory() -> io::Result<u64> {
    interfaces::physical_memory()
}
