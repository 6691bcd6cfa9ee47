//! Records of running tenders: a supervisor that starts anew finds them, and never takes another process for one.
//!
//! The supervisor writes what it knows and locks the file; the new process adds its own number between fork and exec.
//! The lock belongs to the open file that both have: as long as either may still write, nobody else gets it. So
//! whoever has the lock and finds no process knows that none was executed, whenever the supervisor died.

use std::fmt::{self, Write as _};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::Pid;

use crate::name::Name;
use crate::supervisor::History;
use crate::sys::process::{self, Process, ProcessId};
use crate::unikernel::{Death, ImageDigest};
use crate::wire::Timestamp;
use crate::wire::state::LastExit;

/// Directory of the records below the runtime directory.
pub const DIRECTORY: &str = "run";

/// How long to wait for a process that is between fork and exec.
pub const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of a record.
const LONGEST: u64 = 4096;

/// The first line: what this is, and which form of it.
const TITLE: &str = "petrel run 1";

/// What a record gets when its run is asked to stop.
const STOPPING: &str = "stop asked\n";

/// What is known of a run before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The user it runs as, if that is its own.
    pub user: Option<u32>,
    /// When it was started, since 1970.
    pub started: Duration,
    /// What tells whether it runs what it should: see [`crate::unikernel::Version::key`].
    pub key: [u8; 32],
    /// What went before.
    pub history: History,
    /// It was asked to stop; or it is to be, as its record is damaged.
    pub stopping: bool,
}

/// A tender that an earlier supervisor has started.
#[derive(Debug)]
pub struct Survivor {
    /// Its unikernel.
    pub name: Name,
    /// What its record says.
    pub record: Record,
    /// It runs.
    pub process: Process,
}

/// A unikernel that does not run, and what its record says. It waited for its next start, or has ended unseen.
#[derive(Debug)]
pub struct Ended {
    /// Its unikernel.
    pub name: Name,
    /// Its record.
    pub record: Record,
}

/// What the records of an earlier supervisor tell.
#[derive(Debug, Default)]
pub struct RecordedRuns {
    /// The tenders that run.
    pub survivors: Vec<Survivor>,
    /// The unikernels that do not run, and were not asked to stop.
    pub ended: Vec<Ended>,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    boot: String,
}

/// A record that is locked, for a process that is about to be started.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    file: Flock<File>,
}

/// Why records are not written or read.
#[derive(Debug)]
pub enum RecordError {
    /// A file operation failed (what, on which file, why).
    File(&'static str, PathBuf, io::Error),
    /// A record cannot be read (why): its tender may run.
    Unreadable(Box<RecordError>),
    /// The system does not tell its boot id.
    Boot(io::Error),
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Damage(&'static str);

/// What a record tells.
#[derive(Debug)]
struct RecordState {
    /// Its tender, if it runs.
    survivor: Option<Survivor>,
    /// Its unikernel, if that does not run, and was not asked to stop.
    ended: Option<Ended>,
    /// The number of its tender, if that has ended and no other process has it.
    gone: Option<Pid>,
    /// What is wrong with the record.
    damage: Option<Damage>,
}

impl RecordState {
    const NAMELESS: Self = Self {
        survivor: None,
        ended: None,
        gone: None,
        damage: Some(Damage("its name is none of a unikernel")),
    };
}

impl Records {
    /// The records below `runtime_directory`; the directory is made if missing.
    pub fn open(runtime_directory: &Path) -> Result<Self, RecordError> {
        let directory = runtime_directory.join(DIRECTORY);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(RecordError::File("make the directory", directory, error));
            }
            _ => {}
        }
        let boot = process::boot_id().map_err(RecordError::Boot)?;
        Ok(Self { directory, boot })
    }

    /// Makes the record of a run that is about to begin, in place of an older one.
    pub fn create(&self, name: &Name, record: &Record) -> Result<Opened, RecordError> {
        let path = self.path(name);
        self.remove(name)?;
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(RecordError::file("create", &path))?;
        let mut file = lock(file)
            .map_err(|(_, error)| RecordError::File("lock", path.clone(), error.into()))?;
        file.write_all(encode(&self.boot, record).as_bytes())
            .map_err(RecordError::file("write", &path))?;
        Ok(Opened { path, file })
    }

    /// Adds that the run was asked to stop.
    pub fn stopping(&self, name: &Name) -> Result<(), RecordError> {
        let path = self.path(name);
        let options = OpenOptions::new().append(true).open(&path);
        let mut file = options.map_err(RecordError::file("open", &path))?;
        file.write_all(STOPPING.as_bytes())
            .map_err(RecordError::file("write", &path))
    }

    /// Removes the record of a run that has ended, if there is one.
    pub fn remove(&self, name: &Name) -> Result<(), RecordError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(RecordError::File("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// The tenders that run. Records of others are removed; what is wrong with records is told in the log. Before the
    /// record of a tender goes that has ended since this boot of the system, `gone` gets its number, unless another
    /// process has that now.
    pub fn survivors(&self, gone: impl Fn(Pid)) -> Result<RecordedRuns, RecordError> {
        let mut found = RecordedRuns::default();
        let failed = || RecordError::file("list", &self.directory);
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            // Where that fails its tender may run: a second one must not be started.
            let seen = self.survivor(&path);
            let seen = seen.map_err(|error| RecordError::Unreadable(Box::new(error)))?;
            let RecordState {
                survivor,
                ended,
                gone: ended_process,
                damage,
            } = seen;
            if let Some(damage) = damage {
                let follows = match survivor {
                    Some(_) => "its tender is ended",
                    None => "removed",
                };
                log::warn!("{}: {damage}; {follows}", path.display());
            }
            if let Some(survivor) = survivor {
                found.survivors.push(survivor);
            } else {
                found.ended.extend(ended);
                ended_process.into_iter().for_each(&gone);
                fs::remove_file(&path).map_err(RecordError::file("remove", &path))?;
            }
        }
        Ok(found)
    }

    fn survivor(&self, path: &Path) -> Result<RecordState, RecordError> {
        let Some(name) = name(path) else {
            return Ok(RecordState::NAMELESS);
        };
        let file = open(path)?;
        let file = patient_lock(file).map_err(RecordError::file("lock", path))?;
        read(name, path, &file, &self.boot)
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.directory.join(name.to_string())
    }
}

impl Opened {
    /// The file, for the new process to add a line of [`crate::sys::spawn::record_line`] to.
    pub fn for_child(&self) -> Result<File, RecordError> {
        self.file
            .try_clone()
            .map_err(RecordError::file("duplicate", &self.path))
    }
}

/// The tenders that run, by the records below `runtime_directory`, and what is wrong with other records. Nothing is changed,
/// and nothing waited for.
pub fn look(runtime_directory: &Path) -> Result<(Vec<Survivor>, Vec<String>), RecordError> {
    let directory = runtime_directory.join(DIRECTORY);
    let boot = process::boot_id().map_err(RecordError::Boot)?;
    let (mut survivors, mut problems) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((survivors, problems)),
        entries => entries.map_err(RecordError::file("list", &directory))?,
    };
    for entry in entries {
        let path = entry.map_err(RecordError::file("list", &directory))?.path();
        let found = match name(&path) {
            Some(name) => open(&path).and_then(|file| read(name, &path, &file, &boot)),
            None => Ok(RecordState::NAMELESS),
        };
        match found {
            Ok(RecordState {
                survivor, damage, ..
            }) => {
                survivors.extend(survivor);
                problems.extend(damage.map(|damage| format!("{}: {damage}", path.display())));
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    Ok((survivors, problems))
}

fn name(path: &Path) -> Option<Name> {
    path.file_name()?.to_str()?.parse().ok()
}

fn open(path: &Path) -> Result<File, RecordError> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(RecordError::file("open", path))
}

/// What this record tells of a tender that was started since this boot of the system.
fn read(name: Name, path: &Path, file: &File, boot: &str) -> Result<RecordState, RecordError> {
    let mut text = Vec::new();
    file.take(LONGEST)
        .read_to_end(&mut text)
        .map_err(RecordError::file("read", path))?;
    let Decoded {
        boot: recorded,
        process,
        record,
        damage,
    } = decode(&text);
    // Without a process it was never executed.
    let id = process.filter(|_| recorded == Some(boot));
    let failed = || RecordError::file("find the process of", path);
    let process = id.map(Process::open).transpose().map_err(failed())?;
    let process = process.flatten();
    let gone = match id {
        Some(ProcessId { pid, .. }) if process.is_none() => {
            let other = ProcessId::of(pid).map_err(failed())?;
            other.is_none().then_some(pid)
        }
        _ => None,
    };
    let usable = recorded == Some(boot) && damage.is_none() && !record.stopping;
    let (survivor, ended) = match process {
        Some(process) => {
            let survivor = Survivor {
                name,
                record,
                process,
            };
            (Some(survivor), None)
        }
        None => (None, usable.then_some(Ended { name, record })),
    };
    Ok(RecordState {
        survivor,
        ended,
        gone,
        damage,
    })
}

/// Waits, but not for ever, for others that have it.
fn patient_lock(mut file: File) -> io::Result<Flock<File>> {
    let end = Instant::now() + RECORD_TIMEOUT;
    loop {
        match lock(file) {
            Ok(locked) => return Ok(locked),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < end => file = back,
            Err((_, error)) => return Err(error.into()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn lock(file: File) -> Result<Flock<File>, (File, Errno)> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
}

/// Everything but the line that the process itself adds.
fn encode(boot: &str, record: &Record) -> String {
    let started = record.started;
    let mut text = format!(
        "{TITLE}\nboot {boot}\nstarted {}.{:09}\nkey {}\n",
        started.as_secs(),
        started.subsec_nanos(),
        ImageDigest(record.key)
    );
    if let Some(user) = record.user {
        let _ = writeln!(text, "user {user}");
    }
    let History {
        failures,
        restarts,
        last_exit,
    } = &record.history;
    let _ = write!(text, "failures {failures}\nrestarts {restarts}\n");
    if let Some(LastExit { death, at }) = last_exit {
        let (kind, number) = match death {
            Death::Exit(code) => ("code", i32::from(*code)),
            Death::Signal(signal) => ("signal", *signal),
            Death::OutOfMemory => ("memory", 0),
            Death::Unknown => ("unknown", 0),
        };
        let (seconds, milliseconds) = (at.seconds(), at.milliseconds());
        let _ = writeln!(text, "exit {kind} {number} {seconds} {milliseconds}");
    }
    if record.stopping {
        text += STOPPING;
    }
    text
}

/// What can be made of a record.
struct Decoded<'a> {
    boot: Option<&'a str>,
    process: Option<ProcessId>,
    record: Record,
    /// The first thing that is wrong with it.
    damage: Option<Damage>,
}

/// Reads as much as there is: even from a damaged record it may be known which process is not to be run twice. Lines
/// of later releases are skipped; should the meaning of the others change, the title does.
fn decode(text: &[u8]) -> Decoded<'_> {
    let mut damage = None;
    let mut wrong = |what| {
        damage.get_or_insert(Damage(what));
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    if lines.next_back() != Some(b"") {
        wrong("its last line is not complete");
    }
    if lines.next() != Some(TITLE.as_bytes()) {
        wrong("it is no record of a run");
    }
    let (mut boot, mut started, mut key, mut user, mut process) = (None, None, None, None, None);
    let (mut failures, mut restarts, mut exit, mut stopping) = (None, None, None, None);
    for line in lines {
        let line = str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(' '));
        let Some((what, value)) = line else {
            wrong("a line is no text, or has no value");
            continue;
        };
        match what {
            "boot" => once(&mut boot, Some(value)),
            "started" => once(&mut started, time(value)),
            "key" => once(&mut key, digest(value)),
            "user" => once(&mut user, value.parse().ok()),
            "failures" => once(&mut failures, value.parse().ok()),
            "restarts" => once(&mut restarts, value.parse().ok()),
            "exit" => once(&mut exit, last_exit(value)),
            "stop" => once(&mut stopping, Some(())),
            "process" => once(&mut process, process_id(value)),
            _ => Ok(()),
        }
        .unwrap_or_else(&mut wrong);
    }
    if boot.is_none() || started.is_none() || key.is_none() {
        wrong("a line is missing");
    }
    let record = Record {
        user,
        started: started.unwrap_or_default(),
        key: key.unwrap_or_default(),
        // Records of earlier releases have none.
        history: History {
            failures: failures.unwrap_or(0),
            restarts: restarts.unwrap_or(0),
            last_exit: exit,
        },
        stopping: stopping.is_some() || damage.is_some(),
    };
    Decoded {
        boot,
        process,
        record,
        damage,
    }
}

/// Takes the value of a line, which is there once.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), &'static str> {
    match (&place, value) {
        (_, None) => Err("a value makes no sense"),
        (Some(_), _) => Err("a line is there twice"),
        (None, value) => {
            *place = value;
            Ok(())
        }
    }
}

fn time(text: &str) -> Option<Duration> {
    let (seconds, nanoseconds) = text.split_once('.')?;
    let nanoseconds: u32 = nanoseconds.parse().ok().filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds.parse().ok()?, nanoseconds))
}

fn last_exit(text: &str) -> Option<LastExit> {
    let mut words = text.split(' ');
    let (kind, number) = (words.next()?, words.next()?);
    let death = match kind {
        "code" => Death::Exit(number.parse().ok()?),
        "signal" => Death::Signal(number.parse().ok()?),
        "memory" => Death::OutOfMemory,
        "unknown" => Death::Unknown,
        _ => return None,
    };
    let (seconds, milliseconds) = (words.next()?.parse().ok()?, words.next()?);
    let milliseconds: u16 = milliseconds.parse().ok().filter(|number| *number < 1000)?;
    let at = Timestamp::from_unix(seconds, u64::from(milliseconds) * 1_000_000_000);
    words.next().is_none().then_some(LastExit { death, at })
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(bytes)
}

fn process_id(text: &str) -> Option<ProcessId> {
    let (pid, start) = text.split_once(' ')?;
    let pid: i32 = pid.parse().ok().filter(|pid| *pid > 0)?;
    let pid = Pid::from_raw(pid);
    let start = start.parse().ok()?;
    Some(ProcessId { pid, start })
}

impl RecordError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File(what, path, error)
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::Unreadable(error) => write!(
                f,
                "{error}: its tender may run, and is not to run twice; end it, and remove the record"
            ),
            Self::Boot(error) => write!(
                f,
                "cannot find out which boot of the system this is: {error}"
            ),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for RecordError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use crate::sys::child::Ended;
    use crate::sys::process::End;
    use crate::sys::spawn::{Confinement, Input, Program, confined, record_line};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use std::cell::RefCell;
    use std::os::unix::fs::MetadataExt;

    fn records() -> (Directory, Records) {
        let directory = Directory::short();
        let records = Records::open(&directory.0).unwrap();
        (directory, records)
    }

    fn name() -> Name {
        "tenant:hello".parse().unwrap()
    }

    fn record() -> Record {
        Record {
            user: Some(2001),
            started: Duration::new(1_700_000_000, 42),
            key: [0xab; 32],
            history: History {
                failures: 2,
                restarts: 7,
                last_exit: Some(LastExit {
                    death: Death::Signal(11),
                    at: Timestamp::from_unix(1_600_000_000, 250 * 1_000_000_000),
                }),
            },
            stopping: false,
        }
    }

    /// Runs until it is killed, or for a minute.
    fn start(opened: &Opened) -> Pid {
        let sleep = Program {
            path: Path::new("/bin/sleep"),
            arguments: vec!["60".into()],
            environment: &[],
            input: Input::End,
            output: File::create("/dev/null").unwrap(),
        };
        let confinement = Confinement {
            user: None,
            cpus: Vec::new(),
            address_space: u64::MAX,
            open_files: u64::MAX,
            processes: None,
            oom_score: 0,
            group: None,
            record: Some(opened.for_child().unwrap()),
            keep: Vec::new(),
        };
        confined(sleep, confinement).unwrap()
    }

    fn survivors(records: &Records) -> Result<Vec<Survivor>, RecordError> {
        Ok(records.survivors(|_| ())?.survivors)
    }

    fn is_removed(records: &Records) -> bool {
        !records.path(&name()).exists()
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_taken_for_none() {
        let (_directory, records) = records();
        let path = records.path(&name());
        fs::create_dir(&path).unwrap();
        let error = survivors(&records).unwrap_err().to_string();
        assert!(error.contains("remove the record"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_running_process_is_found_with_all_that_is_known_of_it() {
        let (_directory, records) = records();
        let opened = records.create(&name(), &record()).unwrap();
        let child = start(&opened);
        drop(opened);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&records.directory), 0o700);
        assert_eq!(mode(&records.path(&name())), 0o600);
        let mut found = survivors(&records).unwrap();
        let survivor = found.pop().unwrap();
        assert_eq!((survivor.name, survivor.record), (name(), record()));
        assert_eq!(survivor.process.id().pid, child);
        assert!(found.is_empty() && !is_removed(&records));
        records.stopping(&name()).unwrap();
        let asked = Record {
            stopping: true,
            ..record()
        };
        assert_eq!(survivors(&records).unwrap()[0].record, asked);

        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        assert!(survivors(&records).unwrap().is_empty());
        assert!(is_removed(&records));
    }

    #[test]
    fn a_process_whose_end_nobody_has_asked_for_is_still_found() {
        let (_directory, records) = records();
        let opened = records.create(&name(), &record()).unwrap();
        let child = start(&opened);
        drop(opened);
        kill(child, Signal::SIGKILL).unwrap();
        let pid = nix::sys::wait::Id::Pid(child);
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(pid, flags).unwrap();
        let found = survivors(&records).unwrap();
        let ended = found[0].process.ended().unwrap();
        assert_eq!(ended, Some(End::Known(Ended::Signal(9))));
        waitpid(child, None).unwrap();
        assert!(survivors(&records).unwrap().is_empty());
    }

    #[test]
    fn neither_a_reused_number_nor_another_boot_is_mistaken() {
        let (_directory, records) = records();
        let mut id = ProcessId::own().unwrap();
        let is_survivor = |boot: &str, id| {
            let mut text = encode(boot, &record()).into_bytes();
            record_line(id, &mut text).unwrap();
            fs::write(records.path(&name()), text).unwrap();
            let found = !survivors(&records).unwrap().is_empty();
            assert_eq!(found, !is_removed(&records));
            found
        };
        assert!(is_survivor(&records.boot, id));
        assert!(!is_survivor("another", id));
        id.start += 1;
        assert!(!is_survivor(&records.boot, id));
    }

    #[test]
    fn of_a_tender_that_has_ended_meanwhile_something_may_be_left_and_of_others_not() {
        let (_directory, records) = records();
        let opened = records.create(&name(), &record()).unwrap();
        let child = start(&opened);
        drop(opened);
        let text = fs::read_to_string(records.path(&name())).unwrap();
        let gone = |text: &str| {
            fs::write(records.path(&name()), text).unwrap();
            let gone = RefCell::new(Vec::new());
            let found = records.survivors(|pid| gone.borrow_mut().push(pid));
            found.unwrap();
            gone.into_inner()
        };
        assert!(gone(&text).is_empty());
        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        assert_eq!(gone(&text), [child]);
        // Of another boot of the system; whose number another process has; that was not executed.
        assert!(gone(&text.replace(&records.boot, "another")).is_empty());
        let mut id = ProcessId::own().unwrap();
        id.start += 1;
        let mut reused = encode(&records.boot, &record()).into_bytes();
        record_line(id, &mut reused).unwrap();
        assert!(gone(&String::from_utf8(reused).unwrap()).is_empty());
        assert!(gone(&encode(&records.boot, &record())).is_empty());
    }

    #[test]
    fn a_record_without_a_process_is_of_none_that_was_executed() {
        let (_directory, records) = records();
        drop(records.create(&name(), &record()).unwrap());
        assert!(survivors(&records).unwrap().is_empty());
        assert!(is_removed(&records));
    }

    #[test]
    fn what_went_before_a_run_that_is_over_is_known_unless_it_was_asked_to_stop() {
        let (_directory, records) = records();
        let ended = |boot: &str, record: &Record| {
            fs::write(records.path(&name()), encode(boot, record)).unwrap();
            let found = records.survivors(|_| ()).unwrap().ended.into_iter();
            found
                .map(|ended| (ended.name, ended.record))
                .collect::<Vec<_>>()
        };
        assert_eq!(ended(&records.boot, &record()), [(name(), record())]);
        assert!(ended("another", &record()).is_empty());
        let asked = Record {
            stopping: true,
            ..record()
        };
        assert!(ended(&records.boot, &asked).is_empty());
    }

    #[test]
    fn a_process_between_fork_and_exec_is_waited_for() {
        let (_directory, records) = records();
        let opened = records.create(&name(), &record()).unwrap();
        // The supervisor is gone, its child has the file still open.
        let mut child = opened.for_child().unwrap();
        std::mem::forget(opened);
        let id = ProcessId::own().unwrap();
        let waiting = thread::spawn(move || survivors(&records).unwrap().len());
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        record_line(id, &mut child).unwrap();
        // As by exec: nobody has it any more. The forgotten one is closed by hand.
        let forgotten = Flock::lock(child, FlockArg::LockExclusiveNonblock).unwrap();
        drop(forgotten);
        assert_eq!(waiting.join().unwrap(), 1);
    }

    #[test]
    fn damaged_records_are_removed() {
        let (_directory, records) = records();
        let good = encode(&records.boot, &record());
        let cases = [
            String::new(),
            "petrel run 2\n".to_owned(),
            good.trim_end().to_owned(),
            good.replace("boot", "foot"),
            good.replace("abab", "xbab"),
            good.replace("user 2001", "user x"),
            good.replace("failures 2", "failures -1"),
            good.replace("exit signal", "exit sign"),
            good.replace(" 250\n", " 1000\n"),
            format!("{good}{STOPPING}{STOPPING}"),
            format!("{good}{good}"),
            format!("{good}user 1\n"),
            format!("{good}process 1\n"),
            format!("{good}process -1 1\n"),
            format!("{good}process 1 1"),
            good.replace("key ", "key"),
            good.replace(".000000042", ".x"),
        ];
        for text in cases {
            assert!(decode(text.as_bytes()).damage.is_some(), "{text}");
            fs::write(records.path(&name()), &text).unwrap();
            assert!(survivors(&records).unwrap().is_empty(), "{text}");
            assert!(is_removed(&records), "{text}");
        }
        fs::write(records.directory.join("no/name".replace('/', "\n")), good).unwrap();
        assert!(survivors(&records).unwrap().is_empty());
        assert_eq!(fs::read_dir(&records.directory).unwrap().count(), 0);
    }

    #[test]
    fn of_a_damaged_record_the_process_is_known_and_is_to_end() {
        let (_directory, records) = records();
        let good = encode(&records.boot, &record());
        let mut process = Vec::new();
        record_line(ProcessId::own().unwrap(), &mut process).unwrap();
        let cases = [
            good.replace("petrel run 1", "petrel run 2"),
            good.replace("abab", "xbab"),
            good.replace("key", "kex"),
            good.replace("user 2001", "user x"),
            format!("{good}{STOPPING}{STOPPING}"),
        ];
        let cases = cases.map(|text| [text.as_bytes(), &process].concat());
        let torn = [good.as_bytes(), &process, b"stop as"].concat();
        let no_text = [good.as_bytes(), b"\xff\n", &process].concat();
        for text in cases.into_iter().chain([torn, no_text]) {
            let told = String::from_utf8_lossy(&text).into_owned();
            fs::write(records.path(&name()), &text).unwrap();
            let survivors = survivors(&records).unwrap();
            assert_eq!(survivors.len(), 1, "{told}");
            assert_eq!(survivors[0].process.id(), ProcessId::own().unwrap());
            assert!(survivors[0].record.stopping, "{told}");
            assert!(!is_removed(&records), "{told}");
        }
        // Not of another boot.
        let other = encode("another", &record()).replace("user 2001", "user x");
        fs::write(records.path(&name()), [other.as_bytes(), &process].concat()).unwrap();
        assert!(survivors(&records).unwrap().is_empty() && is_removed(&records));
    }

    #[test]
    fn lines_of_later_releases_are_skipped() {
        let text = encode("a", &record()) + "colour green\n";
        let decoded = decode(text.as_bytes());
        assert_eq!((decoded.record, decoded.damage), (record(), None));
    }
}
