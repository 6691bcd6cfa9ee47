//! Process of the exporter: one thread around poll(2).

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use argh::FromArgs;
use log::info;

use super::http::{Url, WriteEndpoint};
use super::line::{self, Style};
use super::upstream::{Destination, Upstream, address};
use super::{resolver, source};
use crate::command_line;
use crate::daemon::{self, Manager, Signals, wall_clock};
use crate::logging::Verbosity;
use crate::name::Name;
use crate::private_file;
use crate::sandbox::{self, Breach, Need};
use crate::socket::{self, Directory};
use crate::sys::poll::Poll;

pub use super::resolver::{LOOK_UP, MAX_ADDRESSES};
pub use super::upstream::{CONNECT, EXCHANGE, LONGEST_RETRY, PORT};

/// Default of `--buffer`: maximum number of lines that wait for the collector.
pub const LINES: usize = 100_000;

/// Maximum of `--buffer`.
pub const MAX_LINES: usize = 10_000_000;

/// Maximum size of a token file in bytes.
pub const MAX_TOKEN: u64 = 4096;

/// Environment variable with the token, if no file has it.
pub(super) const TOKEN: &str = "INFLUX_TOKEN";

/// Send what unikernels use to InfluxDB.
#[derive(FromArgs, Debug)]
struct Options {
    /// send lines to this address, IP[:PORT] (port 8094)
    #[allow(rustdoc::broken_intra_doc_links, reason = "also the text of --help")]
    #[argh(option, arg_name = "address", from_str_fn(address))]
    influx: Option<SocketAddr>,

    /// write to this server over HTTP, `http://HOST[:PORT][/PATH]`
    #[argh(option, arg_name = "url")]
    url: Option<Url>,

    /// with --url: the database, of version 1
    #[argh(option, arg_name = "name")]
    database: Option<String>,

    /// with --url: the organisation, of version 2
    #[argh(option, arg_name = "name")]
    org: Option<String>,

    /// with --url: its bucket
    #[argh(option, arg_name = "name")]
    bucket: Option<String>,

    /// with --url: file with the token; otherwise it is in `INFLUX_TOKEN`, if anywhere
    #[argh(option, arg_name = "file")]
    token_file: Option<PathBuf>,

    /// unikernel, or path with everything below it (default :)
    #[argh(option, short = 'n', default = "Name::default()")]
    name: Name,

    /// tag lines with the whole name, not just its label
    #[argh(switch)]
    no_drop_path: bool,

    /// give lines their time; always so with --url
    #[argh(switch)]
    timestamps: bool,

    /// add the fields that albatross does not write
    #[argh(switch)]
    all_fields: bool,

    /// lines kept while the collector cannot be reached (default 100000)
    #[argh(option, arg_name = "lines", default = "LINES", from_str_fn(count))]
    buffer: usize,

    /// directory of sockets
    #[argh(
        option,
        arg_name = "directory",
        default = "PathBuf::from(socket::RUNTIME_DIRECTORY)"
    )]
    tmpdir: PathBuf,

    /// log to syslog
    #[argh(switch)]
    syslog: bool,

    /// log more; twice for every detail
    #[argh(switch, short = 'v')]
    verbose: u8,

    /// log nothing
    #[argh(switch, short = 'q')]
    quiet: bool,
}

/// Runs the exporter, and returns its exit code.
pub fn main() -> i32 {
    const PROGRAM: &str = "petrel-influx";
    if let Some(code) = resolver::main() {
        return code;
    }
    let options: Options = command_line::parse(PROGRAM);
    let verbosity = Verbosity {
        quiet: options.quiet,
        verbose: options.verbose,
    };
    daemon::main(PROGRAM, verbosity, options.syslog, || run(options))
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(lines @ 1..=MAX_LINES) => Ok(lines),
        _ => Err(format!(
            "'{text}' is no number of lines from 1 to {MAX_LINES}"
        )),
    }
}

fn run(options: Options) -> Result<(), String> {
    let style = Style {
        whole_name: options.no_drop_path,
        timestamps: options.timestamps || options.url.is_some(),
        all_fields: options.all_fields,
    };
    let path = socket::path(&options.tmpdir, socket::STATISTICS);
    let mut source = source::link(path, &options.name);
    let most = options.buffer;
    let sockets = Directory::open(&options.tmpdir);
    let destination = destination(options)?;
    let needs = [sockets.need(), Need::Manager, Need::Tcp(destination.port())];
    let host = destination
        .host()
        .map_err(|error| format!("cannot start the process that looks up names: {error}"))?;
    let mut upstream = Upstream::new(destination, host, most);
    let mut signals =
        Signals::listen().map_err(|error| format!("cannot receive signals: {error}"))?;
    sandbox::confine(&needs, Breach::Refuse);
    info!("ready");
    let mut manager = Manager::ready();
    loop {
        // Each turn attends to all of them, whichever is ready.
        let mut poll = Poll::new();
        poll.add_readable((), &signals);
        source.register(&mut poll, ());
        upstream.register(&mut poll, ());
        poll.until(manager.deadline());
        poll.wait()
            .map_err(|error| format!("cannot wait for events: {error}"))?;
        signals.drain();
        if signals.terminate() {
            info!("asked to end");
            manager.stopping();
            return Ok(());
        }
        let now = Instant::now();
        manager.progress(now);
        for (name, used) in source::progress(&mut source, now) {
            for line in line::lines(&name, &used, wall_clock(), style) {
                upstream.push(line);
            }
        }
        upstream.progress(now);
        if upstream.is_lost() {
            return Err("the process that looks up names has ended".to_owned());
        }
    }
}

fn destination(options: Options) -> Result<Destination, String> {
    let of_server = options.database.is_some()
        || options.org.is_some()
        || options.bucket.is_some()
        || options.token_file.is_some();
    let url = match (options.influx, options.url) {
        (Some(_), None) if of_server => {
            return Err(
                "--database, --org, --bucket and --token-file are of use only with --url"
                    .to_owned(),
            );
        }
        (Some(address), None) => return Ok(Destination::Lines(address)),
        (None, Some(url)) => url,
        _ => return Err("no destination: pass either --influx or --url".to_owned()),
    };
    let place = match (options.database, options.org, options.bucket) {
        (Some(database), None, None) => WriteEndpoint::Database(database),
        (None, Some(org), Some(bucket)) => WriteEndpoint::Bucket { org, bucket },
        _ => return Err("--url needs either --database, or --org and --bucket".to_owned()),
    };
    let token = match &options.token_file {
        Some(file) => Some(read_token(file)?),
        None => env::var(TOKEN).ok(),
    };
    let token = token
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty());
    let sendable = |token: &String| token.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    if !token.iter().all(sendable) {
        return Err(UNSENDABLE.to_owned());
    }
    Ok(Destination::Server(url, place, token))
}

fn read_token(file: &Path) -> Result<String, String> {
    let token = private_file::read(file, MAX_TOKEN).map_err(|fault| {
        let mut why = String::new();
        let _ = fault.explain(&mut why, "token", file);
        why
    })?;
    String::from_utf8(token).map_err(|_| UNSENDABLE.to_owned())
}

/// Error of a token that HTTP cannot carry.
const UNSENDABLE: &str = "the token has characters that cannot be sent";
