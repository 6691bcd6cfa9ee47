//! Systems on which the tender cannot work.

/// Says so.
pub fn main() -> std::process::ExitCode {
    eprintln!("petrel-spt: this tender only works on Linux x86_64; use solo5-hvt here");
    std::process::ExitCode::FAILURE
}
