//! Errors of `petrel-tls` at its start.

use std::error::Error;
use std::fmt;
use std::io;

use super::tls::CredentialsError;

/// Reason why `petrel-tls` cannot serve.
#[derive(Debug)]
pub enum EndpointError {
    /// Two options exclude each other.
    Contradiction(&'static str, &'static str),
    /// Standard input is not a connection.
    NoSocket(io::Error),
    /// Socket activation was requested, but no socket was passed.
    NotActivated,
    /// The passed socket cannot be used.
    Activation(io::Error),
    /// Listening failed.
    Listen {
        /// Address, in words.
        address: String,
        /// Error of the system.
        source: io::Error,
    },
    /// Certificates or key cannot be used.
    Credentials(CredentialsError),
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradiction(one, other) => write!(f, "{one} and {other} exclude each other"),
            Self::NoSocket(error) => {
                write!(
                    f,
                    "cannot use standard input as a connection (--inetd): {error}"
                )
            }
            Self::NotActivated => f.write_str("no socket was passed (--systemd-socket-activation)"),
            Self::Activation(error) => write!(f, "cannot use the passed socket: {error}"),
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Credentials(error) => error.fmt(f),
        }
    }
}

impl Error for EndpointError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NoSocket(error) | Self::Activation(error) => Some(error),
            Self::Listen { source, .. } => Some(source),
            Self::Credentials(error) => Some(error),
            Self::Contradiction(..) | Self::NotActivated => None,
        }
    }
}
