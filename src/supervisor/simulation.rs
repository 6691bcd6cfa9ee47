//! Seeded random schedules: clients, deaths, timers, failures and crashes in any order, and what must hold all the same.
//!
//! `PETREL_SCHEDULES` is the number of schedules; `PETREL_SEED` replays one of them and prints its log.

mod dice;
mod host;
mod kept;
mod promise;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use self::dice::Dice;
use self::host::{About, Host, Open, Tender, size};
use self::kept::{Kept, Status};
use self::promise::Change;
use super::fixtures::{config, settings};
use super::operation::Goal;
use super::*;
use crate::elf::test_image::Image;
use crate::manifest::Manifest;
use crate::name::Path;
use crate::policy::{Age, check_decrease};
use crate::unikernel::{Block, Death, FailBehaviour};
use crate::wire::{BlockAddFilled, BlockCommand, DatedPolicy, Restart};

const SCHEDULES: u64 = 100_000;

/// What happens in a schedule before it comes to rest.
const STEPS: usize = 60;

/// More steps than any schedule needs to come to rest.
const REST: usize = 5_000;

static NAMES: LazyLock<[Name; 4]> =
    LazyLock::new(|| ["a:x", "a:y", "a:b:x", "a:b:y"].map(|name| name.parse().unwrap()));
/// Block devices that are there in the beginning.
static DEVICES: LazyLock<[Name; 2]> =
    LazyLock::new(|| ["a:disk", "a:b:disk"].map(|name| name.parse().unwrap()));
/// What comes and goes.
static MORE_DEVICES: LazyLock<[Name; 3]> =
    LazyLock::new(|| ["a:disk", "a:more", "a:b:more"].map(|name| name.parse().unwrap()));
static PATHS: LazyLock<[Path; 2]> =
    LazyLock::new(|| ["a", "a:b"].map(|path| path.parse().unwrap()));

#[test]
fn the_rules_hold_in_random_schedules() {
    if let Some(seed) = number("PETREL_SEED") {
        let (violation, log) = Schedule::replay(seed);
        println!("{log}");
        return assert_eq!(violation, None);
    }
    let schedules = number("PETREL_SCHEDULES").unwrap_or(SCHEDULES);
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let shortest = std::thread::scope(|scope| {
        let search = |worker| {
            (worker..schedules)
                .step_by(usize::try_from(workers).unwrap())
                .filter_map(|seed| Some((Schedule::run(seed)?, seed)))
                .min()
        };
        let workers: Vec<_> = (0..workers)
            .map(|worker| scope.spawn(move || search(worker)))
            .collect();
        let found = workers.into_iter().map(|worker| worker.join().unwrap());
        found.flatten().min()
    });
    if let Some((_, seed)) = shortest {
        let (violation, log) = Schedule::replay(seed);
        panic!("{log}PETREL_SEED={seed}: {}", violation.unwrap_or_default());
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A supervisor, its host, and what is thrown at them.
struct Schedule {
    supervisor: Supervisor,
    host: Host,
    /// Effects but uploads and announcements are done before anything else happens, as in `petreld`.
    prompt: bool,
    counter: i64,
    now: Moment,
    /// Bytes that images took below each path with a policy.
    taken: BTreeMap<Path, u64>,
    /// What is used at and below each path, as it was after the last event of this supervisor.
    used: Option<BTreeMap<Path, Used>>,
    /// Events so far.
    length: usize,
    log: Option<String>,
}

/// What a request makes of the policy of a path, and the age of its certificate, if it has one.
type PolicyChange = (Path, Option<Policy>, Option<Age>);

/// What is used at and below a path; memory and block storage in MB.
#[derive(Debug)]
struct Used {
    unikernels: u64,
    memory: u64,
    block: u64,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let (failing, prompt) = (dice.pick(&[0, 5, 30]), dice.chance(40));
        let host = Host::new(dice, failing);
        Self {
            supervisor: Supervisor::new(State::default(), Vec::new(), with_devices(&host)),
            host,
            prompt,
            counter: 0,
            now: Moment {
                monotonic: Duration::ZERO,
                wall: Timestamp::from_unix(0, 0),
            },
            taken: BTreeMap::new(),
            used: None,
            length: 0,
            log: None,
        }
    }

    /// Plays a schedule; its length if a rule is broken.
    fn run(seed: u64) -> Option<usize> {
        let mut schedule = Self::new(seed);
        schedule.play();
        schedule.host.violation.map(|_| schedule.length)
    }

    /// Plays a schedule, and tells what was broken, and what happened.
    fn replay(seed: u64) -> (Option<String>, String) {
        let mut schedule = Self::new(seed);
        schedule.log = Some(String::new());
        schedule.play();
        (schedule.host.violation, schedule.log.unwrap_or_default())
    }

    fn play(&mut self) {
        for _ in 0..STEPS {
            self.step();
            if self.host.exited {
                self.check_end();
                self.reboot();
            }
            if self.host.violation.is_some() {
                return;
            }
        }
        self.rest();
        if !self.supervisor.stopping {
            self.check_rest();
            self.happen(Event::Terminate);
            self.rest();
        }
        self.check_end();
    }

    /// One thing happens.
    fn step(&mut self) {
        match self.host.dice.below(200) {
            0..45 => self.ask(),
            45..60 => {
                let arriving: Vec<_> = self.host.arriving.keys().copied().collect();
                if !arriving.is_empty() {
                    let upload = self.host.dice.pick(&arriving);
                    self.host.go_on_with_upload(upload);
                }
                let streams: Vec<_> = self.host.streams.keys().copied().collect();
                if !streams.is_empty() {
                    let task = self.host.dice.pick(&streams);
                    self.host.finish_stream(task);
                }
            }
            60..66 => {
                let clients: Vec<_> = self.host.connections.keys().copied().collect();
                if !clients.is_empty() {
                    let client = self.host.dice.pick(&clients);
                    self.host.leave(client);
                }
            }
            66..76 => {
                let alive: Vec<_> = self.host.tenders.keys().copied().collect();
                if !alive.is_empty() {
                    let run = self.host.dice.pick(&alive);
                    let codes = [Death::Exit(0), Death::Exit(1), Death::Exit(2)];
                    let others = [Death::Exit(64), Death::Signal(9), Death::Signal(11)];
                    let death = self.host.dice.pick(&[codes, others].concat());
                    self.host.die(run, death);
                }
            }
            76..84 => {
                let after = self.host.dice.pick(&[50, 200, 5_000, 11_000, 80_000]);
                self.pass(Duration::from_millis(after));
            }
            84..87 => self.happen(Event::ConsoleUp),
            87 => self.happen(Event::Terminate),
            88..90 => {
                self.host.crash();
                self.check();
                self.reboot();
            }
            90..130 => self.write(),
            _ => self.tell_any(),
        }
    }

    /// A client asks for something.
    fn ask(&mut self) {
        self.counter += 1;
        let (request, dice) = (self.counter, &mut self.host.dice);
        let reused = dice.chance(50);
        let (command, name, about) = match dice.below(24) {
            20.. => {
                let name = dice.pick(&*MORE_DEVICES);
                let (command, there) = Self::random_block_command(dice);
                let about = About::Block(name.clone(), there);
                (Command::Block(command), name, about)
            }
            kind @ 0..15 => {
                let name = dice.pick(&*NAMES);
                let (command, change) = Self::random_command(dice, kind, request);
                self.host.unikernel(&name).ask(request, change);
                let about = About::Unikernel(name.clone());
                (Command::Unikernel(command), name, about)
            }
            kind => {
                let path = dice.pick(&*PATHS);
                let name = Name::from(path.clone());
                let (command, changes) = Self::random_policy_command(dice, kind, request, path);
                let mut about = Vec::new();
                for (path, policy, age) in changes {
                    self.host.policy(&path).ask(request, Change::To(policy));
                    about.push((path, age));
                }
                (Command::Policy(command), name, About::Policies(about))
            }
        };
        let free = self.host.connections.iter().find(|(_, free)| **free);
        let client = match free {
            Some((client, _)) if reused => *client,
            _ => ConnectionId(u64::try_from(request).unwrap()),
        };
        self.host.connections.insert(client, false);
        let device = matches!(
            &command,
            Command::Unikernel(UnikernelCommand::Create(config) | UnikernelCommand::ForceCreate(config))
                if config.blocks.is_some()
        );
        let open = Open {
            client,
            about,
            device,
        };
        self.host.open.insert(request, open);
        self.note(|| format!("request {request} for {name}"));
        let message = Message::command(request, &name, command);
        self.happen(Event::Message {
            from: client,
            message,
        });
    }

    /// One of the requests for a unikernel, and what it makes of what is there.
    fn random_command(
        dice: &mut Dice,
        kind: usize,
        request: i64,
    ) -> (UnikernelCommand, Change<Kept>) {
        use UnikernelCommand as U;

        let config = Self::random_config(dice, request);
        let wire = config.to_wire(false, Vec::new());
        match kind {
            0..3 => (U::Create(wire), Change::By(kept::created)),
            3..7 => (U::ForceCreate(wire), Change::By(kept::created)),
            7..9 => (U::Destroy(()), Change::To(None)),
            9 => {
                let arguments = config.to_wire_arguments();
                let restart = U::Restart(Restart::NewArguments(arguments));
                (restart, Change::By(kept::created))
            }
            10 => {
                let restart = U::Restart(Restart::NoArguments(()));
                (restart, Change::By(kept::started))
            }
            11 => (U::Stop(()), Change::By(kept::stopped)),
            12 => (U::Start(()), Change::By(kept::started)),
            _ => (U::Rollback(()), Change::By(kept::rolled_back)),
        }
    }

    /// One of the requests for a block device, and whether it is there after success.
    fn random_block_command(dice: &mut Dice) -> (BlockCommand, bool) {
        let size = Int::new(dice.pick(&[5, 10]));
        let filled = BlockAddFilled {
            size,
            compressed: false,
        };
        match dice.below(6) {
            0 => (BlockCommand::Add(size), true),
            1 => (BlockCommand::AddFilled(filled), true),
            2 => (BlockCommand::Remove(()), false),
            3 | 4 => (BlockCommand::Set(false), true),
            _ => (BlockCommand::Dump(Int::new(0)), true),
        }
    }

    /// A configuration whose argument says by which request it came.
    fn random_config(dice: &mut Dice, request: i64) -> Config {
        let restarts = FailBehaviour::Restart(dice.pick(&[vec![], vec![2]]).into_iter().collect());
        let disk = |device: &str| Block {
            device: device.to_owned(),
            host_device: Some("disk".to_owned()),
            sector_size: None,
        };
        let machine = dice.chance(15);
        Config {
            kind: if machine { Kind::Bhyve } else { Kind::Solo5 },
            memory: dice.pick(&[20, 30, 60]),
            fail_behaviour: dice.pick(&[FailBehaviour::Quit, restarts]),
            arguments: vec![request.to_string().into_bytes()],
            blocks: match dice.below(3) {
                _ if machine => vec![disk("0")],
                0 => vec![disk("data")],
                _ => Vec::new(),
            },
            ..config()
        }
    }

    /// One of the requests about policies, and what it makes of which paths.
    fn random_policy_command(
        dice: &mut Dice,
        kind: usize,
        request: i64,
        path: Path,
    ) -> (PolicyCommand, Vec<PolicyChange>) {
        if kind >= 18 {
            return (PolicyCommand::Remove(()), vec![(path, None, None)]);
        }
        if dice.chance(40) {
            let policy = Self::random_policy(dice);
            let add = PolicyCommand::Add((&policy).into());
            return (add, vec![(path, Some(policy), None)]);
        }
        let mut paths: Vec<_> = path.ancestry().filter(|path| !path.is_root()).collect();
        paths.reverse();
        let (mut chain, mut changes) = (Vec::new(), Vec::new());
        for path in paths {
            let policy = Self::random_policy(dice);
            let dated = Self::random_certificate(dice, request, &policy);
            changes.push((path, Some(policy), Some(Age::from(&dated))));
            chain.push(dated);
        }
        (PolicyCommand::SetChain(chain), changes)
    }

    fn random_policy(dice: &mut Dice) -> Policy {
        Policy {
            unikernels: dice.pick(&[0, 1, 2, 4]),
            memory: dice.pick(&[0, 40, 80, 120]),
            cpus: [0].into(),
            block: dice.pick(&[None, Some(20), Some(30), Some(60)]),
            bridges: BTreeSet::new(),
        }
    }

    /// A certificate of about the time of the request, in which minutes pass.
    fn random_certificate(dice: &mut Dice, request: i64, policy: &Policy) -> DatedPolicy {
        DatedPolicy {
            policy: policy.into(),
            not_before: Int::new(request * 20 - dice.pick(&[0, 0, 20, 30, 70, 150])),
        }
    }

    /// Time passes; what it brings comes in any order.
    fn pass(&mut self, time: Duration) {
        self.host.clock += time;
        let clock = self.host.clock;
        let due = self.host.timers.extract_if(.., |(at, _)| *at <= clock);
        self.host
            .untold
            .extend(due.map(|(_, timer)| Event::Timer(timer)));
    }

    fn write(&mut self) {
        match self.host.write() {
            Some(event) => self.happen(event),
            None => self.check(),
        }
    }

    fn tell_any(&mut self) {
        if !self.host.untold.is_empty() {
            let index = self.host.dice.below(self.host.untold.len());
            let event = self.host.untold.remove(index);
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        self.tell(event);
        while self.prompt && self.host.violation.is_none() {
            if let Some(event) = self.host.write() {
                self.tell(event);
            } else if self.host.writes.is_empty() {
                let at_once = |event: &Event| {
                    matches!(
                        event,
                        Event::Inspected { .. }
                            | Event::Prepared { .. }
                            | Event::Spawned { .. }
                            | Event::Block { .. }
                    )
                };
                let Some(index) = self.host.untold.iter().position(at_once) else {
                    break;
                };
                let event = self.host.untold.remove(index);
                self.tell(event);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.length += 1;
        self.note(|| format!("{event:?}"));
        self.host.tell(&event);
        self.now.monotonic = self.host.clock;
        let stale = self.stale(&event);
        let history = self.history();
        let request = match &event {
            Event::Message { message, .. } => Some(message.clone()),
            _ => None,
        };
        let entitled = request
            .as_ref()
            .is_some_and(|request| self.is_entitled(request));
        let before = self.supervisor.ledger.clone();
        let mut refused = false;
        for effect in self.supervisor.handle(&self.now, event) {
            self.note(|| format!("    {effect:?}"));
            refused |= matches!(
                (&effect, &request),
                (Effect::Answer { message, .. }, Some(request))
                    if message.header == request.header
                        && matches!(message.payload, Payload::Failure(_))
            );
            self.host.carry_out(effect);
        }
        for name in history.difference(&self.history()) {
            if !self.supervisor.operations.contains_key(name) {
                self.host.forget(name);
            }
        }
        // Only what nobody wants any more may have what somebody is to get.
        for holder in std::mem::take(&mut self.host.holders) {
            let stray = self.is_stray(&holder);
            self.host
                .must(stray, || format!("what {holder} has is used by others"));
        }
        self.host.must(!(refused && entitled), || {
            format!("refused is what nobody may be refused: {request:?}")
        });
        if refused {
            let same = self.supervisor.ledger.all().eq(before.all());
            self.host
                .must(same, || format!("refused, but with effect: {request:?}"));
        }
        for (path, before) in stale {
            if refused {
                continue;
            }
            self.host.must(before.is_some(), || {
                format!("an older certificate goes on without any policy of {path}")
            });
            let kept = self.supervisor.ledger.at(&path) == before.as_ref();
            self.host.must(kept, || {
                format!("an older certificate replaces the policy {before:?} of {path}")
            });
        }
        self.check();
        if let Some(broken) = self.overgrown() {
            self.host.must(false, || broken);
        }
        if let Some(broken) = self.archives_beyond() {
            self.host.must(false, || broken);
        }
    }

    /// The tenant whose archives may take more than the policy in force leaves to them.
    fn archives_beyond(&self) -> Option<String> {
        self.host.archive_bounds.iter().find_map(|(tenant, bytes)| {
            let policy = self.supervisor.ledger.at(tenant)?;
            let share = DiskQuota::default().of_archives(policy)?;
            (*bytes > share)
                .then(|| format!("archives of {tenant} may take {bytes} bytes of {share}"))
        })
    }

    /// The paths with an older certificate than one that was acknowledged, and the policies in force there that differ.
    fn stale(&self, event: &Event) -> Vec<(Path, Option<Policy>)> {
        let Event::Message { message, .. } = event else {
            return Vec::new();
        };
        let Payload::Command(Command::Policy(PolicyCommand::SetChain(chain))) = &message.payload
        else {
            return Vec::new();
        };
        let links = Self::links(message, chain);
        let stale = links.filter(|(path, dated)| {
            let newest = self.host.newest.get(path);
            newest.is_some_and(|newest| Age::from(*dated) < *newest)
        });
        stale
            .map(|(path, _)| (path.clone(), self.supervisor.ledger.at(&path).cloned()))
            .collect()
    }

    /// The policies of a chain, and their paths.
    fn links<'a>(
        message: &Message,
        chain: &'a [DatedPolicy],
    ) -> impl Iterator<Item = (Path, &'a DatedPolicy)> {
        let path = domain::name(&message.header.name).unwrap().path().clone();
        let mut paths: Vec<_> = path.ancestry().collect();
        paths.reverse();
        paths.into_iter().skip(1).zip(chain)
    }

    /// Whether this may not be refused at once, whatever is in use and in force: stopping and destroying what is there, a
    /// policy within those above, and a chain that decreases.
    fn is_entitled(&self, request: &Message) -> bool {
        use UnikernelCommand as U;

        let Supervisor {
            stopping,
            unikernels,
            ended,
            ages,
            ledger,
            ..
        } = &self.supervisor;
        let name = domain::name(&request.header.name).unwrap();
        if *stopping {
            return false;
        }
        match &request.payload {
            Payload::Command(Command::Unikernel(U::Stop(()) | U::Destroy(()))) => {
                unikernels.contains_key(&name) || ended.contains_key(&name)
            }
            Payload::Command(Command::Policy(PolicyCommand::Add(policy))) => {
                let policy = Policy::try_from(policy).unwrap();
                self.supervisor.ledgers().all(|ledger| {
                    let above = name.path().ancestry().skip(1);
                    let mut above = above.filter(|path| !path.is_root());
                    above.all(|path| ledger.at(&path).is_none_or(|at| policy.within(at).is_ok()))
                })
            }
            Payload::Command(Command::Policy(PolicyCommand::SetChain(chain))) => {
                let policies = chain.iter().map(|dated| Policy::try_from(&dated.policy));
                let policies: Vec<_> = policies.map(Result::unwrap).collect();
                let nothing_removed = Self::links(request, chain).all(|(path, dated)| {
                    ledger.at(&path).is_some() || !ages.is_stale(&path, dated.into())
                });
                check_decrease(&policies).is_ok() && nothing_removed
            }
            _ => false,
        }
    }

    /// A supervisor starts from what is on disk.
    fn reboot(&mut self) {
        self.note(|| "the supervisor starts anew".to_owned());
        let survivors = self.host.restart();
        let settings = with_devices(&self.host);
        self.supervisor = Supervisor::new(self.host.disk.clone(), survivors, settings);
        self.taken.clear();
        self.used = None;
        self.happen(Event::Boot);
    }

    /// Everything succeeds from now on, until nothing is under way.
    fn rest(&mut self) {
        self.note(|| "nothing fails from now on".to_owned());
        self.host.failing = 0;
        for _ in 0..REST {
            if self.host.violation.is_some() {
                return;
            }
            if !self.host.writes.is_empty() && self.host.dice.chance(50) {
                self.write();
            } else if !self.host.untold.is_empty() {
                self.tell_any();
            } else if !self.host.writes.is_empty() {
                self.write();
            } else if let Some(upload) = self.host.arriving.keys().next().copied() {
                self.host.go_on_with_upload(upload);
            } else if let Some(task) = self.host.streams.keys().next().copied() {
                self.host.finish_stream(task);
            } else if let Some(next) = self.host.timers.iter().map(|(at, _)| *at).min() {
                self.pass(next.saturating_sub(self.host.clock));
            } else {
                return;
            }
        }
        self.host
            .must(false, || "it never comes to rest".to_owned());
    }

    /// What holds at any time.
    fn check(&mut self) {
        let used = self.used();
        if let Some(broken) = self.broken().or_else(|| self.outgrown(&used)) {
            self.host.must(false, || broken);
        }
        self.used = Some(used);
    }

    fn broken(&self) -> Option<String> {
        let lost = |image: &ImageDigest| !self.host.store.contains(image);
        self.host
            .disk
            .images()
            .find(lost)
            .map(|image| format!("the disk names image {image}, which is gone"))
            .or_else(|| self.broken_promise())
            .or_else(|| self.outliving_tap())
            .or_else(|| self.forgotten())
    }

    /// What is used at and below each path.
    fn used(&self) -> BTreeMap<Path, Used> {
        let memories = self.memories();
        let paths = PATHS.iter().cloned().chain([Path::ROOT]);
        let used = paths.map(|path| {
            let below = memories
                .iter()
                .filter(|(name, _)| name.path().is_within(&path));
            let used = Used {
                unikernels: below.clone().count() as u64,
                memory: below.map(|(_, memory)| u64::from(*memory)).sum(),
                block: self.supervisor.devices.storage_below(&path),
            };
            (path, used)
        });
        used.collect()
    }

    /// The policy in force beyond which the use of its path has grown with the last event. It may be smaller than what
    /// was in use before.
    fn outgrown(&self, used: &BTreeMap<Path, Used>) -> Option<String> {
        let before = self.used.as_ref()?;
        self.supervisor.ledger.all().find_map(|(path, policy)| {
            let (before, now) = (before.get(path)?, used.get(path)?);
            let limits = [
                (before.unikernels, now.unikernels, policy.unikernels),
                (before.memory, now.memory, policy.memory),
                (before.block, now.block, policy.block.unwrap_or(0)),
            ];
            let outgrown = limits
                .iter()
                .any(|(before, now, limit)| now > before && now > limit);
            outgrown.then(|| {
                format!("the use of {path} grows from {before:?} to {now:?} beyond {policy:?}")
            })
        })
    }

    /// The unikernels that have ended, and those with a previous version, if nothing is under way about them.
    fn history(&self) -> BTreeSet<Name> {
        let Supervisor {
            unikernels,
            ended,
            operations,
            ..
        } = &self.supervisor;
        let previous = unikernels.iter();
        let previous = previous.filter(|(_, unikernel)| unikernel.previous.is_some());
        let names = previous.map(|(name, _)| name).chain(ended.keys());
        let names = names.filter(|name| !operations.contains_key(*name));
        names.cloned().collect()
    }

    /// The policy below whose path images have come to take more than it allows, which shrinks only.
    fn overgrown(&mut self) -> Option<String> {
        let before = std::mem::take(&mut self.taken);
        let policies: Vec<_> = self.supervisor.ledger.all().collect();
        let policies = policies.into_iter().filter(|(path, _)| !path.is_root());
        let taken = policies.map(|(path, policy)| {
            let allowed = DiskQuota::default().of_images(policy).unwrap_or(0);
            (path.clone(), (self.taken_below(path), allowed))
        });
        let taken: BTreeMap<_, _> = taken.collect();
        let overgrown = taken.iter().find(|(path, (taken, allowed))| {
            let before = before.get(*path);
            taken > allowed && before.is_some_and(|before| taken > before)
        });
        let text = overgrown.map(|(path, (taken, allowed))| {
            format!("images below {path} grow to {taken} bytes, {allowed} are allowed")
        });
        let taken = taken.into_iter();
        self.taken = taken.map(|(path, (taken, _))| (path, taken)).collect();
        text
    }

    /// Bytes of all images below a path: of what is there, was there, will be there or arrives.
    fn taken_below(&self, path: &Path) -> u64 {
        let Supervisor {
            unikernels,
            ended,
            operations,
            ..
        } = &self.supervisor;
        let present = unikernels.iter();
        let present = present.flat_map(|(name, one)| one.versions().map(move |it| (name, it)));
        let ended = ended.iter();
        let ended = ended.flat_map(|(name, one)| one.versions().map(move |it| (name, it)));
        let coming = operations.iter();
        let coming = coming.flat_map(|(name, one)| one.versions().map(move |it| (name, it)));
        let kept = present.chain(ended).chain(coming);
        let kept = kept.filter(|(name, _)| name.path().is_within(path));
        let kept: BTreeSet<_> = kept.filter_map(|(_, it)| it.stored_image()).collect();
        let Host {
            arriving, staged, ..
        } = &self.host;
        let arriving = arriving.values().filter(|one| one.path.is_within(path));
        let staged = staged.values().filter(|one| one.path.is_within(path));
        kept.iter().map(size).sum::<u64>()
            + arriving.map(|one| one.granted).sum::<u64>()
            + staged.map(|one| size(&one.digest)).sum::<u64>()
    }

    /// Whether a unikernel is what an earlier supervisor has left, and nobody wants.
    fn is_stray(&self, name: &Name) -> bool {
        let operation = self.supervisor.operations.get(name);
        operation.is_some_and(|operation| matches!(operation.goal, Goal::Evict(_)))
    }

    /// The certificates whose age a crash would forget, so that an older one could win.
    fn forgotten(&self) -> Option<String> {
        let Host { disk, newest, .. } = &self.host;
        let recorded = Ages::new(disk.ages.clone(), disk.forgotten.clone());
        newest.iter().find_map(|(path, age)| {
            (!recorded.covers(path, *age))
                .then(|| format!("the disk forgets {age:?} of {path}: {recorded:?}"))
        })
    }

    /// No tap outlives its unikernel, or is there before somebody is about to start it.
    fn outliving_tap(&self) -> Option<String> {
        let operations = &self.supervisor.operations;
        let stray = self.host.stray_tap(|name| operations.contains_key(name))?;
        Some(format!("{stray} is gone, but not its taps"))
    }

    /// What was promised, but is not on disk.
    fn broken_promise(&self) -> Option<String> {
        let Host {
            disk,
            unikernels,
            policies,
            ..
        } = &self.host;
        let unikernel = unikernels.iter().find_map(|(name, promise)| {
            let found = disk.unikernels.iter().find(|other| other.name == *name);
            let found = found.map(|recorded| Kept::of(recorded));
            // What is asked for may have ended before it could be acknowledged.
            let before = found
                .filter(|found| self.host.has_ended(found))
                .map(Kept::up);
            (!promise.allows(found.as_ref())
                && (before.is_none() || !promise.allows(before.as_ref())))
            .then(|| format!("the disk has {found:?} as {name}: {promise:?}"))
        });
        unikernel.or_else(|| {
            policies.iter().find_map(|(path, promise)| {
                let found = disk.policies.iter().find(|(other, _)| other == path);
                let found = found.map(|(_, policy)| policy);
                (!promise.allows(found))
                    .then(|| format!("the disk has {found:?} as policy of {path}: {promise:?}"))
            })
        })
    }

    /// What each name takes, or may take when it comes back.
    fn memories(&self) -> BTreeMap<&Name, u32> {
        let memory = |unikernel: &Unikernel| match unikernel.run {
            Run::Stopped => 0,
            _ => unikernel.version.config.memory,
        };
        let operations = self.supervisor.operations.iter();
        let previous = operations.filter_map(|(name, operation)| {
            // What a destroy has stopped stays down, whatever becomes of the write.
            let previous = operation
                .previous
                .as_ref()
                .filter(|_| !matches!(operation.goal, Goal::Destroy(_)))?;
            Some((name, memory(previous)))
        });
        let operations = self.supervisor.operations.iter();
        let successors = operations.filter_map(|(name, operation)| {
            let successor = operation.successor.as_ref()?;
            Some((name, successor.version.config.memory))
        });
        let present = self.supervisor.unikernels.iter();
        let present = present.map(|(name, unikernel)| (name, memory(unikernel)));
        // What an earlier supervisor has left, and nobody wants, is on its way out.
        let alive = self.host.tenders.values();
        let alive = alive
            .filter(|tender| !self.is_stray(&tender.name))
            .map(|tender| (&tender.name, tender.config.memory));
        let mut memories = BTreeMap::new();
        for (name, memory) in previous.chain(successors).chain(present).chain(alive) {
            let most = memories.entry(name).or_insert(0);
            *most = memory.max(*most);
        }
        memories
    }

    /// What holds when nothing is under way.
    fn check_rest(&mut self) {
        let Self {
            supervisor, host, ..
        } = self;
        let idle = supervisor.uploads.is_empty()
            && supervisor.operations.is_empty()
            && supervisor.waiting.is_empty()
            && supervisor.tasks.is_empty()
            && supervisor.early_deaths.is_empty()
            && supervisor.writes.is_empty();
        host.must(idle, || format!("left over: {supervisor:?}"));
        let waiting = host.open.values().filter(|open| host.waits(open)).count();
        host.must(waiting == 0, || {
            format!("{waiting} requests have no answer")
        });
        let (mut state, mut disk) = (supervisor.state(), host.disk.clone());
        for state in [&mut state, &mut disk] {
            // That of the root is the host's, and not worth a write of its own.
            state.policies.retain(|(path, _)| !path.is_root());
            state
                .unikernels
                .sort_by(|one, other| one.name.cmp(&other.name));
        }
        host.must(state == disk, || {
            format!("the disk has {disk:?}, not {state:?}")
        });
        let running: BTreeSet<_> = host.tenders.keys().copied().collect();
        let known: BTreeSet<_> = supervisor.runs.keys().copied().collect();
        host.must(running == known, || {
            format!("{running:?} run, {known:?} are known")
        });
        let mut running: Vec<_> = host.tenders.values().map(|tender| &tender.name).collect();
        running.sort();
        let recorded = disk.unikernels.iter();
        let recorded = recorded.filter(|recorded| Kept::of(recorded).status == Status::Up);
        let recorded: Vec<_> = recorded.map(|recorded| &recorded.name).collect();
        let broken = (running != recorded).then(|| format!("{recorded:?} not {running:?} run"));
        let prepared: Vec<_> = host.consoles.keys().collect();
        let left = (running != prepared).then(|| format!("consoles of {prepared:?} are left"));
        let taps: Vec<_> = host.taps.iter().collect();
        let taps =
            (running != taps).then(|| format!("{running:?} run, taps of {taps:?} are there"));
        let images: BTreeSet<_> = disk.images().collect();
        let superfluous = (host.store != images).then(|| format!("images: {:?}", host.store));
        let staged = (!host.staged.is_empty()).then(|| format!("staged: {:?}", host.staged));
        let has = |tender: &Tender| !tender.config.blocks.is_empty();
        let mut have: Vec<_> = host.tenders.values().filter(|tender| has(tender)).collect();
        have.sort_by_key(|tender| &tender.name);
        let have: Vec<_> = have.into_iter().map(|tender| &tender.name).collect();
        let attached: Vec<_> = host.attached.keys().collect();
        let claims = (attached != have).then(|| format!("devices of {attached:?} are left"));
        let known: BTreeMap<_, _> = supervisor.devices.all().collect();
        let found: BTreeMap<_, _> = host
            .devices
            .iter()
            .map(|(name, size)| (name, *size))
            .collect();
        let devices = (known != found).then(|| format!("{found:?} are there, {known:?} known"));
        for text in [broken, left, taps, superfluous, staged, claims, devices]
            .into_iter()
            .flatten()
        {
            host.must(false, || text);
        }
        self.check_promises();
        self.check_info();
    }

    /// Everybody can see what is theirs.
    fn check_info(&mut self) {
        for path in &*PATHS {
            let info = Command::Unikernel(UnikernelCommand::Info(()));
            let event = Event::Message {
                from: ConnectionId(0),
                message: Message::command(0, &path.clone().into(), info),
            };
            let effects = self.supervisor.handle(&self.now, event);
            let answered = matches!(
                &effects[..],
                [Effect::Answer { message, .. }] if matches!(message.payload, Payload::Reply(_))
            );
            self.host
                .must(answered, || format!("info of {path}: {effects:?}"));
        }
    }

    /// At rest the disk says what is settled, nothing else.
    fn check_promises(&mut self) {
        let disk = self.host.disk.clone();
        let found: BTreeMap<_, _> = disk
            .unikernels
            .iter()
            .map(|recorded| (recorded.name.clone(), Kept::of(recorded)))
            .collect();
        let promised = self.host.unikernels.iter();
        let promised =
            promised.filter_map(|(name, promise)| Some((name.clone(), *promise.settled()?)));
        let promised: BTreeMap<_, _> = promised.collect();
        self.host.must(found == promised, || {
            format!("promised are {promised:?}, the disk has {found:?}")
        });
        let promised = self.host.policies.iter();
        let promised: Vec<_> = promised
            .filter_map(|(path, promise)| Some((path.clone(), promise.settled()?.clone())))
            .collect();
        let found: Vec<_> = disk
            .policies
            .into_iter()
            .filter(|(path, _)| !path.is_root())
            .collect();
        self.host.must(found == promised, || {
            format!("promised are {promised:?}, the disk has {found:?}")
        });
    }

    /// What holds when the supervisor has ended.
    fn check_end(&mut self) {
        let exited = self.host.exited;
        self.host.must(exited, || {
            "told to terminate, the supervisor does not exit".to_owned()
        });
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let short: String = line().chars().take(400).collect();
            log.push_str(&short);
            log.push('\n');
        }
    }
}

/// Of the image with a block device, or of another.
fn manifest(device: bool) -> Manifest {
    static MANIFESTS: LazyLock<[Manifest; 2]> = LazyLock::new(|| {
        [&[][..], &[("data", 1)]].map(|devices| {
            let image = Image::solo5(2, devices).build();
            Manifest::read(&mut std::io::Cursor::new(image)).unwrap()
        })
    });
    MANIFESTS[usize::from(device)].clone()
}

/// What a supervisor is told of this host.
fn with_devices(host: &Host) -> Settings {
    Settings {
        devices: BlockDevices::new(host.devices.clone(), None),
        images: host
            .store
            .iter()
            .map(|image| (*image, size(image)))
            .collect(),
        ..settings()
    }
}
