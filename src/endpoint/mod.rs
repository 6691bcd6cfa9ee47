//! `petrel-tls`: one TLS connection a process, its request passed on to the daemons (WIRE 11, BEHAVIOUR 9).
//!
//! A TLS library turns up in `tls.rs` only: it hands out a verified path and a byte stream, and the rest of the room
//! goes on from there.
#![forbid(unsafe_code)]

mod audit;
mod crl_files;
mod expiry;
mod frames;
mod image;
mod listener;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;
mod outcome;
mod relay;
mod revalidation;
mod slot_request;
mod slots;
mod stream;
mod tls;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argh::FromArgs;
use log::{error, warn};
use nix::sys::socket::sockopt::{AcceptConn, KeepAlive, SockType, TcpKeepIdle, TcpKeepInterval};
use nix::sys::socket::{getsockopt, setsockopt};
use nix::sys::stat::{FileStat, fstat};
use rustls::pki_types::UnixTime;

use crate::chain::{self, Answer, Request};
use crate::command_line::{NO_LOG, USAGE};
use crate::daemon;
use crate::logging::{self, Destination, Verbosity};
use crate::name::Name;
use crate::sandbox::{self, Breach, Capability, Need};
use crate::socket::{DIRECTORY, Directory, RUNTIME_DIRECTORY};
use crate::tls::PORT;
use crate::wire::Command;

use audit::{Audit, Outcome};
use crl_files::CrlFiles;
pub use crl_files::{EXPIRY_NOTICE, MAX_CRLS, read_lists};
use expiry::Validity;
pub use frames::{Answers, RawStream, UploadError};
use listener::Program;
pub use listener::{BACKLOG, SHORTAGE};
pub use outcome::{Fault, RequestEnd, Verdict};
pub use relay::{DAEMON_CONNECT, DAEMON_TIMEOUT, UPLOAD_STEP, relay};
pub use revalidation::RECHECK;
use revalidation::Revalidation;
use slot_request::Slot;
pub use slot_request::{LISTENER, PLACE_TIMEOUT};
pub use slots::{COMMAND_PART, SHORT_COMMAND_PART};
use slots::{ConnectionKind, ConnectionLimits};
pub use stream::SecureStream;

/// Default of `--max-connections`, of clients that are known.
pub const MAX_CONNECTIONS: usize = 64;

/// Number of tenants that together may have all connections, by the default of `--max-connections-per-tenant`.
pub const TENANTS: usize = 4;

/// Default of `--max-handshakes`, of clients that are not known yet.
pub const MAX_HANDSHAKES: usize = 64;

/// Number of sources that together may have all handshakes, by the default of `--max-connections-per-source`.
pub const SOURCES: usize = 4;

/// Default of `--handshake-timeout`, for the whole handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of `--idle-timeout`: how long [`UPLOAD_STEP`] may take, and an answer may wait to be taken.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last message to a peer may take.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time and bytes for which a peer that still sends an upload is listened to after its answer.
pub const LINGER: (Duration, u64) = (Duration::from_secs(10), 1 << 30);

/// Time and bytes for which a peer is listened to that has nothing to send: after a handshake that failed, and after the
/// answer to a command without an upload.
pub const SHORT_LINGER: (Duration, u64) = (Duration::from_secs(1), 1 << 16);

/// After how many seconds of silence the kernel asks whether the peer is still there, and how often.
pub const KEEP_ALIVE: (u32, u32) = (60, 15);

/// Rights of root that are used: the daemons' sockets are those of other users.
const PRIVILEGES: &[Capability] = &[Capability::AnyFile];

/// Take commands in certificates over TLS, and pass them on to the daemons of this host.
#[derive(FromArgs, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub struct Options {
    /// listen on this address (:: for all, the default)
    #[argh(option)]
    pub ip: Option<IpAddr>,

    /// listen on this TCP port (1025); 0 for any, which is printed
    #[argh(option, from_str_fn(port))]
    pub port: Option<u16>,

    /// serve the one connection that is standard input; the default if it is a connection
    #[argh(switch)]
    pub inetd: bool,

    /// use the socket that systemd hands over; the default if it does
    #[argh(switch)]
    pub systemd_socket_activation: bool,

    /// log to syslog instead of standard error
    #[argh(switch)]
    pub syslog: bool,

    /// log nothing
    #[argh(switch, short = 'q')]
    pub quiet: bool,

    /// log more; twice for everything
    #[argh(switch, short = 'v')]
    pub verbose: u8,

    /// directory of the daemons' sockets (/run/petrel, /var/run/petrel on FreeBSD)
    #[argh(option, default = "PathBuf::from(RUNTIME_DIRECTORY)")]
    pub tmpdir: PathBuf,

    /// most connections of known clients at a time when listening (64)
    #[argh(option, default = "MAX_CONNECTIONS", from_str_fn(connections))]
    pub max_connections: usize,

    /// most connections of one tenant, a path of one label, at a time (a quarter of all)
    #[argh(option, arg_name = "number", from_str_fn(connections))]
    pub max_connections_per_tenant: Option<usize>,

    /// most connections in the TLS handshake at a time when listening (64)
    #[argh(option, default = "MAX_HANDSHAKES", from_str_fn(connections))]
    pub max_handshakes: usize,

    /// most handshakes of one address, or IPv6 network of 64 bits, at a time (a quarter of all)
    #[argh(option, arg_name = "number", from_str_fn(connections))]
    pub max_connections_per_source: Option<usize>,

    /// seconds for the TLS handshake (10)
    #[argh(option, default = "HANDSHAKE_TIMEOUT", from_str_fn(seconds))]
    pub handshake_timeout: Duration,

    /// seconds that 64 KiB of an upload may take (60)
    #[argh(option, default = "IDLE_TIMEOUT", from_str_fn(seconds))]
    pub idle_timeout: Duration,

    /// refuse what the CRLs in this file revoke (PEM); any number of files (CA with .crl for .pem, if it is there)
    #[argh(option, arg_name = "file")]
    pub crl: Vec<PathBuf>,

    /// use CRLs that have expired, too, with a warning
    #[argh(switch)]
    pub accept_expired_crl: bool,

    /// the one certificate that client certificates must lead to (PEM)
    #[argh(positional)]
    pub ca: PathBuf,

    /// the server's certificate, perhaps with intermediate ones (PEM)
    #[argh(positional)]
    pub certificate: PathBuf,

    /// the server's private key (PEM)
    #[argh(positional)]
    pub key: PathBuf,
}

/// Why there is nothing to serve.
#[derive(Debug)]
pub enum EndpointError {
    /// Two options that exclude each other.
    Contradiction(&'static str, &'static str),
    /// Standard input was to be a socket.
    NoSocket(io::Error),
    /// Socket activation was asked for, but no socket is there.
    NotActivated,
    /// The handed over socket cannot be used.
    Activation(io::Error),
    /// Cannot listen.
    Listen(String, io::Error),
    /// Certificates or key.
    Credentials(tls::CredentialsError),
}

/// Where connections come from.
enum Source {
    /// One is here.
    Connection(TcpStream),
    /// They come in here.
    Listener(TcpListener),
}

impl Options {
    /// Path of the CRL that belongs to the trusted certificate by its name.
    fn crl_beside(&self) -> PathBuf {
        self.ca.with_extension("crl")
    }

    /// The CRLs that were asked for. If none were, a file beside the trusted certificate counts, which `petrel revoke`
    /// writes by default: it is looked for at each connection.
    fn lists(&self) -> CrlFiles {
        let beside = self.crl_beside();
        let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        let is_there = || !beside.symlink_metadata().is_err_and(missing);
        if !self.crl.is_empty() || beside == self.ca {
            CrlFiles::open(&self.crl, self.accept_expired_crl)
        } else if is_there() {
            CrlFiles::open(&[beside], self.accept_expired_crl)
        } else {
            CrlFiles::awaiting(beside, self.accept_expired_crl)
        }
    }
}

/// Runs the endpoint to its end; the exit code.
pub fn run(options: &Options) -> i32 {
    let started = Instant::now();
    let source = source(options);
    // Where inetd made the connection standard error, too, log lines must not get into it.
    let usable = !matches!(source, Ok(Source::Connection(_))) || leave_connection_alone();
    let logged = if options.syslog {
        start_logging(options, Destination::Syslog)
    } else if usable {
        start_logging(options, Destination::StandardError)
    } else {
        start_logging(options, Destination::Syslog)
            .or_else(|_| start_logging(options, Destination::Nowhere))
    };
    if let Err(error) = logged {
        eprintln!("petrel-tls: {error}");
        return NO_LOG;
    }
    let outcome = match source {
        Ok(Source::Connection(socket)) => serve(&socket, options, started),
        Ok(Source::Listener(listener)) => listen(&listener, options),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            error!("{error}");
            USAGE
        }
    }
}

fn start_logging(options: &Options, destination: Destination) -> Result<(), logging::LoggingError> {
    let verbosity = Verbosity {
        quiet: options.quiet,
        verbose: options.verbose,
    };
    logging::start("petrel-tls", verbosity, destination)
}

fn source(options: &Options) -> Result<Source, EndpointError> {
    let listens = options.ip.is_some() || options.port.is_some();
    for (given, option) in [
        (options.inetd, "--inetd"),
        (
            options.systemd_socket_activation,
            "--systemd-socket-activation",
        ),
    ] {
        if given && listens {
            return Err(EndpointError::Contradiction("--ip and --port", option));
        }
    }
    if options.inetd && options.systemd_socket_activation {
        return Err(EndpointError::Contradiction(
            "--inetd",
            "--systemd-socket-activation",
        ));
    }
    if options.inetd {
        return standard_input()
            .map(Source::Connection)
            .map_err(EndpointError::NoSocket);
    }
    if !listens {
        if !options.systemd_socket_activation
            && let Ok(socket) = standard_input()
            && socket.peer_addr().is_ok()
        {
            return Ok(Source::Connection(socket));
        }
        match os::passed_socket().map_err(EndpointError::Activation)? {
            Some(socket) => return passed(socket).map_err(EndpointError::Activation),
            None if options.systemd_socket_activation => return Err(EndpointError::NotActivated),
            None => {}
        }
    }
    let port = options.port.unwrap_or(PORT);
    let (listener, address) = match options.ip {
        Some(ip) => (
            listener::listen_on((ip, port).into()),
            std::net::SocketAddr::from((ip, port)).to_string(),
        ),
        None => (listener::listen_everywhere(port), format!("port {port}")),
    };
    listener
        .map(Source::Listener)
        .map_err(|error| EndpointError::Listen(address, error))
}

/// Standard input, if it is a stream socket that does not listen.
fn standard_input() -> io::Result<TcpStream> {
    let input = io::stdin();
    if getsockopt(&input, SockType)? != nix::sys::socket::SockType::Stream
        || getsockopt(&input, AcceptConn)?
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(input.as_fd().try_clone_to_owned()?.into())
}

fn passed(socket: OwnedFd) -> io::Result<Source> {
    Ok(if getsockopt(&socket, AcceptConn)? {
        Source::Listener(socket.into())
    } else {
        Source::Connection(socket.into())
    })
}

/// Makes standard output and standard error harmless where they are the same socket as standard input; whether
/// standard error is something else, and of use.
fn leave_connection_alone() -> bool {
    let file = |status: Result<FileStat, _>| status.ok().map(|s| (s.st_dev, s.st_ino));
    let connection = file(fstat(io::stdin()));
    if connection.is_none() {
        return true;
    }
    let output = file(fstat(io::stdout())) == connection;
    let errors = file(fstat(io::stderr())) == connection;
    if (output || errors)
        && let Ok(null) = File::options().write(true).open("/dev/null")
    {
        // Nothing is written to them knowingly, so a failure changes nothing.
        if output {
            let _ = nix::unistd::dup2_stdout(&null);
        }
        if errors {
            let _ = nix::unistd::dup2_stderr(&null);
        }
    }
    !errors
}

fn listen(listener: &TcpListener, options: &Options) -> Result<(), EndpointError> {
    // Each connection reads the files anew. What is wrong with them should turn up now.
    let credentials = credentials(options)?;
    // CrlFiles that cannot be used refuse everything, which may be mended while this goes on.
    let lists = options.lists();
    match lists.read(credentials.anchor(), UnixTime::now()) {
        Ok(found) => found.warn_of_others(),
        Err(error) => error!("{error}"),
    }
    if lists.is_empty() {
        warn!(
            "no CRL at '{}': no certificate counts as revoked until there is one",
            options.crl_beside().display()
        );
    }
    warn_of_expiry(credentials.validities());
    credentials
        .check(&options.certificate, &options.key)
        .map_err(EndpointError::Credentials)?;
    let failed = |error| EndpointError::Listen("the socket".to_owned(), error);
    let program = Program {
        arguments: arguments(options, &lists),
        errors: !options.syslog,
    };
    warn_of_sockets(options);
    daemon::raise_descriptor_limit();
    sandbox::keep_only(PRIVILEGES);
    sandbox::confine(&[Need::Programs], Breach::Refuse);
    listener::serve(listener, &program, limits(options)).map_err(failed)
}

/// Warns of the own certificates that have expired or are about to.
fn warn_of_expiry(certificates: &[Validity]) {
    let now = UnixTime::now();
    for warning in certificates.iter().filter_map(|one| one.warning(now)) {
        warn!("{warning}");
    }
}

/// Says that no command could reach a daemon, where that is so now.
fn warn_of_sockets(options: &Options) {
    let directory = options.tmpdir.join(DIRECTORY);
    if let Err(error) = fs::metadata(&directory) {
        warn!(
            "commands cannot be passed on: cannot look into '{}' for the daemons' sockets: {error} (start petreld, or \
             correct --tmpdir)",
            directory.display()
        );
    }
}

fn limits(options: &Options) -> ConnectionLimits {
    let share = |given: Option<usize>, all: usize, parts| given.unwrap_or(all / parts).max(1);
    let (handshakes, places) = (options.max_handshakes, options.max_connections);
    ConnectionLimits {
        handshakes,
        handshakes_per_source: share(options.max_connections_per_source, handshakes, SOURCES),
        places,
        places_per_tenant: share(options.max_connections_per_tenant, places, TENANTS),
    }
}

/// The command line of the process for one connection. A CRL that the listener has found must not be missing later.
fn arguments(options: &Options, lists: &CrlFiles) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "--inetd".into(),
        "--tmpdir".into(),
        options.tmpdir.clone().into(),
        "--handshake-timeout".into(),
        options.handshake_timeout.as_secs().to_string().into(),
        "--idle-timeout".into(),
        options.idle_timeout.as_secs().to_string().into(),
    ];
    for (given, option) in [
        (options.syslog, "--syslog"),
        (options.quiet, "--quiet"),
        (options.verbose >= 1, "--verbose"),
        (options.verbose >= 2, "--verbose"),
        (options.accept_expired_crl, "--accept-expired-crl"),
    ] {
        if given {
            arguments.push(option.into());
        }
    }
    for file in lists.paths() {
        arguments.extend(["--crl".into(), file.into()]);
    }
    arguments.push("--".into());
    arguments.extend([&options.ca, &options.certificate, &options.key].map(OsString::from));
    arguments
}

fn credentials(options: &Options) -> Result<tls::Credentials, EndpointError> {
    tls::Credentials::read(&options.ca, &options.certificate, &options.key)
        .map_err(EndpointError::Credentials)
}

/// Serves one connection, to whatever end: that is in the log, and no fault of this process.
fn serve(socket: &TcpStream, options: &Options, started: Instant) -> Result<(), EndpointError> {
    let peer = socket.peer_addr().map(listener::address);
    let audit = Audit::new(peer.as_deref().unwrap_or("unknown"), started);
    let credentials = match credentials(options) {
        Ok(credentials) => credentials,
        Err(error) => {
            audit.write(Outcome::Broken, &error.to_string());
            return Err(error);
        }
    };
    let lists = options.lists();
    let sockets = Directory::open(&options.tmpdir);
    let place = Slot::of_listener();
    sandbox::keep_only(PRIVILEGES);
    // All is open, and nothing of the peer's has been read yet.
    let needs: Vec<_> = lists.needs().chain([sockets.need()]).collect();
    sandbox::confine(&needs, Breach::Kill);
    let at_hand = Preopened {
        credentials,
        lists: Arc::new(lists),
        sockets,
        place,
    };
    converse(socket, options, at_hand, started, audit);
    Ok(())
}

/// What the process of a connection has opened before it cannot any more.
struct Preopened {
    credentials: tls::Credentials,
    lists: Arc<CrlFiles>,
    sockets: Directory,
    place: Slot,
}

fn converse(
    socket: &TcpStream,
    options: &Options,
    at_hand: Preopened,
    started: Instant,
    mut audit: Audit,
) {
    let Preopened {
        credentials,
        lists,
        sockets,
        place,
    } = at_hand;
    let deadline = started + options.handshake_timeout;
    if let Err(error) = prepare(socket) {
        return audit.write(Outcome::Gone, &format!("connection lost: {error}"));
    }
    let anchor = credentials.anchor().clone();
    let validities = credentials.validities().to_vec();
    let accepted = match tls::accept(socket, credentials, lists.clone(), deadline) {
        Ok(accepted) => {
            warn_of_expiry(&validities);
            accepted
        }
        Err(error) => {
            if error.why.is_about_our_certificate() {
                warn_of_expiry(&validities);
            }
            let _ = socket.shutdown(Shutdown::Write);
            if let Some(leaf) = &error.unverified {
                audit.unverified(leaf);
            }
            let outcome = match error.why {
                tls::HandshakeFailure::Gone(_) | tls::HandshakeFailure::TooSlow => Outcome::Gone,
                tls::HandshakeFailure::Setup(_) => Outcome::Broken,
                _ => Outcome::Refused,
            };
            audit.write(outcome, &error.why.to_string());
            if !matches!(error.why, tls::HandshakeFailure::Gone(_)) {
                linger(socket, SHORT_LINGER);
            }
            return;
        }
    };
    let tls::Accepted {
        path,
        doubt,
        mut stream,
    } = accepted;
    audit.certificates(&path);
    let (name, end, listening) = match admitted(&path, doubt, place, &mut audit) {
        Ok(request) => {
            let standing = Revalidation::new(path, anchor, lists);
            let idle = options.idle_timeout;
            let (end, kept) = relay(&mut stream, &request, &sockets, idle, &standing);
            audit.kept(&kept);
            let listening = if chain::is_followed_by_stream(&request.command) {
                LINGER
            } else {
                SHORT_LINGER
            };
            (request.name, end, listening)
        }
        // It has no place, which others could miss.
        Err((name, reason)) => (name, RequestEnd::Failure(Fault::Request, reason), LINGER),
    };
    let told = match &end {
        RequestEnd::Answered(_) => farewell(&mut stream, &[]),
        RequestEnd::Failure(_, text) => farewell(&mut stream, &relay::failure(&name, text)),
        // Without close_notify the client knows that something is missing.
        RequestEnd::ClientGone(_) | RequestEnd::Broken => Ok(()),
    };
    let _ = socket.shutdown(Shutdown::Write);
    let (outcome, reason) = audit::verdict(&end);
    match told {
        Err(error) => audit.write(outcome, &format!("{reason}; not delivered: {error}")),
        Ok(()) => audit.write(outcome, reason),
    }
    if matches!(end, RequestEnd::Answered(_) | RequestEnd::Failure(..)) {
        linger(socket, listening);
    }
}

/// Returns what the verified path asks for, unless the path is in doubt or there is no place; otherwise whom it is about,
/// and why.
fn admitted(
    path: &[impl AsRef<[u8]>],
    doubt: Option<String>,
    place: Slot,
    audit: &mut Audit,
) -> Result<Request, (Name, String)> {
    let request = chain::request(path)
        .map_err(|error| (error.name(), format!("certificates refused: {error}")))?;
    audit.request(&request);
    if let Some(reason) = doubt {
        let why = format!("no certificate is accepted, as revoked ones cannot be told: {reason}");
        return Err((request.name, why));
    }
    match place.ask(&request.name.path().tenant(), occupation(&request.command)) {
        Ok(()) => Ok(request),
        Err(reason) => Err((request.name, reason)),
    }
}

/// Occupation of the connection that carries this command.
fn occupation(command: &Command) -> ConnectionKind {
    if chain::route(command).answer == Answer::Subscription {
        ConnectionKind::Stream
    } else if chain::is_followed_by_stream(command) || chain::is_answered_by_content(command) {
        ConnectionKind::Transfer
    } else {
        ConnectionKind::Command
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // A subscriber that is gone without a word is noticed by nothing else. A socket that is not TCP has no such
    // options and needs none.
    if socket.set_nodelay(true).is_ok() {
        setsockopt(&socket, KeepAlive, &true)?;
        setsockopt(&socket, TcpKeepIdle, &KEEP_ALIVE.0)?;
        setsockopt(&socket, TcpKeepInterval, &KEEP_ALIVE.1)?;
    }
    Ok(())
}

fn farewell(stream: &mut impl SecureStream, bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    stream::write_all(stream, bytes, deadline)?;
    stream.close();
    stream::write_all(stream, &[], deadline)
}

fn linger(socket: &TcpStream, (time, bytes): (Duration, u64)) {
    stream::drain(socket, Instant::now() + time, bytes);
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("'{text}' is no number of seconds from 1 to 86400")),
    }
}

fn port(text: &str) -> Result<u16, String> {
    let wrong = |_| format!("invalid port '{text}': expected 0 to {}", u16::MAX);
    text.parse().map_err(wrong)
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=65_536) => Ok(count),
        _ => Err(format!("'{text}' is no number from 1 to 65536")),
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradiction(one, other) => write!(f, "{one} and {other} exclude each other"),
            Self::NoSocket(_) => f.write_str("--inetd: standard input is no connection"),
            Self::NotActivated => {
                f.write_str("--systemd-socket-activation: no socket was handed over")
            }
            Self::Activation(error) => write!(f, "the socket that was handed over: {error}"),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Credentials(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for EndpointError {}
