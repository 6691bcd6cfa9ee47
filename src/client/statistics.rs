//! Statistics in words: four blocks (BEHAVIOUR 4).

use std::fmt::Write as _;

use super::display::escaped;
use crate::wire::{IfData, Int64, KInfoMem, RUsage, Statistics, TimeVal, VmmStat};

/// Resource usage, memory, counters of vmm, and a line for each interface.
pub(super) fn text(statistics: &Statistics) -> String {
    let mut blocks = vec![
        usage(&statistics.resource_usage),
        statistics
            .kinfo_mem
            .as_ref()
            .map_or_else(|| "no kinfo_mem stats".to_owned(), memory),
        statistics
            .vmm_stats
            .as_deref()
            .map_or_else(|| "no vmm stats".to_owned(), vmm),
    ];
    blocks.extend(statistics.ifdata.iter().map(interface));
    blocks.join("\n")
}

fn usage(usage: &RUsage) -> String {
    let mut text = format!(
        "usage: utime {} stime {}",
        time(&usage.utime),
        time(&usage.stime)
    );
    counters(
        &mut text,
        &[
            ("maxrss", usage.maxrss),
            ("ixrss", usage.ixrss),
            ("idrss", usage.idrss),
            ("isrss", usage.isrss),
            ("minflt", usage.minflt),
            ("majflt", usage.majflt),
            ("nswap", usage.nswap),
            ("inblock", usage.inblock),
            ("outblock", usage.outblock),
            ("msgsnd", usage.msgsnd),
            ("msgrcv", usage.msgrcv),
            ("nsignals", usage.nsignals),
            ("nvcsw", usage.nvcsw),
            ("nivcsw", usage.nivcsw),
        ],
    );
    text
}

fn memory(memory: &KInfoMem) -> String {
    let mut text = "memory:".to_owned();
    counters(
        &mut text,
        &[
            ("vsize", memory.vsize),
            ("rss", memory.rss),
            ("tsize", memory.tsize),
            ("dsize", memory.dsize),
            ("ssize", memory.ssize),
            ("runtime", memory.runtime),
            ("cow", Int64(memory.cow.get())),
        ],
    );
    text + " start " + &time(&memory.start)
}

fn vmm(counters: &[VmmStat]) -> String {
    let mut text = "vmm:".to_owned();
    for counter in counters {
        let _ = write!(
            text,
            " {} {}",
            escaped(&counter.key.0),
            counter.value.0.cast_unsigned()
        );
    }
    text
}

fn interface(data: &IfData) -> String {
    let mut text = format!(
        "interface {}: flags {:#x} send_length {} max_send_length {} send_drops {} mtu {}",
        escaped(&data.bridge.0),
        data.flags.bits(),
        data.send_length.bits(),
        data.max_send_length.bits(),
        data.send_drops.bits(),
        data.mtu.bits()
    );
    counters(
        &mut text,
        &[
            ("baudrate", data.baudrate),
            ("input_packets", data.input_packets),
            ("input_errors", data.input_errors),
            ("output_packets", data.output_packets),
            ("output_errors", data.output_errors),
            ("collisions", data.collisions),
            ("input_bytes", data.input_bytes),
            ("output_bytes", data.output_bytes),
            ("input_mcast", data.input_mcast),
            ("output_mcast", data.output_mcast),
            ("input_dropped", data.input_dropped),
            ("output_dropped", data.output_dropped),
        ],
    );
    text
}

fn counters(text: &mut String, counters: &[(&str, Int64)]) {
    for (name, value) in counters {
        let _ = write!(text, " {name} {}", value.0.cast_unsigned());
    }
}

/// Seconds, with six places.
fn time(time: &TimeVal) -> String {
    format!("{}.{:06}", time.seconds.0, time.microseconds.get())
}
