//! What the client prints (BEHAVIOUR 4).

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::poll::PollFlags;
use time::OffsetDateTime;

use super::arguments::Common;
use super::error::ClientError;
use super::statistics_output::StatisticsOutput;
use super::{statistics, statistics_output};
pub(super) use crate::console::lines::escaped;
use crate::name::Name;
use crate::policy::{Policy, list};
use crate::sys::poll::events_now;
use crate::unikernel::{Death, Mac};
use crate::wire::extensions::{Details, Exit, NamedDetails, Standing};
use crate::wire::{
    BlockDevice, Bytes, ConsoleData, FailBehaviour, Info, Int, NamedInfo, NamedPolicy, Statistics,
    Success, Text, Typ, domain,
};

/// Columns of a line on a terminal; what is piped has one line an item.
const WIDTH: usize = 78;

/// Standard output, and what it depends on.
#[derive(Debug)]
pub(super) struct Output {
    stdout: io::Stdout,
    started: OffsetDateTime,
    common: Common,
    /// How statistics are shown.
    pub(super) figures: StatisticsOutput,
    /// Whom to ask why a run has ended.
    supervisor: Option<PathBuf>,
    /// File that a download is stored in, if one was given.
    download: Option<PathBuf>,
}

impl Output {
    /// Output of a program that was started at this time.
    pub(super) fn new(started: OffsetDateTime) -> Self {
        Self {
            stdout: io::stdout(),
            started,
            common: Common {
                warnings: true,
                steps: false,
                debug: false,
            },
            figures: StatisticsOutput::new(false, Name::default(), None),
            supervisor: None,
            download: None,
        }
    }

    /// Sets the file that a download is stored in.
    pub(super) fn set_download(&mut self, file: Option<PathBuf>) {
        self.download = file;
    }

    /// File that a download is stored in, if one was given.
    pub(super) fn download(&self) -> Option<&Path> {
        self.download.as_deref()
    }

    /// How statistics are shown from now on.
    pub(super) fn set_figures(&mut self, figures: StatisticsOutput) {
        self.figures = figures;
    }

    /// The supervisor of the host listens on this socket.
    pub(super) fn set_supervisor(&mut self, socket: Option<PathBuf>) {
        self.supervisor = socket;
    }

    /// When the program was started.
    pub(super) fn started(&self) -> OffsetDateTime {
        self.started
    }

    /// How much is shown: with debug verbosity also guest arguments, which often hold secrets.
    pub(super) fn set_verbosity(&mut self, common: Common) {
        self.common = common;
    }

    /// A text that has its newlines already.
    pub(super) fn text(&mut self, text: &str) -> Result<(), ClientError> {
        let mut stdout = self.stdout.lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(ClientError::Output)
    }

    /// Checks that somebody may still read standard output: a pipe without a reader, or a terminal that is gone, would be
    /// noticed with the next line only.
    pub(super) fn check_reader(&self) -> Result<(), ClientError> {
        const GONE: PollFlags = PollFlags::POLLERR
            .union(PollFlags::POLLHUP)
            .union(PollFlags::POLLNVAL);

        let events = events_now(&self.stdout, PollFlags::empty());
        if events.is_ok_and(|events| events.intersects(GONE)) {
            return Err(ClientError::Output(io::ErrorKind::BrokenPipe.into()));
        }
        Ok(())
    }

    /// One line, out at once.
    pub(super) fn line(&mut self, line: &str) -> Result<(), ClientError> {
        self.text(&format!("{line}\n"))
    }

    /// Lines which a terminal shows wrapped.
    fn item(&mut self, lines: &str) -> Result<(), ClientError> {
        if self.stdout.is_terminal() {
            self.line(&wrapped(lines))
        } else {
            self.line(lines)
        }
    }

    /// Bytes with their positions and characters.
    pub(super) fn hexdump(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut text = String::new();
        for (number, row) in bytes.chunks(16).enumerate() {
            let hex: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            let characters: String = row
                .iter()
                .map(|byte| match byte {
                    0x20..0x7f => char::from(*byte),
                    _ => '.',
                })
                .collect();
            let _ = writeln!(
                text,
                "{:08x}  {:<47}  |{characters}|",
                number * 16,
                hex.join(" ")
            );
        }
        self.text(&text)
    }

    /// Something is odd, but goes on.
    pub(super) fn warn(&self, text: &str) {
        if self.common.warnings {
            super::say(&format!("warning: {text}"));
        }
    }

    /// A line of advice about what to do after the command, which `--quiet` leaves out.
    pub(super) fn advice(&mut self, text: &str) -> Result<(), ClientError> {
        if self.common.warnings {
            self.line(text)?;
        }
        Ok(())
    }

    /// What is done next.
    pub(super) fn step(&self, text: &str) {
        if self.common.steps {
            super::say(text);
        }
    }

    /// A request was carried out.
    pub(super) fn success(
        &mut self,
        name_asked: &Text,
        success: &Success,
    ) -> Result<(), ClientError> {
        if matches!(self.figures, StatisticsOutput::Json) {
            return Ok(());
        }
        let text = match success {
            Success::Empty(()) => "success".to_owned(),
            Success::String(text) => format!("success: {}", printable(&text.to_lossy())),
            Success::Policies(policies) => lines(policies, policy, "no policies"),
            Success::BlockDevices(blocks) => lines(blocks, block, "no block devices"),
            Success::Consoles(consoles) => lines(consoles, name, "no consoles"),
            Success::ChainSet(kept) => lines(kept, name, "success"),
            Success::UnikernelInfo(unikernels) => lines(
                unikernels,
                |entry| info(entry, self.common.debug),
                "no unikernels",
            ),
            Success::UnikernelDetails(unikernels) => lines(
                &by_standing(unikernels),
                |entry| details(entry, self.common.debug),
                "no unikernels",
            ),
            Success::UnikernelImage(_)
            | Success::BlockDeviceImage(_)
            | Success::OldBlockDeviceImage(_)
            | Success::OldUnikernelInfo4(_)
            | Success::OldUnikernelInfo5(_) => {
                return Err(ClientError::Unexpected("an answer to another command"));
            }
        };
        self.item(&format!("host {}: {text}", name(name_asked)))
    }

    /// Content was stored, which was received as so many bytes.
    pub(super) fn stored(
        &mut self,
        of: &Text,
        content: &str,
        compressed: bool,
        bytes: u64,
        path: &Path,
    ) -> Result<(), ClientError> {
        self.line(&format!(
            "host {}: {content}, compressed {compressed}, {bytes} bytes\nstored in {}",
            name(of),
            path.display()
        ))
    }

    /// What a unikernel used.
    pub(super) fn statistics(&mut self, of: &Text, used: &Statistics) -> Result<(), ClientError> {
        match &mut self.figures {
            StatisticsOutput::Lines => {
                self.item(&format!("stats {}:\n{}", name(of), statistics::text(used)))
            }
            StatisticsOutput::Json => self.line(&statistics::json(of, used)),
            StatisticsOutput::Table(live) => {
                let (table, at) = live.table();
                table.sample(of, used, at);
                Ok(())
            }
        }
    }

    /// A line of a console.
    pub(super) fn console(&mut self, line: &ConsoleData) -> Result<(), ClientError> {
        let time = time(line.timestamp.seconds());
        self.line(&format!("console {time}: {}", escaped(&line.data.0)))
    }

    /// A run has ended: tells how, as far as the supervisor does. `true`: another one follows by itself.
    pub(super) fn run_ended(&mut self, of: &Text) -> Result<bool, ClientError> {
        let (text, goes_on) = match self.told_of(of) {
            DetailsReply::Nothing => ("the run has ended".to_owned(), false),
            DetailsReply::Gone => (
                "the run has ended, and the unikernel is no more".to_owned(),
                false,
            ),
            DetailsReply::Of(details) if is_over(&details) => (end_of_run(&details), false),
            DetailsReply::Of(details) => {
                let text = format!("{}, and is followed by another one", end_of_run(&details));
                (text, true)
            }
        };
        self.line(&format!("host {}: {text}", name(of)))?;
        Ok(goes_on)
    }

    /// Whether the run that was to follow does not; which is told then. A supervisor that cannot be asked may be back.
    pub(super) fn no_run_follows(&mut self, of: &Text) -> Result<bool, ClientError> {
        let over = match self.told_of(of) {
            DetailsReply::Nothing => false,
            DetailsReply::Gone => true,
            DetailsReply::Of(details) => is_over(&details),
        };
        if over {
            self.line(&format!("host {}: no other run follows", name(of)))?;
        }
        Ok(over)
    }

    /// Tells how the last run has ended, if there is none now and the supervisor knows.
    pub(super) fn last_run(&mut self, of: &Text) -> Result<(), ClientError> {
        match self.told_of(of) {
            DetailsReply::Of(details) if is_over(&details) => {
                self.line(&format!("host {}: {}", name(of), end_of_run(&details)))
            }
            _ => Ok(()),
        }
    }

    /// What the supervisor tells of a unikernel.
    fn told_of(&self, of: &Text) -> DetailsReply {
        let Some((socket, name)) = self.supervisor.as_deref().zip(domain::name(of).ok()) else {
            return DetailsReply::Nothing;
        };
        match statistics_output::details(socket, &name) {
            Ok(told) => told.into_iter().next().map_or(DetailsReply::Gone, |entry| {
                DetailsReply::Of(Box::new(entry.details))
            }),
            Err(_) => DetailsReply::Nothing,
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}

/// What the supervisor tells of a unikernel.
enum DetailsReply {
    /// It cannot be asked.
    Nothing,
    /// It has none of that name.
    Gone,
    Of(Box<Details>),
}

/// Whether the unikernel does not run, and will not by itself.
fn is_over(details: &Details) -> bool {
    matches!(
        details.standing,
        Standing::Stopped(()) | Standing::Ended(())
    )
}

fn end_of_run(details: &Details) -> String {
    match &details.last_exit {
        Some(exit) => format!("the run has ended {}", how(exit)),
        None => "the run has ended".to_owned(),
    }
}

/// A name as it is printed.
pub(super) fn name(name: &Text) -> String {
    format!("[unikernel: {}]", escaped(&name.0))
}

/// Text of a peer in one line, without what could steer a terminal or show it in another order: all that has no
/// appearance of its own is escaped.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::new(), |mut shown, character| {
        match character {
            '\'' | '"' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
        shown
    })
}

/// Lines cut at spaces, as far as there are some, with what follows a cut indented.
fn wrapped(lines: &str) -> String {
    const INDENT: &str = "  ";
    let mut text = String::with_capacity(lines.len());
    for (number, line) in lines.lines().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        let mut column = 0;
        for word in line.split(' ') {
            let width = word.chars().count();
            if column > 0 && column + 1 + width > WIDTH {
                text.push('\n');
                text.push_str(INDENT);
                column = INDENT.len();
            } else if column > 0 {
                text.push(' ');
                column += 1;
            }
            text.push_str(word);
            column += width;
        }
    }
    text
}

/// RFC 3339 in UTC, of an unknown local offset.
fn time(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}-00:00",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

fn lines<T>(items: &[T], form: impl Fn(&T) -> String, none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    items.iter().map(form).collect::<Vec<_>>().join("\n")
}

fn policy(entry: &NamedPolicy) -> String {
    let policy = match Policy::try_from(&entry.policy) {
        Ok(policy) => policy.to_string(),
        Err(error) => error.to_string(),
    };
    format!("{}: policy: {policy}", name(&entry.name))
}

fn block(entry: &BlockDevice) -> String {
    format!(
        "block {} size {} MB active {}",
        name(&entry.name),
        entry.size.get(),
        entry.active
    )
}

/// What runs comes first, then what is to run, and last what does not.
fn by_standing(unikernels: &[NamedDetails]) -> Vec<&NamedDetails> {
    let mut unikernels: Vec<_> = unikernels.iter().collect();
    unikernels.sort_by_key(|entry| match entry.details.standing {
        Standing::Running(()) => 0,
        Standing::Starting(()) | Standing::Waiting(_) => 1,
        Standing::Stopped(()) => 2,
        Standing::Ended(()) => 3,
    });
    unikernels
}

/// The same, and what only Petrel tells: appended, so that what reads the first words goes on working. Of one that
/// runs and never failed nothing is.
fn details(NamedDetails { name, details }: &NamedDetails, with_arguments: bool) -> String {
    let mut told = details.info.clone();
    if details.standing != Standing::Running(()) {
        told.started = None;
    }
    let told = NamedInfo {
        name: name.clone(),
        info: told,
    };
    let mut text = info(&told, with_arguments);
    match &details.standing {
        Standing::Running(()) => {}
        Standing::Starting(()) => text += " starting",
        Standing::Waiting(waiting) => {
            match &waiting.until {
                Some(until) => {
                    let _ = write!(text, " next start {}", time(until.seconds()));
                }
                None => text += " next start in its turn",
            }
            if let Some(trouble) = &waiting.trouble {
                let trouble = printable(&trouble.to_lossy()).replace('\n', " ");
                let _ = write!(text, " (could not be started: {trouble})");
            }
        }
        Standing::Stopped(()) => text += " stopped",
        Standing::Ended(()) => text += " ended",
    }
    if let Some(why) = &details.off_bridge {
        let why = printable(&why.to_lossy()).replace('\n', " ");
        let _ = write!(text, " (off its network: {why})");
    }
    if details.restarts.get() > 0 {
        let _ = write!(text, " restarts {}", details.restarts.get());
    }
    if let Some(exit) = &details.last_exit {
        let _ = write!(text, " last exit {}", how(exit));
    }
    if let Some(previous) = &details.previous {
        let _ = write!(text, " previous digest {}", hexadecimal(previous));
    }
    text
}

/// When and how a run has ended.
fn how(exit: &Exit) -> String {
    let death = Death::from(&exit.death);
    format!("{} ({death})", time(exit.at.seconds()))
}

fn info(NamedInfo { name: of, info }: &NamedInfo, with_arguments: bool) -> String {
    let mut text = format!("{}: typ ", name(of));
    text += match info.typ {
        Typ::Solo5(()) => "solo5",
        Typ::Bhyve(()) => "bhyve",
    };
    if let Some(started) = &info.started {
        let _ = write!(text, " started {}", time(started.seconds()));
    }
    let _ = write!(
        text,
        " fail behaviour {}",
        fail_behaviour(&info.fail_behaviour)
    );
    if let Some(startup) = info.startup {
        let _ = write!(text, " startup at {}", startup.get());
    }
    let _ = write!(
        text,
        " CPUids {} {} MB memory{}{}",
        numbers(info.cpuids.items(), ","),
        info.memory.get(),
        block_devices(info),
        bridges(info)
    );
    match info.typ {
        Typ::Solo5(()) => {
            let _ = write!(text, " digest {}", hexadecimal(&info.digest));
        }
        Typ::Bhyve(()) => {
            let _ = write!(text, " VM name {}", escaped(&info.digest.0));
        }
    }
    let _ = write!(text, " #cpus {}", info.cpus.map_or(1, Int::get));
    if let Some(partition) = &info.linux_boot_partition {
        let _ = write!(text, " linux_boot_partition {}", escaped(&partition.0));
    }
    if with_arguments && let Some(arguments) = &info.arguments {
        let arguments: Vec<_> = arguments
            .iter()
            .map(|argument| escaped(&argument.0))
            .collect();
        let _ = write!(text, " argv {}", arguments.join(" "));
    }
    text
}

fn hexadecimal(bytes: &Bytes) -> String {
    let bytes = bytes.0.iter().map(|byte| format!("{byte:02x}"));
    bytes.collect()
}

fn block_devices(info: &Info) -> String {
    let Some(blocks) = &info.blocks else {
        return String::new();
    };
    let blocks = blocks.items().iter().map(|block| {
        format!(
            "{} -> {} (sector-size: {} bytes, size {} MB)",
            escaped(&block.unikernel_device.0),
            escaped(&block.host_device.0),
            block.sector_size.get(),
            block.block_size.get()
        )
    });
    format!(" block devices {}", list(blocks))
}

fn bridges(info: &Info) -> String {
    let Some(bridges) = &info.bridges else {
        return String::new();
    };
    let bridges = bridges.items().iter().map(|bridge| {
        format!(
            "{} -> {} (mac {})",
            escaped(&bridge.unikernel_device.0),
            escaped(&bridge.host_device.0),
            Mac(bridge.mac.0)
        )
    });
    format!(" bridge {}", list(bridges))
}

fn fail_behaviour(behaviour: &FailBehaviour) -> String {
    match behaviour {
        FailBehaviour::Quit(()) => "quit".to_owned(),
        FailBehaviour::RestartExitCodes(codes) if codes.items().is_empty() => {
            "restart all except 1".to_owned()
        }
        FailBehaviour::RestartExitCodes(codes) => {
            format!("restart {}", numbers(codes.items(), ", "))
        }
    }
}

fn numbers(numbers: &[Int], separator: &str) -> String {
    let numbers: Vec<_> = numbers
        .iter()
        .map(|number| number.get().to_string())
        .collect();
    numbers.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_lines_cannot_steer_a_terminal() {
        assert_eq!(
            escaped(b"a\x1b[2J\"\\\t\r\n\x08\xff\x7f "),
            r#"a\027[2J\"\\\t\r\n\b\255\127 "#
        );
        assert_eq!(
            printable("no\u{9b}31m\u{7} \"such\" 'gr\u{fc}n' \\"),
            "no\\u{9b}31m\\u{7} \"such\" 'gr\u{fc}n' \\"
        );
        // What would reverse the text, hide in it, or begin a line of its own.
        assert_eq!(
            printable("\u{202e}a\u{2066}b\u{200b}c\u{feff}\nhost \u{2028}d\u{e0041}"),
            "\\u{202e}a\\u{2066}b\\u{200b}c\\u{feff}\\nhost \\u{2028}d\\u{e0041}"
        );
    }

    #[test]
    fn long_lines_are_cut_at_spaces() {
        let words = |count| vec!["seven77"; count].join(" ");
        // Nine words and the spaces between have 71 columns, ten have 79.
        assert_eq!(wrapped(&words(9)), words(9));
        assert_eq!(wrapped(&words(10)), format!("{}\n  seven77", words(9)));
        let long = "x".repeat(200);
        let text = format!("a {long} b\nc");
        assert_eq!(wrapped(&text), format!("a\n  {long}\n  b\nc"));
    }

    #[test]
    fn times_are_of_an_unknown_offset() {
        assert_eq!(time(1_700_000_000), "2023-11-14T22:13:20-00:00");
    }
}
