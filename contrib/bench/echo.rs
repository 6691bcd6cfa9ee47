//! A bare TLS server that runs one process a connection, and clients that time it.
//!
//! The least that such a server can do, in the way `petrel-tls` does it: accept, start a
//! process with the socket as its standard input, read PEM files, verify the client, answer
//! a few bytes, end. What `petrel info` takes is given as a ratio to this, both measured in
//! turns by the same client within one run.
#![allow(clippy::print_stdout)]

use argh::FromArgs;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SignatureScheme, StreamOwned};
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MESSAGE: [u8; 32] = *b"thirty-two bytes of small talk..";
/// Connections made before those that count.
const WARM_UP: usize = 20;
/// A reply larger than this is no reply to `info`.
const FRAME_LIMIT: u32 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// time mutual TLS 1.3 against a server that runs one process a connection
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    mode: Mode,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Mode {
    Serve(Serve),
    Connection(Connection),
    EchoClient(EchoClient),
    FrameClient(FrameClient),
    Compare(Compare),
}

/// listen on loopback, print the address, start one process a connection
#[derive(FromArgs)]
#[argh(subcommand, name = "serve")]
struct Serve {
    /// address and port (127.0.0.1:0, any free port)
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 0))")]
    listen: SocketAddr,
    /// send a frame instead of echoing, to hold the two clients against each other
    #[argh(switch)]
    frame: bool,
    /// PEM file of the authority that signed the peer's certificate
    #[argh(option)]
    ca: String,
    /// PEM file of the own certificate, then its intermediates
    #[argh(option)]
    cert: String,
    /// PEM file of the own private key
    #[argh(option)]
    key: String,
}

/// serve the one connection on standard input (serve starts this)
#[derive(FromArgs)]
#[argh(subcommand, name = "connection")]
struct Connection {
    /// send a frame instead of echoing
    #[argh(switch)]
    frame: bool,
    /// PEM file of the authority
    #[argh(option)]
    ca: String,
    /// PEM file of the own certificate
    #[argh(option)]
    cert: String,
    /// PEM file of the own private key
    #[argh(option)]
    key: String,
}

/// time connections from TCP connect to the echo of a small message
#[derive(FromArgs)]
#[argh(subcommand, name = "echo-client")]
struct EchoClient {
    /// address and port of serve
    #[argh(option)]
    address: SocketAddr,
    /// how many connections (500)
    #[argh(option, default = "500")]
    count: usize,
    /// PEM file of the authority
    #[argh(option)]
    ca: String,
    /// PEM file of the own certificate, then its intermediates
    #[argh(option)]
    cert: String,
    /// PEM file of the own private key
    #[argh(option)]
    key: String,
}

/// time connections from TCP connect to the end of the first frame received
#[derive(FromArgs)]
#[argh(subcommand, name = "frame-client")]
struct FrameClient {
    /// address and port of petrel-tls
    #[argh(option)]
    address: SocketAddr,
    /// how many connections (500)
    #[argh(option, default = "500")]
    count: usize,
    /// PEM file of the authority
    #[argh(option)]
    ca: String,
    /// PEM file of the own certificate, then its intermediates
    #[argh(option)]
    cert: String,
    /// PEM file of the own private key
    #[argh(option)]
    key: String,
}

/// run both clients in turns and print the ratio of their medians
#[derive(FromArgs)]
#[argh(subcommand, name = "compare")]
struct Compare {
    /// address and port of serve
    #[argh(option)]
    echo: SocketAddr,
    /// address and port of petrel-tls
    #[argh(option)]
    frame: SocketAddr,
    /// how many connections to each (500)
    #[argh(option, default = "500")]
    count: usize,
    /// PEM file of the authority
    #[argh(option)]
    ca: String,
    /// PEM file of the own certificate, then its intermediates
    #[argh(option)]
    cert: String,
    /// PEM file of the own private key
    #[argh(option)]
    key: String,
}

fn main() -> Result<()> {
    match argh::from_env::<Arguments>().mode {
        Mode::Serve(options) => serve(&options),
        Mode::Connection(options) => serve_one(&options),
        Mode::EchoClient(options) => {
            let client = Client::new(&options.ca, &options.cert, &options.key)?;
            let times = repeat(options.count, || client.echo(options.address))?;
            report("echo", times);
            Ok(())
        }
        Mode::FrameClient(options) => {
            let client = Client::new(&options.ca, &options.cert, &options.key)?;
            let times = repeat(options.count, || client.frame(options.address))?;
            report("frame", times);
            Ok(())
        }
        Mode::Compare(options) => compare(&options),
    }
}

fn serve(options: &Serve) -> Result<()> {
    let program = std::env::current_exe()?;
    let listener = TcpListener::bind(options.listen)?;
    println!("{}", listener.local_addr()?);
    let mut children: Vec<Child> = Vec::new();
    loop {
        let (socket, _) = listener.accept()?;
        let mut command = Command::new(&program);
        command.arg("connection");
        if options.frame {
            command.arg("--frame");
        }
        command
            .args(["--ca", &options.ca])
            .args(["--cert", &options.cert])
            .args(["--key", &options.key])
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::null());
        children.push(command.spawn()?);
        // Earlier ones have ended by now; collecting them here costs the next client nothing.
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

fn serve_one(options: &Connection) -> Result<()> {
    let socket = TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nodelay(true)?;
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots(&options.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&options.cert)?, key(&options.key)?)?;
    config.send_tls13_tickets = 0;
    let connection = ServerConnection::new(Arc::new(config))?;
    let mut stream = StreamOwned::new(connection, socket);

    let mut message = MESSAGE;
    if options.frame {
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let length = u32::try_from(message.len())?;
        stream.write_all(&[&length.to_be_bytes()[..], &message].concat())?;
    } else {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

/// What a client needs for any number of connections.
struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    fn new(ca: &str, cert: &str, key_file: &str) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Authority::new(roots(ca)?, &provider)?);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(certificates(cert)?, key(key_file)?)?;
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Time from TCP connect to the echo of a message.
    fn echo(&self, address: SocketAddr) -> Result<Duration> {
        let start = Instant::now();
        let mut stream = self.connect(address)?;
        let mut reply = [0; MESSAGE.len()];
        stream.write_all(&MESSAGE)?;
        stream.read_exact(&mut reply)?;
        let time = start.elapsed();
        if reply != MESSAGE {
            return Err("the echo differs from what was sent".into());
        }
        finish(stream)?;
        Ok(time)
    }

    /// Time from TCP connect to the end of a frame that the server sends unasked.
    fn frame(&self, address: SocketAddr) -> Result<Duration> {
        let start = Instant::now();
        let mut stream = self.connect(address)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > FRAME_LIMIT {
            return Err(format!("a frame of {length} bytes is no reply").into());
        }
        let mut frame = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut frame)?;
        let time = start.elapsed();
        finish(stream)?;
        Ok(time)
    }

    fn connect(&self, address: SocketAddr) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(self.config.clone(), name)?;
        Ok(StreamOwned::new(connection, socket))
    }
}

/// Waits until the server's process is done, so that it does not disturb the next connection.
fn finish(mut stream: StreamOwned<ClientConnection, TcpStream>) -> Result<()> {
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.shutdown(Shutdown::Write);
    let mut rest = [0; 4096];
    loop {
        match stream.sock.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Trusts every server whose chain ends in the authority: the certificates have no host names.
#[derive(Debug)]
struct Authority {
    verifier: Arc<WebPkiServerVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Authority {
    fn new(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let algorithms = provider.signature_verification_algorithms;
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        Ok(Self {
            verifier: builder.build()?,
            algorithms,
        })
    }
}

impl ServerCertVerifier for Authority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            // The name is looked at last, so everything else holds.
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn compare(options: &Compare) -> Result<()> {
    let client = Client::new(&options.ca, &options.cert, &options.key)?;
    let mut echo = Vec::with_capacity(options.count);
    let mut frame = Vec::with_capacity(options.count);
    for round in 0..WARM_UP + options.count {
        // Who goes first alternates, so that neither always follows the other.
        let (a, b) = if round % 2 == 0 {
            let a = client.echo(options.echo)?;
            (a, client.frame(options.frame)?)
        } else {
            let b = client.frame(options.frame)?;
            (client.echo(options.echo)?, b)
        };
        if round >= WARM_UP {
            echo.push(a);
            frame.push(b);
        }
    }
    let echo = report("echo", echo);
    let frame = report("frame", frame);
    println!(
        "frame / echo  {:.2}",
        frame.as_secs_f64() / echo.as_secs_f64()
    );
    Ok(())
}

fn repeat(count: usize, mut connect: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    for _ in 0..WARM_UP {
        connect()?;
    }
    (0..count).map(|_| connect()).collect()
}

/// Prints and returns the median.
fn report(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| {
        times
            .get(times.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    let (median, late) = (at(50), at(95));
    println!(
        "{what:<6} p50 {:>6} us  p95 {:>6} us  n {}",
        median.as_micros(),
        late.as_micros(),
        times.len()
    );
    median
}

fn roots(path: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    certificates.map_err(|error| format!("cannot read certificates from {path}: {error}").into())
}

fn key(path: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("cannot read a key from {path}: {error}").into())
}
