//! The image store: each image once, under its SHA-256, and the staging of images that arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::Gid;
use sha2::{Digest as _, Sha256};

use super::temporary_file::{UNFINISHED, Unfinished, WriteBehind};
use crate::elf;
use crate::inflate::{Arriving, InflateError};
use crate::manifest::{Manifest, ManifestError};
use crate::unikernel::{ImageDigest, MAX_IMAGE};

/// Directory of the store below the database directory.
pub(super) const DIRECTORY: &str = "image";

/// Mode of an image that a group can read: tenders open images by themselves.
const IMAGE: u32 = 0o440;

/// The images on disk. The loop of `petreld` and its [writer](super::writer) share it.
#[derive(Debug)]
pub struct ImageStore {
    directory: PathBuf,
    readers: Option<Gid>,
    counter: AtomicU64,
}

/// The file of an image that arrives. Dropping it removes the file.
#[derive(Debug)]
pub struct Staging(Unfinished);

/// The content of an image that arrives, as the process sees it that takes it in.
#[derive(Debug)]
pub struct ImageContent {
    file: File,
    path: PathBuf,
    hash: Sha256,
    arriving: Arriving,
    /// The first bytes of an image that has to be an ELF file, until there are enough to tell.
    start: Option<Vec<u8>>,
    at: u64,
    behind: WriteBehind,
}

/// An image that is complete, but not yet in the store. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    file: Unfinished,
    /// Its SHA-256.
    pub digest: ImageDigest,
    /// What it declares.
    pub manifest: Manifest,
    /// Bytes that it takes on disk.
    pub size: u64,
}

/// Why an image is not taken in.
#[derive(Debug)]
pub enum ImageError {
    /// A file operation failed (what, on which file, why).
    File(&'static str, PathBuf, io::Error),
    /// Too large, or no complete zlib stream.
    Content(InflateError),
    /// Not a Solo5 image.
    Manifest(ManifestError),
    /// It is not what its name says (its path).
    Damaged(PathBuf),
}

impl ImageStore {
    /// The store below `database`; made if missing, unfinished files of an earlier run removed. The group `readers`,
    /// if there is one, can read images whose names it knows.
    pub fn open(database: &Path, readers: Option<Gid>) -> Result<Self, ImageError> {
        let directory = database.join(DIRECTORY);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(ImageError::file("create", &directory))?;
        let store = Self {
            directory,
            readers,
            counter: AtomicU64::new(0),
        };
        for name in names(&store.directory)? {
            if name.starts_with(UNFINISHED) {
                store.delete(&name)?;
            } else {
                store.open_to_readers(&store.directory.join(name), IMAGE)?;
            }
        }
        for directory in [database, &store.directory] {
            store.open_to_readers(directory, 0o710)?;
        }
        if let Some(readers) = readers
            && let Some(closed) = closed(&store.directory, readers)
        {
            log::warn!(
                "group {readers} cannot get at images: {} is closed to it",
                closed.display()
            );
        }
        Ok(store)
    }

    /// The directory of the images.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The images in the store, with their sizes in bytes.
    pub fn sizes(&self) -> Result<BTreeMap<ImageDigest, u64>, ImageError> {
        sizes_in(&self.directory)
    }

    /// A file for an image that arrives, and the content that is to be written to it.
    pub fn stage(&self, compressed: bool) -> Result<(Staging, ImageContent), ImageError> {
        let file = self.unfinished()?;
        let mut content = ImageContent::new(&file, compressed)?;
        content.start = Some(Vec::with_capacity(elf::HEADER_SIZE));
        Ok((Staging(file), content))
    }

    /// Puts a whole image into the store, on disk for good, whether it is one of Solo5 or not.
    pub fn import(&self, image: &[u8], compressed: bool) -> Result<ImageDigest, ImageError> {
        let file = self.unfinished()?;
        let mut content = ImageContent::new(&file, compressed)?;
        content.write(image, |_| Ok::<_, ImageError>(()))?;
        let digest = content.finish()?;
        self.put(file, &digest)?;
        Ok(digest)
    }

    /// Puts a staged image into the store: on disk for good, and at no moment in place of a copy that is better.
    pub fn install(&self, staged: Staged) -> Result<(), ImageError> {
        self.put(staged.file, &staged.digest)
    }

    fn put(&self, file: Unfinished, digest: &ImageDigest) -> Result<(), ImageError> {
        self.open_to_readers(&file.path, IMAGE)?;
        let path = self.path(digest);
        file.rename(&path)
            .map_err(ImageError::file("rename to", &path))?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(ImageError::file("sync", &self.directory))
    }

    fn open_to_readers(&self, path: &Path, mode: u32) -> Result<(), ImageError> {
        let Some(readers) = self.readers else {
            return Ok(());
        };
        chown(path, Some(0), Some(readers.as_raw()))
            .map_err(ImageError::file("change the owner of", path))?;
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(ImageError::file("change the mode of", path))
    }

    /// Where the image of this digest is, or would be.
    pub fn path(&self, digest: &ImageDigest) -> PathBuf {
        self.directory.join(digest.to_string())
    }

    /// Opens an image of the store.
    pub fn read(&self, digest: &ImageDigest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(ImageError::file("open", &path))
    }

    /// Removes an image. Returns its file, if there was one: the disk space is freed when that is closed.
    pub fn remove(&self, digest: &ImageDigest) -> Result<Option<File>, ImageError> {
        let file = File::open(self.path(digest)).ok();
        self.delete(&digest.to_string())?;
        Ok(file)
    }

    /// Removes every image but these.
    pub fn keep_only(&self, digests: impl Iterator<Item = ImageDigest>) -> Result<(), ImageError> {
        unwanted(&self.directory, digests)?
            .iter()
            .try_for_each(|name| self.delete(name))
    }

    fn unfinished(&self) -> Result<Unfinished, ImageError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{UNFINISHED}{number}"));
        Unfinished::create(&path).map_err(ImageError::file("create", &path))
    }

    fn delete(&self, name: &str) -> Result<(), ImageError> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(ImageError::File("remove", path, error))
            }
            _ => Ok(()),
        }
    }
}

impl Staging {
    /// The image, now that its content is on disk and has this digest.
    ///
    /// # Errors
    /// If it is not an image of Solo5, or cannot be read.
    pub fn complete(self, digest: ImageDigest) -> Result<Staged, ImageError> {
        let Self(mut file) = self;
        let manifest = Manifest::read(&mut file.file).map_err(ImageError::Manifest)?;
        let found = file.file.metadata();
        let size = found
            .map_err(ImageError::file("look at", &file.path))?
            .len();
        Ok(Staged {
            file,
            digest,
            manifest,
            size,
        })
    }
}

impl Staged {
    /// Removes it. Returns its file: the disk space is freed when that is closed.
    pub fn discard(self) -> Option<File> {
        self.file.file.try_clone().ok()
    }
}

impl ImageContent {
    fn new(file: &Unfinished, compressed: bool) -> Result<Self, ImageError> {
        let copy = file.file.try_clone();
        Ok(Self {
            file: copy.map_err(ImageError::file("duplicate", &file.path))?,
            path: file.path.clone(),
            hash: Sha256::new(),
            arriving: arriving(compressed),
            start: None,
            at: 0,
            behind: WriteBehind::default(),
        })
    }

    /// Takes the next piece. `reach` is asked before the file grows, with the bytes that it is to have then.
    ///
    /// # Errors
    /// Those of `reach`; if the first bytes are not those of an ELF file that a tender could load; if the content is too
    /// large or not a zlib stream; if the file cannot be written.
    pub fn write<E: From<ImageError> + From<InflateError>>(
        &mut self,
        piece: &[u8],
        mut reach: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self {
            file,
            path,
            hash,
            arriving,
            start,
            at,
            behind,
        } = self;
        arriving.write(piece, |plain| {
            check_start(start, plain)?;
            let end = *at + plain.len() as u64;
            reach(end)?;
            hash.update(plain);
            file.write_all(plain)
                .map_err(ImageError::file("write", path))?;
            *at = end;
            behind.reached(end, file);
            Ok(())
        })
    }

    /// Whether it arrives as a zlib stream.
    pub fn is_compressed(&self) -> bool {
        self.arriving.is_compressed()
    }

    /// The file once more: whoever is the last to have one that was not finished waits until it is freed.
    pub fn file(&self) -> Option<File> {
        self.file.try_clone().ok()
    }

    /// Nothing follows: the digest of an image that is complete, and on the disk.
    pub fn finish(self) -> Result<ImageDigest, ImageError> {
        self.arriving.finish()?;
        self.file
            .sync_all()
            .map_err(ImageError::file("sync", &self.path))?;
        Ok(ImageDigest(self.hash.finalize().into()))
    }
}

impl AsRawFd for ImageContent {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Collects the first bytes of an image, and checks them as soon as there are enough.
fn check_start(start: &mut Option<Vec<u8>>, plain: &[u8]) -> Result<(), ImageError> {
    let Some(seen) = start else {
        return Ok(());
    };
    let missing = elf::HEADER_SIZE - seen.len();
    seen.extend_from_slice(plain.get(..missing).unwrap_or(plain));
    if let Some(header) = seen.first_chunk() {
        elf::check_header(header)
            .map_err(|error| ImageError::Manifest(ManifestError::Elf(error)))?;
        *start = None;
    }
    Ok(())
}

/// What is wrong with an image in the store below `database`; otherwise what it declares.
pub fn examine(database: &Path, digest: &ImageDigest) -> Result<Manifest, ImageError> {
    let path = database.join(DIRECTORY).join(digest.to_string());
    let mut file = File::open(&path).map_err(ImageError::file("open", &path))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(ImageError::file("read", &path))?;
    if ImageDigest(hash.finalize().into()) != *digest {
        return Err(ImageError::Damaged(path));
    }
    Manifest::read(&mut file).map_err(ImageError::Manifest)
}

/// The images in the store below `database`, with their sizes in bytes.
pub fn sizes(database: &Path) -> Result<BTreeMap<ImageDigest, u64>, ImageError> {
    sizes_in(&database.join(DIRECTORY))
}

fn sizes_in(directory: &Path) -> Result<BTreeMap<ImageDigest, u64>, ImageError> {
    let names = names(directory)?.into_iter();
    let images = names.filter_map(|name| Some((ImageDigest::parse(&name)?, name)));
    images
        .map(|(image, name)| {
            let path = directory.join(name);
            let found = fs::metadata(&path).map_err(ImageError::file("look at", &path))?;
            Ok((image, found.len()))
        })
        .collect()
}

/// The names of the images in the store below `database` that are none of these.
pub fn superfluous(
    database: &Path,
    digests: impl Iterator<Item = ImageDigest>,
) -> Result<Vec<String>, ImageError> {
    unwanted(&database.join(DIRECTORY), digests)
}

/// An image as it comes.
fn arriving(compressed: bool) -> Arriving {
    Arriving::new(compressed, MAX_IMAGE)
}

/// The digest of what an image is uncompressed, and the manifest in it.
///
/// # Errors
/// When it cannot be uncompressed. That it is no image of Solo5 is an error beside the digest.
pub fn inspect(
    image: &[u8],
    compressed: bool,
) -> Result<(ImageDigest, Result<Manifest, ImageError>), ImageError> {
    let mut arriving = arriving(compressed);
    let mut whole = Vec::new();
    arriving.write(image, |plain| {
        whole.extend_from_slice(plain);
        Ok::<_, ImageError>(())
    })?;
    arriving.finish().map_err(ImageError::Content)?;
    let digest = ImageDigest(Sha256::digest(&whole).into());
    let manifest = Manifest::read(&mut io::Cursor::new(whole)).map_err(ImageError::Manifest);
    Ok((digest, manifest))
}

fn unwanted(
    directory: &Path,
    digests: impl Iterator<Item = ImageDigest>,
) -> Result<Vec<String>, ImageError> {
    let keep: BTreeSet<String> = digests.map(|digest| digest.to_string()).collect();
    let mut names = names(directory)?;
    names.retain(|name| {
        let is_image = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_image && !keep.contains(name)
    });
    Ok(names)
}

fn names(directory: &Path) -> Result<Vec<String>, ImageError> {
    let failed = || ImageError::file("list", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        names.extend(entry.map_err(failed())?.file_name().into_string());
    }
    Ok(names)
}

/// The first of the directories down to this one that a group which owns nothing else cannot go through.
fn closed(directory: &Path, group: Gid) -> Option<&Path> {
    let open = |directory: &&Path| {
        fs::metadata(directory).is_ok_and(|found| {
            let needed = if found.gid() == group.as_raw() {
                0o010
            } else {
                0o001
            };
            found.mode() & needed != 0
        })
    };
    directory
        .ancestors()
        .filter(|directory| !open(directory))
        .last()
}

impl From<InflateError> for ImageError {
    fn from(error: InflateError) -> Self {
        Self::Content(error)
    }
}

impl ImageError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File(what, path, error)
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what, path, error) => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::Content(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
            Self::Damaged(path) => write!(
                f,
                "{} has another SHA-256 than its name says: it is damaged",
                path.display()
            ),
        }
    }
}

impl std::error::Error for ImageError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    #[test]
    fn an_image_has_its_limit_to_the_byte() {
        let mut arriving = arriving(false);
        let mut arrived = 0;
        let mut write = |bytes: &[u8]| {
            arriving.write(bytes, |plain| {
                arrived += plain.len() as u64;
                Ok::<_, ImageError>(())
            })
        };
        let piece = vec![0; 1 << 20];
        for _ in 0..MAX_IMAGE >> 20 {
            write(&piece).unwrap();
        }
        let refused = write(b"x").unwrap_err();
        assert!(matches!(refused, ImageError::Content(_)), "{refused}");
        assert_eq!(arrived, MAX_IMAGE);
    }

    #[test]
    fn the_directory_that_closes_the_way_to_images_is_named() {
        let directory = Directory::short();
        let directory = &directory.0;
        let inner = directory.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let own = fs::metadata(directory).unwrap().gid();
        let (members, others) = (Gid::from_raw(own), Gid::from_raw(own + 1));
        let way = |mode, group| {
            fs::set_permissions(directory.join("a"), Permissions::from_mode(mode)).unwrap();
            closed(&inner, group).map(Path::to_path_buf)
        };
        assert_eq!(way(0o755, others), None);
        assert_eq!(way(0o710, members), None);
        assert_eq!(way(0o710, others), Some(directory.join("a")));
        assert_eq!(way(0o701, members), Some(directory.join("a")));
    }
}
