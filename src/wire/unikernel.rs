//! The records of unikernels, current form.

use rasn::{AsnType, Decode, Decoder, Encode, Encoder};

use super::primitive::{Bytes, Int, MacAddress, Set, Text, Timestamp};

/// Kind of virtual machine.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum Typ {
    /// Solo5.
    #[rasn(tag(explicit(0)))]
    Solo5(()),
    /// BHyve.
    #[rasn(tag(explicit(1)))]
    Bhyve(()),
}

/// What happens when the unikernel ends by itself.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum FailBehaviour {
    /// It stays down.
    #[rasn(tag(explicit(0)))]
    Quit(()),
    /// It is restarted on these exit codes, or on all that are eligible.
    #[rasn(tag(explicit(1)))]
    RestartExitCodes(Set<Int>),
}

/// A block device asked for.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Block3 {
    /// Device of the unikernel.
    pub block_name: Text,
    /// Device of the host.
    pub block_device_name: Option<Text>,
    /// Bytes.
    pub block_sector_size: Option<Int>,
}

/// A network device asked for.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Net3 {
    /// Device of the unikernel.
    pub netif: Text,
    /// Bridge of the host.
    pub bridge: Option<Text>,
    /// Hardware address.
    pub mac: Option<MacAddress>,
}

/// A unikernel to create.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Kind of virtual machine.
    pub typ: Typ,
    /// Whether the image is a zlib stream.
    pub compressed: bool,
    /// The image; empty: it follows as a stream of raw frames.
    pub image: Bytes,
    /// Start order.
    pub startup: Option<Int>,
    /// Whether `--name` is added to the arguments.
    pub add_name: bool,
    /// What happens when it ends.
    pub fail_behaviour: FailBehaviour,
    /// Host processors.
    pub cpuids: Set<Int>,
    /// MB.
    pub memory: Int,
    /// Block devices.
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Block3>>,
    /// Network devices.
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<Net3>>,
    /// Guest arguments.
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
    /// Virtual processors.
    #[rasn(tag(explicit(3)))]
    pub cpus: Option<Int>,
    /// Boot partition.
    #[rasn(tag(explicit(4)))]
    pub linux_boot_partition: Option<Text>,
}

/// What a restart may change: [`Config`] without the image.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// What happens when it ends.
    pub fail_behaviour: FailBehaviour,
    /// Start order.
    pub startup: Option<Int>,
    /// Whether `--name` is added to the arguments.
    pub add_name: bool,
    /// Host processors.
    pub cpuids: Set<Int>,
    /// MB.
    pub memory: Int,
    /// Block devices.
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Block3>>,
    /// Network devices.
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<Net3>>,
    /// Guest arguments.
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
    /// Virtual processors.
    #[rasn(tag(explicit(3)))]
    pub cpus: Option<Int>,
    /// Boot partition.
    #[rasn(tag(explicit(4)))]
    pub linux_boot_partition: Option<Text>,
}

/// A block device in use.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Device of the unikernel.
    pub unikernel_device: Text,
    /// Device of the host.
    pub host_device: Text,
    /// Bytes.
    pub sector_size: Int,
    /// MB.
    pub block_size: Int,
}

/// A network device in use.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct NetInfo {
    /// Device of the unikernel.
    pub unikernel_device: Text,
    /// Bridge of the host.
    pub host_device: Text,
    /// The address in effect.
    pub mac: MacAddress,
}

/// What is told of a running unikernel.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Kind of virtual machine.
    pub typ: Typ,
    /// Start order.
    pub startup: Option<Int>,
    /// What happens when it ends.
    pub fail_behaviour: FailBehaviour,
    /// Host processors.
    pub cpuids: Set<Int>,
    /// MB.
    pub memory: Int,
    /// SHA-256 of the uncompressed image, or the name of the BHyve machine.
    pub digest: Bytes,
    /// Block devices.
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<BlockInfo>>,
    /// Network devices.
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<NetInfo>>,
    /// Guest arguments.
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
    /// When it was started.
    #[rasn(tag(explicit(3)))]
    pub started: Option<Timestamp>,
    /// Virtual processors.
    #[rasn(tag(explicit(4)))]
    pub cpus: Option<Int>,
    /// Boot partition.
    #[rasn(tag(explicit(5)))]
    pub linux_boot_partition: Option<Text>,
}
