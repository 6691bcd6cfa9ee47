//! InfluxDB's line protocol: the lines of one record (BEHAVIOUR 8).

use std::fmt::Write as _;
use std::time::Duration;

use crate::name::Name;
use crate::wire::{IfData, Int32, Int64, KInfoMem, RUsage, Statistics, TimeVal, VmmStat};

/// In what the lines may differ from those of albatross.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// The tag `vm` is the whole name, not its label.
    pub whole_name: bool,
    /// Each line ends with its time in nanoseconds.
    pub timestamps: bool,
    /// What albatross leaves out or misnames is added: `majflt`, and `flags` of interfaces.
    pub all_fields: bool,
}

/// The lines about `name`, each with its newline; `now` is since 1970.
pub fn lines(name: &Name, used: &Statistics, now: Duration, style: Style) -> Vec<String> {
    let vm = match name.label() {
        Some(label) if !style.whole_name => label.to_string(),
        _ => name.to_string(),
    };
    lines_of(&vm, used, now, style)
}

/// The same about whatever the tag `vm` is to say.
pub fn lines_of(vm: &str, used: &Statistics, now: Duration, style: Style) -> Vec<String> {
    let vm = tag(vm.as_bytes());
    let mut lines = vec![format!(
        "resource_usage,vm={vm} {}",
        usage(&used.resource_usage, style)
    )];
    if let Some(memory) = &used.kinfo_mem {
        lines.push(format!("kinfo_mem,vm={vm} {}", self::memory(memory, now)));
    }
    if let Some(counters) = used.vmm_stats.as_deref().filter(|all| !all.is_empty()) {
        lines.push(format!("vmm,vm={vm} {}", vmm(counters)));
    }
    for data in &used.ifdata {
        let bridge = tag(&data.bridge.0);
        lines.push(format!(
            "interface,vm={vm},bridge={bridge} {}",
            interface(data, style)
        ));
    }
    for line in &mut lines {
        if style.timestamps {
            let _ = write!(line, " {}", now.as_nanos());
        }
        line.push('\n');
    }
    lines
}

/// A line of counters without a time, with its newline. A number that InfluxDB cannot store is the greatest that it can.
pub fn counters(measurement: &str, tags: &[(&str, &str)], counters: &[(&str, u64)]) -> String {
    let mut line = measurement.to_owned();
    for (name, value) in tags {
        let _ = write!(line, ",{name}={}", tag(value.as_bytes()));
    }
    let mut fields = Fields::default();
    for (name, value) in counters {
        let value = (*value).min(i64::MAX.unsigned_abs());
        fields.add(&tag(name.as_bytes()), format_args!("{value}i"));
    }
    line + " " + &fields.0 + "\n"
}

fn usage(usage: &RUsage, style: Style) -> String {
    let mut fields = Fields::default();
    fields.add("utime", time(&usage.utime));
    fields.add("stime", time(&usage.stime));
    for (name, value) in [
        ("maxrss", usage.maxrss),
        ("ixrss", usage.ixrss),
        ("idrss", usage.idrss),
        ("isrss", usage.isrss),
        ("minflt", usage.minflt),
        // Major faults, in spite of the name.
        ("maxflt", usage.majflt),
        ("nswap", usage.nswap),
        ("inblock", usage.inblock),
        ("outblock", usage.outblock),
        ("msgsnd", usage.msgsnd),
        ("msgrcv", usage.msgrcv),
        ("nsignals", usage.nsignals),
        ("nvcsw", usage.nvcsw),
        ("nivcsw", usage.nivcsw),
    ] {
        fields.long(name, value);
    }
    if style.all_fields {
        fields.long("majflt", usage.majflt);
    }
    fields.0
}

fn memory(memory: &KInfoMem, now: Duration) -> String {
    let mut fields = Fields::default();
    for (name, value) in [
        ("vsize", memory.vsize),
        ("rss", memory.rss),
        ("tsize", memory.tsize),
        ("dsize", memory.dsize),
        ("ssize", memory.ssize),
        ("cow_faults", Int64(memory.cow.get())),
        ("runtime", memory.runtime),
    ] {
        fields.long(name, value);
    }
    let seconds = u64::try_from(memory.start.seconds.0).unwrap_or(0);
    let micros = u64::try_from(memory.start.microseconds.get()).unwrap_or(0);
    let start = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
    let up = now.saturating_sub(start);
    fields.add(
        "uptime",
        format!("{}.{:06}", up.as_secs(), up.subsec_micros()),
    );
    fields.0
}

fn vmm(counters: &[VmmStat]) -> String {
    let mut fields = Fields::default();
    for counter in counters {
        fields.long(&tag(&counter.key.0), counter.value);
    }
    fields.0
}

fn interface(data: &IfData, style: Style) -> String {
    let mut fields = Fields::default();
    for (name, value) in [
        ("send_queue_length", data.send_length),
        ("max_send_queue_length", data.max_send_length),
        ("send_queue_drops", data.send_drops),
        ("mtu", data.mtu),
    ] {
        fields.int(name, value);
    }
    for (name, value) in [
        ("baudrate", data.baudrate),
        ("vm_to_host_packets", data.input_packets),
        ("vm_to_host_errors", data.input_errors),
        ("vm_to_host_bytes", data.input_bytes),
        ("vm_to_host_mcast", data.input_mcast),
        ("vm_to_host_dropped", data.input_dropped),
        ("collisions", data.collisions),
        ("host_to_vm_packets", data.output_packets),
        ("host_to_vm_errors", data.output_errors),
        ("host_to_vm_bytes", data.output_bytes),
        ("host_to_vm_mcast", data.output_mcast),
        ("host_to_vm_dropped", data.output_dropped),
    ] {
        fields.long(name, value);
    }
    if style.all_fields {
        fields.int("flags", data.flags);
    }
    fields.0
}

/// Fields with commas between.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let comma = if self.0.is_empty() { "" } else { "," };
        let _ = write!(self.0, "{comma}{name}={value}");
    }

    /// Numbers are unsigned, whatever the wire says.
    fn long(&mut self, name: &str, value: Int64) {
        self.add(name, format_args!("{}i", value.0.cast_unsigned()));
    }

    fn int(&mut self, name: &str, value: Int32) {
        self.add(name, format_args!("{}i", value.bits()));
    }
}

/// Seconds, with six places.
fn time(time: &TimeVal) -> String {
    let seconds = time.seconds.0.cast_unsigned();
    format!("{seconds}.{:06}", time.microseconds.get())
}

/// The value of a tag, or the name of a field: never empty, and nothing in it ends it.
fn tag(bytes: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            ',' | ' ' | '=' => text.extend(['\\', character]),
            // Neither has an escape, and a backslash at the end would be one.
            '\\' => text.push('_'),
            control if control.is_control() => text.push('_'),
            other => text.push(other),
        }
    }
    if text.is_empty() {
        text.push('_');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Int;

    const NOW: Duration = Duration::new(1_000, 7_500_000);

    fn at(seconds: i64, microseconds: i64) -> TimeVal {
        TimeVal {
            seconds: Int64(seconds),
            microseconds: Int::new(microseconds),
        }
    }

    fn used() -> Statistics {
        let n = Int64;
        Statistics {
            resource_usage: RUsage {
                utime: at(1, 2),
                stime: at(3, 4),
                maxrss: n(5),
                ixrss: n(6),
                idrss: n(7),
                isrss: n(8),
                minflt: n(9),
                majflt: n(10),
                nswap: n(11),
                inblock: n(12),
                outblock: n(13),
                msgsnd: n(14),
                msgrcv: n(15),
                nsignals: n(16),
                nvcsw: n(17),
                nivcsw: n(18),
            },
            ifdata: vec![IfData {
                bridge: "br a,b=c".into(),
                flags: Int32::from(0x1043),
                send_length: Int32::from(1),
                max_send_length: Int32::from(u32::MAX),
                send_drops: Int32::from(3),
                mtu: Int32::from(1500),
                baudrate: n(4),
                input_packets: n(5),
                input_errors: n(6),
                output_packets: n(7),
                output_errors: n(8),
                collisions: n(9),
                input_bytes: n(10),
                output_bytes: n(11),
                input_mcast: n(12),
                output_mcast: n(13),
                input_dropped: n(14),
                output_dropped: n(-1),
            }],
            vmm_stats: Some(vec![
                VmmStat {
                    key: "x".into(),
                    value: n(1),
                },
                VmmStat {
                    key: "y z=a,b".into(),
                    value: n(-2),
                },
            ]),
            kinfo_mem: Some(KInfoMem {
                vsize: n(1),
                rss: n(2),
                tsize: n(3),
                dsize: n(4),
                ssize: n(5),
                runtime: n(6),
                cow: Int::new(7),
                start: at(990, 500_000),
            }),
        }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn the_lines_are_those_of_albatross() {
        let lines = lines(&name("x:dd"), &used(), NOW, Style::default());
        assert_eq!(
            lines.concat(),
            "resource_usage,vm=dd utime=1.000002,stime=3.000004,maxrss=5i,ixrss=6i,idrss=7i,isrss=8i,minflt=9i,\
             maxflt=10i,nswap=11i,inblock=12i,outblock=13i,msgsnd=14i,msgrcv=15i,nsignals=16i,nvcsw=17i,nivcsw=18i\n\
             kinfo_mem,vm=dd vsize=1i,rss=2i,tsize=3i,dsize=4i,ssize=5i,cow_faults=7i,runtime=6i,uptime=9.507500\n\
             vmm,vm=dd x=1i,y\\ z\\=a\\,b=18446744073709551614i\n\
             interface,vm=dd,bridge=br\\ a\\,b\\=c send_queue_length=1i,max_send_queue_length=4294967295i,\
             send_queue_drops=3i,mtu=1500i,baudrate=4i,vm_to_host_packets=5i,vm_to_host_errors=6i,\
             vm_to_host_bytes=10i,vm_to_host_mcast=12i,vm_to_host_dropped=14i,collisions=9i,host_to_vm_packets=7i,\
             host_to_vm_errors=8i,host_to_vm_bytes=11i,host_to_vm_mcast=13i,\
             host_to_vm_dropped=18446744073709551615i\n"
        );
    }

    #[test]
    fn names_are_whole_and_lines_have_times_where_that_is_wanted() {
        let mut used = used();
        (used.vmm_stats, used.kinfo_mem) = (None, None);
        let style = Style {
            whole_name: true,
            timestamps: true,
            all_fields: true,
        };
        let lines = lines(&name("x:dd"), &used, NOW, style);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("resource_usage,vm=x:dd utime="));
        assert!(lines[0].ends_with(",majflt=10i 1000007500000\n"));
        assert!(lines[1].ends_with(",flags=4163i 1000007500000\n"));
        let of_path = super::lines(&name("x:"), &used, NOW, Style::default());
        assert!(of_path[0].starts_with("resource_usage,vm=x: "));
    }

    #[test]
    fn counters_are_escaped_and_fit_the_database() {
        let line = counters(
            "m",
            &[("a", "b c"), ("d", "")],
            &[("e f", 1), ("g", u64::MAX)],
        );
        assert_eq!(line, "m,a=b\\ c,d=_ e\\ f=1i,g=9223372036854775807i\n");
    }

    #[test]
    fn nothing_in_a_tag_ends_it() {
        assert_eq!(tag(b"a\nb\\"), "a_b_");
        assert_eq!(tag(b""), "_");
        assert_eq!(tag("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
    }
}
