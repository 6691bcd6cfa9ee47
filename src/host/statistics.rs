//! The statistics daemon at the other end of a connection that it has made (WIRE 9.2): it is told which tenders to
//! observe. It is of no consequence to them: where it is slow or answers wrongly, it is left to come again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::tender;
use crate::name::Name;
use crate::socket::Peer;
use crate::wire::frame::MAX_MESSAGE;
use crate::wire::{
    BridgeTap, Command, Header, Int, Int64, Message, Payload, StatsAdd, StatsCommand, Success,
};

/// How long the statistics daemon may take for an answer.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes that wait for a statistics daemon which does not read them.
pub const MAX_WAITING: usize = 1 << 20;

/// The statistics daemon, if there is one.
#[derive(Debug, Default)]
pub struct StatisticsLink(Option<LinkState>);

/// A tender as the statistics daemon is told of it: its process, its virtual machine, and its network devices with the taps
/// behind them.
pub fn to_observe<'a>(
    process: Pid,
    machine: Option<String>,
    devices: impl Iterator<Item = &'a String>,
    taps: &[&str],
) -> StatsAdd {
    let network = devices.zip(taps).map(|(device, tap)| BridgeTap {
        bridge: device.as_str().into(),
        tap: (*tap).into(),
    });
    StatsAdd {
        vmmdev: machine
            .unwrap_or_else(|| tender::vmm_device(process))
            .as_str()
            .into(),
        pid: Int::new(process.as_raw().into()),
        network: network.collect(),
    }
}

/// A statistics daemon, and what it has still to answer.
#[derive(Debug)]
struct LinkState {
    peer: Peer,
    /// Of the latest command.
    sequence: i64,
    /// Sequences and deadlines, oldest first, as the answers come.
    unanswered: VecDeque<(i64, Instant)>,
}

impl StatisticsLink {
    /// Answers the request with this header, and tells of everything that runs. Whoever was told before is forgotten.
    pub fn serve(&mut self, peer: Peer, header: Header, running: Vec<(Name, StatsAdd)>) {
        log::info!("the statistics daemon is there");
        let mut told = LinkState {
            peer,
            sequence: header.sequence.0,
            unanswered: VecDeque::new(),
        };
        let answer = Message::answer(header, Payload::Reply(Success::Empty(())));
        let begun = told.send(&answer);
        self.0 = Some(told);
        self.judge(begun);
        for (name, to_observe) in running {
            self.add(&name, to_observe);
        }
    }

    /// A tender runs.
    pub fn add(&mut self, name: &Name, to_observe: StatsAdd) {
        self.tell(name, StatsCommand::Add(to_observe));
    }

    /// It has ended.
    pub fn remove(&mut self, name: &Name) {
        self.tell(name, StatsCommand::Remove(()));
    }

    /// The connection, to be polled.
    pub fn peer(&self) -> Option<&Peer> {
        self.0.as_ref().map(|told| &told.peer)
    }

    /// Reads and writes what goes.
    pub fn progress(&mut self, now: Instant) {
        if let Some(told) = &mut self.0 {
            let result = told.exchange(now);
            self.judge(result);
        }
    }

    /// When [`Self::progress`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let (_, deadline) = self.0.as_ref()?.unanswered.front()?;
        Some(*deadline)
    }

    fn tell(&mut self, name: &Name, command: StatsCommand) {
        if let Some(told) = &mut self.0 {
            let result = told.command(name, command);
            self.judge(result);
        }
    }

    fn judge(&mut self, result: Result<(), String>) {
        if let Err(why) = result {
            log::warn!(
                "statistics daemon: {why}; it is told nothing until it introduces itself again"
            );
            self.0 = None;
        }
    }
}

impl LinkState {
    fn command(&mut self, name: &Name, command: StatsCommand) -> Result<(), String> {
        self.sequence = self.sequence.wrapping_add(1);
        let deadline = Instant::now() + REPLY_TIMEOUT;
        self.unanswered.push_back((self.sequence, deadline));
        let command = Command::Statistics(command);
        self.send(&Message::command(self.sequence, name, command))
    }

    fn send(&mut self, message: &Message) -> Result<(), String> {
        self.peer.tell(message)?;
        if self.peer.queued() > MAX_WAITING {
            return Err("it does not read what it is told".to_owned());
        }
        Ok(())
    }

    fn exchange(&mut self, now: Instant) -> Result<(), String> {
        while let Some(message) = self.peer.hear(MAX_MESSAGE)? {
            let expected = self.unanswered.pop_front().map(|(sequence, _)| sequence);
            if expected.map(Int64) != Some(message.header.sequence) {
                return Err("it answers what was not asked".to_owned());
            }
            match message.payload {
                Payload::Reply(_) => {}
                Payload::Failure(text) => return Err(text.to_lossy()),
                _ => return Err("it answers with something else than an answer".to_owned()),
            }
        }
        match self.unanswered.front() {
            Some((_, deadline)) if *deadline <= now => Err("it does not answer".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::wire::VERSION;
    use crate::wire::frame::{frame, read_frame};

    fn header(sequence: i64) -> Header {
        Header {
            version: Int::new(VERSION),
            sequence: Int64(sequence),
            name: ":".into(),
        }
    }

    fn observed(pid: i32, devices: &[&str], taps: &[&str]) -> StatsAdd {
        let devices: Vec<String> = devices.iter().map(|&device| device.to_owned()).collect();
        to_observe(Pid::from_raw(pid), None, devices.iter(), taps)
    }

    fn link(names: &[&str]) -> (StatisticsLink, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut link = StatisticsLink::default();
        let running = names
            .iter()
            .map(|name| (name.parse().unwrap(), observed(7, &[], &[])));
        link.serve(Peer::new(ours).unwrap(), header(41), running.collect());
        (link, theirs)
    }

    fn read(stream: &mut UnixStream) -> Message {
        Message::decode(&read_frame(stream, MAX_MESSAGE).unwrap().unwrap()).unwrap()
    }

    fn answer(stream: &mut UnixStream, sequence: i64, payload: Payload) {
        let message = Message::answer(header(sequence), payload);
        stream
            .write_all(&frame(&message.encode().unwrap()).unwrap())
            .unwrap();
    }

    #[test]
    fn whoever_introduces_itself_is_told_what_runs_and_what_changes() {
        let (mut link, mut daemon) = link(&[":a", "t:b"]);
        assert_eq!(
            read(&mut daemon).payload,
            Payload::Reply(Success::Empty(()))
        );
        link.remove(&":a".parse().unwrap());
        let told: Vec<_> = (0..3).map(|_| read(&mut daemon)).collect();
        let told = told.iter().map(|message| {
            let header = &message.header;
            (header.sequence.0, header.name.to_lossy())
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [(42, ":a".into()), (43, "t:b".into()), (44, ":a".into())]
        );
        for sequence in 42..45 {
            answer(&mut daemon, sequence, Payload::Reply(Success::Empty(())));
        }
        link.progress(Instant::now());
        assert!(link.peer().is_some());
        assert_eq!(link.deadline(), None);
    }

    #[test]
    fn each_network_device_is_told_with_the_tap_behind_it() {
        let told = observed(7, &["service", "other"], &["pt0", "pt1"]);
        let pairs = told.network.iter().map(|pair| (&pair.bridge, &pair.tap));
        let expected = [("service", "pt0"), ("other", "pt1")];
        let expected = expected.map(|(device, tap)| (device.into(), tap.into()));
        assert!(pairs.eq(expected.iter().map(|(device, tap)| (device, tap))));
    }

    #[test]
    fn one_that_answers_wrongly_or_not_at_all_is_forgotten() {
        for (sequence, payload) in [
            (43, Payload::Reply(Success::Empty(()))),
            (42, Payload::Failure("no".into())),
        ] {
            let (mut link, mut daemon) = link(&[":a"]);
            answer(&mut daemon, sequence, payload);
            link.progress(Instant::now());
            assert!(link.peer().is_none());
        }
        let (mut link, _daemon) = link(&[":a"]);
        let deadline = link.deadline().unwrap();
        link.progress(Instant::now());
        assert!(link.peer().is_some());
        link.progress(deadline);
        assert!(link.peer().is_none());
    }

    #[test]
    fn one_that_does_not_read_is_forgotten() {
        let (mut link, _daemon) = link(&[]);
        let name = "t:a".parse().unwrap();
        for _ in 0..MAX_WAITING {
            link.add(&name, observed(7, &[], &[]));
            if link.peer().is_none() {
                return;
            }
        }
        panic!("it was told everything");
    }
}
