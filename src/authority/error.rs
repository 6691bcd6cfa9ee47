//! Why the authority did not do what it was asked for.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::name::NameError;
use crate::policy::{Excess, Unusable};
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
    /// A server's certificate is asked for below one that carries a policy.
    TenantsServer,
    /// The policy asked for is of no use.
    Unusable(Unusable),
    /// The request is beyond the policy of the issuing certificate.
    Beyond(Excess),
    /// The issuing certificate is no authority, or not valid now (why).
    Issuer(String),
    /// The lifetime cannot be expressed (days).
    Lifetime(u32),
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

    pub(super) fn crypto<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Crypto(what, error.to_string())
    }
}

impl fmt::Display for AuthorityError {
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
            Self::ForeignKey(key, certificate) => write!(
                f,
                "the key in '{}' does not belong to the certificate in '{}'",
                key.display(),
                certificate.display()
            ),
            Self::CommonName(error) => write!(f, "the subject's common name: {error}"),
            Self::FileName(name) => write!(
                f,
                "'{}' cannot be the name of a certificate and its files: it must have 1 to 64 octets, no '/' and no \
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
            Self::TenantsServer => f.write_str(
                "the request carries no command, so that its certificate would be that of a server: none is issued \
                 below a certificate that carries a policy, as no client trusts it",
            ),
            Self::Unusable(error) => error.fmt(f),
            Self::Beyond(excess) => {
                write!(f, "beyond the policy of the issuing certificate: {excess}")
            }
            Self::Issuer(why) => write!(f, "the issuing certificate {why}"),
            Self::Lifetime(days) => write!(f, "a certificate cannot be valid for {days} days"),
            Self::Crypto(what, why) => write!(f, "cannot {what}: {why}"),
        }
    }
}

impl std::error::Error for AuthorityError {}
