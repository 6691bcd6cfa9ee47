//! The console ring against recorded vectors.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/vectors.rs"]
mod vectors;

use petrel::console::ring::{BYTES, History, Item, Moment, Ring};
use serde_json::{Value, json};
use vectors::{Differences, comparable, id, load, same};

fn moment(time: &Value) -> Moment {
    let nanoseconds = time["frac_ps"].as_u64().unwrap() / 1000;
    Moment {
        seconds: time["unix_s"].as_i64().unwrap(),
        nanoseconds: u32::try_from(nanoseconds).unwrap(),
    }
}

fn show(ring: &Ring, history: History) -> Value {
    let mut reader = ring.reader(history);
    let lines = std::iter::from_fn(|| ring.read(&mut reader));
    lines
        .map(|item| {
            let Item::Line(line) = item else {
                panic!("{item:?}");
            };
            json!({
                "timestamp": {
                    "unix_s": line.arrived.seconds,
                    "frac_ps": u64::from(line.arrived.nanoseconds) * 1000,
                },
                "line": String::from_utf8(line.bytes.to_vec()).unwrap(),
            })
        })
        .collect()
}

/// What albatross hides after a step of the clock, or of a negative count.
fn difference(entry: &Value, size: usize, expected: &Value) -> Option<&'static str> {
    let entries = entry["entries"].as_array().unwrap();
    let kept = &entries[entries.len().saturating_sub(size)..];
    let count = |lines: usize| expected.as_array().unwrap().len() != lines;
    match entry["kind"].as_str().unwrap() {
        "read_last" if entry["count"].as_i64() < Some(0) && count(0) => Some("a count is clamped"),
        "read_history" => {
            let since = moment(&entry["since"]);
            let lines = kept
                .iter()
                .filter(|entry| moment(&entry["timestamp"]) >= since);
            let turned_back = kept
                .windows(2)
                .any(|two| moment(&two[1]["timestamp"]) < moment(&two[0]["timestamp"]));
            (turned_back && count(lines.count()))
                .then_some("all lines not older than T, also those before a step of the clock")
        }
        _ => None,
    }
}

#[test]
fn the_ring_answers_as_recorded() {
    let mut differences = Differences::default();
    for entry in load("console.json") {
        let size = usize::try_from(entry["size"].as_u64().unwrap()).unwrap();
        let mut ring = Ring::new(size, BYTES);
        for pushed in entry["entries"].as_array().unwrap() {
            let bytes = pushed["line"].as_str().unwrap().as_bytes();
            ring.push(moment(&pushed["timestamp"]), bytes);
        }
        let history = match entry["kind"].as_str().unwrap() {
            "read_last" => History::Count(entry["count"].as_i64().unwrap()),
            "read_history" => History::Since(moment(&entry["since"])),
            other => panic!("{other}"),
        };
        let result = show(&ring, history);
        let expected = comparable(entry["result"].clone());
        let outcome = same("the result", &result, &expected);
        differences.judge_by_rule(id(&entry), outcome, difference(&entry, size, &expected));
    }
    differences.finish();
}
