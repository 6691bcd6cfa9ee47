//! Directories of tests: of those of the library, and of the integration tests.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::mkdtemp;

/// A directory that nobody had before, not even a test that was killed; it goes away with the value.
pub struct Directory(pub PathBuf);

impl Directory {
    /// With a short name: those of the sockets in it have 108 bytes at most.
    pub fn short() -> Self {
        Self::like(Path::new("/tmp/petrel-XXXXXX"))
    }

    /// With other characters in place of the six `X` at the end.
    pub fn like(template: &Path) -> Self {
        let path = mkdtemp(template).unwrap();
        // Some tests have users that need to get through.
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

/// Takes a private key, which has the extension `key`, away from other users.
#[allow(dead_code, reason = "not every test has keys")]
pub fn protect(file: &Path) {
    if file.extension().is_some_and(|extension| extension == "key") {
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies a program, with its permissions, in a process of its own: whatever this process forks meanwhile would have the
/// copy open for writing, and it could not be executed ("text file busy").
#[allow(dead_code, reason = "not every test copies programs")]
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut cp = std::process::Command::new("cp");
    let copied = cp.arg("-p").args([from.as_ref(), to.as_ref()]).status();
    assert!(copied.unwrap().success(), "cannot copy {:?}", from.as_ref());
}
