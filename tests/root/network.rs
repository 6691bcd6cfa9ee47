//! Unikernels on real bridges, in a network namespace of each test.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{self, host, network, stats};

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use host::{Daemon, Host, Setup, eventually};
use network::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{DEADLINE, Ended, Running, guest, on_path, run, skipped};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const ADMIN: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 2);

/// What the names of all taps begin with.
const TAPS: &str = "pt";

/// Two bridges: `service`, on which the host is 10.99.0.1, and `admin`, on which it is 10.99.1.1.
fn bridges(what: &str) -> Option<Network> {
    let network = Network::new(what)?;
    network.ip(&["link", "set", "lo", "up"]);
    network.bridge("service", "10.99.0.1");
    network.bridge("admin", "10.99.1.1");
    Some(network)
}

fn host(options: &'static [&'static str]) -> Host {
    Host::with(Setup {
        options,
        ..Setup::default()
    })
}

/// Creates a unikernel that answers on bridge `service`.
fn create(host: &Host, name: &str, more: &[&str]) -> Ended {
    let image = guest("net.spt");
    let fixed = ["create", name, image.to_str().unwrap(), "--mem", "16"];
    let options = ["--net", "service", "--arg=--ipv4=10.99.0.2"];
    host.petrel(&[&fixed[..], &options, more].concat())
}

/// Creates a unikernel on this bridge.
fn create_on(host: &Host, bridge: &str, arguments: &[&str]) -> Ended {
    let image = guest("net.spt");
    let net = format!("--net=service:{bridge}");
    let fixed = [image.to_str().unwrap(), "--mem=16", &net];
    host.petrel(&[&["create"], arguments, &fixed].concat())
}

/// Waits until a unikernel says that it listens. Returns what it has said of its networks.
fn ready(host: &Host, name: &str) -> Vec<String> {
    let mut console = host.follow(name, &["--count", "20"]);
    let mut said = Vec::new();
    loop {
        let line = console.line();
        if line.contains("net service: ready") {
            return said;
        }
        if line.contains(": mac ") {
            said.push(line);
        }
    }
}

/// The names of the taps that there are.
fn taps(network: &Network) -> Vec<String> {
    let name = |line: &String| line.split(' ').nth(1).unwrap().replace(':', "");
    network.interfaces(TAPS).iter().map(name).collect()
}

/// The same with the number of each, which another one of the same name would not have.
fn numbers(network: &Network) -> Vec<String> {
    let number = |line: &String| line.split(": ").take(2).collect::<Vec<_>>().join(" ");
    network.interfaces(TAPS).iter().map(number).collect()
}

fn gone(network: &Network) {
    eventually("the taps are gone", || taps(network).is_empty());
}

#[test]
fn a_ping_through_the_bridge_reaches_a_unikernel_deployed_over_tls() {
    let Some(network) = bridges("a ping through a bridge") else {
        return;
    };
    network.open_tun(0o666);
    let host = host(&["--tender-uids", "64300-64309"]);
    let image = guest("net.spt");
    let create = ["create", "hello", image.to_str().unwrap(), "--mem", "16"];
    let options = ["--net", "service", "--arg=--ipv4=10.99.0.2"];
    let mut client = host.client_of("networker", &[&create[..], &options].concat());
    host.expect(&run(&mut client), 0, &["created unikernel"]);
    let said = ready(&host, "networker:hello");
    // The first bytes of the MD5 of "servicenetworker:hello".
    assert!(said[0].contains("net service: mac 00:80:41:"), "{said:?}");
    assert!(said[0].ends_with("mtu 1500"), "{said:?}");
    network.ping(SERVICE);

    let found = network.interfaces(TAPS);
    assert_eq!(found.len(), 1, "{found:?}");
    let user = fs::read_to_string(host.path("run/run/networker:hello")).unwrap();
    let user = user.lines().find(|line| line.starts_with("user ")).unwrap();
    for part in [
        "tun type tap pi off",
        "persist on",
        user,
        "master service",
        ",UP",
    ] {
        assert!(found[0].contains(part), "{part}: {found:?}");
    }
    // So that no bridge takes the address of a tap for its own.
    assert!(found[0].contains("link/ether fe:"), "{found:?}");

    let mut client = host.client_of("networker", &["destroy", "hello"]);
    host.expect(&run(&mut client), 0, &["destroyed"]);
    assert_eq!(taps(&network), [""; 0]);
}

#[test]
fn a_unikernel_for_hvt_is_reached_as_well() {
    let what = "a ping to a unikernel for hvt";
    if on_path("solo5-hvt").is_none() || !Path::new("/dev/kvm").exists() {
        return skipped(what, "needs solo5-hvt(1) and /dev/kvm");
    }
    let Some(network) = bridges(what) else {
        return;
    };
    let host = host(&[]);
    let image = guest("net.hvt");
    let create = ["create", "hello", image.to_str().unwrap(), "--mem", "16"];
    let options = ["--net", "service", "--arg=--ipv4=10.99.0.2"];
    host.expect(&host.petrel(&[&create[..], &options].concat()), 0, &[]);
    ready(&host, "hello");
    network.ping(SERVICE);
    host.expect(&host.petrel(&["destroy", "hello"]), 0, &["destroyed"]);
    assert_eq!(taps(&network), [""; 0]);
}

#[test]
fn a_unikernel_has_several_networks_and_the_addresses_it_is_given() {
    let Some(network) = bridges("several networks") else {
        return;
    };
    let host = host(&[]);
    let image = guest("nets.spt");
    let created = host.petrel(&[
        "create",
        "two",
        image.to_str().unwrap(),
        "--mem=16",
        "--net=service:admin",
        "--net=admin:service@02:00:00:00:00:77",
        "--arg=--ipv4=10.99.1.2",
        "--arg=--admin=10.99.0.2",
    ]);
    host.expect(&created, 0, &["created unikernel"]);
    let said = ready(&host, "two").concat();
    assert!(said.contains("net service: mac 00:80:41:"), "{said}");
    assert!(said.contains("net admin: mac 02:00:00:00:00:77 "), "{said}");
    network.ping(SERVICE);
    network.ping(ADMIN);
    let found = network.interfaces(TAPS);
    assert_eq!(found.len(), 2, "{found:?}");
    for bridge in ["master service", "master admin"] {
        let on_it = found.iter().filter(|tap| tap.contains(bridge));
        assert_eq!(on_it.count(), 1, "{found:?}");
    }
    // A second unikernel of this kind, of which the first has the address.
    let more = ["--arg=--frames=0", "--restart-on-fail"];
    host.expect(&create(&host, "other", &more[..1]), 0, &[]);
    eventually("it has ended, and its tap is gone", || {
        taps(&network).len() == 2
    });
    host.expect(&host.petrel(&["destroy", "two"]), 0, &["destroyed"]);
    assert_eq!(taps(&network), [""; 0]);
}

#[test]
fn taps_are_gone_whatever_way_their_unikernel_ends() {
    let Some(network) = bridges("the ends of taps") else {
        return;
    };
    let host = host(&[]);
    // It exits.
    host.expect(&create(&host, "brief", &["--arg=--frames=0"]), 0, &[]);
    gone(&network);
    // It is killed.
    host.expect(&create(&host, "killed", &[]), 0, &[]);
    assert_eq!(taps(&network).len(), 1);
    let tender = host.tender_of(":killed").unwrap();
    kill(Pid::from_raw(tender), Signal::SIGKILL).unwrap();
    gone(&network);
    host.expect(&host.petrel(&["destroy", "killed"]), 0, &[]);
    // It is replaced, and stopped.
    host.expect(&create(&host, "stopped", &[]), 0, &[]);
    let before = taps(&network);
    ready(&host, "stopped");
    host.expect(&create(&host, "stopped", &["--force"]), 0, &[]);
    assert_eq!(taps(&network), before);
    ready(&host, "stopped");
    network.ping(SERVICE);
    host.expect(&host.petrel(&["stop", "stopped"]), 0, &[]);
    assert_eq!(taps(&network), [""; 0]);
    // The supervisor ends.
    host.expect(&host.petrel(&["start", "stopped"]), 0, &[]);
    assert_eq!(taps(&network), before);
    let mut host = host;
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    assert_eq!(taps(&network), [""; 0]);
}

#[test]
fn a_device_that_cannot_be_opened_leaves_the_running_one_alone() {
    let Some(network) = bridges("a device that cannot be opened") else {
        return;
    };
    network.open_tun(0o600);
    let host = host(&["--tender-uids", "64310-64319"]);
    let image = guest("forever.spt");
    let without = ["create", "hello", image.to_str().unwrap(), "--mem=16"];
    host.expect(&host.petrel(&without), 0, &[]);
    let before = host.tenders();
    let why = "user 64312 cannot open /dev/net/tun";
    host.expect(&create(&host, "hello", &["-f"]), 117, &[why]);
    assert_eq!(host.tenders(), before);
    assert_eq!(taps(&network), [""; 0]);
}

#[test]
fn a_start_that_fails_half_way_leaves_no_tap() {
    let Some(network) = bridges("a start that fails half-way") else {
        return;
    };
    let image = guest("nets.spt");
    let both = ["--net=service", "--net=admin"];
    let mut create = vec!["create", "two", image.to_str().unwrap(), "--mem=16"];
    create.extend(both);
    let setup = Setup::default();
    let host = Host::with(setup);
    host.expect(&host.petrel(&create), 0, &[]);
    let names = taps(&network);
    host.expect(&host.petrel(&["destroy", "two"]), 0, &[]);
    // Somebody else has the name of the second.
    network.ip(&["tuntap", "add", &names[1], "mode", "tap"]);
    let why = format!("cannot make tap {}: Device or resource busy", names[1]);
    host.expect(&host.petrel(&create), 117, &[&why]);
    assert_eq!(taps(&network), names[1..]);
}

#[test]
fn taps_outlive_the_supervisor_with_their_unikernel_and_not_without() {
    let Some(network) = bridges("taps without a supervisor") else {
        return;
    };
    let mut host = host(&[]);
    host.expect(&create(&host, "hello", &[]), 0, &[]);
    host.expect(&create(&host, "other", &[]), 0, &[]);
    ready(&host, "hello");
    let before = numbers(&network);
    host.kill_supervisor();
    assert_eq!(numbers(&network), before);
    let tender = host.tender_of(":other").unwrap();
    kill(Pid::from_raw(tender), Signal::SIGKILL).unwrap();
    eventually("it is dead", || !host.left_tenders().contains(&tender));
    // Not ours, however alike.
    network.ip(&["tuntap", "add", "pt0000000000000", "mode", "tap"]);
    // A supervisor of another database leaves them alone.
    drop(self::host(&[]));
    let check = run(host.supervisor_command().arg("--check"));
    assert!(check.stdout.contains("removes tap pt"), "{check:?}");
    assert_eq!(numbers(&network)[..2], before);

    host.start_supervisor();
    host.supervisor()
        .says("which an earlier supervisor has left, is removed");
    let there = |name: &str| host.petrel(&["info"]).stdout.contains(name);
    eventually("both run", || there(":hello") && there("other"));
    network.ping(SERVICE);
    host.supervisor().signal(Signal::SIGHUP);
    host.supervisor().says("re-executing");
    eventually("it is there again", || there(":hello"));
    for name in ["hello", "other"] {
        host.expect(&host.petrel(&["destroy", name]), 0, &[]);
    }
    assert_eq!(taps(&network), ["pt0000000000000"]);
}

#[test]
fn a_missing_bridge_is_an_error_before_anything_is_touched() {
    let Some(network) = bridges("a missing bridge") else {
        return;
    };
    let host = host(&[]);
    host.expect(&create(&host, "hello", &[]), 0, &[]);
    ready(&host, "hello");
    let tender = host.tender_of(":hello");
    let refused = create_on(&host, "late", &["late"]);
    host.expect(&refused, 117, &["this host has no bridge late"]);
    network.bridge("late", "10.99.2.1");
    host.expect(&create_on(&host, "late", &["late"]), 0, &[]);
    host.supervisor().says("bridges: admin, late, service");
    host.expect(&host.petrel(&["destroy", "late"]), 0, &[]);
    // One that was there when petreld was started.
    network.ip(&["link", "del", "admin"]);
    let why = "there is no bridge admin on this host";
    for arguments in [&["other"][..], &["--force", "hello"]] {
        let before = host.snapshot();
        let refused = create_on(&host, "admin", arguments);
        host.expect(&refused, 117, &[why]);
        host.assert_unchanged(&before);
    }
    assert_eq!(host.tender_of(":hello"), tender);
    network.ip(&["link", "del", "service"]);
    let why = "there is no bridge service on this host";
    host.expect(&host.petrel(&["restart", "hello"]), 117, &[why]);
    assert_eq!(host.tender_of(":hello"), tender);
    assert_eq!(taps(&network).len(), 1);
    let check = run(host.supervisor_command().arg("--check"));
    assert!(check.stderr.contains(why), "{check:?}");
    assert_eq!(check.code(), 124);
}

/// The MTU of the only interface whose name begins so.
fn mtu(network: &Network, prefix: &str) -> String {
    let found = network.interfaces(prefix);
    assert_eq!(found.len(), 1, "{found:?}");
    let mtu = found[0].split(" mtu ").nth(1).unwrap();
    mtu.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_tap_has_the_mtu_of_its_bridge_and_leaves_that_as_it_is() {
    for wanted in ["9000", "1400"] {
        let Some(network) = bridges("the MTU of a tap") else {
            return;
        };
        let peer = ["peer", "name", "far", "mtu", wanted];
        network.ip(&[
            &["link", "add", "near", "mtu", wanted, "type", "veth"],
            &peer[..],
        ]
        .concat());
        network.ip(&["link", "set", "near", "master", "service"]);
        assert_eq!(mtu(&network, "service"), wanted);
        let host = host(&[]);
        host.expect(&create(&host, "hello", &[]), 0, &[]);
        assert_eq!(mtu(&network, TAPS), wanted);
        assert_eq!(mtu(&network, "service"), wanted);
        let said = ready(&host, "hello");
        assert!(said[0].ends_with(&format!("mtu {wanted}")), "{said:?}");
    }
}

#[test]
fn another_name_of_a_bridge_is_a_name_of_it() {
    let Some(network) = bridges("other names of bridges") else {
        return;
    };
    let host = host(&[]);
    let other = "a-bridge-with-a-long-name";
    for name in ["lan", other] {
        network.ip(&["link", "property", "add", "dev", "service", "altname", name]);
        host.expect(&create_on(&host, name, &["hello"]), 0, &[]);
        let found = network.interfaces(TAPS);
        assert!(found[0].contains("master service"), "{found:?}");
        host.expect(&host.petrel(&["destroy", "hello"]), 0, &[]);
    }
    // By none of them one gets the address of another.
    let on = |bridge: &str| format!("{bridge}@02:00:00:00:00:03");
    host.expect(&create_on(&host, &on("service"), &["hello"]), 0, &[]);
    for name in ["service", "lan", other] {
        let refused = create_on(&host, &on(name), &["thief"]);
        host.expect(&refused, 117, &["03 is taken on bridge"]);
    }
    host.expect(&host.petrel(&["destroy", "hello"]), 0, &[]);
    let image = guest("nets.spt");
    let nets = [("service", "lan"), ("admin", other)];
    let [one, two] = nets.map(|(device, name)| format!("--net={device}:{}", on(name)));
    let create = [
        "create",
        "both",
        image.to_str().unwrap(),
        "--mem=16",
        &one,
        &two,
    ];
    let refused = host.petrel(&create);
    host.expect(&refused, 117, &["03 is taken on bridge"]);
    host.expect(&create_on(&host, &on("lan"), &["hello"]), 0, &[]);
}

#[test]
fn a_bridge_that_is_made_anew_gets_the_taps_of_what_runs_back() {
    let Some(network) = bridges("a bridge that is made anew") else {
        return;
    };
    let mut host = host(&[]);
    host.expect(&create(&host, "hello", &[]), 0, &[]);
    ready(&host, "hello");
    let tender = host.tender_of(":hello");
    for by_signal in [true, false] {
        network.ip(&["link", "del", "service"]);
        network.bridge("service", "10.99.0.1");
        assert!(!network.interfaces(TAPS)[0].contains("master"));
        let check = run(host.supervisor_command().arg("--check"));
        let plan = "of :hello on bridge service again";
        assert!(check.stdout.contains(plan), "{check:?}");
        if by_signal {
            host.supervisor().signal(Signal::SIGHUP);
            host.supervisor().says("is put on bridge service again");
        } else {
            host.kill_supervisor();
            host.start_supervisor();
        }
        eventually("it is there again", || host.petrel(&["info"]).code() == 0);
        let found = network.interfaces(TAPS);
        assert!(found[0].contains("master service"), "{found:?}");
        network.ping(SERVICE);
    }
    assert_eq!(host.tender_of(":hello"), tender);
    // Without a bridge there is nothing to be put on.
    network.ip(&["link", "del", "service"]);
    host.kill_supervisor();
    host.start_supervisor();
    let why = "there is no bridge of this name";
    host.supervisor().says(why);
    let info = host.petrel(&["info"]);
    assert!(info.stdout.contains(why), "{info:?}");
}

#[test]
fn an_address_of_the_host_or_of_another_unikernel_is_refused() {
    let Some(network) = bridges("addresses that are taken") else {
        return;
    };
    let (own, ports) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
    network.ip(&["link", "set", "service", "address", own]);
    network.ip(&["link", "add", "near", "address", ports, "type", "veth"]);
    network.ip(&["link", "set", "near", "master", "service"]);
    let host = host(&[]);
    for address in [own, ports] {
        let bridge = format!("service@{address}");
        let refused = create_on(&host, &bridge, &["-f", "hello"]);
        let why = format!("hardware address {address} is that of the host on bridge service");
        host.expect(&refused, 117, &[&why]);
        let elsewhere = format!("admin@{address}");
        host.expect(&create_on(&host, &elsewhere, &["-f", "hello"]), 0, &[]);
    }
    let refused = create_on(&host, "admin@02:00:00:00:00:02", &["other"]);
    host.expect(&refused, 117, &["02 is taken on bridge admin"]);
}

#[test]
fn who_may_not_make_taps_is_told_what_is_needed() {
    let Some(network) = bridges("a supervisor without rights") else {
        return;
    };
    network.open_tun(0o666);
    let mut host = Host::with(Setup {
        user: Some(64200),
        ..Setup::default()
    });
    let why = "petreld needs to be root, or CAP_NET_ADMIN";
    host.expect(&create(&host, "hello", &[]), 117, &["cannot make tap", why]);
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    for options in [&["--lock-mac"][..], &["--lock-mac", "--check"]] {
        let ended = run(host.supervisor_command().args(options));
        assert_eq!(ended.code(), 124);
        let said = "cannot lock hardware addresses";
        assert!(
            ended.stderr.contains(said) && ended.stderr.contains(why),
            "{ended:?}"
        );
    }
}

/// What a bridge has learned of addresses that begin with 02:66.
fn learned() -> Vec<String> {
    let ended = run(Command::new("bridge").args(["fdb", "show"]));
    assert!(ended.status.success(), "{ended:?}");
    let lines = ended.stdout.lines().map(str::to_owned);
    lines.filter(|line| line.starts_with("02:66:")).collect()
}

/// Replaces the unikernel by one that lies, and waits until an answer has come after the lies.
fn lie(host: &Host, network: &Network) {
    let spoof = ["--force", "--arg=--spoof=02:66:00:00:00:66"];
    host.expect(&create(host, "hello", &spoof), 0, &[]);
    ready(host, "hello");
    network.ping(SERVICE);
}

#[test]
fn a_locked_unikernel_cannot_send_from_another_address() {
    let Some(network) = bridges("locked addresses") else {
        return;
    };
    if on_path("bridge").is_none() {
        return skipped("locked addresses", "needs bridge(8)");
    }
    let mut host = host(&[]);
    lie(&host, &network);
    assert_eq!(learned().len(), 2, "both lies pass: {:?}", learned());
    host.expect(&host.petrel(&["destroy", "hello"]), 0, &[]);
    assert_eq!(learned(), [""; 0]);
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    drop(host);

    let mut host = self::host(&["--lock-mac"]);
    lie(&host, &network);
    assert_eq!(learned(), [""; 0]);
    // What runs goes on, locked all the time, whatever becomes of the supervisor.
    host.kill_supervisor();
    network.ping(SERVICE);
    assert_eq!(learned(), [""; 0]);
    host.start_supervisor();
    network.ping(SERVICE);
    assert_eq!(learned(), [""; 0]);
    host.supervisor().signal(Signal::SIGHUP);
    host.supervisor().says("re-executing");
    eventually("it is there again", || host.petrel(&["info"]).code() == 0);
    network.ping(SERVICE);
    assert_eq!(learned(), [""; 0]);

    let Some(nft) = on_path("nft") else {
        return skipped("the rules of locked addresses", "needs nft(8)");
    };
    let rules = || run(Command::new(&nft).args(["list", "ruleset"])).stdout;
    let tap = &taps(&network)[0];
    let listed = rules();
    for part in [
        &format!("chain {tap} {{"),
        &format!("hook ingress device \"{tap}\""),
        " != 0x",
        " drop",
    ] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    host.expect(&host.petrel(&["destroy", "hello"]), 0, &[]);
    assert!(!rules().contains(tap.as_str()), "{}", rules());
    assert_eq!(host.supervisor.take().unwrap().stop(), Some(0));
    assert_eq!(rules(), "");
}

/// Where nobody is.
const ADMIN_NOBODY: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 3);

/// Bytes of an echo request, of its answer, and of a datagram with four: each with its headers.
const FRAME: u64 = 14 + 20 + 12;

/// Whoever has these addresses of `admin` has this hardware address, and need not be asked for it.
fn known(network: &Network, addresses: &[Ipv4Addr], hardware: &str) {
    for address in addresses {
        let address = address.to_string();
        let known = ["lladdr", hardware, "dev", "admin", "nud", "permanent"];
        network.ip(&[&["neigh", "replace", &address], &known[..]].concat());
    }
}

#[test]
fn what_a_unikernel_sends_and_gets_is_told_under_the_name_of_its_own_device() {
    let Some(network) = Network::new("the counters of a tap") else {
        return;
    };
    network.show_attributes();
    // First of all, so that nobody says anything but the test. Without IPv6 there is no such file.
    let _ = fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    network.ip(&["link", "set", "lo", "up"]);
    network.bridge("admin", "10.99.1.1");
    let host = host(&[]);
    let guest = ["hello", "--arg=--ipv4=10.99.1.2"];
    host.expect(&create_on(&host, "admin", &guest), 0, &[]);
    let said = ready(&host, "hello");
    let hardware = said[0].split("mac ").nth(1).unwrap();
    known(&network, &[ADMIN, ADMIN_NOBODY], &hardware[..17]);
    let file = host.path("petrel.prom");
    let _stats = stats::start(&host, &["--prometheus", file.to_str().unwrap()]);
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap().to_string();
    let mut exporter = host.command("petrel-influx");
    exporter.args(["-v", "--tmpdir", "run", "--influx", &address]);
    let _exporter = Daemon::start(&mut exporter, "ready");

    let mut client = Running::start(&mut host.client(&["stats", "--json", "-n", "hello"]));
    let mut told = || -> [u64; 4] {
        let record: Value = serde_json::from_str(&client.line()).unwrap();
        let interfaces = record["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), 1, "{record}");
        let tap = &interfaces[0];
        assert_eq!(
            (&tap["device"], &tap["mtu"]),
            (&"service".into(), &1500.into())
        );
        assert_eq!(tap["flags"].as_u64().unwrap() & 1, 1, "it is up");
        let from = [
            "input_packets",
            "input_bytes",
            "output_packets",
            "output_bytes",
        ];
        from.map(|counter| tap[counter].as_u64().unwrap())
    };
    let before = told();
    let (answered, unanswered) = (5, 7);
    for _ in 0..answered {
        network.ping(ADMIN);
    }
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for _ in 0..unanswered {
        socket.send_to(b"text", (ADMIN_NOBODY, 9)).unwrap();
    }
    // In is what the unikernel sent.
    let sent = [answered, answered * FRAME];
    let received = [answered + unanswered, (answered + unanswered) * FRAME];
    let mut after = before;
    for (counter, more) in after.iter_mut().zip([sent, received].concat()) {
        *counter += more;
    }
    eventually("all frames are counted", || told() == after);
    assert_eq!(told(), after, "and no others");

    let fields = [
        "vm_to_host_packets",
        "vm_to_host_bytes",
        "host_to_vm_packets",
        "host_to_vm_bytes",
    ];
    let (stream, _) = collector.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut lines = BufReader::new(stream).lines();
    let found = lines.any(|line| {
        let line = line.unwrap();
        let counts = fields
            .iter()
            .zip(after)
            .all(|(field, count)| line.contains(&format!(",{field}={count}i,")));
        counts && line.starts_with("interface,vm=hello,bridge=service ")
    });
    assert!(found, "the exporter has closed");

    let metrics = [
        "transmit_packets",
        "transmit_bytes",
        "receive_packets",
        "receive_bytes",
    ];
    eventually("Prometheus has the same", || {
        let text = fs::read_to_string(&file).unwrap();
        metrics.iter().zip(after).all(|(metric, count)| {
            let labels = "{unikernel=\":hello\",device=\"service\"}";
            let metric = format!("petrel_unikernel_network_{metric}_total");
            text.contains(&format!("\n{metric}{labels} {count}\n"))
        })
    });
}
