//! Random trees of delegation: whatever else a client sends along, its command stays below the path that was verified.
//!
//! `PETREL_TREES` is the number of trees; `PETREL_SEED` replays one of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows only the tests themselves as tests, not what helps them"
)]

#[path = "support/random.rs"]
mod random;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use petrel::chain::verify::{Anchor, PathError, Usage, verify};
use petrel::chain::{EXTENSION, numbers, request};
use petrel::name::{Name, Path};
use petrel::wire::{
    CertExtension, Command, ConsoleCommand, Int, Policy, PolicyCommand, UnikernelCommand,
};
use random::Random;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SerialNumber,
};
use rustls::pki_types::{CertificateDer, UnixTime};

/// Trees of which only one path is looked at, by certificates that are made once: keys and signatures are what costs.
const TREES: u64 = 100_000;

/// Every so many of them come with their signatures, and with certificates that are not theirs.
const SIGNED: u64 = 200;

const LABELS: [&str; 6] = ["a", "b", "web", "Web", "x", "a1"];

/// Intermediate certificates of the pool, and leaves.
const NODES: usize = 120;

/// Most intermediate certificates in a path that webpki accepts.
const DEPTH: usize = 6;

/// Trees whose path was verified.
static VERIFIED: AtomicU64 = AtomicU64::new(0);

static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

#[test]
fn a_command_stays_below_its_verified_path_whatever_is_sent_along() {
    if let Some(seed) = variable("PETREL_SEED") {
        return check(seed);
    }
    let trees = variable("PETREL_TREES").unwrap_or(TREES);
    let workers = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || {
                for seed in (worker..trees).step_by(usize::try_from(workers).unwrap()) {
                    check(seed);
                }
            });
        }
    });
    let verified = VERIFIED.load(Ordering::Relaxed);
    assert!(verified >= trees / SIGNED * 9 / 10, "only {verified}");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One tree. What fails names the seed.
fn check(seed: u64) {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
    for _ in 0..4 {
        random.bits();
    }
    if seed.is_multiple_of(SIGNED) {
        check_signed(seed, &mut random);
    } else {
        check_derived(seed, &mut random);
    }
}

/// Any certificates of the pool, one below the other as if they were signed so.
fn check_derived(seed: u64, random: &mut Random) {
    let leaf = &POOL.leaves[random.below(NODES)];
    // Mostly short, as reading certificates is what costs here.
    let length = [2, 2, 2, DEPTH][random.below(4)];
    let path: Vec<_> = (0..random.below(length + 1))
        .map(|_| &POOL.nodes[random.below(NODES)])
        .collect();
    let mut sent = vec![&leaf.der];
    sent.extend(path.iter().map(|node| &node.der));
    expect(seed, &sent, leaf, &path);
}

/// A real path, sent along with strangers of the same names.
fn check_signed(seed: u64, random: &mut Random) {
    let leaf = &POOL.leaves[random.below(NODES)];
    let mut path = Vec::new();
    let mut issuer = leaf.issuer;
    while let Some(node) = issuer {
        path.push(&POOL.nodes[node]);
        issuer = POOL.nodes[node].issuer;
    }
    let mut others: Vec<_> = path.iter().map(|node| node.der.clone()).collect();
    for _ in 0..random.below(5) {
        // Those that could take the place of one in the path come more often than others.
        let alike = match path.len() {
            0 => random.below(NODES),
            count => path[random.below(count)].number,
        };
        let node = [alike, random.below(NODES)][random.below(2)];
        let strangers = &POOL.strangers[node];
        others.push(strangers[random.below(strangers.len())].clone());
    }
    // Neither order nor repetition matters.
    if random.below(4) == 0 {
        others.push(POOL.root.clone());
    }
    for last in (1..others.len()).rev() {
        others.swap(last, random.below(last + 1));
    }
    let now = UnixTime::now();
    let anchors = std::slice::from_ref(&POOL.anchor);
    match verify(&leaf.der, &others, anchors, now, Usage::Client) {
        Ok(verified) => {
            VERIFIED.fetch_add(1, Ordering::Relaxed);
            expect(seed, &verified, leaf, &path);
        }
        // Who sends many of the same names along may be refused, but no more.
        Err(PathError::Webpki(webpki::Error::MaximumSignatureChecksExceeded)) => {}
        Err(error) => panic!("PETREL_SEED={seed}: {error}"),
    }
}

/// What a chain asks for is what the tree says.
fn expect(seed: u64, chain: &[impl AsRef<[u8]>], leaf: &Leaf, path: &[&Node]) {
    let found = request(chain).unwrap_or_else(|error| panic!("PETREL_SEED={seed}: {error}"));
    let mut below = Path::ROOT;
    let mut policies = Vec::new();
    for node in path.iter().rev() {
        if let Some(policy) = &node.policy {
            below = below.child(node.label.parse().unwrap());
            policies.push((below.clone(), policy.clone()));
        }
    }
    policies.reverse();
    let found_policies: Vec<_> = found
        .policies
        .iter()
        .map(|(path, dated)| (path.clone(), dated.policy.clone()))
        .collect();
    let name = match leaf.label {
        Some(label) => Name::new(below.clone(), label.parse().unwrap()),
        None => below.clone().into(),
    };
    assert_eq!(found.name, name, "PETREL_SEED={seed}");
    assert!(found.name.path().is_within(&below), "PETREL_SEED={seed}");
    assert_eq!(found_policies, policies, "PETREL_SEED={seed}");
    assert_eq!(found.command, leaf.command, "PETREL_SEED={seed}");
}

/// Certificates that are made once.
struct Pool {
    root: CertificateDer<'static>,
    anchor: Anchor,
    nodes: Vec<Node>,
    leaves: Vec<Leaf>,
    /// For each node, certificates of the same name that nobody in the tree has issued.
    strangers: Vec<Vec<CertificateDer<'static>>>,
}

/// An intermediate certificate.
struct Node {
    number: usize,
    /// The node that issued it; otherwise the root did.
    issuer: Option<usize>,
    label: &'static str,
    policy: Option<Policy>,
    der: CertificateDer<'static>,
}

struct Leaf {
    issuer: Option<usize>,
    /// `None` stands for the path itself.
    label: Option<&'static str>,
    command: Command,
    der: CertificateDer<'static>,
}

type Signer<'a> = Issuer<'static, &'a KeyPair>;

impl Pool {
    fn new() -> Self {
        let mut random = Random::new(4711);
        let keys: Vec<_> = (0..NODES + 1)
            .map(|_| KeyPair::generate_for(&PKCS_ED25519).unwrap())
            .collect();
        let foreign = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let root = authority("root", None, 0);
        let root_der = root.self_signed(&keys[NODES]).unwrap().der().clone();
        let root_signer = Issuer::new(root.clone(), &keys[NODES]);
        let mut signers: Vec<Signer<'_>> = Vec::new();
        let (mut nodes, mut strangers): (Vec<Node>, Vec<_>) = (Vec::new(), Vec::new());
        for (number, key) in keys[..NODES].iter().enumerate() {
            let issuer = random
                .below(number + 1)
                .checked_sub(1)
                .filter(|node| depth(&nodes, *node) < DEPTH);
            let label = LABELS[random.below(LABELS.len())];
            let policy = (random.below(5) > 0).then(|| policy(number as u64 + 1));
            let params = authority(label, policy.clone(), number as u64 + 1);
            let signer = issuer.map_or(&root_signer, |issuer| &signers[issuer]);
            let der = params.signed_by(key, signer).unwrap().der().clone();
            let above = issuer.map_or("root", |issuer| nodes[issuer].label);
            strangers.push(imposters(label, above, key, &foreign));
            nodes.push(Node {
                number,
                issuer,
                label,
                policy,
                der,
            });
            signers.push(Issuer::new(params, key));
        }
        let leaves = (0..NODES).map(|number| {
            let issuer = random.below(NODES + 1).checked_sub(1);
            let label = [None, Some(LABELS[random.below(LABELS.len())])][random.below(2)];
            let command = [
                Command::Unikernel(UnikernelCommand::Info(())),
                Command::Policy(PolicyCommand::Info(())),
                Command::Console(ConsoleCommand::Inactive(())),
            ][random.below(3)]
            .clone();
            let params = leaf(label.unwrap_or("."), command.clone(), number as u64 + 1000);
            let signer = issuer.map_or(&root_signer, |issuer| &signers[issuer]);
            let der = params.signed_by(&foreign, signer).unwrap().der().clone();
            Leaf {
                issuer,
                label,
                command,
                der,
            }
        });
        Self {
            leaves: leaves.collect(),
            anchor: Anchor::new(&root_der).unwrap(),
            root: root_der,
            nodes,
            strangers,
        }
    }
}

/// Certificates with the name of a node, and another policy, that no authority of the tree has signed.
fn imposters(
    label: &str,
    issuer: &str,
    genuine: &KeyPair,
    foreign: &KeyPair,
) -> Vec<CertificateDer<'static>> {
    let params = authority(label, Some(policy(9999)), 7);
    // A stranger with the names of both sides, as if the issuer had signed it.
    let alleged = Issuer::new(authority(issuer, None, 0), foreign);
    [
        params.self_signed(foreign).unwrap(),
        params.self_signed(genuine).unwrap(),
        // The genuine key with another policy, and another key.
        params.signed_by(genuine, &alleged).unwrap(),
        params.signed_by(foreign, &alleged).unwrap(),
    ]
    .map(|certificate| certificate.der().clone())
    .into()
}

/// How many intermediate certificates there are up to the root.
fn depth(nodes: &[Node], node: usize) -> usize {
    1 + nodes[node].issuer.map_or(0, |issuer| depth(nodes, issuer))
}

fn policy(unikernels: u64) -> Policy {
    Policy {
        cpuids: vec![Int::new(0)],
        unikernels: unikernels.into(),
        memory: Int::new(64),
        block: None,
        bridges: Vec::new(),
    }
}

fn params(name: &str, command: Option<Command>, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial + 1));
    params.custom_extensions = command
        .into_iter()
        .map(|command| {
            let value = CertExtension::new(command).encode().unwrap();
            CustomExtension::from_oid_content(&numbers(&EXTENSION), value)
        })
        .collect();
    params
}

fn authority(name: &str, policy: Option<Policy>, serial: u64) -> CertificateParams {
    let add = policy.map(|policy| Command::Policy(PolicyCommand::Add(policy)));
    let mut params = params(name, add, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf(name: &str, command: Command, serial: u64) -> CertificateParams {
    let mut params = params(name, Some(command), serial);
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}
