//! Service of one connection: the handshake, admission, the relay and the end.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepIdle, TcpKeepInterval};

use super::audit::{self, Audit, Outcome};
use super::crl_files::CrlFiles;
use super::error::EndpointError;
use super::expiry::{Validity, warn_of_expiry};
use super::options::Options;
use super::outcome::{Fault, RequestEnd};
use super::relay::{self, relay};
use super::revalidation::Revalidation;
use super::slot_request::Slot;
use super::slots::ConnectionKind;
use super::stream::{self, SecureStream};
use super::tls::{self, HandshakeError, HandshakeFailure};
use super::{PRIVILEGES, listener};
use crate::chain::{self, Answer, Request};
use crate::name::Name;
use crate::sandbox::{self, Breach};
use crate::socket::Directory;
use crate::wire::Command;

/// Time for the last message to a peer.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bound on the data that is discarded from a peer after the answer, so that its answer is not lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// Maximum time.
    pub time: Duration,
    /// Maximum number of bytes.
    pub bytes: u64,
}

/// Bound for a peer that may still be sending an upload.
pub const LINGER: Linger = Linger {
    time: Duration::from_secs(10),
    bytes: 1 << 30,
};

/// Bound for a peer that has nothing to send: after a handshake that failed, and after the answer to a command without
/// an upload.
pub const SHORT_LINGER: Linger = Linger {
    time: Duration::from_secs(1),
    bytes: 1 << 16,
};

/// Silence after which the kernel probes whether the peer is still there, in seconds.
pub const KEEP_ALIVE_IDLE_S: u32 = 60;

/// Interval of these probes, in seconds.
pub const KEEP_ALIVE_INTERVAL_S: u32 = 15;

/// Serves one connection. However it ends, the result is in the log, and the process succeeds.
///
/// # Errors
/// When the certificates or the key of the server cannot be read.
pub fn serve(socket: &TcpStream, options: &Options, started: Instant) -> Result<(), EndpointError> {
    let peer = socket.peer_addr().map(listener::address);
    let audit = Audit::new(peer.as_deref().unwrap_or("unknown"), started);
    let credentials = match tls::Credentials::read(&options.ca, &options.certificate, &options.key)
    {
        Ok(credentials) => credentials,
        Err(error) => {
            audit.write(Outcome::Broken, &error.to_string());
            return Err(EndpointError::Credentials(error));
        }
    };
    let crl_files = options.crl_files();
    let sockets = Directory::open(&options.tmpdir);
    let slot = Slot::of_listener();
    sandbox::keep_only(PRIVILEGES);
    // All files are open, and nothing has been read from the peer yet.
    let needs: Vec<_> = crl_files.needs().chain([sockets.need()]).collect();
    sandbox::confine(&needs, Breach::Kill);
    let preopened = Preopened {
        credentials,
        crl_files: Arc::new(crl_files),
        sockets,
        slot,
    };
    converse(socket, options, preopened, started, audit);
    Ok(())
}

/// Files and sockets that are opened before the process is confined.
struct Preopened {
    credentials: tls::Credentials,
    crl_files: Arc<CrlFiles>,
    sockets: Directory,
    slot: Slot,
}

fn converse(
    socket: &TcpStream,
    options: &Options,
    preopened: Preopened,
    started: Instant,
    mut audit: Audit,
) {
    let Preopened {
        credentials,
        crl_files,
        sockets,
        slot,
    } = preopened;
    let deadline = started + options.handshake_timeout;
    if let Err(error) = prepare(socket) {
        return audit.write(Outcome::Gone, &format!("connection lost: {error}"));
    }
    let anchor = credentials.anchor().clone();
    let validities = credentials.validities().to_vec();
    let accepted = match tls::accept(socket, credentials, crl_files.clone(), deadline) {
        Ok(accepted) => {
            warn_of_expiry(&validities);
            accepted
        }
        Err(error) => return refuse(socket, &error, &validities, audit),
    };
    let tls::Accepted {
        path,
        doubt,
        mut stream,
    } = accepted;
    audit.certificates(&path);
    let (name, end, bound) = match admit(&path, doubt, slot, &mut audit) {
        Ok(request) => {
            let revalidation = Revalidation::new(path, anchor, crl_files);
            let idle = options.idle_timeout;
            let (end, kept) = relay(&mut stream, &request, &sockets, idle, &revalidation);
            audit.kept(&kept);
            let bound = if chain::is_followed_by_stream(&request.command) {
                LINGER
            } else {
                SHORT_LINGER
            };
            (request.name, end, bound)
        }
        // The connection has no slot that others could need.
        Err((name, reason)) => (name, RequestEnd::Failure(Fault::Request, reason), LINGER),
    };
    let delivered = match &end {
        RequestEnd::Answered(_) => send_last(&mut stream, &[]),
        RequestEnd::Failure(_, text) => send_last(&mut stream, &relay::failure(&name, text)),
        // Without close_notify, the client knows that something is missing.
        RequestEnd::ClientGone(_) | RequestEnd::Broken => Ok(()),
    };
    let _ = socket.shutdown(Shutdown::Write);
    let (outcome, reason) = audit::verdict(&end);
    match delivered {
        Err(error) => audit.write(outcome, &format!("{reason}; not delivered: {error}")),
        Ok(()) => audit.write(outcome, reason),
    }
    if matches!(end, RequestEnd::Answered(_) | RequestEnd::Failure(..)) {
        linger(socket, bound);
    }
}

/// Ends a connection whose handshake failed.
fn refuse(socket: &TcpStream, error: &HandshakeError, validities: &[Validity], mut audit: Audit) {
    if error.reason.is_about_our_certificate() {
        warn_of_expiry(validities);
    }
    let _ = socket.shutdown(Shutdown::Write);
    if let Some(leaf) = &error.unverified {
        audit.unverified(leaf);
    }
    let outcome = match error.reason {
        HandshakeFailure::Gone(_) | HandshakeFailure::TooSlow => Outcome::Gone,
        HandshakeFailure::Setup(_) => Outcome::Broken,
        _ => Outcome::Refused,
    };
    audit.write(outcome, &error.reason.to_string());
    if !matches!(error.reason, HandshakeFailure::Gone(_)) {
        linger(socket, SHORT_LINGER);
    }
}

/// Admits the request of the verified path, unless its revocation status is unknown or no slot is free.
///
/// # Errors
/// The name that the refusal is about, and the reason.
fn admit(
    path: &[impl AsRef<[u8]>],
    doubt: Option<String>,
    slot: Slot,
    audit: &mut Audit,
) -> Result<Request, (Name, String)> {
    let request = chain::request(path)
        .map_err(|error| (error.name(), format!("certificates refused: {error}")))?;
    audit.request(&request);
    if let Some(reason) = doubt {
        let why =
            format!("no certificate is accepted, as the revocation status is unknown: {reason}");
        return Err((request.name, why));
    }
    match slot.ask(&request.name.path().tenant(), kind(&request.command)) {
        Ok(()) => Ok(request),
        Err(reason) => Err((request.name, reason)),
    }
}

/// Kind of the connection that carries this command.
fn kind(command: &Command) -> ConnectionKind {
    if chain::route(command).answer == Answer::Subscription {
        ConnectionKind::Stream
    } else if chain::is_followed_by_stream(command) || chain::is_answered_by_content(command) {
        ConnectionKind::Transfer
    } else {
        ConnectionKind::Command
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Nothing else notices a subscriber that vanished. A socket that is not TCP has no such options and needs none.
    if socket.set_nodelay(true).is_ok() {
        setsockopt(&socket, KeepAlive, &true)?;
        setsockopt(&socket, TcpKeepIdle, &KEEP_ALIVE_IDLE_S)?;
        setsockopt(&socket, TcpKeepInterval, &KEEP_ALIVE_INTERVAL_S)?;
    }
    Ok(())
}

/// Sends the last message, and `close_notify`.
fn send_last(stream: &mut impl SecureStream, bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    stream::write_all(stream, bytes, deadline)?;
    stream.close();
    stream::write_all(stream, &[], deadline)
}

fn linger(socket: &TcpStream, bound: Linger) {
    stream::drain(socket, Instant::now() + bound.time, bound.bytes);
}
