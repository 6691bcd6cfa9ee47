//! Where a command goes: a local socket, a host over TLS, or a signing request.

use std::path::{Path, PathBuf};

use super::arguments::DestinationOptions;
use super::error::ClientError;
use crate::authority::KeyType;
use crate::socket;
use crate::wire::Command;

/// Port of the endpoint where none is given.
const PORT: u16 = 1025;

/// A place to connect to over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    /// Name or address, without brackets.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
}

/// Where a command goes. `Print…` shows what would be sent, and sends nothing.
#[derive(Debug)]
pub(super) enum Destination {
    PrintMessage,
    Local(PathBuf),
    PrintChain(Keys),
    Remote(HostPort, Keys),
    Request(KeyType),
}

/// What a connection over TLS is made with.
#[derive(Debug)]
pub(super) struct Keys {
    /// Issuing certificate, then those to be sent along.
    pub(super) authority: PathBuf,
    /// Its key.
    pub(super) authority_key: PathBuf,
    /// Trust anchors for the server.
    pub(super) server_authority: PathBuf,
    /// Type of our own key.
    pub(super) key_type: KeyType,
}

impl Destination {
    /// The destination of `command`; the options must name one at most.
    pub(super) fn new(options: DestinationOptions, command: &Command) -> Result<Self, ClientError> {
        let given = [
            options.socket.is_some(),
            options.destination.is_some(),
            options.csr,
        ];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err(ClientError::Usage(
                "--socket, --destination and --csr exclude each other".to_owned(),
            ));
        }
        if let Some(folder) = options.tmpdir.as_deref().filter(|folder| !folder.is_dir()) {
            return Err(ClientError::Usage(format!(
                "--tmpdir: '{}' is no folder",
                folder.display()
            )));
        }
        if options.csr {
            return Ok(Self::Request(options.key_type));
        }
        let keys = Keys {
            authority: options.ca,
            authority_key: options.ca_key,
            server_authority: options.server_ca,
            key_type: options.key_type,
        };
        match (options.destination, options.socket) {
            (Some(place), _) if place == "-" => Ok(Self::PrintChain(keys)),
            (Some(place), _) => Ok(Self::Remote(HostPort::parse(&place)?, keys)),
            (None, Some(socket)) if socket == Path::new("-") => Ok(Self::PrintMessage),
            (None, Some(socket)) => Ok(Self::Local(socket)),
            (None, None) => {
                let folder = options.tmpdir.as_deref();
                let folder = folder.unwrap_or(Path::new(socket::RUNTIME_FOLDER));
                Ok(Self::Local(socket::path(folder, socket_of(command))))
            }
        }
    }
}

impl HostPort {
    /// `HOST[:PORT]`: the last colon separates the port; an IPv6 address may stand in brackets.
    pub(super) fn parse(text: &str) -> Result<Self, ClientError> {
        let wrong = || {
            ClientError::Usage(format!(
                "'{text}' is no destination: it is written HOST[:PORT], with an IPv6 address as [ADDRESS]:PORT"
            ))
        };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (text, PORT),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() || port == 0 {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// The daemon that carries out a command (WIRE 8.1).
fn socket_of(command: &Command) -> &'static str {
    match command {
        Command::Console(_) => socket::CONSOLE,
        Command::Statistics(_) => socket::STATISTICS,
        Command::Unikernel(_) | Command::Policy(_) | Command::Block(_) => socket::SUPERVISOR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_colon_separates_the_port() {
        for (text, host, port) in [
            ("example.org", "example.org", 1025),
            ("example.org:1", "example.org", 1),
            ("::1:1026", "::1", 1026),
            ("[::1]:1026", "::1", 1026),
            ("[::1]", "::1", 1025),
        ] {
            let parsed = HostPort::parse(text).unwrap();
            assert_eq!((&parsed.host[..], parsed.port), (host, port), "{text}");
        }
        for text in ["", ":1", "host:", "host:x", "host:65536", "host:0"] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }
}
