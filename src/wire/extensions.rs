//! Records of Petrel's own: context tags from 64 on carry them, which no release of albatross uses.

use rasn::{AsnType, Decode, Decoder, Encode, Encoder};

use super::message::{Policy, SinceCount};
use super::primitive::{Bytes, Int, Text, Timestamp};
use super::state::LastExit;
use super::unikernel::Info;
use crate::name::{Name, Path};
use crate::policy::UNLIMITED;
use crate::unikernel::Death as Cause;

/// A policy and the age of the certificate that carries it.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct DatedPolicy {
    /// The policy.
    pub policy: Policy,
    /// Start of the certificate's validity, seconds since 1970.
    pub not_before: Int,
}

/// What is read of a console. After the first answer and the lines, [`super::Success::Empty`] says that there are
/// no more: with `follow` each time that the run has ended, without it once, and then the connection is closed.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct ConsoleRead {
    /// The history.
    pub from: SinceCount,
    /// Whether live lines are wanted, too.
    pub follow: bool,
}

/// A block device that comes into being with its content.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct BlockAddFilled {
    /// MB.
    pub size: Int,
    /// Whether the stream that follows is compressed.
    pub compressed: bool,
}

/// A unikernel that runs, is to run, or ran, and its name.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct NamedDetails {
    /// Name.
    pub name: Text,
    /// What is told of it.
    pub details: Details,
}

/// What is told of a unikernel beyond [`Info`].
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// What albatross tells, too; started at the epoch if it does not run.
    pub info: Info,
    /// Where it is in its life.
    pub standing: Standing,
    /// How often it was started again after a failure, since it was created or the host was booted.
    pub restarts: Int,
    /// How it ended last.
    #[rasn(tag(explicit(0)))]
    pub last_exit: Option<Exit>,
    /// SHA-256 of the image that a rollback returns to.
    #[rasn(tag(explicit(1)))]
    pub previous: Option<Bytes>,
    /// Why it is not on one of its bridges, if it runs.
    #[rasn(tag(explicit(2)))]
    pub off_bridge: Option<Text>,
}

/// Where a unikernel is in its life.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Standing {
    /// It runs.
    #[rasn(tag(explicit(0)))]
    Running(()),
    /// It is being started.
    #[rasn(tag(explicit(1)))]
    Starting(()),
    /// It waits for its next start.
    #[rasn(tag(explicit(2)))]
    Waiting(Waiting),
    /// It was stopped, and stays so until it is asked to start.
    #[rasn(tag(explicit(3)))]
    Stopped(()),
    /// It ended, and nothing started it again.
    #[rasn(tag(explicit(4)))]
    Ended(()),
}

/// What a unikernel waits for.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When it is started again; absent: as soon as others have been started.
    #[rasn(tag(explicit(0)))]
    pub until: Option<Timestamp>,
    /// Why its last start failed.
    #[rasn(tag(explicit(1)))]
    pub trouble: Option<Text>,
}

/// The end of a run.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How.
    pub death: Death,
    /// When.
    pub at: Timestamp,
}

/// How a run ended.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Death {
    /// With this exit code.
    #[rasn(tag(explicit(0)))]
    Exit(Int),
    /// By this signal.
    #[rasn(tag(explicit(1)))]
    Signal(Int),
    /// The system had no memory left for it.
    #[rasn(tag(explicit(2)))]
    OutOfMemory(()),
    /// Nobody knows.
    #[rasn(tag(explicit(3)))]
    Unknown(()),
}

/// Label of the name to which the bound of a tenant's archives is addressed.
const BOUND: &str = "archive-bound";

/// Name and number of a console add that says how many bytes the archives of a tenant may take at most.
///
/// A console daemon that does not know of this takes it for a unikernel without a fifo, refuses it, and goes on. The
/// number is negative, as that of no other.
pub fn bound_archives(tenant: &Path, bytes: u64) -> Option<(Name, Int)> {
    let name = Name::new(tenant.clone(), BOUND.parse().ok()?);
    let bytes = i64::try_from(bytes.min(UNLIMITED)).ok()?;
    Some((name, Int::new(-bytes)))
}

/// Bytes that the archives of the tenant of `name` may take, if that is what a console add says.
pub fn archive_bound(name: &Name, number: &Int) -> Option<u64> {
    let is_bound = name.label().is_some_and(|label| label.as_str() == BOUND);
    (is_bound && number.get() < 0).then(|| number.get().unsigned_abs())
}

impl From<Cause> for Death {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Exit(code) => Self::Exit(u64::from(code).into()),
            Cause::Signal(signal) => Self::Signal(Int::new(signal.into())),
            Cause::OutOfMemory => Self::OutOfMemory(()),
            Cause::Unknown => Self::Unknown(()),
        }
    }
}

impl From<&Death> for Cause {
    /// A code or signal that cannot be one is an end that nobody knows.
    fn from(death: &Death) -> Self {
        match death {
            Death::Exit(code) => u8::try_from(code.get()).map_or(Self::Unknown, Self::Exit),
            Death::Signal(signal) => {
                i32::try_from(signal.get()).map_or(Self::Unknown, Self::Signal)
            }
            Death::OutOfMemory(()) => Self::OutOfMemory,
            Death::Unknown(()) => Self::Unknown,
        }
    }
}

impl From<&LastExit> for Exit {
    fn from(exit: &LastExit) -> Self {
        Self {
            death: exit.death.into(),
            at: exit.at.clone(),
        }
    }
}

impl From<&Exit> for LastExit {
    fn from(exit: &Exit) -> Self {
        Self {
            death: (&exit.death).into(),
            at: exit.at.clone(),
        }
    }
}
