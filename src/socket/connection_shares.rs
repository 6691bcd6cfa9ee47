//! Shares of a daemon's connections: some for root alone, and a bounded number for each other user.

use std::fmt;

use nix::unistd::Uid;

/// Part of all connections that only root can have: one in this many.
const RESERVED_PART: usize = 8;

/// Share of one user other than root, in eighths of all connections.
const USER_EIGHTHS: usize = 5;

/// Share of one tenant of the places of subscribers: one in this many.
pub const TENANT_PART: usize = 4;

/// Whether a subscriber counts for the share of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Counts for the tenant to whose names it subscribes.
    Tenant,
    /// Counts for no tenant: root on the host itself.
    Exempt,
}

impl Quota {
    /// Quota of the subscriptions of this user.
    pub fn of(user: Uid) -> Self {
        if user.is_root() {
            Self::Exempt
        } else {
            Self::Tenant
        }
    }
}

/// Connections of a daemon at the same time, and how users share them.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    total: usize,
}

/// Reason why a user gets no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// The user has a whole share already.
    Share(Uid, usize),
    /// All connections but those reserved for root are taken.
    Reserved,
    /// All connections are taken, by root too.
    All,
}

impl ConnectionLimits {
    /// Limits for `total` connections.
    pub const fn of(total: usize) -> Self {
        Self { total }
    }

    /// All connections together.
    pub const fn total(self) -> usize {
        self.total
    }

    /// Connections that only root can have.
    pub const fn reserved(self) -> usize {
        self.total / RESERVED_PART
    }

    /// Connections of one user other than root.
    pub const fn per_user(self) -> usize {
        self.total / 8 * USER_EIGHTHS
    }

    /// Decides whether `user` gets a connection beside those of the users in `open`, one entry a connection.
    ///
    /// # Errors
    /// The first limit that is reached.
    pub fn admit(self, user: Uid, open: impl Iterator<Item = Uid>) -> Result<(), NoPlace> {
        let (mut all, mut of_user) = (0, 0);
        for other in open {
            all += 1;
            of_user += usize::from(other == user);
        }
        if all >= self.total {
            Err(NoPlace::All)
        } else if user.is_root() {
            Ok(())
        } else if of_user >= self.per_user() {
            Err(NoPlace::Share(user, self.per_user()))
        } else if all >= self.total - self.reserved() {
            Err(NoPlace::Reserved)
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(user, share) => write!(
                f,
                "user {user} has {share} connections to this daemon, which is the limit for one user: close some, or try again later"
            ),
            Self::Reserved => f.write_str(
                "all connections to this daemon are in use, but those reserved for root: try again later, or as root",
            ),
            Self::All => {
                f.write_str("all connections to this daemon are in use: try again later")
            }
        }
    }
}

impl std::error::Error for NoPlace {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter::repeat_n;

    const LIMITS: ConnectionLimits = ConnectionLimits::of(16);
    const ROOT: Uid = Uid::from_raw(0);

    fn user(number: u32) -> Uid {
        Uid::from_raw(1000 + number)
    }

    #[test]
    fn no_user_but_root_has_more_than_a_share() {
        let one = |count| repeat_n(user(1), count);
        assert_eq!(LIMITS.admit(user(1), one(9)), Ok(()));
        let refused = NoPlace::Share(user(1), 10);
        assert_eq!(LIMITS.admit(user(1), one(10)), Err(refused));
        assert_eq!(LIMITS.admit(user(2), one(10)), Ok(()));
        assert_eq!(LIMITS.admit(ROOT, repeat_n(ROOT, 15)), Ok(()));
    }

    #[test]
    fn users_together_leave_what_is_reserved_to_root() {
        let all = || repeat_n(user(1), 10).chain(repeat_n(user(2), 4));
        assert_eq!(LIMITS.admit(user(2), all()), Err(NoPlace::Reserved));
        assert_eq!(LIMITS.admit(user(3), all()), Err(NoPlace::Reserved));
        assert_eq!(LIMITS.admit(ROOT, all()), Ok(()));
        let full = all().chain(repeat_n(ROOT, 2));
        assert_eq!(LIMITS.admit(ROOT, full), Err(NoPlace::All));
    }

    #[test]
    fn a_share_leaves_others_a_place_whatever_the_total_is() {
        for total in [8, 16, 128, 256, 1000] {
            let limits = ConnectionLimits::of(total);
            assert!(limits.reserved() > 0);
            assert!(limits.per_user() > total / 2);
            assert!(limits.per_user() + limits.reserved() < total);
        }
    }
}
