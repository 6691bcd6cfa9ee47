//! The texts of `proc(5)`.

use std::str;

use super::Disk;

/// Fields of `proc_pid_stat(5)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its parent has not yet taken note of its end.
    pub ended: bool,
    /// Page faults without I/O.
    pub minor_faults: i64,
    /// Page faults with I/O.
    pub major_faults: i64,
    /// Clock ticks in user mode.
    pub user: i64,
    /// Clock ticks in the kernel.
    pub system: i64,
    /// Clock ticks from the start of the system to that of the process.
    pub start: i64,
    /// Bytes of address space.
    pub virtual_size: i64,
    /// Pages in memory.
    pub resident: i64,
}

/// Fields of `proc_pid_status(5)`: memory in kB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Most memory it ever had.
    pub peak: i64,
    /// Its code.
    pub text: i64,
    /// Its data.
    pub data: i64,
    /// Its stack.
    pub stack: i64,
    /// Context switches it asked for by waiting.
    pub voluntary: i64,
    /// Other context switches.
    pub involuntary: i64,
}

/// A line of `/proc/net/dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    pub received_bytes: i64,
    pub received_packets: i64,
    pub received_errors: i64,
    pub received_dropped: i64,
    pub received_multicast: i64,
    pub sent_bytes: i64,
    pub sent_packets: i64,
    pub sent_errors: i64,
    pub sent_dropped: i64,
    pub collisions: i64,
}

impl Stat {
    /// The name before the fields may have anything in it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let fields = str::from_utf8(text.get(name_end + 1..)?).ok()?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The third of all is the first here.
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        Some(Self {
            ended: matches!(*fields.first()?, "Z" | "X"),
            minor_faults: number(10)?,
            major_faults: number(12)?,
            user: number(14)?,
            system: number(15)?,
            start: number(22)?,
            virtual_size: number(23)?,
            resident: number(24)?,
        })
    }
}

impl Status {
    /// What is missing, as the memory of what has just ended, is zero.
    pub fn parse(text: &str) -> Self {
        Self {
            peak: value(text, "VmHWM:"),
            text: value(text, "VmExe:"),
            data: value(text, "VmData:"),
            stack: value(text, "VmStk:"),
            voluntary: value(text, "voluntary_ctxt_switches:"),
            involuntary: value(text, "nonvoluntary_ctxt_switches:"),
        }
    }
}

/// What `proc_pid_io(5)` tells of devices. What is missing is zero.
pub fn disk(text: &str) -> Disk {
    Disk {
        read: value(text, "read_bytes:"),
        written: value(text, "write_bytes:"),
    }
}

/// The first number of the line that begins so.
fn value(text: &str, key: &str) -> i64 {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key));
    let value = values
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

impl Counters {
    /// The counters of an interface, in the whole text of `/proc/net/dev`.
    pub fn find(text: &str, interface: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| {
            let rest = line.trim_start().strip_prefix(interface)?;
            rest.strip_prefix(':')
        })?;
        let fields: Vec<i64> = line
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(i64::MAX))
            .collect();
        let number = |place: usize| fields.get(place).copied();
        Some(Self {
            received_bytes: number(0)?,
            received_packets: number(1)?,
            received_errors: number(2)?,
            received_dropped: number(3)?,
            received_multicast: number(7)?,
            sent_bytes: number(8)?,
            sent_packets: number(9)?,
            sent_errors: number(10)?,
            sent_dropped: number(11)?,
            collisions: number(13)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_no_field_of_stat() {
        let mut text = b"7 (a) Z 1 (b) S".to_vec();
        for field in 4..=52 {
            text.extend(format!(" {field}").bytes());
        }
        let expected = Stat {
            ended: false,
            minor_faults: 10,
            major_faults: 12,
            user: 14,
            system: 15,
            start: 22,
            virtual_size: 23,
            resident: 24,
        };
        assert_eq!(Stat::parse(&text), Some(expected));
        for broken in [&b""[..], b"7 (a", b"7 (a) S 1 2", b"7 (a) S \xff"] {
            assert_eq!(Stat::parse(broken), None);
        }
        text[14] = b'Z';
        assert!(Stat::parse(&text).unwrap().ended);
    }

    #[test]
    fn status_is_read_by_whole_keys() {
        let text = "Name:\tVmHWM: 1\nVmHWM:\t    1234 kB\nVmData:\t 5 kB\nVmStk:\t 6 kB\nVmExe:\t 7 kB\n\
                    voluntary_ctxt_switches:\t8\nnonvoluntary_ctxt_switches:\t9\n";
        let expected = Status {
            peak: 1234,
            text: 7,
            data: 5,
            stack: 6,
            voluntary: 8,
            involuntary: 9,
        };
        assert_eq!(Status::parse(text), expected);
        assert_eq!(Status::parse("Name:\tx\n"), Status::default());
    }

    #[test]
    fn io_counts_what_reached_devices() {
        let text = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\n\
                    cancelled_write_bytes: 7\n";
        assert_eq!(
            disk(text),
            Disk {
                read: 5,
                written: 6
            }
        );
    }

    #[test]
    fn an_interface_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes ...\n\
                    tap10: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  \
                    tap1:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let found = Counters::find(text, "tap1").unwrap();
        assert_eq!(
            (
                found.received_bytes,
                found.received_packets,
                found.received_multicast
            ),
            (1, 2, 8)
        );
        assert_eq!(
            (found.sent_bytes, found.sent_dropped, found.collisions),
            (9, 12, 14)
        );
        assert_eq!(Counters::find(text, "tap"), None);
        assert_eq!(Counters::find(text, "ap1"), None);
    }
}
