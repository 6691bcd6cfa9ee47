//! Commands, policies and configurations in words.

use sha2::{Digest as _, Sha256};

use super::page::{Page, hex, quoted, time};
use crate::chain::route;
use crate::inflate::{Arriving, InflateError};
use crate::policy::{Policy, UNLIMITED, list};
use crate::unikernel::{Config, FailBehaviour, Kind};
use crate::wire::{
    self, Arguments, BlockCommand, Bytes, Command, ConsoleCommand, PolicyCommand, Restart,
    SinceCount, StatsCommand, Typ, UnikernelCommand,
};

/// Most bytes of an unpacked image that are looked at: no host takes more.
const LARGEST_IMAGE: u64 = crate::unikernel::MAX_IMAGE;

/// A command with all its parameters.
pub(super) fn command(page: &mut Page, command: &Command) {
    let heading = format!("command: {}", route(command).kind);
    page.group(heading, |page| match command {
        Command::Unikernel(command) => unikernel(page, command),
        Command::Policy(PolicyCommand::Add(add)) => policy(page, add),
        Command::Policy(PolicyCommand::SetChain(chain)) => {
            for dated in chain {
                policy(page, &dated.policy);
            }
        }
        Command::Block(command) => block(page, command),
        Command::Console(ConsoleCommand::Subscribe(from)) => history(page, from),
        Command::Console(ConsoleCommand::Read(read)) => {
            history(page, &read.from);
            page.field("live lines", if read.follow { "yes" } else { "no" });
        }
        Command::Console(ConsoleCommand::Add(count)) => page.field("consoles", count.get()),
        Command::Statistics(StatsCommand::Add(add)) => {
            page.field("process", add.pid.get());
            if !add.vmmdev.0.is_empty() {
                page.field("vmm device", quoted(&add.vmmdev.0));
            }
            for device in &add.network {
                let device = format!("{} on {}", quoted(&device.bridge.0), quoted(&device.tap.0));
                page.field("network device", device);
            }
        }
        Command::Console(ConsoleCommand::Inactive(()))
        | Command::Policy(PolicyCommand::Info(()) | PolicyCommand::Remove(()))
        | Command::Statistics(_) => {}
    });
}

fn history(page: &mut Page, from: &SinceCount) {
    match from {
        SinceCount::Since(since) => page.field("lines since", time(since.seconds())),
        SinceCount::Count(count) => page.field("newest lines", count.get()),
    }
}

fn unikernel(page: &mut Page, command: &UnikernelCommand) {
    use UnikernelCommand as U;
    match command {
        U::Create(config) | U::ForceCreate(config) => create(page, config),
        U::Restart(Restart::NoArguments(())) => page.line("with the arguments that it has"),
        U::Restart(Restart::NewArguments(arguments)) => {
            page.line("with these arguments instead of those that it has");
            wire_config(page, &with_arguments(arguments.clone()), false);
        }
        U::Get(level) => page.field("compression level", level.get()),
        U::Destroy(())
        | U::Stop(())
        | U::Start(())
        | U::Rollback(())
        | U::Info(())
        | U::Details(())
        | U::InfoOld4(())
        | U::InfoOld5(()) => {}
    }
}

/// Everything of a record, with its image.
pub(super) fn create(page: &mut Page, config: &wire::Config) {
    wire_config(page, config, true);
    let image = &config.image.0;
    if image.is_empty() {
        match config.typ {
            Typ::Solo5(()) if config.compressed => page.field("image", "sent along, compressed"),
            Typ::Solo5(()) => page.field("image", "sent along"),
            Typ::Bhyve(()) => {}
        }
        return;
    }
    let packed = if config.compressed { " compressed" } else { "" };
    match digest(image, config.compressed) {
        Ok(digest) => page.field(
            "image",
            format!("inside, {}{packed} bytes, SHA-256 {digest}", image.len()),
        ),
        Err(why) => page.field("image", format!("inside, cannot be unpacked: {why}")),
    }
}

/// The digest of an image, unpacked.
fn digest(image: &[u8], compressed: bool) -> Result<String, InflateError> {
    let mut digest = Sha256::new();
    let mut arriving = Arriving::new(compressed, LARGEST_IMAGE);
    arriving.write(image, |plain| {
        digest.update(plain);
        Ok::<_, InflateError>(())
    })?;
    arriving.finish()?;
    Ok(hex(&digest.finalize()))
}

fn with_arguments(arguments: Arguments) -> wire::Config {
    wire::Config {
        typ: Typ::Solo5(()),
        compressed: false,
        image: Bytes(Vec::new()),
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

fn wire_config(page: &mut Page, record: &wire::Config, with_kind: bool) {
    match Config::try_from(record) {
        Ok(config) => {
            if with_kind {
                page.field("kind", config.kind);
            }
            self::config(page, &config);
        }
        Err(error) => page.field("makes no sense", error),
    }
}

/// Everything of a configuration but its kind.
pub(super) fn config(page: &mut Page, config: &Config) {
    page.field("CPU ids", list(&config.cpus));
    page.field("memory", format_args!("{} MB", config.memory));
    for block in &config.blocks {
        let sector = block
            .sector_size
            .map(|bytes| format!(", sectors of {bytes} bytes"));
        page.field(
            "block device",
            format_args!(
                "{} -> {}{}",
                block.device,
                block.host_device(),
                sector.unwrap_or_default()
            ),
        );
    }
    for net in &config.nets {
        let mac = net.mac.map(|mac| format!(", hardware address {mac}"));
        page.field(
            "network device",
            format_args!(
                "{} -> {}{}",
                net.device,
                net.bridge(),
                mac.unwrap_or_default()
            ),
        );
    }
    if config.add_name {
        page.field("argument", "--name=NAME, added by the host");
    }
    for argument in &config.arguments {
        page.field("argument", quoted(argument));
    }
    page.field(
        "when it ends",
        match &config.fail_behaviour {
            FailBehaviour::Quit => "it stays down".to_owned(),
            FailBehaviour::Restart(codes) if codes.is_empty() => "it is restarted".to_owned(),
            FailBehaviour::Restart(codes) => {
                format!("it is restarted after the exit codes {}", list(codes))
            }
        },
    );
    if let Some(place) = config.startup {
        page.field("start order", place);
    }
    if config.kind == Kind::Bhyve || config.vcpus != 1 {
        page.field("virtual CPUs", config.vcpus);
    }
    if let Some(partition) = &config.linux_boot_partition {
        page.field("boot partition", partition);
    }
}

fn policy(page: &mut Page, policy: &wire::Policy) {
    page.field("policy", policy_text(policy));
}

/// A policy in one line, as a record.
pub(super) fn policy_text(policy: &wire::Policy) -> String {
    match Policy::try_from(policy) {
        Ok(policy) => in_words(&policy),
        Err(error) => format!("makes no sense: {error}"),
    }
}

/// A policy in one line.
pub(super) fn in_words(policy: &Policy) -> String {
    let block = match policy.block {
        Some(megabytes) => format!("{megabytes} MB of block storage"),
        None => "no block devices".to_owned(),
    };
    let bridges = if policy.bridges.is_empty() {
        "no bridges".to_owned()
    } else {
        format!("bridges {}", list(&policy.bridges))
    };
    let unikernels = match policy.unikernels {
        UNLIMITED => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    format!(
        "{unikernels} unikernels; {} MB of memory; CPU ids {}; {block}; {bridges}",
        policy.memory,
        list(&policy.cpus)
    )
}

fn block(page: &mut Page, command: &BlockCommand) {
    let compression = |compressed| if compressed { "compressed" } else { "as it is" };
    let sent_along = |compressed| format!("sent along, {}", compression(compressed));
    match command {
        BlockCommand::Add(size) => page.field("size", format_args!("{} MB", size.get())),
        BlockCommand::AddOld(add) => {
            page.field("size", format_args!("{} MB", add.size.get()));
            if let Some(data) = &add.data {
                let content = format!("{} bytes, {}", data.0.len(), compression(add.compress));
                page.field("content", content);
            }
        }
        BlockCommand::SetOld(set) => {
            let content = format!("{} bytes, {}", set.data.0.len(), compression(set.compress));
            page.field("content", content);
        }
        BlockCommand::AddFilled(add) => {
            page.field("size", format_args!("{} MB", add.size.get()));
            page.field("content", sent_along(add.compressed));
        }
        BlockCommand::Set(compressed) => page.field("content", sent_along(*compressed)),
        BlockCommand::Dump(level) | BlockCommand::DumpOld(level) => {
            page.field("compression level", level.get());
        }
        BlockCommand::Info(()) | BlockCommand::Remove(()) => {}
    }
}
