//! Runs a guest: the order of everything that touches the host.

mod attach;
mod filter;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::personality::{self, Persona};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use crate::elf::{EM_X86_64, Elf, ElfError};
use crate::manifest::{Manifest, ManifestError, Target};
use crate::sys::descriptor;
use crate::sys::guest::{Memory, Protection, Sealed, restore_default_signals};
use crate::tender::ABI_VERSION;
use crate::tender::boot::{BOOT_INFO, BootInfo, low_memory};
use crate::tender::devices::{DeviceError, assign};
use crate::tender::options::{
    ArgumentsTooLong, CommandLine, MAX_GUEST_ARGUMENTS, OptionError, Options, join_arguments,
    parse_arguments,
};
use crate::tender::plan::{LoadPlan, PlanError, Segment};
use attach::{AttachError, Device};

/// What the guest sees as data of the timer's events.
const TIMER_EVENT: u64 = 0xffff_fffe;

const USAGE: &str = "\
usage: petrel-spt [options] [--] KERNEL [guest arguments]

Runs a Solo5 unikernel for the spt target (ABI version 2).

  --mem=N                          memory of the guest in MiB (default 512)
  --net:NAME=INTERFACE | @FD       attach tap INTERFACE, or the tap open at descriptor FD,
                                   as the network device NAME of the manifest
  --net-mac:NAME=AA:BB:CC:DD:EE:FF the address of network device NAME (default: random)
  --block:NAME=FILE                attach FILE as the block device NAME of the manifest
  --block-sector-size:NAME=N       the block size of NAME in bytes (default 512)
  --arguments=@FD                  take further guest arguments from the file open at descriptor FD,
                                   each with a zero byte at its end
  --x-exec-heap                    make all memory of the guest executable (dangerous)
  --help                           show this
  --version                        show the version

Compiled-in modules: core net block
";

/// The whole program. Ends by becoming the guest, or with exit code 1 and a line that says why.
pub fn main() -> ExitCode {
    match CommandLine::split(std::env::args_os().skip(1)) {
        CommandLine::Help => {
            eprint!("{USAGE}");
            ExitCode::FAILURE
        }
        CommandLine::Version => {
            let version = env!("CARGO_PKG_VERSION");
            eprintln!("petrel-spt tender, version {version}\nABI version {ABI_VERSION}");
            ExitCode::SUCCESS
        }
        CommandLine::NoKernel => {
            eprint!("petrel-spt: no KERNEL is given\n{USAGE}");
            ExitCode::FAILURE
        }
        CommandLine::Run {
            options,
            kernel,
            arguments,
        } => {
            let error = match run(&options, &kernel, &arguments) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            eprintln!("petrel-spt: {error}");
            if matches!(error, TenderError::Option(_)) {
                eprint!("{USAGE}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Why the guest could not be started.
#[derive(Debug)]
enum TenderError {
    Kernel(OsString, KernelError),
    Option(OptionError),
    Devices(DeviceError),
    Attach(AttachError),
    Arguments(ArgumentsTooLong),
    /// Guest memory, in MiB.
    Memory(u64, Errno),
    /// The process runs with `READ_IMPLIES_EXEC`.
    Personality,
    System(&'static str, Errno),
    Filter(seccompiler::Error),
}

/// What is wrong with the image.
#[derive(Debug)]
enum KernelError {
    Open(io::Error),
    Load(io::Error),
    Elf(ElfError),
    Manifest(ManifestError),
    Machine(u16),
    Target(Target),
    Version(u32),
    Plan(PlanError),
}

enum Never {}

fn run(
    options: &[OsString],
    kernel: &OsString,
    arguments: &[OsString],
) -> Result<Never, TenderError> {
    let bad_kernel = |error| TenderError::Kernel(kernel.clone(), error);

    let (file, elf, manifest) = open_kernel(kernel).map_err(bad_kernel)?;
    let options = Options::parse(options).map_err(TenderError::Option)?;
    let hidden = options.arguments.map_or(Ok(Vec::new()), read_arguments)?;
    let arguments = [arguments, &hidden].concat();
    let command_line = join_arguments(&arguments).map_err(TenderError::Arguments)?;
    let assignments = assign(&manifest, &options).map_err(TenderError::Devices)?;
    let devices = assignments
        .iter()
        .map(Device::open)
        .collect::<Result<Vec<_>, _>>()
        .map_err(TenderError::Attach)?;

    check_personality()?;
    let (mut memory, size) = map_memory(&options)?;
    let plan = LoadPlan::new(&elf, size).map_err(|error| bad_kernel(KernelError::Plan(error)))?;
    load(&file, &plan, &mut memory).map_err(|error| bad_kernel(KernelError::Load(error)))?;
    drop(file);

    let events = Events::new(&devices)?;
    let info = BootInfo {
        memory_size: size,
        kernel_end: plan.kernel_end,
        epoll: events.epoll.0.as_raw_fd(),
        timer: events.timer.as_fd().as_raw_fd(),
    };
    let attached: Vec<_> = devices.iter().map(|device| device.attached).collect();
    let boot = low_memory(&info, manifest.payload(), &attached, &command_line);
    memory
        .slice_mut(BOOT_INFO, boot.len() as u64)
        .ok_or(TenderError::Memory(options.memory, Errno::ENOMEM))?
        .copy_from_slice(&boot);
    let filter = filter::compile(&info, &attached)
        .map_err(|error| TenderError::Filter(seccompiler::Error::Backend(error)))?;
    let sealed = seal(memory, &plan)?;
    restore_default_signals().map_err(|error| TenderError::System("sigaction", error))?;
    Err(TenderError::Filter(
        sealed.enter(&filter, plan.entry, BOOT_INFO),
    ))
}

/// Reads arguments of the guest from an inherited descriptor. More than a guest can have are not read.
fn read_arguments(descriptor: i32) -> Result<Vec<OsString>, TenderError> {
    let failed = |error: io::Error| {
        let error = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        TenderError::System("read of the arguments", error)
    };
    let file = File::from(descriptor::inherited(descriptor).map_err(failed)?);
    let mut bytes = Vec::new();
    file.take(MAX_GUEST_ARGUMENTS as u64 + 2)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MAX_GUEST_ARGUMENTS + 1 {
        return Err(TenderError::Arguments(ArgumentsTooLong(bytes.len() - 1)));
    }
    Ok(parse_arguments(&bytes))
}

fn open_kernel(path: &OsString) -> Result<(File, Elf, Manifest), KernelError> {
    let mut file = File::open(path).map_err(KernelError::Open)?;
    let elf = Elf::read(&mut file).map_err(KernelError::Elf)?;
    if elf.machine != EM_X86_64 {
        return Err(KernelError::Machine(elf.machine));
    }
    let manifest = Manifest::read_notes(&mut file, &elf).map_err(KernelError::Manifest)?;
    if manifest.target != Target::Spt {
        return Err(KernelError::Target(manifest.target));
    }
    if manifest.abi_version != ABI_VERSION {
        return Err(KernelError::Version(manifest.abi_version));
    }
    Ok((file, elf, manifest))
}

/// Such a personality makes readable pages executable, whatever their protection says.
fn check_personality() -> Result<(), TenderError> {
    let persona = personality::get().map_err(|error| TenderError::System("personality", error))?;
    if persona.contains(Persona::READ_IMPLIES_EXEC) {
        return Err(TenderError::Personality);
    }
    Ok(())
}

fn map_memory(options: &Options) -> Result<(Memory, u64), TenderError> {
    let failed = |error| TenderError::Memory(options.memory, error);
    let size = options
        .memory
        .checked_mul(1 << 20)
        .ok_or_else(|| failed(Errno::ENOMEM))?;
    if options.executable_heap {
        eprintln!("petrel-spt: warning: all memory of the guest is executable (--x-exec-heap)");
    }
    let memory = Memory::map(size, options.executable_heap).map_err(failed)?;
    Ok((memory, size))
}

fn load(file: &File, plan: &LoadPlan, memory: &mut Memory) -> io::Result<()> {
    for segment in &plan.segments {
        let bytes = memory
            .slice_mut(segment.address, segment.file_size)
            .ok_or(io::ErrorKind::InvalidInput)?;
        file.read_exact_at(bytes, segment.offset)?;
    }
    Ok(())
}

fn seal(memory: Memory, plan: &LoadPlan) -> Result<Sealed, TenderError> {
    let protection = |segment: &Segment| Protection {
        start: segment.start,
        end: segment.end,
        read: segment.read,
        write: segment.write,
        execute: segment.execute,
    };
    memory
        .seal(plan.segments.iter().map(protection))
        .map_err(|error| TenderError::System("mprotect", error))
}

/// The set of things a guest can wait for: its timer and its network devices.
struct Events {
    epoll: Epoll,
    timer: TimerFd,
}

impl Events {
    fn new(devices: &[Device]) -> Result<Self, TenderError> {
        let failed = |what| move |error| TenderError::System(what, error);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("epoll_create1"))?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )
        .map_err(failed("timerfd_create"))?;
        let readable = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
        epoll
            .add(&timer, readable(TIMER_EVENT))
            .map_err(failed("epoll_ctl"))?;
        for device in devices.iter().filter(|device| device.is_net()) {
            epoll
                .add(device, readable(u64::from(device.attached.handle)))
                .map_err(failed("epoll_ctl"))?;
        }
        Ok(Self { epoll, timer })
    }
}

impl fmt::Display for TenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Option(error) => error.fmt(f),
            Self::Devices(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::Arguments(error) => error.fmt(f),
            Self::Memory(size, Errno::EEXIST) => write!(
                f,
                "cannot give the guest {size} MiB of memory: the tender itself lies there"
            ),
            Self::Memory(size, error) => write!(
                f,
                "cannot give the guest {size} MiB of memory: {}",
                error.desc()
            ),
            Self::Personality => f.write_str(
                "the personality READ_IMPLIES_EXEC is set, which would make data executable",
            ),
            Self::System(call, error) => write!(f, "{call} failed: {}", error.desc()),
            Self::Filter(error) => write!(f, "cannot install the seccomp filter: {error}"),
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "cannot open the image: {error}"),
            Self::Load(error) => write!(f, "cannot load the image: {error}"),
            Self::Elf(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
            Self::Machine(machine) => write!(
                f,
                "the image is for another machine (e_machine {machine}, not {EM_X86_64})"
            ),
            Self::Target(target) => {
                write!(f, "the image is for the target {target}, not spt")
            }
            Self::Version(version) => write!(
                f,
                "the image needs version {version} of the spt interface, not {ABI_VERSION}"
            ),
            Self::Plan(error) => error.fmt(f),
        }
    }
}
