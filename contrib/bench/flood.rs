//! What consoles cost: how fast a guest that floods its own is read, next to `cat fifo >/dev/null`, and what a thousand
//! idle ones take.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use petrel::name::Name;
use petrel::wire::frame::{read_frame, write_frame};
use petrel::wire::{Command, ConsoleCommand, Int, Message, Payload, SinceCount};

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(2);

/// Bytes written at once: what a pipe holds.
const BLOCK: usize = 1 << 16;

/// Rounds, of which the best counts: what else runs on the machine only takes away.
const ROUNDS: usize = 3;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Flood consoles of the console daemon of this host, among idle ones that are added first. It must have none.
#[derive(FromArgs)]
struct Options {
    /// runtime directory
    #[argh(option)]
    tmpdir: PathBuf,
    /// process id of the console daemon
    #[argh(option)]
    console: u32,
    /// how many consoles are idle (1000)
    #[argh(option, default = "1000")]
    idle: usize,
}

struct Host {
    directory: PathBuf,
    /// Process id of the console daemon.
    console: u32,
    supervisor: UnixStream,
}

fn main() -> Outcome<()> {
    let options: Options = argh::from_env();
    let mut host = Host {
        supervisor: UnixStream::connect(options.tmpdir.join("util/console.sock"))?,
        console: options.console,
        directory: options.tmpdir,
    };
    let count = options.idle;
    let before = host.resident()?;
    let idle: Vec<File> = (0..count)
        .map(|number| host.guest(&format!(":idle{number}")))
        .collect::<Outcome<_>>()?;
    for mut guest in &idle {
        guest.write_all(b"ready\n")?;
    }
    host.settle()?;
    let resident = host.resident()?;
    println!(
        "{count} idle consoles  {:.1} MB, of which {:.1} MB without any (below 20 MB)",
        megabytes(resident),
        megabytes(before)
    );
    for bytes in [80, 500, 2] {
        host.flood(bytes, false)?;
    }
    host.flood(80, true)?;
    println!("after the floods  {:.1} MB", megabytes(host.resident()?));
    Ok(())
}

impl Host {
    /// Floods a console, and `cat`, with lines of so many bytes, in turns.
    fn flood(&mut self, bytes: usize, with_subscriber: bool) -> Outcome<()> {
        let name = format!(":flood{bytes}{with_subscriber}");
        let console = self.guest(&name)?;
        let plain = self.directory.join("plain");
        mkfifo(&plain, Mode::S_IRWXU)?;
        // Kept open, so that a writer that ends is not the end.
        let kept = open(&plain)?;
        let mut cat = Process::new("cat")
            .arg(&plain)
            .stdout(Stdio::null())
            .spawn()?;
        let reader = with_subscriber.then(|| self.follow(&name)).transpose()?;
        let mut line = vec![b'x'; bytes - 1];
        line.push(b'\n');
        let block = line.repeat(BLOCK / bytes);
        let (mut read, mut copied) = (0.0_f64, 0.0_f64);
        for _ in 0..ROUNDS {
            read = read.max(rate(&console, &block)?);
            copied = copied.max(rate(&kept, &block)?);
        }
        cat.kill()?;
        cat.wait()?;
        fs::remove_file(plain)?;
        drop(console);
        if let Some((stream, reader)) = reader {
            stream.shutdown(std::net::Shutdown::Both)?;
            reader.join().map_err(|_| "the subscriber failed")?;
        }
        let wanted = (copied / 4.0).min(500.0);
        let told = if with_subscriber {
            "one follows".to_owned()
        } else {
            format!("at least {wanted:.0} MB/s")
        };
        println!(
            "flood of lines of {bytes:>3} bytes  {read:>5.0} MB/s  cat {copied:>5.0} MB/s  ({told})"
        );
        Ok(())
    }

    /// A guest whose console is read.
    fn guest(&mut self, name: &str) -> Outcome<File> {
        let path = self.directory.join("fifo").join(name);
        mkfifo(&path, Mode::S_IRWXU)?;
        let guest = open(&path)?;
        ask(&mut self.supervisor, name, ConsoleCommand::Add(Int::new(1)))?;
        Ok(guest)
    }

    /// Somebody who follows, and takes what comes.
    fn follow(&self, name: &str) -> Outcome<(UnixStream, thread::JoinHandle<()>)> {
        let mut stream = UnixStream::connect(self.directory.join("util/console.sock"))?;
        let from = SinceCount::Count(Int::new(0));
        ask(&mut stream, name, ConsoleCommand::Subscribe(from))?;
        let mut taken = stream.try_clone()?;
        let reader = thread::spawn(move || {
            let _ = std::io::copy(&mut taken, &mut std::io::sink());
        });
        Ok((stream, reader))
    }

    /// Returns once all that was written before has been read.
    fn settle(&self) -> Outcome<()> {
        let mut stream = UnixStream::connect(self.directory.join("util/console.sock"))?;
        ask(&mut stream, ":", ConsoleCommand::Inactive(()))
    }

    /// Memory of the console daemon, bytes.
    fn resident(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.console))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.ok_or("no VmRSS")?.parse::<u64>()? * 1024)
    }
}

fn ask(stream: &mut UnixStream, name: &str, command: ConsoleCommand) -> Outcome<()> {
    let name: Name = name.parse().map_err(|_| "no name")?;
    let message = Message::command(1, &name, Command::Console(command));
    write_frame(stream, &message.encode()?)?;
    let answer = read_frame(stream, 1 << 20)?.ok_or("no answer")?;
    match Message::decode(&answer)?.payload {
        Payload::Reply(_) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// Open for reading, too: writing waits while nobody reads, and never fails.
fn open(path: &Path) -> Outcome<File> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

/// Millions of bytes a second that go into the fifo.
fn rate(mut fifo: &File, block: &[u8]) -> Outcome<f64> {
    let start = Instant::now();
    let mut written = 0_u32;
    while start.elapsed() < FLOOD {
        fifo.write_all(block)?;
        written += 1;
    }
    let bytes = f64::from(written) * block.len() as f64;
    Ok(bytes / start.elapsed().as_secs_f64() / 1e6)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "shown with one digit after the point"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
