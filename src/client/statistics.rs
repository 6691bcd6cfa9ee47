//! Statistics in words: four blocks (BEHAVIOUR 4).

use std::fmt::Write as _;

use super::display::escaped;
use crate::wire::{IfData, Int64, KInfoMem, RUsage, Statistics, Text, TimeVal, VmmStat};

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
    counters(&mut text, &usage_counters(usage));
    text
}

fn usage_counters(usage: &RUsage) -> [(&'static str, Int64); 14] {
    [
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
    ]
}

fn memory(memory: &KInfoMem) -> String {
    let mut text = "memory:".to_owned();
    counters(&mut text, &memory_counters(memory));
    text + " start " + &time(&memory.start)
}

fn memory_counters(memory: &KInfoMem) -> [(&'static str, Int64); 7] {
    [
        ("vsize", memory.vsize),
        ("rss", memory.rss),
        ("tsize", memory.tsize),
        ("dsize", memory.dsize),
        ("ssize", memory.ssize),
        ("runtime", memory.runtime),
        ("cow", Int64(memory.cow.get())),
    ]
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
    counters(&mut text, &interface_counters(data));
    text
}

fn interface_counters(data: &IfData) -> [(&'static str, Int64); 12] {
    [
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
    ]
}

fn counters(text: &mut String, counters: &[(&str, Int64)]) {
    for (name, value) in counters {
        let _ = write!(text, " {name} {}", value.0.cast_unsigned());
    }
}

/// The same as one line of JSON: times in seconds, what is not there is null.
pub(super) fn json(name: &Text, statistics: &Statistics) -> String {
    let numbers = |counters: &[(&str, Int64)]| {
        counters
            .iter()
            .fold(String::new(), |mut text, (name, value)| {
                let _ = write!(text, ",\"{name}\":{}", value.0.cast_unsigned());
                text
            })
    };
    let null = || "null".to_owned();
    let usage = &statistics.resource_usage;
    let memory = statistics.kinfo_mem.as_ref().map_or_else(null, |memory| {
        let start = time(&memory.start);
        format!("{{\"start\":{start}{}}}", numbers(&memory_counters(memory)))
    });
    let vmm = statistics.vmm_stats.as_ref().map_or_else(null, |counters| {
        let counters = counters.iter().map(|counter| {
            let value = counter.value.0.cast_unsigned();
            format!("{}:{value}", quoted(&counter.key.to_lossy()))
        });
        format!("{{{}}}", counters.collect::<Vec<_>>().join(","))
    });
    let interfaces = statistics.ifdata.iter().map(|data| {
        format!(
            "{{\"device\":{},\"flags\":{},\"send_length\":{},\"max_send_length\":{},\"send_drops\":{},\"mtu\":{}{}}}",
            quoted(&data.bridge.to_lossy()),
            data.flags.bits(),
            data.send_length.bits(),
            data.max_send_length.bits(),
            data.send_drops.bits(),
            data.mtu.bits(),
            numbers(&interface_counters(data))
        )
    });
    format!(
        "{{\"unikernel\":{},\"usage\":{{\"utime\":{},\"stime\":{}{}}},\"memory\":{memory},\"vmm\":{vmm},\
         \"interfaces\":[{}]}}",
        quoted(&name.to_lossy()),
        time(&usage.utime),
        time(&usage.stime),
        numbers(&usage_counters(usage)),
        interfaces.collect::<Vec<_>>().join(",")
    )
}

/// A string of JSON, in which nothing can steer a terminal.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(quoted, "\\u{unit:04x}");
                }
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Seconds, with six places.
fn time(time: &TimeVal) -> String {
    format!("{}.{:06}", time.seconds.0, time.microseconds.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_of_json_is_ascii() {
        assert_eq!(
            quoted("a\"b\\c\n\u{1b}\u{fc}\u{1f426}"),
            r#""a\"b\\c\u000a\u001b\u00fc\ud83d\udc26""#
        );
    }
}
