//! What a transcript says about its run: status, reason, and everything else of the object that is known at the end.

use lastword_api::execution::{ProblemCode, StreamSummary, Usage};
use lastword_api::{
    Execution, Ordering, OutputFile, Problem, Reason, RefusedOutput, Retry, Status, Timestamp,
};
use lastword_frame::verify::Report;
use lastword_frame::{Cause, Exit, Seal, Stream};

use crate::backend::native::Machine;

/// Errnos of exec that mean: it is not there.
const NOT_FOUND: [i32; 2] = [libc_errno::ENOENT, libc_errno::ENOTDIR];

/// The two numbers that matter here, the same on every Linux.
mod libc_errno {
    pub(super) const ENOENT: i32 = 2;
    pub(super) const ENOTDIR: i32 = 20;
    pub(super) const EACCES: i32 = 13;
    pub(super) const EPERM: i32 = 1;
    pub(super) const ENOSPC: i32 = 28;
}

/// Fills in the end.
pub(crate) fn conclude(execution: &mut Execution, report: &Report, machine: &Machine) {
    transcript(execution, report);
    match &report.seal {
        Some(seal) => sealed(execution, seal, machine),
        None => lost(execution, report),
    }
    let wall = |time: u64| {
        let begin = report.begin.as_ref().map(|begin| begin.wall_ns)?;
        Some(Timestamp::from_ns(begin.saturating_add(i64::try_from(time).ok()?)))
    };
    execution.outputs_refused = refused(report);
    execution.started_at = report.started.and_then(wall);
    let ended = report.seal.as_ref().map(|seal| seal.time).and_then(wall);
    execution.ended_at = Some(ended.unwrap_or_else(Timestamp::now));
    execution.ok = execution.status == Status::Succeeded && execution.is_complete();
}

fn transcript(execution: &mut Execution, report: &Report) {
    let of = &mut execution.transcript;
    of.complete = Some(report.complete());
    of.why_incomplete = report.why_incomplete.clone();
    of.records = report.records;
    of.tty = report.begin.as_ref().is_some_and(|begin| begin.tty);
    let summary = |stream: Stream| {
        let counted = &report.streams[stream.index()];
        StreamSummary { bytes: counted.bytes, dropped: counted.dropped, blake3: Some(hex(&counted.blake3)) }
    };
    of.stdout = summary(Stream::Stdout);
    of.stderr = summary(Stream::Stderr);
    let (ordering, until) = match (&report.seal, &report.begin) {
        (Some(seal), _) => (Some(seal.ordering), seal.exact_until_seq),
        (None, Some(begin)) => match report.arrival_from {
            Some(seq) => (Some(lastword_frame::Ordering::Arrival), Some(seq)),
            None => (Some(begin.ordering), None),
        },
        (None, None) => (None, None),
    };
    of.ordering = ordering.map(Ordering::from);
    of.ordering_until_seq = until;
}

fn sealed(execution: &mut Execution, seal: &Seal, machine: &Machine) {
    execution.oom_killed = seal.usage.oom_kills.is_some_and(|kills| kills > 0);
    (execution.exit_code, execution.signal) = match seal.exit {
        Exit::None => (None, None),
        Exit::Code(code) => (Some(i32::from(code)), None),
        Exit::Signal(number) => (None, Some(lastword_api::signal_name(number))),
    };
    let (status, reason) = verdict(seal, execution.oom_killed);
    execution.status = status;
    execution.reason = Some(reason);
    let started = seal.started.is_some();
    execution.retry = Retry { safe: !started, program_started: started };
    execution.problem = problem(seal, machine);
    execution.usage = started.then(|| usage(seal));
    execution.outputs =
        seal.outputs.iter().map(|file| OutputFile::new(&file.path, file.bytes, hex(&file.blake3))).collect();
}

/// What was declared and not kept. The last one stands for those that a transcript has no room to name.
fn refused(report: &Report) -> Vec<RefusedOutput> {
    let named = report.outputs_refused.iter().map(|of| RefusedOutput::new(&of.path, of.why.clone()));
    let more = Some(report.outputs_refused_more).filter(|more| *more > 0);
    named.chain(more.map(|more| RefusedOutput::new(b"", format!("{more} more were refused")))).collect()
}

fn verdict(seal: &Seal, oom_killed: bool) -> (Status, Reason) {
    const SIGKILL: u8 = 9;
    match (&seal.cause, seal.exit) {
        (Cause::Ended, Exit::Code(0)) => (Status::Succeeded, Reason::Exit),
        (Cause::Ended, Exit::Signal(SIGKILL)) if oom_killed => (Status::Failed, Reason::OutOfMemory),
        (Cause::Ended, Exit::Signal(_)) => (Status::Failed, Reason::Signal),
        (Cause::Ended, _) => (Status::Failed, Reason::Exit),
        (Cause::WallTime, _) => (Status::TimedOut, Reason::WallTime),
        (Cause::CpuTime, _) => (Status::TimedOut, Reason::CpuTime),
        (Cause::OutputLimit, _) => (Status::Failed, Reason::OutputLimit),
        (Cause::DiskLimit, _) => (Status::Failed, Reason::DiskLimit),
        (Cause::Cancelled, _) => (Status::Cancelled, Reason::Cancelled),
        (Cause::StorageFull, _) => (Status::Error, Reason::StorageFull),
        (Cause::StartFailure { step, .. }, _) if is_exec(step) => (Status::Failed, Reason::StartFailure),
        (Cause::StartFailure { .. }, _) => (Status::Error, Reason::StartFailure),
        (Cause::CompileFailed, _) => (Status::Failed, Reason::CompileFailed),
        (Cause::ImageUnavailable { .. }, _) => (Status::Error, Reason::ImageUnavailable),
        (Cause::Internal { .. }, _) => (Status::Error, Reason::Lost),
    }
}

/// A command that can't be executed is what was asked for, not our failure.
fn is_exec(step: &str) -> bool {
    step.starts_with("exec ") || step.starts_with("exec:") || step.starts_with("enter /")
}

fn problem(seal: &Seal, machine: &Machine) -> Option<Problem> {
    let (code, message, backend_message) = match &seal.cause {
        Cause::StartFailure { step, errno, message } if is_exec(step) => {
            let code = if step.starts_with("enter ") {
                ProblemCode::StartFailed
            } else if NOT_FOUND.contains(errno) {
                ProblemCode::CommandNotFound
            } else {
                ProblemCode::CommandNotExecutable
            };
            (code, format!("cannot {step}: {message}"), message.clone())
        }
        Cause::StartFailure { step, errno, message } => {
            let mut text = format!("the sandbox could not be built: {step}: {message}");
            if let Some(help) = help(step, *errno, machine) {
                text = format!("{text}; {help}");
            }
            (ProblemCode::SandboxUnavailable, text, message.clone())
        }
        Cause::StorageFull => (
            ProblemCode::StorageFull,
            "the disk of the data directory was full for too long; the run was ended".into(),
            String::new(),
        ),
        Cause::Internal { message } => {
            (ProblemCode::Internal, format!("the supervisor met an error: {message}"), message.clone())
        }
        Cause::ImageUnavailable { message } => {
            (ProblemCode::ImageUnavailable, message.clone(), String::new())
        }
        _ => return None,
    };
    Some(Problem { code, message, backend_message: Some(backend_message).filter(|text| !text.is_empty()) })
}

/// What to do when this step of building a sandbox was refused.
fn help(step: &str, errno: i32, machine: &Machine) -> Option<String> {
    use libc_errno::{EACCES, ENOSPC, EPERM};
    let restricted = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if !machine.privileged
        && [EPERM, EACCES].contains(&errno)
        && restricted.is_ok_and(|value| value.trim() != "0")
    {
        return Some(
            "AppArmor keeps ordinary users from user namespaces here; allow them with: \
             sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
                .into(),
        );
    }
    if step.starts_with("clone") && errno == ENOSPC {
        return Some(
            "too few user namespaces are allowed; raise: sudo sysctl -w user.max_user_namespaces=15000"
                .into(),
        );
    }
    if step.starts_with("clone") && [EPERM, EACCES].contains(&errno) {
        return Some(
            "new user namespaces are forbidden here: in a container run it with --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined, on Debian: sudo sysctl -w kernel.unprivileged_userns_clone=1"
                .into(),
        );
    }
    if step.starts_with("mount proc") {
        return Some(
            "a container that masks /proc forbids a new one: run it with --security-opt systempaths=unconfined".into(),
        );
    }
    None
}

fn usage(seal: &Seal) -> Usage {
    let ms = |ns: u64| (ns as f64 / 1e3).round() / 1e3;
    Usage {
        wall_ms: ms(seal.usage.wall_ns),
        cpu_user_ms: seal.usage.cpu_user_ns.map(ms),
        cpu_system_ms: seal.usage.cpu_system_ns.map(ms),
        memory_peak_bytes: seal.usage.memory_peak_bytes,
        processes_peak: seal.usage.processes_peak,
        processes_sampled: seal.usage.processes_sampled,
    }
}

fn lost(execution: &mut Execution, report: &Report) {
    execution.status = Status::Error;
    execution.reason = Some(Reason::Lost);
    // Without a seal nobody can know how far it came.
    execution.retry = Retry { safe: false, program_started: true };
    let why = report.why_incomplete.clone().unwrap_or_default();
    execution.problem = Some(Problem {
        code: ProblemCode::Lost,
        message: format!("the supervisor ended before the run did: {why}"),
        backend_message: None,
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
