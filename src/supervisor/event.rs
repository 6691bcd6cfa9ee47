//! What happens, and what is to be done: the two sides of the supervisor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::manifest::Manifest;
use crate::name::{Name, Path};
use crate::policy::Policy;
use crate::unikernel::{Death, ImageDigest, Version};
use crate::wire::state::{LastExit, State};
use crate::wire::{Header, Int, Message, Timestamp};

/// A connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One run of a tender: never used again, unlike process ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// An image that arrives for a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub u64);

/// A task on a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u64);

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

/// A tender that an earlier supervisor started, and that still runs.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// What it is called from now on.
    pub run: RunId,
    /// The unikernel.
    pub name: Name,
    /// The [key](crate::unikernel::Version::key) of what it runs.
    pub key: [u8; 32],
    /// When it was started.
    pub since: Timestamp,
    /// How long it has run.
    pub age: Duration,
    /// What went before.
    pub history: History,
    /// It was asked to stop.
    pub stopping: bool,
}

/// What went before a run of a unikernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Failures in a row, for the back-off.
    pub failures: u32,
    /// Restarts after failures, in all.
    pub restarts: u64,
    /// The last end that nobody asked for.
    pub last_exit: Option<LastExit>,
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
    /// The upload of an image is about to write beyond what it was granted: leads to [`Effect::GrantUpload`] or
    /// [`Effect::RefuseUpload`].
    UploadGrows {
        /// Which.
        upload: UploadId,
        /// How many bytes it wants to have written in all: a multiple of [`super::UPLOAD_STEP_BYTES`].
        bytes: u64,
    },
    /// The result of [`Effect::Inspect`].
    Inspected {
        /// The unikernel.
        name: Name,
        /// What the image declares, if there is one, or why it cannot run here.
        result: Result<Option<Manifest>, String>,
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
    /// What came of [`Effect::Block`].
    Block {
        /// Which task.
        task: TaskId,
        /// Why it was not done; what was sent is sent as far as that.
        result: Result<(), String>,
        /// What there is of the device now: its size in MB.
        left: Option<u64>,
    },
    /// A time asked for by [`Effect::Wake`] has come.
    Timer(Timer),
    /// The result of [`Effect::LookAtHost`]: what the host has, or why that is unknown.
    HostResources(Result<Policy, String>),
    /// The unikernels that run with a tap that is not on its bridge now, and what is wrong; of all others nothing is.
    Networks(BTreeMap<Name, String>),
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
    /// Bytes that it takes on disk.
    pub size: u64,
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
    /// Take an image in, uncompress and check it, and keep it staged: leads to [`Event::Staged`]. After each
    /// [`super::UPLOAD_STEP_BYTES`], uncompressed, it has to ask: [`Event::UploadGrows`].
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
    /// Let an upload write as much as it asked for.
    GrantUpload {
        /// Which, if it is still there.
        upload: UploadId,
    },
    /// End an upload that asked for more than there is space for: leads to [`Event::Staged`] with this reason, unless it is
    /// over.
    RefuseUpload {
        /// Which, if it is still there.
        upload: UploadId,
        /// The reason.
        why: String,
    },
    /// Forget an image that arrives, or is staged.
    DiscardImage(UploadId),
    /// Look at an image, unless it is of a BHyve machine, which has none, for a tender that runs it, and for what else of the
    /// host it needs: leads to [`Event::Inspected`].
    Inspect {
        /// The unikernel.
        name: Name,
        /// What it is to be.
        version: Arc<Version>,
        /// Its image is staged under this number; otherwise it is in the store.
        staged: Option<UploadId>,
    },
    /// Make everything but the process: leads to [`Event::Prepared`].
    Prepare {
        /// The unikernel.
        name: Name,
        /// What it is to be.
        version: Arc<Version>,
        /// Its image is staged under this number and goes to the store; otherwise it is there.
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
    /// Tell the console daemon how much its archives of a tenant may take.
    BoundArchives {
        /// Path of the tenant, of one label.
        tenant: Path,
        /// Bytes, or [`UNLIMITED`](crate::policy::UNLIMITED).
        bytes: u64,
    },
    /// Start the tender: leads to [`Event::Spawned`], perhaps only when a machine is loaded, later [`Event::Exited`].
    Spawn {
        /// The run.
        run: RunId,
        /// The unikernel.
        name: Name,
        /// What it is; its image is in the store.
        version: Arc<Version>,
        /// What went before, for a supervisor that finds it running.
        history: History,
    },
    /// Record what went before the next start of a unikernel, for a supervisor that is started meanwhile.
    Remember {
        /// The unikernel, which does not run.
        name: Name,
        /// What it is.
        version: Arc<Version>,
        /// What went before.
        history: History,
    },
    /// Forget what [`Effect::Remember`] has recorded, if anything.
    Forget(Name),
    /// Undo what [`Effect::Prepare`] did, all of it.
    Release(Name),
    /// Do something with a block device: leads to [`Event::Block`], sooner or later whatever becomes of the client.
    Block {
        /// Which task.
        task: TaskId,
        /// The device.
        name: Name,
        /// What is to be done.
        work: BlockWork,
    },
    /// Have what a task sends or receives end now, unless it is done: leads to its [`Event::Block`] as well.
    EndBlock(TaskId),
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
    /// Find out what the host has: leads to [`Event::HostResources`].
    LookAtHost,
    /// Tell whoever is at the other end of this connection of all tenders from now on, after this answer; in place
    /// of whoever was told before.
    Observe {
        /// The connection, which is no client's any more.
        by: ConnectionId,
        /// The header of the answer.
        header: Header,
        /// The network devices of what runs, in the order of their configurations.
        networks: BTreeMap<Name, Vec<String>>,
    },
    /// All is done.
    Exit,
}

/// What is done with a block device. After success it is on disk; after a failure everything is as it was.
#[derive(Debug)]
pub enum BlockWork {
    /// Make it, of so many MB.
    Make(u64),
    /// Delete it.
    Remove,
    /// Take content in, and put it in the place of what there is.
    Receive(BlockContent),
    /// Send what is in it, and its end, as an answer with this header.
    Send {
        /// To this connection.
        to: ConnectionId,
        /// The header.
        header: Header,
        /// zlib level, 0 for not compressed.
        level: u8,
        /// Whether all is in one message, as older clients want it.
        whole: bool,
    },
}

/// The content of a block device that arrives.
#[derive(Debug)]
pub struct BlockContent {
    /// From this connection.
    pub from: ConnectionId,
    /// MB of the device; the content is not larger.
    pub size: u64,
    /// Whether the device is made for it, and is not there yet.
    pub make: bool,
    /// The content, where the message had it; otherwise it follows as raw frames.
    pub embedded: Option<Vec<u8>>,
    /// Whether it is a zlib stream.
    pub compressed: bool,
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
