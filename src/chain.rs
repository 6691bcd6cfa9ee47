//! From a verified certificate path to a request: whose name, which policies, which command (WIRE 8.1, 10, 11.3).
#![forbid(unsafe_code)]

pub mod algorithm;
pub mod crl;
pub mod verify;

use std::fmt::{self, Write as _};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::asn1_rs::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::nom;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::FromDer;

use crate::name::{Label, Name, NameError, Path};
use crate::policy::{self, Excess};
use crate::unikernel::ImageDigest;
use crate::wire::domain::DomainError;
use crate::wire::{
    BlockCommand, CertExtension, Command, ConsoleCommand, DatedPolicy, Int, Policy, PolicyCommand,
    StatsCommand, UnikernelCommand, WireError,
};

/// Most certificates in a path, the leaf included and the anchor not (WIRE 11.3).
pub const MAX_PATH: usize = 9;

/// The object identifier of the extension that carries a command (WIRE 10.1).
pub const EXTENSION: Oid<'static> = oid!(1.3.6.1.4.1.49836.42);

/// The object identifier of the extension that fixes the image of a command: a non-critical one, whose value is an
/// OCTET STRING with the SHA-256 of the uncompressed image. Albatross ignores it. The numbers below the registered
/// arc are those of the UUID 5907282c-f7a8-40f6-a9c0-5f2666b0315f.
pub const IMAGE_EXTENSION: Oid<'static> = oid!(
    1.2.840
        .113556
        .1
        .8000
        .2554
        .22791
        .10284
        .63400
        .16630
        .43456
        .6235750
        .11546975
);

/// The signature algorithms with SHA-1 (RSA by two numbers, ECDSA), which are no proof any more.
pub const SHA1_SIGNATURES: [Oid<'static>; 3] = [
    oid!(1.2.840.113549.1.1.5),
    oid!(1.3.14.3.2.29),
    oid!(1.2.840.10045.4.1),
];

/// Seconds since 1970 as people write a time (RFC 3339, UTC).
pub fn time(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} seconds since 1970"))
}

/// Time left until `end`, if that is less than `notice` and less than a quarter of the time from `begin` to `end`, both
/// in seconds since 1970.
pub fn ends_soon(begin: i64, end: i64, now: UnixTime, notice: Duration) -> Option<Duration> {
    let seconds = |from, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let quarter = seconds(begin, end) / 4;
    let left = seconds(now, end);
    (left < notice.as_secs().min(quarter)).then(|| Duration::from_secs(left))
}

/// DER of the identifier and length bytes of an OCTET STRING of 32 bytes.
const DIGEST_HEAD: [u8; 2] = [0x04, 32];

/// The numbers of [`EXTENSION`] or [`IMAGE_EXTENSION`].
pub fn numbers(extension: &Oid<'_>) -> Vec<u64> {
    extension.iter().into_iter().flatten().collect()
}

/// The value of the extension [`IMAGE_EXTENSION`].
pub fn image_extension_value(digest: &ImageDigest) -> Vec<u8> {
    [&DIGEST_HEAD[..], &digest.0].concat()
}

/// Reads the value of the extension [`IMAGE_EXTENSION`].
pub fn read_image_extension(value: &[u8]) -> Result<ImageDigest, ExtensionError> {
    value
        .strip_prefix(&DIGEST_HEAD)
        .and_then(|digest| digest.try_into().ok())
        .map(ImageDigest)
        .ok_or(ExtensionError::Digest)
}

/// What a verified path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The object of the command.
    pub name: Name,
    /// The policies of the intermediate certificates and their ages: one for each label of the name's path, outermost
    /// first, each within the one before it.
    pub policies: Vec<(Path, DatedPolicy)>,
    /// What to do; one of those that a leaf may carry.
    pub command: Command,
    /// The only image that may be created, if the leaf fixes it.
    pub image: Option<ImageDigest>,
}

/// Why a verified path is no request. Positions count from the leaf, which is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// There is no certificate at all.
    EmptyChain,
    /// More than [`MAX_PATH`] certificates.
    ChainTooLong(usize),
    /// This is no certificate.
    BadCertificate(usize, String),
    /// The extension cannot be read.
    BadExtension(usize, ExtensionError),
    /// The common name is no label.
    BadName(usize, NameError),
    /// There is no common name, but one is needed.
    NameRequired(usize),
    /// An intermediate certificate carries something else than a policy.
    CommandInIntermediate(usize, &'static str),
    /// The leaf carries no command.
    NoExtensionInLeaf,
    /// A leaf must not carry this command.
    CommandNotAllowed(Name, &'static str),
    /// The policy of this path makes no sense.
    BadPolicy(Path, DomainError),
    /// The policy of this path allows more than the one above it.
    PolicyExceeds(Path, Excess),
}

/// Why the extension of a certificate cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtensionError {
    /// It is there more than once.
    Duplicate,
    /// Its value is none.
    Value(WireError),
    /// The digest of the image is no SHA-256.
    Digest,
}

/// The daemon that carries a command out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// The supervisor.
    Supervisor,
    /// The console daemon.
    Console,
    /// The statistics daemon.
    Statistics,
}

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One message.
    Single,
    /// Messages for as long as both sides stay.
    Subscription,
    /// Messages until the content is complete.
    Dump,
}

/// Where a command may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// Not from a leaf certificate.
    Never,
    /// From a leaf with a common name.
    Named,
    /// From any leaf; without a common name the path itself is meant.
    Any,
}

/// One row of the table of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The command in words.
    pub kind: &'static str,
    /// Who carries it out.
    pub daemon: Daemon,
    /// What comes back.
    pub answer: Answer,
    /// Whether a leaf certificate may carry it.
    pub leaf: Leaf,
}

/// A certificate that was taken apart; its signature says nothing yet.
#[derive(Debug)]
pub struct Certificate<'a>(X509Certificate<'a>);

/// Turns the verified path (DER, leaf first, without the anchor) into what it asks for (WIRE 11.3).
///
/// Everything in `path` must have been verified: certificates that the peer only sent along have no place here.
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

/// Whether these policies, outermost first, make sense and decrease.
fn check_policies(policies: &[(Path, DatedPolicy)]) -> Result<(), ChainError> {
    let mut read = Vec::new();
    for (path, dated) in policies {
        let policy = policy::Policy::try_from(&dated.policy);
        read.push(policy.map_err(|error| ChainError::BadPolicy(path.clone(), error))?);
    }
    policy::check_decrease(&read).map_err(|(position, excess)| {
        let path = policies.get(position).map(|(path, _)| path.clone());
        ChainError::PolicyExceeds(path.unwrap_or_default(), excess)
    })
}

/// The table of commands (WIRE 8.1).
pub fn route(command: &Command) -> Route {
    use Answer::{Dump, Single, Subscription};
    use Daemon::{Console, Statistics, Supervisor};
    use Leaf::{Any, Named, Never};
    use UnikernelCommand as U;

    let (kind, daemon, answer, leaf) = match command {
        Command::Unikernel(unikernel) => {
            let kind = match unikernel {
                U::Info(()) | U::InfoOld4(()) | U::InfoOld5(()) => "unikernel info",
                U::Get(_) => "unikernel get",
                U::Create(_) => "unikernel create",
                U::ForceCreate(_) => "unikernel force-create",
                U::Restart(_) => "unikernel restart",
                U::Destroy(()) => "unikernel destroy",
                U::Stop(()) => "unikernel stop",
                U::Start(()) => "unikernel start",
                U::Rollback(()) => "unikernel rollback",
                U::Details(()) => "unikernel details",
            };
            (kind, Supervisor, Single, Any)
        }
        Command::Policy(policy) => match policy {
            PolicyCommand::Info(()) => ("policy info", Supervisor, Single, Any),
            PolicyCommand::Add(_) | PolicyCommand::SetChain(_) => {
                ("policy add", Supervisor, Single, Never)
            }
            PolicyCommand::Remove(()) => ("policy remove", Supervisor, Single, Never),
        },
        Command::Block(block) => match block {
            BlockCommand::Info(()) => ("block info", Supervisor, Single, Any),
            BlockCommand::Add(_) | BlockCommand::AddOld(_) | BlockCommand::AddFilled(_) => {
                ("block add", Supervisor, Single, Named)
            }
            BlockCommand::Remove(()) => ("block remove", Supervisor, Single, Named),
            BlockCommand::Set(_) | BlockCommand::SetOld(_) => {
                ("block set", Supervisor, Single, Named)
            }
            BlockCommand::Dump(_) => ("block dump", Supervisor, Dump, Named),
            BlockCommand::DumpOld(_) => ("block dump", Supervisor, Single, Named),
        },
        Command::Statistics(statistics) => match statistics {
            StatsCommand::Subscribe(()) => ("stats subscribe", Statistics, Subscription, Any),
            StatsCommand::Add(_) => ("stats add", Statistics, Single, Never),
            StatsCommand::Remove(()) => ("stats remove", Statistics, Single, Never),
            StatsCommand::Initial(()) => ("stats initial", Supervisor, Single, Never),
        },
        Command::Console(console) => match console {
            ConsoleCommand::Subscribe(_) => ("console subscribe", Console, Subscription, Any),
            ConsoleCommand::Read(read) => {
                let answer = if read.follow { Subscription } else { Dump };
                ("console read", Console, answer, Any)
            }
            ConsoleCommand::Inactive(()) => ("console inactive", Console, Single, Any),
            ConsoleCommand::Add(_) => ("console add", Console, Single, Never),
        },
    };
    Route {
        kind,
        daemon,
        answer,
        leaf,
    }
}

/// Whether a raw stream of frames follows the command (WIRE 7.3, 11.5): the image of a Solo5 unikernel, or the content
/// of a block device.
pub fn is_followed_by_stream(command: &Command) -> bool {
    use crate::wire::Typ::Solo5;
    use UnikernelCommand as U;

    match command {
        Command::Unikernel(U::Create(config) | U::ForceCreate(config)) => {
            config.typ == Solo5(()) && config.image.0.is_empty()
        }
        Command::Block(block) => match block {
            BlockCommand::Set(_) | BlockCommand::AddFilled(_) => true,
            BlockCommand::SetOld(set) => set.data.0.is_empty(),
            BlockCommand::AddOld(add) => add.data.as_ref().is_some_and(|data| data.0.is_empty()),
            _ => false,
        },
        _ => false,
    }
}

/// Whether the answer is as long as what is asked for: an image, the content of a block device, lines of a console.
pub fn is_answered_by_content(command: &Command) -> bool {
    route(command).answer == Answer::Dump
        || matches!(
            command,
            Command::Unikernel(UnikernelCommand::Get(_)) | Command::Block(BlockCommand::DumpOld(_))
        )
}

impl<'a> Certificate<'a> {
    /// Takes one certificate apart; `der` holds nothing else.
    pub fn read(der: &'a [u8]) -> Result<Self, String> {
        match X509Certificate::from_der(der) {
            Ok((&[], certificate)) => Ok(Self(certificate)),
            Ok(_) => Err("bytes follow the certificate".to_owned()),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// What the extension of WIRE 10.1 carries, if the certificate has one.
    pub fn extension(&self) -> Result<Option<CertExtension>, ExtensionError> {
        let extension = self
            .0
            .get_extension_unique(&EXTENSION)
            .map_err(|_| ExtensionError::Duplicate)?;
        extension
            .map(|extension| CertExtension::decode(extension.value).map_err(ExtensionError::Value))
            .transpose()
    }

    /// The digest of the only image that the certificate allows to be created, if it names one.
    pub fn image_digest(&self) -> Result<Option<ImageDigest>, ExtensionError> {
        let extension = self
            .0
            .get_extension_unique(&IMAGE_EXTENSION)
            .map_err(|_| ExtensionError::Duplicate)?;
        extension
            .map(|extension| read_image_extension(extension.value))
            .transpose()
    }

    /// Whether the extension is there, readable or not.
    pub fn has_extension(&self) -> bool {
        !matches!(self.0.get_extension_unique(&EXTENSION), Ok(None))
    }

    /// The policy that the certificate delegates, if it does.
    pub fn policy(&self) -> Option<Policy> {
        match self.extension() {
            Ok(Some(CertExtension {
                command: Command::Policy(PolicyCommand::Add(policy)),
                ..
            })) => Some(policy),
            _ => None,
        }
    }

    /// A policy with the age of this certificate.
    fn dated(&self, policy: Policy) -> DatedPolicy {
        DatedPolicy {
            policy,
            not_before: Int::new(self.0.validity().not_before.timestamp()),
        }
    }

    /// The last common name of the subject; bytes that are not UTF-8 are replaced.
    pub fn common_name(&self) -> Option<String> {
        let name = self.0.subject().iter_common_name().last()?;
        Some(String::from_utf8_lossy(name.attr_value().data).into_owned())
    }

    /// The serial number in lower case hexadecimal.
    pub fn serial(&self) -> String {
        let mut text = String::new();
        for byte in self.0.raw_serial() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Everything else.
    pub fn x509(&self) -> &X509Certificate<'a> {
        &self.0
    }
}

/// Why DER cannot be read, in words: what the parser's own type would show is its insides.
pub fn unreadable(error: nom::Err<X509Error>) -> String {
    match X509Error::from(error) {
        X509Error::Der(Error::UnexpectedTag { .. } | Error::InvalidTag | Error::UnknownTag(_)) => {
            "it is not of the form that it should have".to_owned()
        }
        X509Error::Der(Error::Incomplete(_)) => "its end is missing".to_owned(),
        X509Error::Der(_) | X509Error::NomError(_) | X509Error::Generic => {
            "its encoding is damaged".to_owned()
        }
        other => in_words(&other),
    }
}

/// Name of an enum's variant as words: `BadDerTime` is "bad der time". Some errors of libraries have no other text.
pub(crate) fn in_words(variant: &impl fmt::Debug) -> String {
    let name = format!("{variant:?}");
    let name = name.split(|part: char| !part.is_alphanumeric()).next();
    let mut words = String::new();
    let mut within = false;
    for letter in name.unwrap_or_default().chars() {
        if letter.is_uppercase() && within {
            words.push(' ');
        }
        within = !letter.is_uppercase();
        words.extend(letter.to_lowercase());
    }
    words
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
    /// The name that the chain speaks of, as far as it is known.
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
            Self::EmptyChain => f.write_str("there is no certificate"),
            Self::ChainTooLong(length) => write!(
                f,
                "{length} certificates are in the chain, at most {MAX_PATH} are accepted"
            ),
            Self::BadCertificate(position, reason) => {
                write!(f, "{} cannot be read: {reason}", certificate(*position))
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

impl fmt::Display for ExtensionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate => f.write_str("an extension is there more than once"),
            Self::Value(error) => write!(f, "its command extension cannot be read: {error}"),
            Self::Digest => f.write_str("its image digest is no SHA-256"),
        }
    }
}

impl std::error::Error for ChainError {}
impl std::error::Error for ExtensionError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(command: &Command) -> Leaf {
        route(command).leaf
    }

    #[test]
    fn a_leaf_cannot_change_policies_or_play_a_daemon() {
        let policy = Policy {
            cpuids: Vec::new(),
            unikernels: Int::new(1),
            memory: Int::new(1),
            block: None,
            bridges: Vec::new(),
        };
        for command in [
            Command::Policy(PolicyCommand::Add(policy)),
            Command::Policy(PolicyCommand::Remove(())),
            Command::Statistics(StatsCommand::Remove(())),
            Command::Statistics(StatsCommand::Initial(())),
            Command::Console(ConsoleCommand::Add(Int::new(1))),
        ] {
            assert_eq!(rule(&command), Leaf::Never, "{command:?}");
        }
    }

    #[test]
    fn changing_a_block_device_needs_its_name() {
        for command in [
            BlockCommand::Add(Int::new(1)),
            BlockCommand::Remove(()),
            BlockCommand::Set(false),
        ] {
            assert_eq!(rule(&Command::Block(command)), Leaf::Named);
        }
        assert_eq!(rule(&Command::Block(BlockCommand::Info(()))), Leaf::Any);
    }

    #[test]
    fn nothing_is_asked_by_no_certificate() {
        assert_eq!(request(&[] as &[&[u8]]), Err(ChainError::EmptyChain));
        assert!(matches!(
            request(&[b"garbage"]),
            Err(ChainError::BadCertificate(0, _))
        ));
        let long = vec![b"x"; MAX_PATH + 1];
        assert_eq!(request(&long), Err(ChainError::ChainTooLong(MAX_PATH + 1)));
    }
}
