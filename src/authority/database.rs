//! Database of issued certificates, with one line for each.
//!
//! A line is `SERIAL NAME`, as albatross writes it, then a tab and `KIND KEY ISSUER`: the purpose of the certificate, and
//! the identifiers of its key and of its issuer's key.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use super::error::AuthorityError;
use super::file;
use super::serial_number::Serial;

/// Line of the database.
#[derive(Debug)]
pub(super) struct Issued {
    /// Serial number.
    pub(super) serial: Serial,
    /// Common name.
    pub(super) name: String,
    /// Details, which albatross does not record.
    pub(super) details: Option<Details>,
}

/// Details of an issued certificate beyond its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Details {
    /// Purpose.
    pub(super) kind: Kind,
    /// Identifier of the certificate's key.
    pub(super) key: KeyIdentifier,
    /// Identifier of the issuer's key.
    pub(super) issuer: KeyIdentifier,
}

/// Purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Issuing other certificates.
    Authority,
    /// Carrying a command.
    Client,
    /// Authenticating a server.
    Server,
}

/// Key identifier in lower case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyIdentifier(String);

impl KeyIdentifier {
    /// Identifier with these bytes.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut hex = String::new();
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }
}

/// Opens the database for appending, and creates it unless it exists.
pub(super) fn open(path: &Path) -> Result<File, AuthorityError> {
    let mut options = OpenOptions::new();
    let file = options
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
        .map_err(AuthorityError::file("open", path))?;
    file::sync_directory(path)?;
    Ok(file)
}

/// Adds a line.
pub(super) fn record(
    path: &Path,
    serial: &str,
    name: &str,
    details: &Details,
) -> Result<(), AuthorityError> {
    let mut file = open(path)?;
    // A single write, so that lines of concurrent signers do not mix.
    file.write_all(format!("{serial} {name}\t{details}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(AuthorityError::file("add a line to", path))
}

/// Reads all lines.
///
/// # Errors
/// When a line is damaged, as it could be the one that the caller looks for.
pub(super) fn read(path: &Path) -> Result<Vec<Issued>, AuthorityError> {
    let content = file::read(path)?;
    let mut issued = Vec::new();
    let mut damaged = Vec::new();
    for (number, line) in String::from_utf8_lossy(&content).lines().enumerate() {
        match line.parse() {
            Ok(one) => issued.push(one),
            Err(Damaged) => damaged.push(number + 1),
        }
    }
    if damaged.is_empty() {
        Ok(issued)
    } else {
        Err(AuthorityError::Lines {
            database: path.to_owned(),
            numbers: damaged,
        })
    }
}

/// Whether `details` are those of an authority, and the database has an authority of the same name and issuer with
/// another key. A missing database counts as empty.
pub(super) fn has_other_authority(
    path: &Path,
    name: &str,
    details: &Details,
) -> Result<bool, AuthorityError> {
    let exists = path
        .try_exists()
        .map_err(AuthorityError::file("look for", path))?;
    if details.kind != Kind::Authority || !exists {
        return Ok(false);
    }
    let content = file::read(path)?;
    // Damaged lines are skipped here; `revoke` reports them.
    let found = String::from_utf8_lossy(&content)
        .lines()
        .filter_map(|line| line.parse().ok())
        .any(|issued: Issued| {
            let other = |other: Details| {
                other.kind == Kind::Authority
                    && other.issuer == details.issuer
                    && other.key != details.key
            };
            issued.name.eq_ignore_ascii_case(name) && issued.details.is_some_and(other)
        });
    Ok(found)
}

/// Error of a line that is not of the form of the database.
#[derive(Debug)]
pub(super) struct Damaged;

impl FromStr for Issued {
    type Err = Damaged;

    /// Parses a line, whose name may have spaces, as that of a server need not be a label.
    fn from_str(line: &str) -> Result<Self, Damaged> {
        let (line, details) = match line.split_once('\t') {
            Some((line, details)) => (line, Some(details.parse()?)),
            None => (line, None),
        };
        let (serial, name) = line.split_once(' ').ok_or(Damaged)?;
        if name.is_empty() || name.contains(char::is_control) {
            return Err(Damaged);
        }
        Ok(Self {
            serial: Serial::parse(serial).ok_or(Damaged)?,
            name: name.to_owned(),
            details,
        })
    }
}

impl FromStr for Details {
    type Err = Damaged;

    fn from_str(text: &str) -> Result<Self, Damaged> {
        let words: Vec<_> = text.split(' ').collect();
        let [kind, key, issuer] = <[&str; 3]>::try_from(words).map_err(|_| Damaged)?;
        Ok(Self {
            kind: kind.parse()?,
            key: key.parse()?,
            issuer: issuer.parse()?,
        })
    }
}

impl FromStr for Kind {
    type Err = Damaged;

    fn from_str(text: &str) -> Result<Self, Damaged> {
        match text {
            "authority" => Ok(Self::Authority),
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            _ => Err(Damaged),
        }
    }
}

impl FromStr for KeyIdentifier {
    type Err = Damaged;

    fn from_str(text: &str) -> Result<Self, Damaged> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.is_empty() || !text.bytes().all(digit) {
            return Err(Damaged);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Authority => "authority",
            Kind::Client => "client",
            Kind::Server => "server",
        };
        write!(f, "{kind} {} {}", self.key.0, self.issuer.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    fn details(kind: Kind, key: u8, issuer: u8) -> Details {
        Details {
            kind,
            key: KeyIdentifier::new(&[key]),
            issuer: KeyIdentifier::new(&[issuer]),
        }
    }

    #[test]
    fn lines_of_albatross_and_petrel_are_parsed() {
        let read = |line: &str| line.parse::<Issued>().ok();
        let old = read("0abc my server").unwrap();
        assert_eq!((old.name.as_str(), old.details), ("my server", None));
        let new = read("0abc web\tclient 0a0b ff").unwrap();
        assert_eq!(new.name, "web");
        assert_eq!(new.details.unwrap().to_string(), "client 0a0b ff");
        for damaged in [
            "",
            "0abc",
            "0abc ",
            "x web",
            "0abc web\t",
            "0abc web\tclient 0a",
            "0abc web\tclient 0a ff ff",
            "0abc web\tclients 0a ff",
            "0abc web\tclient 0A ff",
            "0abc web\tclient  ff",
            "0abc web\tclient 0a ff\t",
        ] {
            assert!(read(damaged).is_none(), "{damaged}");
        }
    }

    #[test]
    fn only_an_authority_of_the_same_issuer_with_another_key_conflicts() {
        let directory = Directory::short();
        let path = directory.0.join("db");
        let other = |details| has_other_authority(&path, "Web", &details).unwrap();
        let asked = || details(Kind::Authority, 1, 9);
        assert!(!other(asked()), "the database is missing");
        std::fs::write(&path, "0a web\nno line\n").unwrap();
        let add = |serial, added| record(&path, serial, "web", &added).unwrap();
        add("0b", details(Kind::Authority, 1, 9));
        add("0c", details(Kind::Authority, 2, 8));
        add("0d", details(Kind::Client, 3, 9));
        assert!(!other(asked()));
        add("0e", details(Kind::Authority, 4, 9));
        assert!(other(asked()));
        assert!(!other(details(Kind::Client, 1, 9)));
    }
}
