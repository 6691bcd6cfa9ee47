//! Validity periods, with the time as an argument.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Formats seconds since 1970 as RFC 3339, in UTC.
pub fn time(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} seconds since 1970"))
}

/// Time left until `end`, if that is less than `notice` and less than a quarter of the time from `begin` to `end`, both
/// in seconds since 1970.
pub fn ends_soon(begin: i64, end: i64, now: UnixTime, notice: Duration) -> Option<Duration> {
    let seconds = |from, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let quarter = seconds(begin, end) / 4;
    let left = seconds(now, end);
    (left < notice.as_secs().min(quarter)).then(|| Duration::from_secs(left))
}
