//! Landlock, landlock(7): rights that a thread gives up, but for what lies below some directories.
#![allow(unsafe_code)]

use std::io;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc::{
    self, SYS_landlock_add_rule, SYS_landlock_create_ruleset, SYS_landlock_restrict_self, c_long,
};

/// Of `linux/landlock.h`.
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const RULE_NET_PORT: u32 = 2;

/// Rights about files by the version that brought them; each has all before it.
const FILE_RIGHTS: [(c_long, u32); 5] = [(1, 13), (2, 14), (3, 15), (5, 16), (LOCAL_SOCKETS, 17)];

/// Since this version there are rights about TCP: binding, and connecting.
pub const NETWORKS: c_long = 4;
/// Since this version there is a right about local sockets that have a path.
pub const LOCAL_SOCKETS: c_long = 9;
const CONNECT_TCP: u64 = 0b10;
const NETWORK_RIGHTS: u64 = 0b01 | CONNECT_TCP;

/// Since this version others can be out of reach of sockets in the abstract name space, and of signals.
const SCOPES: c_long = 6;
const ALL_SCOPES: u64 = 0b11;

/// Rights about the files below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// None.
    pub const NONE: Self = Self(0);
    /// Running programs.
    pub const EXECUTE: Self = Self(1);
    /// Opening for writing.
    pub const WRITE_FILE: Self = Self(1 << 1);
    /// Opening for reading.
    pub const READ_FILE: Self = Self(1 << 2);
    /// Listing directories.
    pub const READ_DIRECTORY: Self = Self(1 << 3);
    /// Removing, and renaming.
    pub const REMOVE_FILE: Self = Self(1 << 5);
    /// Making regular files, and renaming to there.
    pub const MAKE_FILE: Self = Self(1 << 8);
    /// Cutting off what a file has; since version 3 a right of its own.
    pub const TRUNCATE: Self = Self(1 << 14);
    /// Connecting to local sockets; before [`LOCAL_SOCKETS`] nobody needs it.
    pub const RESOLVE_SOCKET: Self = Self(1 << 16);
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Everything that can be given up, and what is not.
#[derive(Debug)]
pub struct Ruleset {
    descriptor: OwnedFd,
    handled: Handled,
}

/// `struct landlock_ruleset_attr`; older kernels take what is 0 in what they do not know.
#[derive(Debug)]
#[repr(C)]
struct Handled {
    files: u64,
    networks: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    directory: RawFd,
}

/// `struct landlock_net_port_attr`.
#[repr(C)]
struct Port {
    allowed: u64,
    port: u64,
}

impl Ruleset {
    /// All that this kernel knows is to be given up, but `kept`, wherever it is.
    ///
    /// # Errors
    /// `ENOSYS` or `EOPNOTSUPP` if it does not know Landlock, or does not want to.
    pub fn new(kept: Rights) -> io::Result<Self> {
        let version = version()?;
        let bits = FILE_RIGHTS.iter().rfind(|(since, _)| *since <= version);
        let handled = Handled {
            files: bits.map_or(0, |(_, bits)| (1 << bits) - 1) & !kept.0,
            networks: if version >= NETWORKS {
                NETWORK_RIGHTS
            } else {
                0
            },
            scopes: if version >= SCOPES { ALL_SCOPES } else { 0 },
        };
        // SAFETY: the kernel reads so many bytes of `handled`, and nothing else.
        let ruleset = Errno::result(unsafe {
            libc::syscall(
                SYS_landlock_create_ruleset,
                &raw const handled,
                size_of::<Handled>(),
                0,
            )
        })?;
        let ruleset = RawFd::try_from(ruleset).map_err(io::Error::other)?;
        Ok(Self {
            // SAFETY: the kernel has just made it, close-on-exec, and nobody else knows it.
            descriptor: unsafe { OwnedFd::from_raw_fd(ruleset) },
            handled,
        })
    }

    /// These rights are kept for `directory`, which may also be a file, and what lies below.
    pub fn allow(&self, directory: impl AsFd, rights: Rights) -> io::Result<()> {
        let beneath = Beneath {
            allowed: rights.0 & self.handled.files,
            directory: directory.as_fd().as_raw_fd(),
        };
        // The kernel refuses a rule about nothing.
        if beneath.allowed == 0 {
            return Ok(());
        }
        // SAFETY: the kernel reads `beneath`, which has the layout that goes with this kind of rule.
        Errno::result(unsafe {
            libc::syscall(
                SYS_landlock_add_rule,
                self.descriptor.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const beneath,
                0,
            )
        })?;
        Ok(())
    }

    /// TCP connections can be made to this port, of whatever host.
    pub fn allow_port(&self, port: u16) -> io::Result<()> {
        let port = Port {
            allowed: CONNECT_TCP & self.handled.networks,
            port: port.into(),
        };
        if port.allowed == 0 {
            return Ok(());
        }
        // SAFETY: the kernel reads `port`, which has the layout that goes with this kind of rule.
        Errno::result(unsafe {
            libc::syscall(
                SYS_landlock_add_rule,
                self.descriptor.as_raw_fd(),
                RULE_NET_PORT,
                &raw const port,
                0,
            )
        })?;
        Ok(())
    }

    /// Gives all up, for good. The thread must have given up new privileges before.
    pub fn restrict(self) -> io::Result<()> {
        // SAFETY: it takes numbers, and changes nothing in memory.
        Errno::result(unsafe {
            libc::syscall(SYS_landlock_restrict_self, self.descriptor.as_raw_fd(), 0)
        })?;
        Ok(())
    }
}

/// What the kernel knows.
///
/// # Errors
/// `ENOSYS` or `EOPNOTSUPP` if it does not know Landlock, or does not want to.
pub fn version() -> io::Result<c_long> {
    // SAFETY: with this flag the kernel reads no memory.
    Ok(Errno::result(unsafe {
        libc::syscall(
            SYS_landlock_create_ruleset,
            ptr::null::<Handled>(),
            0,
            CREATE_RULESET_VERSION,
        )
    })?)
}
