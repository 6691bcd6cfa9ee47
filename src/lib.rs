//! Petrel deploys and supervises Solo5 unikernels.
//!
//! Map of the crate, one line a module. *Pure* modules do no I/O and read no clock; `host` does I/O and decides nothing.
//!
//! Comments cite documents by chapter: `WIRE` is doc/protocol.md, `BEHAVIOUR` doc/albatross-behaviour.md, `SOLO5`
//! doc/solo5.md; `W1` to `W78` are the rows of doc/albatross-bugs.md.
#![warn(clippy::pedantic)]
#![allow(
    clippy::module_name_repetitions,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::struct_excessive_bools
)]

// Domain types and their encoding; pure.
pub mod name; //          labels, paths, names
pub mod policy; //        limits for everything at and below a path
pub mod serial; //        certificate serial numbers
pub mod unikernel; //     configuration of a unikernel
pub mod wire; //          messages, their DER, frames, the state file

// Parsers of untrusted input; pure.
pub mod chain; //         verified certificate chain -> name, policies, command
pub mod elf; //           ELF headers, as far as Solo5 reads them
pub mod inflate; //       images as they arrive, optionally compressed
pub mod manifest; //      target and devices of a Solo5 image
pub mod private_file; //  files with secrets: owner and permissions
pub mod private_key; //   private key files: permissions and formats
pub mod show; //          petrel show: certificates, CRLs and states as text

// Programs.
pub mod authority; //     petrel: keys, certificates, signing
pub mod client; //        petrel: commands, local and over TLS
pub mod console; //       petrel-console: console buffers and their subscribers
pub mod endpoint; //      petrel-tls: one process for each TLS connection
pub mod host; //          petreld: carries out the supervisor's decisions
pub mod influx; //        petrel-influx: statistics as InfluxDB lines
pub mod metrics_http; //  petrel-metrics: one HTTP request of Prometheus
pub mod stats; //         petrel-stats: statistics of unikernels, and their subscribers
pub mod supervisor; //    petreld: its decisions, events -> effects; pure
pub mod tender; //        petrel-spt: runs an spt unikernel

// Shared by the programs.
pub mod command_line; //  options, help, version
pub mod daemon; //        signals, directories, time
pub mod logging; //       standard error, the journal, syslog
pub mod sandbox; //       restriction of a daemon to the system calls it needs
pub mod self_metrics; //  metrics of a daemon about itself
pub mod socket; //        non-blocking local sockets
pub mod sys; //           system calls; the only unsafe code
pub mod tls; //           shared by both ends of a TLS connection

#[cfg(test)]
#[path = "../tests/support/directory.rs"]
mod directory; //            temporary directories of tests
