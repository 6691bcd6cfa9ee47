//! The exporter to InfluxDB.
fn main() {
    std::process::exit(petrel::influx::daemon::main())
}
