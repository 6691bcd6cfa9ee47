//! The statistics daemon: gathers what unikernels use, and hands it to whoever asks (WIRE 8.5, 9.2, 9.3).
//!
//! The [`registry`] knows which processes are observed and who wants to know; [`collect`] asks the system about them;
//! [`prometheus`] writes the same for `node_exporter`; [`daemon`] does the rest of the I/O.
#![forbid(unsafe_code)]

pub mod collect;
pub mod daemon;
pub mod prometheus;
pub mod registry;
mod report;
mod supervisor;
