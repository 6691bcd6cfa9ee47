//! The console ring against recorded vectors.

use crate::support::vectors;

use petrel::console::ring::{BYTES, History, Item, Moment, Ring};
use petrel::wire::Text;
use serde_json::{Value, json};
use vectors::{Differences, comparable, id, load, put_text, same, text};

/// A time at the resolution of the ring, nanoseconds.
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
            let mut shown = json!({"timestamp": show_moment(line.arrived)});
            put_text(&mut shown, "line", &Text(line.bytes.to_vec()));
            shown
        })
        .collect()
}

fn show_moment(moment: Moment) -> Value {
    json!({
        "unix_s": moment.seconds,
        "frac_ps": u64::from(moment.nanoseconds) * 1000,
    })
}

/// The lines that are recorded, their times at the resolution of the ring.
fn expected(entry: &Value) -> Value {
    let mut lines = comparable(entry["result"].clone());
    for line in lines.as_array_mut().unwrap() {
        line["timestamp"] = show_moment(moment(&line["timestamp"]));
    }
    lines
}

/// Whether a time says more than the ring stores.
fn is_finer(time: &Value) -> bool {
    !time["frac_ps"].as_u64().unwrap().is_multiple_of(1000)
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
            let lines = lines.count();
            let is_close = |line: &Value| moment(&line["timestamp"]) == since;
            if turned_back && count(lines) {
                Some("all lines not older than T, also those before a step of the clock")
            } else if count(lines) && is_finer(&entry["since"]) && kept.iter().any(is_close) {
                Some("times within a nanosecond are the same")
            } else {
                None
            }
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
            ring.push(moment(&pushed["timestamp"]), &text(pushed, "line").0);
        }
        let history = match entry["kind"].as_str().unwrap() {
            "read_last" => History::Count(entry["count"].as_i64().unwrap()),
            "read_history" => History::Since(moment(&entry["since"])),
            other => panic!("{other}"),
        };
        let result = show(&ring, history);
        let expected = expected(&entry);
        let outcome = same("the result", &result, &expected);
        differences.judge_by_rule(id(&entry), outcome, difference(&entry, size, &expected));
    }
    differences.finish();
}

/// This program over another directory of vectors, which has these entries for the ring and nothing else.
fn passes_with(entries: &Value) -> bool {
    let name = format!("ring-{}", std::process::id());
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("console.json"), entries.to_string()).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "console_ring::the_ring_answers_as_recorded"])
        .env("PETREL_VECTORS", &directory)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    output.status.success()
}

#[test]
fn vectors_of_another_directory_are_compared_at_the_resolution_of_the_ring() {
    let at = |fraction: u32| json!({"unix_s": 5, "frac_ps": fraction});
    let first = json!({"timestamp": at(300), "line": "a"});
    let second = json!({"timestamp": at(700), "line_hex": "ff"});
    let entry = |result: &[&Value]| {
        json!([{
            "id": "mine", "kind": "read_history", "size": 4, "since": at(500),
            "entries": [first, second], "result": result,
        }])
    };
    assert!(passes_with(&entry(&[&second])));
    assert!(passes_with(&entry(&[&first, &second])));
    assert!(passes_with(&json!([])));
    assert!(!passes_with(&entry(&[&second, &second])));
}
