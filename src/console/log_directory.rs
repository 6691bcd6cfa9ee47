//! Files of lines, one a console, which are rotated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use time::OffsetDateTime;

use super::archive::{MAX_BOUNDS, Refused, Sink};
use super::lines::escaped;
use super::log_quota;
use super::ring::{Line, Moment};
use crate::name::{Name, Path as Tenant};

/// Tenants of whose files it is noted how much they take.
const ACCOUNTS: usize = 1024;

/// How many times as much as in all files that its consoles write to a tenant may have at least. With as many consoles as
/// there can be, each of which fills its file before the next one comes, these still have less: 1/8 (1 + 1/2 + 1/3 + ...).
const BESIDES_NEWEST: u64 = 8;

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
    /// Bytes that the supervisor lets files of a tenant take, where that is less than `limits` say.
    bounds: BTreeMap<Tenant, u64>,
    accounts: BTreeMap<Tenant, Account>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of a file, but at least a line.
    pub(super) size: u64,
    /// Files of a console, at least 1.
    pub(super) files: u32,
    /// Bytes of all files of a tenant.
    pub(super) tenant: u64,
}

/// Files of a tenant.
#[derive(Debug)]
struct Account {
    /// Bytes in them at most; unknown until the directory is looked through.
    used: Option<u64>,
    /// Bytes of one.
    file: u64,
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
            bounds: BTreeMap::new(),
            accounts: BTreeMap::new(),
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

    /// Opens `file`, unless it is.
    fn reach(&mut self, name: &Name, file: &mut LogFile) -> io::Result<()> {
        if file.file.is_none() {
            let opened = self.append(name)?;
            file.size = opened.metadata()?.len() + file.held.len() as u64;
            file.file = Some(opened);
            self.share(name);
        }
        Ok(())
    }

    /// Bytes of all files of a tenant.
    fn most(&self, tenant: &Tenant) -> u64 {
        self.bounds.get(tenant).map_or(self.limits.tenant, |bound| {
            self.limits.tenant.min((*bound).max(log_quota::LEAST))
        })
    }

    /// Divides what the tenant of `name` may have among its consoles, of which `name` is one.
    fn share(&mut self, name: &Name) {
        let tenant = name.path().tenant();
        let others = self.files.keys().filter(|other| *other != name);
        let others = others.filter(|other| other.path().tenant() == tenant);
        let consoles = others.count() as u64 + 1;
        let file = self.most(&tenant) / (BESIDES_NEWEST * consoles);
        self.account(tenant).file = self.limits.size.min(file);
    }

    fn account(&mut self, tenant: Tenant) -> &mut Account {
        if self.accounts.len() >= ACCOUNTS && !self.accounts.contains_key(&tenant) {
            self.accounts.clear();
        }
        self.accounts.entry(tenant).or_insert(Account {
            used: None,
            file: self.limits.size,
        })
    }

    /// Makes room for so many bytes in `file`, which is open then.
    fn prepare(&mut self, name: &Name, file: &mut LogFile, bytes: u64) -> io::Result<()> {
        self.reach(name, file)?;
        if file.failed {
            file.write()?;
            file.failed = false;
        }
        let tenant = name.path().tenant();
        let most = self.accounts.get(&tenant).map(|account| account.file);
        if file.size > 0 && file.size + bytes > most.unwrap_or(self.limits.size) {
            file.write()?;
            file.file = None;
            self.rotate(name)?;
            return self.prepare(name, file, bytes);
        }
        self.charge(name, tenant, file, bytes)
    }

    /// Counts so many bytes more for a tenant. The directory is looked through only if they may be too many.
    fn charge(
        &mut self,
        name: &Name,
        tenant: Tenant,
        file: &mut LogFile,
        bytes: u64,
    ) -> io::Result<()> {
        let most = self.most(&tenant);
        let fits = |used: u64| used.saturating_add(bytes) <= most;
        let known = self.account(tenant.clone()).used;
        let used = if let Some(used) = known.filter(|used| fits(*used)) {
            used
        } else {
            // What is held back would not be found.
            file.write()?;
            self.make_room(&tenant, bytes, Some(name))?
        };
        if !fits(used) {
            return Err(io::Error::other(
                "its tenant has too much in files that stay",
            ));
        }
        self.account(tenant).used = Some(used + bytes);
        Ok(())
    }

    /// Makes room for so many bytes more of a tenant, one of whose consoles is `name`. Returns how many are used.
    fn make_room(&mut self, tenant: &Tenant, bytes: u64, name: Option<&Name>) -> io::Result<u64> {
        let held = self.files.iter();
        let held = held.filter(|(other, _)| other.path().tenant() == *tenant);
        let held: u64 = held.map(|(_, file)| file.held.len() as u64).sum();
        let room = (self.most(tenant), bytes.saturating_add(held));
        let left = log_quota::make_room(&self.directory, tenant, room, name, |other| {
            name == Some(other) || self.files.contains_key(other)
        })?;
        for name in left.begun_anew {
            if let Some(file) = self.files.get_mut(&name) {
                file.file = None;
            }
        }
        Ok(left.bytes + held)
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
        // Its files count for more from now on.
        if let Some(account) = self.accounts.get_mut(&name.path().tenant()) {
            account.used = None;
        }
    }

    fn bound(&mut self, tenant: &Tenant, bytes: u64) {
        if self.bounds.len() >= MAX_BOUNDS && !self.bounds.contains_key(tenant) {
            // The others have a bound again before they write.
            let writing: BTreeSet<_> = self.files.keys().map(|name| name.path().tenant()).collect();
            self.bounds.retain(|tenant, _| writing.contains(tenant));
        }
        let before = self.bounds.get(tenant).copied();
        if bytes < self.limits.tenant {
            self.bounds.insert(tenant.clone(), bytes);
        } else {
            self.bounds.remove(tenant);
        }
        if self.bounds.get(tenant).copied() == before {
            return;
        }
        let of_tenant = |name: &&Name| name.path().tenant() == *tenant;
        let open = self.files.keys().find(of_tenant).cloned();
        if let Some(name) = open {
            self.share(&name);
        }
        match self.make_room(tenant, 0, None) {
            Ok(used) => self.account(tenant.clone()).used = Some(used),
            Err(error) => log::error!("cannot look through {}: {error}", self.path.display()),
        }
    }

    fn reopen(&mut self) {
        // What is held back goes to the new file.
        self.files.retain(|_, file| !file.held.is_empty());
        self.accounts.clear();
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

        /// Bytes of all files whose names begin so.
        fn bytes(&self, beginning: &str) -> u64 {
            let files = self.files();
            let files = files.iter().filter(|file| file.starts_with(beginning));
            files
                .map(|file| fs::metadata(self.path.join(file)).unwrap().len())
                .sum()
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
        case.say("t:on", "x").unwrap();
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
        let tenant: Tenant = "t".parse().unwrap();
        let ours = [
            "t:gone.log.1",
            "t:gone.log",
            "t:on.log.2",
            "t:on.log.1",
            "t:on.log",
        ];
        for (most, left) in [(6, 5), (5, 4), (3, 3), (2, 2), (1, 1)] {
            case.directory.bound(&tenant, most << 20);
            let files = case.files();
            let kept = |file: &&str| files.iter().any(|kept| kept == file);
            let kept: Vec<_> = ours.into_iter().filter(kept).collect();
            assert_eq!(kept, ours[5 - left..], "{most}");
            assert_eq!(files.len(), others + left);
        }
        // What was written to may have to go at last; lines go on in a new file.
        case.old("t:on.log", 2, 1);
        case.directory.accounts.clear();
        case.say("t:new", "x").unwrap();
        case.say("t:on", "later").unwrap();
        assert_eq!(case.read("t:on.log"), "later\n");
        assert_eq!(case.read("t:new.log"), "x\n");
    }

    #[test]
    fn files_of_a_tenant_never_exceed_its_bound_and_have_the_newest_lines_of_all() {
        const BOUND: u64 = 2 << 20;
        const CONSOLES: usize = 30;
        let mut case = Case::new(1 << 20, 3);
        let tenant: Tenant = "t".parse().unwrap();
        case.say("other:a", "x").unwrap();
        // In time, and also where the console came before its bound.
        case.say("t:u0", "x").unwrap();
        case.directory.bound(&tenant, BOUND);
        let line = |number: usize| format!("{number:0500}");
        let mut number = 0;
        let mut last = vec![0; CONSOLES];
        // Each fills its files before the next one comes, and all go on then.
        let turns = (0..CONSOLES).chain(0..CONSOLES).chain(0..CONSOLES);
        for (turn, console) in turns.enumerate() {
            for _ in 0..if turn < CONSOLES { 1500 } else { 150 } {
                number += 1;
                last[console] = number;
                case.say(&format!("t:u{console}"), &line(number)).unwrap();
            }
            assert!(case.bytes("t:") <= BOUND, "{turn}");
            let used = case.directory.accounts[&tenant].used;
            assert!(used.unwrap() >= case.bytes("t:"));
        }
        for (console, last) in last.into_iter().enumerate() {
            let text = case.read(&format!("t:u{console}.log"));
            assert!(text.ends_with(&(line(last) + "\n")), "{console}");
        }
        assert!(case.bytes("t:") > BOUND / 4);
        assert_eq!(case.read("other:a.log"), "x\n");
    }

    #[test]
    fn the_smaller_bound_of_supervisor_and_operator_holds() {
        let mut case = Case::new(1 << 20, 3);
        let tenant: Tenant = "t".parse().unwrap();
        let operator = case.directory.limits.tenant;
        for (told, most) in [
            (5 << 20, 5 << 20),
            (operator + 1, operator),
            (3 << 20, 3 << 20),
            // As little as nobody asks for would leave no line.
            (0, log_quota::LEAST),
            (u64::MAX, operator),
        ] {
            case.directory.bound(&tenant, told);
            assert_eq!(case.directory.most(&tenant), most);
            assert_eq!(case.directory.most(&"other".parse().unwrap()), operator);
        }
        assert!(case.directory.bounds.is_empty());
        // Of too many, those stay of which something is written.
        case.directory.bound(&tenant, 3 << 20);
        case.say("t:a", "x").unwrap();
        for number in 0..MAX_BOUNDS {
            let tenant = format!("t{number}").parse().unwrap();
            case.directory.bound(&tenant, 2 << 20);
            assert_eq!(case.directory.most(&tenant), 2 << 20);
        }
        assert!(case.directory.bounds.len() <= MAX_BOUNDS);
        assert_eq!(case.directory.most(&tenant), 3 << 20);
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
