//! Build script: makes programs smaller. Relocations in their packed form save 70 KB in the largest program. Released
//! programs have no index of unwind tables, which saves 33 KB: they abort at a panic (`panic = "abort"`), and only its
//! backtrace would need that index.
//!
//! Programs linked so need glibc 2.36 (2022) or later. A linker that does not know the option warns, and goes on.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=contrib/link.rs");
    let is = |key, value| env::var(key).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        if is("PROFILE", "release") {
            println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        }
    }
}
