//! What both ends of a TLS connection have in common (WIRE 11.1).
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use crate::chain::verify::PathError;

/// Port of the endpoint (BEHAVIOUR 9).
pub const PORT: u16 = 1025;

/// ring, with the cipher suites of TLS 1.3 only.
pub fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    })
}

/// The error, and with it the alert, for a peer whose path is refused: `certificate_expired`, `certificate_revoked`,
/// `unknown_ca`, otherwise `bad_certificate` (WIRE 11.2, RFC 8446 6.2).
pub fn refusal(error: &PathError) -> rustls::Error {
    use webpki::Error as E;
    match error {
        PathError::Webpki(E::CertExpired { .. } | E::CertNotValidYet { .. }) => {
            CertificateError::Expired
        }
        PathError::Revoked(..) => CertificateError::Revoked,
        PathError::Webpki(E::UnknownIssuer) | PathError::AnchorNotValid => {
            CertificateError::UnknownIssuer
        }
        _ => CertificateError::BadEncoding,
    }
    .into()
}

/// Checks the peer's signature of the handshake.
pub fn verify_handshake(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
    rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
}

/// What a verifier answers where TLS 1.2 would ask: it is not spoken here.
pub fn not_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}

/// The signature schemes of [`provider`].
pub fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

/// The names of [`algorithms`] in the handshake.
pub fn schemes() -> Vec<SignatureScheme> {
    algorithms().supported_schemes()
}
