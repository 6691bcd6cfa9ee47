//! Linux: filters of system calls, seccomp(2), as tables.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::AsRawFd;

use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{Breach, Need};

/// An argument's index, how many of its bytes are compared and how, and with what.
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
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_close,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Commands of fcntl(2). Others make the kernel send signals to whomever they name (`F_SETOWN`).
const CONTROLS: [i32; 5] = [
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_DUPFD_CLOEXEC,
];

/// Calls that send, and which argument has the flags.
const SENDING: [(c_long, u8); 2] = [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2)];

/// Of the type of a socket, what says how it is opened.
const OPENING: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

/// Flags of openat(2) that do more than reading.
const WRITING: i32 =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | libc::O_DIRECTORY;

/// Calls that no program needs which looks up names or runs programs: of debuggers, of who sets a system up, and those
/// that lead around other filters.
const UNUSUAL: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_open_by_handle_at,
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

/// From now on this thread makes the system calls that go with these needs. Where host names are looked up, or programs
/// run, nobody knows which these are: all but [`UNUSUAL`] ones are left.
pub(super) fn install(needs: &[Need<'_>], breach: Breach) -> Result<(), Error> {
    let anything = |need: &Need<'_>| matches!(need, Need::Names | Need::Programs);
    if needs.iter().any(anything) {
        return apply_filter(&without_unusual()?);
    }
    apply_filter(&compile(needs, breach)?)
}

fn without_unusual() -> Result<BpfProgram, BackendError> {
    let rules = UNUSUAL.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refused, target)?.try_into()
}

fn compile(needs: &[Need<'_>], breach: Breach) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::default();
    for call in [DESCRIPTORS, PROCESS].concat() {
        rules.allow(call, &[])?;
    }
    for (call, flags) in SENDING {
        // It would make a connection without connect(2), at which Landlock looks.
        let plain = SeccompCmpOp::MaskedEq(unsigned(libc::MSG_FASTOPEN));
        rules.allow(call, &[(flags, SeccompCmpArgLen::Dword, plain, 0)])?;
    }
    for command in CONTROLS {
        rules.allow(libc::SYS_fcntl, &[number(1, unsigned(command))])?;
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
            Need::Directory(..) | Need::Counters => {
                for call in FILES {
                    rules.allow(*call, &[])?;
                }
            }
            Need::Reopen(directory) => {
                let reading = SeccompCmpOp::MaskedEq(unsigned(WRITING));
                rules.allow(
                    libc::SYS_openat,
                    &[
                        number(0, unsigned(directory.as_raw_fd())),
                        (2, SeccompCmpArgLen::Dword, reading, 0),
                    ],
                )?;
            }
            Need::OpenFiles => {
                for call in OPEN_FILES {
                    rules.allow(*call, &[])?;
                }
            }
            Need::LocalSockets(_) | Need::AllLocalSockets | Need::Manager => {
                rules.sockets(libc::AF_UNIX, &[libc::SOCK_STREAM, libc::SOCK_DGRAM], &[0])?;
            }
            Need::Tcp(_) => {
                for family in [libc::AF_INET, libc::AF_INET6] {
                    // Landlock knows no ports of other protocols.
                    rules.sockets(family, &[libc::SOCK_STREAM], &[0, libc::IPPROTO_TCP])?;
                }
            }
            Need::Accept => rules.allow(libc::SYS_accept4, &[])?,
            Need::Names | Need::Programs => {}
        }
    }
    // That of a call which the kernel does not know makes libraries try another one.
    let mismatch = match breach {
        Breach::Kill => SeccompAction::KillProcess,
        Breach::Refuse => SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
    };
    rules.compile(mismatch)
}

/// The bits of an `int`.
fn unsigned(value: i32) -> u64 {
    value.cast_unsigned().into()
}

/// An argument that the kernel takes for an `int`.
fn number(index: u8, value: u64) -> Condition {
    (index, SeccompCmpArgLen::Dword, EQUAL, value)
}

/// The calls that are allowed, and with which arguments; without rules: any.
#[derive(Default)]
pub struct Rules(BTreeMap<c_long, Vec<SeccompRule>>);

impl Rules {
    /// Allows a system call where all `conditions` hold, or those of another time; none means always.
    pub fn allow(&mut self, call: c_long, conditions: &[Condition]) -> Result<(), BackendError> {
        if conditions.is_empty() {
            self.0.insert(call, Vec::new());
            return Ok(());
        }
        let conditions = conditions
            .iter()
            .map(|(index, length, operator, value)| {
                SeccompCondition::new(*index, length.clone(), operator.clone(), *value)
            })
            .collect::<Result<_, _>>()?;
        let rule = SeccompRule::new(conditions)?;
        match self.0.entry(call) {
            Entry::Vacant(entry) => {
                entry.insert(vec![rule]);
            }
            Entry::Occupied(mut entry) if !entry.get().is_empty() => entry.get_mut().push(rule),
            Entry::Occupied(_) => {}
        }
        Ok(())
    }

    /// Allows sockets of this family, of these types and protocols, and to connect them.
    fn sockets(
        &mut self,
        family: i32,
        types: &[i32],
        protocols: &[i32],
    ) -> Result<(), BackendError> {
        for kind in types {
            for protocol in protocols {
                let of_type = SeccompCmpOp::MaskedEq(unsigned(!OPENING));
                let conditions = [
                    number(0, unsigned(family)),
                    (1, SeccompCmpArgLen::Dword, of_type, unsigned(*kind)),
                    number(2, unsigned(*protocol)),
                ];
                self.allow(libc::SYS_socket, &conditions)?;
            }
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

    use std::os::fd::AsFd;

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
        let [local, tcp, packet, netlink] = [
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_PACKET,
            libc::AF_NETLINK,
        ]
        .map(|family| [unsigned(family), 1, 0, 0]);
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
    fn sockets_have_the_type_that_is_needed() {
        let cloexec = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let (stream, datagram) = (libc::SOCK_STREAM, libc::SOCK_DGRAM);
        let (tcp, udp, mptcp) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_MPTCP);
        let (local, ipv4, ipv6) = (libc::AF_UNIX, libc::AF_INET, libc::AF_INET6);
        for (family, kind, protocol, expected) in [
            (ipv4, stream, 0, true),
            (ipv4, stream | cloexec, tcp, true),
            (ipv6, stream | cloexec, 0, true),
            (ipv4, stream, mptcp, false),
            (ipv4, datagram, 0, false),
            (ipv6, datagram | cloexec, udp, false),
            (ipv6, libc::SOCK_RAW, 0, false),
            (ipv4, libc::SOCK_SEQPACKET, 0, false),
            (local, stream | cloexec, 0, true),
            (local, datagram, 0, true),
            (local, libc::SOCK_SEQPACKET, 0, false),
            (local, libc::SOCK_RAW, 0, false),
        ] {
            let arguments = [family, kind, protocol, 0].map(unsigned);
            let needs = [Need::Tcp(1), Need::AllLocalSockets];
            let found = allowed(&needs, libc::SYS_socket, arguments);
            assert_eq!(found, expected, "{family} {kind} {protocol}");
        }
    }

    #[test]
    fn nothing_connects_by_sending() {
        let flags = [
            (0, true),
            (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT, true),
            (libc::MSG_FASTOPEN, false),
            (libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL, false),
        ];
        for (flags, expected) in flags {
            let flags = unsigned(flags);
            let needs = [Need::Tcp(1)];
            let calls = [
                allowed(&needs, libc::SYS_sendto, [3, 0, 0, flags]),
                allowed(&needs, libc::SYS_sendmsg, [3, 0, flags, 0]),
            ];
            assert_eq!(calls, [expected; 2], "{flags:#x}");
        }
        assert!(!allowed(&[Need::Tcp(1)], libc::SYS_sendmmsg, [0; 4]));
    }

    #[test]
    fn nobody_else_is_named_for_the_signals_of_a_descriptor() {
        for (command, expected) in [
            (libc::F_GETFL, true),
            (libc::F_SETFL, true),
            (libc::F_DUPFD_CLOEXEC, true),
            (libc::F_SETOWN, false),
            (10, false), // F_SETSIG of <asm-generic/fcntl.h>
            (15, false), // F_SETOWN_EX of <asm-generic/fcntl.h>
            (libc::F_NOTIFY, false),
            (libc::F_SETLEASE, false),
        ] {
            let found = allowed(&[], libc::SYS_fcntl, [3, unsigned(command), 0, 0]);
            assert_eq!(found, expected, "{command}");
        }
    }

    #[test]
    fn files_are_opened_again_for_reading_and_by_their_directory_only() {
        let directory = std::fs::File::open("/").unwrap();
        let number = unsigned(directory.as_raw_fd());
        let here = unsigned(libc::AT_FDCWD);
        let reading = unsigned(libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK);
        let needs = [Need::Reopen(directory.as_fd())];
        for (descriptor, flags, expected) in [
            (number, reading, true),
            (here, reading, false),
            (number + 1, reading, false),
            (number, unsigned(libc::O_WRONLY), false),
            (number, unsigned(libc::O_RDWR), false),
            (number, unsigned(libc::O_CREAT), false),
            (number, unsigned(libc::O_TRUNC), false),
            (number, unsigned(libc::O_TMPFILE | libc::O_RDWR), false),
        ] {
            let found = allowed(&needs, libc::SYS_openat, [descriptor, 0, flags, 0]);
            assert_eq!(found, expected, "{descriptor} {flags:#x}");
        }
        let more = [needs[0], Need::Counters, needs[0]];
        assert!(
            allowed(&more, libc::SYS_openat, [here, 0, reading, 0]),
            "all files"
        );
    }

    #[test]
    fn who_runs_programs_has_no_call_of_a_debugger_or_administrator() {
        let program = without_unusual().unwrap();
        let found = |call: c_long| verdict(&program, X86_64, call.unsigned_abs(), [0; 4]);
        for call in [
            libc::SYS_execve,
            libc::SYS_socket,
            libc::SYS_clone3,
            libc::SYS_openat,
        ] {
            assert_eq!(found(call), ALLOW, "{call}");
        }
        for call in UNUSUAL {
            assert_ne!(found(*call), ALLOW, "{call}");
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
