//! The console daemon: keeps the newest lines of every unikernel and hands them to whoever asks (WIRE 8.5, 9.1).
//!
//! Octets of a fifo become [`lines`], lines go into a [`ring`], the [`registry`] knows who reads along;
//! [`daemon`] does the I/O.
#![forbid(unsafe_code)]

mod connection;
pub mod daemon;
mod fifo;
pub mod lines;
pub mod registry;
pub mod ring;
