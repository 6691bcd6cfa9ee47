//! Clients that time what Petrel's daemons do over TLS, next to the bare parts that it is made of.
//!
//! All in one process, in turns, with certificates that are there already: what is measured is the other side. Which
//! command a connection carries is in its certificate.
#![allow(clippy::print_stdout)]

mod times;

use argh::FromArgs;
use petrel::wire::frame::{END, MAX_CHUNK, MAX_MESSAGE, prefix, read_frame};
use petrel::wire::{Data, Message, Payload};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct};
use rustls::{RootCertStore, SignatureScheme, StreamOwned};
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use times::{WARM_UP, keep, report};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Stream = StreamOwned<ClientConnection, TcpStream>;

/// What a bare server echoes.
const MESSAGE: [u8; 32] = *b"thirty-two bytes of small talk..";
/// How long any answer may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// The last words of the guest that is deployed.
const BYE: &[u8] = b"bye: exit";

/// Time Petrel's endpoint and what is behind it. STEM stands for the files STEM.pem, the certificate and those above
/// it, and STEM.key.
#[derive(FromArgs)]
struct Options {
    /// address and port of petrel-tls
    #[argh(option)]
    address: SocketAddr,
    /// PEM file of the authority that signed the server's certificate
    #[argh(option)]
    ca: String,
    /// how many runs of each (500)
    #[argh(option, default = "500")]
    count: usize,
    /// STEM of a certificate with the command info
    #[argh(option)]
    info: String,
    #[argh(subcommand)]
    mode: Mode,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Mode {
    Info(Info),
    FirstLine(FirstLine),
    Upload(Upload),
}

/// from TCP connect to the reply
#[derive(FromArgs)]
#[argh(subcommand, name = "info")]
struct Info {
    /// address and port of a bare echo to compare with
    #[argh(option)]
    echo: Option<SocketAddr>,
}

/// from TCP connect to the first line on a console that is followed, compared with info and a tender run by hand
#[derive(FromArgs)]
#[argh(subcommand, name = "first-line")]
struct FirstLine {
    /// STEM of a certificate that creates a unikernel
    #[argh(option)]
    create: String,
    /// STEM of a certificate that follows its console
    #[argh(option)]
    console: String,
    /// the image; it ends by itself
    #[argh(option)]
    image: String,
    /// the tender
    #[argh(option)]
    tender: String,
}

/// the most memory that the endpoint's process had when all of an image was sent but the end
#[derive(FromArgs)]
#[argh(subcommand, name = "upload")]
struct Upload {
    /// STEM of a certificate that creates a unikernel
    #[argh(option)]
    create: String,
    /// the image
    #[argh(option)]
    image: String,
    /// process id of the petrel-tls that listens
    #[argh(option)]
    listener: u32,
}

fn main() -> Result<()> {
    let options: Options = argh::from_env();
    let client = |stem: &str| Client::new(options.address, &options.ca, stem);
    let info = client(&options.info)?;
    match &options.mode {
        Mode::Info(Info { echo: None }) => {
            let mut times = Vec::new();
            for round in 0..WARM_UP + options.count {
                keep(&mut times, round, info.request()?);
            }
            report("info", times);
            Ok(())
        }
        Mode::Info(Info { echo: Some(echo) }) => compare(&info, *echo, options.count),
        Mode::FirstLine(mode) => {
            let (create, console) = (client(&mode.create)?, client(&mode.console)?);
            first_line(&info, &create, &console, mode, options.count)
        }
        Mode::Upload(mode) => upload(&client(&mode.create)?, mode),
    }
}

fn compare(info: &Client, address: SocketAddr, count: usize) -> Result<()> {
    let bare = Client {
        address,
        config: info.config.clone(),
    };
    let (mut echoes, mut infos) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + count {
        // Who goes first alternates, so that neither always follows the other.
        if round % 2 == 0 {
            keep(&mut echoes, round, bare.echo()?);
            keep(&mut infos, round, info.request()?);
        } else {
            keep(&mut infos, round, info.request()?);
            keep(&mut echoes, round, bare.echo()?);
        }
    }
    let ratio = report("info", infos) / report("bare echo", echoes);
    println!("info / bare echo  {ratio:.2}  (at most 1.5)");
    Ok(())
}

fn first_line(
    info: &Client,
    create: &Client,
    console: &Client,
    mode: &FirstLine,
    count: usize,
) -> Result<()> {
    let mut upload = Vec::new();
    for chunk in fs::read(&mode.image)?.chunks(MAX_CHUNK) {
        upload.extend(prefix(chunk.len()).ok_or("a chunk has a length")?);
        upload.extend(chunk);
    }
    upload.extend(END);
    let nothing_runs = reply(&mut info.connect()?)?;
    let mut console = Console::follow(console)?;
    let (mut infos, mut tenders, mut creates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + count {
        keep(&mut infos, round, info.request()?);
        keep(&mut tenders, round, by_hand(mode)?);

        let start = Instant::now();
        let mut stream = create.connect()?;
        stream.write_all(&upload)?;
        let mut line = console.line()?;
        keep(&mut creates, round, start.elapsed());
        reply(&mut stream)?;
        finish(stream)?;
        while !line.starts_with(BYE) {
            line = console.line()?;
        }
        while reply(&mut info.connect()?)? != nothing_runs {
            if start.elapsed() > REPLY_TIMEOUT {
                return Err("the unikernel does not go away".into());
            }
            sleep(Duration::from_millis(1));
        }
    }
    let parts = report("info", infos) + report("tender", tenders);
    let ratio = report("create", creates) / parts;
    println!("create to first line / (info + tender)  {ratio:.2}  (at most 2)");
    Ok(())
}

/// Time from the start of the tender to its first line.
fn by_hand(mode: &FirstLine) -> Result<Duration> {
    let mut command = Command::new(&mode.tender);
    command
        .args(["--mem=32", "--", &mode.image])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("the output is a pipe")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let time = start.elapsed();
    output.read_to_string(&mut line)?;
    if !child.wait()?.success() || line.is_empty() {
        return Err("the tender failed".into());
    }
    Ok(time)
}

fn upload(create: &Client, mode: &Upload) -> Result<()> {
    let mut stream = create.connect()?;
    let mut image = File::open(&mode.image)?;
    let mut chunk = vec![0; MAX_CHUNK];
    let mut sent = 0;
    loop {
        let count = image.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        stream.write_all(&prefix(count).ok_or("a chunk has a length")?)?;
        stream.write_all(&chunk[..count])?;
        sent += count;
    }
    let memory = fs::read_to_string(format!("/proc/{0}/task/{0}/children", mode.listener))?
        .split_whitespace()
        .filter_map(peak)
        .max_by(f64::total_cmp)
        .ok_or("petrel-tls has no process for this connection")?;
    stream.write_all(&END)?;
    reply(&mut stream)?;
    println!(
        "petrel-tls, upload of {} MB  {:.1} MB  (below 8 MB)",
        sent >> 20,
        memory / 1024.0
    );
    Ok(())
}

/// The most memory that a process ever had, in KiB.
fn peak(process: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// What is needed for any number of connections with one certificate.
struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Client {
    fn new(address: SocketAddr, ca: &str, stem: &str) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate)?;
        }
        let verifier = Arc::new(Authority::new(roots, &provider)?);
        let key = PrivateKeyDer::from_pem_file(format!("{stem}.key"))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(certificates(&format!("{stem}.pem"))?, key)?;
        config.resumption = Resumption::disabled();
        Ok(Self {
            address,
            config: Arc::new(config),
        })
    }

    fn connect(&self) -> Result<Stream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        let name = ServerName::from(self.address.ip());
        let connection = ClientConnection::new(self.config.clone(), name)?;
        Ok(StreamOwned::new(connection, socket))
    }

    /// Time from TCP connect to the echo of a message.
    fn echo(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut stream = self.connect()?;
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

    /// Time from TCP connect to the reply to the certificate's command.
    fn request(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut stream = self.connect()?;
        let reply = read_frame(&mut stream, MAX_MESSAGE)?.ok_or("no answer")?;
        let time = start.elapsed();
        check(&reply)?;
        finish(stream)?;
        Ok(time)
    }
}

/// The reply, which must be one of success.
fn reply(stream: &mut Stream) -> Result<Vec<u8>> {
    let reply = read_frame(stream, MAX_MESSAGE)?.ok_or("no answer")?;
    check(&reply)?;
    Ok(reply)
}

fn check(reply: &[u8]) -> Result<()> {
    match Message::decode(reply)?.payload {
        Payload::Reply(_) => Ok(()),
        other => Err(format!("instead of a reply: {other:?}").into()),
    }
}

/// The lines of a console as they come.
struct Console(Stream);

impl Console {
    /// The confirmation is waited for.
    fn follow(client: &Client) -> Result<Self> {
        let mut stream = client.connect()?;
        reply(&mut stream)?;
        Ok(Self(stream))
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        let frame = read_frame(&mut self.0, MAX_MESSAGE)?.ok_or("the console ended")?;
        match Message::decode(&frame)?.payload {
            Payload::Data(Data::Console(line)) => Ok(line.data.0),
            other => Err(format!("instead of a line: {other:?}").into()),
        }
    }
}

/// Waits until the server's process is done, so that it does not disturb the next connection.
fn finish(mut stream: Stream) -> Result<()> {
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

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    certificates.map_err(|error| format!("cannot read certificates from {path}: {error}").into())
}
