//! A host that carries effects out late, in any order, or not at all, and complains of those that must not be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::dice::Dice;
use super::kept::{Kept, Status, creation};
use super::promise::Promise;
use super::{DEVICES, manifest, settings};
use crate::name::{Name, Path};
use crate::policy::{Age, Policy};
use crate::supervisor::restart::{self, Decision};
use crate::supervisor::{
    BlockContent, BlockWork, ConnectionId, Effect, Event, History, HostDevice, Message, Payload,
    RunId, StagedImage, State, Survivor, TaskId, Ticket, Timer, UPLOAD_STEP_BYTES, UploadId,
};
use crate::unikernel::{Config, Death, ImageDigest, Version};
use crate::wire::{Success, Timestamp};

#[derive(Debug)]
pub(super) struct Host {
    pub(super) dice: Dice,
    pub(super) clock: Duration,
    /// How many of a hundred effects fail.
    pub(super) failing: usize,
    /// Connections, and whether each is free for a next request.
    pub(super) connections: BTreeMap<ConnectionId, bool>,
    /// Requests without a final answer.
    pub(super) open: BTreeMap<i64, Open>,
    /// Events that the supervisor is not told of yet.
    pub(super) untold: Vec<Event>,
    /// Writes of the state that it is not told of yet, oldest first.
    pub(super) writes: VecDeque<Write>,
    pub(super) arriving: BTreeMap<UploadId, Arriving>,
    pub(super) staged: BTreeMap<UploadId, Staged>,
    pub(super) store: BTreeSet<ImageDigest>,
    pub(super) consoles: BTreeMap<Name, Console>,
    /// Bytes that the archives of each tenant may take, as last told.
    pub(super) archive_bounds: BTreeMap<Path, u64>,
    /// The unikernels with taps; some may be left of a preparation that failed.
    pub(super) taps: BTreeSet<Name>,
    /// Block devices on disk, and their MB.
    pub(super) devices: BTreeMap<Name, u64>,
    /// What was attached to which unikernel.
    pub(super) attached: BTreeMap<Name, Vec<Name>>,
    /// Content on its way.
    pub(super) streams: BTreeMap<TaskId, Stream>,
    /// Unikernels that still have what was asked for.
    pub(super) holders: Vec<Name>,
    pub(super) tenders: BTreeMap<RunId, Tender>,
    /// Tenders that have ended, until the supervisor lets go of their consoles.
    dead: BTreeMap<RunId, (Tender, Death)>,
    signalled: BTreeSet<RunId>,
    pub(super) timers: Vec<(Duration, Timer)>,
    pub(super) disk: State,
    pub(super) unikernels: BTreeMap<Name, Promise<Kept>>,
    pub(super) policies: BTreeMap<Path, Promise<Policy>>,
    /// The newest certificate of each path whose policy was acknowledged, for good.
    pub(super) newest: BTreeMap<Path, Age>,
    /// Creations whose unikernel has ended for good, unless it was started once more.
    ended: BTreeSet<i64>,
    pub(super) exited: bool,
    pub(super) violation: Option<String>,
}

/// A request without a final answer.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) client: ConnectionId,
    pub(super) about: About,
    /// Whether it brings an image with a block device.
    pub(super) device: bool,
}

/// What a request may change.
#[derive(Clone, Debug)]
pub(super) enum About {
    Unikernel(Name),
    /// The age is that of the certificate, if the policy has one.
    Policies(Vec<(Path, Option<Age>)>),
    /// Whether it is there after success.
    Block(Name, bool),
}

/// An image that arrives.
#[derive(Debug)]
pub(super) struct Arriving {
    client: ConnectionId,
    pub(super) path: Path,
    digest: ImageDigest,
    /// Bytes that it may write.
    pub(super) granted: u64,
    /// Bytes that it has asked for.
    asked: u64,
}

/// An image that is staged.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) path: Path,
    pub(super) digest: ImageDigest,
}

/// The content of a device on its way, in or out.
#[derive(Debug)]
pub(super) struct Stream {
    client: ConnectionId,
    name: Name,
    /// The MB that it has then, unless it is only read.
    becomes: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Write {
    ticket: Ticket,
    state: State,
    result: Result<(), String>,
    /// Whether the disk has it in the end; one that is said to have failed may, too.
    lands: bool,
    landed: bool,
}

/// A console that was prepared.
#[derive(Debug, Default)]
pub(super) struct Console {
    /// The supervisor knows that it is there.
    told: bool,
    calls: BTreeSet<u64>,
    /// The supervisor knows that it is read.
    read: bool,
}

#[derive(Debug)]
pub(super) struct Tender {
    pub(super) name: Name,
    pub(super) config: Config,
    pub(super) image: ImageDigest,
}

/// The image with a block device.
const DEVICE: ImageDigest = ImageDigest([4; 32]);

/// Bytes of each image: of the larger ones not all fit into the quota of a small policy.
pub(super) fn size(image: &ImageDigest) -> u64 {
    const STEPS: [u64; 5] = [0, 9, 12, 16, 2];
    let [kind, ..] = image.0;
    STEPS
        .get(usize::from(kind))
        .map_or(0, |steps| steps * UPLOAD_STEP_BYTES - 1)
}

/// The block devices of a unikernel.
fn devices(name: &Name, config: &Config) -> Vec<Name> {
    let devices = config.blocks.iter();
    let devices = devices.filter_map(|block| match HostDevice::of(name.path(), block)? {
        HostDevice::Ours(name) => Some(name),
        HostDevice::Zvol(_) => None,
    });
    devices.collect()
}

impl Host {
    pub(super) fn new(dice: Dice, failing: usize) -> Self {
        Self {
            dice,
            clock: Duration::ZERO,
            failing,
            connections: BTreeMap::new(),
            open: BTreeMap::new(),
            untold: Vec::new(),
            writes: VecDeque::new(),
            arriving: BTreeMap::new(),
            staged: BTreeMap::new(),
            store: BTreeSet::new(),
            consoles: BTreeMap::new(),
            archive_bounds: BTreeMap::new(),
            taps: BTreeSet::new(),
            devices: DEVICES.iter().map(|name| (name.clone(), 10)).collect(),
            attached: BTreeMap::new(),
            streams: BTreeMap::new(),
            holders: Vec::new(),
            tenders: BTreeMap::new(),
            dead: BTreeMap::new(),
            signalled: BTreeSet::new(),
            timers: Vec::new(),
            disk: State::default(),
            unikernels: BTreeMap::new(),
            policies: BTreeMap::new(),
            newest: BTreeMap::new(),
            ended: BTreeSet::new(),
            exited: false,
            violation: None,
        }
    }

    /// Remembers the first rule that was broken.
    pub(super) fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violation.get_or_insert_with(otherwise);
        }
    }

    fn bound(&mut self, tenant: Path, bytes: u64) {
        self.archive_bounds.insert(tenant, bytes);
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { to, message, close } => self.answer(to, &message, close),
            Effect::SendImage { .. }
            | Effect::Observe { .. }
            | Effect::Remember { .. }
            | Effect::Forget(_) => {}
            Effect::LookAtHost => {
                let result = self.outcome().map(|()| settings().resources);
                self.untold.push(Event::HostResources(result));
            }
            Effect::ReceiveImage { upload, from, .. } => {
                if self.connections.contains_key(&from) {
                    self.begin_upload(upload, from);
                }
            }
            Effect::GrantUpload { upload } => {
                if let Some(arriving) = self.arriving.get_mut(&upload) {
                    arriving.granted = arriving.asked;
                }
            }
            Effect::RefuseUpload { upload, why } => {
                if self.arriving.remove(&upload).is_some() {
                    let result = Err(why);
                    self.untold.push(Event::Staged { upload, result });
                }
            }
            Effect::DiscardImage(upload) => {
                self.arriving.remove(&upload);
                self.staged.remove(&upload);
            }
            Effect::Inspect {
                name,
                version,
                staged,
            } => {
                let image = version.image;
                let there = match staged {
                    Some(upload) => {
                        let staged = self.staged.get(&upload);
                        staged.is_some_and(|staged| staged.digest == image)
                    }
                    None => self.has_image(version.stored_image()),
                };
                self.must(there, || format!("{name}: its image {image} is gone"));
                let declared = version
                    .stored_image()
                    .map(|image| manifest(image == DEVICE));
                let result = self.outcome().map(|()| declared);
                self.untold.push(Event::Inspected { name, result });
            }
            Effect::Prepare {
                name,
                version,
                staged,
            } => self.prepare(name, &version, staged),
            Effect::Announce { name, call, .. } => {
                if let Some(console) = self.consoles.get_mut(&name) {
                    console.calls.insert(call);
                }
                let result = self.outcome();
                self.untold.push(Event::Announced { name, call, result });
            }
            Effect::BoundArchives { tenant, bytes } => self.bound(tenant, bytes),
            Effect::Spawn {
                run, name, version, ..
            } => self.spawn(run, name, &version),
            Effect::Release(name) => self.release(&name),
            Effect::Block { task, name, work } => self.work(task, name, &work),
            Effect::EndBlock(task) => self.end_stream(task, Err("broken off".to_owned())),
            Effect::Signal { run, kill } => {
                self.signalled.insert(run);
                if kill || self.dice.chance(70) {
                    self.die(run, Death::Signal(if kill { 9 } else { 15 }));
                }
            }
            Effect::Wake { after, timer } => self.timers.push((self.clock + after, timer)),
            Effect::Persist { ticket, state } => {
                let result = self.outcome();
                let lands = result.is_ok() || self.dice.chance(30);
                self.writes.push_back(Write {
                    ticket,
                    state,
                    result,
                    lands,
                    landed: false,
                });
            }
            Effect::RemoveImage(image) => self.remove_image(image),
            Effect::Exit => self.exit(),
        }
    }

    fn remove_image(&mut self, image: ImageDigest) {
        let named = self.disk.images().any(|named| named == image);
        self.must(!named, || {
            format!("image {image} is removed, which the disk names")
        });
        let mut writes = self.writes.iter();
        let coming = writes.any(|write| write.state.images().any(|named| named == image));
        self.must(!coming, || {
            format!("image {image} is removed, which the disk is about to name")
        });
        // One that is being ended has it open.
        let mut tenders = self.tenders.iter();
        let runs =
            tenders.any(|(run, tender)| tender.image == image && !self.signalled.contains(run));
        self.must(!runs, || format!("image {image} is removed, which runs"));
        self.store.remove(&image);
    }

    /// The oldest write makes its next step: onto the disk, or into an event.
    pub(super) fn write(&mut self) -> Option<Event> {
        let write = self.writes.front_mut()?;
        if !write.landed {
            write.landed = true;
            if write.lands {
                self.disk = write.state.clone();
            }
            return None;
        }
        let Write { ticket, result, .. } = self.writes.pop_front()?;
        Some(Event::Persisted { ticket, result })
    }

    /// Notes what the supervisor is told.
    pub(super) fn tell(&mut self, event: &Event) {
        match event {
            Event::Prepared {
                name,
                result: Ok(()),
            } => {
                if let Some(console) = self.consoles.get_mut(name) {
                    console.told = true;
                }
            }
            Event::Announced {
                name,
                call,
                result: Ok(()),
            } => {
                if let Some(console) = self.consoles.get_mut(name) {
                    console.read |= console.calls.contains(call);
                }
            }
            _ => {}
        }
    }

    fn begin_upload(&mut self, upload: UploadId, client: ConnectionId) {
        let mut open = self.open.values();
        let Some((device, path)) = open.find_map(|open| match &open.about {
            About::Unikernel(name) if open.client == client => {
                Some((open.device, name.path().clone()))
            }
            _ => None,
        }) else {
            return self.must(false, || format!("{upload:?}: nobody asked for it"));
        };
        let digest = if device {
            DEVICE
        } else {
            ImageDigest([self.dice.pick(&[1, 2, 3]); 32])
        };
        let arriving = Arriving {
            client,
            path,
            digest,
            granted: UPLOAD_STEP_BYTES,
            asked: UPLOAD_STEP_BYTES,
        };
        self.arriving.insert(upload, arriving);
    }

    /// More of an image arrives, which asks for as much as it needs; or it is complete, or will never be.
    pub(super) fn go_on_with_upload(&mut self, upload: UploadId) {
        let Some(arriving) = self.arriving.get_mut(&upload) else {
            return;
        };
        let size = size(&arriving.digest);
        if arriving.asked > arriving.granted {
            return;
        }
        if arriving.granted < size {
            let steps = self.dice.pick(&[1, 4, 16]);
            let bytes = arriving.granted + steps * UPLOAD_STEP_BYTES;
            let bytes = bytes.min(size.next_multiple_of(UPLOAD_STEP_BYTES));
            arriving.asked = bytes;
            return self.untold.push(Event::UploadGrows { upload, bytes });
        }
        let Some(Arriving { path, digest, .. }) = self.arriving.remove(&upload) else {
            return;
        };
        let result = self.outcome().map(|()| {
            self.staged.insert(upload, Staged { path, digest });
            StagedImage {
                digest,
                manifest: manifest(digest == DEVICE),
                size,
            }
        });
        self.untold.push(Event::Staged { upload, result });
    }

    /// A client leaves, and with it what it was sending.
    pub(super) fn leave(&mut self, client: ConnectionId) {
        self.connections.remove(&client);
        self.arriving
            .retain(|_, arriving| arriving.client != client);
        let streams = self.streams.iter();
        let streams: Vec<_> = streams
            .filter(|(_, stream)| stream.client == client)
            .map(|(task, _)| *task)
            .collect();
        for task in streams {
            self.end_stream(task, Err("it left".to_owned()));
        }
        self.untold.push(Event::Closed(client));
    }

    pub(super) fn die(&mut self, run: RunId, death: Death) {
        if let Some(tender) = self.tenders.remove(&run) {
            self.dead.insert(run, (tender, death));
            self.untold.push(Event::Exited { run, death });
        }
    }

    /// The supervisor is killed; of the writes under way some may still reach the disk.
    pub(super) fn crash(&mut self) {
        let reached = self.dice.below(self.writes.len() + 1);
        for write in self.writes.drain(..).take(reached) {
            if write.lands && !write.landed {
                self.disk = write.state;
            }
        }
    }

    /// What a supervisor finds that starts now; the tenders live on.
    pub(super) fn restart(&mut self) -> Vec<Survivor> {
        let dice = Dice(self.dice.0);
        let disk = std::mem::take(&mut self.disk);
        let tenders = std::mem::take(&mut self.tenders);
        let held = |tender: &Tender| (tender.name.clone(), devices(&tender.name, &tender.config));
        let named: BTreeSet<_> = disk.images().collect();
        let read = |tender: &Tender| {
            let console = Console {
                told: true,
                read: true,
                ..Console::default()
            };
            (tender.name.clone(), console)
        };
        // That one was asked to end is recorded before it is, if that is possible.
        let signalled = std::mem::take(&mut self.signalled);
        let told: BTreeSet<_> = signalled
            .into_iter()
            // The number of one that has ended may be given away again.
            .filter(|run| tenders.contains_key(run) && self.dice.chance(90))
            .collect();
        let survivors = tenders
            .iter()
            .map(|(run, tender)| Survivor {
                run: *run,
                name: tender.name.clone(),
                key: Version {
                    config: tender.config.clone(),
                    image: tender.image,
                }
                .key(),
                since: Timestamp::from_unix(0, 0),
                age: Duration::ZERO,
                history: History::default(),
                stopping: told.contains(run),
            })
            .collect();
        *self = Self {
            clock: self.clock,
            store: self.store.intersection(&named).copied().collect(),
            unikernels: disk
                .unikernels
                .iter()
                .map(|recorded| {
                    let kept = Promise::of(Some(Kept::of(recorded)));
                    (recorded.name.clone(), kept)
                })
                .collect(),
            policies: disk
                .policies
                .iter()
                .filter(|(path, _)| !path.is_root())
                .map(|(path, policy)| (path.clone(), Promise::of(Some(policy.clone()))))
                .collect(),
            consoles: tenders.values().map(read).collect(),
            // A start removes the others.
            taps: tenders.values().map(|tender| tender.name.clone()).collect(),
            attached: tenders
                .values()
                .map(held)
                .filter(|(_, devices)| !devices.is_empty())
                .collect(),
            devices: std::mem::take(&mut self.devices),
            tenders,
            signalled: told,
            disk,
            newest: std::mem::take(&mut self.newest),
            violation: self.violation.take(),
            ..Self::new(dice, self.failing)
        };
        survivors
    }

    pub(super) fn unikernel(&mut self, name: &Name) -> &mut Promise<Kept> {
        self.unikernels
            .entry(name.clone())
            .or_insert_with(|| Promise::of(None))
    }

    pub(super) fn policy(&mut self, path: &Path) -> &mut Promise<Policy> {
        self.policies
            .entry(path.clone())
            .or_insert_with(|| Promise::of(None))
    }

    /// Whether the client of a request is still there.
    pub(super) fn waits(&self, request: &Open) -> bool {
        self.connections.contains_key(&request.client)
    }

    fn outcome(&mut self) -> Result<(), String> {
        if self.dice.chance(self.failing) {
            Err("it failed".to_owned())
        } else {
            Ok(())
        }
    }

    fn answer(&mut self, to: ConnectionId, message: &Message, close: bool) {
        let request = message.header.sequence.0;
        let Some(Open { client, about, .. }) = self.open.remove(&request) else {
            return self.must(false, || format!("request {request} is answered again"));
        };
        self.must(client == to, || format!("request {request}: wrong client"));
        if close && self.connections.contains_key(&to) {
            self.leave(to);
        } else if let Some(free) = self.connections.get_mut(&to) {
            *free = true;
        }
        let (kept, text) = match &message.payload {
            Payload::Failure(text) => (false, text.to_lossy()),
            Payload::Reply(Success::String(text)) => (true, text.to_lossy()),
            _ => (true, String::new()),
        };
        match about {
            About::Block(name, there) if kept => {
                let found = self.devices.contains_key(&name);
                self.must(found == there, || {
                    format!(
                        "request {request} about {name} succeeds: {:?}",
                        message.payload
                    )
                });
            }
            About::Block(..) => {}
            About::Unikernel(name) if kept => {
                self.unikernel(&name).keep(request);
                self.bury(&name);
            }
            About::Unikernel(name) if text.contains(", but that could not be recorded") => {
                self.unikernel(&name).keep_unwritten(request);
            }
            About::Unikernel(name) => {
                self.unikernel(&name)
                    .refuse(request, text.contains("could not be recorded"));
            }
            About::Policies(paths) => {
                let newer = match &message.payload {
                    Payload::Reply(Success::ChainSet(newer)) => &newer[..],
                    _ => &[],
                };
                for (path, age) in paths {
                    if !kept {
                        let written = text.contains("was not changed");
                        self.policy(&path).refuse(request, written);
                    } else if newer.contains(&path.to_string().into()) {
                        self.policy(&path).refuse(request, false);
                    } else {
                        self.policy(&path).keep(request);
                        let before = self.newest.remove(&path);
                        self.newest.extend(age.max(before).map(|age| (path, age)));
                    }
                }
            }
        }
    }

    fn work(&mut self, task: TaskId, name: Name, work: &BlockWork) {
        let there = self.devices.contains_key(&name);
        let makes = matches!(
            work,
            BlockWork::Make(_) | BlockWork::Receive(BlockContent { make: true, .. })
        );
        self.must(there != makes, || {
            format!("{task:?} about {name}: {work:?}")
        });
        let reads = matches!(work, BlockWork::Send { .. });
        let mut streams = self.streams.values();
        let disturbs =
            streams.any(|stream| stream.name == name && !(reads && stream.becomes.is_none()));
        self.must(!disturbs, || {
            format!("{task:?} disturbs another about {name}")
        });
        let held = self.is_held(&name);
        match work {
            BlockWork::Make(size) => {
                let result = self.outcome();
                if result.is_ok() {
                    self.devices.insert(name.clone(), *size);
                }
                self.tell_task(task, &name, result);
            }
            BlockWork::Remove => {
                let result = self.outcome().and(held);
                if result.is_ok() {
                    self.devices.remove(&name);
                }
                self.tell_task(task, &name, result);
            }
            BlockWork::Receive(BlockContent { from, size, .. }) => {
                self.stream(task, name, *from, Some(*size), &held);
            }
            BlockWork::Send { to, .. } => self.stream(task, name, *to, None, &held),
        }
    }

    fn stream(
        &mut self,
        task: TaskId,
        name: Name,
        client: ConnectionId,
        becomes: Option<u64>,
        held: &Result<(), String>,
    ) {
        if !self.connections.contains_key(&client) || held.is_err() {
            return self.tell_task(task, &name, Err("it cannot begin".to_owned()));
        }
        let stream = Stream {
            client,
            name,
            becomes,
        };
        self.streams.insert(task, stream);
    }

    /// All content is there, or on its way.
    pub(super) fn finish_stream(&mut self, task: TaskId) {
        let result = self.outcome();
        self.end_stream(task, result);
    }

    fn end_stream(&mut self, task: TaskId, result: Result<(), String>) {
        let Some(stream) = self.streams.remove(&task) else {
            return;
        };
        let name = stream.name;
        match stream.becomes {
            Some(size) if result.is_ok() => drop(self.devices.insert(name.clone(), size)),
            None if result.is_ok() => {
                // The content is an answer itself.
                let client = stream.client;
                self.open.retain(|_, open| open.client != client);
                self.tell_task(task, &name, result);
                return self.leave(client);
            }
            _ => {}
        }
        self.tell_task(task, &name, result);
    }

    fn tell_task(&mut self, task: TaskId, name: &Name, result: Result<(), String>) {
        let left = self.devices.get(name).copied();
        self.untold.push(Event::Block { task, result, left });
    }

    /// An error, and a note who it is, if a unikernel has the device, as the lock of its file tells.
    fn is_held(&mut self, name: &Name) -> Result<(), String> {
        let mut attached = self.attached.iter();
        match attached.find(|(_, devices)| devices.contains(name)) {
            Some((holder, _)) => {
                self.holders.push(holder.clone());
                Err(format!("{name} is locked"))
            }
            None => Ok(()),
        }
    }

    fn attach(&mut self, name: &Name, config: &Config) -> Result<(), String> {
        let wanted = devices(name, config);
        for device in &wanted {
            let there = self.devices.contains_key(device);
            self.must(there, || {
                format!("{name} is to have {device}, which is gone")
            });
            let streams = self
                .streams
                .values()
                .filter(|stream| stream.name == *device);
            let busy = streams.count();
            self.must(busy == 0, || {
                format!("{name} is to have {device}, whose content is on its way")
            });
            self.is_held(device)?;
        }
        if !wanted.is_empty() {
            self.attached.insert(name.clone(), wanted);
        }
        Ok(())
    }

    fn prepare(&mut self, name: Name, version: &Version, staged: Option<UploadId>) {
        let image = version.image;
        let alone =
            !self.runs(&name) && !self.consoles.contains_key(&name) && !self.taps.contains(&name);
        self.must(alone, || {
            format!("{name} is prepared while another instance is there")
        });
        let result = self.outcome();
        if result.is_ok() || self.dice.chance(50) {
            self.taps.insert(name.clone());
        }
        if let Some(upload) = staged {
            let found = self.staged.remove(&upload).map(|staged| staged.digest);
            self.must(found == Some(image), || {
                format!("{name}: its image is not staged")
            });
            if result.is_ok() || self.dice.chance(50) {
                self.store.insert(image);
            }
        }
        let result = result.and_then(|()| self.attach(&name, &version.config));
        if result.is_ok() {
            let stored = self.has_image(version.stored_image());
            self.must(stored, || {
                format!("{name} is prepared without its image {image}")
            });
            self.consoles.insert(name.clone(), Console::default());
        }
        self.untold.push(Event::Prepared { name, result });
    }

    fn spawn(&mut self, run: RunId, name: Name, version: &Version) {
        let stored = self.has_image(version.stored_image());
        let Version { config, image } = version.clone();
        let attached = self.taps.contains(&name);
        self.must(attached, || format!("{name} is spawned without its taps"));
        let ready = self
            .consoles
            .get(&name)
            .is_some_and(|console| console.told && console.read);
        self.must(ready, || {
            format!("{name} is spawned before its console is read")
        });
        self.must(stored, || format!("{name} is spawned without its image"));
        let alone = !self.runs(&name);
        self.must(alone, || format!("{name} is spawned twice"));
        let result = self.outcome();
        if result.is_ok() {
            self.ended.remove(&creation(&config));
            let tender = Tender {
                name,
                config,
                image,
            };
            self.tenders.insert(run, tender);
        }
        self.untold.push(Event::Spawned { run, result });
    }

    /// A BHyve machine needs none.
    fn has_image(&self, image: Option<ImageDigest>) -> bool {
        image.is_none_or(|image| self.store.contains(&image))
    }

    fn release(&mut self, name: &Name) {
        let alive = self.runs(name);
        self.must(!alive, || {
            format!("{name} runs and loses its console and taps")
        });
        self.consoles.remove(name);
        self.taps.remove(name);
        self.attached.remove(name);
        // Only now the supervisor has decided what follows the death.
        let dead: Vec<_> = self
            .dead
            .extract_if(.., |_, (tender, _)| tender.name == *name)
            .collect();
        for (run, (tender, death)) in dead {
            let stays = restart::decide(&tender.config, death) == Decision::Stay;
            if stays && !self.signalled.contains(&run) {
                self.ended.insert(creation(&tender.config));
                self.bury(name);
            }
        }
    }

    /// A unikernel that has ended for good is not promised to run any more.
    fn bury(&mut self, name: &Name) {
        let Some(promise) = self.unikernels.get_mut(name) else {
            return;
        };
        let settled = promise.settled().copied();
        if let Some(settled) = settled.filter(|settled| self.ended.contains(&settled.creation)) {
            promise.turn(Some(settled.ended()));
        }
    }

    /// History of a unikernel is forgotten: where it has ended all of it, otherwise what came before.
    pub(super) fn forget(&mut self, name: &Name) {
        let Some(promise) = self.unikernels.get_mut(name) else {
            return;
        };
        let left = promise
            .settled()
            .filter(|kept| kept.status != Status::Ended);
        let left = left.map(|kept| kept.without_previous());
        promise.turn(left);
    }

    /// Whether this is of a unikernel that ended, and was not started once more.
    pub(super) fn has_ended(&self, kept: &Kept) -> bool {
        kept.status == Status::Ended && self.ended.contains(&kept.creation)
    }

    fn exit(&mut self) {
        self.exited = true;
        let alive = self.tenders.len();
        self.must(alive == 0, || format!("exit leaves {alive} tenders"));
        let open = self.open.values().filter(|open| self.waits(open)).count();
        self.must(open == 0, || {
            format!("exit leaves {open} requests without an answer")
        });
        let writes = self.writes.len();
        self.must(writes == 0, || format!("exit leaves {writes} writes"));
        let streams = self.streams.len();
        self.must(streams == 0, || format!("exit leaves {streams} streams"));
    }

    /// A tap of a unikernel that neither runs nor has ended without the supervisor knowing.
    pub(super) fn stray_tap(&self, under_way: impl Fn(&Name) -> bool) -> Option<&Name> {
        let untold = |name: &Name| self.dead.values().any(|(tender, _)| tender.name == *name);
        let mut taps = self.taps.iter();
        taps.find(|name| !self.runs(name) && !untold(name) && !under_way(name))
    }

    fn runs(&self, name: &Name) -> bool {
        self.tenders.values().any(|tender| tender.name == *name)
    }
}
