//! Linux: tun(4).

use std::fs::{File, OpenOptions};
use std::io;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::TapError;
use crate::host::bridges::Bridge;
use crate::sys::tap::{self, Interfaces};

const TUN: &str = "/dev/net/tun";

/// Bytes of the stack of a thread that does nothing but close.
const STACK: usize = 64 << 10;

/// How long to wait before looking again whether an interface is gone.
const STEP: Duration = Duration::from_micros(50);

/// The first byte of a tap's own hardware address: local, and so high that no bridge takes it for its own, which is the
/// lowest of its ports.
const HIGH: u8 = 0xfe;

/// The largest MTU that the kernel gives a tap, in bytes.
const LARGEST_MTU: u32 = 65521;

/// A tap on a bridge. Until it is [handed over](Self::hand_over) it is held open, so that it goes with this process.
#[derive(Debug)]
pub struct Tap {
    name: String,
    held: Option<File>,
}

impl Tap {
    /// Makes it, up and on the bridge. `address` is any that no other tap has.
    pub fn make(name: &str, bridge: &Bridge, mut address: [u8; 6]) -> Result<Self, TapError> {
        let failed = |what| TapError::step(what, name);
        let tun = open()?;
        tap::create(&tun, name.as_bytes()).map_err(failed("make"))?;
        let interfaces = Interfaces::open().map_err(failed("set up"))?;
        let name_bytes = name.as_bytes();
        address[0] = HIGH;
        interfaces
            .set_address(name_bytes, address)
            .map_err(failed("set the address of"))?;
        // A tender without rights cannot: frames would reach the guest merged, and cut.
        interfaces.disable_offloads(name_bytes);
        join(&interfaces, name, bridge)?;
        interfaces.set_up(name_bytes).map_err(failed("bring up"))?;
        Ok(Self {
            name: name.to_owned(),
            held: Some(tun),
        })
    }

    /// One that an earlier supervisor has made.
    pub fn found(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            held: None,
        }
    }

    /// Puts it on a bridge once more, after it has lost its own.
    pub fn join(&self, bridge: &Bridge) -> Result<(), TapError> {
        let interfaces = Interfaces::open().map_err(TapError::step("set up", &self.name))?;
        join(&interfaces, &self.name, bridge)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets go of it: from now on only a process of `user` can attach to it, and it stays until it is removed.
    pub fn hand_over(&mut self, user: u32) -> Result<(), TapError> {
        let Some(tun) = self.held.take() else {
            return Ok(());
        };
        tap::set_owner(&tun, user).map_err(TapError::step("give away", &self.name))?;
        tap::set_persistent(&tun, true).map_err(TapError::step("keep", &self.name))
    }

    /// Fails, and leaves it, if something is attached to it.
    pub fn remove(self) -> Result<(), TapError> {
        let tun = if let Some(tun) = self.held {
            tun
        } else {
            let tun = open()?;
            // If it is gone, this makes another one, which goes with `tun`.
            tap::attach(&tun, self.name.as_bytes())
                .map_err(TapError::step("remove", &self.name))?;
            tap::set_persistent(&tun, false).map_err(TapError::step("remove", &self.name))?;
            tun
        };
        close(tun, &self.name)
    }
}

/// Puts a tap on a bridge. Its MTU is that of the bridge before: otherwise it would lower that of the bridge, or have a
/// larger one than frames on it may have.
fn join(interfaces: &Interfaces, name: &str, bridge: &Bridge) -> Result<(), TapError> {
    interfaces
        .set_mtu(name.as_bytes(), bridge.mtu.min(LARGEST_MTU))
        .map_err(TapError::step("set the MTU of", name))?;
    interfaces
        .join_bridge(name.as_bytes(), bridge.name.as_bytes())
        .map_err(|error| TapError::Bridge(name.to_owned(), bridge.name.clone(), error.into()))
}

/// Closes what an interface goes with, and waits until it is gone. The kernel keeps who closes it for long after that.
fn close(tun: File, name: &str) -> Result<(), TapError> {
    let closing = thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || drop(tun));
    // Without a thread it was closed here.
    while closing.as_ref().is_ok_and(|thread| !thread.is_finished()) && if_nametoindex(name).is_ok()
    {
        thread::sleep(STEP);
    }
    match if_nametoindex(name) {
        Ok(_) => Err(TapError::step("remove", name)(Errno::EBUSY)),
        Err(_) => Ok(()),
    }
}

fn open() -> Result<File, TapError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN)
        .map_err(|error: io::Error| TapError::Device(TUN, error))
}
