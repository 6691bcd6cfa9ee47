//! Destination of lines.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::PORT;
use crate::influx::http::{Url, WriteEndpoint};
use crate::influx::resolver::Resolver;

/// Destination of lines.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Listener for lines.
    Lines(SocketAddr),
    /// HTTP server, with the token for it.
    Server(Url, WriteEndpoint, Option<String>),
}

/// Source of the addresses of a host.
#[derive(Debug)]
pub(crate) enum HostAddress {
    /// Fixed addresses.
    Known(Vec<SocketAddr>),
    /// Process that looks them up.
    Named(Resolver),
}

impl Destination {
    /// Port of the destination.
    pub(in crate::influx) fn port(&self) -> u16 {
        match self {
            Self::Lines(address) => address.port(),
            Self::Server(url, ..) => url.port,
        }
    }

    /// Addresses of the host; for a name, starts the process that looks them up.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(in crate::influx) fn host(&self) -> io::Result<HostAddress> {
        let (host, port) = match self {
            Self::Lines(address) => return Ok(HostAddress::Known(vec![*address])),
            Self::Server(url, ..) => (&url.host, url.port),
        };
        // An address with a zone has to be looked up, too.
        match host.parse::<IpAddr>() {
            Ok(ip) => Ok(HostAddress::Known(vec![(ip, port).into()])),
            Err(_) => Resolver::start(host, port).map(HostAddress::Named),
        }
    }
}

/// Parses the address of a listener for lines: `IP[:PORT]`.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    text.parse()
        .or_else(|_| {
            bare.unwrap_or(text)
                .parse()
                .map(|ip: IpAddr| (ip, PORT).into())
        })
        .map_err(|_| format!("'{text}' is no IP[:PORT]"))
}
