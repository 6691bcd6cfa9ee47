//! Local sockets of all daemons while another user takes as many connections as it gets.
#![cfg(target_os = "linux")]

use crate::support::{self, host};

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use petrel::console::daemon as console;
use petrel::host as supervisor;
use petrel::name::Name;
use petrel::stats::daemon as stats;
use petrel::wire::frame::{MAX_MESSAGE, read_frame, write_frame};
use petrel::wire::{Command as Ask, ConsoleCommand, Int, Message, Payload, StatsCommand};

use host::{Daemon, Host, Setup};
use support::directory::copy_program;
use support::{DEADLINE, skipped};

/// What the other user is to do: a socket's path follows.
const TASK: &str = "PETREL_TEST_TASK";

/// Nobody's user.
const STRANGER: u32 = 65_533;

/// A process of another user, which may connect as a member of the sockets' group.
struct Stranger {
    child: Child,
    said: Vec<String>,
}

impl Stranger {
    /// Does the task of this name about a socket, until its last line.
    fn at(host: &Host, socket: &str, task: &str) -> Self {
        let program = host.path("bin/stranger");
        if !program.exists() {
            copy_program(env::current_exe().unwrap(), &program);
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut child = Command::new(program)
            .args(["--exact", "sockets::what_the_stranger_does", "--nocapture"])
            .env(TASK, format!("{task} {}", path(host, socket).display()))
            .uid(STRANGER)
            .gid(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines.map(Result::unwrap);
        let said = lines
            .skip_while(|line| !line.ends_with("begin"))
            .skip(1)
            .take_while(|line| line != "end");
        let said = said.collect();
        Self { child, said }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(host: &Host, socket: &str) -> PathBuf {
    host.path("run/util").join(socket)
}

/// Not a test: the program of the [`Stranger`].
#[test]
fn what_the_stranger_does() {
    let Ok(task) = env::var(TASK) else {
        return;
    };
    let (task, socket) = task.split_once(' ').unwrap();
    let connect = || {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    };
    println!("begin");
    let mut held = Vec::new();
    if let Ok(count) = task.parse::<usize>() {
        held.extend((0..count).map(|_| connect()));
        // The last one is answered, so that all before it were accepted.
        println!("{}", reason(&mut held[count - 1]));
    } else {
        let (name, command) = match task {
            "add-console" => (":a", Ask::Console(ConsoleCommand::Add(Int::new(0)))),
            _ => (":a", Ask::Statistics(StatsCommand::Remove(()))),
        };
        println!("{}", asked(connect(), name, command));
    }
    println!("end");
    std::io::stdout().flush().unwrap();
    // Until the test is done with it.
    let _ = std::io::stdin().read(&mut [0]);
}

/// What a failure says that comes without a question.
fn reason(stream: &mut UnixStream) -> String {
    let answer = read_frame(stream, MAX_MESSAGE).unwrap().unwrap();
    match Message::decode(&answer).unwrap().payload {
        Payload::Failure(why) => why.to_lossy(),
        other => format!("{other:?}"),
    }
}

fn asked(mut stream: UnixStream, name: &str, command: Ask) -> String {
    let name: Name = name.parse().unwrap();
    let message = Message::command(7, &name, command).encode().unwrap();
    write_frame(&mut stream, &message).unwrap();
    reason(&mut stream)
}

/// A host whose sockets other members of root's group reach.
fn host(what: &str) -> Option<(Host, Daemon)> {
    if !nix::unistd::geteuid().is_root() {
        skipped(what, "only root can become another user");
        return None;
    }
    let mut host = Host::prepared(Setup::default());
    host.start_console();
    host.start_supervisor();
    let mut command = host.command("petrel-stats");
    command.args(["-v", "--tmpdir", "run"]);
    let stats = Daemon::start(&mut command, "listening");
    chown(host.path("run/util"), None, Some(0)).unwrap();
    Some((host, stats))
}

#[test]
fn root_is_served_while_another_user_has_every_connection_that_it_gets() {
    let Some((host, _stats)) = host("another user's connections") else {
        return;
    };
    let sockets = [
        ("vmmd.sock", supervisor::CLIENT_LIMITS),
        ("console.sock", console::CONNECTION_LIMITS),
        ("stat.sock", stats::CONNECTION_LIMITS),
    ];
    let _strangers = sockets.map(|(socket, limits)| {
        let share = limits.per_user();
        let stranger = Stranger::at(&host, socket, &(share + 1).to_string());
        let expected = format!("user {STRANGER} has {share} connections");
        let said = stranger.said.join("\n");
        assert!(said.contains(&expected), "{socket}: {said}");
        stranger
    });
    host.expect(&host.petrel(&["info"]), 0, &[]);
    host.expect(&host.petrel(&["inactive-consoles"]), 0, &[]);
    let removed = host.petrel(&["stats-remove", "-n", "t:a"]);
    host.expect(&removed, 0, &["removed"]);
}

#[test]
fn only_root_decides_which_consoles_are_read_and_what_is_observed() {
    let Some((host, _stats)) = host("another user's requests") else {
        return;
    };
    for (socket, task, expected) in [
        ("console.sock", "add-console", "only the supervisor"),
        ("stat.sock", "remove-stats", "only the supervisor and root"),
    ] {
        let stranger = Stranger::at(&host, socket, task);
        let said = stranger.said.join("\n");
        assert!(said.contains(expected), "{socket}: {said}");
    }
}
