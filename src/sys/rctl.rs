//! FreeBSD: `rctl_add_rule(2)` and `rctl_remove_rule(2)`, which no crate has.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::ptr;

use nix::errno::Errno;
use nix::libc::{c_char, c_int, size_t};

unsafe extern "C" {
    fn rctl_add_rule(
        rule: *const c_char,
        length: size_t,
        answer: *mut c_char,
        answer_length: size_t,
    ) -> c_int;
    fn rctl_remove_rule(
        rule: *const c_char,
        length: size_t,
        answer: *mut c_char,
        answer_length: size_t,
    ) -> c_int;
}

/// Adds a rule, as rctl(8) writes it. `Unsupported` where the kernel takes none.
pub fn add(rule: &str) -> io::Result<()> {
    let rule = CString::new(rule)?;
    let length = rule.as_bytes_with_nul().len();
    // SAFETY: the rule is read up to its length, and there is no answer.
    let added = unsafe { rctl_add_rule(rule.as_ptr(), length, ptr::null_mut(), 0) };
    Ok(Errno::result(added).map(drop)?)
}

/// Removes a rule, or all that it matches.
pub fn remove(rule: &str) -> io::Result<()> {
    let rule = CString::new(rule)?;
    let length = rule.as_bytes_with_nul().len();
    // SAFETY: as above.
    let removed = unsafe { rctl_remove_rule(rule.as_ptr(), length, ptr::null_mut(), 0) };
    Ok(Errno::result(removed).map(drop)?)
}
