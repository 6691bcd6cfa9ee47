//! FreeBSD: the end of a virtual machine of vmm(4); its counters, as `<machine/vmm_dev.h>` has them from FreeBSD 14.0 on.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_char, c_int, timeval};

/// What machines are destroyed by.
const DESTROY: &CStr = c"hw.vmm.destroy";

/// Counters told at once.
const AT_ONCE: usize = 64;

/// `struct vm_stats`.
#[repr(C)]
pub struct Counters {
    cpu: c_int,
    index: c_int,
    count: c_int,
    time: timeval,
    values: [u64; AT_ONCE],
}

/// `struct vm_stat_desc`.
#[repr(C)]
pub struct Description {
    index: c_int,
    text: [c_char; 128],
}

nix::ioctl_readwrite!(
    /// VM_STATS: counters of a processor, from an index on.
    get_counters,
    b'v',
    50,
    Counters
);
nix::ioctl_readwrite!(
    /// VM_STAT_DESC: what is counted at an index.
    get_description,
    b'v',
    51,
    Description
);

/// Destroys the machine of this name, with its memory. `false`: there is none.
pub fn destroy(name: &str) -> io::Result<bool> {
    // SAFETY: `name` is read up to its length, and nothing is written.
    let destroyed = unsafe {
        libc::sysctlbyname(
            DESTROY.as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            name.as_ptr().cast(),
            name.len(),
        )
    };
    match Errno::result(destroyed) {
        Ok(_) => Ok(true),
        // There is no machine of this name; vmm(4) is not loaded.
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A virtual machine, and what is counted of it.
#[derive(Debug)]
pub struct Machine {
    device: File,
    names: Vec<String>,
}

impl Machine {
    /// The machine of this name, which has no `/` in it.
    pub fn open(name: &str) -> io::Result<Self> {
        let path = format!("/dev/vmm/{name}");
        let device = OpenOptions::new().read(true).write(true).open(path)?;
        let mut machine = Self {
            device,
            names: Vec::new(),
        };
        let count = machine.values()?.len();
        machine.names = (0..count)
            .map(|index| machine.name(index))
            .collect::<io::Result<_>>()?;
        Ok(machine)
    }

    /// What was counted on its first processor so far.
    pub fn counters(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.names.iter().cloned().zip(self.values()?).collect())
    }

    fn values(&self) -> io::Result<Vec<u64>> {
        let mut values = Vec::new();
        loop {
            // SAFETY: plain data, for which zero is a value.
            let mut counters: Counters = unsafe { zeroed() };
            counters.index = c_int::try_from(values.len()).map_err(|_| Errno::EOVERFLOW)?;
            // SAFETY: the kernel writes this structure only, whose size is part of the request's number.
            unsafe { get_counters(self.device.as_raw_fd(), &raw mut counters) }
                .map_err(explained)?;
            let count = usize::try_from(counters.count).unwrap_or(0).min(AT_ONCE);
            values.extend_from_slice(&counters.values[..count]);
            if count < AT_ONCE {
                return Ok(values);
            }
        }
    }

    fn name(&self, index: usize) -> io::Result<String> {
        // SAFETY: plain data, for which zero is a value.
        let mut description: Description = unsafe { zeroed() };
        description.index = c_int::try_from(index).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: the kernel writes this structure only, whose size is part of the request's number.
        unsafe { get_description(self.device.as_raw_fd(), &raw mut description)? };
        let text = description.text.map(c_char::cast_unsigned);
        let text = CStr::from_bytes_until_nul(&text).map_err(|_| Errno::EPROTO)?;
        Ok(text.to_string_lossy().into_owned())
    }
}

/// The structure of FreeBSD 13 has no index, and with that the request another number.
fn explained(error: Errno) -> io::Error {
    if error == Errno::ENOTTY {
        let why = "this system has no such counters: FreeBSD from 14.0 on has them";
        return io::Error::new(io::ErrorKind::Unsupported, why);
    }
    error.into()
}
