//! The texts of the project: manual pages, references, and the structure of the source.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod citations;
mod manual;
mod structure;
