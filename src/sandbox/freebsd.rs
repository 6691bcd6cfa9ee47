//! FreeBSD: Capsicum, capsicum(4).

use std::io;

use super::{Breach, Capability, Need};
use crate::sys::{capsicum, spawn};

pub(super) fn confine(needs: &[Need<'_>], _: Breach) {
    // connect(2) to an address, files of the resolver, execve(2), and the sysctls of processes and interfaces (they have
    // no CTLFLAG_CAPRD) are for nobody in capability mode.
    let beyond = |need: &Need<'_>| {
        matches!(
            need,
            Need::Tcp(_) | Need::Names | Need::Programs | Need::Counters
        )
    };
    if needs.iter().any(beyond) {
        log::debug!("not in capability mode, where what this program does is not possible");
        return;
    }
    if let Err(error) = enter(needs) {
        log::warn!("going on without capability mode: {error}");
    }
}

pub(super) fn keep_only(_: &[Capability]) -> io::Result<()> {
    Ok(spawn::forbid_new_privileges()?)
}

pub(super) fn missing() -> Option<String> {
    // Capsicum is part of the kernel; where it does not go with what a program needs, that is logged.
    None
}

fn enter(needs: &[Need<'_>]) -> io::Result<()> {
    for need in needs {
        if let Need::LocalSockets(directory) = need {
            capsicum::only_connect(directory)?;
        }
    }
    capsicum::enter()
}
