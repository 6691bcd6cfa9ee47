//! FreeBSD: rules of rctl(8) on the process, which end with it. The interface is that of control groups.
#![allow(clippy::unused_self, clippy::unnecessary_wraps)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::ErrorKind;

use nix::libc;
use nix::unistd::Pid;

use super::GroupError;
use crate::name::Name;
use crate::sys::child::Ended;
use crate::sys::process::End;
use crate::sys::rctl;
use crate::unikernel::Config;

/// Which part of the limit a process may take beyond it before it is killed.
const BEYOND: u64 = 16;

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
        match rctl::remove(&rules(Pid::this(), u64::MAX)[0]) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Err(GroupError::Absent(
                "the kernel does not limit resources (kern.racct.enable=1 in loader.conf(5))",
            )),
            _ => Ok(Self(())),
        }
    }

    /// Looks whether the kernel takes rules.
    pub fn check() -> Result<(), GroupError> {
        Self::take().map(drop)
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
        rules(process, memory)
            .into_iter()
            .try_for_each(|rule| rctl::add(&rule).map_err(|error| GroupError::Rule(rule, error)))
    }

    /// Whether a process has ended as the first of its [`rules`] has it: nobody else sends that signal.
    pub fn out_of_memory(&self, end: Option<End>) -> bool {
        matches!(end, Some(End::Known(Ended::Signal(libc::SIGXCPU))))
    }

    /// Its rules have ended with the process.
    pub fn remove(self) {}
}

/// Resident memory cannot be denied, only be punished: by a signal that tells why, and, should a process live on and take
/// still more, by one that it cannot catch.
fn rules(process: Pid, bytes: u64) -> [String; 2] {
    let more = bytes.saturating_add(bytes / BEYOND);
    [("sigxcpu", bytes), ("sigkill", more)]
        .map(|(action, bytes)| format!("process:{process}:memoryuse:{action}={bytes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_names_the_process_and_what_it_may_take() {
        let expected = [
            "process:7:memoryuse:sigxcpu=33554432",
            "process:7:memoryuse:sigkill=35651584",
        ];
        assert_eq!(rules(Pid::from_raw(7), 32 << 20), expected);
    }
}
