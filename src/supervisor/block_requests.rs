//! Requests about block devices.

use super::block_devices::{BlockRefusal, MAX_BLOCK_SIZE, User, is_in_use};
use super::event::{BlockContent, BlockWork, TaskId};
use super::{
    Asker, BlockDevices, Effect, HostDevice, Ledger, Run, Supervisor, Ticket, reply, share,
};
use crate::name::{Name, Path};
use crate::supervisor::operation::Goal;
use crate::unikernel::Block;
use crate::wire::{BlockCommand, BlockDevice, Int, Success};

/// Most block devices whose content is sent or received at the same time.
pub const MAX_BLOCK_STREAMS: usize = 16;

/// Most of them of one tenant.
pub const MAX_BLOCK_STREAMS_OF_TENANT: usize = 4;

/// A request that something is done for.
#[derive(Debug)]
pub(super) struct Task {
    asker: Asker,
    name: Name,
    kind: TaskKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskKind {
    /// The device comes into being; with content, if `stream`.
    Make { stream: bool },
    /// Its content is replaced.
    Set,
    /// It goes.
    Remove,
    /// Its content is sent.
    Send,
}

impl TaskKind {
    fn is_stream(self) -> bool {
        matches!(self, Self::Make { stream: true } | Self::Set | Self::Send)
    }

    /// The answer to success; the content is one itself.
    fn answer(self) -> Option<&'static str> {
        match self {
            Self::Make { .. } => Some("added block device"),
            Self::Set => Some("set block device"),
            Self::Remove => Some("removed block"),
            Self::Send => None,
        }
    }
}

impl Supervisor {
    pub(super) fn block_command(&mut self, asker: Asker, name: Name, command: BlockCommand) {
        if let BlockCommand::Info(()) = command {
            let answer = Success::BlockDevices(self.block_devices(&name));
            return self.succeed(&asker, answer);
        }
        if name.label().is_none() {
            let why = format!("'{name}' is a path, a block device's name is needed");
            return self.refuse(&asker, &why);
        }
        // Where it is announced, but not there, it follows (WIRE 11.5).
        let embedded = |data: Vec<u8>| Some(data).filter(|data| !data.is_empty());
        let begun = match command {
            BlockCommand::Info(()) => return,
            BlockCommand::Add(size) => self.make(&asker, &name, size, None),
            BlockCommand::AddOld(add) => {
                let content = add.data.map(|data| (embedded(data.0), add.compress));
                self.make(&asker, &name, add.size, content)
            }
            BlockCommand::AddFilled(add) => {
                self.make(&asker, &name, add.size, Some((None, add.compressed)))
            }
            BlockCommand::Set(compressed) => self.fill(&asker, &name, None, compressed),
            BlockCommand::SetOld(set) => {
                self.fill(&asker, &name, embedded(set.data.0), set.compress)
            }
            BlockCommand::Remove(()) => self.remove(&name),
            BlockCommand::Dump(level) => self.send(&asker, &name, level, false),
            BlockCommand::DumpOld(level) => self.send(&asker, &name, level, true),
        };
        match begun {
            Ok((kind, work)) => {
                let task = TaskId(self.count());
                match self.writes.last_key_value() {
                    // What had it until now may come back with the state that is on disk. Nothing else gets it meanwhile.
                    Some((last, _)) if kind == TaskKind::Remove => {
                        self.removals.push_back((*last, task));
                    }
                    _ => self.effects.push(Effect::Block {
                        task,
                        name: name.clone(),
                        work,
                    }),
                }
                self.tasks.insert(task, Task { asker, name, kind });
            }
            Err(why) => self.refuse(&asker, &why),
        }
    }

    /// Makes a device, with content (as it was sent, unless it follows, and whether it is compressed) or without.
    fn make(
        &mut self,
        asker: &Asker,
        name: &Name,
        size: Int,
        content: Option<(Option<Vec<u8>>, bool)>,
    ) -> Result<(TaskKind, BlockWork), String> {
        let size = u64::try_from(size.get())
            .ok()
            .filter(|size| (1..=MAX_BLOCK_SIZE).contains(size))
            .ok_or_else(|| {
                let size = size.get();
                format!("a block device has 1 to {MAX_BLOCK_SIZE} MB, and not {size}")
            })?;
        if self.devices.size(name).is_some() {
            return Err(BlockRefusal::Exists(name.clone()).to_string());
        }
        // Devices are not in the state: it may have a policy by now, of a write that failed, which forbids this one.
        self.check_recorded()?;
        let kind = TaskKind::Make {
            stream: content.is_some(),
        };
        self.check_streams(name, kind)?;
        self.ledgers()
            .try_for_each(|ledger: &Ledger| ledger.admit_block(name.path(), size, &self.devices))
            .map_err(|refusal| refusal.to_string())?;
        // From now on it counts, and its name is taken.
        self.devices
            .add(name.clone(), size)
            .map_err(|refusal| refusal.to_string())?;
        let work = match content {
            None => BlockWork::Make(size),
            Some((embedded, compressed)) => BlockWork::Receive(BlockContent {
                from: asker.connection,
                size,
                make: true,
                embedded,
                compressed,
            }),
        };
        Ok((kind, work))
    }

    fn remove(&self, name: &Name) -> Result<(TaskKind, BlockWork), String> {
        self.undisturbed(name, TaskKind::Remove)?;
        if self.writes.is_empty() {
            self.check_recorded()?;
        }
        Ok((TaskKind::Remove, BlockWork::Remove))
    }

    /// Goes on with the removals that have waited for this write, which is done.
    pub(super) fn go_on_with_removals(&mut self, done: Ticket) {
        while let Some((last, task)) = self.removals.front().copied()
            && last <= done
        {
            self.removals.pop_front();
            let Some(Task { asker, name, .. }) = self.tasks.get(&task) else {
                continue;
            };
            let (asker, name) = (asker.clone(), name.clone());
            if let Err(why) = self.check_recorded() {
                self.tasks.remove(&task);
                self.refuse(&asker, &why);
            } else {
                let work = BlockWork::Remove;
                self.effects.push(Effect::Block { task, name, work });
            }
        }
    }

    /// Whether it is known what is on disk.
    pub(super) fn check_recorded(&self) -> Result<(), String> {
        let why = "the state could not be written last time: try again when it can be";
        self.recorded
            .as_ref()
            .map(|_| ())
            .ok_or_else(|| why.to_owned())
    }

    fn fill(
        &self,
        asker: &Asker,
        name: &Name,
        embedded: Option<Vec<u8>>,
        compressed: bool,
    ) -> Result<(TaskKind, BlockWork), String> {
        let content = BlockContent {
            from: asker.connection,
            size: self.undisturbed(name, TaskKind::Set)?,
            make: false,
            embedded,
            compressed,
        };
        Ok((TaskKind::Set, BlockWork::Receive(content)))
    }

    fn send(
        &self,
        asker: &Asker,
        name: &Name,
        level: Int,
        whole: bool,
    ) -> Result<(TaskKind, BlockWork), String> {
        let level = reply::compression_level(level)?;
        self.undisturbed(name, TaskKind::Send)?;
        let work = BlockWork::Send {
            to: asker.connection,
            header: asker.header.clone(),
            level,
            whole,
        };
        Ok((TaskKind::Send, work))
    }

    /// The size of a device that no unikernel has, and no other task is about; several can send its content.
    fn undisturbed(&self, name: &Name, kind: TaskKind) -> Result<u64, String> {
        self.check_streams(name, kind)?;
        let disturbs = |task: &Task| {
            task.name == *name && (kind != TaskKind::Send || task.kind != TaskKind::Send)
        };
        self.devices
            .free(name, self.users(None).into_iter())
            .and_then(|size| {
                if self.tasks.values().any(disturbs) {
                    return Err(BlockRefusal::Busy(name.clone()));
                }
                Ok(size)
            })
            .map_err(|refusal| refusal.to_string())
    }

    fn check_streams(&self, name: &Name, kind: TaskKind) -> Result<(), String> {
        if !kind.is_stream() {
            return Ok(());
        }
        let streams = self.tasks.values().filter(|task| task.kind.is_stream());
        let tenant = name.path().tenant();
        let own = streams
            .clone()
            .filter(|task| task.name.path().tenant() == tenant);
        share(
            (streams.count(), MAX_BLOCK_STREAMS),
            (own.count(), MAX_BLOCK_STREAMS_OF_TENANT),
            "block devices",
            "being sent or received",
        )
    }

    pub(super) fn block_done(
        &mut self,
        task: TaskId,
        result: Result<(), String>,
        left: Option<u64>,
    ) {
        let Some(Task { asker, name, kind }) = self.tasks.remove(&task) else {
            return;
        };
        self.devices.set(&name, left);
        match (result, kind.answer()) {
            (Ok(()), Some(answer)) => self.tell(&asker, answer, true),
            (Ok(()), None) => {}
            (Err(why), _) => self.refuse(&asker, &format!("block device {name}: {why}")),
        }
    }

    /// Has all that is sent or received come to its end.
    pub(super) fn end_streams(&mut self) {
        let streams = self.tasks.iter().filter(|(_, task)| task.kind.is_stream());
        let ends = streams.map(|(task, _)| Effect::EndBlock(*task));
        self.effects.extend(ends);
    }

    /// Whether a unikernel with these devices may be, in the place of one of this name.
    pub(super) fn admit_blocks(&self, name: &Name, blocks: &[Block]) -> Result<(), BlockRefusal> {
        let path = name.path();
        let users = self.users(Some(name));
        self.devices.admit(path, blocks, &users.into_iter())?;
        let busy = |block: &Block| match HostDevice::of(path, block) {
            Some(HostDevice::Ours(device)) => {
                let mut tasks = self.tasks.values();
                tasks.find(|task| task.name == device)
            }
            _ => None,
        };
        match blocks.iter().find_map(busy) {
            Some(task) => Err(BlockRefusal::Busy(task.name.clone())),
            None => Ok(()),
        }
    }

    /// Every unikernel but this with the devices that it has, or had and may have again, or will have in the place of
    /// another.
    pub(super) fn users(&self, but: Option<&Name>) -> Vec<User<'_>> {
        let present = self.unikernels.iter();
        let operations = self.operations.iter();
        let before = operations.clone().filter_map(|(name, operation)| {
            let before = operation.previous.as_ref();
            // After a destroy nothing comes back.
            before
                .filter(|_| !matches!(operation.goal, Goal::Destroy(_)))
                .map(|before| (name, before))
        });
        let after = operations.filter_map(|(name, operation)| {
            let successor = operation.successor.as_ref()?;
            Some((name, &successor.version.config.blocks[..]))
        });
        present
            .chain(before)
            // One that is stopped takes nothing but its place.
            .filter(|(_, unikernel)| !matches!(unikernel.run, Run::Stopped))
            .map(|(name, unikernel)| (name, &unikernel.version.config.blocks[..]))
            .chain(after)
            .filter(|(name, blocks)| Some(*name) != but && !blocks.is_empty())
            .collect()
    }

    /// What is told of the devices that `asked` covers.
    fn block_devices(&self, asked: &Name) -> Vec<BlockDevice> {
        let users = self.users(None);
        let making = |name: &Name| {
            let mut tasks = self.tasks.values();
            tasks.any(|task| task.name == *name && matches!(task.kind, TaskKind::Make { .. }))
        };
        let devices = self.devices.all().filter(|(name, _)| !making(name));
        let devices = devices.map(|(name, size)| (name, (name, size)));
        reply::covered(asked, devices)
            .map(|(shown, (name, size))| BlockDevice {
                name: shown,
                size: size.into(),
                active: is_in_use(&HostDevice::Ours(name.clone()), users.iter().copied()),
            })
            .collect()
    }
}

/// The size in MB of what a unikernel at `path` has as this device; 0 of what is not ours.
pub(super) fn size(devices: &BlockDevices, path: &Path, block: &Block) -> u64 {
    match HostDevice::of(path, block) {
        Some(HostDevice::Ours(name)) => devices.size(&name).unwrap_or(0),
        _ => 0,
    }
}
