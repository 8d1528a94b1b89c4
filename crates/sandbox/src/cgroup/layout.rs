//! Where control groups can be made on this machine: v1, v2 or both side by side, found at run time.
//!
//! Sources: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst; cgroups(7) for the two /proc files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::directory_name;
use crate::plan::{Cgroup, Meter};
use crate::sys;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Memory,
    Pids,
    Cpu,
    /// v1 only; v2 keeps CPU time in every group.
    Cpuacct,
}

impl Controller {
    pub const ALL: [Controller; 4] =
        [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::Cpuacct];

    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
        }
    }
}

/// One line of /proc/self/mountinfo that is a cgroup mount.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: PathBuf,
    v2: bool,
    options: Vec<String>,
}

/// Where groups for each controller can be made, and why not where they can't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The v1 directory below which groups are made.
    pub v1: BTreeMap<Controller, PathBuf>,
    /// The v2 directory below which groups are made, and the controllers switched on for its children.
    pub v2: Option<(PathBuf, Vec<Controller>)>,
    /// Where hierarchies are mounted.
    pub points: Vec<PathBuf>,
    /// One sentence for each controller that can't be had, and what would help.
    pub problems: BTreeMap<Controller, String>,
}

/// Limits that control groups enforce.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupLimits {
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
    pub cpus: Option<f64>,
    /// CPU time is watched by the supervisor, which needs a meter for it.
    pub cpu_time: bool,
}

impl Layout {
    /// Looks at this machine. On v2 this may make a directory and switch controllers on for it, as delegation intends.
    pub fn detect() -> Layout {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Layout::from_proc(&mountinfo, &own)
    }

    /// The same from the text of the two /proc files; what they name is looked up on disk.
    pub fn from_proc(mountinfo: &str, own: &str) -> Layout {
        let mounts = parse_mounts(mountinfo);
        let mut layout =
            Layout { points: mounts.iter().map(|mount| mount.point.clone()).collect(), ..Layout::default() };
        for controller in Controller::ALL {
            if let Some(directory) = v1_directory(&mounts, own, controller) {
                match writable(&directory) {
                    true => drop(layout.v1.insert(controller, directory)),
                    false => drop(layout.problems.insert(controller, not_writable(controller, &directory))),
                }
            }
        }
        layout.find_v2(&mounts, own);
        for controller in Controller::ALL {
            if !layout.has(controller) {
                layout
                    .problems
                    .entry(controller)
                    .or_insert_with(|| format!("no cgroup with the {} controller", controller.name()));
            }
        }
        layout
    }

    pub fn has(&self, controller: Controller) -> bool {
        self.v1.contains_key(&controller)
            || self.v2.as_ref().is_some_and(|(_, controllers)| {
                // Every v2 group keeps cpu.stat.
                controller == Controller::Cpuacct || controllers.contains(&controller)
            })
    }

    /// `v1`, `v2`, `hybrid` or `none`.
    pub fn kind(&self) -> &'static str {
        let v2 = self.v2.as_ref().is_some_and(|(_, controllers)| !controllers.is_empty());
        match (self.v1.is_empty(), v2) {
            (false, false) => "v1",
            (true, true) => "v2",
            (false, true) => "hybrid",
            (true, false) => "none",
        }
    }

    fn find_v2(&mut self, mounts: &[Mount], own: &str) {
        let Some(mount) = mounts.iter().find(|mount| mount.v2) else { return };
        let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else { return };
        let own_directory = below(mount, path);
        let wanted: Vec<Controller> = available(&own_directory.join("cgroup.controllers"))
            .into_iter()
            .chain(available(&mount.point.join("cgroup.controllers")))
            .filter(|controller| !self.v1.contains_key(controller))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let tries = v2_parents(&mount.point, &own_directory);
        for parent in &tries {
            if let Ok(enabled) = prepare_v2(parent, &own_directory) {
                self.v2 = Some((parent.clone(), enabled));
                break;
            }
        }
        let enabled = self.v2.as_ref().map(|(_, enabled)| enabled.clone()).unwrap_or_default();
        for controller in wanted {
            if !enabled.contains(&controller) && controller != Controller::Cpuacct {
                self.problems.insert(controller, not_delegated(controller, &own_directory));
            }
        }
    }

    /// The groups that these limits need, and nothing that they don't: each costs about 0.2 ms.
    pub fn groups(&self, id: &[u8; 16], limits: &GroupLimits) -> Vec<Cgroup> {
        let name = directory_name(id);
        // By directory: where controllers are mounted together (cpu,cpuacct mostly are) they share one group.
        let mut shared: BTreeMap<&Path, (Settings, Vec<Meter>)> = BTreeMap::new();
        for (controller, parent) in &self.v1 {
            let (settings, meters) = v1_settings(*controller, limits);
            // CPU time is always kept by a group: init can't tell what killed processes used.
            if !settings.is_empty() || *controller == Controller::Cpuacct {
                let group = shared.entry(parent).or_default();
                group.0.extend(settings);
                group.1.extend(meters);
            }
        }
        let mut groups: Vec<Cgroup> = shared
            .into_iter()
            .map(|(parent, (settings, meters))| group(parent.join(&name), settings, meters))
            .collect();
        if let Some((parent, controllers)) = &self.v2 {
            let (settings, mut meters) = v2_settings(controllers, limits);
            // It costs nothing in a group that is made anyway.
            let wanted = limits.cpu_time || !settings.is_empty();
            if wanted && !self.v1.contains_key(&Controller::Cpuacct) {
                meters.push(Meter::CpuStat);
            }
            if !settings.is_empty() || !meters.is_empty() {
                groups.push(group(parent.join(&name), settings, meters));
            }
        }
        groups
    }
}

fn group(path: PathBuf, settings: Vec<(&str, String)>, meters: Vec<Meter>) -> Cgroup {
    Cgroup {
        path: path.as_os_str().as_bytes().into(),
        settings: settings.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        meters,
    }
}

type Settings = Vec<(&'static str, String)>;

fn v1_settings(controller: Controller, limits: &GroupLimits) -> (Settings, Vec<Meter>) {
    match controller {
        Controller::Memory => match limits.memory_bytes {
            // A "?" name is left out where the kernel was built without swap accounting. memsw must not be below the limit,
            // so it comes second.
            Some(bytes) => (
                vec![
                    ("memory.limit_in_bytes", bytes.to_string()),
                    ("?memory.memsw.limit_in_bytes", bytes.to_string()),
                ],
                vec![Meter::OomControl, Meter::MemoryMaxUsage],
            ),
            None => Default::default(),
        },
        Controller::Pids => match limits.pids {
            Some(pids) => (vec![("pids.max", pids.to_string())], vec![Meter::PidsPeak, Meter::PidsCurrent]),
            None => Default::default(),
        },
        Controller::Cpu => match limits.cpus {
            Some(cpus) => (
                vec![
                    ("cpu.cfs_period_us", PERIOD_US.to_string()),
                    ("cpu.cfs_quota_us", quota_us(cpus).to_string()),
                ],
                vec![],
            ),
            None => Default::default(),
        },
        Controller::Cpuacct => (vec![], vec![Meter::CpuacctUsage]),
    }
}

fn v2_settings(controllers: &[Controller], limits: &GroupLimits) -> (Settings, Vec<Meter>) {
    let (mut settings, mut meters) = (Settings::new(), Vec::new());
    if let (true, Some(bytes)) = (controllers.contains(&Controller::Memory), limits.memory_bytes) {
        settings.push(("memory.max", bytes.to_string()));
        settings.push(("?memory.swap.max", "0".to_string()));
        meters.extend([Meter::MemoryEvents, Meter::MemoryPeak]);
    }
    if let (true, Some(pids)) = (controllers.contains(&Controller::Pids), limits.pids) {
        settings.push(("pids.max", pids.to_string()));
        meters.extend([Meter::PidsPeak, Meter::PidsCurrent]);
    }
    if let (true, Some(cpus)) = (controllers.contains(&Controller::Cpu), limits.cpus) {
        settings.push(("cpu.max", format!("{} {PERIOD_US}", quota_us(cpus))));
    }
    (settings, meters)
}

const PERIOD_US: u64 = 100_000;
/// The kernel refuses less than a millisecond.
const QUOTA_US_MIN: u64 = 1_000;

fn quota_us(cpus: f64) -> u64 {
    ((cpus * PERIOD_US as f64) as u64).max(QUOTA_US_MIN)
}

fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_mount).collect()
}

/// `36 35 98:0 ROOT POINT opts [optional...] - TYPE source SUPER_OPTIONS`, see proc_pid_mountinfo(5).
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (root, point) = (left.nth(3)?, left.next()?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1).unwrap_or_default();
    (kind == "cgroup" || kind == "cgroup2").then(|| Mount {
        root: root.to_string(),
        point: PathBuf::from(point.replace("\\040", " ")),
        v2: kind == "cgroup2",
        options: options.split(',').map(str::to_string).collect(),
    })
}

/// The directory of `path` under a mount that may show only a part of the hierarchy.
fn below(mount: &Mount, path: &str) -> PathBuf {
    let inside = match mount.root.as_str() {
        "/" => path,
        root => path.strip_prefix(root).unwrap_or(""),
    };
    mount.point.join(inside.trim_start_matches('/'))
}

fn v1_directory(mounts: &[Mount], own: &str, controller: Controller) -> Option<PathBuf> {
    let name = controller.name();
    let mount = mounts.iter().find(|mount| !mount.v2 && mount.options.iter().any(|option| option == name))?;
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|one| one == name).then_some(path)
    })?;
    let directory = below(mount, path);
    // In a container the path may be one of the host that isn't shown here.
    Some(if directory.is_dir() { directory } else { mount.point.clone() })
}

fn available(file: &Path) -> Vec<Controller> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The "+" is how a switch is written; the kernel never shows it, a stand-in directory in a test does.
    let names: Vec<&str> = text.split_whitespace().map(|name| name.trim_start_matches('+')).collect();
    Controller::ALL.into_iter().filter(|controller| names.contains(&controller.name())).collect()
}

/// The name of the group into which we move ourselves, because on v2 a group with processes can't have limited children.
const OWN_LEAF: &str = "lastword.self";

/// The group that root uses at the top of the hierarchy, or of a slice.
const OWN_TOP: &str = "lastword";

/// Where groups may go on v2, best first: as root in a service, a group of our own beside it; what is delegated to us; as root, a
/// group of our own at the top.
fn v2_parents(point: &Path, own: &Path) -> Vec<PathBuf> {
    let mut parents = Vec::new();
    // systemd can't start a service again whose own group has limited children, and a server's runs outlive it: beside the
    // service, in its slice, whose limits hold for them too.
    if sys::geteuid() == 0 && own.extension().is_some_and(|extension| extension == "service") {
        parents.extend(own.parent().map(|slice| slice.join(OWN_TOP)));
    }
    if own.file_name().is_some_and(|name| name == OWN_LEAF) {
        parents.extend(own.parent().map(Path::to_path_buf));
    }
    // The root of the whole hierarchy has no type; that of a container's part has one.
    if own != point || own.join("cgroup.type").exists() {
        parents.push(own.to_path_buf());
    }
    if sys::geteuid() == 0 {
        parents.push(point.join(OWN_TOP));
    }
    parents
}

/// Makes `parent` able to have children with limits, and returns the controllers they will have.
fn prepare_v2(parent: &Path, own: &Path) -> std::io::Result<Vec<Controller>> {
    let control = parent.join("cgroup.subtree_control");
    if parent == own {
        // Only if we are alone in it: other people's processes are not ours to move.
        let procs = fs::read_to_string(own.join("cgroup.procs"))?;
        let me = std::process::id().to_string();
        if procs.lines().any(|pid| pid != me) {
            return Err(std::io::Error::other("other processes are in this group"));
        }
        let leaf = own.join(OWN_LEAF);
        make_directory(&leaf)?;
        fs::write(leaf.join("cgroup.procs"), &me)?;
    } else if parent.file_name().is_some_and(|name| name == OWN_TOP) {
        // Directly below the root of the hierarchy: the root must hand its controllers down.
        if let Some(top) = parent.parent() {
            enable(&top.join("cgroup.controllers"), &top.join("cgroup.subtree_control"));
        }
        make_directory(parent)?;
    }
    enable(&parent.join("cgroup.controllers"), &control);
    if !writable(parent) {
        return Err(std::io::Error::from_raw_os_error(libc::EACCES));
    }
    let enabled = available(&control);
    if enabled.is_empty() { Err(std::io::Error::other("no controller")) } else { Ok(enabled) }
}

fn make_directory(path: &Path) -> std::io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// One by one: a controller that can't be handed down must not keep the others back.
fn enable(controllers: &Path, control: &Path) {
    for controller in available(controllers) {
        let _ = fs::write(control, format!("+{}", controller.name()));
    }
}

/// Asked, not tried: a directory made for a try would stay behind if we were killed just then.
fn writable(directory: &Path) -> bool {
    sys::may_write(directory.as_os_str().as_bytes())
}

fn not_writable(controller: Controller, directory: &Path) -> String {
    format!("no right to make {} groups in {}; run it as root", controller.name(), directory.display())
}

fn not_delegated(controller: Controller, own: &Path) -> String {
    format!(
        "{} isn't delegated in {}; start it as: systemd-run --user --scope -p Delegate=yes lastword ...",
        controller.name(),
        own.display()
    )
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
