//! Daemons as processes of an ordinary user.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod console;
mod deploy;
mod endpoint;
mod inetd;
mod influx;
mod mollymawk;
mod prometheus;
mod revocation;
mod sandbox;
mod sockets;
mod state;
mod stats;
mod successor;
mod trust;
