//! The console daemon: keeps the newest lines of every unikernel and hands them to whoever asks (WIRE 8.5, 9.1).
//!
//! Bytes of a fifo become [`lines`], lines go into a [`ring`], the [`registry`] knows who reads along;
//! the [`archive`] keeps them for good, in a [`log_directory`], within a quota of files, or with [`syslog`]; [`daemon`] does the I/O.
#![forbid(unsafe_code)]

pub mod archive;
pub mod daemon;
mod fifo;
pub mod lines;
pub mod log_directory;
pub mod log_quota;
pub mod registry;
pub mod ring;
mod syslog;
