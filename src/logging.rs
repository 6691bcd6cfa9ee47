//! Log lines of all programs: to standard error, plain or with the prefixes of sd-daemon(3), or to syslog.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::sys::stat::fstat;
use syslog::{Facility, Formatter3164, LoggerBackend};

use crate::command_line::NO_LOG;
use crate::sandbox;

/// The target of audit lines: `info!(target: AUDIT, …)` is written at every level but [`Verbosity::quiet`].
pub const AUDIT: &str = "audit";

/// Warnings and errors, whether they were written or not.
static WARNINGS: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);

/// How much is logged (BEHAVIOUR 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbosity {
    /// Nothing at all.
    pub quiet: bool,
    /// 0: warnings and errors; 1: what is done, too; 2 and more: everything.
    pub verbose: u8,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    StandardError,
    /// The local syslog daemon.
    Syslog,
    /// Nowhere.
    Nowhere,
}

/// Why nothing can be logged.
#[derive(Debug)]
pub enum LoggingError {
    /// The syslog daemon cannot be reached.
    Syslog(syslog::Error),
    /// Logging was set up before.
    Twice,
}

/// Starts the log of a daemon as its options say. A failure is explained on standard error and has this exit code.
pub fn start_daemon(program: &'static str, verbosity: Verbosity, syslog: bool) -> Result<(), i32> {
    let destination = if syslog {
        Destination::Syslog
    } else {
        Destination::StandardError
    };
    start(program, verbosity, destination).map_err(|error| {
        eprintln!("{program}: {error}");
        NO_LOG
    })
}

impl Verbosity {
    fn filter(self) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::Off,
            (false, 0) => LevelFilter::Warn,
            (false, 1) => LevelFilter::Info,
            (false, _) => LevelFilter::Debug,
        }
    }
}

/// Sends what the facade `log` is given to `destination`, in the name of `program`.
pub fn start(
    program: &'static str,
    verbosity: Verbosity,
    destination: Destination,
) -> Result<(), LoggingError> {
    let filter = verbosity.filter();
    let sink = match destination {
        Destination::Nowhere => return Ok(()),
        _ if verbosity.quiet => Sink::Nowhere,
        Destination::StandardError if standard_error_is_the_journal() => Sink::Journal,
        Destination::StandardError => Sink::Plain(program),
        Destination::Syslog => {
            let formatter = Formatter3164 {
                facility: Facility::LOG_DAEMON,
                hostname: None,
                process: program.to_owned(),
                pid: std::process::id(),
            };
            let syslog = Syslog::open(move || syslog::unix(formatter.clone()));
            Sink::Syslog(syslog.map_err(LoggingError::Syslog)?)
        }
    };
    log::set_boxed_logger(Box::new(Logger { filter, sink })).map_err(|_| LoggingError::Twice)?;
    log::set_max_level(filter.max(LevelFilter::Info));
    Ok(())
}

/// How many warnings and errors there were since this process began, also where they are not written.
pub fn counts() -> (u64, u64) {
    let [warnings, errors] = [&WARNINGS, &ERRORS].map(|count| count.load(Ordering::Relaxed));
    (warnings, errors)
}

struct Logger {
    filter: LevelFilter,
    sink: Sink,
}

enum Sink {
    /// Nowhere: there is only a count.
    Nowhere,
    /// Standard error, which the journal reads.
    Journal,
    /// Standard error, each line with the program's name.
    Plain(&'static str),
    Syslog(Syslog),
}

/// A connection to the syslog daemon.
type Line = syslog::Logger<LoggerBackend, Formatter3164>;

/// The syslog daemon, also after it was started anew.
struct Syslog {
    connect: Box<dyn Fn() -> syslog::Result<Line> + Send + Sync>,
    line: Mutex<Line>,
}

impl Syslog {
    fn open(
        connect: impl Fn() -> syslog::Result<Line> + Send + Sync + 'static,
    ) -> syslog::Result<Self> {
        Ok(Self {
            line: Mutex::new(connect()?),
            connect: Box::new(connect),
        })
    }

    fn send(&self, level: Level, text: &str) {
        let Ok(mut line) = self.line.lock() else {
            return;
        };
        let send = |line: &mut Line| match level {
            Level::Error => line.err(text),
            Level::Warn => line.warning(text),
            Level::Info => line.info(text),
            Level::Debug | Level::Trace => line.debug(text),
        };
        if send(&mut line).is_err()
            && !sandbox::is_confined()
            && let Ok(anew) = (self.connect)()
        {
            *line = anew;
            let _ = send(&mut line);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == AUDIT || metadata.level() <= self.filter
    }

    fn log(&self, record: &Record<'_>) {
        let count = match record.level() {
            Level::Error => Some(&ERRORS),
            Level::Warn => Some(&WARNINGS),
            _ => None,
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if !self.enabled(record.metadata()) {
            return;
        }
        // A log line that cannot be written is lost: there is nobody left to tell.
        match &self.sink {
            Sink::Nowhere => {}
            Sink::Journal => {
                let line = journal_line(record.level(), record.args());
                let _ = io::stderr().write_all(line.as_bytes());
            }
            Sink::Plain(program) => {
                let line = plain_line(program, record.level(), record.args());
                let _ = io::stderr().write_all(line.as_bytes());
            }
            Sink::Syslog(syslog) => syslog.send(record.level(), &one_line(record.args())),
        }
    }

    fn flush(&self) {}
}

/// Whether `JOURNAL_STREAM` names the file behind standard error (`DEVICE:INODE`, systemd.exec(5)): the variable alone
/// is inherited by programs whose standard error goes elsewhere.
fn standard_error_is_the_journal() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|announced| {
        fstat(io::stderr())
            .is_ok_and(|status| announced == format!("{}:{}", status.st_dev, status.st_ino))
    })
}

/// The prefixes are priorities of syslog(3): error 3, warning 4, informational 6, debug 7.
fn journal_line(level: Level, text: &fmt::Arguments<'_>) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{priority}>{}\n", one_line(text))
}

fn plain_line(program: &str, level: Level, text: &fmt::Arguments<'_>) -> String {
    let level = match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug | Level::Trace => "debug: ",
    };
    format!("{program}: {level}{}\n", one_line(text))
}

/// A line stays one line, whatever a peer put into it.
fn one_line(text: &fmt::Arguments<'_>) -> String {
    let mut text = text.to_string();
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

impl fmt::Display for LoggingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syslog(error) => write!(f, "cannot log to syslog: {error}"),
            Self::Twice => f.write_str("logging was set up twice"),
        }
    }
}

impl std::error::Error for LoggingError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_line_stays_one_line() {
        let line = plain_line("p", Level::Warn, &format_args!("a\nb{}c", '\u{1b}'));
        assert_eq!(line, "p: warning: a b c\n");
    }

    #[test]
    fn the_journal_gets_priorities() {
        assert_eq!(
            journal_line(Level::Error, &format_args!("x")),
            "<3>x\n".to_owned()
        );
        assert_eq!(journal_line(Level::Info, &format_args!("x")), "<6>x\n");
    }

    #[test]
    fn a_syslog_daemon_that_is_started_anew_gets_the_next_line() {
        let directory = Directory::short();
        let path = directory.0.join("log");
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: "p".to_owned(),
            pid: 7,
        };
        let received = |daemon: &UnixDatagram| {
            let mut message = [0; 256];
            let count = daemon.recv(&mut message).unwrap();
            let message = String::from_utf8(message[..count].to_vec()).unwrap();
            // The time is in between.
            let (priority, text) = (&message[..4], message.rsplit(" p[").next());
            (priority.to_owned(), text.unwrap().to_owned())
        };
        let is = |priority: &str, text: &str| (priority.to_owned(), text.to_owned());
        let daemon = UnixDatagram::bind(&path).unwrap();
        let place = path.clone();
        let syslog = Syslog::open(move || syslog::unix_custom(formatter.clone(), &place)).unwrap();
        syslog.send(Level::Warn, "one");
        assert_eq!(received(&daemon), is("<28>", "7]: one"));
        drop(daemon);
        syslog.send(Level::Info, "lost");
        std::fs::remove_file(&path).unwrap();
        let daemon = UnixDatagram::bind(&path).unwrap();
        syslog.send(Level::Info, "two");
        assert_eq!(received(&daemon), is("<30>", "7]: two"));
    }

    #[test]
    fn audit_lines_are_written_at_every_level_but_quiet() {
        let logger = Logger {
            filter: Verbosity::default().filter(),
            sink: Sink::Plain("p"),
        };
        let enabled = |target, level| {
            logger.enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(enabled(AUDIT, Level::Info));
        assert!(!enabled("petrel", Level::Info));
        assert!(enabled("petrel", Level::Warn));
        let quiet = Verbosity {
            quiet: true,
            verbose: 2,
        };
        assert_eq!(quiet.filter(), LevelFilter::Off);
    }
}
