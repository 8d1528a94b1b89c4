//! The lifecycle of one execution.
//!
//! ```text
//!   request -> plan -> spool made and locked -> supervisor builds the sandbox --+
//!                                     \-> accept durable ----------------------+--> go -> running
//!   running -> supervisor ends -> transcript verified -> end durable -> visible -> spool removed
//!   running -> we are killed: the supervisor goes on; the next command finds the end (recover)
//!   running -> the supervisor is killed: error/lost, with every byte that it wrote down
//! ```
//! The program is handed over only after the accept is durable, and a handed-over program never runs twice.

pub mod cancel;
pub mod follow;
pub mod outcome;
pub mod recover;
pub mod request;

use std::io;
use std::time::{Duration, Instant};

use lastword_api::{Backend, Execution, Status, Stream, Timestamp};
use lastword_sandbox::cgroup::groups;
use lastword_store::{Meta, Store};
use uuid::Uuid;

use crate::backend::native::start::News;
use crate::backend::native::{self, Machine, Refused, Supervisor};
pub use cancel::Cancel;
use follow::Follower;
pub use recover::recover;
pub use request::Request;

/// More than a supervisor may need around the program's time: to build, to end, to wait for a full disk, to drain, together
/// under 80 s by its own bounds. One that needs longer is stuck.
const SUPERVISOR_MARGIN: Duration = Duration::from_secs(120);

/// Takes records as they come, in their order.
pub trait Sink {
    /// The execution is durable and has this id. Called once, before anything else.
    fn accepted(&mut self, _id: Uuid) {}
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

/// Runs a request to its end.
pub fn run(
    store: &Store,
    mut request: Request,
    sink: &mut dyn Sink,
    cancel: &Cancel,
) -> Result<Execution, Error> {
    let machine = Machine::get();
    let id = Uuid::now_v7();
    let created = Timestamp::now();
    let planned = native::plan::plan(machine, id.into_bytes(), &request)?;
    let mut execution = Execution::queued(id, created, Backend::Native, planned.limits.clone());
    execution.status = Status::Running;
    execution.enforced = planned.enforced.clone();
    execution.runtime = request.runtime.as_ref().map(|runtime| runtime.name.clone());
    execution.labels = std::mem::take(&mut request.labels);
    execution.environment.kernel = Some(machine.kernel.clone());
    execution.environment.lastword = env!("CARGO_PKG_VERSION").into();
    execution.transcript.read_back_prevented = machine.privileged || request.tty;
    // True until the end says otherwise: whoever finds this later can't know.
    execution.retry.program_started = true;

    let spool = store.create_spool(id)?;
    let stdin = match std::mem::replace(&mut request.stdin, request::Stdin::Nothing) {
        request::Stdin::Fd(fd) => Some(fd),
        _ => None,
    };
    // The sandbox is built while the accept becomes durable.
    let never_accepted = |error: Error| {
        let _ = std::fs::remove_file(&spool.path);
        error
    };
    let mut supervisor =
        Supervisor::start(&planned.plan, stdin, &spool.file).map_err(|error| never_accepted(error.into()))?;
    if let Err(error) = accept(store, &execution) {
        supervisor.abandon();
        return Err(never_accepted(error));
    }
    sink.accepted(id);
    execution.queue_ms = Some((Timestamp::now().ns() - created.ns()) as f64 / 1e6);
    // A supervisor that is gone already shows in its spool.
    let _ = supervisor.go();

    let mut deadline = Instant::now() + Duration::from_millis(planned.limits.wall_ms) + SUPERVISOR_MARGIN;
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
    store.finish(spool, &meta(&execution), &object(&execution)?)?;
    Ok(execution)
}

fn accept(store: &Store, execution: &Execution) -> Result<(), Error> {
    Ok(store.accept(execution.id, &meta(execution), &object(execution)?)?)
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
