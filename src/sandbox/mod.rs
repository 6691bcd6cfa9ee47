//! What a program can still do once it has all that it has to open: what it says that it needs, and nothing else.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
pub(crate) mod filter;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process was confined.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// Something that a program goes on doing. What is open already can be read and written, polled and closed in any case.
#[derive(Clone, Copy, Debug)]
pub enum Need<'a> {
    /// Files in this directory, and in all directories below.
    Directory(BorrowedFd<'a>, Access),
    /// To open files in this directory, and below, again for reading, by its descriptor only.
    Reopen(BorrowedFd<'a>),
    /// To read, write and resize files that are open, wherever in them, and to have that on the disk.
    OpenFiles,
    /// Connections to the local sockets in this directory.
    LocalSockets(BorrowedFd<'a>),
    /// Connections to local sockets wherever they are: those of syslog move when it is started anew.
    AllLocalSockets,
    /// To accept connections on sockets that listen.
    Accept,
    /// To tell the service manager how it goes.
    Manager,
    /// TCP connections to this port.
    Tcp(u16),
    /// The addresses of hosts by their names.
    Names,
    /// To run programs, which inherit what is left: to read all files, and to connect to local sockets.
    Programs,
    /// What the system counts of other processes, and of network interfaces.
    Counters,
}

/// What stays possible with the files in a directory, and in all directories below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Opening them for reading.
    Read,
    /// Making, opening, renaming and removing them.
    Change,
    /// Removing them.
    Remove,
}

/// What comes of a system call that no need goes with, on Linux. Files and addresses that are out of reach are refused
/// in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The process is killed: it serves one connection, and is no longer itself.
    Kill,
    /// The call fails as one that the kernel does not know: others depend on this process.
    Refuse,
}

/// From now on this process can do what it needs only.
///
/// On FreeBSD (Capsicum) directories are reached by their descriptors alone, whatever the access, and local sockets by
/// [`crate::socket::Directory`]; a program that needs TCP, names or counters, which Capsicum keeps from everybody, is not
/// confined. On Linux (Landlock, seccomp) this is about the calling thread and those that it makes; a program that needs
/// names or other programs has all files to read, and most system calls.
///
/// What the system cannot do is logged, and all goes on without.
pub fn confine(needs: &[Need<'_>], breach: Breach) {
    // Who runs programs reaches local sockets wherever they are.
    let confined = !needs.iter().any(|need| matches!(need, Need::Programs));
    CONFINED.store(confined, Ordering::Relaxed);
    os::confine(needs, breach);
}

/// Right of root that a program goes on using; the others it gives up. On FreeBSD there are none apart from root itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To change owners of files.
    Chown,
    /// To reach files and sockets of all users.
    AnyFile,
    /// To send signals to processes of all users.
    Signals,
    /// To have processes of other users and groups, without capabilities.
    Users,
    /// To make and change network devices.
    NetworkDevices,
}

/// From now on this process, and the programs that it runs, get no new privileges, and have no capabilities but these.
///
/// What the system cannot do is logged, and all goes on without.
pub fn keep_only(capabilities: &[Capability]) {
    if let Err(error) = os::keep_only(capabilities) {
        log::warn!("going on with all privileges: {error}");
    }
}

/// Reason why programs cannot be confined to the files and addresses that they need, if this system cannot do that.
pub fn missing() -> Option<String> {
    os::missing()
}

/// Whether this process was confined: what it did not say that it needs is not to be tried.
pub fn is_confined() -> bool {
    CONFINED.load(Ordering::Relaxed)
}
