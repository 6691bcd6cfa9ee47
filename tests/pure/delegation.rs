//! Random trees of delegation: whatever else a client sends along, what it asks for is what the certificates of its
//! verified path say, and lies below that path.
//!
//! Keys and signatures are what costs, so each tree is signed once, and many of its certificates are shown in many
//! ways. `PETREL_TREES` is the number of trees; `PETREL_SEED` replays one of them.

use crate::support::{arbitrary, random};

use std::collections::{BTreeMap, HashMap};
use std::thread;

use arbitrary::Arbitrary;
use petrel::chain::verify::{Anchor, PathError, Usage, verify};
use petrel::chain::{ChainError, EXTENSION, IMAGE_EXTENSION, Request, numbers, request, route};
use petrel::name::{Label, Path};
use petrel::wire::{
    BlockCommand, CertExtension, Command, ConsoleCommand, Policy, PolicyCommand, StatsCommand,
};
use random::Random;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SerialNumber,
};
use rustls::pki_types::{CertificateDer, UnixTime};

const TREES: u64 = 1_000;

/// How often something of one tree is shown. Some of it leads nowhere, as certificates are missing or forged.
const SHOWN: usize = 110;

/// Of all that is shown, at least as much per tree leads to the anchor.
const VERIFIED: usize = 100;

/// Authorities of a tree, and leaves.
const AUTHORITIES: usize = 6;
const LEAVES: usize = 10;

/// Most intermediate certificates in a path that webpki accepts.
const DEPTH: usize = 6;

/// Common names in the order of the certificate, and the label that they make, if they do.
type Subject = (&'static [&'static str], Option<&'static str>);

const GOOD: [Subject; 8] = [
    (&["a"], Some("a")),
    (&["b"], Some("b")),
    (&["web"], Some("web")),
    (&["Web"], Some("web")),
    (&["x.y-1"], Some("x.y-1")),
    (&["root"], Some("root")),
    // The last one counts.
    (&["../a", "b"], Some("b")),
    (&["a", "web"], Some("web")),
];

const BAD: [Subject; 8] = [
    (&[""], None),
    (&["-a"], None),
    (&["a:b"], None),
    (&["../a"], None),
    (&["a b"], None),
    (&["\u{fc}"], None),
    (&["a", "a:b"], None),
    (
        &["a23456789012345678901234567890123456789012345678901234567890abcd"],
        None,
    ),
];

const NAMELESS: Subject = (&[], None);

const ROOT: Subject = (&["root"], Some("root"));

/// Leaves for the path itself.
const OF_PATH: [Subject; 3] = [(&["."], None), (&[":"], None), (&["a", "."], None)];

/// What a certificate says in an extension.
#[derive(Clone)]
enum Said<T> {
    Nothing,
    This(T),
    /// This cannot be read.
    Garbage(Vec<u8>),
    Twice(T),
}

/// What a certificate says.
#[derive(Clone)]
struct Content {
    subject: Subject,
    command: Said<Command>,
    image: Said<[u8; 32]>,
    /// Seconds since 1970.
    not_before: i64,
    serial: Vec<u8>,
}

/// One that an authority of the tree has issued.
struct Issued {
    content: Content,
    /// The authority that issued it; otherwise the root did.
    issuer: Option<usize>,
    /// The authority whose certificate it is, unless it is a leaf.
    of: Option<usize>,
    der: CertificateDer<'static>,
}

struct Authority {
    issuer: Option<usize>,
    subject: Subject,
    key: KeyPair,
    /// One, or two after a renewal.
    certificates: Vec<usize>,
    /// Certificates of the same name that nobody in the tree has issued.
    strangers: Vec<CertificateDer<'static>>,
}

struct Tree {
    anchor: Anchor,
    authorities: Vec<Authority>,
    issued: Vec<Issued>,
    leaves: Vec<usize>,
    by_der: HashMap<Vec<u8>, usize>,
    /// Those of a tree that looks the same, with another root: a leaf first.
    foreign: Vec<CertificateDer<'static>>,
}

/// How many of what was shown came to this.
type Tally = BTreeMap<&'static str, usize>;

#[test]
fn a_command_stays_below_its_verified_path_whatever_is_sent_along() {
    if let Some(seed) = variable("PETREL_SEED") {
        return drop(check(seed));
    }
    let trees = variable("PETREL_TREES").unwrap_or(TREES);
    let workers = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut tally = Tally::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                let step = usize::try_from(workers).unwrap();
                scope.spawn(move || (worker..trees).step_by(step).map(check).collect::<Vec<_>>())
            })
            .collect();
        for one in workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
        {
            for (what, count) in one {
                *tally.entry(what).or_default() += count;
            }
        }
    });
    println!("{trees} trees: {tally:?}");
    let trees = usize::try_from(trees).unwrap();
    if trees >= 100 {
        assert!(tally["verified"] >= trees * VERIFIED, "{tally:?}");
        // Each way to refuse, and each command of a leaf.
        let seen = |what: &&str| !tally.contains_key(what);
        let never: Vec<_> = FAULTS
            .iter()
            .chain(&COMMANDS)
            .copied()
            .filter(seen)
            .collect();
        assert!(never.is_empty(), "never seen: {never:?}");
    }
}

const FAULTS: [&str; 10] = [
    "incomplete",
    "forged",
    "bad name",
    "no name",
    "bad extension",
    "no policy in an issuer",
    "no command",
    "a policy that makes no sense",
    "a policy that grows",
    "a command that is not allowed",
];

/// Those that a leaf may carry.
const COMMANDS: [&str; 15] = [
    "unikernel info",
    "unikernel get",
    "unikernel create",
    "unikernel force-create",
    "unikernel restart",
    "unikernel destroy",
    "policy info",
    "block info",
    "block add",
    "block remove",
    "block set",
    "block dump",
    "stats subscribe",
    "console subscribe",
    "console inactive",
];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Names the seed of what fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("PETREL_SEED={}", self.0);
        }
    }
}

/// One tree.
fn check(seed: u64) -> Tally {
    let _named = Named(seed);
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
    for _ in 0..4 {
        random.bits();
    }
    let tree = Tree::grow(&mut random);
    let mut tally = Tally::new();
    for _ in 0..SHOWN {
        tree.show(&mut random, &mut tally);
    }
    tally
}

impl Tree {
    /// Shows something, and looks at what comes of it.
    fn show(&self, random: &mut Random, tally: &mut Tally) {
        let mut count = |what| *tally.entry(what).or_default() += 1;
        let leaf = &self.issued[self.leaves[random.below(LEAVES)]];
        let mut others = Vec::new();
        let mut complete = true;
        let mut above = Vec::new();
        let mut issuer = leaf.issuer;
        while let Some(number) = issuer {
            above.push(number);
            let authority = &self.authorities[number];
            // Either certificate serves after a renewal, and both together.
            let first = random.below(authority.certificates.len());
            let shown = match random.below(40) {
                0 => &[],
                1..30 => &authority.certificates[first..=first],
                _ => &authority.certificates[..],
            };
            complete &= !shown.is_empty();
            others.extend(shown.iter().map(|number| self.issued[*number].der.clone()));
            issuer = authority.issuer;
        }
        // Mostly one, as each costs signatures.
        for _ in 0..[1, 1, 2, 5][random.below(4)] {
            others.push(self.stranger(&above, random));
        }
        let is_forged = random.below(30) == 0;
        let shown = if is_forged {
            others.extend(self.foreign.iter().skip(1).cloned());
            &self.foreign[0]
        } else {
            &leaf.der
        };
        for last in (1..others.len()).rev() {
            others.swap(last, random.below(last + 1));
        }
        let anchors = std::slice::from_ref(&self.anchor);
        match verify(shown, &others, anchors, UnixTime::now(), Usage::Client) {
            Ok(path) => {
                assert!(!is_forged && complete);
                let path = self.genuine(&path);
                assert_eq!(path[0].der, leaf.der);
                count("verified");
                count(expect(&path));
            }
            // Who sends many of the same names along may be refused, but no more.
            Err(PathError::Webpki(webpki::Error::MaximumSignatureChecksExceeded)) => {
                count("too many");
            }
            Err(_) if is_forged => count("forged"),
            Err(_) if !complete => count("incomplete"),
            Err(error) => panic!("refused: {error}"),
        }
    }

    /// The certificates of a verified path, each of which was issued by the next one's authority, the last by the root.
    fn genuine(&self, path: &[CertificateDer<'_>]) -> Vec<&Issued> {
        let path: Vec<_> = path
            .iter()
            .map(|der| &self.issued[self.by_der[der.as_ref()]])
            .collect();
        let issuers = path.iter().skip(1).map(|issued| {
            assert!(issued.of.is_some(), "a leaf has issued something");
            issued.of
        });
        for (issued, issuer) in path.iter().zip(issuers.chain([None])) {
            assert_eq!(issued.issuer, issuer);
        }
        path
    }

    /// A certificate that is not on the path over these authorities.
    fn stranger(&self, above: &[usize], random: &mut Random) -> CertificateDer<'static> {
        // Those that could take the place of one in the path come more often than others.
        let alike = match above.len() {
            0 => random.below(AUTHORITIES),
            count => above[random.below(count)],
        };
        let strangers = &self.authorities[alike].strangers;
        match random.below(8) {
            0..3 => strangers[random.below(strangers.len())].clone(),
            3 => {
                let other = random.below(AUTHORITIES);
                let place = if above.contains(&other) {
                    self.leaves[0]
                } else {
                    self.authorities[other].certificates[0]
                };
                self.issued[place].der.clone()
            }
            4 => {
                let all = &self.authorities[random.below(AUTHORITIES)].strangers;
                all[random.below(all.len())].clone()
            }
            5 => self.issued[self.leaves[random.below(LEAVES)]].der.clone(),
            6 => self.foreign[random.below(self.foreign.len())].clone(),
            _ => {
                let genuine = &self.issued[self.authorities[alike].certificates[0]].der;
                let mut damaged = genuine.to_vec();
                let position = random.below(damaged.len());
                damaged[position] ^= 1 << random.below(8);
                damaged.into()
            }
        }
    }
}

/// What a path asks for is what its certificates say; in a word, what that is.
fn expect(path: &[&Issued]) -> &'static str {
    let found = request(
        &path
            .iter()
            .map(|issued| &issued.der[..])
            .collect::<Vec<_>>(),
    );
    let mut above = Vec::new();
    let mut policies = Vec::new();
    let fault = |expected: &'static str, position: usize| {
        let (what, at) = match found.as_ref().expect_err(expected) {
            ChainError::BadName(at, _) => ("bad name", *at),
            ChainError::NameRequired(at) => ("no name", *at),
            ChainError::BadExtension(at, _) => ("bad extension", *at),
            ChainError::CommandInIntermediate(at, _) => ("no policy in an issuer", *at),
            ChainError::NoExtensionInLeaf => ("no command", 0),
            ChainError::CommandNotAllowed(..) => ("a command that is not allowed", 0),
            ChainError::BadPolicy(path, _) => ("a policy that makes no sense", path.labels().len()),
            ChainError::PolicyExceeds(path, _) => ("a policy that grows", path.labels().len()),
            other => panic!("{other}"),
        };
        assert_eq!((what, at), (expected, position));
        expected
    };
    for (position, issued) in path.iter().enumerate().skip(1).rev() {
        let content = &issued.content;
        let policy = match &content.command {
            Said::Nothing => continue,
            Said::Garbage(_) | Said::Twice(_) => return fault("bad extension", position),
            Said::This(Command::Policy(PolicyCommand::Add(policy))) => policy,
            Said::This(_) => return fault("no policy in an issuer", position),
        };
        match content.subject {
            ([], _) => return fault("no name", position),
            (_, None) => return fault("bad name", position),
            (_, Some(label)) => above.push(label),
        }
        policies.push((above.clone(), policy, content));
    }
    let mut read = Vec::new();
    for (position, (_, policy, _)) in (1..).zip(&policies) {
        match petrel::policy::Policy::try_from(*policy) {
            Ok(policy) => read.push(policy),
            Err(_) => return fault("a policy that makes no sense", position),
        }
    }
    let mut pairs = (2..).zip(read.windows(2));
    if let Some((position, _)) = pairs.find(|(_, pair)| pair[1].within(&pair[0]).is_err()) {
        return fault("a policy that grows", position);
    }
    let leaf = &path[0].content;
    let command = match &leaf.command {
        Said::Nothing => return fault("no command", 0),
        Said::Garbage(_) | Said::Twice(_) => return fault("bad extension", 0),
        Said::This(command) => command,
    };
    let image = match &leaf.image {
        Said::Nothing => None,
        Said::This(digest) => Some(*digest),
        Said::Garbage(_) | Said::Twice(_) => return fault("bad extension", 0),
    };
    let is_of_path = OF_PATH.contains(&leaf.subject);
    match leaf.subject {
        ([], _) if needs_name(command) => return fault("no name", 0),
        ([..], None) if !is_of_path && leaf.subject != NAMELESS => return fault("bad name", 0),
        _ => {}
    }
    let (Ok(Request { name, .. }) | Err(ChainError::CommandNotAllowed(name, _))) = &found else {
        panic!("{found:?}");
    };
    assert_eq!(labels(name.path()), above);
    assert_eq!(name.label().map(Label::as_str), leaf.subject.1);
    if !may_be_in_leaf(command) {
        return fault("a command that is not allowed", 0);
    }
    let found = found.unwrap();
    assert_eq!(&found.command, command);
    assert_eq!(found.image.map(|digest| digest.0), image);
    assert_eq!(found.policies.len(), policies.len());
    for ((path, dated), (above, policy, content)) in found.policies.iter().zip(policies) {
        assert_eq!(labels(path), above);
        assert_eq!(&dated.policy, policy);
        assert_eq!(dated.not_before.get(), content.not_before);
    }
    route(command).kind
}

fn needs_name(command: &Command) -> bool {
    matches!(command, Command::Block(block) if *block != BlockCommand::Info(()))
}

fn may_be_in_leaf(command: &Command) -> bool {
    match command {
        Command::Unikernel(_) | Command::Block(_) => true,
        Command::Policy(policy) => *policy == PolicyCommand::Info(()),
        Command::Statistics(statistics) => *statistics == StatsCommand::Subscribe(()),
        Command::Console(console) => !matches!(console, ConsoleCommand::Add(_)),
    }
}

impl Tree {
    fn grow(random: &mut Random) -> Self {
        let (root_key, foreign_key) = (key(), key());
        let [root_der, foreign_root] =
            [&root_key, &foreign_key].map(|key| root().self_signed(key).unwrap().der().clone());
        let root = signer(ROOT, &root_key);
        let mut tree = Self {
            anchor: Anchor::new(&root_der).unwrap(),
            authorities: Vec::new(),
            issued: Vec::new(),
            leaves: Vec::new(),
            by_der: HashMap::new(),
            foreign: vec![root_der, foreign_root],
        };
        for number in 0..AUTHORITIES {
            let issuer = random
                .below(number + 1)
                .checked_sub(1)
                .filter(|above| tree.depth(*above) < DEPTH);
            let subject = match random.below(12) {
                0 => NAMELESS,
                1 => BAD[random.below(BAD.len())],
                _ => GOOD[random.below(GOOD.len())],
            };
            let authority = Authority {
                issuer,
                subject,
                key: key(),
                certificates: Vec::new(),
                strangers: Vec::new(),
            };
            tree.authorities.push(authority);
            let renewals = [0, 0, 1][random.below(3)];
            for _ in 0..=renewals {
                let content = Content {
                    subject,
                    ..Content::of_authority(tree.depth(number), random)
                };
                tree.issue(content, issuer, Some(number), &root);
            }
            let strangers = tree.imposters(number, &foreign_key, random);
            tree.authorities[number].strangers = strangers;
        }
        for _ in 0..LEAVES {
            let authorities = [2, AUTHORITIES][random.below(2)];
            let issuer = random.below(authorities + 1).checked_sub(1);
            let content = Content::of_leaf(random);
            tree.issue(content, issuer, None, &root);
        }
        tree.foreign
            .insert(0, tree.forged_leaf(&foreign_key, random));
        tree
    }

    /// How many intermediate certificates there are up to the root.
    fn depth(&self, authority: usize) -> usize {
        let above = self.authorities[authority].issuer;
        1 + above.map_or(0, |above| self.depth(above))
    }

    fn issue(
        &mut self,
        content: Content,
        issuer: Option<usize>,
        of: Option<usize>,
        root: &Issuer<'static, &KeyPair>,
    ) {
        let params = content.params(of.is_some());
        let leaf_key;
        let key = if let Some(number) = of {
            &self.authorities[number].key
        } else {
            leaf_key = key();
            &leaf_key
        };
        let certificate = match issuer {
            Some(issuer) => {
                let issuer = &self.authorities[issuer];
                params.signed_by(key, &signer(issuer.subject, &issuer.key))
            }
            None => params.signed_by(key, root),
        };
        let der = certificate.unwrap().der().clone();
        let number = self.issued.len();
        match of {
            Some(authority) => self.authorities[authority].certificates.push(number),
            None => self.leaves.push(number),
        }
        self.by_der.insert(der.to_vec(), number);
        self.issued.push(Issued {
            content,
            issuer,
            of,
            der,
        });
    }

    /// Certificates with the name of an authority, and another content, that no authority of the tree has signed.
    fn imposters(
        &self,
        number: usize,
        foreign: &KeyPair,
        random: &mut Random,
    ) -> Vec<CertificateDer<'static>> {
        let authority = &self.authorities[number];
        let genuine = &authority.key;
        let above = authority
            .issuer
            .map_or(ROOT, |above| self.authorities[above].subject);
        // A stranger with the names of both sides, as if the issuer had signed it.
        let alleged = signer(above, foreign);
        let content = Content {
            subject: authority.subject,
            ..Content::of_authority(self.depth(number), random)
        };
        let params = content.params(true);
        [
            params.self_signed(foreign),
            params.self_signed(genuine),
            // The genuine key with another content, and another key.
            params.signed_by(genuine, &alleged),
            params.signed_by(foreign, &alleged),
        ]
        .map(|certificate| certificate.unwrap().der().clone())
        .into()
    }

    /// A leaf that an authority of the tree is said to have issued.
    fn forged_leaf(&self, foreign: &KeyPair, random: &mut Random) -> CertificateDer<'static> {
        let alleged = signer(self.authorities[random.below(AUTHORITIES)].subject, foreign);
        let params = Content::of_leaf(random).params(false);
        let leaf = params.signed_by(&key(), &alleged).unwrap();
        leaf.der().clone()
    }
}

impl Content {
    fn of_authority(depth: usize, random: &mut Random) -> Self {
        let policy = match random.below(40) {
            0 => small(random, |random| {
                Command::Policy(PolicyCommand::Add(Policy::arbitrary(random)))
            }),
            1 => Self::policy(0, random),
            _ => Self::policy(depth, random),
        };
        let command = match random.below(16) {
            0 | 1 => Said::Nothing,
            2 if random.below(2) == 0 => Said::This(small(random, Command::arbitrary)),
            _ => Said::likely(policy, random),
        };
        Self {
            subject: NAMELESS,
            command,
            image: Said::Nothing,
            not_before: i64::try_from(random.bits() >> 34).unwrap(),
            serial: Self::serial(random),
        }
    }

    /// A policy that is larger than all that are deeper.
    fn policy(depth: usize, random: &mut Random) -> Command {
        let rest = DEPTH + 1 - depth;
        let mut number = || u64::try_from(10 * rest + random.below(10)).unwrap();
        let policy = petrel::policy::Policy {
            unikernels: number(),
            cpus: (0..u16::try_from(rest).unwrap()).collect(),
            memory: number(),
            block: Some(number()),
            bridges: (0..rest).map(|bridge| format!("br{bridge}")).collect(),
        };
        Command::Policy(PolicyCommand::Add((&policy).into()))
    }

    fn of_leaf(random: &mut Random) -> Self {
        let command = small(random, Command::arbitrary);
        let image = match random.below(3) {
            0 => Said::likely([(); 32].map(|()| random.byte()), random),
            _ => Said::Nothing,
        };
        let command = match random.below(16) {
            0 => Said::Nothing,
            _ => Said::likely(command, random),
        };
        let subject = match random.below(12) {
            0 | 1 => NAMELESS,
            2 => BAD[random.below(BAD.len())],
            3 | 4 => OF_PATH[random.below(OF_PATH.len())],
            _ => GOOD[random.below(GOOD.len())],
        };
        Self {
            subject,
            command,
            image,
            ..Self::of_authority(0, random)
        }
    }

    /// A positive one.
    fn serial(random: &mut Random) -> Vec<u8> {
        let length = 1 + random.below(19);
        let rest = (1..length).map(|_| random.byte());
        let first = 1 + u8::try_from(rest.len()).unwrap();
        [first].into_iter().chain(rest).collect()
    }

    fn params(&self, is_authority: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(self.subject);
        params.serial_number = Some(SerialNumber::from_slice(&self.serial));
        params.not_before = time::OffsetDateTime::from_unix_timestamp(self.not_before).unwrap();
        let command = |command: &Command| CertExtension::new(command.clone()).encode().unwrap();
        let digest = |digest: &[u8; 32]| [&[4, 32], &digest[..]].concat();
        let commands = self.command.values(command).into_iter();
        let images = self.image.values(digest).into_iter();
        params.custom_extensions = commands
            .map(|value| (EXTENSION, value))
            .chain(images.map(|value| (IMAGE_EXTENSION, value)))
            .map(|(oid, value)| CustomExtension::from_oid_content(&numbers(&oid), value))
            .collect();
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        } else {
            params.is_ca = IsCa::ExplicitNoCa;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        params
    }
}

impl<T> Said<T> {
    /// Mostly this.
    fn likely(this: T, random: &mut Random) -> Self {
        match random.below(32) {
            // A sequence that holds nothing.
            0 => Self::Garbage([&[0x30, 0][..], &[7; 3][..random.below(4)]].concat()),
            1 => Self::Twice(this),
            _ => Self::This(this),
        }
    }

    /// The values of the extensions that say it.
    fn values(&self, encode: impl Fn(&T) -> Vec<u8>) -> Vec<Vec<u8>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::This(this) => vec![encode(this)],
            Self::Garbage(bytes) => vec![bytes.clone()],
            Self::Twice(this) => vec![encode(this); 2],
        }
    }
}

/// Something arbitrary that does not fill a certificate.
fn small(random: &mut Random, make: impl Fn(&mut Random) -> Command) -> Command {
    loop {
        let command = make(random);
        let encoded = CertExtension::new(command.clone()).encode();
        if encoded.unwrap().len() <= 1_000 {
            return command;
        }
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn name((common_names, _): Subject) -> DistinguishedName {
    // The same attribute type in two notations, as rcgen has each at most once.
    let types = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
    let mut name = DistinguishedName::new();
    for (kind, text) in types.into_iter().zip(common_names) {
        name.push(kind, *text);
    }
    name
}

/// Whoever signs with this key in this name.
fn signer(subject: Subject, key: &KeyPair) -> Issuer<'static, &KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(subject);
    Issuer::new(params, key)
}

fn root() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(ROOT);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn labels(path: &Path) -> Vec<&str> {
    path.labels().iter().map(Label::as_str).collect()
}
