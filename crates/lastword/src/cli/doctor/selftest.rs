//! The self-test: programs that end in every way there is, each checked to the byte.

use std::ffi::OsString;
use std::time::Instant;

use anyhow::Context;
use lastword_api::{Limits, Reason, Status, Stream};
use lastword_store::Store;
use serde::Serialize;

use crate::backend::native::Machine;
use crate::execution::request::{Flush, Program};
use crate::execution::{Cancel, Engine, Request, Sink};

/// One program of the test.
struct Case {
    name: &'static str,
    script: &'static str,
    /// Both streams together, in order; `None`: not looked at.
    output: Option<&'static [u8]>,
    status: Status,
    reason: Reason,
    complete: bool,
    limits: Limits,
    needs_memory_limit: bool,
}

/// One row of the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) complete: bool,
    pub(super) ms: f64,
    /// What was wrong.
    pub(super) wrong: Option<String>,
}

fn case(
    name: &'static str,
    script: &'static str,
    output: &'static [u8],
    status: Status,
    reason: Reason,
) -> Case {
    Case {
        name,
        script,
        output: Some(output),
        status,
        reason,
        complete: true,
        limits: Limits { wall_ms: 20_000, ..Limits::default() },
        needs_memory_limit: false,
    }
}

fn cases() -> Vec<Case> {
    let base = Limits { wall_ms: 20_000, ..Limits::default() };
    vec![
        case("succeeds", "echo out; echo err >&2", b"out\nerr\n", Status::Succeeded, Reason::Exit),
        case("fails at once", "echo out; echo err >&2; exit 3", b"out\nerr\n", Status::Failed, Reason::Exit),
        case("says nothing", "exit 1", b"", Status::Failed, Reason::Exit),
        case("no newline, no UTF-8", "printf 'a\\377\\000b'", b"a\xff\0b", Status::Succeeded, Reason::Exit),
        case("dies of a signal", "echo out; kill -SEGV $$", b"out\n", Status::Failed, Reason::Signal),
        case(
            "leaves a writer behind",
            "(sleep 60; echo late) & echo out",
            b"out\n",
            Status::Succeeded,
            Reason::Exit,
        ),
        Case {
            limits: Limits { wall_ms: 300, ..Limits::default() },
            ..case("runs too long", "echo out; sleep 60", b"out\n", Status::TimedOut, Reason::WallTime)
        },
        Case {
            limits: Limits { output_bytes: 1000, ..base.clone() },
            output: None,
            complete: false,
            ..case("floods", "yes", b"", Status::Failed, Reason::OutputLimit)
        },
        Case {
            limits: Limits { memory_bytes: 32 << 20, ..base.clone() },
            needs_memory_limit: true,
            ..case(
                "takes all memory",
                "echo out; exec tail /dev/zero",
                b"out\n",
                Status::Failed,
                Reason::OutOfMemory,
            )
        },
        Case {
            limits: Limits { disk_bytes: 1 << 20, ..base },
            output: None,
            ..case("fills the disk", "cat /dev/zero > /tmp/x", b"", Status::Failed, Reason::DiskLimit)
        },
    ]
}

pub(super) fn run() -> anyhow::Result<Vec<Row>> {
    let dir = std::env::temp_dir().join(format!("lastword-doctor-{}", std::process::id()));
    let store = Store::open(&dir).with_context(|| format!("cannot open a store in {}", dir.display()))?;
    let engine = Engine::new(store, &dir);
    let rows = cases().iter().filter(|case| possible(case)).map(|case| one(&engine, case)).collect();
    drop(engine);
    let _ = std::fs::remove_dir_all(&dir);
    Ok(rows)
}

fn possible(case: &Case) -> bool {
    !case.needs_memory_limit || Machine::get().cgroups.has(lastword_sandbox::cgroup::Controller::Memory)
}

#[derive(Default)]
struct Together(Vec<u8>);

impl Sink for Together {
    fn record(&mut self, _: Stream, _: i64, _: u64, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn dropped(&mut self, _: Stream, _: i64, _: u64, _: u64) {}
}

fn one(engine: &Engine, case: &Case) -> Row {
    let program = Program::Command { argv: ["sh", "-c", case.script].map(OsString::from).into() };
    let request = Request { limits: case.limits.clone(), flush: Flush::Off, ..Request::new(program) };
    let start = Instant::now();
    let mut together = Together::default();
    let result = engine.run(request, &mut together, &Cancel::default());
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let execution = match result {
        Ok(execution) => execution,
        Err(error) => {
            let wrong = Some(format!("{:#}", anyhow::Error::new(error)));
            let none = String::new();
            return Row {
                name: case.name,
                ok: false,
                status: none.clone(),
                reason: none,
                complete: false,
                ms,
                wrong,
            };
        }
    };
    let complete = execution.is_complete();
    let wrong = if let Some(problem) = &execution.problem {
        Some(problem.message.clone())
    } else if (execution.status, execution.reason) != (case.status, Some(case.reason)) {
        Some(format!("expected {}, {}", case.status.name(), case.reason.name()))
    } else if complete != case.complete {
        Some(
            execution.transcript.why_incomplete.clone().unwrap_or_else(|| "it should not be complete".into()),
        )
    } else if case.output.is_some_and(|expected| expected != together.0) {
        Some(format!("it wrote \"{}\"", together.0.escape_ascii()))
    } else if engine.store.verify(execution.id).is_ok_and(|verdict| verdict.problems.is_empty()) {
        None
    } else {
        Some("the stored transcript doesn't verify".into())
    };
    Row {
        name: case.name,
        ok: wrong.is_none(),
        status: execution.status.name().into(),
        reason: execution.reason.map_or("", |reason| reason.name()).into(),
        complete,
        ms,
        wrong,
    }
}
