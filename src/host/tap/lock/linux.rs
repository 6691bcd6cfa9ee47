//! Linux: nftables, over netlink.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};

use super::super::TapError;
use super::nftables::{Batch, refusal};
use crate::supervisor::owner::{Owner, PREFIX};
use crate::unikernel::Mac;

/// An interface that is in every network.
const LOOPBACK: &str = "lo";

/// The table of one supervisor. It outlives this value, and the process: unikernels that go on stay locked.
#[derive(Debug)]
pub struct AddressLock {
    owner: String,
    /// Kept open: whoever closes one waits until what it has removed is forgotten.
    socket: OwnedFd,
}

impl AddressLock {
    /// Locks the taps of this owner that there are, in one step: each to its address, or altogether.
    pub fn set<'a>(
        owner: &Owner,
        taps: impl Iterator<Item = (&'a str, Option<Mac>)>,
    ) -> Result<Self, TapError> {
        check()?;
        let lock = Self {
            owner: owner.as_str().to_owned(),
            socket: open().map_err(TapError::Lock)?,
        };
        let batch = lock.batch().new_table();
        let batch = taps.fold(batch, |batch, (tap, address)| batch.lock(tap, address));
        lock.carry_out(batch).map_err(TapError::Lock)?;
        Ok(lock)
    }

    /// Locks a tap to an address.
    pub fn add(&self, tap: &str, address: Mac) -> Result<(), TapError> {
        let batch = self.batch().lock(tap, Some(address));
        self.carry_out(batch).map_err(TapError::Lock)
    }

    /// Removes the lock of a tap that is gone: the kernel may have done so.
    pub fn forget(&self, tap: &str) -> Result<(), TapError> {
        match self.carry_out(self.batch().unlock(tap)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TapError::Lock(error)),
            _ => Ok(()),
        }
    }

    /// Removes all that there is of it.
    pub fn remove(&self) {
        if let Err(error) = self.carry_out(self.batch().delete_table()) {
            log::warn!("{}", TapError::Lock(error));
        }
    }

    fn batch(&self) -> Batch {
        Batch::new(&self.owner)
    }

    fn carry_out(&self, batch: Batch) -> io::Result<()> {
        send_to(&self.socket, &batch.finish())
    }
}

/// Whether taps could be locked. Nothing is changed.
pub fn check() -> Result<(), TapError> {
    let batch = Batch::new(PREFIX).new_table().lock(LOOPBACK, None);
    open()
        .and_then(|socket| send_to(&socket, &batch.finish_for_check()))
        .map_err(TapError::Lock)
}

/// Removes what an earlier supervisor has left, if there is anything.
pub fn remove_left(owner: &Owner) {
    let batch = Batch::new(owner.as_str()).delete_table();
    // Without nftables, or the right to use it, there is none of ours either.
    let _ = open().and_then(|socket| send_to(&socket, &batch.finish()));
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkNetFilter;
    Ok(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        protocol,
    )?)
}

/// Sends a batch. The kernel carries it out, and tells what it refuses, before sending returns.
fn send_to(socket: &OwnedFd, batch: &[u8]) -> io::Result<()> {
    // Of many taps it is more than a socket takes otherwise; without the right to do this it is refused anyway.
    let _ = setsockopt(socket, sockopt::SndBufForce, &batch.len());
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
