//! The wire protocol, version 5: records, their DER, and frames (WIRE 1, 3, 4, 7).
//!
//! What arrives is looked at for its version first, and read by that version's grammar ([`v5`]) into the one form
//! that the house knows. The records carry whatever the grammar allows; [`domain`] turns them into the vocabulary of
//! the house and refuses what makes no sense.
#![forbid(unsafe_code)]
// rasn's derives bind each field once more than they use it.
#![allow(clippy::no_effect_underscore_binding)]

mod error;
mod message;
mod primitive;
mod statistics;
mod unikernel;

pub mod domain;
pub mod extensions;
pub mod frame;
pub mod image;
pub mod legacy;
pub mod lines;
pub mod state;
pub mod v5;

pub use error::WireError;
pub use extensions::{BlockAddFilled, ConsoleRead, DatedPolicy};
pub use message::*;
pub use primitive::*;
pub use statistics::*;
pub use unikernel::*;

use rasn::{AsnType, Decode, Decoder, Encode};

use crate::name::Name;

/// The only version ever written or accepted.
pub const VERSION: i64 = 5;

/// The value of the certificate extension.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct CertExtension {
    /// Protocol version, always 5.
    pub version: Int,
    /// What the certificate allows or asks for.
    pub command: Command,
}

impl Message {
    /// A request about `name`.
    pub fn command(sequence: i64, name: &Name, command: Command) -> Self {
        Self {
            header: Header {
                version: Int::new(VERSION),
                sequence: Int64(sequence),
                name: name.to_string().into(),
            },
            payload: Payload::Command(command),
        }
    }

    /// The answer to the message with this header.
    pub fn answer(header: Header, payload: Payload) -> Self {
        Self { header, payload }
    }

    /// The DER of the message.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode(self)
    }

    /// Reads exactly one message; memory stays within a small multiple of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        // The header is the first element, and the version the header's.
        match announced_version(bytes, 2)? {
            VERSION => decode_canonical::<v5::Message>(bytes).map(Self::from),
            other => Err(WireError::Version(other)),
        }
    }
}

impl CertExtension {
    /// The extension that carries `command`.
    pub fn new(command: Command) -> Self {
        Self {
            version: Int::new(VERSION),
            command,
        }
    }

    /// The DER that goes into the extension's OCTET STRING.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode(self)
    }

    /// Reads the content of the extension's OCTET STRING.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match announced_version(bytes, 1)? {
            VERSION => decode_canonical::<v5::CertExtension>(bytes).map(Self::from),
            other => Err(WireError::Version(other)),
        }
    }
}

fn encode(value: &impl Encode) -> Result<Vec<u8>, WireError> {
    Ok(rasn::der::encode(value)?)
}

/// The number with which `depth` nested values begin; whatever else is wrong is left to the grammar of that version.
fn announced_version(bytes: &[u8], depth: u8) -> Result<i64, WireError> {
    let version = (0..depth).try_fold(bytes, |value, _| {
        let [_, length, rest @ ..] = value else {
            return None;
        };
        let more = if *length < 0x80 { 0 } else { length & 0x7f };
        rest.get(usize::from(more)..)
    });
    let number = version.and_then(|version| match version {
        [0x02, length @ 1..=8, rest @ ..] => rest.get(..usize::from(*length)),
        _ => None,
    });
    number
        .map(|bytes| {
            let sign = if bytes[0] < 0x80 { 0 } else { -1 };
            bytes
                .iter()
                .fold(sign, |number: i64, byte| number << 8 | i64::from(*byte))
        })
        .ok_or_else(|| WireError::Grammar("it has no version".to_owned()))
}

/// Decodes and requires that the value encodes to the same bytes: what DER forbids, no released encoder wrote.
fn decode_canonical<T: Decode + Encode>(bytes: &[u8]) -> Result<T, WireError> {
    let value: T = rasn::der::decode(bytes)?;
    match rasn::der::encode(&value) {
        Ok(encoded) if encoded == bytes => Ok(value),
        _ => Err(WireError::NotCanonical),
    }
}
