//! From a sub-command to the message it stands for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::arguments::{self, AddPolicy, Common, Create, DestinationOptions};
use super::destination::Destination;
use super::error::ClientError;
use super::preflight;
use crate::name::Name;
use crate::policy::{CpuId, Policy};
use crate::unikernel::{Config, FailBehaviour, Kind};
use crate::wire::{
    Command, ConsoleCommand, PolicyCommand, SinceCount, Timestamp, UnikernelCommand,
};

/// Compression levels where none is asked for (BEHAVIOUR 3.1).
const LOCAL_LEVEL: u32 = 0;
/// See [`LOCAL_LEVEL`].
pub(super) const REMOTE_LEVEL: u32 = 9;

/// A command, what it is about, and what follows it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) name: Name,
    pub(super) command: Command,
    pub(super) body: Body,
}

/// What follows a command as a stream of raw frames (WIRE 7.3).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// An image, compressed at this zlib level unless it is 0.
    Image(PathBuf, u32),
}

impl Request {
    /// What the user may not have meant.
    pub(super) fn oddity(&self) -> Option<&'static str> {
        match &self.command {
            Command::Policy(PolicyCommand::Add(policy)) if policy.bridges.is_empty() => {
                Some("the policy allows no bridges: its unikernels have no network")
            }
            _ => None,
        }
    }
}

/// Reads a sub-command that goes to a daemon.
pub(super) fn read(
    command: arguments::Command,
) -> Result<(Request, Destination, Common), ClientError> {
    use arguments::Command as Sub;

    let unikernel = |name: Name, command| Request {
        name,
        command: Command::Unikernel(command),
        body: Body::None,
    };
    let policy = |path: crate::name::Path, command| Request {
        name: path.into(),
        command: Command::Policy(command),
        body: Body::None,
    };
    let (request, options, common) = match command {
        Sub::Create(sub) => {
            let options = sub.destination();
            let common = sub.common();
            (create(sub, level_of(&options))?, options, common)
        }
        Sub::Destroy(sub) => {
            let (options, common) = (sub.destination(), sub.common());
            labelled(&sub.name)?;
            (
                unikernel(sub.name, UnikernelCommand::Destroy(())),
                options,
                common,
            )
        }
        Sub::Info(sub) => {
            let (options, common) = (sub.destination(), sub.common());
            (
                unikernel(sub.name, UnikernelCommand::Info(())),
                options,
                common,
            )
        }
        Sub::Get(sub) => {
            let (options, common) = (sub.destination(), sub.common());
            labelled(&sub.name)?;
            let level = sub.compression_level.unwrap_or(level_of(&options));
            let command = UnikernelCommand::Get(u64::from(level).into());
            (unikernel(sub.name, command), options, common)
        }
        Sub::Console(sub) => {
            let (options, common) = (sub.destination(), sub.common());
            labelled(&sub.name)?;
            let history = match sub.since {
                Some(since) => SinceCount::Since(Timestamp::from_unix(
                    since.unix_timestamp(),
                    u64::from(since.nanosecond()) * 1000,
                )),
                None => SinceCount::Count(u64::from(sub.count).into()),
            };
            let request = Request {
                name: sub.name,
                command: Command::Console(ConsoleCommand::Subscribe(history)),
                body: Body::None,
            };
            (request, options, common)
        }
        Sub::Policy(sub) => {
            let (options, common) = (sub.destination(), sub.common());
            (policy(sub.path, PolicyCommand::Info(())), options, common)
        }
        Sub::RemovePolicy(sub) => {
            let (options, common) = (sub.destination(), sub.common());
            (policy(sub.path, PolicyCommand::Remove(())), options, common)
        }
        Sub::AddPolicy(sub) => {
            let (options, common) = (sub.destination(), sub.common());
            let (path, command) = add_policy(sub)?;
            (policy(path, command), options, common)
        }
        Sub::ReplacePolicy(sub) => return read(Sub::AddPolicy(sub.into())),
        Sub::Certificate(_) | Sub::Sign(_) | Sub::Revoke(_) | Sub::Show(_) | Sub::Generate(_) => {
            return Err(ClientError::Usage(
                "this command goes to no daemon".to_owned(),
            ));
        }
    };
    let destination = Destination::new(options, &request.command)?;
    Ok((request, destination, common))
}

fn level_of(options: &DestinationOptions) -> u32 {
    if options.csr || options.destination.is_some() {
        REMOTE_LEVEL
    } else {
        LOCAL_LEVEL
    }
}

fn labelled(name: &Name) -> Result<(), ClientError> {
    match name.label() {
        Some(_) => Ok(()),
        None => Err(ClientError::Usage(format!(
            "'{name}' is a path: this command needs the name of a unikernel"
        ))),
    }
}

fn create(sub: Create, default_level: u32) -> Result<Request, ClientError> {
    labelled(&sub.name)?;
    let blocks: Vec<&str> = sub.block.iter().map(|block| &block.device[..]).collect();
    let nets: Vec<&str> = sub.net.iter().map(|net| &net.device[..]).collect();
    for devices in [&blocks, &nets] {
        if let Some(twice) = repeated(devices) {
            return Err(ClientError::Usage(format!(
                "device '{twice}' is given twice"
            )));
        }
    }
    preflight::image(&sub.image, sub.typ, &nets, &blocks)?;
    let restarts = sub.restart || sub.restart_on_fail;
    if !restarts && !sub.exit_code.is_empty() {
        return Err(ClientError::Usage(
            "--exit-code is of use only with --restart".to_owned(),
        ));
    }
    let config = Config {
        kind: sub.typ,
        startup: sub.startup.map(i64::from),
        add_name: !sub.no_add_name,
        fail_behaviour: if restarts {
            FailBehaviour::Restart(sub.exit_code.into_iter().collect())
        } else {
            FailBehaviour::Quit
        },
        cpus: cpus(sub.cpu),
        memory: sub.mem,
        blocks: sub.block,
        nets: sub.net,
        arguments: sub.arg.into_iter().map(String::into_bytes).collect(),
        vcpus: sub.cpus,
        linux_boot_partition: sub.linux_boot,
    };
    let level = sub.compression_level.unwrap_or(default_level);
    let (compressed, body) = match sub.typ {
        Kind::Solo5 => (level > 0, Body::Image(sub.image, level)),
        Kind::Bhyve => (false, Body::None),
    };
    // The image is never in the command: it follows as a stream.
    let record = config.to_wire(compressed, Vec::new());
    Config::try_from(&record).map_err(|error| ClientError::Usage(error.to_string()))?;
    Ok(Request {
        name: sub.name,
        command: Command::Unikernel(if sub.force {
            UnikernelCommand::ForceCreate(record)
        } else {
            UnikernelCommand::Create(record)
        }),
        body,
    })
}

fn add_policy(sub: AddPolicy) -> Result<(crate::name::Path, PolicyCommand), ClientError> {
    if sub.block.is_some() && sub.size.is_some() {
        return Err(ClientError::Usage(
            "--block and --size are the same option: give one of them".to_owned(),
        ));
    }
    let policy = Policy {
        unikernels: sub.unikernels,
        cpus: cpus(sub.cpu),
        memory: sub.mem,
        block: sub.block.or(sub.size),
        bridges: sub.network.into_iter().chain(sub.bridge).collect(),
    };
    policy
        .usable()
        .map_err(|error| ClientError::Usage(error.to_string()))?;
    Ok((sub.path, PolicyCommand::Add((&policy).into())))
}

/// Processor 0 where none is given.
fn cpus(given: Vec<CpuId>) -> BTreeSet<CpuId> {
    if given.is_empty() {
        [0].into()
    } else {
        given.into_iter().collect()
    }
}

fn repeated<'a>(names: &[&'a str]) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.iter().copied().find(|name| !seen.insert(*name))
}
