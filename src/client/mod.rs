//! The client: commands to local daemons, or over TLS to an endpoint.
#![forbid(unsafe_code)]

pub mod tls;
