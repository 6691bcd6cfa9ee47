//! What the supervisor knows of its host: its resources, and which unikernels are off their networks.

use std::collections::BTreeMap;

use log::{info, warn};

use super::operation::StoredStart;
use super::{Asker, Claim, Effect, Ledger, Refusal, Supervisor, claims};
use crate::name::{Name, Path};
use crate::policy::Policy;
use crate::unikernel::Config;
use crate::wire::UnikernelCommand;

/// A command that waits until the host was looked at.
#[derive(Debug)]
pub(super) struct DeferredCommand {
    pub(super) asker: Asker,
    pub(super) name: Name,
    pub(super) command: UnikernelCommand,
}

impl Supervisor {
    /// Postpones a command that asks for more than the host had when it was last looked at: a bridge may be new, and a
    /// CPU or memory online again. Gives any other one back.
    pub(super) fn postpone(
        &mut self,
        asker: Asker,
        name: Name,
        command: UnikernelCommand,
    ) -> Option<(Asker, Name, UnikernelCommand)> {
        let config = self.asked_for(&name, &command);
        if !config.is_some_and(|config| self.host_lacks(&name, &config)) {
            return Some((asker, name, command));
        }
        self.postponed.push_back(DeferredCommand {
            asker,
            name,
            command,
        });
        self.effects.push(Effect::LookAtHost);
        None
    }

    /// The configuration that a command is to start.
    fn asked_for(&self, name: &Name, command: &UnikernelCommand) -> Option<Config> {
        use UnikernelCommand as U;

        let revival = match command {
            U::Create(config) | U::ForceCreate(config) => return Config::try_from(config).ok(),
            U::Start(()) => StoredStart::Start,
            U::Rollback(()) => StoredStart::Rollback,
            U::Restart(restart) => restart.clone().into(),
            _ => return None,
        };
        let version = self.revived(name, &revival).ok()?;
        Some(version.config.clone())
    }

    /// Whether the policies allow a unikernel, but not the host itself.
    fn host_lacks(&self, name: &Name, config: &Config) -> bool {
        let mut others = claims(&self.unikernels, &self.operations);
        others.retain(|(other, _)| *other != name);
        let claim = Claim::of(config);
        let refused = self
            .ledgers()
            .find_map(|ledger| ledger.admit(name.path(), &claim, &others).err());
        match refused {
            Some(Refusal::Memory(at, ..) | Refusal::Forbidden(at, _)) => at.is_root(),
            _ => false,
        }
    }

    /// The host was looked at: what was postponed for that goes on.
    pub(super) fn looked_at_host(&mut self, found: Result<Policy, String>) {
        match found {
            Ok(resources) => self.set_resources(&resources),
            Err(why) => warn!("{why}"),
        }
        while let Some(postponed) = self.postponed.pop_front() {
            let DeferredCommand {
                asker,
                name,
                command,
            } = postponed;
            if self.stopping {
                self.refuse(&asker, "the supervisor is stopping");
            } else {
                self.carry_out(asker, name, command);
            }
        }
    }

    /// Puts what the host has in the place of what it had, wherever that counts.
    fn set_resources(&mut self, resources: &Policy) {
        if self.ledger.at(&Path::ROOT) == Some(resources) {
            return;
        }
        info!("this host has now: {resources}");
        let written = self.writes.values_mut();
        let written = written.map(|(_, policies)| &mut policies.ledger);
        let recorded = self.recorded.iter_mut();
        let recorded = recorded.map(|policies| &mut policies.ledger);
        let ledgers = [&mut self.ledger, &mut self.acknowledged].into_iter();
        for ledger in ledgers.chain(written).chain(recorded) {
            Ledger::reset(ledger, Path::ROOT, Some(resources.clone()));
        }
    }

    /// These unikernels are off a bridge, and all others on theirs.
    pub(super) fn networks(&mut self, off_bridge: BTreeMap<Name, String>) {
        for (name, why) in &off_bridge {
            if self.off_bridge.get(name) != Some(why) {
                warn!("{name}: {why}");
            }
        }
        for name in self.off_bridge.keys() {
            if !off_bridge.contains_key(name) {
                info!("{name}: is on its bridges again, or no more");
            }
        }
        self.off_bridge = off_bridge;
    }
}
