//! Files that are still being written: beside the place where they are to be, and gone unless they get there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
    pub fn rename(mut self, to: &Path) -> io::Result<File> {
        fs::rename(&self.path, to)?;
        self.path = PathBuf::new();
        self.file.try_clone()
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
