//! `revoke`: from serial numbers and names to the authority's revocation list.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use time::OffsetDateTime;

use super::revocation::{RevocationList, Serial};
use super::{AuthorityError, Issuer, Validity, file};

const LABEL: &str = "X509 CRL";

/// Days until a revocation list has to be renewed.
pub const LIST_DAYS: u32 = 30;

/// What `revoke` is asked for.
#[derive(Debug)]
pub struct RevokeOrder<'a> {
    /// File of the issuing certificate.
    pub authority: &'a Path,
    /// Its key.
    pub key: &'a Path,
    /// List of issued certificates.
    pub database: &'a Path,
    /// Serial numbers and names; none renews the list.
    pub certificates: &'a [String],
    /// File of the revocation list; `None`: that of the certificate, ending in `.crl`.
    pub list: Option<&'a Path>,
    /// Days until the list has to be renewed.
    pub days: u32,
}

/// What was done.
#[derive(Debug)]
pub struct Revoked {
    /// What was asked for, in its order.
    pub entries: Vec<RevokedEntry>,
    /// File of the revocation list.
    pub file: PathBuf,
    /// Number of the list, decimal.
    pub number: String,
    /// How many certificates are in the list.
    pub count: usize,
    /// When the list has to be renewed.
    pub next_update: OffsetDateTime,
}

/// A certificate that is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedEntry {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Its name in the data base.
    pub name: Option<String>,
    /// Whether it is not in the data base.
    pub unlisted: bool,
    /// Whether it was revoked before.
    pub before: bool,
}

/// A line of the data base (WIRE 6.4).
struct Issued {
    serial: Serial,
    name: String,
}

/// Extends the authority's revocation list, or makes the first one. Nothing is written unless everything asked for is
/// known.
pub fn revoke(order: &RevokeOrder<'_>, now: OffsetDateTime) -> Result<Revoked, AuthorityError> {
    let issuer = Issuer::load(order.authority, order.key)?;
    if !issuer
        .certificate()
        .key_usage
        .is_some_and(|usage| usage.crl_sign())
    {
        return Err(AuthorityError::Issuer(
            "may not sign revocation lists (its key usage lacks cRLSign)".to_owned(),
        ));
    }
    let validity = Validity::days(now, order.days)?;
    let wanted = wanted(order)?;
    let path = match order.list {
        Some(path) => path.to_owned(),
        None => order.authority.with_extension("crl"),
    };
    // Two that run at the same time would each write a list without the other's entries.
    let _lock = lock(order.authority)?;
    let mut list = read_list(&path, &issuer)?;
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let entries = wanted
        .into_iter()
        .map(|(serial, name)| RevokedEntry {
            before: !list.add(&serial, now),
            serial: serial.to_string(),
            unlisted: name.is_none(),
            name,
        })
        .collect();
    let (der, number) = list.sign(&issuer, validity)?;
    file::write(&path, 0o644, &file::encode(LABEL, &der), true)?;
    Ok(Revoked {
        entries,
        file: path,
        number,
        count: list.len(),
        next_update: validity.end(),
    })
}

fn lock(path: &Path) -> Result<Flock<File>, AuthorityError> {
    let file = File::open(path).map_err(AuthorityError::file("open", path))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| AuthorityError::File("lock", path.to_owned(), error.into()))
}

fn read_list(path: &Path, issuer: &Issuer) -> Result<RevocationList, AuthorityError> {
    let exists = path
        .try_exists()
        .map_err(AuthorityError::file("look for", path))?;
    if !exists {
        return Ok(RevocationList::default());
    }
    let der = file::read_block(path, LABEL)?;
    RevocationList::read(&der, issuer).map_err(|why| AuthorityError::List(path.to_owned(), why))
}

/// The serial numbers to be revoked, with their names as far as they are known.
fn wanted(order: &RevokeOrder<'_>) -> Result<Vec<(Serial, Option<String>)>, AuthorityError> {
    if order.certificates.is_empty() {
        return Ok(Vec::new());
    }
    let issued = read_database(order.database)?;
    let mut wanted = Vec::new();
    for word in order.certificates {
        wanted.extend(find(word, &issued, order.database)?);
    }
    Ok(wanted)
}

/// What a word means: `serial:HEX`, `name:NAME`, or whichever of both the data base has.
fn find(
    word: &str,
    issued: &[Issued],
    database: &Path,
) -> Result<Vec<(Serial, Option<String>)>, AuthorityError> {
    let with = |fits: &dyn Fn(&Issued) -> bool| -> Vec<_> {
        let fitting = issued.iter().filter(|one| fits(one));
        fitting
            .map(|one| (one.serial.clone(), Some(one.name.clone())))
            .collect()
    };
    let named = |name: &str| with(&|one| one.name.eq_ignore_ascii_case(name));
    let numbered = |serial: &Serial| with(&|one| one.serial == *serial);

    if let Some(text) = word.strip_prefix("serial:") {
        let serial = Serial::parse(text).ok_or_else(|| AuthorityError::Serial(text.to_owned()))?;
        let found = numbered(&serial);
        return Ok(if found.is_empty() {
            vec![(serial, None)]
        } else {
            found
        });
    }
    let (by_name, by_serial) = match word.strip_prefix("name:") {
        Some(name) => (named(name), Vec::new()),
        None => (
            named(word),
            Serial::parse(word).map_or(Vec::new(), |serial| numbered(&serial)),
        ),
    };
    match (by_name.is_empty(), by_serial.is_empty()) {
        (true, true) => Err(AuthorityError::NotIssued(
            word.to_owned(),
            database.to_owned(),
        )),
        (false, false) => Err(AuthorityError::Ambiguous(
            word.to_owned(),
            database.to_owned(),
        )),
        (false, true) => Ok(by_name),
        (true, false) => Ok(by_serial),
    }
}

fn read_database(path: &Path) -> Result<Vec<Issued>, AuthorityError> {
    let content = file::read(path)?;
    let mut issued = Vec::new();
    let mut damaged = Vec::new();
    for (number, line) in String::from_utf8_lossy(&content).lines().enumerate() {
        match read_line(line) {
            Some(one) => issued.push(one),
            None => damaged.push(number + 1),
        }
    }
    if damaged.is_empty() {
        Ok(issued)
    } else {
        Err(AuthorityError::Lines(path.to_owned(), damaged))
    }
}

/// A name may have spaces: that of a server does not have to be a label.
fn read_line(line: &str) -> Option<Issued> {
    let (serial, name) = line.split_once(' ')?;
    let fits = !name.is_empty() && !name.contains(char::is_control);
    Some(Issued {
        serial: Serial::parse(serial)?,
        name: fits.then(|| name.to_owned())?,
    })
}

impl fmt::Display for RevokedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.before {
            "revoked before:"
        } else {
            "revoked"
        };
        write!(f, "{verb} {}", self.serial)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}
