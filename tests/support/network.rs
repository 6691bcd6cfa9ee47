//! A network namespace of a test's own.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{Permissions, set_permissions};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::geteuid;

use crate::support::{DEADLINE, on_path, run, skipped};

const TUN: &str = "/dev/net/tun";

/// The network namespace that this test's thread has for itself, and what it starts.
pub struct Network;

impl Network {
    /// Nothing, and a line that says why, where the test may not have one.
    pub fn new(what: &str) -> Option<Self> {
        let missing = |why: &str| {
            skipped(what, why);
            None
        };
        if !geteuid().is_root() {
            return missing("needs root");
        }
        if !Path::new(TUN).exists() {
            return missing("needs /dev/net/tun");
        }
        if on_path("ip").is_none() {
            return missing("needs ip(8)");
        }
        match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => Some(Self),
            Err(error) => missing(&format!("no network namespace of its own: {error}")),
        }
    }

    pub fn ip(&self, arguments: &[&str]) {
        let ended = run(Command::new("ip").args(arguments));
        assert!(ended.status.success(), "ip {arguments:?}: {ended:?}");
    }

    /// One line for each interface whose name begins so, with all that is known of it.
    pub fn interfaces(&self, prefix: &str) -> Vec<String> {
        let all = run(Command::new("ip").args(["-details", "-oneline", "link"])).stdout;
        // NUMBER: NAME: ...
        let named = |line: &&str| {
            let name = line.split(' ').nth(1);
            name.is_some_and(|name| name.starts_with(prefix))
        };
        all.lines().filter(named).map(str::to_owned).collect()
    }

    /// A bridge that is up, with this address of the host's in a network of 256. It says nothing by itself: with snooping it
    /// would join a group of multicast.
    pub fn bridge(&self, name: &str, address: &str) {
        self.ip(&["link", "add", name, "type", "bridge", "mcast_snooping", "0"]);
        self.ip(&["link", "set", name, "up"]);
        self.ip(&["address", "add", &format!("{address}/24"), "dev", name]);
    }

    /// Has /sys show the interfaces of this namespace, for this test's thread and what it starts.
    pub fn show_attributes(&self) {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        for command in ["mount --make-rprivate /", "mount -t sysfs sysfs /sys"] {
            let ended = run(Command::new("sh").args(["-c", command]));
            assert!(ended.status.success(), "{command}: {ended:?}");
        }
    }

    /// Gives /dev/net/tun this mode, for this test's thread and what it starts.
    pub fn open_tun(&self, mode: u32) {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        for command in [
            "mount --make-rprivate /",
            "mount -t tmpfs tmpfs /dev/net",
            "mknod /dev/net/tun c 10 200",
        ] {
            let ended = run(Command::new("sh").args(["-c", command]));
            assert!(ended.status.success(), "{command}: {ended:?}");
        }
        set_permissions(TUN, Permissions::from_mode(mode)).unwrap();
    }

    /// One echo request to the guest and its answer; the kernel asks for its address before.
    pub fn ping(&self, guest: Ipv4Addr) {
        const REQUEST: [u8; 12] = [8, 0, 0x5d, 0xfc, 0x12, 0x34, 0, 1, 0x70, 0x65, 0x17, 0x69];
        let socket: OwnedFd = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        )
        .unwrap();
        let seconds = i64::try_from(DEADLINE.as_secs()).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0)).unwrap();
        let address = SockaddrIn::from(SocketAddrV4::new(guest, 0));
        sendto(socket.as_raw_fd(), &REQUEST, &address, MsgFlags::empty()).unwrap();
        let mut packet = [0; 1500];
        loop {
            let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())
                .expect("no answer to the echo request");
            let (header, body) = packet[..length].split_at(20);
            // Echo reply from the guest, with the identifier and payload of the request.
            if header[12..16] == guest.octets() && body[..2] == [0, 0] {
                assert_eq!(body[4..], REQUEST[4..]);
                return;
            }
        }
    }
}
