//! Validity periods of new certificates and CRLs.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;

/// Time before now at which a validity begins, as clocks of other hosts may be late.
pub const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// Validity period of a certificate or CRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// Lifetime of a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Number of days, 1 to [`Validity::MAX_DAYS`].
    Days(u32),
    /// Number of hours, with the same maximum.
    Hours(u32),
}

/// Lifetime that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeError(Lifetime);

impl Validity {
    /// Maximum lifetime in days: a hundred years.
    pub const MAX_DAYS: u32 = 36_525;

    /// Validity of `lifetime` from `now`, in whole seconds, with [`CLOCK_SKEW`] before it.
    pub fn from(now: OffsetDateTime, lifetime: Duration) -> Option<Self> {
        let now = now.replace_nanosecond(0).ok()?;
        Some(Self {
            not_before: now.checked_sub(CLOCK_SKEW.try_into().ok()?)?,
            not_after: now.checked_add(lifetime.try_into().ok()?)?,
        })
    }

    /// Validity of `lifetime` from `now`.
    ///
    /// # Errors
    /// When the lifetime is zero, or more than [`Self::MAX_DAYS`].
    pub fn lasting(now: OffsetDateTime, lifetime: Lifetime) -> Result<Self, LifetimeError> {
        let hours = match lifetime {
            Lifetime::Days(days) => u64::from(days) * 24,
            Lifetime::Hours(hours) => u64::from(hours),
        };
        Some(hours)
            .filter(|hours| (1..=u64::from(Self::MAX_DAYS) * 24).contains(hours))
            .and_then(|hours| Self::from(now, Duration::from_secs(hours * 3600)))
            .ok_or(LifetimeError(lifetime))
    }

    /// Validity of this number of days from `now`.
    ///
    /// # Errors
    /// When the number is zero, or more than [`Self::MAX_DAYS`].
    pub fn days(now: OffsetDateTime, days: u32) -> Result<Self, LifetimeError> {
        Self::lasting(now, Lifetime::Days(days))
    }

    /// Begin of the validity.
    pub fn begin(&self) -> OffsetDateTime {
        self.not_before
    }

    /// End of the validity.
    pub fn end(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Part of the validity within these limits, in seconds since 1970. The result may be empty.
    pub(super) fn clipped(self, not_before: i64, not_after: i64) -> Self {
        let time =
            |seconds, otherwise| OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(otherwise);
        Self {
            not_before: self.not_before.max(time(not_before, self.not_before)),
            not_after: self.not_after.min(time(not_after, self.not_after)),
        }
    }

    /// Whether the validity is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.not_before >= self.not_after
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => write!(f, "{days} days"),
            Self::Hours(hours) => write!(f, "{hours} hours"),
        }
    }
}

impl fmt::Display for LifetimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid validity of {}: expected 1 hour to {} days",
            self.0,
            Validity::MAX_DAYS
        )
    }
}

impl Error for LifetimeError {}
