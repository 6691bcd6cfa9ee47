//! The client and certificate tool.
use std::process::ExitCode;

fn main() -> ExitCode {
    petrel::client::main()
}
