//! Linux: `proc(5)`, control groups, and the attributes of interfaces in sysfs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::procfs::{Counters, Stat, Status};
use super::{Disk, MAX_TEXT, Usage, cgroup, procfs, time};
use crate::name::Name;
use crate::wire::{IfData, Int, Int32, Int64, KInfoMem, RUsage, TimeVal, VmmStat};

/// What may keep processes out of sight.
pub(super) const VISIBILITY: &str = "mount option hidepid of /proc";

/// Bytes of a block, in which getrusage(2) counts.
const BLOCK: i64 = 512;

/// The root of all control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// The directory of a process in `/proc`. Once that process has ended nothing can be read there, whoever has its number.
#[derive(Debug)]
pub(super) struct Process {
    directory: OwnedFd,
    /// Its number, and the clock ticks from the start of the system to its own: no other process has both.
    identity: (Pid, i64),
    start: TimeVal,
    /// What its control group tells of disks, if it has one of its own that does.
    group: Option<File>,
    units: Units,
}

/// In what the system counts.
#[derive(Clone, Copy, Debug)]
struct Units {
    /// Clock ticks a second.
    ticks: i64,
    /// Bytes of a page.
    page: i64,
}

/// There is no vmm(4) on this system.
#[derive(Debug)]
pub(super) struct Machine;

/// The counters of all interfaces at one time.
#[derive(Debug)]
pub struct Interfaces(String);

impl Process {
    /// The process, of the unikernel `name` if it is one.
    pub(super) fn open(pid: Pid, name: Option<&Name>) -> io::Result<Option<Self>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = match open(&*format!("/proc/{pid}"), flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let units = Units::of_this_system()?;
        let Some(stat) = read(&directory, "stat")? else {
            return Ok(None);
        };
        let stat = Stat::parse(&stat).ok_or(Errno::EPROTO)?;
        // The difference of the clocks changes whenever one is set: it is looked at once.
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let since_1970 = clock_gettime(ClockId::CLOCK_REALTIME)?;
        let boot = microseconds(since_1970) - microseconds(since_boot);
        let group = name.and_then(|name| {
            let groups = read(&directory, "cgroup").ok().flatten()?;
            disk_of_group(Path::new(GROUPS), &String::from_utf8_lossy(&groups), name)
        });
        Ok((!stat.ended).then(|| Self {
            directory,
            identity: (pid, stat.start),
            group,
            start: time(boot + units.microseconds(stat.start)),
            units,
        }))
    }

    /// The same process has the same start, whatever has become of the clocks.
    pub(super) fn succeed(&mut self, before: &Self) {
        if self.identity == before.identity {
            self.start = before.start.clone();
        }
    }

    /// Where all that is read of it.
    #[expect(clippy::unnecessary_wraps, reason = "there is none on FreeBSD")]
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        Some(self.directory.as_fd())
    }

    /// Nothing if it has ended.
    pub(super) fn usage(&mut self) -> io::Result<Option<Usage>> {
        let (Some(stat), Some(status)) = (
            read(&self.directory, "stat")?,
            read(&self.directory, "status")?,
        ) else {
            return Ok(None);
        };
        let stat = Stat::parse(&stat).ok_or(Errno::EPROTO)?;
        if stat.ended {
            return Ok(None);
        }
        let status = Status::parse(&String::from_utf8_lossy(&status));
        let disk = self.disk();
        let blocks = disk.unwrap_or_default();
        let units = self.units;
        let pages = |kilobytes: i64| Int64(kilobytes.saturating_mul(1024) / units.page);
        let resources = RUsage {
            utime: time(units.microseconds(stat.user)),
            stime: time(units.microseconds(stat.system)),
            maxrss: Int64(status.peak),
            ixrss: Int64(0),
            idrss: Int64(0),
            isrss: Int64(0),
            minflt: Int64(stat.minor_faults),
            majflt: Int64(stat.major_faults),
            nswap: Int64(0),
            inblock: Int64(blocks.read / BLOCK),
            outblock: Int64(blocks.written / BLOCK),
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
        Ok(Some(Usage {
            resources,
            memory,
            disk,
        }))
    }

    /// What it read from disks and wrote to them: anybody can see what a group did, but what a process did only those who
    /// may debug it. The one is not told in place of the other, as neither counter goes on where the other was.
    fn disk(&self) -> Option<Disk> {
        if let Some(group) = &self.group {
            return again(group).ok().map(|text| cgroup::disk(&text));
        }
        let text = read(&self.directory, "io").ok().flatten()?;
        Some(procfs::disk(&String::from_utf8_lossy(&text)))
    }
}

/// The file of the group of `name` that tells of disks, with what `/proc/PID/cgroup` has.
fn disk_of_group(root: &Path, groups: &str, name: &Name) -> Option<File> {
    let group = cgroup::own_group(groups, name)?;
    File::open(root.join(group).join("io.stat")).ok()
}

/// What a file has now.
fn again(mut file: &File) -> io::Result<String> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MAX_TEXT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
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

/// Bytes of a page.
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
        let mut text = Vec::new();
        File::open("/proc/net/dev")?
            .take(MAX_TEXT)
            .read_to_end(&mut text)?;
        Ok(Self::of(&text))
    }

    /// Names are any bytes. One that is no text is nobody's here, and keeps nothing from the others.
    fn of(text: &[u8]) -> Self {
        Self(String::from_utf8_lossy(text).into_owned())
    }

    /// The counters of one, if there is such a one: input is what came from the unikernel.
    pub(super) fn get(&self, interface: &str) -> Option<IfData> {
        let counters = Counters::find(&self.0, interface)?;
        let directory = Path::new("/sys/class/net").join(interface);
        let speed: i64 = attribute(&directory, "speed").unwrap_or(0);
        Some(IfData {
            bridge: interface.into(),
            flags: Int32::from(flags(&directory)),
            send_length: Int32::from(0),
            max_send_length: Int32::from(attribute(&directory, "tx_queue_len").unwrap_or(0)),
            send_drops: Int32::from(0),
            mtu: Int32::from(attribute(&directory, "mtu").unwrap_or(0)),
            // In Mbit/s there; negative is unknown.
            baudrate: Int64(speed.max(0).saturating_mul(1_000_000)),
            input_packets: Int64(counters.received_packets),
            input_errors: Int64(counters.received_errors),
            output_packets: Int64(counters.sent_packets),
            output_errors: Int64(counters.sent_errors),
            collisions: Int64(counters.collisions),
            input_bytes: Int64(counters.received_bytes),
            output_bytes: Int64(counters.sent_bytes),
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

fn flags(directory: &Path) -> u32 {
    let text: Option<String> = attribute(directory, "flags");
    text.and_then(|text| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok())
        .unwrap_or(0)
}

fn attribute<T: FromStr>(directory: &Path, name: &str) -> Option<T> {
    fs::read_to_string(directory.join(name))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A file of a process; nothing if that has ended.
fn read(directory: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let ended = |error: &io::Error| {
        matches!(
            error.raw_os_error().map(Errno::from_raw),
            Some(Errno::ENOENT | Errno::ESRCH)
        )
    };
    let mut text = Vec::new();
    let read = openat(directory, name, flags, Mode::empty())
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
    use crate::directory::Directory;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn open(pid: Pid) -> Process {
        Process::open(pid, Some(&name("t:a"))).unwrap().unwrap()
    }

    #[test]
    fn this_process_has_used_something() {
        let mut own = open(Pid::this());
        let Usage {
            resources: usage,
            memory,
            disk,
        } = own.usage().unwrap().unwrap();
        // This process is its own.
        assert!(disk.is_some() || own.group.is_some());
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
        let mut process = open(Pid::from_raw(child.id().cast_signed()));
        assert!(process.usage().unwrap().is_some());
        drop(child.stdin.take());
        while process.usage().unwrap().is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.usage().unwrap().is_none());
    }

    #[test]
    fn a_process_that_is_added_again_has_the_start_that_it_had_and_another_one_has_not() {
        let told = |process: &mut Process| process.usage().unwrap().unwrap().memory.start;
        let before = Process {
            // As if a clock had been set since.
            start: time(1),
            ..open(Pid::this())
        };
        let mut again = open(Pid::this());
        again.succeed(&before);
        assert_eq!(told(&mut again), before.start);
        let (pid, ticks) = before.identity;
        let earlier = Process {
            identity: (pid, ticks - 1),
            ..before
        };
        let mut other = open(Pid::this());
        other.succeed(&earlier);
        assert_ne!(told(&mut other), earlier.start);
    }

    #[test]
    fn disks_are_what_the_own_group_tells_each_time() {
        let directory = Directory::short();
        let root = &directory.0;
        let group = root.join("petreld/t:a");
        fs::create_dir_all(&group).unwrap();
        let tell = |text: &str| fs::write(group.join("io.stat"), text).unwrap();
        let groups = "0::/petreld/t:a\n";
        let of = |name: &Name| disk_of_group(root, groups, name);
        assert!(of(&name("t:a")).is_none(), "it cannot tell");
        tell("8:0 rbytes=1024 wbytes=512\n");
        assert!(of(&name("t:b")).is_none(), "it is another one's");
        let mut process = Process {
            group: of(&name("t:a")),
            ..open(Pid::this())
        };
        for (text, read, written) in [
            ("8:0 rbytes=1024 wbytes=512\n", 1024, 512),
            (
                "8:0 rbytes=1024 wbytes=999\n8:1 rbytes=1 wbytes=1\n",
                1025,
                1000,
            ),
        ] {
            tell(text);
            let usage = process.usage().unwrap().unwrap();
            assert_eq!(usage.disk, Some(Disk { read, written }));
            let blocks = (usage.resources.inblock.0, usage.resources.outblock.0);
            assert_eq!(blocks, (read / 512, written / 512));
        }
    }

    #[test]
    fn a_real_group_tells_of_disks() {
        let skipped = |why: &str| eprintln!("SKIPPED: disks of a real control group: {why}");
        let root = Path::new(GROUPS);
        let passed_on = fs::read_to_string(root.join("cgroup.subtree_control"));
        if !passed_on.is_ok_and(|passed_on| passed_on.split_whitespace().any(|one| one == "io")) {
            return skipped("the root passes no controller io on");
        }
        let own = name(&format!("petrel-test-{}:a", std::process::id()));
        let group = root.join(own.to_string());
        if let Err(error) = fs::create_dir(&group) {
            return skipped(&error.to_string());
        }
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let entered = fs::write(group.join("cgroup.procs"), child.id().to_string());
        let process = Process::open(Pid::from_raw(child.id().cast_signed()), Some(&own));
        let mut process = process.unwrap().unwrap();
        let told = [(); 2].map(|()| process.usage().unwrap().unwrap().disk);
        drop(child.stdin.take());
        child.wait().unwrap();
        fs::remove_dir(&group).unwrap();
        entered.unwrap();
        assert!(process.group.is_some() && told.iter().all(Option::is_some));
    }

    #[test]
    fn an_interface_whose_name_is_no_text_hides_no_other() {
        let text = b"Inter-|\n face |\n  tap\xff0: 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7\n\
                     lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let data = Interfaces::of(text).get("lo").unwrap();
        assert_eq!((data.input_bytes, data.output_bytes), (Int64(1), Int64(9)));
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
