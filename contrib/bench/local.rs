//! A client of `petreld` on its host, without the start of a program.

use std::error::Error;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use petrel::name::Name;
use petrel::unikernel::{Config, FailBehaviour, Kind};
use petrel::wire::frame::{END, MAX_CHUNK, read_frame, write_frame};
use petrel::wire::{Command, Message, Payload, Success, UnikernelCommand};

/// Result of anything that a benchmark does.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Maximum time to wait for an answer.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum number of bytes of an answer.
const MAX_ANSWER: usize = 1 << 24;
/// Memory of a unikernel in MB.
const MEMORY: u32 = 2;

/// A client of the daemon that listens on a socket.
pub struct Client {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Image of the unikernels that are created: a guest that runs until it is stopped.
    pub image: Vec<u8>,
}

impl Client {
    /// Creates a unikernel; the time from connecting to the answer.
    pub fn create(&self, name: &str) -> Result<Duration> {
        let start = Instant::now();
        self.upload(name, create(false), &self.image)?;
        Ok(start.elapsed())
    }

    /// Destroys a unikernel.
    pub fn destroy(&self, name: &str) -> Result<()> {
        self.ask(name, Command::Unikernel(UnikernelCommand::Destroy(())))?;
        Ok(())
    }

    /// Sends a command, and reads the answer.
    pub fn ask(&self, name: &str, command: Command) -> Result<Success> {
        reply(&mut self.send(name, command)?)
    }

    /// Sends a command with the stream that follows it, and reads the answer.
    pub fn upload(&self, name: &str, command: Command, content: &[u8]) -> Result<Success> {
        let mut stream = self.send(name, command)?;
        // Whoever refuses an upload answers before its end.
        let sent = content
            .chunks(MAX_CHUNK)
            .try_for_each(|chunk| write_frame(&mut stream, chunk))
            .is_ok()
            && stream.write_all(&END).is_ok();
        match reply(&mut stream) {
            Ok(_) if !sent => Err("a success before all was sent".into()),
            answer => answer,
        }
    }

    fn send(&self, name: &str, command: Command) -> Result<UnixStream> {
        let name: Name = name.parse().map_err(|error| format!("{error}"))?;
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        let message = Message::command(1, &name, command);
        write_frame(&mut stream, &message.encode()?)?;
        Ok(stream)
    }
}

/// Command that creates a small unikernel which says little; its image follows, compressed or not.
pub fn create(compressed: bool) -> Command {
    let config = Config {
        kind: Kind::Solo5,
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpus: [0].into(),
        memory: MEMORY,
        blocks: Vec::new(),
        nets: Vec::new(),
        arguments: vec![b"--interval-ms=600000".to_vec()],
        vcpus: 1,
        linux_boot_partition: None,
    };
    Command::Unikernel(UnikernelCommand::Create(
        config.to_wire(compressed, Vec::new()),
    ))
}

fn reply(stream: &mut UnixStream) -> Result<Success> {
    let reply = read_frame(stream, MAX_ANSWER)?.ok_or("no answer")?;
    success(&reply)
}

/// Success in a message, which is an error if it has another one.
pub fn success(message: &[u8]) -> Result<Success> {
    match Message::decode(message)?.payload {
        Payload::Reply(success) => Ok(success),
        Payload::Failure(why) => Err(why.to_lossy().into()),
        other => Err(format!("instead of a reply: {other:?}").into()),
    }
}
