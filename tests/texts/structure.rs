//! The structure of the source: which module may import which, what pure modules do without, and how long a file is.
//!
//! The rules are read off the text: `use` declarations, and paths that begin with `crate` or `super`. Tests inside of
//! `src` are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules of the crate, lower ones first. A module imports only what is in a line before its own.
const LAYERS: [&[&str]; 13] = [
    &["elf", "name", "serial"],
    &["manifest", "policy"],
    &["unikernel"],
    &["wire"],
    &["chain", "command_line", "inflate", "private_file", "sys"],
    &["private_key", "sandbox", "tls"],
    &["logging"],
    &["daemon"],
    &["socket"],
    &["self_metrics"],
    &["authority"],
    &["show", "supervisor"],
    // The programs.
    &[
        "client",
        "console",
        "endpoint",
        "host",
        "influx",
        "metrics_http",
        "stats",
        "tender",
    ],
];

/// Imports that the layers allow, but the division of work between programs does not.
const SEPARATE: [(&str, &str); 1] = [("client", "supervisor")];

/// Modules without input, output and clock; the modules below them are pure as well.
const PURE: [&str; 16] = [
    "name",
    "policy",
    "serial",
    "unikernel",
    "wire",
    "elf",
    "manifest",
    "inflate",
    "chain",
    "show",
    "supervisor",
    "console::ring",
    "tender::boot",
    "tender::devices",
    "tender::options",
    "tender::plan",
];

/// What a pure module does not name.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "now_utc",
    "UnixTime::now",
    "nix::",
];

/// Most lines of a file in `src`.
const LONGEST: usize = 500;

// Exceptions to the rules: remove an entry together with its cause.

/// Modules with circles among their parts.
const CIRCLES: &[&str] = &[
    "authority",
    "client",
    "console",
    "influx",
    "supervisor",
    "wire",
];

/// Modules that import a higher one, or one beside them.
const UPWARD: &[(&str, &str)] = &[
    ("client", "console"),
    ("client", "supervisor"),
    ("console", "influx"),
    ("console", "stats"),
    ("daemon", "socket"),
    ("host", "influx"),
    ("self_metrics", "influx"),
    ("self_metrics", "stats"),
    ("self_metrics", "supervisor"),
    ("stats", "influx"),
];

/// Files with more than [`LONGEST`] lines.
const LONG: &[&str] = &[
    "client/display.rs",
    "client/tls.rs",
    "console/log_directory.rs",
    "console/registry.rs",
    "endpoint/tls.rs",
    "host/bhyve.rs",
    "host/run/record.rs",
    "sandbox/filter.rs",
    "supervisor/accounting.rs",
    "supervisor/disk.rs",
    "supervisor/lifecycle.rs",
    "supervisor/mod.rs",
    "supervisor/simulation.rs",
    "supervisor/simulation/host.rs",
    "supervisor/tests/mod.rs",
    "sys/spawn/mod.rs",
    "wire/state.rs",
];

/// A file of `src` without its tests and comments.
struct Module {
    file: String,
    code: String,
    /// The paths of its `use` declarations, each with the name that it introduces.
    uses: Vec<(String, Vec<String>)>,
    /// Paths elsewhere in the code, from `crate` or `super` on.
    paths: Vec<Vec<String>>,
}

/// The modules of the crate by their path, such as `host::run`; the crate's own is empty.
struct Crate(BTreeMap<String, Module>);

impl Crate {
    fn read() -> Self {
        let mut files = Vec::new();
        collect(Path::new(SOURCE), &mut files);
        let text = |file: &String| fs::read_to_string(Path::new(SOURCE).join(file)).unwrap();
        Self::of(files.iter().map(|file| (file.as_str(), text(file))))
    }

    fn of<'a>(files: impl Iterator<Item = (&'a str, String)>) -> Self {
        let files = files.filter(|(file, _)| !is_test(file));
        Self(
            files
                .map(|(file, text)| (module_path(file), Module::of(file, &text)))
                .collect(),
        )
    }

    /// The module that defines what a path names, seen from module `from`.
    fn resolve(&self, from: &str, path: &[String], depth: usize) -> Option<String> {
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (String::new(), &path[1..]),
            "self" => (from.to_owned(), &path[1..]),
            "super" => (parent(from).to_owned(), &path[1..]),
            first if self.0.contains_key(&join(from, first)) => (from.to_owned(), path),
            _ => return None,
        };
        while let Some(next) = rest.first() {
            if next == "super" {
                at = parent(&at).to_owned();
            } else if self.0.contains_key(&join(&at, next)) {
                at = join(&at, next);
            } else {
                break;
            }
            rest = &rest[1..];
        }
        // What the module only passes on belongs to where it comes from.
        let passed_on = rest.first().and_then(|name| {
            let uses = &self.0.get(&at)?.uses;
            let (_, path) = uses.iter().find(|(introduced, _)| introduced == name)?;
            (depth > 0).then(|| self.resolve(&at, path, depth - 1))?
        });
        Some(passed_on.unwrap_or(at))
    }

    /// Every import of one module by another.
    fn imports(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for (name, module) in &self.0 {
            let used = module.uses.iter();
            let paths = used.map(|(_, path)| path).chain(&module.paths);
            for target in paths.filter_map(|path| self.resolve(name, path, 4)) {
                if target != *name && !target.is_empty() {
                    found.insert((name.clone(), target));
                }
            }
        }
        found
    }
}

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

impl Module {
    fn of(file: &str, text: &str) -> Self {
        let code = code(text);
        let (uses, others) = split_uses(&code);
        let mut paths = Vec::new();
        for start in ["crate::", "super::"] {
            for (at, _) in others.match_indices(start) {
                let before = others[..at].chars().next_back();
                if !before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                    let end =
                        others[at..].find(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
                    let path = &others[at..end.map_or(others.len(), |end| at + end)];
                    let segments = path.split("::").filter(|segment| !segment.is_empty());
                    paths.push(segments.map(str::to_owned).collect());
                }
            }
        }
        Self {
            file: file.to_owned(),
            code,
            uses,
            paths,
        }
    }

    /// Whether the code names this path, in a `use` declaration or elsewhere.
    fn names(&self, path: &str) -> bool {
        let is_used = |path_used: &[String]| {
            let path_used = path_used.join("::") + "::";
            path_used.starts_with(&format!("{}::", path.trim_end_matches(':')))
        };
        let starts = |at: usize| {
            let before = self.code[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
        };
        self.uses.iter().any(|(_, path_used)| is_used(path_used))
            || self.code.match_indices(path).any(|(at, _)| starts(at))
    }
}

/// The text up to the tests at its end, without comments.
fn code(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines();
    lines
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The `use` declarations as paths, and the code without them.
fn split_uses(code: &str) -> (Vec<(String, Vec<String>)>, String) {
    let mut uses = Vec::new();
    let mut others = String::new();
    let mut declaration: Option<String> = None;
    for line in code.lines() {
        let words = line.trim_start();
        let visible = words.strip_prefix("pub").map_or(words, |rest| {
            let rest = rest
                .strip_prefix('(')
                .and_then(|rest| rest.split_once(')'))
                .map_or(rest, |(_, rest)| rest);
            rest.trim_start()
        });
        if let Some(declaration) = &mut declaration {
            declaration.push_str(words);
        } else if let Some(rest) = visible.strip_prefix("use ") {
            declaration = Some(rest.to_owned());
        } else {
            others.push_str(line);
            others.push('\n');
        }
        if declaration.as_ref().is_some_and(|text| text.contains(';')) {
            let text = declaration.take().unwrap_or_default();
            flatten(
                text.split(';').next().unwrap_or_default().trim(),
                &[],
                &mut uses,
            );
        }
    }
    (uses, others)
}

/// Adds the paths of a tree such as `a::{b, c::d as e}` below `prefix`.
fn flatten(tree: &str, prefix: &[String], into: &mut Vec<(String, Vec<String>)>) {
    if let Some((head, group)) = tree.split_once('{') {
        let mut prefix = prefix.to_vec();
        prefix.extend(
            head.split("::")
                .filter(|part| !part.trim().is_empty())
                .map(|part| part.trim().to_owned()),
        );
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let item = group[start..at].trim();
                    if !item.is_empty() {
                        flatten(item, &prefix, into);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, name) = tree
        .split_once(" as ")
        .map_or((tree, None), |(path, name)| (path, Some(name)));
    let mut path: Vec<String> = prefix
        .iter()
        .cloned()
        .chain(path.split("::").map(|part| part.trim().to_owned()))
        .collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let name = name.map_or_else(
        || path.last().cloned().unwrap_or_default(),
        |name| name.trim().to_owned(),
    );
    into.push((name, path));
}

/// The files below a directory, relative to `src`.
fn collect(directory: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(
                path.strip_prefix(SOURCE)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
    into.sort();
}

/// Whether a file has only tests.
fn is_test(file: &str) -> bool {
    let parts = file.trim_end_matches(".rs").split('/');
    parts
        .into_iter()
        .any(|part| part == "tests" || part.ends_with("_tests") || part == "simulation")
        || file.starts_with("bin/")
}

/// `host::run` for `host/run.rs` and `host/run/mod.rs`.
fn module_path(file: &str) -> String {
    let path = file.trim_end_matches(".rs").replace('/', "::");
    match path.as_str() {
        "lib" => String::new(),
        other => other.strip_suffix("::mod").unwrap_or(other).to_owned(),
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once("::").map_or("", |(parent, _)| parent)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}::{name}")
    }
}

fn top(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

/// Fails with what is not among the exceptions, in the form of an exception.
fn assert_only(found: &BTreeSet<(String, String)>, exceptions: &[(&str, &str)], rule: &str) {
    let new: Vec<String> = found
        .iter()
        .filter(|(a, b)| !exceptions.contains(&(a, b)))
        .map(|(a, b)| format!("    (\"{a}\", \"{b}\"),"))
        .collect();
    assert!(new.is_empty(), "{rule}:\n{}", new.join("\n"));
}

/// Whether one of two modules is inside of the other: together they are one unit, whose parts know it.
fn is_nested(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short)
        .is_some_and(|rest| rest.starts_with("::"))
}

/// Whether imports lead from one module to another.
fn leads(imports: &BTreeSet<(String, String)>, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            let imported = imports.iter().filter(|(importing, _)| importing == module);
            next.extend(imported.map(|(_, imported)| imported.as_str()));
        }
    }
    false
}

#[test]
fn no_imports_lead_in_a_circle() {
    let mut imports = Crate::read().imports();
    imports.retain(|(a, b)| !is_nested(a, b));
    let circles = imports
        .iter()
        .filter(|(a, b)| !(top(a) == top(b) && CIRCLES.contains(&top(a))))
        .filter(|(a, b)| leads(&imports, b, a))
        .cloned()
        .collect();
    assert_only(&circles, &[], "these imports are part of a circle");
}

#[test]
fn no_module_imports_a_higher_one() {
    let layer = |module: &str| {
        LAYERS
            .iter()
            .position(|layer| layer.contains(&module))
            .unwrap_or_else(|| panic!("'{module}' is in no layer"))
    };
    let upward = Crate::read()
        .imports()
        .iter()
        .map(|(from, to)| (top(from), top(to)))
        // The crate itself only declares modules; temporary directories are part of tests.
        .filter(|(from, to)| !from.is_empty() && from != to && *to != "directory")
        .filter(|(from, to)| layer(to) >= layer(from) || SEPARATE.contains(&(from, to)))
        .map(|(from, to)| (from.to_owned(), to.to_owned()))
        .collect();
    assert_only(&upward, UPWARD, "these import a module that is not below");
}

#[test]
fn pure_modules_name_no_files_no_sockets_and_no_clock() {
    let mut impure = BTreeSet::new();
    for (name, module) in &Crate::read().0 {
        let is_pure = PURE
            .iter()
            .any(|pure| name == pure || name.starts_with(&format!("{pure}::")));
        for word in IMPURE.iter().filter(|word| is_pure && module.names(word)) {
            impure.insert((module.file.clone(), (*word).to_owned()));
        }
    }
    assert_only(&impure, &[], "these are not pure");
}

#[test]
fn no_file_is_long() {
    let mut files = Vec::new();
    collect(Path::new(SOURCE), &mut files);
    let lines = |file: &String| {
        fs::read_to_string(Path::new(SOURCE).join(file))
            .unwrap()
            .lines()
            .count()
    };
    let long: Vec<String> = files
        .iter()
        .filter(|file| lines(file) > LONGEST && !LONG.contains(&file.as_str()))
        .map(|file| format!("    \"{file}\","))
        .collect();
    assert!(
        long.is_empty(),
        "these have more than {LONGEST} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn imports_are_read_through_groups_and_re_exports() {
    let files = [
        ("lib.rs", "pub mod a;\npub mod b;\n"),
        (
            "a/mod.rs",
            "mod c;\npub use c::Inner;\nuse crate::b::{self, One, deep::{Two as Three}};\n",
        ),
        (
            "a/c.rs",
            "pub struct Inner; // crate::b\nuse std::{fs, io};\n#[cfg(test)]\nmod tests { use crate::b; }\n",
        ),
        ("b.rs", "fn f() { crate::a::Inner; super::a::Inner }\n"),
        ("tests/d.rs", "use crate::a;"),
    ];
    let read = Crate::of(
        files
            .map(|(file, text)| (file, text.to_owned()))
            .into_iter(),
    );
    let imports: Vec<_> = read.imports().into_iter().collect();
    let expected = [("a", "a::c"), ("a", "b"), ("b", "a::c")];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(imports, expected);
    assert!(read.0["a::c"].names("std::fs") && !read.0["a::c"].names("std::net"));
}
