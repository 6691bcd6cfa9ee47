//! Files of lines, one a console, which are rotated.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use time::OffsetDateTime;

use super::archive::{Refused, Sink};
use super::lines::escaped;
use super::log_quota;
use super::ring::{Line, Moment};
use crate::name::{Name, Path as Tenant};

/// Tenants of whose room there is a note.
const ROOMS: usize = 1024;

/// MiB of a file unless the operator says otherwise.
pub const LOG_SIZE: u64 = 10;

/// Files of a console unless the operator says otherwise.
pub const LOG_FILES: u32 = 5;

/// Permissions of the directory, and of the files in it.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: Mode = Mode::from_bits_truncate(0o640);

/// A directory with files `NAME.log`, older ones `NAME.log.1` and so on. No name has a slash, and none of these is also that
/// of another console: what is before the last `.log` is the whole name.
#[derive(Debug)]
pub(super) struct LogDirectory {
    path: PathBuf,
    directory: File,
    limits: Limits,
    files: BTreeMap<Name, LogFile>,
    /// Bytes that tenants may begin files for before the directory is looked through again.
    room: BTreeMap<Tenant, u64>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of a file, but at least a line.
    pub(super) size: u64,
    /// Files of a console, at least 1.
    pub(super) files: u32,
    /// Bytes of all files of a tenant, but at least those that are written to.
    pub(super) tenant: u64,
}

#[derive(Debug, Default)]
struct LogFile {
    file: Option<File>,
    /// Bytes in it, those that are held back included.
    size: u64,
    /// What is to be written.
    held: Vec<u8>,
    /// Whether it could not be opened or written the last time.
    failed: bool,
}

impl LogDirectory {
    /// The directory, made if missing, for so many files.
    pub(super) fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = File::open(path)?;
        if !directory.metadata()?.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            path: path.to_owned(),
            directory,
            limits,
            files: BTreeMap::new(),
            room: BTreeMap::new(),
        })
    }

    /// Opens the file of `name` for appending: one of our own with no other name, never a link or anything else that
    /// somebody has put there.
    fn append(&self, name: &Name) -> io::Result<File> {
        let flags = OFlag::O_WRONLY
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let file: File = openat(&self.directory, &*file_name(name, 0), flags, FILE_MODE)?.into();
        let found = file.metadata()?;
        let refused = |why| Err(io::Error::new(ErrorKind::InvalidInput, why));
        if !found.is_file() {
            return refused("it is no file");
        }
        if found.nlink() != 1 || found.uid() != geteuid().as_raw() {
            return refused("it belongs to somebody else, or has another name, too");
        }
        Ok(file)
    }

    /// Every file of `name` gets the next number, and the oldest one goes.
    fn rotate(&self, name: &Name) -> io::Result<()> {
        let files = self.limits.files;
        let oldest = file_name(name, files - 1);
        ignore_missing(unlinkat(
            &self.directory,
            &*oldest,
            UnlinkatFlags::NoRemoveDir,
        ))?;
        for number in (1..files).rev() {
            let (from, to) = (file_name(name, number - 1), file_name(name, number));
            ignore_missing(renameat(&self.directory, &*from, &self.directory, &*to))?;
        }
        Ok(())
    }

    /// Opens `file`, unless it is. If that begins one, there is room made for it.
    fn reach(&mut self, name: &Name, file: &mut LogFile) -> io::Result<()> {
        if file.file.is_none() {
            let opened = self.append(name)?;
            let size = opened.metadata()?.len();
            if size == 0 {
                self.make_room(name)?;
            }
            file.size = size + file.held.len() as u64;
            file.file = Some(opened);
        }
        Ok(())
    }

    /// Makes room for one more file of the tenant of `name`. The directory is looked through only when as much was begun as
    /// there was room for the last time.
    fn make_room(&mut self, name: &Name) -> io::Result<()> {
        let tenant = name.path().tenant();
        let file = self.limits.size.max(log_quota::LEAST);
        let left = self
            .room
            .get(&tenant)
            .and_then(|left| left.checked_sub(file));
        let left = match left {
            Some(left) => left,
            None => log_quota::make_room(&self.directory, &tenant, self.limits.tenant, |other| {
                other == name || self.files.contains_key(other)
            })?,
        };
        if self.room.len() >= ROOMS {
            self.room.clear();
        }
        self.room.insert(tenant, left);
        Ok(())
    }

    /// Makes room for so many bytes in `file`, which is open then.
    fn prepare(&mut self, name: &Name, file: &mut LogFile, bytes: u64) -> io::Result<()> {
        self.reach(name, file)?;
        if file.failed {
            file.write()?;
            file.failed = false;
        }
        if file.size > 0 && file.size + bytes > self.limits.size {
            file.write()?;
            file.file = None;
            self.rotate(name)?;
            return self.prepare(name, file, bytes);
        }
        Ok(())
    }

    /// Puts the file away until it may work again; only the first failure in a row is logged.
    fn fail(&self, name: &Name, file: &mut LogFile, error: &io::Error) {
        file.file = None;
        if !std::mem::replace(&mut file.failed, true) {
            let path = self.path.join(file_name(name, 0));
            log::error!("cannot write to {}: {error}", path.display());
        }
    }
}

impl Sink for LogDirectory {
    fn put(&mut self, name: &Name, line: &Line<'_>) -> Result<(), Refused> {
        let mut text = time(line.arrived);
        text.push(' ');
        text += &escaped(&line.bytes);
        text.push('\n');
        let bytes = text.len() as u64;
        let mut file = self.files.remove(name).unwrap_or_default();
        let prepared = self.prepare(name, &mut file, bytes);
        match &prepared {
            Ok(()) => {
                file.held.extend_from_slice(text.as_bytes());
                file.size += bytes;
            }
            Err(error) => self.fail(name, &mut file, error),
        }
        self.files.insert(name.clone(), file);
        prepared.map_err(|_| Refused)
    }

    fn flush(&mut self, name: &Name) -> Result<(), Refused> {
        let Some(mut file) = self.files.remove(name) else {
            return Ok(());
        };
        let mut flushed = Ok(());
        if !file.held.is_empty() {
            flushed = self.reach(name, &mut file).and_then(|()| file.write());
            match &flushed {
                Ok(()) => file.failed = false,
                Err(error) => self.fail(name, &mut file, error),
            }
        }
        self.files.insert(name.clone(), file);
        flushed.map_err(|_| Refused)
    }

    fn close(&mut self, name: &Name) {
        self.files.remove(name);
    }

    fn reopen(&mut self) {
        // What is held back goes to the new file.
        self.files.retain(|_, file| !file.held.is_empty());
        self.room.clear();
        for file in self.files.values_mut() {
            file.file = None;
        }
    }
}

impl LogFile {
    /// Writes what is held back.
    fn write(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        while !self.held.is_empty() {
            match file.write(&self.held) {
                Ok(count) => drop(self.held.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The file of `name` of this number; 0 is the newest one.
fn file_name(name: &Name, number: u32) -> String {
    match number {
        0 => format!("{name}.log"),
        _ => format!("{name}.log.{number}"),
    }
}

/// The console of which this is a file, and its number; nothing if it is another file.
pub(super) fn owner(file: &str) -> Option<(Name, u32)> {
    let (name, number) = file.rsplit_once(".log")?;
    let name = name.parse().ok()?;
    let number = number
        .strip_prefix('.')
        .map_or(Some(0), |number| number.parse().ok())?;
    (file_name(&name, number) == file).then_some((name, number))
}

fn ignore_missing(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Err(nix::Error::ENOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// RFC 3339 in UTC, with milliseconds.
fn time(moment: Moment) -> String {
    let time = OffsetDateTime::from_unix_timestamp(moment.seconds);
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut text = String::with_capacity(32);
    let _ = write!(
        text,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        moment.nanoseconds / 1_000_000
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    struct Case {
        path: PathBuf,
        directory: LogDirectory,
        _own: Directory,
    }

    impl Case {
        fn new(size: u64, files: u32) -> Self {
            let tenant = 1 << 30;
            let limits = Limits {
                size,
                files,
                tenant,
            };
            let own = Directory::short();
            let path = own.0.join("logs");
            let directory = LogDirectory::open(&path, limits).unwrap();
            Self {
                path,
                directory,
                _own: own,
            }
        }

        /// A file of so many MiB with the `age`th time.
        fn old(&self, file: &str, mebibytes: u64, age: u64) {
            let file = File::create(self.path.join(file)).unwrap();
            file.set_len(mebibytes << 20).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(age);
            file.set_modified(time).unwrap();
        }

        fn say(&mut self, name: &str, text: &str) -> Result<(), Refused> {
            let name = name.parse().unwrap();
            let line = Line {
                arrived: Moment {
                    seconds: 1_700_000_000,
                    nanoseconds: 7_000_001,
                },
                bytes: text.as_bytes().into(),
            };
            let said = self.directory.put(&name, &line);
            said.and(self.directory.flush(&name))
        }

        fn read(&self, file: &str) -> String {
            let text = fs::read_to_string(self.path.join(file)).unwrap();
            text.replace("2023-11-14T22:13:20.007Z ", "")
        }

        fn files(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.path).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn each_console_has_a_file_that_cannot_steer_a_terminal() {
        let mut case = Case::new(1 << 20, 2);
        case.say(":a", "one\x1b[2J").unwrap();
        case.say("t:a.log", "other").unwrap();
        case.directory.close(&":a".parse().unwrap());
        case.say(":a", "two").unwrap();
        assert_eq!(case.files(), [":a.log", "t:a.log.log"]);
        let text = fs::read_to_string(case.path.join(":a.log")).unwrap();
        let time = "2023-11-14T22:13:20.007Z";
        assert_eq!(text, format!("{time} one\\027[2J\n{time} two\n"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&case.path) & !0o750, 0);
        assert_eq!(mode(&case.path.join(":a.log")) & !0o640, 0);
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        // Two lines of 27 bytes fit, three do not.
        let mut case = Case::new(60, 3);
        for number in 1..9 {
            case.say(":a", &number.to_string()).unwrap();
        }
        assert_eq!(case.files(), [":a.log", ":a.log.1", ":a.log.2"]);
        let texts = case
            .files()
            .iter()
            .map(|file| case.read(file))
            .collect::<Vec<_>>();
        assert_eq!(texts, ["7\n8\n", "5\n6\n", "3\n4\n"]);
        // The limit is the same for one who comes back to a full file, and a line that is longer has one of its own.
        case.directory.reopen();
        case.say(":a", &"x".repeat(99)).unwrap();
        assert_eq!(case.read(":a.log").len(), 100);
        assert_eq!(case.read(":a.log.1"), "7\n8\n");
        let mut case = Case::new(60, 1);
        for number in 1..4 {
            case.say(":a", &number.to_string()).unwrap();
        }
        assert_eq!(case.files(), [":a.log"]);
        assert_eq!(case.read(":a.log"), "3\n");
    }

    #[test]
    fn a_tenant_that_uses_ever_new_names_loses_its_own_oldest_files() {
        let mut case = Case::new(1 << 20, 3);
        // However little is in them.
        case.directory.limits.tenant = 5 * log_quota::LEAST;
        for number in 0..9 {
            let name = format!("t:u{number}:a");
            for said in [&name, ":root", "other:a"] {
                case.say(said, "x").unwrap();
                case.old(&format!("{said}.log"), 0, number);
                case.directory.close(&said.parse().unwrap());
            }
        }
        let mut expected = vec![":root.log".to_owned(), "other:a.log".to_owned()];
        expected.extend((4..9).map(|number| format!("t:u{number}:a.log")));
        assert_eq!(case.files(), expected);
    }

    #[test]
    fn what_is_written_to_stays_and_of_its_console_the_older_files_go_last() {
        let mut case = Case::new(1 << 20, 3);
        case.directory.limits.tenant = 8 << 20;
        case.say("t:on", "x").unwrap();
        case.old("t:on.log", 4, 1);
        case.old("t:on.log.1", 1, 2);
        case.old("t:on.log.2", 1, 1);
        case.old("t:gone.log", 1, 4);
        case.old("t:gone.log.1", 2, 3);
        // None of ours.
        for other in [
            "t:gone.log.gz",
            "t:gone.log.01",
            "t:gone.log.0",
            "gone.log",
            "notes",
        ] {
            case.old(other, 9, 0);
        }
        symlink("notes", case.path.join("t:link.log")).unwrap();
        let others = case.files().len() - 5;
        let ours = [
            "t:gone.log.1",
            "t:gone.log",
            "t:on.log.2",
            "t:on.log.1",
            "t:on.log",
        ];
        // They came behind its back.
        case.directory.room.clear();
        // As many as it runs it has in any case.
        for (begun, left) in [(1, 4), (2, 3), (3, 2), (4, 1), (5, 1), (6, 1)] {
            case.say(&format!("t:new{begun}"), "x").unwrap();
            let files = case.files();
            let kept = |file: &&str| files.iter().any(|kept| kept == file);
            let kept: Vec<_> = ours.into_iter().filter(kept).collect();
            assert_eq!(kept, ours[5 - left..], "{begun}");
            assert_eq!(files.len(), others + left + begun);
        }
    }

    #[test]
    fn nothing_is_written_through_what_somebody_else_has_put_there() {
        let mut case = Case::new(1 << 20, 2);
        let victim = case.path.join("victim");
        fs::write(&victim, "kept").unwrap();
        symlink(&victim, case.path.join(":link.log")).unwrap();
        fs::hard_link(&victim, case.path.join(":hard.log")).unwrap();
        mkfifo(&case.path.join(":fifo.log"), Mode::S_IRWXU).unwrap();
        let read_too = File::options()
            .read(true)
            .write(true)
            .open(case.path.join(":fifo.log"));
        fs::create_dir(case.path.join(":directory.log")).unwrap();
        for name in [":link", ":hard", ":fifo", ":directory"] {
            assert_eq!(case.say(name, "lost"), Err(Refused), "{name}");
        }
        drop(read_too);
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
        // Once that is gone, all goes on.
        fs::remove_file(case.path.join(":link.log")).unwrap();
        case.say(":link", "written").unwrap();
        assert_eq!(case.read(":link.log"), "written\n");
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_written_later() {
        let mut case = Case::new(1 << 20, 2);
        case.say(":a", "one").unwrap();
        let name: Name = ":a".parse().unwrap();
        let full = File::options().write(true).open("/dev/full");
        let Ok(full) = full else {
            eprintln!("SKIPPED: no /dev/full here");
            return;
        };
        let disk_is_full = |case: &mut Case| {
            let full = full.try_clone().unwrap();
            case.directory.files.get_mut(&name).unwrap().file = Some(full);
        };
        disk_is_full(&mut case);
        assert_eq!(case.say(":a", "two"), Err(Refused));
        assert!(case.directory.files[&name].failed);
        case.say(":a", "three").unwrap();
        assert_eq!(case.read(":a.log"), "one\ntwo\nthree\n");
        // Nor does it need a further line, and what somebody has moved meanwhile gets none.
        disk_is_full(&mut case);
        assert_eq!(case.say(":a", "last"), Err(Refused));
        fs::rename(case.path.join(":a.log"), case.path.join("moved")).unwrap();
        case.directory.reopen();
        assert_eq!(case.directory.flush(&name), Ok(()));
        case.directory.close(&name);
        assert_eq!(case.read(":a.log"), "last\n");
    }
}
