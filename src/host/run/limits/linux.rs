//! Linux: control groups, version 2 (`Documentation/admin-guide/cgroup-v2.rst` of the kernel).
//!
//! The group that the service manager has given to this program becomes a directory: `supervisor` in it is for the
//! program itself, as a group with limits for others may have no processes of its own.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, process};

use nix::unistd::Pid;

use super::GroupError;
use crate::name::Name;
use crate::policy;
use crate::sys::process::End;
use crate::unikernel::Config;

const ROOT: &str = "/sys/fs/cgroup";
const OWN: &str = "/proc/self/cgroup";

/// The number of the process that systemd has started.
const STARTED: &str = "SYSTEMD_EXEC_PID";

/// This program's part of its group.
const SUPERVISOR: &str = "supervisor";

/// What the group must be able to limit.
const CONTROLLERS: [&str; 2] = ["memory", "cpuset"];

/// What it had better have, too: it counts what each unikernel reads and writes, which nothing else tells petrel-stats.
const COUNTER: &str = "io";

const PROCESSES: &str = "cgroup.procs";

/// Permissions of a unikernel's group; what is in it has those that the kernel gives it.
const GROUP_MODE: u32 = 0o755;

/// The group of this program, with room for others.
#[derive(Debug)]
pub struct Groups {
    directory: PathBuf,
}

/// The group of a unikernel.
#[derive(Debug)]
pub struct Group {
    directory: PathBuf,
}

impl Groups {
    /// Makes groups possible in that of this program, if it was given one.
    pub fn take() -> Result<Self, GroupError> {
        let (own, started) = own()?;
        Self::take_of_manager(Path::new(ROOT), &own, started)
    }

    /// Looks whether [`Self::take`] would find a group that was given to this program. Nothing is changed.
    pub fn check() -> Result<(), GroupError> {
        let (own, started) = own()?;
        check_subgroup(&own, started)?;
        offered(Path::new(ROOT), &own).map(drop)
    }

    fn take_of_manager(root: &Path, own: &str, started: bool) -> Result<Self, GroupError> {
        check_subgroup(own, started)?;
        Self::take_below(root, own)
    }

    /// The same, with what stands for the root of all groups and for `/proc/self/cgroup`.
    fn take_below(root: &Path, own: &str) -> Result<Self, GroupError> {
        let (directory, offered) = offered(root, own)?;
        let supervisor = directory.join(SUPERVISOR);
        make(&supervisor)?;
        let counter = [COUNTER].into_iter().filter(|name| has(&offered, name));
        let wanted = CONTROLLERS.into_iter().chain(counter);
        let wanted: Vec<_> = wanted.map(|name| format!("+{name}")).collect();
        let moved = put(&supervisor.join(PROCESSES), "0")
            .and_then(|()| put(&directory.join("cgroup.subtree_control"), &wanted.join(" ")));
        if let Err(error) = moved {
            // There are other processes in it: it was not meant for this program.
            let _ = put(&directory.join(PROCESSES), "0");
            let _ = fs::remove_dir(&supervisor);
            return Err(error);
        }
        Ok(Self { directory })
    }

    /// Makes the group of a unikernel, in place of one that an earlier run has left.
    pub fn create(&self, name: &Name, config: &Config) -> Result<Group, GroupError> {
        let group = self.of(name);
        match fs::remove_dir(&group.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(GroupError::File("remove", group.directory, error));
            }
            _ => make(&group.directory)?,
        }
        // What it counts is for petrel-stats to read, whatever the umask is.
        fs::set_permissions(&group.directory, fs::Permissions::from_mode(GROUP_MODE))
            .map_err(file("set the mode of", &group.directory))?;
        for (name, content) in limits(config) {
            if let Err(error) = put(&group.directory.join(name), &content) {
                group.remove();
                return Err(error);
            }
        }
        Ok(group)
    }

    /// Removes the groups that an earlier supervisor has left, but for those of `running`.
    pub fn remove_others(&self, running: &BTreeSet<&Name>) {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        for directory in entries.map(|entry| entry.path()) {
            let name = directory.file_name().and_then(|name| name.to_str());
            let name: Option<Name> = name
                .filter(|name| name.contains(':'))
                .and_then(|name| name.parse().ok());
            if name.is_some_and(|name| !running.contains(&name)) {
                Group { directory }.remove();
            }
        }
    }

    /// The group of a unikernel that an earlier supervisor has started.
    pub fn of(&self, name: &Name) -> Group {
        // No other file of a group has a colon in its name.
        Group {
            directory: self.directory.join(name.to_string()),
        }
    }
}

impl Group {
    /// The file to enter it by.
    pub fn entrance(&self) -> Option<CString> {
        let path = self.directory.join(PROCESSES).into_os_string();
        CString::new(path.into_encoded_bytes()).ok()
    }

    /// What is left to do when the process is there: nothing.
    #[allow(clippy::unnecessary_wraps, clippy::unused_self)]
    pub fn entered(&self, _: Pid) -> Result<(), GroupError> {
        Ok(())
    }

    /// Whether a process in it was killed because there was too little memory.
    pub fn out_of_memory(&self, _: Option<End>) -> bool {
        let events = fs::read_to_string(self.directory.join("memory.events"));
        events.is_ok_and(|events| killed(&events))
    }

    /// Removes it. There must be no process in it any more.
    pub fn remove(self) {
        if let Err(error) = fs::remove_dir(&self.directory) {
            log::warn!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// What `/proc/self/cgroup` says, and whether this very process is one that systemd has started.
fn own() -> Result<(String, bool), GroupError> {
    let path = Path::new(OWN);
    let own = fs::read_to_string(path).map_err(file("read", path))?;
    let started = env::var(STARTED).is_ok_and(|pid| pid == process::id().to_string());
    Ok((own, started))
}

/// Refuses a group in which systemd could not start this program again: it cannot start a process in a group that has limits
/// for others, as after a crash, unless it puts that into the subgroup itself.
fn check_subgroup(own: &str, started: bool) -> Result<(), GroupError> {
    let below = own
        .lines()
        .any(|line| Path::new(line).ends_with(SUPERVISOR));
    if started && !below {
        return Err(GroupError::Absent(
            "systemd did not start this program in a subgroup (DelegateSubgroup=supervisor, from systemd 254 on)",
        ));
    }
    Ok(())
}

/// The directory of the group that this program was given, and the controllers that it offers.
fn offered(root: &Path, own: &str) -> Result<(PathBuf, String), GroupError> {
    let own = own_group(own).ok_or(GroupError::Absent(
        "this program is in no control group of version 2 but the root",
    ))?;
    let directory = root.join(own);
    let offered = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    if !CONTROLLERS.iter().all(|wanted| has(&offered, wanted)) {
        return Err(GroupError::Absent(
            "the control group of this program cannot limit memory and CPUs (Delegate=memory cpuset io)",
        ));
    }
    Ok((directory, offered))
}

fn has(offered: &str, wanted: &str) -> bool {
    offered.split_whitespace().any(|one| one == wanted)
}

/// The group that `/proc/self/cgroup` tells, relative to the root; the one above, if this is a supervisor's.
fn own_group(text: &str) -> Option<&Path> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new(path);
    let own = if path.file_name() == Some(SUPERVISOR.as_ref()) {
        path.parent()?
    } else {
        path
    };
    // The root has no limits, and is nobody's.
    own.file_name().map(|_| own)
}

/// The files of a unikernel's group, and what is written to them. Swapping is left to the host.
fn limits(config: &Config) -> [(&'static str, String); 2] {
    [
        ("memory.max", super::memory(config).to_string()),
        ("cpuset.cpus", policy::list(&config.cpus).replace(' ', "")),
    ]
}

/// Whether `memory.events` counts a kill.
fn killed(events: &str) -> bool {
    let counts = events.lines().filter_map(|line| line.split_once(' '));
    let mut kills = counts.filter(|(what, _)| *what == "oom_kill");
    kills.any(|(_, count)| count != "0")
}

fn make(directory: &Path) -> Result<(), GroupError> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(GroupError::File(
            "make the directory",
            directory.to_path_buf(),
            error,
        )),
        _ => Ok(()),
    }
}

fn put(path: &Path, content: &str) -> Result<(), GroupError> {
    fs::write(path, content).map_err(file("write", path))
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GroupError {
    let path = path.to_path_buf();
    move |error| GroupError::File(what, path, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use crate::supervisor::fixtures::config;

    impl Directory {
        /// What stands for /sys/fs/cgroup: a group `a/b` that offers these controllers.
        fn offering(controllers: &str) -> Self {
            let directory = Self::short();
            fs::create_dir_all(directory.0.join("a/b")).unwrap();
            fs::write(directory.0.join("a/b/cgroup.controllers"), controllers).unwrap();
            directory
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).unwrap()
        }
    }

    #[test]
    fn a_unikernel_has_a_group_with_its_limits_beside_that_of_the_supervisor() {
        let root = Directory::offering("cpuset cpu io memory pids\n");
        let groups = Groups::take_below(&root.0, "4:memory:/x\n0::/a/b\n").unwrap();
        assert_eq!(root.read("a/b/supervisor/cgroup.procs"), "0");
        let passed_on = "a/b/cgroup.subtree_control";
        assert_eq!(root.read(passed_on), "+memory +cpuset +io");
        let config = Config {
            memory: 64,
            cpus: [0, 2, 3].into(),
            ..config()
        };
        let name = "tenant:hello".parse().unwrap();
        let group = groups.create(&name, &config).unwrap();
        let entrance = root.0.join("a/b/tenant:hello/cgroup.procs");
        let found = group.entrance().unwrap();
        assert_eq!(found.to_str().unwrap(), entrance.to_str().unwrap());
        let directory = fs::metadata(entrance.parent().unwrap()).unwrap();
        assert_eq!(directory.permissions().mode() & 0o777, GROUP_MODE);
        assert_eq!(root.read("a/b/tenant:hello/cpuset.cpus"), "0,2,3");
        let most = (64 + 2 + MEMORY_SLACK_MB) << 20;
        assert_eq!(root.read("a/b/tenant:hello/memory.max"), most.to_string());

        // What an earlier run has left, which has files here only.
        assert!(groups.create(&name, &config).is_err());
        for file in ["cpuset.cpus", "memory.max"] {
            fs::remove_file(root.0.join("a/b/tenant:hello").join(file)).unwrap();
        }
        groups.create(&name, &config).unwrap();
        assert!(!group.out_of_memory(None));
        fs::write(
            root.0.join("a/b/tenant:hello/memory.events"),
            "oom 1\noom_kill 1\n",
        )
        .unwrap();
        assert!(group.out_of_memory(None));
    }

    #[test]
    fn groups_of_runs_that_are_over_are_removed() {
        let root = Directory::offering("cpuset memory");
        let groups = Groups::take_below(&root.0, "0::/a/b\n").unwrap();
        let passed_on = "a/b/cgroup.subtree_control";
        assert_eq!(root.read(passed_on), "+memory +cpuset", "what there is");
        for name in ["tenant:runs", "tenant:ended", "others"] {
            fs::create_dir(root.0.join("a/b").join(name)).unwrap();
        }
        groups.remove_others(&[&"tenant:runs".parse().unwrap()].into());
        let is_there = |name: &str| root.0.join("a/b").join(name).exists();
        assert!(is_there("tenant:runs") && is_there("others") && is_there("supervisor"));
        assert!(!is_there("tenant:ended"));
    }

    const MEMORY_SLACK_MB: u64 = super::super::MEMORY_SLACK;

    #[test]
    fn a_group_that_systemd_could_not_start_another_supervisor_in_is_left_alone() {
        let root = Directory::offering("cpuset memory");
        let error = Groups::take_of_manager(&root.0, "0::/a/b\n", true).unwrap_err();
        assert!(error.to_string().contains("DelegateSubgroup="), "{error}");
        assert!(!root.0.join("a/b/supervisor").exists());
        Groups::take_of_manager(&root.0, "0::/a/b/supervisor\n", true).unwrap();
        Groups::take_of_manager(&root.0, "0::/a/b\n", false).unwrap();
    }

    #[test]
    fn a_group_that_cannot_limit_is_left_alone() {
        for controllers in ["", "cpu pids", "memory", "cpuset pids\n"] {
            let root = Directory::offering(controllers);
            let error = Groups::take_below(&root.0, "0::/a/b\n").unwrap_err();
            assert!(matches!(error, GroupError::Absent(_)), "{error}");
            assert!(!root.0.join("a/b/supervisor").exists());
        }
    }

    #[test]
    fn a_group_with_others_in_it_is_left_as_it_was() {
        let root = Directory::offering("cpuset memory");
        // Writing to it fails.
        fs::create_dir(root.0.join("a/b/cgroup.subtree_control")).unwrap();
        let error = Groups::take_below(&root.0, "0::/a/b\n").unwrap_err();
        assert!(
            error.to_string().contains("cgroup.subtree_control"),
            "{error}"
        );
        assert_eq!(root.read("a/b/cgroup.procs"), "0");
    }

    #[test]
    fn the_own_group_is_that_of_version_2_and_never_the_root() {
        let cases = [
            ("0::/\n", None),
            ("4:memory:/x\n", None),
            ("", None),
            ("0::/supervisor\n", None),
            (
                "0::/system.slice/petreld.service\n",
                Some("system.slice/petreld.service"),
            ),
            ("1:cpu:/\n0::/a/b/supervisor\n", Some("a/b")),
        ];
        for (text, expected) in cases {
            assert_eq!(own_group(text), expected.map(Path::new), "{text:?}");
        }
    }

    #[test]
    fn only_kills_count_as_out_of_memory() {
        assert!(!killed(
            "low 0\nhigh 7\nmax 3\noom 2\noom_kill 0\noom_group_kill 1\n"
        ));
        assert!(killed("oom 2\noom_kill 12\n"));
        assert!(!killed(""));
    }
}
