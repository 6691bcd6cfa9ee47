//! Options of `petrel-console`, and the archives that they open.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use argh::FromArgs;

use crate::console::archive::Archive;
use crate::console::log_directory::{LOG_FILES, LOG_SIZE, Limits, LogDirectory};
use crate::console::log_quota::LOG_TENANT;
use crate::console::registry::SUBSCRIBERS;
use crate::console::syslog::{self, Syslog};
use crate::daemon::DaemonError;
use crate::self_metrics::address;
use crate::socket;

/// Keep the console output of unikernels and hand it to clients.
#[derive(FromArgs, Debug)]
pub(super) struct Options {
    /// directory of sockets and fifos
    #[argh(
        option,
        arg_name = "directory",
        default = "PathBuf::from(socket::RUNTIME_DIRECTORY)"
    )]
    pub(super) tmpdir: PathBuf,

    /// most subscribers of one console; a further one replaces the oldest (default 5)
    #[argh(
        option,
        arg_name = "number",
        default = "SUBSCRIBERS",
        from_str_fn(at_least_one)
    )]
    pub(super) max_subscribers: usize,

    /// write each console to a file in this directory
    #[argh(option, arg_name = "directory")]
    pub(super) log_dir: Option<PathBuf>,

    /// with --log-dir: most MiB of a file (default 10)
    #[argh(
        option,
        arg_name = "MiB",
        default = "LOG_SIZE",
        from_str_fn(at_least_one)
    )]
    pub(super) log_size: u64,

    /// with --log-dir: most files of a console (default 5)
    #[argh(
        option,
        arg_name = "number",
        default = "LOG_FILES",
        from_str_fn(at_least_one)
    )]
    pub(super) log_files: u32,

    /// with --log-dir: most MiB of all files of a tenant (default 4096)
    #[argh(
        option,
        arg_name = "MiB",
        default = "LOG_TENANT",
        from_str_fn(at_least_one)
    )]
    pub(super) log_tenant: u64,

    /// send the consoles to syslog
    #[argh(switch)]
    pub(super) syslog_consoles: bool,

    /// tell this collector of InfluxDB about the daemon itself, IP[:PORT] (port 8094)
    #[allow(rustdoc::broken_intra_doc_links, reason = "also the text of --help")]
    #[argh(option, arg_name = "address", from_str_fn(address))]
    pub(super) influx: Option<SocketAddr>,

    /// log to syslog
    #[argh(switch)]
    pub(super) syslog: bool,

    /// listen on the socket that systemd hands over
    #[argh(switch)]
    pub(super) systemd_socket_activation: bool,

    /// log more; twice for every detail
    #[argh(switch, short = 'v')]
    pub(super) verbose: u8,

    /// log nothing
    #[argh(switch, short = 'q')]
    pub(super) quiet: bool,
}

/// Error that ends the daemon.
#[derive(Debug)]
pub enum ConsoleError {
    /// Error that any daemon can have.
    Daemon(DaemonError),
    /// Files cannot be written to this directory.
    LogDirectory(PathBuf, io::Error),
    /// The local syslog daemon cannot be reached.
    Syslog(io::Error),
}

impl Options {
    pub(super) fn archives(&self) -> Result<Vec<Archive>, ConsoleError> {
        let mut archives = Vec::new();
        if let Some(path) = &self.log_dir {
            let limits = Limits {
                size: self.log_size.saturating_mul(1 << 20),
                files: self.log_files,
                tenant: self.log_tenant.saturating_mul(1 << 20),
            };
            let directory = LogDirectory::open(path, limits)
                .map_err(|error| ConsoleError::LogDirectory(path.clone(), error))?;
            archives.push(Archive::new(Box::new(directory)));
        }
        if self.syslog_consoles {
            let syslog = Syslog::connect(&syslog::SOCKETS).map_err(ConsoleError::Syslog)?;
            archives.push(Archive::new(Box::new(syslog)));
        }
        Ok(archives)
    }
}

fn at_least_one<N: FromStr + From<u8> + PartialOrd>(text: &str) -> Result<N, String> {
    match text.parse() {
        Ok(number) if number >= N::from(1) => Ok(number),
        _ => Err(format!("'{text}' is no number of at least 1")),
    }
}

impl fmt::Display for ConsoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(error) => error.fmt(f),
            Self::LogDirectory(path, error) => write!(
                f,
                "cannot use the directory {}: {error}; --log-dir makes it, but not the one that it is in",
                path.display()
            ),
            Self::Syslog(error) => write!(
                f,
                "cannot reach a syslog daemon at {}: {error}",
                syslog::SOCKETS.join(" or ")
            ),
        }
    }
}

impl std::error::Error for ConsoleError {}

impl From<DaemonError> for ConsoleError {
    fn from(error: DaemonError) -> Self {
        Self::Daemon(error)
    }
}
