//! Times a tap from its making to its removal, in the network namespace that it is run in.
//!
//!     tap-time COUNT DIRECTORY BRIDGE
//!
//! DIRECTORY stands for the database; the bridge must be there. Once as it is, and once with the address locked.
#![allow(clippy::print_stdout)]

mod times;

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use petrel::host::tap::Taps;
use petrel::name::Name;
use petrel::unikernel::{Config, FailBehaviour, Kind, Net};
use times::{WARM_UP, keep, report};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, directory, bridge] = &arguments[..] else {
        return Err("usage: tap-time COUNT DIRECTORY BRIDGE".into());
    };
    let count: usize = count.parse()?;
    for (what, lock) in [("tap", false), ("locked", true)] {
        let mut taps = Taps::open(Path::new(directory), lock, std::iter::empty())?;
        let (name, config) = (":bench".parse()?, config(bridge));
        let mut times = Vec::with_capacity(count);
        for round in 0..WARM_UP + count {
            let start = Instant::now();
            once(&mut taps, &name, &config)?;
            keep(&mut times, round, start.elapsed());
        }
        taps.close();
        report(what, times);
    }
    Ok(())
}

/// Made, on the bridge, given to its user, and gone again.
fn once(taps: &mut Taps, name: &Name, config: &Config) -> Result<(), Box<dyn Error>> {
    taps.make(name, config)?;
    taps.hand_over(name, None)?;
    taps.remove(name);
    Ok(())
}

fn config(bridge: &str) -> Config {
    Config {
        kind: Kind::Solo5,
        startup: None,
        add_name: true,
        fail_behaviour: FailBehaviour::Quit,
        cpus: [0].into(),
        memory: 1,
        blocks: Vec::new(),
        nets: vec![Net {
            device: "service".to_owned(),
            bridge: Some(bridge.to_owned()),
            mac: None,
        }],
        arguments: Vec::new(),
        vcpus: 1,
        linux_boot_partition: None,
    }
}
