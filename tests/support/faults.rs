//! Disks that fail, and daemons that are killed, at a call that a test chooses.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::host::Host;
use crate::support::{on_path, run, skipped};

/// The library that is preloaded, if it can be built and used here.
pub fn shim() -> Option<PathBuf> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let shim = SHIM.get_or_init(|| {
        if !cfg!(target_os = "linux") || on_path("cc").is_none() {
            skipped(
                "faults of the disk",
                "they need Linux and a C compiler (cc)",
            );
            return None;
        }
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let shim = directory.join(format!("faults-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/faults.c");
        let mut cc = Command::new("cc");
        cc.args([
            "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o",
        ]);
        let built = run(cc.arg(&shim).arg(source).arg("-ldl"));
        assert_eq!(built.code(), 0, "{built:?}");
        Some(shim)
    });
    shim.clone()
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Fail,
    /// It takes until it is [released](release).
    #[allow(dead_code, reason = "not every test holds calls")]
    Hold,
}

/// `petreld` with a fault at a call, once there is a file `armed`.
pub fn faulty(host: &Host, shim: &Path, fault: Fault, at: usize) -> Command {
    let mut command = host.supervisor_command();
    for file in ["armed", "struck"] {
        let _ = fs::remove_file(host.path(file));
    }
    command
        .env("LD_PRELOAD", shim)
        .env("FAULT_DIRECTORY", host.path("db"))
        .env("FAULT_ARMED", host.path("armed"))
        .env("FAULT_STRUCK", host.path("struck"))
        .env("FAULT_AT", at.to_string());
    match fault {
        Fault::Kill => drop(command.env("FAULT_KILL", "1")),
        Fault::Hold => drop(command.env("FAULT_HOLD", "1")),
        Fault::Fail => {}
    }
    command
}

/// Lets the call that is held go on.
#[allow(dead_code, reason = "not every test holds calls")]
pub fn release(host: &Host) {
    let file = fs::File::options().write(true).open(host.path("struck"));
    let released = 1_i32.to_ne_bytes();
    // `released` of faults.c.
    file.unwrap().write_all_at(&released, 32).unwrap();
}

/// The call at which it has happened, if it has.
pub fn struck(host: &Host) -> Option<String> {
    let bytes = fs::read(host.path("struck")).ok()?;
    // Numbers that only the library reads follow the name.
    let name = bytes.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    (!name.is_empty()).then_some(name)
}
