//! What is installed: by the script, on Debian, on FreeBSD, on NixOS. (What the Debian package does on a host that runs is in
//! tests/systemd.)

use crate::support;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use support::{Directory, Ended, on_path, run, skipped};

const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

fn source(path: &str) -> PathBuf {
    Path::new(SOURCES).join(path)
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(source(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Runs a script of the sources with the programs of this build.
fn script(path: &str, directory: &Directory, services: &str, arguments: &[&str]) {
    let built = Path::new(env!("CARGO_BIN_EXE_petrel")).parent().unwrap();
    let ended = run(Command::new("sh")
        .arg(source(path))
        .args(arguments)
        .env("DESTDIR", directory.path("root"))
        .env("PREFIX", "/opt/petrel")
        .env("SERVICES", services)
        .env("BUILT", built));
    assert_eq!(ended.code(), 0, "{ended:?}");
}

/// All files below a directory, by their paths in it.
fn files(directory: &Path) -> BTreeSet<String> {
    let ended = run(Command::new("find")
        .args([".", "-type", "f"])
        .current_dir(directory));
    ended
        .stdout
        .lines()
        .map(|line| line[1..].to_owned())
        .collect()
}

#[test]
fn what_is_installed_is_complete_and_uninstalled_again() {
    for (services, directory, below) in [
        ("systemd", "systemd", "lib/systemd/system"),
        ("rc.d", "rc.d", "etc/rc.d"),
    ] {
        let root = Directory::new(&format!("install-{services}"));
        script("contrib/install.sh", &root, services, &[]);
        let found = files(&root.path("root"));
        let mut programs = names("src/bin");
        programs.retain(|name| name != "petrel.rs");
        for program in &programs {
            let program = program.trim_end_matches(".rs");
            assert!(
                found.contains(&format!("/opt/petrel/sbin/{program}")),
                "{program}"
            );
        }
        for page in names("man") {
            let (_, section) = page.rsplit_once('.').unwrap();
            let path = format!("/opt/petrel/share/man/man{section}/{page}");
            assert!(found.contains(&path), "{path}");
        }
        for document in names("doc") {
            let path = format!("/opt/petrel/share/doc/petrel/{document}");
            assert!(found.contains(&path), "{path}");
        }
        // What a page names below the prefix is there, and none names what is in the sources only.
        let mut documents = 0;
        for page in names("man") {
            let text = fs::read_to_string(source("man").join(&page)).unwrap();
            assert!(!text.contains("contrib/"), "{page}");
            for line in text.lines() {
                let file = line.strip_prefix(".Pa share/doc/petrel/");
                if let Some(file) = file.and_then(|file| file.split(' ').next()) {
                    documents += 1;
                    let path = format!("/opt/petrel/share/doc/petrel/{file}");
                    assert!(found.contains(&path), "{page}: {path}");
                }
            }
        }
        assert!(documents > 0);
        for file in names(directory).iter().filter(|name| !name.ends_with(".d")) {
            let path = format!("/opt/petrel/{below}/{file}");
            assert!(found.contains(&path), "{path}");
            let text = fs::read_to_string(root.path("root").join(&path[1..])).unwrap();
            for elsewhere in ["=/usr/sbin/petrel", "=/usr/local/sbin/petrel"] {
                assert!(!text.contains(elsewhere), "{path}: {elsewhere}");
            }
        }
        script("contrib/install.sh", &root, services, &["uninstall"]);
        assert_eq!(files(&root.path("root")), BTreeSet::new());
    }
}

/// The root of a Debian system that does not run, and in which nothing is installed; and programs of systemd that only say
/// what they are to do.
struct DebianRoot {
    directory: Directory,
    package: PathBuf,
}

impl DebianRoot {
    /// With the package of this version, whose programs are empty.
    fn new() -> Self {
        let directory = Directory::new("debian");
        for path in ["built", "bin", "root/var/lib/dpkg/info"] {
            fs::create_dir_all(directory.path(path)).unwrap();
        }
        directory.file("root/var/lib/dpkg/status", "");
        let executable = |path: &str, text: &str| {
            let file = directory.file(path, text);
            fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
        };
        for program in names("src/bin") {
            executable(&format!("built/{}", program.trim_end_matches(".rs")), "");
        }
        for program in ["systemd-sysusers", "systemd-tmpfiles", "systemctl"] {
            let text = "#!/bin/sh\necho \"does ${0##*/} $*\"\n";
            executable(&format!("bin/{program}"), text);
        }
        let made = run(Command::new("sh")
            .arg(source("contrib/debian/package.sh"))
            .arg(directory.path("made"))
            .env("BUILT", directory.path("built")));
        assert_eq!(made.code(), 0, "{made:?}");
        let mut packages = fs::read_dir(directory.path("made")).unwrap();
        let package = packages.next().unwrap().unwrap().path();
        Self { directory, package }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path("root").join(path)
    }

    /// Does this with the package by dpkg; what its scripts say.
    fn dpkg(&self, what: &[&str]) -> Vec<String> {
        // Who is not root is it in a namespace: of files nobody else can have.
        let mut command = if geteuid().is_root() {
            Command::new("dpkg")
        } else {
            let mut unshare = Command::new("unshare");
            unshare.args(["--map-root-user", "dpkg"]);
            unshare
        };
        let path = std::env::var("PATH").unwrap();
        let own = self.directory.path("bin");
        let ended = run(command
            .arg("--root")
            .arg(self.directory.path("root"))
            .args(["--force-script-chrootless", "--force-depends"])
            .args(what)
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", own.display())));
        assert_eq!(ended.code(), 0, "{what:?}: {ended:?}");
        let root = self.directory.path("root");
        let said = ended.stdout.replace(root.to_str().unwrap(), "ROOT");
        let lines = said.lines().map(str::to_owned);
        let own = |line: &String| line.starts_with("does ") || line.starts_with("petrel: ");
        lines.filter(own).collect()
    }

    /// The files of the package, which has no others than these.
    fn installed(&self) -> BTreeSet<String> {
        let mut found = files(&self.directory.path("root"));
        found.retain(|path| path.starts_with("/usr/"));
        found
    }

    fn install(&self) -> Vec<String> {
        self.dpkg(&["--install", self.package.to_str().unwrap()])
    }
}

#[test]
fn the_debian_package_is_installed_upgraded_and_purged_without_a_service_manager() {
    let can = |program: &str, arguments: &[&str]| {
        on_path(program).is_some() && run(Command::new(program).args(arguments)).code() == 0
    };
    let what = "the Debian package in a root of its own";
    if !can("dpkg-query", &["--show", "libc6"]) {
        return skipped(what, "this is no Debian");
    }
    if !geteuid().is_root() && !can("unshare", &["--map-root-user", "true"]) {
        return skipped(what, "it needs root, or namespaces of users");
    }
    let host = DebianRoot::new();
    let makes = [
        "does systemd-sysusers --root=ROOT petrel.conf",
        "does systemd-tmpfiles --root=ROOT --create petrel.conf",
    ];
    assert_eq!(host.install(), makes);
    let found = host.installed();
    for program in names("src/bin") {
        let program = program.trim_end_matches(".rs");
        let directory = if program == "petrel" { "bin" } else { "sbin" };
        assert!(
            found.contains(&format!("/usr/{directory}/{program}")),
            "{program}"
        );
    }
    for unit in names("systemd").iter().filter(|name| !name.ends_with(".d")) {
        let path = format!("/usr/lib/systemd/system/{unit}");
        assert!(found.contains(&path), "{path}");
    }
    assert!(
        found.contains("/usr/share/man/man8/petreld.8.gz"),
        "{found:?}"
    );
    let mode = fs::metadata(host.path("etc/petrel")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);

    // What there is once it has run, and was enabled.
    let wants = "etc/systemd/system/multi-user.target.wants";
    for directory in ["run/petrel/util", "var/lib/petrel", wants] {
        fs::create_dir_all(host.path(directory)).unwrap();
    }
    let kept = ["etc/petrel/ca.key", "var/lib/petrel/state"];
    for file in kept {
        fs::write(host.path(file), "kept").unwrap();
    }
    let links = ["petreld.service", "other.service"].map(|unit| host.path(wants).join(unit));
    for link in &links {
        symlink("/nowhere", link).unwrap();
    }
    assert_eq!(host.install(), makes, "an upgrade");
    assert_eq!(host.dpkg(&["--remove", "petrel"]), [""; 0]);
    assert_eq!(host.installed(), BTreeSet::new());
    assert!(host.path("run/petrel").exists());
    assert!(links.iter().all(|link| link.is_symlink()));
    assert_eq!(
        host.dpkg(&["--purge", "petrel"]),
        ["etc/petrel", "var/lib/petrel"].map(|directory| format!(
            "petrel: ROOT/{directory} is not empty, and kept: remove it yourself"
        ))
    );
    assert!(!host.path("run/petrel").exists());
    assert_eq!(links.map(|link| link.is_symlink()), [false, true]);

    // Without anything in them these go as well.
    for file in kept {
        assert_eq!(fs::read(host.path(file)).unwrap(), b"kept");
        fs::remove_file(host.path(file)).unwrap();
    }
    assert_eq!(host.install(), makes);
    assert_eq!(host.dpkg(&["--purge", "petrel"]), [""; 0]);
    for directory in ["etc/petrel", "var/lib/petrel"] {
        assert!(!host.path(directory).exists(), "{directory}");
    }
}

/// A host of FreeBSD, as far as an rc.d script sees it: rc.subr(8) that only says what it would run, and service(8).
struct RcHost {
    directory: Directory,
    settings: String,
}

impl RcHost {
    /// Of rc.subr(8) what the scripts use, each as there: force_depend knows scripts of the system only, and what is
    /// required must exist.
    const RC_SUBR: &str = r#"
load_rc_config() { eval "$SETTINGS"; }
force_depend() { "$ROOT/etc/rc.d/$1" forcestart; }
install() { :; }
service() { "$ROOT/usr/sbin/service" "$@"; }
wait_for_pids() { echo "waits $*"; }
run_rc_command() {
    for phase in pre post; do
        eval "command_of_phase=\${${1}_${phase}cmd:-}"
        if [ $phase = pre ] && [ "$1" = start ]; then
            for file in $required_files; do
                [ -r "$ROOT$file" ] || { echo "$file is not readable"; return 1; }
            done
        fi
        [ -z "$command_of_phase" ] || "$command_of_phase" || return 1
        eval "flags=\$${name}_flags"
        [ $phase = post ] || echo "${1}s $command $flags $command_args"
    done
}
"#;

    /// Knows scripts of the system and of ports, and whether what they start was started.
    const SERVICE: &str = r#"#!/bin/sh
[ -x "$ROOT/etc/rc.d/$1" ] || [ -x "$ROOT/usr/local/etc/rc.d/$1" ] || { echo "no $1"; exit 1; }
case $2 in
    onestatus) [ -e "$ROOT/var/run/$1.pid" ] ;;
    onestart) echo "needs $1"; : >"$ROOT/var/run/$1.pid" ;;
    *) exit 1 ;;
esac
"#;

    /// One with all programs, but no certificates, where the administrator has set something.
    fn new(test: &str, settings: &str) -> Self {
        let directory = Directory::new(&format!("rc-{test}"));
        for path in ["usr/sbin", "etc/rc.d", "usr/local/etc/rc.d", "var/run"] {
            fs::create_dir_all(directory.path(path)).unwrap();
        }
        fs::create_dir_all(directory.path("usr/local/sbin")).unwrap();
        directory.file("etc/rc.subr", Self::RC_SUBR);
        let service = directory.file("usr/sbin/service", Self::SERVICE);
        fs::set_permissions(service, Permissions::from_mode(0o755)).unwrap();
        for name in names("rc.d") {
            let text = fs::read_to_string(source("rc.d").join(&name)).unwrap();
            let text = text.replace(
                "/etc/rc.subr",
                directory.path("etc/rc.subr").to_str().unwrap(),
            );
            let text = text.replace(
                "/var/run/",
                &format!("{}/", directory.path("var/run").display()),
            );
            let script = directory.file(&format!("usr/local/etc/rc.d/{name}"), text);
            fs::set_permissions(script, Permissions::from_mode(0o755)).unwrap();
            directory.file(&format!("usr/local/sbin/{}", name.replace('_', "-")), "");
        }
        Self {
            directory,
            settings: settings.to_owned(),
        }
    }

    fn run(&self, script: &str, action: &str) -> Ended {
        run(Command::new("sh")
            .arg(self.directory.path(&format!("usr/local/etc/rc.d/{script}")))
            .arg(action)
            .env("ROOT", self.directory.path("."))
            .env("SETTINGS", &self.settings))
    }

    /// daemon(8)'s arguments at the start.
    fn started(&self, script: &str) -> Vec<String> {
        let ended = self.run(script, "start");
        assert_eq!(ended.code(), 0, "{script}: {ended:?}");
        let starts = ended.stdout.lines().last().unwrap();
        let words = starts
            .strip_prefix("starts /usr/sbin/daemon ")
            .expect(starts);
        words.split_whitespace().map(str::to_owned).collect()
    }

    fn with_certificates(self) -> Self {
        fs::create_dir_all(self.directory.path("usr/local/etc/petrel")).unwrap();
        for file in CERTIFICATES {
            self.directory.file(&file[1..], "");
        }
        self
    }
}

const CERTIFICATES: [&str; 3] = [
    "/usr/local/etc/petrel/cacert.pem",
    "/usr/local/etc/petrel/server.pem",
    "/usr/local/etc/petrel/server.key",
];

#[test]
fn rc_scripts_start_what_they_need_where_ports_have_it() {
    for (name, needed) in [
        ("petreld", "petrel_console"),
        ("petrel_stats", "petreld"),
        ("petrel_tls", "petreld"),
        ("petrel_influx", "petrel_stats"),
    ] {
        let host = RcHost::new(&format!("needs-{name}"), "").with_certificates();
        let ended = host.run(name, "start");
        assert_eq!(ended.code(), 0, "{name}: {ended:?}");
        assert!(
            ended.stdout.starts_with(&format!("needs {needed}\n")),
            "{name}: {ended:?}"
        );
        // Which runs now.
        let ended = host.run(name, "start");
        assert!(ended.stdout.starts_with("starts "), "{name}: {ended:?}");
        // It is not started without.
        fs::remove_file(host.directory.path(&format!("usr/local/etc/rc.d/{needed}"))).unwrap();
        let ended = host.run(name, "start");
        assert_eq!(ended.code(), 1, "{name}: {ended:?}");
        assert!(!ended.stdout.contains("starts"), "{name}: {ended:?}");
    }
}

#[test]
fn the_endpoint_is_not_started_by_rc_without_its_certificates() {
    let host = RcHost::new("certificates", "");
    let ended = host.run("petrel_tls", "start");
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert_eq!(
        ended.stdout,
        format!("{} is not readable\n", CERTIFICATES[0])
    );
    let host = host.with_certificates();
    assert!(
        host.started("petrel_tls")
            .ends_with(&CERTIFICATES.map(str::to_owned))
    );
    // Those that the administrator has named are petrel-tls's to look for.
    let host = RcHost::new("own-certificates", "petrel_tls_flags='ca host key'");
    assert!(
        host.started("petrel_tls")
            .ends_with(&["ca", "host", "key"].map(str::to_owned))
    );
}

#[test]
fn a_stop_by_rc_waits_until_the_supervisor_has_ended() {
    let host = RcHost::new("stop", "");
    host.directory.file("var/run/petreld.child.pid", "4711\n");
    let ended = host.run("petreld", "stop");
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(ended.stdout.lines().last(), Some("waits 4711"));
}

#[test]
fn rc_scripts_start_what_there_is_with_options_that_exist() {
    for name in names("rc.d") {
        let program = name.replace('_', "-");
        let host = RcHost::new(&format!("starts-{name}"), "").with_certificates();
        let words = host.started(&name);
        let path = format!("/usr/local/sbin/{program}");
        let place = words.iter().position(|word| *word == path).expect(&path);
        let (daemon, options) = (&words[..place], &words[place + 1..]);
        let user = daemon.iter().position(|word| word == "-u");
        let user = user.map(|place| daemon[place + 1].as_str());
        let expected = match program.as_str() {
            "petreld" => None,
            "petrel-tls" => Some("petrel"),
            other => Some(other),
        };
        assert_eq!(user, expected, "{name}");
        let built = Path::new(env!("CARGO_BIN_EXE_petrel")).with_file_name(&program);
        let help = run(Command::new(built).arg("--help")).stdout;
        for option in options.iter().filter(|word| word.starts_with("--")) {
            let option = option.split('=').next().unwrap();
            assert!(help.contains(option), "{name}: {option}");
        }
        // What an administrator sets is the program's, not daemon(8)'s.
        let settings = format!("{name}_flags='-v --tmpdir=/x'");
        let words = RcHost::new(&format!("flags-{name}"), &settings).started(&name);
        assert_eq!(words.last().unwrap(), "--tmpdir=/x", "{name}");
        let place = words.iter().position(|word| *word == path).unwrap();
        let given = &words[place + 1..];
        // A listener is started again while its connections go on.
        let given = match given.strip_prefix(&["--syslog".to_owned()]) {
            Some(given) if name == "petrel_tls" => given,
            None if name != "petrel_tls" => given,
            _ => panic!("{name}: {given:?}"),
        };
        assert_eq!(given, ["-v", "--tmpdir=/x"], "{name}");
    }
}

#[test]
fn rc_scripts_are_named_and_ordered_as_rcorder_wants() {
    let scripts = names("rc.d");
    assert_eq!(scripts.len(), 5, "{scripts:?}");
    for name in &scripts {
        let text = fs::read_to_string(source("rc.d").join(name)).unwrap();
        assert!(text.contains(&format!("# PROVIDE: {name}\n")), "{name}");
        assert!(text.contains("# KEYWORD: shutdown\n"), "{name}");
        assert!(text.contains(&format!("\nrcvar={name}_enable\n")), "{name}");
        assert!(
            text.contains(&format!(": \"${{{name}_enable:=NO}}\"\n")),
            "{name}"
        );
        assert!(text.contains("\nrequired_files="), "{name}");
        let required = text
            .lines()
            .find(|line| line.starts_with("# REQUIRE: LOGIN"));
        let required = required
            .expect(name)
            .split(' ')
            .filter(|word| word.starts_with("petrel"));
        for required in required {
            assert!(scripts.contains(required), "{name}: {required}");
            assert!(
                text.contains(&format!("service {required} onestart ")),
                "{name}: {required}"
            );
        }
    }
}

#[test]
fn the_freebsd_package_lists_every_file_and_no_other() {
    let directory = Directory::new("freebsd-package");
    let target = directory.path("package");
    script(
        "contrib/freebsd/package.sh",
        &directory,
        "",
        &[target.to_str().unwrap()],
    );
    let list = fs::read_to_string(target.join("plist")).unwrap();
    let list: BTreeSet<_> = list.lines().map(str::to_owned).collect();
    assert_eq!(list, files(&target.join("root")));
    assert!(list.contains("/usr/local/etc/rc.d/petreld"));
    assert!(list.iter().all(|path| path.starts_with("/usr/local/")));
    let manifest = fs::read_to_string(target.join("+MANIFEST")).unwrap();
    assert!(manifest.contains(concat!("version: \"", env!("CARGO_PKG_VERSION"), "\"\n")));
    assert!(!manifest.contains("@PREFIX@"), "{manifest}");
    // An upgrade does not take certificates from who was let at them.
    let directories = manifest.lines().filter_map(|line| {
        let (test, made) = line.split_once(" || install -d ")?;
        let (_, directory) = made.rsplit_once(' ')?;
        assert_eq!(test, format!("[ -d {directory} ]"));
        Some(directory)
    });
    let directories: Vec<_> = directories.collect();
    assert_eq!(directories, ["/var/db/petrel", "/usr/local/etc/petrel"]);
    assert_eq!(manifest.matches("install -d").count(), directories.len());
    // petrel-stats is no root, tenders are.
    assert!(!manifest.contains("see_other_uids=0"), "{manifest}");
}

/// On FreeBSD a socket has the group that may connect, petreld's is the group petrel's, and the directory is that of who makes
/// sockets.
#[test]
fn on_freebsd_only_who_needs_it_can_command_the_supervisor() {
    let manifest = fs::read_to_string(source("contrib/freebsd/MANIFEST.in")).unwrap();
    let members = |group: &str| -> BTreeSet<String> {
        let command = format!("pw groupmod {group} -m ");
        let members = manifest
            .lines()
            .find_map(|line| line.strip_prefix(&command));
        let members = members.into_iter().flat_map(|members| members.split(','));
        members.map(str::to_owned).collect()
    };
    for (group, expected) in [
        ("petrel", &["petrel-stats"][..]),
        ("petrel-sockets", &["petrel-console", "petrel-stats"]),
        ("petrel-console", &["petrel"]),
        ("petrel-stats", &["petrel", "petrel-influx"]),
        ("petrel-influx", &[]),
    ] {
        let expected = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(members(group), expected, "{group}");
        assert!(manifest.contains(&format!(", {group}")) || group == "petrel");
    }
    for name in names("rc.d") {
        let text = fs::read_to_string(source("rc.d").join(&name)).unwrap();
        let made: Vec<_> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("install -d "))
            .collect();
        let expected = [
            "-o root -g wheel -m 755 /var/run/petrel",
            "-o root -g petrel-sockets -m 1775 /var/run/petrel/util",
            "-o root -g petrel-console -m 750 /var/run/petrel/fifo",
        ];
        assert_eq!(made, expected, "{name}");
    }
}

#[test]
fn a_reload_on_nixos_executes_the_new_program() {
    let module = fs::read_to_string(source("contrib/nixos/petrel.nix")).unwrap();
    assert!(module.contains("reloadTriggers = [ cfg.package ];"));
    let (_, sed) = module.split_once("      sed ").unwrap();
    let (sed, _) = sed.split_once("$unit").unwrap();
    let sed = sed
        .replace("\\\n", " ")
        .replace("${pkgs.util-linux}", "/nix/store/util-linux");
    // The units of the package that the module wants: installed below a prefix of its own.
    assert!(module.contains("contrib/install.sh with PREFIX=$out"));
    let package = Directory::new("nixos");
    script("contrib/install.sh", &package, "systemd", &[]);
    for (unit, line) in [
        (
            "petreld.service",
            "ExecStart=/run/current-system/sw/sbin/petreld ",
        ),
        (
            "petreld.service",
            "ExecReload=/nix/store/util-linux/bin/kill ",
        ),
        (
            "petrel-console.service",
            "ExecStart=/opt/petrel/sbin/petrel-console ",
        ),
    ] {
        let unit = package
            .path("root/opt/petrel/lib/systemd/system")
            .join(unit);
        let ended = run(Command::new("sh")
            .args(["-c", &format!("sed {sed} \"$0\"")])
            .arg(&unit));
        assert_eq!(ended.code(), 0, "{ended:?}");
        let begins = format!("\n{line}");
        assert!(ended.stdout.contains(&begins), "{line}: {}", ended.stdout);
    }
}

#[test]
fn the_nixos_module_is_one_that_nix_can_read() {
    let Some(nix) = on_path("nix-instantiate") else {
        return skipped("the NixOS module", "no nix-instantiate on PATH");
    };
    let ended = run(Command::new(nix)
        .arg("--parse")
        .arg(source("contrib/nixos/petrel.nix"))
        .env("NIX_STATE_DIR", env!("CARGO_TARGET_TMPDIR")));
    assert_eq!(ended.code(), 0, "{ended:?}");
}

/// Runs a script with a cargo and a rustc of this release in front of the others.
fn with_rust(directory: &Directory, release: &str, script: &str) -> Ended {
    for program in ["cargo", "rustc"] {
        let file = directory.file(program, format!("#!/bin/sh\necho '{program} {release}'\n"));
        fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    run(Command::new("sh")
        .args(["-c", script])
        .current_dir(SOURCES)
        .env("PATH", format!("{}:{path}", directory.path("").display())))
}

#[test]
fn a_rust_that_is_too_old_is_named_before_anything_is_built() {
    let directory = Directory::new("rust");
    for script in ["quickstart", "check", "bench"] {
        let path = format!("sh contrib/{script}.sh");
        // Those of Debian 12 and 13, and one that is none.
        for (release, found) in [
            ("1.65.0 (4bc8f24d3 2022-10-20)", "is 1.65"),
            ("1.85.1 (d73d2caf9 2024-12-31)", "is 1.85"),
            ("unknown", "does not run"),
        ] {
            let ended = with_rust(&directory, release, &path);
            assert_eq!(ended.code(), 1, "{ended:?}");
            for part in [&format!("{script}: cargo {found}"), "rustup"] {
                let told = ended.stderr.lines().any(|line| line.contains(part));
                assert!(told, "{part}: {ended:?}");
            }
        }
    }
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    for (release, code) in [(wanted, 0), ("1.100.0", 0), ("2.0.0", 0), ("1.9.0", 1)] {
        let script = "fail() { exit 1; }; . contrib/lib.sh; need_rust";
        let ended = with_rust(&directory, release, script);
        assert_eq!(ended.code(), code, "{release}: {ended:?}");
    }
}

#[test]
fn a_device_that_is_missing_is_not_made_by_looking_at_it() {
    let directory = Directory::new("device");
    let missing = directory.path("kvm");
    let can_open = |path: &Path| {
        let mut shell = Command::new("sh");
        shell.args(["-c", ". contrib/lib.sh; can_open \"$1\"", "sh"]);
        run(shell.arg(path).current_dir(SOURCES)).code() == 0
    };
    assert!(!can_open(&missing));
    assert!(!missing.exists());
    assert!(can_open(&directory.file("tun", "")));
    // No other script opens a file that way.
    for script in ["check.sh", "quickstart.sh", "bench.sh", "fuzz.sh"] {
        let text = fs::read_to_string(source("contrib").join(script)).unwrap();
        assert!(!text.contains("<>"), "{script}");
    }
}
