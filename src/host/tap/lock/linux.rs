//! Linux: nftables, over a netlink socket of its own for each batch.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::super::TapError;
use super::super::name::{Owner, PREFIX};
use super::nftables::{Batch, refusal};
use crate::unikernel::Mac;

/// The table of one supervisor. It outlives this value, and the process: unikernels that go on stay locked.
#[derive(Debug)]
pub struct AddressLock {
    owner: String,
    allowed: HashMap<String, Mac>,
}

impl AddressLock {
    /// Locks all taps of this owner, in one step: those in `allowed` to their addresses, others altogether.
    pub fn set(owner: &Owner, allowed: Vec<(String, Mac)>) -> Result<Self, TapError> {
        let owner = owner.as_str().to_owned();
        let batch = Batch::new(&owner).create(&owner).allow(&allowed);
        carry_out(&batch.finish())?;
        let allowed = allowed.into_iter().collect();
        Ok(Self { owner, allowed })
    }

    pub fn allow(&mut self, more: Vec<(String, Mac)>) -> Result<(), TapError> {
        carry_out(&Batch::new(&self.owner).allow(&more).finish())?;
        self.allowed.extend(more);
        Ok(())
    }

    /// Lets nothing more pass from the taps whose names begin so.
    pub fn forget(&mut self, prefix: &str) -> Result<(), TapError> {
        let known = self.allowed.extract_if(|tap, _| tap.starts_with(prefix));
        let forgotten: Vec<_> = known.collect();
        if forgotten.is_empty() {
            return Ok(());
        }
        carry_out(&Batch::new(&self.owner).forget(&forgotten).finish())
    }

    pub fn remove(&self) {
        if let Err(error) = carry_out(&Batch::new(&self.owner).delete().finish()) {
            log::warn!("{error}");
        }
    }
}

/// Whether a lock could be set. Nothing is changed.
pub fn check() -> Result<(), TapError> {
    carry_out(&Batch::new(PREFIX).create(PREFIX).finish_for_check())
}

/// Removes the table that an earlier supervisor has left, if there is one.
pub fn remove_left(owner: &Owner) {
    // Without nftables, or the right to use it, there is none of ours either.
    let _ = carry_out(&Batch::new(owner.as_str()).delete().finish());
}

fn carry_out(batch: &[u8]) -> Result<(), TapError> {
    talk(batch).map_err(TapError::Lock)
}

/// Sends a batch. The kernel carries it out, and answers, before sending returns.
fn talk(batch: &[u8]) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    send(socket.as_raw_fd(), batch, MsgFlags::empty())?;
    let mut answer = [0; 8192];
    loop {
        match recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                if let Some(error) = refusal(&answer[..length]) {
                    return Err(io::Error::from_raw_os_error(error));
                }
            }
            Err(Errno::EAGAIN) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
