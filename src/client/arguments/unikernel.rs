//! Commands about unikernels.

use std::path::PathBuf;

use argh::FromArgs;

use super::{Common, DestinationOptions, ToDaemon};
use crate::authority::KeyType;
use crate::client::settings::Settings;
use crate::client::values::{
    Verbosity, block, color, host_name, kind, level, net, number, verbosity,
};
use crate::name::Name;
use crate::policy::CpuId;
use crate::unikernel::{Block, Kind, Net};

/// A sub-command that takes the settings of a unikernel.
macro_rules! command_with_settings {
    ($(#[doc = $doc:tt])+ $type:ident, $name:tt, { $($fields:tt)* }) => {
        command_to_daemon! {
            $(#[doc = $doc])+
            $type, $name, {
                $($fields)*
                /// host CPU to run on, repeatable (0)
                #[argh(option, from_str_fn(number))]
                pub(in crate::client) cpu: Vec<CpuId>,
                /// memory in MB (32)
                #[argh(option, default = "Settings::DEFAULT_MEMORY", from_str_fn(number))]
                pub(in crate::client) mem: u32,
                /// argument for the unikernel, repeatable
                #[argh(option)]
                pub(in crate::client) arg: Vec<String>,
                /// block device NAME[:DEVICE][@SECTOR], repeatable
                #[argh(option, from_str_fn(block))]
                pub(in crate::client) block: Vec<Block>,
                /// network device NAME[:BRIDGE][@MAC], repeatable
                #[argh(option, from_str_fn(net))]
                pub(in crate::client) net: Vec<Net>,
                /// restart the unikernel when it ends
                #[argh(switch)]
                pub(in crate::client) restart: bool,
                /// the same as --restart
                #[argh(switch)]
                pub(in crate::client) restart_on_fail: bool,
                /// restart only after this exit code, repeatable; requires --restart
                #[argh(option, from_str_fn(number))]
                pub(in crate::client) exit_code: Vec<u8>,
                /// position in the start order, lower first (50)
                #[argh(option, from_str_fn(number))]
                pub(in crate::client) startup: Option<u32>,
                /// do not pass --name to the unikernel
                #[argh(switch)]
                pub(in crate::client) no_add_name: bool,
                /// virtual CPUs, bhyve only (1)
                #[argh(option, default = "1", from_str_fn(number))]
                pub(in crate::client) cpus: u16,
                /// boot Linux from this partition, bhyve only
                #[argh(option, from_str_fn(host_name))]
                pub(in crate::client) linux_boot: Option<String>,
            }
        }

        impl $type {
            pub(in crate::client) fn settings(&self) -> Settings {
                Settings {
                    cpus: self.cpu.clone(),
                    memory: self.mem,
                    arguments: self.arg.clone(),
                    blocks: self.block.clone(),
                    nets: self.net.clone(),
                    restart: self.restart || self.restart_on_fail,
                    exit_codes: self.exit_code.clone(),
                    startup: self.startup,
                    add_name: !self.no_add_name,
                    vcpus: self.cpus,
                    linux_boot_partition: self.linux_boot.clone(),
                }
            }
        }
    };
}

command_with_settings! {
    /// Create a unikernel.
    Create, "create", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
        #[argh(positional)]
        pub(in crate::client) image: PathBuf,
        /// solo5 (default) or bhyve
        #[argh(option, default = "Kind::Solo5", from_str_fn(kind))]
        pub(in crate::client) typ: Kind,
        /// replace a unikernel of that name
        #[argh(switch, short = 'f')]
        pub(in crate::client) force: bool,
        /// zlib level of the upload, 0 to 9; default 0 to a local socket, 9 over TLS and in a request
        #[argh(option, from_str_fn(level))]
        pub(in crate::client) compression_level: Option<u32>,
    }
}

command_with_settings! {
    /// Stop a unikernel, and start it again.
    Restart, "restart", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
        /// replace all settings; those not given get their defaults
        #[argh(switch)]
        pub(in crate::client) replace_arguments: bool,
    }
}

command_to_daemon! {
    /// Stop and delete a unikernel.
    Destroy, "destroy", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
    }
}

command_to_daemon! {
    /// Stop a unikernel until it is started.
    Stop, "stop", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
    }
}

command_to_daemon! {
    /// Start a unikernel that was stopped or has ended.
    Start, "start", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
    }
}

command_to_daemon! {
    /// Return a unikernel to its previous image and settings.
    Rollback, "rollback", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
    }
}

command_to_daemon! {
    /// Show unikernels.
    Info, "info", {
        /// unikernel, or path and everything below it (:)
        #[argh(option, short = 'n', default = "Name::default()")]
        pub(in crate::client) name: Name,
        /// ask for details only, which only Petrel knows
        #[argh(switch)]
        pub(in crate::client) details: bool,
    }
}

command_to_daemon! {
    /// Store the image of a unikernel in a file.
    Get, "get", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
        /// zlib level of the transfer, 0 to 9; default 0 from a local socket, 9 over TLS and in a request
        #[argh(option, from_str_fn(level))]
        pub(in crate::client) compression_level: Option<u32>,
        /// file to store it in; must not exist (NAME.TIME in the current directory)
        #[argh(option, short = 'o')]
        pub(in crate::client) output: Option<PathBuf>,
    }
}
