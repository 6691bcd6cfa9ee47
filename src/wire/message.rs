//! Messages, commands and replies in the form that the house knows: the current part of version 5 (WIRE 4), field by
//! field in the order of the grammar. What older releases write is read by [`super::v5`].

use rasn::{AsnType, Decode, Decoder, Encode};

use super::extensions::{BlockAddFilled, ConsoleRead, DatedPolicy, NamedDetails};
use super::legacy;
use super::primitive::{Bytes, Int, Int64, Text, Timestamp};
use super::statistics::{Statistics, StatsAdd};
use super::unikernel::{Arguments, Config, Info};

/// One framed message.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks of what.
    pub header: Header,
    /// What is said.
    pub payload: Payload,
}

/// The header of every message.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol version, always 5.
    pub version: Int,
    /// Echoed in the reply.
    pub sequence: Int64,
    /// The object addressed, in canonical text.
    pub name: Text,
}

/// What a message says.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Payload {
    /// A request.
    #[rasn(tag(explicit(0)))]
    Command(Command),
    /// A request was carried out.
    #[rasn(tag(explicit(1)))]
    Reply(Success),
    /// A request failed; the text is for people.
    #[rasn(tag(explicit(2)))]
    Failure(Text),
    /// A piece of a stream.
    #[rasn(tag(explicit(3)))]
    Data(Data),
}

/// A request, by the daemon that answers it.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Command {
    /// For the console daemon.
    #[rasn(tag(explicit(0)))]
    Console(ConsoleCommand),
    /// For the statistics daemon.
    #[rasn(tag(explicit(1)))]
    Statistics(StatsCommand),
    /// For the supervisor: unikernels.
    #[rasn(tag(explicit(3)))]
    Unikernel(UnikernelCommand),
    /// For the supervisor: policies.
    #[rasn(tag(explicit(4)))]
    Policy(PolicyCommand),
    /// For the supervisor: block devices.
    #[rasn(tag(explicit(5)))]
    Block(BlockCommand),
}

/// Requests to the console daemon.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum ConsoleCommand {
    /// Read the console of this unikernel; the number bounds the consoles kept for its path. A negative one is
    /// [Petrel's own](super::extensions::bound_archives).
    #[rasn(tag(explicit(0)))]
    Add(Int),
    /// History, then live lines.
    #[rasn(tag(explicit(2)))]
    Subscribe(SinceCount),
    /// List the consoles of stopped unikernels.
    #[rasn(tag(explicit(3)))]
    Inactive(()),
    /// History, then live lines if wanted, and word of their ends. Petrel's own.
    #[rasn(tag(explicit(64)))]
    Read(ConsoleRead),
}

/// The first answer to who asks for the console of what is not there yet (WIRE 8.5).
pub const CONSOLE_WAITS: &str = "waiting for VM";

/// How much history a console subscriber asks for.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum SinceCount {
    /// Lines not older than this.
    #[rasn(tag(explicit(0)))]
    Since(Timestamp),
    /// The newest lines.
    #[rasn(tag(explicit(1)))]
    Count(Int),
}

/// Requests to the statistics daemon.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum StatsCommand {
    /// Observe this process.
    #[rasn(tag(explicit(0)))]
    Add(StatsAdd),
    /// Observe it no longer.
    #[rasn(tag(explicit(1)))]
    Remove(()),
    /// Send what is observed, every interval.
    #[rasn(tag(explicit(2)))]
    Subscribe(()),
    /// The statistics daemon introduces itself to the supervisor.
    #[rasn(tag(explicit(3)))]
    Initial(()),
}

/// Requests about unikernels.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum UnikernelCommand {
    /// Stop and forget.
    #[rasn(tag(explicit(3)))]
    Destroy(()),
    /// The image, compressed at this zlib level, 0 for not at all.
    #[rasn(tag(explicit(11)))]
    Get(Int),
    /// Stop, and start again.
    #[rasn(tag(explicit(14)))]
    Restart(Restart),
    /// Info, answered with [`Success::OldUnikernelInfo4`].
    #[rasn(tag(explicit(15)))]
    InfoOld4(()),
    /// Info, answered with [`Success::OldUnikernelInfo5`].
    #[rasn(tag(explicit(18)))]
    InfoOld5(()),
    /// What runs.
    #[rasn(tag(explicit(19)))]
    Info(()),
    /// Start a new unikernel.
    #[rasn(tag(explicit(20)))]
    Create(Config),
    /// The same, in place of a running one of that name.
    #[rasn(tag(explicit(21)))]
    ForceCreate(Config),
    /// Stop, and stay down until asked to start. This and what follows is Petrel's own.
    #[rasn(tag(explicit(64)))]
    Stop(()),
    /// Start what was stopped, or has ended.
    #[rasn(tag(explicit(65)))]
    Start(()),
    /// Return to the previous image and configuration.
    #[rasn(tag(explicit(66)))]
    Rollback(()),
    /// What runs, is to run, or ran, answered with [`Success::UnikernelDetails`].
    #[rasn(tag(explicit(67)))]
    Details(()),
}

/// With which arguments a unikernel is restarted.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Restart {
    /// As it was.
    #[rasn(tag(explicit(0)))]
    NoArguments(()),
    /// New ones.
    #[rasn(tag(explicit(3)))]
    NewArguments(Arguments),
}

/// Requests about policies.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum PolicyCommand {
    /// The policies at and below a path.
    #[rasn(tag(explicit(0)))]
    Info(()),
    /// Set the policy of a path.
    #[rasn(tag(explicit(1)))]
    Add(Policy),
    /// Remove the policy of a path.
    #[rasn(tag(explicit(2)))]
    Remove(()),
    /// Set the policies of a certificate chain, one for each label of the path that is addressed, outermost first: all
    /// or none, except where the policy of a newer certificate was set before. Petrel's own, only its endpoint sends
    /// it; answered with [`Success::ChainSet`]. Tag 64 is not used again.
    #[rasn(tag(explicit(65)))]
    SetChain(Vec<DatedPolicy>),
}

/// Requests about block devices.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum BlockCommand {
    /// The block devices at and below a path.
    #[rasn(tag(explicit(0)))]
    Info(()),
    /// A new device of so many MB.
    #[rasn(tag(explicit(1)))]
    Add(Int),
    /// Delete.
    #[rasn(tag(explicit(2)))]
    Remove(()),
    /// A new device with its content in the message.
    #[rasn(tag(explicit(3)))]
    AddOld(legacy::BlockAdd),
    /// New content, in the message.
    #[rasn(tag(explicit(4)))]
    SetOld(legacy::BlockSet),
    /// The content in one message.
    #[rasn(tag(explicit(5)))]
    DumpOld(Int),
    /// The content as a stream, compressed at this zlib level.
    #[rasn(tag(explicit(6)))]
    Dump(Int),
    /// New content follows as a stream; whether it is compressed.
    #[rasn(tag(explicit(7)))]
    Set(bool),
    /// A new device whose content follows as a stream: it is there once all has arrived, or not at all. Petrel's own.
    #[rasn(tag(explicit(64)))]
    AddFilled(BlockAddFilled),
}

/// A policy.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Processors, ascending.
    pub cpuids: Vec<Int>,
    /// Number of unikernels.
    pub unikernels: Int,
    /// MB.
    pub memory: Int,
    /// MB; absent forbids block devices.
    pub block: Option<Int>,
    /// Bridges, ascending.
    pub bridges: Vec<Text>,
}

/// The answer to a request that was carried out.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Success {
    /// Nothing to say.
    #[rasn(tag(explicit(0)))]
    Empty(()),
    /// A word on it.
    #[rasn(tag(explicit(1)))]
    String(Text),
    /// Policies, their names relative to the path asked for.
    #[rasn(tag(explicit(2)))]
    Policies(Vec<NamedPolicy>),
    /// Block devices, likewise.
    #[rasn(tag(explicit(4)))]
    BlockDevices(Vec<BlockDevice>),
    /// The image of a unikernel.
    #[rasn(tag(explicit(6)))]
    UnikernelImage(Image),
    /// The content of a block device, in answer to [`BlockCommand::DumpOld`] only.
    #[rasn(tag(explicit(7)))]
    OldBlockDeviceImage(Image),
    /// Running unikernels, in answer to [`UnikernelCommand::InfoOld4`] only.
    #[rasn(tag(explicit(9)))]
    OldUnikernelInfo4(Vec<NamedInfo4>),
    /// The content of a block device follows; whether it is compressed.
    #[rasn(tag(explicit(10)))]
    BlockDeviceImage(bool),
    /// Running unikernels, in answer to [`UnikernelCommand::InfoOld5`] only.
    #[rasn(tag(explicit(11)))]
    OldUnikernelInfo5(Vec<NamedInfo5>),
    /// Names of consoles.
    #[rasn(tag(explicit(12)))]
    Consoles(Vec<Text>),
    /// Running unikernels, their names relative to the path asked for.
    #[rasn(tag(explicit(13)))]
    UnikernelInfo(Vec<NamedInfo>),
    /// Unikernels in any standing, in answer to [`UnikernelCommand::Details`] only.
    #[rasn(tag(explicit(64)))]
    UnikernelDetails(Vec<NamedDetails>),
    /// Paths that keep the policy of a newer certificate, in answer to [`PolicyCommand::SetChain`] only.
    #[rasn(tag(explicit(65)))]
    ChainSet(Vec<Text>),
}

/// A policy and its path.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct NamedPolicy {
    /// Path in the form of a name.
    pub name: Text,
    /// Its policy.
    pub policy: Policy,
}

/// A unikernel and its name.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct NamedInfo {
    /// Name.
    pub name: Text,
    /// What is told of it.
    pub info: Info,
}

/// A unikernel and its name, older form.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct NamedInfo5 {
    /// Name.
    pub name: Text,
    /// What is told of it.
    pub info: legacy::InfoV5,
}

/// A unikernel and its name, oldest form.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct NamedInfo4 {
    /// Name.
    pub name: Text,
    /// What is told of it.
    pub info: legacy::InfoV4,
}

/// A block device.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Name.
    pub name: Text,
    /// MB.
    pub size: Int,
    /// Whether a running unikernel has it.
    pub active: bool,
}

/// An image, perhaps compressed.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Whether it is a zlib stream.
    pub compressed: bool,
    /// The bytes.
    pub image: Bytes,
}

/// A piece of a stream.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Data {
    /// What a unikernel used.
    #[rasn(tag(explicit(1)))]
    Statistics(Box<Statistics>),
    /// A line of a console.
    #[rasn(tag(explicit(3)))]
    Console(ConsoleData),
    /// A piece of a block device.
    #[rasn(tag(explicit(4)))]
    Block(BlockData),
}

/// One line of a console, without newline.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct ConsoleData {
    /// When it was read.
    pub timestamp: Timestamp,
    /// The line, any bytes.
    pub data: Text,
}

/// A piece of a block device's content.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum BlockData {
    /// Content.
    #[rasn(tag(explicit(0)))]
    Some(Bytes),
    /// The end.
    #[rasn(tag(explicit(1)))]
    End(()),
}
