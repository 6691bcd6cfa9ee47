//! The command line (BEHAVIOUR 3).
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "doc comments are the text of --help"
)]

use std::path::PathBuf;

use argh::FromArgs;

use super::values::{Verbosity, color, level, number, verbosity};
use crate::authority::{self, KeyType};

/// Manages unikernels on this host, or on another one over TLS, and the certificates for that.
#[derive(Debug, FromArgs)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct Arguments {
    #[argh(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
pub(super) enum Command {
    Create(Create),
    Destroy(Destroy),
    Restart(Restart),
    Stop(Stop),
    Start(Start),
    Rollback(Rollback),
    Info(Info),
    Get(Get),
    Console(Console),
    InactiveConsoles(InactiveConsoles),
    Stats(Stats),
    StatsAdd(StatsAdd),
    StatsRemove(StatsRemove),
    Block(BlockInfo),
    CreateBlock(CreateBlock),
    SetBlock(SetBlock),
    DumpBlock(DumpBlock),
    DestroyBlock(DestroyBlock),
    Policy(PolicyInfo),
    AddPolicy(AddPolicy),
    ReplacePolicy(ReplacePolicy),
    RemovePolicy(RemovePolicy),
    Certificate(Certificate),
    Sign(Sign),
    Revoke(Revoke),
    Show(Show),
    Generate(Generate),
}

/// What every command takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    /// Whether warnings are said.
    pub(super) warnings: bool,
    /// Whether it is said where a command goes.
    pub(super) steps: bool,
    /// Whether everything is shown.
    pub(super) debug: bool,
}

/// Where a command goes, as written on the command line.
#[derive(Debug)]
pub(super) struct DestinationOptions {
    pub(super) socket: Option<PathBuf>,
    pub(super) tmpdir: Option<PathBuf>,
    pub(super) destination: Option<String>,
    pub(super) csr: bool,
    pub(super) ca: PathBuf,
    pub(super) ca_key: PathBuf,
    pub(super) server_ca: PathBuf,
    pub(super) key_type: KeyType,
}

/// A sub-command that goes to a daemon.
pub(super) trait ToDaemon {
    fn common(&self) -> Common;
    fn destination(&self) -> DestinationOptions;
}

/// A sub-command; argh has no groups of options, so that the common ones are added here.
macro_rules! command {
    ($(#[doc = $doc:tt])+ $type:ident, $name:tt, { $($fields:tt)* }) => {
        $(#[doc = $doc])+
        #[derive(Debug, FromArgs)]
        #[argh(subcommand, name = $name, help_triggers("-h", "--help"))]
        pub(in crate::client) struct $type {
            $($fields)*
            /// print where the command goes; twice: print everything
            #[argh(switch, short = 'v')]
            pub(in crate::client) verbose: u8,
            /// print no warnings
            #[argh(switch, short = 'q')]
            pub(in crate::client) quiet: bool,
            /// quiet, error, warning (default), info or debug
            #[argh(option, from_str_fn(verbosity))]
            pub(in crate::client) verbosity: Option<Verbosity>,
            /// auto, always or never; output has no colours
            #[argh(option, from_str_fn(color))]
            #[allow(dead_code, reason = "there are no colours")]
            pub(in crate::client) color: Option<()>,
        }

        impl $type {
            pub(in crate::client) fn common(&self) -> Common {
                let verbosity = match (self.quiet, self.verbosity, self.verbose) {
                    (true, ..) => Verbosity::ErrorsOnly,
                    (false, Some(level), _) => level,
                    (false, None, 0) => Verbosity::Usual,
                    (false, None, 1) => Verbosity::Steps,
                    (false, None, _) => Verbosity::Debug,
                };
                Common {
                    warnings: verbosity >= Verbosity::Usual,
                    steps: verbosity >= Verbosity::Steps,
                    debug: verbosity >= Verbosity::Debug,
                }
            }
        }
    };
}

/// A sub-command that goes to a daemon.
macro_rules! command_to_daemon {
    ($(#[doc = $doc:tt])+ $type:ident, $name:tt, { $($fields:tt)* }) => {
        command! {
            $(#[doc = $doc])+
            $type, $name, {
                $($fields)*
                /// socket of the daemon; - prints the message instead
                #[argh(option)]
                pub(in crate::client) socket: Option<PathBuf>,
                /// runtime directory with the sockets of the daemons
                #[argh(option)]
                pub(in crate::client) tmpdir: Option<PathBuf>,
                /// HOST[:PORT] to connect to over TLS (port 1025); - prints the certificates instead
                #[argh(option, short = 'd')]
                pub(in crate::client) destination: Option<String>,
                /// write a signing request and its key to the current directory instead
                #[argh(switch)]
                pub(in crate::client) csr: bool,
                /// authority that issues our certificate, followed by those above it (ca.pem)
                #[argh(option, default = "PathBuf::from(\"ca.pem\")")]
                pub(in crate::client) ca: PathBuf,
                /// key of that authority (ca.key)
                #[argh(option, default = "PathBuf::from(\"ca.key\")")]
                pub(in crate::client) ca_key: PathBuf,
                /// authority of the server (cacert.pem)
                #[argh(option, default = "PathBuf::from(\"cacert.pem\")")]
                pub(in crate::client) server_ca: PathBuf,
                /// type of a new key: ed25519 (default), p256, p384, rsa2048 or rsa4096
                #[argh(option, default = "KeyType::default()")]
                pub(in crate::client) key_type: KeyType,
            }
        }

        impl ToDaemon for $type {
            fn common(&self) -> Common {
                self.common()
            }

            fn destination(&self) -> DestinationOptions {
                DestinationOptions {
                    socket: self.socket.clone(),
                    tmpdir: self.tmpdir.clone(),
                    destination: self.destination.clone(),
                    csr: self.csr,
                    ca: self.ca.clone(),
                    ca_key: self.ca_key.clone(),
                    server_ca: self.server_ca.clone(),
                    key_type: self.key_type,
                }
            }
        }
    };
}

mod block;
mod observe;
mod policy;
mod unikernel;

pub(super) use block::{BlockInfo, CreateBlock, DestroyBlock, DumpBlock, SetBlock};
pub(super) use observe::{Console, InactiveConsoles, Stats, StatsAdd, StatsRemove};
pub(super) use policy::{AddPolicy, PolicyInfo, PolicyToAdd, RemovePolicy, ReplacePolicy};
pub(super) use unikernel::{Create, Destroy, Get, Info, Restart, Rollback, Start, Stop};

command! {
    /// Connect with a signed certificate, and run its command.
    Certificate, "certificate", {
        /// the certificate, followed by those above it
        #[argh(positional)]
        pub(super) cert: PathBuf,
        /// its key
        #[argh(positional)]
        pub(super) key: PathBuf,
        /// HOST[:PORT] to connect to (port 1025); - prints the certificates instead
        #[argh(option, short = 'd')]
        pub(super) destination: String,
        /// authority of the server (cacert.pem)
        #[argh(option, default = "PathBuf::from(\"cacert.pem\")")]
        pub(super) server_ca: PathBuf,
        /// image to send, if the certificate creates a unikernel
        #[argh(option)]
        pub(super) image: Option<PathBuf>,
        /// content to send, if the certificate fills a block device
        #[argh(option)]
        pub(super) data: Option<PathBuf>,
        /// zlib level of the upload, 1 to 9, if the certificate announces a compressed stream (9)
        #[argh(option, from_str_fn(level))]
        pub(super) compression_level: Option<u32>,
        /// file to store a download in; must not exist (NAME.TIME in the current directory)
        #[argh(option, short = 'o')]
        pub(super) output: Option<PathBuf>,
    }
}

command! {
    /// Sign a request, and write the certificate to NAME.pem, where NAME is its common name.
    Sign, "sign", {
        /// certificate of the authority, optionally followed by those above it
        #[argh(positional)]
        pub(super) cacert: PathBuf,
        /// list of issued certificates; a line is added
        #[argh(positional)]
        pub(super) db: PathBuf,
        /// key of the authority
        #[argh(positional)]
        pub(super) key: PathBuf,
        /// signing request
        #[argh(positional)]
        pub(super) csr: PathBuf,
        /// days of validity; default 365 for a policy or a server, 1 for a command
        #[argh(option, from_str_fn(number))]
        pub(super) days: Option<u32>,
        /// hours of validity, instead of days
        #[argh(option, from_str_fn(number))]
        pub(super) hours: Option<u32>,
        /// replace an existing certificate file; allow a second key for an authority
        #[argh(switch)]
        pub(super) force: bool,
        /// issue a server certificate, from a request without a command
        #[argh(switch)]
        pub(super) server: bool,
        /// do not ask for confirmation
        #[argh(switch, short = 'y')]
        pub(super) yes: bool,
        /// print what would be signed, and write nothing
        #[argh(switch)]
        pub(super) dry_run: bool,
    }
}

command! {
    /// Revoke certificates, and write the CRL of the authority.
    Revoke, "revoke", {
        /// certificate of the authority
        #[argh(positional)]
        pub(super) cacert: PathBuf,
        /// key of the authority
        #[argh(positional)]
        pub(super) key: PathBuf,
        /// list of issued certificates
        #[argh(positional)]
        pub(super) db: PathBuf,
        /// a name or serial number in that list, serial:HEX, or file: and a certificate file; none to renew the CRL
        #[argh(positional)]
        pub(super) certificate: Vec<String>,
        /// the CRL (CACERT with .crl for .pem)
        #[argh(option)]
        pub(super) crl: Option<PathBuf>,
        /// days of validity of the CRL (30)
        #[argh(option, default = "authority::CRL_DAYS", from_str_fn(number))]
        pub(super) days: u32,
    }
}

command! {
    /// Show certificates, requests, CRLs, keys and state files in words.
    Show, "show", {
        /// files; standard input if none, or for - after --
        #[argh(positional)]
        pub(super) file: Vec<PathBuf>,
        /// trusted certificates
        #[argh(option)]
        pub(super) cacert: Option<PathBuf>,
    }
}

command! {
    /// Create a root authority (cacert.pem, NAME.key) and a server certificate.
    Generate, "generate", {
        /// name of the authority
        #[argh(positional)]
        pub(super) name: String,
        /// list of issued certificates; a line is added
        #[argh(positional)]
        pub(super) db: PathBuf,
        /// days of validity of the authority (3650)
        #[argh(option, default = "3650", from_str_fn(number))]
        pub(super) days: u32,
        /// name of the server (server)
        #[argh(option, default = "\"server\".to_owned()")]
        pub(super) server: String,
        /// days of validity of the server certificate (365)
        #[argh(option, default = "365", from_str_fn(number))]
        pub(super) server_days: u32,
        /// type of new keys: ed25519 (default), p256, p384, rsa2048 or rsa4096
        #[argh(option, default = "KeyType::default()")]
        pub(super) key_type: KeyType,
        /// replace existing certificate files; keys are always kept
        #[argh(switch)]
        pub(super) force: bool,
    }
}
