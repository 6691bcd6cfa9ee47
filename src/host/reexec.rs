//! Executing this program anew, in place: its children stay its children, its listening socket stays open, and nobody
//! else can take its database meanwhile.

use std::env;
use std::ffi::{CString, NulError, OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::execve;

use crate::sys::descriptor;

/// Tells the new program what was kept for it: the number of the process, and of the descriptors in the order of
/// [`Kept`].
const VARIABLE: &str = "PETRELD_KEPT";

/// This program, as it was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// What the new program is to have. Everything else but the standard descriptors is closed; the process, its children
/// and its environment are the same.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The socket that clients connect to.
    pub listener: BorrowedFd<'a>,
    /// The file whose lock keeps other supervisors from the database.
    pub lock: BorrowedFd<'a>,
}

/// What was kept by the program that this process has executed before.
#[derive(Debug)]
pub struct Inherited {
    /// As in [`Kept`].
    pub listener: OwnedFd,
    /// As in [`Kept`].
    pub lock: OwnedFd,
}

/// Why the program was not executed anew; everything is as it was.
#[derive(Debug)]
pub struct ReexecError(PathBuf, io::Error);

impl Program {
    /// What runs now. To be asked at the start: the path stays, whatever is put there later.
    pub fn of_this_process() -> io::Result<Self> {
        let file = env::current_exe()?;
        let arguments: Vec<_> = env::args_os().collect();
        let named = arguments.first().and_then(|name| as_named(name, &file));
        Ok(Self {
            path: named.unwrap_or(file),
            arguments,
        })
    }

    /// Executes what is at its path now, in this process. Returns only if that fails.
    ///
    /// Signals are blocked until the new program listens to them ([`crate::daemon::Signals`]), so none is lost; but
    /// whose death was told before, and not asked for, is not told again.
    pub fn execute(&self, kept: Kept<'_>) -> ReexecError {
        let error = match self.try_execute(kept) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        ReexecError(self.path.clone(), error)
    }

    fn try_execute(&self, kept: Kept<'_>) -> io::Result<std::convert::Infallible> {
        let path = text(self.path.clone().into_os_string())?;
        let arguments: Vec<_> = self
            .arguments
            .iter()
            .cloned()
            .map(text)
            .collect::<Result<_, _>>()?;
        let environment = environment(kept)?;
        let mut before = SigSet::empty();
        sigprocmask(
            SigmaskHow::SIG_BLOCK,
            Some(&SigSet::all()),
            Some(&mut before),
        )?;
        descriptor::keep_from_children();
        let keep = |keep| {
            descriptor::keep_over_exec(kept.listener, keep)
                .and_then(|()| descriptor::keep_over_exec(kept.lock, keep))
        };
        let executed = keep(true).and_then(|()| execve(&path, &arguments, &environment));
        let restored = keep(false);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        let never = executed?;
        restored?;
        Ok(never)
    }
}

impl Inherited {
    /// What this process has kept for itself; nothing if it was started in the ordinary way. To be asked once, before
    /// other descriptors are opened.
    pub fn take() -> io::Result<Option<Self>> {
        let numbers = env::var(VARIABLE).ok().and_then(|value| {
            let mut numbers = value.split(' ').map(str::parse::<i32>);
            let mut next = || numbers.next()?.ok();
            Some((next()?, next()?, next()?))
        });
        match numbers {
            // Of this very process: children inherit variables, too.
            Some((process, listener, lock)) if process.cast_unsigned() == std::process::id() => {
                Ok(Some(Self {
                    listener: descriptor::inherited(listener)?,
                    lock: descriptor::inherited(lock)?,
                }))
            }
            _ => Ok(None),
        }
    }
}

/// The path that the program was called by, if it is one, and leads to this file: a link may lead elsewhere after an
/// upgrade.
fn as_named(name: &OsStr, file: &Path) -> Option<PathBuf> {
    let path = Path::new(name);
    path.parent()
        .filter(|directory| *directory != Path::new(""))?;
    let path = std::path::absolute(path).ok()?;
    let (named, file) = (fs::metadata(&path).ok()?, fs::metadata(file).ok()?);
    let same = (named.dev(), named.ino()) == (file.dev(), file.ino());
    same.then_some(path)
}

/// The environment of this process, with what is kept in place of an earlier time's.
fn environment(kept: Kept<'_>) -> Result<Vec<CString>, NulError> {
    let numbers = format!(
        "{} {} {}",
        std::process::id(),
        kept.listener.as_raw_fd(),
        kept.lock.as_raw_fd()
    );
    env::vars_os()
        .filter(|(name, _)| name != VARIABLE)
        .chain([(VARIABLE.into(), numbers.into())])
        .map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            text(variable)
        })
        .collect()
}

fn text(text: OsString) -> Result<CString, NulError> {
    CString::new(text.into_vec())
}

impl fmt::Display for ReexecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot execute {} anew: {}", self.0.display(), self.1)
    }
}

impl std::error::Error for ReexecError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Child, Command, Stdio};

    use nix::fcntl::{Flock, FlockArg};
    use nix::sys::wait::{WaitStatus, wait};

    use crate::daemon::Signals;
    use crate::directory::Directory;

    /// Set in the process that executes itself anew; its directory.
    const PLAYED: &str = "PETREL_TEST_REEXEC";

    fn lock(directory: &Path) -> Option<Flock<File>> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false);
        let file = file.open(directory.join("lock")).unwrap();
        Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
    }

    /// This program's test below, as a process of its own. It takes a copy of its program for itself.
    fn play(directory: &Path) -> Child {
        let copy = directory.join("program");
        crate::directory::copy_program(env::current_exe().unwrap(), &copy);
        let test = "host::reexec::tests::the_program_is_executed_anew_with_what_it_had";
        Command::new(copy)
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(PLAYED, directory)
            .env("KEPT", "a variable")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The first time: has a socket, a lock, a child, and something that nobody needs, and executes itself anew when a
    /// line comes. The second time: tells what is left.
    fn player(directory: &Path) {
        let Some(inherited) = Inherited::take().unwrap() else {
            let listener = UnixListener::bind(directory.join("socket")).unwrap();
            let lock = lock(directory).unwrap();
            let _unneeded = File::open("/dev/null").unwrap();
            // Waited for by the program that comes after.
            #[allow(clippy::zombie_processes)]
            let child = Command::new("sh")
                .args(["-c", "read line; exit 7"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let program = Program::of_this_process().unwrap();
            println!("\nready {}", child.id());
            io::stdin().lines().next();
            let kept = Kept {
                listener: listener.as_fd(),
                lock: lock.as_fd(),
            };
            panic!("{}", program.execute(kept));
        };
        let _signals = Signals::listen().unwrap();
        // Its input has ended with the program that was its parent's.
        let WaitStatus::Exited(child, 7) = wait().unwrap() else {
            panic!("the child is gone");
        };
        assert_eq!(env::var("KEPT").unwrap(), "a variable");
        let mut open: Vec<_> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .collect();
        open.retain(|path| path == Path::new("/dev/null") || *path == directory.join("lock"));
        assert_eq!(open, [directory.join("lock")]);
        assert_eq!(SigSet::thread_get_mask().unwrap(), SigSet::empty());
        println!("\nagain {child}");
        let listener = UnixListener::from(inherited.listener);
        listener.accept().unwrap().0.write_all(b"served").unwrap();
        io::stdin().lines().next();
        drop(inherited.lock);
    }

    #[test]
    fn the_program_is_executed_anew_with_what_it_had() {
        if let Some(directory) = env::var_os(PLAYED) {
            return player(Path::new(&directory));
        }
        let directory = Directory::short();
        let directory = &directory.0;
        let mut process = play(directory);
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut says = |what: &str| {
            let line = lines.find_map(|line| {
                let line = line.unwrap();
                line.strip_prefix(what).map(str::to_owned)
            });
            line.unwrap_or_else(|| panic!("it does not say {what}"))
        };
        let child = says("ready ");
        // It connects before, and is served after.
        let mut client = UnixStream::connect(directory.join("socket")).unwrap();
        // What is upgraded is another file of the same name.
        let program = directory.join("program");
        crate::directory::copy_program(&program, directory.join("new"));
        fs::rename(directory.join("new"), &program).unwrap();
        let mut input = process.stdin.take().unwrap();
        input.write_all(b"go\n").unwrap();
        let mut answer = String::new();
        std::thread::scope(|scope| {
            let served = scope.spawn(|| client.read_to_string(&mut answer).unwrap());
            while !served.is_finished() {
                assert!(lock(directory).is_none(), "the lock was free");
            }
        });
        assert_eq!(answer, "served");
        assert_eq!(says("again "), child);
        let file = fs::read_link(format!("/proc/{}/exe", process.id()));
        if let Ok(file) = file {
            assert_eq!(file, program, "it is the new file");
        }
        drop(input);
        assert!(process.wait().unwrap().success());
    }

    #[test]
    fn if_it_cannot_be_executed_everything_is_as_it_was() {
        let program = Program {
            path: "/nowhere/petreld".into(),
            arguments: Vec::new(),
        };
        let (listener, lock) = (
            File::open("/dev/null").unwrap(),
            File::open("/dev/null").unwrap(),
        );
        let before = SigSet::thread_get_mask().unwrap();
        let kept = Kept {
            listener: listener.as_fd(),
            lock: lock.as_fd(),
        };
        let error = program.execute(kept).to_string();
        assert!(
            error.starts_with("cannot execute /nowhere/petreld anew: No such"),
            "{error}"
        );
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
        for file in [listener, lock] {
            let flags = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETFD);
            assert_eq!(flags, Ok(1), "close-on-exec");
        }
    }

    #[test]
    fn a_link_to_the_program_stays_the_way_to_it() {
        let directory = Directory::short();
        let file = env::current_exe().unwrap();
        let link = directory.0.join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(as_named(link.as_os_str(), &file), Some(link));
        assert_eq!(as_named(OsStr::new("petreld"), &file), None);
        assert_eq!(as_named(OsStr::new("/bin/sh"), &file), None);
    }
}
