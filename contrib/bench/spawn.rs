//! Times commands from start to exit, in turns.
//!
//!     spawn-time COUNT COMMAND [COMMAND...]
//!
//! Each COMMAND is one argument, split at spaces. Prints the median of each, and its ratio to the first.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs of each command before those that count.
const WARM_UP: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments
        .next()
        .ok_or("usage: spawn-time COUNT COMMAND...")?
        .parse()?;
    let commands: Vec<String> = arguments.collect();
    let mut times: Vec<Vec<Duration>> = vec![Vec::with_capacity(count); commands.len()];
    for round in 0..WARM_UP + count {
        for (command, times) in commands.iter().zip(&mut times) {
            let time = run(command)?;
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    let mut first = None;
    for (command, mut times) in commands.iter().zip(times) {
        times.sort_unstable();
        let median = times
            .get(count / 2)
            .ok_or("COUNT is at least 1")?
            .as_secs_f64();
        let ratio = median / *first.get_or_insert(median);
        println!("p50 {:>7.0} us  {ratio:.2}  {command}", median * 1e6);
    }
    Ok(())
}

fn run(command: &str) -> Result<Duration, Box<dyn Error>> {
    let mut words = command.split(' ');
    let mut process = Command::new(words.next().unwrap_or_default());
    process
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let start = Instant::now();
    let status = process.status()?;
    let time = start.elapsed();
    if !status.success() {
        return Err(format!("{command}: {status}").into());
    }
    Ok(time)
}
