//! Destination of lines.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::PORT;
use crate::influx::http::{Url, WriteEndpoint};
use crate::influx::resolver::Resolver;

/// Where lines go.
#[derive(Debug)]
pub(crate) enum Destination {
    /// To a listener for lines.
    Lines(SocketAddr),
    /// To a server (with the token that is shown to it).
    Server(Url, WriteEndpoint, Option<String>),
}

/// Way to the addresses of a host.
#[derive(Debug)]
pub(crate) enum HostAddress {
    /// These are all.
    Known(Vec<SocketAddr>),
    /// This process looks them up.
    Named(Resolver),
}

impl Destination {
    /// The port that connections are made to.
    pub(in crate::influx) fn port(&self) -> u16 {
        match self {
            Self::Lines(address) => address.port(),
            Self::Server(url, ..) => url.port,
        }
    }

    /// Finds the way to the host, for a name by a process of its own.
    ///
    /// # Errors
    /// If that cannot be started.
    pub(in crate::influx) fn host(&self) -> io::Result<HostAddress> {
        let (host, port) = match self {
            Self::Lines(address) => return Ok(HostAddress::Known(vec![*address])),
            Self::Server(url, ..) => (&url.host, url.port),
        };
        // An address with a zone is looked up, too.
        match host.parse::<IpAddr>() {
            Ok(ip) => Ok(HostAddress::Known(vec![(ip, port).into()])),
            Err(_) => Resolver::start(host, port).map(HostAddress::Named),
        }
    }
}

/// Where a listener for lines is, as the operator says it: `IP[:PORT]`.
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
