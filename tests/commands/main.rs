//! Commands of `petrel`, and what they say to daemons that the tests play.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod algorithms;
mod authority;
mod client;
mod client_blocks;
mod client_tls;
mod revoke;
mod show;
mod signing;
