//! Taps: the interfaces through which tenders reach the bridges of the host.
//!
//! They are there from the preparation of a unikernel until it has ended. Their names tell whose they are, so that a
//! supervisor that starts anew knows those of unikernels that run, and removes the others that an earlier one has left.

mod lock;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::net::if_::if_nameindex;
use nix::unistd::geteuid;
use sha2::{Digest as _, Sha256};

use self::lock::AddressLock;
use self::os::Tap;
use super::resources;
use crate::name::Name;
use crate::supervisor::Owner;
use crate::unikernel::Config;

pub use self::lock::check as check_lock;

/// The taps of this supervisor's unikernels.
#[derive(Debug)]
pub struct Taps {
    owner: Owner,
    made: HashMap<Name, Vec<Tap>>,
    lock: Option<AddressLock>,
}

/// Why a unikernel has no networks, or the supervisor cannot give it any.
#[derive(Debug)]
pub enum TapError {
    /// The database folder, by which taps are told from those of others, cannot be looked at.
    Database(PathBuf, io::Error),
    /// The host has no such bridge.
    NoBridge(String),
    /// The interfaces of the host cannot be looked at.
    Interfaces(io::Error),
    /// What taps are made from cannot be opened.
    Device(&'static str, io::Error),
    /// Something cannot be done with a tap (what, with which).
    Tap(&'static str, String, io::Error),
    /// A tap cannot be put on a bridge.
    Bridge(String, String, io::Error),
    /// Addresses cannot be locked.
    Lock(io::Error),
    /// This system has no such thing.
    NoLock(&'static str),
}

impl Taps {
    /// Those of the unikernels that run, whose configuration may be unknown; all others that an earlier supervisor has
    /// left are removed. The addresses of unikernels are locked if so wanted. `database` is there.
    pub fn open<'a>(
        database: &Path,
        lock_addresses: bool,
        running: impl Iterator<Item = (&'a Name, Option<&'a Config>)>,
    ) -> Result<Self, TapError> {
        let owner = owner(database)?;
        let mut left = left_by(&owner)?;
        let mut made = HashMap::new();
        let mut locked = Vec::new();
        for (name, config) in running {
            let taps = take(&mut left, &owner, name);
            // What runs without anybody knowing why is on its way out, and has no address.
            let nets = config.map_or(&[][..], |config| &config.nets);
            for tap in &taps {
                let mut nets = nets.iter().enumerate();
                let net = nets.find(|(number, _)| owner.tap(name, *number) == *tap);
                locked.push((tap.clone(), net.map(|(_, net)| net.mac(name))));
            }
            let taps = taps.iter().map(|tap| Tap::found(tap)).collect();
            made.insert(name.clone(), taps);
        }
        let lock = if lock_addresses {
            let locked = locked.iter().map(|(tap, address)| (tap.as_str(), *address));
            Some(AddressLock::set(&owner, locked)?)
        } else {
            lock::remove_left(&owner);
            None
        };
        for tap in left {
            match Tap::found(&tap).remove() {
                Ok(()) => log::info!("tap {tap}, which an earlier supervisor has left, is removed"),
                Err(error) => log::warn!("{error}"),
            }
        }
        Ok(Self { owner, made, lock })
    }

    /// Makes a tap for each network, or none.
    pub fn make(&mut self, name: &Name, config: &Config) -> Result<(), TapError> {
        check_bridges(config)?;
        self.remove(name);
        let made = self.try_make(name, config);
        if made.is_err() {
            self.remove(name);
        }
        made
    }

    fn try_make(&mut self, name: &Name, config: &Config) -> Result<(), TapError> {
        let taps = self.made.entry(name.clone()).or_default();
        for (number, net) in config.nets.iter().enumerate() {
            let tap = self.owner.tap(name, number);
            taps.push(Tap::make(&tap, net.bridge(), digest(&tap))?);
            if let Some(lock) = &self.lock {
                lock.add(&tap, net.mac(name))?;
            }
            log::debug!("{name}: tap {tap} is on bridge {}", net.bridge());
        }
        Ok(())
    }

    /// Lets the tender of a unikernel, which is about to be started as `user`, have its taps.
    pub fn hand_over(&mut self, name: &Name, user: Option<u32>) -> Result<(), TapError> {
        let user = user.unwrap_or(geteuid().as_raw());
        let mut taps = self.made.get_mut(name).into_iter().flatten();
        taps.try_for_each(|tap| tap.hand_over(user))
    }

    /// The names of the taps of a unikernel, in the order of its networks.
    pub fn names(&self, name: &Name) -> Vec<&str> {
        let taps = self.made.get(name).into_iter().flatten();
        taps.map(Tap::name).collect()
    }

    /// Removes the taps of a unikernel, if it has any.
    pub fn remove(&mut self, name: &Name) {
        for tap in self.made.remove(name).unwrap_or_default() {
            let tap_name = tap.name().to_owned();
            if let Err(error) = tap.remove() {
                log::warn!("{name}: {error}; the next start tries again");
            } else if let Some(lock) = &self.lock
                && let Err(error) = lock.forget(&tap_name)
            {
                log::warn!("{name}: {error}");
            }
        }
    }

    /// Removes what there is for all taps together: there are none any more.
    pub fn close(&self) {
        if let Some(lock) = &self.lock {
            lock.remove();
        }
    }
}

/// Whether the host has all the bridges that a unikernel is to be on.
pub fn check_bridges(config: &Config) -> Result<(), TapError> {
    config.nets.iter().try_for_each(|net| {
        let bridge = net.bridge();
        match resources::is_bridge(bridge) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TapError::NoBridge(bridge.to_owned())),
            Err(error) => Err(TapError::Interfaces(error)),
        }
    })
}

/// The taps of this database's supervisor that none of the unikernels that run has.
pub fn leftovers<'a>(
    database: &Path,
    running: impl Iterator<Item = &'a Name>,
) -> Result<Vec<String>, TapError> {
    let owner = owner(database)?;
    let mut left = left_by(&owner)?;
    for name in running {
        take(&mut left, &owner, name);
    }
    Ok(left)
}

/// What tells the taps and machines of the supervisor of this database from others.
pub fn owner(database: &Path) -> Result<Owner, TapError> {
    let found = fs::metadata(database);
    let found = found.map_err(|error| TapError::Database(database.to_path_buf(), error))?;
    Ok(Owner::of(found.dev(), found.ino()))
}

/// All taps of this owner, in the order of their names.
fn left_by(owner: &Owner) -> Result<Vec<String>, TapError> {
    let interfaces = if_nameindex().map_err(|error| TapError::Interfaces(error.into()))?;
    let names = interfaces.iter().filter_map(|interface| {
        let name = interface.name().to_str().ok()?;
        name.starts_with(owner.as_str()).then(|| name.to_owned())
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    Ok(names)
}

/// Takes those of a unikernel out of these.
fn take(taps: &mut Vec<String>, owner: &Owner, name: &Name) -> Vec<String> {
    let prefix = owner.unikernel(name);
    taps.extract_if(.., |tap| tap.starts_with(&prefix))
        .collect()
}

/// Anything that no other tap has.
fn digest(tap: &str) -> [u8; 6] {
    let digest = Sha256::digest(tap);
    std::array::from_fn(|place| digest[place])
}

impl TapError {
    fn step<E: Into<io::Error>>(what: &'static str, tap: &str) -> impl FnOnce(E) -> Self {
        let tap = tap.to_owned();
        move |error| Self::Tap(what, tap, error.into())
    }
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unprivileged = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        match self {
            Self::Database(folder, error) => {
                write!(f, "cannot look at {}: {error}", folder.display())
            }
            Self::NoBridge(bridge) => write!(f, "there is no bridge {bridge} on this host"),
            Self::Interfaces(error) => {
                write!(f, "cannot look at the interfaces of this host: {error}")
            }
            Self::Device(path, error) => write!(f, "cannot open {path}: {error}"),
            Self::Tap(what, tap, error) if unprivileged(error) => write!(
                f,
                "cannot {what} tap {tap}: {error}: petreld needs to be root, or CAP_NET_ADMIN"
            ),
            Self::Tap(what, tap, error) => write!(f, "cannot {what} tap {tap}: {error}"),
            Self::Bridge(tap, bridge, error) => {
                write!(f, "cannot put tap {tap} on bridge {bridge}: {error}")
            }
            Self::Lock(error) if unprivileged(error) => write!(
                f,
                "cannot lock hardware addresses with nftables: {error}: petreld needs to be root, or CAP_NET_ADMIN"
            ),
            Self::Lock(error) => write!(
                f,
                "cannot lock hardware addresses: {error}: the kernel needs nftables for interfaces (NF_TABLES_NETDEV)"
            ),
            Self::NoLock(why) => {
                write!(f, "hardware addresses cannot be locked (--lock-mac): {why}")
            }
        }
    }
}

impl std::error::Error for TapError {}
