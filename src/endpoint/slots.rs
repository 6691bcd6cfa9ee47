//! Places of connections: who may have one, how many, and who has to give one up. No I/O.
//!
//! A connection takes part in a handshake until its client is known. Then it asks for a place in the name of its tenant.
//! Strangers and tenants so compete among themselves only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::name::Path;

/// Parts of all places that streams leave to transfers and commands: one of so many.
pub const COMMAND_PART: usize = 4;

/// Parts of all places that streams and transfers together leave to commands: one of so many.
pub const SHORT_COMMAND_PART: usize = 8;

/// Limits of a listener's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections whose client is not known yet.
    pub handshakes: usize,
    /// Such connections of one source, which is an IPv4 address or a /64 network of IPv6.
    pub handshakes_per_source: usize,
    /// Connections whose client is known.
    pub places: usize,
    /// Such connections of one tenant.
    pub places_per_tenant: usize,
}

/// Duration class of what a connection is for, shortest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionKind {
    /// Ends by itself, soon.
    Command,
    /// Ends by itself, when its client has sent or taken an image or the content of a block device.
    Transfer,
    /// Goes on until one side leaves.
    Stream,
}

/// Connection that may wait for, or have, a place.
#[derive(Clone, Debug)]
struct Connection {
    source: IpAddr,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The client is not known, or is told that there is no place for it.
    Unplaced,
    /// The client of this tenant waits until a place is free.
    Waiting(Path, ConnectionKind),
    /// The connection has a place.
    Placed(Path, ConnectionKind),
}

/// Answer to a connection that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// There is a place in the handshakes.
    Free,
    /// There is one once this other connection is ended.
    InPlaceOf(ConnectionId),
    /// Its source has so many in the handshake already.
    SourceFull(usize),
}

/// Answer to a connection that asks for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The place is taken.
    Granted,
    /// The place is given by a later [`Slots::leave`].
    Wait,
    /// There is none, for this reason.
    Refused(Refusal),
}

/// Reason why a tenant gets no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The tenant has, or waits for, so many places.
    Share(Path, usize),
    /// The tenant has so many connections that last as long as this occupation, or longer.
    LongShare(Path, ConnectionKind, usize),
    /// All tenants together have so many.
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

    /// Whether a connection could be taken now. Those that wait for a place have shown who they are, and are not ended
    /// for a stranger.
    pub fn takes_arrivals(&self) -> bool {
        let waiting = self.count(|state| matches!(state, State::Waiting(..)));
        waiting < self.limits.handshakes
    }

    /// Decides on a connection from `address`, which [`Self::enter`]s next if it is taken. Where all handshakes are
    /// taken, the oldest of the source with most of them ends: who opens many connections ends his own.
    pub fn arrival(&self, address: IpAddr) -> Arrival {
        let source = source(address);
        let same = self.handshakes_of(source);
        if same >= self.limits.handshakes_per_source {
            return Arrival::SourceFull(same);
        }
        if self.count(|state| !matches!(state, State::Placed(..))) < self.limits.handshakes {
            return Arrival::Free;
        }
        let unplaced = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.state == State::Unplaced);
        let oldest_of_most = unplaced.min_by_key(|(id, connection)| {
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
            state: State::Unplaced,
        };
        self.connections.insert(id, connection);
    }

    /// Asks for the place of a connection whose client turned out to be of this tenant.
    pub fn ask(&mut self, id: ConnectionId, tenant: Path, occupation: ConnectionKind) -> Decision {
        let refusal = self.refusal(&tenant, occupation);
        let free = self.count(|state| matches!(state, State::Placed(..))) < self.limits.places;
        let Some(connection) = self.connections.get_mut(&id) else {
            return Decision::Wait;
        };
        if let Some(refusal) = refusal {
            return Decision::Refused(refusal);
        }
        if free {
            connection.state = State::Placed(tenant, occupation);
            return Decision::Granted;
        }
        connection.state = State::Waiting(tenant, occupation);
        Decision::Wait
    }

    /// Removes a connection; the one that has its place now, if one waited.
    pub fn leave(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        self.connections.remove(&id);
        if self.count(|state| matches!(state, State::Placed(..))) >= self.limits.places {
            return None;
        }
        self.connections.iter_mut().find_map(|(id, connection)| {
            let State::Waiting(tenant, occupation) = &connection.state else {
                return None;
            };
            connection.state = State::Placed(tenant.clone(), *occupation);
            Some(*id)
        })
    }

    fn refusal(&self, tenant: &Path, occupation: ConnectionKind) -> Option<Refusal> {
        let limits = self.limits;
        let of_tenant = self.count(|state| match state {
            State::Unplaced => false,
            State::Waiting(other, _) | State::Placed(other, _) => other == tenant,
        });
        if of_tenant >= limits.places_per_tenant {
            return Some(Refusal::Share(tenant.clone(), of_tenant));
        }
        [ConnectionKind::Stream, ConnectionKind::Transfer]
            .into_iter()
            .filter(|bounded| occupation >= *bounded)
            .find_map(|bounded| self.refusal_of_long(tenant, bounded))
    }

    /// Refusal of a connection that lasts as long as `bounded`, or longer, if there are as many as may be.
    fn refusal_of_long(&self, tenant: &Path, bounded: ConnectionKind) -> Option<Refusal> {
        let all = self.count(|state| state.lasting(bounded).is_some());
        let own = self.count(|state| state.lasting(bounded) == Some(tenant));
        if own >= most_long(self.limits.places_per_tenant, bounded) {
            Some(Refusal::LongShare(tenant.clone(), bounded, own))
        } else if all >= most_long(self.limits.places, bounded) {
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
            .filter(|other| other.source == source && !matches!(other.state, State::Placed(..)))
            .count()
    }
}

impl State {
    /// Tenant of a connection that lasts as long as `bounded`, or longer.
    fn lasting(&self, bounded: ConnectionKind) -> Option<&Path> {
        match self {
            Self::Waiting(tenant, occupation) | Self::Placed(tenant, occupation)
                if *occupation >= bounded =>
            {
                Some(tenant)
            }
            _ => None,
        }
    }
}

/// Connections that last as long as `bounded`, or longer, and may have one of so many places, at least one.
fn most_long(places: usize, bounded: ConnectionKind) -> usize {
    let left = match bounded {
        ConnectionKind::Command => 0,
        ConnectionKind::Transfer => places.div_ceil(SHORT_COMMAND_PART),
        ConnectionKind::Stream => places.div_ceil(COMMAND_PART),
    };
    (places - left).max(1)
}

/// Connections that last as long as an occupation, or longer, in words.
fn long_ones(bounded: ConnectionKind) -> &'static str {
    match bounded {
        ConnectionKind::Command => "connections",
        ConnectionKind::Transfer => "streams and transfers",
        ConnectionKind::Stream => "streams",
    }
}

/// Source of a connection: of IPv6 a whole /64, as a single host has all of its addresses.
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
                "{} has {count} connections to this host already, which is its share: end one, or try again later",
                named(tenant)
            ),
            Self::LongShare(tenant, bounded, count) => write!(
                f,
                "{} has {count} {} from this host already, which is its share: end one",
                named(tenant),
                long_ones(*bounded)
            ),
            Self::Long(bounded, count) => write!(
                f,
                "there are {count} {} from this host already, and the places left are for {}: try again later",
                long_ones(*bounded),
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

    /// Lets a connection arrive, whatever has to end for it, and ask for a place.
    fn ask(
        places: &mut Slots,
        id: ConnectionId,
        name: &str,
        occupation: ConnectionKind,
    ) -> Decision {
        places.enter(id, address(0));
        places.ask(id, tenant(name), occupation)
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
        let mut places = Slots::new(LIMITS);
        for id in 0..2 {
            assert_eq!(places.arrival(address(1)), Arrival::Free);
            places.enter(id, address(1));
        }
        assert_eq!(places.arrival(address(1)), Arrival::SourceFull(2));
        assert_eq!(places.arrival(address(2)), Arrival::Free);
    }

    #[test]
    fn a_stranger_takes_the_place_of_the_oldest_one_of_the_source_with_most() {
        let mut places = Slots::new(LIMITS);
        for (id, source) in [(0, 1), (1, 2), (2, 2), (3, 3)] {
            places.enter(id, address(source));
        }
        assert_eq!(places.arrival(address(4)), Arrival::InPlaceOf(1));
        assert_eq!(places.leave(1), None);
        places.enter(4, address(4));
        assert_eq!(places.arrival(address(5)), Arrival::InPlaceOf(0));
    }

    #[test]
    fn a_client_that_is_known_is_not_ended_for_a_stranger() {
        let mut places = Slots::new(ConnectionLimits {
            places: 1,
            ..LIMITS
        });
        for id in 0..5 {
            let decision = ask(&mut places, id, "a:x", ConnectionKind::Command);
            let expected = [Decision::Granted, Decision::Wait][usize::from(id > 0)].clone();
            match id {
                0..4 => assert_eq!(decision, expected),
                _ => assert!(matches!(decision, Decision::Refused(_)), "its share"),
            }
        }
        // Three wait, and one was refused.
        assert!(places.takes_arrivals());
        assert_eq!(places.arrival(address(9)), Arrival::InPlaceOf(4));
        assert_eq!(places.leave(4), None);
        assert_eq!(
            ask(&mut places, 5, "b:x", ConnectionKind::Command),
            Decision::Wait
        );
        assert!(!places.takes_arrivals());
    }

    #[test]
    fn a_place_that_is_free_goes_to_who_waits_longest() {
        let mut places = Slots::new(ConnectionLimits {
            places: 1,
            ..LIMITS
        });
        ask(&mut places, 0, "a:x", ConnectionKind::Command);
        ask(&mut places, 1, "b:x", ConnectionKind::Command);
        ask(&mut places, 2, "a:y", ConnectionKind::Command);
        assert_eq!(places.leave(0), Some(1));
        assert_eq!(places.leave(2), None, "it has none");
        assert_eq!(places.leave(1), None);
    }

    #[test]
    fn a_tenant_has_only_its_share_whoever_it_is_below_its_path() {
        let mut places = Slots::new(LIMITS);
        for (id, name) in (0..).zip(["a:x", "a:b:x", "a:b:c:x", "a:"]) {
            let decision = ask(&mut places, id, name, ConnectionKind::Command);
            assert_eq!(decision, Decision::Granted, "{name}");
        }
        let refused = Decision::Refused(Refusal::Share(tenant("a:"), 4));
        assert_eq!(
            ask(&mut places, 4, "a:d:x", ConnectionKind::Command),
            refused
        );
        assert_eq!(
            ask(&mut places, 5, "b:x", ConnectionKind::Command),
            Decision::Granted
        );
        assert_eq!(
            ask(&mut places, 6, "x", ConnectionKind::Command),
            Decision::Granted
        );
    }

    #[test]
    fn streams_leave_places_to_commands() {
        let mut places = Slots::new(LIMITS);
        let mut id = 0;
        let mut ask = |name: &str, occupation| {
            id += 1;
            ask(&mut places, id, name, occupation)
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
    fn transfers_and_streams_leave_places_to_short_commands() {
        let mut places = Slots::new(LIMITS);
        let mut id = 0;
        let mut ask = |name: &str, occupation| {
            id += 1;
            ask(&mut places, id, name, occupation)
        };
        for name in ["a:", "b:"] {
            for _ in 0..3 {
                assert_eq!(ask(name, ConnectionKind::Transfer), Decision::Granted);
            }
            let own = Refusal::LongShare(tenant(name), ConnectionKind::Transfer, 3);
            for occupation in [ConnectionKind::Transfer, ConnectionKind::Stream] {
                assert_eq!(ask(name, occupation), Decision::Refused(own.clone()));
            }
        }
        assert_eq!(ask("c:", ConnectionKind::Transfer), Decision::Granted);
        let all = Decision::Refused(Refusal::Long(ConnectionKind::Transfer, 7));
        assert_eq!(ask("d:", ConnectionKind::Transfer), all);
        assert_eq!(ask("d:", ConnectionKind::Command), Decision::Granted);
    }

    #[test]
    fn there_is_always_a_place_for_one_long_connection() {
        for (places, streams, long) in [
            (1, 1, 1),
            (2, 1, 1),
            (3, 2, 2),
            (4, 3, 3),
            (16, 12, 14),
            (64, 48, 56),
        ] {
            assert_eq!(
                most_long(places, ConnectionKind::Stream),
                streams,
                "{places}"
            );
            assert_eq!(
                most_long(places, ConnectionKind::Transfer),
                long,
                "{places}"
            );
        }
    }
}
