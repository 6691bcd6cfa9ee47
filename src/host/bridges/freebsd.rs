//! FreeBSD: the interface group of bridges (`if_bridge(4)`).

use std::io;

use nix::ifaddrs::getifaddrs;

use super::Bridge;
use crate::sys::interfaces;
use crate::unikernel::Mac;

/// The group that every bridge is in.
const BRIDGE: &[u8] = b"bridge";

/// The interfaces on the bridge of this name, which is asked for them one by one.
#[derive(Debug)]
pub(super) struct Ports(String);

pub(super) fn look() -> io::Result<Vec<Bridge>> {
    let names = interfaces::members(BRIDGE)?.into_iter();
    let names = names.map(String::from_utf8).filter_map(Result::ok);
    let mut bridges = Vec::new();
    for name in names {
        let mut addresses = getifaddrs()?;
        let own = addresses.find_map(|entry| {
            let link = entry.address.as_ref().and_then(|address| {
                let address = address.as_link_addr()?;
                address.addr()
            });
            link.filter(|_| entry.interface_name == name)
        });
        match interfaces::mtu(name.as_bytes()) {
            Ok(mtu) => bridges.push(Bridge {
                mtu,
                addresses: own.map(Mac).into_iter().collect(),
                ports: Ports(name.clone()),
                name,
                other_names: Vec::new(),
            }),
            // It has gone meanwhile.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bridges)
}

impl Ports {
    pub(super) fn have(&self, interface: &str) -> io::Result<bool> {
        interfaces::is_member(interface.as_bytes(), self.0.as_bytes())
    }
}
