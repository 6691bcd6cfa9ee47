//! Checks that endpoints and clients accept a new certificate.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use super::certificate::Certificate;
use super::error::AuthorityError;
use super::issue::{Issuer, Profile};
use crate::chain::verify::{Anchor, Usage, verify};

/// Checks that each authority above a certificate of this profile is valid now, and allows the number of authorities
/// below it.
///
/// # Errors
/// When an authority is not valid, or does not allow the number.
pub(super) fn check_authorities(
    profile: &Profile,
    issuer: &Issuer,
    now: OffsetDateTime,
) -> Result<(), AuthorityError> {
    let new = usize::from(matches!(profile, Profile::Intermediate(_)));
    let now = now.unix_timestamp();
    for (below, authority) in issuer.chain().iter().enumerate() {
        if now < authority.not_before {
            return Err(AuthorityError::NotValidYet {
                name: authority.name(),
                not_before: authority.not_before,
            });
        }
        if now > authority.not_after {
            return Err(AuthorityError::Expired {
                name: authority.name(),
                not_after: authority.not_after,
            });
        }
        match authority.path_length {
            Some(maximum) if below + new > maximum as usize => {
                return Err(AuthorityError::PathLength {
                    name: authority.name(),
                    maximum,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Verifies a client's or server's certificate as the peer will, with the last certificate of the issuer's file as the
/// trusted one.
///
/// # Errors
/// When the certificate is refused, for example because of a name constraint or signature algorithm of an authority.
pub(super) fn check_leaf(
    leaf: &Certificate,
    usage: Usage,
    issuer: &Issuer,
    now: OffsetDateTime,
) -> Result<(), AuthorityError> {
    let der = |certificate: &Certificate| CertificateDer::from(certificate.der.clone());
    let Some((top, between)) = issuer.chain().split_last() else {
        return Ok(());
    };
    let anchor = Anchor::new(&der(top)).map_err(AuthorityError::NotAccepted)?;
    let between: Vec<_> = between.iter().map(der).collect();
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verify(&der(leaf), &between, &[anchor], now, usage)
        .map(drop)
        .map_err(AuthorityError::NotAccepted)
}
