//! Changes of policies.

use super::operation::Written;
use super::{Asker, Ledger, Supervisor, claims};
use crate::name::Path;
use crate::policy::Policy;

const ADDED: &str = "added policy";

impl Supervisor {
    pub(super) fn add_policy(&mut self, asker: Asker, path: &Path, policy: &crate::wire::Policy) {
        let policy = match Policy::try_from(policy) {
            Ok(policy) => policy,
            Err(error) => return self.refuse(&asker, &error),
        };
        // One that is equal, but not surely on disk, is acknowledged when it is.
        let recorded = self
            .recorded
            .as_ref()
            .is_some_and(|recorded| recorded.at(path) == self.ledger.at(path));
        let claims = claims(&self.unikernels, &self.operations);
        let allowed = self
            .ledgers()
            .try_for_each(|ledger| ledger.clone().set(path, policy.clone(), &claims).map(drop));
        match allowed.and_then(|()| self.ledger.set(path, policy, &claims)) {
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
        let written = self.writes.values().map(|(_, ledger)| ledger);
        [&self.ledger, &self.acknowledged]
            .into_iter()
            .chain(written)
    }
}
