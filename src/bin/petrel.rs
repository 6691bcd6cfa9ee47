//! The client and certificate tool.
fn main() {}
