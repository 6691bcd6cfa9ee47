//! Audit log: one line at the end of each connection. Its grammar is in petrel-tls(8).

use std::fmt::{self, Write as _};
use std::time::Instant;

use log::info;
use sha2::{Digest as _, Sha256};

use super::outcome::{Fault, RequestEnd, Verdict};
use crate::chain::{self, Certificate, route};
use crate::logging::AUDIT;
use crate::name::Path;
use crate::unikernel::ImageDigest;

/// Line of one connection, as far as it is known.
#[derive(Debug)]
pub struct Audit {
    started: Instant,
    fields: String,
}

/// Result of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The daemon carried out the request.
    Success,
    /// The daemon refused the request, or failed.
    Failure,
    /// The daemon sent another answer.
    Answered,
    /// The endpoint refused the request.
    Refused,
    /// The client closed the connection, or was too slow.
    Gone,
    /// A daemon cannot be reached or does not answer properly, or the process of the connection failed.
    Broken,
}

impl Audit {
    /// Line of a connection that `peer` began at `started`.
    pub fn new(peer: &str, started: Instant) -> Self {
        let mut audit = Self {
            started,
            fields: String::new(),
        };
        audit.field("peer", peer);
        audit
    }

    /// Adds the verified path, leaf first.
    pub fn certificates(&mut self, path: &[impl AsRef<[u8]>]) {
        let certificates: Vec<_> = path
            .iter()
            .map(|der| Certificate::read(der.as_ref()).ok())
            .collect();
        let listed = |texts: &mut dyn Iterator<Item = Option<String>>| {
            let shown =
                texts.map(|text| escaped(&text.unwrap_or_default(), &[' ', '=', ',']).to_string());
            shown.collect::<Vec<_>>().join(",")
        };
        let known = || certificates.iter().map(Option::as_ref);
        let names = listed(&mut known().map(|certificate| certificate?.common_name()));
        let serials = listed(&mut known().map(|certificate| Some(certificate?.serial())));
        self.raw("certificates", &names);
        self.raw("serials", &serials);
        if let Some(leaf) = path.first() {
            self.field("fingerprint", &fingerprint(leaf.as_ref()));
        }
    }

    /// Adds the fingerprint of an unverified leaf.
    pub fn unverified(&mut self, leaf: &[u8]) {
        self.field("unverified-fingerprint", &fingerprint(leaf));
    }

    /// Adds the request.
    pub fn request(&mut self, request: &chain::Request) {
        let kind = route(&request.command).kind.replace(' ', "-");
        self.field("command", &kind);
        self.field("name", &request.name.to_string());
    }

    /// Adds the paths that keep the policy of a newer certificate than the client's.
    pub fn kept(&mut self, paths: &[Path]) {
        if !paths.is_empty() {
            let paths: Vec<_> = paths.iter().map(ToString::to_string).collect();
            self.field("policy-kept", &paths.join(","));
        }
    }

    /// Logs the line.
    pub fn write(self, outcome: Outcome, reason: &str) {
        info!(target: AUDIT, "{}", self.line(outcome, reason));
    }

    fn line(mut self, outcome: Outcome, reason: &str) -> String {
        self.field("verdict", &outcome.to_string());
        if !reason.is_empty() {
            // Spaces are kept for readers. Without '=', no part looks like a field.
            let reason = escaped(reason, &['=']).to_string();
            self.raw("reason", &reason);
        }
        let elapsed = self.started.elapsed().as_millis();
        self.fields + &format!(" ms={elapsed}")
    }

    fn field(&mut self, key: &str, value: &str) {
        let value = escaped(value, &[' ', '=']).to_string();
        self.raw(key, &value);
    }

    fn raw(&mut self, key: &str, value: &str) {
        if !self.fields.is_empty() {
            self.fields.push(' ');
        }
        // Writing to a String cannot fail.
        let _ = write!(self.fields, "{key}=\"{value}\"");
    }
}

/// Result of a request, and the reason.
pub fn verdict(end: &RequestEnd) -> (Outcome, &str) {
    match end {
        RequestEnd::Answered(Some(Verdict::Success)) => (Outcome::Success, ""),
        RequestEnd::Answered(Some(Verdict::Failure)) => (Outcome::Failure, ""),
        RequestEnd::Answered(None) => (Outcome::Answered, ""),
        RequestEnd::Failure(Fault::Request, reason) => (Outcome::Refused, reason),
        RequestEnd::Failure(Fault::Host, reason) => (Outcome::Broken, reason),
        RequestEnd::Failure(Fault::Client, reason) | RequestEnd::ClientGone(reason) => {
            (Outcome::Gone, reason)
        }
        RequestEnd::Broken => (
            Outcome::Broken,
            "the daemon closed the connection within a message",
        ),
    }
}

/// Escapes `"`, `\`, the characters of `also` and everything but graphic ASCII and spaces as `\u{…}`.
fn escaped<'a>(text: &'a str, also: &'a [char]) -> impl fmt::Display + 'a {
    struct Escaped<'a>(&'a str, &'a [char]);
    impl fmt::Display for Escaped<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for character in self.0.chars() {
                let plain = character.is_ascii_graphic() || character == ' ';
                if plain && !['"', '\\'].contains(&character) && !self.1.contains(&character) {
                    f.write_char(character)?;
                } else {
                    write!(f, "{}", character.escape_unicode())?;
                }
            }
            Ok(())
        }
    }
    Escaped(text, also)
}

/// SHA-256 of a certificate, in hexadecimal.
fn fingerprint(der: &[u8]) -> String {
    ImageDigest(Sha256::digest(der).into()).to_string()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Broken => "broken",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_names_the_side_that_failed() {
        for (fault, expected) in [
            (Fault::Request, Outcome::Refused),
            (Fault::Client, Outcome::Gone),
            (Fault::Host, Outcome::Broken),
        ] {
            let end = RequestEnd::Failure(fault, "why".to_owned());
            assert_eq!(verdict(&end), (expected, "why"));
        }
    }

    #[test]
    fn no_value_can_look_like_a_field() {
        let mut audit = Audit::new("a\" verdict=\"success", Instant::now());
        audit.field("name", "x\n\u{1b}[31m y=z\\ü");
        let line = audit.line(Outcome::Refused, "no\" verdict=\"success\" \n ms=1");
        assert!(
            line.starts_with(
                "peer=\"a\\u{22}\\u{20}verdict\\u{3d}\\u{22}success\" \
                 name=\"x\\u{a}\\u{1b}[31m\\u{20}y\\u{3d}z\\u{5c}\\u{fc}\" verdict=\"refused\" \
                 reason=\"no\\u{22} verdict\\u{3d}\\u{22}success\\u{22} \\u{a} ms\\u{3d}1\" ms="
            ),
            "{line}"
        );
    }
}
