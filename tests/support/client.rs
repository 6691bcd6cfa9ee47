//! The client's program, and daemons of a few lines for it to talk to.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use flate2::read::{ZlibDecoder, ZlibEncoder};
use petrel::wire::frame::{MAX_CHUNK, frame, read_frame};
use petrel::wire::{Message, Payload, Success};

use crate::support::{DEADLINE, Directory, Ended, guest, run};

/// A directory for a test, with that of the daemons' sockets in it.
pub fn directory(test: &str) -> Directory {
    let directory = Directory::new(&format!("client-{test}"));
    fs::create_dir_all(directory.path("util")).unwrap();
    directory
}

/// A runnable image with this many bytes after it, which do not compress.
pub fn image(directory: &Directory, more: usize) -> PathBuf {
    let mut bytes = fs::read(guest("hello.spt")).unwrap();
    let mut random = 1_u32;
    bytes.extend(
        std::iter::repeat_with(|| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_be_bytes()[0]
        })
        .take(more),
    );
    directory.file("image", bytes)
}

/// Serves one client on the supervisor's socket of `directory`, and says nothing but `payload`.
pub fn say(directory: &Directory, payload: Payload) -> Daemon<Message> {
    Daemon::start(&directory.path("util/vmmd.sock"), |mut stream| {
        let request = command(&mut stream);
        answer(&mut stream, &request, payload);
        request
    })
}

/// Runs the client with the directory as its runtime directory.
pub fn local(directory: &Directory, code: i32, arguments: &[&str]) -> Ended {
    expect(
        &directory.path(""),
        code,
        &[arguments, &["--tmpdir=."]].concat(),
    )
}

/// The files that `get` and `dump-block` left in the directory, finished or not.
pub fn downloads(directory: &Directory) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.path("")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().contains(".2"))
        .collect()
}

/// What a zlib stream holds.
pub fn inflated(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    ZlibDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// A zlib stream.
pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    ZlibEncoder::new(bytes, flate2::Compression::fast())
        .read_to_end(&mut compressed)
        .unwrap();
    compressed
}

/// The client with these arguments, in this directory.
pub fn petrel(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
    command.args(arguments).current_dir(directory);
    command
}

/// Runs the client and expects this exit code.
pub fn expect(directory: &Path, code: i32, arguments: &[&str]) -> Ended {
    let ended = run(&mut petrel(directory, arguments));
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

/// Serves this many connections on `socket`, one after the other; their results come when all are over.
pub fn daemon_of_several<T: Send + 'static>(
    socket: &Path,
    connections: usize,
    mut serve: impl FnMut(UnixStream) -> T + Send + 'static,
) -> Daemon<Vec<T>> {
    let listener = UnixListener::bind(socket).unwrap();
    let (send, result) = channel();
    thread::spawn(move || {
        let served = listener.incoming().take(connections).map(|stream| {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.set_write_timeout(Some(DEADLINE)).unwrap();
            serve(stream)
        });
        let _ = send.send(served.collect());
    });
    Daemon { result }
}

/// Reads a command.
pub fn command(stream: &mut impl Read) -> Message {
    let bytes = read_frame(stream, 1 << 20).unwrap().expect("a command");
    Message::decode(&bytes).unwrap()
}

/// Sends an answer to `request`.
pub fn answer(stream: &mut impl Write, request: &Message, payload: Payload) {
    let message = Message::answer(request.header.clone(), payload);
    let bytes = frame(&message.encode().unwrap()).unwrap();
    stream.write_all(&bytes).unwrap();
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
    let mut bytes = Vec::new();
    while let Some(chunk) = read_frame(stream, MAX_CHUNK).unwrap() {
        bytes.extend(chunk);
    }
    bytes
}
