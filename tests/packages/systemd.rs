//! At home under systemd: the units that are shipped, what daemons tell the service manager, and its listener.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host};

use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use host::{Host, Setup, eventually};
use nix::sys::signal::Signal;
use petrel::name::Name;
use petrel::policy::Policy;
use petrel::unikernel::{Config, FailBehaviour, Kind};
use petrel::wire::state::albatross;
use support::{DEADLINE, Directory, Running, guest, on_path, run, skipped};

/// The directory of the sources.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

/// Most exposure, in tenths, of a unit of an unprivileged user and of petreld.
const UNPRIVILEGED: &str = "20";
const SUPERVISOR: &str = "45";

fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_petrel")).parent().unwrap()
}

/// A directory in which everything is installed as packages have it.
fn installed(test: &str, prefix: &str) -> Directory {
    let directory = Directory::new(test);
    let script = Path::new(SOURCES).join("contrib/install.sh");
    let ended = run(Command::new("sh")
        .arg(script)
        .env("DESTDIR", directory.path("."))
        .env("PREFIX", prefix)
        .env("SERVICES", "systemd")
        .env("BUILT", built()));
    assert_eq!(ended.code(), 0, "{ended:?}");
    directory
}

/// The units that are shipped; of templates an instance.
fn units() -> Vec<String> {
    let entries = fs::read_dir(Path::new(SOURCES).join("systemd")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut units: Vec<_> = names.filter(|name| name.starts_with("petrel")).collect();
    units.sort();
    assert!(units.len() > 8, "{units:?}");
    units
}

/// The units that come with this program of systemd, which is installed, or only unpacked by contrib/debian.sh.
fn units_beside(program: &Path) -> Option<PathBuf> {
    let unpacked = program.parent()?.parent()?.join("root");
    let mut roots = [unpacked.as_path(), Path::new("/")].into_iter();
    roots.find_map(|root| {
        let directories = ["usr/lib/systemd/system", "lib/systemd/system"];
        let mut directories = directories
            .map(|directory| root.join(directory))
            .into_iter();
        directories.find(|directory| directory.join("basic.target").exists())
    })
}

#[test]
fn the_units_are_those_that_systemd_understands() {
    let Some(analyze) = on_path("systemd-analyze") else {
        return skipped("systemd-analyze verify", "no systemd-analyze on PATH");
    };
    let Some(known) = units_beside(&analyze) else {
        return skipped("systemd-analyze verify", "no units of systemd's own");
    };
    let root = installed("verify", "/usr");
    let directory = root.path("usr/lib/systemd/system");
    // What they refer to, and what a unit calls that is not ours.
    let copied = run(Command::new("cp")
        .arg("-a")
        .arg(known.join("."))
        .arg(&directory));
    assert_eq!(copied.code(), 0, "{copied:?}");
    fs::create_dir_all(root.path("bin")).unwrap();
    let kill = root.file("bin/kill", "");
    fs::set_permissions(kill, Permissions::from_mode(0o755)).unwrap();
    let ended = run(Command::new(analyze)
        .args(["verify", "--man=no", "--root"])
        .arg(root.path("."))
        .args(units().iter().map(|unit| directory.join(unit))));
    assert_eq!(ended.code(), 0, "{ended:?}");
    // A key of systemd 254 that earlier ones leave out, see the unit.
    let complaints = ended.stderr.lines().filter(|line| {
        line.contains("petrel")
            && !line.ends_with("'DelegateSubgroup' in section [Service], ignoring.")
    });
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_exposure_of_every_unit_is_bounded() {
    let Some(analyze) = on_path("systemd-analyze") else {
        return skipped("systemd-analyze security", "no systemd-analyze on PATH");
    };
    for unit in units().iter().filter(|unit| unit.ends_with(".service")) {
        let threshold = if unit == "petreld.service" {
            SUPERVISOR
        } else {
            UNPRIVILEGED
        };
        let ended = run(Command::new(&analyze)
            .args([
                "security",
                "--offline=yes",
                "--no-pager",
                "--threshold",
                threshold,
            ])
            .arg(Path::new(SOURCES).join("systemd").join(unit)));
        assert_eq!(ended.code(), 0, "{unit}: {ended:?}");
        assert!(
            ended.stdout.contains("Overall exposure level"),
            "{unit}: {ended:?}"
        );
    }
}

/// What a service manager is told.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(host: &Host) -> Self {
        let path = host.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, path }
    }

    /// Starts a daemon that is to be heard of every so many microseconds.
    fn start(&self, command: &mut Command, patience: Option<&str>) -> Running {
        command.env("NOTIFY_SOCKET", &self.path);
        if let Some(patience) = patience {
            command.env("WATCHDOG_USEC", patience);
        }
        Running::start(command)
    }

    fn told(&self) -> String {
        let mut bytes = [0; 256];
        let count = self.socket.recv(&mut bytes).expect("nothing was told");
        String::from_utf8(bytes[..count].into()).unwrap()
    }

    /// The next thing that is not that it goes on.
    fn told_else(&self) -> String {
        loop {
            let told = self.told();
            if told != "WATCHDOG=1\n" {
                return told;
            }
        }
    }
}

#[test]
fn daemons_tell_the_service_manager_that_they_are_ready_go_on_and_end() {
    let host = Host::prepared(Setup::default());
    let manager = Manager::new(&host);
    for (program, options) in [
        ("petrel-console", &["--tmpdir", "run"][..]),
        ("petreld", &["--tmpdir", "run", "--dbdir", "db"]),
        ("petrel-stats", &["--tmpdir", "run"]),
        (
            "petrel-influx",
            &["--tmpdir", "run", "--influx", "127.0.0.1:1"],
        ),
    ] {
        let mut command = host.command(program);
        let daemon = manager.start(command.args(options), Some("100000"));
        assert_eq!(manager.told(), "READY=1\n", "{program}");
        // Without anything else that happens.
        for _ in 0..3 {
            assert_eq!(manager.told(), "WATCHDOG=1\n", "{program}");
        }
        daemon.signal(Signal::SIGTERM);
        assert_eq!(manager.told_else(), "STOPPING=1\n", "{program}");
        assert_eq!(daemon.end().code(), 0, "{program}");

        let daemon = manager.start(host.command(program).args(options), None);
        while manager.told_else() != "READY=1\n" {}
        daemon.signal(Signal::SIGTERM);
        assert_eq!(
            manager.told(),
            "STOPPING=1\n",
            "{program}: nobody wants to know"
        );
        assert_eq!(daemon.end().code(), 0, "{program}");
    }
}

#[test]
fn a_reload_begins_and_ends_for_the_service_manager_in_one_process() {
    let host = Host::prepared(Setup::default());
    let manager = Manager::new(&host);
    let mut command = host.command("petreld");
    let daemon = manager.start(command.args(["--tmpdir", "run", "--dbdir", "db"]), None);
    assert_eq!(manager.told(), "READY=1\n");
    for _ in 0..2 {
        daemon.signal(Signal::SIGHUP);
        let told = manager.told();
        let since = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let since: u64 = since.expect(&told).trim_end().parse().unwrap();
        assert!(since > 0);
        assert_eq!(manager.told(), "READY=1\n");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.told(), "STOPPING=1\n");
    assert_eq!(daemon.end().code(), 0);
}

#[test]
fn systemd_socket_activate_can_be_the_listener() {
    let Some(program) = on_path("systemd-socket-activate") else {
        return skipped(
            "petrel-tls under systemd-socket-activate",
            "it is not on PATH",
        );
    };
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host.start_supervisor();
    // With the connection as standard input, and as descriptor 3.
    for inetd in [&["--inetd"][..], &[]] {
        let endpoint = host.endpoint_command("host");
        // It has no way to say which free port it took.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        host.address = address.to_string();
        let mut command = Command::new(&program);
        command
            .args(["--accept", "--listen", &host.address])
            .args(inetd)
            .arg(endpoint.get_program())
            .args(endpoint.get_args());
        let _listener = Running::start(&mut command);
        eventually("it listens", || TcpStream::connect(address).is_ok());
        let image = guest("forever.spt");
        let create = host.tenant(&["create", "hello", image.to_str().unwrap()]);
        host.expect(&create, 0, &["success: created unikernel"]);
        let destroy = host.tenant(&["destroy", "hello"]);
        host.expect(&destroy, 0, &["success: destroyed unikernel"]);
    }
}

/// A state file of albatross: a unikernel that runs, and the policy of its path.
fn albatross_state() -> Vec<u8> {
    let config = Config {
        kind: Kind::Solo5,
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpus: [0].into(),
        memory: 32,
        blocks: Vec::new(),
        nets: Vec::new(),
        arguments: Vec::new(),
        vcpus: 1,
        linux_boot_partition: None,
    };
    let policy = Policy {
        unikernels: 10,
        cpus: [0].into(),
        memory: 640,
        block: None,
        bridges: [].into(),
    };
    let name: Name = "a:good".parse().unwrap();
    let path = name.path().clone();
    let image = fs::read(guest("forever.spt")).unwrap();
    let unikernels = [(name, config.to_wire(false, image))];
    let state = albatross::State::new(unikernels, [(path, (&policy).into())]);
    state.unwrap().encode().unwrap()
}

#[test]
fn a_host_runs_on_the_units_as_they_are() {
    let what = "the units under a real systemd";
    if on_path("unshare").is_none() {
        return skipped(what, "no unshare on PATH");
    }
    let guests = guest("net.spt");
    let directory = Directory::new("boot");
    let state = directory.file("state", albatross_state());
    // It bounds itself, and clears away.
    let ended = Command::new("sh")
        .arg(Path::new(SOURCES).join("tests/systemd/boot.sh"))
        .arg(built())
        .arg(guests.parent().unwrap())
        .arg(state)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match ended.status.code() {
        Some(0) => {}
        Some(69) => skipped(what, text(&ended.stderr).trim()),
        _ => panic!("{}\n{}", text(&ended.stdout), text(&ended.stderr)),
    }
}
