//! Which user a tender runs as. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use nix::unistd::Gid;

/// The users of tenders: the first number is the group of all of them, the others are a user and a group each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenderUsers {
    first: u32,
    last: u32,
}

/// Most users of others that are passed over in search of one that nobody has.
pub const MAX_PASSED_OVER: u32 = 1024;

/// No user is left: so many of the range have processes, or are those of another supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted(TenderUsers, u32);

impl TenderUsers {
    /// The group of all tenders, which may read images.
    pub fn group(self) -> Gid {
        Gid::from_raw(self.first)
    }

    /// A user that is not `taken`, and that nobody else has, who is asked for with `is_free`. The next one after
    /// `latest` if that is free: a user that was given back is not taken again at once.
    pub fn next(
        self,
        latest: Option<u32>,
        taken: &BTreeSet<u32>,
        is_free: impl Fn(u32) -> bool,
    ) -> Result<u32, Exhausted> {
        let after = latest.unwrap_or(self.first).saturating_add(1);
        let first = self.first + 1;
        let after = if (first..=self.last).contains(&after) {
            after
        } else {
            first
        };
        let candidates = (after..=self.last).chain(first..after);
        let mut passed_over = 0;
        for user in candidates.filter(|user| !taken.contains(user)) {
            if is_free(user) {
                return Ok(user);
            }
            passed_over += 1;
            if passed_over >= MAX_PASSED_OVER {
                break;
            }
        }
        Err(Exhausted(self, passed_over))
    }

    fn count(self) -> u32 {
        self.last - self.first
    }
}

/// `FIRST-LAST`.
impl FromStr for TenderUsers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        let numbers = text
            .split_once('-')
            .and_then(|(first, last)| Some((number(first)?, number(last)?)));
        match numbers {
            // The largest number means "leave it as it is" to the system.
            Some((first, last)) if 0 < first && first < last && last < u32::MAX => {
                Ok(Self { first, last })
            }
            _ => Err(format!(
                "'{text}' is not a range of users: two numbers above 0 with a '-' between, the second one larger"
            )),
        }
    }
}

impl fmt::Display for TenderUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(users, others) = self;
        match others {
            0 => write!(
                f,
                "all {} users of --tender-uids {users} are taken by running unikernels: give it a larger range",
                users.count()
            ),
            _ => write!(
                f,
                "no user of --tender-uids {users} is left: {others} have processes already that are none of this \
                 supervisor's: give it a larger range, or one of its own"
            ),
        }
    }
}

impl std::error::Error for Exhausted {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_is_taken_twice_and_the_one_given_back_last_comes_last() {
        let users: TenderUsers = "2000-2003".parse().unwrap();
        assert_eq!(users.group(), Gid::from_raw(2000));
        let mut taken = BTreeSet::new();
        let mut latest = None;
        for expected in [2001, 2002, 2003] {
            latest = Some(users.next(latest, &taken, |_| true).unwrap());
            assert_eq!(latest, Some(expected));
            taken.extend(latest);
        }
        let error = users
            .next(latest, &taken, |_| true)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("all 3 users of --tender-uids 2000-2003"),
            "{error}"
        );
        taken.clear();
        assert_eq!(users.next(Some(2002), &taken, |_| true), Ok(2003));
        assert_eq!(users.next(Some(2003), &taken, |_| true), Ok(2001));
        taken.insert(2001);
        assert_eq!(users.next(Some(2003), &taken, |_| true), Ok(2002));
        // Of another range, before a restart.
        assert_eq!(users.next(Some(7), &taken, |_| true), Ok(2002));
        assert_eq!(users.next(Some(u32::MAX), &taken, |_| true), Ok(2002));
    }

    #[test]
    fn a_user_that_somebody_else_has_is_passed_over() {
        let users: TenderUsers = "2000-2004".parse().unwrap();
        let free = |user| user == 2003;
        let taken = [2001].into();
        assert_eq!(users.next(None, &taken, free), Ok(2003));
        assert_eq!(users.next(Some(2003), &taken, free), Ok(2003));
        let error = users.next(None, &taken, |_| false).unwrap_err().to_string();
        assert!(error.contains("3 have processes already"), "{error}");
        let many: TenderUsers = "1-4000000000".parse().unwrap();
        let asked = std::cell::Cell::new(0);
        let none = |_| {
            asked.set(asked.get() + 1);
            false
        };
        assert!(many.next(None, &taken, none).is_err());
        assert_eq!(asked.get(), MAX_PASSED_OVER);
    }

    #[test]
    fn what_is_no_range_of_users_is_refused() {
        for text in [
            "",
            "5",
            "0-9",
            "9-9",
            "9-8",
            "-1-9",
            "1-4294967295",
            "+1-9",
            "1-9-",
        ] {
            assert!(text.parse::<TenderUsers>().is_err(), "{text}");
        }
    }
}
