//! Policies: what the unikernels at and below a path may use (BEHAVIOUR 5.8).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// The greatest number of the protocol, which stands for "no limit" (WIRE 1.3).
pub const UNLIMITED: u64 = (1 << 62) - 1;

/// A host processor, counted from 0.
pub type CpuId = u16;

/// Limits for one path and everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Most unikernels, at most [`UNLIMITED`].
    pub unikernels: u64,
    /// Host processors that may be used.
    pub cpus: BTreeSet<CpuId>,
    /// Sum of the unikernels' memory in MB (2^20 bytes).
    pub memory: u64,
    /// Sum of the block devices' sizes in MB; `None` forbids block devices.
    pub block: Option<u64>,
    /// Host bridges that may be used.
    pub bridges: BTreeSet<String>,
}

/// Age of the certificate that carried a policy: the start of its validity, in seconds since 1970. Of two certificates of
/// one second neither is older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(i64);

/// Which limit of a policy is larger than allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excess {
    /// More unikernels (asked, allowed).
    Unikernels(u64, u64),
    /// More memory in MB (asked, allowed).
    Memory(u64, u64),
    /// These processors are not allowed.
    Cpus(BTreeSet<CpuId>),
    /// These bridges are not allowed.
    Bridges(BTreeSet<String>),
    /// More block storage in MB (asked, allowed; `None` forbids it).
    Block(u64, Option<u64>),
}

/// Why a policy makes no sense to issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It allows no unikernel.
    NoUnikernels,
    /// It allows no processor.
    NoCpus,
    /// It allows at most [`Policy::TOO_LITTLE_MEMORY`] MB.
    TooLittleMemory,
}

impl Policy {
    /// A policy with at most this many MB is of no use.
    pub const TOO_LITTLE_MEMORY: u64 = 16;

    /// Whether the policy is worth issuing.
    pub fn usable(&self) -> Result<(), Unusable> {
        if self.unikernels == 0 {
            Err(Unusable::NoUnikernels)
        } else if self.cpus.is_empty() {
            Err(Unusable::NoCpus)
        } else if self.memory <= Self::TOO_LITTLE_MEMORY {
            Err(Unusable::TooLittleMemory)
        } else {
            Ok(())
        }
    }

    /// Whether everything this policy allows is allowed by `upper` too; the first excess otherwise,
    /// in the order unikernels, memory, processors, bridges, block storage.
    pub fn within(&self, upper: &Self) -> Result<(), Excess> {
        if self.unikernels > upper.unikernels {
            return Err(Excess::Unikernels(self.unikernels, upper.unikernels));
        }
        if self.memory > upper.memory {
            return Err(Excess::Memory(self.memory, upper.memory));
        }
        upper.allows_cpus(&self.cpus)?;
        upper.allows_bridges(self.bridges.iter().map(String::as_str))?;
        match (self.block, upper.block) {
            (None, _) => Ok(()),
            (Some(asked), Some(allowed)) if asked <= allowed => Ok(()),
            (Some(asked), allowed) => Err(Excess::Block(asked, allowed)),
        }
    }

    /// Limits that are not those of `before`, in words, each from what it was to what it is.
    pub fn changes_from(&self, before: &Self) -> Vec<String> {
        let count = |limit| match limit {
            UNLIMITED => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        let block = |policy: &Self| match policy.block {
            Some(block) => format!("{block} MB"),
            None => "none".to_owned(),
        };
        let set = |items: String| {
            if items.is_empty() {
                "none".to_owned()
            } else {
                items
            }
        };
        let limits = |policy: &Self| {
            [
                ("unikernels", count(policy.unikernels)),
                ("memory", format!("{} MB", policy.memory)),
                ("CPU ids", set(list(&policy.cpus))),
                ("block storage", block(policy)),
                ("bridges", set(list(&policy.bridges))),
            ]
        };
        let changes = limits(before).into_iter().zip(limits(self));
        changes
            .filter(|((_, old), (_, new))| old != new)
            .map(|((limit, old), (_, new))| format!("{limit} from {old} to {new}"))
            .collect()
    }

    /// Whether these processors may be used.
    pub fn allows_cpus(&self, cpus: &BTreeSet<CpuId>) -> Result<(), Excess> {
        let beyond: BTreeSet<_> = cpus.difference(&self.cpus).copied().collect();
        if beyond.is_empty() {
            Ok(())
        } else {
            Err(Excess::Cpus(beyond))
        }
    }

    /// Whether these host bridges may be used.
    pub fn allows_bridges<'a>(&self, bridges: impl Iterator<Item = &'a str>) -> Result<(), Excess> {
        let beyond: BTreeSet<_> = bridges
            .filter(|bridge| !self.bridges.contains(*bridge))
            .map(str::to_owned)
            .collect();
        if beyond.is_empty() {
            Ok(())
        } else {
            Err(Excess::Bridges(beyond))
        }
    }
}

impl Age {
    /// Age of a certificate that is valid from this second on.
    pub fn new(not_before: i64) -> Self {
        Self(not_before)
    }

    /// Start of validity in seconds since 1970.
    pub fn not_before(self) -> i64 {
        self.0
    }

    /// Age of a certificate that is newer by `step`.
    #[must_use]
    pub fn after(self, step: Duration) -> Self {
        let step = i64::try_from(step.as_secs()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(step))
    }
}

/// Whether each of these policies, outermost first, is within the one before it; otherwise the position, counted from 0,
/// of the first that is not, and by what it exceeds the other.
pub fn check_decrease<'a>(
    policies: impl IntoIterator<Item = &'a Policy>,
) -> Result<(), (usize, Excess)> {
    let mut above: Option<&Policy> = None;
    for (position, policy) in policies.into_iter().enumerate() {
        if let Some(above) = above {
            policy.within(above).map_err(|excess| (position, excess))?;
        }
        above = Some(policy);
    }
    Ok(())
}

/// Items with a comma and a space between.
pub(crate) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unikernels(asked, allowed) => {
                write!(f, "{asked} unikernels are more than the {allowed} allowed")
            }
            Self::Memory(asked, allowed) => {
                write!(
                    f,
                    "{asked} MB of memory are more than the {allowed} MB allowed"
                )
            }
            Self::Cpus(beyond) => write!(f, "CPU ids not allowed: {}", list(beyond)),
            Self::Bridges(beyond) => write!(f, "bridges not allowed: {}", list(beyond)),
            Self::Block(_, None) => f.write_str("block devices are not allowed"),
            Self::Block(asked, Some(allowed)) => {
                write!(
                    f,
                    "{asked} MB of block storage are more than the {allowed} MB allowed"
                )
            }
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUnikernels => f.write_str("a policy for 0 unikernels is of no use"),
            Self::NoCpus => f.write_str("a policy without any CPU id is of no use"),
            Self::TooLittleMemory => write!(
                f,
                "a policy for at most {} MB of memory is of no use",
                Policy::TOO_LITTLE_MEMORY
            ),
        }
    }
}

impl fmt::Display for Policy {
    /// One line, as the client prints it (BEHAVIOUR 4).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: Vec<_> = self.cpus.iter().map(ToString::to_string).collect();
        match self.unikernels {
            UNLIMITED => f.write_str("unlimited")?,
            limit => write!(f, "{limit}")?,
        }
        write!(
            f,
            " unikernels {} CPUids {} MB memory ",
            cpus.join(","),
            self.memory
        )?;
        match self.block {
            Some(block) => write!(f, "{block} MB block")?,
            None => f.write_str("no block")?,
        }
        if !self.bridges.is_empty() {
            write!(f, ", bridges: {}", list(&self.bridges))?;
        }
        Ok(())
    }
}

impl std::error::Error for Excess {}
impl std::error::Error for Unusable {}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (fn(&mut Policy), Excess);

    fn policy() -> Policy {
        Policy {
            unikernels: 4,
            cpus: [0, 1].into(),
            memory: 256,
            block: Some(10),
            bridges: ["service".to_owned()].into(),
        }
    }

    #[test]
    fn a_policy_is_within_itself() {
        assert_eq!(policy().within(&policy()), Ok(()));
    }

    #[test]
    fn policies_of_a_chain_decrease() {
        let smaller = Policy {
            memory: 100,
            ..policy()
        };
        assert_eq!(check_decrease([]), Ok(()));
        assert_eq!(check_decrease([&policy(), &policy(), &smaller]), Ok(()));
        let refused = check_decrease([&policy(), &smaller, &policy()]);
        assert_eq!(refused, Err((2, Excess::Memory(256, 100))));
    }

    #[test]
    fn each_limit_that_changes_is_named() {
        let other = Policy {
            unikernels: UNLIMITED,
            cpus: [].into(),
            memory: 512,
            block: None,
            bridges: ["a".to_owned(), "b".to_owned()].into(),
        };
        let expected = [
            "unikernels from 4 to unlimited",
            "memory from 256 MB to 512 MB",
            "CPU ids from 0, 1 to none",
            "block storage from 10 MB to none",
            "bridges from service to a, b",
        ];
        assert_eq!(other.changes_from(&policy()), expected);
        assert!(other.changes_from(&other).is_empty());
    }

    #[test]
    fn no_limit_is_no_number() {
        let all = Policy {
            unikernels: UNLIMITED,
            ..policy()
        };
        let shown = "unlimited unikernels 0,1 CPUids 256 MB memory 10 MB block, bridges: service";
        assert_eq!(all.to_string(), shown);
    }

    #[test]
    fn each_larger_limit_is_named() {
        let upper = policy();
        let cases: [Case; 5] = [
            (|p| p.unikernels = 5, Excess::Unikernels(5, 4)),
            (|p| p.memory = 257, Excess::Memory(257, 256)),
            (|p| p.cpus = [1, 2].into(), Excess::Cpus([2].into())),
            (
                |p| p.bridges = ["x".to_owned()].into(),
                Excess::Bridges(["x".to_owned()].into()),
            ),
            (|p| p.block = Some(11), Excess::Block(11, Some(10))),
        ];
        for (enlarge, excess) in cases {
            let mut sub = policy();
            enlarge(&mut sub);
            assert_eq!(sub.within(&upper), Err(excess));
        }
    }

    #[test]
    fn ages_are_compared_by_the_start_of_validity() {
        assert!(Age::new(1) < Age::new(2));
        let minute = Duration::from_secs(60);
        assert_eq!(Age::new(1).after(minute), Age::new(61));
        assert_eq!(Age::new(i64::MAX).after(minute).not_before(), i64::MAX);
    }

    #[test]
    fn no_block_devices_fit_everywhere_but_allow_none_below() {
        let none = Policy {
            block: None,
            ..policy()
        };
        assert_eq!(none.within(&policy()), Ok(()));
        let zero = Policy {
            block: Some(0),
            ..policy()
        };
        assert_eq!(zero.within(&none), Err(Excess::Block(0, None)));
    }
}
