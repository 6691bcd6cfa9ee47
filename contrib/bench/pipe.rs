//! A bare pair over TLS 1.3: one sends a file, the other takes it, and nothing else happens.
//!
//! The least that a transfer can cost: the same library, cipher and size of pieces as Petrel's programs.
#![allow(clippy::print_stdout)]

use argh::FromArgs;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct};
use rustls::{ServerConfig, ServerConnection, SideData, SignatureScheme, StreamOwned};
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes read or written at once.
const PIECE: usize = 1 << 16;

/// send a file over a bare TLS 1.3 connection
#[derive(FromArgs)]
struct Options {
    /// PEM file of the server's certificate
    #[argh(positional)]
    cert: String,
    /// PEM file of its private key
    #[argh(positional)]
    key: String,
    /// the file that is sent
    #[argh(positional)]
    source: PathBuf,
    /// the file that it becomes, on disk for good
    #[argh(positional)]
    target: PathBuf,
    /// be the sender, to this address
    #[argh(option)]
    to: Option<SocketAddr>,
}

fn main() -> Result<()> {
    let options: Options = argh::from_env();
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    });
    match options.to {
        Some(address) => send(&options, provider, address),
        None => receive(&options, provider),
    }
}

/// Receives what a process of its own sends, and says how many seconds it took.
fn receive(options: &Options, provider: Arc<CryptoProvider>) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let mut sender = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .args(["--to", &listener.local_addr()?.to_string()])
        .spawn()?;
    let (socket, _) = listener.accept()?;
    let chain =
        CertificateDer::pem_file_iter(&options.cert)?.collect::<std::result::Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&options.key)?)?;
    // The sender reads nothing.
    config.send_tls13_tickets = 0;
    let began = Instant::now();
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config))?, socket);
    let mut target = File::create(&options.target)?;
    copy(&mut stream, &mut target)?;
    target.sync_all()?;
    println!("{:.3}", began.elapsed().as_secs_f64());
    sender.wait()?;
    Ok(())
}

fn send(options: &Options, provider: Arc<CryptoProvider>, address: SocketAddr) -> Result<()> {
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let connection = ClientConnection::new(Arc::new(config), name)?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    copy(&mut File::open(&options.source)?, &mut stream)?;
    end(&mut stream)
}

/// Takes any server for the right one: it is this program.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            count => to.write_all(&piece[..count])?,
        }
    }
}

fn end<C, D>(stream: &mut StreamOwned<C, TcpStream>) -> Result<()>
where
    C: DerefMut + Deref<Target = ConnectionCommon<D>>,
    D: SideData,
{
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}
