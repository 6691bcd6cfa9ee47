//! `petrel-tls`: a process for each TLS connection, which passes its request on to the daemons (WIRE 11, BEHAVIOUR 9).
//!
//! Only `tls.rs` uses the TLS library. It gives a verified path and a byte stream to the rest of the module.
#![forbid(unsafe_code)]

mod audit;
mod connection;
mod crl_files;
mod error;
mod expiry;
mod frames;
mod image;
mod listener;
mod options;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;
mod outcome;
mod relay;
mod revalidation;
mod slot_request;
mod slots;
mod source;
mod stream;
mod tls;

use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use log::{error, warn};
use rustls::pki_types::UnixTime;

use crate::command_line::{NO_LOG, USAGE};
use crate::daemon;
use crate::logging::{self, Destination, Verbosity};
use crate::sandbox::{self, Breach, Capability, Need};
use crate::socket::DIRECTORY;

pub use connection::{
    CLOSE_TIMEOUT, KEEP_ALIVE_IDLE_S, KEEP_ALIVE_INTERVAL_S, LINGER, Linger, SHORT_LINGER,
};
pub use crl_files::{MAX_CRLS, read_lists};
pub use error::EndpointError;
pub use expiry::EXPIRY_NOTICE;
use expiry::warn_of_expiry;
pub use frames::{Answers, RawStream, UploadError};
use listener::Program;
pub use listener::{BACKLOG, SHORTAGE};
pub use options::{
    HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, MAX_CONNECTIONS, MAX_HANDSHAKES, Options, SOURCES, TENANTS,
};
pub use outcome::{Fault, RequestEnd, Verdict};
pub use relay::{DAEMON_CONNECT, DAEMON_TIMEOUT, UPLOAD_STEP, relay};
pub use revalidation::RECHECK;
pub use slot_request::{LISTENER, SLOT_TIMEOUT};
pub use slots::{COMMAND_PART, SHORT_COMMAND_PART};
use source::{Source, leave_connection_alone, source};
pub use stream::SecureStream;
use tls::Credentials;

/// Capability of root that is kept, as the daemons' sockets belong to other users.
const PRIVILEGES: &[Capability] = &[Capability::AnyFile];

/// Runs the endpoint. Returns the exit code.
pub fn run(options: &Options) -> i32 {
    let started = Instant::now();
    let source = source(options);
    // inetd may have made the connection standard error, too, which log lines must not get into.
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
        Ok(Source::Connection(socket)) => connection::serve(&socket, options, started),
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

fn listen(listener: &TcpListener, options: &Options) -> Result<(), EndpointError> {
    // Each connection reads the files again. Errors in them are reported now.
    let credentials = Credentials::read(&options.ca, &options.certificate, &options.key)
        .map_err(EndpointError::Credentials)?;
    // CRLs that cannot be used refuse all clients, but can be corrected while the listener runs.
    let crl_files = options.crl_files();
    match crl_files.read(credentials.anchor(), UnixTime::now()) {
        Ok(loaded) => loaded.warn_of_others(),
        Err(error) => error!("{error}"),
    }
    if crl_files.is_empty() {
        warn!(
            "no CRL at '{}': no certificate counts as revoked until there is one",
            options.default_crl().display()
        );
    }
    warn_of_expiry(credentials.validities());
    credentials
        .check(&options.certificate, &options.key)
        .map_err(EndpointError::Credentials)?;
    let failed = |source| EndpointError::Listen {
        address: "the socket".to_owned(),
        source,
    };
    let program = Program {
        arguments: options::arguments(options, &crl_files),
        errors: !options.syslog,
    };
    warn_of_sockets(options);
    daemon::raise_descriptor_limit();
    sandbox::keep_only(PRIVILEGES);
    sandbox::confine(&[Need::Programs], Breach::Refuse);
    listener::serve(listener, &program, options::limits(options)).map_err(failed)
}

/// Warns if no command could reach a daemon now.
fn warn_of_sockets(options: &Options) {
    let directory = options.tmpdir.join(DIRECTORY);
    if let Err(error) = fs::metadata(&directory) {
        warn!(
            "cannot pass on commands: cannot open '{}' with the daemons' sockets: {error} (start petreld, or correct \
             --tmpdir)",
            directory.display()
        );
    }
}
