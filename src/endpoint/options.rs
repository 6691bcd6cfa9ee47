//! Command line of `petrel-tls`.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use super::crl_files::CrlFiles;
use super::slots::ConnectionLimits;
use crate::socket::RUNTIME_DIRECTORY;

/// Default of `--max-connections`, for clients that are known.
pub const MAX_CONNECTIONS: usize = 64;

/// Number of tenants that can together take all connections, by the default of `--max-connections-per-tenant`.
pub const TENANTS: usize = 4;

/// Default of `--max-handshakes`, for clients that are not known yet.
pub const MAX_HANDSHAKES: usize = 64;

/// Number of sources that can together take all handshakes, by the default of `--max-connections-per-source`.
pub const SOURCES: usize = 4;

/// Default of `--handshake-timeout`, for the whole handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of `--idle-timeout`: time for each step of an upload, and for which a client may leave an answer unread.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Receive commands in certificates over TLS, and pass them on to the daemons of this host.
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

    /// use the socket passed by systemd; the default if there is one
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

    /// maximum number of connections of known clients when listening (64)
    #[argh(option, default = "MAX_CONNECTIONS", from_str_fn(connections))]
    pub max_connections: usize,

    /// maximum number of connections of one tenant, a path of one label (a quarter of all)
    #[argh(option, arg_name = "number", from_str_fn(connections))]
    pub max_connections_per_tenant: Option<usize>,

    /// maximum number of connections in the TLS handshake when listening (64)
    #[argh(option, default = "MAX_HANDSHAKES", from_str_fn(connections))]
    pub max_handshakes: usize,

    /// maximum number of handshakes of one address, or IPv6 network of 64 bits (a quarter of all)
    #[argh(option, arg_name = "number", from_str_fn(connections))]
    pub max_connections_per_source: Option<usize>,

    /// seconds for the TLS handshake (10)
    #[argh(option, default = "HANDSHAKE_TIMEOUT", from_str_fn(seconds))]
    pub handshake_timeout: Duration,

    /// seconds for 64 KiB of an upload (60)
    #[argh(option, default = "IDLE_TIMEOUT", from_str_fn(seconds))]
    pub idle_timeout: Duration,

    /// refuse certificates that the CRLs in this file revoke (PEM); may be repeated (CA with .crl for .pem, if it exists)
    #[argh(option, arg_name = "file")]
    pub crl: Vec<PathBuf>,

    /// use expired CRLs too, with a warning
    #[argh(switch)]
    pub accept_expired_crl: bool,

    /// the trusted certificate, an authority of all clients (PEM)
    #[argh(positional)]
    pub ca: PathBuf,

    /// the server's certificate, followed by intermediate ones (PEM)
    #[argh(positional)]
    pub certificate: PathBuf,

    /// the server's private key (PEM)
    #[argh(positional)]
    pub key: PathBuf,
}

impl Options {
    /// Default path of the CRL: that of the trusted certificate, with the suffix `.crl`.
    pub(super) fn default_crl(&self) -> PathBuf {
        self.ca.with_extension("crl")
    }

    /// Opens the CRLs of `--crl`. Without this option, the [default](Self::default_crl) file of `petrel revoke` is used
    /// once it exists, which each connection checks.
    pub(super) fn crl_files(&self) -> CrlFiles {
        let default = self.default_crl();
        let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        let exists = || !default.symlink_metadata().is_err_and(missing);
        if !self.crl.is_empty() || default == self.ca {
            CrlFiles::open(&self.crl, self.accept_expired_crl)
        } else if exists() {
            CrlFiles::open(&[default], self.accept_expired_crl)
        } else {
            CrlFiles::awaiting(default, self.accept_expired_crl)
        }
    }
}

/// Limits of a listener.
pub(super) fn limits(options: &Options) -> ConnectionLimits {
    let share = |given: Option<usize>, all: usize, parts| given.unwrap_or(all / parts).max(1);
    let (handshakes, places) = (options.max_handshakes, options.max_connections);
    ConnectionLimits {
        handshakes,
        handshakes_per_source: share(options.max_connections_per_source, handshakes, SOURCES),
        places,
        places_per_tenant: share(options.max_connections_per_tenant, places, TENANTS),
    }
}

/// Arguments of the process for one connection. A CRL that the listener has found must not be missing later.
pub(super) fn arguments(options: &Options, crl_files: &CrlFiles) -> Vec<OsString> {
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
    for file in crl_files.paths() {
        arguments.extend(["--crl".into(), file.into()]);
    }
    arguments.push("--".into());
    arguments.extend([&options.ca, &options.certificate, &options.key].map(OsString::from));
    arguments
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "invalid number of seconds '{text}': expected 1 to 86400"
        )),
    }
}

fn port(text: &str) -> Result<u16, String> {
    let wrong = |_| format!("invalid port '{text}': expected 0 to {}", u16::MAX);
    text.parse().map_err(wrong)
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=65_536) => Ok(count),
        _ => Err(format!("invalid number '{text}': expected 1 to 65536")),
    }
}
