//! A bare TLS server that runs one process a connection.
//!
//! The least that such a server can do, in the way `petrel-tls` does it: accept, start a process with the socket as its
//! standard input, read PEM files, verify the client, echo a few bytes, end.
#![allow(clippy::print_stdout)]

use argh::FromArgs;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes that are echoed.
const MESSAGE: usize = 32;

/// echo over mutual TLS 1.3, one process a connection
#[derive(FromArgs)]
struct Options {
    /// serve the one connection on standard input (the server starts this)
    #[argh(switch)]
    connection: bool,
    /// PEM file of the authority that signed the peer's certificate
    #[argh(positional)]
    ca: String,
    /// PEM file of the own certificate
    #[argh(positional)]
    cert: String,
    /// PEM file of the own private key
    #[argh(positional)]
    key: String,
}

fn main() -> Result<()> {
    let options: Options = argh::from_env();
    if options.connection {
        serve_one(&options)
    } else {
        serve(&options)
    }
}

fn serve(options: &Options) -> Result<()> {
    let program = std::env::current_exe()?;
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("listening on {}", listener.local_addr()?);
    let mut children: Vec<Child> = Vec::new();
    loop {
        let (socket, _) = listener.accept()?;
        let mut command = Command::new(&program);
        command
            .args(["--connection", &options.ca, &options.cert, &options.key])
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::null());
        children.push(command.spawn()?);
        // Earlier ones have ended by now; collecting them here costs the next client nothing.
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

fn serve_one(options: &Options) -> Result<()> {
    let socket = TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nodelay(true)?;
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.ca)? {
        roots.add(certificate)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
    let key = PrivateKeyDer::from_pem_file(&options.key)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&options.cert)?, key)?;
    config.send_tls13_tickets = 0;
    let connection = ServerConnection::new(Arc::new(config))?;
    let mut stream = StreamOwned::new(connection, socket);

    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message)?;
    stream.write_all(&message)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_file_iter(path)?.collect::<std::result::Result<_, _>>()?)
}
