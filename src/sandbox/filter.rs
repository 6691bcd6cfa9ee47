//! Linux: filters of system calls, seccomp(2), as tables.

use std::collections::BTreeMap;

use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{Breach, Need};

/// An argument's index, how many of its octets are compared and how, and with what.
pub type Condition = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

const EQUAL: SeccompCmpOp = SeccompCmpOp::Eq;

/// What is read, written, waited for and asked of what is open.
const DESCRIPTORS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Memory, but none with code (see [`compile`]); time; chance; who it is; signals to itself, and the end.
const PROCESS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_gettid,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Files, as far as Landlock lets them be reached.
const FILES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    // `__NR_renameat` of <asm-generic/unistd.h>, which rename(3) makes there.
    #[cfg(target_arch = "aarch64")]
    38,
    #[cfg(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    ))]
    libc::SYS_newfstatat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
];

/// What is done with files that are open.
const OPEN_FILES: &[c_long] = &[
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fadvise64,
    libc::SYS_sendfile,
];

/// From now on this thread makes the system calls that go with these needs; all of them where host names are looked up,
/// as nobody knows what the host's configuration makes of that.
pub(super) fn install(needs: &[Need<'_>], breach: Breach) -> Result<(), Error> {
    if needs.iter().any(|need| matches!(need, Need::Names)) {
        return Ok(());
    }
    apply_filter(&compile(needs, breach)?)
}

fn compile(needs: &[Need<'_>], breach: Breach) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::default();
    for call in [DESCRIPTORS, PROCESS].concat() {
        rules.allow(call, &[])?;
    }
    // A descriptor blocks or does not; nothing is asked of a device.
    rules.allow(libc::SYS_ioctl, &[number(1, libc::FIONBIO)])?;
    let no_code = SeccompCmpOp::MaskedEq(libc::PROT_EXEC.cast_unsigned().into());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.allow(call, &[(2, SeccompCmpArgLen::Qword, no_code.clone(), 0)])?;
    }
    // abort(3).
    rules.allow(libc::SYS_tgkill, &[number(0, std::process::id().into())])?;
    for need in needs {
        match need {
            Need::Folder(..) | Need::Counters => {
                for call in FILES {
                    rules.allow(*call, &[])?;
                }
            }
            Need::OpenFiles => {
                for call in OPEN_FILES {
                    rules.allow(*call, &[])?;
                }
            }
            Need::LocalSockets(_) | Need::AllLocalSockets | Need::Manager => {
                rules.sockets(&[libc::AF_UNIX])?;
            }
            Need::Tcp(_) => rules.sockets(&[libc::AF_INET, libc::AF_INET6])?,
            Need::Accept => rules.allow(libc::SYS_accept4, &[])?,
            Need::Names => {}
        }
    }
    // That of a call which the kernel does not know makes libraries try another one.
    let mismatch = match breach {
        Breach::Kill => SeccompAction::KillProcess,
        Breach::Refuse => SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
    };
    rules.compile(mismatch)
}

/// An argument that the kernel takes for an `int`.
fn number(index: u8, value: u64) -> Condition {
    (index, SeccompCmpArgLen::Dword, EQUAL, value)
}

/// The calls that are allowed, and with which arguments.
#[derive(Default)]
pub struct Rules(BTreeMap<c_long, Vec<SeccompRule>>);

impl Rules {
    /// Allows a system call where all `conditions` hold, or those of another time; none means always.
    pub fn allow(&mut self, call: c_long, conditions: &[Condition]) -> Result<(), BackendError> {
        let rules = self.0.entry(call).or_default();
        if conditions.is_empty() {
            return Ok(());
        }
        let conditions = conditions
            .iter()
            .map(|(index, length, operator, value)| {
                SeccompCondition::new(*index, length.clone(), operator.clone(), *value)
            })
            .collect::<Result<_, _>>()?;
        rules.push(SeccompRule::new(conditions)?);
        Ok(())
    }

    /// Allows sockets of these families, and to connect them.
    fn sockets(&mut self, families: &[i32]) -> Result<(), BackendError> {
        for family in families {
            let family = family.cast_unsigned().into();
            self.allow(libc::SYS_socket, &[number(0, family)])?;
        }
        self.allow(libc::SYS_connect, &[])
    }

    /// The program for the processor that this runs on, with what comes of all other calls.
    pub fn compile(self, otherwise: SeccompAction) -> Result<BpfProgram, BackendError> {
        let target = TargetArch::try_from(std::env::consts::ARCH)?;
        SeccompFilter::new(self.0, otherwise, SeccompAction::Allow, target)?.try_into()
    }
}

/// What the kernel makes of a program, without installing it.
#[cfg(test)]
pub mod interpreter {
    use seccompiler::BpfProgram;

    pub const ALLOW: u32 = 0x7fff_0000;
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const X86_64: u32 = 0xc000_003e;

    /// What the program says of a call with these arguments, on a processor of this kind.
    pub fn verdict(program: &BpfProgram, arch: u32, number: u64, arguments: [u64; 4]) -> u32 {
        let mut data = Vec::new();
        data.extend(u32::try_from(number).unwrap().to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend([0; 8]);
        for word in arguments {
            data.extend(word.to_le_bytes());
        }
        data.extend([0; 16]);
        interpret(program, &data)
    }

    /// Runs a classic BPF program on a `seccomp_data`.
    fn interpret(program: &BpfProgram, data: &[u8]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                0x20 => accumulator = crate::elf::u32_at(data, step.k as usize),
                0x05 => at += step.k as usize,
                0x15 => at += branch(accumulator == step.k),
                0x25 => at += branch(accumulator > step.k),
                0x35 => at += branch(accumulator >= step.k),
                0x54 => accumulator &= step.k,
                0x06 => return step.k,
                code => unreachable!("instruction {code:#x}"),
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::interpreter::{ALLOW, KILL_PROCESS, X86_64, verdict};
    use super::*;

    fn allowed(needs: &[Need<'_>], call: c_long, arguments: [u64; 4]) -> bool {
        let program = compile(needs, Breach::Kill).unwrap();
        match verdict(&program, X86_64, call.unsigned_abs(), arguments) {
            ALLOW => true,
            KILL_PROCESS => false,
            other => unreachable!("{other:#x}"),
        }
    }

    #[test]
    fn calls_go_with_what_is_needed() {
        let local = [u64::from(libc::AF_UNIX.cast_unsigned()), 1, 0, 0];
        let [tcp, packet, netlink] = [libc::AF_INET, libc::AF_PACKET, libc::AF_NETLINK]
            .map(|family| [u64::from(family.cast_unsigned()), 1, 0, 0]);
        let calls = [
            (libc::SYS_read, [9; 4]),
            (libc::SYS_socket, local),
            (libc::SYS_socket, tcp),
            (libc::SYS_connect, [3, 0, 0, 0]),
            (libc::SYS_accept4, [3, 0, 0, 0]),
            (libc::SYS_openat, [3, 0, 0, 0]),
        ];
        for (needs, expected) in [
            (&[][..], [true, false, false, false, false, false]),
            (&[Need::Accept], [true, false, false, false, true, false]),
            (
                &[Need::AllLocalSockets],
                [true, true, false, true, false, false],
            ),
            (&[Need::Manager], [true, true, false, true, false, false]),
            (&[Need::Tcp(1)], [true, false, true, true, false, false]),
            (&[Need::Counters], [true, false, false, false, false, true]),
        ] {
            let found = calls.map(|(call, arguments)| allowed(needs, call, arguments));
            assert_eq!(found, expected, "{needs:?}");
        }
        let all = [
            Need::Accept,
            Need::Manager,
            Need::AllLocalSockets,
            Need::Counters,
            Need::Tcp(1),
        ];
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_mount,
            libc::SYS_setuid,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_seccomp,
        ] {
            assert!(!allowed(&all, call, [0; 4]), "{call}");
        }
        for sockets in [packet, netlink] {
            assert!(!allowed(&all, libc::SYS_socket, sockets));
        }
    }

    #[test]
    fn memory_has_no_code_devices_no_requests_and_others_no_signals() {
        let allowed = |call, arguments| allowed(&[], call, arguments);
        let (read, write, execute) = (1, 2, 4);
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert!(allowed(call, [0, 4096, read | write, 0]));
            for rights in [execute, read | execute, read | write | execute] {
                assert!(!allowed(call, [0, 4096, rights, 0]));
            }
        }
        assert!(allowed(libc::SYS_ioctl, [3, libc::FIONBIO, 0, 0]));
        assert!(!allowed(libc::SYS_ioctl, [3, libc::TIOCSTI, 0, 0]));
        let own = u64::from(std::process::id());
        assert!(allowed(libc::SYS_tgkill, [own, own, 6, 0]));
        assert!(!allowed(libc::SYS_tgkill, [1, 1, 6, 0]));
    }

    #[test]
    fn other_interfaces_of_the_kernel_are_none() {
        const I386: u32 = 0x4000_0003;
        let program = compile(&[], Breach::Kill).unwrap();
        for (arch, call) in [
            (I386, 3),
            (I386, 11),
            (X86_64, 0x4000_0000),
            (X86_64, 0x4000_0001),
        ] {
            assert_eq!(verdict(&program, arch, call, [0; 4]), KILL_PROCESS);
        }
    }
}
