//! A whole host in a directory: certificates made by the real `petrel`, its daemons, and clients of them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use petrel::wire::state::State;

use crate::support::directory::copy_program;
use crate::support::{DEADLINE, Directory, Ended, Running, protect, run};

/// What `petrel-tls` is started with besides its directory.
pub const LISTEN: [&str; 4] = ["--ip", "127.0.0.1", "--port", "0"];

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Certificates and keys of a host, and of some of its tenants: `tenant` may run 2 unikernels in 64 MB, `crowd` 20 in
/// 640 MB, `networker` 2 in 64 MB on the bridges `service` and `admin`, `keeper` 3 in 96 MB with 40 MB of block storage.
fn certificates() -> &'static [(OsString, Vec<u8>)] {
    static FILES: OnceLock<Vec<(OsString, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let directory = Directory::short();
        let tool = |arguments: &[&str]| {
            let ended = run(Command::new(program(None, "petrel"))
                .args(arguments)
                .current_dir(&directory.0));
            assert_eq!(ended.code(), 0, "{arguments:?}: {ended:?}");
        };
        tool(&["generate", "--server", "host", "ca", "issued"]);
        let bridges = ["--mem", "64", "--bridge", "service", "--bridge", "admin"];
        for (tenant, unikernels, more) in [
            ("tenant", "2", &["--mem", "64"][..]),
            ("crowd", "20", &["--mem", "640"]),
            ("networker", "2", &bridges),
            ("keeper", "3", &["--mem", "96", "--block", "40"]),
        ] {
            tool(&[&["add-policy", tenant, unikernels, "--csr"], more].concat());
            let request = format!("{tenant}.req");
            tool(&["sign", "cacert.pem", "issued", "ca.key", &request]);
        }
        let files = fs::read_dir(&directory.0).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name(), fs::read(entry.path()).unwrap())
        });
        files.collect()
    })
}

/// One of Petrel's programs, built for this test or copied to another directory.
fn program(directory: Option<&Path>, name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_petrel")).parent().unwrap();
    directory.unwrap_or(built).join(name)
}

/// In what a host may differ from an ordinary one.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// PATH of the daemons.
    pub path: Option<OsString>,
    /// `petreld` is a copy that has no other program beside it.
    pub alone: bool,
    /// Everything runs as this user, from copies of the programs.
    pub user: Option<u32>,
    /// What a shell does before it becomes `petreld`.
    pub before: Option<&'static str>,
    /// Further options of `petreld`.
    pub options: &'static [&'static str],
    /// A tender's program, to be copied to the database directory under this name.
    pub tender: Option<(PathBuf, &'static str)>,
}

/// A host. Its daemons and unikernels end with it.
pub struct Host {
    // Before the directory: they end before it is removed.
    pub supervisor: Option<Daemon>,
    pub endpoint: Option<Daemon>,
    pub console: Option<Daemon>,
    pub address: String,
    setup: Setup,
    directory: Directory,
}

/// What there is on a host, to be compared with what there is later.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Everything in the daemons' directories, and what was downloaded, but what only the state before needs.
    pub files: BTreeSet<PathBuf>,
    /// The running tenders.
    pub tenders: BTreeSet<i32>,
    /// What `petrel info` says.
    pub info: String,
    /// What `petrel policy` says.
    pub policies: String,
}

impl Host {
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let mut host = Self::prepared(setup);
        host.start_console();
        host.start_supervisor();
        host.start_endpoint();
        host
    }

    /// The directory of a host, on which nothing runs yet.
    pub fn prepared(setup: Setup) -> Self {
        let directory = Directory::short();
        for (name, contents) in certificates() {
            let path = directory.0.join(name);
            fs::write(&path, contents).unwrap();
            protect(&path);
        }
        for below in ["run", "run/util", "run/fifo", "db", "bin"] {
            fs::create_dir(directory.0.join(below)).unwrap();
        }
        let copies: &[&str] = match (setup.user, setup.alone) {
            (Some(_), _) => &[
                "petrel",
                "petreld",
                "petrel-console",
                "petrel-tls",
                "petrel-spt",
            ],
            (None, true) => &["petreld"],
            (None, false) => &[],
        };
        for name in copies {
            copy_program(program(None, name), directory.0.join("bin").join(name));
        }
        if let Some((tender, name)) = &setup.tender {
            copy_program(tender, directory.0.join("db").join(name));
        }
        let host = Self {
            supervisor: None,
            endpoint: None,
            console: None,
            address: String::new(),
            setup,
            directory,
        };
        host.hand_over(host.path("."));
        host
    }

    /// A path in the host's directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.0.join(name)
    }

    /// A new file, which the host's user can read.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), contents).unwrap();
        protect(&self.path(name));
        self.hand_over(self.path(name));
        self.path(name)
    }

    /// Makes a file or directory, with all that is in it, the user's.
    fn hand_over(&self, path: PathBuf) {
        let Some(user) = self.setup.user else {
            return;
        };
        chown(&path, Some(user), Some(user)).unwrap();
        if path.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                self.hand_over(entry.unwrap().path());
            }
        }
    }

    pub fn command(&self, name: &str) -> Command {
        let copied = self.setup.user.is_some() || (self.setup.alone && name == "petreld");
        let bin = self.path("bin");
        let mut command = Command::new(program(copied.then_some(&bin), name));
        self.become_user(&mut command);
        command
            .current_dir(&self.directory.0)
            .env_remove("JOURNAL_STREAM");
        command
    }

    fn become_user(&self, command: &mut Command) {
        if let Some(user) = self.setup.user {
            command.uid(user).gid(user);
        }
    }

    pub fn start_console(&mut self) {
        let mut command = self.command("petrel-console");
        command.args(["-v", "--tmpdir", "run"]);
        self.console = Some(Daemon::start(&mut command, "listening"));
    }

    pub fn start_supervisor(&mut self) {
        let mut command = self.supervisor_command();
        self.supervisor = Some(Daemon::start(&mut command, "listening"));
    }

    /// Kills `petreld`, and nothing else.
    pub fn kill_supervisor(&mut self) {
        let supervisor = self.supervisor.take().unwrap();
        supervisor.signal(Signal::SIGKILL);
        supervisor.end();
    }

    /// The process that runs a unikernel, by its record.
    pub fn tender_of(&self, name: &str) -> Option<i32> {
        let record = fs::read_to_string(self.path("run/run").join(name)).ok()?;
        let (_, process) = record.rsplit_once("\nprocess ")?;
        process.split(' ').next()?.parse().ok()
    }

    /// The program and arguments of `petreld`.
    pub fn supervisor_command(&self) -> Command {
        let mut command = self.command("petreld");
        if let Some(before) = self.setup.before {
            let program = command.get_program().to_owned();
            command = Command::new("sh");
            command
                .args(["-c", &format!("{before} && exec \"$@\""), "sh"])
                .arg(program)
                .current_dir(&self.directory.0);
            self.become_user(&mut command);
        }
        if let Some(path) = &self.setup.path {
            command.env("PATH", path);
        }
        // The tender is given the image's path, and its own directory is another one.
        command
            .args(["-v", "--tmpdir", "run", "--dbdir"])
            .arg(self.path("db"))
            .args(self.setup.options);
        command
    }

    pub fn start_endpoint(&mut self) {
        let endpoint = self.endpoint_with("host");
        self.address = endpoint.address();
        self.endpoint = Some(endpoint);
    }

    /// `petrel-tls` with this server certificate.
    pub fn endpoint_with(&self, server: &str) -> Daemon {
        let mut command = self.endpoint_command(server);
        command.args(LISTEN);
        Daemon::start(&mut command, "listening on ")
    }

    /// The program of the endpoint; options may follow.
    pub fn endpoint_command(&self, server: &str) -> Command {
        let mut command = self.command("petrel-tls");
        let (certificate, key) = (format!("{server}.pem"), format!("{server}.key"));
        command
            .arg("--tmpdir")
            .arg(self.path("run"))
            .args(["cacert.pem", &certificate, &key].map(|file| self.path(file)));
        command
    }

    /// The client on the host itself.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("petrel");
        command.args(arguments).args(["--tmpdir", "run"]);
        command
    }

    pub fn petrel(&self, arguments: &[&str]) -> Ended {
        run(&mut self.client(arguments))
    }

    /// The client of a tenant, over TLS.
    pub fn client_of(&self, who: &str, arguments: &[&str]) -> Command {
        let mut command = self.command("petrel");
        let (certificate, key) = (format!("{who}.pem"), format!("{who}.key"));
        command
            .args(arguments)
            .args(["--destination", &self.address])
            .args(["--ca", &certificate, "--ca-key", &key])
            .args(["--server-ca", "cacert.pem"]);
        command
    }

    pub fn tenant(&self, arguments: &[&str]) -> Ended {
        run(&mut self.client_of("tenant", arguments))
    }

    pub fn crowd(&self, arguments: &[&str]) -> Ended {
        run(&mut self.client_of("crowd", arguments))
    }

    pub fn keeper(&self, arguments: &[&str]) -> Ended {
        run(&mut self.client_of("keeper", arguments))
    }

    /// The certificate tools.
    pub fn tool(&self, arguments: &[&str]) -> Ended {
        run(self.command("petrel").args(arguments))
    }

    /// Follows the console of a unikernel.
    pub fn follow(&self, name: &str, options: &[&str]) -> Running {
        Running::start(&mut self.client(&[&["console", name], options].concat()))
    }

    pub fn supervisor(&self) -> &Daemon {
        self.supervisor.as_ref().unwrap()
    }

    /// The processes of the tenders.
    pub fn tenders(&self) -> BTreeSet<i32> {
        &children(self.supervisor().pid()) - &self.carriers()
    }

    /// The copies of the supervisor that carry content; one may end a little after the answer to its client.
    pub fn carriers(&self) -> BTreeSet<i32> {
        let command_line = |process| fs::read(format!("/proc/{process}/cmdline")).ok();
        let supervisor = self.supervisor().pid();
        let own = command_line(supervisor);
        let children = children(supervisor).into_iter();
        children
            .filter(|child| own.is_some() && command_line(*child) == own)
            .collect()
    }

    /// Names of files, without those that are hidden and what only the state before needs.
    pub fn names(&self, directory: &str) -> BTreeSet<String> {
        let outlived = outlived(&self.path("db"));
        let names = fs::read_dir(self.path(directory)).unwrap().map(|entry| {
            let name = entry.unwrap().file_name();
            name.into_string().unwrap()
        });
        names
            .filter(|name| !name.starts_with('.') && !outlived.contains(name))
            .collect()
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut files = BTreeSet::new();
        // As petreld sees them: it may have mounted something.
        let root = format!("/proc/{}/root", self.supervisor().pid());
        let root = Path::new(&root);
        let database = self.path("db");
        let database = root.join(database.strip_prefix("/").unwrap());
        let outlived = outlived(&database);
        walk(&database, &mut files);
        files.retain(|path| !outlived.contains(path.file_name().unwrap().to_str().unwrap()));
        walk(&self.path("run"), &mut files);
        let entries = fs::read_dir(&self.directory.0).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with('Z') || name.ends_with(".part")
        }));
        let info = self.petrel(&["info"]);
        let policies = self.petrel(&["policy"]);
        assert_eq!((info.code(), policies.code()), (0, 0), "{info:?}");
        Snapshot {
            files,
            tenders: self.tenders(),
            info: info.stdout,
            policies: policies.stdout,
        }
    }

    /// Fails unless everything is, or soon is, as it was before: the same unikernels in the same processes,
    /// and nothing beside them.
    pub fn assert_unchanged(&self, before: &Snapshot) {
        let mut now = self.snapshot();
        let end = Instant::now() + DEADLINE / 4;
        while now != *before && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
            now = self.snapshot();
        }
        assert_eq!(now, *before);
        if let Some(endpoint) = &self.endpoint {
            eventually("every connection's process has ended", || {
                children(endpoint.pid()).is_empty()
            });
        }
    }

    /// A client's answer: its exit code, and what its message contains.
    pub fn expect(&self, ended: &Ended, code: i32, parts: &[&str]) {
        assert_eq!(
            ended.code(),
            code,
            "{ended:?}\n{}",
            self.supervisor().so_far()
        );
        let text = format!("{}{}", ended.stdout, ended.stderr);
        for part in parts {
            assert!(text.contains(part), "'{part}' in {text:?}");
        }
    }
}

impl Host {
    /// The tenders on this host, whosoever children they are: nothing else has these images.
    pub fn left_tenders(&self) -> BTreeSet<i32> {
        let images = self.path("db/image/").into_os_string();
        processes(|process| {
            let words = fs::read(format!("/proc/{process}/cmdline")).ok()?;
            let mut words = words.split(|byte| *byte == 0);
            words
                .any(|word| word.starts_with(images.as_bytes()))
                .then_some(())
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.signal(Signal::SIGTERM);
            supervisor.end();
        }
        // What a supervisor that died in a test has left behind.
        for tender in self.left_tenders() {
            let _ = kill(Pid::from_raw(tender), Signal::SIGKILL);
        }
    }
}

/// The state before the present one, and the images that only it refers to.
fn outlived(database: &Path) -> BTreeSet<String> {
    let images = |name| -> BTreeSet<String> {
        let bytes = fs::read(database.join(name)).unwrap_or_default();
        let state = State::decode(&bytes).unwrap_or_default();
        state.images().map(|image| image.to_string()).collect()
    };
    let mut outlived = &images("state.previous") - &images("state");
    outlived.insert("state.previous".to_owned());
    outlived
}

/// A daemon that does not outlive its owner.
pub struct Daemon {
    child: Child,
    log: Arc<Log>,
}

/// What a daemon has said so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Daemon {
    /// Starts it and waits until it says so.
    pub fn start(command: &mut Command, ready: &str) -> Self {
        Self::start_with(command, Stdio::null(), ready)
    }

    /// The same with something as its standard input.
    pub fn start_with(command: &mut Command, stdin: Stdio, ready: &str) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Log::default());
        follow(child.stdout.take().unwrap(), &log);
        follow(child.stderr.take().unwrap(), &log);
        let daemon = Self { child, log };
        daemon.says(ready);
        daemon
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }

    /// Waits for a line with this text.
    pub fn says(&self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no '{text}' in {lines:#?}");
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// All that it has said.
    pub fn so_far(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    /// The address it has announced.
    pub fn address(&self) -> String {
        let line = self.says("listening on ");
        line.rsplit(' ').next().unwrap().to_owned()
    }

    /// The end of the process, if it comes in time.
    pub fn end(mut self) -> Option<ExitStatus> {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Asks it to end, and waits for that; its exit code.
    pub fn stop(self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.end().expect("it does not end").code()
    }

    /// The first number in a line of `/proc/PID/status`, such as `VmHWM` (in KiB).
    pub fn status(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(reader: impl Read + Send + 'static, log: &Arc<Log>) {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            log.lines.lock().unwrap().push(line);
            log.more.notify_all();
        }
    });
}

/// The living children of a process.
fn children(parent: i32) -> BTreeSet<i32> {
    processes(|process| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name before may have anything in it.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let (state, above) = (fields.next()?, fields.next()?);
        (state != "Z" && above == parent.to_string()).then_some(())
    })
}

/// The processes for which there is an answer.
fn processes(wanted: impl Fn(i32) -> Option<()>) -> BTreeSet<i32> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let process = entry.ok()?.file_name().to_str()?.parse().ok()?;
        wanted(process).map(|()| process)
    });
    all.collect()
}

/// All paths below `directory`.
fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.insert(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}
