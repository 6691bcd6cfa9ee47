//! BHyve machines on this host: the programs that load and destroy them run one after the other, and nobody waits.
//!
//! A machine outlives the programs that made it, until it is destroyed. Its name tells whose it is, as that of a tap does.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tender;
use crate::name::Name;
use crate::supervisor::bhyve::{self, DESTROY_DEADLINE, LOAD_DEADLINE, Plan};
use crate::supervisor::{History, Owner, RunId};
use crate::sys::child::Ended;
use crate::sys::spawn::{self, Confinement, Input, Program};
use crate::unikernel::Version;

/// Directory of the device maps below the runtime directory.
pub const MAPS: &str = "boot";

/// How long the kernel has to forget a machine before it is looked for again.
pub const VANISHING_STEP: Duration = Duration::from_millis(20);

/// The machines of this supervisor's unikernels.
#[derive(Debug)]
pub struct Machines {
    /// Where the system has the devices of machines.
    directory: PathBuf,
    maps: PathBuf,
    owner: Owner,
    /// What is done with which machine.
    work: HashMap<String, Work>,
    /// No machine is loaded any more.
    closed: bool,
}

#[derive(Debug)]
struct Work {
    step: Step,
    /// What waits for the end of that.
    next: Option<Boot>,
    until: Instant,
}

#[derive(Debug)]
enum Step {
    /// A program destroys it.
    Destroying(Pid),
    /// That has ended, and the kernel still has the machine.
    Vanishing,
    /// A program loads it; it was killed because of this.
    Loading(Pid, Box<Boot>, Option<&'static str>),
}

/// A run that begins with a machine that has to be loaded.
#[derive(Debug)]
pub struct Boot {
    /// The run.
    pub run: RunId,
    /// The unikernel.
    pub name: Name,
    /// What it is.
    pub version: Arc<Version>,
    /// What went before.
    pub history: History,
    /// What loads it.
    pub loader: PathBuf,
    /// What runs it.
    pub tender: PathBuf,
    /// With which arguments.
    pub plan: Plan,
}

/// What has become of a [`Boot`].
#[derive(Debug)]
pub enum Outcome {
    /// There is no machine of that name any more: it is to be loaded.
    Clear(Boot),
    /// It is loaded, and is to be run.
    Loaded(Boot),
    /// It cannot be loaded (why).
    Failed(Boot, String),
}

impl Machines {
    /// Those of this owner, with `directory` for the devices of machines. The machines of an earlier supervisor are
    /// destroyed, but for those of `running`.
    pub fn open<'a>(
        directory: PathBuf,
        runtime_directory: &Path,
        owner: Owner,
        running: impl Iterator<Item = &'a Name>,
    ) -> Self {
        let left = leftovers(&directory, &owner, running);
        let mut machines = Self {
            directory,
            maps: runtime_directory.join(MAPS),
            owner,
            work: HashMap::new(),
            closed: false,
        };
        match fs::remove_dir_all(&machines.maps) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("cannot remove {}: {error}", machines.maps.display());
            }
            _ => {}
        }
        for machine in left {
            log::info!("machine {machine}, which an earlier supervisor has left, is destroyed");
            machines.begin_to_destroy(machine, None);
        }
        machines
    }

    /// What names machines.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The machine of a unikernel, if there is one.
    pub fn of(&self, name: &Name) -> Option<String> {
        let machine = self.owner.machine(name);
        self.is_there(&machine).then_some(machine)
    }

    /// Where the device map of a machine is while it is loaded.
    pub fn map(&self, machine: &str) -> PathBuf {
        self.maps.join(machine)
    }

    /// Destroys the machine of a unikernel, if there is one.
    pub fn release(&mut self, name: &Name) {
        if let Some(machine) = self.of(name)
            && !self.work.contains_key(&machine)
        {
            self.begin_to_destroy(machine, None);
        }
    }

    /// A run is to begin: what is left of an earlier machine goes first.
    pub fn boot(&mut self, boot: Boot) -> Option<Outcome> {
        let machine = self.owner.machine(&boot.name);
        if let Some(work) = self.work.get_mut(&machine) {
            work.next = Some(boot);
            None
        } else if self.is_there(&machine) {
            self.begin_to_destroy(machine, Some(boot))
        } else {
            Some(self.clear(boot))
        }
    }

    fn clear(&self, boot: Boot) -> Outcome {
        if self.closed {
            return Outcome::Failed(boot, "the supervisor is stopping".to_owned());
        }
        Outcome::Clear(boot)
    }

    /// Writes what is to be there for the loader.
    pub fn write_map(&self, boot: &Boot) -> Result<(), String> {
        let Some(content) = &boot.plan.device_map else {
            return Ok(());
        };
        let path = self.map(&self.owner.machine(&boot.name));
        let failed = |error| format!("cannot write {}: {error}", path.display());
        match DirBuilder::new().mode(0o700).create(&self.maps) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        fs::write(&path, content).map_err(failed)
    }

    /// Removes what was written for the loader.
    pub fn remove_map(&self, name: &Name) {
        let path = self.map(&self.owner.machine(name));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// The loader runs as this process.
    pub fn loading(&mut self, boot: Boot, process: Pid) {
        let machine = self.owner.machine(&boot.name);
        let work = Work {
            until: Instant::now() + LOAD_DEADLINE,
            next: None,
            step: Step::Loading(process, Box::new(boot), None),
        };
        self.work.insert(machine, work);
    }

    /// Takes note that this process has ended, if it is one of these.
    pub fn ended(&mut self, process: Pid, how: Ended) -> Option<Outcome> {
        let of_it = |work: &Work| match work.step {
            Step::Destroying(pid) | Step::Loading(pid, ..) => pid == process,
            Step::Vanishing => false,
        };
        let mut all = self.work.iter();
        let machine = all.find(|(_, work)| of_it(work))?.0.clone();
        let work = self.work.remove(&machine)?;
        match work.step {
            Step::Loading(_, boot, killed) => {
                self.remove_map(&boot.name);
                let loader = boot.plan.loader;
                Some(match (how, killed) {
                    (Ended::Exit(0), _) => Outcome::Loaded(*boot),
                    (_, Some(why)) => Outcome::Failed(*boot, format!("{loader} {why}")),
                    (how, None) => {
                        let why = format!("{loader} ended with {how}: its console may tell why");
                        Outcome::Failed(*boot, why)
                    }
                })
            }
            Step::Destroying(_) | Step::Vanishing => {
                if how != Ended::Exit(0) {
                    log::warn!("{} of machine {machine}: {how}", bhyve::BHYVECTL_PROGRAM);
                }
                let step = Step::Vanishing;
                self.work.insert(machine.clone(), Work { step, ..work });
                self.vanish(&machine, Instant::now())
            }
        }
    }

    /// Looks at what is due.
    pub fn progress(&mut self, now: Instant) -> Vec<Outcome> {
        for (machine, work) in &mut self.work {
            match &mut work.step {
                Step::Loading(pid, boot, killed) if work.until <= now && killed.is_none() => {
                    *killed = Some("does not come to its end, and was killed");
                    log::warn!("{}: {} is killed", boot.name, boot.plan.loader);
                    end(*pid);
                }
                Step::Destroying(pid) if work.until <= now => {
                    log::warn!("{} of machine {machine} is killed", bhyve::BHYVECTL_PROGRAM);
                    end(*pid);
                    work.until = now + DESTROY_DEADLINE;
                }
                _ => {}
            }
        }
        let vanishing = |(_, work): &(&String, &Work)| matches!(work.step, Step::Vanishing);
        let machines = self.work.iter().filter(vanishing);
        let machines: Vec<_> = machines.map(|(machine, _)| machine.clone()).collect();
        let outcomes = machines.iter();
        outcomes
            .filter_map(|machine| self.vanish(machine, now))
            .collect()
    }

    /// When [`Self::progress`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let due = |work: &Work| match work.step {
            Step::Vanishing => Some(Instant::now() + VANISHING_STEP),
            // It is about to end.
            Step::Loading(_, _, Some(_)) => None,
            _ => Some(work.until),
        };
        self.work.values().filter_map(due).min()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty()
    }

    /// Has no machine loaded any further: each fails.
    pub fn break_off(&mut self) {
        for work in self.work.values_mut() {
            if let Step::Loading(pid, _, killed) = &mut work.step {
                killed.get_or_insert("was broken off");
                end(*pid);
            }
        }
    }

    /// The same, now and from now on.
    pub fn close(&mut self) {
        self.closed = true;
        self.break_off();
    }

    fn is_there(&self, machine: &str) -> bool {
        self.directory.join(machine).symlink_metadata().is_ok()
    }

    fn begin_to_destroy(&mut self, machine: String, next: Option<Boot>) -> Option<Outcome> {
        match destroy(&machine) {
            Ok(process) => {
                let work = Work {
                    step: Step::Destroying(process),
                    next,
                    until: Instant::now() + DESTROY_DEADLINE,
                };
                self.work.insert(machine, work);
                None
            }
            Err(why) => {
                let why = format!("machine {machine} cannot be destroyed: {why}");
                log::warn!("{why}; the next start of its unikernel tries again");
                next.map(|boot| Outcome::Failed(boot, why))
            }
        }
    }

    /// Whether the kernel has forgotten a machine that is destroyed: it may take its time.
    fn vanish(&mut self, machine: &str, now: Instant) -> Option<Outcome> {
        let is_there = self.is_there(machine);
        let late = self.work.get(machine)?.until <= now;
        if is_there && !late {
            return None;
        }
        let next = self.work.remove(machine)?.next;
        if !is_there {
            return next.map(|boot| self.clear(boot));
        }
        let why = format!("machine {machine} is still there after it was destroyed");
        log::warn!("{why}");
        next.map(|boot| Outcome::Failed(boot, why))
    }
}

/// The machines of this owner that none of the unikernels that run has.
pub fn leftovers<'a>(
    directory: &Path,
    owner: &Owner,
    running: impl Iterator<Item = &'a Name>,
) -> Vec<String> {
    let running: BTreeSet<_> = running.map(|name| owner.machine(name)).collect();
    // Where there are no machines, there is no such directory.
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let length = owner.machine(&Name::default()).len();
    let ours = |machine: &String| {
        machine.starts_with(owner.as_str()) && machine.len() == length && !running.contains(machine)
    };
    let mut left: Vec<_> = names.filter(ours).collect();
    left.sort();
    left
}

/// Begins to destroy a machine. Returns the process; it says in the log of this program what is wrong.
fn destroy(machine: &str) -> Result<Pid, String> {
    let program = tender::program(bhyve::BHYVECTL_PROGRAM).map_err(|error| error.to_string())?;
    let output = io::stderr().as_fd().try_clone_to_owned();
    let program = Program {
        path: &program,
        arguments: bhyve::destroy(machine),
        environment: &[],
        input: Input::End,
        output: File::from(output.map_err(|error| error.to_string())?),
    };
    let confinement = Confinement {
        user: None,
        cpus: Vec::new(),
        address_space: u64::MAX,
        open_files: tender::OPEN_FILES,
        processes: None,
        oom_score: 0,
        group: None,
        record: None,
        keep: Vec::new(),
    };
    spawn::confined(program, confinement).map_err(|error| error.to_string())
}

/// A child whose end nobody has asked for yet: its number is not given away before.
fn end(process: Pid) {
    if let Err(error) = kill(process, Signal::SIGKILL) {
        log::warn!("cannot kill process {process}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use crate::supervisor::fixtures::config;
    use crate::unikernel::{Block, Config, ImageDigest, Kind};
    use std::process::{Child, Command};

    fn host() -> (Directory, Machines) {
        let directory = Directory::short();
        let vmm = directory.0.join("vmm");
        fs::create_dir(&vmm).unwrap();
        let owner = Owner::of(1, 2, b"");
        let machines = Machines::open(vmm, &directory.0, owner, [].into_iter());
        (directory, machines)
    }

    fn boot() -> Boot {
        let name: Name = "a:b".parse().unwrap();
        let disk = Block {
            device: "0".to_owned(),
            host_device: None,
            sector_size: None,
        };
        let config = Config {
            kind: Kind::Bhyve,
            blocks: vec![disk],
            linux_boot_partition: Some("gpt2".to_owned()),
            ..config()
        };
        let map = Path::new("/map");
        let plan = Plan::new("m", &name, &config, &[], &[Some("/disk".into())], map);
        let image = ImageDigest::NONE;
        Boot {
            run: RunId(1),
            name,
            version: Arc::new(Version { config, image }),
            history: History::default(),
            loader: "/loader".into(),
            tender: "/tender".into(),
            plan: plan.unwrap(),
        }
    }

    fn sleeping() -> (Child, Pid) {
        let child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    #[test]
    fn a_loader_that_does_not_end_is_killed_in_time_and_its_map_goes() {
        let (_directory, mut machines) = host();
        let Some(Outcome::Clear(boot)) = machines.boot(boot()) else {
            panic!("there is something in the way");
        };
        machines.write_map(&boot).unwrap();
        let map = machines.map(&machines.owner.machine(&boot.name));
        assert_eq!(fs::read(&map).unwrap(), b"(hd0) /disk\n");
        let (mut child, pid) = sleeping();
        machines.loading(boot, pid);
        let now = Instant::now();
        assert!(machines.deadline().unwrap() <= now + LOAD_DEADLINE);
        assert!(machines.progress(now).is_empty() && child.try_wait().unwrap().is_none());
        assert!(machines.progress(now + LOAD_DEADLINE).is_empty());
        child.wait().unwrap();
        assert!(!machines.is_idle());
        let outcome = machines.ended(pid, Ended::Signal(9));
        let Some(Outcome::Failed(_, why)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(why, "grub-bhyve does not come to its end, and was killed");
        assert!(machines.is_idle() && !map.exists());
    }

    #[test]
    fn a_machine_that_the_kernel_still_has_is_waited_for_before_the_next() {
        let (_directory, mut machines) = host();
        let machine = machines.owner.machine(&"a:b".parse().unwrap());
        let device = machines.directory.join(&machine);
        fs::write(&device, "").unwrap();
        // Of no process that there is.
        let pid = Pid::from_raw(i32::MAX);
        let work = Work {
            step: Step::Destroying(pid),
            next: None,
            until: Instant::now() + DESTROY_DEADLINE,
        };
        machines.work.insert(machine, work);
        assert!(machines.boot(boot()).is_none());
        // The program has ended, but the device is there.
        assert!(machines.ended(pid, Ended::Exit(0)).is_none());
        assert!(machines.progress(Instant::now()).is_empty());
        fs::remove_file(&device).unwrap();
        assert!(matches!(
            machines.progress(Instant::now())[..],
            [Outcome::Clear(_)]
        ));
        assert!(machines.is_idle());
    }

    #[test]
    fn a_machine_that_stays_is_not_loaded_over() {
        let (_directory, mut machines) = host();
        let machine = machines.owner.machine(&"a:b".parse().unwrap());
        fs::write(machines.directory.join(&machine), "").unwrap();
        let work = Work {
            step: Step::Vanishing,
            next: Some(boot()),
            until: Instant::now() + DESTROY_DEADLINE,
        };
        machines.work.insert(machine, work);
        let late = Instant::now() + DESTROY_DEADLINE;
        let outcomes = machines.progress(late);
        let [Outcome::Failed(_, why)] = &outcomes[..] else {
            panic!("{outcomes:?}");
        };
        assert!(
            why.ends_with("is still there after it was destroyed"),
            "{why}"
        );
    }

    #[test]
    fn nothing_is_loaded_any_more_when_all_is_stopping() {
        let (_directory, mut machines) = host();
        machines.close();
        let outcome = machines.boot(boot());
        assert!(matches!(outcome, Some(Outcome::Failed(..))), "{outcome:?}");
    }

    #[test]
    fn only_machines_of_this_database_that_do_not_run_are_leftovers() {
        let (_directory, machines) = host();
        let owner = Owner::of(1, 2, b"");
        let runs: Name = "a:runs".parse().unwrap();
        let left = owner.machine(&"a:left".parse().unwrap());
        let others = Owner::of(7, 7, b"").machine(&runs);
        for name in [
            &owner.machine(&runs),
            &left,
            &others,
            "guest",
            owner.as_str(),
        ] {
            fs::write(machines.directory.join(name), "").unwrap();
        }
        assert_eq!(
            leftovers(&machines.directory, &owner, [&runs].into_iter()),
            [left]
        );
        assert!(leftovers(Path::new("/nowhere"), &owner, [].into_iter()).is_empty());
    }
}
