//! Carries a request to its destination.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::conversation::converse;
use super::destination::{Destination, Keys};
use super::display::Output;
use super::error::ClientError;
use super::request::{Body, Order, Request};
use super::tls;
use super::transport::Transport;
use crate::authority::{
    Certificate, Issuer, Key, KeyType, Profile, Validity, check_policy, common_name, file_stem,
    read_chain, to_pem, write_request,
};
use crate::chain::verify::{Anchor, Usage, verify};
use crate::chain::{Leaf, route};
use crate::name::Name;
use crate::wire::frame::frame;
use crate::wire::{Command, Message, PolicyCommand};

/// How long the certificate of a single command is valid.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(300);

/// The common name that stands for the issuing path itself (WIRE 10.3).
const PATH_ITSELF: &str = ".";

/// Has an order carried out, in the way of albatross where Petrel's own is unknown.
pub(super) fn carry_out(order: Order, output: &mut Output) -> Result<(), ClientError> {
    let mut outcome = deliver(order.request, &order.destination, output);
    if matches!(outcome, Err(ClientError::Unknown(_))) {
        for request in order.otherwise {
            outcome = deliver(request, &order.destination, output);
            if outcome.is_err() {
                break;
            }
        }
    }
    outcome
}

/// Carries `request` to its destination, and shows what comes of it.
fn deliver(
    request: Request,
    destination: &Destination,
    output: &mut Output,
) -> Result<(), ClientError> {
    let message = || {
        Message::command(0, &request.name, request.command.clone())
            .encode()
            .map_err(ClientError::Encode)
    };
    let kind = route(&request.command).kind;
    match destination {
        Destination::PrintMessage => {
            output.hexdump(&message()?)?;
            Err(ClientError::Printed)
        }
        Destination::Local(path, program) => {
            let opening = frame(&message()?).map_err(ClientError::Receive)?;
            output.step(&format!("'{kind}' goes to '{}'", path.display()));
            let socket = UnixStream::connect(path)
                .map_err(|error| ClientError::Unreachable(program, path.clone(), error))?;
            let transport = Transport::Local(socket);
            converse(transport, &opening, &request.command, request.body, output)
        }
        Destination::Request(key_type) => request_signature(&request, *key_type, output),
        Destination::PrintChain(keys) => {
            let (chain, _) = own_chain(&request, keys, output)?;
            output.text(&to_pem(&chain))?;
            Err(ClientError::Printed)
        }
        Destination::Remote(place, keys) => {
            let (chain, key) = own_chain(&request, keys, output)?;
            let anchors = read_chain(&keys.server_authority)?;
            output.step(&format!("'{kind}' goes to {place} over TLS"));
            let transport = connect(place, &chain, &key, &anchors)?;
            converse(transport, &[], &request.command, request.body, output)
                .map_err(|error| error.at(place))
        }
    }
}

/// Writes a signing request, and says what is to be done with it.
fn request_signature(
    request: &Request,
    key_type: KeyType,
    output: &mut Output,
) -> Result<(), ClientError> {
    let name = subject(&request.name, &request.command, true)?;
    let image = request.image.as_ref();
    let written = write_request("".as_ref(), &name, &request.command, image, key_type)?;
    if let Some(other) = &written.of_other_type {
        output.warn(&other.to_string());
    }
    let (file, key) = (written.request.display(), written.key.display());
    output.line(&format!("signing request {file} key {key}"))?;
    let stream = match (&request.body, &request.command) {
        (Body::None, _) => String::new(),
        (Body::File(data, _), Command::Block(_)) => format!(" --data {}", data.path().display()),
        (Body::File(image, _), _) => format!(" --image {}", image.path().display()),
    };
    if let (Body::File(file, _), Some(digest)) = (&request.body, image) {
        output.line(&format!("image {} sha256 {digest}", file.path().display()))?;
    }
    output.line(&format!(
        "next, by the authority: petrel sign CACERT DB CAKEY {file}"
    ))?;
    let certificate = format!("{}.pem", file_stem(&name));
    output.line(&match request.command {
        Command::Policy(PolicyCommand::Add(_)) => {
            format!("then: petrel COMMAND -d HOST --ca {certificate} --ca-key {key}")
        }
        _ => format!("then: petrel certificate -d HOST{stream} {certificate} {key}"),
    })
}

/// A fresh key, its certificate, and those above it; checked against the policy it is issued under.
fn own_chain(
    request: &Request,
    keys: &Keys,
    output: &Output,
) -> Result<(Vec<Certificate>, Key), ClientError> {
    let name = subject(&request.name, &request.command, false)?;
    let issuer = Issuer::load(&keys.authority, &keys.authority_key)?;
    check_policy(&request.command, &issuer.policies()?)?;
    let key = Key::generate(keys.key_type)?;
    let validity = Validity::from(output.started(), LEAF_LIFETIME)
        .ok_or_else(|| ClientError::Usage("this host's clock is beyond all dates".to_owned()))?;
    let leaf = issuer.issue(
        common_name(&name),
        &key.public_key_info(),
        &Profile::Client(request.command.clone(), request.image),
        validity,
    )?;
    let chain = [&[leaf], issuer.chain()].concat();
    Ok((chain, key))
}

/// Connects to an endpoint with this chain, after checking it as the endpoint will.
pub(super) fn connect(
    place: &tls::Destination,
    chain: &[Certificate],
    key: &Key,
    anchors: &[Certificate],
) -> Result<Transport, ClientError> {
    let der = |certificate: &Certificate| CertificateDer::from(certificate.der.clone());
    let chain: Vec<_> = chain.iter().map(der).collect();
    let anchors = anchors
        .iter()
        .map(|certificate| Anchor::new(&der(certificate)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(ClientError::OwnChain)?;
    // As the server will do it: better told here, in words, than there.
    let (leaf, others) = chain.split_first().ok_or(ClientError::NoCertificate)?;
    verify(leaf, others, &anchors, UnixTime::now(), Usage::Client)
        .map_err(ClientError::OwnChain)?;
    let key = PrivateKeyDer::Pkcs8(key.pkcs8().to_vec().into());
    tls::connect_to(place, chain, key, anchors)
        .map(|stream| Transport::Remote(Box::new(stream)))
        .map_err(|error| ClientError::Tls(place.to_string(), error))
}

/// The common name for a command, which the certificates above place in the tree.
fn subject(name: &Name, command: &Command, for_request: bool) -> Result<String, ClientError> {
    let refused = |why: String| Err(ClientError::Usage(why));
    match command {
        Command::Policy(PolicyCommand::Add(_)) if for_request => match name.path().labels() {
            [label] => Ok(label.to_string()),
            _ => refused(format!(
                "a policy is delegated one label at a time, not for '{name}': ask the authority of the path above"
            )),
        },
        Command::Policy(PolicyCommand::Add(_)) => refused(
            "a policy is not set over TLS: delegate it with --csr, and sign the request".to_owned(),
        ),
        Command::Policy(PolicyCommand::Remove(())) => {
            refused("a policy is removed on the host itself only".to_owned())
        }
        _ if route(command).leaf == Leaf::Never => refused(format!(
            "'{}' is carried out on the host itself only",
            route(command).kind
        )),
        _ if name.path().is_root() => Ok(name
            .label()
            .map_or_else(|| PATH_ITSELF.to_owned(), ToString::to_string)),
        _ => refused(format!(
            "'{name}' has a path: over TLS and in a request the certificates determine the path, {}",
            match name.label() {
                Some(_) => "give the last label alone",
                None => "give no name or path, and have the authority of that path sign",
            }
        )),
    }
}
