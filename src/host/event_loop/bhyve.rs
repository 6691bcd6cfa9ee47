//! Start of BHyve machines, step by step.

use super::super::bhyve::{Boot, Outcome};
use super::super::tender::{self, Guest, Start, check_cpus};
use super::Daemon;
use crate::name::Name;
use crate::supervisor::bhyve::{self, Plan};
use crate::supervisor::{Event, launch};
use crate::unikernel::{Config, Version};

use std::path::PathBuf;

/// Programs for a machine.
pub(super) struct Programs {
    pub(super) loader: PathBuf,
    pub(super) tender: PathBuf,
}

impl Daemon {
    /// Finds the programs for a machine of this configuration, if this host can run it.
    pub(super) fn programs(&self, name: &Name, config: &Config) -> Result<Programs, String> {
        launch::supported(config, self.machines.as_ref().map(drop))?;
        check_cpus(config).map_err(|error| error.to_string())?;
        // The names of its taps do not matter yet.
        self.plan(name, config, &vec![""; config.nets.len()])?;
        let found = |name| tender::program(name).map_err(|error| error.to_string());
        found(bhyve::BHYVECTL_PROGRAM)?;
        Ok(Programs {
            loader: found(bhyve::loader(config))?,
            tender: found(bhyve::BHYVE_PROGRAM)?,
        })
    }

    fn plan(&self, name: &Name, config: &Config, taps: &[&str]) -> Result<Plan, String> {
        let machines = self.machines.as_ref().map_err(|why| (*why).to_owned())?;
        let machine = machines.owner().machine(name);
        let blocks = config.blocks.iter();
        let disks: Vec<_> = blocks
            .map(|block| launch::block_file(name, block, self.blocks.directory()))
            .collect();
        let map = machines.map(&machine);
        Plan::new(&machine, name, config, taps, &disks, &map).map_err(|error| error.to_string())
    }

    /// Begins to start a machine; [`Event::Spawned`] reports the result.
    pub(super) fn boot(&mut self, programs: Programs, start: super::Starting) {
        let run = start.run;
        if let Err(why) = self.try_boot(programs, start) {
            let result = Err(why);
            self.results.push(Event::Spawned { run, result });
        }
    }

    fn try_boot(&mut self, programs: Programs, start: super::Starting) -> Result<(), String> {
        let super::Starting {
            run,
            name,
            version,
            history,
        } = start;
        let plan = self.plan(&name, &version.config, &self.taps.names(&name))?;
        let machines = self.machines.as_mut().map_err(|why| (*why).to_owned())?;
        let outcome = machines.boot(Boot {
            run,
            name,
            version,
            history,
            loader: programs.loader,
            tender: programs.tender,
            plan,
        });
        let event = outcome.and_then(|outcome| self.booted(outcome));
        self.results.extend(event);
        Ok(())
    }

    /// Takes the next step of a start. Returns the event of the last one.
    pub(super) fn booted(&mut self, outcome: Outcome) -> Option<Event> {
        let (run, result) = match outcome {
            Outcome::Clear(boot) => {
                let run = boot.run;
                match self.load(boot) {
                    Ok(()) => return None,
                    Err(why) => (run, Err(why)),
                }
            }
            Outcome::Loaded(boot) => (boot.run, self.run_machine(boot)),
            Outcome::Failed(boot, why) => {
                self.runs.not_loaded(&boot.name);
                (boot.run, Err(why))
            }
        };
        Some(Event::Spawned { run, result })
    }

    fn load(&mut self, boot: Boot) -> Result<(), String> {
        let Ok(machines) = &mut self.machines else {
            return Ok(());
        };
        machines.write_map(&boot)?;
        let Boot { name, version, .. } = &boot;
        log::debug!("{name}: being loaded by {}", boot.loader.display());
        let Some(fifo) = self.fifos.get(name) else {
            return Err(UNPREPARED.to_owned());
        };
        let start = Start {
            tender: &boot.loader,
            arguments: boot.plan.load.clone(),
            guest: Guest::Machine,
            attached: self.blocks.of(name),
            name,
            config: &version.config,
            fifo,
            taps: &mut self.taps,
            user: None,
            group: None,
            record: None,
        };
        match self.runs.load(version.key(), start) {
            Ok(process) => machines.loading(boot, process),
            Err(error) => {
                machines.remove_map(name);
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    fn run_machine(&mut self, boot: Boot) -> Result<(), String> {
        let Boot {
            run,
            name,
            version,
            history,
            tender,
            plan,
            ..
        } = boot;
        let start = super::Starting {
            run,
            name,
            version,
            history,
        };
        self.start_tender(start, &tender, plan.run, Guest::Machine)
    }
}

/// Error of a run whose console was not prepared.
pub(super) const UNPREPARED: &str = "its console was not prepared";

/// Whether a version is one of a machine: it has no image.
pub(super) fn is_machine(version: &Version) -> bool {
    version.stored_image().is_none()
}
