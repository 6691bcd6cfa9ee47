//! Revalidation of the certificates of a client during a long connection.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::crl_files::CrlFiles;
use crate::chain::Certificate;
use crate::chain::verify::{Anchor, Usage, verify_unrevoked};

/// Maximum time between two checks of the certificates of a stream or transfer.
pub const RECHECK: Duration = Duration::from_secs(60);

/// Certificates of a client, with the anchor and CRLs to verify them.
#[derive(Debug)]
pub struct Revalidation {
    path: Vec<CertificateDer<'static>>,
    anchor: Anchor,
    crl_files: Arc<CrlFiles>,
}

impl Revalidation {
    /// Revalidation of a verified path, leaf first, without the anchor.
    pub fn new(
        path: Vec<CertificateDer<'static>>,
        anchor: Anchor,
        crl_files: Arc<CrlFiles>,
    ) -> Self {
        Self {
            path,
            anchor,
            crl_files,
        }
    }

    /// Verifies the path again, at this time and with the current CRLs.
    ///
    /// # Errors
    /// The reason for the client.
    pub fn check(&self, now: UnixTime) -> Result<(), String> {
        let Some((leaf, others)) = self.path.split_first() else {
            return Ok(());
        };
        let crl_files = self.crl_files.reopen();
        let crls = if crl_files.is_empty() {
            Vec::new()
        } else {
            let loaded = crl_files.read(&self.anchor, now);
            let loaded = loaded.map_err(|error| {
                log::error!("{error}");
                format!(
                    "no certificate is accepted, as the revocation status is unknown: {}",
                    error.reason()
                )
            });
            loaded?.crls
        };
        let anchors = std::slice::from_ref(&self.anchor);
        verify_unrevoked(leaf, others, anchors, &crls, now, Usage::Client)
            .map(drop)
            .map_err(|error| format!("certificates are not accepted any more: {error}"))
    }

    /// Time from now to the next check: [`RECHECK`], or less if a certificate expires before.
    pub fn next_check(&self, now: UnixTime) -> Duration {
        let ends = self.path.iter().filter_map(|der| {
            let validity = Certificate::read(der).ok()?.x509().validity().not_after;
            u64::try_from(validity.timestamp()).ok()
        });
        // A certificate is still valid in its last second.
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
    use crate::directory::Directory;

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
            let crl = CertificateRevocationListParams {
                this_update: date_time_ymd(2026, 1, 1),
                next_update: date_time_ymd(2027, 1, 1),
                crl_number: 1_u64.into(),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            crl.signed_by(&self.0).unwrap().pem().unwrap()
        }

        fn revalidation(&self, crl_files: CrlFiles) -> Revalidation {
            let anchor = Anchor::new(&self.1).unwrap();
            Revalidation::new(vec![self.leaf()], anchor, Arc::new(crl_files))
        }
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_certificate_is_checked_each_minute_and_when_it_expires() {
        let revalidation = Authority::new().revalidation(CrlFiles::default());
        let end = NOW + 86_400;
        assert_eq!(revalidation.next_check(at(NOW)), RECHECK);
        assert_eq!(revalidation.next_check(at(end - 5)), Duration::from_secs(6));
        assert_eq!(revalidation.check(at(NOW)), Ok(()));
        assert_eq!(revalidation.check(at(end)), Ok(()));
        let expired = revalidation.check(at(end + 1)).unwrap_err();
        assert!(expired.contains("expired"), "{expired}");
        let anchor = revalidation.check(at(u64::from(u32::MAX) * 10));
        assert!(anchor.is_err());
    }

    #[test]
    fn a_crl_that_is_renamed_into_place_is_noticed() {
        let (directory, authority) = (Directory::short(), Authority::new());
        let file = directory.0.join("ca.crl");
        fs::write(&file, authority.crl(&[])).unwrap();
        let revalidation =
            authority.revalidation(CrlFiles::open(std::slice::from_ref(&file), false));
        for _ in 0..2 {
            assert_eq!(revalidation.check(at(NOW)), Ok(()));
        }
        let new = directory.0.join("new");
        fs::write(&new, authority.crl(&[SERIAL])).unwrap();
        fs::rename(&new, &file).unwrap();
        let revoked = revalidation.check(at(NOW)).unwrap_err();
        assert!(revoked.contains("revoked"), "{revoked}");
        fs::remove_file(&file).unwrap();
        let missing = revalidation.check(at(NOW)).unwrap_err();
        assert!(missing.contains("status is unknown"), "{missing}");
    }

    #[test]
    fn the_first_crl_beside_the_trusted_certificate_is_noticed() {
        let (directory, authority) = (Directory::short(), Authority::new());
        let file = directory.0.join("ca.crl");
        let revalidation = authority.revalidation(CrlFiles::awaiting(file.clone(), false));
        assert_eq!(revalidation.check(at(NOW)), Ok(()));
        fs::write(&file, authority.crl(&[SERIAL])).unwrap();
        let revoked = revalidation.check(at(NOW)).unwrap_err();
        assert!(revoked.contains("revoked"), "{revoked}");
    }
}
