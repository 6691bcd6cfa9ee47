//! Endpoint's side of TLS 1.3 with rustls (WIRE 11.1, 11.2). No other file of the endpoint uses the library.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use log::error;
use nix::poll::PollFlags;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig, ServerConnection};
use rustls::{DigitallySignedStruct, DistinguishedName, InvalidMessage, SignatureScheme};

use super::crl_files::CrlFiles;
use super::expiry::{Role, Validity};
use super::stream::SecureStream;
use crate::chain::Certificate;
use crate::chain::verify::{Anchor, PathError, Usage, verify, verify_unrevoked};
use crate::private_key::{self, KeyFileError};
use crate::sys::poll::wait_for;
use crate::tls::{self, Arrived, ProtocolError};

/// Maximum number of bytes of ciphertext that wait for the socket.
const OUTGOING: usize = 1 << 18;

/// Certificates and key of the endpoint, and its trust anchor.
#[derive(Debug)]
pub struct Credentials {
    anchor: Anchor,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    validities: Vec<Validity>,
}

/// Connection after the handshake.
#[derive(Debug)]
pub struct Accepted<'a> {
    /// Verified path, leaf first, without the anchor.
    pub path: Vec<CertificateDer<'static>>,
    /// Reason why the revocation status of the path is unknown, so that the request must be refused.
    pub doubt: Option<String>,
    /// The connection.
    pub stream: TlsStream<'a>,
}

/// Reason why certificates and key cannot be used.
#[derive(Debug)]
pub enum CredentialsError {
    /// A file cannot be read.
    Read(PathBuf, io::Error),
    /// The file of the key cannot be used.
    Key(KeyFileError),
    /// The content of a file cannot be used, for this reason.
    Content(PathBuf, String),
    /// Certificate and key cannot be used together.
    Pair {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// Error of the library.
        source: rustls::Error,
    },
}

/// Handshake that failed.
#[derive(Debug)]
pub struct HandshakeError {
    /// Reason.
    pub reason: HandshakeFailure,
    /// Unverified leaf that the client sent, if any.
    pub unverified: Option<CertificateDer<'static>>,
}

/// Reason why a handshake failed.
#[derive(Debug)]
pub enum HandshakeFailure {
    /// The handshake was not completed in time.
    TooSlow,
    /// The peer closed the connection.
    Gone(io::Error),
    /// The peer's certificates are refused.
    Refused(PathError),
    /// The peer sent a message of more than 64 KiB.
    TooLarge,
    /// Another error in the protocol.
    Protocol(rustls::Error),
    /// Certificate and key cannot be used.
    Setup(rustls::Error),
}

impl HandshakeFailure {
    /// Whether the client refused the certificate of this server.
    pub fn is_about_our_certificate(&self) -> bool {
        use rustls::AlertDescription as Alert;
        matches!(
            self,
            Self::Protocol(rustls::Error::AlertReceived(
                Alert::CertificateExpired | Alert::BadCertificate | Alert::CertificateUnknown
            ))
        )
    }
}

impl Credentials {
    /// Reads the trusted certificate, of which `ca` holds exactly one, the server's certificates and its key.
    pub fn read(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        let [trusted] = <[_; 1]>::try_from(certificates(ca)?).map_err(|all| {
            content(
                ca,
                &format!("expected one certificate, but there are {}", all.len()),
            )
        })?;
        let anchor = Anchor::new(&trusted).map_err(|error| content(ca, &error.to_string()))?;
        if !anchor.is_authority() {
            let reason = "expected the certificate of an authority (CA)";
            return Err(content(ca, reason));
        }
        let chain = certificates(certificate)?;
        if chain.is_empty() {
            return Err(content(certificate, "expected a certificate"));
        }
        let key = private_key(key, &chain)?;
        let trusted = Validity::read(ca, Role::Trusted, &trusted);
        let shown = chain
            .iter()
            .filter_map(|der| Validity::read(certificate, Role::Shown, der));
        let validities = trusted.into_iter().chain(shown).collect();
        Ok(Self {
            anchor,
            chain,
            key,
            validities,
        })
    }

    /// Validity of the trusted certificate and of those of the server.
    pub fn validities(&self) -> &[Validity] {
        &self.validities
    }

    /// Trust anchor of client certificates.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Checks that certificate and key can be used together.
    pub fn check(self, certificate: &Path, key: &Path) -> Result<(), CredentialsError> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        self.server(Arc::default())
            .map(|_| ())
            .map_err(|source| CredentialsError::Pair {
                certificate,
                key,
                source,
            })
    }

    fn server(
        self,
        crl_files: Arc<CrlFiles>,
    ) -> Result<(ServerConfig, Arc<PathKeeper>), rustls::Error> {
        let keeper = Arc::new(PathKeeper {
            anchor: self.anchor,
            crl_files,
            algorithms: tls::algorithms(),
            leaf: OnceLock::new(),
            result: OnceLock::new(),
        });
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(keeper.clone())
            .with_single_cert(self.chain, self.key)?;
        // The process ends with its connection: there is nothing to resume.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((config, keeper))
    }
}

/// Performs the handshake until `deadline`. Certificates that `crl_files` revoke are refused. The files are read only for
/// clients whose certificates lead to the anchor.
///
/// # Errors
/// When the handshake fails.
pub fn accept(
    socket: &TcpStream,
    credentials: Credentials,
    crl_files: Arc<CrlFiles>,
    deadline: Instant,
) -> Result<Accepted<'_>, HandshakeError> {
    let setup = |error| HandshakeError {
        reason: HandshakeFailure::Setup(error),
        unverified: None,
    };
    let (config, keeper) = credentials.server(crl_files).map_err(setup)?;
    let mut connection = ServerConnection::new(Arc::new(config)).map_err(setup)?;
    connection.set_buffer_limit(Some(OUTGOING));
    let mut stream = TlsStream {
        connection,
        socket,
        arrived: Arrived::default(),
    };
    let reason = match (stream.handshake(deadline), keeper.result.get()) {
        (Ok(()), Some(Ok((path, doubt)))) => {
            return Ok(Accepted {
                path: path.clone(),
                doubt: doubt.clone(),
                stream,
            });
        }
        (_, Some(Err(reason))) => HandshakeFailure::Refused(reason.clone()),
        (Err(error), _) => error,
        (Ok(()), None) => HandshakeFailure::Protocol(rustls::Error::NoCertificatesPresented),
    };
    Err(HandshakeError {
        reason,
        unverified: keeper.leaf.get().cloned(),
    })
}

/// Established connection.
#[derive(Debug)]
pub struct TlsStream<'a> {
    connection: ServerConnection,
    socket: &'a TcpStream,
    arrived: Arrived,
}

impl TlsStream<'_> {
    fn handshake(&mut self, deadline: Instant) -> Result<(), HandshakeFailure> {
        loop {
            // A flight is written before the next one is awaited, and the last one before anything else happens.
            let flushed = self.flush().map_err(HandshakeFailure::Gone)?;
            if flushed && !self.connection.is_handshaking() {
                return Ok(());
            }
            let mut blocked = true;
            if self.connection.wants_read() {
                let read = self
                    .connection
                    .read_tls(&mut self.arrived.from(self.socket));
                match read {
                    Ok(0) => return Err(HandshakeFailure::Gone(ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {
                        blocked = false;
                        self.process()?;
                    }
                    Err(error) if is_transient(&error) => {}
                    Err(error) => return Err(HandshakeFailure::Gone(error)),
                }
            }
            if blocked {
                let mut flags = PollFlags::POLLIN;
                flags.set(PollFlags::POLLOUT, !flushed);
                wait_for(self.socket, flags, Some(deadline)).map_err(HandshakeFailure::Gone)?;
            }
            if Instant::now() >= deadline {
                return Err(HandshakeFailure::TooSlow);
            }
        }
    }

    fn process(&mut self) -> Result<(), HandshakeFailure> {
        let Err(error) = self.connection.process_new_packets() else {
            return Ok(());
        };
        // Sends the alert, once: a peer that does not read it has no use for it.
        let _ = self.flush();
        Err(match error {
            rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
                HandshakeFailure::TooLarge
            }
            error => HandshakeFailure::Protocol(error),
        })
    }
}

impl SecureStream for TlsStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            match self
                .connection
                .read_tls(&mut self.arrived.from(self.socket))
            {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Err(error) = self.connection.process_new_packets() {
                let _ = self.flush();
                return Err(ProtocolError(error).into());
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.connection.writer().write(bytes)?;
        self.flush()?;
        if count == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn close(&mut self) {
        self.connection.send_close_notify();
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Verifier of the client's certificates, which keeps the verified path, as rustls keeps only the certificates sent.
#[derive(Debug)]
struct PathKeeper {
    anchor: Anchor,
    crl_files: Arc<CrlFiles>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Unverified leaf of the client.
    leaf: OnceLock<CertificateDer<'static>>,
    result: OnceLock<Result<Verified, PathError>>,
}

/// Verified path, and the reason why its revocation status is unknown, if it is. The client is informed after the
/// handshake.
type Verified = (Vec<CertificateDer<'static>>, Option<String>);

impl PathKeeper {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Verified, PathError> {
        let anchors = std::slice::from_ref(&self.anchor);
        let path = verify(leaf, others, anchors, now, Usage::Client)?;
        if self.crl_files.is_empty() {
            return Ok((path, None));
        }
        // Large CRLs take time, which is spent only on clients of the anchor.
        let loaded = match self.crl_files.read(&self.anchor, now) {
            Ok(loaded) => loaded,
            Err(error) => {
                error!("{error}");
                return Ok((path, Some(error.reason().to_string())));
            }
        };
        match verify_unrevoked(leaf, others, anchors, &loaded.crls, now, Usage::Client) {
            Ok(path) => Ok((path, None)),
            Err(PathError::Revocation(doubt)) => Ok((path, Some(doubt.to_string()))),
            Err(error) => Err(error),
        }
    }
}

impl ClientCertVerifier for PathKeeper {
    /// No hints, as a client has a single certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.leaf.get_or_init(|| leaf.clone().into_owned());
        match self.result.get_or_init(|| self.verify(leaf, others, now)) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(tls::refusal(error)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls::not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls::verify_handshake(&self.algorithms, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn read(file: &Path) -> Result<Vec<u8>, CredentialsError> {
    fs::read(file).map_err(|error| CredentialsError::Read(file.to_owned(), error))
}

fn content(file: &Path, reason: &str) -> CredentialsError {
    CredentialsError::Content(file.to_owned(), reason.to_owned())
}

/// Reads the private key of a certificate chain, leaf first.
fn private_key(
    file: &Path,
    chain: &[CertificateDer<'_>],
) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let key = private_key::read(file).map_err(CredentialsError::Key)?;
    let leaf = chain.first().and_then(|leaf| Certificate::read(leaf).ok());
    let completed = leaf.and_then(|leaf| {
        let public = &leaf.x509().public_key().subject_public_key.data;
        private_key::ecdsa_with_public_key(&key, public)
    });
    Ok(PrivateKeyDer::Pkcs8(completed.unwrap_or(key).into()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| content(file, &error.to_string()))
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(file, error) => write!(f, "cannot read '{}': {error}", file.display()),
            Self::Key(error) => error.fmt(f),
            Self::Content(file, reason) => write!(f, "cannot use '{}': {reason}", file.display()),
            Self::Pair {
                certificate,
                key,
                source,
            } => write!(
                f,
                "the certificate in '{}' and the key in '{}' cannot be used together: {}",
                certificate.display(),
                key.display(),
                tls::describe(source)
            ),
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSlow => f.write_str("the handshake was not completed in time"),
            Self::Gone(error) => write!(f, "the peer closed the connection during the handshake: {error}"),
            Self::Refused(error) => write!(f, "certificates refused: {error}"),
            Self::TooLarge => f.write_str(
                "the client sent a handshake message over 64 KiB, perhaps a certificate with a unikernel image inside; \
                 it must upload the image after the handshake instead",
            ),
            Self::Protocol(rustls::Error::NoCertificatesPresented) => f.write_str(
                "handshake failed: the client sent no certificate, perhaps because its key is of a kind that is not \
                 supported, such as P-521",
            ),
            Self::Protocol(error) if tls::is_no_tls(error) => {
                f.write_str("handshake failed: the client does not speak TLS")
            }
            Self::Protocol(error) => write!(f, "handshake failed: {}", tls::describe(error)),
            Self::Setup(error) => write!(
                f,
                "cannot use the server's certificate and key: {}",
                tls::describe(error)
            ),
        }
    }
}

impl Error for CredentialsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(_, error) => Some(error),
            Self::Key(error) => Some(error),
            Self::Pair { source, .. } => Some(source),
            Self::Content(..) => None,
        }
    }
}

impl Error for HandshakeFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Gone(error) => Some(error),
            Self::Refused(error) => Some(error),
            Self::Protocol(error) | Self::Setup(error) => Some(error),
            Self::TooSlow | Self::TooLarge => None,
        }
    }
}
