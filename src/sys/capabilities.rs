//! Capabilities, capabilities(7), that this process and the programs that it runs give up.
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;
use nix::libc::{
    self, PR_CAPBSET_DROP, PR_CAPBSET_READ, SYS_capget, SYS_capset, c_int, c_long, c_ulong,
};

/// Numbers of `linux/capability.h`.
pub const CHOWN: u32 = 0;
/// See [`CHOWN`].
pub const DAC_OVERRIDE: u32 = 1;
/// See [`CHOWN`].
pub const KILL: u32 = 5;
/// See [`CHOWN`].
pub const SETGID: u32 = 6;
/// See [`CHOWN`].
pub const SETUID: u32 = 7;
/// See [`CHOWN`].
pub const SETPCAP: u32 = 8;
/// See [`CHOWN`].
pub const NET_ADMIN: u32 = 12;

/// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities, in two halves.
const VERSION: u32 = 0x2008_0522;
const COUNT: u32 = 64;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops all capabilities but `kept`, of this thread and of what it executes.
pub fn keep_only(kept: &[u32]) -> io::Result<()> {
    bound(kept)?;
    let mut halves = held()?;
    let before = halves;
    for (half, number) in halves.iter_mut().zip(0..) {
        let bits = kept.iter().filter(|capability| *capability / 32 == number);
        let bits = bits.fold(0, |bits, capability| bits | 1 << (capability % 32));
        half.effective &= bits;
        half.permitted &= bits;
        half.inheritable &= bits;
    }
    if halves == before {
        return Ok(());
    }
    transfer(SYS_capset, &mut halves)
}

/// Drops all but `kept` from the bounding set. Who may not has no capability to lose.
fn bound(kept: &[u32]) -> io::Result<()> {
    for capability in (0..COUNT).filter(|capability| !kept.contains(capability)) {
        let number = c_ulong::from(capability);
        // SAFETY: prctl(2) with numbers only.
        let is_there = unsafe { libc::prctl(PR_CAPBSET_READ, number, 0, 0, 0) };
        match Errno::result(is_there) {
            Ok(0) => continue,
            // The kernel has no more.
            Err(Errno::EINVAL) => return Ok(()),
            _ => {}
        }
        // SAFETY: prctl(2) with numbers only.
        let dropped = unsafe { libc::prctl(PR_CAPBSET_DROP, number, 0, 0, 0) };
        match Errno::result(dropped) {
            Ok(_) => {}
            Err(Errno::EPERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn held() -> io::Result<[Half; 2]> {
    let mut halves = [Half::default(); 2];
    transfer(SYS_capget, &mut halves)?;
    Ok(halves)
}

/// capget(2) or capset(2).
fn transfer(call: c_long, halves: &mut [Half; 2]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: the kernel reads and writes a header, and the two halves that belong to its version.
    let done = unsafe { libc::syscall(call, &raw mut header, halves.as_mut_ptr()) };
    Ok(Errno::result(done).map(drop)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    fn sets() -> Vec<String> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let sets = status.lines().filter(|line| line.starts_with("Cap"));
        sets.map(str::to_owned).collect()
    }

    #[test]
    fn what_is_not_kept_is_had_no_more_and_by_no_program() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root has capabilities");
            return;
        }
        // They are a thread's own.
        let confined = thread::spawn(|| {
            for _ in 0..2 {
                keep_only(&[DAC_OVERRIDE]).unwrap();
            }
            let mut program = Command::new("grep");
            let program = program.args(["^Cap", "/proc/self/status"]);
            let program = program.output().unwrap();
            (sets(), String::from_utf8(program.stdout).unwrap())
        });
        let (own, programs) = confined.join().unwrap();
        let programs: Vec<_> = programs.lines().map(str::to_owned).collect();
        for sets in [own, programs] {
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                let kept = format!("{set}:\t{:016x}", 1 << DAC_OVERRIDE);
                assert!(sets.contains(&kept), "{kept}: {sets:?}");
            }
        }
    }
}
