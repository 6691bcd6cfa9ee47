//! Linux: capabilities(7), and what else only this system has.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::{
    self, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP, SYS_capset, SYS_rt_sigaction,
    c_int, c_ulong,
};
use nix::sys::resource::Resource;
use nix::sys::stat::Mode;
use nix::unistd::write;

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

/// `struct sigaction` of the kernel, and the octets of its signal set: more than any architecture has.
const DEFAULT_ACTION: [u64; 8] = [0; 8];
const SIGNAL_SET: usize = 8;

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
