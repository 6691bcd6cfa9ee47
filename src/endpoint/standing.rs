//! Standing of a client whose connection goes on: whether its certificates are still accepted.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::lists::Lists;
use crate::chain::Certificate;
use crate::chain::verify::{Anchor, Usage, verify_unrevoked};

/// Time between two looks at the certificates of a stream or an upload, at most.
pub const RECHECK: Duration = Duration::from_secs(60);

/// Certificates of a client, and what they are measured by.
#[derive(Debug)]
pub struct Standing {
    path: Vec<CertificateDer<'static>>,
    anchor: Anchor,
    lists: Arc<Lists>,
}

impl Standing {
    /// Watches a path that was verified, leaf first, without the anchor.
    pub fn new(path: Vec<CertificateDer<'static>>, anchor: Anchor, lists: Arc<Lists>) -> Self {
        Self {
            path,
            anchor,
            lists,
        }
    }

    /// Verifies the path again, at this time and with the CRLs as they are now.
    ///
    /// # Errors
    /// The reason for the client.
    pub fn check(&self, now: UnixTime) -> Result<(), String> {
        let Some((leaf, others)) = self.path.split_first() else {
            return Ok(());
        };
        // The first CRL may have come since the connection began.
        let present = self.lists.reopen();
        let lists = if present.is_empty() {
            Vec::new()
        } else {
            let found = present.read(&self.anchor, now);
            let found = found.map_err(|error| {
                log::error!("{error}");
                format!(
                    "no certificate is accepted, as revoked ones cannot be told: {}",
                    error.reason()
                )
            });
            found?.lists
        };
        let anchors = std::slice::from_ref(&self.anchor);
        verify_unrevoked(leaf, others, anchors, &lists, now, Usage::Client)
            .map(drop)
            .map_err(|error| format!("certificates are not accepted any more: {error}"))
    }

    /// Time from now to the next look: when a certificate expires, if that is soon.
    pub fn next_check(&self, now: UnixTime) -> Duration {
        let ends = self.path.iter().filter_map(|der| {
            let validity = Certificate::read(der).ok()?.x509().validity().not_after;
            u64::try_from(validity.timestamp()).ok()
        });
        // It is valid in the last second, too.
        let left = ends
            .min()
            .map(|end| (end + 1).saturating_sub(now.as_secs()).max(1));
        left.map_or(RECHECK, |left| RECHECK.min(Duration::from_secs(left)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use super::*;
    use crate::folder::Folder;

    /// 2026-06-01.
    const NOW: u64 = 1_780_272_000;
    const SERIAL: u64 = 77;

    struct Authority(Issuer<'static, KeyPair>, CertificateDer<'static>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            let certificate = params.self_signed(&key).unwrap().der().clone();
            Self(Issuer::new(params, key), certificate)
        }

        /// A client certificate that is valid for the rest of 2026-06-01.
        fn leaf(&self) -> CertificateDer<'static> {
            let mut params = CertificateParams::default();
            params.serial_number = Some(SerialNumber::from(SERIAL));
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.not_before = date_time_ymd(2026, 1, 1);
            params.not_after = date_time_ymd(2026, 6, 2);
            let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            params.signed_by(&key, &self.0).unwrap().der().clone()
        }

        fn crl(&self, revoked: &[u64]) -> String {
            let revoked = revoked.iter().map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: date_time_ymd(2026, 5, 1),
                reason_code: None,
                invalidity_date: None,
            });
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2026, 1, 1),
                next_update: date_time_ymd(2027, 1, 1),
                crl_number: 1_u64.into(),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(&self.0).unwrap().pem().unwrap()
        }

        fn standing(&self, lists: Lists) -> Standing {
            let anchor = Anchor::new(&self.1).unwrap();
            Standing::new(vec![self.leaf()], anchor, Arc::new(lists))
        }
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_certificate_is_looked_at_when_it_expires_and_once_a_minute_before() {
        let standing = Authority::new().standing(Lists::default());
        let end = NOW + 86_400;
        assert_eq!(standing.next_check(at(NOW)), RECHECK);
        assert_eq!(standing.next_check(at(end - 5)), Duration::from_secs(6));
        assert_eq!(standing.check(at(NOW)), Ok(()));
        assert_eq!(standing.check(at(end)), Ok(()));
        let expired = standing.check(at(end + 1)).unwrap_err();
        assert!(expired.contains("expired"), "{expired}");
        let anchor = standing.check(at(u64::from(u32::MAX) * 10));
        assert!(anchor.is_err());
    }

    #[test]
    fn a_crl_that_is_renamed_into_place_is_noticed() {
        let (place, authority) = (Folder::short(), Authority::new());
        let file = place.0.join("ca.crl");
        fs::write(&file, authority.crl(&[])).unwrap();
        let standing = authority.standing(Lists::open(std::slice::from_ref(&file), false));
        for _ in 0..2 {
            assert_eq!(standing.check(at(NOW)), Ok(()));
        }
        let new = place.0.join("new");
        fs::write(&new, authority.crl(&[SERIAL])).unwrap();
        fs::rename(&new, &file).unwrap();
        let revoked = standing.check(at(NOW)).unwrap_err();
        assert!(revoked.contains("revoked"), "{revoked}");
        fs::remove_file(&file).unwrap();
        let missing = standing.check(at(NOW)).unwrap_err();
        assert!(missing.contains("cannot be told"), "{missing}");
    }

    #[test]
    fn the_first_crl_of_all_ends_what_began_before_it() {
        let (place, authority) = (Folder::short(), Authority::new());
        let file = place.0.join("ca.crl");
        let standing = authority.standing(Lists::awaiting(&file, false));
        assert_eq!(standing.check(at(NOW)), Ok(()));
        fs::write(&file, authority.crl(&[])).unwrap();
        assert_eq!(standing.check(at(NOW)), Ok(()));
        fs::write(&file, authority.crl(&[SERIAL])).unwrap();
        let revoked = standing.check(at(NOW)).unwrap_err();
        assert!(revoked.contains("revoked"), "{revoked}");
        // One that cannot be read is not taken for none.
        fs::write(&file, "nothing").unwrap();
        let unusable = standing.check(at(NOW)).unwrap_err();
        assert!(unusable.contains("cannot be told"), "{unusable}");
    }
}
