//! What is installed: by the script, on FreeBSD, on NixOS. (The Debian package is installed in tests/systemd.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Folder, on_path, run, skipped};

const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

fn source(path: &str) -> PathBuf {
    Path::new(SOURCES).join(path)
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(source(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Runs a script of the sources with the programs of this build.
fn script(path: &str, folder: &Folder, services: &str, arguments: &[&str]) {
    let built = Path::new(env!("CARGO_BIN_EXE_petrel")).parent().unwrap();
    let ended = run(Command::new("sh")
        .arg(source(path))
        .args(arguments)
        .env("DESTDIR", folder.path("root"))
        .env("PREFIX", "/opt/petrel")
        .env("SERVICES", services)
        .env("BUILT", built));
    assert_eq!(ended.code(), 0, "{ended:?}");
}

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeSet<String> {
    let ended = run(Command::new("find")
        .args([".", "-type", "f"])
        .current_dir(folder));
    ended
        .stdout
        .lines()
        .map(|line| line[1..].to_owned())
        .collect()
}

#[test]
fn what_is_installed_is_complete_and_uninstalled_again() {
    for (services, folder, below) in [
        ("systemd", "systemd", "lib/systemd/system"),
        ("rc.d", "rc.d", "etc/rc.d"),
    ] {
        let root = Folder::new(&format!("install-{services}"));
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
        for file in names(folder).iter().filter(|name| !name.ends_with(".d")) {
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

/// What an rc.d script runs: daemon(8)'s arguments, where rc.subr(8) is one that only says so.
fn started(name: &str, settings: &str) -> Vec<String> {
    const RC_SUBR: &str = "\
load_rc_config() { eval \"$SETTINGS\"; }
force_depend() { echo \"depends $1\"; }
install() { echo \"install $*\"; }
run_rc_command() {
    \"$start_precmd\" || return 1
    eval \"flags=\\$${name}_flags\"
    echo \"runs $command $flags $command_args\"
}
";
    let folder = Folder::new(&format!("rc-{name}-{}", settings.len()));
    let subr = folder.file("rc.subr", RC_SUBR);
    let text = fs::read_to_string(source("rc.d").join(name)).unwrap();
    let text = text.replace("/etc/rc.subr", subr.to_str().unwrap());
    let script = folder.file(name, text);
    let ended = run(Command::new("sh")
        .arg(script)
        .arg("start")
        .env("SETTINGS", settings));
    assert_eq!(ended.code(), 0, "{name}: {ended:?}");
    let runs = ended.stdout.lines().last().unwrap();
    let runs = runs.strip_prefix("runs /usr/sbin/daemon ").expect(runs);
    runs.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn rc_scripts_start_what_there_is_with_options_that_exist() {
    for name in names("rc.d") {
        let program = name.replace('_', "-");
        let words = started(&name, "");
        let path = format!("/usr/local/sbin/{program}");
        let place = words.iter().position(|word| *word == path).expect(&path);
        let (daemon, options) = (&words[..place], &words[place + 1..]);
        let user = daemon.iter().position(|word| word == "-u");
        let user = user.map(|place| daemon[place + 1].as_str());
        let expected = match program.as_str() {
            "petreld" => None,
            "petrel-tls" => Some("petrel"),
            "petrel-influx" => Some("petrel-stats"),
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
        let words = started(&name, &format!("{name}_flags='-v --tmpdir=/x'"));
        assert_eq!(words.last().unwrap(), "--tmpdir=/x", "{name}");
        let place = words.iter().position(|word| *word == path).unwrap();
        assert_eq!(&words[place + 1..], ["-v", "--tmpdir=/x"], "{name}");
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
                text.contains(&format!("force_depend {required} ")),
                "{name}: {required}"
            );
        }
    }
}

#[test]
fn the_freebsd_package_lists_every_file_and_no_other() {
    let folder = Folder::new("freebsd-package");
    let target = folder.path("package");
    script(
        "contrib/freebsd/package.sh",
        &folder,
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
    assert!(
        !manifest.contains('@') || !manifest.contains("@PREFIX@"),
        "{manifest}"
    );
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
