//! The records of the statistics daemon.

use rasn::{AsnType, Decode, Decoder, Encode, Encoder};

use super::primitive::{Int, Int32, Int64, Text};

/// A process to observe.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct StatsAdd {
    /// FreeBSD's vmm device, or empty.
    pub vmmdev: Text,
    /// Process id of the tender.
    pub pid: Int,
    /// Its network devices.
    pub network: Vec<BridgeTap>,
}

/// A network device of a unikernel and its tap.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct BridgeTap {
    /// Device name of the unikernel (WIRE 9.2), in spite of the field's name.
    pub bridge: Text,
    /// Interface of the host.
    pub tap: Text,
}

/// What a unikernel used.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Resource usage.
    pub resource_usage: RUsage,
    /// Per interface.
    pub ifdata: Vec<IfData>,
    /// Counters of FreeBSD's vmm.
    #[rasn(tag(explicit(0)))]
    pub vmm_stats: Option<Vec<VmmStat>>,
    /// Memory.
    #[rasn(tag(1))]
    pub kinfo_mem: Option<KInfoMem>,
}

/// One counter of FreeBSD's vmm.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named in full")]
pub struct VmmStat {
    pub key: Text,
    pub value: Int64,
}

/// A time span or a point in time.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named in full")]
pub struct TimeVal {
    pub seconds: Int64,
    pub microseconds: Int,
}

/// Resource usage, as in getrusage(2).
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of getrusage(2)")]
pub struct RUsage {
    pub utime: TimeVal,
    pub stime: TimeVal,
    pub maxrss: Int64,
    pub ixrss: Int64,
    pub idrss: Int64,
    pub isrss: Int64,
    pub minflt: Int64,
    pub majflt: Int64,
    pub nswap: Int64,
    pub inblock: Int64,
    pub outblock: Int64,
    pub msgsnd: Int64,
    pub msgrcv: Int64,
    pub nsignals: Int64,
    pub nvcsw: Int64,
    pub nivcsw: Int64,
}

/// Memory, as in FreeBSD's `kinfo_proc`.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of kinfo_proc")]
pub struct KInfoMem {
    pub vsize: Int64,
    pub rss: Int64,
    pub tsize: Int64,
    pub dsize: Int64,
    pub ssize: Int64,
    /// Microseconds.
    pub runtime: Int64,
    pub cow: Int,
    pub start: TimeVal,
}

/// Counters of an interface, as in FreeBSD's `ifmibdata`.
#[derive(AsnType, Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of ifmibdata")]
pub struct IfData {
    pub bridge: Text,
    pub flags: Int32,
    pub send_length: Int32,
    pub max_send_length: Int32,
    pub send_drops: Int32,
    pub mtu: Int32,
    pub baudrate: Int64,
    pub input_packets: Int64,
    pub input_errors: Int64,
    pub output_packets: Int64,
    pub output_errors: Int64,
    pub collisions: Int64,
    pub input_bytes: Int64,
    pub output_bytes: Int64,
    pub input_mcast: Int64,
    pub output_mcast: Int64,
    pub input_dropped: Int64,
    pub output_dropped: Int64,
}
