//! Requests to the console daemon.

use std::time::Instant;

use log::{debug, warn};

use super::{Daemon, LAST_READS};
use crate::console::fifo::{Arrived, Fifo};
use crate::console::registry::{Displaced, Extent, Subscribed};
use crate::console::ring::{History, Moment};
use crate::name::{self, Name};
use crate::socket::{self, ClientId, Quota};
use crate::wire::extensions::archive_bound;
use crate::wire::{
    CONSOLE_WAITS, Command, ConsoleCommand, ConsoleRead, Header, Message, Payload, SinceCount,
    Success, Timestamp, domain,
};

impl Daemon {
    /// Handles a request. An invalid one ends the connection without a reply (WIRE 3).
    pub(super) fn request(&mut self, id: ClientId, request: &[u8]) {
        let message = match Message::decode(request) {
            Ok(message) => message,
            Err(error) => {
                warn!("connection {id}: closed: {error}");
                return self.forget(id);
            }
        };
        let name = match domain::name(&message.header.name) {
            Ok(name) => name,
            Err(error) => {
                warn!("connection {id}: closed: {error}");
                return self.forget(id);
            }
        };
        let Payload::Command(Command::Console(command)) = message.payload else {
            warn!("connection {id}: closed: not a command for the console daemon");
            return self.forget(id);
        };
        match command {
            ConsoleCommand::Add(max) => {
                let added =
                    self.check_supervisor(id)
                        .and_then(|()| match archive_bound(&name, &max) {
                            Some(bytes) => {
                                self.bound(&name.path().tenant(), bytes);
                                Ok(())
                            }
                            None => self.add(&name, max.unsigned().unwrap_or(0)),
                        });
                self.answer(id, message.header, added.map(|()| Success::Empty(())));
            }
            ConsoleCommand::Subscribe(from) => {
                self.subscribe(id, message.header, &name, &from, Extent::Lines);
            }
            ConsoleCommand::Read(ConsoleRead { from, follow }) => {
                let extent = if follow {
                    Extent::Runs
                } else {
                    Extent::History
                };
                self.subscribe(id, message.header, &name, &from, extent);
            }
            ConsoleCommand::Inactive(()) => {
                let answer = self.inactive(&name);
                self.answer(id, message.header, answer);
                self.close(id);
            }
        }
    }

    /// Refuses requests that only the supervisor makes: others could drop consoles, and read those of other tenants.
    fn check_supervisor(&self, id: ClientId) -> Result<(), String> {
        match self.clients.get(id) {
            Some(client) if !client.peer().is_trusted() => Err(
                "cannot read a further console: only the supervisor, as root, may ask for that"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Begins to read the console of `name`, and keeps the lines of its former runs.
    fn add(&mut self, name: &Name, max: u64) -> Result<(), String> {
        if name.label().is_none() {
            return Err(format!(
                "{name} is a path, but only unikernels have consoles"
            ));
        }
        let mut fifo = Fifo::open(&self.fifo_directory, name)
            .map_err(|error| format!("cannot open the fifo of {name}: {error}"))?;
        let dropped = self
            .registry
            .add(name, max)
            .map_err(|error| error.to_string())?;
        for dropped in dropped {
            self.turn_out(&dropped);
        }
        if let Some(mut before) = self.fifos.remove(name) {
            // No line is lost: neither the rest of another fifo of that name, nor an unfinished line.
            let ended = self.take_in(name, &mut before, LAST_READS) == Arrived::End;
            if !ended && fifo.is_same(&before) {
                fifo.splitter = before.splitter;
            } else {
                self.end_line(name, &mut before);
            }
            self.deliver(name);
        }
        if let Some(ring) = self.registry.ring(name) {
            for archive in &mut self.archives {
                archive.begin(name, ring, Instant::now());
            }
        }
        self.fifos.insert(name.clone(), fifo);
        self.opened += 1;
        debug!("{name}: reading the console");
        Ok(())
    }

    /// Sets the limit of a tenant's archives.
    fn bound(&mut self, tenant: &name::Path, bytes: u64) {
        for archive in &mut self.archives {
            archive.bound(tenant, bytes);
        }
    }

    fn inactive(&self, name: &Name) -> Result<Success, String> {
        if name.label().is_some() {
            return Err(format!("{name} is no path, so no consoles lie below it"));
        }
        let names = self.registry.inactive(name.path());
        Ok(Success::Consoles(
            names.map(|name| name.to_string().into()).collect(),
        ))
    }

    /// Answers, sends the history, and begins to send live lines, all through the queue of the connection.
    fn subscribe(
        &mut self,
        id: ClientId,
        header: Header,
        name: &Name,
        from: &SinceCount,
        extent: Extent,
    ) {
        let refused = if name.label().is_none() {
            Some(format!(
                "{name} is a path, but only unikernels have consoles"
            ))
        } else if extent == Extent::History && self.registry.ring(name).is_none() {
            Some(format!("there is no console of {name}"))
        } else {
            None
        };
        if let Some(reason) = refused {
            self.answer(id, header, Err(reason));
            return self.close(id);
        }
        let history = match from {
            SinceCount::Since(time) => History::Since(moment(time)),
            SinceCount::Count(count) => History::Count(count.get()),
        };
        let client = self.clients.get(id);
        let quota = client.map_or(Quota::Tenant, |client| client.peer().quota());
        let subscribed = match self.registry.subscribe(id, name, (history, extent), quota) {
            Ok(subscribed) => subscribed,
            Err(full) => {
                self.answer(id, header, Err(full.to_string()));
                return self.close(id);
            }
        };
        let answer = answer_to(&subscribed);
        if let Some(client) = self.clients.get_mut(id) {
            client.subscribed();
        }
        self.answer(id, header, Ok(Success::String(answer.as_str().into())));
        self.feed(id);
        for dropped in subscribed.dropped {
            self.turn_out(&dropped);
        }
    }

    fn answer(&mut self, id: ClientId, header: Header, answer: Result<Success, String>) {
        let payload = answer.map_or_else(
            |reason| {
                warn!("connection {id}: refused: {reason}");
                Payload::Failure(reason.into())
            },
            Payload::Reply,
        );
        self.send(id, &socket::framed(&Message::answer(header, payload)));
    }
}

/// Answer to a new subscriber, which says also whose place it has.
fn answer_to(subscribed: &Subscribed) -> String {
    let replaced = subscribed
        .dropped
        .iter()
        .find_map(|dropped| match dropped.why {
            Displaced::OfConsole(most) => Some(most),
            Displaced::Forgotten | Displaced::Waiting | Displaced::OfAll => None,
        });
    match (subscribed.known, replaced) {
        (true, Some(most)) => format!("subscribed, in place of the oldest of {most} subscribers"),
        (true, None) => "subscribed".to_owned(),
        (false, _) => CONSOLE_WAITS.to_owned(),
    }
}

fn moment(time: &Timestamp) -> Moment {
    Moment {
        seconds: time.seconds(),
        nanoseconds: u32::from(time.milliseconds()) * 1_000_000,
    }
}
