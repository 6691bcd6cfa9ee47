//! Writes the seeds of every target: `seed CORPUS`.

use std::fs;
use std::path::PathBuf;

use petrel_fuzz::{TARGETS, seeds};

fn main() -> std::io::Result<()> {
    let corpus: PathBuf = std::env::args_os().nth(1).unwrap_or_default().into();
    for (target, _) in TARGETS {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds::of(target).iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
