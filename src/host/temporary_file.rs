//! Files that are still being written: beside the place where they are to be, and gone unless they get there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// After how many bytes the system is asked to begin writing them to the disk, so that there is little left for the
/// end, when all of it has to be there.
const WRITE_BEHIND: u64 = 1 << 23;

/// What the names of such files begin with; those that are left at a start are of a broken run.
pub const UNFINISHED: &str = ".new-";

/// A file that is removed unless it is renamed.
#[derive(Debug)]
pub struct Unfinished {
    /// Where it is; empty once it has its place.
    pub path: PathBuf,
    /// The file, open for reading and writing.
    pub file: File,
}

impl Unfinished {
    /// A new file of mode 0600.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let path = path.to_path_buf();
        Ok(Self { path, file })
    }

    /// Puts it in its place, instead of what is there.
    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.path = PathBuf::new();
        Ok(())
    }
}

/// Up to where a file is on its way to the disk.
#[derive(Debug, Default)]
pub struct WriteBehind(u64);

impl WriteBehind {
    /// The file is written up to `at`. A hint only: what comes of it is told by the end.
    pub fn reached(&mut self, at: u64, file: &File) {
        let bytes = at - self.0;
        if bytes < WRITE_BEHIND {
            return;
        }
        if let (Ok(from), Ok(bytes)) = (i64::try_from(self.0), i64::try_from(bytes)) {
            let _ = posix_fadvise(file, from, bytes, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        self.0 = at;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty()
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
