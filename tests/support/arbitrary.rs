//! Arbitrary records of the wire.

use petrel::wire::legacy::{
    ArgumentsV0, ArgumentsV1, BlockAdd, BlockSet, ConfigV3, ConfigV4, InfoV4, InfoV5,
};
use petrel::wire::{
    Arguments, Block3, BlockAddFilled, BlockCommand, BlockData, BlockDevice, BlockInfo, BridgeTap,
    Bytes, CertExtension, Command, Config, ConsoleCommand, ConsoleData, ConsoleRead, Data,
    DatedPolicy, FailBehaviour, Header, IfData, Image, Info, Int, Int32, Int64, KInfoMem,
    MacAddress, Message, NamedInfo, NamedInfo4, NamedInfo5, NamedPolicy, Net3, NetInfo, Payload,
    Policy, PolicyCommand, RUsage, Restart, Set, SinceCount, Statistics, StatsAdd, StatsCommand,
    Success, Text, TimeVal, Timestamp, Typ, UnikernelCommand, VERSION, VmmStat, extensions, v5,
};

use super::random::Random;

/// A value that can be anything its type allows, extremes included.
pub trait Arbitrary: Sized {
    fn arbitrary(random: &mut Random) -> Self;
}

impl Arbitrary for () {
    fn arbitrary(_: &mut Random) -> Self {}
}

impl Arbitrary for bool {
    fn arbitrary(random: &mut Random) -> Self {
        random.below(2) == 0
    }
}

/// A number of any magnitude.
fn number(random: &mut Random) -> i64 {
    let magnitude = random.bits() >> random.below(64);
    let edge = [0, 1, 2][random.below(3)];
    let number = magnitude.wrapping_sub(edge).cast_signed();
    if bool::arbitrary(random) {
        number
    } else {
        number.wrapping_neg()
    }
}

impl Arbitrary for Int {
    fn arbitrary(random: &mut Random) -> Self {
        Self::new(number(random))
    }
}

impl Arbitrary for Int64 {
    fn arbitrary(random: &mut Random) -> Self {
        Self(number(random))
    }
}

impl Arbitrary for Int32 {
    fn arbitrary(random: &mut Random) -> Self {
        Self::from(u32::try_from(random.bits() >> 32 >> random.below(32)).unwrap())
    }
}

/// Mostly few bytes, sometimes so many that their length takes two or three bytes.
fn bytes(random: &mut Random) -> Vec<u8> {
    let length = match random.below(20) {
        0 => 120 + random.below(20),
        1 => 250 + random.below(20),
        2 => 65_530 + random.below(20),
        _ => random.below(12),
    };
    (0..length).map(|_| random.byte()).collect()
}

impl Arbitrary for Text {
    fn arbitrary(random: &mut Random) -> Self {
        Self(bytes(random))
    }
}

impl Arbitrary for Bytes {
    fn arbitrary(random: &mut Random) -> Self {
        Self(bytes(random))
    }
}

impl Arbitrary for MacAddress {
    fn arbitrary(random: &mut Random) -> Self {
        Self([(); 6].map(|()| random.byte()))
    }
}

impl Arbitrary for Timestamp {
    fn arbitrary(random: &mut Random) -> Self {
        let fraction = [0, random.bits() % 1_000_000_000_000, 1][random.below(3)];
        Self::from_unix(number(random) >> random.below(40), fraction)
    }
}

impl<T: Arbitrary> Arbitrary for Option<T> {
    fn arbitrary(random: &mut Random) -> Self {
        bool::arbitrary(random).then(|| T::arbitrary(random))
    }
}

impl<T: Arbitrary> Arbitrary for Box<T> {
    fn arbitrary(random: &mut Random) -> Self {
        Self::new(T::arbitrary(random))
    }
}

impl<T: Arbitrary> Arbitrary for Vec<T> {
    fn arbitrary(random: &mut Random) -> Self {
        (0..random.below(4)).map(|_| T::arbitrary(random)).collect()
    }
}

impl<T: Arbitrary + rasn::Encode> Arbitrary for Set<T> {
    fn arbitrary(random: &mut Random) -> Self {
        Self::sorted(Vec::arbitrary(random))
    }
}

impl Arbitrary for Header {
    fn arbitrary(random: &mut Random) -> Self {
        Self {
            version: Int::new(VERSION),
            sequence: Int64::arbitrary(random),
            name: Text::arbitrary(random),
        }
    }
}

impl Arbitrary for v5::CertExtension {
    fn arbitrary(random: &mut Random) -> Self {
        Self {
            version: Int::new(VERSION),
            command: v5::Command::arbitrary(random),
        }
    }
}

impl Arbitrary for CertExtension {
    fn arbitrary(random: &mut Random) -> Self {
        Self::new(Command::arbitrary(random))
    }
}

macro_rules! record {
    ($($type:ty { $($field:ident)* })*) => {
        $(impl Arbitrary for $type {
            fn arbitrary(random: &mut Random) -> Self {
                Self { $($field: Arbitrary::arbitrary(random),)* }
            }
        })*
    };
}

macro_rules! choice {
    ($($type:ty { $($alternative:ident)* })*) => {
        $(impl Arbitrary for $type {
            fn arbitrary(random: &mut Random) -> Self {
                let alternatives: &[fn(&mut Random) -> Self] =
                    &[$(|random| Self::$alternative(Arbitrary::arbitrary(random)),)*];
                alternatives[random.below(alternatives.len())](random)
            }
        })*
    };
}

choice! {
    Payload { Command Reply Failure Data }
    Command { Console Statistics Unikernel Policy Block }
    ConsoleCommand { Add Subscribe Inactive Read }
    SinceCount { Since Count }
    StatsCommand { Add Remove Subscribe Initial }
    UnikernelCommand {
        Destroy Get Restart InfoOld4 InfoOld5 Info Create ForceCreate Stop Start Rollback Details
    }
    Restart { NoArguments NewArguments }
    v5::Payload { Command Reply Failure Data }
    v5::Command { Console Statistics Unikernel Policy Block }
    v5::UnikernelCommand {
        Destroy CreateOld ForceCreateOld Get Restart InfoOld4 CreateOld2 ForceCreateOld2 InfoOld5
        Info Create ForceCreate Stop Start Rollback Details
    }
    v5::Restart { NoArguments NewArgumentsOld2 NewArgumentsOld NewArguments }
    PolicyCommand { Info Add Remove SetChain }
    BlockCommand { Info Add Remove AddOld SetOld DumpOld Dump Set AddFilled }
    Success {
        Empty String Policies BlockDevices UnikernelImage OldBlockDeviceImage OldUnikernelInfo4
        BlockDeviceImage OldUnikernelInfo5 Consoles UnikernelInfo UnikernelDetails ChainSet
    }
    extensions::Standing { Running Starting Waiting Stopped Ended }
    extensions::Death { Exit Signal OutOfMemory Unknown }
    Data { Statistics Console Block }
    BlockData { Some End }
    Typ { Solo5 Bhyve }
    FailBehaviour { Quit RestartExitCodes }
}

record! {
    Message { header payload }
    v5::Message { header payload }
    extensions::NamedDetails { name details }
    extensions::Details { info standing restarts last_exit previous off_bridge }
    extensions::Waiting { until trouble }
    extensions::Exit { death at }
    StatsAdd { vmmdev pid network }
    BridgeTap { bridge tap }
    Policy { cpuids unikernels memory block bridges }
    NamedPolicy { name policy }
    DatedPolicy { policy not_before }
    NamedInfo { name info }
    NamedInfo5 { name info }
    NamedInfo4 { name info }
    BlockDevice { name size active }
    Image { compressed image }
    ConsoleData { timestamp data }
    BlockAdd { size compress data }
    BlockSet { compress data }
    BlockAddFilled { size compressed }
    ConsoleRead { from follow }
    Block3 { block_name block_device_name block_sector_size }
    Net3 { netif bridge mac }
    BlockInfo { unikernel_device host_device sector_size block_size }
    NetInfo { unikernel_device host_device mac }
    Config {
        typ compressed image startup add_name fail_behaviour cpuids memory blocks bridges arguments
        cpus linux_boot_partition
    }
    ConfigV4 {
        typ compressed image startup add_name fail_behaviour cpuid memory blocks bridges arguments
    }
    ConfigV3 { typ compressed image fail_behaviour cpuid memory blocks bridges arguments }
    Arguments {
        fail_behaviour startup add_name cpuids memory blocks bridges arguments cpus
        linux_boot_partition
    }
    ArgumentsV1 { fail_behaviour startup add_name cpuid memory blocks bridges arguments }
    ArgumentsV0 { fail_behaviour cpuid memory blocks bridges arguments }
    Info {
        typ startup fail_behaviour cpuids memory digest blocks bridges arguments started cpus
        linux_boot_partition
    }
    InfoV5 {
        typ startup fail_behaviour cpuid memory digest blocks bridges arguments started
    }
    InfoV4 { typ fail_behaviour cpuid memory digest blocks bridges arguments started }
    Statistics { resource_usage ifdata vmm_stats kinfo_mem }
    VmmStat { key value }
    TimeVal { seconds microseconds }
    RUsage {
        utime stime maxrss ixrss idrss isrss minflt majflt nswap inblock outblock msgsnd msgrcv
        nsignals nvcsw nivcsw
    }
    KInfoMem { vsize rss tsize dsize ssize runtime cow start }
    IfData {
        bridge flags send_length max_send_length send_drops mtu baudrate input_packets input_errors
        output_packets output_errors collisions input_bytes output_bytes input_mcast output_mcast
        input_dropped output_dropped
    }
}
