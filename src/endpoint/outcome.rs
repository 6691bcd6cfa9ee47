//! How the carrying out of a request ended.

use std::io::{self, ErrorKind};

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// The daemon's answer was passed on, whose kind is known if it could be told from its first bytes.
    Answered(Option<Verdict>),
    /// Not carried out, or not completely; the text is for the client.
    Failure(Fault, String),
    /// The client left before the end.
    ClientGone(String),
    /// The daemon left inside a message, so that the client can be told nothing any more.
    Broken,
}

/// On which side a failure has its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was asked for is refused.
    Request,
    /// The client is too slow.
    Client,
    /// A daemon does not answer as it should, or something else on this host fails.
    Host,
}

impl RequestEnd {
    /// The client left with this error.
    pub(super) fn gone(error: &io::Error) -> Self {
        // The TLS library explains this one at length, and with an address on the web.
        Self::ClientGone(match error.kind() {
            ErrorKind::UnexpectedEof => "without a word".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// What the daemon answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request was carried out, or a stream began.
    Success,
    /// It was not.
    Failure,
}
