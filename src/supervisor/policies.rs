//! Changes of policies.

use super::operation::Written;
use super::{Asker, Ledger, Supervisor, claims};
use crate::name::Path;
use crate::policy::{Age, Policy};
use crate::wire::POLICY_KEPT;

const ADDED: &str = "added policy";

impl Supervisor {
    /// Sets a policy: that of a certificate of this age, or one that was given without any.
    pub(super) fn add_policy(
        &mut self,
        asker: Asker,
        path: &Path,
        policy: &crate::wire::Policy,
        age: Option<&Age>,
    ) {
        let policy = match Policy::try_from(policy) {
            Ok(policy) => policy,
            Err(error) => return self.refuse(&asker, &error),
        };
        let same = self.ledger.at(path) == Some(&policy);
        let stale = age.is_some_and(|age| self.ages.is_stale(path, age));
        if stale && !same {
            // What it carries is not brought back, and without a policy nothing would bound what follows.
            return match self.ledger.at(path) {
                Some(_) => self.tell(&asker, POLICY_KEPT, false),
                None => self.refuse(
                    &asker,
                    &format!(
                        "the policy of '{path}' was removed, and the certificate is older than the last one that \
                         set it: a newer one is needed"
                    ),
                ),
            };
        }
        let claims = claims(&self.unikernels, &self.operations);
        let devices = &self.devices;
        let allowed = self.ledgers().try_for_each(|ledger| {
            let mut ledger = ledger.clone();
            ledger.set(path, policy.clone(), &claims, devices).map(drop)
        });
        // The age only of a policy that is set; should the write fail, the certificate stays the newest.
        let remembered = allowed.and_then(|()| match age {
            Some(age) if !stale => {
                let ledger = &self.ledger;
                let has_policy = |path: &Path| ledger.at(path).is_some();
                self.ages.remember(path, age.clone(), same, &has_policy)
            }
            _ => Ok(()),
        });
        // One that is equal, but not surely on disk, is acknowledged when it is.
        let recorded = self.recorded.as_ref().is_some_and(|recorded| {
            let covers = |age| recorded.ages.covers(path, age);
            recorded.ledger.at(path) == self.ledger.at(path) && age.is_none_or(covers)
        });
        match remembered.and_then(|()| self.ledger.set(path, policy, &claims, &self.devices)) {
            Err(refusal) => self.refuse(&asker, &refusal),
            Ok(false) if recorded => self.tell(&asker, "no modification of policy", false),
            Ok(_) => self.persist(Written::Policy {
                asker,
                path: path.clone(),
                answer: ADDED,
            }),
        }
    }

    pub(super) fn remove_policy(&mut self, asker: Asker, path: &Path) {
        match self.ledger.remove(path) {
            Err(refusal) => self.refuse(&asker, &refusal),
            Ok(_) => self.persist(Written::Policy {
                asker,
                path: path.clone(),
                answer: "removed policy",
            }),
        }
    }

    /// The write of a policy is done.
    pub(super) fn policy_persisted(
        &mut self,
        asker: &Asker,
        path: &Path,
        answer: &str,
        result: Result<(), String>,
    ) {
        let Err(error) = result else {
            // More policies, or a command, may follow an addition on the same connection (WIRE 7.2).
            return self.tell(asker, answer, answer != ADDED);
        };
        // A later write of the same path decides by itself what becomes of it.
        let decided_later = self
            .writes
            .values()
            .any(|(why, _)| matches!(why, Written::Policy { path: later, .. } if later == path));
        if !decided_later {
            let before = self.acknowledged.at(path).cloned();
            self.ledger.reset(path.clone(), before);
        }
        self.save_later();
        self.refuse(asker, &format!("the policy was not changed: {error}"));
    }

    /// The policies in force, and those that may come back into force if a write fails.
    pub(super) fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        let written = self.writes.values().map(|(_, policies)| &policies.ledger);
        [&self.ledger, &self.acknowledged]
            .into_iter()
            .chain(written)
    }
}
