//! The command line (BEHAVIOUR 3).

use std::path::PathBuf;

use argh::FromArgs;

use super::values::{Verbosity, color, level, number, verbosity};
use crate::authority::{self, KeyType};

/// Petrel's client: manages unikernels on this host, or on another one over TLS, and the certificates for that.
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
            /// say where the command goes; twice: show everything
            #[argh(switch, short = 'v')]
            pub(in crate::client) verbose: u8,
            /// say no warnings
            #[argh(switch, short = 'q')]
            pub(in crate::client) quiet: bool,
            /// quiet, error, warning, info or debug
            #[argh(option, from_str_fn(verbosity))]
            pub(in crate::client) verbosity: Option<Verbosity>,
            /// auto, always or never: accepted, output has no colours
            #[argh(option, from_str_fn(color))]
            #[allow(dead_code, reason = "there are no colours")]
            pub(in crate::client) color: Option<()>,
        }

        #[allow(dead_code, reason = "generate has nothing more to say")]
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
                /// path of the daemon's socket; - prints the message instead
                #[argh(option)]
                pub(in crate::client) socket: Option<PathBuf>,
                /// runtime directory, where the daemons' sockets are
                #[argh(option)]
                pub(in crate::client) tmpdir: Option<PathBuf>,
                /// HOST[:PORT] to connect to over TLS (port 1025); - prints the certificates instead
                #[argh(option, short = 'd')]
                pub(in crate::client) destination: Option<String>,
                /// write a signing request and its key into this directory instead
                #[argh(switch)]
                pub(in crate::client) csr: bool,
                /// certificate to issue ours with, and those to send along (ca.pem)
                #[argh(option, default = "PathBuf::from(\"ca.pem\")")]
                pub(in crate::client) ca: PathBuf,
                /// key of that certificate (ca.key)
                #[argh(option, default = "PathBuf::from(\"ca.key\")")]
                pub(in crate::client) ca_key: PathBuf,
                /// authority of the server (cacert.pem)
                #[argh(option, default = "PathBuf::from(\"cacert.pem\")")]
                pub(in crate::client) server_ca: PathBuf,
                /// type of our key: ed25519 (default), p256, p384, rsa2048 or rsa4096
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
    /// Connect with a signed certificate, and have its command carried out.
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
        /// the image, if the certificate creates a unikernel
        #[argh(option)]
        pub(super) image: Option<PathBuf>,
        /// the content, if the certificate sets that of a block device
        #[argh(option)]
        pub(super) data: Option<PathBuf>,
        /// zlib level of the upload, 1 to 9, if the certificate announces a compressed one (9)
        #[argh(option, from_str_fn(level))]
        pub(super) compression_level: Option<u32>,
        /// file to store it in, if the certificate gets an image or dumps a block device; must not exist
        /// (NAME.TIME in the current directory)
        #[argh(option, short = 'o')]
        pub(super) output: Option<PathBuf>,
    }
}

command! {
    /// Sign a request: writes the certificate as NAME.pem, NAME being that in the request.
    Sign, "sign", {
        /// the authority's certificate, perhaps followed by those above it
        #[argh(positional)]
        pub(super) cacert: PathBuf,
        /// list of issued certificates, to which a line is added
        #[argh(positional)]
        pub(super) db: PathBuf,
        /// the authority's key
        #[argh(positional)]
        pub(super) key: PathBuf,
        /// the signing request
        #[argh(positional)]
        pub(super) csr: PathBuf,
        /// days of validity; default 365 for a policy and a server, 1 for a command
        #[argh(option, from_str_fn(number))]
        pub(super) days: Option<u32>,
        /// hours of validity, instead of days
        #[argh(option, from_str_fn(number))]
        pub(super) hours: Option<u32>,
        /// replace a certificate file that exists; make a second authority of a name, with another key
        #[argh(switch)]
        pub(super) force: bool,
        /// the request is for the certificate of a server, and carries no command
        #[argh(switch)]
        pub(super) server: bool,
        /// sign without asking on a terminal
        #[argh(switch, short = 'y')]
        pub(super) yes: bool,
        /// show what would be signed, and write nothing
        #[argh(switch)]
        pub(super) dry_run: bool,
    }
}

command! {
    /// Revoke certificates: writes the authority's CRL.
    Revoke, "revoke", {
        /// the authority's certificate
        #[argh(positional)]
        pub(super) cacert: PathBuf,
        /// the authority's key
        #[argh(positional)]
        pub(super) key: PathBuf,
        /// list of issued certificates
        #[argh(positional)]
        pub(super) db: PathBuf,
        /// serial numbers or names of that list, or serial:HEX for any number; none to renew the list
        #[argh(positional)]
        pub(super) certificate: Vec<String>,
        /// the CRL (CACERT with .crl for .pem)
        #[argh(option)]
        pub(super) crl: Option<PathBuf>,
        /// days until the list has to be renewed (30)
        #[argh(option, default = "authority::CRL_DAYS", from_str_fn(number))]
        pub(super) days: u32,
    }
}

command! {
    /// Show certificates, requests, CRLs and state files in words.
    Show, "show", {
        /// files; without one, or for - after --, standard input
        #[argh(positional)]
        pub(super) file: Vec<PathBuf>,
        /// certificates that are trusted
        #[argh(option)]
        pub(super) cacert: Option<PathBuf>,
    }
}

command! {
    /// Make a root authority (cacert.pem, NAME.key) and the certificate of a server.
    Generate, "generate", {
        /// name of the authority
        #[argh(positional)]
        pub(super) name: String,
        /// list of issued certificates, to which a line is added
        #[argh(positional)]
        pub(super) db: PathBuf,
        /// days of validity of the authority (3650)
        #[argh(option, default = "3650", from_str_fn(number))]
        pub(super) days: u32,
        /// name of the server (server)
        #[argh(option, default = "\"server\".to_owned()")]
        pub(super) server: String,
        /// days of validity of the server's certificate (365)
        #[argh(option, default = "365", from_str_fn(number))]
        pub(super) server_days: u32,
        /// type of new keys: ed25519 (default), p256, p384, rsa2048 or rsa4096
        #[argh(option, default = "KeyType::default()")]
        pub(super) key_type: KeyType,
        /// replace certificate files that exist; keys are always kept
        #[argh(switch)]
        pub(super) force: bool,
    }
}
