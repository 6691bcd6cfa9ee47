//! Petrel deploys and supervises Solo5 unikernels.
//!
//! The map of the house, one line a room. *Pure* rooms do no I/O and read no clock;
//! *host* rooms do I/O and decide nothing.
//!
//! What comments cite as WIRE and BEHAVIOUR, with a chapter, are descriptions of albatross 2.7.2: its protocol,
//! certificates and files, and what its programs do. petrel-wire(5) has the gist of the former.
#![warn(clippy::pedantic)]
#![allow(
    clippy::module_name_repetitions,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::struct_excessive_bools
)]

// The vocabulary, pure.
pub mod name; //          labels, paths, names
pub mod policy; //        what may be used at and below a path
pub mod serial; //        serial numbers of certificates
pub mod unikernel; //     a unikernel's configuration
pub mod wire; //          messages, their DER, frames, the state file

// What is read from outside, pure.
pub mod chain; //         a verified certificate path -> name, policies, command
pub mod elf; //           ELF headers, as far as Solo5 looks at them
pub mod inflate; //       images as they arrive, perhaps compressed
pub mod manifest; //      a Solo5 image's target and devices
pub mod private_file; //  files with secrets: their permissions
pub mod private_key; //   private keys in files: their forms
pub mod show; //          petrel: certificates, lists and states in words

// The programs.
pub mod authority; //     petrel: keys, certificates, signing
pub mod client; //        petrel: commands, local and over TLS
pub mod console; //       petrel-console: rings of lines, subscribers
pub mod endpoint; //      petrel-tls: one TLS connection a process
pub mod host; //          petreld: carries out what the supervisor decides
pub mod influx; //        petrel-influx: what unikernels use, as lines for InfluxDB
pub mod metrics; //       petrel-metrics: one request of Prometheus
pub mod stats; //         petrel-stats: what unikernels use, and who wants to know
pub mod supervisor; //    petreld: its decisions, events -> effects, pure
pub mod tender; //        petrel-spt: runs an spt unikernel

// What they share.
pub mod command_line; //  options, help, version
pub mod daemon; //        signals, folders, time
pub mod logging; //       standard error, the journal, syslog
pub mod sandbox; //       what a daemon can still reach
pub mod socket; //        local sockets that never block a daemon
pub mod sys; //           the only unsafe code
pub mod tls; //           what both ends of TLS share
pub mod vitals; //        what a daemon tells of itself

#[cfg(test)]
#[path = "../tests/support/folder.rs"]
mod folder; //            folders of tests
