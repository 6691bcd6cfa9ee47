//! Runs the test guests under `petrel-spt`, and the same cases under `solo5-spt` and `solo5-hvt`
//! where they are on PATH and work.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, network};

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use network::Network;
use support::{Directory, Ended, Running, guest, on_path, run, skipped};

/// The exit code of a shell for a process that died by a signal.
const SEGV: i32 = 128 + 11;
const ILL: i32 = 128 + 4;
const FPE: i32 = 128 + 8;
const SYS: i32 = 128 + 31;
const PIPE: i32 = 128 + 13;
const TERM: i32 = 128 + 15;

#[derive(Clone, Debug)]
struct Tender {
    program: PathBuf,
    target: &'static str,
    ours: bool,
}

impl Tender {
    fn spt(&self) -> bool {
        self.target == "spt"
    }

    /// A call with the least memory every tender takes.
    fn command(&self, options: &[&str], image: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--mem=2").args(options).arg("--").arg(image);
        command.args(arguments);
        command
    }

    fn run(&self, options: &[&str], name: &str, arguments: &[&str]) -> Ended {
        run(&mut self.command(options, &self.guest(name), arguments))
    }

    fn guest(&self, name: &str) -> PathBuf {
        guest(&format!("{name}.{}", self.target))
    }

    /// Checks a refusal: exit code 1, nothing on the console, and for our tender the reason.
    fn refuses(&self, ended: &Ended, reason: &str) {
        assert_eq!(ended.code(), 1, "{self:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{self:?}");
        if self.ours {
            assert!(
                ended.stderr.contains(reason),
                "{:?} does not say {reason:?}",
                ended.stderr
            );
        } else {
            assert_ne!(ended.stderr, "", "{self:?}");
        }
    }
}

/// Our tender, and the original ones where they work.
fn tenders() -> &'static [Tender] {
    static TENDERS: OnceLock<Vec<Tender>> = OnceLock::new();
    TENDERS.get_or_init(|| {
        let mut tenders = vec![ours()];
        for (program, target) in [("solo5-spt", "spt"), ("solo5-hvt", "hvt")] {
            let Some(path) = on_path(program) else {
                skipped(
                    "the same cases under the original",
                    &format!("no {program} on PATH"),
                );
                continue;
            };
            let tender = Tender {
                program: path,
                target,
                ours: false,
            };
            let tried = tender.run(&[], "hello", &[]);
            if tried.code() == 0 {
                tenders.push(tender);
            } else {
                skipped(program, &tried.stderr);
            }
        }
        let names: Vec<_> = tenders.iter().map(|tender| &tender.program).collect();
        let _ = writeln!(io::stderr(), "the tender tests run on: {names:?}");
        tenders
    })
}

fn ours() -> Tender {
    Tender {
        program: env!("CARGO_BIN_EXE_petrel-spt").into(),
        target: "spt",
        ours: true,
    }
}

#[test]
fn a_guest_sees_its_arguments_and_its_memory() {
    for tender in tenders() {
        let ended = run(&mut tender.command(
            &["--mem=8"],
            &tender.guest("hello"),
            &["--name=a:b", "--lines=2", "", "--help", "x y"],
        ));
        assert_eq!(ended.code(), 0, "{tender:?}: {ended:?}");
        let expected = format!(
            "hello from an {} guest\nmemory: 8 MiB\n\
             command line: --name=a:b --lines=2  --help x y\nline 1\nline 2\nbye: exit 0\n",
            tender.target
        );
        assert_eq!(ended.stdout, expected, "{tender:?}");
    }
}

#[test]
fn the_exit_code_is_the_guest_s_modulo_256() {
    for tender in tenders() {
        for (status, code) in [("0", 0), ("1", 1), ("3", 3), ("255", 255), ("517", 5)] {
            let ended = tender.run(&[], "hello", &[&format!("--exit={status}")]);
            assert_eq!(ended.code(), code, "{tender:?}");
        }
    }
}

#[test]
fn long_arguments_fit_up_to_8191_bytes() {
    for tender in tenders() {
        let ended = tender.run(&[], "hello", &[&"x".repeat(8191)]);
        assert_eq!(ended.code(), 0, "{tender:?}");
        assert!(ended.stdout.contains(&"x".repeat(8191)), "{tender:?}");
        let ended = tender.run(&[], "hello", &[&"x".repeat(8192)]);
        tender.refuses(&ended, "8192 bytes long");
    }
}

#[test]
fn a_faulting_guest_dies_by_the_signal_of_its_fault() {
    for tender in tenders() {
        for (how, signal) in [
            ("null", SEGV),
            ("unmapped", SEGV),
            ("return", SEGV),
            ("write-text", SEGV),
            ("ud2", ILL),
            ("divide", FPE),
            ("syscall", SYS),
        ] {
            let ended = tender.run(&[], "fault", &[&format!("--how={how}")]);
            let code = if tender.spt() { signal } else { 1 };
            assert_eq!(ended.code(), code, "{tender:?} {how}: {ended:?}");
            assert_eq!(ended.stdout, "fault: now\n", "{tender:?} {how}");
        }
    }
}

#[test]
fn data_is_not_executable_unless_asked_for() {
    for tender in tenders().iter().filter(|tender| tender.spt()) {
        let ended = tender.run(&[], "fault", &["--how=exec-data"]);
        assert_eq!(ended.code(), SEGV, "{tender:?}");
        // The data segment of an image keeps its own protection.
        let ended = tender.run(&["--x-exec-heap"], "hello", &[]);
        assert_eq!(ended.code(), 0, "{tender:?}");
        assert_ne!(ended.stderr, "", "{tender:?}");
    }
}

#[test]
fn a_running_guest_is_locked_up_and_ends_on_sigterm() {
    for tender in tenders() {
        let mut running = Running::start(&mut tender.command(
            &[],
            &tender.guest("forever"),
            &["--interval-ms=1"],
        ));
        running.line_with("ready");
        running.line_with("tick 3");
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
        for line in ["NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
            assert!(status.contains(line), "{tender:?}: {status}");
        }
        running.signal(Signal::SIGTERM);
        let code = if tender.spt() { TERM } else { 1 };
        assert_eq!(running.end().code(), code, "{tender:?}");
    }
}

#[test]
fn a_flooding_guest_loses_no_line() {
    for tender in tenders() {
        let ended = tender.run(&[], "flood", &["--lines=5000", "--exit=9"]);
        assert_eq!(ended.code(), 9, "{tender:?}");
        for (line, number) in ended.stdout.lines().zip(1..) {
            assert!(line.starts_with(&format!("flood {number} ")), "{line}");
        }
        assert_eq!(ended.stdout.lines().count(), 5000, "{tender:?}");
    }
}

#[test]
fn a_full_console_does_not_matter_and_a_closed_one_ends_the_guest() {
    for tender in tenders().iter().filter(|tender| tender.spt()) {
        let full = File::create("/dev/full").unwrap();
        let mut command = tender.command(&[], &tender.guest("hello"), &["--exit=4"]);
        let ended = Running::start_with(&mut command, full.into()).end();
        assert_eq!(ended.code(), 4, "{tender:?}");

        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = tender.command(&[], &tender.guest("flood"), &[]);
        let ended = Running::start_with(&mut command, Stdio::from(writer)).end();
        drop(command);
        assert_eq!(ended.code(), PIPE, "{tender:?}");
    }
}

#[test]
fn help_and_version_are_those_of_a_solo5_tender() {
    for tender in tenders() {
        let call = |arguments: &[&str]| run(Command::new(&tender.program).args(arguments));
        let version = call(&["--version"]);
        assert_eq!((version.code(), &*version.stdout), (0, ""), "{tender:?}");
        let lines: Vec<_> = version.stderr.lines().collect();
        let [first, second] = lines[..] else {
            panic!("{tender:?}: {lines:?}")
        };
        assert!(first.contains(" tender, version "), "{first}");
        assert_eq!(second, "ABI version 2");

        let help = call(&["--help"]);
        assert_eq!((help.code(), &*help.stdout), (1, ""), "{tender:?}");
        assert!(
            help.stderr.contains("\nCompiled-in modules: core "),
            "{help:?}"
        );

        tender.refuses(&call(&[]), "no KERNEL is given");
        tender.refuses(&call(&["--mem=2"]), "no KERNEL is given");
        tender.refuses(&call(&["--"]), "no KERNEL is given");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for tender in tenders() {
        for (option, reason) in [
            ("--nonsense", "no such option"),
            ("--mem=0", "decimal number of MiB"),
            ("--mem=x", "decimal number of MiB"),
            ("--mem=0x40", "decimal number of MiB"),
            ("--net:service", "followed by ="),
            ("--net-mac:service=1:2:3", "MAC address"),
        ] {
            let ended = tender.run(&[option], "hello", &[]);
            tender.refuses(&ended, reason);
        }
    }
}

#[test]
fn files_that_are_no_images_for_this_tender_are_refused() {
    let directory = Directory::new("tender-images");
    for tender in tenders() {
        let good = fs::read(tender.guest("hello")).unwrap();
        let other = if tender.spt() { "hvt" } else { "spt" };
        let mut foreign = good.clone();
        foreign[18] = 183;
        let mut version = good.clone();
        let abi = version.windows(4).position(|word| word == b"ABI1").unwrap();
        version[abi + 16] = 1;
        let (mut no_abi, mut no_manifest) = (good.clone(), good.clone());
        no_abi[abi] = b'X';
        let manifest = no_manifest
            .windows(4)
            .position(|word| word == b"MFT1")
            .unwrap();
        no_manifest[manifest] = b'X';
        let mut damaged = good.clone();
        damaged[manifest + 16] = 9;
        for (image, reason) in [
            (directory.path("missing"), "cannot open the image"),
            (directory.file("empty", ""), "not an ELF file"),
            (
                directory.file("text", "no image\n".repeat(100)),
                "not an ELF file",
            ),
            (directory.file("cut", &good[..100]), "ends before"),
            (directory.file("short", &good[..5000]), "image"),
            (directory.file("no-abi", &no_abi), "it has no ABI note"),
            (
                directory.file("no-manifest", &no_manifest),
                "it has no manifest note",
            ),
            (directory.file("damaged", &damaged), "manifest is invalid"),
            (directory.file("foreign", &foreign), "another machine"),
            (directory.file("version", &version), "needs version 1"),
            (
                guest(&format!("hello.{other}")),
                "for the target hvt, not spt",
            ),
            ("/bin/sh".into(), "not an ELF file that Solo5 can load"),
        ] {
            tender.refuses(&run(&mut tender.command(&[], &image, &[])), reason);
        }
    }
}

#[test]
fn memory_must_hold_the_image_and_exist() {
    for tender in tenders() {
        if tender.spt() {
            let ended = tender.run(&["--mem=1"], "hello", &[]);
            tender.refuses(&ended, "outside guest memory");
        }
        if tender.ours {
            for memory in ["100000000", "1000000000000", "18446744073709551615"] {
                let ended = tender.run(&[&format!("--mem={memory}")], "hello", &[]);
                tender.refuses(&ended, "cannot give the guest");
            }
        }
    }
}

#[test]
fn devices_are_those_of_the_manifest() {
    let directory = Directory::new("tender-devices");
    let disk = directory.file("disk", [0; 4096]);
    let storage = format!("--block:storage={}", disk.display());
    for tender in tenders() {
        for (options, name, reason) in [
            (&[][..], "block", "missing: block \"storage\""),
            (
                &[storage.as_str()],
                "hello",
                "not declared: block \"storage\"",
            ),
            (
                &["--block:other=x"],
                "block",
                "not declared: block \"other\"",
            ),
            (
                &["--net:storage=lo"],
                "block",
                "not declared: net \"storage\"",
            ),
            (&["--net:br0=lo"], "net", "not that of a bridge"),
            (&[&storage], "devices", "missing: net \"service\""),
            (
                &["--block:storage=/nonexistent/x"],
                "block",
                "/nonexistent/x",
            ),
            (
                &["--block:storage=/dev/null"],
                "block",
                "Backing storage size",
            ),
            (
                &["--net:service=nosuchtap0"],
                "net",
                "No such file or directory",
            ),
            (
                &["--net:service=lo"],
                "net",
                "cannot attach device \"service\"",
            ),
            (&["--net:service=@77"], "net", "not an open descriptor"),
            (&["--net:service=@1"], "net", "not attached to a tap"),
            // The image itself, most likely.
            (&["--net:service=@3"], "net", "not attached to a tap"),
        ] {
            tender.refuses(&tender.run(options, name, &[]), reason);
        }
    }
}

#[test]
fn block_devices_have_whole_blocks_of_a_good_size() {
    let directory = Directory::new("tender-blocks");
    let storage = |size| {
        let disk = directory.file(&format!("{size}"), vec![0; size]);
        format!("--block:storage={}", disk.display())
    };
    let size = |size: &str| format!("--block-sector-size:storage={size}");
    for tender in tenders() {
        for (options, reason) in [
            ([storage(513), size("512")], "513 bytes"),
            (
                [storage(6144), size("4096")],
                "Backing storage size must be block aligned",
            ),
            ([storage(0), size("512")], "0 bytes"),
            (
                [storage(4096), size("521")],
                "Block size must be a multiple of 2 greater than or equal 512",
            ),
            (
                [storage(4096), size("256")],
                "Block size must be a multiple of 2 greater than or equal 512",
            ),
            ([storage(4096), size("65536")], "power of two"),
            ([storage(4096), size("x")], "power of two"),
        ] {
            // The original needs the size first, ours takes either order.
            let options = [options[1].as_str(), options[0].as_str()];
            tender.refuses(&tender.run(&options, "block", &[]), reason);
        }
    }
}

#[test]
fn a_block_device_is_read_and_written() {
    let directory = Directory::new("tender-block");
    let mut contents: Vec<u8> = (0..64 * 1024_u32).map(|i| (i / 7) as u8).collect();
    for tender in tenders() {
        for block_size in [512, 4096, 32768] {
            let disk = directory.file("disk", &contents);
            let ended = tender.run(
                &[
                    &format!("--block:storage={}", disk.display()),
                    &format!("--block-sector-size:storage={block_size}"),
                ],
                "block",
                &["--write-block=1"],
            );
            for (i, byte) in contents[block_size..2 * block_size].iter_mut().enumerate() {
                *byte = (1 + i * 7) as u8;
            }
            let expected = format!(
                "block storage: capacity 65536 block {block_size}\nblock storage: wrote 1\n\
                 block storage: fnv1a {:016x}\ndevices: done\n",
                fnv1a(&contents)
            );
            assert_eq!((ended.code(), ended.stdout), (0, expected), "{tender:?}");
            assert!(fs::read(&disk).unwrap() == contents, "{tender:?}");
        }
    }
}

#[test]
fn a_block_device_ends_where_it_ends() {
    let directory = Directory::new("tender-block-end");
    let disk = directory.file("disk", vec![0; 8192]);
    let storage = format!("--block:storage={}", disk.display());
    for tender in tenders() {
        let read = |arguments: &[&str]| tender.run(&[&storage], "block", arguments);
        for offset in ["0", "1", "7680"] {
            let ended = read(&[&format!("--read-at={offset}")]);
            assert_eq!(ended.code(), 0, "{tender:?} {offset}");
            assert!(ended.stdout.contains("block storage: read\n"), "{tender:?}");
        }
        for arguments in [
            &["--read-at=7681"][..],
            &["--read-at=8192"],
            &["--read-at=4294967296"],
            &["--read-at=7680", "--read-size=513"],
        ] {
            let ended = read(arguments);
            if tender.spt() {
                assert_eq!(ended.code(), SYS, "{tender:?} {arguments:?}");
            } else {
                assert!(ended.stdout.contains("refused"), "{tender:?} {arguments:?}");
            }
        }
    }
}

#[test]
fn a_block_file_may_have_white_space_in_its_name() {
    let directory = Directory::new("tender-white-space");
    let disk = directory.file("a b\tc", vec![0; 512]);
    let storage = format!("--block:storage={}", disk.display());
    assert_eq!(ours().run(&[&storage], "block", &[]).code(), 0);
}

#[test]
fn a_guest_answers_on_a_named_tap() {
    let Some(network) = Network::new("named taps") else {
        return;
    };
    for tender in tenders() {
        make_tap(&network);
        let option = format!("--net:service={TAP}");
        let mut running = start_net(tender, &option);
        let line = running.line_with("net service: mac");
        assert_eq!(line, "net service: mac 02:00:00:00:12:34 mtu 1400");
        running.line_with("net service: ready");
        network.ping(GUEST_ADDRESS);
        assert_eq!(running.end().code(), 0, "{tender:?}");

        let mut chosen = Running::start(&mut tender.command(&[&option], &tender.guest("net"), &[]));
        let line = chosen.line_with("net service: mac");
        let first = line["net service: mac ".len()..].split(':').next().unwrap();
        let first = u8::from_str_radix(first, 16).unwrap();
        assert_eq!(first & 3, 2, "{tender:?}: {line} is not local unicast");
        chosen.line_with("net service: ready");

        let taken = tender.run(&[&option], "net", &[]);
        tender.refuses(&taken, "Device or resource busy");
        chosen.signal(Signal::SIGKILL);
        chosen.end();

        network.ip(&["link", "set", TAP, "down"]);
        tender.refuses(&tender.run(&[&option], "net", &[]), "Network is down");
        network.ip(&["link", "del", TAP]);
    }
}

#[test]
fn a_guest_answers_on_an_inherited_tap() {
    let Some(network) = Network::new("inherited taps") else {
        return;
    };
    // The original has not been able to do this since its release 0.10.0.
    let tender = ours();
    let tap = open_tap();
    petrel::sys::tap::attach(&tap, TAP.as_bytes()).unwrap();
    set_up(&network);
    fcntl(&tap, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let option = format!("--net:service=@{}", tap.as_raw_fd());
    let mut running = start_net(&tender, &option);
    let line = running.line_with("net service: mac");
    assert_eq!(line, "net service: mac 02:00:00:00:12:34 mtu 1400");
    running.line_with("net service: ready");
    network.ping(GUEST_ADDRESS);
    assert_eq!(running.end().code(), 0);
    drop(tap);

    let unattached = open_tap();
    fcntl(&unattached, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let option = format!("--net:service=@{}", unattached.as_raw_fd());
    let ended = tender.run(&[&option], "net", &[]);
    tender.refuses(&ended, "not attached to a tap");
}

#[test]
fn both_kinds_of_devices_work_together() {
    let Some(network) = Network::new("a tap and a block device") else {
        return;
    };
    let directory = Directory::new("tender-both");
    let disk = directory.file("disk", vec![7; 4096]);
    for tender in tenders() {
        make_tap(&network);
        let ended = tender.run(
            &[
                &format!("--block:storage={}", disk.display()),
                &format!("--net:service={TAP}"),
            ],
            "devices",
            &["--frames=0", "--exit=6"],
        );
        assert_eq!(ended.code(), 6, "{tender:?}: {ended:?}");
        let sum = format!("fnv1a {:016x}", fnv1a(&[7; 4096]));
        for part in [sum.as_str(), " mtu 1400\n", "devices: done"] {
            assert!(ended.stdout.contains(part), "{tender:?}: {}", ended.stdout);
        }
        network.ip(&["link", "del", TAP]);
    }
}

const TAP: &str = "tap0";
const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

fn make_tap(network: &Network) {
    network.ip(&["tuntap", "add", TAP, "mode", "tap"]);
    set_up(network);
}

fn set_up(network: &Network) {
    network.ip(&["link", "set", TAP, "mtu", "1400", "up"]);
    network.ip(&["address", "add", "10.99.0.1/24", "dev", TAP]);
}

/// A guest that answers one ARP request and one echo request, and ends.
fn start_net(tender: &Tender, option: &str) -> Running {
    Running::start(&mut tender.command(
        &[option, "--net-mac:service=02:00:00:00:12:34"],
        &tender.guest("net"),
        &["--ipv4=10.99.0.2", "--frames=2"],
    ))
}

fn open_tap() -> File {
    let mut options = File::options();
    options.read(true).write(true);
    options.open("/dev/net/tun").unwrap()
}

/// FNV-1a, 64 bits, as the guest computes it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
