//! Verification of the certificate path from a leaf to the trust anchor (WIRE 11.2). The time is an argument.
//!
//! Only the certificates of the verified path count. Other certificates that the peer sent prove nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;

use rustls::pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId,
    KeyPurposeIdIter, RawPublicKeyEntity, VerifiedPath,
};
use x509_parser::extensions::ParsedExtension;

pub use super::anchor::Anchor;
use super::certificate::Certificate;
use super::crl::Crl;
pub use super::path_error::{MAX_CERTIFICATES, MAX_INTERMEDIATES, PathError, Usage};
use super::words::in_words;

/// Finds the path from `leaf` over some of `others` to one of the anchors: leaf first, without the anchor.
pub fn verify(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[Anchor],
    now: UnixTime,
    usage: Usage,
) -> Result<Vec<CertificateDer<'static>>, PathError> {
    verify_unrevoked(leaf, others, anchors, &[], now, usage)
}

/// Finds a path as [`verify`] does, of which no certificate is revoked by `crls`. Where several paths are possible, as
/// after a renewal, one without revoked certificates is taken.
pub fn verify_unrevoked(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[Anchor],
    crls: &[Crl],
    now: UnixTime,
    usage: Usage,
) -> Result<Vec<CertificateDer<'static>>, PathError> {
    let sent = others.len() + 1;
    if sent > MAX_CERTIFICATES {
        return Err(PathError::TooMany(sent));
    }
    let end_entity = EndEntityCert::try_from(leaf)?;
    let issued;
    let others = if has_namesakes(others) {
        issued = issued_below(anchors, others);
        &issued
    } else {
        others
    };
    let mut error = PathError::NoAnchor;
    for anchor in anchors {
        let check = |path: &VerifiedPath<'_>| {
            check_path(path, anchor, usage)?;
            check_revocation(path, anchor, crls)
        };
        match to_anchor(&end_entity, others, anchor, now, &check) {
            Ok(path) => return Ok(path),
            Err(reason) => error = reason,
        }
    }
    Err(error)
}

/// Whether two certificates have the same name, so that more than one path may be possible.
fn has_namesakes(certificates: &[CertificateDer<'_>]) -> bool {
    let mut names = BTreeSet::new();
    certificates.iter().any(|der| {
        Certificate::read(der)
            .is_ok_and(|found| !names.insert(found.x509().subject().as_raw().to_vec()))
    })
}

/// Selects the `certificates` that are signed by the anchors or by selected ones, so that the search for a path does not
/// try namesakes that cannot be part of one. Each pair is checked at most once.
fn issued_below<'a>(
    anchors: &[Anchor],
    certificates: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    let mut left: Vec<_> = certificates.iter().collect();
    let mut found: Vec<CertificateDer<'a>> = Vec::new();
    let mut issuers: Vec<&[u8]> = anchors.iter().map(|anchor| &*anchor.certificate).collect();
    while let Some(issuer) = issuers.pop() {
        let Ok(issuer) = Certificate::read(issuer) else {
            continue;
        };
        let (new, other) = left.into_iter().partition(|der| is_signed_by(der, &issuer));
        left = other;
        for der in new as Vec<&CertificateDer<'a>> {
            if !found.contains(der) {
                issuers.push(der);
                found.push(der.clone());
            }
        }
    }
    found
}

fn is_signed_by(der: &[u8], issuer: &Certificate<'_>) -> bool {
    let Ok(certificate) = Certificate::read(der) else {
        return false;
    };
    let (certificate, issuer) = (certificate.x509(), issuer.x509());
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return false;
    }
    let key = SubjectPublicKeyInfoDer::from(issuer.public_key().raw);
    let Ok(key) = RawPublicKeyEntity::try_from(&key) else {
        return false;
    };
    let identifier = certificate.signature_algorithm.algorithm.as_bytes();
    let fits = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
        // Skips tag and length.
        let known = algorithm.signature_alg_id();
        known
            .get(2..)
            .is_some_and(|known| known.starts_with(identifier))
    };
    let (signed, signature) = (
        certificate.tbs_certificate.as_ref(),
        &certificate.signature_value.data,
    );
    ALL_VERIFICATION_ALGS
        .iter()
        .filter(fits)
        .any(|algorithm| key.verify_signature(*algorithm, signed, signature).is_ok())
}

fn to_anchor(
    end_entity: &EndEntityCert<'_>,
    others: &[CertificateDer<'_>],
    anchor: &Anchor,
    now: UnixTime,
    check: &dyn Fn(&VerifiedPath<'_>) -> Result<(), PathError>,
) -> Result<Vec<CertificateDer<'static>>, PathError> {
    if !anchor.is_valid_at(now) {
        return Err(PathError::AnchorNotValid);
    }
    // Checks that webpki omits run on each candidate, so that the search continues after a bad one.
    let objection = RefCell::new(None);
    let check = |path: &VerifiedPath<'_>| {
        check(path).map_err(|error| {
            objection.borrow_mut().get_or_insert(error);
            webpki::Error::UnknownIssuer
        })
    };
    let path = end_entity
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor.trust),
            others,
            now,
            AnyTlsPurpose,
            None,
            Some(&check),
        )
        .map_err(|error| objection.take().unwrap_or(PathError::Webpki(error)))?;
    let mut certificates = vec![end_entity.der().into_owned()];
    certificates.extend(
        path.intermediate_certificates()
            .map(|certificate| certificate.der().into_owned()),
    );
    Ok(certificates)
}

fn check_path(path: &VerifiedPath<'_>, anchor: &Anchor, usage: Usage) -> Result<(), PathError> {
    check_leaf(&path.end_entity().der(), usage)?;
    for issuer in path.intermediate_certificates() {
        check_issuer(&issuer.der())?;
    }
    let intermediates = path.intermediate_certificates().count();
    match anchor.path_length {
        Some(maximum) if intermediates > maximum as usize => {
            Err(PathError::PathLength(intermediates))
        }
        _ => Ok(()),
    }
}

fn check_revocation(
    path: &VerifiedPath<'_>,
    anchor: &Anchor,
    crls: &[Crl],
) -> Result<(), PathError> {
    if crls.is_empty() {
        return Ok(());
    }
    let mut path_der = vec![path.end_entity().der()];
    path_der.extend(path.intermediate_certificates().map(webpki::Cert::der));
    path_der.push(anchor.certificate.clone());
    let certificates = path_der
        .iter()
        .map(|der| Certificate::read(der).map_err(PathError::Unreadable))
        .collect::<Result<Vec<_>, _>>()?;
    for (certificate, issuer) in certificates.iter().zip(certificates.iter().skip(1)) {
        for crl in crls {
            if crl.is_of(issuer).map_err(PathError::Revocation)? && crl.revokes(certificate) {
                return Err(PathError::Revoked {
                    name: certificate.common_name().unwrap_or_default(),
                    serial: certificate.serial(),
                });
            }
        }
    }
    Ok(())
}

fn check_leaf(der: &[u8], usage: Usage) -> Result<(), PathError> {
    let certificate = Certificate::read(der).map_err(PathError::Unreadable)?;
    for extension in certificate.x509().extensions() {
        match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) if !usage.digital_signature() => {
                return Err(PathError::LeafKeyUsage);
            }
            ParsedExtension::ExtendedKeyUsage(purposes) => {
                let fits = match usage {
                    Usage::Client => purposes.client_auth,
                    Usage::Server => purposes.server_auth,
                };
                if !fits && !purposes.any {
                    return Err(PathError::LeafPurpose(usage));
                }
            }
            ParsedExtension::NameConstraints(_) => return Err(PathError::LeafNameConstraints),
            ParsedExtension::ParseError { .. } => {
                let reason = "the encoding of an extension is damaged";
                return Err(PathError::Unreadable(reason.to_owned()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_issuer(der: &[u8]) -> Result<(), PathError> {
    let certificate = Certificate::read(der).map_err(PathError::Unreadable)?;
    let may_sign = certificate
        .x509()
        .key_usage()
        .map_err(|error| PathError::Unreadable(in_words(&error)))?
        .is_some_and(|usage| usage.value.key_cert_sign());
    if may_sign {
        Ok(())
    } else {
        Err(PathError::IssuerKeyUsage(
            certificate.common_name().unwrap_or_default(),
        ))
    }
}

/// Accepts every certificate for TLS. [`check_leaf`] checks the purpose of the leaf, and issuers of client certificates
/// may be marked for servers (WIRE 11.2).
struct AnyTlsPurpose;

impl ExtendedKeyUsageValidator for AnyTlsPurpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // RFC 5280 4.2.1.12: anyExtendedKeyUsage 2.5.29.37.0, id-kp-serverAuth and id-kp-clientAuth
        // 1.3.6.1.5.5.7.3.1 and .2
        const TLS: [&[u8]; 3] = [
            &[0x55, 0x1d, 0x25, 0x00],
            &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01],
            &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
        ];
        let mut none = true;
        for purpose in purposes {
            let purpose = purpose?;
            if TLS.iter().any(|oid| KeyPurposeId::new(oid) == purpose) {
                return Ok(());
            }
            none = false;
        }
        if none {
            Ok(())
        } else {
            Err(webpki::Error::EmptyEkuExtension)
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    };

    use super::*;

    fn authority(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
    }

    #[test]
    fn only_certificates_signed_below_the_anchor_are_searched() {
        let key_of_root = key();
        let root = authority("root").self_signed(&key_of_root).unwrap();
        let anchor = Anchor::new(root.der()).unwrap();
        let root = Issuer::new(authority("root"), key_of_root);
        let issue = |name, issuer: &Issuer<'_, KeyPair>| {
            let key = key();
            let der = authority(name)
                .signed_by(&key, issuer)
                .unwrap()
                .der()
                .clone();
            (der, Issuer::new(authority(name), key))
        };
        let (a, issuer) = issue("a", &root);
        let (b, issuer) = issue("b", &issuer);
        let (loops, _) = issue("a", &issuer);
        let (foreign, foreign_issuer) = issue("a", &Issuer::new(authority("root"), key()));
        let (below, _) = issue("b", &foreign_issuer);
        let sent = [
            below,
            loops.clone(),
            foreign,
            b.clone(),
            a.clone(),
            a.clone(),
        ];
        assert!(has_namesakes(&sent) && !has_namesakes(&sent[..2]));
        let found = issued_below(std::slice::from_ref(&anchor), &sent);
        assert_eq!(found, [a, b, loops]);
    }

    #[test]
    fn too_many_certificates_are_refused_before_the_search() {
        let key_of_root = key();
        let root = authority("root").self_signed(&key_of_root).unwrap();
        let anchor = Anchor::new(root.der()).unwrap();
        let (key_of_issuer, own) = (key(), key());
        let issuer = Issuer::new(authority("namesake"), key_of_issuer);
        let leaf = CertificateParams::default();
        let leaf = leaf.signed_by(&own, &issuer).unwrap();
        let namesakes: Vec<_> = (0..50)
            .map(|_| {
                authority("namesake")
                    .signed_by(&key(), &issuer)
                    .unwrap()
                    .der()
                    .clone()
            })
            .collect();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_780_272_000));
        let anchors = std::slice::from_ref(&anchor);
        let verdict =
            |others: &[_]| verify(leaf.der(), others, anchors, now, Usage::Client).unwrap_err();
        let maximum = MAX_CERTIFICATES - 1;
        // The search was completed, not aborted.
        let nowhere = PathError::Webpki(webpki::Error::UnknownIssuer);
        assert_eq!(verdict(&namesakes[..maximum]), nowhere);
        assert_eq!(
            verdict(&namesakes[..=maximum]),
            PathError::TooMany(maximum + 2)
        );
        assert_eq!(verdict(&namesakes), PathError::TooMany(51));
    }
}
