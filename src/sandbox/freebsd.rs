//! FreeBSD: Capsicum, capsicum(4).

use std::io;
use std::os::fd::BorrowedFd;

use super::Access;
use crate::sys::capsicum;

pub(super) fn confine(_: &[(BorrowedFd<'_>, Access)], port: Option<u16>) -> io::Result<()> {
    if port.is_some() {
        let why = "connections have to be made, which Capsicum does not allow";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    capsicum::enter()
}
