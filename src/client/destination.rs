//! Where a command goes: a local socket, a host over TLS, or a signing request.

use std::path::{Path, PathBuf};

use super::arguments::DestinationOptions;
use super::error::ClientError;
use super::tls;
use crate::authority::KeyType;
use crate::chain::{Daemon, route};
use crate::socket;
use crate::wire::Command;

/// Where a command goes. `Print…` shows what would be sent, and sends nothing.
#[derive(Debug)]
pub(super) enum Destination {
    PrintMessage,
    /// The socket, and the program that should listen there.
    Local(PathBuf, &'static str),
    PrintChain(Keys),
    Remote(tls::Destination, Keys),
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
        if let Some(directory) = options
            .tmpdir
            .as_deref()
            .filter(|directory| !directory.is_dir())
        {
            return Err(ClientError::Usage(format!(
                "--tmpdir: '{}' is no directory",
                directory.display()
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
            (Some(place), _) => Ok(Self::Remote(parse(&place)?, keys)),
            (None, Some(socket)) if socket == Path::new("-") => Ok(Self::PrintMessage),
            (None, given) => {
                let (program, file) = daemon_of(command);
                let directory = options.tmpdir.as_deref();
                let directory = directory.unwrap_or(Path::new(socket::RUNTIME_DIRECTORY));
                let socket = given.unwrap_or_else(|| socket::path(directory, file));
                Ok(Self::Local(socket, program))
            }
        }
    }
}

/// `HOST[:PORT]`, see [`tls::Destination`].
pub(super) fn parse(text: &str) -> Result<tls::Destination, ClientError> {
    text.parse().map_err(ClientError::Usage)
}

/// The program that carries a command out, and the file name of its socket.
fn daemon_of(command: &Command) -> (&'static str, &'static str) {
    match route(command).daemon {
        Daemon::Supervisor => ("petreld", socket::SUPERVISOR),
        Daemon::Console => ("petrel-console", socket::CONSOLE),
        Daemon::Statistics => ("petrel-stats", socket::STATISTICS),
    }
}
