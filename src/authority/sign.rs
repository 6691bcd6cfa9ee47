//! `sign`: from a request to a certificate (WIRE 12.2).

use std::fmt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::acceptance::{check_authorities, check_leaf};
use super::{
    AuthorityError, Certificate, Issuer, Lifetime, Profile, Request, Validity, check_policy,
    database, file, file_stem, read_chain, to_pem,
};
use crate::chain::verify::{MAX_INTERMEDIATES, Usage};
use crate::chain::{Leaf, is_followed_by_stream, route};
use crate::name::Label;
use crate::wire::{Command, PolicyCommand, UnikernelCommand};

/// Days a delegated authority or a server is valid.
pub const AUTHORITY_DAYS: u32 = 365;

/// Days a command is valid.
pub const COMMAND_DAYS: u32 = 1;

/// What `sign` is asked for.
#[derive(Debug)]
pub struct SignOrder<'a> {
    /// File of the issuing certificate, perhaps followed by those above it.
    pub authority: &'a Path,
    /// List of issued certificates.
    pub database: &'a Path,
    /// Key of the issuing certificate.
    pub key: &'a Path,
    /// File of the signing request.
    pub request: &'a Path,
    /// `None`: as usual for what is asked.
    pub lifetime: Option<Lifetime>,
    /// Directory of the new certificate.
    pub directory: &'a Path,
    /// Whether a certificate of that name is replaced, and a second authority of that name is made.
    pub force: bool,
    /// Whether a server's certificate is asked for.
    pub server: bool,
}

/// A certificate that is signed and neither noted nor written: until then it can be looked at.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The new certificate.
    pub certificate: Certificate,
    /// What the signer should know before it is written.
    pub cautions: Vec<Warning>,
    order: &'a SignOrder<'a>,
    issuer: Issuer,
    label: Label,
    target: PathBuf,
}

/// What is allowed, but perhaps not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The certificate is that of a server; its file.
    Server(PathBuf),
    /// It creates a unikernel of whatever image its holder takes.
    AnyImage,
    /// It ends with the issuing certificate, earlier than asked for.
    Clipped,
    /// There is an authority of this name with another key.
    OtherKey(Label),
}

/// Signs a request. Nothing is written yet.
pub fn sign<'a>(
    order: &'a SignOrder<'a>,
    now: OffsetDateTime,
) -> Result<Draft<'a>, AuthorityError> {
    let issuer = Issuer::load(order.authority, order.key)?;
    issuer.check_links()?;
    let request = Request::read(order.request)?;
    // The name becomes a file name and a label of the tree: nothing else may be in it.
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
        // What is true of a client with its name, as nobody verifies an authority alone.
        Profile::Root | Profile::Intermediate(_) => {
            let info = Command::Unikernel(UnikernelCommand::Info(()));
            let profile = Profile::Client(info, None);
            let probe =
                issuer.issue(request.name(), &request.public_key_info, &profile, validity)?;
            check_leaf(&probe, Usage::Client, &issuer, now)?;
        }
    }

    let mut cautions = Vec::new();
    let details = issuer.details(&certificate);
    let recorded = database::has_other_authority(order.database, label.as_str(), &details)?;
    if recorded && !order.force {
        return Err(AuthorityError::OtherKey(
            label.to_string(),
            order.database.to_owned(),
        ));
    }
    if recorded || replaces_other_authority(&target, &certificate) {
        cautions.push(Warning::OtherKey(label.clone()));
    }
    match &profile {
        Profile::Server => cautions.push(Warning::Server(target.clone())),
        Profile::Client(command @ Command::Unikernel(_), None)
            if is_followed_by_stream(command) =>
        {
            cautions.push(Warning::AnyImage);
        }
        _ => {}
    }
    if certificate.not_after < validity.end().unix_timestamp() {
        cautions.push(Warning::Clipped);
    }
    Ok(Draft {
        certificate,
        cautions,
        order,
        issuer,
        label,
        target,
    })
}

impl Draft<'_> {
    /// Notes the certificate in the data base, and writes it as `<CN>.pem`, followed by the authority's certificates
    /// without a self-signed root. Gives the name of the file.
    pub fn write(&self) -> Result<&Path, AuthorityError> {
        let chain = std::iter::once(&self.certificate).chain(self.issuer.without_root());
        // A certificate that is noted but was never written does less harm than the other way round.
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

/// Tells whether the file holds an authority with another key than the new one's.
fn replaces_other_authority(file: &Path, new: &Certificate) -> bool {
    let Ok(Some(old)) = read_chain(file).map(|chain| chain.into_iter().next()) else {
        return false;
    };
    new.is_authority && old.is_authority && old.public_bits != new.public_bits
}

/// What is issued for the request, and for how many days unless the order says so.
fn profile(
    request: &Request,
    issuer: &Issuer,
    server: bool,
) -> Result<(Profile, u32), AuthorityError> {
    let policies = issuer.policies()?;
    let image = request.image;
    let Some(command) = request.command.clone() else {
        // A server is never a tenant's: no client would trust it, and the tenant may have meant something else.
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

/// A leaf must be possible below what is issued.
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
                "THIS IS THE CERTIFICATE OF A SERVER: who has the key of '{}' can play the server to every client",
                file.display()
            ),
            Self::AnyImage => f.write_str(
                "the request fixes no image: whoever has the certificate and its key chooses the image, and can do so \
                 again while it is valid",
            ),
            Self::OtherKey(label) => write!(
                f,
                "THERE IS ANOTHER AUTHORITY '{label}' WITH ANOTHER KEY: the holder of this one gets all that is below \
                 '{label}:', unikernels, block devices and consoles, as the holder of the other one has it"
            ),
            Self::Clipped => f.write_str(
                "the certificate ends with the issuing certificate, earlier than was asked for",
            ),
        }
    }
}
