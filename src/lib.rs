//! Petrel deploys and supervises Solo5 unikernels.
//!
//! The map of the house, one line a room. *Pure* rooms do no I/O and read no clock;
//! *host* rooms do I/O and decide nothing.
#![warn(clippy::pedantic)]
#![allow(
    clippy::module_name_repetitions,
    clippy::missing_errors_doc,
    clippy::struct_excessive_bools,
    clippy::must_use_candidate
)]

pub mod authority;
pub mod chain;
pub mod client;
pub mod command_line;
pub mod console;
pub mod elf;
pub mod endpoint;
pub mod host;
pub mod logging;
pub mod manifest;
pub mod name;
pub mod policy;
pub mod socket;
pub mod supervisor;
pub mod sys;
pub mod tender;
pub mod tls;
pub mod unikernel;
pub mod wire;
