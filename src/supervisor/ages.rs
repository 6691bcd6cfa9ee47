//! The ages of the certificates whose policies were set: an older certificate never brings an older policy back, even
//! where the newer one's was removed since.
//!
//! What is forgotten for lack of room counts as being as new as the newest that was forgotten there: certificates that
//! are older than that are refused their policy, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ledger::{MAX_POLICIES, Refusal};
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
    newest: BTreeMap<Path, Remembered>,
    /// The newest of those forgotten below these paths: the root, and paths of one label.
    forgotten: BTreeMap<Path, Age>,
}

/// The age of the newest certificate of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered {
    newest: Age,
    /// Not older: what the state file says.
    recorded: Age,
}

impl Ages {
    /// What was recorded: of paths, and of what was forgotten.
    pub fn new(newest: ByPath, forgotten: ByPath) -> Self {
        let remembered = newest.into_iter().map(|(path, age)| {
            let remembered = Remembered {
                newest: age.clone(),
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
        let recorded = newest.map(|(path, age)| (path.clone(), age.recorded.clone()));
        let forgotten = self.forgotten.iter();
        (
            recorded.collect(),
            forgotten
                .map(|(path, age)| (path.clone(), age.clone()))
                .collect(),
        )
    }

    /// Whether a certificate for `path` of this age is older than one before it.
    pub fn is_stale(&self, path: &Path, age: &Age) -> bool {
        if let Some(remembered) = self.newest.get(path) {
            return *age < remembered.newest;
        }
        let floors = [&tenant(path), &Path::ROOT];
        let mut floors = floors.iter().filter_map(|path| self.forgotten.get(path));
        floors.any(|floor| age < floor)
    }

    /// Whether what is to be recorded keeps certificates older than `age` from `path`.
    pub fn covers(&self, path: &Path, age: &Age) -> bool {
        self.newest
            .get(path)
            .is_some_and(|remembered| *age <= remembered.recorded)
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
        if !self.newest.contains_key(path) {
            self.make_room(path, has_policy)?;
        }
        let recorded = match self.newest.get(path) {
            Some(before) if same && age <= before.recorded => before.recorded.clone(),
            Some(before) if same && age > before.newest => age.after(AGE_STEP),
            _ => age.clone(),
        };
        let newest = age;
        self.newest
            .insert(path.clone(), Remembered { newest, recorded });
        Ok(())
    }

    /// At most [`MAX_POLICIES`] tenants, which are the first labels of paths, and as many paths of each: a delegated
    /// authority can make any number of names.
    fn make_room(
        &mut self,
        path: &Path,
        has_policy: &dyn Fn(&Path) -> bool,
    ) -> Result<(), Refusal> {
        let tenant = tenant(path);
        let paths = self.newest.keys().filter(|other| other.is_within(&tenant));
        match paths.count() {
            0 => {
                let tenants: BTreeSet<_> = self.newest.keys().map(self::tenant).collect();
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
                    of_tenant.map(|(_, age)| age.recorded.clone()).max()
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
                    .min_by_key(|(_, age)| age.recorded.clone())
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
        *before = age.max(std::mem::take(before));
    }
}

/// The path of the first label.
fn tenant(path: &Path) -> Path {
    path.labels().iter().take(1).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn age(not_before: i64, serial: u8) -> Age {
        Age::new(not_before, &[serial]).unwrap()
    }

    fn remember(ages: &mut Ages, at: &str, age: Age, same: bool) {
        ages.remember(&path(at), age, same, &|_| true).unwrap();
    }

    #[test]
    fn only_older_certificates_are_stale() {
        let mut ages = Ages::default();
        assert!(!ages.is_stale(&path("a"), &age(1, 1)));
        remember(&mut ages, "a", age(5, 5), false);
        assert!(ages.is_stale(&path("a"), &age(5, 4)));
        assert!(ages.is_stale(&path("a"), &age(4, 9)));
        assert!(!ages.is_stale(&path("a"), &age(5, 5)));
        assert!(!ages.is_stale(&path("a"), &age(6, 1)));
        assert!(!ages.is_stale(&path("a:b"), &age(1, 1)));
    }

    #[test]
    fn what_is_recorded_is_never_older_than_what_is_known() {
        let mut ages = Ages::default();
        remember(&mut ages, "a", age(100, 1), false);
        let exact = Ages::new(ages.recorded().0, Vec::new());
        assert!(!exact.is_stale(&path("a"), &age(100, 1)));
        // The first fresh certificate with the same policy is recorded ahead, those after it are covered by that.
        assert!(!ages.covers(&path("a"), &age(101, 1)));
        remember(&mut ages, "a", age(101, 1), true);
        let written = ages.clone();
        for time in 102..=160 {
            assert!(ages.covers(&path("a"), &age(time, 1)), "{time}");
            remember(&mut ages, "a", age(time, 1), true);
            assert_eq!(ages.recorded(), written.recorded(), "{time}");
            let after_a_crash = Ages::new(written.recorded().0, Vec::new());
            assert!(after_a_crash.is_stale(&path("a"), &age(time, 0)));
        }
        assert!(ages.is_stale(&path("a"), &age(159, 1)));
        assert!(!ages.covers(&path("a"), &age(161, 1)));
        // Another policy is recorded with the age of its certificate.
        remember(&mut ages, "a", age(161, 1), false);
        let exact = Ages::new(ages.recorded().0, Vec::new());
        assert!(!exact.is_stale(&path("a"), &age(161, 1)));
    }

    #[test]
    fn what_is_forgotten_lets_no_older_certificate_pass() {
        let mut ages = Ages::default();
        let in_force = |path: &Path| path.joined() == "a" || path.joined() == "a:t0";
        for number in 0..i64::try_from(MAX_POLICIES).unwrap() - 1 {
            let path = path(&format!("a:t{number}"));
            ages.remember(&path, age(number, 1), false, &in_force)
                .unwrap();
        }
        remember(&mut ages, "a", age(1, 1), false);
        ages.remember(&path("a:new"), age(5000, 1), false, &in_force)
            .unwrap();
        // The oldest without a policy has made room, and keeps its age.
        assert!(ages.is_stale(&path("a:t1"), &age(0, 9)));
        assert!(!ages.is_stale(&path("a:t1"), &age(1, 1)));
        assert!(ages.is_stale(&path("a:never"), &age(0, 9)));
        assert!(!ages.is_stale(&path("b:never"), &age(0, 9)));
        let full = ages.remember(&path("a:more"), age(6000, 1), false, &|_| true);
        assert_eq!(full, Err(Refusal::AllRemembered(path("a"))));
        let text = full.unwrap_err().to_string();
        assert!(text.contains("paths at and below"), "{text}");
    }

    #[test]
    fn tenants_are_forgotten_with_all_that_is_theirs() {
        let mut ages = Ages::default();
        for number in 0..i64::try_from(MAX_POLICIES).unwrap() {
            let path = path(&format!("t{number}:x"));
            ages.remember(&path, age(number, 1), false, &|_| true)
                .unwrap();
        }
        let full = ages.remember(&path("more"), age(6000, 1), false, &|_| true);
        assert_eq!(full, Err(Refusal::AllRemembered(Path::ROOT)));
        let text = full.unwrap_err().to_string();
        assert!(text.contains("tenants have policies"), "{text}");
        let in_force = |path: &Path| path.is_within(&"t0".parse().unwrap());
        ages.remember(&path("more"), age(6000, 1), false, &in_force)
            .unwrap();
        assert!(ages.is_stale(&path("t1:x"), &age(1, 0)));
        assert!(!ages.is_stale(&path("t1:x"), &age(1, 1)));
        let (newest, forgotten) = ages.recorded();
        assert_eq!(newest.len(), MAX_POLICIES);
        assert_eq!(Ages::new(newest, forgotten.clone()).recorded().1, forgotten);
    }
}
