//! Why the authority did not do what it was asked for.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{Lifetime, Validity};
use crate::chain;
use crate::chain::verify::{MAX_INTERMEDIATES, PathError};
use crate::endpoint::MAX_CRL_FILE;
use crate::name::NameError;
use crate::policy::{Excess, Unusable, list};
use crate::private_key::KeyFileError;
use crate::serial;
use crate::wire::WireError;
use crate::wire::domain::DomainError;

/// Why the authority did not do what it was asked for.
#[derive(Debug)]
pub enum AuthorityError {
    /// A file operation failed (what, file, why).
    File(&'static str, PathBuf, io::Error),
    /// A file that would be overwritten.
    Exists(PathBuf),
    /// A file does not contain what it should (file, what, why).
    Malformed(PathBuf, &'static str, String),
    /// There is no PEM block with this label in the file.
    NoBlock(PathBuf, &'static str),
    /// There is more than one PEM block with this label in the file.
    SeveralBlocks(PathBuf, &'static str),
    /// A file gives no private key.
    PrivateKey(KeyFileError),
    /// The private key is not that of the certificate (key file, certificate file).
    ForeignKey(PathBuf, PathBuf),
    /// The subject's name cannot become a name of the tree or of a file.
    CommonName(NameError),
    /// The operator's name for a certificate cannot become a file name.
    FileName(String),
    /// The request has no usable subject or extension (why).
    Request(String),
    /// The command of a request or certificate is none.
    Command(WireError),
    /// The command of a request or certificate makes no sense.
    Meaning(DomainError),
    /// The extension for a command is there more than once.
    SeveralCommands,
    /// A command that is not carried out from a certificate (in words).
    NotAllowed(&'static str),
    /// A request without a command, where no server's certificate was asked for.
    NoCommand,
    /// A server's certificate was asked for, but the request carries this command.
    ServerWithCommand(&'static str),
    /// A server's certificate is asked for below one that carries a policy.
    TenantsServer,
    /// The database has an authority of this name with another key (name, database).
    OtherKey(String, PathBuf),
    /// An authority allows no more than so many authorities below it (name, number).
    PathLength(String, u32),
    /// An authority is not valid before this time (name, seconds since 1970).
    NotValidYet(String, i64),
    /// An authority is not valid after this time (name, seconds since 1970).
    Expired(String, i64),
    /// Nobody would accept the certificate (why).
    NotAccepted(PathError),
    /// The policy asked for is of no use.
    Unusable(Unusable),
    /// The request is beyond the policy of the issuing certificate.
    Beyond(Excess),
    /// The issuing certificate is no authority, or not valid now (why).
    Issuer(String),
    /// A certificate of the issuer's file was not issued by the next one there (which, from 1, why).
    Link(usize, String),
    /// The file of the new certificate would be one of those that the authority works with.
    OwnFile(PathBuf),
    /// What would be replaced by a certificate is none.
    NoCertificate(PathBuf),
    /// The certificate in this file was not issued by this authority (why).
    NotOurs(PathBuf, String),
    /// There would be more intermediate certificates than anybody accepts.
    TooDeep(usize),
    /// A certificate to be revoked is not in the data base (as it was called, data base).
    NotIssued(String, PathBuf),
    /// A certificate to be revoked is both a name and a serial number there.
    Ambiguous(String, PathBuf),
    /// A certificate to be revoked is called by something that is no serial number.
    Serial(String),
    /// Lines of the data base are none (data base, their numbers).
    Lines(PathBuf, Vec<usize>),
    /// The CRL cannot be extended (its file, why).
    List(PathBuf, String),
    /// The CRL would be larger than an endpoint reads (its file, number of entries).
    ListTooLarge(PathBuf, usize),
    /// The lifetime is out of range.
    Lifetime(Lifetime),
    /// A cryptographic operation failed (what, why).
    Crypto(&'static str, String),
}

impl AuthorityError {
    pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File(what, path.to_owned(), error)
    }

    pub(super) fn malformed(path: &Path, what: &'static str, why: impl fmt::Display) -> Self {
        Self::Malformed(path.to_owned(), what, why.to_string())
    }

    /// The system gives no random bytes; the library says no more.
    pub(super) fn no_random() -> Self {
        Self::Crypto("draw random bytes", "the system gives none".to_owned())
    }

    pub(super) fn crypto<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Crypto(what, error.to_string())
    }
}

impl fmt::Display for AuthorityError {
    #[expect(clippy::too_many_lines, reason = "one text a case")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what, path, error) => {
                write!(f, "cannot {what} '{}': {error}", path.display())
            }
            Self::Exists(path) => write!(
                f,
                "'{}' exists already: move it away, or replace it with --force",
                path.display()
            ),
            Self::Malformed(path, what, why) => {
                write!(f, "'{}' is no {what}: {why}", path.display())
            }
            Self::NoBlock(path, label) => {
                write!(f, "'{}' holds no PEM block '{label}'", path.display())
            }
            Self::SeveralBlocks(path, label) => write!(
                f,
                "'{}' holds more than one PEM block '{label}', where one is expected",
                path.display()
            ),
            Self::PrivateKey(error) => error.fmt(f),
            Self::ForeignKey(key, certificate) => write!(
                f,
                "the key in '{}' does not belong to the certificate in '{}'",
                key.display(),
                certificate.display()
            ),
            Self::CommonName(error) => write!(f, "the subject's common name: {error}"),
            Self::FileName(name) => write!(
                f,
                "'{}' cannot be the name of a certificate and its files: it must have 1 to 64 bytes, no '/' and no \
                 control characters, and differ from the other one",
                name.escape_default()
            ),
            Self::Request(why) => write!(f, "the signing request: {why}"),
            Self::Command(error) => write!(f, "the command of the certificate: {error}"),
            Self::Meaning(error) => write!(f, "the command of the certificate: {error}"),
            Self::SeveralCommands => f.write_str("the certificate carries several commands"),
            Self::NotAllowed(kind) => write!(
                f,
                "no certificate can carry the command of this request ({kind}): endpoints refuse it"
            ),
            Self::NoCommand => f.write_str(
                "the request carries no command, so that its certificate would be that of a server, whose holder can \
                 play the server to every client: pass --server if that is meant, or let the request be written again \
                 with --csr",
            ),
            Self::ServerWithCommand(kind) => write!(
                f,
                "cannot sign the request for a server (--server), as it carries the command '{kind}'"
            ),
            Self::OtherKey(name, database) => write!(
                f,
                "'{name}' has an authority with another key already, as '{}' records: pass --force if this one is to be \
                 a second one, or to replace it, and revoke the other one if its key is not to be used any more",
                database.display()
            ),
            Self::PathLength(name, most) => write!(
                f,
                "the authority '{}' allows at most {most} authorities below it (pathLenConstraint), which this \
                 certificate would exceed: sign it with an authority further up",
                name.escape_default()
            ),
            Self::NotValidYet(name, time) => write!(
                f,
                "the authority '{}' is not valid before {}: wait until then, or set the clock",
                name.escape_default(),
                chain::time(*time)
            ),
            Self::Expired(name, time) => write!(
                f,
                "the authority '{}' has expired, at {}: renew its certificate first",
                name.escape_default(),
                chain::time(*time)
            ),
            Self::NotAccepted(why) => write!(
                f,
                "nobody would accept the certificate, so that it is not signed: {why}"
            ),
            Self::TenantsServer => f.write_str(
                "the request carries no command, so that its certificate would be that of a server: none is issued \
                 below a certificate that carries a policy, as no client trusts it",
            ),
            Self::Unusable(error) => error.fmt(f),
            Self::Beyond(excess) => {
                write!(f, "beyond the policy of the issuing certificate: {excess}")
            }
            Self::Issuer(why) => write!(f, "the issuing certificate {why}"),
            Self::Link(position, why) => write!(
                f,
                "certificate {position} of the authority's file: {why}; the file must hold the issuing certificate, \
                 then the one that issued it, and so on upwards"
            ),
            Self::OwnFile(path) => write!(
                f,
                "the certificate's file would be '{}', which the authority itself works with: it is not replaced, \
                 choose another directory or name",
                path.display()
            ),
            Self::NoCertificate(path) => write!(
                f,
                "'{}' exists already and holds something else than certificates: it is not replaced, move it away",
                path.display()
            ),
            Self::TooDeep(intermediates) => write!(
                f,
                "a command would have {intermediates} intermediate certificates above it, but more than \
                 {MAX_INTERMEDIATES} are accepted by nobody: sign it with an authority closer to the root"
            ),
            Self::Lifetime(lifetime) => write!(
                f,
                "a validity of {lifetime} is not possible: from 1 hour to {} days are",
                Validity::MAX_DAYS
            ),
            Self::Crypto(what, why) => write!(f, "cannot {what}: {why}"),
            Self::NotOurs(path, why) => write!(
                f,
                "the certificate in '{}' is not one of this authority: {why}; what another authority issued is revoked \
                 in its own list, with its own certificate and key",
                path.display()
            ),
            Self::NotIssued(name, database) => write!(
                f,
                "'{}' is neither a name nor a serial number in '{}'; a serial number that is not there is written \
                 serial:HEX, the file of a certificate file:PATH",
                name.escape_default(),
                database.display()
            ),
            Self::Ambiguous(name, database) => write!(
                f,
                "'{}' is both a name and a serial number in '{}': write name:{0} or serial:{0}",
                name.escape_default(),
                database.display()
            ),
            Self::Serial(text) => write!(
                f,
                "'{}' is no serial number: it must be hexadecimal, perhaps with a colon between bytes, not zero, and \
                 of at most {} bytes",
                text.escape_default(),
                serial::MAX_BYTES
            ),
            Self::Lines(database, numbers) => write!(
                f,
                "'{}' is damaged, mend it first: not of the form SERIAL NAME: line {}",
                database.display(),
                list(numbers)
            ),
            Self::List(path, why) => write!(
                f,
                "the CRL '{}' {why}; it is left as it is",
                path.display()
            ),
            Self::ListTooLarge(path, entries) => write!(
                f,
                "the CRL '{}' would have {entries} entries and so be larger than the {} MiB that petrel-tls \
                 reads: nothing was revoked. No entry can be dropped, as a list does not say when a certificate ends: \
                 take a new authority",
                path.display(),
                MAX_CRL_FILE >> 20
            ),
        }
    }
}

impl std::error::Error for AuthorityError {}
