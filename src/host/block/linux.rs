//! Linux.

/// Why unikernels can have no ZFS volumes on this system, if so.
pub const NO_ZVOLS: Option<&str> = Some("ZFS volumes are given to unikernels on FreeBSD only");
