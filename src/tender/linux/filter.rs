//! The system calls a guest may make (SOLO5 facts, 8.7): everything else kills the process.
//!
//! Arguments are compared in all their 64 bits. The filter begins with a check of the
//! architecture, and as the numbers of the x32 interface are none of the numbers below, they
//! kill like any other.
#![forbid(unsafe_code)]

use nix::libc;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp};

use crate::sandbox::filter::{Condition, Rules};
use crate::tender::boot::{Attached, BootInfo, Details};

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
    rules.allow(
        libc::SYS_clock_gettime,
        &[argument(0, EQUAL, CLOCK_REALTIME)],
    )?;
    rules.allow(
        libc::SYS_clock_gettime,
        &[argument(0, EQUAL, CLOCK_MONOTONIC)],
    )?;
    rules.allow(libc::SYS_arch_prctl, &[argument(0, EQUAL, ARCH_SET_FS)])?;
    for device in devices {
        let descriptor = descriptor(device.descriptor);
        match device.details {
            Details::Net { .. } => {
                rules.allow(libc::SYS_read, std::slice::from_ref(&descriptor))?;
                rules.allow(libc::SYS_write, &[descriptor])?;
            }
            Details::Block {
                capacity,
                block_size,
            } => {
                let size = u64::from(block_size);
                let one_block_inside = [
                    descriptor,
                    argument(2, EQUAL, size),
                    argument(3, SeccompCmpOp::Le, capacity.saturating_sub(size)),
                ];
                rules.allow(libc::SYS_pread64, &one_block_inside)?;
                rules.allow(libc::SYS_pwrite64, &one_block_inside)?;
            }
        }
    }
    rules.compile(SeccompAction::KillProcess)
}

const EQUAL: SeccompCmpOp = SeccompCmpOp::Eq;

fn descriptor(number: i32) -> Condition {
    argument(0, EQUAL, u64::from(number.unsigned_abs()))
}

fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Condition {
    (index, SeccompCmpArgLen::Qword, operator, value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sandbox::filter::interpreter::{self, ALLOW, KILL_PROCESS, X86_64};

    const NET: i32 = 5;
    const BLOCK: i32 = 6;
    const CAPACITY: u64 = 0x1_0000_2000;

    /// What the filter for an epoll set at 3, a timer at 4, a network device and a block device
    /// says of a call.
    fn verdict(arch: u32, number: u64, arguments: [u64; 4]) -> u32 {
        let info = BootInfo {
            memory_size: 0,
            kernel_end: 0,
            epoll: 3,
            timer: 4,
        };
        let net = Details::Net {
            mac: [0; 6],
            mtu: 1500,
        };
        let block = Details::Block {
            capacity: CAPACITY,
            block_size: 4096,
        };
        let attached = |handle, descriptor, details| Attached {
            handle,
            descriptor,
            details,
        };
        let devices = [attached(1, NET, net), attached(2, BLOCK, block)];
        let program = compile(&info, &devices).unwrap();

        interpreter::verdict(&program, arch, number, arguments)
    }

    fn allowed(number: i64, arguments: [u64; 4]) -> bool {
        match verdict(X86_64, number.unsigned_abs(), arguments) {
            ALLOW => true,
            KILL_PROCESS => false,
            other => unreachable!("{other:#x}"),
        }
    }

    #[test]
    fn calls_are_allowed_as_the_interface_says() {
        for (number, good) in [
            (libc::SYS_write, 1),
            (libc::SYS_write, 5),
            (libc::SYS_read, 5),
            (libc::SYS_epoll_pwait, 3),
            (libc::SYS_timerfd_settime, 4),
            (libc::SYS_clock_gettime, 0),
            (libc::SYS_clock_gettime, 1),
            (libc::SYS_arch_prctl, 0x1002),
        ] {
            assert!(allowed(number, [good, 7, 7, 7]), "{number} {good}");
            assert!(!allowed(number, [good | 1 << 32, 7, 7, 7]), "{number}");
            assert!(!allowed(number, [99, 7, 7, 7]), "{number}");
        }
        assert!(allowed(libc::SYS_exit_group, [u64::MAX; 4]));
        for (number, bad) in [
            (libc::SYS_write, 2),
            (libc::SYS_write, 6),
            (libc::SYS_read, 0),
            (libc::SYS_read, 6),
            (libc::SYS_clock_gettime, 2),
            (libc::SYS_arch_prctl, 0x1003),
            (libc::SYS_pread64, 5),
        ] {
            assert!(!allowed(number, [bad, 0, 4096, 0]), "{number} {bad}");
        }
    }

    #[test]
    fn a_block_is_read_and_written_whole_and_inside() {
        let last = CAPACITY - 4096;
        for number in [libc::SYS_pread64, libc::SYS_pwrite64] {
            for offset in [0, 4096, 1, 0xffff_ffff, last] {
                assert!(allowed(number, [6, 0, 4096, offset]), "{offset:#x}");
            }
            for offset in [last + 1, CAPACITY, 1 << 33, u64::MAX] {
                assert!(!allowed(number, [6, 0, 4096, offset]), "{offset:#x}");
            }
            for length in [0, 512, 4095, 4097, 4096 | 1 << 32] {
                assert!(!allowed(number, [6, 0, length, 0]), "{length:#x}");
            }
            assert!(!allowed(number, [6 | 1 << 32, 0, 4096, 0]));
        }
    }

    #[test]
    fn every_other_call_kills() {
        let known = [0, 1, 17, 18, 158, 228, 231, 281, 286];
        for number in (0..600).filter(|number| !known.contains(number)) {
            for argument in [0, 1, 3, 4, 5, 6] {
                assert!(!allowed(number, [argument, 0, 4096, 0]), "{number}");
            }
        }
    }

    #[test]
    fn other_interfaces_of_the_kernel_kill() {
        const I386: u32 = 0x4000_0003;
        assert_eq!(verdict(I386, 231, [0; 4]), KILL_PROCESS);
        assert_eq!(verdict(I386, 1, [1, 0, 0, 0]), KILL_PROCESS);
        assert_eq!(verdict(X86_64, 0x4000_00e7, [0; 4]), KILL_PROCESS);
        assert_eq!(verdict(X86_64, 0x4000_0001, [1, 0, 0, 0]), KILL_PROCESS);
        assert_eq!(verdict(X86_64, 0xffff_ffff, [0; 4]), KILL_PROCESS);
    }

    #[test]
    fn sixty_three_block_devices_fit_one_filter() {
        let info = BootInfo {
            memory_size: 0,
            kernel_end: 0,
            epoll: 3,
            timer: 4,
        };
        let devices: Vec<_> = (1..64)
            .map(|handle| Attached {
                handle,
                descriptor: 10 + handle.cast_signed(),
                details: Details::Block {
                    capacity: u64::MAX,
                    block_size: 32768,
                },
            })
            .collect();
        assert!(compile(&info, &devices).is_ok());
    }
}
