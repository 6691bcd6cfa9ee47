//! The client's program, and daemons of a few lines for it to talk to.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use petrel::wire::frame::{MAX_CHUNK, frame, read_frame};
use petrel::wire::{Message, Payload, Success};

use crate::support::{DEADLINE, Ended, run};

/// The client with these arguments, in this folder.
pub fn petrel(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("TMPDIR", folder);
    command
}

/// Runs the client and expects this exit code.
pub fn expect(folder: &Path, code: i32, arguments: &[&str]) -> Ended {
    let ended = run(&mut petrel(folder, arguments));
    assert_eq!(ended.code(), code, "{arguments:?}: {ended:?}");
    ended
}

/// A daemon that serves one connection.
pub struct Daemon<T> {
    result: Receiver<T>,
}

impl<T: Send + 'static> Daemon<T> {
    /// Listens on `socket` and lets `serve` speak to the first client.
    pub fn start(socket: &Path, serve: impl FnOnce(UnixStream) -> T + Send + 'static) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (send, result) = channel();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.set_write_timeout(Some(DEADLINE)).unwrap();
            let _ = send.send(serve(stream));
        });
        Self { result }
    }

    /// What `serve` returned.
    pub fn result(self) -> T {
        self.result
            .recv_timeout(DEADLINE)
            .expect("the daemon did not finish")
    }
}

/// Reads a command.
pub fn command(stream: &mut impl Read) -> Message {
    let octets = read_frame(stream, 1 << 20).unwrap().expect("a command");
    Message::decode(&octets).unwrap()
}

/// Sends an answer to `request`.
pub fn answer(stream: &mut impl Write, request: &Message, payload: Payload) {
    let message = Message::answer(request.header.clone(), payload);
    let octets = frame(&message.encode().unwrap()).unwrap();
    stream.write_all(&octets).unwrap();
}

/// "Yes", with a word.
pub fn success(text: &str) -> Payload {
    Payload::Reply(Success::String(text.into()))
}

/// "No", and why.
pub fn failure(text: &str) -> Payload {
    Payload::Failure(text.into())
}

/// Reads raw frames up to the end marker.
pub fn upload(stream: &mut impl Read) -> Vec<u8> {
    let mut octets = Vec::new();
    while let Some(chunk) = read_frame(stream, MAX_CHUNK).unwrap() {
        octets.extend(chunk);
    }
    octets
}
