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

/// Memory, but none with code (see [`install`]); time; chance; signals to itself, and the end.
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
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_renameat,
    #[cfg(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    ))]
    libc::SYS_newfstatat,
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

/// From now on this thread makes the system calls that go with these needs; all of them where host names are looked up,
/// as nobody knows what the host's configuration makes of that.
pub(super) fn install(needs: &[Need<'_>], breach: Breach) -> Result<(), Error> {
    if needs.iter().any(|need| matches!(need, Need::Names)) {
        return Ok(());
    }
    let mut rules = Rules::default();
    for call in [DESCRIPTORS, PROCESS].concat() {
        rules.allow(call, &[])?;
    }
    // A descriptor blocks or does not; nothing is asked of a device.
    rules.allow(libc::SYS_ioctl, &[number(1, libc::FIONBIO as u64)])?;
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
    apply_filter(&rules.compile(mismatch)?)
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
