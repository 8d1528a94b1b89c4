//! The lifecycle of one execution.
//!
//! ```text
//!   request -> plan -> spool made and locked -> supervisor builds the sandbox --+
//!                                     \-> accept durable ----------------------+--> go -> running
//!   with an image or a compile step:
//!   request -> spool made and locked -> accept durable (queued) -> prepare -> plan -> supervisor -> running durable -> go
//!                                                                    \-> sealed as never started -> end
//!   running -> supervisor ends -> transcript verified -> end durable -> visible -> spool removed
//!   running -> we are killed: the supervisor goes on; the next command finds the end (recover)
//!   queued  -> we are killed: error/lost, and the program was surely not started
//!   running -> the supervisor is killed: error/lost, with every byte that it wrote down
//! ```
//! The program is handed over only after the accept is durable, and a handed-over program never runs twice.

pub mod cancel;
mod compile;
pub mod follow;
pub mod images;
pub mod new;
pub mod outcome;
pub mod prepare;
mod probe;
pub mod recover;
pub mod request;
mod unprepared;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lastword_api::{Backend, Execution, Status, Stream, Timestamp};
use lastword_sandbox::cgroup::groups;
use lastword_sandbox::plan::Plan;
use lastword_store::{Meta, Spool, Store};
use uuid::Uuid;

use self::prepare::Prepared;
use crate::backend::native::start::{News, Passed};
use crate::backend::native::{self, Machine, Refused, Supervisor};
pub use cancel::Cancel;
pub use compile::STEP_LABEL;
use follow::Follower;
pub use probe::ask_machine;
pub use recover::{adopt, recover};
pub use request::Request;

use crate::runtime::Versions;

/// More than a supervisor may need around the program's time: to build, to end, to wait for a full disk, to drain, to copy output
/// files, together under 110 s by its own bounds, and then to bring what it copied to disk. One that needs longer is stuck.
const SUPERVISOR_MARGIN: Duration = Duration::from_secs(180);

/// Takes records as they come, in their order.
pub trait Sink {
    /// The execution is durable and has this id. Called once, before anything else.
    fn accepted(&mut self, _id: Uuid) {}
    /// So many bytes of the image have come; `total` is what its manifest says, if that is known.
    fn pulling(&mut self, _image: &str, _bytes: u64, _total: Option<u64>) {}
    /// `time_ns`: wall clock, nanoseconds since 1970.
    fn record(&mut self, stream: Stream, time_ns: i64, seq: u64, bytes: &[u8]);
    /// So many bytes were read and dropped here.
    fn dropped(&mut self, stream: Stream, time_ns: i64, seq: u64, bytes: u64);
}

/// Why there is no execution to show for a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Backend(#[from] native::Error),
    #[error(transparent)]
    Store(#[from] lastword_store::Error),
    #[error("cannot read the spool of {id}")]
    Spool { id: Uuid, source: io::Error },
    #[error("the stored object of {id} can't be understood")]
    Object { id: Uuid, source: serde_json::Error },
}

/// Runs executions and keeps them. Threads may share one.
#[derive(Debug)]
pub struct Engine {
    pub store: Store,
    /// What can be made again: images, compiled programs.
    cache: PathBuf,
    versions: Versions,
}

impl Engine {
    /// `dir` is the data directory of `store`.
    pub fn new(store: Store, dir: &Path) -> Engine {
        Engine { store, cache: dir.join("cache"), versions: Versions::at(dir) }
    }

    /// Runs a request to its end.
    pub fn run(
        &self,
        mut request: Request,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Execution, Error> {
        let machine = Machine::get();
        let mut execution = begin(machine, &mut request)?;
        if request.needs_preparation() {
            return self.run_prepared(execution, request, sink, cancel);
        }
        let prepared = Prepared::nothing(machine);
        execution.environment.runtime_version = self.version(&request, &prepared);
        self.start(execution, request, &prepared, sink, cancel)
    }

    /// Starts what needs no more preparation, and follows it to its end.
    fn start(
        &self,
        mut execution: Execution,
        mut request: Request,
        prepared: &Prepared<'_>,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Execution, Error> {
        let id = execution.id;
        let plan = native::plan::plan(Machine::get(), prepared, id.into_bytes(), &request)?;
        let spool = self.store.create_spool(id)?;
        // The sandbox is built while the accept becomes durable.
        let never_accepted = |error: Error| {
            let _ = std::fs::remove_file(&spool.path);
            error
        };
        let passed = self.passed(&plan, id, &mut request, prepared).map_err(never_accepted)?;
        let supervisor =
            Supervisor::start(&plan, passed, &spool.file).map_err(|error| never_accepted(error.into()))?;
        execution.status = Status::Running;
        // True until the end says otherwise: whoever finds this later can't know.
        execution.retry.program_started = true;
        if let Err(error) = self.accept(&execution) {
            supervisor.abandon();
            return Err(never_accepted(error));
        }
        sink.accepted(id);
        self.go(execution, supervisor, spool, sink, cancel)
    }

    /// The same for a request that takes time before its program can start: it is accepted first.
    fn run_prepared(
        &self,
        mut execution: Execution,
        mut request: Request,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Execution, Error> {
        let machine = Machine::get();
        let id = execution.id;
        let spool = self.store.create_spool(id)?;
        execution.retry.safe = true;
        self.accept(&execution)?;
        sink.accepted(id);
        let planned = self.prepare(&mut execution, &request, sink, cancel).and_then(|prepared| {
            let plan = native::plan::plan(machine, &prepared, id.into_bytes(), &request);
            let plan = plan.map_err(|refused| prepare::Unprepared::new("plan", refused.to_string()))?;
            // Not everything on the way listens to a cancel.
            if cancel.is_asked() {
                return Err(prepare::Unprepared { cause: lastword_frame::Cause::Cancelled });
            }
            Ok((plan, prepared))
        });
        let (plan, prepared) = match planned {
            Ok(planned) => planned,
            Err(why) => return self.never_started(execution, spool, why),
        };
        let started = self
            .passed(&plan, id, &mut request, &prepared)
            .and_then(|passed| Ok(Supervisor::start(&plan, passed, &spool.file)?));
        let supervisor = match started {
            Ok(supervisor) => supervisor,
            Err(error) => {
                let why = prepare::Unprepared::new("start the supervisor", error.to_string());
                return self.never_started(execution, spool, why);
            }
        };
        execution.status = Status::Running;
        execution.retry = lastword_api::Retry { safe: false, program_started: true };
        if self.accept_running(&execution).is_err() {
            // Without a go it seals the spool as one of a program that was never started: two may not write there.
            supervisor.abandon();
            return self.end_as_sealed(execution, spool);
        }
        self.go(execution, supervisor, spool, sink, cancel)
    }

    /// Hands the program over and follows it to its end.
    fn go(
        &self,
        mut execution: Execution,
        mut supervisor: Supervisor,
        spool: Spool,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Execution, Error> {
        let machine = Machine::get();
        let id = execution.id;
        execution.queue_ms = Some((Timestamp::now().ns() - execution.created_at.ns()) as f64 / 1e6);
        // A supervisor that is gone already shows in its spool.
        let _ = supervisor.go();
        let mut deadline =
            Instant::now() + Duration::from_millis(execution.limits.wall_ms) + SUPERVISOR_MARGIN;
        let mut follower = Follower::new(id);
        loop {
            let news = supervisor.wait_for_news(cancel, deadline)?;
            follower.read(&spool.file, sink)?;
            match news {
                News::Some => {}
                News::End => break,
                News::Late => {
                    supervisor.kill();
                    deadline = Instant::now() + SUPERVISOR_MARGIN;
                }
            }
        }
        supervisor.reap()?;
        follower.read(&spool.file, sink)?;
        let report = follower.finish();
        if report.seal.is_none() {
            // It was killed: what it would have removed is ours to remove.
            groups::sweep(&machine.cgroups.points, &[id.into_bytes()]);
        }
        outcome::conclude(&mut execution, &report, machine);
        self.store.finish(spool, &meta(&execution), &object(&execution)?)?;
        Ok(execution)
    }

    /// What goes to the supervisor beside the plan.
    fn passed(
        &self,
        plan: &Plan,
        id: Uuid,
        request: &mut Request,
        prepared: &Prepared<'_>,
    ) -> Result<Passed, Error> {
        let stdin = match std::mem::replace(&mut request.stdin, request::Stdin::Nothing) {
            request::Stdin::Fd(fd) => Some(fd),
            _ => None,
        };
        let pack = plan.outputs.as_ref().map(|_| self.store.create_pack(id)).transpose()?;
        let pack = pack.map(|pack| pack.file.into());
        // Shared, not given away: what a compile step was made from is needed by the program behind it as well.
        let held = prepared.held.iter().map(|lock| lock.try_clone()).collect::<io::Result<_>>();
        Ok(Passed { stdin, pack, held: held.map_err(native::Error::Plan)? })
    }

    /// What runs the program, as it says of itself. Nobody waits for it twice.
    fn version(&self, request: &Request, prepared: &Prepared<'_>) -> Option<String> {
        let runtime = request.runtime.as_ref()?;
        let probe = |argv: &[std::ffi::OsString]| probe::ask(prepared, argv);
        self.versions.version(runtime, prepared.root(), Some(&probe))
    }

    fn accept(&self, execution: &Execution) -> Result<(), Error> {
        Ok(self.store.accept(execution.id, &meta(execution), &object(execution)?)?)
    }

    /// Durable before the program is handed over: whoever finds it later must know that it may have run.
    fn accept_running(&self, execution: &Execution) -> Result<(), Error> {
        Ok(self.store.update(execution.id, &meta(execution), &object(execution)?)?)
    }
}

/// The execution as it stands before anything was done.
fn begin(machine: &Machine, request: &mut Request) -> Result<Execution, Refused> {
    let id = Uuid::now_v7();
    let (limits, enforced) = native::plan::check(machine, request)?;
    let mut execution = Execution::queued(id, Timestamp::now(), Backend::Native, limits);
    // A command may have a runtime's surroundings; it is none.
    let is_entry = matches!(request.program, request::Program::Entry { .. });
    execution.runtime = request.runtime.as_ref().filter(|_| is_entry).map(|runtime| runtime.name.clone());
    execution.image = request.image.clone();
    execution.labels = std::mem::take(&mut request.labels);
    execution.environment.kernel = Some(machine.kernel.clone());
    execution.environment.lastword = env!("CARGO_PKG_VERSION").into();
    execution.transcript.read_back_prevented = machine.privileged || request.tty;
    execution.enforced = enforced;
    Ok(execution)
}

fn object(execution: &Execution) -> Result<Vec<u8>, Error> {
    execution.to_stored_json().map_err(|source| Error::Object { id: execution.id, source })
}

/// What executions are listed by.
fn meta(execution: &Execution) -> Meta {
    Meta {
        status: execution.status.name().into(),
        reason: execution.reason.map(|reason| reason.name().into()),
        complete: execution.transcript.complete,
        created_ns: execution.created_at.ns(),
        ended_ns: execution.ended_at.map(Timestamp::ns),
        backend: execution.backend.name().into(),
        runtime: execution.runtime.clone(),
        labels: execution.labels.clone(),
    }
}
