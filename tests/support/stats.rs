//! `petrel-stats` on a host of a test, and its subscribers.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::net::UnixStream;
use std::time::Instant;

use petrel::wire::frame::{MAX_MESSAGE, read_frame, write_frame};
use petrel::wire::{Command, Data, Message, Payload, Statistics, StatsAdd, StatsCommand, Success};

use crate::support::host::{Daemon, Host};
use crate::support::{DEADLINE, guest};

/// A guest that runs until it is stopped, and says little.
pub const QUIET: &str = "--arg=--interval-ms=600000";

/// `petrel-stats` of this host, ten times a second.
pub fn start(host: &Host, options: &[&str]) -> Daemon {
    let mut command = host.command("petrel-stats");
    command.args(["-v", "-v", "--tmpdir", "run", "--interval", "0.1"]);
    Daemon::start(command.args(options), "listening")
}

pub fn create(host: &Host, name: &str) {
    let image = guest("forever.spt");
    let ended = host.petrel(&["create", name, image.to_str().unwrap(), QUIET, "--mem=16"]);
    host.expect(&ended, 0, &[]);
}

/// A connection to `petrel-stats`.
pub struct Client(UnixStream);

impl Client {
    pub fn connect(host: &Host) -> Self {
        let stream = UnixStream::connect(host.path("run/util/stat.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(stream)
    }

    /// One that is told of `name`.
    pub fn subscribed(host: &Host, name: &str) -> Self {
        let mut client = Self::connect(host);
        let answer = client.ask(name, StatsCommand::Subscribe(()));
        assert_eq!(answer, Payload::Reply(Success::String("subscribed".into())));
        client
    }

    pub fn send(&mut self, name: &str, command: StatsCommand) {
        let name = name.parse().unwrap();
        let message = Message::command(7, &name, Command::Statistics(command));
        write_frame(&mut self.0, &message.encode().unwrap()).unwrap();
    }

    pub fn ask(&mut self, name: &str, command: StatsCommand) -> Payload {
        self.send(name, command);
        let message = self.receive().unwrap();
        assert_eq!(message.header.sequence.0, 7);
        message.payload
    }

    /// The next message; nothing if the daemon has closed.
    pub fn receive(&mut self) -> Option<Message> {
        let bytes = read_frame(&mut self.0, MAX_MESSAGE).unwrap()?;
        Some(Message::decode(&bytes).unwrap())
    }

    /// The next sample, and of what it is.
    pub fn sample(&mut self) -> (String, Statistics) {
        let message = self.receive().expect("the stream has ended");
        match message.payload {
            Payload::Data(Data::Statistics(used)) => (message.header.name.to_lossy(), *used),
            other => panic!("{other:?}"),
        }
    }

    /// Reads until there was a sample for which the answer is yes.
    pub fn until(&mut self, mut wanted: impl FnMut(&str, &Statistics) -> bool) -> Statistics {
        let end = Instant::now() + DEADLINE;
        loop {
            let (name, used) = self.sample();
            if wanted(&name, &used) {
                return used;
            }
            assert!(Instant::now() < end, "what is waited for never came");
        }
    }

    /// The names in so many samples.
    pub fn names(&mut self, samples: usize) -> std::collections::BTreeSet<String> {
        (0..samples).map(|_| self.sample().0).collect()
    }
}

/// To observe a process by hand.
pub fn add(pid: i64, tap: Option<&str>) -> StatsCommand {
    let network = tap.map(|tap| petrel::wire::BridgeTap {
        bridge: "service".into(),
        tap: tap.into(),
    });
    StatsCommand::Add(StatsAdd {
        vmmdev: "".into(),
        pid: petrel::wire::Int::new(pid),
        network: network.into_iter().collect(),
    })
}
