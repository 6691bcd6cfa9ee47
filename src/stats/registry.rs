//! Which unikernels are observed, and who wants to know.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{Name, Path};
use crate::socket::Quota;

/// Most processes that are observed at the same time.
pub const MAX_OBSERVED: usize = 1024;

/// Who subscribed; chosen by the caller, never used again for somebody else.
pub type Subscriber = u64;

/// As many processes are observed as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Refusal of a subscription: its tenant has so many, which is its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantFull(usize);

#[derive(Debug)]
struct Subscription {
    to: Name,
    quota: Quota,
}

/// All that is observed, and all subscriptions: one a subscriber, any number a name.
#[derive(Debug)]
pub struct Registry<T> {
    observed: BTreeMap<Name, T>,
    subscriptions: BTreeMap<Subscriber, Subscription>,
    max_of_tenant: usize,
}

impl<T> Registry<T> {
    /// An empty registry with at most `max_of_tenant` subscriptions of one tenant, which is the first label of a path.
    pub fn new(max_of_tenant: usize) -> Self {
        Self {
            observed: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            max_of_tenant,
        }
    }

    /// Observes `target` as `name` from now on, in place of what had this name before. Where there is no room those are
    /// forgotten that have `ended`.
    ///
    /// # Errors
    /// [`Full`] if there are [`MAX_OBSERVED`] others.
    pub fn add(
        &mut self,
        name: Name,
        target: T,
        mut ended: impl FnMut(&mut T) -> bool,
    ) -> Result<(), Full> {
        let is_full = |observed: &BTreeMap<Name, T>| {
            observed.len() >= MAX_OBSERVED && !observed.contains_key(&name)
        };
        if is_full(&self.observed) {
            self.observed.retain(|_, target| !ended(target));
        }
        if is_full(&self.observed) {
            return Err(Full);
        }
        self.observed.insert(name, target);
        Ok(())
    }

    /// What is observed as `name`.
    pub fn get(&self, name: &Name) -> Option<&T> {
        self.observed.get(name)
    }

    /// Observes it no longer.
    pub fn remove(&mut self, name: &Name) {
        self.observed.remove(name);
    }

    /// Goes through what is observed, and forgets that for which `go_on` says no.
    pub fn retain(&mut self, mut go_on: impl FnMut(&Name, &mut T, &Subscriptions<'_>) -> bool) {
        let subscriptions = Subscriptions(&self.subscriptions);
        self.observed
            .retain(|name, target| go_on(name, target, &subscriptions));
    }

    /// The subscriber wants to know of `name`: a unikernel, or all at and below a path. What it wanted before is
    /// forgotten.
    ///
    /// # Errors
    /// [`TenantFull`] if others have the whole share of the tenant; nothing has changed then.
    pub fn subscribe(
        &mut self,
        subscriber: Subscriber,
        to: Name,
        quota: Quota,
    ) -> Result<(), TenantFull> {
        let tenant = to.path().tenant();
        if quota == Quota::Tenant && self.others_of(&tenant, subscriber) >= self.max_of_tenant {
            return Err(TenantFull(self.max_of_tenant));
        }
        self.subscriptions
            .insert(subscriber, Subscription { to, quota });
        Ok(())
    }

    /// Subscriptions but that of `subscriber` that count for this tenant.
    fn others_of(&self, tenant: &Path, subscriber: Subscriber) -> usize {
        let others = self.subscriptions.iter();
        let others = others.filter(|(who, one)| {
            **who != subscriber && one.quota == Quota::Tenant && one.to.path().tenant() == *tenant
        });
        others.count()
    }

    /// The subscriber has left.
    pub fn unsubscribe(&mut self, subscriber: Subscriber) {
        self.subscriptions.remove(&subscriber);
    }

    /// How many are observed.
    pub fn observed(&self) -> usize {
        self.observed.len()
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> usize {
        self.subscriptions.len()
    }
}

/// The subscriptions, while what is observed is gone through.
#[derive(Debug)]
pub struct Subscriptions<'a>(&'a BTreeMap<Subscriber, Subscription>);

impl<'a> Subscriptions<'a> {
    /// Who wants to know of `name`, and how many labels of its path are left out for them (WIRE 9.3).
    pub fn of(&self, name: &Name) -> impl Iterator<Item = (Subscriber, usize)> + use<'a> {
        let name = name.clone();
        let covering = move |wanted: &Name| match wanted.label() {
            Some(_) => *wanted == name,
            None => name.path().is_within(wanted.path()),
        };
        self.0
            .iter()
            .filter(move |(_, wanted)| covering(&wanted.to))
            .map(|(subscriber, wanted)| (*subscriber, wanted.to.path().labels().len()))
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MAX_OBSERVED} processes are the most that can be observed"
        )
    }
}

impl std::error::Error for Full {}

impl fmt::Display for TenantFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(most) = self;
        write!(
            f,
            "{most} subscriptions to statistics of one tenant are the limit: end one of them first"
        )
    }
}

impl std::error::Error for TenantFull {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// Where all go on.
    fn add<T>(registry: &mut Registry<T>, to: &str, target: T) -> Result<(), Full> {
        registry.add(name(to), target, |_| false)
    }

    fn told(registry: &mut Registry<()>) -> BTreeSet<(Subscriber, String, usize)> {
        let mut told = BTreeSet::new();
        registry.retain(|name, (), subscriptions| {
            let of = subscriptions.of(name);
            told.extend(of.map(|(who, left_out)| (who, name.to_string(), left_out)));
            true
        });
        told
    }

    #[test]
    fn a_subtree_is_told_of_itself_only_and_a_name_of_itself_only() {
        let mut registry = Registry::new(200);
        for unikernel in [":a", "t:a", "t:u:a", "tt:a", "t:u"] {
            add(&mut registry, unikernel, ()).unwrap();
        }
        for (who, wanted) in [(1, "t:"), (2, "t:u"), (3, "t:u:"), (4, "x:"), (5, ":t")] {
            registry
                .subscribe(who, name(wanted), Quota::Tenant)
                .unwrap();
        }
        let expected = [
            (1, "t:a".to_owned(), 1),
            (1, "t:u".to_owned(), 1),
            (1, "t:u:a".to_owned(), 1),
            (2, "t:u".to_owned(), 1),
            (3, "t:u:a".to_owned(), 2),
        ];
        assert_eq!(told(&mut registry), expected.into());
    }

    #[test]
    fn any_number_subscribes_to_one_name() {
        let mut registry = Registry::new(200);
        add(&mut registry, ":a", ()).unwrap();
        for who in 0..100 {
            for (who, wanted) in [(who, ":a"), (1000 + who, ":")] {
                registry
                    .subscribe(who, name(wanted), Quota::Tenant)
                    .unwrap();
            }
        }
        assert_eq!(told(&mut registry).len(), 200);
        registry.unsubscribe(7);
        assert_eq!(registry.subscribers(), 199);
    }

    #[test]
    fn a_tenant_has_its_share_of_subscriptions_and_root_more() {
        let mut registry: Registry<()> = Registry::new(2);
        let mut try_to = |who, wanted: &str, quota| registry.subscribe(who, name(wanted), quota);
        assert_eq!(try_to(1, "t:", Quota::Tenant), Ok(()));
        assert_eq!(try_to(2, "t:u:a", Quota::Tenant), Ok(()));
        assert_eq!(try_to(3, "t:a", Quota::Tenant), Err(TenantFull(2)));
        assert_eq!(try_to(4, "u:a", Quota::Tenant), Ok(()));
        assert_eq!(try_to(5, ":", Quota::Tenant), Ok(()));
        assert_eq!(try_to(6, "t:a", Quota::Exempt), Ok(()));
        // One that wants something else has its own place for it.
        assert_eq!(try_to(2, "t:a", Quota::Tenant), Ok(()));
        registry.unsubscribe(1);
        let later = registry.subscribe(3, name("t:a"), Quota::Tenant);
        assert_eq!(later, Ok(()));
    }

    #[test]
    fn a_name_added_twice_is_observed_as_the_latter_and_all_together_are_bounded() {
        let mut registry = Registry::new(200);
        for number in 0..MAX_OBSERVED {
            assert_eq!(add(&mut registry, &format!(":a{number}"), number), Ok(()));
        }
        assert_eq!(add(&mut registry, ":b", 0), Err(Full));
        assert_eq!(add(&mut registry, ":a7", 0), Ok(()));
        assert_eq!(registry.get(&name(":a7")), Some(&0));
        registry.remove(&name(":a9"));
        assert_eq!(add(&mut registry, ":b", 0), Ok(()));
        assert_eq!(registry.observed(), MAX_OBSERVED);
        registry.retain(|_, number, _| *number != 0);
        // a0, a7, b.
        assert_eq!(registry.observed(), MAX_OBSERVED - 3);
    }

    #[test]
    fn what_has_ended_makes_room_although_nobody_asks_for_it() {
        let mut registry = Registry::new(200);
        for number in 0..MAX_OBSERVED {
            add(&mut registry, &format!(":a{number}"), number).unwrap();
        }
        let odd = |number: &mut usize| *number % 2 == 1;
        // Nothing is asked where there is room, or the name has its place.
        registry.remove(&name(":a0"));
        for known in [":b", ":b"] {
            let asked = |_: &mut usize| panic!("asked");
            assert_eq!(registry.add(name(known), 0, asked), Ok(()));
        }
        assert_eq!(registry.add(name(":c"), 0, odd), Ok(()));
        assert_eq!(registry.observed(), MAX_OBSERVED / 2 + 1);
    }
}
