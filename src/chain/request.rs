//! Request of a verified path.

use std::error::Error;
use std::fmt;

use super::certificate::{Certificate, ExtensionError};
use super::route::{Leaf, Route, route};
use crate::name::{Label, Name, NameError, Path};
use crate::policy::{self, Excess};
use crate::unikernel::ImageDigest;
use crate::wire::domain::DomainError;
use crate::wire::{CertExtension, Command, DatedPolicy, PolicyCommand};

/// Maximum number of certificates in a path, with the leaf and without the anchor (WIRE 11.3).
pub const MAX_PATH: usize = 9;
/// Request of a verified path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Object of the command.
    pub name: Name,
    /// Policies of the intermediate certificates and their dates: one for each label of the name's path, outermost
    /// first, each within the one before it.
    pub policies: Vec<(Path, DatedPolicy)>,
    /// Command, one of those that a leaf may carry.
    pub command: Command,
    /// Digest of the only image that may be created, if the leaf fixes it.
    pub image: Option<ImageDigest>,
}
/// Reason why a verified path is not a valid request. Positions count from the leaf, which is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// The path is empty.
    EmptyChain,
    /// The path has this number of certificates, more than [`MAX_PATH`].
    ChainTooLong(usize),
    /// The certificate cannot be parsed.
    BadCertificate(usize, String),
    /// The extension cannot be read.
    BadExtension(usize, ExtensionError),
    /// The common name is not a valid label.
    BadName(usize, NameError),
    /// The certificate has no common name, but needs one.
    NameRequired(usize),
    /// An intermediate certificate carries this command instead of a policy.
    CommandInIntermediate(usize, &'static str),
    /// The leaf carries no command.
    NoExtensionInLeaf,
    /// The leaf carries this command, which no leaf may carry.
    CommandNotAllowed(Name, &'static str),
    /// The policy of this path is not valid.
    BadPolicy(Path, DomainError),
    /// The policy of this path allows more than the one above it.
    PolicyExceeds(Path, Excess),
}
/// Turns a verified path (DER, leaf first, without the anchor) into its request (WIRE 11.3).
///
/// All certificates of `path` must have been verified.
pub fn request(path: &[impl AsRef<[u8]>]) -> Result<Request, ChainError> {
    let leaf = path.first().ok_or(ChainError::EmptyChain)?;
    if path.len() > MAX_PATH {
        return Err(ChainError::ChainTooLong(path.len()));
    }
    let mut below = Path::ROOT;
    let mut policies = Vec::new();
    for (position, issuer) in path.iter().enumerate().skip(1).rev() {
        let issuer = certificate(position, issuer.as_ref())?;
        let Some(extension) = extension(position, &issuer)? else {
            continue;
        };
        let Command::Policy(PolicyCommand::Add(policy)) = extension.command else {
            let kind = route(&extension.command).kind;
            return Err(ChainError::CommandInIntermediate(position, kind));
        };
        let label = issuer
            .common_name()
            .ok_or(ChainError::NameRequired(position))?;
        below = below.child(label_at(position, &label)?);
        policies.push((below.clone(), issuer.dated(policy)));
    }
    check_policies(&policies)?;

    let leaf = certificate(0, leaf.as_ref())?;
    let command = extension(0, &leaf)?
        .ok_or(ChainError::NoExtensionInLeaf)?
        .command;
    let image = leaf
        .image_digest()
        .map_err(|error| ChainError::BadExtension(0, error))?;
    let Route {
        kind, leaf: rule, ..
    } = route(&command);
    let name = match leaf.common_name().as_deref() {
        Some("." | ":") => below.into(),
        Some(label) => Name::new(below, label_at(0, label)?),
        None if rule == Leaf::Named => return Err(ChainError::NameRequired(0)),
        None => below.into(),
    };
    if rule == Leaf::Never {
        return Err(ChainError::CommandNotAllowed(name, kind));
    }
    Ok(Request {
        name,
        policies,
        command,
        image,
    })
}

/// Checks that policies, outermost first, are valid and decrease.
fn check_policies(policies: &[(Path, DatedPolicy)]) -> Result<(), ChainError> {
    let mut valid = Vec::new();
    for (path, dated) in policies {
        let policy = policy::Policy::try_from(&dated.policy);
        valid.push(policy.map_err(|error| ChainError::BadPolicy(path.clone(), error))?);
    }
    policy::check_decrease(&valid).map_err(|(position, excess)| {
        let path = policies.get(position).map(|(path, _)| path.clone());
        ChainError::PolicyExceeds(path.unwrap_or_default(), excess)
    })
}
fn certificate(position: usize, der: &[u8]) -> Result<Certificate<'_>, ChainError> {
    Certificate::read(der).map_err(|reason| ChainError::BadCertificate(position, reason))
}

fn extension(
    position: usize,
    certificate: &Certificate<'_>,
) -> Result<Option<CertExtension>, ChainError> {
    certificate
        .extension()
        .map_err(|error| ChainError::BadExtension(position, error))
}

fn label_at(position: usize, text: &str) -> Result<Label, ChainError> {
    text.parse()
        .map_err(|error| ChainError::BadName(position, error))
}
impl ChainError {
    /// Name that the chain is about, as far as it is known.
    pub fn name(&self) -> Name {
        match self {
            Self::CommandNotAllowed(name, _) => name.clone(),
            Self::BadPolicy(path, _) | Self::PolicyExceeds(path, _) => path.clone().into(),
            _ => Name::default(),
        }
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificate = |position: usize| match position {
            0 => "the leaf certificate".to_owned(),
            n => format!("intermediate certificate {n}"),
        };
        match self {
            Self::EmptyChain => f.write_str("no certificate was given"),
            Self::ChainTooLong(length) => write!(
                f,
                "the chain has {length} certificates, more than {MAX_PATH}"
            ),
            Self::BadCertificate(position, reason) => {
                write!(f, "cannot read {}: {reason}", certificate(*position))
            }
            Self::BadExtension(position, error) => {
                write!(f, "{}: {error}", certificate(*position))
            }
            Self::BadName(position, error) => {
                write!(f, "common name of {}: {error}", certificate(*position))
            }
            Self::NameRequired(position) => {
                write!(
                    f,
                    "{} has no common name, but needs one",
                    certificate(*position)
                )
            }
            Self::CommandInIntermediate(position, kind) => write!(
                f,
                "{} carries '{kind}', where only a policy is allowed",
                certificate(*position)
            ),
            Self::NoExtensionInLeaf => f.write_str("the leaf certificate carries no command"),
            Self::CommandNotAllowed(name, kind) => write!(
                f,
                "'{kind}' for {name} is not allowed in a leaf certificate"
            ),
            Self::BadPolicy(path, error) => write!(f, "policy of '{path}': {error}"),
            Self::PolicyExceeds(path, excess) => write!(
                f,
                "the policy of '{path}' allows more than that of the certificate above: {excess}"
            ),
        }
    }
}
impl Error for ChainError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::BadExtension(_, error) => Some(error),
            Self::BadName(_, error) => Some(error),
            Self::BadPolicy(_, error) => Some(error),
            Self::PolicyExceeds(_, excess) => Some(excess),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_a_damaged_and_a_long_path_are_refused() {
        assert_eq!(request(&[] as &[&[u8]]), Err(ChainError::EmptyChain));
        assert!(matches!(
            request(&[b"garbage"]),
            Err(ChainError::BadCertificate(0, _))
        ));
        let long = vec![b"x"; MAX_PATH + 1];
        assert_eq!(request(&long), Err(ChainError::ChainTooLong(MAX_PATH + 1)));
    }
}
