//! The system calls a guest may make (SOLO5 facts, 8.7): everything else kills the process.
//!
//! Arguments are compared in all their 64 bits. The filter begins with a check of the
//! architecture, and as the numbers of the x32 interface are none of the numbers below, they
//! kill like any other.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::boot::{Attached, BootInfo, Details};

const STANDARD_OUTPUT: i32 = 1;
const ARCH_SET_FS: u64 = 0x1002;
const CLOCK_REALTIME: u64 = 0;
const CLOCK_MONOTONIC: u64 = 1;

/// The filter for a guest with these devices.
pub fn compile(info: &BootInfo, devices: &[Attached]) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::default();
    rules.allow(libc::SYS_write, &[descriptor(STANDARD_OUTPUT)])?;
    rules.allow(libc::SYS_exit_group, &[])?;
    rules.allow(libc::SYS_epoll_pwait, &[descriptor(info.epoll)])?;
    rules.allow(libc::SYS_timerfd_settime, &[descriptor(info.timer)])?;
    rules.allow(libc::SYS_clock_gettime, &[(0, EQUAL, CLOCK_REALTIME)])?;
    rules.allow(libc::SYS_clock_gettime, &[(0, EQUAL, CLOCK_MONOTONIC)])?;
    rules.allow(libc::SYS_arch_prctl, &[(0, EQUAL, ARCH_SET_FS)])?;
    for device in devices {
        let descriptor = descriptor(device.descriptor);
        match device.details {
            Details::Net { .. } => {
                rules.allow(libc::SYS_read, &[descriptor.clone()])?;
                rules.allow(libc::SYS_write, &[descriptor])?;
            }
            Details::Block {
                capacity,
                block_size,
            } => {
                let size = u64::from(block_size);
                let one_block_inside = [
                    descriptor,
                    (2, EQUAL, size),
                    (3, SeccompCmpOp::Le, capacity.saturating_sub(size)),
                ];
                rules.allow(libc::SYS_pread64, &one_block_inside)?;
                rules.allow(libc::SYS_pwrite64, &one_block_inside)?;
            }
        }
    }
    SeccompFilter::new(
        rules.0,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

/// An argument's index, how to compare it, and with what.
type Condition = (u8, SeccompCmpOp, u64);

const EQUAL: SeccompCmpOp = SeccompCmpOp::Eq;

fn descriptor(number: i32) -> Condition {
    (0, EQUAL, u64::from(number.unsigned_abs()))
}

#[derive(Default)]
struct Rules(BTreeMap<i64, Vec<SeccompRule>>);

impl Rules {
    /// Allows a system call where all `conditions` hold; none means always.
    fn allow(&mut self, number: i64, conditions: &[Condition]) -> Result<(), BackendError> {
        let rules = self.0.entry(number).or_default();
        if conditions.is_empty() {
            return Ok(());
        }
        let conditions = conditions
            .iter()
            .map(|(index, operator, value)| {
                SeccompCondition::new(*index, SeccompCmpArgLen::Qword, operator.clone(), *value)
            })
            .collect::<Result<_, _>>()?;
        rules.push(SeccompRule::new(conditions)?);
        Ok(())
    }
}
