//! The supervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use petrel::logging::{Destination, Verbosity};
use petrel::{command_line, host, logging, socket};

/// Supervise Solo5 unikernels.
#[derive(FromArgs)]
struct Arguments {
    /// folder of sockets and fifos
    #[argh(option, default = "PathBuf::from(socket::RUNTIME_FOLDER)")]
    tmpdir: PathBuf,
    /// folder of state and images
    #[argh(option, default = "PathBuf::from(host::DATABASE_FOLDER)")]
    dbdir: PathBuf,
    /// take the socket from systemd
    #[argh(switch)]
    systemd_socket_activation: bool,
    /// put the whole name, not just its label, into the guest's --name argument
    #[argh(switch)]
    no_drop_path: bool,
    /// log to the local syslog daemon
    #[argh(switch)]
    syslog: bool,
    /// log more; twice: everything
    #[argh(switch, short = 'v')]
    verbose: u8,
    /// log nothing
    #[argh(switch, short = 'q')]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments: Arguments = command_line::parse("petreld");
    let verbosity = Verbosity {
        quiet: arguments.quiet,
        verbose: arguments.verbose,
    };
    let destination = if arguments.syslog {
        Destination::Syslog
    } else {
        Destination::StandardError
    };
    if let Err(error) = logging::start("petreld", verbosity, destination) {
        eprintln!("petreld: {error}");
        return ExitCode::from(command_line::NO_LOG);
    }
    let options = host::Options {
        runtime_folder: arguments.tmpdir,
        database: arguments.dbdir,
        socket_activation: arguments.systemd_socket_activation,
        whole_names: arguments.no_drop_path,
    };
    match host::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("petreld: {error}");
            ExitCode::from(command_line::USAGE)
        }
    }
}
