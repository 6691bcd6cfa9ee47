//! The embedded spt tender: `petrel-spt [options] [--] KERNEL [guest arguments]`.

fn main() -> std::process::ExitCode {
    petrel::tender::main()
}
