//! `certificate`: connects with a certificate that somebody has signed, and sends what its command needs.

use std::path::PathBuf;

use super::arguments;
use super::conversation::{converse, is_download};
use super::delivery::connect;
use super::destination::parse;
use super::display::Output;
use super::error::ClientError;
use super::request::{Body, REMOTE_LEVEL};
use super::source::Source;
use super::stored::refuse_existing;
use crate::authority::{Key, read_chain, to_pem};
use crate::chain::{self, is_followed_by_stream, route};
use crate::unikernel::{Config, ImageDigest};
use crate::wire::{BlockCommand, Command, UnikernelCommand};

/// Has the command of a signed certificate carried out.
pub(super) fn carry_out(
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
    let digest = chain::Certificate::read(&leaf.der)
        .and_then(|leaf| leaf.image_digest().map_err(|error| error.to_string()))
        .map_err(|why| {
            ClientError::Usage(format!(
                "the certificate in '{}': {why}",
                arguments.cert.display()
            ))
        })?;
    let body = body_of(&command, digest.as_ref(), arguments)?;
    output.set_download(download_of(&command, arguments)?);
    if arguments.destination == "-" {
        output.text(&to_pem(&chain))?;
        return Err(ClientError::Printed);
    }
    let place = parse(&arguments.destination)?;
    let anchors = read_chain(&arguments.server_ca)?;
    let kind = route(&command).kind;
    output.step(&format!("'{kind}' goes to {place} over TLS"));
    let transport = connect(&place, &chain, &key, &anchors)?;
    converse(transport, &[], &command, body, output).map_err(|error| error.at(&place))
}

/// The file for what the certificate downloads, if one is given.
fn download_of(
    command: &Command,
    arguments: &arguments::Certificate,
) -> Result<Option<PathBuf>, ClientError> {
    let Some(file) = &arguments.output else {
        return Ok(None);
    };
    if !is_download(command) {
        return Err(ClientError::Usage(format!(
            "--output is of use only with a certificate that gets an image or dumps a block device, this one's command is \
             '{}'",
            route(command).kind
        )));
    }
    refuse_existing(file)?;
    Ok(Some(file.clone()))
}

/// What has to follow the certificate: an image, if it creates a unikernel and has none inside, or the content of a
/// block device.
fn body_of(
    command: &Command,
    digest: Option<&ImageDigest>,
    arguments: &arguments::Certificate,
) -> Result<Body, ClientError> {
    let kind = route(command).kind;
    let refused = |why: String| Err(ClientError::Usage(why));
    let useless = |option: &str, purpose: &str| {
        refused(format!(
            "{option} is of use only with a certificate that {purpose}, this one's command is '{kind}'"
        ))
    };
    let missing = |option: &str, what: &str| {
        ClientError::Usage(format!(
            "the command of the certificate is '{kind}': give {what} with {option}"
        ))
    };
    let (image, data) = (arguments.image.as_deref(), arguments.data.as_deref());
    let takes_image = matches!(
        command,
        Command::Unikernel(UnikernelCommand::Create(_) | UnikernelCommand::ForceCreate(_))
    ) && is_followed_by_stream(command);
    let takes_data = matches!(
        command,
        Command::Block(BlockCommand::Set(_) | BlockCommand::AddFilled(_))
    );
    if image.is_some() && !takes_image {
        return useless(
            "--image",
            "creates a Solo5 unikernel without having its image inside",
        );
    }
    if data.is_some() && !takes_data {
        return useless("--data", "gives a block device its content");
    }
    let (file, compressed) = match command {
        Command::Unikernel(
            UnikernelCommand::Create(config) | UnikernelCommand::ForceCreate(config),
        ) if takes_image => {
            let image = image.ok_or_else(|| missing("--image", "its image"))?;
            let wanted =
                Config::try_from(config).map_err(|error| ClientError::Usage(error.to_string()))?;
            (Source::image(image, &wanted, digest)?, config.compressed)
        }
        Command::Block(BlockCommand::Set(compressed)) => {
            let data = data.ok_or_else(|| missing("--data", "the content"))?;
            (Source::open(data)?, *compressed)
        }
        Command::Block(BlockCommand::AddFilled(add)) => {
            let data = data.ok_or_else(|| missing("--data", "the content"))?;
            let size = u64::try_from(add.size.get()).unwrap_or_default();
            (Source::block_content(data, size)?, add.compressed)
        }
        _ if is_followed_by_stream(command) => {
            return refused(format!(
                "the command of the certificate is '{kind}' in the form of an old release: its image cannot be sent here"
            ));
        }
        _ if arguments.compression_level.is_some() => {
            return useless("--compression-level", "is followed by an image or content");
        }
        _ => return Ok(Body::None),
    };
    let level = match (compressed, arguments.compression_level) {
        (false, None | Some(0)) => 0,
        (true, None) => REMOTE_LEVEL,
        (true, Some(level @ 1..)) => level,
        (announced, Some(_)) => {
            return refused(format!(
                "--compression-level does not fit: the certificate announces {} stream",
                if announced {
                    "a compressed"
                } else {
                    "an uncompressed"
                }
            ));
        }
    };
    Ok(Body::File(file, level))
}
