//! Names of taps and of BHyve machines: they tell which supervisor made one, and for which unikernel, whatever happened to
//! the supervisor.
//!
//! ```text
//! pt abc defghijk 00
//! |  |   |        of a tap: the number of the network in the unikernel's configuration, from 00
//! |  |   the unikernel: 40 bits of the SHA-256 of a secret of the database and its name
//! |  the database directory, which one supervisor at a time has: 15 bits of the SHA-256 of its device and inode
//! the same for all
//! ```
//!
//! 15 bytes are all that an interface's name can have. Two databases of one host share their part once in 32768 pairs:
//! then a supervisor takes the other's taps for leftovers, but on Linux none can be removed that is in use. The name
//! of a machine begins as those of its unikernel's taps, and goes on to 130 bits, as one of the same name would be destroyed.
//! These are 31 bytes, which every release of vmm(4) allows for.

use sha2::{Digest as _, Sha256};

use crate::name::Name;

/// What the name of every tap begins with.
pub const PREFIX: &str = "pt";

const DATABASE: usize = 3;
const UNIKERNEL: usize = 8;
const MACHINE: usize = 26;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// How the names of one supervisor's taps and machines are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// What they begin with.
    prefix: String,
    /// What nobody else knows: nobody can look for a name that makes another unikernel's letters.
    secret: Vec<u8>,
}

impl Owner {
    /// The supervisor of the database directory with this device and inode, and this secret in it.
    pub fn of(device: u64, inode: u64, secret: &[u8]) -> Self {
        let bytes = [device.to_be_bytes(), inode.to_be_bytes()].concat();
        Self {
            prefix: format!("{PREFIX}{}", letters(&bytes, DATABASE)),
            secret: secret.to_vec(),
        }
    }

    /// What they begin with.
    pub fn as_str(&self) -> &str {
        &self.prefix
    }

    /// What the names of the taps of a unikernel begin with: all of them but two digits.
    pub fn unikernel(&self, name: &Name) -> String {
        self.named(name, UNIKERNEL)
    }

    /// The BHyve machine of a unikernel.
    pub fn machine(&self, name: &Name) -> String {
        self.named(name, MACHINE)
    }

    /// The tap of the network with this number, below [`crate::unikernel::Config::MAX_DEVICES`].
    pub fn tap(&self, name: &Name, network: usize) -> String {
        format!("{}{network:02}", self.unikernel(name))
    }

    fn named(&self, name: &Name, count: usize) -> String {
        let bytes = [&self.secret[..], name.to_string().as_bytes()].concat();
        format!("{}{}", self.prefix, letters(&bytes, count))
    }
}

/// The first five bits of each of the first bytes of a SHA-256.
fn letters(bytes: &[u8], count: usize) -> String {
    let digest = Sha256::digest(bytes);
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(byte >> 3)]);
    digest.iter().take(count).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unikernel::Config;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_fits_an_interface_and_never_changes() {
        let owner = Owner::of(1, 2, b"");
        assert_eq!(owner.tap(&name("tenant:hello"), 0), "ptrokadufvjpo00");
        let last = owner.tap(&name("tenant:hello"), Config::MAX_DEVICES - 1);
        assert_eq!(last.len(), 15);
        assert!(last.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let machine = owner.machine(&name("tenant:hello"));
        assert_eq!((&machine[..13], machine.len()), ("ptrokadufvjpo", 31));
        assert!(machine.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn databases_unikernels_and_networks_have_different_names() {
        let (one, other) = (Owner::of(1, 2, b""), Owner::of(2, 1, b""));
        assert_ne!(one, other);
        assert_ne!(one.unikernel(&name("a:b")), one.unikernel(&name("a:c")));
        assert_ne!(one.unikernel(&name("a")), other.unikernel(&name("a")));
        assert_ne!(one.tap(&name("a"), 0), one.tap(&name("a"), 1));
        assert!(one.unikernel(&name("a")).starts_with(one.as_str()));
        let secret = Owner::of(1, 2, b"secret");
        assert_eq!(one.as_str(), secret.as_str());
        assert_ne!(one.unikernel(&name("a")), secret.unikernel(&name("a")));
    }
}
