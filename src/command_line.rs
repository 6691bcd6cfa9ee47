//! Command lines: what all programs share on top of argh (BEHAVIOUR 2).
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::exit;

use argh::{EarlyExit, TopLevelCommand};

/// Exit code for a wrong command line, and for what fails before the work begins.
pub const USAGE: i32 = 124;

/// Exit code when log lines cannot be sent to syslog.
pub const NO_LOG: i32 = 2;

/// Parses the command line of this process into `T`. Help and version go to standard output with exit code 0, a
/// wrong command line is explained on standard error with exit code [`USAGE`].
pub fn parse<T: TopLevelCommand>(program: &str) -> T {
    let mut arguments = Vec::new();
    for argument in std::env::args_os().skip(1) {
        match argument.into_string() {
            Ok(argument) => arguments.push(argument),
            Err(argument) => {
                say(
                    io::stderr(),
                    &format!(
                        "{program}: argument '{}' is not valid UTF-8",
                        argument.display()
                    ),
                );
                exit(USAGE)
            }
        }
    }
    if arguments
        .first()
        .is_some_and(|argument| argument == "--version")
    {
        say(io::stdout(), &version(program));
        exit(0)
    }
    if let Some(first) = arguments.first_mut().filter(|first| *first == "-h") {
        "--help".clone_into(first);
    }
    let arguments = split_values(arguments);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match T::from_args(&[program], &arguments) {
        Ok(parsed) => parsed,
        Err(EarlyExit {
            output,
            status: Ok(()),
        }) => {
            say(io::stdout(), &output);
            exit(0)
        }
        Err(EarlyExit {
            output,
            status: Err(()),
        }) => {
            let hint = help_command::<T>(program, &arguments);
            let first = arguments.first().copied().unwrap_or_default();
            let why = match output.trim_end() {
                why if why == format!("Unrecognized argument: {first}")
                    && !first.starts_with('-') =>
                {
                    format!("there is no command '{first}'")
                }
                why => why.to_owned(),
            };
            say(
                io::stderr(),
                &format!("{program}: {why}\nTry '{hint} --help'."),
            );
            exit(USAGE)
        }
    }
}

/// The program, with the sub-command that the arguments begin with if it has a help of its own.
fn help_command<T: TopLevelCommand>(program: &str, arguments: &[&str]) -> String {
    if let Some(first) = arguments.first() {
        let command = format!("{program} {first}");
        let help = T::from_args(&[program], &[first, "--help"]);
        let is_its_own = |help: &EarlyExit| help.output.starts_with(&format!("Usage: {command} "));
        if help.err().is_some_and(|help| is_its_own(&help)) {
            return command;
        }
    }
    program.to_owned()
}

/// One message; that nobody reads it is no reason to die.
fn say(mut stream: impl Write, text: &str) {
    let _ = writeln!(stream, "{text}");
}

/// The answer to `--version`: the release, and the version of the protocol.
pub fn version(program: &str) -> String {
    format!(
        "{program} {} (protocol version {})",
        env!("CARGO_PKG_VERSION"),
        crate::wire::VERSION
    )
}

/// Turns `--option=value` into `--option value`, up to a lone `--`.
fn split_values(arguments: Vec<String>) -> Vec<String> {
    let mut split = Vec::with_capacity(arguments.len());
    let mut options = true;
    for argument in arguments {
        options &= argument != "--";
        match argument.split_once('=') {
            Some((option, value)) if options && option.starts_with("--") => {
                split.extend([option.to_owned(), value.to_owned()]);
            }
            _ => split.push(argument),
        }
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_be_joined_by_an_equals_sign() {
        let split =
            |arguments: &[&str]| split_values(arguments.iter().map(|&a| a.to_owned()).collect());
        assert_eq!(split(&["--arg=--a=b", "x=y"]), ["--arg", "--a=b", "x=y"]);
        assert_eq!(split(&["--", "--a=b"]), ["--", "--a=b"]);
    }
}
