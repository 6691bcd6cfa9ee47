//! Reasons why no path of certificates leads to a trust anchor.

use std::error::Error;
use std::fmt;

use rustls::pki_types::UnixTime;

use super::algorithm::describe_content;
use super::crl::CrlError;
use super::validity;
use super::words::in_words;

/// Maximum number of intermediate certificates between a leaf and the anchor: the limit of webpki, which it does not
/// export.
pub const MAX_INTERMEDIATES: usize = 6;

/// Maximum number of certificates that a peer may send, its own included, which bounds the search for a path.
pub const MAX_CERTIFICATES: usize = 16;

/// Purpose of the leaf's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Acting as a TLS client.
    Client,
    /// Acting as a TLS server.
    Server,
}

/// Reason why no path leads to the anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// No certificate is trusted.
    NoAnchor,
    /// The trusted certificate cannot be parsed.
    BadAnchor(String),
    /// The trusted certificate is not valid at this time.
    AnchorNotValid,
    /// The trusted certificate does not allow this number of intermediate certificates.
    PathLength(usize),
    /// The peer sent this number of certificates, more than [`MAX_CERTIFICATES`].
    TooMany(usize),
    /// webpki refused the path.
    Webpki(webpki::Error),
    /// A certificate cannot be parsed.
    Unreadable(String),
    /// The leaf's key usage does not allow signatures.
    LeafKeyUsage,
    /// The leaf is not for this usage.
    LeafPurpose(Usage),
    /// The leaf has name constraints, which are for issuers only.
    LeafNameConstraints,
    /// The key usage of this issuer does not allow signing certificates.
    IssuerKeyUsage(String),
    /// A certificate is revoked.
    Revoked {
        /// Common name of the certificate.
        name: String,
        /// Serial number in hexadecimal.
        serial: String,
    },
    /// A CRL cannot be used, so that the revocation status is unknown.
    Revocation(CrlError),
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
                "{count} certificates were sent, more than {MAX_CERTIFICATES} (send only those of one path)"
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
            Self::Revoked { name, serial } => write!(
                f,
                "the certificate '{}' with serial number {serial} is revoked",
                name.escape_default()
            ),
            Self::Revocation(error) => error.fmt(f),
        }
    }
}

fn seconds(time: UnixTime) -> String {
    validity::time(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn webpki_reason(error: &webpki::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use webpki::Error as E;
    match error {
        E::CertExpired { not_after, .. } => write!(
            f,
            "a certificate expired at {}",
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
            "too many of the certificates have the same names to try all paths",
        ),
        E::UnsupportedSignatureAlgorithmContext(context) => write!(
            f,
            "a certificate is signed with {}, which is not supported, nor are keys on P-521 (sign it with an algorithm \
             listed in petrel-tls(8))",
            describe_content(&context.signature_algorithm_id)
        ),
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => write!(
            f,
            "a certificate is signed with {}, which does not fit the key of its issuer: the issuer is another authority of \
             the same name, or its key is of a kind that is not supported, such as P-521",
            describe_content(&context.signature_algorithm_id)
        ),
        E::BadDer | E::BadDerTime | E::TrailingData(_) => {
            f.write_str("the encoding of a certificate is damaged")
        }
        E::NameConstraintViolation => {
            f.write_str("a certificate violates the name constraints of an authority above it")
        }
        E::PathLenConstraintViolated => {
            f.write_str("an authority does not allow this number of authorities below it (pathLenConstraint)")
        }
        E::UnsupportedCriticalExtension => {
            f.write_str("a certificate has an unknown critical extension")
        }
        E::UnsupportedCertVersion => f.write_str(
            "a certificate is of X.509 version 1, but version 3 is required (pass an extension file to 'openssl x509')",
        ),
        E::CaUsedAsEndEntity => f.write_str("the leaf certificate is a CA"),
        E::EndEntityUsedAsCa => f.write_str("a certificate was issued by one that is not a CA"),
        E::EmptyEkuExtension => f.write_str("a certificate is not for TLS"),
        // The library has only the names of its variants for the rest.
        other => f.write_str(&in_words(other)),
    }
}

impl Error for PathError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Webpki(error) => Some(error),
            Self::Revocation(error) => Some(error),
            _ => None,
        }
    }
}
