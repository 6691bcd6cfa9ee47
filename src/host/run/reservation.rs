//! Reservations of users on the whole host: several supervisors may have been given one range.
//!
//! A lock keeps a user from others while its tender is started; afterwards the processes of the user do, also when the
//! supervisor is gone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::sys::user;

/// The file of locks in the default runtime directory, which all supervisors of the host share.
pub(super) const FILE: &str = "tender-uids.lock";

/// The users that are reserved for this supervisor.
#[derive(Debug)]
pub struct Reservations {
    locks: Option<File>,
}

impl Reservations {
    /// No reservation yet. `directory` is the same for all supervisors; without it only processes tell what is taken.
    pub fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let locks = opened
            .inspect_err(|error| {
                log::info!(
                    "cannot open '{}', which keeps supervisors from taking one user in the same instant: {error}",
                    path.display()
                );
            })
            .ok();
        Self { locks }
    }

    /// Reserves a user, unless a process or another supervisor has it.
    pub fn take(&self, user: u32) -> bool {
        let locked = self
            .locks
            .as_ref()
            .is_none_or(|locks| told(user, user::lock(locks, user)).unwrap_or(true));
        if !locked {
            return false;
        }
        let has_processes = told(user, user::has_processes(user)).unwrap_or(false);
        if has_processes {
            self.give_back(user);
        }
        !has_processes
    }

    /// Reserves the user of a tender that runs already.
    pub fn keep(&self, user: u32) {
        if let Some(locks) = &self.locks {
            told(user, user::lock(locks, user));
        }
    }

    /// Gives a user back.
    pub fn give_back(&self, user: u32) {
        if let Some(locks) = &self.locks {
            told(user, user::unlock(locks, user));
        }
    }
}

fn told<T>(user: u32, result: std::io::Result<T>) -> Option<T> {
    result
        .inspect_err(|error| log::warn!("cannot find out whether user {user} is taken: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    const USER: u32 = 1_987_654_322;

    #[test]
    #[cfg(target_os = "linux")]
    fn two_supervisors_never_reserve_one_user() {
        let directory = Directory::short();
        let (one, other) = (
            Reservations::open(&directory.0),
            Reservations::open(&directory.0),
        );
        assert!(one.take(USER));
        assert!(!other.take(USER));
        assert!(other.take(USER + 1));
        one.give_back(USER);
        assert!(other.take(USER));
    }

    #[test]
    fn a_user_with_processes_is_not_reserved_whether_there_are_locks_or_not() {
        let directory = Directory::short();
        let own = nix::unistd::getuid().as_raw();
        for directory in [&directory.0, &directory.0.join("nowhere")] {
            let reservations = Reservations::open(directory);
            assert!(!reservations.take(own));
            assert!(reservations.take(USER + 2));
        }
    }
}
