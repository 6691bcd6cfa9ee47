//! Linux: rtnetlink(7).

use std::collections::BTreeSet;
use std::io;

use super::Bridge;
use crate::sys::rtnetlink::{self, Link};
use crate::unikernel::Mac;

/// The kind of interface that is a bridge.
const BRIDGE: &str = "bridge";

/// The names of the interfaces on a bridge.
#[derive(Debug)]
pub(super) struct Ports(BTreeSet<String>);

pub(super) fn look() -> io::Result<Vec<Bridge>> {
    let links = rtnetlink::all()?;
    let bridges = links
        .iter()
        .filter(|link| link.kind.as_deref() == Some(BRIDGE));
    Ok(bridges.map(|bridge| of_links(bridge, &links)).collect())
}

impl Ports {
    #[allow(
        clippy::unnecessary_wraps,
        reason = "the interface is that of the other systems"
    )]
    pub(super) fn have(&self, interface: &str) -> io::Result<bool> {
        Ok(self.0.contains(interface))
    }
}

fn of_links(bridge: &Link, links: &[Link]) -> Bridge {
    let ports = || {
        let links = links.iter();
        links.filter(|link| link.master == Some(bridge.index))
    };
    let addresses = [bridge].into_iter().chain(ports());
    Bridge {
        name: bridge.name.clone(),
        other_names: bridge.other_names.clone(),
        mtu: bridge.mtu,
        addresses: addresses.filter_map(|link| link.address).map(Mac).collect(),
        ports: Ports(ports().map(|port| port.name.clone()).collect()),
    }
}
