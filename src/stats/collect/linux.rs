//! Linux: `proc(5)`, and the attributes of interfaces in sysfs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::procfs::{Counters, Io, Stat, Status};
use super::{MAX_TEXT, time};
use crate::wire::{IfData, Int, Int32, Int64, KInfoMem, RUsage, TimeVal, VmmStat};

/// What may keep processes out of sight.
pub(super) const VISIBILITY: &str = "mount option hidepid of /proc";

/// Octets of a block, in which getrusage(2) counts.
const BLOCK: i64 = 512;

/// The folder of a process in `/proc`. Once that process has ended nothing can be read there, whoever has its number.
#[derive(Debug)]
pub(super) struct Process {
    folder: OwnedFd,
    start: TimeVal,
    units: Units,
}

/// In what the system counts.
#[derive(Clone, Copy, Debug)]
struct Units {
    /// Clock ticks a second.
    ticks: i64,
    /// Octets of a page.
    page: i64,
}

/// There is no vmm(4) on this system.
#[derive(Debug)]
pub(super) struct Machine;

/// The counters of all interfaces at one time.
#[derive(Debug)]
pub struct Interfaces(String);

impl Process {
    pub(super) fn open(pid: Pid) -> io::Result<Option<Self>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = match open(&*format!("/proc/{pid}"), flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let units = Units::of_this_system()?;
        let Some(stat) = read(&folder, "stat")? else {
            return Ok(None);
        };
        let stat = Stat::parse(&stat).ok_or(Errno::EPROTO)?;
        // The difference of the clocks changes whenever one is set: it is looked at once.
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let since_1970 = clock_gettime(ClockId::CLOCK_REALTIME)?;
        let boot = microseconds(since_1970) - microseconds(since_boot);
        Ok((!stat.ended).then_some(Self {
            folder,
            start: time(boot + units.microseconds(stat.start)),
            units,
        }))
    }

    /// Where all that is read of it.
    #[expect(clippy::unnecessary_wraps, reason = "there is none on FreeBSD")]
    pub(super) fn folder(&self) -> Option<BorrowedFd<'_>> {
        Some(self.folder.as_fd())
    }

    /// Nothing if it has ended.
    pub(super) fn usage(&mut self) -> io::Result<Option<(RUsage, KInfoMem)>> {
        let (Some(stat), Some(status)) =
            (read(&self.folder, "stat")?, read(&self.folder, "status")?)
        else {
            return Ok(None);
        };
        let stat = Stat::parse(&stat).ok_or(Errno::EPROTO)?;
        if stat.ended {
            return Ok(None);
        }
        let status = Status::parse(&String::from_utf8_lossy(&status));
        // What it read and wrote is for those to see who may debug it.
        let io = read(&self.folder, "io").ok().flatten().unwrap_or_default();
        let io = Io::parse(&String::from_utf8_lossy(&io));
        let units = self.units;
        let pages = |kilobytes: i64| Int64(kilobytes.saturating_mul(1024) / units.page);
        let usage = RUsage {
            utime: time(units.microseconds(stat.user)),
            stime: time(units.microseconds(stat.system)),
            maxrss: Int64(status.peak),
            ixrss: Int64(0),
            idrss: Int64(0),
            isrss: Int64(0),
            minflt: Int64(stat.minor_faults),
            majflt: Int64(stat.major_faults),
            nswap: Int64(0),
            inblock: Int64(io.read / BLOCK),
            outblock: Int64(io.written / BLOCK),
            msgsnd: Int64(0),
            msgrcv: Int64(0),
            nsignals: Int64(0),
            nvcsw: Int64(status.voluntary),
            nivcsw: Int64(status.involuntary),
        };
        let memory = KInfoMem {
            vsize: Int64(stat.virtual_size),
            rss: Int64(stat.resident),
            tsize: pages(status.text),
            dsize: pages(status.data),
            ssize: pages(status.stack),
            runtime: Int64(units.microseconds(stat.user + stat.system)),
            cow: Int::new(0),
            start: self.start.clone(),
        };
        Ok(Some((usage, memory)))
    }
}

impl Units {
    fn of_this_system() -> io::Result<Self> {
        Ok(Self {
            ticks: ask(SysconfVar::CLK_TCK)?,
            page: page_size()?,
        })
    }

    fn microseconds(self, ticks: i64) -> i64 {
        ticks.saturating_mul(1_000_000) / self.ticks
    }
}

/// Octets of a page.
pub fn page_size() -> io::Result<i64> {
    ask(SysconfVar::PAGE_SIZE)
}

fn ask(variable: SysconfVar) -> io::Result<i64> {
    let value = sysconf(variable)?.filter(|value| *value > 0);
    value.ok_or_else(|| Errno::EINVAL.into())
}

impl Interfaces {
    /// As they are now.
    pub fn now() -> io::Result<Self> {
        let mut text = String::new();
        File::open("/proc/net/dev")?
            .take(MAX_TEXT)
            .read_to_string(&mut text)?;
        Ok(Self(text))
    }

    /// The counters of one, if there is such a one: input is what came from the unikernel.
    pub(super) fn get(&self, interface: &str) -> Option<IfData> {
        let counters = Counters::find(&self.0, interface)?;
        let folder = Path::new("/sys/class/net").join(interface);
        let speed: i64 = attribute(&folder, "speed").unwrap_or(0);
        Some(IfData {
            bridge: interface.into(),
            flags: Int32::from(flags(&folder)),
            send_length: Int32::from(0),
            max_send_length: Int32::from(attribute(&folder, "tx_queue_len").unwrap_or(0)),
            send_drops: Int32::from(0),
            mtu: Int32::from(attribute(&folder, "mtu").unwrap_or(0)),
            // In Mbit/s there; negative is unknown.
            baudrate: Int64(speed.max(0).saturating_mul(1_000_000)),
            input_packets: Int64(counters.received_packets),
            input_errors: Int64(counters.received_errors),
            output_packets: Int64(counters.sent_packets),
            output_errors: Int64(counters.sent_errors),
            collisions: Int64(counters.collisions),
            input_bytes: Int64(counters.received_octets),
            output_bytes: Int64(counters.sent_octets),
            input_mcast: Int64(counters.received_multicast),
            output_mcast: Int64(0),
            input_dropped: Int64(counters.received_dropped),
            output_dropped: Int64(counters.sent_dropped),
        })
    }
}

impl Machine {
    pub(super) fn new(_: &str) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "there is one on FreeBSD")]
    pub(super) fn counters(&mut self) -> Option<Vec<VmmStat>> {
        None
    }
}

fn flags(folder: &Path) -> u32 {
    let text: Option<String> = attribute(folder, "flags");
    text.and_then(|text| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok())
        .unwrap_or(0)
}

fn attribute<T: FromStr>(folder: &Path, name: &str) -> Option<T> {
    fs::read_to_string(folder.join(name))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A file of a process; nothing if that has ended.
fn read(folder: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let ended = |error: &io::Error| {
        matches!(
            error.raw_os_error().map(Errno::from_raw),
            Some(Errno::ENOENT | Errno::ESRCH)
        )
    };
    let mut text = Vec::new();
    let read = openat(folder, name, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|file| File::from(file).take(MAX_TEXT).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if ended(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn microseconds(time: nix::sys::time::TimeSpec) -> i64 {
    time.tv_sec()
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec() / 1000)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::daemon::wall_clock;

    #[test]
    fn this_process_has_used_something() {
        let mut own = Process::open(Pid::this()).unwrap().unwrap();
        let (usage, memory) = own.usage().unwrap().unwrap();
        let resident = memory.rss.0 * own.units.page / 1024;
        assert!(
            usage.maxrss.0 >= resident && resident > 100,
            "{usage:?} {memory:?}"
        );
        assert!(memory.vsize.0 > memory.rss.0 * own.units.page);
        assert!(memory.tsize.0 > 0 && memory.dsize.0 > 0 && memory.ssize.0 > 0);
        assert_ne!(memory.dsize, memory.ssize);
        assert!(usage.minflt.0 > 0 && usage.nvcsw.0 + usage.nivcsw.0 > 0);
        let now = i64::try_from(wall_clock().as_secs()).unwrap();
        assert!(
            (now - 3600..=now).contains(&memory.start.seconds.0),
            "{memory:?}"
        );
    }

    #[test]
    fn a_process_that_has_ended_is_gone_whether_it_was_waited_for_or_not() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process::open(Pid::from_raw(child.id().cast_signed()))
            .unwrap()
            .unwrap();
        assert!(process.usage().unwrap().is_some());
        drop(child.stdin.take());
        while process.usage().unwrap().is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.usage().unwrap().is_none());
    }

    #[test]
    fn the_loopback_interface_has_counters_and_an_invented_one_none() {
        let now = Interfaces::now().unwrap();
        let data = now.get("lo").unwrap();
        assert!(
            data.mtu.bits() > 0 && data.flags.bits() & 8 != 0,
            "{data:?}"
        );
        assert_eq!(data.input_bytes, data.output_bytes);
        assert!(now.get("invented").is_none());
    }
}
