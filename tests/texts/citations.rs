//! References between files of the project: chapters that comments cite, tests that documents name, and links.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The short names of the documents that comments cite by chapter.
const DOCUMENTS: [(&str, &str); 3] = [
    ("WIRE", "doc/protocol.md"),
    ("BEHAVIOUR", "doc/albatross-behaviour.md"),
    ("SOLO5", "doc/solo5.md"),
];

/// The document that lists the weaknesses of albatross, cited as `W1`.
const WEAKNESSES: &str = "doc/albatross-bugs.md";

/// Number of weaknesses.
const LAST_WEAKNESS: usize = 78;

/// Files and directories with citations.
const CITING: [&str; 10] = [
    "src",
    "tests",
    "man",
    "contrib",
    "doc",
    "fuzz/src",
    "fuzz/tests",
    "fuzz/fuzz_targets",
    "README.md",
    "SPECIFICATION.md",
];

/// What is not text, or no text of ours.
const PASSED_OVER: [&str; 3] = ["tests/vectors", "tests/texts/citations.rs", "target"];

#[test]
fn every_cited_chapter_exists() {
    let mut missing = Vec::new();
    let mut found = 0;
    for (key, document) in DOCUMENTS {
        let chapters = chapters(&read(document));
        assert!(chapters.len() > 10, "{document}: {chapters:?}");
        for (file, text) in texts() {
            for (context, cited) in citations(&text, key) {
                found += 1;
                if cited.is_empty() {
                    missing.push(format!("{file}: no chapter in '{context}'"));
                }
                for chapter in cited.difference(&chapters) {
                    missing.push(format!("{file}: '{context}': no {chapter} in {document}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(found > 80, "only {found} citations found");
}

#[test]
fn every_cited_weakness_is_listed() {
    for (file, text) in texts() {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
            let number = word
                .strip_prefix('W')
                .and_then(|digits| digits.parse().ok());
            assert!(
                number.is_none_or(|number: usize| (1..=LAST_WEAKNESS).contains(&number)),
                "{file}: there is no {word}"
            );
        }
    }
}

#[test]
fn every_weakness_names_tests_that_exist_or_a_reason() {
    let mut listed = Vec::new();
    let mut wrong = Vec::new();
    for row in read(WEAKNESSES)
        .lines()
        .filter(|line| line.starts_with("| W"))
    {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, _, _, shown] = cells[..] else {
            panic!("not four cells: {row}");
        };
        listed.push(number.to_owned());
        if shown.starts_with("not tested: ") || shown.starts_with("not applicable: ") {
            continue;
        }
        for reference in shown.split(", ") {
            if let Err(why) = test_exists(reference.trim_matches('`')) {
                wrong.push(format!("{number}: {why}"));
            }
        }
    }
    let expected: Vec<_> = (1..=LAST_WEAKNESS).map(|n| format!("W{n}")).collect();
    assert_eq!(listed, expected);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut wrong = Vec::new();
    for (file, text) in documents() {
        for reference in code_spans(&text).filter(|span| span.contains(".rs::")) {
            if let Err(why) = test_exists(reference) {
                wrong.push(format!("{file}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Newcomers follow these files first.
#[test]
fn every_file_that_guides_for_newcomers_name_exists() {
    const PREFIXES: [&str; 6] = ["src/", "tests/", "contrib/", "fuzz/", "man/", "doc/"];
    let mut missing = Vec::new();
    for guide in ["doc/architecture.md", "CONTRIBUTING.md", "RELEASING.md"] {
        let text = read(guide);
        let named: BTreeSet<_> = code_spans(&text)
            .filter(|span| PREFIXES.iter().any(|prefix| span.starts_with(prefix)))
            .filter_map(|span| span.split_whitespace().next())
            .collect();
        for file in named {
            if !root().join(file).exists() {
                missing.push(format!("{guide}: {file}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut wrong = Vec::new();
    for (file, text) in documents() {
        let directory = root().join(&file).parent().unwrap().to_owned();
        for target in links(&text) {
            let path = target.split('#').next().unwrap();
            if !target.contains("://") && !path.is_empty() && !directory.join(path).exists() {
                wrong.push(format!("{file}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn citations_are_found_in_all_their_forms() {
    let cases: [(&str, &[&str]); 9] = [
        ("/// The table (WIRE 8.1).", &["8.1"]),
        ("(WIRE 8.1, 10, 11.3).", &["8.1", "10", "11.3"]),
        ("(WIRE 11.2, RFC 8446 6.2)", &["11.2"]),
        ("(WIRE 4 `State`, 6.1)", &["4", "6.1"]),
        ("(WIRE 11.1, 13.3; BEHAVIOUR 3.3)", &["11.1", "13.3"]),
        (
            "WIRE, chapters 4 (one), 7 (two) and 8 (three)",
            &["4", "7", "8"],
        ),
        ("/// of WIRE,\n    /// chapter 2. 5 things", &["2"]),
        ("as the WIRE says", &[]),
        ("`WIRE` and \"WIRE\" and PETREL-WIRE 5", &[]),
    ];
    for (text, expected) in cases {
        let found: BTreeSet<_> = citations(text, "WIRE")
            .into_iter()
            .flat_map(|(_, cited)| cited)
            .collect();
        let expected = expected
            .iter()
            .map(|chapter| (*chapter).to_owned())
            .collect();
        assert_eq!(found, expected, "{text}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Whether `FILE::NAME` is a test.
fn test_exists(reference: &str) -> Result<(), String> {
    let (file, name) = reference
        .split_once("::")
        .ok_or_else(|| format!("'{reference}' is not FILE::NAME"))?;
    let source =
        fs::read_to_string(root().join(file)).map_err(|error| format!("{file}: {error}"))?;
    if source.contains(&format!("fn {name}()")) {
        Ok(())
    } else {
        Err(format!("there is no test {name} in {file}"))
    }
}

/// All texts with citations, by their paths relative to the root.
fn texts() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for start in CITING {
        collect(&root().join(start), &mut files);
    }
    files.into_iter().filter_map(relative_text).collect()
}

/// All documents in Markdown.
fn documents() -> Vec<(String, String)> {
    let beside_cargo = fs::read_dir(root()).unwrap();
    let beside_cargo = beside_cargo.map(|entry| entry.unwrap().path());
    let mut documents: BTreeMap<_, _> = texts().into_iter().collect();
    documents.extend(beside_cargo.filter_map(relative_text));
    documents.retain(|file, _| has_extension(Path::new(file), "md"));
    documents.into_iter().collect()
}

fn relative_text(path: PathBuf) -> Option<(String, String)> {
    let text = fs::read_to_string(&path).ok()?;
    let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
    Some((relative.to_owned(), text))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if PASSED_OVER.iter().any(|other| path.ends_with(other)) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), files);
        }
    } else {
        files.push(path.to_owned());
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// The numbers of all headings, such as `7` of `## 7. Framing` and `7.3` of `### 7.3 Raw streams`.
fn chapters(document: &str) -> BTreeSet<String> {
    document
        .lines()
        .filter(|line| line.starts_with('#'))
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .map(|word| word.trim_end_matches('.').to_owned())
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .collect()
}

/// Each place where `key` is cited: some text from there on, and the chapters.
fn citations(text: &str, key: &str) -> Vec<(String, BTreeSet<String>)> {
    let text = without_line_breaks(text);
    let mut found = Vec::new();
    for (at, _) in text.match_indices(key) {
        let before = text[..at].chars().next_back();
        let after = &text[at + key.len()..];
        let is_part = |c: char| c.is_alphanumeric() || "_-`\"'".contains(c);
        if before.is_some_and(is_part) || after.starts_with(is_part) {
            continue;
        }
        let context = text[at..].chars().take(60).collect();
        found.push((context, cited(after)));
    }
    found
}

/// The chapters at the beginning of what follows a key, with the words that may stand between them.
fn cited(mut text: &str) -> BTreeSet<String> {
    const BETWEEN: [&str; 6] = ["facts", "chapters", "chapter", "and", ",", " "];
    let mut chapters = BTreeSet::new();
    loop {
        let number = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if number > 0 {
            let (chapter, rest) = text.split_at(number);
            let part = rest.strip_prefix('.').unwrap_or_default();
            let part: String = part.chars().take_while(char::is_ascii_digit).collect();
            if part.is_empty() {
                chapters.insert(chapter.to_owned());
                text = rest;
            } else {
                chapters.insert(format!("{chapter}.{part}"));
                text = &rest[1 + part.len()..];
            }
        } else if let Some(rest) = BETWEEN.iter().find_map(|word| text.strip_prefix(word)) {
            text = rest;
        } else if let Some(rest) = enclosed(text, '(', ')').or_else(|| enclosed(text, '`', '`')) {
            text = rest;
        } else {
            return chapters;
        }
    }
}

/// What follows a part in such marks at the beginning.
fn enclosed(text: &str, open: char, close: char) -> Option<&str> {
    Some(text.strip_prefix(open)?.split_once(close)?.1)
}

/// The text with a space in place of each line break and the comment mark after it.
fn without_line_breaks(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_start();
        let marks = ["//!", "///", "//", "#"];
        let content = marks.iter().find_map(|mark| line.strip_prefix(mark));
        content.unwrap_or(line).trim()
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// What stands between backquotes.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The targets of all links in Markdown.
fn links(text: &str) -> Vec<&str> {
    text.match_indices("](")
        .filter_map(|(at, mark)| text[at + mark.len()..].split_once(')'))
        .map(|(target, _)| target)
        .collect()
}
