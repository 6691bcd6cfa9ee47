//! Protections that are off, and why: said once at the start of `petreld`, and by `--check`.

use std::fmt;

use nix::unistd::geteuid;

use super::run::GroupError;
use super::{Options, tap};
use crate::sandbox;

/// A protection that is off.
#[derive(Debug)]
pub(super) struct Off {
    what: &'static str,
    why: String,
}

/// Protections that are off with these options. `groups`: why tenders have no limits of their own, if they have none.
pub(super) fn off(options: &Options, groups: Option<&GroupError>) -> Vec<Off> {
    let is_root = geteuid().is_root();
    let mut off = Vec::new();
    let mut note = |what, why| off.push(Off { what, why });
    if let Some(why) = groups {
        note(
            "limits of memory of unikernels, but their address space",
            why.to_string(),
        );
    }
    if let Some(why) = sandbox::missing() {
        note("access to files only as needed, by Landlock", why);
    }
    // Others than root have no choice: their tenders are theirs, and have no networks.
    if is_root && options.tender_uids.is_none() {
        let why = "tenders run as root: give them users of their own with --tender-uids";
        note("a user of its own for each unikernel", why.to_owned());
    }
    if is_root && !options.lock_mac {
        let why = match tap::check_lock() {
            Ok(()) => "--lock-mac is not given".to_owned(),
            Err(error) => error.to_string(),
        };
        note("frames only from a unikernel's own address", why);
    }
    off
}

/// Warns of protections that are off, one line each.
pub(super) fn warn(options: &Options, groups: Option<&GroupError>) {
    for off in off(options, groups) {
        log::warn!("{off}");
    }
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "protection is off: {}: {}", self.what, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use argh::FromArgs;

    #[test]
    fn what_is_off_is_told_with_its_reason() {
        let options = Options::from_args(&["petreld"], &[]).unwrap();
        let groups = GroupError::Absent("the kernel has none");
        let off = off(&options, Some(&groups));
        let told: Vec<_> = off.iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("protection is off: limits of memory"));
        assert!(told[0].ends_with(": the kernel has none"), "{told:?}");
        let has = |text: &str| told.iter().any(|line| line.contains(text));
        assert_eq!(has("--tender-uids"), geteuid().is_root());
        assert_eq!(has("own address"), geteuid().is_root());
    }
}
