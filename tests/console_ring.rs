//! The console ring against recorded vectors.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/vectors.rs"]
mod vectors;

use petrel::console::ring::{Line, Moment, Ring};
use serde_json::{Value, json};
use vectors::{Differences, comparable, id, load, same};

fn moment(time: &Value) -> Moment {
    let nanoseconds = time["frac_ps"].as_u64().unwrap() / 1000;
    Moment {
        seconds: time["unix_s"].as_i64().unwrap(),
        nanoseconds: u32::try_from(nanoseconds).unwrap(),
    }
}

fn line(entry: &Value) -> Line {
    Line {
        arrived: moment(&entry["timestamp"]),
        octets: entry["line"].as_str().unwrap().as_bytes().into(),
    }
}

fn show<'a>(lines: impl Iterator<Item = &'a Line>) -> Value {
    lines
        .map(|line| {
            json!({
                "timestamp": {
                    "unix_s": line.arrived.seconds,
                    "frac_ps": u64::from(line.arrived.nanoseconds) * 1000,
                },
                "line": String::from_utf8(line.octets.to_vec()).unwrap(),
            })
        })
        .collect()
}

#[test]
fn the_ring_answers_as_recorded() {
    let mut differences = Differences::listed(&[(
        "min-time-entry-hist",
        "all lines not older than T, also those before a step of the clock",
    )]);
    for entry in load("console.json") {
        let size = usize::try_from(entry["size"].as_u64().unwrap()).unwrap();
        let mut ring = Ring::new(size);
        for pushed in entry["entries"].as_array().unwrap() {
            ring.push(line(pushed));
        }
        let result = match entry["kind"].as_str().unwrap() {
            "read_last" => show(ring.last(entry["count"].as_i64().unwrap())),
            "read_history" => show(ring.since(moment(&entry["since"]))),
            other => panic!("{other}"),
        };
        let expected = comparable(entry["result"].clone());
        differences.judge(id(&entry), same("the result", &result, &expected));
    }
    differences.finish();
}
