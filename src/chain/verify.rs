//! Which path of certificates leads from a leaf to the trust anchor (WIRE 11.2). The time is an argument.
//!
//! Only the certificates of this path count: whatever else the peer sent along proves nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use rustls::pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId,
    KeyPurposeIdIter, RawPublicKeyEntity, VerifiedPath,
};
use x509_parser::extensions::ParsedExtension;

use super::algorithm::describe_content;
use super::crl::{Crl, CrlError};
use super::{Certificate, in_words};

/// Most intermediate certificates between a leaf and the anchor: webpki's limit, which it keeps to itself.
pub const MAX_INTERMEDIATES: usize = 6;

/// Maximum number of certificates that a peer may show, its own included. Paths are searched for among no more.
pub const MAX_CERTIFICATES: usize = 16;

/// What the leaf's key is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To act as a TLS client.
    Client,
    /// To act as a TLS server.
    Server,
}

/// A certificate that is trusted as it stands.
#[derive(Clone, Debug)]
pub struct Anchor {
    certificate: CertificateDer<'static>,
    trust: TrustAnchor<'static>,
    /// Seconds since 1970, both ends included.
    validity: (i64, i64),
    is_authority: bool,
    /// Most intermediate certificates below the anchor.
    path_length: Option<u32>,
}

/// Why no path leads to the anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// There is nothing to trust.
    NoAnchor,
    /// The trusted certificate cannot be read.
    BadAnchor(String),
    /// The trusted certificate is not valid at this time.
    AnchorNotValid,
    /// The trusted certificate does not allow so many intermediate certificates.
    PathLength(usize),
    /// The peer showed so many certificates, more than [`MAX_CERTIFICATES`].
    TooMany(usize),
    /// Refused by webpki.
    Webpki(webpki::Error),
    /// A certificate cannot be read.
    Unreadable(String),
    /// The leaf's key is not meant for signatures.
    LeafKeyUsage,
    /// The leaf is not meant for this usage.
    LeafPurpose(Usage),
    /// Name constraints are for issuers only.
    LeafNameConstraints,
    /// This issuer's key is not meant to sign certificates.
    IssuerKeyUsage(String),
    /// This certificate is revoked (common name, serial number).
    Revoked(String, String),
    /// Whether a certificate is revoked cannot be told.
    Revocation(CrlError),
}

impl Anchor {
    /// Trusts this certificate.
    pub fn new(certificate: &CertificateDer<'_>) -> Result<Self, PathError> {
        let parsed = Certificate::read(certificate).map_err(PathError::BadAnchor)?;
        let trust = webpki::anchor_from_trusted_cert(certificate)
            .map_err(|error| PathError::BadAnchor(PathError::Webpki(error).to_string()))?
            .to_owned();
        let validity = parsed.x509().validity();
        let constraints = parsed
            .x509()
            .basic_constraints()
            .map_err(|error| PathError::BadAnchor(in_words(&error)))?;
        Ok(Self {
            certificate: certificate.clone().into_owned(),
            trust,
            validity: (
                validity.not_before.timestamp(),
                validity.not_after.timestamp(),
            ),
            is_authority: parsed.x509().is_ca(),
            path_length: constraints.and_then(|found| found.value.path_len_constraint),
        })
    }

    /// Whether it is marked as that of a certificate authority.
    pub fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Whether a list is the anchor's.
    ///
    /// # Errors
    /// If it has the anchor's name, but is not.
    pub fn has_issued(&self, list: &Crl) -> Result<bool, CrlError> {
        let issuer = self.read()?;
        match list.is_of(&issuer) {
            Ok(false) if list.has_name_of(&issuer) => Err(CrlError::Signature(
                issuer.common_name().unwrap_or_default(),
            )),
            outcome => outcome,
        }
    }

    fn read(&self) -> Result<Certificate<'_>, CrlError> {
        Certificate::read(&self.certificate).map_err(CrlError::Unreadable)
    }

    fn is_valid_at(&self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs())
            .is_ok_and(|now| (self.validity.0..=self.validity.1).contains(&now))
    }
}

/// The path (leaf first, without the anchor) from `leaf` over some of `others` to one of the anchors.
pub fn verify(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[Anchor],
    now: UnixTime,
    usage: Usage,
) -> Result<Vec<CertificateDer<'static>>, PathError> {
    verify_unrevoked(leaf, others, anchors, &[], now, usage)
}

/// As [`verify`], by a path of which no certificate is revoked by its issuer in `lists`. Where several paths are
/// possible, as after a renewal, one without revoked certificates serves.
pub fn verify_unrevoked(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[Anchor],
    lists: &[Crl],
    now: UnixTime,
    usage: Usage,
) -> Result<Vec<CertificateDer<'static>>, PathError> {
    let shown = others.len() + 1;
    if shown > MAX_CERTIFICATES {
        return Err(PathError::TooMany(shown));
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
            check_revocation(path, anchor, lists)
        };
        match to_anchor(&end_entity, others, anchor, now, &check) {
            Ok(path) => return Ok(path),
            Err(reason) => error = reason,
        }
    }
    Err(error)
}

/// Whether two certificates have the same name, so that there is more than one way to go.
fn has_namesakes(certificates: &[CertificateDer<'_>]) -> bool {
    let mut names = BTreeSet::new();
    certificates.iter().any(|der| {
        Certificate::read(der)
            .is_ok_and(|found| !names.insert(found.x509().subject().as_raw().to_vec()))
    })
}

/// Those of `certificates` that the anchors, or others of them, have signed: a search among namesakes that nobody signed
/// takes long, and each has to be signed in the end. Every pair is looked at once at most.
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
        // Tag and length come before it.
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
    // The checks that webpki leaves out run on each candidate, so that the search goes on after a bad one.
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
        Some(most) if intermediates > most as usize => Err(PathError::PathLength(intermediates)),
        _ => Ok(()),
    }
}

fn check_revocation(
    path: &VerifiedPath<'_>,
    anchor: &Anchor,
    lists: &[Crl],
) -> Result<(), PathError> {
    if lists.is_empty() {
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
        for list in lists {
            if list.is_of(issuer).map_err(PathError::Revocation)? && list.revokes(certificate) {
                return Err(PathError::Revoked(
                    certificate.common_name().unwrap_or_default(),
                    certificate.serial(),
                ));
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

/// Lets every certificate pass that is for TLS at all: what the leaf is for is checked by [`check_leaf`], and issuers
/// of client certificates are allowed to be marked for servers (WIRE 11.2).
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

impl From<webpki::Error> for PathError {
    fn from(error: webpki::Error) -> Self {
        Self::Webpki(error)
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnchor => f.write_str("no certificate is trusted"),
            Self::BadAnchor(reason) => {
                write!(f, "the trusted certificate cannot be read: {reason}")
            }
            Self::AnchorNotValid => {
                f.write_str("the trusted certificate has expired, or is not valid yet")
            }
            Self::PathLength(count) => write!(
                f,
                "the trusted certificate does not allow {count} intermediate certificates"
            ),
            Self::TooMany(count) => write!(
                f,
                "{count} certificates were sent, more than {MAX_CERTIFICATES}: send only those of one path"
            ),
            Self::Webpki(error) => webpki_reason(error, f),
            Self::Unreadable(reason) => write!(f, "a certificate cannot be read: {reason}"),
            Self::LeafKeyUsage => {
                f.write_str("the leaf certificate's key usage lacks digitalSignature")
            }
            Self::LeafPurpose(Usage::Client) => {
                f.write_str("the leaf certificate is not for clients")
            }
            Self::LeafPurpose(Usage::Server) => {
                f.write_str("the leaf certificate is not for servers")
            }
            Self::LeafNameConstraints => f.write_str("the leaf certificate has name constraints"),
            Self::IssuerKeyUsage(name) => write!(
                f,
                "the key usage of the intermediate certificate '{}' lacks keyCertSign",
                name.escape_default()
            ),
            Self::Revoked(name, serial) => write!(
                f,
                "the certificate '{}' with serial number {serial} is revoked",
                name.escape_default()
            ),
            Self::Revocation(error) => error.fmt(f),
        }
    }
}

fn seconds(time: UnixTime) -> String {
    super::time(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn webpki_reason(error: &webpki::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use webpki::Error as E;
    match error {
        E::CertExpired { not_after, .. } => write!(
            f,
            "a certificate has expired, at {}",
            seconds(*not_after)
        ),
        E::CertNotValidYet { not_before, .. } => write!(
            f,
            "a certificate is not valid before {}",
            seconds(*not_before)
        ),
        E::UnknownIssuer => f.write_str("no path leads to the trusted certificate"),
        E::InvalidSignatureForPublicKey => {
            f.write_str("a certificate was not signed by its alleged issuer")
        }
        E::MaximumPathDepthExceeded => {
            f.write_str("more than six intermediate certificates are not supported")
        }
        E::MaximumSignatureChecksExceeded | E::MaximumPathBuildCallsExceeded => f.write_str(
            "too many of the certificates have the same names: not all paths can be tried",
        ),
        E::UnsupportedSignatureAlgorithmContext(context) => write!(
            f,
            "a certificate is signed with {}, which is not supported (nor are keys on P-521): sign it with one of the \
             algorithms in petrel-tls(8)",
            describe_content(&context.signature_algorithm_id)
        ),
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => write!(
            f,
            "a certificate is signed with {}, which does not fit the key of its issuer, as if that was another authority \
             of the same name, or the kind of this key is not supported (P-521 is not)",
            describe_content(&context.signature_algorithm_id)
        ),
        E::BadDer | E::BadDerTime | E::TrailingData(_) => {
            f.write_str("the encoding of a certificate is damaged")
        }
        E::NameConstraintViolation => {
            f.write_str("a certificate violates the name constraints of an authority above it")
        }
        E::PathLenConstraintViolated => {
            f.write_str("an authority does not allow so many authorities below it (pathLenConstraint)")
        }
        E::UnsupportedCriticalExtension => {
            f.write_str("a certificate has a critical extension that is not known")
        }
        E::UnsupportedCertVersion => f.write_str(
            "a certificate is of X.509 version 1, and has to be of version 3: 'openssl x509' makes that with an \
             extension file",
        ),
        E::CaUsedAsEndEntity => f.write_str("the leaf certificate is a CA"),
        E::EndEntityUsedAsCa => f.write_str("a certificate was issued by one that is no CA"),
        E::EmptyEkuExtension => f.write_str("a certificate is not for TLS"),
        // The library has but names of its own for the rest.
        other => f.write_str(&in_words(other)),
    }
}

impl std::error::Error for PathError {}

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
    fn only_what_the_anchor_or_its_authorities_signed_is_searched() {
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
        let (strange, stranger) = issue("a", &Issuer::new(authority("root"), key()));
        let (below, _) = issue("b", &stranger);
        let shown = [
            below,
            loops.clone(),
            strange,
            b.clone(),
            a.clone(),
            a.clone(),
        ];
        assert!(has_namesakes(&shown) && !has_namesakes(&shown[..2]));
        let found = issued_below(std::slice::from_ref(&anchor), &shown);
        assert_eq!(found, [a, b, loops]);
    }

    #[test]
    fn no_path_is_searched_for_among_too_many_certificates() {
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
        let most = MAX_CERTIFICATES - 1;
        // The search found its end, and was not given up.
        let nowhere = PathError::Webpki(webpki::Error::UnknownIssuer);
        assert_eq!(verdict(&namesakes[..most]), nowhere);
        assert_eq!(verdict(&namesakes[..=most]), PathError::TooMany(most + 2));
        assert_eq!(verdict(&namesakes), PathError::TooMany(51));
    }
}
