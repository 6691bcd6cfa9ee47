//! One exchange with a daemon or an endpoint: what follows the command is sent, answers are read and shown.

use std::io::Write;
use std::time::Duration;

use super::display::{self, Output};
use super::download::{self, Download};
use super::error::ClientError;
use super::progress::Progress;
use super::request::Body;
use super::stored::StoredFile;
use super::tls::ConnectError;
use super::transport::Transport;
use super::upload::{self, Sent};
use crate::chain::{Answer, route};
use crate::wire::frame::{FrameError, read_frame};
use crate::wire::image::Pieces;
use crate::wire::{
    BlockCommand, BlockData, CONSOLE_WAITS, Command, ConsoleCommand, Data, Header, Message,
    Payload, Success, UnikernelCommand, domain,
};

/// Most bytes of an answer that is held in memory: lists of very many unikernels.
pub const MAX_ANSWER: usize = 1 << 24;

/// Most bytes of a dump, inflated; nobody knows here how large the block device is.
pub const MAX_STORED_DUMP: u64 = 1 << 40;

/// How often the supervisor is asked whether a run still follows, while there is none.
pub const BETWEEN_RUNS: Duration = Duration::from_secs(1);

/// How the answers to a command look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// One message.
    One,
    /// One message with an image.
    Image,
    /// One message, then data until the peer closes.
    Follow,
    /// One message, then lines and word of their end; whether that is the end of the run.
    Console(bool),
    /// One message, then pieces of content up to a last one.
    Dump,
}

/// An answer that is no failure.
enum ReplyKind {
    Reply(Success),
    Data(Data),
}

/// Sends `opening` (a frame, empty over TLS, where the certificate says it all) and `body`, and shows the answers.
pub(super) fn converse(
    mut transport: Transport,
    opening: &[u8],
    command: &Command,
    body: Body,
    output: &mut Output,
) -> Result<(), ClientError> {
    let sent = match transport.write_all(opening) {
        Ok(()) => upload::send(&mut transport, body)?,
        Err(error) => Sent::Failed(error),
    };
    let mut answers = Listener {
        peer: &mut transport,
        command: route(command).kind,
        all_sent: matches!(sent, Sent::All),
    };
    let received = match Answers::to(command) {
        Answers::One => answers.one(output),
        Answers::Image => answers.image(output),
        Answers::Follow => answers.follow(output),
        Answers::Console(follow) => answers.console(follow, output),
        Answers::Dump => answers.dump(output),
    };
    match (received, sent) {
        (Err(error), _) if is_own(command) && error.is_silence() => {
            Err(ClientError::Unknown(route(command).kind))
        }
        // What was read says more than that nobody listened any more; without it, that is all there is to say.
        (Err(ClientError::NoAnswer(_) | ClientError::Receive(_)), Sent::Failed(error)) => {
            Err(send_error(error))
        }
        (received, _) => {
            transport.close();
            received
        }
    }
}

/// Reads the answers to one command.
struct Listener<'a> {
    peer: &'a mut Transport,
    /// The command in words.
    command: &'static str,
    /// Whether the peer has got all it needs.
    all_sent: bool,
}

impl Listener<'_> {
    fn one(&mut self, output: &mut Output) -> Result<(), ClientError> {
        let (header, success) = self.first()?;
        output.success(&header.name, &success)
    }

    fn image(&mut self, output: &mut Output) -> Result<(), ClientError> {
        match download::receive(self.peer, output)? {
            None => Err(ClientError::NoAnswer(self.command)),
            Some(Download::Stored) => Ok(()),
            Some(Download::Message(message)) => {
                self.judge(*message)?;
                Err(ClientError::Unexpected("no image"))
            }
        }
    }

    /// History, which has an end, or runs, of which the last one has.
    fn console(&mut self, follow: bool, output: &mut Output) -> Result<(), ClientError> {
        let (header, success) = self.first()?;
        output.success(&header.name, &success)?;
        if success == Success::String(CONSOLE_WAITS.into()) {
            output.warn(&format!(
                "there is no {} yet: its console is shown as soon as it is created (petrel info lists what there is)",
                display::name(&header.name)
            ));
        }
        let mut between_runs = false;
        loop {
            // The next run may be called off, of which the console daemon knows nothing.
            while between_runs && !self.peer.says_more(BETWEEN_RUNS) {
                output.check_reader()?;
                if output.no_run_follows(&header.name)? {
                    return Ok(());
                }
            }
            self.peer.wait(output)?;
            let (header, said) = match self.next() {
                Ok(Some(answer)) => answer,
                Err(error) if !error.is_silence() => return Err(error),
                Ok(None) | Err(_) => return Err(ClientError::BrokenOff(self.command)),
            };
            match said {
                ReplyKind::Data(Data::Console(line)) => {
                    between_runs = false;
                    output.console(&line)?;
                }
                ReplyKind::Reply(Success::Empty(())) if !follow => {
                    return output.last_run(&header.name);
                }
                ReplyKind::Reply(Success::Empty(())) => {
                    between_runs = output.run_ended(&header.name)?;
                    if !between_runs {
                        return Ok(());
                    }
                }
                _ => return Err(ClientError::Unexpected("no line of a console")),
            }
        }
    }

    /// A subscription has no end of its own: whoever closes it on the other side breaks it off.
    fn follow(&mut self, output: &mut Output) -> Result<(), ClientError> {
        let (header, success) = self.first()?;
        output.success(&header.name, &success)?;
        loop {
            self.peer.wait(output)?;
            let (header, said) = self.next()?.ok_or(ClientError::BrokenOff(self.command))?;
            match said {
                ReplyKind::Reply(success) => output.success(&header.name, &success)?,
                ReplyKind::Data(Data::Console(line)) => output.console(&line)?,
                ReplyKind::Data(Data::Statistics(used)) => {
                    output.statistics(&header.name, &used)?;
                }
                ReplyKind::Data(Data::Block(_)) => {
                    return Err(ClientError::Unexpected("a piece of a block device"));
                }
            }
            if !self.peer.says_more(Duration::ZERO) {
                output.settle()?;
            }
        }
    }

    fn dump(&mut self, output: &mut Output) -> Result<(), ClientError> {
        let (header, success) = self.first()?;
        let Success::BlockDeviceImage(compressed) = success else {
            return Err(ClientError::Unexpected("no block device"));
        };
        let name = domain::name(&header.name)
            .map_err(|_| ClientError::Unexpected("the name in it is none"))?;
        let mut file = StoredFile::create(&name, compressed, MAX_STORED_DUMP, output)?;
        let mut received = 0;
        let mut progress = Progress::new(None);
        let mut pieces = Pieces::new(header.clone());
        loop {
            let frame = self.frame()?.ok_or(ClientError::BrokenOff(self.command))?;
            // By far the most, and decoded with care below if it is anything else.
            if let Some(bytes) = pieces.of(&frame) {
                file.push(bytes)?;
                received += bytes.len() as u64;
                progress.advance(bytes.len());
                continue;
            }
            let message = Message::decode(&frame).map_err(ClientError::Answer)?;
            match self.judge(message)?.1 {
                ReplyKind::Data(Data::Block(BlockData::Some(bytes))) => {
                    file.push(&bytes.0)?;
                    received += bytes.0.len() as u64;
                }
                ReplyKind::Data(Data::Block(BlockData::End(()))) => break,
                _ => return Err(ClientError::Unexpected("no piece of a block device")),
            }
        }
        drop(progress);
        let path = file.keep()?;
        output.stored(
            &header.name,
            "block device image",
            compressed,
            received,
            &path,
        )
    }

    /// The first answer, which is a success.
    fn first(&mut self) -> Result<(Header, Success), ClientError> {
        match self.next()? {
            None => Err(ClientError::NoAnswer(self.command)),
            Some((header, ReplyKind::Reply(success))) => Ok((header, success)),
            Some((_, ReplyKind::Data(_))) => Err(ClientError::Unexpected("data before an answer")),
        }
    }

    /// The next answer that is no failure. `None`: the peer has closed.
    fn next(&mut self) -> Result<Option<(Header, ReplyKind)>, ClientError> {
        match self.frame()? {
            Some(bytes) => {
                let message = Message::decode(&bytes).map_err(ClientError::Answer)?;
                self.judge(message).map(Some)
            }
            None => Ok(None),
        }
    }

    fn frame(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        read_frame(self.peer, MAX_ANSWER).map_err(receive_error)
    }

    fn judge(&self, message: Message) -> Result<(Header, ReplyKind), ClientError> {
        match message.payload {
            Payload::Failure(text) => Err(ClientError::Failure(
                display::name(&message.header.name),
                display::printable(&text.to_lossy()),
            )),
            Payload::Command(_) => Err(ClientError::UnexpectedCommand),
            Payload::Reply(_) if !self.all_sent => {
                Err(ClientError::Unexpected("a success before all was sent"))
            }
            Payload::Reply(success) => Ok((message.header, ReplyKind::Reply(success))),
            Payload::Data(data) => Ok((message.header, ReplyKind::Data(data))),
        }
    }
}

/// Whether the answer to the command is stored in a file.
pub(super) fn is_download(command: &Command) -> bool {
    matches!(Answers::to(command), Answers::Image | Answers::Dump)
}

/// Whether no release of albatross knows the command.
fn is_own(command: &Command) -> bool {
    use UnikernelCommand::{Details, Rollback, Start, Stop};

    matches!(
        command,
        Command::Unikernel(Stop(()) | Start(()) | Rollback(()) | Details(()))
            | Command::Console(ConsoleCommand::Read(_))
            | Command::Block(BlockCommand::AddFilled(_))
    )
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

/// The same of a failed write, which reads, too, while it waits.
fn send_error(error: std::io::Error) -> ClientError {
    match ConnectError::from(error) {
        ConnectError::Communication(error) => ClientError::Send(error),
        rejected => ClientError::Rejected(rejected),
    }
}

impl Answers {
    fn to(command: &Command) -> Self {
        match (command, route(command).answer) {
            (
                Command::Unikernel(UnikernelCommand::Get(_))
                | Command::Block(BlockCommand::DumpOld(_)),
                _,
            ) => Self::Image,
            (Command::Console(ConsoleCommand::Read(read)), _) => Self::Console(read.follow),
            (_, Answer::Subscription) => Self::Follow,
            (_, Answer::Dump) => Self::Dump,
            (_, Answer::Single) => Self::One,
        }
    }
}
