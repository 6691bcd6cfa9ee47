//! Decisions and encodings without a daemon, against recorded vectors and arbitrary values.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod chains;
mod console_ring;
mod decisions;
mod delegation;
mod wire;
mod wire_properties;
