//! The ages of the certificates whose policies were set: an older certificate never brings an older policy back, even
//! where the newer one's was removed since.
//!
//! What is forgotten for lack of room counts as being as new as the newest that was forgotten there: certificates that
//! are older than that are refused their policy, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::accounting::{MAX_POLICIES, Refusal};
use crate::name::Path;
use crate::policy::Age;

/// Certificates that are newer by no more than this, and change no policy, are remembered without a write of the state:
/// what is recorded is an age as far ahead.
pub const AGE_STEP: Duration = Duration::from_secs(60);

/// Ages by path.
type ByPath = Vec<(Path, Age)>;

/// What is remembered, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    newest: BTreeMap<Path, NewestAge>,
    /// The newest of those forgotten below these paths: the root, and paths of one label.
    forgotten: BTreeMap<Path, Age>,
}

/// The age of the newest certificate of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NewestAge {
    newest: Age,
    /// Not older: what the state file says.
    recorded: Age,
}

impl Ages {
    /// What was recorded: of paths, and of what was forgotten.
    pub fn new(newest: ByPath, forgotten: ByPath) -> Self {
        let remembered = newest.into_iter().map(|(path, age)| {
            let remembered = NewestAge {
                newest: age,
                recorded: age,
            };
            (path, remembered)
        });
        Self {
            newest: remembered.collect(),
            forgotten: forgotten.into_iter().collect(),
        }
    }

    /// What is to be recorded, as [`Self::new`] takes it.
    pub fn recorded(&self) -> (ByPath, ByPath) {
        let newest = self.newest.iter();
        let recorded = newest.map(|(path, age)| (path.clone(), age.recorded));
        let forgotten = self.forgotten.iter();
        (
            recorded.collect(),
            forgotten.map(|(path, age)| (path.clone(), *age)).collect(),
        )
    }

    /// Whether a certificate for `path` of this age is older than one before it. Of those of one second the later
    /// arrival wins.
    pub fn is_stale(&self, path: &Path, age: Age) -> bool {
        if let Some(remembered) = self.newest.get(path) {
            return age < remembered.newest;
        }
        let floors = [&path.tenant(), &Path::ROOT];
        let mut floors = floors.iter().filter_map(|path| self.forgotten.get(path));
        floors.any(|floor| age < *floor)
    }

    /// Whether what is to be recorded keeps certificates older than `age` from `path`.
    pub fn covers(&self, path: &Path, age: Age) -> bool {
        self.newest
            .get(path)
            .is_some_and(|remembered| age <= remembered.recorded)
    }

    /// Whether a certificate of `path` is remembered: then there is room for the next one.
    pub fn knows(&self, path: &Path) -> bool {
        self.newest.contains_key(path)
    }

    /// Remembers a certificate that is not stale. `same`: its policy is in force already. Paths with a policy
    /// (`has_policy`) are not forgotten for it.
    ///
    /// # Errors
    /// If there is no room.
    pub fn remember(
        &mut self,
        path: &Path,
        age: Age,
        same: bool,
        has_policy: &dyn Fn(&Path) -> bool,
    ) -> Result<(), Refusal> {
        if !self.knows(path) {
            self.make_room(path, has_policy)?;
        }
        let recorded = match self.newest.get(path) {
            Some(before) if same && age <= before.recorded => before.recorded,
            Some(before) if same && age > before.newest => age.after(AGE_STEP),
            _ => age,
        };
        let newest = age;
        self.newest
            .insert(path.clone(), NewestAge { newest, recorded });
        Ok(())
    }

    /// At most [`MAX_POLICIES`] tenants, which are the first labels of paths, and as many paths of each: a delegated
    /// authority can make any number of names.
    fn make_room(
        &mut self,
        path: &Path,
        has_policy: &dyn Fn(&Path) -> bool,
    ) -> Result<(), Refusal> {
        let tenant = path.tenant();
        let paths = self.newest.keys().filter(|other| other.is_within(&tenant));
        match paths.count() {
            0 => {
                let tenants: BTreeSet<_> = self.newest.keys().map(Path::tenant).collect();
                if tenants.len() < MAX_POLICIES {
                    return Ok(());
                }
                let without = |tenant: &&Path| {
                    let mut paths = self.newest.keys();
                    !paths.any(|path| path.is_within(tenant) && has_policy(path))
                };
                let oldest = tenants.iter().filter(without).min_by_key(|tenant| {
                    let of_tenant = self
                        .newest
                        .iter()
                        .filter(|(path, _)| path.is_within(tenant));
                    of_tenant.map(|(_, age)| age.recorded).max()
                });
                let oldest = oldest.ok_or(Refusal::AllRemembered(Path::ROOT))?.clone();
                self.forget(&Path::ROOT, |path| path.is_within(&oldest));
                if let Some(floor) = self.forgotten.remove(&oldest) {
                    self.raise(&Path::ROOT, floor);
                }
            }
            MAX_POLICIES.. => {
                let oldest = self
                    .newest
                    .iter()
                    .filter(|(path, _)| path.is_within(&tenant) && !has_policy(path))
                    .min_by_key(|(_, age)| age.recorded)
                    .map(|(path, _)| path.clone())
                    .ok_or_else(|| Refusal::AllRemembered(tenant.clone()))?;
                self.forget(&tenant, |path| *path == oldest);
            }
            _ => {}
        }
        Ok(())
    }

    fn forget(&mut self, floor: &Path, which: impl Fn(&Path) -> bool) {
        let paths: Vec<_> = self
            .newest
            .keys()
            .filter(|path| which(path))
            .cloned()
            .collect();
        for path in paths {
            if let Some(age) = self.newest.remove(&path) {
                self.raise(floor, age.recorded);
            }
        }
    }

    fn raise(&mut self, floor: &Path, age: Age) {
        let before = self.forgotten.entry(floor.clone()).or_default();
        *before = age.max(*before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn remember(ages: &mut Ages, at: &str, age: i64, same: bool) {
        let age = Age::new(age);
        ages.remember(&path(at), age, same, &|_| true).unwrap();
    }

    fn is_stale(ages: &Ages, at: &str, age: i64) -> bool {
        ages.is_stale(&path(at), Age::new(age))
    }

    #[test]
    fn only_older_certificates_are_stale() {
        let mut ages = Ages::default();
        assert!(!is_stale(&ages, "a", 1));
        remember(&mut ages, "a", 5, false);
        assert!(is_stale(&ages, "a", 4));
        assert!(!is_stale(&ages, "a", 5), "the later arrival wins");
        assert!(!is_stale(&ages, "a", 6));
        assert!(!is_stale(&ages, "a:b", 1));
    }

    #[test]
    fn what_is_recorded_is_never_older_than_what_is_known() {
        let mut ages = Ages::default();
        let covers = |ages: &Ages, age| ages.covers(&path("a"), Age::new(age));
        let after_a_crash = |ages: &Ages| Ages::new(ages.recorded().0, Vec::new());
        remember(&mut ages, "a", 100, false);
        assert!(!is_stale(&after_a_crash(&ages), "a", 100));
        // The first fresh certificate with the same policy is recorded ahead, those after it are covered by that.
        assert!(!covers(&ages, 101));
        remember(&mut ages, "a", 101, true);
        let written = ages.clone();
        for time in 102..=161 {
            assert!(covers(&ages, time), "{time}");
            remember(&mut ages, "a", time, true);
            assert_eq!(ages.recorded(), written.recorded(), "{time}");
            assert!(is_stale(&after_a_crash(&written), "a", time - 1));
        }
        assert!(is_stale(&ages, "a", 160));
        assert!(!covers(&ages, 162));
        // Another policy is recorded with the age of its certificate.
        remember(&mut ages, "a", 162, false);
        assert!(!is_stale(&after_a_crash(&ages), "a", 162));
    }

    #[test]
    fn what_is_forgotten_lets_no_older_certificate_pass() {
        let mut ages = Ages::default();
        let in_force = |path: &Path| path.joined() == "a" || path.joined() == "a:t0";
        for number in 0..i64::try_from(MAX_POLICIES).unwrap() - 1 {
            let path = path(&format!("a:t{number}"));
            ages.remember(&path, Age::new(number), false, &in_force)
                .unwrap();
        }
        remember(&mut ages, "a", 1, false);
        ages.remember(&path("a:new"), Age::new(5000), false, &in_force)
            .unwrap();
        // The oldest without a policy has made room, and keeps its age.
        assert!(is_stale(&ages, "a:t1", 0));
        assert!(!is_stale(&ages, "a:t1", 1));
        assert!(is_stale(&ages, "a:never", 0));
        assert!(!is_stale(&ages, "b:never", 0));
        let full = ages.remember(&path("a:more"), Age::new(6000), false, &|_| true);
        assert_eq!(full, Err(Refusal::AllRemembered(path("a"))));
        let text = full.unwrap_err().to_string();
        assert!(text.contains("paths at and below"), "{text}");
    }

    #[test]
    fn tenants_are_forgotten_with_all_that_is_theirs() {
        let mut ages = Ages::default();
        for number in 0..i64::try_from(MAX_POLICIES).unwrap() {
            let path = path(&format!("t{number}:x"));
            ages.remember(&path, Age::new(number), false, &|_| true)
                .unwrap();
        }
        let full = ages.remember(&path("more"), Age::new(6000), false, &|_| true);
        assert_eq!(full, Err(Refusal::AllRemembered(Path::ROOT)));
        let text = full.unwrap_err().to_string();
        assert!(text.contains("tenants have policies"), "{text}");
        let in_force = |path: &Path| path.is_within(&"t0".parse().unwrap());
        ages.remember(&path("more"), Age::new(6000), false, &in_force)
            .unwrap();
        assert!(is_stale(&ages, "t1:x", 0));
        assert!(!is_stale(&ages, "t1:x", 1));
        let (newest, forgotten) = ages.recorded();
        assert_eq!(newest.len(), MAX_POLICIES);
        assert_eq!(Ages::new(newest, forgotten.clone()).recorded().1, forgotten);
    }
}
