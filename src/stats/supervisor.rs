//! What the supervisor says is to be observed (WIRE 9.2).

use std::path::PathBuf;
use std::time::Instant;

use crate::name::{Name, Path};
use crate::socket::{Link, Peer};
use crate::wire::{Command, Header, Message, Payload, StatsAdd, StatsCommand, Success, domain};

/// What the supervisor has said.
#[derive(Debug)]
pub(super) enum Announcement {
    /// Observe this process as this unikernel.
    Add(Name, StatsAdd),
    /// Observe it no longer.
    Remove(Name),
}

/// The connection to the supervisor at `path`, to which this daemon introduces itself.
pub(super) fn link(path: PathBuf) -> Link {
    let command = Command::Statistics(StatsCommand::Initial(()));
    let greeting = Message::command(0, &Name::from(Path::ROOT), command);
    Link::new("supervisor", path, greeting)
}

/// Connects if that is due, reads and writes what goes; what was said.
pub(super) fn progress(link: &mut Link, now: Instant) -> Vec<Announcement> {
    let mut told = Vec::new();
    link.progress(now, |peer, message| {
        told.push(hear(peer, message)?);
        Ok(())
    });
    told
}

fn hear(peer: &mut Peer, Message { header, payload }: Message) -> Result<Announcement, String> {
    let said = command(&header, payload)?;
    let word = match &said {
        Announcement::Add(..) => "added",
        Announcement::Remove(_) => "removed",
    };
    // Whatever becomes of it: a process that cannot be observed is no reason to part.
    let answer = Payload::Reply(Success::String(word.into()));
    peer.tell(&Message::answer(header, answer))?;
    Ok(said)
}

fn command(header: &Header, payload: Payload) -> Result<Announcement, String> {
    let name = domain::name(&header.name).map_err(|error| error.to_string())?;
    match payload {
        Payload::Command(Command::Statistics(StatsCommand::Add(add))) => {
            Ok(Announcement::Add(name, add))
        }
        Payload::Command(Command::Statistics(StatsCommand::Remove(()))) => {
            Ok(Announcement::Remove(name))
        }
        _ => Err("it says something else than what to observe".to_owned()),
    }
}
