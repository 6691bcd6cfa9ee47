//! Version 5 as peers may write it: every alternative of the grammar (WIRE 4), the older encodings included.
//!
//! What is read here is translated at once, so that the rest of the house knows the current forms only. Where an
//! older request has an answer of its own, it stays a request of its own.

use rasn::{AsnType, Decode, Decoder, Encode};

use super::legacy::{ArgumentsV0, ArgumentsV1, ConfigV3, ConfigV4};
use super::{
    Arguments, BlockCommand, Config, ConsoleCommand, Data, Header, Int, PolicyCommand,
    StatsCommand, Success, Text, WireError,
};

/// One framed message.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct Message {
    pub header: Header,
    pub payload: Payload,
}

/// The value of the certificate extension.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct CertExtension {
    pub version: Int,
    pub command: Command,
}

/// What a message says.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the alternatives are those of the current one")]
#[rasn(choice)]
pub enum Payload {
    #[rasn(tag(explicit(0)))]
    Command(Command),
    #[rasn(tag(explicit(1)))]
    Reply(Success),
    #[rasn(tag(explicit(2)))]
    Failure(Text),
    #[rasn(tag(explicit(3)))]
    Data(Data),
}

/// A request, by the daemon that answers it.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the alternatives are those of the current one")]
#[rasn(choice)]
pub enum Command {
    #[rasn(tag(explicit(0)))]
    Console(ConsoleCommand),
    #[rasn(tag(explicit(1)))]
    Statistics(StatsCommand),
    #[rasn(tag(explicit(3)))]
    Unikernel(UnikernelCommand),
    #[rasn(tag(explicit(4)))]
    Policy(PolicyCommand),
    #[rasn(tag(explicit(5)))]
    Block(BlockCommand),
}

/// Requests about unikernels, of all releases.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "most alternatives are those of the current one"
)]
#[rasn(choice)]
pub enum UnikernelCommand {
    #[rasn(tag(explicit(3)))]
    Destroy(()),
    /// Create without a start order; `--name` is always added.
    #[rasn(tag(explicit(9)))]
    CreateOld(ConfigV3),
    /// Force-create, likewise.
    #[rasn(tag(explicit(10)))]
    ForceCreateOld(ConfigV3),
    #[rasn(tag(explicit(11)))]
    Get(Int),
    #[rasn(tag(explicit(14)))]
    Restart(Restart),
    #[rasn(tag(explicit(15)))]
    InfoOld4(()),
    /// Create with a single processor.
    #[rasn(tag(explicit(16)))]
    CreateOld2(ConfigV4),
    /// Force-create, likewise.
    #[rasn(tag(explicit(17)))]
    ForceCreateOld2(ConfigV4),
    #[rasn(tag(explicit(18)))]
    InfoOld5(()),
    #[rasn(tag(explicit(19)))]
    Info(()),
    #[rasn(tag(explicit(20)))]
    Create(Config),
    #[rasn(tag(explicit(21)))]
    ForceCreate(Config),
}

/// With which arguments a unikernel is restarted.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Restart {
    /// As it was.
    #[rasn(tag(explicit(0)))]
    NoArguments(()),
    /// New ones, oldest form.
    #[rasn(tag(explicit(1)))]
    NewArgumentsOld2(ArgumentsV0),
    /// New ones, with a single processor.
    #[rasn(tag(explicit(2)))]
    NewArgumentsOld(ArgumentsV1),
    /// New ones.
    #[rasn(tag(explicit(3)))]
    NewArguments(Arguments),
}

impl Message {
    /// The DER of the message, in the very form it has here.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        super::encode(self)
    }
}

impl CertExtension {
    /// The DER of the extension's value, in the very form it has here.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        super::encode(self)
    }
}

impl From<Message> for super::Message {
    fn from(message: Message) -> Self {
        Self {
            header: message.header,
            payload: match message.payload {
                Payload::Command(command) => super::Payload::Command(command.into()),
                Payload::Reply(success) => super::Payload::Reply(success),
                Payload::Failure(text) => super::Payload::Failure(text),
                Payload::Data(data) => super::Payload::Data(data),
            },
        }
    }
}

impl From<CertExtension> for super::CertExtension {
    fn from(extension: CertExtension) -> Self {
        Self {
            version: extension.version,
            command: extension.command.into(),
        }
    }
}

impl From<Command> for super::Command {
    fn from(command: Command) -> Self {
        match command {
            Command::Console(console) => Self::Console(console),
            Command::Statistics(statistics) => Self::Statistics(statistics),
            Command::Unikernel(unikernel) => Self::Unikernel(unikernel.into()),
            Command::Policy(policy) => Self::Policy(policy),
            Command::Block(block) => Self::Block(block),
        }
    }
}

impl From<UnikernelCommand> for super::UnikernelCommand {
    fn from(command: UnikernelCommand) -> Self {
        match command {
            UnikernelCommand::Destroy(()) => Self::Destroy(()),
            UnikernelCommand::CreateOld(config) => Self::Create(config.into()),
            UnikernelCommand::ForceCreateOld(config) => Self::ForceCreate(config.into()),
            UnikernelCommand::Get(level) => Self::Get(level),
            UnikernelCommand::Restart(restart) => Self::Restart(restart.into()),
            UnikernelCommand::InfoOld4(()) => Self::InfoOld4(()),
            UnikernelCommand::CreateOld2(config) => Self::Create(config.into()),
            UnikernelCommand::ForceCreateOld2(config) => Self::ForceCreate(config.into()),
            UnikernelCommand::InfoOld5(()) => Self::InfoOld5(()),
            UnikernelCommand::Info(()) => Self::Info(()),
            UnikernelCommand::Create(config) => Self::Create(config),
            UnikernelCommand::ForceCreate(config) => Self::ForceCreate(config),
        }
    }
}

impl From<Restart> for super::Restart {
    fn from(restart: Restart) -> Self {
        match restart {
            Restart::NoArguments(()) => Self::NoArguments(()),
            Restart::NewArgumentsOld2(arguments) => Self::NewArguments(arguments.into()),
            Restart::NewArgumentsOld(arguments) => Self::NewArguments(arguments.into()),
            Restart::NewArguments(arguments) => Self::NewArguments(arguments),
        }
    }
}
