//! The exporter to InfluxDB: a subscriber of statistics that writes them as lines, over TCP or HTTP (BEHAVIOUR 8).
//!
//! A [`mod@line`] is made of each record and waits in the [`buffer`] until the [`upstream`] has it; [`http`] is what is
//! said to a server of that kind.
#![forbid(unsafe_code)]

pub mod buffer;
pub mod daemon;
pub mod http;
pub mod line;
mod resolver;
mod source;
pub(crate) mod upstream;
