//! FreeBSD: what bridges are asked by (`<net/if_bridgevar.h>`, `<net/if.h>`); the same on every 64-bit machine.

/// The length of an interface's name, with a zero at the end.
const NAME: usize = 16;

/// BRDGADD: adds a member.
pub const ADD_MEMBER: u64 = 0;

/// BRDGGIFFLGS: describes a member.
pub const GET_MEMBER: u64 = 2;

/// `struct ifbreq`: a member of a bridge. A kernel takes exactly this size.
#[repr(C)]
#[derive(Debug)]
pub struct Member {
    name: [u8; NAME],
    flags: u32,
    spanning_tree_flags: u32,
    path_cost: u32,
    port: [u8; 5],
    addresses: [u32; 3],
    rest: [u8; 32],
}

/// `struct ifdrv`: a request to the driver of an interface.
#[repr(C)]
#[derive(Debug)]
pub struct DriverRequest {
    name: [u8; NAME],
    command: u64,
    length: usize,
    argument: *mut Member,
}

impl Member {
    /// The interface of this name; nothing if it is too long for one.
    pub fn named(name: &[u8]) -> Option<Self> {
        Some(Self {
            name: padded(name)?,
            flags: 0,
            spanning_tree_flags: 0,
            path_cost: 0,
            port: [0; 5],
            addresses: [0; 3],
            rest: [0; 32],
        })
    }
}

impl DriverRequest {
    /// A request about this member, which must outlive it; nothing if the name of the bridge is too long for one.
    pub fn new(bridge: &[u8], command: u64, member: &mut Member) -> Option<Self> {
        Some(Self {
            name: padded(bridge)?,
            command,
            length: size_of::<Member>(),
            argument: member,
        })
    }
}

fn padded(name: &[u8]) -> Option<[u8; NAME]> {
    let mut padded = [0; NAME];
    // The last byte is zero.
    padded[..NAME - 1]
        .get_mut(..name.len())?
        .copy_from_slice(name);
    Some(padded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_layouts_are_those_of_the_headers() {
        assert_eq!(size_of::<Member>(), 80);
        assert_eq!(offset_of!(Member, port), 28);
        assert_eq!(offset_of!(Member, addresses), 36);
        assert_eq!(offset_of!(Member, rest), 48);
        assert_eq!(size_of::<DriverRequest>(), 40);
        assert_eq!(offset_of!(DriverRequest, argument), 32);
    }

    #[test]
    fn a_name_has_15_bytes_at_most() {
        assert_eq!(
            &Member::named(b"tap0").unwrap().name,
            b"tap0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert!(Member::named(&[b'x'; 15]).is_some());
        let mut member = Member::named(b"tap0").unwrap();
        assert!(DriverRequest::new(&[b'x'; 16], ADD_MEMBER, &mut member).is_none());
        let request = DriverRequest::new(b"bridge0", ADD_MEMBER, &mut member).unwrap();
        assert_eq!((request.length, request.command), (80, 0));
    }
}
