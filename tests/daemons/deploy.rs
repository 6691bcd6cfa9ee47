//! The main job from end to end: certificates, daemons, clients and tenders are the real programs, the guests
//! real unikernels, and what fails leaves everything else as it was.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host};

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use nix::sys::signal::Signal;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::geteuid;
use petrel::authority::{Issuer, Key, Profile, Validity, common_name, to_pem};
use petrel::chain::verify::Anchor;
use petrel::chain::{EXTENSION, numbers};
use petrel::client::tls::{ConnectError, Destination, TlsStream, connect_to};
use petrel::unikernel::{Config, FailBehaviour, Kind};
use petrel::wire::frame::{END, MAX_CHUNK, MAX_MESSAGE, frame, read_frame, write_frame};
use petrel::wire::legacy::{ArgumentsV1, ConfigV3, ConfigV4, InfoV5};
use petrel::wire::{
    Bytes, CertExtension, Command, FailBehaviour as WireFailBehaviour, Header, Int, Int64, Message,
    NamedInfo, Payload, Policy, PolicyCommand, Success, Typ, UnikernelCommand, VERSION, v5,
};
use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use host::{Daemon, Host, Setup, Snapshot, eventually};
use support::{DEADLINE, Ended, Running, guest, on_path, run, skipped};

/// A user without any rights.
const NOBODY: u32 = 65_534;

/// Most memory that petreld may ever take, in KiB; as it is built for tests it takes more than twice of what it does
/// otherwise.
const MEMORY: u64 = 10 << 10;

/// A guest that runs until it is stopped, and says little.
const QUIET: &str = "--arg=--interval-ms=600000";

#[test]
fn a_tenant_deploys_a_unikernel_under_every_tender() {
    for (path, target) in tenders() {
        let host = Host::with(Setup {
            path: Some(path.clone().into()),
            ..Setup::default()
        });
        let tender = deploys(&host, &guest(&format!("forever.{target}")));
        println!("the main job has run under {}", tender.display());
        assert_eq!(
            tender.parent() == Some(&path),
            tender.ends_with(format!("solo5-{target}"))
        );
    }
}

#[test]
fn no_daemon_needs_to_be_root() {
    if !geteuid().is_root() {
        println!("every test here runs as an ordinary user");
        return;
    }
    let host = Host::with(Setup {
        user: Some(NOBODY),
        ..Setup::default()
    });
    let image = host.file("image", fs::read(guest("forever.spt")).unwrap());
    deploys(&host, &image);
    let daemons = [&host.supervisor, &host.console, &host.endpoint];
    for daemon in daemons {
        let user = daemon.as_ref().unwrap().status("Uid:");
        assert_eq!(user, u64::from(NOBODY));
    }
}

/// The main job. Returns the tender's program.
fn deploys(host: &Host, image: &Path) -> PathBuf {
    let mut console = Running::start(&mut host.client_of("tenant", &["console", "hello"]));
    assert!(console.line().ends_with("success: waiting for VM"));
    let path = image.to_str().unwrap();
    let created = host.tenant(&["create", "hello", path, "--arg=--interval-ms=20"]);
    let answer = "host [unikernel: tenant:hello]: success: created unikernel";
    host.expect(&created, 0, &[answer]);
    for text in ["ready", "tick 1", "tick 2"] {
        while !console.line().ends_with(&format!(": {text}")) {}
    }
    let tenders = host.tenders();
    assert_eq!(tenders.len(), 1);
    let process = tenders.first().unwrap();
    let tender = fs::read_link(format!("/proc/{process}/exe")).unwrap();

    let info = host.tenant(&["info"]);
    host.expect(
        &info,
        0,
        &["[unikernel: :hello]: typ solo5", "32 MB memory"],
    );
    let info = host.petrel(&["info", "--name", "tenant:hello"]);
    host.expect(&info, 0, &["[unikernel: tenant:hello]", &digest(image)]);
    let policies = host.petrel(&["policy"]);
    let policy = "[unikernel: tenant:]: policy: 2 unikernels 0 CPUids 64 MB memory";
    host.expect(&policies, 0, &[policy]);
    host.expect(&host.crowd(&["info"]), 0, &["no unikernels"]);

    let got = host.tenant(&["get", "hello"]);
    assert_same(&stored(host, &got), image);
    let destroyed = host.tenant(&["destroy", "hello"]);
    host.expect(&destroyed, 0, &["success: destroyed unikernel"]);
    assert!(host.tenders().is_empty());
    assert!(host.names("run/fifo").is_empty());
    no_image_stays(host);
    host.expect(&host.tenant(&["info"]), 0, &["no unikernels"]);
    tender
}

/// Images are removed only after the state without them is on disk, and its answer on the way.
fn no_image_stays(host: &Host) {
    eventually("the images are removed", || {
        host.names("db/image").is_empty()
    });
}

#[test]
fn a_command_can_be_signed_by_someone_else() {
    let host = Host::start();
    let image = guest("forever.spt");
    let path = image.to_str().unwrap();
    let request = host.tool(&["create", "hello", path, QUIET, "--csr"]);
    host.expect(&request, 0, &["hello.req", "hello.key"]);
    let sign = ["sign", "tenant.pem", "issued", "tenant.key", "hello.req"];
    host.expect(&host.tool(&sign), 0, &["hello.pem"]);
    let send = |files: [&str; 2], more: &[&str]| {
        let server = ["-d", &host.address, "--server-ca", "cacert.pem"];
        host.tool(&[&["certificate"], &files[..], &server, more].concat())
    };
    let before = host.snapshot();
    let refused = send(["hello.pem", "tenant.key"], &["--image", path]);
    host.expect(&refused, 124, &["does not belong", "'tenant.key'"]);
    host.assert_unchanged(&before);
    let sent = send(["hello.pem", "hello.key"], &["--image", path]);
    host.expect(&sent, 0, &["[unikernel: tenant:hello]: success: created"]);
    let info = host.petrel(&["info"]);
    host.expect(&info, 0, &["[unikernel: tenant:hello]", &digest(&image)]);
}

#[test]
fn an_image_is_the_same_however_it_travels() {
    let host = Host::start();
    let image = guest("forever.spt");
    let path = image.to_str().unwrap();
    let create = |name, level| ["create", name, path, QUIET, "--compression-level", level];
    host.expect(&host.tenant(&create("far0", "0")), 0, &["created"]);
    host.expect(&host.tenant(&create("far9", "9")), 0, &["created"]);
    host.expect(&host.petrel(&create("near0", "0")), 0, &["created"]);
    host.expect(&host.petrel(&create("near9", "9")), 0, &["created"]);
    let info = host.petrel(&["info"]).stdout;
    let digest = digest(&image);
    assert_eq!(info.matches(&digest).count(), 4, "{info}");
    assert_eq!(host.names("db/image"), [digest].into(), "it is kept once");
    for level in ["0", "9"] {
        let get = |name| ["get", name, "--compression-level", level];
        assert_same(&stored(&host, &host.tenant(&get("far9"))), &image);
        assert_same(&stored(&host, &host.petrel(&get("near0"))), &image);
    }
    assert!(host.names("db/image").len() == 1);
}

#[test]
fn unikernels_are_managed_on_the_host_itself() {
    let host = Host::start();
    let (forever, hello) = (guest("forever.spt"), guest("hello.spt"));
    let (forever_path, hello_path) = (forever.to_str().unwrap(), hello.to_str().unwrap());
    let create = ["create", "a:one", forever_path, QUIET];
    host.expect(&host.petrel(&create), 0, &["[unikernel: a:one]: success"]);
    let before = host.snapshot();
    host.expect(
        &host.petrel(&create),
        117,
        &["is a unikernel a:one already"],
    );
    host.assert_unchanged(&before);

    let replace = ["create", "-f", "a:one", hello_path, "--arg=--lines=3"];
    host.expect(&host.petrel(&replace), 0, &["created unikernel"]);
    eventually("the guest ends by itself", || {
        host.petrel(&["info"]).stdout.contains("(exit 0)")
    });
    assert!(host.tenders().is_empty());
    // To be started again, or rolled back to the one before.
    let images = [digest(&forever), digest(&hello)];
    assert_eq!(host.names("db/image"), images.into());
    let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
    daemon.send(":", info());
    let nothing_runs = Success::UnikernelInfo(Vec::new());
    assert_eq!(daemon.reply(), nothing_runs, "for albatross's clients");
    // The console is still there, with the lines of both.
    let mut console = host.follow("a:one", &["--count=2"]);
    assert!(console.line().ends_with("success: subscribed"));
    assert!(console.line().ends_with(": line 3"));
    assert!(console.line().ends_with(": bye: exit 0"));
    let mut console = host.follow("a:one", &["--since=2020-01-01"]);
    console.line();
    assert!(console.line().ends_with(": ready"));
    assert!(console.line().ends_with(": hello from an spt guest"));

    host.expect(&host.petrel(&["destroy", "a:one"]), 0, &["destroyed"]);
    host.expect(&host.petrel(&["destroy", "a:one"]), 117, &["no unikernel"]);
    no_image_stays(&host);
    host.expect(&host.petrel(&["info"]), 0, &["no unikernels"]);
    let policy = ["add-policy", "a", "1", "--mem=32"];
    host.expect(&host.petrel(&policy), 0, &["success: added policy"]);
    host.expect(&host.petrel(&policy), 0, &["no modification"]);
    let shown = host.petrel(&["policy", "--path", "a"]);
    host.expect(&shown, 0, &["policy: 1 unikernels 0 CPUids 32 MB memory"]);
    let remove = ["remove-policy", "--path", "a"];
    host.expect(&host.petrel(&remove), 0, &["success: removed policy"]);
    host.expect(&host.petrel(&remove), 117, &["there is no policy of a"]);
    let shown = host.petrel(&["policy", "--path", "a"]);
    host.expect(&shown, 0, &["no policies"]);
    // What the host has is that of the root.
    let shown = host.petrel(&["policy"]);
    host.expect(
        &shown,
        0,
        &["host [unikernel: :]: [unikernel: :]: policy: "],
    );
}

#[test]
fn clients_of_older_releases_are_served() {
    let host = Host::start();
    let image = fs::read(guest("forever.spt")).unwrap();
    let mut compressed = ZlibEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(&image).unwrap();
    let create = |add_name: bool| ConfigV4 {
        startup: Some(Int::new(7)),
        add_name,
        image: Bytes(image.clone()),
        ..config_v4()
    };

    let requests = [
        (
            ":create",
            v5::UnikernelCommand::CreateOld2(create(true)),
            false,
        ),
        (
            ":create",
            v5::UnikernelCommand::ForceCreateOld2(create(false)),
            false,
        ),
        (
            ":follows",
            v5::UnikernelCommand::CreateOld2(config_v4()),
            true,
        ),
        (
            ":oldest",
            v5::UnikernelCommand::CreateOld(ConfigV3 {
                compressed: true,
                image: Bytes(compressed.finish().unwrap()),
                ..config_v3()
            }),
            false,
        ),
        (
            ":oldest",
            v5::UnikernelCommand::ForceCreateOld(config_v3()),
            true,
        ),
    ];
    for (name, request, follows) in requests {
        let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
        daemon.send_old(name, v5::Command::Unikernel(request));
        if follows {
            daemon.upload(&image);
        }
        assert_eq!(
            daemon.reply(),
            Success::String("created unikernel".into()),
            "{name}"
        );
    }
    assert_eq!(host.tenders().len(), 3);

    let ask = |command| {
        let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
        daemon.send(":", Command::Unikernel(command));
        daemon.reply()
    };
    let Success::UnikernelInfo(current) = ask(UnikernelCommand::Info(())) else {
        panic!("no info")
    };
    let [oldest, follows, created] = &current[..] else {
        panic!("{current:?}")
    };
    assert_eq!(
        (oldest.info.startup, created.info.startup),
        (None, Some(Int::new(7)))
    );
    assert_eq!(follows.info.digest, created.info.digest);
    let Success::OldUnikernelInfo5(info5) = ask(UnikernelCommand::InfoOld5(())) else {
        panic!("no info of version 5")
    };
    let Success::OldUnikernelInfo4(info4) = ask(UnikernelCommand::InfoOld4(())) else {
        panic!("no info of version 4")
    };
    for (at, NamedInfo { name, info }) in current.into_iter().enumerate() {
        let told = InfoV5::of(info).unwrap();
        assert_eq!(told.cpuid, Int::new(0));
        assert_eq!((&info5[at].name, &info5[at].info), (&name, &told));
        assert_eq!((&info4[at].name, &info4[at].info), (&name, &told.into()));
    }

    let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
    let restart = v5::Restart::NewArgumentsOld(ArgumentsV1 {
        fail_behaviour: WireFailBehaviour::Quit(()),
        startup: None,
        add_name: true,
        cpuid: Int::new(0),
        memory: Int::new(32),
        blocks: None,
        bridges: None,
        arguments: None,
    });
    let before = host.tenders();
    daemon.send_old(
        ":create",
        v5::Command::Unikernel(v5::UnikernelCommand::Restart(restart)),
    );
    assert_eq!(daemon.reply(), Success::String("created unikernel".into()));
    assert_eq!(before.difference(&host.tenders()).count(), 1);
    assert_eq!(host.tenders().len(), 3);
}

/// A small unikernel as an older release asks for it, its image to follow.
fn config_v4() -> ConfigV4 {
    config_v3().into()
}

fn config_v3() -> ConfigV3 {
    ConfigV3 {
        typ: Typ::Solo5(()),
        compressed: false,
        image: Bytes::default(),
        fail_behaviour: WireFailBehaviour::Quit(()),
        cpuid: Int::new(0),
        memory: Int::new(32),
        blocks: None,
        bridges: None,
        arguments: Some(vec!["--interval-ms=600000".into()]),
    }
}

#[test]
fn a_force_create_that_cannot_be_leaves_the_running_one_alone() {
    let (host, steady) = Host::with_steady();
    let net = guest("net.spt");
    let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
    let create = UnikernelCommand::ForceCreate(record(false, 32));
    daemon.send("tenant:steady", Command::Unikernel(create));
    daemon.upload(&fs::read(net).unwrap());
    assert!(daemon.failure().contains(r#"net "service""#));
    host.assert_unchanged(&steady);
}

#[test]
fn a_unikernel_comes_back_after_a_restart_of_the_supervisor() {
    let (mut host, _) = Host::with_steady();
    let image = guest("forever.spt");
    let create = ["create", "near", image.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&create), 0, &["created"]);
    let before = host.snapshot();
    let tenders = host.tenders();
    assert_eq!(tenders.len(), 2);
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    for tender in &tenders {
        let process = PathBuf::from(format!("/proc/{tender}"));
        assert!(!process.exists(), "a tender has outlived a stop");
    }
    assert!(host.names("run/fifo").is_empty());
    assert_eq!(host.names("run/util"), ["console.sock".to_owned()].into());
    let gone = host.petrel(&["info"]);
    assert_eq!(gone.code(), 122, "{gone:?}");

    host.start_supervisor();
    eventually("both are back", || host.tenders().len() == 2);
    let after = host.snapshot();
    let digests = |info: &str| -> Vec<String> { info.lines().filter_map(digest_in).collect() };
    assert_eq!(digests(&after.info), digests(&before.info));
    assert_eq!(after.policies, before.policies);
    assert!(after.tenders.is_disjoint(&tenders));
    assert_same(&stored(&host, &host.tenant(&["get", "steady"])), &image);
    let mut console = host.follow(":near", &["--count=2"]);
    console.line();
    for _ in 0..2 {
        assert!(console.line().ends_with(": ready"));
    }
}

#[test]
fn a_unikernel_does_not_notice_a_restart_of_the_console_daemon() {
    let mut host = Host::start();
    let image = guest("forever.spt");
    let create = [
        "create",
        "chatty",
        image.to_str().unwrap(),
        "--arg=--interval-ms=10",
    ];
    host.expect(&host.petrel(&create), 0, &["created"]);
    let others = ["other", "t:u:other"];
    for other in others {
        let create = ["create", other, create[2], create[3]];
        host.expect(&host.petrel(&create), 0, &["created"]);
    }
    let before = host.snapshot();
    let tick = |line: String| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let mut console = host.follow("chatty", &["--count=0"]);
    console.line();
    let last = tick(console.line_with("console"));
    host.console.take().unwrap().signal(Signal::SIGKILL);
    let unavailable = host.petrel(&["console", "chatty"]);
    assert_eq!(unavailable.code(), 122, "{unavailable:?}");
    host.start_console();
    let mut console = host.follow("chatty", &[]);
    console.line();
    let first = tick(console.line_with("console"));
    assert!(first > last);
    // What it said meanwhile has waited in the fifo.
    assert_eq!(tick(console.line()), first + 1);
    // All are read again that run.
    for other in others {
        let mut console = host.follow(other, &[]);
        console.line();
        let first = tick(console.line_with("console"));
        assert_eq!(tick(console.line()), first + 1);
    }
    host.assert_unchanged(&before);
}

#[test]
fn arguments_are_seen_by_the_guest_and_not_in_the_list_of_processes() {
    if on_path("solo5-spt").is_some() {
        return skipped(
            "hidden arguments",
            "solo5-spt is on PATH, which cannot hide them",
        );
    }
    let host = Host::start();
    let (image, brief) = (guest("forever.spt"), guest("hello.spt"));
    let secret = ["--arg=--secret=x", QUIET];
    let create = ["create", "web", image.to_str().unwrap()];
    host.expect(&host.petrel(&[&create[..], &secret].concat()), 0, &[]);
    let tender = host.tender_of(":web").unwrap();
    let seen = fs::read_to_string(format!("/proc/{tender}/cmdline")).unwrap();
    assert!(
        !seen.contains("secret") && seen.contains("--name=web"),
        "{seen}"
    );
    let create = ["create", "brief", brief.to_str().unwrap(), "--arg=--exit=3"];
    host.expect(&host.petrel(&create), 0, &[]);
    eventually("the guest has ended as it was told", || {
        host.petrel(&["info"]).stdout.contains("(exit 3)")
    });
}

#[test]
fn a_console_ends_with_the_run_and_tells_how() {
    let host = Host::start();
    let image = guest("hello.spt");
    let image = image.to_str().unwrap();
    let mut console = host.follow("web", &[]);
    assert!(console.line().ends_with("success: waiting for VM"));
    let create = ["create", "web", image, "--arg=--exit=3"];
    host.expect(&host.petrel(&create), 0, &["created"]);
    let first = console.line_with("console");
    assert!(first.ends_with("hello from an spt guest"), "{first}");
    let ended = console.end();
    host.expect(
        &ended,
        0,
        &["bye: exit 3", "the run has ended 20", "(exit 3)"],
    );
    // It is over: that is told at once, after the history.
    for options in [&["--count=1"][..], &["--count=1", "--no-follow"]] {
        let ended = host.petrel(&[&["console", "web"], options].concat());
        host.expect(&ended, 0, &["subscribed", "bye: exit 3", "(exit 3)"]);
        assert_eq!(ended.stdout.lines().count(), 3, "{ended:?}");
    }
    host.expect(&host.petrel(&["destroy", "web"]), 0, &["destroyed"]);
    let ended = host.petrel(&["console", "web", "--count=0"]);
    host.expect(
        &ended,
        0,
        &["the run has ended, and the unikernel is no more"],
    );
    let ended = host.petrel(&["console", "new", "--no-follow"]);
    host.expect(&ended, 117, &["there is no console of :new"]);
}

#[test]
fn a_console_goes_on_with_the_next_run_of_what_is_started_again() {
    let host = Host::start();
    let image = guest("hello.spt");
    let mut console = host.follow("web", &[]);
    let create = [
        "create",
        "web",
        image.to_str().unwrap(),
        "--arg=--exit=3",
        "--restart-on-fail",
    ];
    host.expect(&host.petrel(&create), 0, &["created"]);
    for _ in 0..2 {
        let end = console.line_with("host [unikernel: :web]: the run");
        assert!(
            end.ends_with("(exit 3), and is followed by another one"),
            "{end}"
        );
        let next = console.line_with("console");
        assert!(next.ends_with("hello from an spt guest"), "{next}");
    }
    host.expect(&host.petrel(&["stop", "web"]), 0, &["success"]);
    let ended = console.end();
    assert_eq!(ended.code(), 0, "{ended:?}");
    // Whether the next run had begun is a matter of time.
    let last = ended.stdout.lines().last().unwrap();
    let called_off = last.ends_with("no other run follows");
    assert!(called_off || last.contains("the run has ended"), "{last}");
}

#[test]
fn over_tls_a_console_ends_with_the_run_only_if_that_is_asked_for() {
    let host = Host::start();
    let image = guest("hello.spt");
    let mut forever = Running::start(&mut host.client_of("tenant", &["console", "web"]));
    assert!(forever.line().ends_with("success: waiting for VM"));
    let follow = ["console", "web", "--follow"];
    let mut console = Running::start(&mut host.client_of("tenant", &follow));
    assert!(console.line().ends_with("success: waiting for VM"));
    let create = ["create", "web", image.to_str().unwrap(), "--mem=16"];
    host.expect(&host.tenant(&create), 0, &["created"]);
    let ended = console.end();
    host.expect(&ended, 0, &["bye: exit 0", "]: the run has ended\n"]);
    let ended = host.tenant(&["console", "web", "--no-follow", "--count=1"]);
    host.expect(&ended, 0, &["bye: exit 0"]);
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
    while !forever.line().ends_with("bye: exit 0") {}
    host.expect(&host.tenant(&create_again(&create)), 0, &["created"]);
    while !forever.line().ends_with("bye: exit 0") {}
}

/// The same, in place of what is there.
fn create_again<'a>(create: &[&'a str]) -> Vec<&'a str> {
    [create, &["--force"]].concat()
}

#[test]
fn ten_clients_at_once_are_all_answered() {
    let host = Host::start();
    let image = guest("forever.spt");
    let names: Vec<_> = (0..10).map(|number| format!("u{number}")).collect();
    let clients: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let create = ["create", name, image.to_str().unwrap(), QUIET];
            Running::start(&mut if number % 2 == 0 {
                host.client_of("crowd", &create)
            } else {
                host.client(&create)
            })
        })
        .collect();
    for client in clients {
        host.expect(&client.end(), 0, &["success: created unikernel"]);
    }
    assert_eq!(host.tenders().len(), 10);
    let info = host.petrel(&["info"]).stdout;
    for name in &names {
        assert!(info.contains(&format!(":{name}]")), "{name} in {info}");
    }
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let name = &names[number];
            Running::start(&mut if number % 2 == 0 {
                host.client_of("crowd", &["destroy", name])
            } else {
                host.client(&["destroy", name])
            })
        })
        .collect();
    for client in clients {
        host.expect(&client.end(), 0, &["success: destroyed unikernel"]);
    }
    assert!(host.tenders().is_empty());
    no_image_stays(&host);
}

#[test]
fn inetd_can_be_the_listener() {
    let Some(program) = on_path("inetd") else {
        return skipped("petrel-tls under a real inetd", "no inetd on PATH");
    };
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host.start_supervisor();
    let command = host.endpoint_command("host");
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_str().unwrap())
        .collect();
    let path = command.get_program().to_str().unwrap();
    let user = nix::unistd::User::from_uid(geteuid())
        .unwrap()
        .unwrap()
        .name;
    // inetd has no way to say which free port it took.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let configuration = format!(
        "{address} stream tcp nowait {user} {path} petrel-tls --inetd -q {}\n",
        words.join(" ")
    );
    let file = host.file("inetd.conf", configuration);
    let inetd = Running::start(Process::new(program).arg("-i").arg(&file));
    host.address = address.to_string();
    eventually("inetd listens", || TcpStream::connect(address).is_ok());
    deploys(&host, &guest("forever.spt"));
    inetd.signal(Signal::SIGTERM);
    drop(inetd);
}

#[test]
fn socat_can_be_the_listener() {
    let Some(program) = on_path("socat") else {
        return skipped("petrel-tls under socat", "no socat on PATH");
    };
    // With the connection itself as standard input, and with a Unix socket in between.
    for options in [",nofork", ""] {
        let mut host = Host::prepared(Setup::default());
        host.start_console();
        host.start_supervisor();
        let command = host.endpoint_command("host");
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_str().unwrap())
            .collect();
        let path = command.get_program().to_str().unwrap();
        let mut socat = Process::new(&program);
        socat
            .args(["-d", "-d", "TCP-LISTEN:0,bind=127.0.0.1,fork"])
            .arg(format!("EXEC:{path} --inetd {}{options}", words.join(" ")));
        let socat = Daemon::start(&mut socat, "listening on ");
        host.address = socat.address();
        deploys(&host, &guest("forever.spt"));
    }
}

#[test]
fn systemd_may_hand_over_the_supervisors_socket() {
    let mut host = Host::prepared(Setup {
        // What systemd does: the socket as descriptor 3, and the number of the process in its environment.
        before: Some("export LISTEN_PID=$$ LISTEN_FDS=1 && exec 3<&0 </dev/null"),
        ..Setup::default()
    });
    host.start_console();
    let listener = UnixListener::bind(host.path("run/util/vmmd.sock")).unwrap();
    let mut command = host.supervisor_command();
    command.arg("--systemd-socket-activation");
    host.supervisor = Some(Daemon::start_with(
        &mut command,
        Stdio::from(OwnedFd::from(listener)),
        "listening",
    ));
    host.start_endpoint();
    deploys(&host, &guest("forever.spt"));
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    assert!(host.path("run/util/vmmd.sock").exists(), "it is systemd's");
}

#[test]
fn what_is_no_unikernel_is_refused_by_both_sides() {
    let (host, steady) = Host::with_steady();
    let text = host.file("text", "#!/bin/sh\necho this is no unikernel\n");
    let empty = host.file("empty", "");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_petrel-spt"));
    // A program that could be a unikernel, but does not say so.
    let mut contents = fs::read(guest("hello.spt")).unwrap();
    while let Some(place) = contents.windows(6).position(|owner| owner == b"Solo5\0") {
        contents[place..place + 5].copy_from_slice(b"Other");
    }
    let silent = host.file("silent", contents);
    for (file, reason) in [
        (&text, "not an ELF file"),
        (&empty, "not an ELF file"),
        (&program, "not an ELF file that Solo5 can load"),
        (&silent, "not a Solo5 image: it has no ABI note"),
    ] {
        let path = file.to_str().unwrap();
        for refused in [
            host.petrel(&["create", "x", path]),
            host.tenant(&["create", "x", path]),
        ] {
            host.expect(&refused, 124, &[path, reason]);
        }
        let contents = &fs::read(file).unwrap();
        let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
        daemon.send("tenant:x", create(false, 32));
        daemon.upload(contents);
        let failure = daemon.failure();
        assert!(failure.contains(reason), "{failure}");
    }
    let missing = host.petrel(&["create", "x", "missing"]);
    host.expect(&missing, 124, &["'missing'", "No such file"]);
    host.assert_unchanged(&steady);
}

/// However it comes, the rest of it is not waited for.
#[test]
fn an_image_that_is_no_elf_file_is_refused_at_its_first_bytes() {
    let (host, steady) = Host::with_steady();
    let mut long = b"#!/bin/sh\n".to_vec();
    long.resize(1 << 16, b'#');
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&long).unwrap();
    let packed = packed.finish().unwrap();
    for (compressed, start) in [(false, &long[..64]), (true, &packed[..])] {
        let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
        daemon.send("tenant:x", create(compressed, 32));
        daemon.stream.write_all(&frame(start).unwrap()).unwrap();
        let failure = daemon.failure();
        assert!(failure.contains("not an ELF file"), "{failure}");
    }
    host.assert_unchanged(&steady);
}

#[test]
fn devices_that_do_not_fit_the_manifest_are_named_by_both_sides() {
    let (host, steady) = Host::with_steady();
    let (net, hello) = (guest("net.spt"), guest("hello.spt"));
    let refused = host.tenant(&["create", "x", net.to_str().unwrap(), "--net=other"]);
    host.expect(&refused, 124, &[r#"net "service""#, r#"net "other""#]);
    let refused = host.petrel(&["create", "x", hello.to_str().unwrap(), "--block=disk"]);
    host.expect(&refused, 124, &["declares no devices", r#"block "disk""#]);
    let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
    daemon.send("tenant:x", create(false, 32));
    daemon.upload(&fs::read(&net).unwrap());
    let failure = daemon.failure();
    for part in [r#"declares net "service""#, "asked for no devices"] {
        assert!(failure.contains(part), "{part} in {failure}");
    }
    host.assert_unchanged(&steady);
}

#[test]
fn what_is_revoked_is_refused() {
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host.start_supervisor();
    host.file("tenant.db", "");
    let of_root = ["revoke", "cacert.pem", "ca.key", "issued"];
    let of_tenant = ["revoke", "tenant.pem", "tenant.key", "tenant.db"];
    host.expect(&host.tool(&of_root), 0, &["cacert.crl"]);
    host.expect(&host.tool(&of_tenant), 0, &["tenant.crl"]);
    let mut endpoint = host.endpoint_command("host");
    let lists = ["--crl", "cacert.crl", "--crl", "tenant.crl"];
    let endpoint = Daemon::start(endpoint.args(host::LISTEN).args(lists), "listening on ");
    host.address = endpoint.address();
    host.endpoint = Some(endpoint);

    let image = guest("forever.spt");
    let create = host.tenant(&["create", "hello", image.to_str().unwrap()]);
    host.expect(&create, 0, &["created"]);
    host.expect(&host.tool(&["destroy", "hello", "--csr"]), 0, &[]);
    let sign = ["sign", "tenant.pem", "tenant.db", "tenant.key", "hello.req"];
    host.expect(&host.tool(&sign), 0, &[]);
    let server = ["-d", &host.address, "--server-ca", "cacert.pem"];
    let destroy = [&["certificate", "hello.pem", "hello.key"], &server[..]].concat();
    host.expect(&host.tool(&destroy), 0, &["destroyed"]);

    // The leaf, by its issuer, then the issuer, by its own.
    host.expect(&host.tool(&[&of_tenant[..], &["hello"]].concat()), 0, &[]);
    host.expect(&host.tool(&destroy), 119, &["evoked"]);
    host.expect(&host.tenant(&["info"]), 0, &["no unikernels"]);
    host.expect(&host.tool(&[&of_root[..], &["tenant"]].concat()), 0, &[]);
    host.expect(&host.tenant(&["info"]), 119, &["evoked"]);
    host.expect(&host.crowd(&["info"]), 0, &[]);
}

#[test]
fn a_crl_beside_the_trusted_certificate_is_used_from_when_it_is_there() {
    let host = Host::start();
    host.expect(&host.tenant(&["info"]), 0, &[]);
    let revoke = ["revoke", "cacert.pem", "ca.key", "issued", "tenant"];
    host.expect(
        &host.tool(&revoke),
        0,
        &["beside the authority's certificate"],
    );
    host.expect(&host.tenant(&["info"]), 119, &["evoked"]);
    host.expect(&host.crowd(&["info"]), 0, &[]);
    // It was there, so what it says counts: an unusable one refuses everybody.
    host.file("cacert.crl", "nothing");
    host.expect(&host.crowd(&["info"]), 117, &["no certificate is accepted"]);
}

#[test]
fn a_host_without_a_tender_says_what_it_looked_for() {
    let host = Host::with(Setup {
        path: Some("/nowhere".into()),
        alone: true,
        ..Setup::default()
    });
    host.expect(&host.tenant(&["info"]), 0, &["no unikernels"]);
    let before = host.snapshot();
    for target in ["spt", "hvt"] {
        let image = guest(&format!("forever.{target}"));
        let path = image.to_str().unwrap();
        let name = format!("solo5-{target}");
        for refused in [
            host.petrel(&["create", "x", path]),
            host.tenant(&["create", "x", path]),
        ] {
            host.expect(&refused, 117, &["no tender", &name, "ABI version 2"]);
        }
    }
    assert!(host.names("db/image").is_empty());
    host.assert_unchanged(&before);
}

#[test]
fn a_policy_refuses_before_the_image_is_sent() {
    let (host, steady) = Host::with_steady();
    let image = guest("forever.spt");
    let path = image.to_str().unwrap();
    // The tenant's client knows its policy.
    let refused = host.tenant(&["create", "x", path, "--mem=65"]);
    host.expect(&refused, 124, &["65", "64"]);
    host.assert_unchanged(&steady);
    // What runs already is known to the supervisor alone.
    let refused = host.tenant(&["create", "x", path, "--mem=33"]);
    let reason = "policy of tenant: allows 64 MB of memory, 32 MB are used (tenant:steady 32 MB), 33 MB are asked for";
    host.expect(&refused, 117, &["[unikernel: tenant:x]", reason]);
    let limit = host.petrel(&["add-policy", "tenant", "1", "--mem=64"]);
    host.expect(&limit, 0, &["added policy"]);
    let steady = host.snapshot();
    let refuse = |name: &str, command| {
        let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
        // Nothing is uploaded, and the answer comes all the same.
        daemon.send(name, command);
        daemon.failure()
    };
    let reason = "policy of tenant: allows 1 unikernels, 1 exist";
    assert!(refuse("tenant:x", create(true, 16)).contains(reason));
    let reason = "there is a unikernel tenant:steady already";
    assert!(refuse("tenant:steady", create(true, 16)).contains(reason));
    host.assert_unchanged(&steady);
}

#[test]
fn a_unikernel_that_is_not_there_cannot_be_destroyed_or_got() {
    let (host, steady) = Host::with_steady();
    for refused in [
        host.tenant(&["destroy", "x"]),
        host.tenant(&["get", "x"]),
        host.petrel(&["destroy", "tenant:x"]),
        host.petrel(&["get", "tenant:x"]),
    ] {
        host.expect(&refused, 117, &["there is no unikernel tenant:x"]);
    }
    // Another tenant's is not there, either.
    host.expect(&host.crowd(&["destroy", "steady"]), 117, &["crowd:steady"]);
    host.petrel(&["remove-policy", "--path", "crowd"]);
    host.assert_unchanged(&steady);
}

#[test]
fn keys_of_every_type_serve_authorities_servers_and_clients() {
    let mut host = Host::start();
    for name in ["ed25519", "p256", "p384", "rsa2048"] {
        let option = format!("--key-type={name}");
        let add = ["add-policy", name, "1", "--mem=32", "--csr", &option];
        assert_eq!(host.tool(&add).code(), 0);
        let request = format!("{name}.req");
        let sign = ["sign", "cacert.pem", "issued", "ca.key", &request];
        assert_eq!(host.tool(&sign).code(), 0);

        let server = format!("server-{name}");
        let root = Issuer::load(&host.path("cacert.pem"), &host.path("ca.key")).unwrap();
        let key = host.path(format!("{server}.key"));
        let (key, _) = Key::reuse_or_generate(&key, name.parse().unwrap()).unwrap();
        let validity = Validity::days(time::OffsetDateTime::now_utc(), 1).unwrap();
        let certificate = root
            .issue(
                common_name("server"),
                &key.public_key_info(),
                &Profile::Server,
                validity,
            )
            .unwrap();
        host.file(&format!("{server}.pem"), to_pem([&certificate]));

        let endpoint = host.endpoint_with(&server);
        host.address = endpoint.address();
        let ended = run(&mut host.client_of(name, &["info", &option]));
        host.expect(&ended, 0, &["no unikernels"]);
    }
}

#[test]
fn certificates_that_are_not_good_are_refused() {
    let (host, steady) = Host::with_steady();
    // The key of another one.
    let refused = host.tenant(&["info", "--ca-key", "ca.key"]);
    assert_eq!(refused.code(), 124, "given twice: {refused:?}");
    fs::copy(host.path("crowd.key"), host.path("wrong.key")).unwrap();
    fs::copy(host.path("tenant.pem"), host.path("wrong.pem")).unwrap();
    let refused = run(&mut host.client_of("wrong", &["info"]));
    host.expect(
        &refused,
        124,
        &["'wrong.key' does not belong", "'wrong.pem'"],
    );

    // One that was valid a minute ago.
    let now = time::OffsetDateTime::now_utc();
    let mut params = params("late", Some(info()));
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now - time::Duration::minutes(1);
    issue(&host, "late", params);
    let server = ["-d", &host.address, "--server-ca", "cacert.pem"];
    let refused = host.tool(&[&["certificate", "late.pem", "late.key"], &server[..]].concat());
    host.expect(&refused, 116, &["expired"]);
    // A client that does not look, as the server does.
    let error = rejection(&host, "late");
    assert_eq!(error.exit_code(), 119, "{error}");
    assert!(error.to_string().contains("expired"), "{error}");
    let audit = host.endpoint.as_ref().unwrap().says("expired");
    assert!(audit.contains("verdict="), "{audit}");

    // One of another authority.
    let alien = host.path("alien");
    fs::create_dir(&alien).unwrap();
    let mut tool = host.command("petrel");
    tool.args(["generate", "ca", "issued"]).current_dir(&alien);
    host.expect(&run(&mut tool), 0, &[]);
    let mut client = host.command("petrel");
    client.args(["info", "--destination", &host.address]).args([
        "--ca",
        "alien/cacert.pem",
        "--ca-key",
        "alien/ca.key",
    ]);
    host.expect(
        &run(&mut client),
        116,
        &["our own certificates do not verify"],
    );
    host.assert_unchanged(&steady);
}

#[test]
fn clients_that_speak_less_than_tls_1_3_or_do_not_show_who_they_are_are_refused() {
    let Some(openssl) = on_path("openssl") else {
        return skipped("clients of TLS 1.2, of OpenSSL", "no openssl on PATH");
    };
    let (host, steady) = Host::with_steady();
    let client = |options: &[&str]| {
        run(Process::new(&openssl)
            .args(["s_client", "-ign_eof", "-connect", &host.address])
            .args(["-CAfile", "cacert.pem"])
            .args(options)
            .current_dir(host.path(".")))
    };
    let refused = client(&["-tls1_2", "-cert", "tenant.pem", "-key", "tenant.key"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("protocol version"), "{refused:?}");
    let refused = client(&["-tls1_3"]);
    assert!(
        refused.stderr.contains("certificate required"),
        "{refused:?}"
    );
    host.assert_unchanged(&steady);
}

#[test]
fn a_tenant_cannot_play_the_server() {
    let (host, steady) = Host::with_steady();
    let key = KeyPair::generate().unwrap();
    let request = params("fake", None).serialize_request(&key).unwrap();
    host.file("fake.req", request.pem().unwrap());
    let signed = host.tool(&["sign", "tenant.pem", "issued", "tenant.key", "fake.req"]);
    host.expect(&signed, 124, &["carries a policy"]);
    // With another tool it can issue what looks like a server's certificate.
    let mut params = params("fake", None);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    issue(&host, "fake", params);
    let endpoint = host.endpoint_with("fake");
    let mut client = host.command("petrel");
    client
        .args(["info", "--destination", &endpoint.address()])
        .args(["--ca", "crowd.pem", "--ca-key", "crowd.key"]);
    host.expect(&run(&mut client), 120, &["'tenant'"]);
    host.assert_unchanged(&steady);
}

#[test]
fn a_certificate_cannot_allow_more_than_those_above_it() {
    let (host, steady) = Host::with_steady();
    let request = host.tool(&["add-policy", "greedy", "3", "--mem=32", "--csr"]);
    host.expect(&request, 0, &["greedy.req"]);
    let sign = ["sign", "tenant.pem", "issued", "tenant.key", "greedy.req"];
    host.expect(&host.tool(&sign), 124, &["3", "2"]);
    // Signed all the same.
    let policy = Policy {
        cpuids: vec![Int::new(0)],
        unikernels: Int::new(3),
        memory: Int::new(32),
        block: None,
        bridges: Vec::new(),
    };
    let add = Command::Policy(PolicyCommand::Add(policy));
    let mut params = params("sub", Some(add));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    issue(&host, "sub", params);
    let image = guest("forever.spt");
    let create = ["create", "x", image.to_str().unwrap()];
    let refused = run(&mut host.client_of("sub", &create));
    host.expect(&refused, 117, &["policy", "unikernels"]);
    host.assert_unchanged(&steady);
}

#[test]
fn a_frame_of_two_gigabytes_is_not_waited_for() {
    let (host, steady) = Host::with_steady();
    for socket in ["vmmd", "console"] {
        for prefix in [[0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0x80, 0, 0, 1]] {
            let mut daemon = Wire::to(&host.path(format!("run/util/{socket}.sock")));
            daemon.stream.write_all(&prefix).unwrap();
            let mut rest = Vec::new();
            // Some of what was sent may be unread: that is told as a reset.
            let _ = daemon.stream.read_to_end(&mut rest);
            assert!(rest.is_empty());
        }
    }
    let image = guest("forever.spt");
    sign_create(&host, "big", &image);
    for prefix in [[0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0]] {
        let mut stream = connect(&host, "big").unwrap();
        stream.write_all(&prefix).unwrap();
        let failure = failure_of(&mut stream);
        let length = u32::from_be_bytes(prefix).to_string();
        assert!(failure.contains(&length), "{failure}");
    }
    host.assert_unchanged(&steady);
    let mut console = host.follow("tenant:steady", &[]);
    assert!(console.line().ends_with("success: subscribed"));
    assert!(console.line().ends_with(": ready"));
    let peak = host.supervisor().status("VmHWM");
    assert!(peak < MEMORY, "{peak} KiB");
}

#[test]
fn an_upload_that_is_not_finished_leaves_nothing() {
    let (host, steady) = Host::with_steady();
    let image = guest("forever.spt");
    let contents = fs::read(&image).unwrap();
    let half = &contents[..contents.len() / 2];
    // At the end of a chunk, and inside one.
    let pieces = [
        frame(half).unwrap(),
        [&frame(half).unwrap()[..], &[0, 0, 1, 0, 7]].concat(),
    ];
    sign_create(&host, "half", &image);
    for piece in &pieces {
        let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
        daemon.send("tenant:half", create(false, 32));
        daemon.stream.write_all(piece).unwrap();
        uploading(&host, half.len());
        drop(daemon);
        host.assert_unchanged(&steady);

        let mut stream = connect(&host, "half").unwrap();
        stream.write_all(piece).unwrap();
        uploading(&host, half.len());
        drop(stream);
        host.assert_unchanged(&steady);
    }
    // The name is free again.
    let create = ["create", "half", image.to_str().unwrap(), QUIET];
    host.expect(&host.tenant(&create), 0, &["created unikernel"]);
}

/// Waits until `petreld` has written at least so much of an image.
fn uploading(host: &Host, bytes: usize) {
    eventually("the image arrives", || {
        let mut files = fs::read_dir(host.path("db/image")).unwrap().flatten();
        files.any(|file| {
            let unfinished = file.file_name().to_string_lossy().starts_with('.');
            unfinished && file.metadata().is_ok_and(|data| data.len() >= bytes as u64)
        })
    });
}

#[test]
fn a_file_size_limit_fails_an_upload_and_nothing_else() {
    let before = "ulimit -f 2048";
    a_full_disk_fails_an_upload(before, "File too large");
}

#[test]
fn a_full_disk_fails_an_upload_and_nothing_else() {
    let mounts = Process::new("unshare").args(["-m", "true"]).output();
    if !geteuid().is_root() || !mounts.is_ok_and(|output| output.status.success()) {
        return skipped("a full disk", "only root can mount a small one");
    }
    let inside =
        "exec unshare -m sh -c 'mount -t tmpfs -o size=1m none db && exec \"$@\"' sh \"$@\"";
    a_full_disk_fails_an_upload(inside, "No space left");
}

fn a_full_disk_fails_an_upload(before: &'static str, reason: &str) {
    let (host, steady) = Host::with_steady_on(Setup {
        before: Some(before),
        options: &["--disk-reserve", "0"],
        ..Setup::default()
    });
    let large = large_image(&host, 4 << 20);
    for level in ["0", "9"] {
        let create = ["create", "large", &large, "--compression-level", level];
        for refused in [host.petrel(&create), host.tenant(&create)] {
            host.expect(&refused, 117, &["cannot write", reason]);
        }
    }
    host.assert_unchanged(&steady);
    let image = guest("forever.spt");
    let create = ["create", "small", image.to_str().unwrap(), QUIET];
    host.expect(&host.tenant(&create), 0, &["created unikernel"]);
}

/// Archives have an eighth of what a policy gives: 50 MiB of 400, 32 MiB of 256.
#[test]
fn console_archives_of_a_tenant_count_in_its_disk_quota() {
    let mut host = Host::prepared(Setup::default());
    let mut console = host.command("petrel-console");
    console.args(["-v", "--tmpdir", "run", "--log-dir", "logs"]);
    host.console = Some(Daemon::start(&mut console, "listening"));
    host.start_supervisor();
    // Sparse files of 20 MiB each, of which a later one is newer.
    let archive = |host: &Host, names: &[&str]| {
        for (age, name) in names.iter().enumerate() {
            let file = File::create(host.path("logs").join(name)).unwrap();
            file.set_len(20 << 20).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
            file.set_modified(time).unwrap();
        }
    };
    let ended = |host: &Host| {
        let mut files = host.names("logs");
        files.retain(|file| file != "a:x.log");
        files.into_iter().collect::<Vec<_>>()
    };
    let allow = |host: &Host, memory: &str| {
        let added = host.petrel(&["add-policy", "a", "4", "--mem", memory]);
        host.expect(&added, 0, &["added policy"]);
    };
    archive(
        &host,
        &[
            "a:one.log",
            "a:two.log.1",
            "a:b:three.log",
            "b:one.log",
            "b:two.log",
        ],
    );
    // When the policy comes, and when it changes.
    allow(&host, "100");
    eventually("the archives fit", || {
        ended(&host) == ["a:b:three.log", "a:two.log.1", "b:one.log", "b:two.log"]
    });
    allow(&host, "32");
    eventually("the archives fit into less", || {
        ended(&host) == ["a:b:three.log", "b:one.log", "b:two.log"]
    });
    // A console daemon that was away is told with the consoles of what runs.
    let image = guest("forever.spt");
    let created = host.petrel(&["create", "a:x", image.to_str().unwrap(), "--mem=16"]);
    host.expect(&created, 0, &["created unikernel"]);
    assert_eq!(host.console.take().unwrap().stop(), Some(0));
    archive(&host, &["a:four.log", "a:five.log"]);
    host.console = Some(Daemon::start(&mut console, "listening"));
    eventually("the archives fit again", || {
        ended(&host) == ["a:b:three.log", "b:one.log", "b:two.log"]
    });
}

/// Of two images what a small policy has for images, 224 MB, is used up but for 20; what the store has was found at the start.
#[test]
fn an_image_that_inflates_beyond_the_quota_ends_early() {
    let mut host = Host::start();
    let image = guest("forever.spt");
    let added = host.petrel(&["add-policy", "a", "4", "--mem", "64"]);
    host.expect(&added, 0, &["added policy"]);
    let created = host.petrel(&["create", "a:x", image.to_str().unwrap(), QUIET]);
    host.expect(&created, 0, &["created unikernel"]);
    host.kill_supervisor();
    let stored = File::options()
        .write(true)
        .open(host.path("db/image").join(digest(&image)));
    stored.unwrap().set_len(204 << 20).unwrap();
    host.start_supervisor();

    let mut bomb = ZlibEncoder::new(Vec::new(), Compression::fast());
    bomb.write_all(&fs::read(&image).unwrap()).unwrap();
    bomb.write_all(&vec![0; 48 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    let files = host.names("db/image");
    // It ends in the middle: that it has an end is not told.
    let mut daemon = Wire::to(&host.path("run/util/vmmd.sock"));
    daemon.send("a:y", create(true, 8));
    for chunk in bomb.chunks(MAX_CHUNK) {
        if write_frame(&mut daemon.stream, chunk).is_err() {
            break;
        }
    }
    let why = daemon.failure();
    for part in [
        "the image of a:y does not fit",
        "224 MB of images",
        "destroy",
    ] {
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(host.names("db/image"), files);
    let small = host.petrel(&["create", "a:y", image.to_str().unwrap(), "--mem=8", QUIET]);
    host.expect(&small, 0, &["created unikernel"]);
    let destroyed = host.petrel(&["destroy", "a:x"]);
    host.expect(&destroyed, 0, &["destroyed unikernel"]);
}

#[test]
fn a_tender_that_a_real_time_signal_kills_has_ended() {
    let host = Host::start();
    let image = guest("forever.spt");
    let create = ["create", "hello", image.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&create), 0, &["created unikernel"]);
    let tender = *host.tenders().first().unwrap();
    let killed = run(Process::new("kill").args(["-34", &tender.to_string()]));
    assert_eq!(killed.code(), 0);
    eventually("the tender is noticed to have ended", || {
        host.petrel(&["info"]).stdout.contains("(signal 34)")
    });
    host.expect(&host.petrel(&["info"]), 0, &["#cpus 1 ended last exit"]);
    host.expect(&host.petrel(&["destroy", "hello"]), 0, &["destroyed"]);
    no_image_stays(&host);
}

#[test]
fn a_tender_has_no_descriptor_that_it_does_not_need() {
    let host = Host::with(Setup {
        before: Some("exec 7</dev/null; exec 8</dev/null"),
        ..Setup::default()
    });
    let image = guest("forever.spt");
    let create = ["create", "hello", image.to_str().unwrap(), QUIET];
    host.expect(&host.petrel(&create), 0, &["created unikernel"]);
    let tender = *host.tenders().first().unwrap();
    eventually("the tender has started its guest", || {
        let open: BTreeSet<PathBuf> = fs::read_dir(format!("/proc/{tender}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .collect();
        // Standard input, the console (twice), and what the tender made itself.
        let own = [
            "/dev/null",
            "anon_inode:[eventpoll]",
            "anon_inode:[timerfd]",
        ];
        let foreign: Vec<_> = open
            .iter()
            .filter(|path| !own.contains(&path.to_str().unwrap()) && !path.ends_with(":hello"))
            .collect();
        foreign.is_empty() && open.len() == own.len() + 1 && descriptors(tender) == 5
    });
}

fn descriptors(process: i32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
fn memory_does_not_depend_on_the_images() {
    const IMAGE: u64 = 20 << 20;
    let host = Host::start();
    let large = large_image(&host, IMAGE);
    for number in 0..10_u8 {
        let mut file = File::options().write(true).open(&large).unwrap();
        file.seek(SeekFrom::Start(IMAGE - 1)).unwrap();
        file.write_all(&[number]).unwrap();
        let name = format!("u{number}");
        let options = ["--mem=8", QUIET, "--compression-level=0"];
        let create = [&["create", &name, &large], &options[..]].concat();
        let created = if number % 2 == 0 {
            host.crowd(&create)
        } else {
            host.petrel(&create)
        };
        host.expect(&created, 0, &["created unikernel"]);
    }
    assert_eq!(host.names("db/image").len(), 10);
    let supervisor = host.supervisor();
    let (peak, resident) = (supervisor.status("VmHWM"), supervisor.status("VmRSS"));
    println!("petreld after ten images of 20 MB: {resident} KiB resident, {peak} KiB at most");
    assert!(peak < MEMORY, "{peak} KiB");
}

/// A guest with so many bytes, mostly zeros behind what the tender loads.
fn large_image(host: &Host, bytes: u64) -> String {
    let path = host.file("large", fs::read(guest("forever.spt")).unwrap());
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(bytes).unwrap();
    path.into_os_string().into_string().unwrap()
}

impl Host {
    /// A host on which a tenant runs a unikernel.
    fn with_steady() -> (Self, Snapshot) {
        Self::with_steady_on(Setup::default())
    }

    fn with_steady_on(setup: Setup) -> (Self, Snapshot) {
        let host = Self::with(setup);
        let image = guest("forever.spt");
        let create = ["create", "steady", image.to_str().unwrap(), QUIET];
        host.expect(&host.tenant(&create), 0, &["created unikernel"]);
        let steady = host.snapshot();
        assert_eq!(steady.tenders.len(), 1);
        let stored = format!("image/{}", digest(&image));
        assert!(steady.files.iter().any(|file| file.ends_with(&stored)));
        assert_eq!(host.names("run/fifo"), ["tenant:steady".to_owned()].into());
        (host, steady)
    }
}

/// A connection to a daemon's socket.
struct Wire {
    stream: UnixStream,
}

impl Wire {
    fn to(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream }
    }

    fn send(&mut self, name: &str, command: Command) {
        let message = Message::command(1, &name.parse().unwrap(), command);
        write_frame(&mut self.stream, &message.encode().unwrap()).unwrap();
    }

    /// Sends a request in the form that it has.
    fn send_old(&mut self, name: &str, command: v5::Command) {
        let message = v5::Message {
            header: Header {
                version: Int::new(VERSION),
                sequence: Int64(1),
                name: name.into(),
            },
            payload: v5::Payload::Command(command),
        };
        write_frame(&mut self.stream, &message.encode().unwrap()).unwrap();
    }

    /// Sends an image as it is.
    fn upload(&mut self, image: &[u8]) {
        for chunk in image.chunks(MAX_CHUNK) {
            // It need not be listened to up to its end.
            if write_frame(&mut self.stream, chunk).is_err() {
                return;
            }
        }
        let _ = self.stream.write_all(&END);
    }

    fn reply(&mut self) -> Success {
        let bytes = read_frame(&mut self.stream, MAX_MESSAGE)
            .unwrap()
            .expect("no answer");
        match Message::decode(&bytes).unwrap().payload {
            Payload::Reply(success) => success,
            other => panic!("no success: {other:?}"),
        }
    }

    fn failure(&mut self) -> String {
        failure_of(&mut self.stream)
    }
}

/// Why a request failed.
fn failure_of(stream: &mut impl Read) -> String {
    let bytes = read_frame(stream, MAX_MESSAGE).unwrap().expect("no answer");
    match Message::decode(&bytes).unwrap().payload {
        Payload::Failure(text) => text.to_lossy(),
        other => panic!("no failure: {other:?}"),
    }
}

/// A small unikernel whose image follows.
fn create(compressed: bool, memory: u32) -> Command {
    Command::Unikernel(UnikernelCommand::Create(record(compressed, memory)))
}

fn record(compressed: bool, memory: u32) -> petrel::wire::Config {
    let config = Config {
        kind: Kind::Solo5,
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpus: [0].into(),
        memory,
        blocks: Vec::new(),
        nets: Vec::new(),
        arguments: Vec::new(),
        vcpus: 1,
        linux_boot_partition: None,
    };
    config.to_wire(compressed, Vec::new())
}

fn info() -> Command {
    Command::Unikernel(UnikernelCommand::Info(()))
}

/// `NAME.pem` and `NAME.key` of the tenant, with which an uncompressed image is to be sent.
fn sign_create(host: &Host, name: &str, image: &Path) {
    let image = image.to_str().unwrap();
    let request = host.tool(&["create", name, image, "--compression-level=0", "--csr"]);
    host.expect(&request, 0, &[]);
    let request = format!("{name}.req");
    let signed = host.tool(&["sign", "tenant.pem", "issued", "tenant.key", &request]);
    host.expect(&signed, 0, &[]);
}

/// What a certificate says, when `petrel sign` would not issue it.
fn params(name: &str, command: Option<Command>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(command) = command {
        let value = CertExtension::new(command).encode().unwrap();
        let extension = CustomExtension::from_oid_content(&numbers(&EXTENSION), value);
        params.custom_extensions.push(extension);
    }
    params
}

/// Writes `NAME.pem` and `NAME.key`, issued by the tenant.
fn issue(host: &Host, name: &str, mut params: CertificateParams) {
    let read = |file: &str| fs::read_to_string(host.path(file)).unwrap();
    let (above, above_key) = (read("tenant.pem"), read("tenant.key"));
    let above_key = KeyPair::from_pem(&above_key).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&above, above_key).unwrap();
    let key = KeyPair::generate().unwrap();
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).unwrap();
    host.file(&format!("{name}.pem"), certificate.pem() + &above);
    host.file(&format!("{name}.key"), key.serialize_pem());
}

/// Connects with `NAME.pem` and `NAME.key`, without looking at them before.
fn connect(host: &Host, name: &str) -> Result<TlsStream, ConnectError> {
    let read = |file: String| fs::read(host.path(file)).unwrap();
    let certificates = |bytes: Vec<u8>| -> Vec<CertificateDer<'static>> {
        let pems = pem::parse_many(bytes).unwrap();
        pems.into_iter()
            .map(|pem| pem.into_contents().into())
            .collect()
    };
    let chain = certificates(read(format!("{name}.pem")));
    let key = pem::parse(read(format!("{name}.key"))).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.into_contents().into());
    let anchors = certificates(read("cacert.pem".to_owned()));
    let anchors = anchors.iter().map(|anchor| Anchor::new(anchor).unwrap());
    let destination: Destination = host.address.parse().unwrap();
    let stream = connect_to(&destination, chain, key, anchors.collect())?;
    let limit = TimeVal::seconds(DEADLINE.as_secs().cast_signed());
    setsockopt(&stream, ReceiveTimeout, &limit).unwrap();
    Ok(stream)
}

/// Why the endpoint does not serve these certificates.
fn rejection(host: &Host, name: &str) -> ConnectError {
    match connect(host, name) {
        Err(error) => error,
        Ok(mut stream) => stream.read(&mut [0]).expect_err("accepted").into(),
    }
}

/// A PATH for each tender that works here, and for which target it is.
fn tenders() -> Vec<(PathBuf, &'static str)> {
    let beside = PathBuf::from("/nowhere");
    let mut tenders = vec![(beside, "spt")];
    for target in ["spt", "hvt"] {
        let program = format!("solo5-{target}");
        let Some(path) = on_path(&program) else {
            skipped(
                "the main job under the original",
                &format!("no {program} on PATH"),
            );
            continue;
        };
        let image = guest(&format!("hello.{target}"));
        let tried = run(Process::new(&path).arg("--mem=32").arg(image));
        if tried.code() == 0 {
            tenders.push((path.parent().unwrap().to_owned(), target));
        } else {
            skipped(&program, &tried.stderr);
        }
    }
    tenders
}

/// The file that `get` has stored the image in.
fn stored(host: &Host, got: &Ended) -> PathBuf {
    assert_eq!(got.code(), 0, "{got:?}");
    let line = got
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("stored in "));
    host.path(line.unwrap_or_else(|| panic!("{got:?}")))
}

/// Compares two files, and removes the first.
fn assert_same(file: &Path, other: &Path) {
    assert!(fs::read(file).unwrap() == fs::read(other).unwrap());
    fs::remove_file(file).unwrap();
}

/// SHA-256 of a file as text.
fn digest(file: &Path) -> String {
    let contents = fs::read(file).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &contents);
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// The digest in a line of `petrel info`.
fn digest_in(line: &str) -> Option<String> {
    let (_, after) = line.split_once("digest ")?;
    after.split_whitespace().next().map(str::to_owned)
}
