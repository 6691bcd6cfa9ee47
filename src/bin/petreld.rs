//! The supervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use petrel::{command_line, host, socket};

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
}

fn main() -> ExitCode {
    let arguments: Arguments = command_line::parse("petreld");
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
            ExitCode::from(command_line::USAGE as u8)
        }
    }
}
