//! Warnings of certificates of this endpoint that have expired or are about to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use log::warn;
use rustls::pki_types::UnixTime;

use crate::chain::{self, Certificate, ends_soon};

/// Time before the expiry of a CRL or certificate from which the log warns of it.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(7 * 86_400);

/// Use of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trusted as the authority of clients.
    Trusted,
    /// Sent to clients.
    Shown,
}

/// Validity of a certificate in a file.
#[derive(Clone, Debug)]
pub struct Validity {
    file: PathBuf,
    role: Role,
    /// Seconds since 1970.
    not_before: i64,
    /// Seconds since 1970.
    not_after: i64,
}

/// Warning about a certificate.
#[derive(Debug)]
pub struct ExpiryWarning<'a> {
    certificate: &'a Validity,
    left_s: u64,
}

impl Validity {
    /// Validity of a certificate in DER, or `None` if it cannot be parsed, which is reported elsewhere.
    pub fn read(file: &std::path::Path, role: Role, der: &[u8]) -> Option<Self> {
        let certificate = Certificate::read(der).ok()?;
        let validity = certificate.x509().validity();
        Some(Self {
            file: file.to_owned(),
            role,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Warning that is due at `now`, if any.
    pub fn warning(&self, now: UnixTime) -> Option<ExpiryWarning<'_>> {
        let left = ends_soon(self.not_before, self.not_after, now, EXPIRY_NOTICE)?;
        Some(ExpiryWarning {
            certificate: self,
            left_s: left.as_secs(),
        })
    }
}

impl fmt::Display for ExpiryWarning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Validity {
            file,
            role,
            not_after,
            ..
        } = self.certificate;
        let file = file.display();
        let (whose, nobody, renew) = match role {
            Role::Trusted => (
                "authority",
                "no client is accepted",
                "'petrel generate --force'",
            ),
            Role::Shown => (
                "server",
                "no client accepts this server",
                "'petrel generate --force' or 'petrel sign --server --force'",
            ),
        };
        if self.left_s == 0 {
            let at = chain::time(*not_after);
            write!(
                f,
                "{file}: the certificate of the {whose} expired at {at}, and {nobody} (renew it with {renew})"
            )
        } else {
            let hours = self.left_s / 3600;
            write!(
                f,
                "{file}: the certificate of the {whose} expires in {hours} h, and {nobody} then (renew it with {renew})"
            )
        }
    }
}

/// Logs a warning for each certificate of this endpoint that has expired or is about to.
pub fn warn_of_expiry(certificates: &[Validity]) {
    let now = UnixTime::now();
    for warning in certificates.iter().filter_map(|one| one.warning(now)) {
        warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn warning(role: Role, days: i64, now: i64) -> Option<String> {
        let certificate = Validity {
            file: "x.pem".into(),
            role,
            not_before: 0,
            not_after: days * DAY,
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap()));
        certificate.warning(now).map(|warning| warning.to_string())
    }

    #[test]
    fn a_certificate_that_ends_soon_is_reported_from_seven_days_before() {
        assert_eq!(warning(Role::Shown, 365, 358 * DAY), None);
        let soon = warning(Role::Shown, 365, 358 * DAY + 1).unwrap();
        assert!(soon.starts_with("x.pem: the certificate of the server expires in 167 h"));
        assert!(soon.contains("no client accepts this server then"));
        let over = warning(Role::Shown, 365, 366 * DAY).unwrap();
        assert!(over.contains("expired at 1971-01-01T00:00:00Z"));
        let trusted = warning(Role::Trusted, 365, 366 * DAY).unwrap();
        assert!(trusted.contains("the authority expired"));
    }

    #[test]
    fn a_short_certificate_is_reported_in_its_last_quarter() {
        assert_eq!(warning(Role::Shown, 4, 3 * DAY), None);
        assert!(warning(Role::Shown, 4, 3 * DAY + 1).is_some());
    }
}
