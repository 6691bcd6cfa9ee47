//! Checks of a command against the policies of the authorities above it.

use super::error::AuthorityError;
use crate::policy::{Excess, Policy};
use crate::unikernel::{Config, Net};
use crate::wire::{BlockCommand, Command, Int, PolicyCommand, Restart, Typ, UnikernelCommand};

/// Number of unikernels that one command creates or restarts.
const ONE: u64 = 1;

/// Checks that the policies of the issuing certificate and of those above it allow `command`.
///
/// # Errors
/// When the command exceeds a policy, is not valid, or adds a policy of no use.
pub fn check_policy(command: &Command, upper: &[Policy]) -> Result<(), AuthorityError> {
    let all = |check: &dyn Fn(&Policy) -> Result<(), Excess>| {
        upper
            .iter()
            .try_for_each(check)
            .map_err(AuthorityError::Beyond)
    };
    match command {
        Command::Policy(PolicyCommand::Add(policy)) => {
            let policy = Policy::try_from(policy).map_err(AuthorityError::Meaning)?;
            policy.usable().map_err(AuthorityError::Unusable)?;
            all(&|upper| policy.within(upper))
        }
        Command::Unikernel(
            UnikernelCommand::Create(config) | UnikernelCommand::ForceCreate(config),
        ) => {
            let config = Config::try_from(config).map_err(AuthorityError::Meaning)?;
            all(&|upper| allows_config(upper, &config))
        }
        Command::Unikernel(UnikernelCommand::Restart(Restart::NewArguments(arguments))) => {
            // The kind of the unikernel does not change, and no limit of a policy depends on it.
            let config = Config::try_from(&arguments.clone().for_kind(Typ::Solo5(())))
                .map_err(AuthorityError::Meaning)?;
            all(&|upper| allows_config(upper, &config))
        }
        Command::Block(block) => match new_device(block) {
            Some(size) => {
                let size = megabytes(size)?;
                all(&|upper| allows_device(upper, size))
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Size of the block device that a command creates, if it creates one.
fn new_device(command: &BlockCommand) -> Option<Int> {
    match command {
        BlockCommand::Add(size) => Some(*size),
        BlockCommand::AddOld(add) => Some(add.size),
        BlockCommand::AddFilled(add) => Some(add.size),
        BlockCommand::Info(())
        | BlockCommand::Remove(())
        | BlockCommand::Set(_)
        | BlockCommand::SetOld(_)
        | BlockCommand::Dump(_)
        | BlockCommand::DumpOld(_) => None,
    }
}

fn megabytes(size: Int) -> Result<u64, AuthorityError> {
    size.unsigned()
        .filter(|size| *size > 0)
        .ok_or_else(|| AuthorityError::Request(format!("invalid size {} of a device", size.get())))
}

fn allows_device(upper: &Policy, size: u64) -> Result<(), Excess> {
    match upper.block {
        Some(allowed) if size <= allowed => Ok(()),
        allowed => Err(Excess::Block(size, allowed)),
    }
}

fn allows_config(upper: &Policy, config: &Config) -> Result<(), Excess> {
    if upper.unikernels < ONE {
        return Err(Excess::Unikernels(ONE, upper.unikernels));
    }
    if u64::from(config.memory) > upper.memory {
        return Err(Excess::Memory(config.memory.into(), upper.memory));
    }
    upper.allows_cpus(&config.cpus)?;
    upper.allows_bridges(config.nets.iter().map(Net::bridge))?;
    match upper.block {
        // The device exists already; its size was checked when it was created.
        None if !config.blocks.is_empty() => Err(Excess::Block(0, None)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unikernel::{Block, FailBehaviour, Kind};
    use crate::wire::{BlockAddFilled, legacy};

    fn policy(block: Option<u64>) -> Policy {
        Policy {
            unikernels: 2,
            cpus: [0].into(),
            memory: 64,
            block,
            bridges: ["service".to_owned()].into(),
        }
    }

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config {
            kind: Kind::Solo5,
            startup: None,
            add_name: true,
            fail_behaviour: FailBehaviour::Quit,
            cpus: [0].into(),
            memory: 64,
            blocks: Vec::new(),
            nets: Vec::new(),
            arguments: Vec::new(),
            vcpus: 1,
            linux_boot_partition: None,
        };
        change(&mut config);
        config
    }

    /// Create, replacement and restart with this configuration.
    fn commands(config: &Config) -> [Command; 3] {
        let create = config.to_wire(false, Vec::new());
        let arguments = config.to_wire_arguments();
        [
            UnikernelCommand::Create(create.clone()),
            UnikernelCommand::ForceCreate(create),
            UnikernelCommand::Restart(Restart::NewArguments(arguments)),
        ]
        .map(Command::Unikernel)
    }

    fn disk(config: &mut Config) {
        config.blocks = vec![Block {
            device: "disk".to_owned(),
            host_device: None,
            sector_size: None,
        }];
    }

    fn net(config: &mut Config) {
        config.nets = vec![Net {
            device: "other".to_owned(),
            bridge: None,
            mac: None,
        }];
    }

    #[test]
    fn create_replacement_and_restart_have_the_same_limits() {
        type Change = fn(&mut Config);
        let beyond: [(Change, Excess); 4] = [
            (|config| config.memory = 65, Excess::Memory(65, 64)),
            (|config| config.cpus = [1].into(), Excess::Cpus([1].into())),
            (net, Excess::Bridges(["other".to_owned()].into())),
            (disk, Excess::Block(0, None)),
        ];
        let upper = [policy(Some(10)), policy(None)];
        for command in commands(&config(|_| {})) {
            assert!(check_policy(&command, &upper).is_ok(), "{command:?}");
        }
        for (change, excess) in beyond {
            for command in commands(&config(change)) {
                match check_policy(&command, &upper) {
                    Err(AuthorityError::Beyond(found)) => assert_eq!(found, excess),
                    other => panic!("{other:?} of {command:?}"),
                }
            }
        }
        for command in commands(&config(disk)) {
            assert!(check_policy(&command, &upper[..1]).is_ok(), "{command:?}");
        }
    }

    #[test]
    fn every_form_of_a_new_device_is_limited() {
        let adds = |size: u64| {
            let size = Int::from(size);
            [
                BlockCommand::Add(size),
                BlockCommand::AddOld(legacy::BlockAdd {
                    size,
                    compress: false,
                    data: None,
                }),
                BlockCommand::AddFilled(BlockAddFilled {
                    size,
                    compressed: true,
                }),
            ]
            .map(Command::Block)
        };
        for command in adds(10) {
            assert!(check_policy(&command, &[policy(Some(10))]).is_ok());
            let refused = check_policy(&command, &[policy(Some(10)), policy(Some(9))]);
            assert!(matches!(
                refused,
                Err(AuthorityError::Beyond(Excess::Block(10, Some(9))))
            ));
            let refused = check_policy(&command, &[policy(None)]);
            assert!(matches!(
                refused,
                Err(AuthorityError::Beyond(Excess::Block(10, None)))
            ));
        }
        for command in adds(0) {
            assert!(check_policy(&command, &[]).is_err());
        }
    }
}
