//! The rules that drop frames with a foreign source address, as messages to nftables (`<linux/netfilter/nf_tables.h>`).
//!
//! ```text
//! table bridge petrel-ptabc {
//!     set allowed { type ifname . ether_addr; elements = { "ptabcdefghijk00" . 00:80:41:26:a8:89 } }
//!     chain prerouting {
//!         type filter hook prerouting priority -300;
//!         iifname "ptabc*" iifname . ether saddr != @allowed drop
//!     }
//!     chain input { type filter hook input priority -300; (the same rule) }
//! }
//! ```
//!
//! A tap without an element passes nothing. The second chain is for frames to the bridge itself, such as those of
//! spanning tree and LLDP: they skip the first one, but a bridge learns from them.
#![forbid(unsafe_code)]

use crate::unikernel::Mac;

/// Octets of an interface's name, zeros included.
const NAME: usize = 16;
/// Octets of a hardware address.
const ADDRESS: usize = 6;
/// Octets of a key of the set: each part is padded to four.
const KEY: usize = NAME + 8;

const SET: &str = "allowed";
const CHAINS: [(&str, u32); 2] = [("prerouting", 0), ("input", 1)];
/// Where bridges translate addresses: before they look at frames themselves.
const PRIORITY: i32 = -300;

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFPROTO_BRIDGE: u8 = 7;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16 + 4;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;
const NESTED: u16 = 0x8000;
/// Most elements in a message: an attribute has less than 64 KiB.
const ELEMENTS: usize = 1000;

/// The first register of four octets; an interface's name takes four of them.
const NAME_REGISTER: u32 = 8;
const ADDRESS_REGISTER: u32 = NAME_REGISTER + 4;

/// Messages that are carried out all or not at all.
pub struct Batch {
    table: String,
    octets: Vec<u8>,
    count: u32,
}

impl Batch {
    /// About the table of the taps whose names begin with `owner`.
    pub fn new(owner: &str) -> Self {
        let mut batch = Self {
            table: format!("petrel-{owner}"),
            octets: Vec::new(),
            count: 0,
        };
        batch.edge(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// Removes the table.
    pub fn delete(mut self) -> Self {
        let table = self.table(1);
        self.message(DELETE_TABLE, 0, table);
        self
    }

    /// Makes the table anew, with an empty set. The name of each tap begins with `owner`.
    pub fn create(mut self, owner: &str) -> Self {
        // It may be there or not: so it is there, and then not.
        let table = self.table(1);
        self.message(NEW_TABLE, CREATE, table);
        self = self.delete();
        let table = self.table(1);
        self.message(NEW_TABLE, CREATE, table);
        let set = self
            .table(1)
            .text(2, SET)
            // The types of an interface's name and an Ethernet address, for who lists the set.
            .number(4, 41 << 6 | 9)
            .number(5, KEY as u32)
            // Within this batch.
            .number(10, 1);
        self.message(NEW_SET, CREATE, set);
        for (chain, hook) in CHAINS {
            let hook = Attributes::default()
                .number(1, hook)
                .number(2, PRIORITY.cast_unsigned());
            let described = self.table(1).text(3, chain).nested(4, hook);
            self.message(NEW_CHAIN, CREATE, described.text(7, "filter"));
            let rule = self.table(1).text(2, chain).nested(4, rule(owner));
            self.message(NEW_RULE, CREATE | APPEND, rule);
        }
        self
    }

    /// Lets frames with these addresses pass from these taps.
    pub fn allow(self, allowed: &[(String, Mac)]) -> Self {
        self.elements(NEW_ELEMENTS, CREATE, allowed)
    }

    /// Takes that back.
    pub fn forget(self, allowed: &[(String, Mac)]) -> Self {
        self.elements(DELETE_ELEMENTS, 0, allowed)
    }

    fn elements(mut self, kind: u16, flags: u16, elements: &[(String, Mac)]) -> Self {
        for some in elements.chunks(ELEMENTS) {
            let list = some
                .iter()
                .map(|(tap, mac)| Attributes::default().nested(1, value(&key(tap, *mac))))
                .fold(Attributes::default(), |list, element| {
                    list.nested(1, element)
                });
            let described = self.table(1).text(2, SET).nested(3, list);
            self.message(kind, flags, described);
        }
        self
    }

    /// The octets to be sent, to be carried out.
    pub fn finish(mut self) -> Vec<u8> {
        self.edge(NFNL_MSG_BATCH_END);
        self.octets
    }

    /// The octets to be sent, to be looked at: without an end nothing is carried out.
    pub fn finish_for_check(self) -> Vec<u8> {
        self.octets
    }

    fn table(&self, kind: u16) -> Attributes {
        Attributes::default().text(kind, &self.table)
    }

    fn message(&mut self, kind: u16, flags: u16, attributes: Attributes) {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        self.put(
            kind,
            REQUEST | ACKNOWLEDGE | flags,
            NFPROTO_BRIDGE,
            0,
            &attributes.0,
        );
    }

    fn edge(&mut self, kind: u16) {
        self.put(kind, REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
    }

    fn put(&mut self, kind: u16, flags: u16, family: u8, resource: u16, content: &[u8]) {
        self.count += 1;
        let length = u32::try_from(HEADER + content.len()).unwrap_or(u32::MAX);
        self.octets.extend(length.to_ne_bytes());
        self.octets.extend(kind.to_ne_bytes());
        self.octets.extend(flags.to_ne_bytes());
        self.octets.extend(self.count.to_ne_bytes());
        // The port is the kernel's to fill in, the version is 0.
        self.octets.extend([0; 4]);
        self.octets.extend([family, 0]);
        self.octets.extend(resource.to_be_bytes());
        self.octets.extend(content);
    }
}

/// Attributes (`struct nlattr`), with numbers in network order as nftables has them.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn octets(mut self, kind: u16, octets: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + octets.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(octets);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, text: &str) -> Self {
        let mut octets = text.as_bytes().to_vec();
        octets.push(0);
        self.octets(kind, &octets)
    }

    fn number(self, kind: u16, number: u32) -> Self {
        self.octets(kind, &number.to_be_bytes())
    }

    fn nested(self, kind: u16, inner: Self) -> Self {
        self.octets(NESTED | kind, &inner.0)
    }
}

/// `iifname "OWNER*" iifname . ether saddr != @allowed drop`.
fn rule(owner: &str) -> Attributes {
    let attributes = Attributes::default;
    let name = attributes().number(1, NAME_REGISTER).number(2, 6);
    let begins = attributes()
        .number(1, NAME_REGISTER)
        .number(2, 0)
        .nested(3, value(owner.as_bytes()));
    let address = attributes()
        .number(1, ADDRESS_REGISTER)
        // The link layer's header, after the destination.
        .number(2, 0)
        .number(3, ADDRESS as u32)
        .number(4, ADDRESS as u32);
    let unknown = attributes()
        .text(1, SET)
        .number(2, NAME_REGISTER)
        .number(4, 1)
        .number(5, 1);
    let verdict = attributes().nested(2, attributes().number(1, 0));
    let drop = attributes().number(1, 0).nested(2, verdict);
    [
        ("meta", name),
        ("cmp", begins),
        ("payload", address),
        ("lookup", unknown),
        ("immediate", drop),
    ]
    .into_iter()
    .fold(attributes(), |list, (expression, data)| {
        list.nested(1, attributes().text(1, expression).nested(2, data))
    })
}

fn value(octets: &[u8]) -> Attributes {
    Attributes::default().octets(1, octets)
}

/// A name is shorter than its place, which ends with zeros.
fn key(tap: &str, mac: Mac) -> [u8; KEY] {
    let mut key = [0; KEY];
    for (to, from) in key[..NAME].iter_mut().zip(tap.bytes()) {
        *to = from;
    }
    key[NAME..NAME + ADDRESS].copy_from_slice(&mac.0);
    key
}

/// The first refusal among the answers in `octets`: an error number.
pub fn refusal(octets: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    let mut rest = octets;
    while let Some((length, tail)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
        let kind = u16::from_ne_bytes(*tail.first_chunk()?);
        let error = rest
            .get(16..)?
            .first_chunk()
            .copied()
            .map(i32::from_ne_bytes);
        if let (ERROR, Some(error @ ..0)) = (kind, error) {
            return Some(-error);
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0, 0x80, 0x41, 1, 2, 3]);

    /// The kinds of the messages, each of which must end where the next begins.
    fn kinds(octets: &[u8]) -> Vec<u16> {
        let mut kinds = Vec::new();
        let mut rest = octets;
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!(length % 4, 0);
            kinds.push(u16::from_ne_bytes(rest[4..6].try_into().unwrap()));
            rest = &rest[length..];
        }
        kinds
    }

    #[test]
    fn a_batch_begins_and_ends_and_without_an_end_it_is_a_check() {
        let table = |kind| NFNL_SUBSYS_NFTABLES << 8 | kind;
        let deleted = Batch::new("ptabc").delete().finish();
        assert_eq!(kinds(&deleted), [16, table(DELETE_TABLE), 17]);
        let created = Batch::new("ptabc").create("ptabc").finish_for_check();
        let wanted = [
            NEW_TABLE,
            DELETE_TABLE,
            NEW_TABLE,
            NEW_SET,
            NEW_CHAIN,
            NEW_RULE,
            NEW_CHAIN,
            NEW_RULE,
        ];
        assert_eq!(kinds(&created)[1..], wanted.map(table));
    }

    #[test]
    fn a_key_is_a_padded_name_and_a_padded_address() {
        let key = key("ptabcdefghijk00", MAC);
        assert_eq!(&key, b"ptabcdefghijk00\0\x00\x80\x41\x01\x02\x03\0\0");
    }

    #[test]
    fn more_elements_than_fit_a_message_are_in_several() {
        let many = vec![("ptabcdefghijk00".to_owned(), MAC); 2 * ELEMENTS + 1];
        let octets = Batch::new("ptabc").allow(&many).finish();
        assert_eq!(kinds(&octets).len(), 2 + 3);
    }

    #[test]
    fn the_first_refusal_counts_and_damaged_answers_are_none() {
        let answer = |kind: u16, error: i32| {
            let mut octets = 36_u32.to_ne_bytes().to_vec();
            octets.extend(kind.to_ne_bytes());
            octets.extend([0; 10]);
            octets.extend(error.to_ne_bytes());
            octets.resize(36, 0);
            octets
        };
        let both = [answer(2, 0), answer(3, -9), answer(2, -1), answer(2, -2)].concat();
        assert_eq!(refusal(&both), Some(1));
        assert_eq!(refusal(&answer(2, 0)), None);
        for length in 0..both.len() {
            refusal(&both[..length]);
        }
        assert_eq!(refusal(&[0; 40]), None);
        assert_eq!(refusal(&[0xff; 40]), None);
    }
}
