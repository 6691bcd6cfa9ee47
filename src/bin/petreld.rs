//! The supervisor.
fn main() {
    std::process::exit(petrel::host::main())
}
