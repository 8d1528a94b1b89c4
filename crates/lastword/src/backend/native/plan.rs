//! From a request to a plan. Pure: what it needs to know of the machine is in [`Machine`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use lastword_api::{LimitName, Limits};
use lastword_sandbox::cgroup::Controller;
use lastword_sandbox::cgroup::layout::GroupLimits;
use lastword_sandbox::plan::{self, Capture, Filters, Plan};
use lastword_sandbox::root::{self, HELP, NewFile, WORK, Wish};
use lastword_sandbox::seccomp;

use super::Machine;
use crate::execution::request::{Flush, OnOutputLimit, OrderingWish, Program, Request, Stdin};
use crate::runtime::{self, HelperFile, Surroundings};

/// How long processes that the main one left behind may go on.
const GRACE: Duration = Duration::from_millis(100);
/// Of the memory limit, what the writable tmpfs may never take: a program must be able to run with its disk full.
const MEMORY_NOT_FOR_DISK: u64 = 2;
const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A plan, and what it will hold.
#[derive(Clone, Debug)]
pub struct Planned {
    pub plan: Plan,
    /// As they will be in force: the disk may be smaller than asked, because it counts as memory.
    pub limits: Limits,
    pub enforced: BTreeMap<LimitName, bool>,
}

/// Why `strict` refuses.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the limit on {name} can't be enforced here: {why}")]
    Limit { name: LimitName, why: String },
    #[error("exact ordering can't be had here: {why}")]
    Ordering { why: String },
}

/// Plans one execution.
pub fn plan(machine: &Machine, id: [u8; 16], request: &Request) -> Result<Planned, Refused> {
    let mut limits = request.limits.clone();
    limits.disk_bytes = limits.disk_bytes.min(limits.memory_bytes / MEMORY_NOT_FOR_DISK);
    let enforced = enforced(machine, &limits);
    if request.strict {
        refuse_unenforced(machine, &enforced)?;
    }
    let filter = filters(machine, request)?;
    let surroundings = surroundings(request);
    let (argv, files) = command_line(request);
    let wish = Wish {
        scratch_bytes: limits.disk_bytes,
        tty: request.tty,
        files,
        help: surroundings.files.iter().filter_map(help_file).collect(),
    };
    let group_limits = GroupLimits {
        memory_bytes: Some(limits.memory_bytes),
        pids: Some(limits.pids),
        cpus: limits.cpus,
        cpu_time: limits.cpu_ms.is_some(),
    };
    let cwd = request.cwd.as_deref().unwrap_or(Path::new(WORK));
    let plan = Plan {
        id,
        boot_id: machine.boot_id,
        program: plan::Program {
            argv: argv.iter().map(|arg| arg.as_bytes().into()).collect(),
            env: environment(request, surroundings),
            path: PATH.iter().map(|dir| (*dir).into()).collect(),
            cwd: cwd.as_os_str().as_bytes().into(),
            stdin: match &request.stdin {
                Stdin::Nothing => plan::Stdin::Nothing {},
                Stdin::Bytes(bytes) => plan::Stdin::Bytes { bytes: bytes.into() },
                Stdin::Fd(_) => plan::Stdin::Passed {},
            },
            tty: request.tty,
        },
        identity: machine.identity(),
        steps: root::steps(&machine.host, &wish),
        scratch: WORK.into(),
        rlimits: rlimits(machine, &limits),
        cgroups: machine.cgroups.groups(&id, &group_limits),
        filter,
        capture: Capture {
            wall_ns: Some(limits.wall_ms.saturating_mul(1_000_000)),
            cpu_ns: limits.cpu_ms.map(|ms| ms.saturating_mul(1_000_000)),
            output_bytes: Some(limits.output_bytes),
            kill_at_output_limit: request.on_output_limit == OnOutputLimit::Kill,
            grace_ns: GRACE.as_nanos() as u64,
        },
    };
    Ok(Planned { plan, limits, enforced })
}

fn enforced(machine: &Machine, limits: &Limits) -> BTreeMap<LimitName, bool> {
    let cgroups = &machine.cgroups;
    LimitName::ALL
        .into_iter()
        .filter_map(|name| {
            let holds = match name {
                LimitName::Memory => cgroups.has(Controller::Memory),
                LimitName::Pids => machine.counts_processes(),
                LimitName::Cpus => limits.cpus.map(|_| cgroups.has(Controller::Cpu))?,
                LimitName::Cpu => limits.cpu_ms.map(|_| cgroups.has(Controller::Cpuacct))?,
                _ => true,
            };
            Some((name, holds))
        })
        .collect()
}

fn refuse_unenforced(machine: &Machine, enforced: &BTreeMap<LimitName, bool>) -> Result<(), Refused> {
    let Some((name, _)) = enforced.iter().find(|(_, holds)| !**holds) else { return Ok(()) };
    let controller = match name {
        LimitName::Memory => Controller::Memory,
        LimitName::Cpus => Controller::Cpu,
        LimitName::Cpu => Controller::Cpuacct,
        _ => Controller::Pids,
    };
    let why = machine.cgroups.problems.get(&controller).cloned().unwrap_or_default();
    Err(Refused::Limit { name: *name, why })
}

fn filters(machine: &Machine, request: &Request) -> Result<Filters, Refused> {
    let asked = request.ordering == Some(OrderingWish::Exact);
    let wanted = request.ordering != Some(OrderingWish::Arrival) && !request.tty;
    let why = "this kernel has no seccomp listener that timers can't disturb (Linux 5.19)";
    if wanted && asked && request.strict && !machine.listener {
        return Err(Refused::Ordering { why: why.into() });
    }
    let exact = wanted && machine.listener;
    Ok(Filters {
        exact: if exact { seccomp::compile(true) } else { Vec::new() },
        plain: seccomp::compile(false),
        exact_required: asked && request.strict,
        why_not_exact: if wanted && !exact { why.into() } else { "".into() },
    })
}

fn surroundings(request: &Request) -> Surroundings {
    let runtime = request.runtime.as_ref().unwrap_or_else(|| match &request.program {
        Program::Command { argv } => runtime::for_command(argv),
        _ => runtime::command(),
    });
    // The sandbox's /usr is the host's.
    let has = |path: &Path| path.starts_with("/usr") && path.exists();
    // A 32-bit program can't load a 64-bit helper library; the loader would say so on its stderr.
    let is_32_bit =
        matches!(&request.program, Program::File { code, .. } if code.starts_with(b"\x7fELF\x01"));
    let flush = if is_32_bit { Flush::Off } else { request.flush };
    runtime.surroundings(&request.env, flush, has)
}

/// `argv`, and the file with the code if there is one.
fn command_line(request: &Request) -> (Vec<OsString>, Vec<NewFile>) {
    let (name, code) = match &request.program {
        Program::Command { argv } => {
            return (argv.iter().chain(&request.args).cloned().collect(), Vec::new());
        }
        Program::File { name, code, .. } => (name.clone(), code),
        Program::Code { code } => {
            let runtime = request.runtime.as_ref().unwrap_or_else(|| runtime::command());
            (OsString::from(&runtime.code_file), code)
        }
    };
    let path = Path::new(WORK).join(&name);
    let mode = if request.runtime.is_some() { 0o644 } else { 0o755 };
    let file = NewFile { path: path.as_os_str().as_bytes().into(), mode, bytes: code.into() };
    let argv = match &request.runtime {
        Some(runtime) => runtime.argv(path.as_os_str(), &request.args),
        None => [path.into_os_string()].into_iter().chain(request.args.iter().cloned()).collect(),
    };
    (argv, vec![file])
}

fn help_file(file: &HelperFile) -> Option<(String, String, plan::Bytes)> {
    let (directory, name) = file.path.strip_prefix(HELP)?.strip_prefix('/')?.split_once('/')?;
    Some((directory.to_owned(), name.to_owned(), file.text.as_bytes().into()))
}

/// What every program gets, then the runtime's and the user's, then the secrets. Nothing of the host's.
fn environment(request: &Request, surroundings: Surroundings) -> Vec<plan::Bytes> {
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    for (name, value) in
        [("PATH", PATH.join(":").as_str()), ("HOME", WORK), ("LANG", "C.UTF-8"), ("USER", "nobody")]
    {
        env.insert(name.into(), value.into());
    }
    if request.tty {
        env.insert("TERM".into(), "xterm".into());
    }
    env.extend(surroundings.env);
    env.extend(request.secrets.iter().cloned());
    let line = |(name, value): (OsString, OsString)| {
        let bytes = [name.as_bytes(), b"=", value.as_bytes()].concat();
        plan::Bytes(bytes)
    };
    env.into_iter().map(line).collect()
}

fn rlimits(machine: &Machine, limits: &Limits) -> Vec<(u32, u64)> {
    let mut rlimits = vec![
        // Not 0: the kernel ignores that where a handler of the host takes core dumps through a pipe; 1 stops it (core(5)).
        (RLIMIT_CORE, 1),
        (RLIMIT_NOFILE, limits.open_files),
        (RLIMIT_STACK, limits.stack_bytes),
        (RLIMIT_MEMLOCK, 64 << 10),
    ];
    if !machine.cgroups.has(Controller::Pids) {
        // Init counts, too.
        rlimits.push((RLIMIT_NPROC, limits.pids + 1));
    }
    if let (Some(ms), false) = (limits.cpu_ms, machine.cgroups.has(Controller::Cpuacct)) {
        // Of each process alone, in whole seconds: better than nothing, and `enforced` says that it isn't the limit.
        rlimits.push((RLIMIT_CPU, ms.div_ceil(1000)));
    }
    rlimits
}

// Numbers of getrlimit(2) on x86-64 and aarch64.
const RLIMIT_CPU: u32 = 0;
const RLIMIT_STACK: u32 = 3;
const RLIMIT_CORE: u32 = 4;
const RLIMIT_NPROC: u32 = 6;
const RLIMIT_NOFILE: u32 = 7;
const RLIMIT_MEMLOCK: u32 = 8;
