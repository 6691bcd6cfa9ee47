//! Statistics in the text format of Prometheus, version 0.0.4, with its conventions: base units, totals by name.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::collect::Disk;
use crate::name::Name;
use crate::wire::extensions::{Details, NamedDetails, Standing};
use crate::wire::{IfData, Int64, Statistics, Text, TimeVal};

/// All that is told at one time.
#[derive(Debug)]
pub struct Report<'a> {
    /// Since 1970.
    pub collected: Duration,
    /// What was gathered.
    pub samples: &'a [(Name, Statistics)],
    /// The same of disks, for those of which the system tells it.
    pub disks: &'a [(Name, Disk)],
    /// What the supervisor tells of its unikernels; nothing if it could not be asked.
    pub details: Option<&'a [NamedDetails]>,
    /// How many subscribers there are.
    pub subscribers: usize,
    /// How often subscribers missed what was gathered.
    pub missed: u64,
    /// Bytes of a page.
    pub page: i64,
}

/// The whole text.
pub fn text(report: &Report<'_>) -> String {
    let mut text = Exposition::default();
    usage(&mut text, report);
    network(&mut text, report.samples);
    virtual_machines(&mut text, report.samples);
    life(&mut text, report.details.unwrap_or_default());
    daemons(&mut text, report);
    text.0
}

/// Whether the value only ever grows.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

type Labels<'a> = Vec<(&'static str, String)>;

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    /// A metric with its values; nothing at all if it has none.
    fn metric<Value: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'static>, Value)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in values {
            let labels: Vec<_> = labels
                .iter()
                .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
                .collect();
            let labels = match &labels[..] {
                [] => String::new(),
                labels => format!("{{{}}}", labels.join(",")),
            };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

/// The value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The value of `field` for each unikernel.
fn each<Value>(
    samples: &[(Name, Statistics)],
    field: impl Fn(&Statistics) -> Value,
) -> impl Iterator<Item = (Labels<'static>, Value)> {
    samples
        .iter()
        .map(move |(name, used)| (vec![("unikernel", name.to_string())], field(used)))
}

/// The same with two values, told apart by a further label.
fn both<Value>(
    samples: &[(Name, Statistics)],
    label: &'static str,
    fields: [(&'static str, impl Fn(&Statistics) -> Value); 2],
) -> impl Iterator<Item = (Labels<'static>, Value)> {
    samples.iter().flat_map(move |(name, used)| {
        let values = fields.each_ref().map(|(which, field)| {
            let labels = vec![
                ("unikernel", name.to_string()),
                (label, (*which).to_owned()),
            ];
            (labels, field(used))
        });
        values.into_iter()
    })
}

fn usage(text: &mut Exposition, report: &Report<'_>) {
    use Kind::{Counter, Gauge};

    let (samples, page) = (report.samples, report.page);
    let memory = |used: &Statistics| used.kinfo_mem.clone();
    let disks = |field: fn(&Disk) -> i64| {
        let values = report.disks.iter();
        values.map(move |(name, disk)| (vec![("unikernel", name.to_string())], field(disk)))
    };
    text.metric(
        "petrel_unikernel_cpu_seconds_total",
        Counter,
        "Processor time of the tender: mode user is mostly the guest.",
        both(
            samples,
            "mode",
            [
                (
                    "user",
                    (|used| seconds(&used.resource_usage.utime)) as fn(&Statistics) -> String,
                ),
                ("system", |used| seconds(&used.resource_usage.stime)),
            ],
        ),
    );
    text.metric(
        "petrel_unikernel_resident_memory_bytes",
        Gauge,
        "Memory of the tender in RAM, its guest's included.",
        each(samples, |used| {
            memory(used).map_or(0, |memory| memory.rss.0.saturating_mul(page))
        }),
    );
    text.metric(
        "petrel_unikernel_resident_memory_max_bytes",
        Gauge,
        "Most memory the tender ever had in RAM.",
        each(samples, |used| {
            used.resource_usage.maxrss.0.saturating_mul(1024)
        }),
    );
    text.metric(
        "petrel_unikernel_virtual_memory_bytes",
        Gauge,
        "Address space of the tender.",
        each(samples, |used| {
            memory(used).map_or(0, |memory| memory.vsize.0)
        }),
    );
    text.metric(
        "petrel_unikernel_start_time_seconds",
        Gauge,
        "Start of the tender since the Unix epoch.",
        each(samples, |used| {
            memory(used).map_or_else(|| "0".to_owned(), |memory| seconds(&memory.start))
        }),
    );
    text.metric(
        "petrel_unikernel_page_faults_total",
        Counter,
        "Page faults of the tender: kind major had to wait for a disk.",
        both(
            samples,
            "kind",
            [
                (
                    "minor",
                    (|used| used.resource_usage.minflt.0) as fn(&Statistics) -> i64,
                ),
                ("major", |used| used.resource_usage.majflt.0),
            ],
        ),
    );
    text.metric(
        "petrel_unikernel_context_switches_total",
        Counter,
        "Context switches of the tender: kind voluntary is for waiting.",
        both(
            samples,
            "kind",
            [
                (
                    "voluntary",
                    (|used| used.resource_usage.nvcsw.0) as fn(&Statistics) -> i64,
                ),
                ("involuntary", |used| used.resource_usage.nivcsw.0),
            ],
        ),
    );
    text.metric(
        "petrel_unikernel_disk_read_bytes_total",
        Counter,
        "What the tender read from disks.",
        disks(|disk| disk.read),
    );
    text.metric(
        "petrel_unikernel_disk_written_bytes_total",
        Counter,
        "What the tender wrote to disks.",
        disks(|disk| disk.written),
    );
}

/// Where a counter of a network device is.
type Counter = fn(&IfData) -> Int64;

/// Counters of network devices: their names, what they count, and where that is. What the host takes in is what the
/// unikernel transmits.
const NETWORK: [(&str, &str, Counter); 8] = [
    (
        "transmit_bytes_total",
        "Bytes that the unikernel sent.",
        |data| data.input_bytes,
    ),
    (
        "transmit_packets_total",
        "Packets that the unikernel sent.",
        |data| data.input_packets,
    ),
    (
        "transmit_errors_total",
        "Packets of the unikernel with errors.",
        |data| data.input_errors,
    ),
    (
        "transmit_drops_total",
        "Packets of the unikernel that were dropped.",
        |data| data.input_dropped,
    ),
    ("receive_bytes_total", "Bytes for the unikernel.", |data| {
        data.output_bytes
    }),
    (
        "receive_packets_total",
        "Packets for the unikernel.",
        |data| data.output_packets,
    ),
    (
        "receive_errors_total",
        "Packets for the unikernel with errors.",
        |data| data.output_errors,
    ),
    (
        "receive_drops_total",
        "Packets for the unikernel that were dropped.",
        |data| data.output_dropped,
    ),
];

fn network(text: &mut Exposition, samples: &[(Name, Statistics)]) {
    for (name, help, counter) in NETWORK {
        let values = samples.iter().flat_map(|(unikernel, used)| {
            used.ifdata.iter().map(move |data| {
                let labels = vec![
                    ("unikernel", unikernel.to_string()),
                    ("device", data.bridge.to_lossy()),
                ];
                (labels, counter(data).0.cast_unsigned())
            })
        });
        let name = format!("petrel_unikernel_network_{name}");
        text.metric(&name, Kind::Counter, help, values);
    }
}

fn virtual_machines(text: &mut Exposition, samples: &[(Name, Statistics)]) {
    let values = samples.iter().flat_map(|(unikernel, used)| {
        used.vmm_stats.iter().flatten().map(|counter| {
            let labels = vec![
                ("unikernel", unikernel.to_string()),
                ("event", counter.key.to_lossy()),
            ];
            (labels, counter.value.0.cast_unsigned())
        })
    });
    text.metric(
        "petrel_unikernel_vmm_events_total",
        Kind::Counter,
        "Events of the virtual machine, as vmm(4) names them.",
        values,
    );
}

fn life(text: &mut Exposition, details: &[NamedDetails]) {
    let label = |name: &Text| vec![("unikernel", name.to_lossy())];
    let of = |field: fn(&Details) -> i64| {
        details
            .iter()
            .map(move |entry| (label(&entry.name), field(&entry.details)))
    };
    text.metric(
        "petrel_unikernel_state",
        Kind::Gauge,
        "1 for the state in which the unikernel is.",
        details.iter().map(|entry| {
            let mut labels = label(&entry.name);
            labels.push(("state", state(&entry.details.standing).to_owned()));
            (labels, 1)
        }),
    );
    text.metric(
        "petrel_unikernel_restarts_total",
        Kind::Counter,
        "Restarts after failures since the supervisor was started.",
        of(|details| details.restarts.get()),
    );
    text.metric(
        "petrel_unikernel_guest_memory_bytes",
        Kind::Gauge,
        "Memory that the guest is given.",
        of(|details| details.info.memory.get().saturating_mul(1 << 20)),
    );
    let exits = details.iter().filter_map(|entry| {
        let exit = entry.details.last_exit.as_ref()?;
        Some((label(&entry.name), exit.at.seconds()))
    });
    text.metric(
        "petrel_unikernel_last_exit_timestamp_seconds",
        Kind::Gauge,
        "The last end that nobody asked for, since the Unix epoch.",
        exits,
    );
}

fn daemons(text: &mut Exposition, report: &Report<'_>) {
    let one = |value: i64| [(Vec::new(), value)];
    let count = |number: usize| one(i64::try_from(number).unwrap_or(i64::MAX));
    text.metric(
        "petrel_supervisor_up",
        Kind::Gauge,
        "Whether the supervisor answered.",
        one(report.details.is_some().into()),
    );
    text.metric(
        "petrel_stats_observed_unikernels",
        Kind::Gauge,
        "Processes about which there are metrics.",
        count(report.samples.len()),
    );
    text.metric(
        "petrel_stats_subscribers",
        Kind::Gauge,
        "Subscribers of the statistics daemon.",
        count(report.subscribers),
    );
    text.metric(
        "petrel_stats_missed_total",
        Kind::Counter,
        "How often a subscriber missed what was gathered, as it did not read.",
        one(report.missed.cast_signed()),
    );
    text.metric(
        "petrel_stats_collected_timestamp_seconds",
        Kind::Gauge,
        "When this was gathered, since the Unix epoch.",
        [(
            Vec::new(),
            format!(
                "{}.{:03}",
                report.collected.as_secs(),
                report.collected.subsec_millis()
            ),
        )],
    );
}

fn seconds(time: &TimeVal) -> String {
    format!("{}.{:06}", time.seconds.0, time.microseconds.get())
}

/// The state of a unikernel in a word.
pub fn state(standing: &Standing) -> &'static str {
    match standing {
        Standing::Running(()) => "running",
        Standing::Starting(()) => "starting",
        Standing::Waiting(_) => "waiting",
        Standing::Stopped(()) => "stopped",
        Standing::Ended(()) => "ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Exposition::default();
        let labels = vec![("a", "x\"y\\z\nw".to_owned()), ("b", "c".to_owned())];
        text.metric("m_total", Kind::Counter, "Help.", [(labels, 7)]);
        assert_eq!(
            text.0,
            "# HELP m_total Help.\n# TYPE m_total counter\nm_total{a=\"x\\\"y\\\\z\\nw\",b=\"c\"} 7\n"
        );
    }

    #[test]
    fn disks_that_are_not_known_have_no_metric() {
        let of = |disks: &[(Name, Disk)]| {
            let report = Report {
                collected: Duration::ZERO,
                samples: &[],
                disks,
                details: None,
                subscribers: 0,
                missed: 0,
                page: 4096,
            };
            text(&report)
        };
        assert!(!of(&[]).contains("disk"));
        // Bytes, which are no multiple of a block.
        let disk = Disk {
            read: 513,
            written: 7,
        };
        let text = of(&[(":a".parse().unwrap(), disk)]);
        for line in [
            "petrel_unikernel_disk_read_bytes_total{unikernel=\":a\"} 513\n",
            "petrel_unikernel_disk_written_bytes_total{unikernel=\":a\"} 7\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_metric_without_values_is_left_out() {
        let report = Report {
            collected: Duration::from_millis(1500),
            samples: &[],
            disks: &[],
            details: None,
            subscribers: 2,
            missed: 3,
            page: 4096,
        };
        let text = text(&report);
        assert!(!text.contains("petrel_unikernel_"), "{text}");
        for line in [
            "petrel_supervisor_up 0\n",
            "petrel_stats_subscribers 2\n",
            "petrel_stats_missed_total 3\n",
            "petrel_stats_collected_timestamp_seconds 1.500\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
