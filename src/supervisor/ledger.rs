//! Accounting: policies by path, and whether what is asked for fits every one of them.
//!
//! A unikernel must fit the policy of its own path and of every path above; each counts everything below it.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{Name, Path};
use crate::policy::{CpuId, Excess, Policy, list};
use crate::unikernel::{Config, Net};

use super::blocks::BlockDevices;

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
    /// The policy at this path allows no further unikernel (path, allowed, used, by whom).
    Unikernels(Path, u64, u64, Users),
    /// Its memory does not suffice; all in MB (path, allowed, used, asked, used by whom).
    Memory(Path, u64, u64, u64, Users),
    /// Its block storage does not suffice; all in MB (path, allowed, used, asked).
    Block(Path, u64, u64, u64),
    /// It forbids something that is asked for.
    Forbidden(Path, Excess),
    /// A policy above forbids what the new one would allow.
    Above(Path, Excess),
    /// A policy below allows what the new one would not.
    Below(Path, Excess),
    /// What runs already uses more than the new policy would allow.
    InUse(Path, Excess),
    /// There is no policy at this path.
    NoPolicy(Path),
    /// There are [`MAX_POLICIES`] directly below this path.
    TooMany(Path),
    /// As many paths as are remembered with the ages of their certificates all have a policy: those of this tenant, or
    /// the tenants themselves if it is the root.
    AllRemembered(Path),
}

/// By whom something is used up: who is told may know the names below its own path, but of others only the sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(Vec<(String, u64)>);

/// What a unikernel takes.
#[derive(Clone, Debug, Default)]
pub struct Claim<'a> {
    /// MB.
    memory: u64,
    /// Of these configurations it has one at a time: what it is, was, or becomes. Most have only the first.
    config: Option<&'a Config>,
    others: Vec<&'a Config>,
}

impl Users {
    /// Most that are told of.
    const MOST: usize = 5;

    /// Who uses what the policy of `at` allows, as far as somebody at `path`, at or below it, may know.
    fn of(at: &Path, path: &Path, running: &[(&Name, Claim<'_>)]) -> Self {
        let below = running.iter().filter(|(name, _)| name.path().is_within(at));
        let mut users: BTreeMap<String, u64> = BTreeMap::new();
        // The path on the way from the policy to who asks.
        let own = path.ancestry().take_while(|above| above != at).last();
        for (name, claim) in below {
            let user = match &own {
                None => name.to_string(),
                Some(own) if name.path().is_within(own) => own.to_string(),
                Some(_) => "others".to_owned(),
            };
            let sum = users.entry(user).or_default();
            *sum = sum.saturating_add(claim.memory);
        }
        let mut users: Vec<_> = users.into_iter().collect();
        users.sort_by(|(one, some), (other, more)| more.cmp(some).then(one.cmp(other)));
        if users.len() > Self::MOST {
            let rest = users.split_off(Self::MOST - 1);
            let sum = rest
                .iter()
                .fold(0_u64, |sum, (_, memory)| sum.saturating_add(*memory));
            users.push((format!("{} more", rest.len()), sum));
        }
        Self(users)
    }
}

/// Names and MB in parentheses, or nothing.
impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.0.iter();
        let users: Vec<_> = users
            .map(|(user, memory)| format!("{user} {memory} MB"))
            .collect();
        if users.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", users.join(", "))
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
                let users = Users::of(&at, path, others);
                return Err(Refusal::Unikernels(at, policy.unikernels, count, users));
            }
            if memory.saturating_add(claim.memory) > policy.memory {
                let users = Users::of(&at, path, others);
                let (allowed, asked) = (policy.memory, claim.memory);
                return Err(Refusal::Memory(at, allowed, memory, asked, users));
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
            let used = devices.storage_below(&at);
            if used.saturating_add(size) > allowed {
                return Err(Refusal::Block(at, allowed, used, size));
            }
        }
        Ok(())
    }

    /// Sets the policy of `path`, given what runs and which block devices there are. `false`: it was the same before.
    pub fn set(
        &mut self,
        path: &Path,
        policy: Policy,
        running: &[(&Name, Claim<'_>)],
        devices: &BlockDevices,
    ) -> Result<bool, Refusal> {
        if self.policies.get(path) == Some(&policy) {
            return Ok(false);
        }
        for above in path.ancestry().skip(1) {
            if let Some(upper) = self.policies.get(&above) {
                policy
                    .within(upper)
                    .map_err(|excess| Refusal::Above(above, excess))?;
            }
        }
        for (below, lower) in self.below(path).filter(|(below, _)| *below != path) {
            lower
                .within(&policy)
                .map_err(|excess| Refusal::Below(below.clone(), excess))?;
        }
        if let (Some(above), false) = (path.parent(), self.policies.contains_key(path)) {
            let siblings = self
                .below(&above)
                .filter(|(at, _)| at.parent().as_ref() == Some(&above));
            if siblings.count() >= MAX_POLICIES {
                return Err(Refusal::TooMany(above));
            }
        }
        let used = in_use(path, running, devices);
        used.within(&policy)
            .map_err(|excess| Refusal::InUse(path.clone(), excess))?;
        self.policies.insert(path.clone(), policy);
        Ok(true)
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
fn in_use(path: &Path, running: &[(&Name, Claim<'_>)], devices: &BlockDevices) -> Policy {
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
            Self::Unikernels(path, allowed, used, users) => write!(
                f,
                "policy of {path} allows {allowed} unikernels, {used} exist{users}"
            ),
            Self::Memory(path, allowed, used, asked, users) => write!(
                f,
                "policy of {path} allows {allowed} MB of memory, {used} MB are used{users}, {asked} MB are asked for"
            ),
            Self::Block(path, allowed, used, asked) => write!(
                f,
                "policy of '{path}' allows {allowed} MB of block storage, {used} MB are used, {asked} MB are asked for"
            ),
            Self::Forbidden(path, Excess::Bridges(bridges)) if path.is_root() => {
                write!(f, "this host has no bridge {}", list(bridges))
            }
            Self::Forbidden(path, excess) => write!(f, "policy of '{path}': {excess}"),
            Self::Above(path, excess) => write!(f, "policy above, of '{path}': {excess}"),
            Self::Below(path, excess) => {
                write!(f, "policy below, of {path}, would exceed it: {excess}")
            }
            Self::InUse(path, Excess::Cpus(cpus)) => {
                write!(f, "CPU ids in use below '{path}': {}", list(cpus))
            }
            Self::InUse(path, Excess::Bridges(bridges)) => {
                write!(f, "bridges in use below '{path}': {}", list(bridges))
            }
            Self::InUse(path, excess) => write!(f, "in use below '{path}': {excess}"),
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
            Err(Refusal::Memory(
                path("a"),
                100,
                60,
                41,
                Users(vec![("others".into(), 60)])
            ))
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
            Err(Refusal::Unikernels(
                Path::ROOT,
                1,
                1,
                Users(vec![("others".into(), 1)])
            ))
        );
    }

    #[test]
    fn block_devices_of_children_count_for_their_parent() {
        let storage = |block| Policy {
            block,
            ..policy(3, 100)
        };
        let mut ledger: Ledger = [
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
            Err(Refusal::Block(path("a"), 10, 6, 5))
        );
        assert_eq!(ledger.admit_block(&path("a:b"), 4, &devices), Ok(()));
        assert_eq!(
            ledger.admit_block(&path("n:x"), 1, &devices),
            Err(Refusal::Forbidden(path("n"), Excess::Block(1, None)))
        );
        assert_eq!(
            ledger.set(&path("a:c"), storage(Some(5)), &[], &devices),
            Err(Refusal::InUse(path("a:c"), Excess::Block(6, Some(5))))
        );
    }

    #[test]
    fn who_is_refused_learns_who_uses_what_but_no_names_of_others() {
        let names: Vec<Name> = (0..7).map(|n| name(&format!("a:b:u{n}"))).collect();
        let stranger = name("a:c:x");
        let mut running: Vec<_> = names.iter().map(|name| (name, claim(10))).collect();
        running.push((&stranger, claim(20)));
        let told = |at: &str, by: &str| Users::of(&path(at), &path(by), &running).to_string();
        assert_eq!(told("a", "a:b"), " (a:b: 70 MB, others 20 MB)");
        assert_eq!(told("a", "a:d:e"), " (others 90 MB)");
        let own = " (a:b:u0 10 MB, a:b:u1 10 MB, a:b:u2 10 MB, a:b:u3 10 MB, 3 more 30 MB)";
        assert_eq!(told("a:b", "a:b"), own);
        assert_eq!(Users::of(&path("z"), &path("z"), &running).to_string(), "");
    }

    #[test]
    fn policies_nest() {
        let mut ledger = Ledger::default();
        assert_eq!(
            ledger.set(&path("a"), policy(2, 50), &[], &BlockDevices::default()),
            Ok(true)
        );
        assert_eq!(
            ledger.set(&path("a"), policy(2, 50), &[], &BlockDevices::default()),
            Ok(false)
        );
        assert!(matches!(
            ledger.set(&path("a:b:c"), policy(3, 50), &[], &BlockDevices::default()),
            Err(Refusal::Above(..))
        ));
        assert_eq!(
            ledger.set(&path("a:b:c"), policy(2, 50), &[], &BlockDevices::default()),
            Ok(true)
        );
        assert!(matches!(
            ledger.set(&path("a"), policy(1, 50), &[], &BlockDevices::default()),
            Err(Refusal::Below(..))
        ));
        let running = name("z:x");
        assert_eq!(
            ledger.set(
                &path("z"),
                policy(1, 50),
                &[(&running, claim(51))],
                &BlockDevices::default()
            ),
            Err(Refusal::InUse(path("z"), Excess::Memory(51, 50)))
        );
    }

    #[test]
    fn the_policies_below_a_path_are_bounded() {
        let mut ledger = Ledger::default();
        for number in 0..MAX_POLICIES {
            ledger
                .set(
                    &path(&format!("a:t{number}")),
                    policy(1, 20),
                    &[],
                    &BlockDevices::default(),
                )
                .unwrap();
        }
        let more = ledger.set(
            &path("a:more"),
            policy(1, 20),
            &[],
            &BlockDevices::default(),
        );
        assert_eq!(more, Err(Refusal::TooMany(path("a"))));
        assert_eq!(
            ledger.set(&path("a:t7"), policy(1, 30), &[], &BlockDevices::default()),
            Ok(true)
        );
        assert_eq!(
            ledger.set(
                &path("b:more"),
                policy(1, 20),
                &[],
                &BlockDevices::default()
            ),
            Ok(true)
        );
    }

    #[test]
    fn a_policy_that_is_not_there_cannot_be_removed() {
        assert_eq!(
            Ledger::default().remove(&path("a")),
            Err(Refusal::NoPolicy(path("a")))
        );
    }
}
