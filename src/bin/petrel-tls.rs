//! The TLS endpoint.
use petrel::{command_line, endpoint};

fn main() {
    let options = command_line::parse("petrel-tls");
    std::process::exit(endpoint::run(&options));
}
