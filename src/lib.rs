//! Petrel deploys and supervises Solo5 unikernels.
//!
//! The map of the house, one line a room. *Pure* rooms do no I/O and read no clock;
//! *host* rooms do I/O and decide nothing.
#![warn(clippy::pedantic)]
#![allow(
    clippy::module_name_repetitions,
    clippy::missing_errors_doc,
    clippy::must_use_candidate
)]

/// ELF headers, as far as Solo5 looks at them. Pure.
pub mod elf;
/// What a Solo5 image says about itself: target and devices. Pure.
pub mod manifest;
/// The only room with `unsafe` code: system calls that nothing safe wraps.
pub mod sys;
/// The embedded spt tender. Its deciding parts are pure.
pub mod tender;
