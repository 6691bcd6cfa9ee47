//! The only room with `unsafe`: what neither the standard library nor nix wraps. One file a matter.

#[cfg(any(target_os = "freebsd", test))]
pub mod bridge;
#[cfg(target_os = "linux")]
pub mod capabilities;
#[cfg(target_os = "freebsd")]
pub mod capsicum;
pub mod child;
pub mod connect;
pub mod descriptor;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod guest;
#[cfg(target_os = "freebsd")]
pub mod interfaces;
#[cfg(target_os = "linux")]
pub mod landlock;
pub mod poll;
pub mod process;
#[cfg(target_os = "freebsd")]
pub mod rctl;
#[cfg(target_os = "linux")]
pub mod rtnetlink;
pub mod spawn;
#[cfg(target_os = "linux")]
pub mod tap;
#[cfg(target_os = "freebsd")]
pub mod tcp;
pub mod terminal;
pub mod user;
#[cfg(target_os = "freebsd")]
pub mod vmm;
pub mod worker;

/// Does `body` of the test of this name in a process of its own: those that other tests start hold, for an instant,
/// what is open here.
#[cfg(test)]
fn alone(test: &str, body: impl FnOnce()) {
    const ALONE: &str = "PETREL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("a test has a program");
    let run = std::process::Command::new(program)
        .args(["--exact", test, "--test-threads=1"])
        .env(ALONE, "")
        .output()
        .expect("it can be executed");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}
