//! FreeBSD: the interfaces of a group, and the memory of the host.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, IFNAMSIZ};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `struct ifgroupreq` of `<net/if.h>`; the pointer is in a union with a name of [`IFNAMSIZ`] octets.
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

/// The names of the interfaces in `group`, of 15 octets at most; none if there is no such group.
pub fn members(group: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    // SAFETY: plain data, for which zero is a value.
    let mut request: GroupRequest = unsafe { zeroed() };
    let name = request.name.get_mut(..group.len()).ok_or(Errno::EINVAL)?;
    name.copy_from_slice(group);
    // SAFETY: without members to be filled, the kernel writes how many octets they need.
    match unsafe { get_members(socket.as_raw_fd(), &raw mut request) } {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(request.length).map_err(|_| Errno::EOVERFLOW)?;
    let mut members = vec![[0; IFNAMSIZ]; length / IFNAMSIZ];
    request.members = members.as_mut_ptr();
    // SAFETY: `members` has as many octets as `length` says, and outlives the call. If the group has grown meanwhile,
    // the kernel refuses.
    unsafe { get_members(socket.as_raw_fd(), &raw mut request)? };
    let name = |member: &[u8; IFNAMSIZ]| {
        let octets = member.iter().copied();
        octets.take_while(|octet| *octet != 0).collect()
    };
    Ok(members.iter().map(name).collect())
}

/// sysctl(3) `net.link.generic.ifdata` of an interface: a `struct ifmibdata` of at most `most` octets; nothing if there
/// is no such interface.
pub fn counters(interface: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
    let index = match if_nametoindex(interface) {
        Ok(index) => c_int::try_from(index).map_err(|_| Errno::EOVERFLOW)?,
        Err(Errno::ENXIO | Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // PF_LINK, NETLINK_GENERIC, IFMIB_IFDATA and IFDATA_GENERAL of <net/if_mib.h>.
    let name = [libc::CTL_NET, libc::AF_LINK, 0, 2, index, 1];
    let mut octets = vec![0_u8; most];
    let mut length = octets.len();
    // SAFETY: `name` has 6 numbers, at most `length` octets of `octets` are written, and nothing is set.
    let asked = unsafe {
        libc::sysctl(
            name.as_ptr(),
            6,
            octets.as_mut_ptr().cast(),
            &raw mut length,
            ptr::null(),
            0,
        )
    };
    match Errno::result(asked) {
        Ok(_) => {
            octets.truncate(length);
            Ok(Some(octets))
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// sysctl(3) `hw.physmem`, in octets.
pub fn physical_memory() -> io::Result<u64> {
    let mut octets: libc::c_ulong = 0;
    let mut length = size_of_val(&octets);
    // SAFETY: at most `length` octets of `octets` are written, and nothing is set.
    let asked = unsafe {
        libc::sysctlbyname(
            c"hw.physmem".as_ptr().cast::<c_char>(),
            (&raw mut octets).cast(),
            &raw mut length,
            ptr::null(),
            0,
        )
    };
    Errno::result(asked)?;
    Ok(octets)
}
