//! What the machine offers, without running anything in it.

use std::path::Path;

use lastword_sandbox::cgroup::{Controller, groups};
use lastword_store::Store;

use super::{Check, State};
use crate::backend::native::{Machine, image};
use crate::{execution, runtime};

/// Below it the mount calls that the sandbox is built with are missing.
const KERNEL_MIN: (u32, u32) = (5, 12);
/// A data directory with less is about to be full.
const FREE_BYTES_MIN: u64 = 1 << 30;

pub(super) fn checks() -> Vec<Check> {
    let machine = Machine::get();
    // What a killed run of long ago may have left.
    groups::sweep(&machine.cgroups.points, &[]);
    let mut checks = vec![kernel(machine), user_namespaces(machine), listener(machine), identity(machine)];
    checks.extend(cgroups(machine));
    checks.push(supervisor());
    checks.push(flush_help());
    checks
}

fn check(name: &'static str, good: bool, otherwise: State, found: String, help: &str) -> Check {
    let state = if good { State::Ok } else { otherwise };
    Check { name, state, found, help: (!good && !help.is_empty()).then(|| help.to_owned()) }
}

fn kernel(machine: &Machine) -> Check {
    let good = machine.kernel_version() >= KERNEL_MIN;
    let text = format!("{}, and glibc {} in this binary", machine.kernel, machine.libc);
    check("kernel", good, State::Failure, text, "lastword needs Linux 5.12 or newer")
}

fn setting(path: &str) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn user_namespaces(machine: &Machine) -> Check {
    let most = setting("/proc/sys/user/max_user_namespaces").unwrap_or(0);
    let forbidden = [
        (most == 0, "sudo sysctl -w user.max_user_namespaces=15000"),
        (
            !machine.privileged && setting("/proc/sys/kernel/unprivileged_userns_clone") == Some(0),
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            !machine.privileged
                && setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or(0) != 0,
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let found = forbidden.iter().find(|(holds, _)| *holds);
    let text = if found.is_some() { "forbidden".to_owned() } else { format!("{most} allowed") };
    check("user namespaces", found.is_none(), State::Failure, text, found.map_or("", |(_, help)| help))
}

fn listener(machine: &Machine) -> Check {
    let text = if machine.listener { "the kernel has what it needs" } else { "arrival order only" };
    let help = "exact order needs seccomp notification that timers can't disturb: Linux 5.19, and no gVisor";
    check("exact order", machine.listener, State::Warning, text.into(), help)
}

fn identity(machine: &Machine) -> Check {
    let text = if machine.privileged {
        "programs run as nobody, not as you"
    } else {
        "programs run as your own user in a namespace"
    };
    let help = "a program can take back what it wrote before it was read; as root it can't";
    check("identity", machine.privileged, State::Warning, text.into(), help)
}

fn cgroups(machine: &Machine) -> Vec<Check> {
    let of = |name, controller: Controller| {
        let cgroups = &machine.cgroups;
        let found = match (cgroups.v1.get(&controller), &cgroups.v2) {
            _ if !cgroups.has(controller) => "not enforced".to_owned(),
            (Some(path), _) => format!("v1, {}", path.display()),
            (None, Some((path, _))) => format!("v2, {}", path.display()),
            (None, None) => String::new(),
        };
        let help = cgroups.problems.get(&controller).map_or("", String::as_str);
        check(name, cgroups.has(controller), State::Warning, found, help)
    };
    let mut checks = vec![
        of("memory limit", Controller::Memory),
        of("pids limit", Controller::Pids),
        of("cpu limit", Controller::Cpu),
        of("cpu time limit", Controller::Cpuacct),
    ];
    if machine.counts_processes() && checks[1].state != State::Ok {
        let found = "enforced by RLIMIT_NPROC of the user namespace".into();
        checks[1] = Check { name: "pids limit", state: State::Ok, found, help: None };
    }
    checks
}

fn supervisor() -> Check {
    let text = format!("{} KiB, embedded", image::bytes() / 1024);
    match image::path() {
        Ok(_) => check("supervisor", true, State::Failure, text, ""),
        Err(error) => {
            let help = "executable memory files are needed: sudo sysctl -w vm.memfd_noexec=0";
            check("supervisor", false, State::Failure, error.to_string(), help)
        }
    }
}

fn flush_help() -> Check {
    let path = Path::new("/usr/libexec/coreutils/libstdbuf.so");
    let text = if path.exists() { path.display().to_string() } else { "not found".into() };
    let help = "install coreutils with stdbuf; output of C programs that crash may be lost";
    check("flush help for C", path.exists(), State::Warning, text, help)
}

/// What can be run here, with the versions that the programs say themselves.
pub(super) fn runtimes(data_dir: &Path) -> Check {
    let machine = Machine::get();
    let probe = |argv: &[std::ffi::OsString]| execution::ask_machine(argv);
    let versions = runtime::Versions::at(data_dir);
    let all = runtime::available(runtime::Root::Host(&machine.base), &versions, Some(&probe));
    let name = |one: &runtime::Available| match &one.version {
        Some(version) => format!("{} {version}", one.name),
        None => one.name.clone(),
    };
    let here: Vec<String> = all.iter().filter(|one| one.found).map(name).collect();
    let missing: Vec<&str> = all.iter().filter(|one| !one.found).map(|one| one.name.as_str()).collect();
    let mut text = here.join(", ");
    if !missing.is_empty() {
        text = format!("{text}; not here: {}", missing.join(", "));
    }
    check(
        "runtimes",
        !here.is_empty(),
        State::Warning,
        text,
        "the sandbox has only /usr: install languages there",
    )
}

pub(super) fn data_dir(dir: &Path) -> Check {
    let name = "data directory";
    if let Err(error) = Store::open(dir) {
        let text = format!("{}: {error}", dir.display());
        return check(name, false, State::Failure, text, "name another with --data-dir");
    }
    let free = rustix::fs::statvfs(dir).map(|stat| stat.f_bavail * stat.f_frsize).unwrap_or(0);
    let text = format!("{}, {} MiB free", dir.display(), free >> 20);
    check(name, free >= FREE_BYTES_MIN, State::Warning, text, "less than 1 GiB is free: make room soon")
}
