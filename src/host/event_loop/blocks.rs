//! What the supervisor decided about block devices, carried out.

use super::super::block::{BlockError, Staging};
use super::super::connection::Intake;
use super::{Arrival, Daemon};
use crate::name::Name;
use crate::supervisor::{BlockContent, BlockWork, ConnectionId, Event, TaskId};
use crate::wire::Header;

impl Daemon {
    pub(super) fn work(&mut self, task: TaskId, name: &Name, work: BlockWork) {
        let done = match work {
            BlockWork::Make(size) => self.blocks.make(name, size).map_err(text),
            BlockWork::Remove => self.blocks.remove(name).map_err(text),
            BlockWork::Receive(content) => {
                self.tasks.insert(task, name.clone());
                return self.receive_block(task, name, content);
            }
            BlockWork::Send {
                to,
                header,
                level,
                whole,
            } => {
                self.tasks.insert(task, name.clone());
                let begun = self.send_block(task, name, to, header, (level, whole));
                return begun.unwrap_or_else(|why| self.end_task(task, Err(why)));
            }
        };
        self.told(task, name, done);
    }

    /// A task that sends or receives has come to its end, unless it had before.
    pub(super) fn end_task(&mut self, task: TaskId, result: Result<(), String>) {
        if let Some(name) = self.tasks.remove(&task) {
            self.told(task, &name, result);
        }
    }

    /// Breaks a task off that sends or receives.
    pub(super) fn break_off(&mut self, task: TaskId) {
        let mut connections = self.connections.iter_mut();
        let found = connections.find(|(_, connection)| connection.task() == Some(task));
        if let Some((id, connection)) = found {
            let id = *id;
            let can_be_told = connection.stop();
            self.end_task(task, Err("the supervisor is stopping".to_owned()));
            if !can_be_told {
                self.arrived(id, Arrival::Gone);
            }
        }
    }

    /// All content has arrived.
    pub(super) fn install(&mut self, task: TaskId, staging: Staging) {
        let result = self.blocks.finish(staging).map_err(text);
        self.end_task(task, result);
    }

    fn told(&mut self, task: TaskId, name: &Name, result: Result<(), String>) {
        let left = self.blocks.size(name);
        self.events.push_back(Event::Block { task, result, left });
    }

    fn receive_block(&mut self, task: TaskId, name: &Name, content: BlockContent) {
        let BlockContent {
            from,
            size,
            make,
            embedded,
            compressed,
        } = content;
        let staging = self.blocks.stage(name, size, make, compressed);
        let connection = self.connections.get_mut(&from);
        let arrival = match (staging, connection) {
            (Ok(staging), Some(connection)) => {
                connection.receive(Intake::Block(task, staging), embedded)
            }
            (Ok(_), None) => return self.end_task(task, Err(GONE.to_owned())),
            (Err(error), _) => return self.end_task(task, Err(text(error))),
        };
        if let Some(arrival) = arrival {
            self.arrived(from, arrival);
        }
    }

    fn send_block(
        &mut self,
        task: TaskId,
        name: &Name,
        to: ConnectionId,
        header: Header,
        (level, whole): (u8, bool),
    ) -> Result<(), String> {
        let content = self.blocks.read(name).map_err(text)?;
        if whole {
            return self.send_whole(to, header, level, content, Some(task));
        }
        let connection = self.connections.get_mut(&to).ok_or(GONE)?;
        connection.send_pieces(task, header, level, content)
    }
}

/// Why a task of a client that has left is not done.
pub(super) const GONE: &str = "the client has left";

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: BlockError) -> String {
    error.to_string()
}
