//! What the integration tests share: test guests, processes that end with the test, deadlines.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub mod arbitrary;
pub mod client;
pub mod console;
pub mod directory;
pub mod endpoint;
pub mod faults;
pub mod host;
#[cfg(target_os = "linux")]
pub mod network;
pub mod pki;
pub mod random;
#[cfg(target_os = "linux")]
pub mod stats;
pub mod vectors;
pub use directory::{Directory, protect};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// How long anything in a test may take. Only a failing test ever waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The image of a test guest, such as `hello.spt`; all of them are built on first use.
pub fn guest(name: &str) -> PathBuf {
    static GUESTS: OnceLock<PathBuf> = OnceLock::new();
    let directory = GUESTS.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/build.sh");
        let built = run(Command::new("sh").arg(script).arg(&directory));
        assert!(built.status.success(), "guests/build.sh: {built:?}");
        directory
    });
    let image = directory.join(name);
    assert!(image.exists(), "there is no test guest {name}");
    image
}

impl Directory {
    /// One beside the programs that are tested, with room for copies of them.
    pub fn new(test: &str) -> Self {
        let name = format!("{test}-XXXXXX");
        Self::like(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A new file with these bytes.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), contents).unwrap();
        protect(&self.path(name));
        self.path(name)
    }
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code as a shell shows it: 128 more than the number of a deadly signal.
    pub fn code(&self) -> i32 {
        match self.status.signal() {
            Some(signal) => 128 + signal,
            None => self.status.code().unwrap(),
        }
    }
}

/// A process that does not outlive its owner. Its standard output arrives line by line.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    ended: Receiver<()>,
}

impl Running {
    /// Starts `command`; whatever of its output was not redirected before is collected.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::piped())
    }

    /// As [`Running::start`], with standard output going elsewhere.
    pub fn start_with(command: &mut Command, stdout: Stdio) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (line, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut bytes = Vec::new();
                while stdout.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if line.send(text).is_err() {
                        break;
                    }
                    bytes.clear();
                }
            });
        }
        let stderr = child.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stderr.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        let (end, ended) = channel();
        let pid = pid_of(&child);
        thread::spawn(move || {
            // Without reaping it, so that its number stays taken while a signal may be sent.
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let _ = end.send(());
        });
        Self {
            child,
            lines,
            stderr,
            ended,
        }
    }

    pub fn pid(&self) -> Pid {
        pid_of(&self.child)
    }

    /// The next line of standard output, without its end.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line.trim_end_matches('\n').to_owned(),
            Err(RecvTimeoutError::Timeout) => panic!("no line came within {DEADLINE:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = self.child.kill();
                panic!("the output ended; it said: {}", self.take_stderr())
            }
        }
    }

    /// Reads lines until one begins with `start`, and returns that.
    pub fn line_with(&mut self, start: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// Closes the reading end of its standard output.
    pub fn close_output(&mut self) {
        self.lines = channel().1;
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for the end and collects what is left of the output.
    pub fn end(mut self) -> Ended {
        if self.ended.recv_timeout(DEADLINE).is_err() {
            let _ = self.child.kill();
            panic!("it did not end within {DEADLINE:?}: {}", self.take_stderr());
        }
        let status = self.child.wait().unwrap();
        Ended {
            status,
            stdout: self.lines.iter().collect(),
            stderr: self.take_stderr(),
        }
    }

    fn take_stderr(&mut self) -> String {
        let stderr = self.stderr.take();
        stderr.map_or_else(String::new, |thread| thread.join().unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end.
pub fn run(command: &mut Command) -> Ended {
    Running::start(command).end()
}

/// Where a program is on PATH.
pub fn on_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program.as_ref()))
        .find(|path| path.is_file())
}

/// Says loudly that a part of a test was left out. `cargo test` shows it with `--nocapture`, and
/// `contrib/check.sh` collects these lines.
pub fn skipped(what: &str, why: &str) {
    // Past the capture of the test harness, which only catches the macros.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}
