//! One exchange with a daemon or an endpoint: what follows the command is sent, answers are read and shown.

use std::io::Write;

use super::display::{self, Output};
use super::download::{self, Download};
use super::error::ClientError;
use super::request::Body;
use super::tls::ConnectError;
use super::transport::Transport;
use super::upload::{self, Sent};
use crate::chain::{Answer, route};
use crate::wire::frame::{FrameError, read_frame};
use crate::wire::{Command, Data, Message, Payload, Success, UnikernelCommand};

/// Most octets of an answer that is held in memory: lists of very many unikernels.
pub const MAX_ANSWER: usize = 1 << 24;

/// How the answers to a command look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// One message.
    One,
    /// One message with an image.
    Image,
    /// One message, then data until the peer closes.
    Follow,
}

/// Sends `opening` (a frame, empty over TLS, where the certificate says it all) and `body`, and shows the answers.
pub(super) fn converse(
    mut transport: Transport,
    opening: &[u8],
    command: &Command,
    body: &Body,
    output: &mut Output,
) -> Result<(), ClientError> {
    let sent = match transport.write_all(opening) {
        Ok(()) => upload::send(&mut transport, body)?,
        Err(error) => Sent::Failed(error),
    };
    let complete = matches!(sent, Sent::All);
    let received = receive(&mut transport, Answers::to(command), complete, output);
    match (received, sent) {
        // What was read says more than that nobody listened any more; without it, that is all there is to say.
        (Err(ClientError::NoAnswer | ClientError::Receive(_)), Sent::Failed(error)) => {
            Err(ClientError::Send(error))
        }
        (received, _) => {
            transport.close();
            received
        }
    }
}

fn receive(
    transport: &mut Transport,
    answers: Answers,
    complete: bool,
    output: &mut Output,
) -> Result<(), ClientError> {
    let mut answered = false;
    loop {
        let message = if answers == Answers::Image {
            match download::receive(transport, output)? {
                Download::Stored => return Ok(()),
                Download::Message(message) => *message,
            }
        } else {
            match read_frame(transport, MAX_ANSWER).map_err(receive_error)? {
                Some(octets) => Message::decode(&octets).map_err(ClientError::Answer)?,
                None if answered => return Ok(()),
                None => return Err(ClientError::NoAnswer),
            }
        };
        let name = message.header.name;
        match message.payload {
            Payload::Failure(text) => {
                let text = display::printable(&text.to_lossy());
                return Err(ClientError::Failure(display::name(&name), text));
            }
            Payload::Command(_) => return Err(ClientError::UnexpectedCommand),
            Payload::Reply(_) if !complete => {
                return Err(ClientError::Unexpected("a success before all was sent"));
            }
            Payload::Reply(Success::UnikernelImage(_) | Success::OldBlockDeviceImage(_)) => {
                return Err(ClientError::Unexpected("an image that was not asked for"));
            }
            Payload::Reply(success) => {
                output.success(&name, &success)?;
                answered = true;
                if answers != Answers::Follow {
                    return Ok(());
                }
            }
            Payload::Data(Data::Console(line)) if answers == Answers::Follow => {
                output.console(&line)?;
            }
            Payload::Data(_) => return Err(ClientError::Unexpected("data of another kind")),
        }
    }
}

/// The meaning of a failed read: over TLS 1.3 the server's opinion of our certificate arrives this way.
pub(super) fn receive_error(error: FrameError) -> ClientError {
    match error {
        FrameError::Io(error) => match ConnectError::from(error) {
            ConnectError::Communication(error) => ClientError::Receive(FrameError::Io(error)),
            rejected => ClientError::Rejected(rejected),
        },
        error => ClientError::Receive(error),
    }
}

impl Answers {
    fn to(command: &Command) -> Self {
        match (command, route(command).answer) {
            (Command::Unikernel(UnikernelCommand::Get(_)), _) => Self::Image,
            (_, Answer::Subscription) => Self::Follow,
            (_, Answer::Single | Answer::Dump) => Self::One,
        }
    }
}
