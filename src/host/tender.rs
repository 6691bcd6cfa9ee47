//! Tenders: where they are, and how one is started.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::sched_getaffinity;
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Pid, access, mkfifo};

use crate::manifest::Target;
use crate::name::Name;
use crate::policy::CpuId;
use crate::socket;
use crate::supervisor::launch;
use crate::sys::spawn;
use crate::unikernel::Config;

/// How long a tender may take to tell its version.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// The ABI version of spt and hvt since Solo5 0.8 (SOLO5 2).
const CURRENT_ABI: u32 = 2;

/// Most octets of a tender's answer that are looked at.
const PROBE_ANSWER: u64 = 4096;

/// The tenders of this host.
#[derive(Debug)]
pub struct Tenders {
    /// Where to look before `PATH`.
    database: PathBuf,
    /// Answers to `--version`, by the file that gave them.
    answers: HashMap<Identity, Vec<u8>>,
}

/// What tells a file from its replacement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity(PathBuf, u64, u64, i64, i64, u64);

/// Why a unikernel cannot be started.
#[derive(Debug)]
pub enum TenderError {
    /// No tender runs images for this target.
    Target(Target),
    /// No tender was found under these names (and the ABI version asked for).
    Missing(Vec<String>, u32),
    /// A file operation failed (what, on which file, why).
    File(&'static str, PathBuf, io::Error),
    /// Something that is no fifo has the name of the console's fifo.
    NotAFifo(PathBuf),
    /// This host has no such processor, or none that may be used.
    NoCpu(CpuId),
    /// The tender cannot be started.
    Start(PathBuf, io::Error),
}

impl Tenders {
    /// The tenders in `database`, in `PATH`, and beside this program.
    pub fn new(database: &Path) -> Self {
        Self {
            database: database.to_path_buf(),
            answers: HashMap::new(),
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
        candidates.extend(
            names
                .iter()
                .flat_map(|name| launch::folders(&path).map(move |folder| folder.join(name))),
        );
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
        match probe(tender) {
            Ok(answer) => {
                let speaks = launch::speaks(&answer, abi_version);
                self.answers.insert(identity, answer);
                speaks
            }
            // It may have been the host's fault, and not the tender's: asked again next time.
            Err(error) => {
                log::warn!("{} --version: {error}", tender.display());
                false
            }
        }
    }
}

/// A console's fifo, held open so that a guest can always write: its output waits while nobody reads.
#[derive(Debug)]
pub struct Fifo {
    path: PathBuf,
    _reader: File,
    writer: File,
}

impl Fifo {
    /// Makes the fifo of `name`, or takes over the one that is there.
    pub fn create(runtime_folder: &Path, name: &Name) -> Result<Self, TenderError> {
        let path = runtime_folder.join(socket::FIFOS).join(name.to_string());
        match mkfifo(&path, Mode::from_bits_truncate(0o640)) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(TenderError::File("make the fifo", path, error.into())),
        }
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
        let open = |read: bool| {
            OpenOptions::new()
                .read(read)
                .write(true)
                .custom_flags(flags)
                .open(&path)
                .map_err(TenderError::file("open the fifo", &path))
        };
        let look = |file: &File| {
            file.metadata()
                .map_err(TenderError::file("look at the fifo", &path))
        };
        let (reader, writer) = (open(true)?, open(false)?);
        let (first, second) = (look(&reader)?, look(&writer)?);
        // Others may write to the folder, but not make a tender write elsewhere.
        let same = (first.dev(), first.ino()) == (second.dev(), second.ino());
        if !first.file_type().is_fifo() || !same {
            return Err(TenderError::NotAFifo(path));
        }
        // A guest's output waits where the fifo is full; a tender would take an error for the end of it.
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))
            .map_err(|error| TenderError::File("set up the fifo", path.clone(), error.into()))?;
        Ok(Self {
            path,
            _reader: reader,
            writer,
        })
    }

    /// Removes the fifo; who reads it gets what is in it, and then its end.
    pub fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }

    fn output(&self) -> Result<File, TenderError> {
        self.writer
            .try_clone()
            .map_err(TenderError::file("duplicate", &self.path))
    }
}

/// Starts `tender` on `image`, its output going to `fifo`. Returns its process id.
pub fn start(
    tender: &Path,
    image: &Path,
    name: &Name,
    config: &Config,
    whole_name: bool,
    fifo: &Fifo,
) -> Result<u32, TenderError> {
    check_cpus(config)?;
    let (output, errors) = (fifo.output()?, fifo.output()?);
    let mut command = Command::new(tender);
    command
        .args(launch::arguments(name, config, image, whole_name))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    let cpus: Vec<_> = config.cpus.iter().map(|cpu| usize::from(*cpu)).collect();
    let child = spawn::detached(&mut command, &cpus)
        .map_err(|error| TenderError::Start(tender.to_path_buf(), error))?;
    Ok(child.id())
}

/// Whether all processors that the unikernel is to run on are ours to use: the system itself would silently leave out
/// those that are not.
fn check_cpus(config: &Config) -> Result<(), TenderError> {
    let Ok(ours) = sched_getaffinity(Pid::from_raw(0)) else {
        return Ok(());
    };
    let missing = |cpu: &&CpuId| !ours.is_set((**cpu).into()).unwrap_or(false);
    match config.cpus.iter().find(missing) {
        Some(cpu) => Err(TenderError::NoCpu(*cpu)),
        None => Ok(()),
    }
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
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        let mut waits = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waits, timeout)? == 0 {
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

impl TenderError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File(what, path, error)
    }
}

impl fmt::Display for TenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(target) => {
                write!(
                    f,
                    "the image is made for {target}, only hvt and spt can be run"
                )
            }
            Self::Missing(names, abi) => write!(
                f,
                "no tender for this image: none of {} with ABI version {abi} in the database folder or in PATH",
                names.join(", ")
            ),
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::NoCpu(cpu) => write!(f, "CPU id {cpu} is not one that can be used on this host"),
            Self::NotAFifo(path) => write!(f, "{} exists and is no fifo", path.display()),
            Self::Start(tender, error) => write!(f, "cannot start {}: {error}", tender.display()),
        }
    }
}

impl std::error::Error for TenderError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fifo_is_a_console_and_never_through_a_link() {
        let folder = std::env::temp_dir().join(format!("petrel-fifo-{}", std::process::id()));
        let fifos = folder.join(socket::FIFOS);
        fs::create_dir_all(&fifos).unwrap();
        let victim = folder.join("victim");
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, fifos.join(":link")).unwrap();
        fs::write(fifos.join(":file"), "kept").unwrap();
        for name in [":link", ":file"] {
            assert!(
                Fifo::create(&folder, &name.parse().unwrap()).is_err(),
                "{name}"
            );
        }
        let fifo = Fifo::create(&folder, &":ok".parse().unwrap()).unwrap();
        // What is put in its place later is not written to.
        fs::remove_file(fifos.join(":ok")).unwrap();
        std::os::unix::fs::symlink(&victim, fifos.join(":ok")).unwrap();
        io::Write::write_all(&mut fifo.output().unwrap(), b"lost").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_processor_that_does_not_exist_is_named() {
        let config = Config {
            cpus: [0, 900].into(),
            ..crate::supervisor::fixtures::config()
        };
        let error = check_cpus(&config).unwrap_err().to_string();
        assert!(error.contains("900"), "{error}");
    }
}
