//! albatross's state file, in every version that it ever wrote (WIRE 4 `State`, 6.1).
//!
//! It holds the images themselves. The versions are told apart by a context tag; the first two are not in order.

use std::collections::BTreeMap;

use rasn::{AsnType, Decode, Decoder, Encode};

use super::StateError;
use crate::name::{Label, Name, Path};
use crate::policy::Policy;
use crate::unikernel::Config;
use crate::wire::domain::{self, DomainError};
use crate::wire::legacy::{ConfigV0, ConfigV1, ConfigV2, ConfigV3, ConfigV4};
use crate::wire::{
    Config as WireConfig, FailBehaviour, Int, NamedPolicy, Policy as WirePolicy, Set, Text,
    WireError, decode_canonical, encode,
};

/// The identifier bytes of the versions, with which a file begins.
pub const VERSIONS: std::ops::RangeInclusive<u8> = 0xa0..=0xa7;

/// What the file says, in current records; no two unikernels and no two policies have the same labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    unikernels: BTreeMap<Labels, (Name, WireConfig)>,
    policies: BTreeMap<Labels, (Path, WirePolicy)>,
}

/// Where an entry stands in the tree of names; the file has the tree in pre-order, which is the order of these.
type Labels = Vec<Label>;

/// What Petrel can take over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// Unikernels that were running.
    pub unikernels: Vec<Unikernel>,
    /// Policies, that of the root (the host's own resources) included.
    pub policies: Vec<(Path, Policy)>,
    /// Entries that make no sense here.
    pub refused: Vec<StateError>,
}

/// A unikernel and its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unikernel {
    /// Name.
    pub name: Name,
    /// Everything but the image.
    pub config: Config,
    /// Whether the image is a zlib stream.
    pub compressed: bool,
    /// The image; empty for BHyve.
    pub image: Vec<u8>,
}

#[derive(AsnType, Encode, Decode)]
#[rasn(choice)]
enum StateFile {
    #[rasn(tag(explicit(0)))]
    V1(Vec<UnikernelV1>),
    #[rasn(tag(explicit(1)))]
    V0(Vec<UnikernelV0>),
    #[rasn(tag(explicit(2)))]
    V2(Vec<UnikernelV2>),
    #[rasn(tag(explicit(3)))]
    V3(Vec<UnikernelV3>),
    #[rasn(tag(explicit(4)))]
    V3Policies(StateV3),
    #[rasn(tag(explicit(5)))]
    V4Policies(StateV4),
    #[rasn(tag(explicit(6)))]
    Current(StateV5),
}

/// Declares the entry of one version of unikernels.
macro_rules! entries {
    ($($entry:ident: $config:ident;)*) => {
        $(
            #[derive(AsnType, Encode, Decode)]
            struct $entry {
                name: Text,
                value: $config,
            }

            impl From<$entry> for (Text, WireConfig) {
                fn from(entry: $entry) -> Self {
                    (entry.name, entry.value.into())
                }
            }
        )*
    };
}

entries! {
    UnikernelV0: ConfigV0;
    UnikernelV1: ConfigV1;
    UnikernelV2: ConfigV2;
    UnikernelV3: ConfigV3;
    UnikernelV4: ConfigV4;
    UnikernelV5: WireConfig;
}

/// Declares a state with policies.
macro_rules! states {
    ($($state:ident: $entry:ident;)*) => {
        $(
            #[derive(AsnType, Encode, Decode)]
            struct $state {
                unikernels: Vec<$entry>,
                policies: Vec<NamedPolicy>,
            }
        )*
    };
}

states! {
    StateV3: UnikernelV3;
    StateV4: UnikernelV4;
    StateV5: UnikernelV5;
}

impl State {
    /// A state of these entries; an error if a name is there twice, be it once with a final label and once as a path.
    pub fn new(
        unikernels: impl IntoIterator<Item = (Name, WireConfig)>,
        policies: impl IntoIterator<Item = (Path, WirePolicy)>,
    ) -> Result<Self, StateError> {
        let mut state = Self::default();
        for (name, config) in unikernels {
            let labels = name.path().labels().iter().chain(name.label());
            let entry = (name.clone(), config);
            if state
                .unikernels
                .insert(labels.cloned().collect(), entry)
                .is_some()
            {
                return Err(StateError::Duplicate(name.to_string()));
            }
        }
        for (path, policy) in policies {
            let entry = (path.clone(), policy);
            if state
                .policies
                .insert(path.labels().to_vec(), entry)
                .is_some()
            {
                return Err(StateError::Duplicate(path.to_string()));
            }
        }
        Ok(state)
    }

    /// Reads the content of a state file of any version.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let file = decode_canonical(bytes).map_err(StateError::Wire)?;
        let (unikernels, policies) = match file {
            StateFile::V0(unikernels) => (current(unikernels), Vec::new()),
            StateFile::V1(unikernels) => (current(unikernels), Vec::new()),
            StateFile::V2(unikernels) => (current(unikernels), Vec::new()),
            StateFile::V3(unikernels) => (current(unikernels), Vec::new()),
            StateFile::V3Policies(state) => (current(state.unikernels), state.policies),
            StateFile::V4Policies(state) => (current(state.unikernels), state.policies),
            StateFile::Current(state) => (current(state.unikernels), state.policies),
        };
        let unikernels: Vec<_> = unikernels
            .into_iter()
            .map(|(name, config)| Ok((read_name(&name)?, config)))
            .collect::<Result<_, _>>()?;
        let policies: Vec<_> = policies
            .into_iter()
            .map(|entry| Ok((read_path(&entry.name)?, entry.policy)))
            .collect::<Result<_, _>>()?;
        Self::new(unikernels, policies)
    }

    /// The content of a state file of the current version.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let unikernels = self.unikernels().map(|(name, config)| UnikernelV5 {
            name: name.to_string().into(),
            value: as_written(config.clone()),
        });
        let policies = self.policies().map(|(path, policy)| NamedPolicy {
            name: path.to_string().into(),
            policy: policy.clone(),
        });
        encode(&StateFile::Current(StateV5 {
            unikernels: unikernels.collect(),
            policies: policies.collect(),
        }))
    }

    /// The unikernels, in the order of the file.
    pub fn unikernels(&self) -> impl Iterator<Item = (&Name, &WireConfig)> {
        self.unikernels
            .values()
            .map(|(name, config)| (name, config))
    }

    /// The policies, in the order of the file.
    pub fn policies(&self) -> impl Iterator<Item = (&Path, &WirePolicy)> {
        self.policies.values().map(|(path, policy)| (path, policy))
    }

    /// What Petrel can take over of it, and what it cannot.
    pub fn import(self) -> Import {
        let mut import = Import::default();
        for (name, record) in self.unikernels.into_values() {
            match Config::try_from(&record) {
                Ok(config) => import.unikernels.push(Unikernel {
                    name,
                    config,
                    compressed: record.compressed,
                    image: record.image.0,
                }),
                Err(error) => import.refuse(&name, error),
            }
        }
        for (path, record) in self.policies.into_values() {
            match Policy::try_from(&record) {
                Ok(policy) => import.policies.push((path, policy)),
                Err(error) => import.refuse(&path, error),
            }
        }
        import
    }
}

impl Import {
    fn refuse(&mut self, name: &impl ToString, error: DomainError) {
        self.refused
            .push(StateError::Entry(name.to_string(), error));
    }
}

fn current<T: Into<(Text, WireConfig)>>(entries: Vec<T>) -> Vec<(Text, WireConfig)> {
    entries.into_iter().map(Into::into).collect()
}

fn read_name(text: &Text) -> Result<Name, StateError> {
    domain::name(text).map_err(|error| StateError::Entry(text.to_lossy(), error))
}

/// Policies are always stored under the names of paths (WIRE 2).
fn read_path(text: &Text) -> Result<Path, StateError> {
    let name = read_name(text)?;
    if name.label().is_some() {
        let error = DomainError::Text("path of a policy", text.to_lossy());
        return Err(StateError::Entry(text.to_lossy(), error));
    }
    Ok(name.path().clone())
}

/// The configuration as a writer has it: sets in order, numbers in them once, defaults spelled out (WIRE 1.11, 1.13).
fn as_written(mut config: WireConfig) -> WireConfig {
    let sorted = |numbers: Set<Int>| {
        let mut numbers = numbers.into_items();
        numbers.sort_unstable();
        numbers.dedup();
        Set::sorted(numbers)
    };
    config.cpuids = sorted(config.cpuids);
    if let FailBehaviour::RestartExitCodes(codes) = config.fail_behaviour {
        config.fail_behaviour = FailBehaviour::RestartExitCodes(sorted(codes));
    }
    config.blocks = config
        .blocks
        .and_then(|set| domain::set_unless_empty(set.into_items().into_iter()));
    config.bridges = config
        .bridges
        .and_then(|set| domain::set_unless_empty(set.into_items().into_iter()));
    config.cpus = config.cpus.or(Some(Int::new(1)));
    config
}
