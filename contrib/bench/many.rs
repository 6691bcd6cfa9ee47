//! What `petreld` takes for many unikernels: a client on its host fills it up, and times it before and after.
#![allow(clippy::print_stdout)]

mod times;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argh::FromArgs;
use petrel::name::Name;
use petrel::policy::Policy;
use petrel::unikernel::{Config, FailBehaviour, Kind};
use petrel::wire::frame::{END, MAX_CHUNK, read_frame, write_frame};
use petrel::wire::{Command, Message, Payload, PolicyCommand, Success, UnikernelCommand};
use times::{WARM_UP, keep, report};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most octets of an answer.
const MAX_ANSWER: usize = 1 << 24;
/// Memory of a unikernel in MB.
const MEMORY: u32 = 2;

/// Time a petreld of this host with many unikernels, in turns with another one with a single one. They must have none.
#[derive(FromArgs)]
struct Options {
    /// runtime folder
    #[argh(option)]
    tmpdir: PathBuf,
    /// runtime folder of the one with a single unikernel
    #[argh(option)]
    other: PathBuf,
    /// database folder
    #[argh(option)]
    dbdir: PathBuf,
    /// process id of petreld
    #[argh(option)]
    petreld: u32,
    /// the image; it runs until it is stopped, and says little with --interval-ms
    #[argh(option)]
    image: PathBuf,
    /// how many unikernels are many (1000)
    #[argh(option, default = "1000")]
    many: usize,
    /// how many runs of each (100)
    #[argh(option, default = "100")]
    count: usize,
}

fn main() -> Result<()> {
    let Options {
        tmpdir,
        other,
        dbdir,
        petreld,
        image,
        many,
        count,
    } = argh::from_env();
    let image = fs::read(image)?;
    let client = |folder: &Path| Client {
        socket: folder.join("util/vmmd.sock"),
        image: image.clone(),
    };
    let (single, client) = (client(&other), client(&tmpdir));

    single.create("u1")?;
    for number in 1..=many {
        client.create(&format!("u{number}"))?;
    }
    let (mut with_one, mut with_many) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + count {
        keep(&mut with_one, round, single.create_and_destroy()?);
        keep(&mut with_many, round, client.create_and_destroy()?);
    }
    let with_one = report("create, with 1", with_one);
    let with_many = report(&format!("create, with {many}"), with_many);
    println!(
        "create with {many} / with 1  {:.2}  (at most 1.5)",
        with_many / with_one
    );

    let plain = Command::Unikernel(UnikernelCommand::Info(()));
    let details = Command::Unikernel(UnikernelCommand::Details(()));
    for (what, command) in [("info", plain), ("details", details)] {
        let mut times = Vec::new();
        for round in 0..WARM_UP + count {
            let start = Instant::now();
            let answer = client.ask(":", command.clone())?;
            keep(&mut times, round, start.elapsed());
            let told = match answer {
                Success::UnikernelInfo(told) => told.len(),
                Success::UnikernelDetails(told) => told.len(),
                other => return Err(format!("instead of them: {other:?}").into()),
            };
            if told != many {
                return Err(format!("{told} unikernels instead of {many}").into());
            }
        }
        let time = report(&format!("{what} of {many}"), times);
        println!("{what} of {many}  {:.1} ms  (below 20 ms)", time * 1e3);
    }

    let size = fs::metadata(dbdir.join("state"))?.len();
    println!("state of {many}  {size} octets  (at most 1 MB)");
    let (mut writes, mut bare) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + count {
        let start = Instant::now();
        client.change(round)?;
        keep(&mut writes, round, start.elapsed());
        let start = Instant::now();
        write(&dbdir, usize::try_from(size)?)?;
        keep(&mut bare, round, start.elapsed());
    }
    let change = report("a change of policy, one write of the state", writes);
    report("as many octets written and renamed by hand", bare);
    println!(
        "write of the state  {:.1} ms  (at most 10 ms)",
        change * 1e3
    );

    let status = fs::read_to_string(format!("/proc/{petreld}/status"))?;
    for what in ["VmRSS:", "VmHWM:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kilobytes: f64 = line
            .ok_or("the system does not tell the memory of petreld")?
            .trim_end_matches(" kB")
            .trim()
            .parse()?;
        let megabytes = kilobytes / 1024.0;
        println!("petreld with {many}, {what:<6} {megabytes:.1} MB  (below 12 MB)");
    }
    Ok(())
}

/// Replaces a file by so many octets, as safely as a state is.
fn write(folder: &Path, octets: usize) -> Result<()> {
    let (new, path) = (folder.join("by-hand.new"), folder.join("by-hand"));
    let mut file = File::create(&new)?;
    file.write_all(&vec![b'x'; octets])?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

struct Client {
    socket: PathBuf,
    image: Vec<u8>,
}

impl Client {
    /// The time of a create, which is undone afterwards.
    fn create_and_destroy(&self) -> Result<Duration> {
        let time = self.create("extra")?;
        self.ask(":extra", Command::Unikernel(UnikernelCommand::Destroy(())))?;
        Ok(time)
    }

    /// Creates a unikernel; the time from connecting to the answer.
    fn create(&self, name: &str) -> Result<Duration> {
        let config = Config {
            kind: Kind::Solo5,
            startup: None,
            add_name: true,
            fail_behaviour: FailBehaviour::Quit,
            cpus: [0].into(),
            memory: MEMORY,
            blocks: Vec::new(),
            nets: Vec::new(),
            arguments: vec![b"--interval-ms=600000".to_vec()],
            vcpus: 1,
            linux_boot_partition: None,
        };
        let create = UnikernelCommand::Create(config.to_wire(false, Vec::new()));
        let start = Instant::now();
        let mut stream = self.send(name, Command::Unikernel(create))?;
        for chunk in self.image.chunks(MAX_CHUNK) {
            write_frame(&mut stream, chunk)?;
        }
        stream.write_all(&END)?;
        reply(&mut stream)?;
        Ok(start.elapsed())
    }

    /// Sets another policy than the last time, which is one write of the state.
    fn change(&self, round: usize) -> Result<()> {
        let policy = Policy {
            unikernels: 1 + u64::try_from(round)?,
            cpus: [0].into(),
            memory: 64,
            block: None,
            bridges: [].into(),
        };
        let add = PolicyCommand::Add((&policy).into());
        self.ask("changing:", Command::Policy(add))?;
        Ok(())
    }

    fn ask(&self, name: &str, command: Command) -> Result<Success> {
        reply(&mut self.send(name, command)?)
    }

    fn send(&self, name: &str, command: Command) -> Result<UnixStream> {
        let name: Name = name.parse().map_err(|error| format!("{error}"))?;
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let message = Message::command(1, &name, command);
        write_frame(&mut stream, &message.encode()?)?;
        Ok(stream)
    }
}

fn reply(stream: &mut UnixStream) -> Result<Success> {
    let reply = read_frame(stream, MAX_ANSWER)?.ok_or("no answer")?;
    match Message::decode(&reply)?.payload {
        Payload::Reply(success) => Ok(success),
        Payload::Failure(why) => Err(why.to_lossy().into()),
        other => Err(format!("instead of a reply: {other:?}").into()),
    }
}
