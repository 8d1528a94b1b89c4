//! The control groups of one execution, from the supervisor's side: make, read, remove.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits::{CGROUP_ABANDONED, CGROUP_REMOVE_WAIT, CGROUPS_SEARCHED_MAX};
use crate::message::{Context, StepError};
use crate::plan::{Cgroup, Meter};
use crate::sys;

/// Removed when dropped, if that wasn't done before.
pub struct Groups {
    directories: Vec<(PathBuf, Vec<Meter>)>,
}

impl Groups {
    /// Makes all groups with their limits. What was made is removed again if one fails.
    pub fn create(plan: &[Cgroup]) -> Result<Groups, StepError> {
        let mut groups = Groups { directories: Vec::new() };
        for cgroup in plan {
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(&cgroup.path));
            fs::create_dir(&path).step(|| format!("create cgroup {}", path.display()))?;
            groups.directories.push((path.clone(), cgroup.meters.clone()));
            for (name, value) in &cgroup.settings {
                let name = String::from_utf8_lossy(name);
                let (name, optional) = match name.strip_prefix('?') {
                    Some(name) => (name, true),
                    None => (&*name, false),
                };
                match fs::write(path.join(name), &**value) {
                    // EINVAL, too: memsw below what the parent has set.
                    Err(_) if optional => {}
                    done => done.step(|| format!("write {}/{name}", path.display()))?,
                }
            }
        }
        Ok(groups)
    }

    /// A descriptor of each group's `cgroup.procs`: whoever writes "0" to it enters.
    pub fn procs(&self) -> Result<Vec<OwnedFd>, StepError> {
        let open = |(path, _): &(PathBuf, Vec<Meter>)| {
            OpenOptions::new()
                .write(true)
                .open(path.join("cgroup.procs"))
                .map(OwnedFd::from)
                .step(|| format!("open {}/cgroup.procs", path.display()))
        };
        self.directories.iter().map(open).collect()
    }

    fn with(&self, meter: Meter) -> Option<&Path> {
        self.directories.iter().find(|(_, meters)| meters.contains(&meter)).map(|(path, _)| path.as_path())
    }

    fn number(&self, meter: Meter, file: &str) -> Option<u64> {
        fs::read_to_string(self.with(meter)?.join(file)).ok()?.trim().parse().ok()
    }

    fn field(&self, meter: Meter, file: &str, field: &str) -> Option<u64> {
        let text = fs::read_to_string(self.with(meter)?.join(file)).ok()?;
        let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.find(|(name, _)| *name == field)?.1.trim().parse().ok()
    }

    /// Processes that the kernel killed for want of memory.
    pub fn oom_kills(&self) -> Option<u64> {
        self.field(Meter::OomControl, "memory.oom_control", "oom_kill")
            .or_else(|| self.field(Meter::MemoryEvents, "memory.events", "oom_kill"))
    }

    pub fn memory_peak_bytes(&self) -> Option<u64> {
        self.number(Meter::MemoryMaxUsage, "memory.max_usage_in_bytes")
            .or_else(|| self.number(Meter::MemoryPeak, "memory.peak"))
    }

    /// As counted by the kernel, where it counts.
    pub fn processes_peak(&self) -> Option<u64> {
        self.number(Meter::PidsPeak, "pids.peak")
    }

    pub fn processes_now(&self) -> Option<u64> {
        self.number(Meter::PidsCurrent, "pids.current")
    }

    /// CPU time of all that ever was in the group, in nanoseconds: (user, system).
    pub fn cpu_ns(&self) -> Option<(u64, u64)> {
        let v1 = || {
            Some((
                self.number(Meter::CpuacctUsage, "cpuacct.usage_user")?,
                self.number(Meter::CpuacctUsage, "cpuacct.usage_sys")?,
            ))
        };
        let v2 = || {
            Some((
                self.field(Meter::CpuStat, "cpu.stat", "user_usec")? * 1000,
                self.field(Meter::CpuStat, "cpu.stat", "system_usec")? * 1000,
            ))
        };
        v1().or_else(v2)
    }

    /// Removes the groups, which must be empty of processes; the kernel may need a moment after the last one was reaped.
    /// Returns what is left over.
    pub fn remove(mut self) -> Vec<PathBuf> {
        self.remove_all()
    }

    fn remove_all(&mut self) -> Vec<PathBuf> {
        let directories = std::mem::take(&mut self.directories);
        directories.into_iter().map(|(path, _)| path).filter(|path| !remove_directory(path)).collect()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.remove_all();
    }
}

fn remove_directory(path: &Path) -> bool {
    let deadline = Instant::now() + CGROUP_REMOVE_WAIT;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return true,
            Err(error) if error.kind() == ErrorKind::NotFound => return true,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return false,
        }
    }
}

/// Ends what still runs in the groups of these executions, whose supervisors are gone, and removes them; and removes groups of
/// ours that have been empty for long, which no execution accounts for any more.
///
/// `points` are the mounted hierarchies. All of each is searched: a group stands below the group of whoever started the run,
/// which need not be ours. Never signals a bare pid: a process is pinned first, then found in the group again.
pub fn sweep(points: &[PathBuf], ids: &[[u8; 16]]) {
    let names: Vec<String> = ids.iter().map(super::directory_name).collect();
    let mut waiting: Vec<PathBuf> = points.to_vec();
    let mut seen = 0;
    while let Some(directory) = waiting.pop() {
        seen += 1;
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        if seen > CGROUPS_SEARCHED_MAX {
            return;
        }
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let name = entry.file_name();
            if names.iter().any(|wanted| name == wanted.as_str()) {
                end(&entry.path());
            } else if name.as_bytes().starts_with(super::PREFIX.as_bytes()) {
                remove_abandoned(&entry);
            } else {
                waiting.push(entry.path());
            }
        }
    }
}

fn end(group: &Path) {
    let deadline = Instant::now() + CGROUP_REMOVE_WAIT;
    loop {
        for pid in members(group) {
            let Ok(pidfd) = sys::pidfd_open(pid) else { continue };
            if members(group).contains(&pid) {
                let _ = sys::pidfd_kill(pidfd.as_fd());
            }
        }
        if fs::remove_dir(group).is_ok() || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A group of a live run is empty for a moment only, before its program enters and after it has ended.
fn remove_abandoned(group: &fs::DirEntry) {
    let age = || group.metadata().ok()?.modified().ok()?.elapsed().ok();
    if age().is_some_and(|age| age > CGROUP_ABANDONED) {
        // Fails while a process is in it.
        let _ = fs::remove_dir(group.path());
    }
}

fn members(group: &Path) -> Vec<sys::pid_t> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}
