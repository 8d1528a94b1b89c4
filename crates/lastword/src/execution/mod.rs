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
pub mod waiting;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lastword_api::{Backend, Execution, Status, Stream, Timestamp};
use lastword_frame::verify::Report;
use lastword_sandbox::cgroup::groups;
use lastword_sandbox::plan::Plan;
use lastword_store::{Entry, Meta, Spool, Store};
use uuid::Uuid;

use self::prepare::{Prepared, Unprepared};
use crate::backend::native::start::{News, Passed};
use crate::backend::native::{self, Machine, Refused, Supervisor};
pub use cancel::Cancel;
pub use compile::STEP_LABEL;
use follow::Follower;
pub use probe::ask_machine;
pub use recover::{adopt, recover};
pub use request::Request;
pub use waiting::{Claimed, Entrant, NotBuilt};

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
        self.start(execution, request, &prepared, &Meta::default(), sink, cancel)
    }

    /// Starts what needs no more preparation, and follows it to its end.
    fn start(
        &self,
        mut execution: Execution,
        mut request: Request,
        prepared: &Prepared<'_>,
        origin: &Meta,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Execution, Error> {
        let id = execution.id;
        let plan = native::plan::plan(Machine::get(), prepared, id.into_bytes(), &request)?;
        let spool = self.store.create_spool(id)?;
        // The sandbox is built while the accept becomes durable.
        let never_accepted = |error: Error| {
            self.store.discard_spool(&spool);
            error
        };
        let passed = self.passed(&plan, &spool, &mut request, prepared).map_err(never_accepted)?;
        let mut supervisor =
            Supervisor::start(&plan, passed, &spool.file).map_err(|error| never_accepted(error.into()))?;
        execution.status = Status::Running;
        // True until the end says otherwise: whoever finds this later can't know.
        execution.retry.program_started = true;
        if let Err(error) = self.accept(&execution, origin) {
            supervisor.abandon();
            return Err(never_accepted(error));
        }
        sink.accepted(id);
        self.go(&mut execution, &mut supervisor);
        let report = self.watch(&execution, &mut supervisor, &spool, sink, cancel)?;
        self.end(execution, origin, spool, &report)
    }

    /// The same for a request that takes time before its program can start: it is accepted first.
    fn run_prepared(
        &self,
        mut execution: Execution,
        mut request: Request,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Execution, Error> {
        let id = execution.id;
        let origin = Meta::default();
        let spool = self.store.create_spool(id)?;
        execution.retry.safe = true;
        self.accept(&execution, &origin)?;
        sink.accepted(id);
        let built = self.build(&mut execution, &mut request, &origin, &spool, sink, cancel);
        let mut supervisor = match built {
            Ok(supervisor) => supervisor,
            Err(why) => return self.never_started(execution, &origin, spool, why.into_end()),
        };
        if self.mark_running(&mut execution, &origin).is_err() {
            // Without a go it seals the spool as one of a program that was never started: two may not write there.
            supervisor.abandon();
            return self.end_as_sealed(execution, &origin, spool);
        }
        self.go(&mut execution, &mut supervisor);
        let report = self.watch(&execution, &mut supervisor, &spool, sink, cancel)?;
        self.end(execution, &origin, spool, &report)
    }

    /// Makes a sandbox ready that waits for its go.
    fn build(
        &self,
        execution: &mut Execution,
        request: &mut Request,
        origin: &Meta,
        spool: &Spool,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Supervisor, NotBuilt> {
        let id = execution.id;
        let prepared = self.prepare(execution, request, origin, sink, cancel)?;
        let plan = native::plan::plan(Machine::get(), &prepared, id.into_bytes(), request)
            .map_err(|refused| Unprepared::new("plan", refused.to_string()))?;
        // Not everything on the way listens to a cancel.
        if cancel.is_asked() {
            return Err(Unprepared { cause: lastword_frame::Cause::Cancelled }.into());
        }
        let passed = self.passed(&plan, spool, request, &prepared).map_err(NotBuilt::from_error)?;
        let started = Supervisor::start(&plan, passed, &spool.file);
        started.map_err(|error| NotBuilt::from_error(error.into()))
    }

    /// Durable before the program is handed over: whoever finds it later must know that it may have run.
    fn mark_running(&self, execution: &mut Execution, origin: &Meta) -> Result<(), Error> {
        execution.status = Status::Running;
        execution.retry = lastword_api::Retry { safe: false, program_started: true };
        Ok(self.store.update(execution.id, &meta(execution, origin), &object(execution)?)?)
    }

    /// Hands the program over.
    fn go(&self, execution: &mut Execution, supervisor: &mut Supervisor) {
        execution.queue_ms = Some((Timestamp::now().ns() - execution.created_at.ns()) as f64 / 1e6);
        // A supervisor that is gone already shows in its spool.
        let _ = supervisor.go();
    }

    /// Follows a program to its end.
    fn watch(
        &self,
        execution: &Execution,
        supervisor: &mut Supervisor,
        spool: &Spool,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Report, Error> {
        let mut deadline =
            Instant::now() + Duration::from_millis(execution.limits.wall_ms) + SUPERVISOR_MARGIN;
        let mut follower = Follower::new(execution.id);
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
        Ok(follower.finish())
    }

    /// Makes the end durable, then visible.
    fn end(
        &self,
        mut execution: Execution,
        origin: &Meta,
        spool: Spool,
        report: &Report,
    ) -> Result<Execution, Error> {
        let machine = Machine::get();
        if report.seal.is_none() {
            // The supervisor was killed: what it would have removed is ours to remove.
            groups::sweep(&machine.cgroups.points, &[execution.id.into_bytes()]);
        }
        outcome::conclude(&mut execution, report, machine);
        self.store.finish(spool, &meta(&execution, origin), &object(&execution)?)?;
        Ok(execution)
    }

    /// What goes to the supervisor beside the plan.
    fn passed(
        &self,
        plan: &Plan,
        spool: &Spool,
        request: &mut Request,
        prepared: &Prepared<'_>,
    ) -> Result<Passed, Error> {
        let stdin = match std::mem::replace(&mut request.stdin, request::Stdin::Nothing) {
            request::Stdin::Fd(fd) => Some(fd),
            request::Stdin::Open { .. } => Some(self.store.open_stdin(spool.id)?.into()),
            request::Stdin::Nothing | request::Stdin::Bytes(_) => None,
        };
        let pack = plan.outputs.as_ref().map(|_| self.store.create_pack(spool.id)).transpose()?;
        let pack = pack.map(|pack| pack.file.into());
        let control = spool.control.as_ref().map(|fifo| fifo.try_clone().map(OwnedFd::from)).transpose();
        let control = control.map_err(native::Error::Plan)?;
        // Shared, not given away: what a compile step was made from is needed by the program behind it as well.
        let held = prepared.held.iter().map(|lock| lock.try_clone()).collect::<io::Result<_>>();
        Ok(Passed { stdin, pack, control, held: held.map_err(native::Error::Plan)? })
    }

    /// What runs the program, as it says of itself. Nobody waits for it twice.
    fn version(&self, request: &Request, prepared: &Prepared<'_>) -> Option<String> {
        let runtime = request.runtime.as_ref()?;
        let probe = |argv: &[std::ffi::OsString]| probe::ask(prepared, argv);
        self.versions.version(runtime, prepared.root(), Some(&probe))
    }

    fn accept(&self, execution: &Execution, origin: &Meta) -> Result<(), Error> {
        Ok(self.store.accept(execution.id, &meta(execution, origin), &object(execution)?)?)
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

/// The execution object that the store keeps, without its streams.
pub fn object_of(entry: &Entry) -> Result<Execution, Error> {
    let mut execution = recover::parse(entry.id, &entry.object)?;
    if entry.damaged {
        found_damaged(&mut execution);
    }
    Ok(execution)
}

/// Of an execution whose transcript can't be read to its end: its object was written before the damage.
pub fn found_damaged(execution: &mut Execution) {
    execution.ok = false;
    execution.transcript.complete = Some(false);
    execution.transcript.why_incomplete = Some("the stored transcript is damaged".into());
}

/// What executions are listed by. What `origin` has beside it stays for life: whose it is, and how it came.
fn meta(execution: &Execution, origin: &Meta) -> Meta {
    Meta {
        status: execution.status.name().into(),
        reason: execution.reason.map(|reason| reason.name().into()),
        complete: execution.transcript.complete,
        created_ns: execution.created_at.ns(),
        ended_ns: execution.ended_at.map(Timestamp::ns),
        backend: execution.backend.name().into(),
        runtime: execution.runtime.clone(),
        labels: execution.labels.clone(),
        tenant: origin.tenant.clone(),
        batch: origin.batch,
        key: origin.key.clone(),
        priority: origin.priority,
    }
}
