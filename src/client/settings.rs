//! The settings of a unikernel, as `create` and `restart` take them.

use std::collections::BTreeSet;

use super::error::ClientError;
use crate::policy::CpuId;
use crate::unikernel::{Block, Config, FailBehaviour, Kind, Net};

/// What the command line says about a unikernel.
#[derive(Debug)]
pub(super) struct Settings {
    /// Host processors; none is processor 0.
    pub(super) cpus: Vec<CpuId>,
    /// MB.
    pub(super) memory: u32,
    pub(super) arguments: Vec<String>,
    pub(super) blocks: Vec<Block>,
    pub(super) nets: Vec<Net>,
    pub(super) restart: bool,
    /// With `restart` only; none is all.
    pub(super) exit_codes: Vec<u8>,
    pub(super) startup: Option<u32>,
    pub(super) add_name: bool,
    pub(super) vcpus: u16,
    pub(super) linux_boot_partition: Option<String>,
}

/// Those of a command line that says nothing (BEHAVIOUR 3.1).
impl Default for Settings {
    fn default() -> Self {
        Self {
            cpus: Vec::new(),
            memory: Self::DEFAULT_MEMORY,
            arguments: Vec::new(),
            blocks: Vec::new(),
            nets: Vec::new(),
            restart: false,
            exit_codes: Vec::new(),
            startup: None,
            add_name: true,
            vcpus: 1,
            linux_boot_partition: None,
        }
    }
}

impl Settings {
    /// MB.
    pub(super) const DEFAULT_MEMORY: u32 = 32;

    /// The configuration they make.
    pub(super) fn config(self, kind: Kind) -> Result<Config, ClientError> {
        let refused = |why: String| Err(ClientError::Usage(why));
        let blocks = self.blocks.iter().map(|block| &block.device);
        let nets = self.nets.iter().map(|net| &net.device);
        if let Some(twice) = repeated(blocks).or_else(|| repeated(nets)) {
            return refused(format!("device '{twice}' is given twice"));
        }
        if !self.restart && !self.exit_codes.is_empty() {
            return refused("--exit-code is of use only with --restart".to_owned());
        }
        let config = Config {
            kind,
            startup: self.startup.map(i64::from),
            add_name: self.add_name,
            fail_behaviour: if self.restart {
                FailBehaviour::Restart(self.exit_codes.into_iter().collect())
            } else {
                FailBehaviour::Quit
            },
            cpus: cpus(self.cpus),
            memory: self.memory,
            blocks: self.blocks,
            nets: self.nets,
            arguments: self.arguments.into_iter().map(String::into_bytes).collect(),
            vcpus: self.vcpus,
            linux_boot_partition: self.linux_boot_partition,
        };
        // The ranges are those of the wire: what would be refused there is refused here.
        let record = config.to_wire(false, Vec::new());
        Config::try_from(&record).map_err(|error| ClientError::Usage(error.to_string()))?;
        Ok(config)
    }
}

/// Processor 0 where none is given.
pub(super) fn cpus(given: Vec<CpuId>) -> BTreeSet<CpuId> {
    if given.is_empty() {
        [0].into()
    } else {
        given.into_iter().collect()
    }
}

fn repeated<'a>(mut names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}
