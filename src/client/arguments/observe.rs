//! Commands about consoles and statistics.

use std::path::PathBuf;

use argh::FromArgs;
use time::OffsetDateTime;

use super::{Common, DestinationOptions, ToDaemon};
use crate::authority::KeyType;
use crate::client::values::{Verbosity, color, number, path, process, since, tap, verbosity};
use crate::name::{Name, Path};
use crate::wire::BridgeTap;

command_to_daemon! {
    /// Show the console of a unikernel, and follow it.
    Console, "console", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
        /// lines of history (20)
        #[argh(option, default = "20", from_str_fn(number))]
        pub(in crate::client) count: u32,
        /// history since this time (RFC 3339) or date, instead of --count
        #[argh(option, from_str_fn(since))]
        pub(in crate::client) since: Option<OffsetDateTime>,
        /// exit when the run ends; default on a local socket
        #[argh(switch)]
        pub(in crate::client) follow: bool,
        /// print the history only
        #[argh(switch)]
        pub(in crate::client) no_follow: bool,
    }
}

command_to_daemon! {
    /// List the consoles of unikernels that have ended.
    InactiveConsoles, "inactive-consoles", {
        /// path and everything below it (:)
        #[argh(option, short = 'p', default = "Path::ROOT", from_str_fn(path))]
        pub(in crate::client) path: Path,
    }
}

command_to_daemon! {
    /// Follow the statistics of unikernels.
    Stats, "stats", {
        /// unikernel, or path and everything below it (:)
        #[argh(option, short = 'n', default = "Name::default()")]
        pub(in crate::client) name: Name,
        /// print a line of JSON per sample, instead of text or a table
        #[argh(switch)]
        pub(in crate::client) json: bool,
    }
}

command_to_daemon! {
    /// Observe a process; local socket only.
    StatsAdd, "stats-add", {
        /// process id of the tender
        #[argh(positional, from_str_fn(process))]
        pub(in crate::client) pid: u32,
        /// name of the process in statistics (:)
        #[argh(option, short = 'n', default = "Name::default()")]
        pub(in crate::client) name: Name,
        /// device of FreeBSD's vmm
        #[argh(option, default = "String::new()")]
        pub(in crate::client) vmmdev: String,
        /// network device and its tap, BRIDGE:TAP, repeatable
        #[argh(option, from_str_fn(tap))]
        pub(in crate::client) bridge: Vec<BridgeTap>,
    }
}

command_to_daemon! {
    /// Stop observing a process; local socket only.
    StatsRemove, "stats-remove", {
        /// name of the process in statistics (:)
        #[argh(option, short = 'n', default = "Name::default()")]
        pub(in crate::client) name: Name,
    }
}
