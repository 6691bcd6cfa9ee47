//! Table of the commands: which daemon runs each, its kind of answer, and the leaf certificates that may carry it.

use crate::wire::{
    BlockCommand, Command, ConsoleCommand, PolicyCommand, StatsCommand, UnikernelCommand,
};

/// Daemon that runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// The supervisor.
    Supervisor,
    /// The console daemon.
    Console,
    /// The statistics daemon.
    Statistics,
}

/// Kind of answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A single message.
    Single,
    /// Messages until one side closes the connection.
    Subscription,
    /// Messages until the content is complete.
    Dump,
}

/// Condition under which a leaf certificate may carry a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// No leaf may carry the command.
    Never,
    /// A leaf with a common name may carry the command.
    Named,
    /// Any leaf may carry the command. A leaf without a common name stands for the path itself.
    Any,
}

/// Row of the table of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the command in words.
    pub kind: &'static str,
    /// Daemon that runs the command.
    pub daemon: Daemon,
    /// Kind of answer to a command.
    pub answer: Answer,
    /// Leaf certificates that may carry the command.
    pub leaf: Leaf,
}
/// Looks up `command` in the table of commands (WIRE 8.1).
pub fn route(command: &Command) -> Route {
    use Answer::{Dump, Single, Subscription};
    use Daemon::{Console, Statistics, Supervisor};
    use Leaf::{Any, Named, Never};
    use UnikernelCommand as U;

    let (kind, daemon, answer, leaf) = match command {
        Command::Unikernel(unikernel) => {
            let kind = match unikernel {
                U::Info(()) | U::InfoOld4(()) | U::InfoOld5(()) => "unikernel info",
                U::Get(_) => "unikernel get",
                U::Create(_) => "unikernel create",
                U::ForceCreate(_) => "unikernel force-create",
                U::Restart(_) => "unikernel restart",
                U::Destroy(()) => "unikernel destroy",
                U::Stop(()) => "unikernel stop",
                U::Start(()) => "unikernel start",
                U::Rollback(()) => "unikernel rollback",
                U::Details(()) => "unikernel details",
            };
            (kind, Supervisor, Single, Any)
        }
        Command::Policy(policy) => match policy {
            PolicyCommand::Info(()) => ("policy info", Supervisor, Single, Any),
            PolicyCommand::Add(_) | PolicyCommand::SetChain(_) => {
                ("policy add", Supervisor, Single, Never)
            }
            PolicyCommand::Remove(()) => ("policy remove", Supervisor, Single, Never),
        },
        Command::Block(block) => match block {
            BlockCommand::Info(()) => ("block info", Supervisor, Single, Any),
            BlockCommand::Add(_) | BlockCommand::AddOld(_) | BlockCommand::AddFilled(_) => {
                ("block add", Supervisor, Single, Named)
            }
            BlockCommand::Remove(()) => ("block remove", Supervisor, Single, Named),
            BlockCommand::Set(_) | BlockCommand::SetOld(_) => {
                ("block set", Supervisor, Single, Named)
            }
            BlockCommand::Dump(_) => ("block dump", Supervisor, Dump, Named),
            BlockCommand::DumpOld(_) => ("block dump", Supervisor, Single, Named),
        },
        Command::Statistics(statistics) => match statistics {
            StatsCommand::Subscribe(()) => ("stats subscribe", Statistics, Subscription, Any),
            StatsCommand::Add(_) => ("stats add", Statistics, Single, Never),
            StatsCommand::Remove(()) => ("stats remove", Statistics, Single, Never),
            StatsCommand::Initial(()) => ("stats initial", Supervisor, Single, Never),
        },
        Command::Console(console) => match console {
            ConsoleCommand::Subscribe(_) => ("console subscribe", Console, Subscription, Any),
            ConsoleCommand::Read(read) => {
                let answer = if read.follow { Subscription } else { Dump };
                ("console read", Console, answer, Any)
            }
            ConsoleCommand::Inactive(()) => ("console inactive", Console, Single, Any),
            ConsoleCommand::Add(_) => ("console add", Console, Single, Never),
        },
    };
    Route {
        kind,
        daemon,
        answer,
        leaf,
    }
}

/// Whether a raw stream of frames follows the command (WIRE 7.3, 11.5): the image of a Solo5 unikernel, or the content
/// of a block device.
pub fn is_followed_by_stream(command: &Command) -> bool {
    use crate::wire::Typ::Solo5;
    use UnikernelCommand as U;

    match command {
        Command::Unikernel(U::Create(config) | U::ForceCreate(config)) => {
            config.typ == Solo5(()) && config.image.0.is_empty()
        }
        Command::Block(block) => match block {
            BlockCommand::Set(_) | BlockCommand::AddFilled(_) => true,
            BlockCommand::SetOld(set) => set.data.0.is_empty(),
            BlockCommand::AddOld(add) => add.data.as_ref().is_some_and(|data| data.0.is_empty()),
            _ => false,
        },
        _ => false,
    }
}

/// Whether the answer is as long as what is asked for: an image, the content of a block device, lines of a console.
pub fn is_answered_by_content(command: &Command) -> bool {
    route(command).answer == Answer::Dump
        || matches!(
            command,
            Command::Unikernel(UnikernelCommand::Get(_)) | Command::Block(BlockCommand::DumpOld(_))
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Int, Policy};

    fn rule(command: &Command) -> Leaf {
        route(command).leaf
    }

    #[test]
    fn a_leaf_carries_no_change_of_policies_and_no_command_of_a_daemon() {
        let policy = Policy {
            cpuids: Vec::new(),
            unikernels: Int::new(1),
            memory: Int::new(1),
            block: None,
            bridges: Vec::new(),
        };
        for command in [
            Command::Policy(PolicyCommand::Add(policy)),
            Command::Policy(PolicyCommand::Remove(())),
            Command::Statistics(StatsCommand::Remove(())),
            Command::Statistics(StatsCommand::Initial(())),
            Command::Console(ConsoleCommand::Add(Int::new(1))),
        ] {
            assert_eq!(rule(&command), Leaf::Never, "{command:?}");
        }
    }

    #[test]
    fn changing_a_block_device_needs_its_name() {
        for command in [
            BlockCommand::Add(Int::new(1)),
            BlockCommand::Remove(()),
            BlockCommand::Set(false),
        ] {
            assert_eq!(rule(&Command::Block(command)), Leaf::Named);
        }
        assert_eq!(rule(&Command::Block(BlockCommand::Info(()))), Leaf::Any);
    }
}
