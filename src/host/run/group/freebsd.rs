//! FreeBSD: rules of rctl(8) on the process, which end with it. The interface is that of control groups.
#![allow(clippy::unused_self, clippy::unnecessary_wraps)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::ErrorKind;

use nix::unistd::Pid;

use super::GroupError;
use crate::name::Name;
use crate::sys::rctl;
use crate::unikernel::Config;

/// What the kernel can limit.
#[derive(Debug)]
pub struct Groups(());

/// The limits of a unikernel.
#[derive(Debug)]
pub struct Group {
    memory: Option<u64>,
}

impl Groups {
    /// Looks whether the kernel takes rules.
    pub fn take() -> Result<Self, GroupError> {
        // Nobody has this rule: it is either not found, or nothing is.
        match rctl::remove(&rule(Pid::this(), u64::MAX)) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Err(GroupError::Absent(
                "the kernel does not limit resources (kern.racct.enable=1 in loader.conf(5))",
            )),
            _ => Ok(Self(())),
        }
    }

    /// The limits of a unikernel.
    pub fn create(&self, _: &Name, config: &Config) -> Result<Group, GroupError> {
        Ok(Group {
            memory: Some(super::memory(config)),
        })
    }

    /// There are none: they end with the processes.
    pub fn remove_others(&self, _: &BTreeSet<&Name>) {}

    /// Those of a unikernel that an earlier supervisor has started: they are set already.
    pub fn of(&self, _: &Name) -> Group {
        Group { memory: None }
    }
}

impl Group {
    /// A process has nothing to enter.
    pub fn entrance(&self) -> Option<CString> {
        None
    }

    /// Sets the limits of the process.
    pub fn entered(&self, process: Pid) -> Result<(), GroupError> {
        let Some(memory) = self.memory else {
            return Ok(());
        };
        let rule = rule(process, memory);
        rctl::add(&rule).map_err(|error| GroupError::Rule(rule, error))
    }

    /// The kernel does not tell: a process over the limit dies by SIGKILL, as others do.
    pub fn out_of_memory(&self) -> bool {
        false
    }

    /// Its rules have ended with the process.
    pub fn remove(self) {}
}

/// Resident memory cannot be denied, only be punished.
fn rule(process: Pid, octets: u64) -> String {
    format!("process:{process}:memoryuse:sigkill={octets}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_names_the_process_and_what_it_may_take() {
        let expected = "process:7:memoryuse:sigkill=33554432";
        assert_eq!(rule(Pid::from_raw(7), 32 << 20), expected);
    }
}
