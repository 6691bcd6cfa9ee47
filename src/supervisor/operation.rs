//! What takes more than one event: requests and tasks of the supervisor's own, one at a time for each name.

use std::sync::Arc;

use super::{Asker, Claim, Effect, Ended, RunId, StagedImage, Unikernel, UploadId};
use crate::name::{Name, Path};
use crate::unikernel::{Config, Version};
use crate::wire::{Arguments, Restart, Success};

/// A request, or a task of the supervisor's own.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) asked_by: Option<Asker>,
    pub(super) goal: Goal,
    pub(super) phase: Phase,
    /// The instance that this has put aside; it comes back if the new one cannot start.
    pub(super) previous: Option<Unikernel>,
    /// The same, where it was one that had ended.
    pub(super) ended: Option<Ended>,
    /// What is put in its place.
    pub(super) successor: Option<Successor>,
}

#[derive(Debug)]
pub(super) enum Goal {
    /// Another instance, or the same one anew (the answer to success).
    Replace(&'static str),
    /// Down, until somebody asks for it.
    Stop,
    /// Gone (the answer to success).
    Destroy(&'static str),
    /// A start by the supervisor itself.
    Start,
    /// A new unikernel is up, but could not be recorded: it is taken down again, with this answer.
    Abandon(String),
    /// This run is of nothing that is wanted: it is ended.
    Evict(RunId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Whether the successor can run is looked at; the present instance is not touched yet.
    Inspecting,
    Stopping,
    Preparing,
    /// The answer to this call is awaited.
    Announcing(u64),
    Spawning,
    Saving,
}

#[derive(Debug)]
pub(super) struct Successor {
    pub(super) version: Arc<Version>,
    /// Where its image is, unless in the store.
    pub(super) upload: Option<UploadId>,
}

/// A create whose image arrives.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) asker: Asker,
    pub(super) name: Name,
    pub(super) config: Config,
    pub(super) force: bool,
}

/// A request that is complete.
#[derive(Debug)]
pub(super) enum Request {
    Create(Box<Creation>),
    Revive(StoredStart),
    Stop,
    Destroy,
}

#[derive(Debug)]
pub(super) struct Creation {
    pub(super) config: Config,
    pub(super) force: bool,
    /// A BHyve machine has none.
    pub(super) image: Option<(UploadId, StagedImage)>,
}

/// A start from an image in the store.
#[derive(Debug)]
pub(super) enum StoredStart {
    /// Of what is there, perhaps with other arguments.
    Restart(Option<Box<Arguments>>),
    /// Of what is down.
    Start,
    /// Of what was there before.
    Rollback,
}

/// What a write of the state file was for.
#[derive(Debug)]
pub(super) enum Written {
    /// The last step of the operation on this name.
    Operation(Name),
    /// The policies of these paths.
    Policies {
        asker: Asker,
        paths: Vec<Path>,
        answer: Success,
        /// Whether the conversation ends with the answer.
        close: bool,
    },
    /// Something that nobody asked for.
    Change,
}

impl Operation {
    pub(super) fn new(asked_by: Option<Asker>, goal: Goal, phase: Phase) -> Self {
        Self {
            asked_by,
            goal,
            phase,
            previous: None,
            ended: None,
            successor: None,
        }
    }

    /// Whether an instance is under way that the state file must not name yet, but what was there before.
    pub(super) fn is_unacknowledged(&self) -> bool {
        match self.goal {
            Goal::Replace(_) => !matches!(
                self.phase,
                Phase::Inspecting | Phase::Stopping | Phase::Saving
            ),
            Goal::Abandon(_) => true,
            Goal::Stop | Goal::Destroy(_) | Goal::Start | Goal::Evict(_) => false,
        }
    }

    /// What may be taken once more, or instead of what is there.
    pub(super) fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        // After a destroy nothing comes back.
        let previous = self
            .previous
            .as_ref()
            .filter(|_| !matches!(self.goal, Goal::Destroy(_)));
        let successor = self.successor.as_ref();
        previous
            .map(Unikernel::claim)
            .into_iter()
            .chain(successor.map(|successor| Claim::of(&successor.version.config)))
    }

    /// What this may still need.
    pub(super) fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        let previous = self.previous.iter().flat_map(Unikernel::versions);
        let ended = self.ended.iter().flat_map(Ended::versions);
        // The image of an upload is not in the store yet.
        let successor = self.successor.iter().filter(|new| new.upload.is_none());
        previous
            .chain(ended)
            .chain(successor.map(|successor| &successor.version))
    }
}

impl Request {
    /// What is to be thrown away with the request.
    pub(super) fn discard(&self) -> Option<Effect> {
        match self {
            Self::Create(creation) => {
                let (upload, _) = creation.image.as_ref()?;
                Some(Effect::DiscardImage(*upload))
            }
            _ => None,
        }
    }
}

impl From<Restart> for StoredStart {
    fn from(restart: Restart) -> Self {
        match restart {
            Restart::NoArguments(()) => Self::Restart(None),
            Restart::NewArguments(arguments) => Self::Restart(Some(Box::new(arguments))),
        }
    }
}

impl StoredStart {
    /// The answer to success.
    pub(super) fn answer(&self) -> &'static str {
        match self {
            Self::Restart(_) => "created unikernel",
            Self::Start => "started unikernel",
            Self::Rollback => "rolled back unikernel",
        }
    }
}
