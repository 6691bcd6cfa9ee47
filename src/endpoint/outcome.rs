//! End of a request.

use std::io::{self, ErrorKind};

/// End of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// The daemon's answer was passed on. Its result is known if its first bytes tell it.
    Answered(Option<Verdict>),
    /// The request was not carried out, or not completely. The text is for the client.
    Failure(Fault, String),
    /// The client closed the connection before the end.
    ClientGone(String),
    /// The daemon closed the connection within a message, so that no message to the client is possible.
    Broken,
}

/// Cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is refused.
    Request,
    /// The client is too slow.
    Client,
    /// A daemon breaks the protocol, or something else on this host fails.
    Host,
}

impl RequestEnd {
    /// The connection to the client failed with this error.
    pub(super) fn gone(error: &io::Error) -> Self {
        // The text of the TLS library is long and has a web address.
        Self::ClientGone(match error.kind() {
            ErrorKind::UnexpectedEof => "the connection was closed without close_notify".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// Result that a daemon reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request was carried out, or a stream began.
    Success,
    /// The request failed.
    Failure,
}
