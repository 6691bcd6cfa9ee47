//! Tap interfaces: as a supervisor makes them, and as a tender attaches to them, by name or by an inherited descriptor.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_short, c_ulong};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{IFF_NO_PI, IFF_RUNNING, IFF_TAP, IFF_UP, IFNAMSIZ, ifreq};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const IFF_VNET_HDR: c_int = 0x4000;
const IFF_TUN_EXCL: c_int = 0x8000;
const ARPHRD_ETHER: u16 = 1;
const SIOCGIFFLAGS: c_ulong = 0x8913;
const SIOCSIFFLAGS: c_ulong = 0x8914;
const SIOCGIFMTU: c_ulong = 0x8921;
const SIOCSIFMTU: c_ulong = 0x8922;
const SIOCSIFHWADDR: c_ulong = 0x8924;
const SIOCGIFINDEX: c_ulong = 0x8933;
const SIOCETHTOOL: c_ulong = 0x8946;
const SIOCBRADDIF: c_ulong = 0x89a2;
const ETHTOOL_SET_GSO: u32 = 0x24;
const ETHTOOL_SET_GRO: u32 = 0x2c;

nix::ioctl_read_bad!(
    /// The flags of the interface named in the request.
    get_flags,
    SIOCGIFFLAGS,
    ifreq
);
nix::ioctl_write_ptr_bad!(
    /// Sets the flags of the interface named in the request.
    set_flags,
    SIOCSIFFLAGS,
    ifreq
);
nix::ioctl_write_ptr_bad!(
    /// Sets the hardware address of the interface named in the request.
    set_hardware_address,
    SIOCSIFHWADDR,
    ifreq
);
nix::ioctl_read_bad!(
    /// The index of the interface named in the request.
    get_index,
    SIOCGIFINDEX,
    ifreq
);
nix::ioctl_write_ptr_bad!(
    /// Puts the interface with the index in the request on the bridge named in it.
    bridge_add_interface,
    SIOCBRADDIF,
    ifreq
);
nix::ioctl_read_bad!(
    /// The MTU of the interface named in the request.
    get_mtu,
    SIOCGIFMTU,
    ifreq
);
nix::ioctl_write_ptr_bad!(
    /// Sets the MTU of the interface named in the request.
    set_mtu_of,
    SIOCSIFMTU,
    ifreq
);
nix::ioctl_read_bad!(
    /// Carries out the ethtool command that the request points to.
    ethtool,
    SIOCETHTOOL,
    ifreq
);
nix::ioctl_write_ptr_bad!(
    /// TUNSETIFF: attaches to the interface named in the request.
    tun_set_interface,
    nix::request_code_write!(b'T', 202, size_of::<c_int>()),
    ifreq
);
nix::ioctl_read_bad!(
    /// TUNGETIFF: the interface attached to, and how.
    tun_get_interface,
    nix::request_code_read!(b'T', 210, size_of::<c_int>()),
    ifreq
);

nix::ioctl_write_int_bad!(
    /// TUNSETPERSIST: whether the interface stays when nothing is attached to it.
    tun_set_persistent,
    nix::request_code_write!(b'T', 203, size_of::<c_int>())
);
nix::ioctl_write_int_bad!(
    /// TUNSETOWNER: the only user who may attach to the interface.
    tun_set_owner,
    nix::request_code_write!(b'T', 204, size_of::<c_int>())
);

/// Asks the kernel about interfaces of this process's network namespace.
pub struct Interfaces {
    socket: OwnedFd,
}

/// How a descriptor of `/dev/net/tun` is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The name of its interface, up to 15 bytes.
    pub interface: Vec<u8>,
    /// Whether it carries Ethernet frames (a tap, not a tun).
    pub tap: bool,
    /// Whether each frame comes with a header before it: packet information or virtio's.
    pub framed: bool,
}

impl Interfaces {
    /// Opens the socket over which to ask.
    pub fn open() -> nix::Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Ok(Self { socket })
    }

    /// Whether interface `name` is up or running. `ENODEV` when there is none of this name.
    pub fn is_up(&self, name: &[u8]) -> nix::Result<bool> {
        let mut request = request(name)?;
        // SAFETY: the kernel reads the name and writes the flags of this `ifreq`.
        unsafe { get_flags(self.socket.as_raw_fd(), &raw mut request)? };
        Ok(c_int::from(flags(&request)) & (IFF_UP | IFF_RUNNING) != 0)
    }

    /// The largest packet of interface `name`, in bytes without the Ethernet header.
    pub fn mtu(&self, name: &[u8]) -> nix::Result<u16> {
        let mut request = request(name)?;
        // SAFETY: the kernel reads the name and writes the MTU of this `ifreq`.
        unsafe { get_mtu(self.socket.as_raw_fd(), &raw mut request)? };
        // SAFETY: SIOCGIFMTU has filled this member of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        u16::try_from(mtu).map_err(|_| Errno::ERANGE)
    }

    /// Brings interface `name` up.
    pub fn set_up(&self, name: &[u8]) -> nix::Result<()> {
        let mut request = request(name)?;
        // SAFETY: the kernel reads the name and writes the flags of this `ifreq`.
        unsafe { get_flags(self.socket.as_raw_fd(), &raw mut request)? };
        request.ifr_ifru.ifru_flags = flags(&request) | short(IFF_UP);
        // SAFETY: the kernel reads this `ifreq` only.
        unsafe { set_flags(self.socket.as_raw_fd(), &raw const request)? };
        Ok(())
    }

    /// Gives Ethernet interface `name` this hardware address.
    pub fn set_address(&self, name: &[u8], address: [u8; 6]) -> nix::Result<()> {
        let mut request = request(name)?;
        // SAFETY: zeros are a value of every member of this union of plain data.
        let mut hardware = unsafe { request.ifr_ifru.ifru_hwaddr };
        hardware.sa_family = ARPHRD_ETHER;
        for (to, from) in hardware.sa_data.iter_mut().zip(address) {
            *to = c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_hwaddr = hardware;
        // SAFETY: the kernel reads this `ifreq` only.
        unsafe { set_hardware_address(self.socket.as_raw_fd(), &raw const request)? };
        Ok(())
    }

    /// Sets the largest packet of interface `name`, in bytes without the Ethernet header.
    pub fn set_mtu(&self, name: &[u8], mtu: u32) -> nix::Result<()> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_mtu = c_int::try_from(mtu).map_err(|_| Errno::ERANGE)?;
        // SAFETY: the kernel reads this `ifreq` only.
        unsafe { set_mtu_of(self.socket.as_raw_fd(), &raw const request)? };
        Ok(())
    }

    /// Puts interface `name` on `bridge`.
    pub fn join_bridge(&self, name: &[u8], bridge: &[u8]) -> nix::Result<()> {
        let mut port = request(name)?;
        // SAFETY: the kernel reads the name and writes the index of this `ifreq`.
        unsafe { get_index(self.socket.as_raw_fd(), &raw mut port)? };
        let mut request = request(bridge)?;
        // SAFETY: SIOCGIFINDEX has filled this member of the union.
        request.ifr_ifru.ifru_ifindex = unsafe { port.ifr_ifru.ifru_ifindex };
        // SAFETY: the kernel reads this `ifreq` only.
        unsafe { bridge_add_interface(self.socket.as_raw_fd(), &raw const request)? };
        Ok(())
    }

    /// Asks that frames are neither merged on receipt nor split late on sending. The kernel
    /// refuses this to an unprivileged caller, to whom the host's own settings then apply.
    pub fn disable_offloads(&self, name: &[u8]) {
        for command in [ETHTOOL_SET_GRO, ETHTOOL_SET_GSO] {
            let Ok(mut request) = request(name) else {
                return;
            };
            let mut value: [u32; 2] = [command, 0];
            request.ifr_ifru.ifru_data = (&raw mut value).cast::<c_char>();
            // SAFETY: `value` is an `ethtool_value`, and outlives the call.
            let _ = unsafe { ethtool(self.socket.as_raw_fd(), &raw mut request) };
        }
    }
}

/// Attaches `tun`, an open `/dev/net/tun`, to the tap interface `name`, without any header
/// before the frames. Returns the name the kernel says it is attached to.
///
/// An interface that is not there is made by who may do that, and goes with `tun` unless it is made persistent.
pub fn attach(tun: impl AsFd, name: &[u8]) -> nix::Result<Vec<u8>> {
    set_interface(tun, name, IFF_TAP | IFF_NO_PI)
}

/// As [`attach`], to an interface that must not be there yet: `EBUSY` if it is.
pub fn create(tun: impl AsFd, name: &[u8]) -> nix::Result<Vec<u8>> {
    set_interface(tun, name, IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL)
}

fn set_interface(tun: impl AsFd, name: &[u8], flags: c_int) -> nix::Result<Vec<u8>> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = short(flags);
    // SAFETY: the kernel reads and writes this `ifreq` only, which outlives the call.
    unsafe { tun_set_interface(tun.as_fd().as_raw_fd(), &raw const request)? };
    Ok(interface_name(&request))
}

/// Lets only `user` attach to the interface that `tun` is attached to, beside those with `CAP_NET_ADMIN`.
pub fn set_owner(tun: impl AsFd, user: u32) -> nix::Result<()> {
    // SAFETY: an ioctl of an attached `/dev/net/tun` with a number.
    unsafe { tun_set_owner(tun.as_fd().as_raw_fd(), user.cast_signed())? };
    Ok(())
}

/// Whether the interface that `tun` is attached to stays when nothing is attached to it.
pub fn set_persistent(tun: impl AsFd, stays: bool) -> nix::Result<()> {
    // SAFETY: as above.
    unsafe { tun_set_persistent(tun.as_fd().as_raw_fd(), stays.into())? };
    Ok(())
}

/// A duplicate of an inherited descriptor of `/dev/net/tun`, made non-blocking, and how it is
/// attached. `EBADF` when there is no such descriptor; some other error when it is not of
/// `/dev/net/tun`, or is not attached to any interface.
pub fn inherit(descriptor: RawFd) -> nix::Result<(OwnedFd, Attachment)> {
    if descriptor < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: not -1, and only lent to the duplication, which finds out whether it is open.
    let inherited = unsafe { BorrowedFd::borrow_raw(descriptor) };
    // A duplicate, as the number may be one that this process owns for something else.
    let duplicate = fcntl(inherited, FcntlArg::F_DUPFD_CLOEXEC(0))?;
    // SAFETY: just made, and owned by nobody else.
    let tun = unsafe { OwnedFd::from_raw_fd(duplicate) };
    let attachment = attachment(&tun)?;
    let flags = OFlag::from_bits_retain(fcntl(&tun, FcntlArg::F_GETFL)?);
    fcntl(&tun, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok((tun, attachment))
}

fn attachment(tun: impl AsFd) -> nix::Result<Attachment> {
    let mut request = request(b"")?;
    // SAFETY: the kernel writes this `ifreq` only, which outlives the call.
    unsafe { tun_get_interface(tun.as_fd().as_raw_fd(), &raw mut request)? };
    let flags = c_int::from(flags(&request));
    Ok(Attachment {
        interface: interface_name(&request),
        tap: flags & IFF_TAP != 0,
        framed: flags & IFF_NO_PI == 0 || flags & IFF_VNET_HDR != 0,
    })
}

fn request(name: &[u8]) -> nix::Result<ifreq> {
    // SAFETY: `ifreq` is plain data, for which zero is a value.
    let mut request: ifreq = unsafe { zeroed() };
    if name.len() >= IFNAMSIZ || name.contains(&0) {
        return Err(Errno::EINVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = c_char::from_ne_bytes([*from]);
    }
    Ok(request)
}

fn interface_name(request: &ifreq) -> Vec<u8> {
    request
        .ifr_name
        .iter()
        .map(|byte| byte.to_ne_bytes()[0])
        .take_while(|byte| *byte != 0)
        .collect()
}

fn flags(request: &ifreq) -> c_short {
    // SAFETY: every request that leads here fills this member; the union is plain data anyway.
    unsafe { request.ifr_ifru.ifru_flags }
}

fn short(flags: c_int) -> c_short {
    c_short::from_ne_bytes([flags.to_ne_bytes()[0], flags.to_ne_bytes()[1]])
}
