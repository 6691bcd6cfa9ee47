//! The state file: what survives a restart of the supervisor.
//!
//! Images are not in it, they are in the image store under their digest. albatross's own state files (WIRE 6.1)
//! use the context tags 0 to 7, see [`albatross`]; ours is [64].

pub mod albatross;

use rasn::{AsnType, Decode, Decoder, Encode, Encoder};

use super::domain::{self, DomainError};
use super::{
    Config as WireConfig, Int, NamedPolicy, Octets, Text, WireError, decode_canonical, encode,
};
use crate::name::{Name, Path};
use crate::policy::{Age, Policy};
use crate::unikernel::{Config, ImageDigest};

/// What the supervisor remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Unikernels that run, or are to run, in any order.
    pub unikernels: Vec<(Name, Config, ImageDigest)>,
    /// Policies, in any order.
    pub policies: Vec<(Path, Policy)>,
    /// Ages of the certificates whose policies were set.
    pub ages: Vec<(Path, Age)>,
    /// The newest ages that were forgotten below these paths.
    pub forgotten: Vec<(Path, Age)>,
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
    /// The serial number of a certificate is too long (of this path).
    Serial(String),
    /// A name that is there twice.
    Duplicate(String),
}

#[derive(AsnType, Encode, Decode, Debug)]
#[rasn(choice)]
enum StateFile {
    #[rasn(tag(explicit(64)))]
    Petrel(Petrel1),
}

#[derive(AsnType, Encode, Decode, Debug)]
struct Petrel1 {
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
    serial: Octets,
}

#[derive(AsnType, Encode, Decode, Debug)]
struct Entry {
    name: Text,
    config: WireConfig,
    digest: Octets,
}

impl State {
    /// The content of the state file.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let unikernels = self.unikernels.iter().map(|(name, config, digest)| Entry {
            name: name.to_string().into(),
            config: config.to_wire(false, Vec::new()),
            digest: Octets(digest.0.to_vec()),
        });
        let policies = self.policies.iter().map(|(path, policy)| NamedPolicy {
            name: path.to_string().into(),
            policy: policy.into(),
        });
        encode(&StateFile::Petrel(Petrel1 {
            unikernels: unikernels.collect(),
            policies: policies.collect(),
            ages: written_ages(&self.ages),
            forgotten: written_ages(&self.forgotten),
        }))
    }

    /// Reads the content of a state file.
    pub fn decode(octets: &[u8]) -> Result<Self, StateError> {
        let StateFile::Petrel(file) = decode_canonical(octets).map_err(StateError::Wire)?;
        let unikernels = file.unikernels.iter().map(|entry| {
            let bad = |error| StateError::Entry(entry.name.to_lossy(), error);
            let digest = entry.digest.0.as_slice().try_into().map(ImageDigest);
            Ok((
                domain::name(&entry.name).map_err(bad)?,
                Config::try_from(&entry.config).map_err(bad)?,
                digest.map_err(|_| StateError::Digest(entry.name.to_lossy()))?,
            ))
        });
        let policies = file.policies.iter().map(|entry| {
            let bad = |error| StateError::Entry(entry.name.to_lossy(), error);
            let name = domain::name(&entry.name).map_err(bad)?;
            Ok((
                name.path().clone(),
                Policy::try_from(&entry.policy).map_err(bad)?,
            ))
        });
        Ok(Self {
            unikernels: unikernels.collect::<Result<_, _>>()?,
            policies: policies.collect::<Result<_, _>>()?,
            ages: read_ages(file.ages)?,
            forgotten: read_ages(file.forgotten)?,
        })
    }
}

/// Omitted where there are none, so that the file is as it was before there were any.
fn written_ages(ages: &[(Path, Age)]) -> Option<Vec<NamedAge>> {
    let named = ages.iter().map(|(path, age)| NamedAge {
        name: path.to_string().into(),
        not_before: Int::new(age.not_before()),
        serial: Octets(age.serial().to_vec()),
    });
    (!ages.is_empty()).then(|| named.collect())
}

fn read_ages(ages: Option<Vec<NamedAge>>) -> Result<Vec<(Path, Age)>, StateError> {
    let ages = ages.unwrap_or_default().into_iter().map(|entry| {
        let name = domain::name(&entry.name)
            .map_err(|error| StateError::Entry(entry.name.to_lossy(), error))?;
        let age = Age::new(entry.not_before.get(), &entry.serial.0)
            .ok_or_else(|| StateError::Serial(entry.name.to_lossy()))?;
        Ok((name.path().clone(), age))
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
            Self::Serial(name) => write!(
                f,
                "entry '{}': the serial number is too long",
                name.escape_default()
            ),
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
        let state = State {
            unikernels: vec![("a:b".parse().unwrap(), config, ImageDigest([7; 32]))],
            policies: vec![("a".parse().unwrap(), policy)],
            ..State::default()
        };
        let without_ages = state.encode().unwrap();
        assert_eq!(State::decode(&without_ages), Ok(state.clone()));

        let age = |time, serial| Age::new(time, serial).unwrap();
        let state = State {
            ages: vec![("a:b".parse().unwrap(), age(1_700_000_000, &[0, 0xff]))],
            forgotten: vec![(Path::ROOT, age(5, &[]))],
            ..state
        };
        let with_ages = state.encode().unwrap();
        assert!(with_ages.len() > without_ages.len());
        assert_eq!(State::decode(&with_ages), Ok(state));
    }

    #[test]
    fn a_file_from_before_ages_is_read() {
        // [64] { SEQUENCE { SEQUENCE {}, SEQUENCE {} } }
        let file = [0xbf, 0x40, 6, 0x30, 4, 0x30, 0, 0x30, 0];
        assert_eq!(State::decode(&file), Ok(State::default()));
        assert_eq!(State::default().encode().unwrap(), file);
    }

    #[test]
    fn an_empty_or_foreign_file_is_refused() {
        assert!(State::decode(b"").is_err());
        assert!(State::decode(&[0xa7, 2, 5, 0]).is_err());
    }
}
