//! Taps: the interfaces through which tenders reach the bridges of the host.
//!
//! They are there from the preparation of a unikernel until it has ended. Their names tell whose they are, so that a
//! supervisor that starts anew knows those of unikernels that run, and removes the others that an earlier one has left.

mod lock;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::collections::{BTreeMap, HashMap};
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
use super::bridges::{Bridge, Bridges};
use super::secret;
use crate::name::Name;
use crate::supervisor::Owner;
use crate::unikernel::{Config, Mac};

pub use self::lock::check as check_lock;

/// The taps of this supervisor's unikernels.
#[derive(Debug)]
pub struct Taps {
    owner: Owner,
    made: HashMap<Name, Vec<Port>>,
    lock: Option<AddressLock>,
}

/// A tap, and, if they are known, the bridge that it is to be on and the address of the unikernel there.
#[derive(Debug)]
struct Port {
    tap: Tap,
    bridge: Option<String>,
    address: Option<Mac>,
}

/// Why a unikernel has no networks, or the supervisor cannot give it any.
#[derive(Debug)]
pub enum TapError {
    /// The database directory, by which taps are told from those of others, cannot be looked at.
    Database(PathBuf, io::Error),
    /// The host has no such bridge.
    NoBridge(String),
    /// The interfaces of the host cannot be looked at.
    Interfaces(io::Error),
    /// What taps are made from cannot be opened.
    Device(&'static str, io::Error),
    /// A network device of a unikernel cannot have this address, which the host has on this bridge.
    HostAddress(Mac, String),
    /// Nor this one, which a unikernel has on this bridge by another name of it.
    Taken(Mac, String),
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
            // What runs without anybody knowing why is on its way out, and has no address.
            let nets = config.map_or(&[][..], |config| &config.nets);
            let mut ports = Vec::new();
            for tap in take(&mut left, &owner, name) {
                let mut nets = nets.iter().enumerate();
                let net = nets.find(|(number, _)| owner.tap(name, *number) == tap);
                let net = net.map(|(_, net)| net);
                ports.push(Port {
                    tap: Tap::found(&tap),
                    bridge: net.map(|net| net.bridge().to_owned()),
                    address: net.map(|net| net.mac(name)),
                });
                locked.push((tap, net.map(|net| net.mac(name))));
            }
            made.insert(name.clone(), ports);
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
        let taps = Self { owner, made, lock };
        taps.join_again()?;
        Ok(taps)
    }

    /// Puts those on their bridges that are on none any more, because a bridge was made anew.
    fn join_again(&self) -> Result<(), TapError> {
        if self.ports().next().is_none() {
            return Ok(());
        }
        let bridges = Bridges::look().map_err(TapError::Interfaces)?;
        for (name, port) in self.ports() {
            let Some(bridge) = port.bridge.as_deref().and_then(|name| bridges.named(name)) else {
                continue;
            };
            let tap = port.tap.name();
            if bridge.has(tap).map_err(TapError::Interfaces)? {
                continue;
            }
            match port.tap.join(bridge) {
                Ok(()) => log::warn!("{name}: tap {tap} is put on bridge {} again", bridge.name),
                Err(error) => log::warn!("{name}: {error}"),
            }
        }
        Ok(())
    }

    /// The unikernels with a tap that is not on its bridge, and what is wrong.
    pub fn off_bridge(&self) -> Result<BTreeMap<Name, String>, TapError> {
        let mut wrong = BTreeMap::new();
        let mut ports = self.ports().filter(|(_, port)| port.bridge.is_some());
        let Some(first) = ports.next() else {
            return Ok(wrong);
        };
        let bridges = Bridges::look().map_err(TapError::Interfaces)?;
        for (name, port) in [first].into_iter().chain(ports) {
            let bridge = port.bridge.as_deref().unwrap_or_default();
            if let Some(why) = trouble(&bridges, port.tap.name(), bridge)? {
                wrong.insert(name.clone(), why);
            }
        }
        Ok(wrong)
    }

    fn ports(&self) -> impl Iterator<Item = (&Name, &Port)> {
        let made = self.made.iter();
        made.flat_map(|(name, ports)| ports.iter().map(move |port| (name, port)))
    }

    /// Whether the host has all the bridges that a unikernel is to be on, and neither the host nor another unikernel has one
    /// of its addresses there.
    pub fn check_networks(&self, name: &Name, config: &Config) -> Result<(), TapError> {
        let bridges = find_bridges(config)?;
        config.nets.iter().try_for_each(|net| {
            let (bridge, address) = (find(&bridges, net.bridge())?, net.mac(name));
            if bridge.addresses.contains(&address) {
                return Err(TapError::HostAddress(address, net.bridge().to_owned()));
            }
            Ok(())
        })?;
        self.check_others(name, config, &bridges)
    }

    /// Whether no two network devices have one address on a bridge by different names of it. The supervisor, which knows
    /// nothing of these, sees to all others.
    fn check_others(
        &self,
        name: &Name,
        config: &Config,
        bridges: &Bridges,
    ) -> Result<(), TapError> {
        let others = self.ports().filter(|(other, _)| *other != name);
        let others = others.filter_map(|(_, port)| Some((port.bridge.as_deref()?, port.address?)));
        let own = config.nets.iter().map(|net| (net.bridge(), net.mac(name)));
        let taken: Vec<_> = others.chain(own.clone()).collect();
        for (bridge, address) in own {
            let found = find(bridges, bridge)?;
            let clashes = |(other, held): &(&str, Mac)| {
                *held == address && *other != bridge && found.names().any(|name| name == *other)
            };
            if taken.iter().any(clashes) {
                return Err(TapError::Taken(address, bridge.to_owned()));
            }
        }
        Ok(())
    }

    /// Makes a tap for each network, or none.
    pub fn make(&mut self, name: &Name, config: &Config) -> Result<(), TapError> {
        let bridges = find_bridges(config)?;
        self.check_others(name, config, &bridges)?;
        self.remove(name);
        let made = self.try_make(name, config, &bridges);
        if made.is_err() {
            self.remove(name);
        }
        made
    }

    fn try_make(
        &mut self,
        name: &Name,
        config: &Config,
        bridges: &Bridges,
    ) -> Result<(), TapError> {
        let ports = self.made.entry(name.clone()).or_default();
        for (number, net) in config.nets.iter().enumerate() {
            let tap = self.owner.tap(name, number);
            let bridge = find(bridges, net.bridge())?;
            ports.push(Port {
                tap: Tap::make(&tap, bridge, digest(&tap))?,
                bridge: Some(net.bridge().to_owned()),
                address: Some(net.mac(name)),
            });
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
        let mut ports = self.made.get_mut(name).into_iter().flatten();
        ports.try_for_each(|port| port.tap.hand_over(user))
    }

    /// The names of the taps of a unikernel, in the order of its networks.
    pub fn names(&self, name: &Name) -> Vec<&str> {
        let ports = self.made.get(name).into_iter().flatten();
        ports.map(|port| port.tap.name()).collect()
    }

    /// Removes the taps of a unikernel, if it has any.
    pub fn remove(&mut self, name: &Name) {
        for Port { tap, .. } in self.made.remove(name).unwrap_or_default() {
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

/// The bridges of the host, all of those among them that a unikernel is to be on.
fn find_bridges(config: &Config) -> Result<Bridges, TapError> {
    if config.nets.is_empty() {
        return Ok(Bridges::default());
    }
    let bridges = Bridges::look().map_err(TapError::Interfaces)?;
    let mut nets = config.nets.iter();
    nets.try_for_each(|net| find(&bridges, net.bridge()).map(drop))?;
    Ok(bridges)
}

fn find<'a>(bridges: &'a Bridges, name: &str) -> Result<&'a Bridge, TapError> {
    let bridge = bridges.named(name);
    bridge.ok_or_else(|| TapError::NoBridge(name.to_owned()))
}

/// What is wrong with a tap that is to be on this bridge.
fn trouble(bridges: &Bridges, tap: &str, bridge: &str) -> Result<Option<String>, TapError> {
    let Some(found) = bridges.named(bridge) else {
        return Ok(Some(format!(
            "tap {tap} is not on bridge {bridge}: there is no bridge of this name"
        )));
    };
    let on_it = found.has(tap).map_err(TapError::Interfaces)?;
    Ok((!on_it).then(|| format!("tap {tap} is not on bridge {bridge}: send petreld SIGHUP")))
}

/// The taps of a unikernel that runs which a start would put on their bridges again, and these bridges.
pub fn off_bridge(
    database: &Path,
    name: &Name,
    config: &Config,
) -> Result<Vec<(String, String)>, TapError> {
    let owner = owner(database)?;
    let mut off = Vec::new();
    if config.nets.is_empty() {
        return Ok(off);
    }
    let bridges = Bridges::look().map_err(TapError::Interfaces)?;
    for (number, net) in config.nets.iter().enumerate() {
        let tap = owner.tap(name, number);
        if let Some(bridge) = bridges.named(net.bridge())
            && !bridge.has(&tap).map_err(TapError::Interfaces)?
        {
            off.push((tap, net.bridge().to_owned()));
        }
    }
    Ok(off)
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
    let failed = |error| TapError::Database(database.to_path_buf(), error);
    let found = fs::metadata(database).map_err(failed)?;
    let secret = secret::read(database).map_err(failed)?;
    Ok(Owner::of(found.dev(), found.ino(), &secret))
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
            Self::Database(directory, error) => {
                write!(f, "cannot look at {}: {error}", directory.display())
            }
            Self::NoBridge(bridge) => write!(f, "there is no bridge {bridge} on this host"),
            Self::HostAddress(address, bridge) => write!(
                f,
                "hardware address {address} is that of the host on bridge {bridge}: ask for another one"
            ),
            Self::Taken(address, bridge) => write!(
                f,
                "hardware address {address} is taken on bridge {bridge}: ask for another one"
            ),
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
