//! What Petrel decides against recorded vectors: names, addresses, policies and their accounting, restarts, and
//! what is a compressed image.

use crate::support::vectors;

use std::collections::BTreeMap;

use flate2::{Decompress, FlushDecompress, Status};
use petrel::inflate::{Arriving, InflateError};
use petrel::name::{Label, Name, Path};
use petrel::policy::{Excess, Policy, UNLIMITED, Unusable};
use petrel::supervisor::restart::{Decision, decide};
use petrel::supervisor::{BlockDevices, BlockRefusal, Claim, Ledger, Refusal};
use petrel::unikernel::{Block, Config, Death, Mac};
use serde_json::{Value, json};
use sha2::Digest as _;
use vectors::{Differences, OWN_RULE, from_hex, id, load, same, to_hex};

const NUMBERS: &str = "negative or absurd numbers, and no processor, are refused";
const EVERY_LEVEL: &str = "accounting at every level, root included";
const ONLY_ABOVE: &str =
    "a policy that is smaller than what is below it is accepted, and bounds it";
const OWN_NODES: &str = "names and paths are different things";
const ONE_STEP: &str = "what cannot be started is not admitted either";

#[test]
fn names_are_read_and_written_as_recorded() {
    let mut differences = Differences::default();
    for entry in load("names.json") {
        let input = match entry["input"].as_str() {
            Some(text) => Some(text.to_owned()),
            // What is no UTF-8 is refused before it is looked at as a name.
            None => entry["input_hex"]
                .as_str()
                .and_then(|hex| String::from_utf8(from_hex(hex)).ok()),
        };
        let parsed = match entry["kind"].as_str().unwrap() {
            "name" => input.and_then(|text| text.parse().ok().map(|name| show_name(&name))),
            "path" => input.and_then(|text| text.parse().ok().map(|path| show_path(&path))),
            "label" => input.and_then(|text| {
                let label: Label = text.parse().ok()?;
                Some(label.as_str().into())
            }),
            "drop_prefix" => {
                let name: Name = entry["name"].as_str().unwrap().parse().unwrap();
                let prefix = entry["prefix"].as_str().unwrap().parse().unwrap();
                name.relative_to(&prefix)
                    .map(|name| name.to_string().into())
            }
            other => panic!("kind {other}"),
        };
        let result = match (parsed, entry["result"].get("ok")) {
            (Some(parsed), Some(ok)) => same("the result", &parsed, ok),
            (None, None) => Ok(()),
            (Some(parsed), None) => Err(format!("accepted as {parsed}")),
            (None, Some(_)) => Err("refused".to_owned()),
        };
        differences.judge(id(&entry), result);
    }
    differences.finish();
}

fn show_name(name: &Name) -> Value {
    let labels: Vec<&str> = name.path().labels().iter().map(Label::as_str).collect();
    let alone = match name.label() {
        Some(label) => Name::new(Path::ROOT, label.clone()),
        None => Path::ROOT.into(),
    };
    json!({
        "canonical": name.to_string(),
        "path": name.path().joined(),
        "path_labels": labels,
        "label": name.label().map(Label::as_str),
        "is_root": *name == Name::default(),
        "drop_path": alone.to_string(),
        "drop_label": Name::from(name.path().clone()).to_string(),
        "parent_path": name.path().parent().unwrap_or_default().joined(),
    })
}

fn show_path(path: &Path) -> Value {
    let labels: Vec<&str> = path.labels().iter().map(Label::as_str).collect();
    json!({
        "canonical": path.joined(),
        "labels": labels,
        "is_root": path.is_root(),
        "parent": path.parent().unwrap_or_default().joined(),
    })
}

#[test]
fn hardware_addresses_are_derived_as_recorded() {
    for entry in load("mac.json") {
        let name: Name = entry["name"].as_str().unwrap().parse().unwrap();
        assert_eq!(name.to_string(), entry["canonical"], "{}", id(&entry));
        let mac = Mac::derived(entry["bridge"].as_str().unwrap(), &name);
        assert_eq!(mac.to_string(), entry["mac"], "{}", id(&entry));
    }
}

#[test]
fn unikernels_are_restarted_as_recorded() {
    let mut differences = Differences::default();
    for entry in load("restart.json") {
        let restarts = entry["fail_behaviour"]["type"] == "restart";
        let mut record = sample();
        record["fail_behaviour"] = entry["fail_behaviour"].clone();
        record["add_name"] = false.into();
        let config = Config::try_from(&vectors::config(&record)).unwrap();
        let code = entry["exit"]["code"].as_i64().unwrap();
        let (death, rule) = match entry["exit"]["type"].as_str().unwrap() {
            "exit" => (Some(Death::Exit(u8::try_from(code).unwrap())), None),
            "signal" => (
                Some(Death::Signal(i32::try_from(code).unwrap())),
                restarts.then_some("death by a signal nobody asked for is a failure"),
            ),
            // A process that is stopped has not ended: nothing is decided.
            "stop" => (None, None),
            other => panic!("exit {other}"),
        };
        let again = death.is_some_and(|death| decide(&config, death) == Decision::Again);
        let outcome = same("restart", &again.into(), &entry["restart"]);
        differences.judge_by_rule(id(&entry), outcome, rule);
    }
    differences.finish();
}

/// A unikernel to create, in the terms of the vectors.
fn sample() -> Value {
    json!({
        "typ": "solo5", "compressed": false, "image_hex": "", "startup": null, "add_name": true,
        "fail_behaviour": {"type": "quit"}, "cpuids": [0], "memory": 32, "block_devices": [],
        "bridges": [], "argv": null, "numcpus": 1, "linux_boot_partition": null,
    })
}

/// Uncompresses in pieces of `size`, at most `limit` bytes.
fn uncompress(bytes: &[u8], size: usize, limit: u64) -> Result<Vec<u8>, InflateError> {
    let mut arriving = Arriving::new(true, limit);
    let mut plain = Vec::new();
    for piece in bytes.chunks(size) {
        arriving.write(piece, |bytes| {
            assert!(bytes.len() <= 1 << 16);
            plain.extend_from_slice(bytes);
            Ok::<_, InflateError>(())
        })?;
    }
    arriving.finish().map(|()| plain)
}

/// Whether a zlib stream ends before the bytes do.
fn is_followed(bytes: &[u8]) -> bool {
    let mut stream = Decompress::new(true);
    let mut plain = vec![0; 1 << 24];
    let status = stream.decompress(bytes, &mut plain, FlushDecompress::Finish);
    matches!(status, Ok(Status::StreamEnd)) && stream.total_in() < bytes.len() as u64
}

#[test]
fn compressed_images_are_taken_as_recorded() {
    let mut differences = Differences::default();
    for entry in load("compress.json") {
        let compressed = bytes_of_hex(&entry);
        for size in [1, 7, 1 << 16] {
            let result = uncompress(&compressed, size, 1 << 24);
            let outcome = match (entry["albatross"].as_str().unwrap(), &result) {
                ("accept", Ok(plain)) => compare_plain(&entry, plain),
                ("reject", Err(_)) => Ok(()),
                (_, result) => Err(format!("{:?}", result.as_ref().map(Vec::len))),
            };
            let rule = (entry["albatross"] == "accept" && is_followed(&compressed))
                .then_some("bytes after the end of a zlib stream are refused");
            differences.judge_by_rule(id(&entry), outcome, rule);
        }
    }
    differences.finish();
}

fn bytes_of_hex(entry: &Value) -> Vec<u8> {
    from_hex(entry["hex"].as_str().unwrap())
}

fn compare_plain(entry: &Value, plain: &[u8]) -> Result<(), String> {
    let Some(length) = entry["plain_len"].as_u64() else {
        return Ok(());
    };
    same("the length", &plain.len().into(), &length.into())?;
    let digest = to_hex(&sha2::Sha256::digest(plain));
    same("the digest", &digest.into(), &entry["plain_sha256"])
}

#[test]
fn a_small_stream_that_becomes_large_is_cut_off_early() {
    let entries = load("compress.json");
    let accepted = entries
        .iter()
        .filter(|entry| entry["albatross"] == "accept")
        .filter(|entry| !is_followed(&bytes_of_hex(entry)));
    let lengths = accepted.filter_map(|entry| Some((entry["plain_len"].as_u64()?, entry)));
    let Some((length, largest)) = lengths.max_by_key(|(length, _)| *length) else {
        return vectors::skipped("cutting off a stream", "no vector says how long it becomes");
    };
    let compressed = bytes_of_hex(largest);
    assert!(uncompress(&compressed, 1 << 16, length).is_ok());
    assert!(uncompress(&compressed, 1 << 16, length - 1).is_err());
}

/// A policy as the house has it; `None` where its numbers make no sense.
fn policy(value: &Value) -> Option<Policy> {
    Policy::try_from(&vectors::policy(value)).ok()
}

fn excess_kind(excess: &Excess) -> &'static str {
    match excess {
        Excess::Unikernels(..) => "unikernels",
        Excess::Memory(..) => "memory",
        Excess::Cpus(_) => "cpuids",
        Excess::Bridges(_) => "bridges",
        Excess::Block(..) => "block",
    }
}

/// The kinds of error of a step, compared as recorded.
fn like_recorded(entry: &Value, result: Result<(), &str>) -> Result<(), String> {
    match (entry["ok"].as_bool().unwrap(), result) {
        (true, Ok(())) => Ok(()),
        (false, Err(OWN_RULE)) => Ok(()),
        (false, Err(kind)) => same("the error", &kind.into(), &entry["error_kind"]),
        (ok, result) => Err(format!("{result:?}, expected ok: {ok}")),
    }
}

#[test]
fn policies_are_judged_as_recorded() {
    let mut differences = Differences::default();
    let mut steps = 0;
    for entry in load("policy.json") {
        let id = id(&entry);
        match entry["kind"].as_str().unwrap() {
            "is_smaller" => {
                let judged = policy(&entry["sub"]).zip(policy(&entry["super"]));
                let outcome = match &judged {
                    Some((sub, upper)) => {
                        let within = sub.within(upper);
                        like_recorded(&entry, within.map_err(|excess| excess_kind(&excess)))
                    }
                    None => Err("refused for its numbers".to_owned()),
                };
                differences.judge_by_rule(id, outcome, judged.is_none().then_some(NUMBERS));
            }
            "usable" => {
                let result = match policy(&entry["policy"]) {
                    Some(policy) => policy.usable().map_err(|why| match why {
                        Unusable::NoUnikernels => "unikernels",
                        Unusable::NoCpus => "cpuids",
                        Unusable::TooLittleMemory => "memory",
                    }),
                    // Which number it is that makes no sense is not told apart.
                    None => Err(entry["error_kind"].as_str().unwrap_or("numbers")),
                };
                differences.judge(id, like_recorded(&entry, result));
            }
            "fine_with_policy" => fine_with_policy(&mut differences, &entry),
            "resources" => steps += resources(&mut differences, &entry),
            other => panic!("kind {other}"),
        }
    }
    println!("{steps} steps of accounting");
    differences.finish();
}

/// A unikernel that is alone at a path with a policy.
fn fine_with_policy(differences: &mut Differences, entry: &Value) {
    let path: Path = "foo".parse().unwrap();
    let judged = policy(&entry["policy"]).zip(config(&entry["config"]));
    let outcome = match &judged {
        Some((policy, config)) => {
            // Their number is no part of this question.
            let policy = Policy {
                unikernels: UNLIMITED,
                ..policy.clone()
            };
            let ledger: Ledger = [(path.clone(), policy)].into_iter().collect();
            let result = ledger.admit(&path, &Claim::of(config), &[]);
            let kind = result.map_err(|refusal| match refusal {
                Refusal::Memory(..) => "memory",
                refusal => refusal_kind(&refusal),
            });
            like_recorded(entry, kind)
        }
        None => Err("refused for its numbers".to_owned()),
    };
    let rule = judged.is_none().then_some(NUMBERS);
    differences.judge_by_rule(id(entry), outcome, rule);
}

/// A configuration as the house has it; `None` where it makes no sense.
fn config(value: &Value) -> Option<Config> {
    Config::try_from(&vectors::config(value)).ok()
}

fn refusal_kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unikernels(..) => "unikernel_limit",
        Refusal::Memory(..) => "memory_limit",
        Refusal::Block(..) => "block_limit",
        Refusal::Forbidden(_, Excess::Block(..)) => "block_not_allowed",
        Refusal::Forbidden(_, excess) | Refusal::Above(_, excess) => excess_kind(excess),
        Refusal::NoPolicy(_) | Refusal::TooMany(_) | Refusal::AllRemembered(_) => OWN_RULE,
    }
}

fn block_kind(refusal: &BlockRefusal) -> &'static str {
    match refusal {
        BlockRefusal::Exists(_) => "block_exists",
        BlockRefusal::Missing(..) | BlockRefusal::NoZvols(..) => "block_not_found",
        BlockRefusal::InUse(_) | BlockRefusal::ZvolInUse(_) => "block_in_use",
        BlockRefusal::Busy(_) | BlockRefusal::TooMany(_) => OWN_RULE,
    }
}

/// What the supervisor accounts for.
#[derive(Default)]
struct Tree {
    ledger: Ledger,
    devices: BlockDevices,
    unikernels: BTreeMap<Name, Config>,
}

/// Why a step was refused: the kind of error, and the path whose policy refuses.
type Refused = (&'static str, Option<Path>);

impl Tree {
    fn claims(&self) -> Vec<(&Name, Claim<'_>)> {
        let claims = self.unikernels.iter();
        claims
            .map(|(name, config)| (name, Claim::of(config)))
            .collect()
    }

    fn blocks(&self) -> impl Iterator<Item = (&Name, &[Block])> + Clone {
        let unikernels = self.unikernels.iter();
        unikernels.map(|(name, config)| (name, &config.blocks[..]))
    }

    /// Policies, then the name, then the block devices.
    fn check(&self, name: &Name, config: &Config) -> Result<(), Refused> {
        self.ledger
            .admit(name.path(), &Claim::of(config), &self.claims())
            .map_err(|refusal| refused(&refusal))?;
        self.check_unchecked(name, config)
    }

    /// The same without policies.
    fn check_unchecked(&self, name: &Name, config: &Config) -> Result<(), Refused> {
        if self.unikernels.contains_key(name) {
            return Err(("unikernel_exists", None));
        }
        self.devices
            .admit(name.path(), &config.blocks, &self.blocks())
            .map_err(|refusal| (block_kind(&refusal), None))
    }
}

fn refused(refusal: &Refusal) -> Refused {
    let at = match refusal {
        Refusal::Unikernels(at, ..)
        | Refusal::Memory(at, ..)
        | Refusal::Block(at, ..)
        | Refusal::Forbidden(at, _)
        | Refusal::Above(at, _) => Some(at.clone()),
        _ => None,
    };
    (refusal_kind(refusal), at)
}

/// Runs the steps of one entry; how many there are.
fn resources(differences: &mut Differences, entry: &Value) -> usize {
    let mut tree = Tree::default();
    let steps = entry["steps"].as_array().unwrap();
    for (number, step) in steps.iter().enumerate() {
        let id = format!("{}, step {}", id(entry), number + 1);
        let op = step["op"].as_str().unwrap();
        let name: Name = match step.get("path").or(step.get("name")) {
            Some(text) if op.ends_with("policy") => {
                text.as_str().unwrap().parse::<Path>().unwrap().into()
            }
            Some(text) => text.as_str().unwrap().parse().unwrap(),
            None => Name::default(),
        };
        let accepted = step["ok"].as_bool().unwrap();
        let zvol = entry["dev_zvol_path"].as_str().is_some_and(|directory| {
            let blocks = step["config"]["block_devices"].as_array();
            blocks.into_iter().flatten().any(|block| {
                let device = block["device"].as_str();
                device.is_some_and(|device| device.starts_with(directory))
            })
        });
        let mut rule =
            zvol.then_some("volumes of ZFS are not used before they are registered (W38)");
        let result: Result<(), Refused> = match op {
            "insert_policy" => match policy(&step["policy"]) {
                Some(policy) => {
                    let fits = tree.ledger.check_above(name.path(), &policy);
                    if accepted {
                        tree.ledger.set(name.path(), policy);
                    }
                    fits.map_err(|refusal| refused(&refusal))
                }
                None => Err(("numbers", None)),
            },
            // There is one reason not to remove these: they are not there.
            "remove_policy" | "remove_unikernel" => {
                let removed = match op {
                    "remove_policy" => tree.ledger.remove(name.path()).is_ok(),
                    _ => tree.unikernels.remove(&name).is_some(),
                };
                differences.judge(&id, same("ok", &removed.into(), &step["ok"]));
                continue;
            }
            "check_unikernel" | "insert_unikernel" => match config(&step["config"]) {
                Some(config) => {
                    let checked = if op == "check_unikernel" {
                        tree.check(&name, &config)
                    } else {
                        tree.check_unchecked(&name, &config)
                    };
                    if op == "insert_unikernel" && accepted {
                        tree.unikernels.insert(name.clone(), config);
                    }
                    checked
                }
                None => Err(("numbers", None)),
            },
            "unikernel_limit" => {
                let limit = match tree.ledger.at(name.path()) {
                    _ if name.path().is_root() => "unlimited".into(),
                    Some(policy) => policy.unikernels.into(),
                    None => 0.into(),
                };
                differences.judge(&id, same("the limit", &limit, &step["limit"]));
                continue;
            }
            "check_block" | "insert_block" => match step["size"].as_u64() {
                Some(size) => {
                    let mut devices = tree.devices.clone();
                    let added = devices
                        .add(name.clone(), size)
                        .map_err(|refusal| (block_kind(&refusal), None));
                    if op == "insert_block" {
                        if accepted {
                            tree.devices = devices;
                        }
                        added
                    } else {
                        added.and_then(|()| {
                            tree.ledger
                                .admit_block(name.path(), size, &tree.devices)
                                .map_err(|refusal| refused(&refusal))
                        })
                    }
                }
                None => Err(("numbers", None)),
            },
            "remove_block" => {
                let unikernels = tree.unikernels.clone();
                let blocks = unikernels.iter().map(|(n, config)| (n, &config.blocks[..]));
                let free = tree.devices.free(&name, blocks);
                free.map(|_| tree.devices.set(&name, None))
                    .map_err(|refusal| (block_kind(&refusal), None))
            }
            "find_block" => {
                let found = tree.devices.size(&name).map(|size| {
                    let free = tree.devices.free(&name, tree.blocks());
                    let active = free.is_err();
                    json!({"size": size, "active": active})
                });
                let expected = step.get("block").cloned().unwrap_or_default();
                differences.judge(&id, same("the device", &found.into(), &expected));
                continue;
            }
            other => panic!("{id}: no test knows the operation {other}"),
        };
        rule = rule.or_else(|| allowed_difference(&tree, step, &name, accepted, &result));
        let outcome = like_recorded(step, result.map_err(|(kind, _)| kind));
        differences.judge_by_rule(&id, outcome, rule);
    }
    steps.len()
}

/// Which rule says that a step is answered differently.
fn allowed_difference(
    tree: &Tree,
    step: &Value,
    name: &Name,
    accepted: bool,
    result: &Result<(), Refused>,
) -> Option<&'static str> {
    match (accepted, result) {
        (true, Err(("numbers", _))) => Some(NUMBERS),
        (true, Err((_, Some(at)))) if at != name.path() => Some(EVERY_LEVEL),
        (true, Err(("block_in_use", _))) if step["op"] == "check_unikernel" => Some(ONE_STEP),
        (false, Ok(())) if step["op"] == "insert_policy" => Some(ONLY_ABOVE),
        // Something is named like a path that counts it.
        (false, Ok(())) if named_like_a_path(tree, name) => Some(OWN_NODES),
        _ => None,
    }
}

/// Whether a unikernel has the labels of `name`, or of a path that `name` lies at or below.
fn named_like_a_path(tree: &Tree, name: &Name) -> bool {
    let as_path = |name: &Name| -> Path {
        let labels = name.path().labels().iter().chain(name.label());
        labels.cloned().collect()
    };
    let within = as_path(name);
    tree.unikernels
        .keys()
        .any(|other| other != name && within.is_within(&as_path(other)))
}
