//! From a request to a plan. Pure: what it needs to know of the machine is in [`Machine`], and of caches in [`Prepared`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lastword_api::path::WORK;
use lastword_api::{LimitName, Limits};
use lastword_sandbox::cgroup::Controller;
use lastword_sandbox::cgroup::layout::GroupLimits;
use lastword_sandbox::host::Kind;
use lastword_sandbox::plan::{self, Capture, Filters, Identity, Outputs, Plan};
use lastword_sandbox::root::{self, BUILD, HELP, NewFile, ReadOnly, Wish};
use lastword_sandbox::{seccomp, sys};

use super::Machine;
use crate::execution::prepare::Prepared;
use crate::execution::request::{Flush, OnOutputLimit, OrderingWish, Program, Request, Shared, Stdin};
use crate::runtime::{self, HelperFile, PATH, Runtime, Surroundings};

/// How long processes that the main one left behind may go on.
const GRACE: Duration = Duration::from_millis(100);
/// Of the memory limit, what the writable tmpfs may never take: a program must be able to run with its disk full.
const MEMORY_NOT_FOR_DISK: u64 = 2;
/// Output files of one execution.
const OUTPUT_FILES_MAX: u32 = 10_000;
/// Where the file system that a program fills can always be seen.
const SCRATCH: &str = "/tmp";

/// Why there can be no plan.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the limit on {name} can't be enforced here: {why}")]
    Limit { name: LimitName, why: String },
    #[error("exact ordering can't be had here: {why}")]
    Ordering { why: String },
    #[error("the files take {bytes} bytes, and the program's disk has {disk}: half of its memory, or --disk")]
    TooLarge { bytes: u64, disk: u64 },
    #[error("{} can't be shared at {}: {why}", .source_path.display(), .path.display())]
    Shared { source_path: PathBuf, path: PathBuf, why: &'static str },
    #[error("the image says no command: name one behind --")]
    NoCommand,
}

/// Refuses what can be refused before anything is prepared. Returns the limits as they will be in force, and which are enforced.
pub fn check(machine: &Machine, request: &Request) -> Result<(Limits, BTreeMap<LimitName, bool>), Refused> {
    let limits = in_force(request);
    let enforced = enforced(machine, &limits);
    if request.strict {
        refuse_unenforced(machine, &enforced)?;
    }
    let bytes = request.files.iter().map(|file| file.bytes.len() as u64).sum();
    if bytes > limits.disk_bytes {
        return Err(Refused::TooLarge { bytes, disk: limits.disk_bytes });
    }
    filters(machine, request)?;
    Ok((limits, enforced))
}

/// Plans one execution.
pub fn plan(
    machine: &Machine,
    prepared: &Prepared<'_>,
    id: [u8; 16],
    request: &Request,
) -> Result<Plan, Refused> {
    let limits = in_force(request);
    let surroundings = surroundings(prepared, request, &limits);
    let env = environment(prepared, request, &surroundings);
    let argv = command_line(prepared, request, &limits)?;
    let cwd = working_directory(prepared, request);
    let wish = Wish {
        scratch_bytes: limits.disk_bytes,
        tty: request.tty,
        without_work: prepared.base.has_top(WORK.trim_start_matches('/')) && !uses_work(request),
        build: prepared.compiling,
        files: request.files.iter().map(new_file).collect(),
        read_only: read_only(prepared, request)?,
        help: surroundings.files.iter().filter_map(help_file).collect(),
    };
    let group_limits = GroupLimits {
        memory_bytes: Some(limits.memory_bytes),
        pids: Some(limits.pids),
        cpus: limits.cpus,
        cpu_time: limits.cpu_ms.is_some(),
    };
    let bytes = |text: &OsString| text.as_bytes().into();
    Ok(Plan {
        id,
        boot_id: machine.boot_id,
        program: plan::Program {
            argv: argv.iter().map(bytes).collect(),
            path: search_path(&env),
            env: env.into_iter().map(variable).collect(),
            cwd: cwd.as_os_str().as_bytes().into(),
            stdin: match &request.stdin {
                Stdin::Nothing => plan::Stdin::Nothing {},
                Stdin::Bytes(bytes) => plan::Stdin::Bytes { bytes: bytes.into() },
                Stdin::Fd(_) => plan::Stdin::Passed {},
                Stdin::Open { first } => plan::Stdin::Growing { first: first.into() },
            },
            tty: request.tty,
        },
        identity: identity(machine, prepared),
        steps: root::steps(&prepared.base, &wish),
        scratch: SCRATCH.into(),
        rlimits: rlimits(machine, &limits),
        cgroups: machine.cgroups.groups(&id, &group_limits),
        filter: filters(machine, request)?,
        capture: Capture {
            wall_ns: Some(limits.wall_ms.saturating_mul(1_000_000)),
            cpu_ns: limits.cpu_ms.map(|ms| ms.saturating_mul(1_000_000)),
            output_bytes: Some(limits.output_bytes),
            kill_at_output_limit: request.on_output_limit == OnOutputLimit::Kill,
            grace_ns: GRACE.as_nanos() as u64,
        },
        outputs: (!request.outputs.is_empty()).then(|| Outputs {
            globs: request.outputs.iter().map(|glob| glob.into()).collect(),
            bytes_max: limits.disk_bytes,
            files_max: OUTPUT_FILES_MAX,
        }),
        control: true,
        held: prepared.held.len() as u32,
    })
}

/// The disk may be smaller than asked, because it counts as memory.
fn in_force(request: &Request) -> Limits {
    let limits = request.limits.clone();
    Limits { disk_bytes: limits.disk_bytes.min(limits.memory_bytes / MEMORY_NOT_FOR_DISK), ..limits }
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

/// The program's user, and the one of the host behind it, who is always the same.
fn identity(machine: &Machine, prepared: &Prepared<'_>) -> Identity {
    let ours = machine.identity();
    match prepared.image.as_ref().and_then(|image| image.user) {
        Some((uid, gid)) => Identity { uid, gid, ..ours },
        None => ours,
    }
}

/// The request has something to do with /work: ours must be there.
fn uses_work(request: &Request) -> bool {
    let below = |path: &[u8]| path.starts_with(WORK.as_bytes());
    request.files.iter().any(|file| below(&file.path))
        || request.outputs.iter().any(|glob| below(glob))
        || request.read_only.iter().any(|shared| shared.path.starts_with(WORK))
        || request.cwd.as_ref().is_some_and(|cwd| cwd.starts_with(WORK))
}

fn working_directory(prepared: &Prepared<'_>, request: &Request) -> PathBuf {
    let work = PathBuf::from(WORK);
    if let Some(cwd) = &request.cwd {
        return cwd.clone();
    }
    match (&prepared.image, &request.program) {
        (Some(image), Program::Image | Program::Command { .. }) => {
            image.working_dir.clone().unwrap_or_else(|| PathBuf::from("/"))
        }
        _ => work,
    }
}

fn new_file(file: &crate::execution::request::InputFile) -> NewFile {
    NewFile { path: (&file.path).into(), mode: file.mode, bytes: (&file.bytes).into() }
}

fn read_only(prepared: &Prepared<'_>, request: &Request) -> Result<Vec<ReadOnly>, Refused> {
    let mut all = Vec::new();
    // Over an image's /work stands ours.
    let ours = if uses_work(request) { &[WORK.trim_start_matches('/')][..] } else { &[] };
    let base = prepared.base.without(ours);
    for Shared { source, path, directory } in &request.read_only {
        let refused = |why| Refused::Shared { source_path: source.clone(), path: path.clone(), why };
        match base.kind_of(path) {
            Kind::Free => {}
            Kind::Directory if *directory => {}
            Kind::File if !*directory => {}
            Kind::Directory | Kind::File => return Err(refused("one is a directory and the other isn't")),
            Kind::Forbidden => {
                return Err(refused(
                    "nothing can be made there; choose a path below /work or a new one below /",
                ));
            }
        }
        let shadowed = |file: &crate::execution::request::InputFile| {
            Path::new(std::ffi::OsStr::from_bytes(&file.path)).starts_with(path)
        };
        if request.files.iter().any(shadowed) {
            return Err(refused("a file of the request lies there"));
        }
        if all.iter().any(|other: &ReadOnly| path.starts_with(&other.path) || other.path.starts_with(path)) {
            return Err(refused(
                "something else is shared there, and nothing can be put into what is shared",
            ));
        }
        all.push(ReadOnly { source: source.clone(), path: path.clone(), directory: *directory });
    }
    if let Some(build) = &prepared.build {
        all.push(ReadOnly { source: build.clone(), path: BUILD.into(), directory: true });
    }
    Ok(all)
}

/// What a runtime's placeholders stand for, under these limits.
pub fn values(request: &Request, runtime: &Runtime, limits: &Limits) -> runtime::Values {
    let path = |path: &[u8]| PathBuf::from(OsString::from_vec(path.to_vec()));
    let entry = request.entry();
    let file = entry.map(|entry| path(&entry.path)).unwrap_or_default();
    let files: Vec<PathBuf> = request.files.iter().map(|file| path(&file.path)).collect();
    runtime.values(&runtime::Given {
        file: &file,
        code: entry.map(|entry| &entry.bytes[..]).unwrap_or_default(),
        files: &files,
        flags: &request.compile_flags,
        limits,
        cpus: sys::online_cpus(),
    })
}

fn surroundings(prepared: &Prepared<'_>, request: &Request, limits: &Limits) -> Surroundings {
    let runtime = request.runtime.as_ref().unwrap_or_else(|| match &request.program {
        Program::Command { argv } => runtime::for_command(argv),
        _ => runtime::command(),
    });
    let has = |path: &Path| prepared.root().has(path);
    // A 32-bit program can't load a 64-bit helper library; the loader would say so on its stderr.
    let is_32_bit = request.entry().is_some_and(|file| file.bytes.starts_with(b"\x7fELF\x01"));
    let flush = if is_32_bit { Flush::Off } else { request.flush };
    runtime.surroundings_with(&values(request, runtime, limits), &request.env, flush, has)
}

fn command_line(
    prepared: &Prepared<'_>,
    request: &Request,
    limits: &Limits,
) -> Result<Vec<OsString>, Refused> {
    match &request.program {
        Program::Command { argv } => Ok(argv.iter().chain(&request.args).cloned().collect()),
        Program::Entry { path } => {
            let path = OsString::from_vec(path.clone());
            Ok(match &request.runtime {
                Some(runtime) => runtime.command_line(&values(request, runtime, limits), &request.args),
                None => [path].into_iter().chain(request.args.iter().cloned()).collect(),
            })
        }
        Program::Image => {
            let image = prepared.image.as_ref().ok_or(Refused::NoCommand)?;
            let cmd: Vec<OsString> = match request.args.is_empty() {
                true => image.cmd.iter().map(OsString::from).collect(),
                false => request.args.clone(),
            };
            let argv: Vec<OsString> = image.entrypoint.iter().map(OsString::from).chain(cmd).collect();
            if argv.is_empty() { Err(Refused::NoCommand) } else { Ok(argv) }
        }
    }
}

fn help_file(file: &HelperFile) -> Option<(String, String, plan::Bytes)> {
    let (directory, name) = file.path.strip_prefix(HELP)?.strip_prefix('/')?.split_once('/')?;
    Some((directory.to_owned(), name.to_owned(), file.text.as_bytes().into()))
}

/// What every program gets, then the image's, the runtime's and the user's, then the secrets. Nothing of the host's.
fn environment(
    prepared: &Prepared<'_>,
    request: &Request,
    surroundings: &Surroundings,
) -> BTreeMap<OsString, OsString> {
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    let home = if prepared.image.is_some() && !uses_work(request) { SCRATCH } else { WORK };
    for (name, value) in [("PATH", PATH), ("HOME", home), ("LANG", "C.UTF-8"), ("USER", "nobody")] {
        env.insert(name.into(), value.into());
    }
    if request.tty {
        env.insert("TERM".into(), "xterm".into());
    }
    for (name, value) in prepared.image.iter().flat_map(|image| &image.env) {
        env.insert(name.into(), value.into());
    }
    env.extend(surroundings.env.iter().cloned());
    env.extend(request.secrets.iter().cloned());
    env
}

fn variable((name, value): (OsString, OsString)) -> plan::Bytes {
    plan::Bytes([name.as_bytes(), b"=", value.as_bytes()].concat())
}

/// Where a command without a slash is looked for: in the PATH that it will have, as a shell does.
fn search_path(env: &BTreeMap<OsString, OsString>) -> Vec<plan::Bytes> {
    let path = env.get(std::ffi::OsStr::new("PATH")).map(|path| path.as_bytes()).unwrap_or_default();
    path.split(|byte| *byte == b':').filter(|dir| dir.starts_with(b"/")).map(plan::Bytes::from).collect()
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
