//! Metrics for Prometheus, over HTTP on standard input and output.
fn main() {
    std::process::exit(petrel::metrics_http::main())
}
