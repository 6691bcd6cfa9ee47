//! Starting a process in a state that does not depend on who starts it, and with as few rights as it can do with.
#![allow(unsafe_code)]

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "freebsd.rs")]
mod os;

use std::ffi::{CStr, CString, NulError, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_char};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::descriptor;
use super::process::ProcessId;

/// What a process executes.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its file.
    pub path: &'a Path,
    /// What follows its name.
    pub arguments: Vec<OsString>,
    /// All of its environment.
    pub environment: &'a [&'a CStr],
    /// Standard input.
    pub input: Input,
    /// Standard output and error.
    pub output: File,
}

/// What a process finds to read: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The end of it at once: `/dev/null`.
    End,
    /// Nor does it end. It can be polled: it is a pipe, whose other end the process itself has, too.
    Silence,
}

/// What a process is allowed.
#[derive(Debug)]
pub struct Confinement {
    /// The user it runs as; `None`: that of this process, with its groups.
    pub user: Option<User>,
    /// Host processors it runs on; none: all.
    pub cpus: Vec<usize>,
    /// Most bytes of address space.
    pub address_space: u64,
    /// Most open files.
    pub open_files: u64,
    /// Most processes and threads of its user; `None`: as many as this process.
    pub processes: Option<u64>,
    /// How soon it is killed when the host's memory has run out, from -1000 (never) to 1000 (Linux).
    pub oom_score: i32,
    /// The file to enter a control group by (Linux).
    pub group: Option<CString>,
    /// Gets a line with its number and start time before the program is executed: [`record_line`].
    pub record: Option<File>,
    /// Descriptors that it has, too, beside the standard ones.
    pub keep: Vec<File>,
}

/// A user that is no login: its group has the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User and group.
    pub id: u32,
    /// All further groups.
    pub groups: Vec<Gid>,
}

/// Why a process was not started.
#[derive(Debug)]
pub enum SpawnError {
    /// There is no processor of this number on any host.
    Processor(usize),
    /// An argument that no program can be given.
    Argument(NulError),
    /// Its standard input.
    Input(io::Error),
    /// This step failed in the new process.
    Step(&'static str, io::Error),
    /// The program cannot be executed, or there is no new process.
    Execute(io::Error),
}

/// A step of the new process before exec. It makes system calls only: it neither allocates nor takes a lock, and all
/// memory may be that of the process that starts it, which waits meanwhile.
pub struct Step {
    /// What it does, after "cannot".
    pub name: &'static str,
    run: fn(&Prepared) -> nix::Result<()>,
}

/// The steps, in their order; the manual page lists them. The order matters: what needs rights comes before they are
/// given up, and what others could get in the way of comes first.
pub const STEPS: [Step; 18] = [
    step("begin a session", |_| setsid().map(drop)),
    step("reset the signals", |_| reset_signals()),
    step("set the standard descriptors", |prepared| {
        let output = prepared.output.as_fd();
        dup2_stdin(&prepared.input)?;
        dup2_stdout(output)?;
        dup2_stderr(output)
    }),
    step("set the umask", |_| {
        umask(Mode::from_bits_truncate(0o077));
        Ok(())
    }),
    step("change to /", |_| chdir(c"/")),
    step("pin to the CPUs", pin),
    step("set the OOM score", |prepared| {
        os::set_oom_score(&prepared.oom_score)
    }),
    step("enter the control group", |prepared| {
        let group = prepared.confinement.group.as_deref();
        group.map_or(Ok(()), os::enter_group)
    }),
    step("record the process", record),
    // After the last step that opens a file: those of the parent count, too.
    step("set the resource limits", set_limits),
    step("set the supplementary groups", |prepared| {
        prepared.with_user(|user| os::set_groups(&user.groups))
    }),
    step("set the group", |prepared| {
        prepared.with_user(|user| os::set_group(user.id))
    }),
    step("empty the bounding set", |_| os::empty_bounding_set()),
    step("set the user", |prepared| {
        prepared.with_user(|user| os::set_user(user.id))
    }),
    step("drop the ambient capabilities", |_| {
        os::drop_ambient_capabilities()
    }),
    step("drop the capabilities", |_| os::drop_capabilities()),
    step("forbid new privileges", |_| os::forbid_new_privileges()),
    // Not left to exec: it lets this process go on before it closes them, which would find locks taken then.
    step("close the descriptors", |prepared| {
        // SAFETY: this is a new process, which executes a program or ends, and uses no other descriptor before.
        unsafe { descriptor::close_others(&prepared.kept) };
        let mut kept = prepared.confinement.keep.iter();
        kept.try_for_each(|kept| descriptor::keep_over_exec(kept, true))
    }),
];

const fn step(name: &'static str, run: fn(&Prepared) -> nix::Result<()>) -> Step {
    Step { name, run }
}

/// A program and a confinement, with all that the steps would have to allocate.
struct Prepared {
    program: CString,
    arguments: Vec<CString>,
    input: File,
    output: File,
    confinement: Confinement,
    cpus: Option<CpuSet>,
    oom_score: String,
    /// The numbers of what it keeps, and of what it reports with.
    kept: Vec<RawFd>,
}

impl Prepared {
    fn with_user(&self, set: impl FnOnce(&User) -> nix::Result<()>) -> nix::Result<()> {
        self.confinement.user.as_ref().map_or(Ok(()), set)
    }
}

/// Executes `program` in a new process, after all [`STEPS`]. Returns its number.
pub fn confined(program: Program<'_>, mut confinement: Confinement) -> Result<Pid, SpawnError> {
    let mut cpus = CpuSet::new();
    for cpu in &confinement.cpus {
        cpus.set(*cpu).map_err(|_| SpawnError::Processor(*cpu))?;
    }
    let path = CString::new(program.path.as_os_str().as_bytes()).map_err(SpawnError::Argument)?;
    let given = program.arguments.into_iter();
    let given = given.map(|argument| CString::new(argument.into_vec()));
    let arguments: Result<_, _> = [Ok(path.clone())].into_iter().chain(given).collect();
    let (input, other_end) = program.input.open().map_err(SpawnError::Input)?;
    confinement.keep.extend(other_end);
    let report = os::Report::open().map_err(|error| SpawnError::Execute(error.into()))?;
    let kept = confinement.keep.iter().map(AsRawFd::as_raw_fd);
    let prepared = Prepared {
        program: path,
        arguments: arguments.map_err(SpawnError::Argument)?,
        input,
        output: program.output,
        cpus: (!confinement.cpus.is_empty()).then_some(cpus),
        oom_score: confinement.oom_score.to_string(),
        kept: kept.chain(report.descriptor()).collect(),
        confinement,
    };
    let mut arguments: Vec<_> = prepared
        .arguments
        .iter()
        .map(|text| text.as_ptr())
        .collect();
    arguments.push(ptr::null());
    let environment = program.environment.iter().map(|text| text.as_ptr());
    let environment: Vec<_> = environment.chain([ptr::null()]).collect();
    let child = || prepared.execute(&arguments, &environment);

    // Handlers are not for the new process; it unblocks them when it has reset them.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started = os::start(report, &child);
    if let Ok(mask) = &mask {
        let _ = mask.thread_set_mask();
    }
    let (pid, failure) = started.map_err(|error| SpawnError::Execute(error.into()))?;
    let Some(Failure { step, error }) = failure else {
        return Ok(pid);
    };
    let _ = waitpid(pid, None);
    Err(match STEPS.get(step) {
        Some(step) => SpawnError::Step(step.name, error.into()),
        None => SpawnError::Execute(error.into()),
    })
}

impl Input {
    /// What is to be standard input, and what the process has to keep for it.
    fn open(self) -> io::Result<(File, Option<File>)> {
        match self {
            Self::End => Ok((File::open("/dev/null")?, None)),
            Self::Silence => {
                let (read, write) = io::pipe()?;
                let file = |end: OwnedFd| File::from(end);
                Ok((file(read.into()), Some(file(write.into()))))
            }
        }
    }
}

/// Why a new process executes nothing: the number of the step, after the last of them the execution.
#[derive(Clone, Copy, Debug)]
struct Failure {
    step: usize,
    error: Errno,
}

impl Prepared {
    /// In the new process: comes back only if the program cannot be executed.
    fn execute(&self, arguments: &[*const c_char], environment: &[*const c_char]) -> Failure {
        for (number, step) in STEPS.iter().enumerate() {
            if let Err(error) = (step.run)(self) {
                return Failure {
                    step: number,
                    error,
                };
            }
        }
        // SAFETY: the texts and both lists end with zeros, and live in `self` and above.
        unsafe {
            libc::execve(
                self.program.as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        };
        Failure {
            step: STEPS.len(),
            error: Errno::last(),
        }
    }
}

/// Default dispositions, and none blocked.
fn reset_signals() -> nix::Result<()> {
    for number in 1..=os::LAST_SIGNAL {
        os::reset_signal(number)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

fn set_limits(prepared: &Prepared) -> nix::Result<()> {
    let confinement = &prepared.confinement;
    lower(Resource::RLIMIT_CORE, 0)?;
    lower(Resource::RLIMIT_NOFILE, confinement.open_files)?;
    lower(os::ADDRESS_SPACE, confinement.address_space)?;
    let processes = confinement.processes;
    processes.map_or(Ok(()), |most| lower(Resource::RLIMIT_NPROC, most))
}

/// Both limits, or less if this process has less.
fn lower(resource: Resource, to: u64) -> nix::Result<()> {
    let (_, most) = getrlimit(resource)?;
    let to = rlim_t::try_from(to).unwrap_or(most).min(most);
    setrlimit(resource, to, to)
}

fn pin(prepared: &Prepared) -> nix::Result<()> {
    let cpus = prepared.cpus.as_ref();
    cpus.map_or(Ok(()), |cpus| sched_setaffinity(Pid::from_raw(0), cpus))
}

fn record(prepared: &Prepared) -> nix::Result<()> {
    let Some(mut record) = prepared.confinement.record.as_ref() else {
        return Ok(());
    };
    let failed = |error: io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let id = ProcessId::own().map_err(failed)?;
    let mut line = [0; RECORD_LINE];
    let mut rest = &mut line[..];
    record_line(id, &mut rest).map_err(failed)?;
    let unused = rest.len();
    // At once, so that the line is there or is not.
    let length = RECORD_LINE - unused;
    match record.write(&line[..length]).map_err(failed)? {
        all if all == length => Ok(()),
        _ => Err(Errno::ENOSPC),
    }
}

/// Most bytes of a [`record_line`].
const RECORD_LINE: usize = 64;

/// What a record gets: `process PID START`, with the numbers of a [`ProcessId`], and the end of a line.
pub fn record_line(id: ProcessId, to: &mut impl Write) -> io::Result<()> {
    writeln!(to, "process {} {}", id.pid, id.start)
}

impl SpawnError {
    /// Whether the new user has as many processes as it may have.
    pub fn is_limit_of_processes(&self) -> bool {
        let limit = Some(Errno::EAGAIN as i32);
        matches!(self, Self::Execute(error) | Self::Step(_, error) if error.raw_os_error() == limit)
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor(cpu) => write!(f, "there is no CPU id {cpu}"),
            Self::Input(error) => write!(f, "cannot open its standard input: {error}"),
            Self::Argument(error) => write!(f, "an argument is not possible: {error}"),
            Self::Step(name, error) => write!(f, "cannot {name}: {error}"),
            Self::Execute(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SpawnError {}

/// From now on this process, and the programs that it runs, get no rights by the files that they execute.
pub fn forbid_new_privileges() -> nix::Result<()> {
    os::forbid_new_privileges()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::alone;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::WaitStatus;
    use std::io::Read;
    use std::os::fd::FromRawFd;

    fn unconfined() -> Confinement {
        Confinement {
            user: None,
            cpus: Vec::new(),
            address_space: u64::MAX,
            open_files: u64::MAX,
            processes: None,
            oom_score: 0,
            group: None,
            record: None,
            keep: Vec::new(),
        }
    }

    fn program(path: &str) -> Program<'_> {
        Program {
            path: Path::new(path),
            arguments: Vec::new(),
            environment: &[],
            input: Input::End,
            output: File::create("/dev/null").unwrap(),
        }
    }

    #[test]
    fn a_step_that_fails_is_named() {
        let group = Confinement {
            group: Some(c"/nowhere/cgroup.procs".to_owned()),
            ..unconfined()
        };
        if cfg!(target_os = "linux") {
            let error = confined(program("/bin/true"), group).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("cannot enter the control group: No such"),
                "{text}"
            );
        }
        let record = Confinement {
            record: Some(File::open("/dev/null").unwrap()),
            ..unconfined()
        };
        let error = confined(program("/bin/true"), record)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot record the process: Bad file"),
            "{error}"
        );
    }

    #[test]
    fn what_is_closed_here_is_held_by_no_program() {
        let path = std::env::temp_dir().join(format!("petrel-spawn-{}", std::process::id()));
        let held = || {
            let file = File::create(&path).unwrap();
            file.try_lock().map(|()| file)
        };
        let sleep = || Program {
            arguments: vec!["60".into()],
            ..program("/bin/sleep")
        };
        let test = "sys::spawn::tests::what_is_closed_here_is_held_by_no_program";
        alone(test, || {
            for _ in 0..50 {
                let file = held().unwrap();
                let pid = confined(sleep(), unconfined()).unwrap();
                drop(file);
                let free = held();
                kill(pid, Signal::SIGKILL).unwrap();
                waitpid(pid, None).unwrap();
                free.unwrap();
            }
            std::fs::remove_file(&path).unwrap();
        });
    }

    #[test]
    fn a_program_has_what_it_keeps_and_nothing_else() {
        let (mut told, output) = io::pipe().unwrap();
        let keep = [500, 3].map(|least| {
            let null = File::open("/dev/null").unwrap();
            let number = fcntl(null, FcntlArg::F_DUPFD_CLOEXEC(least)).unwrap();
            // SAFETY: it is new, and nobody else's.
            unsafe { File::from_raw_fd(number) }
        });
        let mut wanted: Vec<_> = keep.iter().map(AsRawFd::as_raw_fd).chain(0..3).collect();
        wanted.sort_unstable();
        let kept = Confinement {
            keep: keep.into(),
            ..unconfined()
        };
        // The shell has one for the directory while it lists it.
        let script = "for fd in /dev/fd/*; do [ -e $fd ] && echo ${fd##*/}; done";
        let shell = Program {
            path: Path::new("/bin/sh"),
            arguments: ["-c", script].map(OsString::from).into(),
            environment: &[],
            input: Input::End,
            output: File::from(OwnedFd::from(output)),
        };
        let pid = confined(shell, kept).unwrap();
        let mut text = String::new();
        told.read_to_string(&mut text).unwrap();
        waitpid(pid, None).unwrap();
        let mut found: Vec<RawFd> = text.lines().map(|line| line.parse().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, wanted);
    }

    #[test]
    fn open_files_of_this_process_do_not_count() {
        const FEW: u64 = 8;
        let null = || File::open("/dev/null").unwrap();
        let many: Vec<_> = (0..4 * FEW).map(|_| null()).collect();
        let record = std::env::temp_dir().join(format!("petrel-few-{}", std::process::id()));
        let few = Confinement {
            open_files: FEW,
            record: Some(File::create(&record).unwrap()),
            ..unconfined()
        };
        let started = confined(program("/bin/true"), few);
        std::fs::remove_file(record).unwrap();
        drop(many);
        let ended = waitpid(started.unwrap(), None).unwrap();
        assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
    }

    #[test]
    fn a_program_gets_its_arguments_no_environment_and_nothing_to_read() {
        let (mut told, output) = io::pipe().unwrap();
        let script = "echo \"$0 $*\"; env | grep -v ^PWD= | grep -v ^_= ; cat; echo error >&2";
        let shell = Program {
            path: Path::new("/bin/sh"),
            arguments: ["-c", script, "a", "b c"].map(OsString::from).into(),
            environment: &[],
            input: Input::End,
            output: File::from(OwnedFd::from(output)),
        };
        let pid = confined(shell, unconfined()).unwrap();
        let mut text = String::new();
        told.read_to_string(&mut text).unwrap();
        waitpid(pid, None).unwrap();
        assert_eq!(text, "a b c\nerror\n");
    }

    #[test]
    fn a_program_that_is_to_have_them_gets_an_environment_and_an_input_that_is_silent() {
        let (mut told, output) = io::pipe().unwrap();
        // A wait for input that is there, or has ended, would be over at once.
        let script = "echo \"$A$B\"; [ -p /dev/stdin ] && echo pipe; timeout 0.1 head -c1; echo $?";
        let shell = Program {
            path: Path::new("/bin/sh"),
            arguments: ["-c", script].map(OsString::from).into(),
            environment: &[c"A=a b", c"B=c", c"PATH=/usr/bin:/bin"],
            input: Input::Silence,
            output: File::from(OwnedFd::from(output)),
        };
        let pid = confined(shell, unconfined()).unwrap();
        let mut text = String::new();
        told.read_to_string(&mut text).unwrap();
        waitpid(pid, None).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines, ["a bc", "pipe", "124"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_no_failed_step() {
        let error = confined(program("/nowhere/tender"), unconfined()).unwrap_err();
        assert!(matches!(error, SpawnError::Execute(_)), "{error}");
    }

    #[test]
    fn a_processor_that_no_host_has_is_refused_before_anything_happens() {
        let cpus = vec![usize::MAX];
        let confinement = Confinement {
            cpus,
            ..unconfined()
        };
        let error = confined(program("/bin/true"), confinement).unwrap_err();
        assert!(matches!(error, SpawnError::Processor(usize::MAX)));
    }

    #[test]
    fn the_largest_numbers_fit_into_a_record() {
        let mut line = [0; RECORD_LINE];
        let id = ProcessId {
            pid: Pid::from_raw(i32::MIN),
            start: u64::MAX,
        };
        record_line(id, &mut &mut line[..]).unwrap();
    }
}
