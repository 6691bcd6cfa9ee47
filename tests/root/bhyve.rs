//! BHyve machines from end to end. Programs that stand in for those of FreeBSD are on PATH, and this test's own program
//! plays a `petreld` that has machines; everything else is the real thing. What really runs on Linux refuses.
#![cfg(target_os = "linux")]

use crate::support::{self, host, network};

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use petrel::host::{System, main_on};

use host::{Daemon, Host, Setup, eventually};
use network::Network;
use support::{Ended, run};

/// Set in the process that plays `petreld`: the directory that stands for /dev/vmm.
const PLAYED: &str = "PETREL_TEST_MACHINES";

/// `petreld` on a system that has machines.
#[test]
fn petreld_is_played_for_the_other_tests() {
    let Some(machines) = env::var_os(PLAYED) else {
        return;
    };
    let directory = env::current_dir().unwrap().join("db");
    let system = System {
        machines: Ok(machines.into()),
    };
    let arguments = [
        "-v",
        "--tmpdir",
        "run",
        "--dbdir",
        directory.to_str().unwrap(),
    ];
    let check = env::var_os("CHECK").map(|_| "--check");
    let arguments: Vec<_> = arguments.into_iter().chain(check).collect();
    std::process::exit(main_on(system, &arguments));
}

/// What all of the programs begin with: they tell what they were called with. `last` is the name of the machine.
const SAY: &str = r#"#!/bin/sh
cd DIRECTORY
echo "${0##*/} $*" >> said
for last; do :; done
"#;

/// Loads the machine, unless it is to fail or to hang. That of Linux needs to know of a terminal, and no more.
const LOADER: &str = r#"
[ "$(env | grep -v -e ^PWD= -e ^OLDPWD= -e ^SHLVL= -e ^_=)" = TERM=vt100 ] || exit 1
case $1 in -m/*) cat "${1#-m}" >> said;; esac
echo "loading"
: > "vmm/$last"
if [ -e hang ]; then echo hangs >> said; exec sleep 100; fi
if [ -e fail ]; then exit 3; fi
"#;

/// The guest powers off when it is asked to (SIGTERM), and by itself (SIGUSR2), and reboots (SIGUSR1). What it waits with
/// has inherited the disk, so it goes first. Its input can be waited for, and there is none.
const BHYVE: &str = r#"
[ -p /dev/stdin ] || exit 4
timeout 0.1 head -c1; [ $? = 124 ] || exit 4
[ -e "vmm/$last" ] || exit 4
sleep 100 &
trap 'kill $!; wait $!; exit 1' TERM USR2
trap 'kill $!; wait $!; exit 0' USR1
echo "booted"
wait
"#;

const BHYVECTL: &str = r#"
rm "vmm/${2#--vm=}"
"#;

/// A host that has machines, with a block device of 1 MB for one.
fn started() -> Host {
    let mut host = Host::prepared(Setup::default());
    fs::create_dir(host.path("vmm")).unwrap();
    fs::create_dir(host.path("programs")).unwrap();
    for (name, script) in [
        ("bhyve", BHYVE),
        ("bhyveload", LOADER),
        ("grub-bhyve", LOADER),
        ("bhyvectl", BHYVECTL),
    ] {
        let say = SAY.replace("DIRECTORY", host.path(".").to_str().unwrap());
        let path = host.file(&format!("programs/{name}"), say + script);
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    host.file("said", "");
    host.file("nothing", "");
    host.start_console();
    start(&mut host);
    host.expect(&host.petrel(&["create-block", "a:0", "1"]), 0, &["success"]);
    host
}

fn supervisor(host: &Host) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let test = "bhyve::petreld_is_played_for_the_other_tests";
    let path = host.path("programs").into_os_string();
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .current_dir(host.path("."))
        .env(PLAYED, host.path("vmm"))
        .env("PATH", path)
        .env_remove("JOURNAL_STREAM");
    command
}

fn start(host: &mut Host) {
    host.supervisor = Some(Daemon::start(&mut supervisor(host), "listening"));
}

/// Asks for a machine that boots from the block device.
fn create(host: &Host, more: &[&str]) -> Ended {
    let create = ["create", "a:vm", "nothing", "--typ=bhyve", "--block=0"];
    host.petrel(&[&create, more].concat())
}

/// What the programs were called with since this was asked last.
fn said(host: &Host) -> Vec<String> {
    let said = fs::read_to_string(host.path("said")).unwrap();
    host.file("said", "");
    said.lines().map(str::to_owned).collect()
}

/// Waits until so much has been said.
fn says(host: &Host, lines: usize) -> Vec<String> {
    let count = || {
        fs::read_to_string(host.path("said"))
            .unwrap()
            .lines()
            .count()
    };
    eventually("the programs are called", || count() >= lines);
    said(host)
}

fn machines(host: &Host) -> Vec<String> {
    let mut names: Vec<_> = host.names("vmm").into_iter().collect();
    names.sort();
    names
}

/// The name of the only machine.
fn machine(host: &Host) -> String {
    let names = machines(host);
    assert_eq!(names.len(), 1, "{names:?}");
    names.into_iter().next().unwrap()
}

fn tender(host: &Host) -> Pid {
    Pid::from_raw(host.tender_of("a:vm").unwrap())
}

/// Waits until another process runs the machine, and is far enough to be told something.
fn runs_anew(host: &Host, before: Pid, boots: usize) {
    eventually("it runs anew", || {
        host.tender_of("a:vm")
            .is_some_and(|pid| pid != before.as_raw())
            && boot_count(host) >= boots
    });
}

fn boot_count(host: &Host) -> usize {
    let console = host.petrel(&["console", "a:vm", "--no-follow", "--count=100"]);
    console.stdout.matches("booted").count()
}

fn is_idle(host: &Host) {
    eventually("no machine is left", || machines(host).is_empty());
    assert!(host.names("run/run").is_empty());
    assert!(host.names("run/fifo").is_empty());
    let maps = host.path("run/boot");
    assert!(!maps.exists() || fs::read_dir(maps).unwrap().next().is_none());
}

#[test]
fn a_machine_is_loaded_and_run_and_in_the_end_destroyed() {
    let host = started();
    let created = create(&host, &["--mem=64", "--cpus=2", "--restart"]);
    host.expect(&created, 0, &["created unikernel"]);
    let vm = machine(&host);
    let disk = host.path("db/block/a:0");
    let disk = disk.display();
    let load = format!("bhyveload -m64m -d{disk} {vm}");
    let runs = format!(
        "bhyve -A -H -P -s0,hostbridge -s1,lpc -s2,virtio-blk,{disk} -lcom1,stdio -c2 -m64M {vm}"
    );
    let destroys = format!("bhyvectl --destroy --vm={vm}");
    assert_eq!(says(&host, 2), [load.as_str(), &runs]);
    let info = host.petrel(&["info"]);
    host.expect(
        &info,
        0,
        &["typ bhyve", &format!("VM name {vm}"), "#cpus 2"],
    );
    host.expect(&host.petrel(&["block"]), 0, &["active true"]);
    host.expect(&host.petrel(&["get", "a:vm"]), 117, &["has no image"]);
    eventually("both tell on the console", || boot_count(&host) == 1);
    let console = host.petrel(&["console", "a:vm", "--no-follow"]);
    assert!(console.stdout.contains("loading"), "{console:?}");

    // A request for a restart needs no image.
    let first = tender(&host);
    host.expect(
        &host.petrel(&["restart", "a:vm"]),
        0,
        &["created unikernel"],
    );
    assert_eq!(says(&host, 3), [destroys.as_str(), &load, &runs]);
    runs_anew(&host, first, 2);

    // A reboot of the guest is none of the process: all of it is done again.
    let second = tender(&host);
    kill(second, Signal::SIGUSR1).unwrap();
    assert_eq!(says(&host, 3), [destroys.as_str(), &load, &runs]);
    runs_anew(&host, second, 3);

    // To be off is what the guest wants, although there is --restart.
    kill(tender(&host), Signal::SIGUSR2).unwrap();
    assert_eq!(says(&host, 1), [destroys.as_str()]);
    eventually("it has ended", || {
        host.petrel(&["info"]).stdout.contains("ended")
    });
    is_idle(&host);
    host.expect(&host.petrel(&["block"]), 0, &["active false"]);

    host.expect(&host.petrel(&["start", "a:vm"]), 0, &["started unikernel"]);
    assert_eq!(says(&host, 2), [load.as_str(), &runs]);
    eventually("it runs", || boot_count(&host) == 4);
    host.expect(&host.petrel(&["destroy", "a:vm"]), 0, &["destroyed"]);
    assert_eq!(says(&host, 1), [destroys.as_str()]);
    is_idle(&host);
}

#[test]
fn linux_is_loaded_with_a_map_of_its_disk() {
    let host = started();
    let created = create(&host, &["--linux-boot=msdos1"]);
    host.expect(&created, 0, &["created unikernel"]);
    let vm = machine(&host);
    let disk = host.path("db/block/a:0");
    let load = format!(
        "grub-bhyve -m{} -rhd0,msdos1 -M32 {vm}",
        host.path("run/boot").join(&vm).display()
    );
    let said = says(&host, 3);
    assert_eq!(said[..2], [load, format!("(hd0) {}", disk.display())]);
    assert!(said[2].starts_with("bhyve -A "), "{said:?}");
    assert!(!host.path("run/boot").join(&vm).exists());
    let info = host.petrel(&["info"]);
    host.expect(&info, 0, &["linux_boot_partition msdos1"]);
}

#[test]
fn a_machine_that_cannot_be_loaded_leaves_nothing() {
    let host = started();
    host.file("fail", "");
    let failed = create(&host, &[]);
    host.expect(&failed, 117, &["bhyveload ended with exit code 3"]);
    is_idle(&host);
    let said = says(&host, 2);
    assert!(said[0].starts_with("bhyveload ") && said[1].starts_with("bhyvectl "));
    host.expect(&host.petrel(&["block"]), 0, &["active false"]);
    fs::remove_file(host.path("fail")).unwrap();
    host.expect(&create(&host, &[]), 0, &["created unikernel"]);

    // One that runs is not stopped for what cannot be.
    let before = tender(&host);
    fs::remove_file(host.path("programs/grub-bhyve")).unwrap();
    let failed = create(&host, &["--force", "--linux-boot=msdos1"]);
    host.expect(&failed, 117, &["grub-bhyve, which is not in PATH"]);
    assert_eq!(tender(&host), before);
}

#[test]
fn nobody_waits_for_a_machine_that_does_not_come_up_not_even_its_supervisor() {
    let mut host = started();
    host.file("hang", "");
    let pending = support::Running::start(&mut host.client(&[
        "create",
        "a:vm",
        "nothing",
        "--typ=bhyve",
        "--block=0",
    ]));
    says(&host, 2);
    host.expect(&host.petrel(&["block"]), 0, &["active true"]);
    let loader = host.tender_of("a:vm").unwrap();
    let supervisor = host.supervisor.take().unwrap();
    assert_eq!(supervisor.stop(), Some(0));
    let answer = pending.end();
    assert_eq!(answer.code(), 117, "{answer:?}");
    assert!(
        answer.stderr.contains("bhyveload was broken off"),
        "{answer:?}"
    );
    assert!(kill(Pid::from_raw(loader), None).is_err());
    is_idle(&host);
    start(&mut host);
}

#[test]
fn what_loads_a_machine_is_ended_by_the_next_supervisor_which_begins_again() {
    let mut host = started();
    host.expect(&create(&host, &[]), 0, &["created"]);
    eventually("it runs", || boot_count(&host) == 1);
    said(&host);
    host.file("hang", "");
    kill(tender(&host), Signal::SIGUSR1).unwrap();
    assert_eq!(says(&host, 3).pop().unwrap(), "hangs");
    let loader = host.tender_of("a:vm").unwrap();
    host.kill_supervisor();
    fs::remove_file(host.path("hang")).unwrap();
    said(&host);
    start(&mut host);
    let said = says(&host, 3);
    for (line, program) in said.iter().zip(["bhyvectl", "bhyveload", "bhyve"]) {
        assert!(line.starts_with(&format!("{program} ")), "{said:?}");
    }
    assert!(host.tender_of("a:vm").unwrap() != loader);
    machine(&host);
}

#[test]
fn a_machine_outlives_its_supervisor_and_others_do_not() {
    let mut host = started();
    host.expect(&create(&host, &[]), 0, &["created"]);
    eventually("it runs", || boot_count(&host) == 1);
    let (before, vm) = (tender(&host), machine(&host));
    // Executed anew, it has the same child.
    host.supervisor().signal(Signal::SIGHUP);
    host.supervisor().says("a:vm runs already");
    assert_eq!(tender(&host), before);
    host.kill_supervisor();
    // Of a unikernel that nobody knows any more; of another supervisor; of somebody else.
    let letters = "a".repeat(26);
    let (ours, others) = (format!("{}{letters}", &vm[..5]), format!("ptaaa{letters}"));
    assert!(ours != vm && ours != others);
    let others = &others[..];
    for name in [&ours, others, "freebsd"] {
        host.file(&format!("vmm/{name}"), "");
    }
    said(&host);
    let mut check = supervisor(&host);
    let check = run(check.env("CHECK", "yes"));
    assert!(
        check
            .stdout
            .contains(&format!("destroys machine {ours}, which nobody uses"))
    );
    assert!(check.stdout.contains("goes on with a:vm"), "{check:?}");
    assert_eq!(check.code(), 0, "{check:?}");
    assert_eq!(said(&host), [""; 0]);
    start(&mut host);
    assert_eq!(says(&host, 1), [format!("bhyvectl --destroy --vm={ours}")]);
    eventually("it is destroyed", || machines(&host).len() == 3);
    assert_eq!(tender(&host), before);
    host.expect(&host.petrel(&["destroy", "a:vm"]), 0, &["destroyed"]);
    eventually("only those of others are left", || {
        machines(&host) == ["freebsd", others]
    });
}

#[test]
fn networks_are_given_by_their_taps() {
    let Some(network) = Network::new("networks of machines") else {
        return;
    };
    network.bridge("br0", "10.77.0.1");
    network.bridge("br1", "10.78.0.1");
    let host = started();
    let mac = "02:00:00:00:00:fe";
    let nets = ["--net=1:br1", &format!("--net=0:br0@{mac}")];
    let created = create(&host, &nets);
    host.expect(&created, 0, &["created unikernel"]);
    let vm = machine(&host);
    let said = says(&host, 2);
    let taps = network.interfaces("pt");
    assert_eq!(taps.len(), 2, "{taps:?}");
    let on = |bridge: &str| {
        let tap = taps
            .iter()
            .find(|tap| tap.contains(&format!("master {bridge} ")));
        let name = tap.unwrap().split(' ').nth(1).unwrap();
        name.trim_end_matches(':').to_owned()
    };
    assert!(vm.starts_with(&on("br0")[..13]) && vm.starts_with(&on("br1")[..13]));
    let devices = format!(
        "-s2,virtio-net,{},mac={mac},type=tap -s3,virtio-net,{},mac=00:80:41:",
        on("br0"),
        on("br1")
    );
    assert!(said[1].contains(&devices), "{said:?}");
    let missing = create(&host, &["--force", "--net=0:nowhere"]);
    host.expect(&missing, 117, &["no bridge nowhere"]);
    assert_eq!(machine(&host), vm);
}

#[test]
fn what_cannot_be_a_machine_is_refused_by_the_client() {
    let host = started();
    for (options, why) in [
        (&["--block=disk"][..], "named 0, 1 and so on"),
        (&[], "needs a block device 0"),
        (&["--block=0", "--cpus=0"], "needs a virtual CPU"),
        (&["--block=0", "--linux-boot=msdos1,x"], "not 'msdos1,x'"),
    ] {
        let create = ["create", "a:vm", "nothing", "--typ=bhyve"];
        let refused = host.petrel(&[&create, options].concat());
        host.expect(&refused, 124, &[why]);
    }
    assert_eq!(said(&host), [""; 0]);
}

/// Over TLS nothing is uploaded, and nothing waited for.
#[test]
fn linux_refuses_machines_at_once_whoever_asks() {
    let host = Host::with(Setup::default());
    host.file("nothing", "");
    let why = "BHyve machines run on FreeBSD only";
    let local = create(&host, &[]);
    host.expect(&local, 117, &[why]);
    let remote = ["create", "vm", "nothing", "--typ=bhyve", "--block=0"];
    host.expect(&host.keeper(&remote), 117, &[why]);
    let replaced = [&remote[..], &["--force"]].concat();
    host.expect(&host.keeper(&replaced), 117, &[why]);
}
