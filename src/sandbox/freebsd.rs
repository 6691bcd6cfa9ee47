//! FreeBSD: Capsicum, capsicum(4).

use std::io;
use std::os::fd::BorrowedFd;

use super::Access;
use crate::sys::capsicum;

pub(super) fn confine(_: &[(BorrowedFd<'_>, Access)]) -> io::Result<()> {
    capsicum::enter()
}
