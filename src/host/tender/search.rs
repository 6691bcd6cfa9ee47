//! Where tenders are.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::unistd::{AccessFlags, access};

use super::TenderError;
use crate::manifest::Target;
use crate::supervisor::launch;
use crate::sys::poll::wait_for;

/// How long a tender may take to tell its version.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// How long a tender that did not tell it in time is not asked again: asking holds up everybody.
pub const PROBE_PAUSE: Duration = Duration::from_secs(60);

/// The ABI version of spt and hvt since Solo5 0.8 (SOLO5 2).
const CURRENT_ABI: u32 = 2;

/// Most bytes of a tender's answer that are looked at.
const PROBE_ANSWER: u64 = 4096;

/// The tenders of this host.
#[derive(Debug)]
pub struct Tenders {
    /// Where to look before `PATH`.
    database: PathBuf,
    /// Answers to `--version`, by the file that gave them.
    answers: HashMap<Identity, Vec<u8>>,
    /// Those that did not answer in time, and when that was.
    silent: HashMap<Identity, Instant>,
}

/// What tells a file from its replacement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity(PathBuf, u64, u64, i64, i64, u64);

impl Tenders {
    /// The tenders in `database`, in `PATH`, and beside this program.
    pub fn new(database: &Path) -> Self {
        Self {
            database: database.to_path_buf(),
            answers: HashMap::new(),
            silent: HashMap::new(),
        }
    }

    /// Looks for the tenders of today's images, so that the first create need not, and logs what there is.
    pub fn look_around(&mut self) {
        for target in [Target::Spt, Target::Hvt] {
            match self.find(target, CURRENT_ABI) {
                Ok(tender) => log::info!("{target} images run under {}", tender.display()),
                Err(error) => log::info!("{target} images cannot be run: {error}"),
            }
        }
    }

    /// The first tender that is made for images of this target and this very ABI version.
    pub fn find(&mut self, target: Target, abi_version: u32) -> Result<PathBuf, TenderError> {
        let name = match target {
            Target::Hvt => "hvt",
            Target::Spt => "spt",
            other => return Err(TenderError::Target(other)),
        };
        let names = launch::tender_names(name, abi_version);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut candidates: Vec<PathBuf> =
            names.iter().map(|name| self.database.join(name)).collect();
        candidates.extend(names.iter().flat_map(|name| {
            launch::directories(&path).map(move |directory| directory.join(name))
        }));
        if target == Target::Spt {
            candidates.extend(beside_us(launch::EMBEDDED));
        }
        candidates
            .into_iter()
            .find(|candidate| self.speaks(candidate, abi_version))
            .ok_or_else(|| TenderError::Missing(names.to_vec(), abi_version))
    }

    fn speaks(&mut self, tender: &Path, abi_version: u32) -> bool {
        let Some(identity) = identity(tender) else {
            return false;
        };
        if let Some(answer) = self.answers.get(&identity) {
            return launch::speaks(answer, abi_version);
        }
        let now = Instant::now();
        self.silent.retain(|_, since| now < *since + PROBE_PAUSE);
        if self.silent.contains_key(&identity) {
            return false;
        }
        match probe(tender) {
            Ok(answer) => {
                let speaks = launch::speaks(&answer, abi_version);
                self.answers.insert(identity, answer);
                speaks
            }
            // It may have been the host's fault, and not the tender's: asked again next time.
            Err(error) => {
                log::warn!("{} --version: {error}", tender.display());
                if error.kind() == ErrorKind::TimedOut {
                    self.silent.insert(identity, Instant::now());
                }
                false
            }
        }
    }
}

/// A program of the system's.
pub fn program(name: &'static str) -> Result<PathBuf, TenderError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    launch::directories(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| identity(candidate).is_some())
        .ok_or(TenderError::NoProgram(name))
}

fn beside_us(name: &str) -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.join(name))
}

fn identity(tender: &Path) -> Option<Identity> {
    access(tender, AccessFlags::X_OK).ok()?;
    let data = fs::metadata(tender).ok().filter(fs::Metadata::is_file)?;
    let path = tender.to_path_buf();
    Some(Identity(
        path,
        data.dev(),
        data.ino(),
        data.mtime(),
        data.mtime_nsec(),
        data.size(),
    ))
}

/// What the tender answers to `--version`, on either output.
fn probe(tender: &Path) -> io::Result<Vec<u8>> {
    let (mut answer, output) = io::pipe()?;
    let errors = output.try_clone()?;
    let mut command = Command::new(tender);
    command
        .arg(OsStr::new("--version"))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    let mut child = command.spawn()?;
    // The command holds the write ends, too.
    drop(command);
    let read = read_until(&mut answer, Instant::now() + PROBE_DEADLINE);
    let _ = child.kill();
    child.wait()?;
    read
}

fn read_until(pipe: &mut io::PipeReader, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        if wait_for(&*pipe, PollFlags::POLLIN, Some(deadline))?.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut piece = [0; 512];
        let count = pipe.read(&mut piece)?;
        answer.extend_from_slice(&piece[..count]);
        if count == 0 || answer.len() as u64 > PROBE_ANSWER {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tender_that_does_not_answer_is_not_asked_each_time() {
        let directory = Directory::short();
        let directory = &directory.0;
        let (tender, asked) = (directory.join("solo5-spt"), directory.join("asked"));
        let script = format!("#!/bin/sh\necho >> {}\nexec sleep 600\n", asked.display());
        fs::write(&tender, script).unwrap();
        fs::set_permissions(&tender, fs::Permissions::from_mode(0o755)).unwrap();
        let mut tenders = Tenders::new(directory);
        for _ in 0..3 {
            assert!(!tenders.speaks(&tender, CURRENT_ABI));
        }
        assert_eq!(fs::read(&asked).unwrap(), b"\n");
    }
}
