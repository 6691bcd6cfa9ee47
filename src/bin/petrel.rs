//! The client and certificate tool.
fn main() {
    std::process::exit(petrel::client::main())
}
