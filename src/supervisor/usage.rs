//! What each path uses, with everything below it, beside what its policy allows: for those who watch, not for decisions.

use std::collections::{BTreeMap, BTreeSet};

use super::block_devices::HostDevice;
use super::{Supervisor, claims};
use crate::name::Path;
use crate::policy::Policy;

/// A path with everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain<'a> {
    /// What is allowed there, if that is said.
    pub policy: Option<&'a Policy>,
    /// Unikernels, as policies count them: those that are stopped, too.
    pub unikernels: u64,
    /// What they take, in MB.
    pub memory: u64,
    /// Block devices that a unikernel has, in MB.
    pub attached: u64,
    /// Other block devices, in MB.
    pub unattached: u64,
}

impl Supervisor {
    /// All paths with a policy, a unikernel or a block device, and those above them.
    pub fn domains(&self) -> BTreeMap<Path, Domain<'_>> {
        let mut domains: BTreeMap<Path, Domain<'_>> = BTreeMap::new();
        let mut at_and_above = |path: &Path, change: &dyn Fn(&mut Domain<'_>)| {
            for at in path.ancestry() {
                change(domains.entry(at).or_default());
            }
        };
        for (path, _) in self.ledger.all() {
            at_and_above(path, &|_| {});
        }
        for (name, claim) in claims(&self.unikernels, &self.operations) {
            at_and_above(name.path(), &|domain| {
                domain.unikernels += 1;
                domain.memory = domain.memory.saturating_add(claim.memory());
            });
        }
        let attached: BTreeSet<_> = self
            .users(None)
            .into_iter()
            .flat_map(|(name, blocks)| {
                let devices = blocks.iter();
                devices.filter_map(|block| HostDevice::of(name.path(), block))
            })
            .filter_map(|device| match device {
                HostDevice::Ours(name) => Some(name),
                HostDevice::Zvol(_) => None,
            })
            .collect();
        for (name, size) in self.devices.all() {
            let is_attached = attached.contains(name);
            at_and_above(name.path(), &|domain| {
                let sum = if is_attached {
                    &mut domain.attached
                } else {
                    &mut domain.unattached
                };
                *sum = sum.saturating_add(size);
            });
        }
        for (path, policy) in self.ledger.all() {
            if let Some(domain) = domains.get_mut(path) {
                domain.policy = Some(policy);
            }
        }
        domains
    }
}
