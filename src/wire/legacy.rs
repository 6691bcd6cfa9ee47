//! Records that older releases of albatross write and that are still read (WIRE 5), and the replies they expect.

mod translate;

use rasn::{AsnType, Decode, Decoder, Encode, Encoder};

use super::primitive::{Bytes, Int, Set, Text, Timestamp};
use super::unikernel::{Block3, BlockInfo, FailBehaviour, Net3, NetInfo, Typ};

/// A unikernel to create, with a single processor.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct ConfigV4 {
    pub typ: Typ,
    pub compressed: bool,
    pub image: Bytes,
    pub startup: Option<Int>,
    pub add_name: bool,
    pub fail_behaviour: FailBehaviour,
    pub cpuid: Int,
    pub memory: Int,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Block3>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<Net3>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
}

/// A unikernel to create, without start order; `--name` is always added.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct ConfigV3 {
    pub typ: Typ,
    pub compressed: bool,
    pub image: Bytes,
    pub fail_behaviour: FailBehaviour,
    pub cpuid: Int,
    pub memory: Int,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Block3>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<Net3>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
}

/// A unikernel to create, its devices without sector size and hardware address. Of state files only.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct ConfigV2 {
    pub typ: Typ,
    pub compressed: bool,
    pub image: Bytes,
    pub fail_behaviour: FailBehaviour,
    pub cpuid: Int,
    pub memory: Int,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Text>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Vec<Net2>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
}

/// A network device asked for, without hardware address.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Net2 {
    /// Device of the unikernel.
    pub netif: Text,
    /// Bridge of the host.
    pub bridge: Option<Text>,
}

/// A unikernel to create, its devices by name only. Of state files only.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct ConfigV1 {
    pub typ: Typ,
    pub compressed: bool,
    pub image: Bytes,
    pub fail_behaviour: FailBehaviour,
    pub cpuid: Int,
    pub memory: Int,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Text>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<Text>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
}

/// A unikernel to create, the first form. Of state files only.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct ConfigV0 {
    /// Host processor.
    pub cpu: Int,
    /// MB.
    pub memory: Int,
    /// Block device.
    pub block: Option<Text>,
    /// Network devices.
    pub network_interfaces: Option<Vec<Text>>,
    /// The image.
    pub image: ImageV0,
    /// Guest arguments.
    pub arguments: Option<Vec<Text>>,
}

/// An image and the machine it is for; all are Solo5's hvt.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[rasn(choice)]
pub enum ImageV0 {
    /// For amd64.
    #[rasn(tag(explicit(0)))]
    HvtAmd64(Bytes),
    /// For arm64.
    #[rasn(tag(explicit(1)))]
    HvtArm64(Bytes),
    /// For amd64, a zlib stream.
    #[rasn(tag(explicit(2)))]
    HvtAmd64Compressed(Bytes),
}

/// What a restart may change, with a single processor.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct ArgumentsV1 {
    pub fail_behaviour: FailBehaviour,
    pub startup: Option<Int>,
    pub add_name: bool,
    pub cpuid: Int,
    pub memory: Int,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Block3>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<Net3>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
}

/// What a restart may change, without start order; `--name` is always added.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct ArgumentsV0 {
    pub fail_behaviour: FailBehaviour,
    pub cpuid: Int,
    pub memory: Int,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<Block3>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<Net3>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
}

/// What is told of a running unikernel, with a single processor.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct InfoV5 {
    pub typ: Typ,
    pub startup: Option<Int>,
    pub fail_behaviour: FailBehaviour,
    pub cpuid: Int,
    pub memory: Int,
    pub digest: Bytes,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<BlockInfo>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<NetInfo>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
    #[rasn(tag(explicit(3)))]
    pub started: Option<Timestamp>,
}

/// What is told of a running unikernel, without start order.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct InfoV4 {
    pub typ: Typ,
    pub fail_behaviour: FailBehaviour,
    pub cpuid: Int,
    pub memory: Int,
    pub digest: Bytes,
    #[rasn(tag(explicit(0)))]
    pub blocks: Option<Set<BlockInfo>>,
    #[rasn(tag(explicit(1)))]
    pub bridges: Option<Set<NetInfo>>,
    #[rasn(tag(explicit(2)))]
    pub arguments: Option<Vec<Text>>,
    #[rasn(tag(explicit(3)))]
    pub started: Option<Timestamp>,
}

/// A new block device with its content.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct BlockAdd {
    /// MB.
    pub size: Int,
    /// Whether the content is a zlib stream.
    pub compress: bool,
    /// The content.
    pub data: Option<Bytes>,
}

/// New content of a block device.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct BlockSet {
    /// Whether the content is a zlib stream.
    pub compress: bool,
    /// The content.
    pub data: Bytes,
}
