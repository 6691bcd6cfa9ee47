//! FreeBSD: interfaces, their groups and bridges, and the memory of the host.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, IFF_UP, IFNAMSIZ, c_short, ifreq, ifstat};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::bridge::{ADD_MEMBER, DriverRequest, GET_MEMBER, Member};

/// `struct ifgroupreq` of `<net/if.h>`; the pointer is in a union with a name of [`IFNAMSIZ`] bytes.
#[repr(C)]
pub struct GroupRequest {
    name: [u8; IFNAMSIZ],
    length: u32,
    members: *mut [u8; IFNAMSIZ],
    rest_of_union: u64,
}

nix::ioctl_readwrite!(
    /// SIOCGIFGMEMB: the members of a group of interfaces.
    get_members,
    b'i',
    138,
    GroupRequest
);

nix::ioctl_write_ptr!(
    /// SIOCSIFFLAGS: sets the flags of an interface.
    set_flags,
    b'i',
    16,
    ifreq
);
nix::ioctl_readwrite!(
    /// SIOCGIFFLAGS: the flags of an interface.
    get_flags,
    b'i',
    17,
    ifreq
);
nix::ioctl_write_ptr!(
    /// SIOCSIFNAME: gives an interface the name that the request points to.
    set_name,
    b'i',
    40,
    ifreq
);
nix::ioctl_write_ptr!(
    /// SIOCIFDESTROY: removes a cloned interface.
    destroy_interface,
    b'i',
    121,
    ifreq
);
nix::ioctl_readwrite!(
    /// SIOCGIFSTATUS: what the driver says of an interface.
    get_status,
    b'i',
    59,
    ifstat
);
nix::ioctl_readwrite!(
    /// SIOCIFCREATE: makes an interface of a kind; its name comes back.
    create_interface,
    b'i',
    122,
    ifreq
);
nix::ioctl_write_ptr!(
    /// SIOCSDRVSPEC: a request to an interface's driver.
    set_driver,
    b'i',
    123,
    DriverRequest
);
nix::ioctl_readwrite!(
    /// SIOCGDRVSPEC: a question to an interface's driver.
    ask_driver,
    b'i',
    123,
    DriverRequest
);
nix::ioctl_readwrite!(
    /// SIOCGIFMTU: the MTU of an interface.
    get_mtu,
    b'i',
    51,
    ifreq
);
nix::ioctl_write_ptr!(
    /// SIOCSIFMTU: sets the MTU of an interface.
    set_mtu_of,
    b'i',
    52,
    ifreq
);

/// Makes an interface of this kind, and gives it another name.
pub fn create(kind: &[u8], name: &[u8]) -> io::Result<()> {
    let socket = local_socket()?;
    let mut made = request(kind)?;
    let mut wanted = request(name)?.ifr_name;
    // SAFETY: the kernel reads and writes this `ifreq` only.
    unsafe { create_interface(socket.as_raw_fd(), &raw mut made)? };
    made.ifr_ifru.ifru_data = wanted.as_mut_ptr();
    // SAFETY: the request points to a name with a zero at its end, which outlives the call.
    if let Err(error) = unsafe { set_name(socket.as_raw_fd(), &raw const made) } {
        // SAFETY: the kernel reads the name in this `ifreq` only.
        let _ = unsafe { destroy_interface(socket.as_raw_fd(), &raw const made) };
        return Err(error.into());
    }
    Ok(())
}

/// Removes an interface that was made.
pub fn destroy(name: &[u8]) -> io::Result<()> {
    let request = request(name)?;
    // SAFETY: the kernel reads this `ifreq` only.
    unsafe { destroy_interface(local_socket()?.as_raw_fd(), &raw const request)? };
    Ok(())
}

/// Whether a process has the device of this tap open, as tuntap(4) says in words: to destroy it then would wait in the
/// kernel until that process ends.
pub fn is_open(name: &[u8]) -> io::Result<bool> {
    // SAFETY: `ifstat` is plain data, for which zero is a value.
    let mut status: ifstat = unsafe { zeroed() };
    status.ifs_name = request(name)?.ifr_name;
    // SAFETY: the kernel reads and writes this `ifstat` only.
    unsafe { get_status(local_socket()?.as_raw_fd(), &raw mut status)? };
    Ok(status.ascii.first().is_some_and(|first| *first != 0))
}

/// Brings an interface up.
pub fn set_up(name: &[u8]) -> io::Result<()> {
    let socket = local_socket()?;
    let mut request = request(name)?;
    // SAFETY: the kernel reads and writes this `ifreq` only.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request)? };
    // SAFETY: SIOCGIFFLAGS has filled this member of the union, whose first half are the flags below 2^16.
    let [low, high] = unsafe { request.ifr_ifru.ifru_flags };
    let up = c_short::try_from(IFF_UP).map_err(|_| Errno::EOVERFLOW)?;
    request.ifr_ifru.ifru_flags = [low | up, high];
    // SAFETY: the kernel reads this `ifreq` only.
    unsafe { set_flags(socket.as_raw_fd(), &raw const request)? };
    Ok(())
}

/// Puts an interface on a bridge.
pub fn join_bridge(name: &[u8], bridge: &[u8]) -> io::Result<()> {
    let mut member = Member::named(name).ok_or(Errno::ENAMETOOLONG)?;
    let add = DriverRequest::new(bridge, ADD_MEMBER, &mut member).ok_or(Errno::ENAMETOOLONG)?;
    // SAFETY: the request points to a member, which it tells the size of, and which outlives the call.
    unsafe { set_driver(local_socket()?.as_raw_fd(), &raw const add)? };
    Ok(())
}

/// Whether an interface is on a bridge.
pub fn is_member(name: &[u8], bridge: &[u8]) -> io::Result<bool> {
    let mut member = Member::named(name).ok_or(Errno::ENAMETOOLONG)?;
    let mut ask = DriverRequest::new(bridge, GET_MEMBER, &mut member).ok_or(Errno::ENAMETOOLONG)?;
    // SAFETY: the request points to a member, which it tells the size of, and which outlives the call.
    match unsafe { ask_driver(local_socket()?.as_raw_fd(), &raw mut ask) } {
        Ok(_) => Ok(true),
        // No such member, or no such bridge.
        Err(Errno::ENOENT | Errno::ENXIO) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The MTU of an interface, in bytes.
pub fn mtu(name: &[u8]) -> io::Result<u32> {
    let mut request = request(name)?;
    // SAFETY: the kernel reads and writes this `ifreq` only.
    unsafe { get_mtu(local_socket()?.as_raw_fd(), &raw mut request)? };
    // SAFETY: SIOCGIFMTU has filled this member of the union.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| Errno::ERANGE.into())
}

/// Sets the MTU of an interface, in bytes.
pub fn set_mtu(name: &[u8], mtu: u32) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = c_int::try_from(mtu).map_err(|_| Errno::ERANGE)?;
    // SAFETY: the kernel reads this `ifreq` only.
    unsafe { set_mtu_of(local_socket()?.as_raw_fd(), &raw const request)? };
    Ok(())
}

fn local_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Datagram, flags, None)
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

/// The names of the interfaces in `group`, of 15 bytes at most; none if there is no such group.
pub fn members(group: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = local_socket()?;
    // SAFETY: plain data, for which zero is a value.
    let mut request: GroupRequest = unsafe { zeroed() };
    let name = request.name.get_mut(..group.len()).ok_or(Errno::EINVAL)?;
    name.copy_from_slice(group);
    // SAFETY: without members to be filled, the kernel writes how many bytes they need.
    match unsafe { get_members(socket.as_raw_fd(), &raw mut request) } {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(request.length).map_err(|_| Errno::EOVERFLOW)?;
    let mut members = vec![[0; IFNAMSIZ]; length / IFNAMSIZ];
    request.members = members.as_mut_ptr();
    // SAFETY: `members` has as many bytes as `length` says, and outlives the call. If the group has grown meanwhile,
    // the kernel refuses.
    unsafe { get_members(socket.as_raw_fd(), &raw mut request)? };
    let name = |member: &[u8; IFNAMSIZ]| {
        let bytes = member.iter().copied();
        bytes.take_while(|byte| *byte != 0).collect()
    };
    Ok(members.iter().map(name).collect())
}

/// sysctl(3) `net.link.generic.ifdata` of an interface: a `struct ifmibdata` of at most `most` bytes; nothing if there
/// is no such interface.
pub fn counters(interface: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
    let index = match if_nametoindex(interface) {
        Ok(index) => c_int::try_from(index).map_err(|_| Errno::EOVERFLOW)?,
        Err(Errno::ENXIO | Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // PF_LINK, NETLINK_GENERIC, IFMIB_IFDATA and IFDATA_GENERAL of <net/if_mib.h>.
    let name = [libc::CTL_NET, libc::AF_LINK, 0, 2, index, 1];
    let mut bytes = vec![0_u8; most];
    let mut length = bytes.len();
    // SAFETY: `name` has 6 numbers, at most `length` bytes of `bytes` are written, and nothing is set.
    let asked = unsafe {
        libc::sysctl(
            name.as_ptr(),
            6,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
            ptr::null(),
            0,
        )
    };
    match Errno::result(asked) {
        Ok(_) => {
            bytes.truncate(length);
            Ok(Some(bytes))
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// sysctl(3) `hw.physmem`, in bytes.
pub fn physical_memory() -> io::Result<u64> {
    let mut bytes: libc::c_ulong = 0;
    let mut length = size_of_val(&bytes);
    // SAFETY: at most `length` bytes of `bytes` are written, and nothing is set.
    let asked = unsafe {
        libc::sysctlbyname(
            c"hw.physmem".as_ptr().cast::<c_char>(),
            (&raw mut bytes).cast(),
            &raw mut length,
            ptr::null(),
            0,
        )
    };
    Errno::result(asked)?;
    Ok(bytes)
}
