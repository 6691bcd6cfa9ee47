//! Linux: capabilities(7), and what else only this system has.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::num::NonZeroUsize;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::{
    self, CLONE_VFORK, CLONE_VM, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP,
    SIGCHLD, SYS_capset, SYS_rt_sigaction, SYS_setgroups, SYS_setresgid, SYS_setresuid, c_int,
    c_ulong,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::resource::Resource;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, write};

use super::Failure;

/// Real-time signals included.
pub(super) const LAST_SIGNAL: c_int = 64;

/// The limit of address space.
pub(super) const ADDRESS_SPACE: Resource = Resource::RLIMIT_AS;

/// More than there are: a kernel says where its list ends.
const CAPABILITIES: c_ulong = 64;

/// `_LINUX_CAPABILITY_VERSION_3` of `<linux/capability.h>`: 64 capabilities, in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `struct sigaction` of the kernel, and the bytes of its signal set: more than any architecture has.
const DEFAULT_ACTION: [u64; 8] = [0; 8];
const SIGNAL_SET: usize = 8;

/// Bytes of stack for the steps of a new process.
const STACK: usize = 64 << 10;

/// Bytes below the stack that nothing can be read from or written to: as large as the pages of any architecture.
const GUARD: usize = 64 << 10;

/// A stack for a new process, which grows down to a guard: one that is too small ends the process, and overwrites nothing.
struct Stack {
    mapping: NonNull<c_void>,
}

impl Stack {
    fn map() -> nix::Result<Self> {
        let (size, flags) = (GUARD + STACK, MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK);
        let size = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping, in place of nothing.
        let mapping = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_NONE, flags)? };
        let stack = Self { mapping };
        let usable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: within the mapping, which nobody uses yet.
        unsafe { mprotect(mapping.byte_add(GUARD), STACK, usable)? };
        Ok(stack)
    }

    /// Where it begins: its end, as it grows down.
    fn top(&self) -> *mut c_void {
        // SAFETY: the end of the mapping.
        unsafe { self.mapping.byte_add(GUARD + STACK).as_ptr() }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which whoever has this uses no more.
        let _ = unsafe { munmap(self.mapping, GUARD + STACK) };
    }
}

/// What a new process says with why it executes nothing: the memory that it shares, here.
pub(super) struct Report;

#[allow(
    clippy::unnecessary_wraps,
    clippy::unused_self,
    reason = "it is a pipe elsewhere"
)]
impl Report {
    pub(super) fn open() -> nix::Result<Self> {
        Ok(Self)
    }

    pub(super) fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// Runs `child` in a new process that has this one's memory, while this one waits: it costs the same however much
/// memory there is, and none of it is copied, now or later. When `child` comes back, the new process is over, and what
/// it says is returned, too.
pub(super) fn start(_: Report, child: &dyn Fn() -> Failure) -> nix::Result<(Pid, Option<Failure>)> {
    struct Child<'a> {
        run: &'a dyn Fn() -> Failure,
        failure: Option<Failure>,
    }

    extern "C" fn run(child: *mut c_void) -> c_int {
        // SAFETY: it is the one below, which nobody else touches meanwhile.
        let child = unsafe { &mut *child.cast::<Child<'_>>() };
        child.failure = Some((child.run)());
        libc::EXIT_FAILURE
    }

    let stack = Stack::map()?;
    let mut child = Child {
        run: child,
        failure: None,
    };
    let (flags, argument) = (CLONE_VM | CLONE_VFORK | SIGCHLD, &raw mut child);
    // SAFETY: the new process has a stack of its own, with a guard below it.
    // It has copies of the signal handlers, and sets all of them back before it unblocks signals, so none of ours runs in
    // it. This thread waits, and finds no more than errno changed; others run on, but no step takes a lock or allocates
    // that one of them could hold. Stack and `child` stay until it has executed another program or is over.
    let pid = unsafe { libc::clone(run, stack.top(), flags, argument.cast()) };
    let pid = Errno::result(pid).map(Pid::from_raw)?;
    Ok((pid, child.failure))
}

/// This and the next two go straight to the kernel: the C library would change all threads of what it takes for this
/// process.
pub(super) fn set_groups(groups: &[Gid]) -> nix::Result<()> {
    // SAFETY: a Gid is a gid_t.
    let set = unsafe { libc::syscall(SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(set).map(drop)
}

/// Real, effective and saved.
pub(super) fn set_group(id: u32) -> nix::Result<()> {
    // SAFETY: numbers only.
    let set = unsafe { libc::syscall(SYS_setresgid, id, id, id) };
    Errno::result(set).map(drop)
}

/// Real, effective and saved.
pub(super) fn set_user(id: u32) -> nix::Result<()> {
    // SAFETY: numbers only.
    let set = unsafe { libc::syscall(SYS_setresuid, id, id, id) };
    Errno::result(set).map(drop)
}

/// Its default; nothing happens to those that have no other. Straight from the kernel: the C library keeps two
/// real-time signals to itself, which may have been inherited ignored.
pub(super) fn reset_signal(number: c_int) -> nix::Result<()> {
    let (action, no_answer) = (DEFAULT_ACTION.as_ptr(), ptr::null_mut::<u64>());
    // SAFETY: an action of zeros is the default one, without flags, which runs no code of ours.
    let set = unsafe { libc::syscall(SYS_rt_sigaction, number, action, no_answer, SIGNAL_SET) };
    match Errno::result(set) {
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn set_oom_score(score: &str) -> nix::Result<()> {
    match put(c"/proc/self/oom_score_adj", score) {
        // An ordinary user may not lower it: then it is killed sooner than it would have been.
        Err(Errno::EACCES) => Ok(()),
        result => result,
    }
}

/// `procs` is a `cgroup.procs`.
pub(super) fn enter_group(procs: &CStr) -> nix::Result<()> {
    put(procs, "0")
}

fn put(path: &CStr, text: &str) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    write(&file, text.as_bytes()).map(drop)
}

/// So that a program owned by root, or run as root, gets no capability back. Only who has `CAP_SETPCAP` can do this;
/// for others, that no new privileges are to be had does the same.
pub(super) fn empty_bounding_set() -> nix::Result<()> {
    for capability in 0..CAPABILITIES {
        // SAFETY: prctl(2) with two numbers.
        let dropped = unsafe { libc::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(dropped) {
            Ok(_) => {}
            Err(Errno::EINVAL | Errno::EPERM) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn drop_ambient_capabilities() -> nix::Result<()> {
    // SAFETY: prctl(2) with numbers only.
    let cleared = unsafe { libc::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(cleared).map(drop)
}

/// The effective, permitted and inheritable ones.
pub(super) fn drop_capabilities() -> nix::Result<()> {
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let none = [Half::default(); 2];
    // SAFETY: capset(2) reads a header, and the two halves that belong to its version.
    let set = unsafe { libc::syscall(SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(set).map(drop)
}

pub(super) fn forbid_new_privileges() -> nix::Result<()> {
    nix::sys::prctl::set_no_new_privs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_stack_of_a_new_process_ends_at_a_guard() {
        let stack = Stack::map().unwrap();
        let begin = stack.mapping.as_ptr() as usize;
        let guard = format!("{begin:x}-{:x} ---p", begin + GUARD);
        let usable = format!("{:x}-", begin + GUARD);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.contains(&guard), "{guard}: {maps}");
        let line = maps.lines().find(|line| line.starts_with(&usable));
        assert!(line.is_some_and(|line| line.contains(" rw-p")), "{maps}");
    }
}
