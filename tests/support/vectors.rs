//! The recorded vectors: where they are, how their JSON and the records of the wire stand for each other.
//!
//! `message`, `command` and so on make records of JSON; `show_…` make JSON of records.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use petrel::name::Name;
use petrel::wire::legacy::{BlockAdd, BlockSet, InfoV5};
use petrel::wire::{
    Arguments, Block3, BlockCommand, BlockData, BlockDevice, BlockInfo, BridgeTap, Bytes,
    CertExtension, Command, Config, ConsoleCommand, ConsoleData, Data, FailBehaviour, Header,
    IfData, Image, Info, Int, Int32, Int64, KInfoMem, MacAddress, Message, NamedInfo, NamedInfo4,
    NamedInfo5, NamedPolicy, Net3, NetInfo, Payload, Policy, PolicyCommand, RUsage, Restart, Set,
    SinceCount, Statistics, StatsAdd, StatsCommand, Success, Text, TimeVal, Timestamp, Typ,
    UnikernelCommand, VmmStat,
};
use serde_json::{Map, Value, json};

/// The directory of the vectors.
pub fn directory() -> PathBuf {
    env::var_os("PETREL_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"),
        PathBuf::from,
    )
}

/// The files of the directory that tests read, and the test that does.
const READ: [(&str, &str); 15] = [
    ("cert_extension.json", "wire"),
    ("chains/chains.json", "chains"),
    ("chains/refused.json", "chains"),
    ("compress.json", "decisions"),
    ("console.json", "console_ring"),
    ("mac.json", "decisions"),
    ("names.json", "decisions"),
    ("policy.json", "decisions"),
    ("restart.json", "decisions"),
    ("state.json", "wire"),
    ("state_daemon.json", "wire"),
    ("wire.json", "wire"),
    ("wire_decode_only.json", "wire"),
    ("wire_encode_error.json", "wire"),
    ("wire_reject.json", "wire"),
];

/// Whether the vectors are those of the project, and not of another directory that a user names.
fn are_ours() -> bool {
    env::var_os("PETREL_VECTORS").is_none()
}

/// Fails if a test is named that does not read its file, or the project has a file that no test reads. Such a file of
/// another directory is reported as skipped.
pub fn assert_all_are_read() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pure");
    for (file, test) in READ {
        let source = fs::read_to_string(tests.join(format!("{test}.rs"))).unwrap();
        assert!(
            source.contains(&format!("load(\"{file}\")")),
            "{test}.rs does not read {file}"
        );
    }
    for below in ["", "chains/"] {
        let Ok(entries) = fs::read_dir(directory().join(below)) else {
            assert!(!are_ours(), "'{below}' is missing");
            continue;
        };
        for entry in entries {
            let name = format!("{below}{}", entry.unwrap().file_name().display());
            if name.ends_with(".json") && !READ.iter().any(|(file, _)| *file == name) {
                assert!(!are_ours(), "no test reads {name}");
                skipped(&name, "no test reads this file");
            }
        }
    }
}

/// Prints that a part of the vectors was not compared; `contrib/check.sh` collects these lines.
pub fn skipped(what: &str, why: &str) {
    use std::io::Write;
    // Past the capture of the test harness, which only catches the macros.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

/// The entries of a file: at least one, unless another directory than the project's lacks the file.
pub fn load(file: &str) -> Vec<Value> {
    assert!(
        READ.iter().any(|(read, _)| *read == file),
        "{file} is not in the list"
    );
    let path = directory().join(file);
    if !are_ours() && !path.exists() {
        skipped(file, "the directory of vectors has no such file");
        return Vec::new();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(
        !entries.is_empty() || !are_ours(),
        "{} is empty",
        path.display()
    );
    entries
}

/// The id of an entry.
pub fn id(entry: &Value) -> &str {
    entry["id"].as_str().unwrap()
}

/// The bytes of a text in hexadecimal.
pub fn from_hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The bytes in hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The kind of a refusal by a rule that albatross does not have: equal to any kind that is recorded.
pub const OWN_RULE: &str = "a rule of Petrel";

/// Judges entries, of which Petrel answers some differently on purpose: those of which a rule says so.
#[derive(Default)]
pub struct Differences {
    failures: Vec<String>,
}

impl Differences {
    /// Judges one entry: `Err` says how Petrel answers differently.
    pub fn judge(&mut self, id: &str, outcome: Result<(), String>) {
        self.judge_by_rule(id, outcome, None);
    }

    /// Judges one entry, or one step of it, that is answered differently exactly if a rule says so: its reason.
    pub fn judge_by_rule(&mut self, id: &str, outcome: Result<(), String>, rule: Option<&str>) {
        match (outcome, rule) {
            (Ok(()), None) => {}
            (Err(how), Some(why)) => println!("{id}: differs on purpose ({why}): {how}"),
            (Err(how), None) => self.failures.push(format!("{id}: {how}")),
            (Ok(()), Some(why)) => self
                .failures
                .push(format!("{id}: should differ ({why}), but agrees")),
        }
    }

    /// Fails if anything differs without a rule, or agrees in spite of one.
    pub fn finish(self) {
        let count = self.failures.len();
        assert!(
            count == 0,
            "{count} failures:\n{}",
            self.failures.join("\n")
        );
    }
}

/// `Ok` if both are the same, else what they are.
pub fn same(what: &str, actual: &Value, expected: &Value) -> Result<(), String> {
    if actual == expected {
        return Ok(());
    }
    let (path, actual, expected) = first_difference(actual, expected, String::new());
    let short = |value: &Value| value.to_string().chars().take(160).collect::<String>();
    let (actual, expected) = (short(actual), short(expected));
    Err(format!("{what}{path} is {actual}, expected {expected}"))
}

fn first_difference<'a>(
    actual: &'a Value,
    expected: &'a Value,
    path: String,
) -> (String, &'a Value, &'a Value) {
    match (actual, expected) {
        (Value::Object(a), Value::Object(e)) if a.keys().eq(e.keys()) => a
            .iter()
            .find(|(key, value)| *value != &e[*key])
            .map(|(key, value)| first_difference(value, &e[key], format!("{path}.{key}"))),
        (Value::Array(a), Value::Array(e)) if a.len() == e.len() => a
            .iter()
            .zip(e)
            .enumerate()
            .find(|(_, (a, e))| a != e)
            .map(|(at, (a, e))| first_difference(a, e, format!("{path}[{at}]"))),
        _ => None,
    }
    .unwrap_or((path, actual, expected))
}

// From JSON.

fn kind(value: &Value) -> &str {
    value["type"].as_str().unwrap()
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap()
}

fn list<T>(value: &Value, item: impl FnMut(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(item).collect()
}

fn optional<T>(value: &Value, read: impl FnOnce(&Value) -> T) -> Option<T> {
    (!value.is_null()).then(|| read(value))
}

/// A number that lies in the range of an INTEGER.
pub fn int(value: &Value) -> Int {
    let number = value.as_i64().unwrap();
    let int = Int::new(number);
    assert_eq!(int.get(), number);
    int
}

fn int64(value: &Value) -> Int64 {
    Int64(value.as_i64().unwrap())
}

/// An INTEGER field with 32 bits.
fn int32(value: &Value) -> Int32 {
    Int32(value.as_i64().unwrap())
}

/// The bytes under `field`, `field_hex`, or repeated.
pub fn bytes(object: &Value, field: &str) -> Option<Vec<u8>> {
    if let Some(repeated) = object[field].as_object() {
        let byte = from_hex(repeated["repeat"].as_str().unwrap())[0];
        let length = usize::try_from(repeated["len"].as_u64().unwrap()).unwrap();
        return Some(vec![byte; length]);
    }
    object[format!("{field}_hex")].as_str().map(from_hex)
}

/// The text under `field`, or its bytes under `field_hex`.
pub fn text(object: &Value, field: &str) -> Text {
    optional_text(object, field).unwrap()
}

fn optional_text(object: &Value, field: &str) -> Option<Text> {
    match object[field].as_str() {
        Some(text) => Some(text.into()),
        None => object[format!("{field}_hex")]
            .as_str()
            .map(|hex| Text(from_hex(hex))),
    }
}

/// A text within a list.
fn item_text(value: &Value) -> Text {
    match value.as_str() {
        Some(text) => text.into(),
        None => Text(from_hex(value["hex"].as_str().unwrap())),
    }
}

/// A time.
pub fn time(value: &Value) -> Timestamp {
    let fraction = value["frac_ps"].as_u64().unwrap();
    Timestamp::from_unix(value["unix_s"].as_i64().unwrap(), fraction)
}

fn mac(value: &Value) -> MacAddress {
    let bytes: Vec<u8> = value
        .as_str()
        .unwrap()
        .split(':')
        .flat_map(from_hex)
        .collect();
    MacAddress(bytes.try_into().unwrap())
}

fn typ(value: &Value) -> Typ {
    match value.as_str() {
        Some("solo5") => Typ::Solo5(()),
        Some("bhyve") => Typ::Bhyve(()),
        _ => panic!("{value}"),
    }
}

fn fail_behaviour(value: &Value) -> FailBehaviour {
    match kind(value) {
        "quit" => FailBehaviour::Quit(()),
        "restart" => {
            let codes = optional(&value["exit_codes"], |codes| list(codes, int));
            FailBehaviour::RestartExitCodes(Set::sorted(codes.unwrap_or_default()))
        }
        other => panic!("{other}"),
    }
}

fn set<T: rasn::Encode>(value: &Value, item: impl FnMut(&Value) -> T) -> Option<Set<T>> {
    let items = list(value, item);
    (!items.is_empty()).then(|| Set::sorted(items))
}

fn block(value: &Value) -> Block3 {
    Block3 {
        block_name: text(value, "name"),
        block_device_name: optional_text(value, "device"),
        block_sector_size: optional(&value["sector_size"], int),
    }
}

fn net(value: &Value) -> Net3 {
    Net3 {
        netif: text(value, "name"),
        bridge: optional_text(value, "bridge"),
        mac: optional(&value["mac"], mac),
    }
}

fn argv(value: &Value) -> Option<Vec<Text>> {
    optional(&value["argv"], |argv| list(argv, item_text))
}

/// A unikernel to create.
pub fn config(value: &Value) -> Config {
    let arguments = arguments(value);
    Config {
        typ: typ(&value["typ"]),
        compressed: flag(&value["compressed"]),
        image: Bytes(bytes(value, "image").unwrap()),
        startup: arguments.startup,
        add_name: arguments.add_name,
        fail_behaviour: arguments.fail_behaviour,
        cpuids: arguments.cpuids,
        memory: arguments.memory,
        blocks: arguments.blocks,
        bridges: arguments.bridges,
        arguments: arguments.arguments,
        cpus: arguments.cpus,
        linux_boot_partition: arguments.linux_boot_partition,
    }
}

/// What a restart may change.
pub fn arguments(value: &Value) -> Arguments {
    Arguments {
        fail_behaviour: fail_behaviour(&value["fail_behaviour"]),
        startup: optional(&value["startup"], int),
        add_name: flag(&value["add_name"]),
        cpuids: Set::sorted(list(&value["cpuids"], int)),
        memory: int(&value["memory"]),
        blocks: set(&value["block_devices"], block),
        bridges: set(&value["bridges"], net),
        arguments: argv(value),
        cpus: Some(int(&value["numcpus"])),
        linux_boot_partition: optional_text(value, "linux_boot_partition"),
    }
}

/// A policy.
pub fn policy(value: &Value) -> Policy {
    Policy {
        cpuids: list(&value["cpuids"], int),
        unikernels: int(&value["unikernels"]),
        memory: int(&value["memory"]),
        block: optional(&value["block"], int),
        bridges: list(&value["bridges"], item_text),
    }
}

/// A request.
pub fn command(value: &Value) -> Command {
    use Command::{Block, Console, Policy, Statistics, Unikernel};
    let level = || int(&value["compression_level"]);
    let compressed = || flag(&value["compressed"]);
    match kind(value) {
        "console_add" => Console(ConsoleCommand::Add(int(&value["count"]))),
        "console_subscribe" => Console(ConsoleCommand::Subscribe(
            optional(&value["since"], time).map_or_else(
                || SinceCount::Count(int(&value["count"])),
                SinceCount::Since,
            ),
        )),
        "console_list_inactive" => Console(ConsoleCommand::Inactive(())),
        "stats_add" => Statistics(StatsCommand::Add(StatsAdd {
            vmmdev: text(value, "vmmdev"),
            pid: int(&value["pid"]),
            network: list(&value["taps"], |tap| BridgeTap {
                bridge: text(tap, "bridge"),
                tap: text(tap, "tap"),
            }),
        })),
        "stats_remove" => Statistics(StatsCommand::Remove(())),
        "stats_subscribe" => Statistics(StatsCommand::Subscribe(())),
        "stats_initial" => Statistics(StatsCommand::Initial(())),
        "unikernel_info" => Unikernel(UnikernelCommand::Info(())),
        "old_unikernel_info4" => Unikernel(UnikernelCommand::InfoOld4(())),
        "old_unikernel_info5" => Unikernel(UnikernelCommand::InfoOld5(())),
        "unikernel_destroy" => Unikernel(UnikernelCommand::Destroy(())),
        "unikernel_get" => Unikernel(UnikernelCommand::Get(level())),
        "unikernel_create" => Unikernel(UnikernelCommand::Create(config(&value["config"]))),
        "unikernel_force_create" => {
            Unikernel(UnikernelCommand::ForceCreate(config(&value["config"])))
        }
        "unikernel_restart" => Unikernel(UnikernelCommand::Restart(
            optional(&value["arguments"], arguments)
                .map_or(Restart::NoArguments(()), Restart::NewArguments),
        )),
        "policy_info" => Policy(PolicyCommand::Info(())),
        "policy_add" => Policy(PolicyCommand::Add(policy(&value["policy"]))),
        "policy_remove" => Policy(PolicyCommand::Remove(())),
        "block_info" => Block(BlockCommand::Info(())),
        "block_add" => Block(BlockCommand::Add(int(&value["size"]))),
        "block_remove" => Block(BlockCommand::Remove(())),
        "block_set" => Block(BlockCommand::Set(compressed())),
        "block_dump" => Block(BlockCommand::Dump(level())),
        "old_block_dump" => Block(BlockCommand::DumpOld(level())),
        "old_block_add" => Block(BlockCommand::AddOld(BlockAdd {
            size: int(&value["size"]),
            compress: compressed(),
            data: bytes(value, "data").map(Bytes),
        })),
        "old_block_set" => Block(BlockCommand::SetOld(BlockSet {
            compress: compressed(),
            data: Bytes(bytes(value, "data").unwrap()),
        })),
        other => panic!("command {other}"),
    }
}

/// A running unikernel, as it is told today.
pub fn info(value: &Value) -> Info {
    Info {
        typ: typ(&value["typ"]),
        startup: optional(&value["startup"], int),
        fail_behaviour: fail_behaviour(&value["fail_behaviour"]),
        cpuids: Set::sorted(list(&value["cpuids"], int)),
        memory: int(&value["memory"]),
        digest: Bytes(bytes(value, "digest").unwrap()),
        blocks: set(&value["block_devices"], |block| BlockInfo {
            unikernel_device: text(block, "unikernel_device"),
            host_device: text(block, "host_device"),
            sector_size: int(&block["sector_size"]),
            block_size: int(&block["size"]),
        }),
        bridges: set(&value["bridges"], |net| NetInfo {
            unikernel_device: text(net, "unikernel_device"),
            host_device: text(net, "host_device"),
            mac: mac(&net["mac"]),
        }),
        arguments: argv(value),
        started: Some(time(&value["started"])),
        cpus: Some(int(&value["numcpus"])),
        linux_boot_partition: optional_text(value, "linux_boot_partition"),
    }
}

fn old_info(value: &Value) -> InfoV5 {
    InfoV5::of(info(value)).expect("a processor")
}

/// A reply.
pub fn success(value: &Value) -> Success {
    let image = || Image {
        compressed: flag(&value["compressed"]),
        image: Bytes(bytes(value, "image").unwrap()),
    };
    match kind(value) {
        "empty" => Success::Empty(()),
        "string" => Success::String(text(value, "value")),
        "policies" => Success::Policies(list(&value["policies"], |named| NamedPolicy {
            name: text(named, "name"),
            policy: policy(&named["policy"]),
        })),
        "block_devices" => {
            Success::BlockDevices(list(&value["block_devices"], |device| BlockDevice {
                name: text(device, "name"),
                size: int(&device["size"]),
                active: flag(&device["active"]),
            }))
        }
        "unikernel_image" => Success::UnikernelImage(image()),
        "old_block_device_image" => Success::OldBlockDeviceImage(image()),
        "block_device_image" => Success::BlockDeviceImage(flag(&value["compressed"])),
        "consoles" => Success::Consoles(list(&value["names"], item_text)),
        "unikernel_info" => Success::UnikernelInfo(list(&value["unikernels"], |named| NamedInfo {
            name: text(named, "name"),
            info: info(&named["info"]),
        })),
        "old_unikernel_info5" => {
            Success::OldUnikernelInfo5(list(&value["unikernels"], |named| NamedInfo5 {
                name: text(named, "name"),
                info: old_info(&named["info"]),
            }))
        }
        "old_unikernel_info4" => {
            Success::OldUnikernelInfo4(list(&value["unikernels"], |named| NamedInfo4 {
                name: text(named, "name"),
                info: old_info(&named["info"]).into(),
            }))
        }
        other => panic!("success {other}"),
    }
}

fn time_val(value: &Value) -> TimeVal {
    TimeVal {
        seconds: int64(&value["seconds"]),
        microseconds: int(&value["microseconds"]),
    }
}

/// Makes a record of JSON whose fields have the record's names, and JSON of the record.
macro_rules! by_field {
    ($read:ident, $show:ident, $type:ident { $($field:ident: $from:ident, $to:ident;)* }) => {
        fn $read(value: &Value) -> $type {
            $type { $($field: $from(&value[stringify!($field)]),)* }
        }

        fn $show(record: &$type) -> Value {
            object([$((stringify!($field), $to(&record.$field)),)*])
        }
    };
}

by_field!(rusage, show_rusage, RUsage {
    utime: time_val, show_time_val;
    stime: time_val, show_time_val;
    maxrss: int64, show_int64;
    ixrss: int64, show_int64;
    idrss: int64, show_int64;
    isrss: int64, show_int64;
    minflt: int64, show_int64;
    majflt: int64, show_int64;
    nswap: int64, show_int64;
    inblock: int64, show_int64;
    outblock: int64, show_int64;
    msgsnd: int64, show_int64;
    msgrcv: int64, show_int64;
    nsignals: int64, show_int64;
    nvcsw: int64, show_int64;
    nivcsw: int64, show_int64;
});

by_field!(kinfo_mem, show_kinfo_mem, KInfoMem {
    vsize: int64, show_int64;
    rss: int64, show_int64;
    tsize: int64, show_int64;
    dsize: int64, show_int64;
    ssize: int64, show_int64;
    runtime: int64, show_int64;
    cow: int, show_int;
    start: time_val, show_time_val;
});

by_field!(ifdata, show_ifdata, IfData {
    bridge: item_text, show_item_text;
    flags: int32, show_int32;
    send_length: int32, show_int32;
    max_send_length: int32, show_int32;
    send_drops: int32, show_int32;
    mtu: int32, show_int32;
    baudrate: int64, show_int64;
    input_packets: int64, show_int64;
    input_errors: int64, show_int64;
    output_packets: int64, show_int64;
    output_errors: int64, show_int64;
    collisions: int64, show_int64;
    input_bytes: int64, show_int64;
    output_bytes: int64, show_int64;
    input_mcast: int64, show_int64;
    output_mcast: int64, show_int64;
    input_dropped: int64, show_int64;
    output_dropped: int64, show_int64;
});

/// A piece of a stream.
pub fn data(value: &Value) -> Data {
    match kind(value) {
        "stats_data" => Data::Statistics(Box::new(Statistics {
            resource_usage: rusage(&value["rusage"]),
            ifdata: list(&value["ifdata"], ifdata),
            vmm_stats: optional(&value["vmm"], |vmm| {
                list(vmm, |stat| VmmStat {
                    key: text(stat, "key"),
                    value: int64(&stat["value"]),
                })
            }),
            kinfo_mem: optional(&value["kinfo_mem"], kinfo_mem),
        })),
        "console_data" => Data::Console(ConsoleData {
            timestamp: time(&value["timestamp"]),
            data: text(value, "line"),
        }),
        "block_data" => Data::Block(
            bytes(value, "data").map_or(BlockData::End(()), |bytes| BlockData::Some(Bytes(bytes))),
        ),
        other => panic!("data {other}"),
    }
}

/// A message.
pub fn message(value: &Value) -> Message {
    let payload = &value["payload"];
    Message {
        header: Header {
            version: int(&value["version"]),
            sequence: int64(&value["sequence"]),
            name: text(value, "name"),
        },
        payload: match kind(payload) {
            "command" => Payload::Command(command(&payload["command"])),
            "success" => Payload::Reply(success(&payload["success"])),
            "failure" => Payload::Failure(text(payload, "message")),
            "data" => Payload::Data(data(&payload["data"])),
            other => panic!("payload {other}"),
        },
    }
}

/// The value of a certificate extension.
pub fn extension(value: &Value) -> CertExtension {
    CertExtension {
        version: int(&value["version"]),
        command: command(&value["command"]),
    }
}

// To JSON.

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect::<Map<_, _>>()
        .into()
}

fn show_list<T>(items: &[T], show: impl Fn(&T) -> Value) -> Value {
    items.iter().map(show).collect::<Vec<_>>().into()
}

fn show_optional<T>(item: Option<&T>, show: impl Fn(&T) -> Value) -> Value {
    item.map_or(Value::Null, show)
}

fn show_int(int: &Int) -> Value {
    int.get().into()
}

fn show_int64(number: &Int64) -> Value {
    number.0.into()
}

fn show_int32(number: &Int32) -> Value {
    number.bits().cast_signed().into()
}

fn show_item_text(text: &Text) -> Value {
    text.as_str()
        .map_or_else(|| json!({"hex": to_hex(&text.0)}), Value::from)
}

/// Sets `field` to a text, or `field_hex` where it is none.
pub fn put_text(object: &mut Value, field: &str, text: &Text) {
    match text.as_str() {
        Some(text) => object[field] = text.into(),
        None => object[format!("{field}_hex")] = to_hex(&text.0).into(),
    }
}

/// Sets `field` to a text or null.
fn put_optional_text(object: &mut Value, field: &str, text: Option<&Text>) {
    match text {
        Some(text) => put_text(object, field, text),
        None => object[field] = Value::Null,
    }
}

/// Sets `field_hex`, or `field` to a repetition where the vectors have one.
fn put_bytes(object: &mut Value, field: &str, bytes: Option<&Bytes>) {
    let Some(Bytes(bytes)) = bytes else {
        object[format!("{field}_hex")] = Value::Null;
        return;
    };
    match bytes.first() {
        Some(first) if bytes.len() > 4096 && bytes.iter().all(|byte| byte == first) => {
            object[field] = json!({"repeat": to_hex(&[*first]), "len": bytes.len()});
        }
        _ => object[format!("{field}_hex")] = to_hex(bytes).into(),
    }
}

/// A name in its canonical text; what is no name is shown as it is.
fn show_name(text: &Text) -> Value {
    petrel::wire::domain::name(text).map_or_else(
        |_| show_item_text(text),
        |name: Name| name.to_string().into(),
    )
}

/// A time.
pub fn show_time(time: &Timestamp) -> Value {
    json!({
        "unix_s": time.seconds(),
        "frac_ps": u64::from(time.milliseconds()) * 1_000_000_000,
    })
}

/// The value without what is there for readers only.
pub fn comparable(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("rfc3339");
            for (_, field) in fields.iter_mut() {
                *field = comparable(field.take());
            }
        }
        Value::Array(items) => {
            for item in items.iter_mut() {
                *item = comparable(item.take());
            }
        }
        _ => {}
    }
    value
}

fn show_mac(mac: &MacAddress) -> Value {
    petrel::unikernel::Mac(mac.0).to_string().into()
}

fn show_typ(typ: &Typ) -> Value {
    match typ {
        Typ::Solo5(()) => "solo5".into(),
        Typ::Bhyve(()) => "bhyve".into(),
    }
}

/// Numbers of a mathematical set: ascending, each once.
fn show_numbers(numbers: &[Int]) -> Value {
    let numbers: BTreeSet<i64> = numbers.iter().map(|number| number.get()).collect();
    numbers.into_iter().collect::<Vec<_>>().into()
}

fn show_fail_behaviour(fail_behaviour: &FailBehaviour) -> Value {
    match fail_behaviour {
        FailBehaviour::Quit(()) => json!({"type": "quit"}),
        FailBehaviour::RestartExitCodes(codes) if codes.items().is_empty() => {
            json!({"type": "restart", "exit_codes": null})
        }
        FailBehaviour::RestartExitCodes(codes) => {
            json!({"type": "restart", "exit_codes": show_numbers(codes.items())})
        }
    }
}

fn show_set<T>(set: Option<&Set<T>>, show: impl Fn(&T) -> Value) -> Value {
    show_list(set.map(Set::items).unwrap_or_default(), show)
}

fn show_block(block: &Block3) -> Value {
    let mut shown =
        json!({"sector_size": show_optional(block.block_sector_size.as_ref(), show_int)});
    put_text(&mut shown, "name", &block.block_name);
    put_optional_text(&mut shown, "device", block.block_device_name.as_ref());
    shown
}

fn show_net(net: &Net3) -> Value {
    let mut shown = json!({"mac": show_optional(net.mac.as_ref(), show_mac)});
    put_text(&mut shown, "name", &net.netif);
    put_optional_text(&mut shown, "bridge", net.bridge.as_ref());
    shown
}

fn show_argv(argv: Option<&Vec<Text>>) -> Value {
    show_optional(argv, |argv| show_list(argv, show_item_text))
}

fn show_numcpus(cpus: Option<Int>) -> Value {
    cpus.map_or(1, Int::get).into()
}

/// What a restart may change.
pub fn show_arguments(arguments: &Arguments) -> Value {
    let mut shown = json!({
        "fail_behaviour": show_fail_behaviour(&arguments.fail_behaviour),
        "startup": show_optional(arguments.startup.as_ref(), show_int),
        "add_name": arguments.add_name,
        "cpuids": show_numbers(arguments.cpuids.items()),
        "memory": show_int(&arguments.memory),
        "block_devices": show_set(arguments.blocks.as_ref(), show_block),
        "bridges": show_set(arguments.bridges.as_ref(), show_net),
        "argv": show_argv(arguments.arguments.as_ref()),
        "numcpus": show_numcpus(arguments.cpus),
    });
    let partition = arguments.linux_boot_partition.as_ref();
    put_optional_text(&mut shown, "linux_boot_partition", partition);
    shown
}

/// A unikernel to create.
pub fn show_config(config: &Config) -> Value {
    let mut shown = show_arguments(&Arguments {
        fail_behaviour: config.fail_behaviour.clone(),
        startup: config.startup,
        add_name: config.add_name,
        cpuids: config.cpuids.clone(),
        memory: config.memory,
        blocks: config.blocks.clone(),
        bridges: config.bridges.clone(),
        arguments: config.arguments.clone(),
        cpus: config.cpus,
        linux_boot_partition: config.linux_boot_partition.clone(),
    });
    shown["typ"] = show_typ(&config.typ);
    shown["compressed"] = config.compressed.into();
    put_bytes(&mut shown, "image", Some(&config.image));
    shown
}

/// A policy.
pub fn show_policy(policy: &Policy) -> Value {
    let bridges: BTreeSet<&Text> = policy.bridges.iter().collect();
    json!({
        "unikernels": show_int(&policy.unikernels),
        "cpuids": show_numbers(&policy.cpuids),
        "memory": show_int(&policy.memory),
        "block": show_optional(policy.block.as_ref(), show_int),
        "bridges": bridges.into_iter().map(show_item_text).collect::<Vec<_>>(),
    })
}

fn typed(kind: &str) -> Value {
    json!({"type": kind})
}

fn typed_with(kind: &str, field: &str, value: Value) -> Value {
    let mut shown = typed(kind);
    shown[field] = value;
    shown
}

/// A request.
pub fn show_command(command: &Command) -> Value {
    match command {
        Command::Console(ConsoleCommand::Add(count)) => {
            typed_with("console_add", "count", show_int(count))
        }
        Command::Console(ConsoleCommand::Subscribe(SinceCount::Since(since))) => {
            typed_with("console_subscribe", "since", show_time(since))
        }
        Command::Console(ConsoleCommand::Subscribe(SinceCount::Count(count))) => {
            typed_with("console_subscribe", "count", show_int(count))
        }
        Command::Console(ConsoleCommand::Inactive(())) => typed("console_list_inactive"),
        // Only Petrel's own peers send it, and no vector has it.
        Command::Console(ConsoleCommand::Read(_)) => typed("ours"),
        Command::Statistics(command) => show_stats_command(command),
        Command::Unikernel(command) => show_unikernel_command(command),
        Command::Policy(PolicyCommand::Info(())) => typed("policy_info"),
        Command::Policy(PolicyCommand::Add(policy)) => {
            typed_with("policy_add", "policy", show_policy(policy))
        }
        Command::Policy(PolicyCommand::Remove(())) => typed("policy_remove"),
        Command::Policy(PolicyCommand::SetChain(_)) => typed("ours"),
        Command::Block(command) => show_block_command(command),
    }
}

fn show_stats_command(command: &StatsCommand) -> Value {
    match command {
        StatsCommand::Add(add) => {
            let mut shown = typed("stats_add");
            put_text(&mut shown, "vmmdev", &add.vmmdev);
            shown["pid"] = show_int(&add.pid);
            shown["taps"] = show_list(&add.network, |network| {
                let mut shown = json!({});
                put_text(&mut shown, "bridge", &network.bridge);
                put_text(&mut shown, "tap", &network.tap);
                shown
            });
            shown
        }
        StatsCommand::Remove(()) => typed("stats_remove"),
        StatsCommand::Subscribe(()) => typed("stats_subscribe"),
        StatsCommand::Initial(()) => typed("stats_initial"),
    }
}

fn show_unikernel_command(command: &UnikernelCommand) -> Value {
    let create = |config: &Config| typed_with("unikernel_create", "config", show_config(config));
    let force =
        |config: &Config| typed_with("unikernel_force_create", "config", show_config(config));
    let restart = |arguments| typed_with("unikernel_restart", "arguments", arguments);
    match command {
        UnikernelCommand::Destroy(()) => typed("unikernel_destroy"),
        UnikernelCommand::Create(config) => create(config),
        UnikernelCommand::ForceCreate(config) => force(config),
        UnikernelCommand::Get(level) => {
            typed_with("unikernel_get", "compression_level", show_int(level))
        }
        UnikernelCommand::Restart(Restart::NoArguments(())) => restart(Value::Null),
        UnikernelCommand::Restart(Restart::NewArguments(arguments)) => {
            restart(show_arguments(arguments))
        }
        UnikernelCommand::InfoOld4(()) => typed("old_unikernel_info4"),
        UnikernelCommand::InfoOld5(()) => typed("old_unikernel_info5"),
        UnikernelCommand::Info(()) => typed("unikernel_info"),
        UnikernelCommand::Stop(())
        | UnikernelCommand::Start(())
        | UnikernelCommand::Rollback(())
        | UnikernelCommand::Details(()) => typed("ours"),
    }
}

fn show_block_command(command: &BlockCommand) -> Value {
    match command {
        BlockCommand::Info(()) => typed("block_info"),
        BlockCommand::Add(size) => typed_with("block_add", "size", show_int(size)),
        BlockCommand::Remove(()) => typed("block_remove"),
        BlockCommand::AddOld(old) => {
            let mut shown = typed_with("old_block_add", "size", show_int(&old.size));
            shown["compressed"] = old.compress.into();
            put_bytes(&mut shown, "data", old.data.as_ref());
            shown
        }
        BlockCommand::SetOld(old) => {
            let mut shown = typed_with("old_block_set", "compressed", old.compress.into());
            put_bytes(&mut shown, "data", Some(&old.data));
            shown
        }
        BlockCommand::DumpOld(level) => {
            typed_with("old_block_dump", "compression_level", show_int(level))
        }
        BlockCommand::Dump(level) => typed_with("block_dump", "compression_level", show_int(level)),
        BlockCommand::Set(compressed) => {
            typed_with("block_set", "compressed", (*compressed).into())
        }
        BlockCommand::AddFilled(_) => typed("ours"),
    }
}

/// A running unikernel.
pub fn show_info(info: &Info) -> Value {
    let mut shown = json!({
        "typ": show_typ(&info.typ),
        "startup": show_optional(info.startup.as_ref(), show_int),
        "fail_behaviour": show_fail_behaviour(&info.fail_behaviour),
        "cpuids": show_numbers(info.cpuids.items()),
        "memory": show_int(&info.memory),
        "block_devices": show_set(info.blocks.as_ref(), |block| {
            let mut shown = json!({
                "sector_size": show_int(&block.sector_size),
                "size": show_int(&block.block_size),
            });
            put_text(&mut shown, "unikernel_device", &block.unikernel_device);
            put_text(&mut shown, "host_device", &block.host_device);
            shown
        }),
        "bridges": show_set(info.bridges.as_ref(), |net| {
            let mut shown = json!({"mac": show_mac(&net.mac)});
            put_text(&mut shown, "unikernel_device", &net.unikernel_device);
            put_text(&mut shown, "host_device", &net.host_device);
            shown
        }),
        "argv": show_argv(info.arguments.as_ref()),
        "started": info.started.as_ref().map_or_else(
            || show_time(&Timestamp::from_unix(0, 0)),
            show_time,
        ),
        "numcpus": show_numcpus(info.cpus),
    });
    put_bytes(&mut shown, "digest", Some(&info.digest));
    let partition = info.linux_boot_partition.as_ref();
    put_optional_text(&mut shown, "linux_boot_partition", partition);
    shown
}

/// A reply.
pub fn show_success(success: &Success) -> Value {
    let unikernels = |kind, unikernels| typed_with(kind, "unikernels", unikernels);
    let named =
        |name: &Text, info: &Info| json!({"name": show_name(name), "info": show_info(info)});
    let image = |kind, image: &Image| {
        let mut shown = typed_with(kind, "compressed", image.compressed.into());
        put_bytes(&mut shown, "image", Some(&image.image));
        shown
    };
    match success {
        Success::Empty(()) => typed("empty"),
        Success::String(text) => {
            let mut shown = typed("string");
            put_text(&mut shown, "value", text);
            shown
        }
        Success::Policies(policies) => typed_with(
            "policies",
            "policies",
            show_list(
                policies,
                |named| json!({"name": show_name(&named.name), "policy": show_policy(&named.policy)}),
            ),
        ),
        Success::BlockDevices(devices) => typed_with(
            "block_devices",
            "block_devices",
            show_list(devices, |device| {
                json!({
                    "name": show_name(&device.name),
                    "size": show_int(&device.size),
                    "active": device.active,
                })
            }),
        ),
        Success::UnikernelImage(content) => image("unikernel_image", content),
        Success::OldBlockDeviceImage(content) => image("old_block_device_image", content),
        Success::BlockDeviceImage(compressed) => {
            typed_with("block_device_image", "compressed", (*compressed).into())
        }
        Success::OldUnikernelInfo4(all) => unikernels(
            "old_unikernel_info4",
            show_list(all, |one| named(&one.name, &one.info.clone().into())),
        ),
        Success::OldUnikernelInfo5(all) => unikernels(
            "old_unikernel_info5",
            show_list(all, |one| named(&one.name, &one.info.clone().into())),
        ),
        Success::UnikernelInfo(all) => unikernels(
            "unikernel_info",
            show_list(all, |one| named(&one.name, &one.info)),
        ),
        Success::Consoles(names) => typed_with("consoles", "names", show_list(names, show_name)),
        Success::UnikernelDetails(_) | Success::ChainSet(_) => typed("ours"),
    }
}

fn show_time_val(time: &TimeVal) -> Value {
    json!({"seconds": show_int64(&time.seconds), "microseconds": show_int(&time.microseconds)})
}

/// A piece of a stream.
pub fn show_data(data: &Data) -> Value {
    match data {
        Data::Statistics(statistics) => {
            let mut shown = typed("stats_data");
            shown["rusage"] = show_rusage(&statistics.resource_usage);
            shown["ifdata"] = show_list(&statistics.ifdata, show_ifdata);
            shown["vmm"] = show_optional(statistics.vmm_stats.as_ref(), |stats| {
                show_list(stats, |stat| {
                    let mut shown = json!({"value": show_int64(&stat.value)});
                    put_text(&mut shown, "key", &stat.key);
                    shown
                })
            });
            shown["kinfo_mem"] = show_optional(statistics.kinfo_mem.as_ref(), show_kinfo_mem);
            shown
        }
        Data::Console(line) => {
            let mut shown = typed_with("console_data", "timestamp", show_time(&line.timestamp));
            put_text(&mut shown, "line", &line.data);
            shown
        }
        Data::Block(BlockData::Some(bytes)) => {
            let mut shown = typed("block_data");
            put_bytes(&mut shown, "data", Some(bytes));
            shown
        }
        Data::Block(BlockData::End(())) => {
            let mut shown = typed("block_data");
            put_bytes(&mut shown, "data", None);
            shown
        }
    }
}

/// A message.
pub fn show_message(message: &Message) -> Value {
    let payload = match &message.payload {
        Payload::Command(command) => typed_with("command", "command", show_command(command)),
        Payload::Reply(success) => typed_with("success", "success", show_success(success)),
        Payload::Failure(text) => {
            let mut shown = typed("failure");
            put_text(&mut shown, "message", text);
            shown
        }
        Payload::Data(data) => typed_with("data", "data", show_data(data)),
    };
    json!({
        "version": show_int(&message.header.version),
        "sequence": show_int64(&message.header.sequence),
        "name": show_name(&message.header.name),
        "payload": payload,
    })
}

/// The value of a certificate extension.
pub fn show_extension(extension: &CertExtension) -> Value {
    json!({
        "version": show_int(&extension.version),
        "command": show_command(&extension.command),
    })
}
