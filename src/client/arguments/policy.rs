//! Commands about policies.

use std::path::PathBuf;

use argh::FromArgs;

use super::{Common, DestinationOptions, ToDaemon};
use crate::authority::KeyType;
use crate::client::values::{Verbosity, color, host_name, number, path, verbosity};
use crate::name::Path;
use crate::policy::CpuId;

command_to_daemon! {
    /// Show policies.
    PolicyInfo, "policy", {
        /// path and everything below it (:)
        #[argh(option, short = 'p', default = "Path::ROOT", from_str_fn(path))]
        pub(in crate::client) path: Path,
    }
}

/// What both names of the command that sets a policy are given.
#[derive(Debug)]
pub(in crate::client) struct PolicyToAdd {
    pub(in crate::client) path: Path,
    pub(in crate::client) unikernels: u64,
    pub(in crate::client) memory: u64,
    pub(in crate::client) cpus: Vec<CpuId>,
    /// The values of both options for block storage.
    pub(in crate::client) blocks: Vec<u64>,
    pub(in crate::client) bridges: Vec<String>,
}

/// The options of both names of the command that sets a policy.
macro_rules! add_policy {
    ($type:ident, $name:tt, $(#[doc = $doc:tt])+) => {
        command_to_daemon! {
            $(#[doc = $doc])+
            $type, $name, {
                #[argh(positional, from_str_fn(path))]
                pub(in crate::client) path: Path,
                #[argh(positional, from_str_fn(number))]
                pub(in crate::client) unikernels: u64,
                /// memory in MB (512)
                #[argh(option, default = "512", from_str_fn(number))]
                pub(in crate::client) mem: u64,
                /// allow this host CPU, repeatable (0)
                #[argh(option, from_str_fn(number))]
                pub(in crate::client) cpu: Vec<CpuId>,
                /// block storage in MB (none)
                #[argh(option, from_str_fn(number))]
                pub(in crate::client) block: Option<u64>,
                /// the same as --block
                #[argh(option, from_str_fn(number))]
                pub(in crate::client) size: Option<u64>,
                /// allow this bridge, repeatable (none)
                #[argh(option, from_str_fn(host_name))]
                pub(in crate::client) network: Vec<String>,
                /// the same as --network
                #[argh(option, from_str_fn(host_name))]
                pub(in crate::client) bridge: Vec<String>,
            }
        }

        impl From<$type> for PolicyToAdd {
            fn from(sub: $type) -> Self {
                Self {
                    path: sub.path,
                    unikernels: sub.unikernels,
                    memory: sub.mem,
                    cpus: sub.cpu,
                    blocks: sub.block.into_iter().chain(sub.size).collect(),
                    bridges: sub.network.into_iter().chain(sub.bridge).collect(),
                }
            }
        }
    };
}

add_policy!(AddPolicy, "add-policy", /// Set the policy of a path.
);
add_policy!(ReplacePolicy, "replace-policy", /// Set the policy of a path (the same as add-policy).
);

command_to_daemon! {
    /// Remove the policy of a path.
    RemovePolicy, "remove-policy", {
        /// the path (:)
        #[argh(option, short = 'p', default = "Path::ROOT", from_str_fn(path))]
        pub(in crate::client) path: Path,
    }
}
