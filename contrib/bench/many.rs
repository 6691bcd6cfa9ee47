//! What `petreld` takes for many unikernels: a client on its host fills it up, and times it before and after.
#![allow(clippy::print_stdout)]

mod local;
mod times;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argh::FromArgs;
use local::{Client, Result};
use petrel::policy::Policy;
use petrel::wire::{Command, PolicyCommand, Success, UnikernelCommand};
use times::{WARM_UP, keep, report};

/// Time a petreld of this host with many unikernels, in turns with another one with a single one. They must have none.
#[derive(FromArgs)]
struct Options {
    /// runtime directory
    #[argh(option)]
    tmpdir: PathBuf,
    /// runtime directory of the one with a single unikernel
    #[argh(option)]
    other: PathBuf,
    /// database directory
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
    let client = |directory: &Path| Client {
        socket: directory.join("util/vmmd.sock"),
        image: image.clone(),
    };
    let (single, client) = (client(&other), client(&tmpdir));

    single.create("u1")?;
    for number in 1..=many {
        client.create(&format!("u{number}"))?;
    }
    let (mut with_one, mut with_many) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + count {
        keep(&mut with_one, round, create_and_destroy(&single)?);
        keep(&mut with_many, round, create_and_destroy(&client)?);
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
    println!("state of {many}  {size} bytes  (at most 1 MB)");
    let (mut writes, mut bare) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + count {
        let start = Instant::now();
        change(&client, round)?;
        keep(&mut writes, round, start.elapsed());
        let start = Instant::now();
        write(&dbdir, usize::try_from(size)?)?;
        keep(&mut bare, round, start.elapsed());
    }
    let change = report("a change of policy, one write of the state", writes);
    report("as many bytes written and renamed by hand", bare);
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

/// Replaces a file by so many bytes, as safely as a state is.
fn write(directory: &Path, bytes: usize) -> Result<()> {
    let (new, path) = (directory.join("by-hand.new"), directory.join("by-hand"));
    let mut file = File::create(&new)?;
    file.write_all(&vec![b'x'; bytes])?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

/// The time of a create, which is undone afterwards.
fn create_and_destroy(client: &Client) -> Result<Duration> {
    let time = client.create("extra")?;
    client.destroy(":extra")?;
    Ok(time)
}

/// Sets another policy than the last time, which is one write of the state.
fn change(client: &Client, round: usize) -> Result<()> {
    let policy = Policy {
        unikernels: 1 + u64::try_from(round)?,
        cpus: [0].into(),
        memory: 64,
        block: None,
        bridges: [].into(),
    };
    let add = PolicyCommand::Add((&policy).into());
    client.ask("changing:", Command::Policy(add))?;
    Ok(())
}
