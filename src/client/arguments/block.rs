//! Commands about block devices.

use std::path::PathBuf;

use argh::FromArgs;

use super::{Common, DestinationOptions, ToDaemon};
use crate::authority::KeyType;
use crate::client::values::{Verbosity, color, device_size, level, verbosity};
use crate::name::Name;

command_to_daemon! {
    /// Show block devices.
    BlockInfo, "block", {
        /// block device, or path and everything below it (:)
        #[argh(option, default = "Name::default()")]
        pub(in crate::client) name: Name,
    }
}

command_to_daemon! {
    /// Create a block device.
    CreateBlock, "create-block", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
        /// size in MB
        #[argh(positional, from_str_fn(device_size))]
        pub(in crate::client) size: u32,
        /// file with its content
        #[argh(option)]
        pub(in crate::client) data: Option<PathBuf>,
        /// zlib level of the upload, 0 to 9; default 0 to a local socket, 9 over TLS and in a request
        #[argh(option, from_str_fn(level))]
        pub(in crate::client) compression_level: Option<u32>,
    }
}

command_to_daemon! {
    /// Replace the content of a block device.
    SetBlock, "set-block", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
        #[argh(positional)]
        pub(in crate::client) file: PathBuf,
        /// accept an empty file, which makes the whole device zero
        #[argh(switch, short = 'f')]
        pub(in crate::client) force: bool,
        /// zlib level of the upload, 0 to 9; default 0 to a local socket, 9 over TLS and in a request
        #[argh(option, from_str_fn(level))]
        pub(in crate::client) compression_level: Option<u32>,
    }
}

command_to_daemon! {
    /// Store the content of a block device in a file.
    DumpBlock, "dump-block", {
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

command_to_daemon! {
    /// Delete a block device.
    DestroyBlock, "destroy-block", {
        /// PATH:LABEL; over TLS and in requests only LABEL
        #[argh(positional)]
        pub(in crate::client) name: Name,
    }
}
