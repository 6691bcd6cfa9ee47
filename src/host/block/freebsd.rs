//! FreeBSD.

/// Why unikernels can have no ZFS volumes on this system, if so.
pub const NO_ZVOLS: Option<&str> = None;
