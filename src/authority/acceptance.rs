//! Checks that endpoints accept what is about to be issued.

use rustls::pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use time::OffsetDateTime;

use super::{AuthorityError, Certificate, Issuer, Profile};
use crate::chain::verify::{Anchor, Usage, verify};

/// Checks the authorities above a certificate with this profile: each must be valid now, and allow as many authorities
/// below it as there are then.
///
/// # Errors
/// When one of them is not valid, or does not allow it.
pub(super) fn check_authorities(
    profile: &Profile,
    issuer: &Issuer,
    now: OffsetDateTime,
) -> Result<(), AuthorityError> {
    let new = usize::from(matches!(profile, Profile::Intermediate(_)));
    let now = now.unix_timestamp();
    for (below, authority) in issuer.chain().iter().enumerate() {
        if now < authority.not_before {
            return Err(AuthorityError::NotValidYet(
                authority.name(),
                authority.not_before,
            ));
        }
        if now > authority.not_after {
            return Err(AuthorityError::Expired(
                authority.name(),
                authority.not_after,
            ));
        }
        match authority.path_length {
            Some(most) if below + new > most as usize => {
                return Err(AuthorityError::PathLength(authority.name(), most));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Verifies a client's or server's certificate as the other side of a connection will, with the top of the issuer's file
/// as the trusted certificate.
///
/// # Errors
/// When it is not accepted: a name constraint is violated, or a purpose or signature algorithm of an authority does not
/// fit.
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
