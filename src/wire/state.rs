//! The state file: what survives a restart of the supervisor.
//!
//! Images are not in it, they are in the image store under their digest. albatross's own state files (WIRE 6.1)
//! use the context tags 0 to 7, see [`albatross`]; that of Petrel is 64.

pub mod albatross;

use std::collections::BTreeSet;
use std::sync::Arc;

use rasn::types::Any;
use rasn::{AsnType, Decode, Decoder, Encode, Encoder as _};
use sha2::{Digest as _, Sha256};

use super::domain::{self, DomainError};
use super::extensions;
use super::{
    Bytes, Config as WireConfig, Int, NamedPolicy, Text, Timestamp, WireError, decode_canonical,
    encode,
};
use crate::name::{Name, Path};
use crate::policy::{Age, Policy};
use crate::unikernel::{Config, Death, ImageDigest, Version};

/// What the supervisor remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Unikernels, each name at most once, in any order: by name is written fastest.
    pub unikernels: Vec<Arc<Recorded>>,
    /// Policies, in any order.
    pub policies: Vec<(Path, Policy)>,
    /// Ages of the certificates whose policies were set.
    pub ages: Vec<(Path, Age)>,
    /// The newest ages that were forgotten below these paths.
    pub forgotten: Vec<(Path, Age)>,
}

/// What the supervisor remembers of a unikernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its name.
    pub name: Name,
    /// What runs, or is to run.
    pub version: Arc<Version>,
    /// What a rollback returns to.
    pub previous: Option<Arc<Version>>,
    /// Whether it is to run.
    pub standing: DesiredState,
}

/// Whether a unikernel is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredState {
    /// It is.
    Up,
    /// Not before somebody asks for it.
    Stopped,
    /// It ended by itself.
    Ended(LastExit),
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastExit {
    /// How.
    pub death: Death,
    /// When.
    pub at: Timestamp,
}

/// Why a state file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateError {
    /// Not of the grammar.
    Wire(WireError),
    /// An entry makes no sense (its name, why).
    Entry(String, DomainError),
    /// A digest that is not a SHA-256 (of this unikernel).
    Digest(String),
    /// A unikernel with the name of a path.
    Path(String),
    /// A name that is there twice.
    Duplicate(String),
}

/// Encodes states one after the other, and of what has not changed since the last one nothing anew.
#[derive(Debug, Default)]
pub struct Encoder {
    /// What was written last, in that order.
    recorded: Vec<Arc<Recorded>>,
    /// The same, encoded.
    encoded: Vec<Any>,
}

#[derive(AsnType, Encode, Decode, Debug)]
#[rasn(choice)]
enum StateFile {
    #[rasn(tag(explicit(64)))]
    Petrel(Petrel1<Entry>),
}

/// The same, with entries that are encoded already.
#[derive(AsnType, Encode, Debug)]
#[rasn(choice)]
enum EncodedFile {
    #[rasn(tag(explicit(64)))]
    Petrel(Petrel1<Any>),
}

#[derive(AsnType, Encode, Decode, Debug)]
struct Petrel1<Entry> {
    unikernels: Vec<Entry>,
    policies: Vec<NamedPolicy>,
    #[rasn(tag(explicit(0)))]
    ages: Option<Vec<NamedAge>>,
    /// The newest ages that were forgotten below a path.
    #[rasn(tag(explicit(1)))]
    forgotten: Option<Vec<NamedAge>>,
}

/// How new the certificate is whose policy was set.
#[derive(AsnType, Encode, Decode, Debug)]
struct NamedAge {
    name: Text,
    not_before: Int,
    /// Serial number of the certificate, by which earlier releases told those of one second apart. Written empty.
    serial: Bytes,
}

#[derive(AsnType, Encode, Decode, Debug)]
struct Entry {
    name: Text,
    config: WireConfig,
    digest: Bytes,
    #[rasn(tag(explicit(0)))]
    previous: Option<Previous>,
    #[rasn(tag(explicit(1)))]
    down: Option<Down>,
}

#[derive(AsnType, Encode, Decode, Debug)]
struct Previous {
    config: WireConfig,
    digest: Bytes,
}

#[derive(AsnType, Encode, Decode, Debug)]
#[rasn(choice)]
enum Down {
    #[rasn(tag(explicit(0)))]
    Stopped(()),
    #[rasn(tag(explicit(1)))]
    Ended(extensions::Exit),
}

impl State {
    /// The images that are wanted, each perhaps more than once.
    pub fn images(&self) -> impl Iterator<Item = ImageDigest> {
        self.unikernels
            .iter()
            .flat_map(|recorded| std::iter::once(&recorded.version).chain(&recorded.previous))
            .filter_map(|version| version.stored_image())
    }

    /// The content of the state file.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        Encoder::default().encode(self)
    }

    /// Reads the content of a state file.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let StateFile::Petrel(file) = decode_canonical(bytes).map_err(StateError::Wire)?;
        let unikernels = file.unikernels.iter();
        let unikernels = unikernels.map(|entry| Recorded::try_from(entry).map(Arc::new));
        let policies = file.policies.iter().map(|entry| {
            let bad = |error| StateError::Entry(entry.name.to_lossy(), error);
            let name = domain::name(&entry.name).map_err(bad)?;
            Ok((
                name.path().clone(),
                Policy::try_from(&entry.policy).map_err(bad)?,
            ))
        });
        let unikernels: Vec<_> = unikernels.collect::<Result<_, _>>()?;
        let policies: Vec<_> = policies.collect::<Result<_, _>>()?;
        once(unikernels.iter().map(|recorded| &recorded.name))?;
        once(policies.iter().map(|(path, _)| path))?;
        Ok(Self {
            unikernels,
            policies,
            ages: read_ages(file.ages)?,
            forgotten: read_ages(file.forgotten)?,
        })
    }
}

impl Encoder {
    /// The content of the state file.
    pub fn encode(&mut self, state: &State) -> Result<Vec<u8>, WireError> {
        let Self { recorded, encoded } = std::mem::take(self);
        let mut before = recorded.into_iter().zip(encoded).peekable();
        let mut unikernels = Vec::with_capacity(state.unikernels.len());
        for recorded in &state.unikernels {
            // Most are the same in memory, so that comparing costs little.
            let same = loop {
                if let Some(same) = before.next_if(|(old, _)| old == recorded) {
                    break Some(same);
                }
                // What is no longer there.
                if before
                    .next_if(|(old, _)| old.name < recorded.name)
                    .is_none()
                {
                    break None;
                }
            };
            let (recorded, encoded) = match same {
                Some(same) => same,
                None => (
                    recorded.clone(),
                    Any::new(encode(&Entry::from(&**recorded))?),
                ),
            };
            self.recorded.push(recorded);
            unikernels.push(encoded);
        }
        let policies = state.policies.iter().map(|(path, policy)| NamedPolicy {
            name: path.to_string().into(),
            policy: policy.into(),
        });
        let file = EncodedFile::Petrel(Petrel1 {
            unikernels,
            policies: policies.collect(),
            ages: written_ages(&state.ages),
            forgotten: written_ages(&state.forgotten),
        });
        let bytes = encode(&file)?;
        let EncodedFile::Petrel(Petrel1 { unikernels, .. }) = file;
        self.encoded = unikernels;
        Ok(bytes)
    }
}

impl From<&Recorded> for Entry {
    fn from(recorded: &Recorded) -> Self {
        let Recorded {
            name,
            version,
            previous,
            standing,
        } = recorded;
        Self {
            name: name.to_string().into(),
            config: version.config.to_wire(false, Vec::new()),
            digest: Bytes(version.image.0.to_vec()),
            previous: previous.as_ref().map(|previous| Previous {
                config: previous.config.to_wire(false, Vec::new()),
                digest: Bytes(previous.image.0.to_vec()),
            }),
            down: match standing {
                DesiredState::Up => None,
                DesiredState::Stopped => Some(Down::Stopped(())),
                DesiredState::Ended(exit) => Some(Down::Ended(exit.into())),
            },
        }
    }
}

impl TryFrom<&Entry> for Recorded {
    type Error = StateError;

    fn try_from(entry: &Entry) -> Result<Self, StateError> {
        let bad = |error| StateError::Entry(entry.name.to_lossy(), error);
        let version = |config, digest: &Bytes| {
            let digest = digest.0.as_slice().try_into().map(ImageDigest);
            Ok(Arc::new(Version {
                config: Config::try_from(config).map_err(bad)?,
                image: digest.map_err(|_| StateError::Digest(entry.name.to_lossy()))?,
            }))
        };
        let previous = entry.previous.as_ref();
        let name = domain::name(&entry.name).map_err(bad)?;
        if name.label().is_none() {
            return Err(StateError::Path(name.to_string()));
        }
        Ok(Self {
            name,
            version: version(&entry.config, &entry.digest)?,
            previous: previous
                .map(|previous| version(&previous.config, &previous.digest))
                .transpose()?,
            standing: match &entry.down {
                None => DesiredState::Up,
                Some(Down::Stopped(())) => DesiredState::Stopped,
                Some(Down::Ended(exit)) => DesiredState::Ended(exit.into()),
            },
        })
    }
}

impl Version {
    /// What tells this version from every other: the SHA-256 of its encoding.
    pub fn key(&self) -> [u8; 32] {
        let config = rasn::der::encode(&self.config.to_wire(false, Vec::new())).unwrap_or_default();
        Sha256::new()
            .chain_update(self.image.0)
            .chain_update(config)
            .finalize()
            .into()
    }
}

/// Refuses what is there twice.
fn once<T: Ord + ToString>(mut names: impl Iterator<Item = T>) -> Result<(), StateError> {
    let mut seen = BTreeSet::new();
    let twice = names.find_map(|name| seen.replace(name));
    twice.map_or(Ok(()), |name| Err(StateError::Duplicate(name.to_string())))
}

/// Omitted where there are none, so that the file is as it was before there were any.
fn written_ages(ages: &[(Path, Age)]) -> Option<Vec<NamedAge>> {
    let named = ages.iter().map(|(path, age)| NamedAge {
        name: path.to_string().into(),
        not_before: Int::new(age.not_before()),
        serial: Bytes(Vec::new()),
    });
    (!ages.is_empty()).then(|| named.collect())
}

fn read_ages(ages: Option<Vec<NamedAge>>) -> Result<Vec<(Path, Age)>, StateError> {
    let ages = ages.unwrap_or_default().into_iter().map(|entry| {
        let name = domain::name(&entry.name)
            .map_err(|error| StateError::Entry(entry.name.to_lossy(), error))?;
        Ok((name.path().clone(), Age::new(entry.not_before.get())))
    });
    ages.collect()
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "not a state file: {error}"),
            Self::Entry(name, error) => write!(f, "entry '{}': {error}", name.escape_default()),
            Self::Digest(name) => write!(
                f,
                "entry '{}': the digest is no SHA-256",
                name.escape_default()
            ),
            Self::Path(name) => write!(f, "entry '{name}': it is a path, and no unikernel's name"),
            Self::Duplicate(name) => write!(f, "entry '{name}': it is there twice"),
        }
    }
}

impl std::error::Error for StateError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unikernel::{FailBehaviour, Kind};

    #[test]
    fn a_state_is_read_back() {
        let config = Config {
            kind: Kind::Solo5,
            startup: Some(3),
            add_name: true,
            fail_behaviour: FailBehaviour::Restart([2, 3].into()),
            cpus: [0, 1].into(),
            memory: 32,
            blocks: Vec::new(),
            nets: Vec::new(),
            arguments: vec![b"--a".to_vec(), vec![0xff]],
            vcpus: 1,
            linux_boot_partition: None,
        };
        let policy = Policy {
            unikernels: 1,
            cpus: [0].into(),
            memory: 64,
            block: None,
            bridges: ["service".to_owned()].into(),
        };
        let version = Arc::new(Version {
            config,
            image: ImageDigest([7; 32]),
        });
        let recorded = |name: &str, previous, standing| {
            Arc::new(Recorded {
                name: name.parse().unwrap(),
                version: version.clone(),
                previous,
                standing,
            })
        };
        let ended = LastExit {
            death: Death::Signal(9),
            at: Timestamp::from_unix(1, 0),
        };
        let state = State {
            unikernels: vec![
                recorded("a:b", None, DesiredState::Up),
                recorded("a:c", Some(version.clone()), DesiredState::Stopped),
                recorded("a:d", None, DesiredState::Ended(ended)),
            ],
            policies: vec![("a".parse().unwrap(), policy)],
            ..State::default()
        };
        let without_ages = state.encode().unwrap();
        assert_eq!(State::decode(&without_ages), Ok(state.clone()));

        let state = State {
            ages: vec![("a:b".parse().unwrap(), Age::new(1_700_000_000))],
            forgotten: vec![(Path::ROOT, Age::new(5))],
            ..state
        };
        let with_ages = state.encode().unwrap();
        assert!(with_ages.len() > without_ages.len());
        assert_eq!(State::decode(&with_ages), Ok(state));
    }

    #[test]
    fn what_is_encoded_again_is_what_is_encoded_anew() {
        let version = Version {
            config: crate::supervisor::fixtures::config(),
            image: ImageDigest([7; 32]),
        };
        let recorded = |name: &str, standing| {
            Arc::new(Recorded {
                name: name.parse().unwrap(),
                version: Arc::new(version.clone()),
                previous: None,
                standing,
            })
        };
        let (a, b) = (
            recorded("a:b", DesiredState::Up),
            recorded("a:c", DesiredState::Up),
        );
        let stopped = recorded("a:b", DesiredState::Stopped);
        let mut encoder = Encoder::default();
        for unikernels in [
            vec![a.clone(), b.clone()],
            vec![stopped, b],
            vec![a],
            vec![],
        ] {
            let state = State {
                unikernels,
                ..State::default()
            };
            assert_eq!(encoder.encode(&state), state.encode());
            assert_eq!(encoder.encoded.len(), state.unikernels.len());
        }
    }

    #[test]
    fn neither_a_path_nor_a_second_one_of_a_name_is_a_unikernel() {
        let decoded = |names: &[&str], paths: &[&str]| {
            let recorded = |name: &&str| {
                Arc::new(Recorded {
                    name: name.parse().unwrap(),
                    version: Arc::new(Version {
                        config: crate::supervisor::fixtures::config(),
                        image: ImageDigest([7; 32]),
                    }),
                    previous: None,
                    standing: DesiredState::Up,
                })
            };
            let policy = crate::supervisor::fixtures::settings().resources;
            let policy = |path: &&str| (path.parse().unwrap(), policy.clone());
            let state = State {
                unikernels: names.iter().map(recorded).collect(),
                policies: paths.iter().map(policy).collect(),
                ..State::default()
            };
            State::decode(&state.encode().unwrap()).map(drop)
        };
        let twice = |name: &str| Err(StateError::Duplicate(name.to_owned()));
        assert_eq!(decoded(&["a:b", ":b"], &["a", "b"]), Ok(()));
        assert_eq!(decoded(&["a:b", ":b", "a:b"], &[]), twice("a:b"));
        assert_eq!(decoded(&[], &["a", "a"]), twice("a:"));
        assert_eq!(decoded(&["a:"], &[]), Err(StateError::Path("a:".into())));
    }

    #[test]
    fn versions_have_the_same_key_only_if_they_are_the_same() {
        let version = |memory, image| {
            let config = Config {
                memory,
                ..crate::supervisor::fixtures::config()
            };
            let image = ImageDigest([image; 32]);
            Version { config, image }.key()
        };
        assert_eq!(version(32, 1), version(32, 1));
        assert_ne!(version(32, 1), version(33, 1));
        assert_ne!(version(32, 1), version(32, 2));
    }

    #[test]
    fn a_file_from_before_ages_is_read() {
        // [64] { SEQUENCE { SEQUENCE {}, SEQUENCE {} } }
        let file = [0xbf, 0x40, 6, 0x30, 4, 0x30, 0, 0x30, 0];
        assert_eq!(State::decode(&file), Ok(State::default()));
        assert_eq!(State::default().encode().unwrap(), file);
    }

    #[test]
    fn an_age_with_a_serial_number_is_read_without_it() {
        // [64] { SEQUENCE { {}, {}, [0] { { { UTF8String "a:", INTEGER 9, OCTET STRING ff } } } } }
        let age = [0x0c, 2, b'a', b':', 2, 1, 9, 4, 1, 0xff];
        let head = [
            0xbf, 0x40, 22, 0x30, 20, 0x30, 0, 0x30, 0, 0xa0, 14, 0x30, 12, 0x30, 10,
        ];
        let state = State::decode(&[&head[..], &age].concat()).unwrap();
        assert_eq!(state.ages, [("a".parse().unwrap(), Age::new(9))]);
    }

    #[test]
    fn an_empty_or_foreign_file_is_refused() {
        assert!(State::decode(b"").is_err());
        assert!(State::decode(&[0xa7, 2, 5, 0]).is_err());
    }
}
