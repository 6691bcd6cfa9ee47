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
mod progress;
mod request;
mod settings;
mod source;
mod statistics;
mod statistics_output;
mod stored;
mod table;
pub mod tls;
mod transport;
mod upload;
mod values;

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use argh::FromArgs;
use signal_hook::consts::SIGPIPE;
use signal_hook::low_level::emulate_default_handler;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::authority::{self, GenerateOrder, Lifetime, RevokeOrder, SignOrder};
use crate::command_line;
use arguments::{Arguments, Command};
use display::Output;
use error::ClientError;

pub use conversation::{BETWEEN_RUNS, MAX_ANSWER, MAX_STORED_DUMP};
pub use delivery::LEAF_LIFETIME;
pub use download::{Head, MAX_HEAD, MAX_STORED_IMAGE};
pub use statistics_output::LIVES;
pub use table::MAX_ROWS;

const PROGRAM: &str = "petrel";

/// CRL of a host that is set up as the manual says.
const CRL: &str = if cfg!(target_os = "freebsd") {
    "/usr/local/etc/petrel/cacert.crl"
} else {
    "/etc/petrel/cacert.crl"
};

/// Maximum size in bytes of the answer to a question on a terminal.
pub const MAX_CONFIRMATION: u64 = 64;

/// The whole program; returns its exit code.
pub fn main() -> i32 {
    let arguments: Arguments = command_line::parse(PROGRAM);
    let mut output = Output::new(OffsetDateTime::now_utc());
    match run(arguments, &mut output) {
        Ok(()) => 0,
        Err(error) if error.is_closed_pipe() => closed_pipe(),
        Err(error) => {
            if let Some(text) = error.message() {
                say(&text);
            }
            error.exit_code()
        }
    }
}

/// Ends as every program does that writes to a pipe without a reader: silently, by the signal for it, which the runtime of
/// Rust ignores. Sockets need it ignored.
fn closed_pipe() -> i32 {
    let _ = emulate_default_handler(SIGPIPE);
    command_line::USAGE
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
        Some(Command::Revoke(arguments)) => revoke(&arguments, output),
        Some(Command::Show(arguments)) => show(&arguments, output),
        Some(Command::Certificate(arguments)) => certificate::carry_out(&arguments, output),
        Some(command) => {
            let order = request::read(command)?;
            output.set_verbosity(order.common);
            output.set_figures(order.figures());
            output.set_supervisor(order.supervisor());
            output.set_download(order.download.clone());
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
    output.set_verbosity(arguments.common());
    let order = GenerateOrder {
        name: &arguments.name,
        database: &arguments.db,
        days: arguments.days,
        server: &arguments.server,
        server_days: arguments.server_days,
        key_type: arguments.key_type,
        directory: "".as_ref(),
        force: arguments.force,
    };
    let files = authority::generate(&order, output.started())?;
    for other in &files.of_other_type {
        output.warn(&other.to_string());
    }
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
    let lifetime = match (arguments.days, arguments.hours) {
        (Some(_), Some(_)) => {
            return Err(ClientError::Usage(
                "--days and --hours exclude each other".to_owned(),
            ));
        }
        (Some(days), None) => Some(Lifetime::Days(days)),
        (None, Some(hours)) => Some(Lifetime::Hours(hours)),
        (None, None) => None,
    };
    let order = SignOrder {
        authority: &arguments.cacert,
        database: &arguments.db,
        key: &arguments.key,
        request: &arguments.csr,
        lifetime,
        directory: "".as_ref(),
        force: arguments.force,
        server: arguments.server,
    };
    let draft = authority::sign(&order, output.started())?;
    let text = crate::show::certificate(&draft.certificate, output.started())
        .map_err(|error| ClientError::Show("the certificate".into(), error))?;
    output.text(&text)?;
    for caution in &draft.warnings {
        output.warn(&caution.to_string());
    }
    if arguments.dry_run {
        return output.line("nothing is written (--dry-run)");
    }
    if !arguments.yes && !confirmed("sign this certificate?")? {
        return Err(ClientError::Usage(
            "nothing was signed, as the answer was not 'y'".to_owned(),
        ));
    }
    let file = draft.write()?;
    output.line(&format!("written to {}", file.display()))
}

/// Asks a question where somebody can read it and answer, and takes it for answered with yes elsewhere.
fn confirmed(question: &str) -> Result<bool, ClientError> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Ok(true);
    }
    let _ = write!(io::stderr(), "{PROGRAM}: {question} [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .lock()
        .take(MAX_CONFIRMATION)
        .read_line(&mut answer)
        .map_err(ClientError::file("read", Path::new("standard input")))?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

fn revoke(arguments: &arguments::Revoke, output: &mut Output) -> Result<(), ClientError> {
    output.set_verbosity(arguments.common());
    let order = RevokeOrder {
        authority: &arguments.cacert,
        key: &arguments.key,
        database: &arguments.db,
        certificates: &arguments.certificate,
        list: arguments.crl.as_deref(),
        days: arguments.days,
    };
    let revoked = authority::revoke(&order, output.started())?;
    for entry in &revoked.entries {
        if entry.name.is_none() {
            output.warn(&format!(
                "serial number {} is not in '{}': it is revoked all the same",
                entry.serial,
                arguments.db.display()
            ));
        }
        if entry.server {
            output.warn(&format!(
                "{} is the certificate of a server, which clients trust all the same",
                entry.serial
            ));
        }
        output.line(&entry.to_string())?;
    }
    let until = revoked.next_update.format(&Rfc3339).unwrap_or_default();
    let (file, authority) = (revoked.file.display(), revoked.authority.escape_default());
    output.line(&format!(
        "CRL {file}: number {}, {} certificates",
        revoked.number, revoked.count
    ))?;
    output.advice(&if revoked.is_root {
        format!(
            "copy it to each host that trusts '{authority}', beside the authority's certificate there, with .crl for .pem, \
             such as {CRL}: until then the host accepts what is revoked"
        )
    } else {
        "pass it with --crl to petrel-tls on each host, together with the CRL of the authority that the host trusts: \
         until then the host accepts what is revoked"
            .to_owned()
    })?;
    output.advice(&format!(
        "renew it before {until} by 'petrel revoke' without names, and copy it again: hosts accept no certificate with an \
         expired CRL"
    ))?;
    output.advice(&format!(
        "it is only about what '{authority}' issued itself, and clients do not look at it: the certificates of servers stay \
         good until they end"
    ))?;
    if revoked.entries.iter().any(|entry| !entry.seen) {
        output.advice(&format!(
            "'{}' does not say whether '{}' issued what was revoked by name or number: to be sure, revoke file:CERTIFICATE",
            arguments.db.display(),
            revoked.authority.escape_default()
        ))?;
    }
    Ok(())
}

fn show(arguments: &arguments::Show, output: &mut Output) -> Result<(), ClientError> {
    output.set_verbosity(arguments.common());
    let trusted = match &arguments.cacert {
        Some(file) => authority::read_chain(file)?,
        None => Vec::new(),
    };
    let stdin = PathBuf::from("-");
    let files = match &arguments.file[..] {
        [] => std::slice::from_ref(&stdin),
        files => files,
    };
    for file in files {
        let bytes = if *file == stdin {
            authority::read_from(io::stdin(), file)?
        } else {
            let open = File::open(file).map_err(ClientError::file("open", file))?;
            authority::read_from(open, file)?
        };
        let text = crate::show::file(&bytes, &trusted, output.started())
            .map_err(|error| ClientError::Show(file.clone(), error))?;
        if files.len() > 1 {
            output.line(&format!("== {}", file.display()))?;
        }
        output.text(&text)?;
    }
    Ok(())
}
