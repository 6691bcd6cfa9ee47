//! What both ends of a TLS connection have in common (WIRE 11.1).
#![forbid(unsafe_code)]

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

/// Bytes read from a socket at once.
const READ: usize = 1 << 16;

/// What has arrived on a socket, and the library has not taken yet, which asks for 4 KiB at a time. Before the socket
/// is polled, all of it has to be taken.
#[derive(Debug)]
pub struct Arrived {
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

impl Default for Arrived {
    fn default() -> Self {
        Self {
            bytes: vec![0; READ],
            taken: 0,
            end: 0,
        }
    }
}

impl Arrived {
    /// A reader of this and of what follows on the socket.
    pub fn from<'a>(&'a mut self, socket: &'a TcpStream) -> impl Read + 'a {
        Reader(self, socket)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.taken == self.end
    }
}

/// Describes an error of the library in words: its own text has names of types.
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
            "the other side does not support what is needed: {}",
            in_words(why)
        ),
        E::PeerMisbehaved(why) => {
            format!("the other side broke the protocol: {}", in_words(why))
        }
        // The library spells it as no specification does.
        E::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the other side sent the alert unrecognized_name".to_owned()
        }
        E::AlertReceived(alert) => format!(
            "the other side sent the alert {}",
            in_words(alert).replace(' ', "_")
        ),
        E::InvalidMessage(why) => format!("a message cannot be read: {}", in_words(why)),
        E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => {
            "the other side sent a message out of order".to_owned()
        }
        E::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
        E::NoCertificatesPresented => "the other side sent no certificate".to_owned(),
        E::DecryptError => "a message cannot be decrypted".to_owned(),
        E::General(why) => why.clone(),
        other => in_words(other),
    }
}

/// An error of the library as the cause of one of input or output.
#[derive(Debug)]
pub struct ProtocolError(pub rustls::Error);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(&self.0))
    }
}

impl std::error::Error for ProtocolError {}

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

struct Reader<'a>(&'a mut Arrived, &'a TcpStream);

impl Read for Reader<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Self(arrived, socket) = self;
        if arrived.is_empty() {
            (arrived.taken, arrived.end) = (0, 0);
            arrived.end = socket.read(&mut arrived.bytes)?;
        }
        let mut held = arrived
            .bytes
            .get(arrived.taken..arrived.end)
            .unwrap_or_default();
        let count = held.read(room)?;
        arrived.taken += count;
        Ok(count)
    }
}

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

/// Whether this is what a peer gets reported as that speaks something else than TLS.
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

/// The error, and with it the alert, for a peer whose path is refused: `certificate_expired`, `certificate_revoked`,
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
