//! The TLS connection to an endpoint, and what is verified before and in it (WIRE 11).

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, TrustAnchor, UnixTime,
};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, OtherError,
    SignatureScheme, StreamOwned,
};
use webpki::{EndEntityCert, KeyUsage};

use super::destination::HostPort;
use crate::authority::{Certificate, Key};

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An established connection.
pub(super) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct ConnectError {
    pub(super) kind: Kind,
    reason: String,
}

/// Which side refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing answers there.
    Unreachable,
    /// The server's certificate is not trusted.
    ServerUntrusted,
    /// The server does not take our certificate.
    ClientRejected,
    /// Anything else.
    Protocol,
}

/// Connects, and completes the handshake as far as a client can see it: with TLS 1.3 the server's opinion of our
/// certificate comes later.
pub(super) fn connect(
    place: &HostPort,
    chain: &[Certificate],
    key: &Key,
    anchors: &[Certificate],
) -> Result<Stream, ConnectError> {
    let other = |error: &dyn fmt::Display| ConnectError {
        kind: Kind::Protocol,
        reason: error.to_string(),
    };
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(&provider, anchors).map_err(|error| other(&error))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| other(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(der(chain), key)
        .map_err(|error| other(&error))?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;

    let mut socket = connect_tcp(place).map_err(|error| ConnectError {
        kind: Kind::Unreachable,
        reason: format!("cannot connect: {error}"),
    })?;
    // The certificates have no host names: the name is of no consequence.
    let name = socket
        .peer_addr()
        .map(|address| ServerName::from(address.ip()))
        .map_err(|error| other(&error))?;
    let mut connection =
        ClientConnection::new(Arc::new(config), name).map_err(|error| other(&error))?;
    while connection.is_handshaking() {
        connection
            .complete_io(&mut socket)
            .map_err(|error| ConnectError::of_handshake(&error))?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Verifies our own chain as the server will do it.
pub(super) fn verify_own_chain(
    chain: &[Certificate],
    anchors: &[Certificate],
) -> Result<(), String> {
    let provider = ring::default_provider();
    let (leaf, rest) = chain.split_first().ok_or("there is no certificate")?;
    let anchors = trust_anchors(anchors).map_err(|error| error.to_string())?;
    verify(
        &provider.signature_verification_algorithms,
        &anchors,
        &CertificateDer::from(&leaf.der[..]),
        &der(rest),
        UnixTime::now(),
        KeyUsage::client_auth(),
    )
    .map_err(|error| error.to_string())
}

/// The reason, if a read failed because the server rejected our certificate.
pub(super) fn rejection(error: &io::Error) -> Option<String> {
    use rustls::AlertDescription as Alert;

    let Some(Error::AlertReceived(alert)) = error.get_ref()?.downcast_ref() else {
        return None;
    };
    let about_certificate = [
        Alert::AccessDenied,
        Alert::BadCertificate,
        Alert::CertificateExpired,
        Alert::CertificateRequired,
        Alert::CertificateRevoked,
        Alert::CertificateUnknown,
        Alert::DecryptError,
        Alert::NoCertificate,
        Alert::UnknownCA,
        Alert::UnsupportedCertificate,
    ];
    about_certificate
        .contains(alert)
        .then(|| format!("the server rejected our certificate: {alert:?}"))
}

fn connect_tcp(place: &HostPort) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (&place.host[..], place.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn der(chain: &[Certificate]) -> Vec<CertificateDer<'static>> {
    chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der.clone()))
        .collect()
}

fn trust_anchors(certificates: &[Certificate]) -> Result<Vec<TrustAnchor<'static>>, webpki::Error> {
    der(certificates)
        .iter()
        .map(|der| webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
        .collect()
}

fn verify(
    algorithms: &WebPkiSupportedAlgorithms,
    anchors: &[TrustAnchor<'_>],
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(), webpki::Error> {
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(algorithms.all, anchors, rest, now, usage, None, None)
        .map(|_| ())
}

/// Trusts a server whose chain verifies, unless a certificate of the chain carries a command: holders of a policy
/// could otherwise issue themselves the certificate of a server.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Verifier {
    fn new(provider: &CryptoProvider, anchors: &[Certificate]) -> Result<Self, webpki::Error> {
        Ok(Self {
            algorithms: provider.signature_verification_algorithms,
            anchors: trust_anchors(anchors)?,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refuse = |error| Error::InvalidCertificate(CertificateError::Other(error));
        let usage = KeyUsage::server_auth();
        verify(&self.algorithms, &self.anchors, leaf, rest, now, usage)
            .map_err(|error| refuse(OtherError(Arc::new(error))))?;
        for certificate in [leaf].into_iter().chain(rest) {
            match Certificate::parse(certificate) {
                Ok(parsed) if parsed.extension.is_none() => {}
                _ => return Err(Error::InvalidCertificate(CertificateError::InvalidPurpose)),
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ConnectError {
    fn of_handshake(error: &io::Error) -> Self {
        let kind = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
                Kind::ServerUntrusted
            }
            Some(_) if rejection(error).is_some() => Kind::ClientRejected,
            _ => Kind::Protocol,
        };
        let reason = match kind {
            Kind::ServerUntrusted => {
                format!("the server's certificate is not trusted (--server-ca): {error}")
            }
            _ => format!("the TLS handshake failed: {error}"),
        };
        Self { kind, reason }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
