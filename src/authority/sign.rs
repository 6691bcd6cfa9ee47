//! `petrel sign`: from a request to a certificate (WIRE 12.2).

use std::fmt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::acceptance::{check_authorities, check_leaf};
use super::allowance::check_policy;
use super::certificate::{Certificate, read_chain, to_pem};
use super::error::AuthorityError;
use super::file_name::file_stem;
use super::issue::{Issuer, Profile};
use super::request::Request;
use super::validity::{Lifetime, Validity};
use super::{database, file};
use crate::chain::verify::{MAX_INTERMEDIATES, Usage};
use crate::chain::{Leaf, is_followed_by_stream, route};
use crate::name::Label;
use crate::wire::{Command, PolicyCommand, UnikernelCommand};

/// Default lifetime of a delegated authority or a server in days.
pub const AUTHORITY_DAYS: u32 = 365;

/// Default lifetime of a command in days.
pub const COMMAND_DAYS: u32 = 1;

/// Arguments of [`sign`].
#[derive(Debug)]
pub struct SignOrder<'a> {
    /// File of the issuing certificate, perhaps followed by those above it.
    pub authority: &'a Path,
    /// Database of issued certificates.
    pub database: &'a Path,
    /// Key of the issuing certificate.
    pub key: &'a Path,
    /// File of the signing request.
    pub request: &'a Path,
    /// Lifetime; by default [`AUTHORITY_DAYS`] or [`COMMAND_DAYS`].
    pub lifetime: Option<Lifetime>,
    /// Directory of the new certificate.
    pub directory: &'a Path,
    /// Whether a certificate of the same name is replaced, and a second authority of the same name is allowed.
    pub force: bool,
    /// Whether a server's certificate is asked for.
    pub server: bool,
}

/// Signed certificate that is neither recorded nor written yet, so that it can be reviewed.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The new certificate.
    pub certificate: Certificate,
    /// Warnings for the signer.
    pub warnings: Vec<Warning>,
    order: &'a SignOrder<'a>,
    issuer: Issuer,
    label: Label,
    target: PathBuf,
}

/// Warning about a certificate that is allowed, but perhaps not intended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The certificate in this file is that of a server.
    Server(PathBuf),
    /// The holder of the certificate chooses the image of the unikernel.
    AnyImage,
    /// The certificate expires with the issuing certificate, earlier than requested.
    Clipped,
    /// An authority of this name with another key exists.
    OtherKey(Label),
}

/// Signs a request. Nothing is written yet.
///
/// # Errors
/// When a file cannot be read, or the request must not be signed.
pub fn sign<'a>(
    order: &'a SignOrder<'a>,
    now: OffsetDateTime,
) -> Result<Draft<'a>, AuthorityError> {
    let issuer = Issuer::load(order.authority, order.key)?;
    issuer.check_links()?;
    let request = Request::read(order.request)?;
    // The name becomes a file name and a label of the tree.
    let label: Label = request
        .common_name
        .parse()
        .map_err(AuthorityError::CommonName)?;
    let target = order
        .directory
        .join(format!("{}.pem", file_stem(label.as_str())));
    let own = [order.authority, order.key, order.database, order.request];
    file::check_replaceable(&target, order.force, &own)?;

    let (profile, days) = profile(&request, &issuer, order.server)?;
    check_depth(&profile, &issuer)?;
    check_authorities(&profile, &issuer, now)?;
    let validity = Validity::lasting(now, order.lifetime.unwrap_or(Lifetime::Days(days)))?;
    let certificate = issuer.issue(request.name(), &request.public_key_info, &profile, validity)?;
    request.check_subject(&certificate)?;
    match &profile {
        Profile::Server => check_leaf(&certificate, Usage::Server, &issuer, now)?,
        Profile::Client(..) => check_leaf(&certificate, Usage::Client, &issuer, now)?,
        // An authority is never verified alone, so a client with its name is.
        Profile::Root | Profile::Intermediate(_) => {
            let info = Command::Unikernel(UnikernelCommand::Info(()));
            let profile = Profile::Client(info, None);
            let probe =
                issuer.issue(request.name(), &request.public_key_info, &profile, validity)?;
            check_leaf(&probe, Usage::Client, &issuer, now)?;
        }
    }

    let mut warnings = Vec::new();
    let details = issuer.details(&certificate);
    let recorded = database::has_other_authority(order.database, label.as_str(), &details)?;
    if recorded && !order.force {
        return Err(AuthorityError::OtherKey {
            name: label.to_string(),
            database: order.database.to_owned(),
        });
    }
    if recorded || replaces_other_authority(&target, &certificate) {
        warnings.push(Warning::OtherKey(label.clone()));
    }
    match &profile {
        Profile::Server => warnings.push(Warning::Server(target.clone())),
        Profile::Client(command @ Command::Unikernel(_), None)
            if is_followed_by_stream(command) =>
        {
            warnings.push(Warning::AnyImage);
        }
        _ => {}
    }
    if certificate.not_after < validity.end().unix_timestamp() {
        warnings.push(Warning::Clipped);
    }
    Ok(Draft {
        certificate,
        warnings,
        order,
        issuer,
        label,
        target,
    })
}

impl Draft<'_> {
    /// Records the certificate in the database, and writes it as `<CN>.pem`, followed by the authority's certificates
    /// without a self-signed root. Returns the name of the file.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self) -> Result<&Path, AuthorityError> {
        let chain = std::iter::once(&self.certificate).chain(self.issuer.without_root());
        // A certificate that is recorded but not written does less harm than the reverse.
        database::record(
            self.order.database,
            &self.certificate.serial,
            self.label.as_str(),
            &self.issuer.details(&self.certificate),
        )?;
        file::write(&self.target, 0o644, &to_pem(chain), self.order.force)?;
        Ok(&self.target)
    }
}

/// Whether the file holds an authority with another key than the new one.
fn replaces_other_authority(file: &Path, new: &Certificate) -> bool {
    let Ok(Some(old)) = read_chain(file).map(|chain| chain.into_iter().next()) else {
        return false;
    };
    new.is_authority && old.is_authority && old.public_bits != new.public_bits
}

/// Profile of the certificate for the request, and its default lifetime in days.
fn profile(
    request: &Request,
    issuer: &Issuer,
    server: bool,
) -> Result<(Profile, u32), AuthorityError> {
    let policies = issuer.policies()?;
    let image = request.image;
    let Some(command) = request.command.clone() else {
        // No client would trust a server of a tenant, and the tenant may have intended something else.
        return match (&policies[..], image) {
            ([], None) if !server => Err(AuthorityError::NoCommand),
            ([], None) => Ok((Profile::Server, AUTHORITY_DAYS)),
            ([], Some(_)) => Err(image_without_create()),
            _ => Err(AuthorityError::TenantsServer),
        };
    };
    if server {
        return Err(AuthorityError::ServerWithCommand(route(&command).kind));
    }
    check_policy(&command, &policies)?;
    let route = route(&command);
    match &command {
        Command::Unikernel(UnikernelCommand::Create(_) | UnikernelCommand::ForceCreate(_)) => {}
        _ if image.is_some() => return Err(image_without_create()),
        Command::Policy(PolicyCommand::Add(_)) => {
            return Ok((Profile::Intermediate(command), AUTHORITY_DAYS));
        }
        _ if route.leaf == Leaf::Never => return Err(AuthorityError::NotAllowed(route.kind)),
        _ => {}
    }
    Ok((Profile::Client(command, image), COMMAND_DAYS))
}

fn image_without_create() -> AuthorityError {
    AuthorityError::Request("it fixes an image, but creates no unikernel".to_owned())
}

/// Checks that a leaf is possible below the new certificate.
fn check_depth(profile: &Profile, issuer: &Issuer) -> Result<(), AuthorityError> {
    let own = usize::from(matches!(profile, Profile::Intermediate(_)));
    match issuer.without_root().len() + own {
        0..=MAX_INTERMEDIATES => Ok(()),
        beyond => Err(AuthorityError::TooDeep(beyond)),
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(file) => write!(
                f,
                "THIS IS THE CERTIFICATE OF A SERVER: the holder of the key of '{}' can impersonate the server to every client",
                file.display()
            ),
            Self::AnyImage => f.write_str(
                "the request fixes no image: the holder of the certificate and its key chooses the image, and can do so \
                 again while it is valid",
            ),
            Self::OtherKey(label) => write!(
                f,
                "THERE IS ANOTHER AUTHORITY '{label}' WITH ANOTHER KEY: the holder of either key controls all unikernels, \
                 block devices and consoles below '{label}:'"
            ),
            Self::Clipped => f.write_str(
                "the certificate expires with the issuing certificate, earlier than requested",
            ),
        }
    }
}
