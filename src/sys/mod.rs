//! The only room with `unsafe`: what neither the standard library nor nix wraps. One file a matter.

#[cfg(any(target_os = "freebsd", test))]
pub mod bridge;
#[cfg(target_os = "freebsd")]
pub mod capsicum;
pub mod child;
pub mod descriptor;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod guest;
#[cfg(target_os = "freebsd")]
pub mod interfaces;
#[cfg(target_os = "linux")]
pub mod landlock;
pub mod process;
#[cfg(target_os = "freebsd")]
pub mod rctl;
pub mod spawn;
#[cfg(target_os = "linux")]
pub mod tap;
#[cfg(target_os = "freebsd")]
pub mod tcp;
pub mod terminal;
#[cfg(target_os = "freebsd")]
pub mod vmm;
pub mod worker;
