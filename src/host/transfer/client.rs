//! The client's connection, in the process that has it to itself.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt::SndBuf};

use super::{GRANTED, GROWS, STEP, os};
use crate::host::outgoing::{self, Outgoing};
use crate::sys::poll::Poll;

/// More bytes than the kernel takes from one system call as one packet of a local socket.
const MESSAGE: usize = 1 << 18;

/// A client that is waited for so long for each step, and no longer than the supervisor wants.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    supervisor: UnixStream,
    patience: Duration,
    /// What has passed since the last whole step, and how long it was waited for.
    passed: usize,
    waited: Duration,
    /// A part of a message was sent: nothing but its rest can follow.
    inside: bool,
    /// As this system has it.
    send_pages: SendPages,
}

/// See [`os::send_pages`].
type SendPages = fn(BorrowedFd<'_>, BorrowedFd<'_>, u64, usize) -> nix::Result<usize>;

/// Why a transfer goes no further.
#[derive(Debug)]
pub enum Stop {
    /// The client can be told this.
    Refused(String),
    /// The client has left.
    Gone,
    /// The connection has failed.
    Broken(io::Error),
    /// The client is too slow; nothing can be said to it.
    Slow(Duration),
    /// The content cannot be read.
    Content(io::Error),
    /// The supervisor has called it off, or is gone.
    CalledOff,
}

impl Client {
    pub(super) fn new(socket: UnixStream, supervisor: UnixStream, patience: Duration) -> Self {
        Self {
            socket,
            supervisor,
            patience,
            passed: 0,
            waited: Duration::ZERO,
            inside: false,
            send_pages: os::send_pages,
        }
    }

    /// What arrives, at least an byte.
    pub fn read(&mut self, room: &mut [u8]) -> Result<usize, Stop> {
        loop {
            self.wait(PollFlags::POLLIN)?;
            match self.socket.read(room) {
                // Without an end that was sent there is none.
                Ok(0) => return Err(Stop::Gone),
                Ok(count) => {
                    self.pass(count);
                    return Ok(count);
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(Stop::Broken(error)),
            }
        }
    }

    /// Sends all of these, one behind the other. Until [`Self::end`] they are a part of a message.
    pub fn send(&mut self, parts: &[&[u8]]) -> Result<(), Stop> {
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        // Empty ones at the front.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            self.wait(PollFlags::POLLOUT)?;
            match self.socket.write_vectored(rest) {
                Ok(count) => {
                    self.inside = true;
                    self.pass(count);
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(error) if is_transient(&error) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Stop::Gone),
                Err(error) => return Err(Stop::Broken(error)),
            }
        }
        Ok(())
    }

    /// Sends the next `count` bytes of a file as a part of a message, without a copy of them if the system can do that.
    /// What is changed in the file before the other side has them may be sent as it is then: see [`Self::room`].
    pub fn send_pages(&mut self, file: &mut Outgoing, count: usize) -> Result<(), Stop> {
        let end = file.at() + count as u64;
        while file.at() < end {
            self.wait(PollFlags::POLLOUT)?;
            let left = usize::try_from(end - file.at()).unwrap_or(count);
            match (self.send_pages)(self.socket.as_fd(), file.as_fd(), file.at(), left) {
                Ok(0) => return Err(Stop::Content(outgoing::shorter())),
                Ok(count) => {
                    self.inside = true;
                    self.pass(count);
                    file.skip(count);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(Errno::EINVAL) => {
                    let mut piece = Vec::new();
                    file.read_up_to(left, &mut piece).map_err(Stop::Content)?;
                    self.send(&[&piece])?;
                }
                Err(Errno::EPIPE) => return Err(Stop::Gone),
                Err(Errno::EIO) => return Err(Stop::Content(Errno::EIO.into())),
                Err(error) => return Err(Stop::Broken(error.into())),
            }
        }
        Ok(())
    }

    /// Bytes that can be on their way: when so many were sent by [`Self::send`], the other side has all that was sent
    /// before. If nobody knows, no number is enough.
    pub fn room(&self) -> u64 {
        getsockopt(&self.socket, SndBuf).map_or(u64::MAX, |room| {
            // The last message is let in as long as there is any room.
            (room + MESSAGE) as u64
        })
    }

    /// A message ends here.
    pub fn end(&mut self) {
        self.inside = false;
    }

    /// Whether it can be told something else than what it is being sent.
    pub fn can_be_told(&self) -> bool {
        !self.inside
    }

    /// Whether somebody still wants anything, while nothing is read or sent.
    pub fn stays(&self) -> Result<(), Stop> {
        match self.poll(PollFlags::empty(), Duration::ZERO)? {
            ready if ready.is_empty() => Ok(()),
            _ => Err(Stop::Gone),
        }
    }

    /// Asks the supervisor whether the file may have so many bytes, and waits for the answer.
    ///
    /// # Errors
    /// If it may not: then the supervisor tells the client why.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Stop> {
        let request = [&[GROWS][..], &bytes.to_be_bytes()].concat();
        let mut answer = [0];
        let answered = self
            .supervisor
            .write_all(&request)
            .and_then(|()| self.supervisor.read_exact(&mut answer));
        match answered {
            Ok(()) if answer == [GRANTED] => Ok(()),
            _ => Err(Stop::CalledOff),
        }
    }

    fn pass(&mut self, count: usize) {
        self.passed += count;
        if self.passed >= STEP {
            (self.passed, self.waited) = (0, Duration::ZERO);
        }
    }

    fn wait(&mut self, what: PollFlags) -> Result<(), Stop> {
        let began = Instant::now();
        let ready = self.poll(what, self.patience.saturating_sub(self.waited))?;
        self.waited += began.elapsed();
        if !ready.is_empty() {
            return Ok(());
        }
        // Who sends too slowly may still listen.
        let slow = Stop::Slow(self.patience);
        Err(if what.contains(PollFlags::POLLIN) {
            Stop::Refused(slow.to_string())
        } else {
            slow
        })
    }

    /// What of this the client is ready for within that time, or that it is gone; nothing if the time is over.
    fn poll(&self, what: PollFlags, within: Duration) -> Result<PollFlags, Stop> {
        enum Side {
            Supervisor,
            Client,
        }
        let mut poll = Poll::new();
        poll.add_readable(Side::Supervisor, &self.supervisor);
        poll.add(Side::Client, self.socket.as_fd(), what);
        poll.until([Instant::now() + within]);
        match poll.wait().map_err(Stop::Broken)?.first() {
            // The supervisor sends nothing unasked: it hangs up.
            Some((Side::Supervisor, _)) => Err(Stop::CalledOff),
            Some((Side::Client, events)) => Ok(*events),
            None => Ok(PollFlags::empty()),
        }
    }
}

pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Content(error) => write!(f, "it cannot be read: {error}"),
            Self::Gone => f.write_str("the client has left"),
            Self::Broken(error) => write!(f, "the client's connection has failed: {error}"),
            Self::Slow(patience) => write!(
                f,
                "the client is slower than {} KiB in {} s",
                STEP >> 10,
                patience.as_secs()
            ),
            Self::CalledOff => f.write_str("the supervisor has called it off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// A client, its end of the connection, and the supervisor's end of the line.
    fn client(patience: Duration) -> (Client, UnixStream, UnixStream) {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let (line, supervisor) = UnixStream::pair().unwrap();
        (Client::new(socket, line, patience), theirs, supervisor)
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn who_sends_nothing_is_told_and_who_takes_nothing_cannot_be() {
        let (mut slow, mut theirs, _supervisor) = client(SHORT);
        theirs.write_all(b"x").unwrap();
        let mut room = [0; 4];
        assert_eq!(slow.read(&mut room).unwrap(), 1);
        // One byte is no step.
        let Err(Stop::Refused(why)) = slow.read(&mut room) else {
            panic!("waited for");
        };
        assert!(
            why.starts_with("the client is slower than 64 KiB in"),
            "{why}"
        );
        let (mut slow, _theirs, _supervisor) = client(SHORT);
        let sent = slow.send(&[&vec![0; 1 << 24]]);
        assert!(matches!(sent, Err(Stop::Slow(_))), "{sent:?}");
        assert!(!slow.can_be_told());
    }

    #[test]
    fn who_leaves_and_who_is_called_off_is_not_waited_for() {
        let (mut left, theirs, _supervisor) = client(LONG);
        assert!(left.stays().is_ok());
        drop(theirs);
        assert!(matches!(left.stays(), Err(Stop::Gone)));
        assert!(matches!(left.read(&mut [0]), Err(Stop::Gone)));
        assert!(matches!(left.send(&[b"x"]), Err(Stop::Gone)));
        let (mut off, mut theirs, supervisor) = client(LONG);
        theirs.write_all(b"x").unwrap();
        drop(supervisor);
        assert!(matches!(off.stays(), Err(Stop::CalledOff)));
        assert!(matches!(off.read(&mut [0]), Err(Stop::CalledOff)));
        assert!(matches!(off.send(&[b"x"]), Err(Stop::CalledOff)));
        assert!(off.can_be_told());
    }

    /// A file of this content, without a name.
    fn file(content: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!(
            "petrel-pages-{}-{}",
            std::process::id(),
            content.len()
        ));
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn a_file_is_sent_the_same_with_and_without_copies() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        let without: SendPages = |_, _, _, _| Err(Errno::EINVAL);
        for send_pages in [os::send_pages, without] {
            let mut outgoing = Outgoing::new(file(&content)).unwrap();
            let (mut sender, mut theirs, _supervisor) = client(LONG);
            sender.send_pages = send_pages;
            let (first, second) = (300_000, 50_000);
            let sent = std::thread::spawn(move || {
                sender.send_pages(&mut outgoing, first).unwrap();
                sender.send(&[b"between"]).unwrap();
                sender.send_pages(&mut outgoing, second).unwrap();
                assert!(!sender.can_be_told());
                outgoing.left()
            });
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            let (front, rest) = content.split_at(first);
            assert!(got == [front, b"between", &rest[..second]].concat());
            assert_eq!(sent.join().unwrap(), (rest.len() - second) as u64);
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_told_of() {
        let whole = file(&[7; 1000]);
        let mut outgoing = Outgoing::new(whole.try_clone().unwrap()).unwrap();
        whole.set_len(600).unwrap();
        let (mut sender, _theirs, _supervisor) = client(LONG);
        let sent = sender.send_pages(&mut outgoing, 1000);
        let Err(Stop::Content(error)) = sent else {
            panic!("{sent:?}");
        };
        assert_eq!(error.to_string(), "it is shorter than it was");
    }

    #[test]
    fn once_its_room_was_filled_again_all_before_has_arrived() {
        let mut outgoing = Outgoing::new(file(&vec![1; 1 << 16])).unwrap();
        let (mut sender, mut theirs, _supervisor) = client(SHORT);
        sender.send_pages(&mut outgoing, 1 << 16).unwrap();
        let copied = vec![2; usize::try_from(sender.room()).unwrap()];
        assert!(matches!(sender.send(&[&copied]), Err(Stop::Slow(_))));
        // As much as the kernel takes is less, while those pages are on their way.
        let mut taken = vec![0; 1 << 16];
        theirs.read_exact(&mut taken).unwrap();
        assert!(taken.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn all_parts_are_sent_empty_ones_too() {
        let (mut sender, mut theirs, _supervisor) = client(LONG);
        sender.send(&[b"", b"ab", b"", b"c"]).unwrap();
        sender.send(&[b""]).unwrap();
        assert!(!sender.can_be_told());
        sender.end();
        assert!(sender.can_be_told());
        let mut got = [0; 3];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"abc");
    }
}
