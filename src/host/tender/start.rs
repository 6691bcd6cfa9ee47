//! How a tender is started.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::path::Path;

use nix::sched::sched_getaffinity;
use nix::unistd::{Gid, Pid};

use super::{Fifo, TenderError, os};
use crate::host::block::Attached;
use crate::host::tap::Taps;
use crate::manifest::Target;
use crate::name::Name;
use crate::policy::CpuId;
use crate::sys::spawn::{self, Confinement, Input, Program, User};
use crate::unikernel::Config;

/// MB of address space of a tender beyond the guest's memory: its code, libraries, stacks, and what the C library
/// reserves for a second thread.
pub const ADDRESS_SPACE_SLACK: u64 = 256;

/// Most open files of a tender: its devices, each with a helper, and its own.
pub const OPEN_FILES: u64 = 256;

/// Most processes and threads of a tender for spt.
pub const SPT_PROCESSES: u64 = 1;

/// Most processes and threads of a tender for hvt: KVM adds one, network devices another (SOLO5 6).
pub const HVT_PROCESSES: u64 = 4;

/// `oom_score_adj` of a tender: guests are killed before the host's daemons, and before Petrel's.
pub const OOM_SCORE: i32 = 500;

/// MB of address space of bhyve beyond the guest's memory, instead of [`ADDRESS_SPACE_SLACK`]: the hole below 4 GB that a
/// larger guest's memory is laid out around, and the stacks of many threads.
pub const MACHINE_SLACK: u64 = 6144;

/// All of the environment of bhyve and of what loads a machine.
const MACHINE_TERMINAL: &CStr = c"TERM=vt100";

/// What a tender runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// An image for this target.
    Image(Target),
    /// A BHyve machine.
    Machine,
}

/// A tender that is to be started.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its program.
    pub tender: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What it is for.
    pub guest: Guest,
    /// Its block devices.
    pub attached: &'a [Attached],
    /// The unikernel.
    pub name: &'a Name,
    /// Its configuration.
    pub config: &'a Config,
    /// Where its output goes.
    pub fifo: &'a Fifo,
    /// The taps of all, its own among them.
    pub taps: &'a mut Taps,
    /// Its user and the group of all tenders, if they are not ours.
    pub user: Option<(u32, Gid)>,
    /// The file to enter its control group by.
    pub group: Option<CString>,
    /// Its record.
    pub record: Option<File>,
}

impl Start<'_> {
    /// Starts it. Returns its process.
    pub fn run(mut self) -> Result<Pid, TenderError> {
        check_cpus(self.config)?;
        let hidden = os::hide_arguments(self.tender, &mut self.arguments)?;
        let user = match self.user {
            Some((id, tenders)) => {
                let networks = !self.config.nets.is_empty();
                let devices = self.guest.groups(networks, id)?;
                let groups = [tenders].into_iter().chain(devices).collect();
                Some(User { id, groups })
            }
            None => None,
        };
        let program = Program {
            path: self.tender,
            arguments: self.arguments,
            environment: self.guest.environment(),
            input: self.guest.input(),
            output: self.fifo.output()?,
        };
        // With them it has the locks.
        let mut keep = self
            .attached
            .iter()
            .map(|device| {
                let shared = device.file().try_clone();
                shared.map_err(TenderError::file("duplicate", device.path()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        keep.extend(hidden);
        let id = user.as_ref().map(|user| user.id);
        self.taps
            .hand_over(self.name, id)
            .map_err(TenderError::Tap)?;
        if let Some(id) = id {
            self.attached.iter().for_each(|device| device.hand_over(id));
        }
        let confinement = Confinement {
            cpus: self.config.cpus.iter().map(|cpu| (*cpu).into()).collect(),
            address_space: (u64::from(self.config.memory) + self.guest.slack()) << 20,
            open_files: OPEN_FILES,
            // Where the user is shared, its other processes count, too.
            processes: user.as_ref().and(self.guest.processes()),
            user,
            oom_score: OOM_SCORE,
            group: self.group,
            record: self.record,
            keep,
        };
        spawn::confined(program, confinement)
            .map_err(|error| TenderError::Start(self.tender.to_path_buf(), id, error))
    }
}

impl Guest {
    /// The groups that a tender which runs as `user` must be in for its devices.
    pub fn groups(self, networks: bool, user: u32) -> Result<Vec<Gid>, TenderError> {
        match self {
            Self::Image(target) => os::groups_of_devices(target, networks, user),
            Self::Machine => Ok(Vec::new()),
        }
    }

    /// grub-bhyve draws on a terminal of this kind, or ends.
    fn environment(self) -> &'static [&'static CStr] {
        match self {
            Self::Image(_) => &[],
            Self::Machine => &[MACHINE_TERMINAL],
        }
    }

    /// bhyve waits for input to the serial port, and aborts where the system cannot do that: for `/dev/null`, it could
    /// not for long.
    fn input(self) -> Input {
        match self {
            Self::Image(_) => Input::End,
            Self::Machine => Input::Silence,
        }
    }

    fn slack(self) -> u64 {
        match self {
            Self::Image(_) => ADDRESS_SPACE_SLACK,
            Self::Machine => MACHINE_SLACK,
        }
    }

    fn processes(self) -> Option<u64> {
        match self {
            Self::Image(Target::Spt) => Some(SPT_PROCESSES),
            Self::Image(_) => Some(HVT_PROCESSES),
            Self::Machine => None,
        }
    }
}

/// Whether all processors that the unikernel is to run on are ours to use: the system itself would silently leave out
/// those that are not.
pub fn check_cpus(config: &Config) -> Result<(), TenderError> {
    let Ok(ours) = sched_getaffinity(Pid::from_raw(0)) else {
        return Ok(());
    };
    let missing = |cpu: &&CpuId| !ours.is_set((**cpu).into()).unwrap_or(false);
    match config.cpus.iter().find(missing) {
        Some(cpu) => Err(TenderError::NoCpu(*cpu)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_does_not_exist_is_named() {
        let config = Config {
            cpus: [0, 900].into(),
            ..crate::supervisor::fixtures::config()
        };
        let error = check_cpus(&config).unwrap_err().to_string();
        assert!(error.contains("900"), "{error}");
    }
}
