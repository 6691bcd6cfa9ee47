//! Daemons and tenders with users, taps and namespaces of their own; most tests need root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod bhyve;
mod confinement;
mod network;
mod outlive;
mod resources;
mod tender;
