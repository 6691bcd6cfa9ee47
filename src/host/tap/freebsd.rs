//! FreeBSD 13.1 and later: tap(4), whose device node gets the name that the interface is given.

use nix::errno::Errno;

use super::TapError;
use crate::host::bridges::Bridge;
use crate::sys::interfaces;

/// What such interfaces are cloned from.
const TAP: &[u8] = b"tap";

/// A tap on a bridge.
#[derive(Debug)]
pub struct Tap {
    name: String,
}

impl Tap {
    /// Makes it, up and on the bridge. It has an address of the system's choice.
    pub fn make(name: &str, bridge: &Bridge, _: [u8; 6]) -> Result<Self, TapError> {
        // A process that is killed before the new name leaves a tap that nobody knows again.
        interfaces::create(TAP, name.as_bytes()).map_err(TapError::step("make", name))?;
        let tap = Self::found(name);
        let joined = tap.join(bridge).and_then(|()| {
            interfaces::set_up(name.as_bytes()).map_err(TapError::step("bring up", name))
        });
        match joined {
            Ok(()) => Ok(tap),
            Err(error) => {
                if let Err(error) = tap.remove() {
                    log::warn!("{error}");
                }
                Err(error)
            }
        }
    }

    /// One that an earlier supervisor has made.
    pub fn found(name: &str) -> Self {
        let name = name.to_owned();
        Self { name }
    }

    /// Puts it on a bridge, also once more after it has lost its own. Its MTU is that of the bridge before: a bridge
    /// takes over that of its first member.
    pub fn join(&self, bridge: &Bridge) -> Result<(), TapError> {
        let name = self.name.as_bytes();
        interfaces::set_mtu(name, bridge.mtu)
            .map_err(TapError::step("set the MTU of", &self.name))?;
        interfaces::join_bridge(name, bridge.name.as_bytes())
            .map_err(|error| TapError::Bridge(self.name.clone(), bridge.name.clone(), error))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Nothing to be done: it stays until it is removed, and tenders run as root.
    #[allow(clippy::unnecessary_wraps, clippy::unused_self)]
    pub fn hand_over(&mut self, _: u32) -> Result<(), TapError> {
        Ok(())
    }

    /// Not as long as anybody has it open, as that would wait, and all changes of interfaces with it.
    pub fn remove(self) -> Result<(), TapError> {
        let name = self.name.as_bytes();
        let removed = interfaces::is_open(name).and_then(|open| {
            if open {
                return Err(Errno::EBUSY.into());
            }
            interfaces::destroy(name)
        });
        removed.map_err(TapError::step("remove", &self.name))
    }
}
