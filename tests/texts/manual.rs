//! The manual pages say what the programs do: their options, defaults and limits are compared. The promises of
//! SPECIFICATION.md have their tests.

use crate::support;

mod examples;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use petrel::authority::{AUTHORITY_DAYS, CLOCK_SKEW, COMMAND_DAYS, CRL_DAYS, MAX_FILE, Validity};
use petrel::chain::MAX_PATH;
use petrel::chain::crl::MAX_CRL_FILE;
use petrel::chain::verify::{MAX_CERTIFICATES, MAX_INTERMEDIATES, PathError};
use petrel::chain::{EXTENSION, numbers};
use petrel::client::{
    BETWEEN_RUNS, LEAF_LIFETIME, LIVES, MAX_ANSWER, MAX_ROWS, MAX_STORED_DUMP, MAX_STORED_IMAGE,
    tls as client,
};
use petrel::console::{
    archive, daemon as console, lines, log_directory, log_quota, registry, ring,
};
use petrel::elf::MAX_PROGRAM_HEADERS;
use petrel::host::disk_reserve::{DISK_RESERVE, MAX_DISK_RESERVE};
use petrel::host::run::{
    MACHINE_MEMORY_SLACK, MAX_PASSED_OVER, MEMORY_SLACK, RECORD_TIMEOUT, SLACK_PART,
};
use petrel::host::state_store::LOCK_TIMEOUT;
use petrel::host::transfer;
use petrel::influx::{buffer, daemon as influx, http};
use petrel::manifest::MAX_ENTRIES;
use petrel::name::Label;
use petrel::policy::Policy;
use petrel::private_key::MAX_KEY_FILE;
use petrel::stats::{collect, daemon as stats, registry as observed};
use petrel::supervisor::{
    AGE_STEP, ARCHIVE_SHARE, DISK_QUOTA_FACTOR, MACHINE_STOP_DEADLINE, MAX_BLOCK_DEVICES,
    MAX_BLOCK_SIZE, MAX_BLOCK_STREAMS, MAX_BLOCK_STREAMS_OF_TENANT, MAX_DISK_QUOTA_FACTOR,
    MAX_ENDED, MAX_ENDED_IN_PATH, MAX_POLICIES, MAX_STARTING, MAX_UPLOADS, MAX_UPLOADS_OF_TENANT,
    MAX_WAITING, MIN_DISK_QUOTA, SAVE_RETRY, STOP_DEADLINE, UPLOAD_STEP_BYTES, bhyve, restart,
};
use petrel::sys::spawn;
use petrel::tender::{options as tender, plan};
use petrel::unikernel::{Config, MAX_IMAGE};
use petrel::wire::frame::{MAX_CHUNK, MAX_MESSAGE};
use petrel::wire::{
    BlockAddFilled, BlockCommand, ConsoleCommand, ConsoleRead, DatedPolicy, Int, PolicyCommand,
    SinceCount, Success, UnikernelCommand,
};
use petrel::{daemon, endpoint, host, metrics_http, self_metrics, serial, socket};
use rasn::der::encode;

use support::{on_path, run, skipped};

/// The pages, and the programs that they describe.
const PAGES: [(&str, &str); 8] = [
    ("petrel.1", env!("CARGO_BIN_EXE_petrel")),
    ("petreld.8", env!("CARGO_BIN_EXE_petreld")),
    ("petrel-tls.8", env!("CARGO_BIN_EXE_petrel-tls")),
    ("petrel-console.8", env!("CARGO_BIN_EXE_petrel-console")),
    ("petrel-stats.8", env!("CARGO_BIN_EXE_petrel-stats")),
    ("petrel-influx.8", env!("CARGO_BIN_EXE_petrel-influx")),
    ("petrel-metrics.8", env!("CARGO_BIN_EXE_petrel-metrics")),
    ("petrel-spt.1", env!("CARGO_BIN_EXE_petrel-spt")),
];

/// What every program has, whether its help lists it or not.
const EVERYWHERE: [&str; 2] = ["--help", "--version"];

/// Most bytes of a handshake message that rustls accepts, which keeps this number to itself.
const RUSTLS_HANDSHAKE: usize = 0xffff;

#[test]
fn the_page_of_a_program_documents_its_options_and_no_others() {
    for (page, program) in PAGES {
        if page == "petrel.1" || !has_tender(page) {
            continue;
        }
        let mut has = help(program, &[]);
        has.extend(EVERYWHERE.map(str::to_owned));
        let text = read(page);
        assert_eq!(items(&text), has, "{page}: options with an entry");
        assert_eq!(mentioned(&text), has, "{page}: options mentioned");
    }
}

#[test]
fn the_page_of_the_client_documents_the_options_of_each_command_and_no_others() {
    let (page, program) = PAGES[0];
    let text = read(page);
    let commands = part(&text, "\n.Sh COMMANDS", "\n.Sh ");
    let destination = items(part(&text, "\n.Sh DESTINATION\n", "\n.Sh "));
    let common = items(part(&text, "\n.Sh OPTIONS\n", "\n.Sh "));
    let mut all: BTreeSet<String> = EVERYWHERE.map(str::to_owned).into();
    let mut documented: BTreeMap<&str, BTreeSet<String>> = commands
        .split("\n.Ss ")
        .skip(1)
        .map(|section| {
            let (command, text) = section.split_once('\n').unwrap();
            (command, items(text))
        })
        .collect();
    let same = documented["add-policy"].clone();
    documented.get_mut("replace-policy").unwrap().extend(same);
    // A restart takes the settings of a create, and nothing else of it.
    let mut settings = documented["create"].clone();
    for other in ["--typ", "--force", "--compression-level"] {
        assert!(settings.remove(other));
    }
    documented.get_mut("restart").unwrap().extend(settings);

    let listed: Vec<String> = help_text(program, &[])
        .split_once("\nCommands:\n")
        .unwrap()
        .1
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert_eq!(
        documented.keys().copied().collect::<BTreeSet<_>>(),
        listed.iter().map(String::as_str).collect::<BTreeSet<_>>()
    );
    for command in &listed {
        let has = help(program, &[command]);
        let mut expected = &documented[command.as_str()] | &common;
        if has.contains("--socket") {
            expected = &expected | &destination;
        }
        assert_eq!(expected, has, "petrel {command}");
        all.extend(has);
    }
    assert_eq!(mentioned(&text), all);
}

#[test]
fn defaults_in_the_pages_are_those_of_the_programs() {
    let runtime = format!("{}, ", socket::RUNTIME_DIRECTORY);
    let database = format!("{}, ", socket::DATABASE_DIRECTORY);
    let sign = format!("{AUTHORITY_DAYS} for a policy or a server, {COMMAND_DAYS} for a command");
    let startup = Config::DEFAULT_STARTUP.to_string();
    let port = petrel::tls::PORT.to_string();
    let list = CRL_DAYS.to_string();
    let stop = STOP_DEADLINE.as_secs().to_string();
    let quota = DISK_QUOTA_FACTOR.to_string();
    let reserve = DISK_RESERVE.to_string();
    let interval = stats::INTERVAL.as_secs().to_string();
    let age = metrics_http::AGE.as_secs().to_string();
    let lines = influx::LINES.to_string();
    let collector = format!("port {}", influx::PORT);
    let cases: [(&str, &str, &str); 30] = [
        ("petrel-stats.8", "Fl -interval ", &interval),
        ("petrel-stats.8", "Fl -tmpdir ", &runtime),
        ("petrel-influx.8", "Fl -influx ", &collector),
        ("petreld.8", "Fl -influx ", &collector),
        ("petrel-console.8", "Fl -influx ", &collector),
        ("petrel-stats.8", "Fl -influx ", &collector),
        ("petrel-influx.8", "Fl -buffer ", &lines),
        ("petrel-influx.8", "Fl -tmpdir ", &runtime),
        ("petrel-metrics.8", "Fl -max-age ", &age),
        ("petreld.8", "Fl -stop-deadline ", &stop),
        ("petreld.8", "Fl -image-quota-factor ", &quota),
        ("petreld.8", "Fl -disk-reserve ", &reserve),
        ("petrel.1", "Fl -startup ", &startup),
        ("petrel.1", "Fl -days ", &sign),
        ("petrel.1", "Fl -days Ar number\nValidity of the CRL", &list),
        (
            "petrel.1",
            "Fl d , -destination Ar host Ns Op : Ns Ar port\nConnect",
            &format!("port {port}"),
        ),
        ("petrel-tls.8", "Fl -port ", &port),
        (
            "petrel-tls.8",
            "Fl -max-connections ",
            &endpoint::MAX_CONNECTIONS.to_string(),
        ),
        (
            "petrel-tls.8",
            "Fl -max-handshakes ",
            &endpoint::MAX_HANDSHAKES.to_string(),
        ),
        (
            "petrel-tls.8",
            "Fl -handshake-timeout ",
            &endpoint::HANDSHAKE_TIMEOUT.as_secs().to_string(),
        ),
        (
            "petrel-tls.8",
            "Fl -idle-timeout ",
            &endpoint::IDLE_TIMEOUT.as_secs().to_string(),
        ),
        (
            "petrel-console.8",
            "Fl -max-subscribers ",
            &registry::SUBSCRIBERS.to_string(),
        ),
        (
            "petrel-console.8",
            "Fl -log-size ",
            &log_directory::LOG_SIZE.to_string(),
        ),
        (
            "petrel-console.8",
            "Fl -log-files ",
            &log_directory::LOG_FILES.to_string(),
        ),
        (
            "petrel-console.8",
            "Fl -log-tenant ",
            &log_quota::LOG_TENANT.to_string(),
        ),
        (
            "petrel-spt.1",
            "Fl -mem=",
            &tender::DEFAULT_MEMORY.to_string(),
        ),
        (
            "petrel-spt.1",
            "Fl -block-sector-size:",
            &tender::DEFAULT_SECTOR_SIZE.to_string(),
        ),
        ("petreld.8", "Fl -tmpdir ", &runtime),
        ("petrel-tls.8", "Fl -tmpdir ", &runtime),
        ("petreld.8", "Fl -dbdir ", &database),
    ];
    for (page, option, default) in cases {
        let text = read(page);
        // The directories of Linux come first in the pages.
        if cfg!(not(target_os = "linux")) && default.starts_with('/') {
            continue;
        }
        let item = part(&text, &format!("\n.It {option}"), "\n.It ").replace("Pa ", "");
        let expected = format!(".Pq default {default}");
        let expected = expected.trim_end_matches(", ");
        assert!(item.contains(expected), "{page}: {option}: {item}");
    }
}

#[test]
fn no_example_runs_the_parser_of_the_network_as_root() {
    let text = read("petrel-tls.8");
    let inetd = part(&text, " nowait ", " ");
    assert_eq!(inetd, "petrel");
}

#[test]
fn limits_in_the_pages_are_those_of_the_code() {
    let deep = PathError::Webpki(webpki::Error::MaximumPathDepthExceeded).to_string();
    assert!(deep.contains("more than six"), "{deep}");
    // A console's line also shows how it was cut.
    let cut = String::from_utf8_lossy(lines::TRUNCATED).into_owned();
    assert!(read("petrel-console.8").contains(&format!(".Dq {}\n", cut.trim())));

    for (page, limits) in limits() {
        let text = read(page);
        let quoted: BTreeSet<&str> = part(&text, "\n.Sh LIMITS\n", "\n.Sh ")
            .lines()
            .filter_map(limit_of_row)
            .collect();
        let limits: BTreeSet<&str> = limits.iter().map(String::as_str).collect();
        assert_eq!(quoted, limits, "{page}");
    }
}

#[test]
fn every_limit_of_the_code_is_compared_with_a_page() {
    let here = include_str!("manual.rs");
    let mut found = 0;
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines().take_while(|line| *line != "#[cfg(test)]") {
            let Some((_, rest)) = line.split_once("const ") else {
                continue;
            };
            let Some((name, kind)) = rest.split_once(": ") else {
                continue;
            };
            let is_limit = name.starts_with("MAX_") || kind.starts_with("Duration ");
            if is_limit {
                assert!(here.contains(name), "{}: {name}", file.display());
                found += 1;
            }
        }
    }
    assert!(found > 30, "only {found} limits found");
}

#[test]
fn the_page_of_every_program_has_all_sections_in_one_order() {
    const SECTIONS: [&str; 13] = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "INTERFACE",
        "OPTIONS",
        "ENVIRONMENT",
        "FILES",
        "EXIT STATUS",
        "SIGNALS",
        "EXAMPLES",
        "LIMITS",
        "SECURITY",
        "COMPATIBILITY",
    ];
    for (page, _) in PAGES {
        let text = read(page);
        let sections = text.lines().filter_map(|line| line.strip_prefix(".Sh "));
        let known: Vec<_> = sections
            .filter(|section| SECTIONS.contains(section))
            .collect();
        assert_eq!(known, SECTIONS, "{page}");
        let (_, section) = page.rsplit_once('.').unwrap();
        let title = text.lines().find(|line| line.starts_with(".Dt ")).unwrap();
        assert!(title.ends_with(&format!(" {section}")), "{page}: {title}");
    }
}

#[test]
fn pages_refer_to_pages_that_there_are() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    for entry in fs::read_dir(&directory).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines().filter(|line| line.starts_with('.')) {
            let words: Vec<_> = line.split_whitespace().collect();
            for pair in words.windows(3).filter(|words| words[0].ends_with("Xr")) {
                if let ["petrel" | "petreld", ..] = pair[1].split('-').collect::<Vec<_>>()[..] {
                    let page = format!("{}.{}", pair[1], pair[2]);
                    assert!(directory.join(&page).is_file(), "{page}");
                }
            }
        }
    }
}

#[test]
fn the_message_of_the_page_is_the_one_that_is_sent() {
    let text = read("petrel-wire.5");
    let shown = part(&text, "\n.Sh EXAMPLES\n", "\n.Sh ");
    let bytes: String = part(shown, "\n.Bd -literal -offset indent\n", "\n.Ed")
        .lines()
        .flat_map(|line| line.split("  ").filter(|part| !part.is_empty()).take(1))
        .collect();
    let bytes: Vec<_> = bytes.split_whitespace().collect();
    let sent = run(Command::new(PAGES[0].1).args(["info", "--details", "--socket", "-"])).stdout;
    let sent: Vec<_> = sent
        .lines()
        .flat_map(|line| {
            let (_, line) = line.split_at(8);
            line.split('|').next().unwrap().split_whitespace()
        })
        .collect();
    assert_eq!(bytes.concat(), sent.concat());
}

#[test]
fn the_steps_before_a_tender_are_those_of_the_code_in_their_order() {
    let text = read("petreld.8");
    let list = part(&text, "\n.Bl -enum\n", "\n.El");
    let steps: Vec<&str> = list.split(".It\n").skip(1).collect();
    assert_eq!(steps.len(), spawn::STEPS.len());
    for (written, step) in steps.iter().zip(&spawn::STEPS) {
        assert!(written.starts_with(step.name), "{}: {written}", step.name);
    }
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SPECIFICATION.md")).unwrap();
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let (_, enforced) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        if enforced == "enforced by" {
            continue;
        }
        for reference in enforced.split(", ").map(|one| one.trim_matches('`')) {
            match reference.split_once("::") {
                Some((file, test)) => {
                    let source = fs::read_to_string(root.join(file)).unwrap();
                    assert!(source.contains(&format!("fn {test}()")), "{reference}");
                }
                None => assert!(root.join(reference).is_file(), "{reference}"),
            }
        }
        rows += 1;
    }
    assert!(rows > 20, "only {rows} promises found");
}

#[test]
fn the_pages_are_well_formed() {
    let Some(mandoc) = on_path("mandoc") else {
        return skipped("manual pages checked by mandoc", "it is not on PATH");
    };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pages.len() > PAGES.len());
    for page in pages {
        let mut command = Command::new(&mandoc);
        command.args(["-T", "lint", "-W", "warning"]).arg(&page);
        let ended = run(&mut command);
        let page = page.display();
        assert_eq!((ended.code(), &ended.stdout[..]), (0, ""), "{page}");
    }
}

#[test]
fn the_additions_to_the_protocol_are_those_of_the_page() {
    let text = read("petrel-wire.5");
    let nothing = Policy {
        unikernels: 0,
        cpus: [].into(),
        memory: 0,
        block: None,
        bridges: [].into(),
    };
    let dated = DatedPolicy {
        policy: (&nothing).into(),
        not_before: Int::new(0),
    };
    let read = ConsoleRead {
        from: SinceCount::Count(Int::new(1)),
        follow: true,
    };
    let filled = BlockAddFilled {
        size: Int::new(1),
        compressed: false,
    };
    for (entry, encoded) in [
        ("stop     [64] NULL", encode(&UnikernelCommand::Stop(()))),
        ("start    [65] NULL", encode(&UnikernelCommand::Start(()))),
        (
            "rollback [66] NULL",
            encode(&UnikernelCommand::Rollback(())),
        ),
        ("details  [67] NULL", encode(&UnikernelCommand::Details(()))),
        (
            "set-chain [65] SEQUENCE OF SEQUENCE",
            encode(&PolicyCommand::SetChain(vec![dated])),
        ),
        ("read [64] SEQUENCE", encode(&ConsoleCommand::Read(read))),
        (
            "add-filled [64] SEQUENCE",
            encode(&BlockCommand::AddFilled(filled)),
        ),
        (
            "details  [64] SEQUENCE OF",
            encode(&Success::UnikernelDetails(Vec::new())),
        ),
        (
            "chain-set [65] SEQUENCE OF UTF8String",
            encode(&Success::ChainSet(Vec::new())),
        ),
    ] {
        assert!(text.contains(&format!("\n{entry}")), "{entry}");
        // A context tag from 31 on: its number is the second byte.
        let number = entry.split(['[', ']']).nth(1).unwrap();
        let encoded = encoded.unwrap();
        assert_eq!(
            (encoded[0], encoded[1].to_string()),
            (0xbf, number.to_owned()),
            "{entry}"
        );
    }
    let extension: Vec<_> = numbers(&EXTENSION).iter().map(u64::to_string).collect();
    assert!(text.contains(&format!("extension {} of", extension.join("."))));
}

#[test]
fn every_field_of_an_extension_of_the_protocol_is_on_its_page() {
    let text = read("petrel-wire.5");
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire");
    let sources = sources(&wire).into_iter();
    let sources: Vec<_> = sources
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut found = 0;
    for record in [
        "DatedPolicy",
        "ConsoleRead",
        "BlockAddFilled",
        "Details",
        "Waiting",
        "Exit",
    ] {
        let start = format!("pub struct {record} {{");
        let source = sources.iter().find(|source| source.contains(&start));
        let source = source.unwrap_or_else(|| panic!("{record} is not in src/wire"));
        let fields = part(source, &start, "\n}").lines();
        for field in fields.filter_map(|line| line.trim().strip_prefix("pub ")) {
            let (field, _) = field.split_once(':').unwrap();
            let field = field.replace('_', "-");
            let is_there = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            assert!(
                is_there.clone().any(|word| word == field),
                "{record}: {field}"
            );
            found += 1;
        }
    }
    assert!(found > 10, "only {found} fields found");
}

/// First cell of a row of a table of limits, or an entry of a list of them; nothing for the head of a table.
fn limit_of_row(line: &str) -> Option<&str> {
    let cells = line.strip_prefix(".It ")?;
    let (limit, _) = cells.split_once(" Ta").unwrap_or((cells, ""));
    (!limit.starts_with("Sy ")).then_some(limit)
}

/// The entries of each page's LIMITS.
fn limits() -> Vec<(&'static str, Vec<String>)> {
    let label = format!("{} bytes in a label", Label::MAX_BYTES);
    let headers = format!("{MAX_PROGRAM_HEADERS} program headers");
    let memory = format!("{} MB of memory", Config::MAX_MEMORY);
    let devices = format!("{} devices", Config::MAX_DEVICES);
    let machine_devices = format!("{} devices", bhyve::MAX_DEVICES);
    let partition = format!("{} characters in a boot partition", bhyve::MAX_PARTITION);
    let arguments = format!("{} bytes of arguments", Config::MAX_COMMAND_LINE);
    let chunk = format!("{} in a chunk", size(MAX_CHUNK));
    let intermediates = format!("{MAX_INTERMEDIATES} intermediate certificates");
    let handshake = format!("{RUSTLS_HANDSHAKE} bytes in a handshake message");
    let client = vec![
        label.clone(),
        memory.clone(),
        devices.clone(),
        machine_devices.clone(),
        partition.clone(),
        arguments.clone(),
        headers.clone(),
        format!("{} MB of memory", Policy::TOO_LITTLE_MEMORY + 1),
        chunk.clone(),
        format!("{} in a reply", size(MAX_ANSWER)),
        format!("{} in an image", size(MAX_STORED_IMAGE)),
        format!("{} in a dump", size(MAX_STORED_DUMP)),
        format!("{MAX_ROWS} rows in a table"),
        format!("{} for details from the supervisor", time(LIVES)),
        format!("{} between requests to the supervisor", time(BETWEEN_RUNS)),
        format!("{} before an image", size(petrel::client::MAX_HEAD)),
        format!("{} to connect", time(client::CONNECT_TIMEOUT)),
        format!("{} head start", time(client::NEXT_ADDRESS)),
        format!("{} for the handshake", time(client::HANDSHAKE_TIMEOUT)),
        format!("{} of validity", time(LEAF_LIFETIME)),
        format!("{} before now", time(CLOCK_SKEW)),
        format!("{} days of validity", Validity::MAX_DAYS),
        format!("{} bytes in an answer", petrel::client::MAX_CONFIRMATION),
        format!("{} in a file of a private key", size(MAX_KEY_FILE)),
        format!("{} in a file", size(MAX_FILE)),
        format!("{} bytes in a serial number", serial::MAX_BYTES),
        format!("{} in an image", size(MAX_IMAGE)),
        format!(
            "{} bytes in a name of generate",
            petrel::authority::MAX_FILE_NAME
        ),
        intermediates.clone(),
        handshake.clone(),
    ];
    let mut supervisor = vec![
        format!("{} clients", host::MAX_CLIENTS),
        format!("{} in a request", size(host::MAX_REQUEST)),
        chunk.clone(),
        format!("{} in an image", size(MAX_IMAGE)),
        format!("{} large requests", host::MAX_LARGE),
        format!("{MAX_UPLOADS} uploads of images"),
        format!("{MAX_UPLOADS_OF_TENANT} uploads of a tenant's images"),
        format!("{} MB on disk", MIN_DISK_QUOTA >> 20),
        format!("1/{ARCHIVE_SHARE} of that"),
        format!("{MAX_DISK_QUOTA_FACTOR} times its memory"),
        format!("{} MiB of an upload", UPLOAD_STEP_BYTES >> 20),
        format!("{MAX_DISK_RESERVE} MB of reserve"),
        format!("{MAX_BLOCK_STREAMS} transfers of devices"),
        format!("{MAX_BLOCK_STREAMS_OF_TENANT} transfers of a tenant's devices"),
        format!("{MAX_BLOCK_SIZE} MB in a block device"),
        format!("{MAX_BLOCK_DEVICES} block devices of a tenant"),
        format!("{} downloads of images", host::MAX_IMAGES),
        format!(
            "{} downloads of a tenant's images",
            host::MAX_IMAGES_OF_TENANT
        ),
        format!("{MAX_WAITING} requests for one name"),
        format!("{MAX_POLICIES} policies below a path"),
        format!("{MAX_POLICIES} remembered tenants"),
        format!("{} of newer certificates", time(AGE_STEP)),
        format!(
            "{} clients reserved for root",
            host::CLIENT_LIMITS.reserved()
        ),
        format!("{} clients of one user", host::CLIENT_LIMITS.per_user()),
        format!("{} for the first byte", time(socket::FIRST_BYTE_TIMEOUT)),
        format!("{} for a request", time(host::IDLE)),
        format!(
            "{} for {} of an answer",
            time(host::IDLE),
            size(host::ANSWER_STEP)
        ),
        format!(
            "{} in a removed file",
            size(usize::try_from(host::LARGE_FILE).unwrap())
        ),
        format!("{} in a report", size(transfer::MAX_REPORT)),
        format!(
            "{} for {} of content",
            time(transfer::TRANSFER_TIMEOUT),
            size(transfer::STEP)
        ),
        format!("{} MB of address space", host::ADDRESS_SPACE_SLACK),
        format!("{} MB of address space", host::MACHINE_SLACK),
        format!("{MACHINE_MEMORY_SLACK} MB and a {SLACK_PART}nd"),
        format!("{} for a loader", time(bhyve::LOAD_DEADLINE)),
        format!("{} to destroy a machine", time(bhyve::DESTROY_DEADLINE)),
        format!("{} between checks", time(host::VANISHING_STEP)),
        format!("{machine_devices} of a machine"),
        partition,
        format!("{} open files", host::OPEN_FILES),
        "0 bytes of core".to_owned(),
        format!("{} process for spt", host::SPT_PROCESSES),
        format!("{} processes for hvt", host::HVT_PROCESSES),
        format!("{MEMORY_SLACK} MB and a {SLACK_PART}nd"),
        format!("{} as the OOM score", host::OOM_SCORE),
        format!("{} for a starting process", time(RECORD_TIMEOUT)),
        format!("{} for another supervisor", time(LOCK_TIMEOUT)),
        format!("{MAX_STARTING} starts by petreld itself"),
        format!("{MAX_ENDED_IN_PATH} ended unikernels of a path"),
        format!("{MAX_ENDED} ended unikernels"),
        format!("{} for requests at SIGHUP", time(host::RELOAD_DEADLINE)),
        format!("{MAX_PASSED_OVER} skipped users"),
        format!("{} between checks of taps", time(host::TAP_INTERVAL)),
        format!("{} of quiet", time(host::RELOAD_STEP)),
        format!("{} before a state is rewritten", time(SAVE_RETRY)),
        format!("{} to stop", time(STOP_DEADLINE)),
        format!("{} to stop a machine", time(MACHINE_STOP_DEADLINE)),
        format!("{} between refused connects", time(socket::REFUSED_STEP)),
        format!("{} of refused connections", time(socket::REFUSAL_TIMEOUT)),
        format!("{} before a restart", time(restart::SHORTEST_WAIT)),
        format!("{} before a restart", time(restart::LONGEST_WAIT)),
        format!("{} of a stable run", time(restart::STABLE)),
        format!(
            "{} for a console reply",
            time(host::CONSOLE_DEADLINE) // ANSWER_DEADLINE
        ),
        format!(
            "{} between console connects",
            time(host::CONSOLE_RETRY) // RETRY
        ),
        format!("{} in a console message", size(MAX_MESSAGE)),
        format!(
            "{} for a statistics reply",
            time(host::STATISTICS_REPLY_TIMEOUT)
        ),
        format!(
            "{} of queued statistics",
            size(host::MAX_STATISTICS_WAITING)
        ),
        format!("{} for a tender's version", time(host::PROBE_DEADLINE)),
        format!("{} between version checks", time(host::PROBE_PAUSE)),
        memory,
        devices.clone(),
        arguments,
        headers.clone(),
        format!("{MAX_ENTRIES} entries in a manifest"),
        label.clone(),
    ];
    let endpoint = vec![
        format!("{} connections", endpoint::MAX_CONNECTIONS),
        format!(
            "{} connections of one tenant",
            endpoint::MAX_CONNECTIONS / endpoint::TENANTS
        ),
        format!("{} for a connection", time(endpoint::SLOT_TIMEOUT)),
        format!(
            "{}/{} of connections for streams",
            endpoint::COMMAND_PART - 1,
            endpoint::COMMAND_PART
        ),
        format!(
            "{}/{} for streams and transfers",
            endpoint::SHORT_COMMAND_PART - 1,
            endpoint::SHORT_COMMAND_PART
        ),
        format!("{} handshakes", endpoint::MAX_HANDSHAKES),
        format!(
            "{} handshakes of one address",
            endpoint::MAX_HANDSHAKES / endpoint::SOURCES
        ),
        format!("{} between checks of certificates", time(endpoint::RECHECK)),
        format!("{MAX_CERTIFICATES} certificates from a client"),
        format!("{} waiting connections", endpoint::BACKLOG),
        format!("{} for the handshake", time(endpoint::HANDSHAKE_TIMEOUT)),
        format!(
            "{} for {} of an upload",
            time(endpoint::IDLE_TIMEOUT),
            size(endpoint::UPLOAD_STEP)
        ),
        format!("{} for an answer", time(endpoint::IDLE_TIMEOUT)),
        format!("{} pause", time(endpoint::SHORTAGE)),
        format!("{} for a daemon to accept", time(endpoint::DAEMON_CONNECT)),
        format!("{} for a daemon to answer", time(endpoint::DAEMON_TIMEOUT)),
        format!("{} for the last message", time(endpoint::CLOSE_TIMEOUT)),
        format!("{} of draining an upload", time(endpoint::LINGER.time)),
        format!("{} of draining an upload", size(endpoint::LINGER.bytes)),
        format!("{} of draining", time(endpoint::SHORT_LINGER.time)),
        format!("{} of draining", size(endpoint::SHORT_LINGER.bytes)),
        format!("{} s before a keep-alive", endpoint::KEEP_ALIVE_IDLE_S),
        format!("{} s between keep-alives", endpoint::KEEP_ALIVE_INTERVAL_S),
        chunk,
        format!("{} in a reply to policies", size(MAX_MESSAGE)),
        intermediates,
        format!("{MAX_PATH} certificates in a path"),
        handshake,
        label,
        format!("{} in an image", size(MAX_IMAGE)),
        format!("{} in a key file", size(MAX_KEY_FILE)),
        format!("{} in a CRL file", size(MAX_CRL_FILE)),
        format!(
            "{} days before an expiry",
            endpoint::EXPIRY_NOTICE.as_secs() / 86_400
        ),
        format!("{} CRLs", endpoint::MAX_CRLS),
    ];
    let mut console = vec![
        format!("{} lines of a console", ring::LINES),
        format!("{} of a console", size(ring::BYTES)),
        format!("{} bytes in a line", lines::MAX_LINE),
        format!("{} consoles", registry::MAX_CONSOLES),
        format!("{} subscribers of a console", registry::SUBSCRIBERS),
        format!("{} waiting subscriptions", registry::MAX_WAITING),
        format!("{} subscriptions", registry::MAX_SUBSCRIPTIONS),
        format!("{} subscriptions of a tenant", registry::MAX_OF_TENANT),
        format!("{} connections", console::MAX_CONNECTIONS),
        format!("{} in a request", size(socket::MAX_REQUEST)),
        format!("{} of queued answers", size(console::MAX_QUEUE)),
        format!(
            "{} of lines for a subscriber",
            size(console::MAX_WAITING_LINES)
        ),
        format!("{} a second of a console", size(archive::RATE)),
        format!("{} of a console at once", size(archive::BURST)),
        format!("{} pause", time(archive::PAUSE)),
        format!("{} MiB in a file of a console", log_directory::LOG_SIZE),
        format!("{} files of a console", log_directory::LOG_FILES),
        format!("{} MiB of files of a tenant", log_quota::LOG_TENANT),
        format!("{} for a file of an ended console", size(log_quota::LEAST)),
        format!("{} tenants with a bound", archive::MAX_BOUNDS),
        format!("{} for the rest of a request", time(socket::WRITE_TIMEOUT)),
        format!("{} pause", time(daemon::ACCEPT_PAUSE)),
    ];
    let mut statistics = vec![
        format!("{} processes", observed::MAX_OBSERVED),
        format!("{} network devices", Config::MAX_DEVICES),
        format!("{} bytes in an interface name", collect::MAX_INTERFACE),
        format!("{} of a file in /proc", size(collect::MAX_TEXT)),
        format!("{} subscriptions of a tenant", stats::MAX_OF_TENANT),
        format!("{} connections", stats::MAX_CONNECTIONS),
        format!("{} in a request", size(socket::MAX_REQUEST)),
        format!("{} queued for a subscriber", size(stats::MAX_BACKLOG)),
        format!("{} queued for a client", size(stats::MAX_QUEUE)),
        format!("{} for the rest of a request", time(socket::WRITE_TIMEOUT)),
        format!("{} pause", time(daemon::ACCEPT_PAUSE)),
        format!("{} for an introduction", time(socket::ANSWER)),
        format!("{} before the first retry", time(daemon::RETRY_FIRST)),
        format!("{} between retries", time(socket::LONGEST_RETRY)),
        format!("{} for a supervisor reply", time(stats::DETAILS)),
        format!("{} in a supervisor reply", size(stats::MAX_DETAILS)),
    ];
    for (manual, limits) in [
        (&mut console, console::CONNECTION_LIMITS),
        (&mut statistics, stats::CONNECTION_LIMITS),
    ] {
        manual.extend([
            format!("{} connections reserved for root", limits.reserved()),
            format!("{} connections of one user", limits.per_user()),
            format!("{} for the first byte", time(socket::FIRST_BYTE_TIMEOUT)),
            format!("{} between two requests", time(socket::IDLE_TIMEOUT)),
        ]);
        assert!(endpoint::MAX_CONNECTIONS <= limits.per_user());
    }
    let exporter = vec![
        format!("{} lines", influx::LINES),
        format!("{} lines to buffer", influx::MAX_LINES),
        format!("{} in a line", size(buffer::MAX_LINE)),
        format!("{} of lines", size(buffer::MAX_BATCH)),
        format!("{} in an answer", size(http::MAX_ANSWER)),
        format!("{} in a token", size(influx::MAX_TOKEN)),
        format!("{} addresses of a name", influx::MAX_ADDRESSES),
        format!("{} to look up a name", time(influx::LOOK_UP)),
        format!("{} to connect", time(influx::CONNECT)),
        format!("{} to send", time(influx::EXCHANGE)),
        format!("{} between retries", time(influx::LONGEST_RETRY)),
        format!("{} for a subscription", time(socket::ANSWER)),
        format!("{} between reconnects", time(socket::LONGEST_RETRY)),
        format!("{} in a statistics message", size(MAX_MESSAGE)),
    ];
    // Whoever has the option.
    let rounds = [
        format!(
            "{} between rounds of self-metrics",
            time(self_metrics::INTERVAL)
        ),
        format!("{} lines of self-metrics", self_metrics::MAX_LINES),
    ];
    for page in [&mut supervisor, &mut console, &mut statistics] {
        page.extend(rounds.clone());
    }
    let one_request = vec![
        format!("{} in a request", size(metrics_http::MAX_REQUEST)),
        format!("{} in the file", size(metrics_http::MAX_FILE)),
        format!("{} for all of it", time(metrics_http::REQUEST_TIMEOUT)),
        format!("{} of age", time(metrics_http::AGE)),
    ];
    let tender = vec![
        devices,
        format!("{} bytes in the name of a device", tender::MAX_DEVICE_NAME),
        format!(
            "{} bytes in the name of an interface",
            tender::MAX_INTERFACE_NAME
        ),
        format!("{} bytes of arguments", tender::MAX_GUEST_ARGUMENTS),
        headers,
        format!("{} of memory below the image", size(plan::LOWEST_ADDRESS)),
        format!("{} pages", size(plan::PAGE_SIZE)),
    ];
    vec![
        ("petrel.1", client),
        ("petreld.8", supervisor),
        ("petrel-tls.8", endpoint),
        ("petrel-console.8", console),
        ("petrel-stats.8", statistics),
        ("petrel-influx.8", exporter),
        ("petrel-metrics.8", one_request),
        ("petrel-spt.1", tender),
    ]
}

/// A size in the largest unit that fits evenly.
fn size(bytes: impl TryInto<u64>) -> String {
    let bytes = bytes.try_into().ok().unwrap();
    let (unit, name) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes % unit == 0)
        .unwrap_or((1, "bytes"));
    format!("{} {name}", bytes / unit)
}

fn time(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

fn path(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(page)
}

fn read(page: &str) -> String {
    fs::read_to_string(path(page)).unwrap_or_else(|error| panic!("man/{page}: {error}"))
}

/// What lies between `start` and the next `end`, or the end of the text.
fn part<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("there is no {start:?}"));
    rest.split_once(end).map_or(rest, |(part, _)| part)
}

/// The long options that have an entry.
fn items(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with(".It Fl "))
        .flat_map(long_options)
        .collect()
}

/// The long options that turn up anywhere in a page: they are marked as arguments of `Fl`.
fn mentioned(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('.'))
        .flat_map(long_options)
        .collect()
}

/// The words of a line of mdoc(7) that `Fl` makes long options.
fn long_options(line: &str) -> impl Iterator<Item = String> {
    let mut flags = false;
    line.trim_start_matches('.')
        .split_whitespace()
        .filter_map(move |word| {
            if word == "Fl" {
                flags = true;
            } else if word.starts_with(char::is_uppercase) && word.len() == 2 {
                flags = false;
            }
            let name = word.strip_prefix('-')?.trim_end_matches(['=', ':']);
            (flags && name.len() > 1).then(|| format!("--{name}"))
        })
}

/// The long options in a program's help.
fn help(program: &str, command: &[&str]) -> BTreeSet<String> {
    help_text(program, command)
        .lines()
        .filter(|line| line.starts_with("  -"))
        .map(|line| {
            let option = line
                .split_whitespace()
                .take(2)
                .find(|word| word.starts_with("--"));
            let end = |c: char| [':', '=', ','].contains(&c);
            let option = option.unwrap_or_else(|| panic!("{program}: {line}"));
            option.split(end).next().unwrap().to_owned()
        })
        .collect()
}

/// What a program says to `--help`, on either output.
fn help_text(program: &str, command: &[&str]) -> String {
    let ended = run(Command::new(program).args(command).arg("--help"));
    assert!(
        ended.stdout.is_empty() != ended.stderr.is_empty(),
        "{program}: {ended:?}"
    );
    ended.stdout + &ended.stderr
}

/// The tender is a program only where it works.
fn has_tender(page: &str) -> bool {
    page != "petrel-spt.1" || cfg!(all(target_os = "linux", target_arch = "x86_64"))
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}
