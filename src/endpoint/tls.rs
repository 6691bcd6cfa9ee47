//! The endpoint's side of TLS 1.3 with rustls (WIRE 11.1, 11.2): the only file of this room that knows the library.

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

/// Most bytes of ciphertext that wait for the socket.
const OUTGOING: usize = 1 << 18;

/// What the endpoint proves itself with, and whom it trusts.
#[derive(Debug)]
pub struct Credentials {
    anchor: Anchor,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    validities: Vec<Validity>,
}

/// A connection whose handshake succeeded.
#[derive(Debug)]
pub struct Accepted<'a> {
    /// The path that was verified, leaf first, without the anchor.
    pub path: Vec<CertificateDer<'static>>,
    /// Why it is nevertheless not known whether it is revoked, so that nothing may come of it.
    pub doubt: Option<String>,
    /// The connection.
    pub stream: TlsStream<'a>,
}

/// Why the files do not make an endpoint.
#[derive(Debug)]
pub enum CredentialsError {
    /// This file cannot be read.
    Read(String, io::Error),
    /// The key file gives no key.
    Key(KeyFileError),
    /// This file does not hold what it should.
    Content(String, String),
    /// Certificate and key do not make a server.
    Pair(PathBuf, PathBuf, rustls::Error),
}

/// Why no TLS connection came about.
#[derive(Debug)]
pub struct HandshakeError {
    /// Reason.
    pub reason: HandshakeFailure,
    /// The leaf that the client showed, if it came to that; it proves nothing.
    pub unverified: Option<CertificateDer<'static>>,
}

/// What went wrong in a handshake.
#[derive(Debug)]
pub enum HandshakeFailure {
    /// The time is over.
    TooSlow,
    /// The peer left.
    Gone(io::Error),
    /// The peer's certificates are refused.
    Refused(PathError),
    /// The peer sent a message of more than 64 KiB.
    TooLarge,
    /// Anything else in the protocol.
    Protocol(rustls::Error),
    /// Certificate and key do not make a server.
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
                &format!("{} certificates, exactly one is needed", all.len()),
            )
        })?;
        let anchor = Anchor::new(&trusted).map_err(|error| content(ca, &error.to_string()))?;
        if !anchor.is_authority() {
            let reason = "the certificate is no authority's (CA), as that of clients has to be";
            return Err(content(ca, reason));
        }
        let chain = certificates(certificate)?;
        if chain.is_empty() {
            return Err(content(certificate, "no certificate"));
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

    /// What client certificates must lead to.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Whether certificate and key make a server.
    pub fn check(self, certificate: &Path, key: &Path) -> Result<(), CredentialsError> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        self.server(Arc::default())
            .map(|_| ())
            .map_err(|error| CredentialsError::Pair(certificate, key, error))
    }

    fn server(
        self,
        lists: Arc<CrlFiles>,
    ) -> Result<(ServerConfig, Arc<PathKeeper>), rustls::Error> {
        let keeper = Arc::new(PathKeeper {
            anchor: self.anchor,
            lists,
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

/// Carries out the handshake until `deadline`. Certificates that `lists` revoke are refused; nobody but who shows others
/// that lead to the anchor has the lists read.
pub fn accept(
    socket: &TcpStream,
    credentials: Credentials,
    lists: Arc<CrlFiles>,
    deadline: Instant,
) -> Result<Accepted<'_>, HandshakeError> {
    let setup = |error| HandshakeError {
        reason: HandshakeFailure::Setup(error),
        unverified: None,
    };
    let (config, keeper) = credentials.server(lists).map_err(setup)?;
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

/// An established connection.
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
        // The alert; it is of no use to a peer that does not take it at once.
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

/// Verifies the client's certificates and keeps the path that proved good: rustls itself only remembers what was sent.
#[derive(Debug)]
struct PathKeeper {
    anchor: Anchor,
    lists: Arc<CrlFiles>,
    algorithms: WebPkiSupportedAlgorithms,
    /// The leaf that was shown.
    leaf: OnceLock<CertificateDer<'static>>,
    result: OnceLock<Result<Verified, PathError>>,
}

/// A path, and why it cannot be told whether it is revoked: the client is told so after the handshake.
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
        if self.lists.is_empty() {
            return Ok((path, None));
        }
        // Large lists are work, which is not done for strangers.
        let found = match self.lists.read(&self.anchor, now) {
            Ok(found) => found,
            Err(error) => {
                error!("{error}");
                return Ok((path, Some(error.reason().to_string())));
            }
        };
        match verify_unrevoked(leaf, others, anchors, &found.lists, now, Usage::Client) {
            Ok(path) => Ok((path, None)),
            Err(PathError::Revocation(doubt)) => Ok((path, Some(doubt.to_string()))),
            Err(error) => Err(error),
        }
    }
}

impl ClientCertVerifier for PathKeeper {
    /// No hints: a client has one certificate to show, whoever asks.
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
    fs::read(file).map_err(|error| CredentialsError::Read(file.display().to_string(), error))
}

fn content(file: &Path, reason: &str) -> CredentialsError {
    CredentialsError::Content(file.display().to_string(), reason.to_owned())
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
            Self::Read(file, error) => write!(f, "cannot read {file}: {error}"),
            Self::Key(error) => error.fmt(f),
            Self::Content(file, reason) => write!(f, "{file}: {reason}"),
            Self::Pair(certificate, key, error) => write!(
                f,
                "the certificate in '{}' and the key in '{}' cannot be used together: {}",
                certificate.display(),
                key.display(),
                tls::describe(error)
            ),
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSlow => f.write_str("the handshake was not completed in time"),
            Self::Gone(error) => write!(f, "the peer left during the handshake: {error}"),
            Self::Refused(error) => write!(f, "certificates refused: {error}"),
            Self::TooLarge => f.write_str(
                "the client sent a handshake message over 64 KiB, perhaps a certificate with a unikernel image inside; \
                 it has to upload the image after the handshake instead",
            ),
            Self::Protocol(rustls::Error::NoCertificatesPresented) => f.write_str(
                "handshake failed: the client showed no certificate, perhaps because its key is of a kind that is not \
                 supported, as P-521",
            ),
            Self::Protocol(error) if tls::is_no_tls(error) => {
                f.write_str("handshake failed: the client does not speak TLS")
            }
            Self::Protocol(error) => write!(f, "handshake failed: {}", tls::describe(error)),
            Self::Setup(error) => write!(
                f,
                "the server's certificate and key cannot be used: {}",
                tls::describe(error)
            ),
        }
    }
}

impl std::error::Error for CredentialsError {}
impl std::error::Error for HandshakeFailure {}
