//! How statistics are shown: as lines, as JSON, or as a table that is kept up to date.

use std::io::{self, IsTerminal};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::conversation::MAX_ANSWER;
use super::display::Output;
use super::error::ClientError;
use super::table::Table;
use crate::daemon::wall_clock;
use crate::name::Name;
use crate::sys::terminal;
use crate::wire::extensions::NamedDetails;
use crate::wire::frame::{read_frame, write_frame};
use crate::wire::{Command, Message, Payload, Success, UnikernelCommand};

/// How long the supervisor may take to tell of its unikernels, each time that the table is drawn.
pub const LIVES: Duration = Duration::from_secs(1);

/// Rows and columns of a terminal that does not tell.
const SIZE: (usize, usize) = (24, 80);

/// The way in which statistics are shown.
#[derive(Debug)]
pub(super) enum StatisticsOutput {
    /// Lines, as albatross prints them.
    Lines,
    /// A line of JSON each.
    Json,
    /// A table.
    Table(Box<LiveTable>),
}

/// A table on a terminal.
#[derive(Debug)]
pub(super) struct LiveTable {
    table: Table,
    started: Instant,
    /// Whom to ask for more, and about whom.
    supervisor: Option<(PathBuf, Name)>,
}

impl StatisticsOutput {
    /// A table on a terminal, lines elsewhere, or JSON. The supervisor, where there is a way to it, is asked for more
    /// about `name`.
    pub(super) fn new(json: bool, name: Name, supervisor: Option<PathBuf>) -> Self {
        if json {
            return Self::Json;
        }
        if !io::stdout().is_terminal() {
            return Self::Lines;
        }
        Self::Table(Box::new(LiveTable {
            table: Table::default(),
            started: Instant::now(),
            supervisor: supervisor.map(|socket| (socket, name)),
        }))
    }
}

impl LiveTable {
    /// The table, to be told of somebody, and the time.
    pub(super) fn table(&mut self) -> (&mut Table, Duration) {
        (&mut self.table, self.started.elapsed())
    }

    /// What replaces the table on the terminal.
    pub(super) fn draw(&mut self) -> String {
        if let Some((socket, name)) = &self.supervisor {
            match details(socket, name) {
                Ok(details) => self.table.lives(&details),
                // One of albatross, or none that this user may ask.
                Err(_) => self.supervisor = None,
            }
        }
        let size = terminal::size(io::stdout()).ok();
        let size = size.filter(|(rows, columns)| *rows > 0 && *columns > 0);
        self.table.draw(size.unwrap_or(SIZE), wall_clock())
    }
}

/// What the supervisor tells of the unikernels that `name` is about, under the names that statistics have.
pub(super) fn details(socket: &Path, name: &Name) -> Result<Vec<NamedDetails>, ClientError> {
    let mut stream = UnixStream::connect(socket).map_err(ClientError::Send)?;
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(&stream, Some(LIVES)).map_err(ClientError::Send)?;
    }
    let command = Command::Unikernel(UnikernelCommand::Details(()));
    let path = Name::from(name.path().clone());
    let message = Message::command(0, &path, command);
    let bytes = message.encode().map_err(ClientError::Encode)?;
    write_frame(&mut stream, &bytes).map_err(ClientError::Receive)?;
    let answer = read_frame(&mut stream, MAX_ANSWER).map_err(ClientError::Receive)?;
    let answer = answer.ok_or(ClientError::NoAnswer("unikernel details"))?;
    let answer = Message::decode(&answer).map_err(ClientError::Answer)?;
    let Payload::Reply(Success::UnikernelDetails(mut details)) = answer.payload else {
        return Err(ClientError::Unexpected("an answer to another command"));
    };
    if let Some(label) = name.label() {
        let wanted = format!(":{label}");
        details.retain(|entry| entry.name == wanted.as_str().into());
    }
    Ok(details)
}

impl Output {
    /// The table, if there is one, shows what was told.
    pub(super) fn settle(&mut self) -> Result<(), ClientError> {
        let StatisticsOutput::Table(live) = &mut self.figures else {
            return Ok(());
        };
        let text = live.draw();
        self.text(&text)
    }
}
