//! Linux: the network interfaces of this process's network namespace, as rtnetlink(7) describes them.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{
    IFLA_ADDRESS, IFLA_ALT_IFNAME, IFLA_EXT_MASK, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO,
    IFLA_MASTER, IFLA_MTU, IFLA_PROP_LIST, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, RTEXT_FILTER_SKIP_STATS, RTM_GETLINK, RTM_NEWLINK,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bytes of `struct ifinfomsg`.
const LINK: usize = 16;

/// Bytes of the header of an attribute (`struct nlattr`).
const ATTRIBUTE: usize = 4;

/// The bits of an attribute's type that say how it is encoded.
const ENCODING: u16 = 0xc000;

/// Bytes of one answer of the kernel, which never sends more at once in a dump.
const ANSWER: usize = 1 << 15;

/// How often a dump is begun again because interfaces changed meanwhile.
const ATTEMPTS: usize = 8;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number, which no later interface of this namespace gets.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alternative names (`ip link property add dev NAME altname OTHER`).
    pub other_names: Vec<String>,
    /// What the kernel calls its kind, such as `bridge`.
    pub kind: Option<String>,
    /// The number of the interface that it is a port of.
    pub master: Option<u32>,
    /// Its hardware address, if it has 6 bytes.
    pub address: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// All network interfaces. Those with names that are no UTF-8 are left out.
pub fn all() -> io::Result<Vec<Link>> {
    for _ in 0..ATTEMPTS {
        if let Some(links) = dump()? {
            return Ok(links);
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Nothing if they changed while they were listed.
fn dump() -> io::Result<Option<Vec<Link>>> {
    let socket = open()?;
    send(socket.as_raw_fd(), &request(), MsgFlags::empty())?;
    let (mut links, mut changed) = (Vec::new(), false);
    let mut answer = vec![0; ANSWER];
    loop {
        let length = match recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            length => length?,
        };
        for message in Messages(&answer[..length]) {
            changed |= i32::from(message.flags) & NLM_F_DUMP_INTR != 0;
            match message.kind {
                RTM_NEWLINK => links.extend(link(message.body)),
                kind if i32::from(kind) == NLMSG_DONE => return Ok((!changed).then_some(links)),
                kind if i32::from(kind) == NLMSG_ERROR => return Err(refusal(message.body)),
                _ => {}
            }
        }
    }
}

fn open() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
}

/// Asks for all interfaces, without their counters.
fn request() -> Vec<u8> {
    let mask = RTEXT_FILTER_SKIP_STATS.to_ne_bytes();
    let attribute = ATTRIBUTE + mask.len();
    let mut request = Vec::with_capacity(HEADER + LINK + attribute);
    let flags = u16::try_from(NLM_F_REQUEST | NLM_F_DUMP).unwrap_or_default();
    request.extend(length(HEADER + LINK + attribute).to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Sequence and sender: there is one request a socket.
    request.extend([0; 8]);
    request.extend([0; LINK]);
    request.extend(u16::try_from(attribute).unwrap_or_default().to_ne_bytes());
    request.extend(IFLA_EXT_MASK.to_ne_bytes());
    request.extend(mask);
    request
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The error number that the kernel answers with.
fn refusal(body: &[u8]) -> io::Error {
    let number = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(number.unwrap_or_default().saturating_neg())
}

/// The messages of an answer.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?);
        let length = usize::try_from(length).ok()?;
        let (header, body) = self.0.get(..length)?.split_at_checked(HEADER)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            body,
        })
    }
}

/// The attributes of a message, or those in an attribute: their types and values.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let (header, value) = self.0.get(..length)?.split_at_checked(ATTRIBUTE)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((
            u16::from_ne_bytes([header[2], header[3]]) & !ENCODING,
            value,
        ))
    }
}

/// Messages and attributes begin at multiples of 4 bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The interface that a message describes.
fn link(body: &[u8]) -> Option<Link> {
    let (header, attributes) = body.split_at_checked(LINK)?;
    let index = i32::from_ne_bytes(*header.get(4..)?.first_chunk()?);
    let mut link = Link {
        index: u32::try_from(index).ok()?,
        ..Link::default()
    };
    for (kind, value) in Attributes(attributes) {
        match kind {
            IFLA_IFNAME => link.name = text(value)?,
            IFLA_ADDRESS => link.address = value.try_into().ok(),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_MASTER => link.master = number(value),
            IFLA_LINKINFO => {
                let mut info = Attributes(value);
                let kind = info.find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.and_then(|(_, kind)| text(kind));
            }
            IFLA_PROP_LIST => {
                let names = Attributes(value).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                link.other_names
                    .extend(names.filter_map(|(_, name)| text(name)));
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Text up to its zero.
fn text(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|byte| *byte == 0);
    let text = value.get(..end.unwrap_or(value.len()))?;
    str::from_utf8(text).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let links = all().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((loopback.index, loopback.address), (1, Some([0; 6])));
        assert_eq!((&loopback.kind, loopback.master), (&None, None));
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap();
        let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        attribute.extend(value);
        attribute.resize(aligned(attribute.len()), 0);
        attribute
    }

    #[test]
    fn names_kind_and_master_are_read_from_nested_attributes() {
        let mut header = [0; LINK];
        header[4..8].copy_from_slice(&7_i32.to_ne_bytes());
        let names = [b"lan\0".as_slice(), b"a-name-of-more-than-15-bytes\0"];
        let names = names.map(|name| attribute(IFLA_ALT_IFNAME, name)).concat();
        let kind = attribute(IFLA_INFO_KIND, b"bridge\0");
        let body = [
            header.to_vec(),
            attribute(IFLA_IFNAME, b"br0\0"),
            attribute(IFLA_MTU, &9000_u32.to_ne_bytes()),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            attribute(IFLA_MASTER, &3_u32.to_ne_bytes()),
            attribute(IFLA_LINKINFO | 0x8000, &kind),
            attribute(IFLA_PROP_LIST | 0x8000, &names),
        ]
        .concat();
        let expected = Link {
            index: 7,
            name: "br0".into(),
            other_names: vec!["lan".into(), "a-name-of-more-than-15-bytes".into()],
            kind: Some("bridge".into()),
            master: Some(3),
            address: Some([2, 0, 0, 0, 0, 1]),
            mtu: 9000,
        };
        assert_eq!(link(&body), Some(expected));
        for length in 0..LINK {
            assert_eq!(link(&body[..length]), None);
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_ends_without_a_message() {
        let message = [20_u32.to_ne_bytes(), [16, 0, 0, 0]].concat();
        let message = [&message[..], &[0; 12]].concat();
        assert_eq!(Messages(&message).count(), 1);
        for length in 0..message.len() {
            assert_eq!(Messages(&message[..length]).count(), 0);
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
    }
}
