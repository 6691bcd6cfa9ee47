//! The only room with `unsafe`: what neither the standard library nor nix wraps.

pub mod descriptor;
pub mod spawn;
