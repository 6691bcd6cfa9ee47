//! Linux: Landlock, landlock(7), for files and addresses, and seccomp(2) for all else that a program can ask for.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::stat::Mode;

use super::{Access, Breach, Need, filter};
use crate::sys::landlock::{Rights, Ruleset};

/// Where the system tells of processes and interfaces.
const COUNTERS: [&str; 2] = ["/proc", "/sys"];

/// Domain names are asked for over TCP where UDP is not enough (RFC 7766).
const DOMAIN: u16 = 53;

pub(super) fn confine(needs: &[Need<'_>], breach: Breach) {
    let failed =
        |what, error: &dyn std::fmt::Display| log::warn!("going on without {what}: {error}");
    if let Err(error) = prctl::set_no_new_privs() {
        return failed("a sandbox", &error);
    }
    if looks_into_processes(needs) {
        log::info!("without Landlock, which would keep what processes read and write from it");
    } else if let Err(error) = landlock(needs) {
        failed("Landlock", &error);
    }
    // Last, as it ends all further sandboxing.
    if let Err(error) = filter::install(needs, breach) {
        failed("a filter of system calls", &error);
    }
}

/// Whether it is to count what processes read and write, and may: Landlock ends that, as it does ptrace(2).
fn looks_into_processes(needs: &[Need<'_>]) -> bool {
    let looks = || File::open("/proc/1/io").and_then(|mut file| file.read(&mut [0]));
    needs.iter().any(|need| matches!(need, Need::Counters)) && looks().is_ok()
}

fn landlock(needs: &[Need<'_>]) -> io::Result<()> {
    let any_socket = |need: &Need<'_>| matches!(need, Need::AllLocalSockets | Need::Names);
    let rules = Ruleset::new(if needs.iter().any(any_socket) {
        Rights::RESOLVE_SOCKET
    } else {
        Rights::NONE
    })?;
    for need in needs {
        match need {
            Need::Folder(folder, access) => rules.allow(folder, rights(*access))?,
            Need::LocalSockets(folder) => rules.allow(folder, Rights::RESOLVE_SOCKET)?,
            Need::Manager => {
                if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
                    && let Ok(socket) = place(socket)
                {
                    rules.allow(socket, Rights::RESOLVE_SOCKET)?;
                }
            }
            Need::Tcp(port) => rules.allow_port(*port)?,
            Need::Names => {
                // What is asked is configured: files anywhere, libraries, daemons.
                rules.allow(place("/")?, Rights::READ_FILE | Rights::READ_FOLDER)?;
                rules.allow_port(DOMAIN)?;
            }
            Need::Counters => {
                for folder in COUNTERS {
                    rules.allow(place(folder)?, Rights::READ_FILE)?;
                }
            }
            Need::AllLocalSockets | Need::Accept => {}
        }
    }
    rules.restrict()
}

fn place(path: impl AsRef<Path>) -> io::Result<impl std::os::fd::AsFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(open(path.as_ref(), flags, Mode::empty())?)
}

fn rights(access: Access) -> Rights {
    match access {
        Access::Read => Rights::READ_FILE,
        Access::Change => {
            Rights::READ_FILE
                | Rights::WRITE_FILE
                | Rights::TRUNCATE
                | Rights::MAKE_FILE
                | Rights::REMOVE_FILE
        }
        Access::Remove => Rights::REMOVE_FILE,
    }
}
