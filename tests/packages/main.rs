//! What is installed: packages, files and units of the service manager.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod install;
mod systemd;
