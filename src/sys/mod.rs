//! The only room with `unsafe` code, one file a matter. Each block says why it is sound.

/// The memory of an spt guest, and the jump into it.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod guest;
/// Tap interfaces, as a tender attaches to them.
#[cfg(target_os = "linux")]
pub mod tap;
