//! How long a tenant waits for `info` while another one keeps `petreld` busy, on the host itself and over TLS.
//!
//! The busy tenant `busy` uses the local socket, which is the shortest way to `petreld`. Samples are taken in turns
//! by one client, so that measuring is no load of its own.
#![allow(clippy::print_stdout)]

#[allow(dead_code, reason = "shared with bench-many")]
mod local;

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Scope, scope, sleep};
use std::time::{Duration, Instant};

use argh::FromArgs;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use local::{Client, Result, create, success};
use petrel::chain::verify::Anchor;
use petrel::client::tls::{Destination, connect_to};
use petrel::policy::Policy;
use petrel::wire::frame::read_frame;
use petrel::wire::{BlockCommand, Command, PolicyCommand, UnikernelCommand};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Clients that send bombs at the same time.
const BOMBERS: usize = 8;
/// Number of bytes that a bomb inflates to.
const BOMB_SIZE: usize = 1 << 30;
/// Clients that create and destroy unikernels at the same time.
const CREATORS: usize = 8;
/// Clients that upload the content of a block device each at the same time.
const WRITERS: usize = 16;
/// Size of each block device in MB.
const DEVICE_MB: u32 = 64;
/// Time between two samples.
const PAUSE: Duration = Duration::from_millis(10);
/// Maximum number of bytes of an answer.
const MAX_ANSWER: usize = 1 << 24;

/// Time info of one tenant while another one keeps petreld busy. petreld must have no unikernels.
#[derive(FromArgs)]
struct Options {
    /// runtime directory of petreld
    #[argh(option)]
    tmpdir: PathBuf,
    /// address and port of petrel-tls
    #[argh(option)]
    address: SocketAddr,
    /// PEM file of the authority that signed the server's certificate
    #[argh(option)]
    ca: String,
    /// STEM of the certificate (STEM.pem, STEM.key) of a command info
    #[argh(option)]
    info: String,
    /// path of the tenant that is timed, the one of that certificate (tenant:)
    #[argh(option, default = "\"tenant:\".to_owned()")]
    path: String,
    /// the image; it runs until it is stopped, and says little with --interval-ms
    #[argh(option)]
    image: PathBuf,
    /// samples of each load, in each way (200)
    #[argh(option, default = "200")]
    count: usize,
    /// seconds for the samples of a load (60)
    #[argh(option, default = "60")]
    seconds: u64,
    /// creates and destroys (1000)
    #[argh(option, default = "1000")]
    creates: usize,
}

fn main() -> Result<()> {
    let options: Options = argh::from_env();
    let client = Client {
        socket: options.tmpdir.join("util/vmmd.sock"),
        image: fs::read(&options.image)?,
    };
    let probe = Probe {
        client: &client,
        path: &options.path,
        remote: Remote::new(&options)?,
        time: Duration::from_secs(options.seconds),
    };
    set_policy(&client)?;
    let bomb = bomb(&client.image)?;
    for number in 0..WRITERS {
        let create = Command::Block(BlockCommand::Add(u64::from(DEVICE_MB).into()));
        client.ask(&device(number), create)?;
    }

    println!(
        "{:<34}  {:^31}  {:^31}",
        "info of another tenant, ms", "local socket", "TLS"
    );
    let head = format!("{:>8} {:>8} {:>8} {:>4}", "median", "p99", "max", "n");
    println!("{:<34}  {head}  {head}", "");

    let idle = probe.under("idle", options.count, |_, _| {})?;

    let sent = AtomicUsize::new(0);
    let bombs = probe.under(&format!("{BOMBERS} bombs"), options.count, |scope, done| {
        for number in 0..BOMBERS {
            let (client, bomb, sent) = (&client, &bomb, &sent);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // It is refused, at its end or before.
                    let _ = client.upload(&format!("busy:bomb{number}"), create(true), bomb);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    })?;

    let (begun, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let churn = probe.under(
        &format!("{CREATORS} clients create and destroy"),
        usize::MAX,
        |scope, done| {
            for number in 0..CREATORS {
                let (client, begun, failed) = (&client, &begun, &failed);
                scope.spawn(move || {
                    let name = format!("busy:c{number}");
                    while !done.load(Ordering::Relaxed)
                        && begun.fetch_add(1, Ordering::Relaxed) < options.creates
                    {
                        let done = client.create(&name).and_then(|_| client.destroy(&name));
                        if let Err(why) = done
                            && failed.fetch_add(1, Ordering::Relaxed) == 0
                        {
                            println!("the first create or destroy that failed: {why}");
                        }
                    }
                    // Samples count while all of them are at it.
                    done.store(true, Ordering::Relaxed);
                });
            }
        },
    )?;

    let written = AtomicUsize::new(0);
    let content = noise((DEVICE_MB as usize) << 20);
    let uploads = probe.under(
        &format!("{WRITERS} block uploads"),
        options.count,
        |scope, done| {
            for number in 0..WRITERS {
                let (client, content, written) = (&client, &content, &written);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let set = Command::Block(BlockCommand::Set(false));
                        if client.upload(&device(number), set, content).is_ok() {
                            written.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        },
    )?;

    let count = |number: AtomicUsize| number.into_inner();
    println!(
        "bombs answered  {}; creates begun  {}, failed  {}; block devices written  {}",
        count(sent),
        count(begun).min(options.creates),
        count(failed),
        count(written)
    );
    for (way, name) in [(0, "local socket"), (1, "TLS")] {
        let ratio = |load: &[Duration; 2]| load[way].as_secs_f64() / idle[way].as_secs_f64();
        println!(
            "{name}: bombs / idle  {:.1}  (at most 3); create and destroy  {:.1} ms  (below 50 ms); block uploads / \
             idle  {:.1}",
            ratio(&bombs),
            churn[way].as_secs_f64() * 1e3,
            ratio(&uploads)
        );
    }
    Ok(())
}

fn device(number: usize) -> String {
    format!("busy:disk{number}")
}

/// Sets what the busy tenant may use: enough, so that it is time that it takes from others.
fn set_policy(client: &Client) -> Result<()> {
    let policy = Policy {
        unikernels: 64,
        cpus: [0].into(),
        memory: 1024,
        block: Some(WRITERS as u64 * u64::from(DEVICE_MB)),
        bridges: [].into(),
    };
    let add = PolicyCommand::Add((&policy).into());
    client.ask("busy:", Command::Policy(add))?;
    Ok(())
}

/// An image with zeros after its end, compressed, whose checksum is wrong: nothing comes of it but the work.
fn bomb(image: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(image)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..BOMB_SIZE >> 20 {
        encoder.write_all(&zeros)?;
    }
    let mut bomb = encoder.finish()?;
    if let Some(last) = bomb.last_mut() {
        *last ^= 1;
    }
    Ok(bomb)
}

/// Bytes that no file system can make smaller.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}

/// A tenant that asks for `info` in both ways.
struct Probe<'a> {
    client: &'a Client,
    path: &'a str,
    remote: Remote,
    time: Duration,
}

impl Probe<'_> {
    /// Prints the latency under a load, of so many samples at most, and returns the medians. `start` begins the load
    /// in threads; load and samples end when either side sets the flag.
    fn under<'env>(
        &self,
        what: &str,
        count: usize,
        start: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>, &'env AtomicBool),
    ) -> Result<[Duration; 2]>
    where
        Self: 'env,
    {
        // Lives as long as the threads of every load may need it.
        let done: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let samples = scope(|scope| {
            start(scope, done);
            let samples = self.samples(count, done);
            done.store(true, Ordering::Relaxed);
            samples
        });
        let [local, remote] = samples?.map(|mut times| {
            times.sort_unstable();
            times
        });
        println!("{what:<34}  {}  {}", row(&local), row(&remote));
        Ok([at(&local, 50), at(&remote, 50)])
    }

    fn samples(&self, count: usize, done: &AtomicBool) -> Result<[Vec<Duration>; 2]> {
        let info = || Command::Unikernel(UnikernelCommand::Info(()));
        let begin = Instant::now();
        let mut times = [Vec::new(), Vec::new()];
        while times[1].len() < count && begin.elapsed() < self.time && !done.load(Ordering::Relaxed)
        {
            let start = Instant::now();
            self.client.ask(self.path, info())?;
            times[0].push(start.elapsed());
            let start = Instant::now();
            self.remote.request()?;
            times[1].push(start.elapsed());
            sleep(PAUSE);
        }
        Ok(times)
    }
}

fn row(sorted: &[Duration]) -> String {
    let [median, high, max] = [50, 99, 100].map(|percent| at(sorted, percent).as_secs_f64() * 1e3);
    format!("{median:>8.1} {high:>8.1} {max:>8.1} {:>4}", sorted.len())
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    let position = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(position).copied().unwrap_or_default()
}

/// What connections to the endpoint need.
struct Remote {
    destination: Destination,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    anchors: Vec<CertificateDer<'static>>,
}

impl Remote {
    fn new(options: &Options) -> Result<Self> {
        let certificates = |path: &str| -> Result<Vec<_>> {
            let all: std::result::Result<_, _> = CertificateDer::pem_file_iter(path)?.collect();
            Ok(all?)
        };
        Ok(Self {
            destination: Destination {
                host: options.address.ip().to_string(),
                port: options.address.port(),
            },
            chain: certificates(&format!("{}.pem", options.info))?,
            key: PrivateKeyDer::from_pem_file(format!("{}.key", options.info))?,
            anchors: certificates(&options.ca)?,
        })
    }

    fn request(&self) -> Result<()> {
        let anchors = self.anchors.iter().map(Anchor::new);
        let anchors = anchors
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| format!("{error}"))?;
        let key = self.key.clone_key();
        let mut stream = connect_to(&self.destination, self.chain.clone(), key, anchors)
            .map_err(|error| format!("{error}"))?;
        let reply = read_frame(&mut stream, MAX_ANSWER)?.ok_or("no answer")?;
        success(&reply)?;
        let _ = stream.close();
        // Until the endpoint's process is done, so that it does not disturb the next sample.
        let _ = stream.read(&mut [0; 1]);
        Ok(())
    }
}
