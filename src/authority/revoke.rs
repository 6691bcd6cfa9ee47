//! `revoke`: from serial numbers and names to the authority's CRL.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use time::OffsetDateTime;

use super::crl::{Crl, Serial};
use super::database::{self, Issued, KeyIdentifier, Kind};
use super::{AuthorityError, Issuer, Validity, file, read_chain};
use crate::chain::crl::LABEL;
use crate::endpoint::MAX_CRL_FILE;

/// Days until a CRL has to be renewed.
pub const CRL_DAYS: u32 = 30;

/// What `revoke` is asked for.
#[derive(Debug)]
pub struct RevokeOrder<'a> {
    /// File of the issuing certificate.
    pub authority: &'a Path,
    /// Its key.
    pub key: &'a Path,
    /// List of issued certificates.
    pub database: &'a Path,
    /// Serial numbers, names and files of certificates; none renews the list.
    pub certificates: &'a [String],
    /// File of the CRL; `None`: that of the certificate, ending in `.crl`.
    pub list: Option<&'a Path>,
    /// Days until the list has to be renewed.
    pub days: u32,
}

/// What was done.
#[derive(Debug)]
pub struct Revoked {
    /// What was asked for, in its order.
    pub entries: Vec<RevokedEntry>,
    /// Common name of the authority, which alone the list is about.
    pub authority: String,
    /// Whether the authority is a root, which hosts trust.
    pub is_root: bool,
    /// File of the CRL.
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
    /// Its name in the data base, or the file that was given.
    pub name: Option<String>,
    /// Whether its authority is known to have issued it, by its certificate or the database.
    pub seen: bool,
    /// Whether it is known to be that of a server, which no client looks for in a list.
    pub server: bool,
    /// Whether it was revoked before.
    pub before: bool,
}

/// A certificate to be revoked.
struct Wanted {
    serial: Serial,
    name: Option<String>,
    seen: bool,
    server: bool,
}

/// Extends the authority's CRL, or makes the first one. Nothing is written unless everything asked for is
/// known.
pub fn revoke(order: &RevokeOrder<'_>, now: OffsetDateTime) -> Result<Revoked, AuthorityError> {
    let issuer = Issuer::load(order.authority, order.key)?;
    if !issuer
        .certificate()
        .key_usage
        .is_some_and(|usage| usage.crl_sign())
    {
        return Err(AuthorityError::Issuer(
            "may not sign CRLs (its key usage lacks cRLSign)".to_owned(),
        ));
    }
    let validity = Validity::days(now, order.days)?;
    let wanted = wanted(order, &issuer)?;
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
        .map(|wanted| RevokedEntry {
            before: !list.add(&wanted.serial, now),
            serial: wanted.serial.to_string(),
            name: wanted.name,
            seen: wanted.seen,
            server: wanted.server,
        })
        .collect();
    let (der, number) = list.sign(&issuer, validity)?;
    let text = file::encode(LABEL, &der);
    if text.len() as u64 > MAX_CRL_FILE {
        return Err(AuthorityError::ListTooLarge(path, list.len()));
    }
    file::write(&path, 0o644, &text, true)?;
    Ok(Revoked {
        entries,
        authority: issuer.certificate().name(),
        is_root: issuer.certificate().is_self_signed(),
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

fn read_list(path: &Path, issuer: &Issuer) -> Result<Crl, AuthorityError> {
    let exists = path
        .try_exists()
        .map_err(AuthorityError::file("look for", path))?;
    if !exists {
        return Ok(Crl::default());
    }
    let der = file::read_block(path, LABEL)?;
    Crl::read(&der, issuer).map_err(|why| AuthorityError::List(path.to_owned(), why))
}

/// What is to be revoked. The data base is needed only for what is looked up there.
fn wanted(order: &RevokeOrder<'_>, issuer: &Issuer) -> Result<Vec<Wanted>, AuthorityError> {
    let own = KeyIdentifier::new(&issuer.key_identifier());
    let mut database = None;
    let mut wanted = Vec::new();
    for word in order.certificates {
        if let Some(path) = word.strip_prefix("file:") {
            wanted.push(of_file(path.as_ref(), issuer)?);
            continue;
        }
        let lines = match &mut database {
            Some(lines) => lines,
            none => none.insert(database::read(order.database)?),
        };
        wanted.extend(find(word, lines, order.database, &own)?);
    }
    Ok(wanted)
}

/// The first certificate of a file, which must be one of this issuer.
fn of_file(path: &Path, issuer: &Issuer) -> Result<Wanted, AuthorityError> {
    let chain = read_chain(path)?;
    let refused = |why| AuthorityError::NotOurs(path.to_owned(), why);
    let leaf = &chain[0];
    leaf.check_issuer(issuer.certificate()).map_err(refused)?;
    let serial = Serial::of(leaf).ok_or_else(|| AuthorityError::Serial(leaf.serial.clone()))?;
    Ok(Wanted {
        serial,
        name: Some(path.display().to_string()),
        seen: true,
        server: leaf.is_server,
    })
}

/// What a word means: `serial:HEX`, `name:NAME`, or whichever of both the data base has.
fn find(
    word: &str,
    issued: &[Issued],
    database: &Path,
    own: &KeyIdentifier,
) -> Result<Vec<Wanted>, AuthorityError> {
    let unseen = |serial: &Serial, name| Wanted {
        serial: serial.clone(),
        name,
        seen: false,
        server: false,
    };
    let recorded = |one: &Issued| Wanted {
        serial: one.serial.clone(),
        name: Some(one.name.clone()),
        seen: one.details.as_ref().is_some_and(|of| of.issuer == *own),
        server: one
            .details
            .as_ref()
            .is_some_and(|of| of.kind == Kind::Server),
    };
    let with = |fits: &dyn Fn(&Issued) -> bool| -> Vec<_> {
        let fitting = issued.iter().filter(|one| fits(one));
        fitting.map(recorded).collect()
    };
    let named = |name: &str| with(&|one| one.name.eq_ignore_ascii_case(name));
    let numbered = |serial: &Serial| with(&|one| one.serial == *serial);

    if let Some(text) = word.strip_prefix("serial:") {
        let serial =
            Serial::parse_written(text).ok_or_else(|| AuthorityError::Serial(text.to_owned()))?;
        let found = numbered(&serial);
        return Ok(if found.is_empty() {
            vec![unseen(&serial, None)]
        } else {
            found
        });
    }
    let (by_name, by_serial) = match word.strip_prefix("name:") {
        Some(name) => (named(name), Vec::new()),
        None => (
            named(word),
            Serial::parse_written(word).map_or(Vec::new(), |serial| numbered(&serial)),
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
