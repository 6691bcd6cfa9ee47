//! The subscription to the statistics daemon.

use std::path::PathBuf;
use std::time::Instant;

use crate::name::Name;
use crate::socket::Link;
use crate::wire::{Command, Data, Message, Payload, Statistics, StatsCommand, domain};

/// Whose statistics they are, and what is told.
pub(super) type Sample = (Name, Box<Statistics>);

/// The connection to the daemon at `path`, on which it is to tell of `name`.
pub(super) fn link(path: PathBuf, name: &Name) -> Link {
    let command = Command::Statistics(StatsCommand::Subscribe(()));
    Link::new(
        "statistics daemon",
        path,
        Message::command(0, name, command),
    )
}

/// Connects if that is due, reads and writes what goes; what was told.
pub(super) fn progress(link: &mut Link, now: Instant) -> Vec<Sample> {
    let mut samples = Vec::new();
    link.progress(now, |_, message| {
        let name = domain::name(&message.header.name).map_err(|error| error.to_string())?;
        match message.payload {
            Payload::Data(Data::Statistics(used)) => samples.push((name, used)),
            Payload::Failure(why) => return Err(why.to_lossy()),
            _ => return Err("it says what was not asked for".to_owned()),
        }
        Ok(())
    });
    samples
}
