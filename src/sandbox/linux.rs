//! Linux: Landlock, landlock(7), for files and addresses, and seccomp(2) for all else that a program can ask for.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::stat::Mode;

use super::{Access, Breach, Capability, Need, filter};
use crate::sys::landlock::{self, Rights, Ruleset};
use crate::sys::{capabilities, spawn};

/// Where the system tells of processes and interfaces.
const COUNTERS: [&str; 2] = ["/proc", "/sys"];

/// What a program has as standard input or output that has none.
const NULL: &str = "/dev/null";

/// Domain names are asked for over TCP where UDP is not enough (RFC 7766).
const DOMAIN: u16 = 53;

pub(super) fn confine(needs: &[Need<'_>], breach: Breach) {
    let failed =
        |what, error: &dyn std::fmt::Display| log::warn!("going on without {what}: {error}");
    if let Err(error) = prctl::set_no_new_privs() {
        return failed("a sandbox", &error);
    }
    if looks_into_processes(needs) {
        log::info!("without Landlock, which would keep what processes read and write from it");
    } else if let Err(error) = restrict(needs) {
        failed("Landlock", &error);
    }
    // Last, as it ends all further sandboxing.
    if let Err(error) = filter::install(needs, breach) {
        failed("a filter of system calls", &error);
    }
}

pub(super) fn keep_only(capabilities: &[Capability]) -> io::Result<()> {
    spawn::forbid_new_privileges()?;
    let numbers = capabilities.iter().flat_map(|capability| match capability {
        Capability::Chown => &[capabilities::CHOWN][..],
        Capability::AnyFile => &[capabilities::DAC_OVERRIDE],
        Capability::Signals => &[capabilities::KILL],
        Capability::Users => &[
            capabilities::SETUID,
            capabilities::SETGID,
            capabilities::SETPCAP,
        ],
        Capability::NetworkDevices => &[capabilities::NET_ADMIN],
    });
    capabilities::keep_only(&numbers.copied().collect::<Vec<_>>())
}

pub(super) fn missing() -> Option<String> {
    landlock::version().err().map(|error| error.to_string())
}

/// Whether it is to count what processes read and write, and may: Landlock ends that, as it does ptrace(2).
fn looks_into_processes(needs: &[Need<'_>]) -> bool {
    let looks = || File::open("/proc/1/io").and_then(|mut file| file.read(&mut [0]));
    needs.iter().any(|need| matches!(need, Need::Counters)) && looks().is_ok()
}

fn restrict(needs: &[Need<'_>]) -> io::Result<()> {
    let any_socket =
        |need: &Need<'_>| matches!(need, Need::AllLocalSockets | Need::Names | Need::Programs);
    let rules = Ruleset::new(if needs.iter().any(any_socket) {
        Rights::RESOLVE_SOCKET
    } else {
        Rights::NONE
    })?;
    for need in needs {
        match need {
            Need::Directory(directory, access) => rules.allow(directory, rights(*access))?,
            Need::Reopen(directory) => rules.allow(directory, Rights::READ_FILE)?,
            Need::LocalSockets(directory) => rules.allow(directory, Rights::RESOLVE_SOCKET)?,
            Need::Manager => {
                if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
                    && let Ok(socket) = place(socket)
                {
                    rules.allow(socket, Rights::RESOLVE_SOCKET)?;
                }
            }
            Need::Tcp(port) => rules.allow_port(*port)?,
            Need::Names => {
                // What is asked is configured: files anywhere, libraries, daemons.
                rules.allow(place("/")?, Rights::READ_FILE | Rights::READ_DIRECTORY)?;
                rules.allow_port(DOMAIN)?;
            }
            Need::Programs => {
                let read = Rights::READ_FILE | Rights::READ_DIRECTORY | Rights::EXECUTE;
                rules.allow(place("/")?, read)?;
                rules.allow(place(NULL)?, Rights::WRITE_FILE)?;
            }
            Need::Counters => {
                for directory in COUNTERS {
                    rules.allow(place(directory)?, Rights::READ_FILE)?;
                }
            }
            Need::OpenFiles | Need::AllLocalSockets | Need::Accept => {}
        }
    }
    rules.restrict()
}

fn place(path: impl AsRef<Path>) -> io::Result<impl std::os::fd::AsFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(open(path.as_ref(), flags, Mode::empty())?)
}

fn rights(access: Access) -> Rights {
    match access {
        Access::Read => Rights::READ_FILE,
        Access::Change => {
            Rights::READ_FILE
                | Rights::WRITE_FILE
                | Rights::TRUNCATE
                | Rights::MAKE_FILE
                | Rights::REMOVE_FILE
        }
        Access::Remove => Rights::REMOVE_FILE,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus, Stdio};
    use std::thread;

    use nix::libc;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getppid;

    use super::*;
    use crate::directory::Directory as Place;
    use crate::socket::{self, Directory};

    fn has_landlock(least: libc::c_long) -> bool {
        let has = landlock::version().is_ok_and(|version| version >= least);
        if !has {
            eprintln!("SKIPPED: this kernel has no Landlock of version {least}");
        }
        has
    }

    /// Does this with Landlock: it is the thread that is confined.
    fn confined(needs: &[Need<'_>], then: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let confined = scope.spawn(|| {
                prctl::set_no_new_privs().unwrap();
                restrict(needs).unwrap();
                then();
            });
            confined.join().unwrap();
        });
    }

    fn denied<T>(result: io::Result<T>) {
        assert_eq!(result.err().unwrap().kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn nothing_but_the_directories_is_reached_and_only_as_was_said() {
        if !has_landlock(1) {
            return;
        }
        let place = Place::short();
        for directory in ["read", "change", "remove", "other"] {
            fs::create_dir_all(place.0.join(directory)).unwrap();
            fs::write(place.0.join(directory).join("file"), "content").unwrap();
        }
        let open = |directory| File::open(place.0.join(directory)).unwrap();
        let directories = [open("read"), open("change"), open("remove")];
        let access = [Access::Read, Access::Change, Access::Remove];
        let needs = directories.iter().zip(access);
        let needs: Vec<_> = needs
            .map(|(directory, access)| Need::Directory(directory.as_fd(), access))
            .collect();
        confined(&needs, || {
            let file = |directory: &str| place.0.join(directory).join("file");
            let new = |directory: &str| place.0.join(directory).join("new");
            for directory in ["read", "change", "remove", "other"] {
                let read = fs::read(file(directory)).map(drop);
                let write = File::options().append(true).open(file(directory)).map(drop);
                let make = File::create(new(directory)).map(drop);
                let replace = fs::write(new(directory), "more");
                let rename = fs::rename(new(directory), file(directory));
                let remove = fs::remove_file(file(directory));
                let results = [read, write, make, replace, rename, remove];
                let allowed = match directory {
                    "read" => [true, false, false, false, false, false],
                    "change" => [true; 6],
                    "remove" => [false, false, false, false, false, true],
                    _ => [false; 6],
                };
                for (number, (result, allowed)) in results.into_iter().zip(allowed).enumerate() {
                    // There is nothing to rename where nothing could be made.
                    let missing = number == 4 && directory == "remove";
                    match result {
                        Err(error) if missing => assert_eq!(error.kind(), ErrorKind::NotFound),
                        result if allowed => result.unwrap(),
                        result => {
                            let kind = result.unwrap_err().kind();
                            let refusals = [ErrorKind::PermissionDenied, ErrorKind::NotFound];
                            assert!(refusals.contains(&kind), "{directory} {number}: {kind}");
                        }
                    }
                }
            }
            denied(fs::read("/etc/passwd"));
        });
    }

    #[test]
    fn only_the_port_that_is_needed_is_connected_to() {
        if !has_landlock(landlock::NETWORKS) {
            return;
        }
        let [needed, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [needed, other] = [needed, other].map(|listener| {
            let address = listener.local_addr().unwrap();
            (listener, address)
        });
        confined(&[Need::Tcp(needed.1.port())], || {
            TcpStream::connect(needed.1).unwrap();
            denied(TcpStream::connect(other.1));
            denied(TcpListener::bind("127.0.0.1:0"));
        });
        confined(&[], || denied(TcpStream::connect(needed.1)));
    }

    #[test]
    fn counters_can_be_read_and_no_other_file() {
        if !has_landlock(1) {
            return;
        }
        confined(&[Need::Counters], || {
            for file in ["/proc/self/stat", "/proc/net/dev", "/sys/class/net/lo/mtu"] {
                fs::read(file).unwrap();
            }
            denied(fs::read("/etc/passwd"));
            denied(File::options().write(true).open("/proc/self/comm"));
        });
    }

    #[test]
    fn who_looks_up_names_can_read_all_and_change_nothing() {
        if !has_landlock(1) {
            return;
        }
        let place = Place::short();
        let file = place.0.join("file");
        fs::write(&file, "content").unwrap();
        confined(&[Need::Names], || {
            fs::read(&file).unwrap();
            fs::read_dir(&place.0).unwrap();
            denied(File::options().append(true).open(&file));
            denied(fs::write(place.0.join("new"), "content"));
            denied(fs::remove_file(&file));
            denied(Command::new("/bin/true").status());
        });
    }

    #[test]
    fn who_runs_programs_and_they_can_change_nothing_and_reach_no_network() {
        if !has_landlock(landlock::NETWORKS) {
            return;
        }
        let place = Place::short();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        confined(&[Need::Programs], || {
            let script = format!(
                "echo x >/dev/null && ! echo x >{}",
                place.0.join("new").display()
            );
            let mut shell = Command::new("sh");
            let shell = shell
                .args(["-c", &script])
                .stdin(Stdio::null())
                .stderr(Stdio::null());
            assert!(shell.status().unwrap().success());
            denied(fs::write(place.0.join("new"), "content"));
            denied(TcpStream::connect(address));
            denied(TcpListener::bind("127.0.0.1:0"));
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        });
    }

    #[test]
    fn only_local_sockets_in_their_directory_are_connected_to() {
        if !has_landlock(landlock::LOCAL_SOCKETS) {
            return;
        }
        let place = Place::short();
        fs::create_dir(place.0.join(socket::DIRECTORY)).unwrap();
        let inside = socket::path(&place.0, socket::SUPERVISOR);
        let outside = place.0.join("outside.sock");
        let _listeners = [&inside, &outside].map(|path| UnixListener::bind(path).unwrap());
        let sockets = Directory::open(&place.0);
        confined(&[sockets.need()], || {
            UnixStream::connect(&inside).unwrap();
            denied(UnixStream::connect(&outside));
        });
    }

    /// The parts that [`a_probe`] plays.
    const PART: &str = "PETREL_SANDBOX_PART";

    /// How a process ends that is confined as one that serves a connection is, and then does this.
    fn probed(part: &str, directory: &Path) -> ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::os::tests::a_probe", "--nocapture"])
            .env(PART, part)
            .env("TMPDIR", directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    }

    /// What is done in a sandbox; no test by itself.
    #[test]
    fn a_probe() {
        let Some(part) = std::env::var_os(PART) else {
            return;
        };
        let directory = std::env::temp_dir();
        let sockets = Directory::open(&directory);
        let mut file = File::open("/etc/passwd").unwrap();
        let parent = getppid();
        let opened = place(&directory).unwrap();
        let reopen =
            |name| nix::fcntl::openat(&opened, name, OFlag::O_RDONLY, Mode::empty()).is_ok();
        confine(
            &[sockets.need(), Need::Reopen(opened.as_fd())],
            Breach::Kill,
        );
        // What the compiler may not leave out.
        let done = match part.to_str().unwrap() {
            "work" => {
                let mut daemon = sockets
                    .connect(socket::SUPERVISOR, std::time::Duration::from_secs(60))
                    .unwrap();
                daemon.write_all(b"x").unwrap();
                let many = vec![b'x'; 1 << 24];
                let mut text = Vec::new();
                (&mut file).take(1 << 20).read_to_end(&mut text).unwrap();
                let mut random = [0; 8];
                ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
                    .unwrap();
                eprintln!("{} {}", many.len(), text.len());
                true
            }
            "reopen" => reopen("file"),
            "open" => File::open("/etc/passwd").is_err(),
            "make" => File::create(directory.join("new")).is_err(),
            "exec" => Command::new("/bin/true").status().is_err(),
            "tcp" => TcpListener::bind("127.0.0.1:0").is_err(),
            "signal" => kill(parent, Signal::SIGCONT).is_err(),
            "thread" => thread::Builder::new().spawn(|| ()).is_err(),
            _ => false,
        };
        std::process::exit(i32::from(!done));
    }

    #[test]
    fn a_process_that_serves_a_connection_is_killed_by_what_it_has_no_need_of() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        if !status.contains("\nSeccomp:") {
            eprintln!("SKIPPED: this kernel has no seccomp");
            return;
        }
        let place = Place::short();
        fs::create_dir(place.0.join(socket::DIRECTORY)).unwrap();
        let listener = UnixListener::bind(socket::path(&place.0, socket::SUPERVISOR)).unwrap();
        let worked = probed("work", &place.0);
        assert_eq!(worked.code(), Some(0), "{worked}");
        let mut received = String::new();
        let (mut connection, _) = listener.accept().unwrap();
        connection.read_to_string(&mut received).unwrap();
        assert_eq!(received, "x");
        fs::write(place.0.join("file"), "content").unwrap();
        let reopened = probed("reopen", &place.0);
        assert_eq!(reopened.code(), Some(0), "{reopened}");
        let parts = ["open", "make", "exec", "tcp", "signal", "thread"];
        for part in parts {
            let ended = probed(part, &place.0);
            assert_eq!(ended.signal(), Some(libc::SIGSYS), "{part}: {ended}");
        }
        assert!(!place.0.join("new").exists());
    }

    #[test]
    fn a_daemon_is_refused_what_it_has_no_need_of_and_goes_on() {
        thread::scope(|scope| {
            let confined = scope.spawn(|| {
                prctl::set_no_new_privs().unwrap();
                filter::install(&[Need::Accept], Breach::Refuse).unwrap();
                let code = |error: io::Error| error.raw_os_error().unwrap();
                let open = File::open("/etc/passwd").unwrap_err();
                let tcp = TcpStream::connect("127.0.0.1:9").unwrap_err();
                [open, tcp].map(code)
            });
            assert_eq!(confined.join().unwrap(), [libc::ENOSYS; 2]);
        });
    }
}
