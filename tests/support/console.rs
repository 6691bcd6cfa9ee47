//! A real `petrel-console` in a directory of its own, guests that write to its fifos, and its clients.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use super::directory::Directory;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use petrel::name::Name;
use petrel::wire::frame::{frame, read_frame};
use petrel::wire::{
    Command, ConsoleCommand, ConsoleData, ConsoleRead, Data, Int, Message, Payload, SinceCount,
    Success,
};

/// The longest anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The running daemon.
pub struct Daemon {
    child: Child,
    pub directory: Directory,
}

impl Daemon {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        Self::start_in(Directory::short(), options)
    }

    pub fn start_in(directory: Directory, options: &[&str]) -> Self {
        let child = command(&directory.0).args(options).spawn().unwrap();
        Self::started(child, directory)
    }

    /// The daemon with a directory as its `/dev`; nothing if there are no mounts to be made here.
    #[cfg(target_os = "linux")]
    pub fn start_with_devices(devices: &Path, options: &[&str]) -> Option<Self> {
        // In a user namespace of its own unless it may without.
        let namespaces = ["-m", "-rm"].into_iter().find(|namespaces| {
            let mut probe = Process::new("unshare");
            probe.args([namespaces, "mount", "--bind", "/", "/"]);
            probe.output().is_ok_and(|output| output.status.success())
        })?;
        let directory = Directory::short();
        // Both become the daemon.
        let child = Process::new("unshare")
            .args([namespaces, "sh", "-c"])
            .args(["mount --bind \"$1\" /dev && shift && exec \"$@\"", "sh"])
            .arg(devices)
            .args([env!("CARGO_BIN_EXE_petrel-console"), "--tmpdir"])
            .arg(&directory.0)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self::started(child, directory))
    }

    /// The daemon as systemd starts it: it is given a socket that listens already.
    pub fn activated() -> Self {
        let directory = Directory::short();
        fs::create_dir(directory.0.join("util")).unwrap();
        let listener = UnixListener::bind(directory.0.join("util/console.sock")).unwrap();
        // The shell's process id becomes that of the daemon.
        let hand_over = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 </dev/null";
        let child = Process::new("sh")
            .args(["-c", hand_over, "sh", env!("CARGO_BIN_EXE_petrel-console")])
            .arg("--tmpdir")
            .arg(&directory.0)
            .arg("--systemd-socket-activation")
            .stdin(OwnedFd::from(listener))
            .spawn()
            .unwrap();
        Self::started(child, directory)
    }

    fn started(child: Child, directory: Directory) -> Self {
        let daemon = Self { child, directory };
        eventually("the daemon listens", || daemon.try_connect().is_ok());
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.0.join("util/console.sock")
    }

    fn try_connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket())
    }

    pub fn connect(&self) -> Client {
        let stream = self.try_connect().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Client { stream }
    }

    pub fn fifo(&self, name: &str) -> PathBuf {
        self.directory.0.join("fifo").join(name)
    }

    pub fn make_fifo(&self, name: &str) -> PathBuf {
        let path = self.fifo(name);
        mkfifo(&path, Mode::from_bits_truncate(0o640)).unwrap();
        path
    }

    /// A unikernel starts: its fifo is there, the daemon told, and the writing end open.
    pub fn guest(&self, supervisor: &mut Client, name: &str) -> File {
        self.make_fifo(name);
        supervisor.add(name, 1000);
        self.open_guest(name)
    }

    pub fn open_guest(&self, name: &str) -> File {
        let path = self.fifo(name);
        OpenOptions::new().append(true).open(path).unwrap()
    }

    /// The names of stopped consoles.
    pub fn inactive(&self, path: &str) -> Vec<String> {
        let answer = self
            .connect()
            .ask(path, ConsoleCommand::Inactive(()))
            .unwrap();
        let Payload::Reply(Success::Consoles(names)) = answer.payload else {
            panic!("{answer:?}");
        };
        names.iter().map(petrel::wire::Text::to_lossy).collect()
    }

    /// Clock ticks of CPU time the daemon has used, where /proc tells.
    pub fn cpu_ticks(&self) -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    }

    /// Fails if the daemon is busy although nothing happens.
    pub fn assert_idle(&self) {
        let Some(before) = self.cpu_ticks() else {
            return;
        };
        std::thread::sleep(Duration::from_millis(300));
        let used = self.cpu_ticks().unwrap() - before;
        assert!(used < 8, "{used} ticks of CPU time used for nothing");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        kill(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon's program with a runtime directory.
pub fn command(directory: &Path) -> Process {
    let mut command = Process::new(env!("CARGO_BIN_EXE_petrel-console"));
    command
        .arg("--tmpdir")
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Waits for the end of a process.
pub fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// A connection to the daemon.
pub struct Client {
    pub stream: UnixStream,
}

impl Client {
    pub fn send(&mut self, name: &str, command: ConsoleCommand) {
        let name: Name = name.parse().unwrap();
        let message = Message::command(7, &name, Command::Console(command));
        self.send_bytes(&frame(&message.encode().unwrap()).unwrap());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message; `None` once the daemon has closed the connection.
    pub fn receive(&mut self) -> Option<Message> {
        let bytes = match read_frame(&mut self.stream, 1 << 20) {
            Ok(bytes) => bytes?,
            // Closed while something of ours was unread, or inside a frame that will not go on.
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains("temporarily"), "nothing came: {text}");
                return None;
            }
        };
        Some(Message::decode(&bytes).unwrap())
    }

    pub fn ask(&mut self, name: &str, command: ConsoleCommand) -> Option<Message> {
        self.send(name, command);
        self.receive()
    }

    /// What the supervisor does before a unikernel starts.
    pub fn add(&mut self, name: &str, max: i64) {
        let answer = self.ask(name, ConsoleCommand::Add(Int::new(max))).unwrap();
        assert_eq!(answer.payload, Payload::Reply(Success::Empty(())));
        assert_eq!(answer.header.name.to_lossy(), name);
        assert_eq!(answer.header.sequence.0, 7);
    }

    /// Subscribes and returns the word the daemon answers with.
    pub fn subscribe(&mut self, name: &str, wanted: SinceCount) -> String {
        let answer = self.ask(name, ConsoleCommand::Subscribe(wanted)).unwrap();
        match answer.payload {
            Payload::Reply(Success::String(word)) => word.to_lossy(),
            other => panic!("{other:?}"),
        }
    }

    pub fn subscribe_last(&mut self, name: &str, count: i64) -> String {
        self.subscribe(name, SinceCount::Count(Int::new(count)))
    }

    /// Reads as Petrel's own client does, and returns the word the daemon answers with.
    pub fn read(&mut self, name: &str, count: i64, follow: bool) -> String {
        let from = SinceCount::Count(Int::new(count));
        let read = ConsoleRead { from, follow };
        let answer = self.ask(name, ConsoleCommand::Read(read)).unwrap();
        match answer.payload {
            Payload::Reply(Success::String(word)) => word.to_lossy(),
            other => panic!("{other:?}"),
        }
    }

    /// Fails unless the end of the lines is told next.
    pub fn assert_end(&mut self) {
        let message = self.receive().unwrap();
        assert_eq!(message.payload, Payload::Reply(Success::Empty(())));
    }

    /// The next line and when it arrived; `None` at the end.
    pub fn data(&mut self) -> Option<ConsoleData> {
        let message = self.receive()?;
        match message.payload {
            Payload::Data(Data::Console(data)) => Some(data),
            other => panic!("{other:?}"),
        }
    }

    pub fn line(&mut self) -> String {
        self.data().expect("a line").data.to_lossy()
    }

    pub fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Fails unless a failure with this text comes next, and then the end.
    pub fn assert_turned_out(&mut self, text: &str) {
        let message = self.receive().expect("a reason");
        let Payload::Failure(why) = message.payload else {
            panic!("{message:?}");
        };
        assert!(why.to_lossy().contains(text), "{why:?}");
        self.assert_closed();
    }

    /// Fails unless the daemon closes without a further word.
    pub fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b""),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}
