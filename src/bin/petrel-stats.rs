//! The statistics daemon.
fn main() {
    std::process::exit(petrel::stats::daemon::main())
}
