//! FreeBSD: Capsicum, capsicum(4).

use std::io;

use super::{Breach, Need};
use crate::sys::capsicum;

pub(super) fn confine(needs: &[Need<'_>], _: Breach) {
    // connect(2) to an address, files of the resolver, and the sysctls of processes and interfaces (they have no
    // CTLFLAG_CAPRD) are for nobody in capability mode.
    let beyond = |need: &Need<'_>| matches!(need, Need::Tcp(_) | Need::Names | Need::Counters);
    if needs.iter().any(beyond) {
        log::debug!("not in capability mode, where what this program does is not possible");
        return;
    }
    if let Err(error) = enter(needs) {
        log::warn!("going on without capability mode: {error}");
    }
}

fn enter(needs: &[Need<'_>]) -> io::Result<()> {
    for need in needs {
        if let Need::LocalSockets(folder) = need {
            capsicum::only_connect(folder)?;
        }
    }
    capsicum::enter()
}
