//! `petreld`: carries out what [`crate::supervisor`] decides, and tells it what happens.
//!
//! One thread with a loop around poll(2), signals through a pipe; another one changes what is on disk, and further ones
//! only wait for the kernel to forget a tap. Nothing here decides anything about unikernels.
#![deny(unsafe_code)]

mod bhyve;
mod block;
mod bridges;
mod check;
mod client_connection;
mod console;
pub mod disk_reserve;
mod event_loop;
mod images;
mod import;
mod outgoing;
mod preflight;
mod protection;
pub mod reexec;
pub mod resources;
pub mod run;
mod secret;
pub mod state_store;
mod statistics;
pub mod tap;
mod temporary_file;
mod tender;
pub mod transfer;
mod writer;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use self::block::BlockError;
use self::event_loop::Daemon;
use self::images::ImageError;
use self::resources::ResourceError;
use self::run::{RunError, TenderUsers};
use self::state_store::StoreError;
use self::tap::TapError;
use crate::logging::{self, Verbosity};
use crate::sandbox::{self, Capability};
use crate::self_metrics::address;
use crate::socket::ConnectionLimits;
use crate::supervisor::{DiskQuota, STOP_DEADLINE};
use crate::{command_line, daemon, name, socket};

pub use self::bhyve::VANISHING_STEP;
pub use self::client_connection::{ANSWER_STEP, IDLE, MAX_REQUEST};
pub use self::console::{ANSWER_DEADLINE as CONSOLE_DEADLINE, RETRY as CONSOLE_RETRY};
pub use self::statistics::{
    MAX_WAITING as MAX_STATISTICS_WAITING, REPLY_TIMEOUT as STATISTICS_REPLY_TIMEOUT,
};
pub use self::tender::{
    ADDRESS_SPACE_SLACK, HVT_PROCESSES, MACHINE_SLACK, OOM_SCORE, OPEN_FILES, PROBE_DEADLINE,
    PROBE_PAUSE, SPT_PROCESSES,
};

const PROGRAM: &str = "petreld";

/// Rights of root that are used, as in the unit of systemd; one that was started by hand gives up the others.
const PRIVILEGES: &[Capability] = &[
    Capability::Chown,
    Capability::AnyFile,
    Capability::Signals,
    Capability::Users,
    Capability::NetworkDevices,
];

/// Most clients at the same time; further ones wait until one is gone.
pub const MAX_CLIENTS: usize = 256;

/// Shares of users of these.
pub const CLIENT_LIMITS: ConnectionLimits = ConnectionLimits::of(MAX_CLIENTS);

/// Most clients whose requests are held at the same time beyond the size of an ordinary one: the others wait.
pub const MAX_LARGE: usize = 4;

/// Most images that are sent at the same time.
pub const MAX_IMAGES: usize = 32;

/// Most of them for one tenant, which is the first label of a path.
pub const MAX_IMAGES_OF_TENANT: usize = 4;

/// Size in bytes from which on a removed file is closed by a process of its own: freeing its disk space takes a while.
pub const LARGE_FILE: u64 = 16 << 20;

/// How long requests that are under way are waited for before this program is executed anew.
pub const RELOAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long nothing happens before it is taken for quiet.
pub const RELOAD_STEP: Duration = Duration::from_millis(20);

/// How often it is looked at whether the taps of unikernels are on their bridges.
pub const TAP_INTERVAL: Duration = Duration::from_secs(30);

/// Supervise Solo5 unikernels.
#[derive(FromArgs, Debug)]
struct Options {
    /// directory of sockets and fifos, which must exist (/run/petrel, on FreeBSD /var/run/petrel)
    #[argh(option, default = "PathBuf::from(socket::RUNTIME_DIRECTORY)")]
    tmpdir: PathBuf,
    /// directory of state and images (/var/lib/petrel, on FreeBSD /var/db/petrel)
    #[argh(option, default = "PathBuf::from(socket::DATABASE_DIRECTORY)")]
    dbdir: PathBuf,
    /// users of tenders, FIRST-LAST: each tender has one of its own after FIRST, which is the group of all
    #[argh(option)]
    tender_uids: Option<TenderUsers>,
    /// path whose unikernels can have ZFS volumes as block devices (FreeBSD)
    #[argh(option)]
    allow_zvol_for: Option<name::Path>,
    /// seconds between SIGTERM and SIGKILL for a tender that is to stop (10)
    #[argh(option, default = "STOP_DEADLINE", from_str_fn(seconds))]
    stop_deadline: Duration,
    /// disk space of images and console archives per policy, as a multiple of its memory (4, but at least 256 MB), or none
    #[argh(option, default = "DiskQuota::default()")]
    image_quota_factor: DiskQuota,
    /// MB of disk space that uploads and new block devices leave free (64)
    #[argh(option, default = "disk_reserve::DISK_RESERVE", from_str_fn(megabytes))]
    disk_reserve: u64,
    /// drop frames of unikernels with another source address than theirs; Linux only
    #[argh(switch)]
    lock_mac: bool,
    /// take the socket from systemd
    #[argh(switch)]
    systemd_socket_activation: bool,
    /// put the whole name, not just its label, into the guest's --name argument
    #[argh(switch)]
    no_drop_path: bool,
    /// tell what a start would do and what is wrong, and change nothing
    #[argh(switch)]
    check: bool,
    /// tell this collector of InfluxDB about the daemon itself, IP[:PORT] (port 8094)
    #[allow(rustdoc::broken_intra_doc_links, reason = "also the text of --help")]
    #[argh(option, from_str_fn(address))]
    influx: Option<SocketAddr>,
    /// log to the local syslog daemon
    #[argh(switch)]
    syslog: bool,
    /// log more; twice: everything
    #[argh(switch, short = 'v')]
    verbose: u8,
    /// log nothing
    #[argh(switch, short = 'q')]
    quiet: bool,
}

/// Why `petreld` does not start, or ends.
#[derive(Debug)]
pub enum HostError {
    /// A file or socket operation failed (what, on which path, why).
    File(&'static str, PathBuf, std::io::Error),
    /// A directory below the runtime directory cannot be made.
    Runtime(PathBuf, std::io::Error),
    /// The state.
    Store(StoreError),
    /// The image store.
    Images(ImageError),
    /// The block devices.
    Blocks(BlockError),
    /// What tenders run with.
    Runs(RunError),
    /// The taps of unikernels.
    Taps(TapError),
    /// What this host has.
    Resources(ResourceError),
    /// This program may not give unikernels ZFS volumes (why).
    Zvols(&'static str),
    /// Something else of the system's.
    System(&'static str, std::io::Error),
}

/// What a system has, or has not, whatever the options are.
#[derive(Clone, Debug)]
pub struct System {
    /// The directory with the devices of BHyve machines, or why it has none.
    pub machines: Result<PathBuf, &'static str>,
}

impl System {
    /// The one that this program is made for.
    pub fn this() -> Self {
        Self {
            machines: tender::MACHINES.map(PathBuf::from),
        }
    }
}

/// Runs `petreld` until it is told to end, and returns its exit code.
pub fn main() -> i32 {
    run(command_line::parse(PROGRAM), System::this())
}

/// The same on another system than this, for tests of what this one has not.
pub fn main_on(system: System, arguments: &[&str]) -> i32 {
    match Options::from_args(&[PROGRAM], arguments) {
        Ok(options) => run(options, system),
        Err(_) => command_line::USAGE,
    }
}

fn run(options: Options, system: System) -> i32 {
    let verbosity = Verbosity {
        quiet: options.quiet,
        verbose: options.verbose,
    };
    if let Err(code) = logging::start_daemon(PROGRAM, verbosity, options.syslog) {
        return code;
    }
    let done = absolute(options).and_then(|options| {
        if options.check {
            return Ok(check::check(&options, &system).tell());
        }
        sandbox::keep_only(PRIVILEGES);
        Daemon::start(options, system)?.run().map(|()| 0)
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            log::error!("{error}");
            command_line::USAGE
        }
    }
}

/// With directories that hold for tenders, which run in another directory than this process.
fn absolute(mut options: Options) -> Result<Options, HostError> {
    for directory in [&mut options.tmpdir, &mut options.dbdir] {
        *directory = std::path::absolute(&*directory)
            .map_err(|error| HostError::File("find", directory.clone(), error))?;
    }
    Ok(options)
}

/// Refuses ZFS volumes where there are none.
fn check_zvols(options: &Options) -> Result<(), HostError> {
    match (&options.allow_zvol_for, block::NO_ZVOLS) {
        (Some(_), Some(why)) => Err(HostError::Zvols(why)),
        _ => Ok(()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("'{text}' is no number of seconds from 1 to 3600")),
    }
}

fn megabytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(megabytes @ 0..=disk_reserve::MAX_DISK_RESERVE) => Ok(megabytes),
        _ => Err(format!(
            "invalid number of MB '{text}': expected 0 to {}",
            disk_reserve::MAX_DISK_RESERVE
        )),
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::Runtime(path, error) => daemon::explain_runtime_directory(f, path, error),
            Self::Store(error) => error.fmt(f),
            Self::Images(error) => error.fmt(f),
            Self::Blocks(error) => error.fmt(f),
            Self::Runs(error) => error.fmt(f),
            Self::Taps(error) => error.fmt(f),
            Self::Resources(error) => error.fmt(f),
            Self::Zvols(why) => write!(f, "--allow-zvol-for cannot be used: {why}"),
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for HostError {}
