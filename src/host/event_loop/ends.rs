//! Ends of tenders.

use nix::unistd::Pid;

use super::Daemon;
use crate::host::run::FinishedRun;
use crate::supervisor::Event;
use crate::sys::child::{self, Ended};
use crate::sys::process::End;
use crate::unikernel::Death;

impl Daemon {
    /// Collects the tenders that have ended.
    pub(super) fn reap(&mut self) {
        loop {
            let (process, ended) = match child::reap() {
                Ok(Some(ended)) => ended,
                Ok(None) => return,
                Err(error) => return log::error!("cannot ask for ended processes: {error}"),
            };
            let machines = self.machines.as_mut().ok();
            if let Some(outcome) = machines.and_then(|machines| machines.ended(process, ended)) {
                let event = self.booted(outcome);
                self.events.extend(event);
            } else {
                self.over(process, End::Known(ended));
            }
        }
    }

    /// Finds ended tenders of an earlier supervisor, which are not children of this process.
    pub(super) fn look_at_adopted(&mut self) {
        let ended: Vec<_> = self
            .runs
            .adopted()
            .filter_map(|(_, process)| {
                let pid = process.id().pid;
                let end = process.ended().unwrap_or_else(|error| {
                    log::error!("cannot ask how process {pid} ended: {error}");
                    Some(End::Unknown)
                })?;
                Some((pid, end))
            })
            .collect();
        for (pid, end) in ended {
            self.over(pid, end);
        }
    }

    /// Reports the end of this process to the supervisor, if it was a tender.
    fn over(&mut self, process: Pid, end: End) {
        let Some((name, over)) = self.runs.ended(process, end) else {
            return;
        };
        self.statistics.remove(&name);
        let FinishedRun { run, out_of_memory } = over;
        let death = match end {
            _ if out_of_memory => Death::OutOfMemory,
            End::Known(Ended::Exit(code)) => Death::Exit(code),
            End::Known(Ended::Signal(signal)) => Death::Signal(signal),
            End::Unknown => Death::Unknown,
        };
        self.events.push_back(Event::Exited { run, death });
    }
}
