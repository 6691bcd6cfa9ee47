//! Records that older releases of albatross write and that are still read (WIRE 5), and the replies they expect.

use rasn::{AsnType, Decode, Decoder, Encode, Encoder};

use super::primitive::{Int, Octets, Set, Text, Timestamp};
use super::unikernel::{Block3, BlockInfo, FailBehaviour, Net3, NetInfo, Typ};

/// A unikernel to create, with a single processor.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the current record")]
pub struct ConfigV4 {
    pub typ: Typ,
    pub compressed: bool,
    pub image: Octets,
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
    pub image: Octets,
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
    pub digest: Octets,
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
    pub digest: Octets,
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
    pub data: Option<Octets>,
}

/// New content of a block device.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct BlockSet {
    /// Whether the content is a zlib stream.
    pub compress: bool,
    /// The content.
    pub data: Octets,
}
