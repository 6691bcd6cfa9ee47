//! What `info` and `policy` answer: lists below a path, their names relative to it (WIRE 8.2, 8.3).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::name::{Label, Name, Path};
use crate::policy::Policy;
use crate::unikernel::{Kind, Version};
use crate::wire::domain::set_unless_empty;
use crate::wire::extensions::{Details, NamedDetails, Standing, Waiting};
use crate::wire::legacy::InfoV5;
use crate::wire::{
    BlockInfo, Bytes, Info, Int, MacAddress, NamedInfo, NamedInfo4, NamedInfo5, NamedPolicy,
    NetInfo, Success, Text, Timestamp,
};

use super::{BlockDevices, Ended, Owner, Run, Unikernel, block_requests};

/// Bytes of a sector where none was specified.
const DEFAULT_SECTOR: u16 = 512;

/// A unikernel that is told of.
pub(super) struct Subject<'a> {
    pub name: &'a Name,
    pub version: &'a Version,
    pub started: Timestamp,
    pub known: Known<'a>,
}

/// What else is told of a unikernel.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The block devices, for their sizes.
    pub devices: &'a BlockDevices,
    /// Which of those that run are off a bridge, and why.
    pub off_bridge: &'a BTreeMap<Name, String>,
    /// What names BHyve machines, if there are any.
    pub machines: Option<&'a Owner>,
}

/// A zlib level that was asked for, 0 for no compression.
pub(super) fn compression_level(level: Int) -> Result<u8, String> {
    let asked = level.get();
    u8::try_from(asked)
        .ok()
        .filter(|level| *level <= 9)
        .ok_or_else(|| format!("compression level {asked} is not one of 0 to 9"))
}

/// What is told of the unikernels that `asked` covers: one by its name, or all below a path.
pub(super) fn unikernels<'a>(
    asked: &Name,
    running: impl Iterator<Item = Subject<'a>>,
) -> Vec<NamedInfo> {
    covered(asked, running.map(|subject| (subject.name, subject)))
        .map(|(name, subject)| NamedInfo {
            name,
            info: info(subject),
        })
        .collect()
}

/// The same of all that run, are to run, or ran, with everything that is known of them.
pub(super) fn details(
    asked: &Name,
    unikernels: &BTreeMap<Name, Unikernel>,
    ended: &BTreeMap<Name, Ended>,
    known: Known<'_>,
) -> Vec<NamedDetails> {
    let present = unikernels
        .iter()
        .map(|(name, unikernel)| (name, details_of(name, unikernel, known)));
    // What has a successor already is not told of twice.
    let ended = ended
        .iter()
        .filter(|(name, _)| !unikernels.contains_key(name))
        .map(|(name, ended)| (name, details_of_ended(name, ended, known)));
    covered(asked, present.chain(ended))
        .map(|(name, details)| NamedDetails { name, details })
        .collect()
}

/// Those that `asked` covers, in order, and under which name they are told of.
pub(super) fn covered<'a, Item>(
    asked: &Name,
    all: impl Iterator<Item = (&'a Name, Item)>,
) -> impl Iterator<Item = (Text, Item)> {
    let mut found: Vec<_> = all
        .filter_map(|(name, item)| {
            let shown = match asked.label() {
                Some(_) => (name == asked).then(|| asked.clone()),
                None => name.relative_to(asked.path()),
            }?;
            Some((name, shown, item))
        })
        .collect();
    found.sort_by(|(one, ..), (other, ..)| preorder(one, other));
    found
        .into_iter()
        .map(|(_, shown, item)| (shown.to_string().into(), item))
}

/// The same in the form that older clients ask for. Every unikernel has a processor, so none is left out.
pub(super) fn old5(unikernels: Vec<NamedInfo>) -> Vec<NamedInfo5> {
    unikernels
        .into_iter()
        .filter_map(|NamedInfo { name, info }| {
            let info = InfoV5::of(info)?;
            Some(NamedInfo5 { name, info })
        })
        .collect()
}

/// The same in the form that still older clients ask for.
pub(super) fn old4(unikernels: Vec<NamedInfo>) -> Vec<NamedInfo4> {
    old5(unikernels)
        .into_iter()
        .map(|NamedInfo5 { name, info }| NamedInfo4 {
            name,
            info: info.into(),
        })
        .collect()
}

/// The answer about the policies at and below a path.
pub(super) fn policies<'a>(
    path: &Path,
    policies: impl Iterator<Item = (&'a Path, &'a Policy)>,
) -> Success {
    let mut found: Vec<_> = policies
        .filter_map(|(at, policy)| Some((Name::from(at.relative_to(path)?), policy)))
        .collect();
    found.sort_by(|(one, _), (other, _)| preorder(one, other));
    Success::Policies(
        found
            .into_iter()
            .map(|(name, policy)| NamedPolicy {
                name: name.to_string().into(),
                policy: policy.into(),
            })
            .collect(),
    )
}

/// A node before its children, children in descending order of their labels.
fn preorder(one: &Name, other: &Name) -> Ordering {
    let labels = |name: &Name| -> Vec<Label> {
        name.path()
            .labels()
            .iter()
            .chain(name.label())
            .cloned()
            .collect()
    };
    let (one, other) = (labels(one), labels(other));
    one.iter()
        .zip(&other)
        .map(|(one, other)| other.cmp(one))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| one.len().cmp(&other.len()))
}

fn details_of(name: &Name, unikernel: &Unikernel, known: Known<'_>) -> Details {
    let started = unikernel.started().cloned();
    Details {
        info: info(Subject {
            name,
            version: &unikernel.version,
            started: started.unwrap_or_else(epoch),
            known,
        }),
        standing: match &unikernel.run {
            Run::Up { .. } => Standing::Running(()),
            Run::Starting => Standing::Starting(()),
            Run::Waiting(_, until) => Standing::Waiting(Waiting {
                until: Some(until.clone()),
                trouble: unikernel.trouble.as_deref().map(Into::into),
            }),
            Run::Due => Standing::Waiting(Waiting {
                until: None,
                trouble: unikernel.trouble.as_deref().map(Into::into),
            }),
            Run::Stopped => Standing::Stopped(()),
        },
        restarts: unikernel.history.restarts.into(),
        last_exit: unikernel.history.last_exit.as_ref().map(Into::into),
        previous: unikernel.previous.as_deref().map(digest),
        off_bridge: known
            .off_bridge
            .get(name)
            .filter(|_| unikernel.is_up())
            .map(|why| why.as_str().into()),
    }
}

fn details_of_ended(name: &Name, ended: &Ended, known: Known<'_>) -> Details {
    Details {
        info: info(Subject {
            name,
            version: &ended.version,
            started: epoch(),
            known,
        }),
        standing: Standing::Ended(()),
        restarts: Int::new(0),
        last_exit: Some((&ended.exit).into()),
        previous: ended.previous.as_deref().map(digest),
        off_bridge: None,
    }
}

fn epoch() -> Timestamp {
    Timestamp::from_unix(0, 0)
}

fn digest(version: &Version) -> Bytes {
    Bytes(version.image.0.to_vec())
}

fn info(subject: Subject<'_>) -> Info {
    let Subject {
        name,
        version: Version { config, image },
        started,
        known: Known {
            devices, machines, ..
        },
    } = subject;
    Info {
        typ: config.wire_kind(),
        startup: config.startup.map(Int::new),
        fail_behaviour: config.wire_fail_behaviour(),
        cpuids: config.wire_cpus(),
        memory: u64::from(config.memory).into(),
        digest: Bytes(match config.kind {
            Kind::Solo5 => image.0.to_vec(),
            Kind::Bhyve => machines.map_or(Vec::new(), |owner| owner.machine(name).into_bytes()),
        }),
        blocks: set_unless_empty(config.blocks.iter().map(|block| BlockInfo {
            unikernel_device: block.device.as_str().into(),
            host_device: block.host_device().into(),
            sector_size: u64::from(block.sector_size.unwrap_or(DEFAULT_SECTOR)).into(),
            block_size: block_requests::size(devices, name.path(), block).into(),
        })),
        bridges: set_unless_empty(config.nets.iter().map(|net| NetInfo {
            unikernel_device: net.device.as_str().into(),
            host_device: net.bridge().into(),
            mac: MacAddress(net.mac(name).0),
        })),
        arguments: config.wire_arguments(),
        started: Some(started),
        cpus: Some(u64::from(config.vcpus).into()),
        linux_boot_partition: config.linux_boot_partition.as_deref().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::fixtures::config;
    use crate::unikernel::ImageDigest;

    fn names(asked: &str, running: &[&str]) -> Vec<String> {
        let version = Version {
            config: config(),
            image: ImageDigest([0; 32]),
        };
        let (devices, none) = (BlockDevices::default(), BTreeMap::new());
        let running: Vec<Name> = running.iter().map(|name| name.parse().unwrap()).collect();
        let answer = unikernels(
            &asked.parse().unwrap(),
            running.iter().map(|name| Subject {
                name,
                version: &version,
                started: Timestamp::from_unix(0, 0),
                known: Known {
                    devices: &devices,
                    off_bridge: &none,
                    machines: None,
                },
            }),
        );
        answer.iter().map(|info| info.name.to_lossy()).collect()
    }

    #[test]
    fn names_are_relative_to_the_path_and_in_descending_preorder() {
        let running = [":a", ":b", "b:c", "b:d:e", "z:x"];
        assert_eq!(names(":", &running), ["z:x", ":b", "b:d:e", "b:c", ":a"]);
        assert_eq!(names("b:", &running), ["d:e", ":c"]);
    }

    #[test]
    fn a_name_is_answered_as_it_was_asked_for() {
        assert_eq!(names("b:c", &[":b", "b:c", "b:c:d"]), ["b:c"]);
        assert!(names("b", &["b:c"]).is_empty());
    }
}
