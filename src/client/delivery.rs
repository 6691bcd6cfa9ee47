//! Carries a request to its destination.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::arguments;
use super::conversation::converse;
use super::destination::{Destination, Keys, parse};
use super::display::Output;
use super::error::ClientError;
use super::preflight;
use super::request::{Body, REMOTE_LEVEL, Request};
use super::tls;
use super::transport::Transport;
use crate::authority::{
    Certificate, Issuer, Key, Profile, Validity, check_policy, common_name, read_chain, to_pem,
    write_request,
};
use crate::chain::verify::{Anchor, Usage, verify};
use crate::chain::{is_followed_by_stream, route};
use crate::name::Name;
use crate::wire::frame::frame;
use crate::wire::{Command, Message, PolicyCommand, UnikernelCommand};

/// How long the certificate of a single command is valid.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(300);

/// The common name that stands for the issuing path itself (WIRE 10.3).
const PATH_ITSELF: &str = ".";

/// Carries `request` to its destination, and shows what comes of it.
pub(super) fn deliver(
    request: &Request,
    destination: Destination,
    output: &mut Output,
) -> Result<(), ClientError> {
    let message = || {
        Message::command(0, &request.name, request.command.clone())
            .encode()
            .map_err(ClientError::Encode)
    };
    match destination {
        Destination::PrintMessage => {
            output.hexdump(&message()?)?;
            Err(ClientError::Printed)
        }
        Destination::Local(path) => {
            let opening = frame(&message()?).map_err(ClientError::Receive)?;
            let socket = UnixStream::connect(&path).map_err(|error| {
                ClientError::Unreachable(format!("'{}'", path.display()), error)
            })?;
            let transport = Transport::Local(socket);
            converse(transport, &opening, &request.command, &request.body, output)
        }
        Destination::Request(key_type) => {
            let name = subject(&request.name, &request.command, true)?;
            let (file, key) = write_request("".as_ref(), &name, &request.command, None, key_type)?;
            output.line(&format!(
                "signing request {} key {}",
                file.display(),
                key.display()
            ))
        }
        Destination::PrintChain(keys) => {
            let (chain, _) = own_chain(request, &keys, output)?;
            output.text(&to_pem(&chain))?;
            Err(ClientError::Printed)
        }
        Destination::Remote(place, keys) => {
            let (chain, key) = own_chain(request, &keys, output)?;
            let anchors = read_chain(&keys.server_authority)?;
            let transport = connect(&place, &chain, &key, &anchors)?;
            converse(transport, &[], &request.command, &request.body, output)
        }
    }
}

/// `certificate`: has the command of a signed certificate carried out.
pub(super) fn certificate(
    arguments: &arguments::Certificate,
    output: &mut Output,
) -> Result<(), ClientError> {
    output.set_verbosity(arguments.common());
    let chain = read_chain(&arguments.cert)?;
    let Some(leaf) = chain.first() else {
        return Err(ClientError::Usage("there is no certificate".to_owned()));
    };
    let key = Key::load(&arguments.key, leaf, &arguments.cert)?;
    let Some(command) = leaf.command()? else {
        return Err(ClientError::Usage(format!(
            "the certificate in '{}' carries no command",
            arguments.cert.display()
        )));
    };
    let body = body_of(&command, arguments)?;
    if arguments.destination == "-" {
        output.text(&to_pem(&chain))?;
        return Err(ClientError::Printed);
    }
    let place = parse(&arguments.destination)?;
    let anchors = read_chain(&arguments.server_ca)?;
    let transport = connect(&place, &chain, &key, &anchors)?;
    converse(transport, &[], &command, &body, output)
}

/// What has to follow the certificate: an image, if it creates a unikernel and has none inside.
fn body_of(command: &Command, arguments: &arguments::Certificate) -> Result<Body, ClientError> {
    let config = match command {
        Command::Unikernel(
            UnikernelCommand::Create(config) | UnikernelCommand::ForceCreate(config),
        ) if is_followed_by_stream(command) => config,
        _ if arguments.image.is_some() => {
            return Err(ClientError::Usage(
                "--image is of use only with a certificate that creates a unikernel without having its image inside"
                    .to_owned(),
            ));
        }
        _ if is_followed_by_stream(command) => {
            return Err(ClientError::Usage(format!(
                "the certificate's command ({}) needs data that cannot be sent here",
                route(command).kind
            )));
        }
        _ => return Ok(Body::None),
    };
    let image = arguments.image.clone().ok_or_else(|| {
        ClientError::Usage(
            "the certificate creates a unikernel: give its image with --image".to_owned(),
        )
    })?;
    preflight::image_of(&image, config)?;
    let level = match (config.compressed, arguments.compression_level) {
        (false, None | Some(0)) => 0,
        (true, None) => REMOTE_LEVEL,
        (true, Some(level @ 1..)) => level,
        (announced, Some(_)) => {
            return Err(ClientError::Usage(format!(
                "--compression-level does not fit: the certificate announces {} image",
                if announced {
                    "a compressed"
                } else {
                    "an uncompressed"
                }
            )));
        }
    };
    Ok(Body::Image(image, level))
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
        &Profile::Client(request.command.clone(), None),
        validity,
    )?;
    let chain = [&[leaf], issuer.chain()].concat();
    Ok((chain, key))
}

fn connect(
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
        _ if name.path().is_root() => Ok(name
            .label()
            .map_or_else(|| PATH_ITSELF.to_owned(), ToString::to_string)),
        _ => refused(format!(
            "'{name}' has a path: over TLS and in a request the certificates determine the path, give the last label alone"
        )),
    }
}
