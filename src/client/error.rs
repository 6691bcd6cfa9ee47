//! Why the client failed, and the exit code that says so (BEHAVIOUR 4).

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Group;

use crate::authority::AuthorityError;
use crate::command_line::USAGE;
use crate::inflate::InflateError;
use crate::show::ShowError;
use crate::wire::WireError;
use crate::wire::frame::FrameError;

use super::tls::{self, ConnectError};
use crate::chain::verify::PathError;

/// Why the client failed.
#[derive(Debug)]
pub(super) enum ClientError {
    /// A wrong combination of options or values.
    Usage(String),
    /// A file operation failed (what, file, why).
    File(&'static str, PathBuf, io::Error),
    /// A file for a download exists already.
    Exists(PathBuf),
    /// Keys, certificates or requests.
    Authority(AuthorityError),
    /// A file cannot be shown (file, why).
    Show(PathBuf, ShowError),
    /// The image does not fit what was asked for (image, why).
    Image(PathBuf, String),
    /// The message cannot be encoded.
    Encode(WireError),
    /// Our own chain does not verify against the server's authority.
    OwnChain(PathError),
    /// There is no certificate to show.
    NoCertificate,
    /// A file that is sent has not the size any more that it had.
    Changed(PathBuf),
    /// The daemon does not listen on this socket (program, socket, why).
    Unreachable(&'static str, PathBuf, io::Error),
    /// The TLS connection failed (where, why).
    Tls(String, ConnectError),
    /// The server does not accept this side's certificates; where is added by [`Self::at`].
    Rejected(ConnectError),
    /// Sending failed, and there was no answer.
    Send(io::Error),
    /// Receiving failed.
    Receive(FrameError),
    /// The answer is none.
    Answer(WireError),
    /// The content in the answer is not the zlib stream that it should be, or too much.
    Inflate(InflateError),
    /// A message that makes no sense here.
    Unexpected(&'static str),
    /// The peer sent a command instead of an answer.
    UnexpectedCommand,
    /// The connection ended without an answer to this command.
    NoAnswer(&'static str),
    /// The same of a command that is Petrel's own.
    Unknown(&'static str),
    /// The connection ended in the middle of the answers to this command.
    BrokenOff(&'static str),
    /// The peer said no (about which name, why).
    Failure(String, String),
    /// The destination was `-`: all was printed, nothing was sent.
    Printed,
    /// Standard output is gone.
    Output(io::Error),
}

impl ClientError {
    /// The process's exit code.
    pub(super) fn exit_code(&self) -> i32 {
        match self {
            Self::OwnChain(_) => 116,
            Self::Failure(..) => 117,
            Self::Tls(_, error) | Self::Rejected(error) => error.exit_code(),
            Self::Send(_)
            | Self::Receive(_)
            | Self::Answer(_)
            | Self::Inflate(_)
            | Self::Unexpected(_)
            | Self::NoAnswer(_)
            | Self::Unknown(_)
            | Self::BrokenOff(_)
            | Self::Printed => 121,
            Self::Unreachable(..) => 122,
            Self::Usage(_)
            | Self::File(..)
            | Self::Exists(_)
            | Self::Changed(_)
            | Self::Authority(_)
            | Self::Show(..)
            | Self::Image(..)
            | Self::Encode(_)
            | Self::NoCertificate
            | Self::Output(_) => USAGE,
            Self::UnexpectedCommand => 125,
        }
    }

    /// Whether the other side closed the connection before it said anything.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Send(error) | Self::Receive(FrameError::Io(error)) => matches!(
                error.kind(),
                ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            _ => false,
        }
    }

    /// Whether nobody reads standard output any more, as in a pipe to head(1).
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == ErrorKind::BrokenPipe)
    }

    /// What to say about it, if anything.
    pub(super) fn message(&self) -> Option<String> {
        (!matches!(self, Self::Printed)).then(|| self.to_string())
    }

    /// The same, with the place whose server does not accept this side's certificates.
    pub(super) fn at(self, place: &tls::Destination) -> Self {
        match self {
            Self::Rejected(error) => Self::Tls(place.to_string(), error),
            other => other,
        }
    }

    pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File(what, path.to_owned(), error)
    }
}

impl From<AuthorityError> for ClientError {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error)
    }
}

impl From<InflateError> for ClientError {
    fn from(error: InflateError) -> Self {
        Self::Inflate(error)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => f.write_str(why),
            Self::NoCertificate => f.write_str("there is no certificate to show"),
            Self::File(what, path, error) => {
                write!(f, "cannot {what} '{}': {error}", path.display())
            }
            Self::Exists(path) => write!(
                f,
                "cannot create '{}': it exists already (remove it, or name another file with -o)",
                path.display()
            ),
            Self::Authority(error) => error.fmt(f),
            Self::Show(path, error) => write!(f, "cannot show '{}': {error}", path.display()),
            Self::Image(path, why) => write!(f, "image '{}': {why}", path.display()),
            Self::Encode(error) => write!(f, "cannot encode the request: {error}"),
            Self::OwnChain(why) => write!(
                f,
                "our own certificates do not verify against the server's authority (--server-ca): {why}"
            ),
            Self::Changed(path) => write!(
                f,
                "'{}' changed its size while it was read: nothing of it is of use to the other side",
                path.display()
            ),
            Self::Unreachable(program, socket, error) => {
                write!(
                    f,
                    "cannot connect to '{}': {}",
                    socket.display(),
                    reason(error)
                )?;
                if error.kind() == ErrorKind::PermissionDenied {
                    return match group_of(socket) {
                        Some(group) => write!(
                            f,
                            " (it is for root and members of the group '{group}': run as root, or join the group and log in \
                             again)"
                        ),
                        None => {
                            f.write_str(" (it is for root and members of its group: run as root)")
                        }
                    };
                }
                write!(
                    f,
                    " (is {program} running? --tmpdir names another runtime directory, --socket another socket)"
                )
            }
            // These name the place themselves.
            Self::Tls(_, error @ (ConnectError::Resolve(..) | ConnectError::Connect(..)))
            | Self::Rejected(error) => error.fmt(f),
            Self::Tls(place, error) => write!(f, "{place}: {error}"),
            Self::Send(error) => write!(f, "cannot send the request: {error}"),
            Self::Receive(error) => write!(f, "cannot receive the answer: {error}"),
            Self::Answer(error) => write!(f, "cannot read the answer: {error}"),
            Self::Inflate(error) => write!(f, "unexpected answer: {error}"),
            Self::Unexpected(what) => write!(f, "unexpected answer: {what}"),
            Self::UnexpectedCommand => f.write_str("unexpected answer: a command"),
            Self::NoAnswer(command) => write!(
                f,
                "the connection ended without an answer to '{command}': either the other side does not know this \
                 command, or it stopped; whether the command was carried out is unknown"
            ),
            Self::Unknown(command) => write!(
                f,
                "the connection ended without an answer to '{command}', which albatross does not know; if the other \
                 side is Petrel, whether the command was carried out is unknown"
            ),
            Self::BrokenOff(command) => {
                write!(
                    f,
                    "the other side has closed the connection, and so broken off '{command}'"
                )
            }
            Self::Failure(name, text) => {
                write!(f, "host {name}: command failed {text}")
            }
            Self::Printed => Ok(()),
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// Error of the system in lower case, without its number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// Name of the group that may use a socket; of the innermost directory on the way that this user can see into, where the
/// socket cannot be seen.
fn group_of(socket: &Path) -> Option<String> {
    let visible = socket.ancestors().find_map(|path| path.metadata().ok())?;
    let group = Group::from_gid(visible.gid().into()).ok().flatten()?;
    Some(group.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    #[test]
    fn a_socket_that_is_not_for_this_user_names_its_group() {
        let directory = Directory::short();
        let group = Group::from_gid(directory.0.metadata().unwrap().gid().into()).unwrap();
        let group = format!("the group '{}'", group.unwrap().name);
        let socket = directory.0.join("socket");
        let message = || {
            let refused = ErrorKind::PermissionDenied.into();
            ClientError::Unreachable("petreld", socket.clone(), refused).to_string()
        };
        // A directory that nobody sees into has the group that may.
        assert!(message().contains(&group), "{}", message());
        std::fs::write(&socket, "").unwrap();
        assert!(message().contains(&group), "{}", message());
        assert!(!message().contains("running"), "{}", message());
    }
}
