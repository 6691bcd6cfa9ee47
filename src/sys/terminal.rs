//! The size of a terminal.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{TIOCGWINSZ, winsize};

nix::ioctl_read_bad!(
    /// TIOCGWINSZ: rows and columns.
    get_size,
    TIOCGWINSZ,
    winsize
);

/// Rows and columns; an error if it is no terminal.
pub fn size(terminal: impl AsFd) -> io::Result<(usize, usize)> {
    // SAFETY: plain data, for which zero is a value.
    let mut size: winsize = unsafe { zeroed() };
    // SAFETY: the kernel writes this structure only.
    unsafe { get_size(terminal.as_fd().as_raw_fd(), &raw mut size)? };
    Ok((size.ws_row.into(), size.ws_col.into()))
}
