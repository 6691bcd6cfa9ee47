//! The rules that drop frames with a foreign source address, as messages to nftables (`<linux/netfilter/nf_tables.h>`).
//!
//! ```text
//! table netdev petrel-ptabc {
//!     chain ptabcdefghijk00 {
//!         type filter hook ingress device "ptabcdefghijk00" priority 0; policy accept;
//!         ether saddr != 00:80:41:26:a8:89 drop
//!     }
//! }
//! ```
//!
//! They stand where frames come in, and not at the bridge (family bridge): that learns from frames of spanning tree and
//! LLDP, which are to itself, before it asks anybody.
#![forbid(unsafe_code)]

use crate::unikernel::Mac;

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFPROTO_NETDEV: u8 = 5;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;

const REQUEST: u16 = 0x1;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16 + 4;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;
const NESTED: u16 = 0x8000;

/// The register for the address of a frame.
const REGISTER: u32 = 1;

/// Messages that are carried out all or not at all. The kernel answers those that it refuses, and no others.
pub struct Batch {
    table: String,
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// About the table of the taps whose names begin with `owner`.
    pub fn new(owner: &str) -> Self {
        let mut batch = Self {
            table: format!("petrel-{owner}"),
            bytes: Vec::new(),
            count: 0,
        };
        batch.edge(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// Removes the table.
    pub fn delete_table(mut self) -> Self {
        let table = self.table(1);
        self.message(DELETE_TABLE, 0, &table);
        self
    }

    /// Makes the table anew, without chains.
    pub fn new_table(mut self) -> Self {
        // It may be there or not: so it is there, and then not.
        let table = self.table(1);
        self.message(NEW_TABLE, CREATE, &table);
        self = self.delete_table();
        self.message(NEW_TABLE, CREATE, &table);
        self
    }

    /// Lets frames from this interface pass from one address only, or none at all.
    pub fn lock(mut self, interface: &str, address: Option<Mac>) -> Self {
        let ingress = Attributes::default().number(1, 0).number(2, 0);
        let hook = ingress.text(3, interface);
        let chain = self.table(1).text(3, interface).nested(4, &hook);
        self.message(NEW_CHAIN, CREATE, &chain.text(7, "filter"));
        let rule = self.table(1).text(2, interface);
        let rule = rule.nested(4, &expressions(address));
        self.message(NEW_RULE, CREATE | APPEND, &rule);
        self
    }

    /// Removes the chain of an interface.
    pub fn unlock(mut self, interface: &str) -> Self {
        let chain = self.table(1).text(3, interface);
        self.message(DELETE_CHAIN, 0, &chain);
        self
    }

    /// The bytes to be sent, to be carried out.
    pub fn finish(mut self) -> Vec<u8> {
        self.edge(NFNL_MSG_BATCH_END);
        self.bytes
    }

    /// The bytes to be sent, to be looked at: without an end nothing is carried out.
    pub fn finish_for_check(self) -> Vec<u8> {
        self.bytes
    }

    fn table(&self, kind: u16) -> Attributes {
        Attributes::default().text(kind, &self.table)
    }

    fn message(&mut self, kind: u16, flags: u16, attributes: &Attributes) {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        self.put(kind, REQUEST | flags, NFPROTO_NETDEV, 0, &attributes.0);
    }

    fn edge(&mut self, kind: u16) {
        self.put(kind, REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
    }

    fn put(&mut self, kind: u16, flags: u16, family: u8, resource: u16, content: &[u8]) {
        self.count += 1;
        let length = u32::try_from(HEADER + content.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        // The port is the kernel's to fill in, the version is 0.
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(content);
    }
}

/// Attributes (`struct nlattr`), with numbers in network order as nftables has them.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, bytes: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + bytes.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(NESTED | kind, &inner.0)
    }
}

/// `ether saddr != ADDRESS drop`, or just `drop`.
fn expressions(address: Option<Mac>) -> Attributes {
    let attributes = Attributes::default;
    let list = address.map_or_else(attributes, |Mac(address)| {
        // Six bytes of the link layer's header, after the six of the destination.
        let load = attributes().number(1, REGISTER).number(2, 0);
        let load = load.number(3, 6).number(4, 6);
        let differs = attributes().number(1, REGISTER).number(2, 1);
        let differs = differs.nested(3, &attributes().bytes(1, &address));
        attributes()
            .nested(1, &expression("payload", &load))
            .nested(1, &expression("cmp", &differs))
    });
    let verdict = attributes().nested(2, &attributes().number(1, 0));
    let drop = attributes().number(1, 0).nested(2, &verdict);
    list.nested(1, &expression("immediate", &drop))
}

fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

/// The first refusal among the answers in `bytes`: an error number.
pub fn refusal(bytes: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    let mut rest = bytes;
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
    fn kinds(bytes: &[u8]) -> Vec<u16> {
        let mut kinds = Vec::new();
        let mut rest = bytes;
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
        let deleted = Batch::new("ptabc").delete_table().finish();
        assert_eq!(kinds(&deleted), [16, table(DELETE_TABLE), 17]);
        let created = Batch::new("ptabc").new_table();
        let created = created.lock("ptabcdefghijk00", Some(MAC)).unlock("lo");
        let wanted = [
            NEW_TABLE,
            DELETE_TABLE,
            NEW_TABLE,
            NEW_CHAIN,
            NEW_RULE,
            DELETE_CHAIN,
        ];
        let kinds = kinds(&created.finish_for_check());
        assert_eq!(kinds[1..], wanted.map(table));
    }

    #[test]
    fn a_rule_names_the_one_address_or_drops_everything() {
        let has_address = |address| {
            let bytes = expressions(address).0;
            assert!(bytes.windows(10).any(|some| some == b"immediate\0"));
            bytes.windows(6).any(|some| some == MAC.0)
        };
        assert!(has_address(Some(MAC)));
        assert!(!has_address(None));
    }

    #[test]
    fn the_first_refusal_counts_and_damaged_answers_are_none() {
        let answer = |kind: u16, error: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(error.to_ne_bytes());
            bytes.resize(36, 0);
            bytes
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
