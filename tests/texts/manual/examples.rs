//! The commands in the manual pages, README.md and the other texts are commands of the real programs.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{PAGES, help_text, part, read};
use crate::support::{Directory, Running, run};

/// Texts with commands in indented blocks.
const TEXTS: [&str; 2] = ["README.md", "contrib/albatross.md"];

/// Host in examples; `-` in its place prints the certificates instead of connecting.
const HOST: &str = "host.example.org";

/// Exit code of a client that printed instead of sending.
const PRINTED: i32 = 121;

#[test]
fn the_examples_of_the_client_work_in_the_order_of_the_page() {
    for page in ["petrel.1", "petrel-policy.7"] {
        let directory = Directory::new("examples");
        prepare(&directory, page);
        let commands = commands_of(&examples(&read(page)), "petrel");
        assert!(!commands.is_empty(), "{page}");
        for words in commands {
            let (code, words) = without_network(words);
            let mut command = Command::new(PAGES[0].1);
            command.args(&words).current_dir(directory.path(""));
            let ended = run(&mut command);
            assert_eq!(ended.code(), code, "{page}: {words:?}: {ended:?}");
            assert!(!ended.stdout.is_empty(), "{page}: {words:?}: {ended:?}");
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn the_examples_of_the_tender_run_a_guest() {
    let directory = Directory::new("tender-examples");
    prepare(&directory, "petrel-spt.1");
    let examples = examples(&read("petrel-spt.1"));
    let tender = Path::new(env!("CARGO_BIN_EXE_petrel-spt"));
    let mut runs = 0;
    for words in examples.lines().map(words) {
        let program = match words[0].as_str() {
            "petrel-spt" => tender,
            other => Path::new(other),
        };
        let mut command = Command::new(program);
        command.args(&words[1..]).current_dir(directory.path(""));
        let ended = run(&mut command);
        assert_eq!(ended.code(), 0, "{words:?}: {ended:?}");
        runs += 1;
    }
    assert!(runs > 2);
}

#[test]
fn the_programs_accept_the_commands_in_the_pages_of_the_daemons() {
    for (page, path) in PAGES.iter().filter(|(page, _)| page.ends_with(".8")) {
        let commands = commands_of(&literal(&read(page)), &program_name(path));
        assert!(!commands.is_empty(), "{page}");
        for words in commands {
            let arguments = words.iter().take_while(|word| !is_end(word));
            // Help is printed once all arguments before it were accepted.
            let ended = run(Command::new(path).args(arguments).arg("--help"));
            let is_help = ended.stdout.starts_with("Usage: ");
            assert!(is_help, "{page}: {words:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn the_first_example_of_the_supervisor_runs_as_it_is_written() {
    let home = Directory::short();
    let mut daemons = Vec::new();
    for line in first_example("petreld.8").lines() {
        let Some(daemon) = line.strip_suffix(" &") else {
            let ended = run(&mut in_shell(line, &home));
            assert_eq!(ended.code(), 0, "{line}: {ended:?}");
            continue;
        };
        let mut daemon = Running::start(&mut in_shell(&format!("exec {daemon} 2>&1"), &home));
        while !daemon.line().contains("listening on ") {}
        daemons.push(daemon);
    }
    assert_eq!(daemons.len(), 2);
}

#[test]
fn the_first_example_of_the_metrics_program_runs_as_it_is_written() {
    let example = first_example("petrel-metrics.8");
    let ended = run(&mut in_shell(&example, &Directory::short()));
    assert_eq!(ended.code(), 0, "{example}: {ended:?}");
    let is_answer = ended.stdout.starts_with("HTTP/1.1 ");
    assert!(is_answer, "{example}: {ended:?}");
}

#[test]
fn commands_in_pages_and_texts_have_options_that_exist() {
    let mut options = BTreeMap::new();
    let mut found = 0;
    for (name, text) in all_texts() {
        for (_, program) in PAGES {
            let program = program_name(program);
            for words in commands_of(&text, &program) {
                let words: Vec<String> = words.into_iter().take_while(|w| !is_end(w)).collect();
                let command = match (program.as_str(), words.first()) {
                    // A user or group of this name, or the whole program.
                    ("petrel", Some(first)) if !is_command(first) => continue,
                    ("petrel", Some(first)) => vec![first.clone()],
                    _ => Vec::new(),
                };
                let known = options
                    .entry((program.clone(), command.clone()))
                    .or_insert_with(|| options_of(&program, &command));
                for word in words.iter().filter(|word| is_option(word)) {
                    let option = word.split(['=', ':']).next().unwrap();
                    assert!(
                        known.contains(option),
                        "{name}: {program} {words:?}: {option}"
                    );
                    found += 1;
                }
            }
        }
    }
    assert!(found > 50, "only {found} options found");
}

#[test]
fn the_output_in_the_readme_is_that_of_the_quickstart() {
    let shown = file("README.md");
    let script = file("contrib/quickstart.sh");
    let steps: Vec<_> = shown
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("* "))
        .filter(|line| !line.starts_with('['))
        .collect();
    assert!(steps.len() > 5, "only {steps:?} found");
    for step in steps {
        let said = format!("say \"{}", step.replace('"', "\\\""));
        assert!(script.contains(&said), "{step}");
    }
}

/// Files that the examples of a page use.
fn prepare(directory: &Directory, page: &str) {
    let copies: &[(&str, &str)] = match page {
        "petrel.1" => &[
            ("hello.spt", "hello.spt"),
            ("newer.spt", "hello.spt"),
            ("web.spt", "devices.spt"),
        ],
        "petrel-spt.1" => &[("hello.spt", "hello.spt"), ("block.spt", "block.spt")],
        _ => &[("web.spt", "hello.spt")],
    };
    if cfg!(target_arch = "x86_64") {
        for (name, guest) in copies {
            fs::copy(crate::support::guest(guest), directory.path(name)).unwrap();
        }
    }
    directory.file("disk.img", [7; 1000]);
}

/// A command of the client that prints what it would send, and its exit code.
fn without_network(mut words: Vec<String>) -> (i32, Vec<String>) {
    if let Some(host) = words.iter_mut().find(|word| *word == HOST) {
        "-".clone_into(host);
        return (PRINTED, words);
    }
    let is_local = options_of("petrel", &words[..1]).contains("--socket");
    if is_local && !words.iter().any(|word| word == "--csr") {
        words.push("--socket=-".to_owned());
        return (PRINTED, words);
    }
    (0, words)
}

/// Commands of `program` in a text, without its name: those whose first word it is, also after a path, a `cd` or the
/// fields of crontab(5), inetd.conf(5) and the like.
fn commands_of(text: &str, program: &str) -> Vec<Vec<String>> {
    text.lines()
        .flat_map(|line| {
            let words = words(line);
            let starts: Vec<_> = words
                .iter()
                .enumerate()
                .filter(|(_, word)| word.rsplit(['/', '=', '`']).next() == Some(program))
                .filter(|(start, _)| *start == 0 || words[start - 1] != "cd")
                .map(|(start, _)| start)
                .collect();
            let ends = starts.iter().skip(1).copied().chain([words.len()]);
            let ranges: Vec<_> = starts.iter().zip(ends).collect();
            ranges
                .into_iter()
                .map(|(start, end)| words[start + 1..end].to_vec())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Words of a line of a shell without quotes, up to a comment.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .map(|word| word.trim_end_matches([';', '`']).to_owned())
        .collect()
}

/// Whether a word of a line of a shell ends a command.
fn is_end(word: &str) -> bool {
    ["|", "&&", ";", ">", "&"].contains(&word)
}

fn first_example(page: &str) -> String {
    let text = read(page);
    let examples = part(&text, "\n.Sh EXAMPLES\n", "\n.Sh ");
    let block = part(examples, "\n.Bd -literal -offset indent\n", "\n.Ed");
    block.replace("\\e", "\\")
}

/// A command of the shell, with the programs on PATH.
fn in_shell(line: &str, home: &Directory) -> Command {
    let programs = Path::new(PAGES[0].1).parent().unwrap().to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [programs].into_iter().chain(env::split_paths(&path));
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env("HOME", home.path(""));
    shell.env("PATH", env::join_paths(path).unwrap());
    shell
}

fn is_option(word: &str) -> bool {
    word.starts_with('-') && word.len() > 1 && word != "--"
}

fn is_command(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        && word.len() > 1
        && options_of("petrel", &[word.to_owned()]).contains("--verbosity")
}

/// Long and short options in a program's help.
fn options_of(program: &str, command: &[String]) -> BTreeSet<String> {
    let (_, path) = PAGES
        .iter()
        .find(|(_, path)| program_name(path) == program)
        .unwrap();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let help = help_text(path, &command);
    let lines = help.lines().filter(|line| line.starts_with("  -"));
    lines
        .flat_map(|line| line.split_whitespace().take(2))
        .filter(|word| word.starts_with('-'))
        .map(|word| word.split([':', '=', ',']).next().unwrap().to_owned())
        .chain(["--help".to_owned(), "--version".to_owned()])
        .collect()
}

fn program_name(path: &str) -> String {
    Path::new(path)
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into()
}

/// All pages and texts, literal blocks alone, a command a line.
fn all_texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("man")).unwrap().map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = literal(&read(&name));
        (name, text)
    });
    let texts = TEXTS.map(|name| {
        let text = file(name).replace("\\\n", " ");
        let lines = text.lines().filter(|line| line.starts_with("    "));
        let lines: Vec<_> = lines.collect();
        (name.to_owned(), lines.join("\n"))
    });
    pages.chain(texts).collect()
}

/// Literal blocks of a page's EXAMPLES.
fn examples(page: &str) -> String {
    literal(part(page, "\n.Sh EXAMPLES\n", "\n.Sh "))
}

/// Literal blocks of a page, with continued lines joined.
fn literal(page: &str) -> String {
    let page = format!("\n{page}");
    let blocks = page.split("\n.Bd -literal").skip(1);
    blocks
        .map(|block| {
            let (_, block) = block.split_once('\n').unwrap();
            let block = block.split("\n.Ed").next().unwrap();
            block.replace("\\e\n", " ").replace("\\&", "")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}
