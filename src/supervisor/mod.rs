//! The supervisor's decisions: an event comes in, a list of effects comes out.
//!
//! Nothing here does I/O or reads a clock. [`crate::host`] carries the effects out, in their order, and feeds the
//! results back as events.
#![forbid(unsafe_code)]

mod ages;
mod blocks;
mod ledger;
mod lifecycle;
mod reply;

pub mod launch;
pub mod restart;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use log::warn;

use crate::manifest::Manifest;
use crate::name::{Name, Path};
use crate::policy::{Age, Policy};
use crate::serial;
use crate::unikernel::{Config, ImageDigest};
use crate::wire::domain::{self, DomainError};
use crate::wire::state::State;
use crate::wire::{
    Command, Header, Int, Message, NamedInfo, POLICY_KEPT, Payload, PolicyCommand, Success,
    Timestamp, UnikernelCommand,
};

pub use ages::{AGE_STEP, Ages};
pub use blocks::{BlockDevices, BlockRefusal};
pub use ledger::{Claim, Ledger, MAX_POLICIES, Refusal};
pub use restart::Death;

/// A connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One run of a tender: never used again, unlike process ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// An image that arrives for a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub u64);

/// A write of the state file, in the order of the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// When an event happened.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Since any fixed point, never running backwards.
    pub monotonic: Duration,
    /// Wall clock.
    pub wall: Timestamp,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The stored unikernels are to be started.
    Boot,
    /// A complete message arrived.
    Message {
        /// From this connection.
        from: ConnectionId,
        /// The message.
        message: Message,
    },
    /// A connection is gone; answers to it are lost.
    Closed(ConnectionId),
    /// An image asked for by [`Effect::ReceiveImage`] is complete, checked and staged, or not to be had.
    Staged {
        /// Which.
        upload: UploadId,
        /// The image, or why there is none.
        result: Result<StagedImage, String>,
    },
    /// The result of [`Effect::Prepare`].
    Prepared {
        /// The unikernel.
        name: Name,
        /// Why it cannot run.
        result: Result<(), String>,
    },
    /// The result of [`Effect::Announce`].
    Announced {
        /// The unikernel.
        name: Name,
        /// Which call.
        call: u64,
        /// Why its console is not read.
        result: Result<(), String>,
    },
    /// The result of [`Effect::Spawn`].
    Spawned {
        /// The run.
        run: RunId,
        /// Why there is no process.
        result: Result<(), String>,
    },
    /// A tender ended.
    Exited {
        /// The run.
        run: RunId,
        /// How.
        death: Death,
    },
    /// The result of [`Effect::Persist`].
    Persisted {
        /// Which write.
        ticket: Ticket,
        /// Why the state is not on disk.
        result: Result<(), String>,
    },
    /// A time asked for by [`Effect::Wake`] has come.
    Timer(Timer),
    /// The console daemon is there (again): it knows no unikernel.
    ConsoleUp,
    /// Stop all unikernels, and then the supervisor.
    Terminate,
}

/// An image on disk that no unikernel uses yet.
#[derive(Clone, Debug)]
pub struct StagedImage {
    /// Its SHA-256.
    pub digest: ImageDigest,
    /// What it declares; a tender for it was found.
    pub manifest: Manifest,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Send a message.
    Answer {
        /// To this connection, if it is still there.
        to: ConnectionId,
        /// The message.
        message: Message,
        /// Whether the conversation ends with it.
        close: bool,
    },
    /// Answer with an image, and end the conversation.
    SendImage {
        /// To this connection, if it is still there.
        to: ConnectionId,
        /// The header of the answer.
        header: Header,
        /// The image.
        image: ImageDigest,
        /// zlib level, 0 for not compressed.
        level: u8,
    },
    /// Take an image in, uncompress and check it, and keep it staged: leads to [`Event::Staged`].
    ReceiveImage {
        /// What it is staged as.
        upload: UploadId,
        /// From this connection.
        from: ConnectionId,
        /// The image, where the message had it; otherwise it follows as raw frames.
        embedded: Option<Vec<u8>>,
        /// Whether it is a zlib stream.
        compressed: bool,
    },
    /// Forget an image that arrives, or is staged.
    DiscardImage(UploadId),
    /// Make everything but the process: leads to [`Event::Prepared`].
    Prepare {
        /// The unikernel.
        name: Name,
        /// Its image.
        image: ImageDigest,
        /// The image is staged under this number and goes to the store; otherwise it is there.
        staged: Option<UploadId>,
    },
    /// Have the console read: leads to [`Event::Announced`].
    Announce {
        /// The unikernel.
        name: Name,
        /// Which call.
        call: u64,
        /// How many consoles its path may have.
        limit: Int,
    },
    /// Start the tender: leads to [`Event::Spawned`], later [`Event::Exited`].
    Spawn {
        /// The run.
        run: RunId,
        /// The unikernel.
        name: Name,
        /// Its configuration.
        config: Box<Config>,
        /// Its image, in the store.
        image: ImageDigest,
    },
    /// Undo what [`Effect::Prepare`] did, all of it.
    Release(Name),
    /// Send a signal to a tender.
    Signal {
        /// The run.
        run: RunId,
        /// Whether it can only be obeyed (SIGKILL instead of SIGTERM).
        kill: bool,
    },
    /// Let some time pass: leads to [`Event::Timer`].
    Wake {
        /// How long.
        after: Duration,
        /// What for.
        timer: Timer,
    },
    /// Write the state to disk: leads to [`Event::Persisted`].
    Persist {
        /// Which write.
        ticket: Ticket,
        /// The state.
        state: State,
    },
    /// Remove an image from the store: nothing refers to it.
    RemoveImage(ImageDigest),
    /// All is done.
    Exit,
}

/// What a time is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timer {
    /// A tender has had its time to stop.
    Kill(RunId),
    /// A unikernel is to be started again, unless this is no longer its latest wait.
    Restart(Name, u64),
    /// The state is to be written again.
    Save,
}

/// The state machine.
#[derive(Debug)]
pub struct Supervisor {
    ledger: Ledger,
    ages: Ages,
    unikernels: BTreeMap<Name, Unikernel>,
    uploads: BTreeMap<UploadId, Upload>,
    operations: BTreeMap<Name, Operation>,
    /// Requests for names with an operation, oldest first.
    waiting: BTreeMap<Name, VecDeque<(Asker, Request)>>,
    /// The tenders that may be alive.
    runs: BTreeMap<RunId, Name>,
    /// Deaths that were told before the birth.
    early_deaths: BTreeMap<RunId, Death>,
    /// Writes under way, with the policies that each records.
    writes: BTreeMap<Ticket, (Written, Recorded)>,
    /// The policies on disk; after a write that failed, which may have reached it all the same, nobody knows.
    recorded: Option<Recorded>,
    /// The policies that hold if the writes under way fail.
    acknowledged: Ledger,
    /// Images to be removed once nothing refers to them.
    superfluous: BTreeSet<ImageDigest>,
    counter: u64,
    random: u32,
    stopping: bool,
    effects: Vec<Effect>,
}

/// The policies of a state file, and the ages of their certificates.
#[derive(Clone, Debug)]
struct Recorded {
    ledger: Ledger,
    ages: Ages,
}

/// A unikernel that is in the accounting.
#[derive(Clone, Debug)]
struct Unikernel {
    config: Config,
    image: ImageDigest,
    run: Run,
    /// What a replacement that waits for this one's end will take.
    successor: Option<Claim>,
    /// Failures in a row, for the back-off.
    failures: u32,
}

/// Where a unikernel is in its life.
#[derive(Clone, Debug)]
enum Run {
    /// An operation is about to start it.
    Starting,
    /// It runs.
    Up {
        run: RunId,
        since: Moment,
        asked_to_stop: bool,
    },
    /// It waits for its next start.
    Waiting(u64),
    /// It is to be started as soon as no operation is in the way.
    Due,
}

/// A request, or a task of the supervisor's own, that takes more than one event. One per name at a time.
#[derive(Debug)]
struct Operation {
    asked_by: Option<Asker>,
    goal: Goal,
    phase: Phase,
    /// The instance that this has stopped; after a force-create it comes back if the new one cannot start.
    previous: Option<Unikernel>,
    /// What a create will put in the place of the instance that is being stopped.
    successor: Option<Successor>,
}

#[derive(Debug)]
struct Successor {
    unikernel: Unikernel,
    upload: UploadId,
}

/// A create whose image arrives.
#[derive(Debug)]
struct Upload {
    asker: Asker,
    name: Name,
    config: Config,
    force: bool,
}

/// A request that is complete.
#[derive(Debug)]
enum Request {
    Create(Box<Creation>),
    Destroy,
}

#[derive(Debug)]
struct Creation {
    upload: UploadId,
    config: Config,
    force: bool,
    image: StagedImage,
}

impl Request {
    /// What is to be thrown away with the request.
    fn discard(&self) -> Option<Effect> {
        match self {
            Self::Create(creation) => Some(Effect::DiscardImage(creation.upload)),
            Self::Destroy => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Asker {
    connection: ConnectionId,
    header: Header,
}

#[derive(Debug)]
enum Goal {
    Create,
    Destroy,
    /// A start by the supervisor itself.
    Start,
    /// A new unikernel is up, but could not be recorded: it is taken down again, with this answer.
    Abandon(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Stopping,
    Preparing,
    /// The answer to this call is awaited.
    Announcing(u64),
    Spawning,
    Saving,
}

/// What a write of the state file was for.
#[derive(Debug)]
enum Written {
    /// The last step of the operation on this name.
    Operation(Name),
    /// A policy of this path.
    Policy {
        asker: Asker,
        path: Path,
        answer: &'static str,
    },
    /// Something that nobody asked for.
    Change,
}

/// Most images that arrive at the same time.
pub const MAX_UPLOADS: usize = 32;

/// Most requests that wait for one name.
pub const MAX_WAITING: usize = 64;

/// After how long a state that could not be written is written again.
pub const SAVE_RETRY: Duration = Duration::from_secs(5);

/// How long a tender has between SIGTERM and SIGKILL.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

impl Supervisor {
    /// A supervisor of what `state` says; nothing runs before [`Event::Boot`]. `seed` is any number, for jitter.
    pub fn new(state: State, seed: u32) -> Self {
        let unikernels = state.unikernels.into_iter().map(|(name, config, image)| {
            let unikernel = Unikernel {
                config,
                image,
                run: Run::Waiting(0),
                successor: None,
                failures: 0,
            };
            (name, unikernel)
        });
        let ledger: Ledger = state.policies.into_iter().collect();
        let ages = Ages::new(state.ages, state.forgotten);
        let recorded = Recorded {
            ledger: ledger.clone(),
            ages: ages.clone(),
        };
        Self {
            recorded: Some(recorded),
            acknowledged: ledger.clone(),
            ledger,
            ages,
            unikernels: unikernels.collect(),
            uploads: BTreeMap::new(),
            operations: BTreeMap::new(),
            waiting: BTreeMap::new(),
            runs: BTreeMap::new(),
            early_deaths: BTreeMap::new(),
            writes: BTreeMap::new(),
            superfluous: BTreeSet::new(),
            counter: 0,
            random: seed | 1,
            stopping: false,
            effects: Vec::new(),
        }
    }

    /// What to do now that `event` has happened at `now`.
    pub fn handle(&mut self, now: &Moment, event: Event) -> Vec<Effect> {
        match event {
            Event::Boot => self.boot(),
            Event::Message { from, message } => self.message(from, message),
            Event::Closed(connection) => self.closed(connection),
            Event::Staged { upload, result } => self.staged(upload, result),
            Event::Prepared { name, result } => self.prepared(&name, result),
            Event::Announced { name, call, result } => self.announced(&name, call, result),
            Event::Spawned { run, result } => self.spawned(now, run, result),
            Event::Exited { run, death } => self.exited(now, run, death),
            Event::Persisted { ticket, result } => self.persisted(ticket, result),
            Event::Timer(timer) => self.timer(timer),
            Event::ConsoleUp => self.announce_all(),
            Event::Terminate => self.terminate(),
        }
        if self.is_done() {
            self.effects.push(Effect::Exit);
        }
        std::mem::take(&mut self.effects)
    }

    /// What the state file has to say now: what is acknowledged, or is acknowledged once this is written.
    pub fn state(&self) -> State {
        let unikernels = self.unikernels.iter().filter_map(|(name, unikernel)| {
            let recorded = match self.operations.get(name) {
                // Not before it runs; until then the one that it replaces is the one to come back.
                Some(Operation {
                    goal: Goal::Create,
                    phase,
                    previous,
                    ..
                }) if !matches!(phase, Phase::Stopping | Phase::Saving) => previous.as_ref()?,
                Some(Operation {
                    goal: Goal::Abandon(_),
                    previous,
                    ..
                }) => previous.as_ref()?,
                _ => unikernel,
            };
            Some((name.clone(), recorded.config.clone(), recorded.image))
        });
        let (ages, forgotten) = self.ages.recorded();
        State {
            unikernels: unikernels.collect(),
            policies: self
                .ledger
                .all()
                .map(|(path, policy)| (path.clone(), policy.clone()))
                .collect(),
            ages,
            forgotten,
        }
    }

    fn message(&mut self, from: ConnectionId, message: Message) {
        let asker = Asker {
            connection: from,
            header: message.header.clone(),
        };
        let name = match domain::name(&message.header.name) {
            Ok(name) => name,
            Err(error) => return self.refuse(&asker, &error),
        };
        let Payload::Command(command) = message.payload else {
            return self.refuse(&asker, "unknown command");
        };
        if self.stopping {
            return self.refuse(&asker, "the supervisor is stopping");
        }
        let pathless = "is a path, a unikernel's name is needed";
        match command {
            Command::Unikernel(UnikernelCommand::Info(())) => {
                let answer = Success::UnikernelInfo(self.running(&name));
                self.succeed(&asker, answer);
            }
            Command::Unikernel(UnikernelCommand::InfoOld5(())) => {
                let answer = Success::OldUnikernelInfo5(reply::old5(self.running(&name)));
                self.succeed(&asker, answer);
            }
            Command::Unikernel(UnikernelCommand::InfoOld4(())) => {
                let answer = Success::OldUnikernelInfo4(reply::old4(self.running(&name)));
                self.succeed(&asker, answer);
            }
            Command::Unikernel(UnikernelCommand::Get(level)) => self.get(&asker, &name, level),
            Command::Unikernel(
                UnikernelCommand::Create(_)
                | UnikernelCommand::ForceCreate(_)
                | UnikernelCommand::Destroy(()),
            ) if name.label().is_none() => self.refuse(&asker, &format!("'{name}' {pathless}")),
            Command::Unikernel(UnikernelCommand::Create(config)) => {
                self.upload(asker, name, config, false);
            }
            Command::Unikernel(UnikernelCommand::ForceCreate(config)) => {
                self.upload(asker, name, config, true);
            }
            Command::Unikernel(UnikernelCommand::Destroy(())) => {
                self.request(asker, &name, Request::Destroy);
            }
            Command::Policy(PolicyCommand::Info(())) => {
                let answer = reply::policies(name.path(), self.ledger.below(name.path()));
                self.succeed(&asker, answer);
            }
            Command::Policy(PolicyCommand::Add(policy)) => {
                self.add_policy(asker, name.path(), &policy, None);
            }
            Command::Policy(PolicyCommand::AddDated(dated)) => {
                if let Some(age) = Age::of(&dated) {
                    self.add_policy(asker, name.path(), &dated.policy, Some(&age));
                } else {
                    let most = serial::MAX_OCTETS;
                    let why =
                        format!("the certificate's serial number has more than {most} octets");
                    self.refuse(&asker, &why);
                }
            }
            Command::Policy(PolicyCommand::Remove(())) => self.remove_policy(asker, name.path()),
            _ => self.refuse(&asker, "unknown command"),
        }
    }

    /// What is told of the running unikernels that `name` covers.
    fn running(&self, name: &Name) -> Vec<NamedInfo> {
        let running = self
            .unikernels
            .iter()
            .filter_map(|(name, unikernel)| match &unikernel.run {
                Run::Up { since, .. } => Some(reply::Running {
                    name,
                    config: &unikernel.config,
                    image: unikernel.image,
                    started: since.wall.clone(),
                }),
                _ => None,
            });
        reply::unikernels(name, running)
    }

    fn get(&mut self, asker: &Asker, name: &Name, level: Int) {
        let Some(level) = u8::try_from(level.get()).ok().filter(|level| *level <= 9) else {
            return self.refuse(
                asker,
                &format!("compression level {} is not one of 0 to 9", level.get()),
            );
        };
        let Some(unikernel) = self.unikernels.get(name) else {
            return self.refuse(asker, &format!("there is no unikernel {name}"));
        };
        self.effects.push(Effect::SendImage {
            to: asker.connection,
            header: asker.header.clone(),
            image: unikernel.image,
            level,
        });
    }

    /// Sets a policy: that of a certificate of this age, or one that was given without any.
    fn add_policy(
        &mut self,
        asker: Asker,
        path: &Path,
        policy: &crate::wire::Policy,
        age: Option<&Age>,
    ) {
        let policy = match Policy::try_from(policy) {
            Ok(policy) => policy,
            Err(error) => return self.refuse(&asker, &error),
        };
        let same = self.ledger.at(path) == Some(&policy);
        let stale = age.is_some_and(|age| self.ages.is_stale(path, age));
        if stale && !same {
            // What it carries is not brought back, and without a policy nothing would bound what follows.
            return match self.ledger.at(path) {
                Some(_) => self.tell(&asker, POLICY_KEPT, false),
                None => self.refuse(
                    &asker,
                    &format!(
                        "the policy of '{path}' was removed, and the certificate is older than the last one that \
                         set it: a newer one is needed"
                    ),
                ),
            };
        }
        let claims = claims(&self.unikernels, &self.operations);
        // None is ever made.
        let devices = BlockDevices::default();
        let allowed = self.ledgers().try_for_each(|ledger| {
            let mut ledger = ledger.clone();
            ledger
                .set(path, policy.clone(), &claims, &devices)
                .map(drop)
        });
        // The age only of a policy that is set; should the write fail, the certificate stays the newest.
        let remembered = allowed.and_then(|()| match age {
            Some(age) if !stale => {
                let ledger = &self.ledger;
                let has_policy = |path: &Path| ledger.at(path).is_some();
                self.ages.remember(path, age.clone(), same, &has_policy)
            }
            _ => Ok(()),
        });
        // One that is equal, but not surely on disk, is acknowledged when it is.
        let recorded = self.recorded.as_ref().is_some_and(|recorded| {
            let covers = |age| recorded.ages.covers(path, age);
            recorded.ledger.at(path) == self.ledger.at(path) && age.is_none_or(covers)
        });
        match remembered.and_then(|()| self.ledger.set(path, policy, &claims, &devices)) {
            Err(refusal) => self.refuse(&asker, &refusal),
            Ok(false) if recorded => self.tell(&asker, "no modification of policy", false),
            Ok(_) => self.persist(Written::Policy {
                asker,
                path: path.clone(),
                answer: "added policy",
            }),
        }
    }

    fn remove_policy(&mut self, asker: Asker, path: &Path) {
        match self.ledger.remove(path) {
            Err(refusal) => self.refuse(&asker, &refusal),
            Ok(_) => self.persist(Written::Policy {
                asker,
                path: path.clone(),
                answer: "removed policy",
            }),
        }
    }

    fn persisted(&mut self, ticket: Ticket, result: Result<(), String>) {
        let Some((why, policies)) = self.writes.remove(&ticket) else {
            return;
        };
        if let (Written::Policy { path, .. }, Ok(())) = (&why, &result) {
            let policy = policies.ledger.at(path).cloned();
            self.acknowledged.reset(path.clone(), policy);
        }
        self.recorded = result.is_ok().then_some(policies);
        match (why, result) {
            (Written::Operation(name), result) => self.saved(&name, result),
            (Written::Policy { asker, answer, .. }, Ok(())) => {
                // More policies, or a command, may follow an addition on the same connection (WIRE 7.2).
                self.tell(&asker, answer, answer != "added policy");
            }
            (Written::Policy { asker, path, .. }, Err(error)) => {
                // A later write of the same path decides by itself what becomes of it.
                let decided_later = self.writes.values().any(
                    |(why, _)| matches!(why, Written::Policy { path: later, .. } if *later == path),
                );
                if !decided_later {
                    let before = self.acknowledged.at(&path).cloned();
                    self.ledger.reset(path, before);
                }
                self.save_later();
                self.refuse(&asker, &format!("the policy was not changed: {error}"));
            }
            (Written::Change, Ok(())) => {}
            (Written::Change, Err(error)) => {
                warn!("the state was not recorded, which is tried again: {error}");
                self.save_later();
            }
        }
        if self.recorded.is_some() {
            self.forget_images();
        }
    }

    /// The policies in force, and those that may come back into force if a write fails.
    fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        let written = self.writes.values().map(|(_, recorded)| &recorded.ledger);
        [&self.ledger, &self.acknowledged]
            .into_iter()
            .chain(written)
    }

    fn persist(&mut self, why: Written) {
        let ticket = Ticket(self.count());
        let recorded = Recorded {
            ledger: self.ledger.clone(),
            ages: self.ages.clone(),
        };
        self.writes.insert(ticket, (why, recorded));
        let state = self.state();
        self.effects.push(Effect::Persist { ticket, state });
    }

    fn succeed(&mut self, asker: &Asker, success: Success) {
        self.answer(asker, Payload::Reply(success), true);
    }

    fn tell(&mut self, asker: &Asker, text: &str, close: bool) {
        self.answer(asker, Payload::Reply(Success::String(text.into())), close);
    }

    fn refuse(&mut self, asker: &Asker, why: &(impl ToString + ?Sized)) {
        self.answer(asker, Payload::Failure(why.to_string().into()), true);
    }

    fn answer(&mut self, asker: &Asker, payload: Payload, close: bool) {
        self.effects.push(Effect::Answer {
            to: asker.connection,
            message: Message::answer(asker.header.clone(), payload),
            close,
        });
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// The next number of a xorshift generator: for jitter, nothing secret.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}

/// What every unikernel takes, or took and may take again.
fn claims<'a>(
    unikernels: &'a BTreeMap<Name, Unikernel>,
    operations: &'a BTreeMap<Name, Operation>,
) -> Vec<(&'a Name, Claim)> {
    let present = unikernels.iter().map(|(name, unikernel)| {
        let successor = unikernel.successor.iter().cloned();
        (
            name,
            successor.fold(Claim::of(&unikernel.config), Claim::or),
        )
    });
    // It may come back even if the one in its place has ended meanwhile; after a destroy nothing comes back.
    let previous = operations
        .iter()
        .filter(|(_, operation)| !matches!(operation.goal, Goal::Destroy))
        .filter_map(|(name, operation)| {
            let previous = operation.previous.as_ref()?;
            Some((name, Claim::of(&previous.config)))
        });
    let mut claims: BTreeMap<&Name, Claim> = BTreeMap::new();
    for (name, claim) in present.chain(previous) {
        let most = match claims.remove(name) {
            Some(other) => claim.or(other),
            None => claim,
        };
        claims.insert(name, most);
    }
    claims.into_iter().collect()
}

/// Reads a configuration and refuses what this supervisor cannot run.
fn runnable(name: &Name, config: &crate::wire::Config) -> Result<Config, String> {
    let config = Config::try_from(config).map_err(|error: DomainError| error.to_string())?;
    if config.kind == crate::unikernel::Kind::Bhyve {
        return Err("BHyve machines are not supported".to_owned());
    }
    if !config.nets.is_empty() || !config.blocks.is_empty() {
        return Err("network and block devices are not supported".to_owned());
    }
    let octets = launch::command_line(name, &config);
    if octets > Config::MAX_COMMAND_LINE {
        return Err(format!(
            "the guest's arguments have {octets} octets, at most {} are possible",
            Config::MAX_COMMAND_LINE
        ));
    }
    Ok(config)
}

#[cfg(test)]
pub(crate) mod fixtures {
    use crate::unikernel::{Config, FailBehaviour, Kind};

    /// A small unikernel.
    pub(crate) fn config() -> Config {
        Config {
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
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
