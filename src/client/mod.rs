//! The client: reads a command line, carries the command to a daemon or into a signing request, and shows the answer.
#![forbid(unsafe_code)]

mod arguments;
mod certificate;
mod conversation;
mod delivery;
mod destination;
mod display;
mod download;
mod error;
mod request;
mod settings;
mod source;
mod statistics;
mod stored;
pub mod tls;
mod transport;
mod upload;
mod values;

use std::io::{self, Write};

use argh::FromArgs;
use time::OffsetDateTime;

use crate::authority::{self, GenerateOrder, Profile, SignOrder};
use crate::command_line;
use arguments::{Arguments, Command};
use display::Output;
use error::ClientError;

pub use conversation::{MAX_ANSWER, MAX_STORED_DUMP};
pub use delivery::LEAF_LIFETIME;
pub use download::{MAX_HEAD, MAX_STORED_IMAGE};

const PROGRAM: &str = "petrel";

/// The whole program; returns its exit code.
pub fn main() -> i32 {
    let arguments: Arguments = command_line::parse(PROGRAM);
    let mut output = Output::new(OffsetDateTime::now_utc());
    match run(arguments, &mut output) {
        Ok(()) => 0,
        Err(error) => {
            if let Some(text) = error.message() {
                say(&text);
            }
            error.exit_code()
        }
    }
}

/// One message to standard error; that nobody reads it is no reason to die.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{PROGRAM}: {text}");
}

fn run(arguments: Arguments, output: &mut Output) -> Result<(), ClientError> {
    match arguments.command {
        None => help(output),
        Some(Command::Generate(arguments)) => generate(&arguments, output),
        Some(Command::Sign(arguments)) => sign(&arguments, output),
        Some(Command::Certificate(arguments)) => certificate::carry_out(&arguments, output),
        Some(command) => {
            let order = request::read(command)?;
            output.set_verbosity(order.common);
            if let Some(oddity) = order.oddity {
                output.warn(oddity);
            }
            delivery::carry_out(order, output)
        }
    }
}

fn help(output: &mut Output) -> Result<(), ClientError> {
    match Arguments::from_args(&[PROGRAM], &["--help"]) {
        Ok(_) => Ok(()),
        Err(help) => output.line(&help.output),
    }
}

fn generate(arguments: &arguments::Generate, output: &mut Output) -> Result<(), ClientError> {
    let order = GenerateOrder {
        name: &arguments.name,
        database: &arguments.db,
        days: arguments.days,
        server: &arguments.server,
        server_days: arguments.server_days,
        key_type: arguments.key_type,
        folder: "".as_ref(),
        force: arguments.force,
    };
    let files = authority::generate(&order, output.started())?;
    let pairs = [
        ("authority", &files.authority, &files.authority_key),
        ("server", &files.server, &files.server_key),
    ];
    for (what, certificate, key) in pairs {
        output.line(&format!(
            "{what}: certificate {} key {}",
            certificate.display(),
            key.display()
        ))?;
    }
    Ok(())
}

fn sign(arguments: &arguments::Sign, output: &mut Output) -> Result<(), ClientError> {
    output.set_verbosity(arguments.common());
    let order = SignOrder {
        authority: &arguments.cacert,
        database: &arguments.db,
        key: &arguments.key,
        request: &arguments.csr,
        days: arguments.days,
        folder: "".as_ref(),
        force: arguments.force,
    };
    let signed = authority::sign(&order, output.started())?;
    if signed.profile == Profile::Server {
        output.warn(&format!(
            "THIS IS THE CERTIFICATE OF A SERVER, as the request carries no command: who has the key of '{}' can play \
             the server to every client",
            signed.file.display()
        ));
    }
    output.line(&format!("certificate {}", signed.file.display()))
}
