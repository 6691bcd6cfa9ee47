//! FreeBSD: sysctl(3) `kern.proc.pid` and `net.link.generic.ifdata`, and vmm(4).

use std::io;
use std::os::fd::BorrowedFd;

use nix::libc::timeval;
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{Usage, ifmib, time};
use crate::name::Name;
use crate::sys::interfaces;
use crate::sys::process::{ProcessId, usage};
use crate::sys::vmm;
use crate::wire::{IfData, Int, Int64, KInfoMem, RUsage, TimeVal, VmmStat};

/// What may keep processes out of sight.
pub(super) const VISIBILITY: &str =
    "sysctl security.bsd.see_other_uids and security.bsd.see_other_gids";

/// A process, known by its number and start.
#[derive(Debug)]
pub(super) struct Process(ProcessId);

/// The interfaces: each is asked for by itself.
#[derive(Debug)]
pub struct Interfaces;

/// A virtual machine, which need not be there yet, nor be open to this program.
#[derive(Debug)]
pub(super) struct Machine {
    name: String,
    open: Option<vmm::Machine>,
    reported: bool,
}

impl Process {
    pub(super) fn open(pid: Pid, _: Option<&Name>) -> io::Result<Option<Self>> {
        Ok(ProcessId::of(pid)?.map(Self))
    }

    /// The system tells the start each time.
    #[expect(clippy::unused_self, reason = "it is held on Linux")]
    pub(super) fn succeed(&mut self, _: &Self) {}

    /// It is asked for by its number.
    #[expect(clippy::unused_self, reason = "there is one on Linux")]
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Nothing if it has ended.
    pub(super) fn usage(&mut self) -> io::Result<Option<Usage>> {
        let Some(process) = usage(self.0.pid)? else {
            return Ok(None);
        };
        // A number that was given away meanwhile has another start.
        if ProcessId::of(self.0.pid)? != Some(self.0) {
            return Ok(None);
        }
        let used = process.ki_rusage;
        let runtime = i64::try_from(process.ki_runtime).unwrap_or(i64::MAX);
        let resources = RUsage {
            utime: span(used.ru_utime),
            stime: span(used.ru_stime),
            maxrss: Int64(used.ru_maxrss),
            ixrss: Int64(used.ru_ixrss),
            idrss: Int64(used.ru_idrss),
            isrss: Int64(used.ru_isrss),
            minflt: Int64(used.ru_minflt),
            majflt: Int64(used.ru_majflt),
            nswap: Int64(used.ru_nswap),
            inblock: Int64(used.ru_inblock),
            outblock: Int64(used.ru_oublock),
            msgsnd: Int64(used.ru_msgsnd),
            msgrcv: Int64(used.ru_msgrcv),
            nsignals: Int64(used.ru_nsignals),
            nvcsw: Int64(used.ru_nvcsw),
            nivcsw: Int64(used.ru_nivcsw),
        };
        let memory = KInfoMem {
            vsize: Int64(i64::try_from(process.ki_size).unwrap_or(i64::MAX)),
            rss: pages(process.ki_rssize),
            tsize: pages(process.ki_tsize),
            dsize: pages(process.ki_dsize),
            ssize: pages(process.ki_ssize),
            runtime: Int64(runtime),
            cow: Int::from(u64::from(process.ki_cow)),
            start: span(process.ki_start),
        };
        Ok(Some(Usage {
            resources,
            memory,
            // It counts operations, whatever their size.
            disk: None,
        }))
    }
}

impl Interfaces {
    /// As they are when asked for.
    pub fn now() -> io::Result<Self> {
        Ok(Self)
    }

    /// The counters of one, if there is such a one: input is what came from the unikernel.
    #[expect(clippy::unused_self, reason = "they are held on Linux")]
    pub(super) fn get(&self, interface: &str) -> Option<IfData> {
        let record = interfaces::counters(interface, ifmib::LENGTH).ok()??;
        ifmib::parse(&record)
    }
}

impl Machine {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            open: None,
            reported: false,
        }
    }

    /// Nothing where the machine cannot be asked; that is tried again each time.
    pub(super) fn counters(&mut self) -> Option<Vec<VmmStat>> {
        match self.ask() {
            Ok(counters) => Some(counters),
            Err(error) => {
                if !self.reported {
                    let name = &self.name;
                    log::warn!(
                        "virtual machine {name}: {error} (is it open to this program in devfs.rules?)"
                    );
                }
                self.reported = true;
                self.open = None;
                None
            }
        }
    }

    fn ask(&mut self) -> io::Result<Vec<VmmStat>> {
        let machine = match self.open.take() {
            Some(machine) => machine,
            None => vmm::Machine::open(&self.name)?,
        };
        let counters = machine.counters()?.into_iter().map(|(key, value)| VmmStat {
            key: key.into(),
            value: Int64(value.cast_signed()),
        });
        self.open = Some(machine);
        Ok(counters.collect())
    }
}

/// Bytes of a page.
pub fn page_size() -> io::Result<i64> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?.filter(|size| *size > 0);
    size.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn span(value: timeval) -> TimeVal {
    time(
        value
            .tv_sec
            .saturating_mul(1_000_000)
            .saturating_add(value.tv_usec),
    )
}

fn pages(count: isize) -> Int64 {
    Int64(i64::try_from(count).unwrap_or(i64::MAX))
}
