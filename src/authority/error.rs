//! Errors of the authority.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::certificate::LinkError;
use super::file_name::MAX_FILE_NAME;
use super::validity::LifetimeError;
use crate::chain;
use crate::chain::crl::MAX_CRL_FILE;
use crate::chain::verify::{MAX_INTERMEDIATES, PathError};
use crate::name::NameError;
use crate::policy::{Excess, Unusable, list};
use crate::private_key::KeyFileError;
use crate::serial;
use crate::wire::WireError;
use crate::wire::domain::DomainError;

/// Reason why the authority refused or failed.
#[derive(Debug)]
pub enum AuthorityError {
    /// A file operation failed.
    File {
        /// Operation, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file would be overwritten.
    Exists(PathBuf),
    /// The file does not hold what it should.
    Malformed {
        /// The file.
        path: PathBuf,
        /// Expected content.
        expected: &'static str,
        /// Reason.
        reason: String,
    },
    /// The file has no PEM block with this label.
    NoBlock(PathBuf, &'static str),
    /// The file has more than one PEM block with this label.
    SeveralBlocks(PathBuf, &'static str),
    /// A file gives no private key.
    PrivateKey(KeyFileError),
    /// The private key is not that of the certificate.
    ForeignKey {
        /// File of the key.
        key: PathBuf,
        /// File of the certificate.
        certificate: PathBuf,
    },
    /// The subject's common name is not a valid label.
    CommonName(NameError),
    /// The operator's name for a certificate is not valid as a file name.
    FileName(String),
    /// The request is not usable, for this reason.
    Request(String),
    /// The command of a request or certificate cannot be decoded.
    Command(WireError),
    /// The command of a request or certificate is not valid.
    Meaning(DomainError),
    /// The extension for a command occurs more than once.
    SeveralCommands,
    /// No certificate may carry this command.
    NotAllowed(&'static str),
    /// The request carries no command, but no server's certificate was asked for.
    NoCommand,
    /// A server's certificate was asked for, but the request carries this command.
    ServerWithCommand(&'static str),
    /// A server's certificate was asked for below a certificate that carries a policy.
    TenantsServer,
    /// The database has an authority of this name with another key.
    OtherKey {
        /// Name of the authority.
        name: String,
        /// The database.
        database: PathBuf,
    },
    /// An authority does not allow another authority below it.
    PathLength {
        /// Name of the authority.
        name: String,
        /// Number of authorities allowed below it.
        maximum: u32,
    },
    /// An authority is not valid yet.
    NotValidYet {
        /// Name of the authority.
        name: String,
        /// Begin of its validity, in seconds since 1970.
        not_before: i64,
    },
    /// An authority has expired.
    Expired {
        /// Name of the authority.
        name: String,
        /// End of its validity, in seconds since 1970.
        not_after: i64,
    },
    /// Endpoints and clients would refuse the certificate.
    NotAccepted(PathError),
    /// The policy of the request is of no use.
    Unusable(Unusable),
    /// The request exceeds the policy of the issuing certificate.
    Beyond(Excess),
    /// The issuing certificate may not issue, for this reason.
    Issuer(String),
    /// A certificate of the authority's file was not issued by the next one.
    Link(LinkError),
    /// The certificate's file would be one that the authority uses.
    OwnFile(PathBuf),
    /// The file to be replaced holds something else than certificates.
    NoCertificate(PathBuf),
    /// The certificate in a file was not issued by this authority.
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
    /// A command would have this number of intermediate certificates above it, too many.
    TooDeep(usize),
    /// A certificate to be revoked is not in the database.
    NotIssued {
        /// Its name or serial number, as given.
        given: String,
        /// The database.
        database: PathBuf,
    },
    /// A text is both a name and a serial number in the database.
    Ambiguous {
        /// The text, as given.
        given: String,
        /// The database.
        database: PathBuf,
    },
    /// The text is not a serial number.
    Serial(String),
    /// Lines of the database are damaged.
    Lines {
        /// The database.
        database: PathBuf,
        /// Numbers of the damaged lines.
        numbers: Vec<usize>,
    },
    /// The CRL cannot be extended.
    Crl {
        /// File of the CRL.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
    /// The CRL would be larger than an endpoint reads.
    CrlTooLarge {
        /// File of the CRL.
        path: PathBuf,
        /// Number of entries.
        entries: usize,
    },
    /// The lifetime is out of range.
    Lifetime(LifetimeError),
    /// A cryptographic operation failed.
    Crypto {
        /// Operation, as a verb.
        operation: &'static str,
        /// Reason.
        reason: String,
    },
}

impl AuthorityError {
    pub(super) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn malformed(
        path: &Path,
        expected: &'static str,
        reason: impl fmt::Display,
    ) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            expected,
            reason: reason.to_string(),
        }
    }

    /// The system gives no random bytes; the library gives no reason.
    pub(super) fn no_random() -> Self {
        Self::Crypto {
            operation: "draw random bytes",
            reason: "the system gives none".to_owned(),
        }
    }

    pub(super) fn crypto<E: fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Crypto {
            operation,
            reason: error.to_string(),
        }
    }
}

impl From<LifetimeError> for AuthorityError {
    fn from(error: LifetimeError) -> Self {
        Self::Lifetime(error)
    }
}

impl From<LinkError> for AuthorityError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl fmt::Display for AuthorityError {
    #[expect(clippy::too_many_lines, reason = "one text a case")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                operation,
                path,
                source,
            } => write!(f, "cannot {operation} '{}': {source}", path.display()),
            Self::Exists(path) => write!(
                f,
                "'{}' exists already (move it away, or replace it with --force)",
                path.display()
            ),
            Self::Malformed {
                path,
                expected,
                reason,
            } => write!(f, "'{}' is not a {expected}: {reason}", path.display()),
            Self::NoBlock(path, label) => {
                write!(f, "'{}' has no PEM block '{label}'", path.display())
            }
            Self::SeveralBlocks(path, label) => write!(
                f,
                "'{}' has more than one PEM block '{label}', expected one",
                path.display()
            ),
            Self::PrivateKey(error) => error.fmt(f),
            Self::ForeignKey { key, certificate } => write!(
                f,
                "the key in '{}' does not belong to the certificate in '{}'",
                key.display(),
                certificate.display()
            ),
            Self::CommonName(error) => write!(f, "invalid common name of the subject: {error}"),
            Self::FileName(name) => write!(
                f,
                "invalid name '{}' of a certificate and its files: expected 1 to {MAX_FILE_NAME} bytes without '/' and \
                 control characters, not starting with '.', and different from the other name",
                name.escape_default()
            ),
            Self::Request(reason) => write!(f, "cannot use the signing request: {reason}"),
            Self::Command(error) => write!(f, "invalid command in the certificate: {error}"),
            Self::Meaning(error) => write!(f, "invalid command in the certificate: {error}"),
            Self::SeveralCommands => f.write_str("the certificate carries several commands"),
            Self::NotAllowed(kind) => write!(
                f,
                "the request carries the command '{kind}', which endpoints refuse in every certificate"
            ),
            Self::NoCommand => f.write_str(
                "the request carries no command, so that its certificate would be that of a server, and its holder could \
                 impersonate the server to every client (pass --server if that is intended, or create the request with \
                 --csr)",
            ),
            Self::ServerWithCommand(kind) => write!(
                f,
                "cannot sign the request for a server: it carries the command '{kind}' (omit --server)"
            ),
            Self::OtherKey { name, database } => write!(
                f,
                "'{}' records an authority '{name}' with another key (pass --force to add or replace it, and revoke the \
                 other one if its key must not be used any more)",
                database.display()
            ),
            Self::PathLength { name, maximum } => write!(
                f,
                "the authority '{}' allows at most {maximum} authorities below it (pathLenConstraint), which this \
                 certificate would exceed (sign it with an authority closer to the root)",
                name.escape_default()
            ),
            Self::NotValidYet { name, not_before } => write!(
                f,
                "the authority '{}' is not valid before {} (wait until then, or set the clock)",
                name.escape_default(),
                chain::time(*not_before)
            ),
            Self::Expired { name, not_after } => write!(
                f,
                "the authority '{}' expired at {} (renew its certificate first)",
                name.escape_default(),
                chain::time(*not_after)
            ),
            Self::NotAccepted(error) => write!(
                f,
                "cannot sign the certificate, as endpoints and clients would refuse it: {error}"
            ),
            Self::TenantsServer => f.write_str(
                "the request carries no command, so that its certificate would be that of a server, which no client \
                 trusts below a certificate that carries a policy",
            ),
            Self::Unusable(error) => error.fmt(f),
            Self::Beyond(excess) => {
                write!(f, "beyond the policy of the issuing certificate: {excess}")
            }
            Self::Issuer(reason) => write!(f, "the issuing certificate {reason}"),
            Self::Link(error) => write!(
                f,
                "cannot use the authority's file: {error} (it must hold the issuing certificate, then the one that issued \
                 it, and so on upwards)"
            ),
            Self::OwnFile(path) => write!(
                f,
                "cannot write the certificate to '{}', which the authority itself uses (choose another directory or \
                 name)",
                path.display()
            ),
            Self::NoCertificate(path) => write!(
                f,
                "'{}' exists already and holds something else than certificates (move it away)",
                path.display()
            ),
            Self::TooDeep(intermediates) => write!(
                f,
                "a command would have {intermediates} intermediate certificates above it, more than the \
                 {MAX_INTERMEDIATES} that are accepted (sign it with an authority closer to the root)"
            ),
            Self::Lifetime(error) => error.fmt(f),
            Self::Crypto { operation, reason } => write!(f, "cannot {operation}: {reason}"),
            Self::NotOurs { path, reason } => write!(
                f,
                "the certificate in '{}' was not issued by this authority: {reason} (revoke it with the certificate and \
                 key of the authority that issued it)",
                path.display()
            ),
            Self::NotIssued { given, database } => write!(
                f,
                "'{}' is neither a name nor a serial number in '{}' (write serial:HEX for a serial number that is not \
                 there, or file:PATH for the file of a certificate)",
                given.escape_default(),
                database.display()
            ),
            Self::Ambiguous { given, database } => write!(
                f,
                "'{}' is both a name and a serial number in '{}' (write name:{0} or serial:{0})",
                given.escape_default(),
                database.display()
            ),
            Self::Serial(text) => write!(
                f,
                "invalid serial number '{}': expected at most {} bytes in hexadecimal, not zero, with or without colons \
                 between bytes",
                text.escape_default(),
                serial::MAX_BYTES
            ),
            Self::Lines { database, numbers } => write!(
                f,
                "cannot use '{}': expected SERIAL NAME in each line, but not in line {} (correct it first)",
                database.display(),
                list(numbers)
            ),
            Self::Crl { path, reason } => {
                write!(f, "cannot extend the CRL '{}': it {reason}", path.display())
            }
            Self::CrlTooLarge { path, entries } => write!(
                f,
                "nothing was revoked: with {entries} entries, the CRL '{}' would exceed the {} MiB that petrel-tls \
                 reads (no entry can be dropped, as a CRL does not tell when a certificate expires: create a new \
                 authority)",
                path.display(),
                MAX_CRL_FILE >> 20
            ),
        }
    }
}

impl Error for AuthorityError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::PrivateKey(error) => Some(error),
            Self::CommonName(error) => Some(error),
            Self::Command(error) => Some(error),
            Self::Meaning(error) => Some(error),
            Self::NotAccepted(error) => Some(error),
            Self::Unusable(error) => Some(error),
            Self::Beyond(excess) => Some(excess),
            Self::Link(error) => Some(error),
            Self::Lifetime(error) => Some(error),
            _ => None,
        }
    }
}
