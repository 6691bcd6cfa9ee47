//! The thread that changes what is on disk, in the order in which it is told to, so that the loop of `petreld` waits for
//! no disk.
//!
//! A write of the state that is followed by another one is left out: the later one has all that it has. What was asked
//! for is done when the later one is.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};

use nix::sys::signal::{SigSet, SigmaskHow};

use super::block::Change;
use super::images::{ImageStore, Staged};
use super::state_store::Store;
use crate::name::Name;
use crate::supervisor::{TaskId, Ticket};
use crate::unikernel::ImageDigest;
use crate::wire::state::State;

/// Bytes of stack of the thread.
const STACK: usize = 256 << 10;

/// The loop's side of the thread.
#[derive(Debug)]
pub struct Writer {
    /// Gone when no more is to be done.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    /// Readable when something is done.
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// What is to be done.
#[derive(Debug)]
enum Job {
    Save(Ticket, State),
    Install(Name, Staged),
    Discard(Staged),
    Remove(ImageDigest),
    Change(TaskId, Name, Change),
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    /// The state of this write is on disk, or why it may not be.
    Saved(Ticket, Result<(), String>),
    /// The image for this unikernel is in the store, or why it is not.
    Installed(Name, Result<(), String>),
    /// A task on this block device was carried out, or why it was not.
    Changed(TaskId, Name, Result<(), String>),
    /// A file without a name is left over: whoever closes it waits until its disk space is freed.
    Freed(File),
}

/// The thread's side.
struct WriterThread {
    store: Store,
    images: Arc<ImageStore>,
    /// Images to be removed as soon as the state before the present one does not refer to them either.
    superfluous: BTreeSet<ImageDigest>,
    done: Sender<Done>,
    wake: UnixStream,
}

impl Writer {
    /// Starts the thread. Images of the store that `state`, which was read from it, does not refer to are removed when
    /// the state before that is gone, too.
    pub fn start(store: Store, images: Arc<ImageStore>, state: &State) -> io::Result<Self> {
        let mut superfluous: BTreeSet<_> = store.images().collect();
        for image in state.images() {
            superfluous.remove(&image);
        }
        let (jobs, to_do) = channel();
        let (told, done) = channel();
        let (wake, theirs) = UnixStream::pair()?;
        for end in [&wake, &theirs] {
            end.set_nonblocking(true)?;
        }
        let thread = WriterThread {
            store,
            images,
            superfluous,
            done: told,
            wake: theirs,
        };
        // Signals are for the loop.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let started = Builder::new()
            .name("writer".to_owned())
            .stack_size(STACK)
            .spawn(move || thread.run(&to_do));
        mask.thread_set_mask()?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            wake,
            thread: Some(started?),
        })
    }

    /// Writes the state: leads to [`Done::Saved`].
    pub fn save(&self, ticket: Ticket, state: State) {
        self.send(Job::Save(ticket, state));
    }

    /// Puts an image into the store: leads to [`Done::Installed`].
    pub fn install(&self, name: Name, staged: Staged) {
        self.send(Job::Install(name, staged));
    }

    /// Removes the file of an image that was not put into the store.
    pub fn discard(&self, staged: Staged) {
        self.send(Job::Discard(staged));
    }

    /// Removes an image from the store once no state on disk refers to it.
    pub fn remove(&self, image: ImageDigest) {
        self.send(Job::Remove(image));
    }

    /// Changes the block devices: leads to [`Done::Changed`].
    pub fn change(&self, task: TaskId, name: Name, change: Change) {
        self.send(Job::Change(task, name, change));
    }

    fn send(&self, job: Job) {
        // It ends by a panic only, which the loop finds.
        let sent = |jobs: &Sender<Job>| jobs.send(job).is_ok();
        if !self.jobs.as_ref().is_some_and(sent) {
            log::error!("the writer has ended");
        }
    }

    /// What was done since the last time.
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn progress(&mut self) -> io::Result<Vec<Done>> {
        let mut bytes = [0; 64];
        while self.wake.read(&mut bytes).is_ok_and(|count| count > 0) {}
        let mut all = Vec::new();
        loop {
            match self.done.try_recv() {
                Ok(done) => all.push(done),
                Err(TryRecvError::Empty) => return Ok(all),
                Err(TryRecvError::Disconnected) => {
                    return Err(io::Error::other("the writer thread has ended"));
                }
            }
        }
    }
}

impl AsFd for Writer {
    /// Readable when there is [progress](Writer::progress).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Writer {
    /// Waits until all is done.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the writer thread has panicked");
        }
    }
}

impl WriterThread {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut next = VecDeque::new();
        while let Some(job) = next.pop_front().or_else(|| jobs.recv().ok()) {
            match job {
                Job::Save(ticket, state) => {
                    let (tickets, state) = latest(ticket, state, jobs, &mut next);
                    let result = self.save(&state);
                    for ticket in tickets {
                        self.tell(Done::Saved(ticket, result.clone()));
                    }
                }
                Job::Install(name, staged) => {
                    self.superfluous.remove(&staged.digest);
                    let installed = self.images.install(staged);
                    let result = installed.map_err(|error| error.to_string());
                    self.tell(Done::Installed(name, result));
                }
                Job::Discard(staged) => {
                    if let Some(file) = staged.discard() {
                        self.tell(Done::Freed(file));
                    }
                }
                Job::Remove(image) => {
                    self.superfluous.insert(image);
                    self.remove_superfluous();
                }
                Job::Change(task, name, change) => {
                    let (result, file) = change.carry_out();
                    if let Some(file) = file {
                        self.tell(Done::Freed(file));
                    }
                    let result = result.map_err(|error| error.to_string());
                    self.tell(Done::Changed(task, name, result));
                }
            }
        }
    }

    fn tell(&mut self, done: Done) {
        // The loop may be gone. If it is not woken there is something to be read already.
        let _ = self.done.send(done);
        let _ = self.wake.write(&[0]);
    }

    fn save(&mut self, state: &State) -> Result<(), String> {
        let saved = self.store.save(state).map_err(|error| error.to_string());
        for image in state.images() {
            self.superfluous.remove(&image);
        }
        self.remove_superfluous();
        saved
    }

    fn remove_superfluous(&mut self) {
        let (store, images) = (&self.store, &self.images);
        let mut freed = Vec::new();
        self.superfluous.retain(|image| {
            let wanted = store.refers_to(image);
            if !wanted {
                match images.remove(image) {
                    Ok(file) => freed.extend(file),
                    Err(error) => log::warn!("{error}"),
                }
            }
            wanted
        });
        for file in freed {
            self.tell(Done::Freed(file));
        }
    }
}

/// The last of the states that are to be written one after the other, and the tickets of all of them. Another job that
/// was found behind them is `next`.
fn latest(
    ticket: Ticket,
    mut state: State,
    jobs: &Receiver<Job>,
    next: &mut VecDeque<Job>,
) -> (Vec<Ticket>, State) {
    let mut tickets = vec![ticket];
    while next.is_empty() {
        match jobs.try_recv() {
            Ok(Job::Save(ticket, later)) => {
                tickets.push(ticket);
                state = later;
            }
            Ok(other) => next.push_back(other),
            Err(_) => break,
        }
    }
    (tickets, state)
}
