//! The embedded *spt* tender: loads a Solo5 unikernel into its own process, gives it its
//! devices, locks itself up, and becomes the guest.
//!
//! Source: SOLO5 facts, chapters 4 (command line), 7 (loading) and 8 (the interface, version 2).
//! Options, exit codes and what the guest sees are those of Solo5's own tender. The parts that
//! decide are pure: [`options`], [`devices`], [`plan`], [`boot`], and `filter`.

/// What the guest finds in low memory. Pure.
pub mod boot;
/// Which device of the manifest gets what. Pure.
pub mod devices;
/// The command line. Pure.
pub mod options;
/// Where the segments of an image go. Pure.
pub mod plan;

#[cfg_attr(
    all(target_os = "linux", target_arch = "x86_64"),
    path = "linux/mod.rs"
)]
#[cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    path = "unsupported.rs"
)]
mod os;

pub use os::main;

/// The version of the spt interface that this tender speaks.
pub const ABI_VERSION: u32 = 2;
