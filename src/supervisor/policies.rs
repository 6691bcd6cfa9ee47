//! Changes of policies.

use log::info;

use super::accounting::in_use;
use super::operation::Written;
use super::{Asker, Ledger, Supervisor, claims};
use crate::name::{Name, Path};
use crate::policy::{Age, Policy, check_decrease, list};
use crate::wire::{DatedPolicy, Payload, Success};

/// The first words of the answer to a policy that is set, which albatross gives, too.
const ADDED: &str = "added policy";

const OF_HOST: &str =
    "the policy of the root is what the host has, and can be neither changed nor removed";

/// Number of paths below that the answer to a smaller policy names.
const NAMED_BELOW: usize = 5;

/// A policy of a certificate chain.
struct Link {
    path: Path,
    policy: Policy,
    age: Age,
}

impl Supervisor {
    /// Sets a policy that is given on the host.
    pub(super) fn add_policy(&mut self, asker: Asker, path: &Path, policy: &crate::wire::Policy) {
        let policy = match Policy::try_from(policy) {
            Ok(policy) => policy,
            Err(error) => return self.refuse(&asker, &error),
        };
        if self.ledger.at(path) == Some(&policy) {
            // One that is equal, but not surely on disk, is acknowledged when it is.
            if self.is_recorded(path, None) {
                return self.tell(&asker, "no modification of policy", false);
            }
            return self.persist_addition(asker, vec![path.clone()], Success::String(ADDED.into()));
        }
        if path.is_root() {
            return self.refuse(&asker, OF_HOST);
        }
        let fits = self
            .ledgers()
            .try_for_each(|ledger| ledger.check_above(path, &policy));
        if let Err(refusal) = fits.and_then(|()| self.check_count(path)) {
            return self.refuse(&asker, &refusal);
        }
        let changes = self.ledger.at(path).map(|before| {
            let changes = list(policy.changes_from(before));
            format!("{ADDED}, changing {changes}")
        });
        let mut answer = vec![changes.unwrap_or_else(|| ADDED.to_owned())];
        answer.extend(self.consequences(path, &policy));
        let answer = answer.join("; ");
        self.ledger.set(path, policy);
        self.persist_addition(asker, vec![path.clone()], Success::String(answer.into()));
    }

    /// Sets the policies of a certificate chain, which are for `path` and all above it, outermost first: all or none.
    /// What is in force above is no reason to refuse them, as it bounds their use.
    pub(super) fn set_chain(&mut self, asker: Asker, path: &Path, chain: &[DatedPolicy]) {
        let links = match links(path, chain) {
            Ok(links) => links,
            Err(why) => return self.refuse(&asker, &why),
        };
        let (kept, set) = match self.divide(links) {
            Ok(divided) => divided,
            Err(why) => return self.refuse(&asker, &why),
        };
        let mut changed = false;
        for link in &set {
            let Link { path, policy, .. } = link;
            if self.ledger.at(path) == Some(policy) {
                continue;
            }
            for consequence in self.consequences(path, policy) {
                info!("policy of {path}: {consequence}");
            }
            self.ledger.set(path, policy.clone());
            changed = true;
        }
        let is_recorded = |link: &Link| self.is_recorded(&link.path, Some(link.age));
        let recorded = !changed && set.iter().all(is_recorded);
        let answer = Success::ChainSet(kept);
        if recorded {
            return self.answer(&asker, Payload::Reply(answer), false);
        }
        let paths = set.into_iter().map(|link| link.path).collect();
        self.persist_addition(asker, paths, answer);
    }

    /// Divides a chain into the paths that keep the policy of a newer certificate, and what is to be set. The ages of
    /// the latter are remembered; should the write fail, they stay the newest.
    fn divide(&mut self, links: Vec<Link>) -> Result<(Vec<crate::wire::Text>, Vec<Link>), String> {
        let (mut kept, mut set) = (Vec::new(), Vec::new());
        for link in links {
            let before = self.ledger.at(&link.path);
            let stale = self.ages.is_stale(&link.path, link.age);
            match before {
                Some(policy) if stale && *policy != link.policy => {
                    kept.push(Name::from(link.path).to_string().into());
                }
                // What it carries is not brought back, and without a policy nothing would bound what follows.
                None if stale => {
                    return Err(format!(
                        "the policy of '{}' was removed, and the certificate is older than the last one that set it: \
                         a newer one is needed",
                        link.path
                    ));
                }
                _ => {
                    self.check_count(&link.path)
                        .map_err(|refusal| refusal.to_string())?;
                    set.push(link);
                }
            }
        }
        self.remember_ages(&set)?;
        Ok((kept, set))
    }

    /// Remembers how new the certificates of these policies are: all or none.
    fn remember_ages(&mut self, set: &[Link]) -> Result<(), String> {
        // Where all paths are known nothing can fail, and no copy is needed.
        let all_known = set.iter().all(|link| self.ages.knows(&link.path));
        let before = (!all_known).then(|| self.ages.clone());
        let ledger = &self.ledger;
        let has_policy =
            |path: &Path| ledger.at(path).is_some() || set.iter().any(|link| link.path == *path);
        for Link { path, policy, age } in set {
            if self.ages.is_stale(path, *age) {
                continue;
            }
            let same = ledger.at(path) == Some(policy);
            if let Err(refusal) = self.ages.remember(path, *age, same, &has_policy) {
                self.ages = before.unwrap_or_default();
                return Err(refusal.to_string());
            }
        }
        Ok(())
    }

    pub(super) fn remove_policy(&mut self, asker: Asker, path: &Path) {
        if path.is_root() {
            return self.refuse(&asker, OF_HOST);
        }
        if let Err(refusal) = self.ledger.remove(path) {
            return self.refuse(&asker, &refusal);
        }
        self.persist(Written::Policies {
            asker,
            paths: vec![path.clone()],
            answer: Success::String("removed policy".into()),
            close: true,
        });
        self.bound_archives(path);
    }

    /// Records policies that were added. More of them, or a command, may follow on the same connection (WIRE 7.2).
    fn persist_addition(&mut self, asker: Asker, paths: Vec<Path>, answer: Success) {
        let tenant = paths.first().map(Path::tenant);
        self.persist(Written::Policies {
            asker,
            paths,
            answer,
            close: false,
        });
        // All are of one tenant. What is larger than before holds once it is on disk.
        if let Some(tenant) = tenant {
            self.bound_archives(&tenant);
        }
    }

    /// Takes back policies whose write has failed.
    pub(super) fn policies_not_persisted(&mut self, asker: &Asker, paths: Vec<Path>, why: &str) {
        for path in paths {
            // A later write of the same path decides by itself what becomes of it.
            if !self.is_being_written(&path) {
                let before = self.acknowledged.at(&path).cloned();
                self.ledger.reset(path, before);
            }
        }
        self.save_later();
        self.refuse(asker, &format!("the policy was not changed: {why}"));
    }

    /// The policies in force, and those that may come back into force if a write fails.
    pub(super) fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        let written = self.writes.values().map(|(_, policies)| &policies.ledger);
        [&self.ledger, &self.acknowledged]
            .into_iter()
            .chain(written)
    }

    fn check_count(&self, path: &Path) -> Result<(), super::Refusal> {
        self.ledgers()
            .try_for_each(|ledger| ledger.check_count(path))
    }

    /// Whether the policy in force at `path`, and the age of its certificate, are on disk, and stay there.
    fn is_recorded(&self, path: &Path, age: Option<Age>) -> bool {
        let Some(recorded) = &self.recorded else {
            return false;
        };
        recorded.ledger.at(path) == self.ledger.at(path)
            && age.is_none_or(|age| recorded.ages.covers(path, age))
            && !self.is_being_written(path)
    }

    /// Whether a write is under way that changes the policy of `path`.
    fn is_being_written(&self, path: &Path) -> bool {
        let mut writes = self.writes.values();
        writes
            .any(|(why, _)| matches!(why, Written::Policies { paths, .. } if paths.contains(path)))
    }

    /// What follows from a policy that allows less than what is in use, or allowed, below its path.
    fn consequences(&self, path: &Path, policy: &Policy) -> Vec<String> {
        let mut consequences = Vec::new();
        let claims = claims(&self.unikernels, &self.operations);
        if let Err(excess) = in_use(path, &claims, &self.devices).within(policy) {
            consequences.push(format!(
                "more is in use ({excess}), of which nothing stops, but nothing starts until it fits"
            ));
        }
        let below: Vec<_> = self.ledger.exceeded_below(path, policy).collect();
        if !below.is_empty() {
            let named = list(below.iter().take(NAMED_BELOW).map(|(path, _)| path));
            let more = match below.len().saturating_sub(NAMED_BELOW) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            consequences.push(format!(
                "policies below allow more, but are bounded by it: {named}{more}"
            ));
        }
        consequences
    }
}

/// Reads the policies of a chain for `path`.
fn links(path: &Path, chain: &[DatedPolicy]) -> Result<Vec<Link>, String> {
    let depth = path.labels().len();
    if chain.len() != depth {
        return Err(format!(
            "'{path}' needs {depth} policies, one for each label, and not {}",
            chain.len()
        ));
    }
    let mut paths: Vec<_> = path.ancestry().take(depth).collect();
    paths.reverse();
    let mut links = Vec::new();
    for (path, dated) in paths.into_iter().zip(chain) {
        links.push(Link {
            policy: Policy::try_from(&dated.policy)
                .map_err(|error| format!("policy of '{path}': {error}"))?,
            age: dated.into(),
            path,
        });
    }
    check_decrease(links.iter().map(|link| &link.policy)).map_err(|(position, excess)| {
        let path = links.get(position).map_or(path, |link| &link.path);
        format!("the policy of '{path}' allows more than that of the certificate above: {excess}")
    })?;
    Ok(links)
}
