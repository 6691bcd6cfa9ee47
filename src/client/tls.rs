//! The client's side of TLS 1.3 (WIRE 11.1, 13.3; BEHAVIOUR 3.3): no server name, no resumption.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, SignatureScheme};

use crate::chain::Certificate;
use crate::chain::verify::{Anchor, PathError, Usage, verify};
use crate::sys::connect;
use crate::sys::poll::{Poll, events_now};
use crate::tls::{self, Arrived, PORT, ProtocolError};

/// How long one address may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long the next address is tried, while the ones before still may answer (RFC 8305 5).
pub const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// How long the handshake may take: the server may have to wait for one of its connections to end.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// The alerts that are about this side's certificates (RFC 8446 6.2), and what they mean and ask for; all others are
/// about the protocol.
pub const REJECTIONS: [(AlertDescription, &str); 9] = [
    (
        AlertDescription::BadCertificate,
        "one of its path is damaged or against the rules; the server's log says which (alert bad_certificate)",
    ),
    (
        AlertDescription::UnsupportedCertificate,
        "it is not for clients, or its key is of a kind not supported (alert unsupported_certificate)",
    ),
    (
        AlertDescription::CertificateRevoked,
        "it, or an authority above it, is revoked: have another one signed (alert certificate_revoked)",
    ),
    (
        AlertDescription::CertificateExpired,
        "it, or an authority above it, has expired or is not valid yet by the server's clock: have a new one signed, or \
         set the clock (alert certificate_expired)",
    ),
    (
        AlertDescription::CertificateUnknown,
        "the server's log says why (alert certificate_unknown)",
    ),
    (
        AlertDescription::UnknownCA,
        "it does not lead to the authority that the server trusts: take a certificate of that authority, and send those \
         between along (alert unknown_ca)",
    ),
    (
        AlertDescription::AccessDenied,
        "the server does not let it in; its log says why (alert access_denied)",
    ),
    (
        AlertDescription::DecryptError,
        "the key does not fit it, or its signature is wrong (alert decrypt_error)",
    ),
    (
        AlertDescription::CertificateRequired,
        "none was sent (alert certificate_required)",
    ),
];

/// An endpoint's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why there is no connection, or none any more.
#[derive(Debug)]
pub enum ConnectError {
    /// The host name has no address.
    Resolve(String, io::Error),
    /// No address answers; the last reasons.
    Connect(String, Vec<(SocketAddr, io::Error)>),
    /// The server's certificates are not to be trusted.
    NotTrusted(Untrusted),
    /// The server does not accept this client's certificates.
    Rejected(AlertDescription),
    /// Own certificate and key cannot be used together.
    Identity(rustls::Error),
    /// What answers at this destination does not speak TLS.
    NoTls(String),
    /// The protocol was not kept, or the connection broke.
    Communication(io::Error),
}

/// Why a server is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// Its certificates do not lead to a trusted one.
    Path(PathError),
    /// This certificate of its path carries a policy or command: it may be a tenant who plays the server.
    Tenant(String),
}

/// A connection over which the server has shown whom it is. Whether it accepts *this* side turns up with the first
/// answer: see [`ConnectError::from`].
#[derive(Debug)]
pub struct TlsStream {
    connection: ClientConnection,
    socket: TcpStream,
    arrived: Arrived,
}

/// Connects to `destination` and proves itself with `chain` (leaf first) and its key. The server must show a path to
/// one of the `anchors` in which no certificate carries a policy; its names do not matter.
pub fn connect_to(
    destination: &Destination,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    anchors: Vec<Anchor>,
) -> Result<TlsStream, ConnectError> {
    let verifier = Arc::new(ServerVerifier {
        anchors,
        algorithms: tls::algorithms(),
        refusal: OnceLock::new(),
    });
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ConnectError::Identity)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_auth_cert(chain, key)
        .map_err(ConnectError::Identity)?;
    config.enable_sni = false;
    config.resumption = Resumption::disabled();

    let (socket, address) = reach(destination)?;
    let connection =
        ClientConnection::new(Arc::new(config), ServerName::IpAddress(address.ip().into()))
            .map_err(ConnectError::Identity)?;
    let mut stream = TlsStream {
        connection,
        socket,
        arrived: Arrived::default(),
    };
    match stream.handshake(Instant::now() + HANDSHAKE_TIMEOUT) {
        Ok(()) => Ok(stream),
        Err(error) => Err(match verifier.refusal.get() {
            Some(reason) => ConnectError::NotTrusted(reason.clone()),
            None if speaks_no_tls(&error) => ConnectError::NoTls(destination.to_string()),
            None => error.into(),
        }),
    }
}

fn speaks_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.is_some_and(|ProtocolError(error)| tls::is_no_tls(error))
}

impl TlsStream {
    /// Takes in what has arrived, without waiting. `true`: there is something to read, or the server has closed.
    pub fn take_in(&mut self) -> io::Result<bool> {
        loop {
            let state = self
                .connection
                .process_new_packets()
                .map_err(ProtocolError)?;
            if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                return Ok(true);
            }
            let arrives = || events_now(&self.socket, PollFlags::POLLIN);
            if self.arrived.is_empty() && arrives()?.is_empty() {
                return Ok(false);
            }
            if self
                .connection
                .read_tls(&mut self.arrived.from(&self.socket))?
                == 0
            {
                return Ok(true);
            }
        }
    }

    /// Tells the server that nothing more follows. What it still says can be read.
    pub fn close(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    fn handshake(&mut self, deadline: Instant) -> io::Result<()> {
        self.socket.set_nodelay(true)?;
        // The last flight, with this side's certificates, is written when the handshake is over for this side.
        while self.connection.wants_write() || self.connection.is_handshaking() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            self.socket.set_write_timeout(Some(left))?;
            match self.advance() {
                // What a socket says whose time is over.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => outcome?,
            }
        }
        self.socket.set_read_timeout(None)?;
        self.socket.set_write_timeout(None)
    }

    /// One write or one read of the handshake.
    fn advance(&mut self) -> io::Result<()> {
        if self.connection.wants_write() {
            return self.connection.write_tls(&mut self.socket).map(drop);
        }
        if self
            .connection
            .read_tls(&mut self.arrived.from(&self.socket))?
            == 0
        {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.connection
            .process_new_packets()
            .map(drop)
            .map_err(|error| {
                // The alert; it is of no use to a server that does not take it.
                let _ = self.connection.write_tls(&mut self.socket);
                ProtocolError(error).into()
            })
    }
}

impl Read for TlsStream {
    /// # Errors
    /// [`ErrorKind::ConnectionAborted`] if the server vanished without closing: what was read may not be all.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Nothing is sent on the way: what the server said is readable even if it takes nothing more.
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(io::Error::new(
                        ErrorKind::ConnectionAborted,
                        "the server vanished without closing the connection",
                    ));
                }
                done => return done,
            }
            self.connection
                .read_tls(&mut self.arrived.from(&self.socket))?;
            self.connection
                .process_new_packets()
                .map_err(ProtocolError)?;
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.connection.writer().write(bytes)?;
        self.flush()?;
        Ok(count)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = self.connection.writer().write_vectored(parts)?;
        self.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl AsFd for TlsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The first address that answers. Each gets a head start of [`NEXT_ADDRESS`] before the next one.
fn reach(destination: &Destination) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let resolved = (destination.host.as_str(), destination.port)
        .to_socket_addrs()
        .map_err(|error| ConnectError::Resolve(destination.host.clone(), error))?;
    let mut waiting = interleave(resolved).into_iter().peekable();
    let mut failures = Vec::new();
    let mut attempts: Vec<(TcpStream, SocketAddr, Instant)> = Vec::new();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if (attempts.is_empty() || now >= next)
            && let Some(address) = waiting.next()
        {
            match connect::begin_tcp(address) {
                Ok(socket) => attempts.push((socket, address, now + CONNECT_TIMEOUT)),
                Err(error) => failures.push((address, error.into())),
            }
            next = now + NEXT_ADDRESS;
        }
        if attempts.is_empty() {
            if waiting.peek().is_some() {
                continue;
            }
            return Err(ConnectError::Connect(destination.to_string(), failures));
        }
        let given_up = attempts.iter().map(|(_, _, until)| *until).min();
        let until = match waiting.peek() {
            Some(_) => given_up.map_or(next, |until| until.min(next)),
            None => given_up.unwrap_or(next),
        };
        let ready = connected(&attempts, until).map_err(ConnectError::Communication)?;
        let now = Instant::now();
        for (index, (socket, address, until)) in
            std::mem::take(&mut attempts).into_iter().enumerate()
        {
            if ready.contains(&index) {
                match finish(&socket) {
                    Ok(()) => return Ok((socket, address)),
                    Err(error) => failures.push((address, error)),
                }
            } else if now >= until {
                failures.push((address, ErrorKind::TimedOut.into()));
            } else {
                attempts.push((socket, address, until));
            }
        }
    }
}

/// The attempts that have come to an end, good or bad, by index; none if the time is over.
fn connected(
    attempts: &[(TcpStream, SocketAddr, Instant)],
    until: Instant,
) -> io::Result<Vec<usize>> {
    let mut poll = Poll::new();
    for (index, (socket, ..)) in attempts.iter().enumerate() {
        poll.add(index, socket.as_fd(), PollFlags::POLLOUT);
    }
    poll.until([until]);
    let ready = poll.wait()?.into_iter();
    Ok(ready.map(|(index, _)| index).collect())
}

fn finish(socket: &TcpStream) -> io::Result<()> {
    if !connect::is_connected(socket)? {
        return Err(ErrorKind::NotConnected.into());
    }
    let flags = OFlag::from_bits_truncate(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The addresses in the resolver's order, but the two families in turn.
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<_> = addresses.collect();
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_ipv6);
    let mut mixed = Vec::with_capacity(same.len() + other.len());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    loop {
        match (same.next(), other.next()) {
            (None, None) => return mixed,
            pair => mixed.extend([pair.0, pair.1].into_iter().flatten()),
        }
    }
}

#[derive(Debug)]
struct ServerVerifier {
    anchors: Vec<Anchor>,
    algorithms: WebPkiSupportedAlgorithms,
    refusal: OnceLock<Untrusted>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match trusted(leaf, others, &self.anchors, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(reason) => {
                let error = match &reason {
                    Untrusted::Path(error) => tls::refusal(error),
                    Untrusted::Tenant(_) => CertificateError::ApplicationVerificationFailure.into(),
                };
                // Verified once a connection, so the place is free.
                let _ = self.refusal.set(reason);
                Err(error)
            }
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

/// Whether these certificates are a server's. A path with a policy in it belongs to a tenant: who may sign commands
/// there must not be able to play the server for everybody else.
pub fn trusted(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    anchors: &[Anchor],
    now: UnixTime,
) -> Result<(), Untrusted> {
    let path = verify(leaf, others, anchors, now, Usage::Server).map_err(Untrusted::Path)?;
    for der in &path {
        let certificate = Certificate::read(der)
            .map_err(|reason| Untrusted::Path(PathError::Unreadable(reason)))?;
        if certificate.has_extension() {
            let name = certificate.common_name().unwrap_or_default();
            return Err(Untrusted::Tenant(name));
        }
    }
    Ok(())
}

impl ConnectError {
    /// The client's exit code (BEHAVIOUR 4).
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Rejected(_) => 119,
            Self::NotTrusted(_) => 120,
            Self::NoTls(_) | Self::Communication(_) => 121,
            Self::Resolve(..) | Self::Connect(..) => 122,
            Self::Identity(_) => 124,
        }
    }
}

/// What an error of reading or writing means: in TLS 1.3 the server's opinion of this side's certificates arrives only
/// after the handshake.
impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        let alert = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref())
            .and_then(|inner| match inner {
                ProtocolError(rustls::Error::AlertReceived(alert)) => Some(*alert),
                _ => None,
            });
        match alert {
            Some(alert) if REJECTIONS.iter().any(|(known, _)| *known == alert) => {
                Self::Rejected(alert)
            }
            _ => Self::Communication(error),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    /// `HOST` or `HOST:PORT`, split at the last colon (BEHAVIOUR 3.1); an IPv6 address needs brackets or a port.
    fn from_str(text: &str) -> Result<Self, String> {
        let bracketed = text.starts_with('[');
        let (host, port) = match text.rsplit_once(':') {
            Some(_) if text.ends_with(']') => (text, PORT),
            Some((host, _)) if !bracketed && host.contains(':') && !is_ipv6(host) => {
                return Err(format!(
                    "'{text}' names no host and port: an IPv6 address is written as [{text}] or [{text}]:{PORT}"
                ));
            }
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, port),
                Err(_) => return Err(format!("'{port}' in '{text}' is no port")),
            },
            None => (text, PORT),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(format!("'{text}' names no host"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Whether this is an IPv6 address, perhaps with a zone.
fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Untrusted {
    /// What to do about it, where that is known.
    fn advice(&self) -> Option<&'static str> {
        use webpki::Error as E;
        match self {
            Self::Path(PathError::Webpki(E::UnknownIssuer)) => {
                Some("give the authority that issued its certificate with --server-ca")
            }
            Self::Path(PathError::Webpki(E::CertExpired { .. } | E::CertNotValidYet { .. })) => {
                Some(
                    "that certificate is the server's: ask its administrator to renew it, or set the clock here",
                )
            }
            Self::Path(_) | Self::Tenant(_) => None,
        }
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(error) => error.fmt(f),
            Self::Tenant(name) => write!(
                f,
                "its certificate '{}' carries a policy or a command, and so belongs to a tenant and not to a server",
                name.escape_default()
            ),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(host, error) => write!(f, "cannot find {host}: {error}"),
            Self::Connect(destination, failures) => {
                write!(f, "cannot connect to {destination}")?;
                for (address, error) in failures {
                    write!(f, "; {address}: {error}")?;
                }
                Ok(())
            }
            Self::NotTrusted(reason) => {
                write!(f, "the server is not trusted: {reason}")?;
                reason
                    .advice()
                    .map_or(Ok(()), |advice| write!(f, " ({advice})"))
            }
            Self::Rejected(alert) => {
                let known = REJECTIONS.iter().find(|(known, _)| known == alert);
                let reason = known.map_or("it does not say why", |(_, reason)| reason);
                write!(f, "the server does not accept the certificate: {reason}")
            }
            Self::Identity(error) => {
                write!(
                    f,
                    "certificate and key cannot be used together: {}",
                    tls::describe(error)
                )
            }
            Self::NoTls(destination) => write!(
                f,
                "communication failed: what answers at {destination} does not speak TLS: give the port of petrel-tls \
                 ({PORT} by default)"
            ),
            Self::Communication(error) => write!(f, "communication failed: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_colon_separates_the_port() {
        let parse = |text: &str| {
            text.parse::<Destination>()
                .map(|destination| (destination.host, destination.port))
        };
        let found = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(parse("example.org"), found("example.org", PORT));
        assert_eq!(parse("example.org:99"), found("example.org", 99));
        assert_eq!(parse("::1:99"), found("::1", 99));
        assert_eq!(parse("[::1]:99"), found("::1", 99));
        assert_eq!(parse("[::1]"), found("::1", PORT));
        assert_eq!(parse("fe80::1%eth0:99"), found("fe80::1%eth0", 99));
        for text in ["::1", "::", "2001:db8::1", "1:2:3:4:5:6:7:8"] {
            let help = parse(text).unwrap_err();
            assert!(help.contains(&format!("[{text}]:{PORT}")), "{help}");
        }
        assert!(parse(":99").is_err());
        assert!(parse("host:port").is_err());
        assert!(parse("host:65536").is_err());
    }

    #[test]
    fn an_alert_has_its_exit_code() {
        use AlertDescription as A;
        let code = |alert| {
            let error = ProtocolError(rustls::Error::AlertReceived(alert));
            ConnectError::from(io::Error::from(error)).exit_code()
        };
        for (alert, _) in REJECTIONS {
            assert_eq!(code(alert), 119, "{alert:?}");
        }
        for alert in [
            A::UnexpectedMessage,
            A::BadRecordMac,
            A::HandshakeFailure,
            A::IllegalParameter,
            A::DecodeError,
            A::ProtocolVersion,
            A::InternalError,
            A::UserCanceled,
            A::UnrecognisedName,
            A::Unknown(255),
        ] {
            assert_eq!(code(alert), 121, "{alert:?}");
        }
        for (error, code) in [
            (
                ConnectError::NotTrusted(Untrusted::Tenant(String::new())),
                120,
            ),
            (
                ConnectError::Resolve(String::new(), ErrorKind::NotFound.into()),
                122,
            ),
            (ConnectError::Connect(String::new(), Vec::new()), 122),
            (ConnectError::Identity(rustls::Error::DecryptError), 124),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }

    #[test]
    fn whoever_does_not_trust_the_server_is_told_what_to_do() {
        let told =
            |error| ConnectError::NotTrusted(Untrusted::Path(PathError::Webpki(error))).to_string();
        assert!(told(webpki::Error::UnknownIssuer).contains("--server-ca"));
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1));
        let not_after = time;
        let expired = told(webpki::Error::CertExpired { time, not_after });
        assert!(expired.contains("is the server's"), "{expired}");
    }

    #[test]
    fn the_two_families_are_tried_in_turn() {
        let addresses = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"];
        let parsed = addresses.iter().map(|text| text.parse().unwrap());
        let mixed: Vec<_> = interleave(parsed).iter().map(ToString::to_string).collect();
        assert_eq!(
            mixed,
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]
        );
    }

    #[test]
    fn a_server_that_trickles_does_not_lengthen_the_handshake() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let trickle = std::thread::spawn(move || {
            // A record that is never complete.
            server.write_all(&[22, 3, 3, 0x40, 0]).unwrap();
            let bytes = (0..1000).take_while(|_| {
                std::thread::sleep(Duration::from_millis(10));
                server.write_all(&[2]).is_ok()
            });
            bytes.count()
        });
        let verifier = ServerVerifier {
            anchors: Vec::new(),
            algorithms: tls::algorithms(),
            refusal: OnceLock::new(),
        };
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let name = ServerName::try_from("server").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = TlsStream {
            connection,
            socket,
            arrived: Arrived::default(),
        };
        let deadline = Instant::now() + Duration::from_millis(100);
        let error = stream.handshake(deadline).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(stream);
        assert!(trickle.join().unwrap() < 1000);
    }

    #[test]
    fn a_closed_port_cannot_be_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let destination = Destination {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let error = reach(&destination).unwrap_err();
        assert_eq!(error.exit_code(), 122, "{error}");
    }
}
