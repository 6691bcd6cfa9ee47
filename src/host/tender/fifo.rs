//! A console's fifo.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::TenderError;
use crate::name::Name;
use crate::socket;

/// A console's fifo, open for reading and writing, here and in the tender: a guest can always write, and its output
/// waits while nobody reads, even if neither this program nor the console daemon is there.
#[derive(Debug)]
pub struct Fifo {
    path: PathBuf,
    file: File,
}

impl Fifo {
    /// Makes the fifo of `name`, or takes over the one that is there, with what is in it.
    pub fn create(runtime_directory: &Path, name: &Name) -> Result<Self, TenderError> {
        let path = runtime_directory.join(socket::FIFOS).join(name.to_string());
        let made = match mkfifo(&path, Mode::from_bits_truncate(0o640)) {
            Ok(()) => true,
            Err(nix::Error::EEXIST) => false,
            Err(error) => return Err(TenderError::File("make the fifo", path, error.into())),
        };
        let opened = Self::open(path.clone());
        if made && opened.is_err() {
            let _ = fs::remove_file(path);
        }
        opened
    }

    fn open(path: PathBuf) -> Result<Self, TenderError> {
        // Others may write to the directory, but not make a tender write elsewhere.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
            .open(&path)
            .map_err(TenderError::file("open the fifo", &path))?;
        let found = file
            .metadata()
            .map_err(TenderError::file("look at the fifo", &path))?;
        if !found.file_type().is_fifo() {
            return Err(TenderError::NotAFifo(path));
        }
        // A guest's output waits where the fifo is full; a tender would take an error for the end of it.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))
            .map_err(|error| TenderError::File("set up the fifo", path.clone(), error.into()))?;
        Ok(Self { path, file })
    }

    /// Removes the fifos that an earlier supervisor has left, but for those of `wanted`.
    pub fn remove_others(runtime_directory: &Path, wanted: &BTreeSet<Name>) {
        let directory = runtime_directory.join(socket::FIFOS);
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name: Option<Name> = name.to_str().and_then(|name| name.parse().ok());
            let is_fifo = entry.file_type().is_ok_and(|kind| kind.is_fifo());
            if is_fifo && name.is_some_and(|name| !wanted.contains(&name)) {
                remove(&entry.path());
            }
        }
    }

    /// Removes the fifo; who reads it gets what is in it, and then its end.
    pub fn remove(self) {
        remove(&self.path);
    }

    /// For a tender to write to.
    pub fn output(&self) -> Result<File, TenderError> {
        self.file
            .try_clone()
            .map_err(TenderError::file("duplicate", &self.path))
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use std::io::{Read, Write};

    #[test]
    fn only_a_fifo_is_a_console_and_never_through_a_link() {
        let directory = Directory::short();
        let directory = &directory.0;
        let fifos = directory.join(socket::FIFOS);
        fs::create_dir_all(&fifos).unwrap();
        let victim = directory.join("victim");
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, fifos.join(":link")).unwrap();
        fs::write(fifos.join(":file"), "kept").unwrap();
        for name in [":link", ":file"] {
            assert!(
                Fifo::create(directory, &name.parse().unwrap()).is_err(),
                "{name}"
            );
        }
        let fifo = Fifo::create(directory, &":ok".parse().unwrap()).unwrap();
        // What is put in its place later is not written to.
        fs::remove_file(fifos.join(":ok")).unwrap();
        std::os::unix::fs::symlink(&victim, fifos.join(":ok")).unwrap();
        fifo.output().unwrap().write_all(b"lost").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
    }

    #[test]
    fn what_an_earlier_supervisor_has_left_goes_and_nothing_else() {
        let directory = Directory::short();
        let directory = &directory.0;
        let fifos = directory.join(socket::FIFOS);
        fs::create_dir_all(&fifos).unwrap();
        fs::write(fifos.join(":file"), "").unwrap();
        for name in [":wanted", "a:left"] {
            Fifo::create(directory, &name.parse().unwrap()).unwrap();
        }
        Fifo::remove_others(directory, &[":wanted".parse().unwrap()].into());
        let left = fs::read_dir(&fifos).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [":file", ":wanted"]);
    }

    #[test]
    fn what_was_written_waits_for_whoever_comes_next() {
        let directory = Directory::short();
        let directory = &directory.0;
        fs::create_dir_all(directory.join(socket::FIFOS)).unwrap();
        let name = ":ok".parse().unwrap();
        let fifo = Fifo::create(directory, &name).unwrap();
        let mut tender = fifo.output().unwrap();
        drop(fifo);
        // Nobody else has it open, and this is no error.
        tender.write_all(b"line").unwrap();
        let mut line = [0; 4];
        let again = Fifo::create(directory, &name).unwrap();
        drop(tender);
        again.output().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"line");
    }
}
