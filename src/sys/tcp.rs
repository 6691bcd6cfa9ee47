//! FreeBSD: an option of tcp(4) that nix does not know.
#![allow(unsafe_code)]

use nix::libc;

nix::sockopt_impl!(
    /// `TCP_MAXUNACKTIME`: seconds within which the peer has to take note of something.
    MaxUnackTime,
    Both,
    libc::IPPROTO_TCP,
    libc::TCP_MAXUNACKTIME,
    u32
);
