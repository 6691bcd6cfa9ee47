//! The real `petrel-tls` between a TLS client and a daemon that says what each test needs.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::pki::{Authority, Directory, Identity};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use petrel::chain::verify::Anchor;
use petrel::client::tls::{ConnectError, Destination, TlsStream, connect_to};
use petrel::unikernel::{Config, FailBehaviour, Kind};
use petrel::wire::frame::{END, MAX_MESSAGE, read_frame, write_frame};
use petrel::wire::{Command, Header, Int, Message, Payload, Success, UnikernelCommand, VERSION};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// Most time that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_petrel-tls");

/// Record of a fatal alert, `protocol_version` (RFC 8446 6.2).
pub const PROTOCOL_VERSION_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

/// A root, a server certificate below it, and the directory of a host's daemons.
pub struct Host {
    pub directory: Directory,
    pub root: Authority,
}

pub struct Endpoint {
    pub child: Option<Child>,
    pub address: SocketAddr,
    pub anchor: Anchor,
    pub log: Receiver<String>,
    /// The process of `inetd`, once there is a connection.
    pub spawned: Option<Receiver<Child>>,
}

pub struct Daemon<T>(pub Receiver<T>);

pub type Unidentified = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

impl Host {
    pub fn new() -> Self {
        let directory = Directory::runtime();
        let root = Authority::root("root");
        let server = root.server();
        directory.write("ca.pem", &root.pem());
        directory.write("server.pem", &server.pem);
        directory.write("server.key", &server.key.serialize_pem());
        Self { directory, root }
    }

    pub fn program(&self, arguments: &[&str]) -> Process {
        let mut program = Process::new(PROGRAM);
        program
            .arg("--tmpdir")
            .arg(self.directory.root())
            .args(arguments)
            .args(
                ["ca.pem", "server.pem", "server.key"].map(|file| self.directory.root().join(file)),
            )
            .env_remove("JOURNAL_STREAM");
        program
    }

    /// `petrel-tls` that listens.
    pub fn listen(&self, arguments: &[&str]) -> Endpoint {
        self.listen_on(&[&["--ip", "127.0.0.1", "--port", "0"], arguments].concat())
    }

    /// The same on another address.
    pub fn listen_on(&self, arguments: &[&str]) -> Endpoint {
        let mut child = self
            .program(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        let announced = lines(child.stdout.take().unwrap())
            .recv_timeout(PATIENCE)
            .unwrap();
        let address = announced
            .strip_prefix("listening on ")
            .unwrap()
            .parse()
            .unwrap();
        Endpoint {
            child: Some(child),
            address,
            anchor: Anchor::new(&self.root.certificate()).unwrap(),
            log,
            spawned: None,
        }
    }

    /// A stand-in for inetd, which runs `petrel-tls` with the first connection as its standard input.
    pub fn inetd(&self, arguments: &[&str]) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut program = self.program(arguments);
        let (give, spawned) = channel();
        let (log_give, log) = channel();
        thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut child = program
                .stdin(Stdio::from(OwnedFd::from(socket)))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let stderr = child.stderr.take().unwrap();
            give.send(child).unwrap();
            forward(stderr, &log_give);
        });
        Endpoint {
            child: None,
            address,
            anchor: Anchor::new(&self.root.certificate()).unwrap(),
            log,
            spawned: Some(spawned),
        }
    }

    /// A daemon that serves one connection with `conversation`.
    pub fn daemon<T: Send + 'static>(
        &self,
        name: &str,
        conversation: impl FnOnce(UnixStream) -> T + Send + 'static,
    ) -> Daemon<T> {
        let path = self.directory.root().join(format!("util/{name}.sock"));
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let (done, result) = channel();
        thread::spawn(move || {
            let (connection, _) = listener.accept().unwrap();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = done.send(conversation(connection));
        });
        Daemon(result)
    }

    /// A daemon that answers one request.
    pub fn answering(&self, name: &str, payload: Payload) -> Daemon<()> {
        self.daemon(name, |mut connection| {
            let request = receive(&mut connection);
            reply(&mut connection, &request, payload);
        })
    }
}

impl<T> Daemon<T> {
    pub fn wait(self) -> T {
        self.0.recv_timeout(PATIENCE).unwrap()
    }
}

impl Endpoint {
    pub fn connect(&self, identity: &Identity) -> Result<TlsStream, ConnectError> {
        connect(self.address, identity, self.anchor.clone())
    }

    pub fn tcp(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// A connection from another address of this host.
    #[cfg(target_os = "linux")]
    pub fn tcp_from(&self, address: [u8; 4]) -> TcpStream {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
        };
        use std::os::fd::AsRawFd;
        let own = SocketAddr::from((address, 0));
        let flags = SockFlag::SOCK_CLOEXEC;
        let client = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        bind(client.as_raw_fd(), &SockaddrStorage::from(own)).unwrap();
        connect(client.as_raw_fd(), &SockaddrStorage::from(self.address)).unwrap();
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    }

    /// Why the endpoint does not answer this client.
    pub fn rejection(&self, identity: &Identity) -> ConnectError {
        match self.connect(identity) {
            Err(error) => error,
            Ok(mut client) => client.read(&mut [0]).expect_err("accepted").into(),
        }
    }

    /// The error of a client that is set up by hand.
    pub fn raw_error(&self, identify: impl FnOnce(Unidentified) -> ClientConfig) -> io::Error {
        let builder = ClientConfig::builder_with_provider(petrel::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAll));
        let config = identify(builder);
        let name = ServerName::IpAddress(self.address.ip().into());
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut socket = self.tcp();
        rustls::Stream::new(&mut connection, &mut socket)
            .read(&mut [0])
            .expect_err("accepted")
    }

    /// The next log line with this text.
    pub fn log(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).expect("no such log line");
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn take_spawned(&self) -> Child {
        let spawned = self.spawned.as_ref().unwrap();
        spawned.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A client that does not look at the server's certificate.
#[derive(Debug)]
pub struct TrustsAll;

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(petrel::tls::not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        petrel::tls::algorithms().supported_schemes()
    }
}

pub fn connect(
    address: SocketAddr,
    identity: &Identity,
    anchor: Anchor,
) -> Result<TlsStream, ConnectError> {
    let destination = Destination {
        host: address.ip().to_string(),
        port: address.port(),
    };
    let client = connect_to(
        &destination,
        identity.chain.clone(),
        identity.key_der(),
        vec![anchor],
    )?;
    let limit = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
    setsockopt(&client, ReceiveTimeout, &limit).unwrap();
    Ok(client)
}

pub fn info() -> Command {
    Command::Unikernel(UnikernelCommand::Info(()))
}

/// A small unikernel.
pub fn config() -> Config {
    Config {
        kind: Kind::Solo5,
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpus: [0].into(),
        memory: 32,
        blocks: Vec::new(),
        nets: Vec::new(),
        arguments: Vec::new(),
        vcpus: 1,
        linux_boot_partition: None,
    }
}

/// Create with an image that follows.
pub fn create() -> Command {
    let config = config();
    Command::Unikernel(UnikernelCommand::Create(config.to_wire(false, Vec::new())))
}

pub fn success() -> Payload {
    Payload::Reply(Success::String("done".into()))
}

pub fn failure(text: &str) -> Payload {
    Payload::Failure(text.into())
}

pub fn failure_text(message: &Message) -> String {
    match &message.payload {
        Payload::Failure(text) => text.to_lossy(),
        other => panic!("no failure: {other:?}"),
    }
}

pub fn read_message(reader: &mut impl Read) -> Option<Message> {
    let content = read_frame(reader, MAX_MESSAGE).unwrap()?;
    Some(Message::decode(&content).unwrap())
}

/// A request, read by the daemon.
pub fn receive(connection: &mut UnixStream) -> Message {
    read_message(connection).expect("the connection ended")
}

pub fn reply(connection: &mut UnixStream, request: &Message, payload: Payload) {
    let header = Header {
        version: Int::new(VERSION),
        ..request.header.clone()
    };
    let answer = Message::answer(header, payload).encode().unwrap();
    write_frame(connection, &answer).unwrap();
}

/// The chunks of an upload; `None` if the connection ends before the marker.
pub fn receive_upload(connection: &mut UnixStream) -> Option<Vec<Vec<u8>>> {
    let mut chunks = Vec::new();
    loop {
        let mut prefix = [0; 4];
        connection.read_exact(&mut prefix).ok()?;
        if prefix == END {
            return Some(chunks);
        }
        let mut chunk = vec![0; u32::from_be_bytes(prefix) as usize];
        connection.read_exact(&mut chunk).ok()?;
        chunks.push(chunk);
    }
}

/// A `ClientHello` that knows nothing newer than TLS 1.2 (RFC 5246 7.4.1.2).
pub fn tls12_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 29, // supported_groups: x25519
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut hello = vec![3, 3];
    hello.extend([0x5a; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

/// Whether somebody who speaks TLS is at the other end, and did not close at once.
pub fn greets(client: &mut TcpStream) -> bool {
    let asked = client.write_all(&tls12_hello());
    asked.is_ok() && matches!(client.read(&mut [0; 7]), Ok(1..))
}

/// The greatest resident memory of a process so far, in KiB.
#[cfg(target_os = "linux")]
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("the process is gone");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn lines(reader: impl Read + Send + 'static) -> Receiver<String> {
    let (give, lines) = channel();
    thread::spawn(move || forward(reader, &give));
    lines
}

pub fn forward(reader: impl Read, lines: &Sender<String>) {
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// How the process ends; it must do so by itself.
pub fn wait_for_exit(mut child: Child) -> ExitStatus {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, ended) = channel();
    thread::spawn(move || done.send(child.wait().unwrap()));
    ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _ = kill(pid, Signal::SIGKILL);
        panic!("process {pid} does not end");
    })
}

/// Answers every request of a connection with a success, policies included.
pub fn answer_all(mut connection: UnixStream) {
    while let Some(request) = read_message(&mut connection) {
        let is_policy = matches!(
            request.payload,
            Payload::Command(Command::Policy(petrel::wire::PolicyCommand::SetChain(_)))
        );
        reply(&mut connection, &request, success());
        if !is_policy {
            return;
        }
    }
}
