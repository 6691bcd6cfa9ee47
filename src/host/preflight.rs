//! Beginning of `petreld`: what may fail is tried before anything of the database is touched, and a start that fails leaves
//! nothing behind that it has made.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::state_store::{self, Store};
use super::{HostError, Options, block, check_zvols, images, resources, run, secret, tap};
use crate::daemon;
use crate::policy::Policy;
use crate::socket;

/// What a supervisor has before it touches anything.
pub(super) struct Preflight {
    /// Database, held by this process alone.
    pub(super) store: Store,
    pub(super) listener: UnixListener,
    /// What this host has.
    pub(super) resources: Policy,
    /// To be [kept](Undo::forget) once the start cannot fail any more.
    pub(super) undo: Undo,
}

/// What was made for a start, and is removed if that fails.
#[derive(Debug, Default)]
pub(super) struct Undo {
    database: Option<PathBuf>,
    socket: Option<PathBuf>,
}

impl Preflight {
    /// Takes the database and the socket, or the lock and the listener that were kept for this process.
    pub(super) fn take(
        options: &Options,
        kept_lock: Option<OwnedFd>,
        kept_listener: Option<OwnedFd>,
    ) -> Result<Self, HostError> {
        run::check_users(options.tender_uids).map_err(HostError::Runs)?;
        check_zvols(options)?;
        // A state that cannot be used is looked at by people first.
        state_store::read(&options.dbdir).map_err(HostError::Store)?;
        if options.lock_mac {
            tap::check_lock().map_err(HostError::Taps)?;
        }
        let mut undo = Undo::default();
        if !options.dbdir.exists() {
            undo.database = Some(options.dbdir.clone());
        }
        let store = Store::open(&options.dbdir, kept_lock).map_err(HostError::Store)?;
        daemon::runtime_directories(&options.tmpdir)
            .map_err(|(path, error)| HostError::Runtime(path, error))?;
        let path = socket::path(&options.tmpdir, socket::SUPERVISOR);
        let listener = match kept_listener {
            Some(kept) => Ok(UnixListener::from(kept)),
            None if options.systemd_socket_activation => socket::activated(),
            None => socket::listen(&path).inspect(|_| undo.socket = Some(path.clone())),
        }
        .map_err(|error| HostError::File("listen on", path.clone(), error))?;
        let resources = resources::discover(&options.dbdir).map_err(HostError::Resources)?;
        log::info!("this host has: {resources}");
        // What follows touches the database.
        let failed = |error| HostError::File("make a secret in", options.dbdir.clone(), error);
        secret::make(&options.dbdir).map_err(failed)?;
        Ok(Self {
            store,
            listener,
            resources,
            undo,
        })
    }
}

impl Undo {
    /// Keeps everything: the start has not failed, and clients are served.
    pub(super) fn forget(mut self, options: &Options) {
        (self.database, self.socket) = (None, None);
        let path = socket::path(&options.tmpdir, socket::SUPERVISOR);
        log::info!("listening on {}", path.display());
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            remove(socket, |path| fs::remove_file(path));
        }
        let Some(database) = &self.database else {
            return;
        };
        // Never more than a start makes: what else is there was put there by somebody else, and stays.
        for file in [secret::FILE, state_store::LOCK] {
            remove(&database.join(file), |path| fs::remove_file(path));
        }
        for directory in [images::DIRECTORY, block::DIRECTORY, ""] {
            remove(&database.join(directory), |path| fs::remove_dir(path));
        }
    }
}

fn remove(path: &Path, how: impl FnOnce(&Path) -> std::io::Result<()>) {
    match how(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}
