//! What each program that others talk to has given up before it hears anybody, as `/proc` tells.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use crate::support::{endpoint, pki};

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use endpoint::{Host, PATIENCE, info, read_message, success};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pki::Directory;

/// A program of a test, which ends with it.
struct Program(Child);

impl Program {
    fn start(program: &str, arguments: &[&str], input: Stdio) -> Self {
        let mut command = Command::new(program);
        let command = command.args(arguments).stdin(input);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the process has given up new privileges and system calls.
fn until_confined(what: &str, process: Pid) {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        if !status.contains("\nSeccomp:") {
            eprintln!("SKIPPED: {what} is confined: this kernel has no seccomp");
            return;
        }
        if status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n") {
            return;
        }
        assert!(Instant::now() < end, "{what} is not confined: {status}");
        thread::yield_now();
    }
}

#[test]
fn a_connection_is_served_in_a_sandbox_that_begins_before_the_handshake() {
    let host = Host::new();
    let endpoint = host.listen(&["-v", "-v"]);
    // It says nothing, so that all that happens happens before its first byte.
    let silent = endpoint.tcp();
    let started = endpoint.log(": process ");
    let (_, rest) = started.split_once(": process ").unwrap();
    let (pid, _) = rest.split_once(',').unwrap();
    let process = Pid::from_raw(pid.parse().unwrap());
    until_confined("petrel-tls", process);

    // One that does what it may not is killed so, and leaves a line.
    kill(process, Signal::SIGSYS).unwrap();
    let line = endpoint.log("peer=");
    assert!(line.contains("verdict=\"broken\""), "{line}");
    let how = format!("was ended by signal {}", Signal::SIGSYS as i32);
    assert!(line.contains(&how), "{line}");
    drop(silent);

    let daemon = host.answering("vmmd", success());
    let mut client = endpoint.connect(&host.root.leaf("x", info())).unwrap();
    assert_eq!(read_message(&mut client).unwrap().payload, success());
    daemon.wait();
}

#[test]
fn daemons_and_what_asks_them_are_confined() {
    let directory = Directory::runtime();
    let place = directory.root().to_str().unwrap();
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = collector.local_addr().unwrap().to_string();
    let prometheus = directory.root().join("petrel.prom");
    for (program, arguments) in [
        (env!("CARGO_BIN_EXE_petrel-console"), &[][..]),
        (
            env!("CARGO_BIN_EXE_petrel-stats"),
            &["--prometheus", prometheus.to_str().unwrap()],
        ),
        (
            env!("CARGO_BIN_EXE_petrel-influx"),
            &["--influx", &collector],
        ),
        (
            env!("CARGO_BIN_EXE_petrel-influx"),
            &["--url", "http://localhost:9", "--database", "d"],
        ),
    ] {
        let arguments = [&["--tmpdir", place], arguments].concat();
        let running = Program::start(program, &arguments, Stdio::null());
        until_confined(program, running.pid());
    }
}

#[test]
fn a_question_of_prometheus_is_answered_in_a_sandbox() {
    let (_silent, input) = UnixStream::pair().unwrap();
    let program = env!("CARGO_BIN_EXE_petrel-metrics");
    let running = Program::start(program, &["petrel.prom"], OwnedFd::from(input).into());
    until_confined(program, running.pid());
}
