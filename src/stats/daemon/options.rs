//! Options of `petrel-stats`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use super::INTERVAL;
use crate::self_metrics::address;
use crate::socket;

/// Gather what unikernels use, and hand it to clients.
#[derive(FromArgs, Debug)]
pub(super) struct Options {
    /// directory of sockets
    #[argh(
        option,
        arg_name = "directory",
        default = "PathBuf::from(socket::RUNTIME_DIRECTORY)"
    )]
    pub(super) tmpdir: PathBuf,

    /// seconds from one time that something is gathered to the next, 0.1 to 3600 (default 10)
    #[argh(
        option,
        arg_name = "seconds",
        default = "INTERVAL",
        from_str_fn(interval)
    )]
    pub(super) interval: Duration,

    /// rewrite this file for `node_exporter` each time
    #[argh(option, arg_name = "file")]
    pub(super) prometheus: Option<PathBuf>,

    /// gather counters of virtual machines, too; only FreeBSD has them
    #[argh(switch)]
    pub(super) gather_bhyve_stats: bool,

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

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0.1..=3600.0) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("'{text}' is no number of seconds from 0.1 to 3600")),
    }
}
