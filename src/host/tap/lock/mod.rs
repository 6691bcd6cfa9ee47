//! Locks unikernels to their hardware addresses: frames from their taps with another source are dropped.

#[cfg(any(target_os = "linux", test))]
mod nftables;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

pub use os::{AddressLock, check, remove_left};
