//! The console daemon.
fn main() {
    std::process::exit(petrel::console::daemon::main())
}
