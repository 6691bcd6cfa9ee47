//! Resolver process: looks up the collector's name, which takes files and system calls that the exporter's
//! sandbox does not allow.

use std::env;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::daemon::TOKEN;
use crate::sandbox::{self, Breach, Need};

/// Timeout of one look-up.
pub const LOOK_UP: Duration = Duration::from_secs(15);

/// Environment variable that makes this program the resolver of the host and port that it names.
const HOST: &str = "PETREL_INFLUX_RESOLVE";

/// Maximum length of an answer in bytes.
const MAX_ANSWER: u64 = 1 << 12;

/// Maximum number of addresses that are used.
pub const MAX_ADDRESSES: usize = 16;

/// Channel to the resolver process, which ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Resolver(UnixStream);

impl Resolver {
    /// Starts the resolver process.
    pub(super) fn start(host: &str, port: u16) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        line.set_read_timeout(Some(LOOK_UP))?;
        Command::new(env::current_exe()?)
            .env(HOST, format!("{host} {port}"))
            .env_remove(TOKEN)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        Ok(Self(line))
    }

    /// Looks the name up now.
    pub(super) fn ask(&mut self) -> io::Result<Vec<SocketAddr>> {
        self.discard()?;
        self.0.write_all(b"\n")?;
        let mut answer = String::new();
        match BufReader::new(&self.0)
            .take(MAX_ANSWER)
            .read_line(&mut answer)
        {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => parse(&answer),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(io::Error::new(
                ErrorKind::TimedOut,
                "looking up its name takes too long",
            )),
            Err(error) => Err(error),
        }
    }

    /// Drops an answer that came too late.
    fn discard(&self) -> io::Result<()> {
        self.0.set_nonblocking(true)?;
        let mut bytes = [0; 512];
        while matches!((&self.0).read(&mut bytes), Ok(1..)) {}
        self.0.set_nonblocking(false)
    }
}

fn parse(answer: &str) -> io::Result<Vec<SocketAddr>> {
    let answer = answer.trim_end();
    match answer.strip_prefix("at ") {
        Some(addresses) => addresses
            .split(' ')
            .map(|address| address.parse().map_err(io::Error::other))
            .collect(),
        None => Err(io::Error::other(answer.to_owned())),
    }
}

/// Runs the resolver, if this process is one, until the channel of [`Resolver`] is closed. Returns its exit code.
pub(super) fn main() -> Option<i32> {
    let asked = env::var(HOST).ok()?;
    let (host, port) = asked.rsplit_once(' ')?;
    let port: u16 = port.parse().ok()?;
    sandbox::keep_only(&[]);
    sandbox::confine(&[Need::Names], Breach::Refuse);
    let found = serve(io::stdin().lock(), io::stdout(), || {
        Ok((host, port).to_socket_addrs()?.collect())
    });
    Some(i32::from(found.is_err()))
}

fn serve(
    mut questions: impl Read,
    mut answers: impl Write,
    look_up: impl Fn() -> io::Result<Vec<SocketAddr>>,
) -> io::Result<()> {
    let mut question = [0];
    while questions.read(&mut question)? > 0 {
        let answer = match look_up() {
            Ok(addresses) if addresses.is_empty() => "its name has no address".to_owned(),
            Ok(addresses) => {
                let addresses = addresses.iter().take(MAX_ADDRESSES);
                addresses.fold("at".to_owned(), |line, address| format!("{line} {address}"))
            }
            Err(error) => error.to_string().replace('\n', " "),
        };
        answers.write_all(format!("{answer}\n").as_bytes())?;
        answers.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_gets_its_answer_in_a_line() {
        let addresses = ["127.0.0.1:80", "[::1]:80", "[fe80::1%2]:80"];
        let known = addresses.map(|address| address.parse::<SocketAddr>().unwrap());
        let mut said = Vec::new();
        serve(&b"\n\n"[..], &mut said, || Ok(known.to_vec())).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said.lines().count(), 2);
        for line in said.lines() {
            assert_eq!(parse(line).unwrap(), known);
        }
        let mut said = Vec::new();
        let why = || Err(io::Error::other("no\nname"));
        serve(&b"\n"[..], &mut said, why).unwrap();
        let error = parse(std::str::from_utf8(&said).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "no name");
        let mut said = Vec::new();
        let many = vec![known[1]; 1000];
        serve(&b"\n"[..], &mut said, || Ok(many.clone())).unwrap();
        assert!((said.len() as u64) < MAX_ANSWER);
    }

    #[test]
    fn an_answer_that_came_too_late_is_that_of_no_later_question() {
        let (line, mut theirs) = UnixStream::pair().unwrap();
        let mut resolver = Resolver(line);
        theirs.write_all(b"at 192.0.2.1:1\n").unwrap();
        resolver.discard().unwrap();
        theirs.write_all(b"at 192.0.2.2:1\n").unwrap();
        let mut answer = String::new();
        BufReader::new(&resolver.0).read_line(&mut answer).unwrap();
        assert_eq!(parse(&answer).unwrap(), ["192.0.2.2:1".parse().unwrap()]);
        drop(theirs);
        assert!(resolver.ask().is_err(), "it has ended");
    }
}
