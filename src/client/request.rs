//! From a sub-command to the messages it stands for.

use std::path::PathBuf;

use super::arguments::{self, Common, CreateBlock, DestinationOptions, PolicyToAdd, ToDaemon};
use super::destination::Destination;
use super::error::ClientError;
use super::settings::{Settings, cpus};
use super::source::Source;
use super::statistics_output::StatisticsOutput;
use super::stored::refuse_existing;
use crate::name::{Name, Path};
use crate::policy::Policy;
use crate::socket;
use crate::unikernel::{ImageDigest, Kind};
use crate::wire::{
    BlockAddFilled, BlockCommand, Command, ConsoleCommand, ConsoleRead, PolicyCommand, Restart,
    SinceCount, StatsAdd, StatsCommand, Timestamp, UnikernelCommand,
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
    /// The only image a certificate or request for it allows.
    pub(super) image: Option<ImageDigest>,
}

/// What follows a command as a stream of raw frames (WIRE 7.3).
#[derive(Debug)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// A file, compressed at this zlib level unless it is 0.
    File(Source, u32),
}

/// What a sub-command has done, and where.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) request: Request,
    /// What is done instead if the other side does not know the request, each on a connection of its own, and only if
    /// the one before succeeded.
    pub(super) otherwise: Vec<Request>,
    pub(super) destination: Destination,
    pub(super) common: Common,
    /// Whether statistics are shown as JSON.
    pub(super) json: bool,
    /// File that an image or a dump is stored in.
    pub(super) download: Option<PathBuf>,
    /// What the user may not have meant.
    pub(super) oddity: Option<&'static str>,
}

impl Order {
    /// How statistics are shown.
    pub(super) fn figures(&self) -> StatisticsOutput {
        StatisticsOutput::new(self.json, self.request.name.clone(), self.supervisor())
    }

    /// Whom to ask for more on the host itself, beside the daemon that answers.
    pub(super) fn supervisor(&self) -> Option<PathBuf> {
        match &self.destination {
            Destination::Local(path, _) => Some(path.with_file_name(socket::SUPERVISOR)),
            _ => None,
        }
    }
}

impl Request {
    fn new(name: impl Into<Name>, command: Command) -> Self {
        Self {
            name: name.into(),
            command,
            body: Body::None,
            image: None,
        }
    }

    fn unikernel(name: Name, command: UnikernelCommand) -> Self {
        Self::new(name, Command::Unikernel(command))
    }

    fn policy(path: Path, command: PolicyCommand) -> Self {
        Self::new(path, Command::Policy(command))
    }

    fn console(name: impl Into<Name>, command: ConsoleCommand) -> Self {
        Self::new(name, Command::Console(command))
    }

    fn statistics(name: Name, command: StatsCommand) -> Self {
        Self::new(name, Command::Statistics(command))
    }

    fn block(name: Name, command: BlockCommand) -> Self {
        Self::new(name, Command::Block(command))
    }

    /// The content of a block device, which follows the command.
    fn block_set(name: Name, content: Source, level: u32) -> Self {
        Self {
            body: Body::File(content, level),
            ..Self::block(name, BlockCommand::Set(level > 0))
        }
    }
}

/// Reads a sub-command that goes to a daemon.
pub(super) fn read(command: arguments::Command) -> Result<Order, ClientError> {
    use arguments::Command as Sub;

    match command {
        Sub::Create(sub) => order(sub, create),
        Sub::Restart(sub) => {
            let (request, oddity) =
                restart(sub.name.clone(), sub.replace_arguments, sub.settings())?;
            Ok(Order {
                oddity,
                ..order(sub, |_, _| Ok(request))?
            })
        }
        Sub::Destroy(sub) => order(sub, |sub, _| {
            let name = labelled(sub.name)?;
            Ok(Request::unikernel(name, UnikernelCommand::Destroy(())))
        }),
        Sub::Stop(sub) => order(sub, |sub, _| {
            let name = labelled(sub.name)?;
            Ok(Request::unikernel(name, UnikernelCommand::Stop(())))
        }),
        Sub::Start(sub) => order(sub, |sub, _| {
            let name = labelled(sub.name)?;
            Ok(Request::unikernel(name, UnikernelCommand::Start(())))
        }),
        Sub::Rollback(sub) => order(sub, |sub, _| {
            let name = labelled(sub.name)?;
            Ok(Request::unikernel(name, UnikernelCommand::Rollback(())))
        }),
        Sub::Info(sub) => info(sub),
        Sub::Get(sub) => Ok(Order {
            download: download(sub.output.clone(), sub.csr)?,
            ..order(sub, |sub, options| {
                let level = u64::from(sub.compression_level.unwrap_or(options.level()));
                let command = UnikernelCommand::Get(level.into());
                Ok(Request::unikernel(labelled(sub.name)?, command))
            })?
        }),
        Sub::Console(sub) => console(sub),
        Sub::InactiveConsoles(sub) => order(sub, |sub, _| {
            Ok(Request::console(sub.path, ConsoleCommand::Inactive(())))
        }),
        Sub::Stats(sub) => Ok(Order {
            json: sub.json,
            ..order(sub, |sub, _| {
                Ok(Request::statistics(sub.name, StatsCommand::Subscribe(())))
            })?
        }),
        Sub::StatsAdd(sub) => order(sub, |sub, _| {
            let command = StatsCommand::Add(StatsAdd {
                vmmdev: sub.vmmdev.into(),
                pid: u64::from(sub.pid).into(),
                network: sub.bridge,
            });
            Ok(Request::statistics(sub.name, command))
        }),
        Sub::StatsRemove(sub) => order(sub, |sub, _| {
            Ok(Request::statistics(sub.name, StatsCommand::Remove(())))
        }),
        Sub::Block(sub) => order(sub, |sub, _| {
            Ok(Request::block(sub.name, BlockCommand::Info(())))
        }),
        Sub::CreateBlock(sub) => create_block(sub),
        Sub::SetBlock(sub) => order(sub, |sub, options| {
            let level = sub.compression_level.unwrap_or(options.level());
            let name = labelled(sub.name)?;
            let content = Source::replacement(&sub.file, sub.force)?;
            Ok(Request::block_set(name, content, level))
        }),
        Sub::DumpBlock(sub) => Ok(Order {
            download: download(sub.output.clone(), sub.csr)?,
            ..order(sub, |sub, options| {
                let level = u64::from(sub.compression_level.unwrap_or(options.level()));
                let command = BlockCommand::Dump(level.into());
                Ok(Request::block(labelled(sub.name)?, command))
            })?
        }),
        Sub::DestroyBlock(sub) => order(sub, |sub, _| {
            let name = labelled(sub.name)?;
            Ok(Request::block(name, BlockCommand::Remove(())))
        }),
        Sub::Policy(sub) => order(sub, |sub, _| {
            Ok(Request::policy(sub.path, PolicyCommand::Info(())))
        }),
        Sub::RemovePolicy(sub) => order(sub, |sub, _| {
            Ok(Request::policy(sub.path, PolicyCommand::Remove(())))
        }),
        Sub::AddPolicy(sub) => add_policy(sub),
        Sub::ReplacePolicy(sub) => add_policy(sub),
        Sub::Certificate(_) | Sub::Sign(_) | Sub::Revoke(_) | Sub::Show(_) | Sub::Generate(_) => {
            Err(ClientError::Usage(
                "this command goes to no daemon".to_owned(),
            ))
        }
    }
}

fn order<S: ToDaemon>(
    sub: S,
    request: impl FnOnce(S, &DestinationOptions) -> Result<Request, ClientError>,
) -> Result<Order, ClientError> {
    let (options, common) = (sub.destination(), sub.common());
    let request = request(sub, &options)?;
    let destination = Destination::new(options, &request.command)?;
    Ok(Order {
        request,
        otherwise: Vec::new(),
        destination,
        common,
        json: false,
        download: None,
        oddity: None,
    })
}

/// The file for a download, if one is given: refused where nothing is downloaded, and if it exists.
fn download(file: Option<PathBuf>, csr: bool) -> Result<Option<PathBuf>, ClientError> {
    match file {
        Some(_) if csr => Err(ClientError::Usage(
            "a request downloads nothing: give --output to 'petrel certificate' instead".to_owned(),
        )),
        Some(file) => {
            refuse_existing(&file)?;
            Ok(Some(file))
        }
        None => Ok(None),
    }
}

fn labelled(name: Name) -> Result<Name, ClientError> {
    if name.label().is_some() {
        return Ok(name);
    }
    Err(ClientError::Usage(format!(
        "'{name}' is a path: this command needs the name of a unikernel or block device"
    )))
}

fn create(sub: arguments::Create, options: &DestinationOptions) -> Result<Request, ClientError> {
    let config = sub.settings().config(sub.typ)?;
    let name = labelled(sub.name)?;
    let mut image = Source::image(&sub.image, &config, None)?;
    let level = sub.compression_level.unwrap_or(options.level());
    let (compressed, digest, body) = match sub.typ {
        Kind::Bhyve => (false, None, Body::None),
        Kind::Solo5 => {
            // A local daemon sees the image itself; only a certificate can be used by somebody else.
            let digest = options.is_remote().then(|| image.digest()).transpose()?;
            (level > 0, digest, Body::File(image, level))
        }
    };
    // The image is never in the command: it follows as a stream.
    let record = config.to_wire(compressed, Vec::new());
    let command = if sub.force {
        UnikernelCommand::ForceCreate(record)
    } else {
        UnikernelCommand::Create(record)
    };
    Ok(Request {
        body,
        image: digest,
        ..Request::unikernel(name, command)
    })
}

/// The details are asked for first; of what is not sent from here nobody knows who will read it.
fn info(sub: arguments::Info) -> Result<Order, ClientError> {
    let only_details = sub.details;
    let plain = Request::unikernel(sub.name.clone(), UnikernelCommand::Info(()));
    let details = Request::unikernel(sub.name.clone(), UnikernelCommand::Details(()));
    let order = order(sub, |_, _| Ok(details))?;
    let sent = matches!(
        order.destination,
        Destination::Local(..) | Destination::Remote(..)
    );
    Ok(match (only_details, sent) {
        (true, _) => order,
        (false, true) => Order {
            otherwise: vec![plain],
            ..order
        },
        (false, false) => Order {
            request: plain,
            ..order
        },
    })
}

/// On the host itself the run is followed to its end, unless its console daemon is one of albatross. Elsewhere nobody knows
/// who will answer: there the console is followed for ever, as albatross does, unless something else is asked for.
fn console(sub: arguments::Console) -> Result<Order, ClientError> {
    let (follow, no_follow) = (sub.follow, sub.no_follow);
    if follow && no_follow {
        return Err(ClientError::Usage(
            "--follow and --no-follow exclude each other".to_owned(),
        ));
    }
    let name = labelled(sub.name.clone())?;
    let from = match sub.since {
        Some(since) => SinceCount::Since(Timestamp::from_unix(
            since.unix_timestamp(),
            u64::from(since.nanosecond()) * 1000,
        )),
        None => SinceCount::Count(u64::from(sub.count).into()),
    };
    let plain = Request::console(name.clone(), ConsoleCommand::Subscribe(from.clone()));
    let read = ConsoleRead {
        from,
        follow: !no_follow,
    };
    let read = Request::console(name, ConsoleCommand::Read(read));
    let order = order(sub, |_, _| Ok(read))?;
    let is_local = matches!(order.destination, Destination::Local(..));
    Ok(match (follow || no_follow, is_local) {
        (true, _) => order,
        (false, true) => Order {
            otherwise: vec![plain],
            ..order
        },
        (false, false) => Order {
            request: plain,
            ..order
        },
    })
}

/// Without new arguments the settings count for nothing; which is said if there are any.
fn restart(
    name: Name,
    replace: bool,
    settings: Settings,
) -> Result<(Request, Option<&'static str>), ClientError> {
    let config = settings.config(Kind::Solo5)?;
    let (arguments, oddity) = if replace {
        (Restart::NewArguments(config.to_wire_arguments()), None)
    } else {
        let differs = config != Settings::default().config(Kind::Solo5)?;
        let oddity = "without --replace-arguments the unikernel is restarted as it was, and the other options change nothing";
        (Restart::NoArguments(()), differs.then_some(oddity))
    };
    let request = Request::unikernel(labelled(name)?, UnikernelCommand::Restart(arguments));
    Ok((request, oddity))
}

/// With data this is one command of Petrel's own, or two of albatross.
fn create_block(sub: CreateBlock) -> Result<Order, ClientError> {
    let options = sub.destination();
    let name = labelled(sub.name.clone())?;
    let size = u64::from(sub.size);
    let add = Request::block(name.clone(), BlockCommand::Add(size.into()));
    let Some(file) = sub.data.clone() else {
        return order(sub, |_, _| Ok(add));
    };
    let level = sub.compression_level.unwrap_or(options.level());
    let filled = BlockCommand::AddFilled(BlockAddFilled {
        size: size.into(),
        compressed: level > 0,
    });
    let filled = Request {
        body: Body::File(Source::block_content(&file, size)?, level),
        ..Request::block(name.clone(), filled)
    };
    let set = Request::block_set(name, Source::block_content(&file, size)?, level);
    Ok(Order {
        otherwise: vec![add, set],
        ..order(sub, |_, _| Ok(filled))?
    })
}

fn add_policy(sub: impl ToDaemon + Into<PolicyToAdd>) -> Result<Order, ClientError> {
    let order = order(sub, |sub, _| {
        let wanted: PolicyToAdd = sub.into();
        let block = match wanted.blocks[..] {
            [] => None,
            [size] => Some(size),
            _ => {
                return Err(ClientError::Usage(
                    "--block and --size are the same option: give one of them".to_owned(),
                ));
            }
        };
        let policy = Policy {
            unikernels: wanted.unikernels,
            cpus: cpus(wanted.cpus),
            memory: wanted.memory,
            block,
            bridges: wanted.bridges.into_iter().collect(),
        };
        policy
            .usable()
            .map_err(|error| ClientError::Usage(error.to_string()))?;
        let command = PolicyCommand::Add((&policy).into());
        Ok(Request::policy(wanted.path, command))
    })?;
    let oddity = match &order.request.command {
        Command::Policy(PolicyCommand::Add(policy)) if policy.bridges.is_empty() => {
            Some("the policy allows no bridges: its unikernels have no network")
        }
        _ => None,
    };
    Ok(Order { oddity, ..order })
}

impl DestinationOptions {
    /// Whether a certificate carries the command.
    fn is_remote(&self) -> bool {
        self.csr || self.destination.is_some()
    }

    /// The compression level where none is given.
    fn level(&self) -> u32 {
        if self.is_remote() {
            REMOTE_LEVEL
        } else {
            LOCAL_LEVEL
        }
    }
}
