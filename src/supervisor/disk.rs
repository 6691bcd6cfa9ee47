//! Disk space: what each path keeps and what arrives for it, within quotas derived from policies.
//!
//! Console archives have a fixed share of a tenant's quota, within which the console daemon keeps them. Images have the
//! rest of each quota, and are counted here.
//!
//! An image counts once for a path, whichever unikernels at and below it refer to it, running, stopped or ended. An upload
//! counts beside the store, as far as it was allowed to grow, until its image has its place there. Images that only the
//! state file before the present one refers to do not count: they go with the next write.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use log::info;

use super::operation::{Operation, Upload, Written};
use super::{Effect, Ended, StagedImage, Supervisor, UploadId};
use crate::name::{Name, Path};
use crate::policy::{Policy, UNLIMITED};
use crate::unikernel::ImageDigest;
use crate::wire::state::State;

/// Bytes that an upload may write before it has to ask again.
pub const UPLOAD_STEP_BYTES: u64 = 8 << 20;

/// Smallest disk quota of a policy, in bytes: an image with large debug sections, which are never loaded, fits.
pub const MIN_DISK_QUOTA: u64 = 256 << 20;

/// Default of how many times its memory a policy may take on disk.
pub const DISK_QUOTA_FACTOR: u64 = 4;

/// Greatest factor that can be asked for.
pub const MAX_DISK_QUOTA_FACTOR: u64 = 1024;

/// Part of the disk quota of a tenant that console archives may take: one of so many. Images have the others.
pub const ARCHIVE_SHARE: u64 = 8;

/// How much disk space a policy gives for images and console archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskQuota {
    /// So many times its memory, and at least [`MIN_DISK_QUOTA`].
    TimesMemory(u64),
    /// Any amount.
    Unlimited,
}

/// Disk space that images of a path take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathUsage {
    /// Path, with all below it.
    pub path: Path,
    /// Bytes of images, each of which counts once: of unikernels, of what they can roll back to, and of ended ones.
    pub used: u64,
    /// Bytes that its policy allows, if there is a quota.
    pub allowed: Option<u64>,
}

/// Disk space that images take.
#[derive(Debug)]
pub(super) struct DiskUsage {
    quota: DiskQuota,
    /// Bytes of each image in the store.
    stored: BTreeMap<ImageDigest, u64>,
    arriving: BTreeMap<UploadId, Arriving>,
}

/// An image that arrives, or that is staged.
#[derive(Debug)]
struct Arriving {
    path: Path,
    /// Bytes that it may have, or has once it is staged.
    bytes: u64,
}

/// Quota of one policy, and what counts against it.
#[derive(Debug)]
struct Level {
    at: Path,
    quota: u64,
    used: u64,
    /// How many unikernels' versions refer to each image.
    references: BTreeMap<ImageDigest, usize>,
}

/// History that can be forgotten to make space.
#[derive(Debug)]
enum History {
    /// A unikernel that has ended.
    Ended(Name),
    /// The version that a rollback of this unikernel returns to.
    Previous(Name),
}

/// Why an image is not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRefusal {
    name: Name,
    /// Path of the policy.
    at: Path,
    /// Bytes that it allows.
    allowed: u64,
    /// Bytes that the path of the unikernel uses.
    used: u64,
    /// Bytes that are needed beside them.
    wanted: u64,
}

impl DiskQuota {
    /// Bytes that this policy gives, if there is a quota.
    pub fn bytes(self, policy: &Policy) -> Option<u64> {
        match self {
            Self::TimesMemory(factor) => {
                let memory = policy.memory.saturating_mul(MB);
                Some(memory.saturating_mul(factor).max(MIN_DISK_QUOTA))
            }
            Self::Unlimited => None,
        }
    }

    /// Bytes of them that console archives may take.
    pub fn of_archives(self, policy: &Policy) -> Option<u64> {
        self.bytes(policy).map(|bytes| bytes / ARCHIVE_SHARE)
    }

    /// Bytes of them that images may take: all others.
    pub fn of_images(self, policy: &Policy) -> Option<u64> {
        self.bytes(policy)
            .map(|bytes| bytes - bytes / ARCHIVE_SHARE)
    }
}

impl Default for DiskQuota {
    fn default() -> Self {
        Self::TimesMemory(DISK_QUOTA_FACTOR)
    }
}

impl FromStr for DiskQuota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "none" => Ok(Self::Unlimited),
            Ok(factor @ 1..=MAX_DISK_QUOTA_FACTOR) => Ok(Self::TimesMemory(factor)),
            _ => Err(format!(
                "invalid factor '{text}': expected a number from 1 to {MAX_DISK_QUOTA_FACTOR}, or none"
            )),
        }
    }
}

impl DiskUsage {
    pub(super) fn new(quota: DiskQuota, stored: BTreeMap<ImageDigest, u64>) -> Self {
        Self {
            quota,
            stored,
            arriving: BTreeMap::new(),
        }
    }

    /// Notes what becomes of images by these effects.
    pub(super) fn follow(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::DiscardImage(upload) => drop(self.arriving.remove(upload)),
                Effect::Prepare {
                    version,
                    staged: Some(upload),
                    ..
                } => {
                    if let Some(staged) = self.arriving.remove(upload) {
                        self.stored.insert(version.image, staged.bytes);
                    }
                }
                Effect::RemoveImage(image) => drop(self.stored.remove(image)),
                _ => {}
            }
        }
    }

    /// Bytes that an upload may have.
    fn granted(&self, upload: UploadId) -> u64 {
        self.arriving
            .get(&upload)
            .map_or(0, |arriving| arriving.bytes)
    }

    fn size(&self, image: &ImageDigest) -> u64 {
        self.stored.get(image).copied().unwrap_or(0)
    }

    /// What counts below `at`, given the path and image of every version that is kept.
    fn level(&self, at: Path, quota: u64, kept: &[(&Path, ImageDigest)]) -> Level {
        let arriving = self.arriving.values();
        let arriving = arriving.filter(|arriving| arriving.path.is_within(&at));
        let mut level = Level {
            used: arriving.map(|arriving| arriving.bytes).sum(),
            quota,
            references: BTreeMap::new(),
            at,
        };
        for (_, image) in kept.iter().filter(|(path, _)| path.is_within(&level.at)) {
            let references = level.references.entry(*image).or_default();
            if *references == 0 {
                level.used = level.used.saturating_add(self.size(image));
            }
            *references += 1;
        }
        level
    }
}

impl Level {
    fn allows(&self, more: u64) -> bool {
        self.used.saturating_add(more) <= self.quota
    }

    /// One version less refers to this image of `size` bytes.
    fn release(&mut self, image: ImageDigest, size: u64) {
        if let Some(references) = self.references.get_mut(&image) {
            *references -= 1;
            if *references == 0 {
                self.references.remove(&image);
                self.used = self.used.saturating_sub(size);
            }
        }
    }
}

impl Supervisor {
    /// Admits an upload with its first [`UPLOAD_STEP_BYTES`].
    pub(super) fn admit_upload(&mut self, id: UploadId, upload: &Upload) -> Result<(), String> {
        // Otherwise creates that cannot be recorded would leave one image after the other.
        if !self.superfluous.is_empty() {
            self.check_recorded()?;
        }
        self.admit_bytes(id, &upload.name, upload.force, UPLOAD_STEP_BYTES)
            .map_err(|refusal| refusal.to_string())
    }

    /// An upload wants to write up to `bytes`.
    pub(super) fn upload_grows(&mut self, id: UploadId, bytes: u64) {
        let upload = self.uploads.get(&id);
        let upload = upload.map(|upload| (upload.name.clone(), upload.force));
        let granted = match upload {
            Some((name, force)) => self
                .admit_bytes(id, &name, force, bytes)
                .map_err(|refusal| refusal.to_string()),
            None => Err("the upload is over".to_owned()),
        };
        self.effects.push(match granted {
            Ok(()) => Effect::GrantUpload { upload: id },
            Err(why) => Effect::RefuseUpload { upload: id, why },
        });
    }

    /// An upload has come to its end: of an image that is staged the size is known. `Err`: there is none, or too large a one.
    pub(super) fn upload_ended(
        &mut self,
        id: UploadId,
        upload: &Upload,
        result: Result<&StagedImage, &String>,
    ) -> Result<(), String> {
        let image = result.map_err(|why| {
            self.disk.arriving.remove(&id);
            why.clone()
        })?;
        if let Err(refusal) = self.admit_bytes(id, &upload.name, upload.force, image.size) {
            self.effects.push(Effect::DiscardImage(id));
            return Err(refusal.to_string());
        }
        if let Some(arriving) = self.disk.arriving.get_mut(&id) {
            arriving.bytes = image.size;
        }
        Ok(())
    }

    /// Lets an upload have so many bytes in all, if need be at the expense of history at and below the same path: of what
    /// has ended, and, if `name` is replaced, of what it can roll back to.
    fn admit_bytes(
        &mut self,
        id: UploadId,
        name: &Name,
        replaces: bool,
        bytes: u64,
    ) -> Result<(), QuotaRefusal> {
        let granted = self.disk.granted(id);
        let wanted = bytes.saturating_sub(granted);
        let forgotten = self.find_space(name, replaces, wanted)?;
        if !forgotten.is_empty() {
            for history in forgotten {
                self.forget(history);
            }
            self.persist(Written::Change);
        }
        let arriving = Arriving {
            path: name.path().clone(),
            bytes: granted.max(bytes),
        };
        self.disk.arriving.insert(id, arriving);
        Ok(())
    }

    /// The history that has to go for `wanted` bytes more, none of it if that would not suffice.
    fn find_space(
        &self,
        name: &Name,
        replaces: bool,
        wanted: u64,
    ) -> Result<Vec<History>, QuotaRefusal> {
        let mut levels = self.levels(name.path());
        let full = |levels: &[Level]| levels.iter().position(|level| !level.allows(wanted));
        let Some(first) = full(&levels).filter(|_| wanted > 0) else {
            return Ok(Vec::new());
        };
        let own = self.disk.level(name.path().clone(), 0, &self.kept());
        let refusal = QuotaRefusal {
            name: name.clone(),
            at: levels[first].at.clone(),
            allowed: levels[first].quota,
            used: own.used,
            wanted,
        };
        let mut forgotten = Vec::new();
        for history in self.expendable(name, replaces) {
            for image in self.images_of(&history) {
                let size = self.disk.size(&image);
                for level in &mut levels {
                    level.release(image, size);
                }
            }
            forgotten.push(history);
            if full(&levels).is_none() {
                return Ok(forgotten);
            }
        }
        Err(refusal)
    }

    /// The quotas of `path` and of every path above it, as far as they have policies, in force or about to be. That of the
    /// root is what the host has: there the file system is the limit.
    fn levels(&self, path: &Path) -> Vec<Level> {
        let kept = self.kept();
        path.ancestry()
            .filter(|at| !at.is_root())
            .filter_map(|at| {
                let quota = self.least(&at, |policy| self.disk.quota.of_images(policy))?;
                Some(self.disk.level(at, quota, &kept))
            })
            .collect()
    }

    /// The least quota of all policies of `at` that are in force or about to be.
    fn least(&self, at: &Path, quota: impl Fn(&Policy) -> Option<u64>) -> Option<u64> {
        let policies = self.ledgers().filter_map(|ledger| ledger.at(at));
        policies.filter_map(quota).min()
    }

    /// Tells the console daemon what the archives of a tenant may take, where `path` is that of a tenant.
    pub(super) fn bound_archives(&mut self, path: &Path) {
        if path.labels().len() != 1 {
            return;
        }
        let bytes = self.least(path, |policy| self.disk.quota.of_archives(policy));
        self.effects.push(Effect::BoundArchives {
            tenant: path.clone(),
            bytes: bytes.map_or(UNLIMITED, |bytes| bytes.min(UNLIMITED)),
        });
    }

    /// The path and image of every version that is kept.
    fn kept(&self) -> Vec<(&Path, ImageDigest)> {
        let present = self.unikernels.iter();
        let present = present.map(|(name, unikernel)| (name, images(unikernel.versions())));
        let ended = self.ended.iter();
        let ended = ended.map(|(name, ended)| (name, images(ended.versions())));
        let operations = self.operations.iter();
        let operations =
            operations.map(|(name, operation)| (name, images(Operation::versions(operation))));
        present
            .chain(ended)
            .chain(operations)
            .flat_map(|(name, images)| images.into_iter().map(move |image| (name.path(), image)))
            .collect()
    }

    /// History that may go for an image of `name`, first what is needed least: the oldest of what has ended, that of this
    /// name last, and then what this name would not return to any more once it is replaced.
    fn expendable(&self, name: &Name, replaces: bool) -> Vec<History> {
        let untouched = |other: &Name| !self.operations.contains_key(other);
        let ended = self.ended.iter();
        let mut ended: Vec<_> = ended
            .filter(|(other, _)| other.path().is_within(name.path()) && untouched(other))
            .collect();
        ended.sort_by(|(one, some), (other, more)| {
            let is_own = (*one == name).cmp(&(*other == name));
            is_own.then_with(|| older(some, more))
        });
        let ended = ended
            .into_iter()
            .map(|(name, _)| History::Ended(name.clone()));
        let present = self.unikernels.get(name).filter(|_| untouched(name));
        let previous = present
            .filter(|present| replaces && present.previous.is_some())
            .map(|_| History::Previous(name.clone()));
        ended.chain(previous).collect()
    }

    fn images_of(&self, history: &History) -> Vec<ImageDigest> {
        match history {
            History::Ended(name) => {
                let ended = self.ended.get(name);
                images(ended.into_iter().flat_map(Ended::versions))
            }
            History::Previous(name) => {
                let present = self.unikernels.get(name);
                images(present.and_then(|present| present.previous.as_ref()))
            }
        }
    }

    fn forget(&mut self, history: History) {
        let images = self.images_of(&history);
        self.let_go(images);
        match history {
            History::Ended(name) => {
                info!("{name}: has ended, and is forgotten to make space for an image");
                self.ended.remove(&name);
            }
            History::Previous(name) => {
                info!("{name}: its previous version is forgotten to make space for an image");
                if let Some(present) = self.unikernels.get_mut(&name) {
                    present.previous = None;
                }
            }
        }
    }
}

/// Disk space of each path with an image in the store, whose sizes are in bytes.
pub fn usage(
    state: &State,
    stored: &BTreeMap<ImageDigest, u64>,
    quota: DiskQuota,
) -> Vec<PathUsage> {
    let mut images_of: BTreeMap<Path, BTreeSet<ImageDigest>> = BTreeMap::new();
    for recorded in &state.unikernels {
        let versions = [&recorded.version].into_iter().chain(&recorded.previous);
        for image in images(versions)
            .into_iter()
            .filter(|image| stored.contains_key(image))
        {
            for path in recorded.name.path().ancestry() {
                images_of.entry(path).or_default().insert(image);
            }
        }
    }
    let policies: BTreeMap<_, _> = state
        .policies
        .iter()
        .map(|(path, policy)| (path, policy))
        .collect();
    let allowed = |path: &Path| quota.of_images(policies.get(path).filter(|_| !path.is_root())?);
    images_of
        .into_iter()
        .map(|(path, images)| PathUsage {
            used: images.iter().filter_map(|image| stored.get(image)).sum(),
            allowed: allowed(&path),
            path,
        })
        .collect()
}

impl fmt::Display for PathUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, used) = (&self.path, self.used.div_ceil(MB));
        write!(f, "finds {used} MB of images at and below {path}, ")?;
        match self.allowed {
            Some(allowed) => write!(f, "where its policy allows {} MB", allowed / MB),
            None => f.write_str("where no policy of its own bounds them"),
        }
    }
}

/// Bytes of a MB.
const MB: u64 = 1 << 20;

fn images<'a>(
    versions: impl IntoIterator<Item = &'a std::sync::Arc<crate::unikernel::Version>>,
) -> Vec<ImageDigest> {
    versions
        .into_iter()
        .filter_map(|version| version.stored_image())
        .collect()
}

/// The one that ended earlier comes first.
fn older(one: &Ended, other: &Ended) -> Ordering {
    let at = |ended: &Ended| (ended.exit.at.seconds(), ended.exit.at.milliseconds());
    at(one).cmp(&at(other))
}

impl fmt::Display for QuotaRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            at,
            allowed,
            used,
            wanted,
        } = self;
        let (allowed, used, wanted) = (allowed / MB, used.div_ceil(MB), wanted.div_ceil(MB));
        write!(
            f,
            "the image of {name} does not fit on disk: the policy of {at} allows {allowed} MB of images, "
        )?;
        if at == name.path() {
            write!(f, "{used} MB are used")?;
        } else {
            // What others at and below `at` use is not told.
            write!(f, "{used} MB are used by {} alone", name.path())?;
        }
        write!(
            f,
            ", {wanted} MB more are needed (destroy unikernels, also ended ones, or ask for more memory)"
        )
    }
}

impl std::error::Error for QuotaRefusal {}
