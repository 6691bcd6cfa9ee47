//! Which consoles exist, and who reads along.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::ring::{BYTES, History, Item, LINES, Reader, Ring};
use crate::name::{Label, Name, Path};
use crate::socket::{Quota, TENANT_PART};

/// Subscribers of one console unless the operator says otherwise (BEHAVIOUR 6).
pub const SUBSCRIBERS: usize = 5;

/// Most consoles of all paths together. Each takes up to about 300 kB, and a descriptor while its unikernel runs.
pub const MAX_CONSOLES: usize = 1024;

/// Most subscriptions that wait for a console which does not exist (yet).
pub const MAX_WAITING: usize = 32;

/// Most subscriptions of all consoles together, so that the supervisor always finds a free connection.
pub const MAX_SUBSCRIPTIONS: usize = 128;

/// Most subscriptions of one tenant, which is the first label of a path; root's own do not count.
pub const MAX_OF_TENANT: usize = MAX_SUBSCRIPTIONS / TENANT_PART;

/// Who subscribed; chosen by the caller, never used again for somebody else.
pub type Subscriber = u64;

/// What is read of a console, after the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Live lines for ever.
    Lines,
    /// Live lines, and word of the end of each run.
    Runs,
    /// Nothing.
    History,
}

/// What a subscriber gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Whether there is such a console.
    pub known: bool,
    /// Who has to leave for it.
    pub dropped: Vec<DroppedSubscriber>,
}

/// A subscriber that has to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedSubscriber {
    /// Who.
    pub subscriber: Subscriber,
    /// Unikernel to which it had subscribed.
    pub of: Name,
    /// Reason.
    pub why: Displaced,
}

/// Reason why a subscriber has to leave: the limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// Its console, which is inactive, is one too many.
    Forgotten,
    /// So many subscribers of one console.
    OfConsole(usize),
    /// [`MAX_WAITING`].
    Waiting,
    /// [`MAX_SUBSCRIPTIONS`].
    OfAll,
}

/// Refusal of a subscription: its tenant has [`MAX_OF_TENANT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantFull;

/// What a subscriber comes to next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A line of this console, or lines missed.
    Item(&'a Name, Item<'a>),
    /// The run has ended, and all its lines were read.
    RunEnded(&'a Name),
    /// All that was asked for was read.
    HistoryEnded(&'a Name),
    /// Nothing, for now.
    Nothing,
}

/// All consoles that can be kept are those of running unikernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Console {
    ring: Ring,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The unikernel runs.
    Active,
    /// The unikernel has stopped, as this one in the order of all stops.
    Ended(u64),
}

impl Console {
    fn is_active(&self) -> bool {
        self.state == State::Active
    }
}

#[derive(Debug)]
struct Subscription {
    subscriber: Subscriber,
    of: Name,
    reader: Reader,
    stage: Stage,
    quota: Quota,
}

/// What is still to be told but lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing, ever.
    Lines,
    /// The end of the run, once it has ended.
    Run,
    /// Nothing until there is another run.
    RunEnded,
    /// The end, at the line of this number.
    Until(u64),
}

/// All consoles and all subscriptions, the latter in the order of their arrival.
#[derive(Debug)]
pub struct Registry {
    max_subscribers: usize,
    consoles: BTreeMap<Name, Console>,
    subscriptions: VecDeque<Subscription>,
    /// Stops of unikernels so far.
    stops: u64,
}

impl Registry {
    /// An empty registry in which each console has at most `max_subscribers`, at least one.
    pub fn new(max_subscribers: usize) -> Self {
        Self {
            max_subscribers: max_subscribers.max(1),
            consoles: BTreeMap::new(),
            subscriptions: VecDeque::new(),
            stops: 0,
        }
    }

    /// The console of `name` is active from now on, with the lines it had.
    ///
    /// If it is new and its path has more than `max` consoles with it, inactive ones of that path are forgotten, those that
    /// ended first before others. If there are [`MAX_CONSOLES`], the tenant that has most inactive ones loses the one that
    /// ended first. Returns their subscribers, who have to leave.
    ///
    /// # Errors
    /// [`Full`] if there are [`MAX_CONSOLES`] and all are active; nothing has changed then.
    pub fn add(&mut self, name: &Name, max: u64) -> Result<Vec<DroppedSubscriber>, Full> {
        for subscription in &mut self.subscriptions {
            if subscription.of == *name && subscription.stage == Stage::RunEnded {
                subscription.stage = Stage::Run;
            }
        }
        if let Some(console) = self.consoles.get_mut(name) {
            console.state = State::Active;
            return Ok(Vec::new());
        }
        let mut dropped = Vec::new();
        if self.consoles.len() >= MAX_CONSOLES {
            let first = self.first_ended_of_most().ok_or(Full)?;
            self.forget(&first, &mut dropped);
        }
        let console = Console {
            ring: Ring::new(LINES, BYTES),
            state: State::Active,
        };
        self.consoles.insert(name.clone(), console);
        let siblings = |other: &Name| other.path() == name.path();
        let mut count = self.consoles.keys().filter(|n| siblings(n)).count() as u64;
        while count > max
            && let Some(first) = self.first_ended(siblings)
        {
            self.forget(&first, &mut dropped);
            count -= 1;
        }
        Ok(dropped)
    }

    /// The unikernel has stopped: its console stays, inactive.
    pub fn deactivate(&mut self, name: &Name) {
        if let Some(console) = self.consoles.get_mut(name)
            && console.is_active()
        {
            self.stops += 1;
            console.state = State::Ended(self.stops);
        }
    }

    /// The lines of `name`, if there is such a console.
    pub fn ring(&self, name: &Name) -> Option<&Ring> {
        self.consoles.get(name).map(|console| &console.ring)
    }

    /// The same, for lines to be added.
    pub fn ring_mut(&mut self, name: &Name) -> Option<&mut Ring> {
        self.consoles.get_mut(name).map(|console| &mut console.ring)
    }

    /// Who reads the console of `name`, or waits for it, in the order of arrival.
    pub fn subscribers(&self, name: &Name) -> impl Iterator<Item = Subscriber> {
        self.subscriptions
            .iter()
            .filter(move |subscription| subscription.of == *name)
            .map(|subscription| subscription.subscriber)
    }

    /// A new subscriber of `name`, known or not. Where a limit is exceeded the oldest subscriber leaves: of this console,
    /// where readers of history alone do not count; of those that wait ([`MAX_WAITING`]), and of all
    /// ([`MAX_SUBSCRIPTIONS`]), the oldest of the tenant that has most of them, which is the first label of a path.
    ///
    /// # Errors
    /// [`TenantFull`] if the tenant has [`MAX_OF_TENANT`] and none of them leaves for it; nothing has changed then.
    pub fn subscribe(
        &mut self,
        subscriber: Subscriber,
        name: &Name,
        (history, extent): (History, Extent),
        quota: Quota,
    ) -> Result<Subscribed, TenantFull> {
        let ring = self.ring(name);
        let known = ring.is_some();
        let subscription = Subscription {
            subscriber,
            of: name.clone(),
            reader: ring.map_or_else(Reader::default, |ring| ring.reader(history)),
            stage: match extent {
                Extent::Lines => Stage::Lines,
                Extent::Runs => Stage::Run,
                Extent::History => Stage::Until(ring.map_or(0, Ring::end)),
            },
            quota,
        };
        let follows = |one: &Subscription| !matches!(one.stage, Stage::Until(_));
        let followers = self.subscriptions.iter();
        let followers = followers.filter(|one| one.of == *name && follows(one));
        let replaces = follows(&subscription) && followers.count() >= self.max_subscribers;
        if quota == Quota::Tenant && !replaces && self.of_tenant(name) >= MAX_OF_TENANT {
            return Err(TenantFull);
        }
        self.subscriptions.push_back(subscription);
        let mut dropped = Vec::new();
        self.trim(
            (
                self.max_subscribers,
                Displaced::OfConsole(self.max_subscribers),
            ),
            name,
            |_, one| one.of == *name && follows(one),
            &mut dropped,
        );
        self.trim(
            (MAX_WAITING, Displaced::Waiting),
            name,
            |consoles, one| one.quota == Quota::Tenant && !consoles.contains_key(&one.of),
            &mut dropped,
        );
        self.trim(
            (MAX_SUBSCRIPTIONS, Displaced::OfAll),
            name,
            |_, one| one.quota == Quota::Tenant,
            &mut dropped,
        );
        Ok(Subscribed { known, dropped })
    }

    /// What the subscriber comes to next, each thing once.
    pub fn next(&mut self, subscriber: Subscriber) -> Next<'_> {
        let subscription = self
            .subscriptions
            .iter_mut()
            .find(|subscription| subscription.subscriber == subscriber);
        let Some(Subscription {
            of, reader, stage, ..
        }) = subscription
        else {
            return Next::Nothing;
        };
        let Some(console) = self.consoles.get(of) else {
            return Next::Nothing;
        };
        let until = match stage {
            Stage::Until(end) => Some(*end),
            _ => None,
        };
        if until.is_some_and(|end| reader.position() >= end) {
            return Next::HistoryEnded(of);
        }
        match (console.ring.read(reader), until) {
            // Lines that are too old were passed over: to the end, or to a line that came later.
            (None, Some(_)) => Next::HistoryEnded(of),
            (Some(Item::Line(_)), Some(end)) if reader.position() > end => Next::HistoryEnded(of),
            (Some(item), _) => Next::Item(of, item),
            (None, None) if *stage == Stage::Run && !console.is_active() => {
                *stage = Stage::RunEnded;
                Next::RunEnded(of)
            }
            (None, None) => Next::Nothing,
        }
    }

    /// The subscriber has left.
    pub fn unsubscribe(&mut self, subscriber: Subscriber) {
        self.subscriptions
            .retain(|subscription| subscription.subscriber != subscriber);
    }

    /// The consoles at and below `path` whose unikernels have stopped.
    pub fn inactive(&self, path: &Path) -> impl Iterator<Item = &Name> {
        self.consoles
            .iter()
            .filter(|(name, console)| !console.is_active() && name.path().is_within(path))
            .map(|(name, _)| name)
    }

    /// The console that ended first, of those about which `which` says yes.
    fn first_ended(&self, which: impl Fn(&Name) -> bool) -> Option<Name> {
        let ended = self.ended().filter(|(name, _)| which(name));
        ended
            .min_by_key(|(_, stop)| *stop)
            .map(|(name, _)| name.clone())
    }

    /// The console that ended first, of the tenant that has most of those that have ended.
    fn first_ended_of_most(&self) -> Option<Name> {
        let mut counts: BTreeMap<Option<&Label>, usize> = BTreeMap::new();
        for (name, _) in self.ended() {
            *counts.entry(tenant(name)).or_default() += 1;
        }
        let most = counts.values().copied().max();
        self.first_ended(|name| counts.get(&tenant(name)).copied() == most)
    }

    /// The consoles of unikernels that have stopped, and in which order they did.
    fn ended(&self) -> impl Iterator<Item = (&Name, u64)> {
        let stop = |console: &Console| match console.state {
            State::Active => None,
            State::Ended(stop) => Some(stop),
        };
        let consoles = self.consoles.iter();
        consoles.filter_map(move |(name, console)| Some((name, stop(console)?)))
    }

    /// Subscriptions that count for the tenant of `name`.
    fn of_tenant(&self, name: &Name) -> usize {
        let counts =
            |one: &&Subscription| one.quota == Quota::Tenant && tenant(&one.of) == tenant(name);
        self.subscriptions.iter().filter(counts).count()
    }

    fn forget(&mut self, name: &Name, dropped: &mut Vec<DroppedSubscriber>) {
        self.consoles.remove(name);
        dropped.extend(self.subscribers(name).map(|subscriber| DroppedSubscriber {
            subscriber,
            of: name.clone(),
            why: Displaced::Forgotten,
        }));
        self.subscriptions
            .retain(|subscription| subscription.of != *name);
    }

    /// Drops of those subscriptions `which` is about the oldest one of the tenant that has most of them, until `max` are
    /// left: whoever subscribes to many names takes the place of no other tenant. Of several tenants with most of them that
    /// of `newest` gives way.
    fn trim(
        &mut self,
        (max, why): (usize, Displaced),
        newest: &Name,
        which: impl Fn(&BTreeMap<Name, Console>, &Subscription) -> bool,
        dropped: &mut Vec<DroppedSubscriber>,
    ) {
        loop {
            let mut counts: BTreeMap<Option<&Label>, usize> = BTreeMap::new();
            let subject = |one: &&Subscription| which(&self.consoles, one);
            for one in self.subscriptions.iter().filter(subject) {
                *counts.entry(tenant(&one.of)).or_default() += 1;
            }
            if counts.values().sum::<usize>() <= max {
                return;
            }
            let most = counts.values().max();
            let has_most = |name: &Name| counts.get(&tenant(name)) == most;
            let gives_way = |name: &Name| {
                has_most(name) && (!has_most(newest) || tenant(name) == tenant(newest))
            };
            let leaves = self
                .subscriptions
                .iter()
                .position(|one| subject(&one) && gives_way(&one.of));
            let Some(leaves) = leaves.and_then(|place| self.subscriptions.remove(place)) else {
                return;
            };
            dropped.push(DroppedSubscriber {
                subscriber: leaves.subscriber,
                of: leaves.of,
                why,
            });
        }
    }
}

/// The first label of its path; none for what lies at the root.
fn tenant(name: &Name) -> Option<&Label> {
    name.path().labels().first()
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MAX_CONSOLES} consoles of running unikernels are the most that can be kept"
        )
    }
}

impl std::error::Error for Full {}

impl fmt::Display for Displaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::Forgotten {
            return f.write_str(
                "the console of this unikernel, which has ended, was forgotten for that of a newer one",
            );
        }
        f.write_str("a newer subscriber took the place of this one: ")?;
        match self {
            Self::Forgotten => Ok(()),
            Self::OfConsole(most) => write!(f, "{most} can follow a console (--max-subscribers)"),
            Self::Waiting => write!(
                f,
                "{MAX_WAITING} can wait for unikernels that do not exist, and this tenant had most"
            ),
            Self::OfAll => write!(
                f,
                "{MAX_SUBSCRIPTIONS} can read consoles, and this tenant had most"
            ),
        }
    }
}

impl fmt::Display for TenantFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MAX_OF_TENANT} subscriptions to consoles of one tenant are the limit: end one of them first"
        )
    }
}

impl std::error::Error for TenantFull {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ring::Moment;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn registry(running: &[&str]) -> Registry {
        let mut registry = Registry::new(2);
        for text in running {
            assert_eq!(registry.add(&name(text), u64::MAX), Ok(vec![]));
        }
        registry
    }

    fn write(registry: &mut Registry, to: &str, line: &str) {
        let ring = registry.ring_mut(&name(to)).unwrap();
        ring.push(Moment::default(), line.as_bytes());
    }

    fn ids(dropped: Vec<DroppedSubscriber>) -> Vec<Subscriber> {
        dropped.into_iter().map(|one| one.subscriber).collect()
    }

    /// A unikernel starts; who has to leave.
    fn add(registry: &mut Registry, text: &str, max: u64) -> Result<Vec<Subscriber>, Full> {
        registry.add(&name(text), max).map(ids)
    }

    /// A tenant's subscription; whether the console is known, and who has to leave.
    fn try_subscribe(
        registry: &mut Registry,
        who: Subscriber,
        to: &str,
    ) -> Result<(bool, Vec<Subscriber>), TenantFull> {
        let what = (History::Count(9), Extent::Lines);
        let subscribed = registry.subscribe(who, &name(to), what, Quota::Tenant)?;
        Ok((subscribed.known, ids(subscribed.dropped)))
    }

    fn subscribe(registry: &mut Registry, who: Subscriber, to: &str) -> (bool, Vec<Subscriber>) {
        try_subscribe(registry, who, to).unwrap()
    }

    /// A subscription of another extent.
    fn read(registry: &mut Registry, who: Subscriber, to: &str, what: (History, Extent)) {
        let read = registry.subscribe(who, &name(to), what, Quota::Tenant);
        assert_eq!(read.unwrap().dropped, []);
    }

    /// What the subscriber comes to until there is nothing, in words.
    fn told(registry: &mut Registry, who: Subscriber) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            told.push(match registry.next(who) {
                Next::Item(_, Item::Line(line)) => String::from_utf8(line.bytes.into()).unwrap(),
                Next::Item(_, Item::Missed(count)) => format!("{count} missed"),
                Next::RunEnded(_) => "end of the run".to_owned(),
                Next::HistoryEnded(_) => {
                    registry.unsubscribe(who);
                    "end".to_owned()
                }
                Next::Nothing => return told,
            });
        }
    }

    fn inactive(registry: &Registry, path: &str) -> Vec<String> {
        let path: Path = path.parse().unwrap();
        registry.inactive(&path).map(ToString::to_string).collect()
    }

    #[test]
    fn a_stopped_console_keeps_its_lines_until_the_unikernel_is_back() {
        let mut registry = registry(&[":a"]);
        write(&mut registry, ":a", "one");
        registry.deactivate(&name(":a"));
        assert_eq!(inactive(&registry, ""), [":a"]);
        assert_eq!(add(&mut registry, ":a", 0), Ok(vec![]));
        assert_eq!(inactive(&registry, ""), [""; 0]);
        subscribe(&mut registry, 1, ":a");
        assert_eq!(told(&mut registry, 1), ["one"]);
    }

    #[test]
    fn each_subscriber_gets_its_history_and_every_later_line_once() {
        let mut registry = registry(&[":a", ":b"]);
        write(&mut registry, ":a", "one");
        subscribe(&mut registry, 1, ":a");
        write(&mut registry, ":a", "two");
        read(&mut registry, 2, ":a", (History::Count(1), Extent::Lines));
        write(&mut registry, ":b", "other");
        assert_eq!(told(&mut registry, 2), ["two"]);
        write(&mut registry, ":a", "three");
        assert_eq!(told(&mut registry, 1), ["one", "two", "three"]);
        assert_eq!(told(&mut registry, 2), ["three"]);
        for _ in 0..LINES + 3 {
            write(&mut registry, ":a", "");
        }
        assert_eq!(told(&mut registry, 1)[..2], ["3 missed", ""]);
    }

    #[test]
    fn the_end_of_each_run_is_told_once_after_its_lines() {
        let mut registry = registry(&[":a"]);
        for (who, extent) in [(1, Extent::Lines), (2, Extent::Runs)] {
            read(&mut registry, who, ":a", (History::Count(0), extent));
        }
        assert_eq!(told(&mut registry, 2), [""; 0]);
        write(&mut registry, ":a", "last");
        registry.deactivate(&name(":a"));
        assert_eq!(told(&mut registry, 1), ["last"]);
        assert_eq!(told(&mut registry, 2), ["last", "end of the run"]);
        assert_eq!(told(&mut registry, 2), [""; 0]);
        add(&mut registry, ":a", 1).unwrap();
        assert_eq!(told(&mut registry, 2), [""; 0]);
        registry.deactivate(&name(":a"));
        assert_eq!(told(&mut registry, 2), ["end of the run"]);
    }

    #[test]
    fn history_ends_where_it_was_asked_for() {
        let mut registry = registry(&[":a"]);
        write(&mut registry, ":a", "one");
        read(&mut registry, 1, ":a", (History::Count(9), Extent::History));
        write(&mut registry, ":a", "two");
        assert_eq!(told(&mut registry, 1), ["one", "end"]);
        read(&mut registry, 2, ":a", (History::Count(0), Extent::History));
        assert_eq!(told(&mut registry, 2), ["end"]);
    }

    #[test]
    fn history_ends_where_nothing_is_recent_enough() {
        let mut registry = registry(&[":a"]);
        write(&mut registry, ":a", "old");
        let later = History::Since(Moment {
            seconds: 1,
            nanoseconds: 0,
        });
        read(&mut registry, 1, ":a", (later, Extent::History));
        assert_eq!(told(&mut registry, 1), ["end"]);
        read(&mut registry, 2, ":a", (later, Extent::History));
        write(&mut registry, ":a", "after the question");
        assert_eq!(told(&mut registry, 2), ["end"]);
    }

    #[test]
    fn inactive_consoles_are_listed_at_and_below_the_path() {
        let mut registry = registry(&[":a", "t:a", "t:u:a", "tt:a", "t:b"]);
        for text in [":a", "t:a", "t:u:a", "tt:a"] {
            registry.deactivate(&name(text));
        }
        assert_eq!(inactive(&registry, "t"), ["t:a", "t:u:a"]);
    }

    #[test]
    fn the_bound_of_a_path_forgets_its_inactive_consoles_only_and_the_oldest_first() {
        let mut registry = registry(&["t:a", "t:b", "t:c", "u:a", "t:v:a"]);
        for text in ["t:c", "u:a", "t:b", "t:v:a"] {
            registry.deactivate(&name(text));
        }
        subscribe(&mut registry, 1, "t:b");
        subscribe(&mut registry, 2, "t:c");
        // That it is told twice makes it no younger.
        registry.deactivate(&name("t:c"));
        assert_eq!(add(&mut registry, "t:d", 3), Ok(vec![2]));
        assert_eq!(inactive(&registry, ""), ["t:b", "t:v:a", "u:a"]);
        assert_eq!(add(&mut registry, "t:e", 0), Ok(vec![1]));
        assert_eq!(inactive(&registry, ""), ["t:v:a", "u:a"]);
        assert_eq!(add(&mut registry, "t:f", 0), Ok(vec![]));
        assert!(registry.ring(&name("t:a")).is_some());
    }

    #[test]
    fn one_that_ran_again_counts_by_its_latest_stop() {
        let mut registry = registry(&[":a", ":b"]);
        for text in [":a", ":b"] {
            registry.deactivate(&name(text));
        }
        add(&mut registry, ":a", 2).unwrap();
        registry.deactivate(&name(":a"));
        add(&mut registry, ":c", 2).unwrap();
        assert_eq!(inactive(&registry, ""), [":a"]);
    }

    #[test]
    fn a_limit_means_exactly_so_many_and_the_oldest_leaves() {
        let mut registry = registry(&[":a", ":b"]);
        assert_eq!(subscribe(&mut registry, 1, ":a"), (true, vec![]));
        assert_eq!(subscribe(&mut registry, 2, ":a"), (true, vec![]));
        assert_eq!(subscribe(&mut registry, 3, ":b"), (true, vec![]));
        assert_eq!(subscribe(&mut registry, 4, ":a"), (true, vec![1]));
        registry.unsubscribe(2);
        assert_eq!(subscribe(&mut registry, 5, ":a"), (true, vec![]));
        let readers: Vec<_> = registry.subscribers(&name(":a")).collect();
        assert_eq!(readers, [4, 5]);
    }

    #[test]
    fn a_reader_of_history_takes_nobodys_place() {
        let mut registry = registry(&[":a"]);
        subscribe(&mut registry, 1, ":a");
        subscribe(&mut registry, 2, ":a");
        for who in 3..9 {
            read(
                &mut registry,
                who,
                ":a",
                (History::Count(9), Extent::History),
            );
        }
        // Nor is it one that leaves.
        assert_eq!(subscribe(&mut registry, 9, ":a"), (true, vec![1]));
    }

    #[test]
    fn a_tenant_has_a_quarter_of_the_subscriptions_whatever_it_subscribes_to() {
        let mut registry = registry(&["t:a", "u:a"]);
        for who in 0..8 {
            subscribe(&mut registry, who, "u:a");
        }
        for number in 0..MAX_OF_TENANT as u64 - 2 {
            subscribe(&mut registry, 100 + number, &format!("t:{number}:x"));
        }
        let all = (History::Count(9), Extent::History);
        read(&mut registry, 200, "t:a", all);
        subscribe(&mut registry, 201, "t:a");
        let before = registry.subscriptions.len();
        for (to, what) in [("t:a", all), ("t:a", (all.0, Extent::Lines)), ("t:b", all)] {
            let refused = registry.subscribe(202, &name(to), what, Quota::Tenant);
            assert_eq!(refused, Err(TenantFull), "{to}");
        }
        assert_eq!(registry.subscriptions.len(), before);
        // Others have theirs, and root has no such limit.
        assert_eq!(subscribe(&mut registry, 203, "u:b"), (false, vec![]));
        let local = registry.subscribe(204, &name("t:a"), all, Quota::Exempt);
        assert_eq!(local.unwrap().dropped, []);
        registry.unsubscribe(201);
        assert_eq!(subscribe(&mut registry, 205, "t:a"), (true, vec![]));
    }

    #[test]
    fn a_full_tenant_can_replace_its_own_subscriber() {
        let mut registry = registry(&["t:a"]);
        for who in 0..2 {
            subscribe(&mut registry, who, "t:a");
        }
        for number in 2..MAX_OF_TENANT as u64 {
            subscribe(&mut registry, number, &format!("t:{number}:x"));
        }
        assert_eq!(subscribe(&mut registry, 100, "t:a"), (true, vec![0]));
        assert_eq!(try_subscribe(&mut registry, 101, "t:b"), Err(TenantFull));
    }

    #[test]
    fn of_those_that_wait_the_tenant_with_most_gives_way() {
        let mut registry = registry(&[]);
        for who in 0..MAX_WAITING as u64 {
            let tenant = if who % 2 == 0 { "t" } else { "u" };
            subscribe(&mut registry, who, &format!("{tenant}:x{who}"));
        }
        // One with as many as another one gives way itself.
        assert_eq!(subscribe(&mut registry, 100, "u:x").1, [1]);
        assert_eq!(subscribe(&mut registry, 101, "v:x").1, [0]);
        assert_eq!(subscribe(&mut registry, 102, "u:x").1, [3]);
    }

    #[test]
    fn whoever_waits_reads_along_once_the_console_is_there() {
        let mut registry = registry(&[]);
        assert_eq!(subscribe(&mut registry, 1, ":a"), (false, vec![]));
        assert_eq!(add(&mut registry, ":a", 0), Ok(vec![]));
        assert_eq!(registry.subscribers(&name(":a")).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn waiting_for_invented_names_is_bounded_and_costs_no_console() {
        let mut registry = registry(&["t:a"]);
        registry.deactivate(&name("t:a"));
        subscribe(&mut registry, 0, "t:a");
        for who in 1..1000 {
            let tenant = ["t", "u"][usize::from(who % 2 == 0)];
            let (known, dropped) = subscribe(&mut registry, who, &format!("{tenant}:x{who}"));
            let expected = who.checked_sub(MAX_WAITING as u64).filter(|&old| old > 0);
            assert_eq!((known, dropped), (false, Vec::from_iter(expected)));
        }
        assert_eq!(inactive(&registry, "t"), ["t:a"]);
        assert_eq!(registry.subscribers(&name("t:a")).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn all_consoles_together_are_bounded() {
        let all: Vec<String> = (0..MAX_CONSOLES).map(|n| format!("p{n}:a")).collect();
        let mut registry = registry(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(add(&mut registry, ":new", 9), Err(Full));
        assert_eq!(add(&mut registry, "p7:a", 9), Ok(vec![]));
        registry.deactivate(&name("p7:a"));
        assert_eq!(add(&mut registry, ":new", 9), Ok(vec![]));
        assert_eq!(registry.consoles.len(), MAX_CONSOLES);
    }

    #[test]
    fn whoever_has_most_inactive_consoles_loses_the_oldest_where_all_are_too_many() {
        let all: Vec<String> = (0..MAX_CONSOLES).map(|n| format!("p{n}:a")).collect();
        let mut registry = registry(&all[2..].iter().map(String::as_str).collect::<Vec<_>>());
        registry.deactivate(&name("p2:a"));
        for text in ["t:b", "t:a"] {
            add(&mut registry, text, 9).unwrap();
            registry.deactivate(&name(text));
        }
        assert_eq!(add(&mut registry, "v:new", 9), Ok(vec![]));
        assert_eq!(inactive(&registry, ""), ["p2:a", "t:a"]);
    }

    #[test]
    fn subscriptions_of_all_consoles_together_are_bounded() {
        let names = |tenant: usize| (0..MAX_OF_TENANT).map(move |n| format!("t{tenant}:a{n}"));
        let all: Vec<String> = (0..=TENANT_PART).flat_map(names).collect();
        let mut registry = registry(&all.iter().map(String::as_str).collect::<Vec<_>>());
        for (who, to) in (0..).zip(&all[..MAX_SUBSCRIPTIONS]) {
            assert_eq!(subscribe(&mut registry, who, to), (true, vec![]));
        }
        // Of several tenants with most of them the oldest gives way.
        assert_eq!(subscribe(&mut registry, 999, "t4:a0"), (true, vec![0]));
        assert_eq!(registry.subscriptions.len(), MAX_SUBSCRIPTIONS);
    }
}
