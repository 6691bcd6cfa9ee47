//! Why bytes are no message, in words for whoever reads a log.

use std::fmt;

use rasn::error::{
    BerDecodeErrorKind, CodecDecodeError, DecodeError, DecodeErrorKind, EncodeError,
};

use super::VERSION;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Another version of the protocol.
    Version(i64),
    /// Not of the grammar; the text says where.
    Grammar(String),
    /// Of the grammar, but not encoded the way a released encoder does.
    NotCanonical,
}

impl From<EncodeError> for WireError {
    fn from(error: EncodeError) -> Self {
        Self::Grammar(error.to_string())
    }
}

impl From<DecodeError> for WireError {
    /// The innermost field that is known, and what is wrong with it.
    fn from(mut error: DecodeError) -> Self {
        let mut field = None;
        let what = loop {
            match *error.kind {
                DecodeErrorKind::FieldError { name, nested } => {
                    field = Some(name);
                    error = *nested;
                }
                other => break describe(&other),
            }
        };
        Self::Grammar(match field {
            Some(field) => format!("{field}: {what}"),
            None => what,
        })
    }
}

fn describe(kind: &DecodeErrorKind) -> String {
    match kind {
        DecodeErrorKind::Incomplete { .. } | DecodeErrorKind::Eof => "it ends too early".to_owned(),
        DecodeErrorKind::UnexpectedExtraData { length } => {
            format!("{length} bytes more than expected")
        }
        DecodeErrorKind::NoValidChoice { name } => {
            format!("an alternative of {name} that is not known")
        }
        DecodeErrorKind::CodecSpecific {
            inner:
                CodecDecodeError::Der(_)
                | CodecDecodeError::Ber(BerDecodeErrorKind::MismatchedTag { .. }),
        } => "a value of another type than expected".to_owned(),
        DecodeErrorKind::Custom { msg } => msg.clone(),
        other => other.to_string(),
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(
                    f,
                    "protocol version {version}, only {VERSION} is spoken here"
                )
            }
            Self::Grammar(reason) => write!(f, "malformed: {reason}"),
            Self::NotCanonical => f.write_str("malformed: not in the one form that DER allows"),
        }
    }
}

impl std::error::Error for WireError {}
