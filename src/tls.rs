//! Common parts of both ends of a TLS connection (WIRE 11.1).
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, SignatureScheme};

use crate::chain::in_words;
use crate::chain::verify::PathError;

/// Port of the endpoint (BEHAVIOUR 9).
pub const PORT: u16 = 1025;

/// Size of the buffer for a read from a socket, in bytes.
const BUFFER: usize = 1 << 16;

/// Buffer between a socket and the TLS library, which reads only 4 KiB at a time. It must be empty before the socket is
/// polled.
#[derive(Debug)]
pub struct Arrived {
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

impl Default for Arrived {
    fn default() -> Self {
        Self {
            bytes: vec![0; BUFFER],
            taken: 0,
            end: 0,
        }
    }
}

impl Arrived {
    /// Reader of the buffer, and then of the socket.
    pub fn from<'a>(&'a mut self, socket: &'a TcpStream) -> impl Read + 'a {
        Reader(self, socket)
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.taken == self.end
    }
}

/// Describes an error of the library in words. Its own text has names of types.
pub fn describe(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<webpki::Error>() {
                Some(reason) => PathError::Webpki(reason.clone()).to_string(),
                None => "the certificate is invalid".to_owned(),
            }
        }
        E::InvalidCertificate(error) => format!("invalid certificate: {}", in_words(error)),
        E::PeerIncompatible(why) => format!(
            "the peer does not support what is needed: {}",
            in_words(why)
        ),
        E::PeerMisbehaved(why) => {
            format!("the peer broke the protocol: {}", in_words(why))
        }
        // The library spells the name differently from the specification.
        E::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the peer sent the alert unrecognized_name".to_owned()
        }
        E::AlertReceived(alert) => format!(
            "the peer sent the alert {}",
            in_words(alert).replace(' ', "_")
        ),
        E::InvalidMessage(why) => format!("a message cannot be read: {}", in_words(why)),
        E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => {
            "the peer sent a message out of order".to_owned()
        }
        E::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
        E::NoCertificatesPresented => "the peer sent no certificate".to_owned(),
        E::DecryptError => "a message cannot be decrypted".to_owned(),
        E::General(why) => why.clone(),
        other => in_words(other),
    }
}

/// Error of the library as the source of an I/O error.
#[derive(Debug)]
pub struct ProtocolError(pub rustls::Error);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(&self.0))
    }
}

impl Error for ProtocolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

struct Reader<'a>(&'a mut Arrived, &'a TcpStream);

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self(arrived, socket) = self;
        if arrived.is_empty() {
            (arrived.taken, arrived.end) = (0, 0);
            arrived.end = socket.read(&mut arrived.bytes)?;
        }
        let mut held = arrived
            .bytes
            .get(arrived.taken..arrived.end)
            .unwrap_or_default();
        let count = held.read(buffer)?;
        arrived.taken += count;
        Ok(count)
    }
}

/// Provider ring with only the cipher suites of TLS 1.3.
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

/// Whether the error is that of a peer that does not speak TLS.
pub fn is_no_tls(error: &rustls::Error) -> bool {
    use rustls::InvalidMessage as I;
    matches!(
        error,
        rustls::Error::InvalidMessage(
            I::InvalidContentType
                | I::UnknownProtocolVersion
                | I::MessageTooLarge
                | I::InvalidEmptyPayload
        )
    )
}

/// Error, and with it the alert, for a peer whose path is refused: `certificate_expired`, `certificate_revoked`,
/// `unknown_ca`, otherwise `bad_certificate` (WIRE 11.2, RFC 8446 6.2).
pub fn refusal(error: &PathError) -> rustls::Error {
    use webpki::Error as E;
    match error {
        PathError::Webpki(E::CertExpired { .. } | E::CertNotValidYet { .. }) => {
            CertificateError::Expired
        }
        PathError::Revoked { .. } => CertificateError::Revoked,
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

/// Error of a verifier for TLS 1.2, which is not supported.
pub fn not_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not supported".to_owned())
}

/// Signature algorithms of [`provider`].
pub fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

/// Signature schemes of [`algorithms`] for the handshake.
pub fn schemes() -> Vec<SignatureScheme> {
    algorithms().supported_schemes()
}
