//! Accounting: policies by path, and whether what is asked for fits every one of them.
//!
//! A unikernel must fit the policy of its own path and of every path above; each counts everything below it. Policies
//! bound use, not each other: one may be smaller than what is used or allowed below it.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{Name, Path};
use crate::policy::{CpuId, Excess, Policy, list};
use crate::unikernel::{Config, Net};

use super::block_devices::BlockDevices;

/// Most policies directly below one path: each costs memory, and a delegated authority can make any number of names.
pub const MAX_POLICIES: usize = 1024;

/// The policies in force.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    policies: BTreeMap<Path, Policy>,
}

/// Why the ledger refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The policy at this path allows no further unikernel.
    Unikernels(Path, Usage),
    /// The policy at this path has less memory left than the MB that are asked for.
    Memory(Path, u64, Usage),
    /// The policy at this path has less block storage left than the MB that are asked for.
    Block(Path, u64, Usage),
    /// It forbids something that is asked for.
    Forbidden(Path, Excess),
    /// A policy above forbids what the new one would allow.
    Above(Path, Excess),
    /// There is no policy at this path.
    NoPolicy(Path),
    /// There are [`MAX_POLICIES`] directly below this path.
    TooMany(Path),
    /// As many paths as are remembered with the ages of their certificates all have a policy: those of this tenant, or
    /// the tenants themselves if it is the root.
    AllRemembered(Path),
}

/// How far the limit of a policy is used up, as far as who asks may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// All of it, for somebody at the path of the policy.
    Full {
        /// What the policy allows.
        allowed: u64,
        /// What is used at and below its path.
        used: u64,
        /// By whom.
        by: TopConsumers,
    },
    /// The share of the path that asks, for somebody below the policy: what others use is not theirs to know.
    Own(Path, u64),
}

/// The unikernels that use the most memory, and how many MB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopConsumers(Vec<(String, u64)>);

/// What a unikernel takes.
#[derive(Clone, Debug, Default)]
pub struct Claim<'a> {
    /// MB.
    memory: u64,
    /// Of these configurations it has one at a time: what it is, was, or becomes. Most have only the first.
    config: Option<&'a Config>,
    others: Vec<&'a Config>,
}

impl Usage {
    /// Usage of the policy `at` a path, of which `used` says how much is used at and below a path, for somebody at
    /// `asking`.
    fn of(at: &Path, asking: &Path, allowed: u64, used: impl Fn(&Path) -> u64) -> Self {
        if asking == at {
            Self::Full {
                allowed,
                used: used(at),
                by: TopConsumers::default(),
            }
        } else {
            Self::Own(asking.clone(), used(asking))
        }
    }

    /// Names who uses most of it, where that may be known.
    fn consumed_by(mut self, at: &Path, running: &[(&Name, Claim<'_>)]) -> Self {
        if let Self::Full { by, .. } = &mut self {
            *by = TopConsumers::at(at, running);
        }
        self
    }
}

impl TopConsumers {
    /// Maximum number of consumers that are named.
    const MAX: usize = 5;

    /// The consumers at and below a path.
    fn at(path: &Path, running: &[(&Name, Claim<'_>)]) -> Self {
        let below = running.iter();
        let below = below.filter(|(name, _)| name.path().is_within(path));
        let mut consumers: Vec<_> = below
            .map(|(name, claim)| (name.to_string(), claim.memory))
            .collect();
        consumers.sort_by(|(one, some), (other, more)| more.cmp(some).then(one.cmp(other)));
        if consumers.len() > Self::MAX {
            let rest = consumers.split_off(Self::MAX - 1);
            let sum = rest
                .iter()
                .fold(0_u64, |sum, (_, memory)| sum.saturating_add(*memory));
            consumers.push((format!("{} more", rest.len()), sum));
        }
        Self(consumers)
    }
}

/// Names and MB in parentheses, or nothing.
impl fmt::Display for TopConsumers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let consumers = self.0.iter();
        let consumers: Vec<_> = consumers
            .map(|(name, memory)| format!("{name} {memory} MB"))
            .collect();
        if consumers.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", consumers.join(", "))
    }
}

impl<'a> Claim<'a> {
    /// What a unikernel of this configuration takes.
    pub fn of(config: &'a Config) -> Self {
        Self {
            memory: config.memory.into(),
            config: Some(config),
            others: Vec::new(),
        }
    }

    /// What suffices for either of two configurations, one after the other.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.memory = self.memory.max(other.memory);
        self.others.extend(other.config);
        self.others.extend(other.others);
        self
    }

    /// MB.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Host processors, each perhaps more than once.
    fn cpus(&self) -> impl Iterator<Item = CpuId> {
        self.configs()
            .flat_map(|config| config.cpus.iter().copied())
    }

    /// Host bridges, each perhaps more than once.
    fn bridges(&self) -> impl Iterator<Item = &'a str> {
        self.configs()
            .flat_map(|config| &config.nets)
            .map(Net::bridge)
    }

    fn configs(&self) -> impl Iterator<Item = &'a Config> {
        self.config.into_iter().chain(self.others.iter().copied())
    }
}

impl Ledger {
    /// The policies at and below `path`.
    pub fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a Path, &'a Policy)> {
        self.policies.iter().filter(|(at, _)| at.is_within(path))
    }

    /// All policies.
    pub fn all(&self) -> impl Iterator<Item = (&Path, &Policy)> {
        self.policies.iter()
    }

    /// The policy at exactly this path.
    pub fn at(&self, path: &Path) -> Option<&Policy> {
        self.policies.get(path)
    }

    /// Whether a unikernel at `path` that takes `claim` fits besides the `others`.
    pub fn admit(
        &self,
        path: &Path,
        claim: &Claim<'_>,
        others: &[(&Name, Claim<'_>)],
    ) -> Result<(), Refusal> {
        for at in path.ancestry() {
            let Some(policy) = self.policies.get(&at) else {
                continue;
            };
            let (count, memory) = usage(&at, others);
            if count >= policy.unikernels {
                let usage = Usage::of(&at, path, policy.unikernels, |path| usage(path, others).0);
                let usage = usage.consumed_by(&at, others);
                return Err(Refusal::Unikernels(at, usage));
            }
            if memory.saturating_add(claim.memory) > policy.memory {
                let usage = Usage::of(&at, path, policy.memory, |path| usage(path, others).1);
                let usage = usage.consumed_by(&at, others);
                return Err(Refusal::Memory(at, claim.memory, usage));
            }
            policy
                .allows_cpus(&claim.cpus().collect())
                .and_then(|()| policy.allows_bridges(claim.bridges()))
                .map_err(|excess| Refusal::Forbidden(at, excess))?;
        }
        Ok(())
    }

    /// Whether a block device of `size` MB at `path` fits besides the `devices` that there are.
    pub fn admit_block(
        &self,
        path: &Path,
        size: u64,
        devices: &BlockDevices,
    ) -> Result<(), Refusal> {
        for at in path.ancestry() {
            let Some(policy) = self.policies.get(&at) else {
                continue;
            };
            let Some(allowed) = policy.block else {
                return Err(Refusal::Forbidden(at, Excess::Block(size, None)));
            };
            if devices.storage_below(&at).saturating_add(size) > allowed {
                let usage = Usage::of(&at, path, allowed, |path| devices.storage_below(path));
                return Err(Refusal::Block(at, size, usage));
            }
        }
        Ok(())
    }

    /// Whether every policy above `path` allows what `policy` does. What the host has does not count: that bounds use.
    pub fn check_above(&self, path: &Path, policy: &Policy) -> Result<(), Refusal> {
        for above in path.ancestry().skip(1).filter(|above| !above.is_root()) {
            if let Some(upper) = self.policies.get(&above) {
                policy
                    .within(upper)
                    .map_err(|excess| Refusal::Above(above, excess))?;
            }
        }
        Ok(())
    }

    /// Whether `path` has a policy, or there is room for one.
    pub fn check_count(&self, path: &Path) -> Result<(), Refusal> {
        if let (Some(above), false) = (path.parent(), self.policies.contains_key(path)) {
            let siblings = self
                .below(&above)
                .filter(|(at, _)| at.parent().as_ref() == Some(&above));
            if siblings.count() >= MAX_POLICIES {
                return Err(Refusal::TooMany(above));
            }
        }
        Ok(())
    }

    /// Sets the policy of `path`.
    pub fn set(&mut self, path: &Path, policy: Policy) {
        self.policies.insert(path.clone(), policy);
    }

    /// Paths below `path` whose policies allow what its own does not, and by what they exceed it first.
    pub fn exceeded_below<'a>(
        &'a self,
        path: &'a Path,
        policy: &'a Policy,
    ) -> impl Iterator<Item = (&'a Path, Excess)> {
        self.below(path)
            .filter(move |(below, _)| *below != path)
            .filter_map(|(below, lower)| Some((below, lower.within(policy).err()?)))
    }

    /// Puts back what was at `path` before a change that could not be recorded.
    pub fn reset(&mut self, path: Path, before: Option<Policy>) {
        match before {
            Some(policy) => self.policies.insert(path, policy),
            None => self.policies.remove(&path),
        };
    }

    /// Removes the policy of exactly this path.
    pub fn remove(&mut self, path: &Path) -> Result<Policy, Refusal> {
        self.policies
            .remove(path)
            .ok_or_else(|| Refusal::NoPolicy(path.clone()))
    }
}

impl FromIterator<(Path, Policy)> for Ledger {
    /// Policies that were admitted before.
    fn from_iter<I: IntoIterator<Item = (Path, Policy)>>(policies: I) -> Self {
        Self {
            policies: policies.into_iter().collect(),
        }
    }
}

fn usage(path: &Path, running: &[(&Name, Claim<'_>)]) -> (u64, u64) {
    running
        .iter()
        .filter(|(name, _)| name.path().is_within(path))
        .fold((0, 0), |(count, memory): (u64, u64), (_, claim)| {
            (count.saturating_add(1), memory.saturating_add(claim.memory))
        })
}

/// What is at and below `path`, as the smallest policy that allows it.
pub fn in_use(path: &Path, running: &[(&Name, Claim<'_>)], devices: &BlockDevices) -> Policy {
    let (unikernels, memory) = usage(path, running);
    let claims = || {
        running
            .iter()
            .filter(|(name, _)| name.path().is_within(path))
            .map(|(_, claim)| claim)
    };
    Policy {
        unikernels,
        cpus: claims().flat_map(Claim::cpus).collect(),
        memory,
        block: Some(devices.storage_below(path)).filter(|storage| *storage > 0),
        bridges: claims()
            .flat_map(Claim::bridges)
            .map(str::to_owned)
            .collect(),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unikernels(path, Usage::Full { allowed, used, by }) => write!(
                f,
                "policy of {path} allows {allowed} unikernels, {used} exist{by}"
            ),
            Self::Unikernels(path, Usage::Own(own, used)) => write!(
                f,
                "{}: no further unikernel is allowed ({own} has {used})",
                UsedUp(path)
            ),
            Self::Memory(path, asked, Usage::Full { allowed, used, by }) => write!(
                f,
                "policy of {path} allows {allowed} MB of memory, {used} MB are used{by}, {asked} MB are asked for"
            ),
            Self::Memory(path, asked, Usage::Own(own, used)) => write!(
                f,
                "{}: fewer than {asked} MB of memory are left ({own} uses {used} MB)",
                UsedUp(path)
            ),
            Self::Block(path, asked, Usage::Full { allowed, used, .. }) => write!(
                f,
                "policy of '{path}' allows {allowed} MB of block storage, {used} MB are used, {asked} MB are asked for"
            ),
            Self::Block(path, asked, Usage::Own(own, used)) => write!(
                f,
                "{}: fewer than {asked} MB of block storage are left ({own} uses {used} MB)",
                UsedUp(path)
            ),
            Self::Forbidden(path, Excess::Bridges(bridges)) if path.is_root() => {
                write!(f, "this host has no bridge {}", list(bridges))
            }
            Self::Forbidden(path, excess) => write!(f, "policy of '{path}': {excess}"),
            Self::Above(path, excess) => write!(f, "policy above, of '{path}': {excess}"),
            Self::NoPolicy(path) => write!(f, "there is no policy of {path}"),
            Self::TooMany(path) => {
                write!(
                    f,
                    "there are {MAX_POLICIES} policies directly below {path} already"
                )
            }
            Self::AllRemembered(path) if path.is_root() => {
                write!(f, "{MAX_POLICIES} tenants have policies already")
            }
            Self::AllRemembered(path) => write!(
                f,
                "{MAX_POLICIES} paths at and below {path} have policies already"
            ),
        }
    }
}

/// The policy of this path, of which nothing more is said than that it is used up.
struct UsedUp<'a>(&'a Path);

impl fmt::Display for UsedUp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_root() {
            f.write_str("this host is full")
        } else {
            write!(f, "policy of '{}' is used up", self.0)
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(unikernels: u64, memory: u64) -> Policy {
        Policy {
            unikernels,
            cpus: [0].into(),
            memory,
            block: None,
            bridges: [].into(),
        }
    }

    fn claim(memory: u64) -> Claim<'static> {
        Claim {
            memory,
            config: None,
            others: Vec::new(),
        }
    }

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn children_together_cannot_exceed_their_parent() {
        let ledger: Ledger = [
            (path("a"), policy(3, 100)),
            (path("a:b"), policy(3, 100)),
            (path("a:c"), policy(3, 100)),
        ]
        .into_iter()
        .collect();
        let running = name("a:b:x");
        let others = [(&running, claim(60))];
        assert_eq!(
            ledger.admit(&path("a:c"), &claim(41), &others),
            Err(Refusal::Memory(path("a"), 41, Usage::Own(path("a:c"), 0)))
        );
        assert_eq!(ledger.admit(&path("a:c"), &claim(40), &others), Ok(()));
    }

    #[test]
    fn paths_without_a_policy_are_bounded_by_those_above() {
        let ledger: Ledger = [(Path::ROOT, policy(1, 100))].into_iter().collect();
        let running = name("a:b:x");
        assert_eq!(ledger.admit(&path("z"), &claim(1), &[]), Ok(()));
        assert_eq!(
            ledger.admit(&path("z"), &claim(1), &[(&running, claim(1))]),
            Err(Refusal::Unikernels(Path::ROOT, Usage::Own(path("z"), 0)))
        );
    }

    #[test]
    fn block_devices_of_children_count_for_their_parent() {
        let storage = |block| Policy {
            block,
            ..policy(3, 100)
        };
        let ledger: Ledger = [
            (path("a"), storage(Some(10))),
            (path("a:b"), storage(Some(10))),
            (path("n"), storage(None)),
        ]
        .into_iter()
        .collect();
        let mut devices = BlockDevices::default();
        devices.add(name("a:c:d"), 6).unwrap();
        assert_eq!(
            ledger.admit_block(&path("a:b"), 5, &devices),
            Err(Refusal::Block(path("a"), 5, Usage::Own(path("a:b"), 0)))
        );
        assert_eq!(ledger.admit_block(&path("a:b"), 4, &devices), Ok(()));
        assert_eq!(
            ledger.admit_block(&path("n:x"), 1, &devices),
            Err(Refusal::Forbidden(path("n"), Excess::Block(1, None)))
        );
        let used = in_use(&path("a:c"), &[], &devices);
        assert_eq!(
            used.within(&storage(Some(5))),
            Err(Excess::Block(6, Some(5)))
        );
    }

    #[test]
    fn who_is_below_a_policy_learns_its_own_usage_only() {
        let names: Vec<Name> = (0..7).map(|n| name(&format!("a:b:u{n}"))).collect();
        let stranger = name("a:c:x");
        let mut running: Vec<_> = names.iter().map(|name| (name, claim(10))).collect();
        running.push((&stranger, claim(23)));
        let mut devices = BlockDevices::default();
        devices.add(name("a:c:disk"), 23).unwrap();
        devices.add(name("a:b:disk"), 7).unwrap();
        let full = Policy {
            block: Some(30),
            ..policy(8, 93)
        };
        let count = Policy {
            unikernels: 9,
            ..full.clone()
        };
        let refusals = |at: &str, by: &str| {
            let ledger =
                |policy: &Policy| -> Ledger { [(path(at), policy.clone())].into_iter().collect() };
            let by = path(by);
            [
                ledger(&full).admit(&by, &claim(5), &running),
                ledger(&count).admit(&by, &claim(5), &running),
                ledger(&full).admit_block(&by, 5, &devices),
            ]
            .map(|refused| refused.unwrap_err().to_string())
        };
        assert_eq!(
            refusals("a", "a:b"),
            [
                "policy of 'a:' is used up: no further unikernel is allowed (a:b: has 7)",
                "policy of 'a:' is used up: fewer than 5 MB of memory are left (a:b: uses 70 MB)",
                "policy of 'a:' is used up: fewer than 5 MB of block storage are left (a:b: uses 7 MB)",
            ]
        );
        let [_, host, _] = refusals("", "a:d:e");
        let expected = "this host is full: fewer than 5 MB of memory are left (a:d:e: uses 0 MB)";
        assert_eq!(host, expected);
        // Who is at the path of the policy sees everything.
        let by = "(a:c:x 23 MB, a:b:u0 10 MB, a:b:u1 10 MB, a:b:u2 10 MB, 4 more 40 MB)";
        assert_eq!(
            refusals("a", "a")[..2],
            [
                format!("policy of a: allows 8 unikernels, 8 exist {by}"),
                format!(
                    "policy of a: allows 93 MB of memory, 93 MB are used {by}, 5 MB are asked for"
                ),
            ]
        );
    }

    #[test]
    fn a_policy_within_those_above_may_be_set_whatever_is_below() {
        let mut ledger: Ledger = [
            (Path::ROOT, policy(1, 1)),
            (path("a"), policy(2, 50)),
            (path("a:b:c"), policy(2, 50)),
        ]
        .into_iter()
        .collect();
        assert!(matches!(
            ledger.check_above(&path("a:b"), &policy(3, 50)),
            Err(Refusal::Above(..))
        ));
        assert_eq!(ledger.check_above(&path("a:b"), &policy(1, 40)), Ok(()));
        // What the host has bounds use only.
        assert_eq!(ledger.check_above(&path("z"), &policy(9, 900)), Ok(()));
        ledger.set(&path("a:b"), policy(1, 40));
        let smaller = policy(1, 40);
        let below = path("a:b");
        let exceeded: Vec<_> = ledger.exceeded_below(&below, &smaller).collect();
        assert_eq!(exceeded, [(&path("a:b:c"), Excess::Unikernels(2, 1))]);
        // It bounds what is below from now on.
        let running = name("a:b:c:x");
        let others = [(&running, claim(60))];
        assert!(ledger.admit(&path("a:b:c"), &claim(1), &others).is_err());
    }

    #[test]
    fn the_policies_below_a_path_are_bounded() {
        let mut ledger = Ledger::default();
        for number in 0..MAX_POLICIES {
            let path = path(&format!("a:t{number}"));
            ledger.check_count(&path).unwrap();
            ledger.set(&path, policy(1, 20));
        }
        let full = Err(Refusal::TooMany(path("a")));
        assert_eq!(ledger.check_count(&path("a:more")), full);
        assert_eq!(ledger.check_count(&path("a:t7")), Ok(()));
        assert_eq!(ledger.check_count(&path("b:more")), Ok(()));
    }

    #[test]
    fn a_policy_that_is_not_there_cannot_be_removed() {
        assert_eq!(
            Ledger::default().remove(&path("a")),
            Err(Refusal::NoPolicy(path("a")))
        );
    }
}
