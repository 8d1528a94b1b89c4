//! One row to its result.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use lastword_api::execution::INLINE_BYTES_DEFAULT;
use lastword_api::{Execution, Inline, Problem, ProblemCode, Reason, Retry, Status, Stream};
use uuid::Uuid;

use super::Args;
use super::limits::{RETRY_PAUSE, RETRY_PAUSE_MAX, ROW_BYTES_MAX};
use super::queue::Job;
use super::results::{Event, NoExecution, Outcome};
use super::resume::{Past, State, is_for_again, mark};
use super::rows::{self, BadRow, Row};
use super::server;
use super::stop::{Stop, Why};
use crate::backend::native::Refused;
use crate::cli::executions::{Executions, add_inline};
use crate::cli::run::share;
use crate::cli::{Globals, object};
use crate::client::Client;
use crate::execution::{self, Cancel, Engine, Request, Sink};
use crate::replay::Collector;

/// What all rows have in common.
pub(super) struct Work<'a> {
    runner: Runner<'a>,
    pub(super) batch: Uuid,
    pub(super) retries: u8,
    pub(super) stop: &'a Stop,
    ro: &'a [OsString],
    venv: Option<&'a Path>,
}

/// What was opened to run rows.
pub(super) enum Hands {
    Here(Box<Engine>),
    Server(Arc<Client>),
}

impl Hands {
    pub(super) fn of(globals: &Globals) -> anyhow::Result<Hands> {
        match &globals.server {
            Some(client) => Ok(Hands::Server(Arc::clone(client))),
            None => Ok(Hands::Here(Box::new(globals.open_engine()?))),
        }
    }

    pub(super) fn runner(&self) -> Runner<'_> {
        match self {
            Hands::Here(engine) => Runner::Here(engine),
            Hands::Server(client) => Runner::Server(client),
        }
    }
}

/// Who runs rows.
#[derive(Clone, Copy)]
pub(super) enum Runner<'a> {
    Here(&'a Engine),
    Server(&'a Client),
}

impl<'a> Runner<'a> {
    pub(super) fn executions(self) -> Executions<'a> {
        match self {
            Runner::Here(engine) => Executions::Store(&engine.store),
            Runner::Server(client) => Executions::Server(client),
        }
    }
}

/// What one try gave.
enum Tried {
    Done(Outcome),
    /// lastword failed, and the program was surely not started.
    Again(Outcome),
}

impl<'a> Work<'a> {
    pub(super) fn new(args: &'a Args, runner: Runner<'a>, batch: Uuid, stop: &'a Stop) -> Work<'a> {
        Work { runner, batch, retries: args.retries, stop, ro: &args.ro, venv: args.venv.as_deref() }
    }

    /// `None`: nobody knows, and the batch stops.
    pub(super) fn result(&self, job: &Job) -> Option<Event> {
        let row = job.line.row;
        let Some(bytes) = &job.line.bytes else {
            let message = format!("the line is longer than {ROW_BYTES_MAX} bytes");
            return Some(Event { row, key: None, outcome: bad_request(message) });
        };
        if let Some(Past { id, state: State::Ended | State::Failed, .. }) = job.past {
            return Some(Event { row, key: rows::key(bytes), outcome: Outcome::Stored(id) });
        }
        let outcome = match self.runner {
            Runner::Here(engine) => self.result_here(engine, job, bytes),
            Runner::Server(client) => match server::result(self, client, job, bytes) {
                Ok(None) => return None,
                Ok(Some(outcome)) => Ok(outcome),
                Err(bad) => Err(bad),
            },
        };
        let (key, outcome) = match outcome {
            Ok(outcome) => (rows::key(bytes), outcome),
            Err(BadRow { key, message }) => (key, bad_request(message)),
        };
        if outcome.is_disk_full() {
            self.stop.because(Why::DiskFull);
        }
        Some(Event { row, key, outcome })
    }

    fn result_here(&self, engine: &Engine, job: &Job, bytes: &[u8]) -> Result<Outcome, BadRow> {
        let live = job.past.filter(|past| past.state == State::Live);
        let mut adopted = live.map(|past| past.id);
        let mut pause = RETRY_PAUSE;
        for left in (0..=self.retries).rev() {
            let tried = match adopted.take() {
                Some(id) => self.adopted(engine, id),
                None => self.run(engine, job, bytes)?,
            };
            match tried {
                Tried::Again(_) if left > 0 && !self.stop.is_asked() => {}
                Tried::Again(outcome) | Tried::Done(outcome) => return Ok(outcome),
            }
            self.stop.pause(pause);
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
        // The last turn of the loop returns.
        Ok(not_started(ProblemCode::Internal, None, "the row was not run".to_owned()))
    }

    fn run(&self, engine: &Engine, job: &Job, bytes: &[u8]) -> Result<Tried, BadRow> {
        let Row { key, new } = Row::parse(bytes)?;
        let wrong = |message: String| BadRow { key: key.clone(), message };
        let mut request = Request::from_new(new).map_err(|error| wrong(error.to_string()))?;
        share(&mut request, self.ro, self.venv).map_err(|error| wrong(format!("{error:#}")))?;
        mark(&mut request.labels, self.batch, job.line.row, job.line.digest);
        let mut sink = Accepted { collector: Collector::new(INLINE_BYTES_DEFAULT), id: None };
        // A stop lets running rows end: the batch's own cancel is not theirs.
        let ran = engine.run(request, &mut sink, &Cancel::default());
        match (ran, sink.id) {
            (Ok(mut execution), _) => {
                execution.inline = Some(sink.collector.into_inline());
                let again = is_for_again(&execution);
                let outcome = Outcome::Ended(Box::new(execution));
                Ok(if again { Tried::Again(outcome) } else { Tried::Done(outcome) })
            }
            // From here on only its spool can say whether the program ran.
            (Err(_), Some(id)) => Ok(self.adopted(engine, id)),
            (Err(execution::Error::Refused(refused)), None) => Ok(Tried::Done(refusal(&refused))),
            (Err(error), None) => Ok(Tried::Again(never_accepted(error))),
        }
    }

    /// An execution whose starter is gone, or gave up.
    fn adopted(&self, engine: &Engine, id: Uuid) -> Tried {
        let store = &engine.store;
        let mut pause = RETRY_PAUSE;
        let mut left = self.retries;
        let failure = loop {
            match execution::adopt(store, id) {
                Ok(()) => break None,
                Err(error) if left == 0 || self.stop.is_asked() => break Some(error),
                Err(_) => left -= 1,
            }
            self.stop.pause(pause);
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        };
        let entry = match store.get(id) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Tried::Done(Outcome::None(Box::new(NoExecution::removed(id)))),
            Err(error) => return Tried::Done(unknown(id, ProblemCode::Internal, chain(&error))),
        };
        let mut execution = match object(&entry) {
            Ok(execution) => execution,
            Err(error) => return Tried::Done(unknown(id, ProblemCode::Internal, format!("{error:#}"))),
        };
        let Some(error) = failure else {
            let stored = Outcome::Stored(id);
            return if is_for_again(&execution) { Tried::Again(stored) } else { Tried::Done(stored) };
        };
        not_ended(&mut execution, &error);
        if add_inline(store, &mut execution).is_err() {
            execution.inline = Some(Inline::default());
        }
        Tried::Done(Outcome::Ended(Box::new(execution)))
    }
}

/// Its supervisor is through, and its end could not be made durable: nobody may take it for a result of the program.
fn not_ended(execution: &mut Execution, error: &execution::Error) {
    let full = is_disk_full(error);
    execution.status = Status::Error;
    execution.reason = Some(if full { Reason::StorageFull } else { Reason::Lost });
    execution.ok = false;
    execution.transcript.complete = Some(false);
    execution.transcript.why_incomplete = Some("its end is not kept yet".into());
    execution.retry = Retry { safe: false, program_started: true };
    execution.problem = Some(Problem {
        code: if full { ProblemCode::StorageFull } else { ProblemCode::Internal },
        message: format!("its end could not be kept; lastword get {} tries again", execution.id),
        backend_message: Some(chain(error)),
    });
}

fn bad_request(mut message: String) -> Outcome {
    rows::shorten(&mut message);
    let retry = Retry { safe: false, program_started: false };
    Outcome::None(Box::new(NoExecution::new(None, None, problem(ProblemCode::BadRequest, message), retry)))
}

/// Another try here would be refused as well.
fn refusal(refused: &Refused) -> Outcome {
    let code = match refused {
        Refused::Limit { .. } => ProblemCode::LimitUnenforced,
        Refused::Ordering { .. } => ProblemCode::OrderingUnavailable,
        _ => ProblemCode::BadRequest,
    };
    refused_as(code, refused.to_string())
}

pub(super) fn refused_as(code: ProblemCode, message: String) -> Outcome {
    let retry = Retry { safe: false, program_started: false };
    Outcome::None(Box::new(NoExecution::new(None, None, problem(code, message), retry)))
}

pub(super) fn not_started(code: ProblemCode, reason: Option<Reason>, message: String) -> Outcome {
    let retry = Retry { safe: true, program_started: false };
    Outcome::None(Box::new(NoExecution::new(None, reason, problem(code, message), retry)))
}

/// A program is handed over only behind its accept: this one was not.
fn never_accepted(error: execution::Error) -> Outcome {
    let (code, reason) = match &error {
        error if is_disk_full(error) => (ProblemCode::StorageFull, Some(Reason::StorageFull)),
        execution::Error::Backend(_) => (ProblemCode::StartFailed, Some(Reason::StartFailure)),
        _ => (ProblemCode::Internal, None),
    };
    not_started(code, reason, chain(&error))
}

fn unknown(id: Uuid, code: ProblemCode, message: String) -> Outcome {
    let retry = Retry { safe: false, program_started: true };
    Outcome::None(Box::new(NoExecution::new(Some(id), Some(Reason::Lost), problem(code, message), retry)))
}

fn problem(code: ProblemCode, message: String) -> Problem {
    Problem { code, message, backend_message: None }
}

fn is_disk_full(error: &execution::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        let io = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let store = error.downcast_ref::<lastword_store::Error>();
        if io == Some(std::io::ErrorKind::StorageFull)
            || matches!(store, Some(lastword_store::Error::StorageFull { .. }))
        {
            return true;
        }
        source = error.source();
    }
    // A transparent error passes its own source on, and not itself.
    matches!(error, execution::Error::Store(lastword_store::Error::StorageFull { .. }))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Keeps what a result shows of the streams, and whether there is an execution.
struct Accepted {
    collector: Collector,
    id: Option<Uuid>,
}

impl Sink for Accepted {
    fn accepted(&mut self, id: Uuid) {
        self.id = Some(id);
    }

    fn record(&mut self, stream: Stream, _time_ns: i64, _seq: u64, bytes: &[u8]) {
        self.collector.add(stream, bytes);
    }

    fn dropped(&mut self, _stream: Stream, _time_ns: i64, _seq: u64, _bytes: u64) {}
}
