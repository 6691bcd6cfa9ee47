//! Certificates, signing requests, CRLs, keys and state files in words. Signatures are looked at only
//! where the text says so.
#![forbid(unsafe_code)]

mod certificate;
mod command;
mod crl;
mod key;
mod page;
mod state;

use std::fmt;
use std::ops::RangeInclusive;

use pem::Pem;
use time::OffsetDateTime;

use crate::authority::Certificate;
use crate::chain::crl::LABEL;
use crate::private_key;
use crate::wire::state::{State, StateError, albatross};
use page::{Page, quoted};

/// Why a file cannot be shown.
#[derive(Debug)]
pub enum ShowError {
    /// It is neither PEM nor a state file (why not the latter).
    Unknown(StateError),
    /// It begins like PEM, but is none (why not).
    Pem(String),
    /// This block of a PEM file, counted from 1, is not what it is called (block, label, why).
    Block(usize, String, String),
}

/// The content of a file. Names of certificates in it count as verified if they lead to one of `trusted`.
pub fn file(
    bytes: &[u8],
    trusted: &[Certificate],
    now: OffsetDateTime,
) -> Result<String, ShowError> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    /// Context tags [0] to [7].
    const ALBATROSS: RangeInclusive<u8> = 0xa0..=0xa7;
    let begun = bytes
        .windows(BEGIN.len())
        .filter(|window| *window == BEGIN)
        .count();
    let mut page = Page::default();
    // First, as the arguments of a unikernel in it may be keys in PEM.
    match (State::decode(bytes), albatross::State::decode(bytes)) {
        (Ok(state), _) => state::ours(&mut page, &state),
        (_, Ok(state)) => state::albatross(&mut page, &state),
        _ if begun > 0 => {
            let blocks =
                pem::parse_many(bytes).map_err(|error| ShowError::Pem(error.to_string()))?;
            // The parser passes over a block without an end.
            if blocks.len() < begun {
                return Err(ShowError::Pem("a block has no end".to_owned()));
            }
            pem_blocks(&mut page, &blocks, trusted, now)?;
        }
        // The error of the one that the identifier byte promises.
        (Err(ours), Err(theirs)) => {
            let is_theirs = bytes
                .first()
                .is_some_and(|identifier| ALBATROSS.contains(identifier));
            return Err(ShowError::Unknown(if is_theirs { theirs } else { ours }));
        }
    }
    Ok(page.finish())
}

/// One certificate.
pub fn certificate(certificate: &Certificate, now: OffsetDateTime) -> Result<String, ShowError> {
    let mut page = Page::default();
    certificate::certificate(&mut page, &certificate.der, now.unix_timestamp())
        .map_err(|why| ShowError::Block(1, "CERTIFICATE".to_owned(), why))?;
    Ok(page.finish())
}

fn pem_blocks(
    page: &mut Page,
    blocks: &[Pem],
    trusted: &[Certificate],
    now: OffsetDateTime,
) -> Result<(), ShowError> {
    let now = now.unix_timestamp();
    let mut certificates = Vec::new();
    let curve = blocks
        .iter()
        .find(|block| block.tag() == private_key::CURVE);
    let curve = curve.map(Pem::contents);
    for (position, block) in blocks.iter().enumerate() {
        let der = block.contents();
        let shown = match block.tag() {
            "CERTIFICATE" => certificate::certificate(page, der, now)
                .and_then(|()| Certificate::parse(der).map(|parsed| certificates.push(parsed))),
            "CERTIFICATE REQUEST" => certificate::request(page, der),
            LABEL => crl::list(page, der, now),
            _ if private_key::is_private_key(block) => key::private_key(page, block, curve),
            label => {
                page.field("not shown", quoted(label));
                Ok(())
            }
        };
        shown.map_err(|why| ShowError::Block(position + 1, block.tag().to_owned(), why))?;
    }
    if !certificates.is_empty() {
        certificate::together(page, &certificates, trusted);
    }
    Ok(())
}

impl fmt::Display for ShowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(error) => write!(
                f,
                "it is neither PEM (certificates, requests, CRLs, keys) nor a state file: {error}"
            ),
            Self::Pem(error) => write!(f, "it is no PEM: {error}"),
            Self::Block(position, label, why) => write!(
                f,
                "block {position} ({}) cannot be read: {why}",
                label.escape_default()
            ),
        }
    }
}

impl std::error::Error for ShowError {}
