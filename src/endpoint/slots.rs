//! Slots of connections: limits of each tenant and each source, and which connection ends for a new one. No I/O.
//!
//! A connection belongs to the handshakes until its client is known. Then it asks for a slot in the name of its tenant.
//! So unknown clients compete only with each other, and tenants only with tenants.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::name::Path;

/// Fraction of the slots that streams leave to transfers and commands: one in this number.
pub const COMMAND_PART: usize = 4;

/// Fraction of the slots that streams and transfers together leave to commands: one in this number.
pub const SHORT_COMMAND_PART: usize = 8;

/// Limits of a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Maximum number of connections whose client is not known yet.
    pub handshakes: usize,
    /// Maximum number of these connections for one source: an IPv4 address or a /64 network of IPv6.
    pub handshakes_per_source: usize,
    /// Number of slots, for connections whose client is known.
    pub places: usize,
    /// Maximum number of slots of one tenant.
    pub places_per_tenant: usize,
}

/// Kinds of connections by their duration, shortest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionKind {
    /// The connection ends by itself soon.
    Command,
    /// The connection ends by itself when its client has sent or received an image or the content of a block device.
    Transfer,
    /// The connection lasts until one side closes it.
    Stream,
}

/// Connection that may wait for a slot, or have one.
#[derive(Clone, Debug)]
struct Connection {
    source: IpAddr,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The client is not known yet, or was refused.
    Unknown,
    /// The client of this tenant waits for a slot.
    Waiting(Path, ConnectionKind),
    /// The connection has a slot.
    Granted(Path, ConnectionKind),
}

/// Answer to a connection that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The connection may begin its handshake.
    Free,
    /// The connection may begin its handshake once this other connection is ended.
    InPlaceOf(ConnectionId),
    /// The source has this number of connections in the handshake, as many as it may.
    SourceFull(usize),
}

/// Answer to a connection that asks for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The connection has a slot.
    Granted,
    /// The connection gets its slot from a later [`Slots::leave`].
    Wait,
    /// The connection gets no slot, for this reason.
    Refused(Refusal),
}

/// Reason why a tenant gets no slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The tenant has, or waits for, this number of slots, as many as it may.
    Share(Path, usize),
    /// The tenant has this number of connections of this kind or longer ones, as many as it may.
    LongShare(Path, ConnectionKind, usize),
    /// All tenants together have this number of connections of this kind or longer ones.
    Long(ConnectionKind, usize),
}

/// Number of a connection, in the order of arrival.
pub type ConnectionId = u64;

/// All connections of a listener.
#[derive(Debug)]
pub struct Slots {
    limits: ConnectionLimits,
    connections: BTreeMap<ConnectionId, Connection>,
}

impl Slots {
    /// Starts without connections.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            connections: BTreeMap::new(),
        }
    }

    /// Whether a connection could be accepted now. Connections that wait for a slot are authenticated, and do not end for
    /// unknown clients.
    pub fn takes_arrivals(&self) -> bool {
        let waiting = self.count(|state| matches!(state, State::Waiting(..)));
        waiting < self.limits.handshakes
    }

    /// Decides on a new connection from `address`, which [`Self::enter`]s next if it is accepted. If the maximum number of
    /// handshakes is reached, the oldest of the source with the most of them ends.
    pub fn arrival(&self, address: IpAddr) -> Arrival {
        let source = source(address);
        let same = self.handshakes_of(source);
        if same >= self.limits.handshakes_per_source {
            return Arrival::SourceFull(same);
        }
        if self.count(|state| !matches!(state, State::Granted(..))) < self.limits.handshakes {
            return Arrival::Free;
        }
        let unknown = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.state == State::Unknown);
        let oldest_of_most = unknown.min_by_key(|(id, connection)| {
            (
                std::cmp::Reverse(self.handshakes_of(connection.source)),
                **id,
            )
        });
        oldest_of_most.map_or(Arrival::SourceFull(same), |(id, _)| Arrival::InPlaceOf(*id))
    }

    /// Adds a connection whose client is not known yet.
    pub fn enter(&mut self, id: ConnectionId, address: IpAddr) {
        let connection = Connection {
            source: source(address),
            state: State::Unknown,
        };
        self.connections.insert(id, connection);
    }

    /// Asks for a slot for a connection, whose client belongs to this tenant.
    pub fn ask(&mut self, id: ConnectionId, tenant: Path, kind: ConnectionKind) -> Decision {
        let refusal = self.refusal(&tenant, kind);
        let free = self.count(|state| matches!(state, State::Granted(..))) < self.limits.places;
        let Some(connection) = self.connections.get_mut(&id) else {
            return Decision::Wait;
        };
        if let Some(refusal) = refusal {
            return Decision::Refused(refusal);
        }
        if free {
            connection.state = State::Granted(tenant, kind);
            return Decision::Granted;
        }
        connection.state = State::Waiting(tenant, kind);
        Decision::Wait
    }

    /// Removes a connection. Returns the waiting connection that gets its slot, if any.
    pub fn leave(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        self.connections.remove(&id);
        if self.count(|state| matches!(state, State::Granted(..))) >= self.limits.places {
            return None;
        }
        self.connections.iter_mut().find_map(|(id, connection)| {
            let State::Waiting(tenant, kind) = &connection.state else {
                return None;
            };
            connection.state = State::Granted(tenant.clone(), *kind);
            Some(*id)
        })
    }

    fn refusal(&self, tenant: &Path, kind: ConnectionKind) -> Option<Refusal> {
        let limits = self.limits;
        let of_tenant = self.count(|state| match state {
            State::Unknown => false,
            State::Waiting(other, _) | State::Granted(other, _) => other == tenant,
        });
        if of_tenant >= limits.places_per_tenant {
            return Some(Refusal::Share(tenant.clone(), of_tenant));
        }
        [ConnectionKind::Stream, ConnectionKind::Transfer]
            .into_iter()
            .filter(|bounded| kind >= *bounded)
            .find_map(|bounded| self.refusal_of_long(tenant, bounded))
    }

    /// Refusal of a connection of the kind `bounded` or a longer one, if the maximum number is reached.
    fn refusal_of_long(&self, tenant: &Path, bounded: ConnectionKind) -> Option<Refusal> {
        let all = self.count(|state| state.lasting(bounded).is_some());
        let own = self.count(|state| state.lasting(bounded) == Some(tenant));
        if own >= max_long(self.limits.places_per_tenant, bounded) {
            Some(Refusal::LongShare(tenant.clone(), bounded, own))
        } else if all >= max_long(self.limits.places, bounded) {
            Some(Refusal::Long(bounded, all))
        } else {
            None
        }
    }

    fn count(&self, is: impl Fn(&State) -> bool) -> usize {
        let states = self.connections.values();
        states.filter(|connection| is(&connection.state)).count()
    }

    fn handshakes_of(&self, source: IpAddr) -> usize {
        self.connections
            .values()
            .filter(|other| other.source == source && !matches!(other.state, State::Granted(..)))
            .count()
    }
}

impl State {
    /// Tenant of a connection of the kind `bounded` or a longer one.
    fn lasting(&self, bounded: ConnectionKind) -> Option<&Path> {
        match self {
            Self::Waiting(tenant, kind) | Self::Granted(tenant, kind) if *kind >= bounded => {
                Some(tenant)
            }
            _ => None,
        }
    }
}

/// Maximum number of connections of the kind `bounded` or longer ones among `places` slots, at least one.
fn max_long(places: usize, bounded: ConnectionKind) -> usize {
    let left = match bounded {
        ConnectionKind::Command => 0,
        ConnectionKind::Transfer => places.div_ceil(SHORT_COMMAND_PART),
        ConnectionKind::Stream => places.div_ceil(COMMAND_PART),
    };
    (places - left).max(1)
}

/// Name of connections of the kind `bounded` and longer ones.
fn name_of_long(bounded: ConnectionKind) -> &'static str {
    match bounded {
        ConnectionKind::Command => "connections",
        ConnectionKind::Transfer => "streams and transfers",
        ConnectionKind::Stream => "streams",
    }
}

/// Source of a connection. An IPv6 source is a whole /64, as a single host has all of its addresses.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |tenant: &Path| {
            if tenant.is_root() {
                "the root path".to_owned()
            } else {
                format!("'{}'", tenant.joined())
            }
        };
        match self {
            Self::Share(tenant, count) => write!(
                f,
                "{} has {count} connections to this host already, its maximum (end one, or try again later)",
                named(tenant)
            ),
            Self::LongShare(tenant, bounded, count) => write!(
                f,
                "{} has {count} {} from this host already, its maximum (end one)",
                named(tenant),
                name_of_long(*bounded)
            ),
            Self::Long(bounded, count) => write!(
                f,
                "all tenants have {count} {} from this host already, and the remaining connections are for {} (try again later)",
                name_of_long(*bounded),
                if *bounded == ConnectionKind::Stream {
                    "commands"
                } else {
                    "short commands"
                }
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        handshakes: 4,
        handshakes_per_source: 2,
        places: 8,
        places_per_tenant: 4,
    };

    fn address(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    fn tenant(name: &str) -> Path {
        name.parse::<crate::name::Name>().unwrap().path().tenant()
    }

    /// Adds a connection that asks for a slot.
    fn ask(slots: &mut Slots, id: ConnectionId, name: &str, kind: ConnectionKind) -> Decision {
        slots.enter(id, address(0));
        slots.ask(id, tenant(name), kind)
    }

    #[test]
    fn a_source_is_an_address_of_ipv4_or_a_network_of_ipv6() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3::", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let expected: IpAddr = expected.parse().unwrap();
            assert_eq!(source(address), expected, "{address}");
        }
    }

    #[test]
    fn a_source_has_only_its_share_of_the_handshakes() {
        let mut slots = Slots::new(LIMITS);
        for id in 0..2 {
            assert_eq!(slots.arrival(address(1)), Arrival::Free);
            slots.enter(id, address(1));
        }
        assert_eq!(slots.arrival(address(1)), Arrival::SourceFull(2));
        assert_eq!(slots.arrival(address(2)), Arrival::Free);
    }

    #[test]
    fn an_unknown_client_replaces_the_oldest_of_the_source_with_most() {
        let mut slots = Slots::new(LIMITS);
        for (id, source) in [(0, 1), (1, 2), (2, 2), (3, 3)] {
            slots.enter(id, address(source));
        }
        assert_eq!(slots.arrival(address(4)), Arrival::InPlaceOf(1));
        assert_eq!(slots.leave(1), None);
        slots.enter(4, address(4));
        assert_eq!(slots.arrival(address(5)), Arrival::InPlaceOf(0));
    }

    #[test]
    fn a_known_client_does_not_end_for_an_unknown_one() {
        let mut slots = Slots::new(ConnectionLimits {
            places: 1,
            ..LIMITS
        });
        for id in 0..5 {
            let decision = ask(&mut slots, id, "a:x", ConnectionKind::Command);
            let expected = [Decision::Granted, Decision::Wait][usize::from(id > 0)].clone();
            match id {
                0..4 => assert_eq!(decision, expected),
                _ => assert!(
                    matches!(decision, Decision::Refused(_)),
                    "the limit of the tenant"
                ),
            }
        }
        // Three wait, and one was refused.
        assert!(slots.takes_arrivals());
        assert_eq!(slots.arrival(address(9)), Arrival::InPlaceOf(4));
        assert_eq!(slots.leave(4), None);
        assert_eq!(
            ask(&mut slots, 5, "b:x", ConnectionKind::Command),
            Decision::Wait
        );
        assert!(!slots.takes_arrivals());
    }

    #[test]
    fn a_free_slot_goes_to_the_client_that_waits_longest() {
        let mut slots = Slots::new(ConnectionLimits {
            places: 1,
            ..LIMITS
        });
        ask(&mut slots, 0, "a:x", ConnectionKind::Command);
        ask(&mut slots, 1, "b:x", ConnectionKind::Command);
        ask(&mut slots, 2, "a:y", ConnectionKind::Command);
        assert_eq!(slots.leave(0), Some(1));
        assert_eq!(slots.leave(2), None, "it has no slot");
        assert_eq!(slots.leave(1), None);
    }

    #[test]
    fn all_clients_below_a_tenant_share_its_limit() {
        let mut slots = Slots::new(LIMITS);
        for (id, name) in (0..).zip(["a:x", "a:b:x", "a:b:c:x", "a:"]) {
            let decision = ask(&mut slots, id, name, ConnectionKind::Command);
            assert_eq!(decision, Decision::Granted, "{name}");
        }
        let refused = Decision::Refused(Refusal::Share(tenant("a:"), 4));
        assert_eq!(
            ask(&mut slots, 4, "a:d:x", ConnectionKind::Command),
            refused
        );
        assert_eq!(
            ask(&mut slots, 5, "b:x", ConnectionKind::Command),
            Decision::Granted
        );
        assert_eq!(
            ask(&mut slots, 6, "x", ConnectionKind::Command),
            Decision::Granted
        );
    }

    #[test]
    fn streams_leave_slots_to_commands() {
        let mut slots = Slots::new(LIMITS);
        let mut id = 0;
        let mut ask = |name: &str, kind| {
            id += 1;
            ask(&mut slots, id, name, kind)
        };
        for name in ["a:", "b:"] {
            for _ in 0..3 {
                assert_eq!(ask(name, ConnectionKind::Stream), Decision::Granted);
            }
        }
        let own = Decision::Refused(Refusal::LongShare(tenant("a:"), ConnectionKind::Stream, 3));
        assert_eq!(ask("a:", ConnectionKind::Stream), own);
        let all = Decision::Refused(Refusal::Long(ConnectionKind::Stream, 6));
        assert_eq!(ask("c:", ConnectionKind::Stream), all);
        assert_eq!(ask("a:", ConnectionKind::Command), Decision::Granted);
        assert_eq!(ask("c:", ConnectionKind::Command), Decision::Granted);
    }

    #[test]
    fn transfers_and_streams_leave_slots_to_short_commands() {
        let mut slots = Slots::new(LIMITS);
        let mut id = 0;
        let mut ask = |name: &str, kind| {
            id += 1;
            ask(&mut slots, id, name, kind)
        };
        for name in ["a:", "b:"] {
            for _ in 0..3 {
                assert_eq!(ask(name, ConnectionKind::Transfer), Decision::Granted);
            }
            let own = Refusal::LongShare(tenant(name), ConnectionKind::Transfer, 3);
            for kind in [ConnectionKind::Transfer, ConnectionKind::Stream] {
                assert_eq!(ask(name, kind), Decision::Refused(own.clone()));
            }
        }
        assert_eq!(ask("c:", ConnectionKind::Transfer), Decision::Granted);
        let all = Decision::Refused(Refusal::Long(ConnectionKind::Transfer, 7));
        assert_eq!(ask("d:", ConnectionKind::Transfer), all);
        assert_eq!(ask("d:", ConnectionKind::Command), Decision::Granted);
    }

    #[test]
    fn at_least_one_long_connection_is_allowed() {
        for (places, streams, long) in [
            (1, 1, 1),
            (2, 1, 1),
            (3, 2, 2),
            (4, 3, 3),
            (16, 12, 14),
            (64, 48, 56),
        ] {
            assert_eq!(
                max_long(places, ConnectionKind::Stream),
                streams,
                "{places}"
            );
            assert_eq!(max_long(places, ConnectionKind::Transfer), long, "{places}");
        }
    }
}
