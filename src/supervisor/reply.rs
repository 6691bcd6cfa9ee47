//! What `info` and `policy` answer: lists below a path, their names relative to it (WIRE 8.2, 8.3).

use std::cmp::Ordering;

use crate::name::{Label, Name, Path};
use crate::policy::Policy;
use crate::unikernel::{Config, ImageDigest};
use crate::wire::domain::set_unless_empty;
use crate::wire::legacy::InfoV5;
use crate::wire::{
    BlockInfo, Info, MacAddress, NamedInfo, NamedInfo4, NamedInfo5, NamedPolicy, NetInfo, Octets,
    Success, Timestamp,
};

/// Octets of a sector where none was specified.
const DEFAULT_SECTOR: u16 = 512;

/// A running unikernel, as `info` sees it.
pub(super) struct Running<'a> {
    pub name: &'a Name,
    pub config: &'a Config,
    pub image: ImageDigest,
    pub started: Timestamp,
}

/// What is told of the unikernels that `asked` covers: one by its name, or all below a path.
pub(super) fn unikernels<'a>(
    asked: &Name,
    running: impl Iterator<Item = Running<'a>>,
) -> Vec<NamedInfo> {
    let mut found: Vec<_> = running
        .filter_map(|unikernel| {
            let shown = match asked.label() {
                Some(_) => (unikernel.name == asked).then(|| asked.clone()),
                None => unikernel.name.relative_to(asked.path()),
            }?;
            Some((shown, unikernel))
        })
        .collect();
    found.sort_by(|(_, one), (_, other)| preorder(one.name, other.name));
    found
        .into_iter()
        .map(|(shown, unikernel)| NamedInfo {
            name: shown.to_string().into(),
            info: info(unikernel),
        })
        .collect()
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

fn info(unikernel: Running<'_>) -> Info {
    let Running {
        name,
        config,
        image,
        started,
    } = unikernel;
    Info {
        typ: config.wire_kind(),
        startup: config.startup.map(crate::wire::Int::new),
        fail_behaviour: config.wire_fail_behaviour(),
        cpuids: config.wire_cpus(),
        memory: u64::from(config.memory).into(),
        digest: Octets(image.0.to_vec()),
        blocks: set_unless_empty(config.blocks.iter().map(|block| BlockInfo {
            unikernel_device: block.device.as_str().into(),
            host_device: block.host_device().into(),
            sector_size: u64::from(block.sector_size.unwrap_or(DEFAULT_SECTOR)).into(),
            block_size: 0_u64.into(),
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

    fn names(asked: &str, running: &[&str]) -> Vec<String> {
        let config = config();
        let running: Vec<Name> = running.iter().map(|name| name.parse().unwrap()).collect();
        let answer = unikernels(
            &asked.parse().unwrap(),
            running.iter().map(|name| Running {
                name,
                config: &config,
                image: ImageDigest([0; 32]),
                started: Timestamp::from_unix(0, 0),
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
