//! `sign`: from a request to a certificate (WIRE 12.2).

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::{
    AuthorityError, Certificate, Issuer, Profile, Request, Validity, file, file_stem, to_pem,
};
use crate::chain::{Leaf, route};
use crate::name::Label;
use crate::policy::{Excess, Policy};
use crate::unikernel::{Config, Net};
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
    /// Lifetime in days; `None`: as usual for what is asked.
    pub days: Option<u32>,
    /// Folder of the new certificate.
    pub folder: &'a Path,
    /// Whether a certificate of that name is replaced.
    pub force: bool,
}

/// What was signed.
#[derive(Debug)]
pub struct Signed {
    /// File of the new certificate.
    pub file: PathBuf,
    /// The new certificate.
    pub certificate: Certificate,
    /// What it is for.
    pub profile: Profile,
}

/// Signs a request, notes the certificate in the data base, and writes it as `<CN>.pem`, followed by the
/// authority's certificates unless the authority is self-signed.
pub fn sign(order: &SignOrder<'_>, now: OffsetDateTime) -> Result<Signed, AuthorityError> {
    let issuer = Issuer::load(order.authority, order.key)?;
    let request = Request::read(order.request)?;
    // The name becomes a file name and a label of the tree: nothing else may be in it.
    let label: Label = request
        .common_name
        .parse()
        .map_err(AuthorityError::CommonName)?;
    let upper = issuer.certificate().policy()?;
    let (profile, days) = match request.command.clone() {
        None => {
            refuse_tenant(issuer.chain())?;
            (Profile::Server, AUTHORITY_DAYS)
        }
        Some(command @ Command::Policy(PolicyCommand::Add(_))) => {
            (Profile::Intermediate(command), AUTHORITY_DAYS)
        }
        Some(command) => {
            let route = route(&command);
            if route.leaf == Leaf::Never {
                return Err(AuthorityError::NotAllowed(route.kind));
            }
            (Profile::Client(command, None), COMMAND_DAYS)
        }
    };
    if let Profile::Intermediate(command) | Profile::Client(command, _) = &profile {
        check_policy(command, upper.as_ref())?;
    }
    let validity = Validity::days(now, order.days.unwrap_or(days))?;
    let certificate = issuer.issue(request.name(), &request.public_key_info, &profile, validity)?;
    request.check_subject(&certificate)?;

    let target = order
        .folder
        .join(format!("{}.pem", file_stem(label.as_str())));
    if target.exists() && !order.force {
        return Err(AuthorityError::Exists(target));
    }
    let above = match issuer.chain() {
        [only] if only.is_self_issued() => &[],
        chain => chain,
    };
    let text = to_pem(std::iter::once(&certificate).chain(above));
    // A certificate that is noted but was never written does less harm than the other way round.
    file::record(order.database, &certificate.serial, label.as_str())?;
    file::write(&target, 0o644, &text, order.force)?;
    Ok(Signed {
        file: target,
        certificate,
        profile,
    })
}

/// A server is never a tenant's: no client would trust it, and the tenant may have meant something else.
fn refuse_tenant(chain: &[Certificate]) -> Result<(), AuthorityError> {
    for certificate in chain {
        if certificate.command()?.is_some() {
            return Err(AuthorityError::TenantsServer);
        }
    }
    Ok(())
}

/// Whether the policy of the issuing certificate, if it has one, allows `command`; a policy to be added must also be of use.
pub fn check_policy(command: &Command, upper: Option<&Policy>) -> Result<(), AuthorityError> {
    match command {
        Command::Policy(PolicyCommand::Add(policy)) => {
            let policy = Policy::try_from(policy).map_err(AuthorityError::Meaning)?;
            policy.usable().map_err(AuthorityError::Unusable)?;
            upper
                .map_or(Ok(()), |upper| policy.within(upper))
                .map_err(AuthorityError::Beyond)
        }
        Command::Unikernel(
            UnikernelCommand::Create(config) | UnikernelCommand::ForceCreate(config),
        ) => {
            let config = Config::try_from(config).map_err(AuthorityError::Meaning)?;
            upper
                .map_or(Ok(()), |upper| config_within(&config, upper))
                .map_err(AuthorityError::Beyond)
        }
        Command::Unikernel(
            UnikernelCommand::CreateOld(_)
            | UnikernelCommand::CreateOld2(_)
            | UnikernelCommand::ForceCreateOld(_)
            | UnikernelCommand::ForceCreateOld2(_),
        ) => Err(AuthorityError::Request(
            "it creates a unikernel in the form of an old release, which is not signed".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn config_within(config: &Config, upper: &Policy) -> Result<(), Excess> {
    upper.allows_cpus(&config.cpus)?;
    if u64::from(config.memory) > upper.memory {
        return Err(Excess::Memory(config.memory.into(), upper.memory));
    }
    upper.allows_bridges(config.nets.iter().map(Net::bridge))
}
