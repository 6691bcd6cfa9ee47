//! `petrel revoke`: serial numbers and names are added to the authority's CRL.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use time::OffsetDateTime;

use super::certificate::read_chain;
use super::crl::Crl;
use super::database::{self, Issued, KeyIdentifier, Kind};
use super::error::AuthorityError;
use super::file;
use super::issue::Issuer;
use super::serial_number::Serial;
use super::validity::Validity;
use crate::chain::crl::{LABEL, MAX_CRL_FILE};

/// Default lifetime of a CRL in days.
pub const CRL_DAYS: u32 = 30;

/// Arguments of [`revoke`].
#[derive(Debug)]
pub struct RevokeOrder<'a> {
    /// File of the issuing certificate.
    pub authority: &'a Path,
    /// File of its key.
    pub key: &'a Path,
    /// Database of issued certificates.
    pub database: &'a Path,
    /// Serial numbers, names and files of certificates. Without any, the CRL is renewed.
    pub certificates: &'a [String],
    /// File of the CRL; by default the file of the certificate with the suffix `.crl`.
    pub list: Option<&'a Path>,
    /// Lifetime of the CRL in days.
    pub days: u32,
}

/// Result of [`revoke`].
#[derive(Debug)]
pub struct Revoked {
    /// Revoked certificates, in the order of the arguments.
    pub entries: Vec<RevokedEntry>,
    /// Common name of the authority that issued the CRL.
    pub authority: String,
    /// Whether the authority is a root, which hosts trust.
    pub is_root: bool,
    /// File of the CRL.
    pub file: PathBuf,
    /// Number of the CRL in decimal.
    pub number: String,
    /// Number of certificates in the CRL.
    pub count: usize,
    /// Time until which the CRL must be renewed.
    pub next_update: OffsetDateTime,
}

/// Revoked certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedEntry {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Name in the database, or the given file.
    pub name: Option<String>,
    /// Whether the certificate or the database proves that the authority issued it.
    pub seen: bool,
    /// Whether the certificate is known to be that of a server, which clients do not look up in CRLs.
    pub server: bool,
    /// Whether the certificate was revoked before.
    pub before: bool,
}

/// Certificate to be revoked.
struct Wanted {
    serial: Serial,
    name: Option<String>,
    seen: bool,
    server: bool,
}

/// Extends the authority's CRL, or creates the first one. Nothing is written unless all certificates are known.
///
/// # Errors
/// When a certificate is unknown, or the CRL cannot be read, signed or written.
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
    // Of two concurrent processes, each would write a CRL without the other's entries.
    let _lock = lock(order.authority)?;
    let mut crl = read_crl(&path, &issuer)?;
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let entries = wanted
        .into_iter()
        .map(|wanted| RevokedEntry {
            before: !crl.add(&wanted.serial, now),
            serial: wanted.serial.to_string(),
            name: wanted.name,
            seen: wanted.seen,
            server: wanted.server,
        })
        .collect();
    let (der, number) = crl.sign(&issuer, validity)?;
    let text = file::encode(LABEL, &der);
    if text.len() as u64 > MAX_CRL_FILE {
        return Err(AuthorityError::CrlTooLarge {
            path,
            entries: crl.len(),
        });
    }
    file::write(&path, 0o644, &text, true)?;
    Ok(Revoked {
        entries,
        authority: issuer.certificate().name(),
        is_root: issuer.certificate().is_self_signed(),
        file: path,
        number,
        count: crl.len(),
        next_update: validity.end(),
    })
}

fn lock(path: &Path) -> Result<Flock<File>, AuthorityError> {
    let file = File::open(path).map_err(AuthorityError::file("open", path))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| AuthorityError::file("lock", path)(error.into()))
}

fn read_crl(path: &Path, issuer: &Issuer) -> Result<Crl, AuthorityError> {
    let exists = path
        .try_exists()
        .map_err(AuthorityError::file("look for", path))?;
    if !exists {
        return Ok(Crl::default());
    }
    let der = file::read_block(path, LABEL)?;
    Crl::read(&der, issuer).map_err(|reason| AuthorityError::Crl {
        path: path.to_owned(),
        reason,
    })
}

/// Certificates to be revoked. The database is read only if one must be looked up there.
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

/// First certificate of a file, which must be one of this issuer.
fn of_file(path: &Path, issuer: &Issuer) -> Result<Wanted, AuthorityError> {
    let chain = read_chain(path)?;
    let refused = |reason| AuthorityError::NotOurs {
        path: path.to_owned(),
        reason,
    };
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

/// Certificates for a word of the command line: `serial:HEX`, `name:NAME`, or either as found in the database.
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
        (true, true) => Err(AuthorityError::NotIssued {
            given: word.to_owned(),
            database: database.to_owned(),
        }),
        (false, false) => Err(AuthorityError::Ambiguous {
            given: word.to_owned(),
            database: database.to_owned(),
        }),
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
