//! The command line (BEHAVIOUR 3).

use std::path::PathBuf;

use argh::FromArgs;

use super::values::{
    Verbosity, block, color, host_name, kind, level, net, number, path, since, verbosity,
};
use crate::authority::{self, KeyType};
use crate::name::{Name, Path};
use crate::policy::CpuId;
use crate::unikernel::{Block, Kind, Net};
use time::OffsetDateTime;

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
    Info(Info),
    Get(Get),
    Console(Console),
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

/// A sub-command; argh has no groups of options, so that the common ones are added here.
macro_rules! command {
    ($(#[doc = $doc:tt])+ $type:ident, $name:tt, { $($fields:tt)* }) => {
        $(#[doc = $doc])+
        #[derive(Debug, FromArgs)]
        #[argh(subcommand, name = $name, help_triggers("-h", "--help"))]
        pub(super) struct $type {
            $($fields)*
            /// say more; twice for everything
            #[argh(switch, short = 'v')]
            pub(super) verbose: u8,
            /// say no warnings
            #[argh(switch, short = 'q')]
            pub(super) quiet: bool,
            /// quiet, error, warning, info or debug
            #[argh(option, from_str_fn(verbosity))]
            pub(super) verbosity: Option<Verbosity>,
            /// auto, always or never: accepted, output has no colours
            #[argh(option, from_str_fn(color))]
            #[allow(dead_code, reason = "there are no colours")]
            pub(super) color: Option<()>,
        }

        #[allow(dead_code, reason = "generate has nothing more to say")]
        impl $type {
            pub(super) fn common(&self) -> Common {
                Common {
                    warnings: !self.quiet && self.verbosity != Some(Verbosity::ErrorsOnly),
                    debug: self.verbose >= 2 || self.verbosity == Some(Verbosity::Debug),
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
                pub(super) socket: Option<PathBuf>,
                /// runtime folder, where the daemons' sockets are
                #[argh(option)]
                pub(super) tmpdir: Option<PathBuf>,
                /// HOST[:PORT] to connect to over TLS (port 1025); - prints the certificates instead
                #[argh(option, short = 'd')]
                pub(super) destination: Option<String>,
                /// write a signing request and its key into this folder instead
                #[argh(switch)]
                pub(super) csr: bool,
                /// certificate to issue ours with, and those to send along (ca.pem)
                #[argh(option, default = "PathBuf::from(\"ca.pem\")")]
                pub(super) ca: PathBuf,
                /// key of that certificate (ca.key)
                #[argh(option, default = "PathBuf::from(\"ca.key\")")]
                pub(super) ca_key: PathBuf,
                /// authority of the server (cacert.pem)
                #[argh(option, default = "PathBuf::from(\"cacert.pem\")")]
                pub(super) server_ca: PathBuf,
                /// type of our key: ed25519 (default), p256, p384, rsa2048 or rsa4096
                #[argh(option, default = "KeyType::default()")]
                pub(super) key_type: KeyType,
            }
        }

        #[allow(dead_code, reason = "an alias has what its command has")]
        impl $type {
            pub(super) fn destination(&self) -> DestinationOptions {
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

command_to_daemon! {
    /// Create a unikernel.
    Create, "create", {
        #[argh(positional)]
        pub(super) name: Name,
        #[argh(positional)]
        pub(super) image: PathBuf,
        /// solo5 (default) or bhyve
        #[argh(option, default = "Kind::Solo5", from_str_fn(kind))]
        pub(super) typ: Kind,
        /// replace a running unikernel of that name
        #[argh(switch, short = 'f')]
        pub(super) force: bool,
        /// zlib level of the upload, 0 to 9; default 0 to a local socket, 9 over TLS and in a request
        #[argh(option, from_str_fn(level))]
        pub(super) compression_level: Option<u32>,
        /// host CPU to run on, repeatable (0)
        #[argh(option, from_str_fn(number))]
        pub(super) cpu: Vec<CpuId>,
        /// memory in MB (32)
        #[argh(option, default = "32", from_str_fn(number))]
        pub(super) mem: u32,
        /// argument for the unikernel, repeatable
        #[argh(option)]
        pub(super) arg: Vec<String>,
        /// block device NAME[:DEVICE][@SECTOR], repeatable
        #[argh(option, from_str_fn(block))]
        pub(super) block: Vec<Block>,
        /// network device NAME[:BRIDGE][@MAC], repeatable
        #[argh(option, from_str_fn(net))]
        pub(super) net: Vec<Net>,
        /// restart the unikernel when it ends
        #[argh(switch)]
        pub(super) restart: bool,
        /// the same as --restart
        #[argh(switch)]
        pub(super) restart_on_fail: bool,
        /// restart only after this exit code, repeatable, with --restart
        #[argh(option, from_str_fn(number))]
        pub(super) exit_code: Vec<u8>,
        /// start order after a restart of the host, lower first (50)
        #[argh(option, from_str_fn(number))]
        pub(super) startup: Option<u32>,
        /// do not pass --name to the unikernel
        #[argh(switch)]
        pub(super) no_add_name: bool,
        /// number of virtual CPUs, bhyve only (1)
        #[argh(option, default = "1", from_str_fn(number))]
        pub(super) cpus: u16,
        /// boot partition, bhyve with Linux only
        #[argh(option, from_str_fn(host_name))]
        pub(super) linux_boot: Option<String>,
    }
}

command_to_daemon! {
    /// Stop a unikernel and forget it.
    Destroy, "destroy", {
        #[argh(positional)]
        pub(super) name: Name,
    }
}

command_to_daemon! {
    /// Show running unikernels.
    Info, "info", {
        /// unikernel, or path with everything below it (:)
        #[argh(option, short = 'n', default = "Name::default()")]
        pub(super) name: Name,
    }
}

command_to_daemon! {
    /// Store the image of a unikernel in the download folder (TMPDIR).
    Get, "get", {
        #[argh(positional)]
        pub(super) name: Name,
        /// zlib level of the transfer, 0 to 9; default 0 from a local socket, 9 over TLS and in a request
        #[argh(option, from_str_fn(level))]
        pub(super) compression_level: Option<u32>,
    }
}

command_to_daemon! {
    /// Show the console of a unikernel, and follow it.
    Console, "console", {
        #[argh(positional)]
        pub(super) name: Name,
        /// lines of history (20)
        #[argh(option, default = "20", from_str_fn(number))]
        pub(super) count: u32,
        /// history from this time (RFC 3339) or date on, instead of --count
        #[argh(option, from_str_fn(since))]
        pub(super) since: Option<OffsetDateTime>,
    }
}

command_to_daemon! {
    /// Show policies.
    PolicyInfo, "policy", {
        /// path with everything below it (:)
        #[argh(option, short = 'p', default = "Path::ROOT", from_str_fn(path))]
        pub(super) path: Path,
    }
}

/// The options of both names of the command that sets a policy.
macro_rules! add_policy {
    ($type:ident, $name:tt, $(#[doc = $doc:tt])+) => {
        command_to_daemon! {
            $(#[doc = $doc])+
            $type, $name, {
                #[argh(positional, from_str_fn(path))]
                pub(super) path: Path,
                #[argh(positional, from_str_fn(number))]
                pub(super) unikernels: u64,
                /// memory in MB (512)
                #[argh(option, default = "512", from_str_fn(number))]
                pub(super) mem: u64,
                /// host CPU that may be used, repeatable (0)
                #[argh(option, from_str_fn(number))]
                pub(super) cpu: Vec<CpuId>,
                /// block storage in MB; without it block devices are not allowed
                #[argh(option, from_str_fn(number))]
                pub(super) block: Option<u64>,
                /// the same as --block
                #[argh(option, from_str_fn(number))]
                pub(super) size: Option<u64>,
                /// bridge that may be used, repeatable
                #[argh(option, from_str_fn(host_name))]
                pub(super) network: Vec<String>,
                /// the same as --network
                #[argh(option, from_str_fn(host_name))]
                pub(super) bridge: Vec<String>,
            }
        }
    };
}

add_policy!(AddPolicy, "add-policy", /// Set the policy of a path.
);
add_policy!(ReplacePolicy, "replace-policy", /// Set the policy of a path (the same as add-policy).
);

impl From<ReplacePolicy> for AddPolicy {
    fn from(other: ReplacePolicy) -> Self {
        Self {
            path: other.path,
            unikernels: other.unikernels,
            mem: other.mem,
            cpu: other.cpu,
            block: other.block,
            size: other.size,
            network: other.network,
            bridge: other.bridge,
            socket: other.socket,
            tmpdir: other.tmpdir,
            destination: other.destination,
            csr: other.csr,
            ca: other.ca,
            ca_key: other.ca_key,
            server_ca: other.server_ca,
            key_type: other.key_type,
            verbose: other.verbose,
            quiet: other.quiet,
            verbosity: other.verbosity,
            color: other.color,
        }
    }
}

command_to_daemon! {
    /// Remove the policy of a path.
    RemovePolicy, "remove-policy", {
        /// the path (:)
        #[argh(option, short = 'p', default = "Path::ROOT", from_str_fn(path))]
        pub(super) path: Path,
    }
}

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
        /// zlib level of the upload, 1 to 9, if the certificate announces a compressed one (9)
        #[argh(option, from_str_fn(level))]
        pub(super) compression_level: Option<u32>,
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
        /// replace a certificate file that exists
        #[argh(switch)]
        pub(super) force: bool,
    }
}

command! {
    /// Revoke certificates: writes the authority's revocation list.
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
        /// the revocation list (CACERT with .crl for .pem)
        #[argh(option)]
        pub(super) crl: Option<PathBuf>,
        /// days until the list has to be renewed (30)
        #[argh(option, default = "authority::LIST_DAYS", from_str_fn(number))]
        pub(super) days: u32,
    }
}

command! {
    /// Show certificates, requests, revocation lists and state files in words.
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
