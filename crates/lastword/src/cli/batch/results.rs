//! Results on their way out: each one line, in the order of the rows or as they end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use lastword_api::{ErrorCode, Execution, Problem, ProblemCode, Reason, Retry, Status};
use serde::Serialize;
use uuid::Uuid;

use super::limits::SYNC_EVERY;
use super::progress::{Tally, Verdict};
use super::queue::Queue;
use crate::cli::executions::{Executions, add_inline};
use crate::cli::object;
use crate::cli::output::Output;
use crate::cli::server::told;

/// What came of a row.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) row: u64,
    pub(super) key: Option<String>,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// With the beginning of its streams.
    Ended(Box<Execution>),
    /// The store has it.
    Stored(Uuid),
    None(Box<NoExecution>),
}

impl Outcome {
    pub(super) fn is_disk_full(&self) -> bool {
        let problem = match self {
            Outcome::Ended(execution) => execution.problem.as_ref(),
            Outcome::None(none) => Some(&none.problem),
            Outcome::Stored(_) => None,
        };
        problem.is_some_and(|problem| problem.code == ProblemCode::StorageFull)
    }
}

/// A row without an execution object to show.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct NoExecution {
    id: Option<Uuid>,
    status: Status,
    reason: Option<Reason>,
    ok: bool,
    problem: Problem,
    retry: Retry,
}

impl NoExecution {
    pub(super) fn new(id: Option<Uuid>, reason: Option<Reason>, problem: Problem, retry: Retry) -> Self {
        NoExecution { id, status: Status::Error, reason, ok: false, problem, retry }
    }

    /// It was there once.
    pub(super) fn removed(id: Uuid) -> Self {
        let message = format!("execution {id} was removed before its result was read");
        let problem = Problem { code: ProblemCode::Lost, message, backend_message: None };
        let retry = Retry { safe: false, program_started: true };
        NoExecution::new(Some(id), Some(Reason::Lost), problem, retry)
    }

    fn verdict(&self) -> Verdict {
        Verdict { status: self.status, reason: self.reason, vouched: true, again: self.retry.safe }
    }
}

/// One line of the output.
#[derive(Serialize)]
struct ResultLine<'a> {
    row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Execution(&'a Execution),
    None(&'a NoExecution),
}

/// Where lines go.
#[derive(Debug)]
pub(super) enum Out {
    Stdout(Output),
    File { file: File, path: PathBuf, synced: Instant },
}

/// Nobody reads the results any more.
#[derive(Debug)]
pub(super) struct Shut;

impl Out {
    fn write(&mut self, line: &[u8]) -> anyhow::Result<Result<(), Shut>> {
        match self {
            Out::Stdout(stdout) => {
                stdout.write(line);
                match stdout.failure() {
                    Some(error) => {
                        Err(anyhow::Error::new(error).context("cannot write the results to stdout"))
                    }
                    None if stdout.is_shut() => Ok(Err(Shut)),
                    None => Ok(Ok(())),
                }
            }
            Out::File { file, path, synced } => {
                let failed = || format!("cannot write the results to {}", path.display());
                match file.write_all(line) {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Err(Shut)),
                    written => written.with_context(failed)?,
                }
                if synced.elapsed() >= SYNC_EVERY {
                    *synced = Instant::now();
                    sync(file).with_context(failed)?;
                }
                Ok(Ok(()))
            }
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match self {
            Out::Stdout(_) => Ok(()),
            Out::File { file, path, .. } => {
                sync(file).with_context(|| format!("cannot write the results to {}", path.display()))
            }
        }
    }
}

/// A pipe or a device has nothing to sync.
fn sync(file: &File) -> std::io::Result<()> {
    if file.metadata()?.is_file() { file.sync_data() } else { Ok(()) }
}

/// A result whose row is not next. Of an execution only the id is kept: the store has the rest.
#[derive(Debug)]
struct Waiting {
    key: Option<String>,
    what: WaitingFor,
}

#[derive(Debug)]
enum WaitingFor {
    Stored(Uuid),
    None(Box<NoExecution>),
    /// The store doesn't have it as it is to be shown.
    Ended(Box<Execution>),
}

impl Waiting {
    fn bytes(&self) -> usize {
        let own = match &self.what {
            WaitingFor::Stored(_) => 0,
            WaitingFor::None(none) => size_of::<NoExecution>() + none.problem.message.len(),
            WaitingFor::Ended(execution) => {
                let texts = execution
                    .inline
                    .as_ref()
                    .map_or([&None; 3], |inline| [&inline.stdout, &inline.stderr, &inline.output]);
                let texts: usize = texts.iter().map(|text| text.as_ref().map_or(0, String::len)).sum();
                size_of::<Execution>() + texts
            }
        };
        size_of::<(u64, Waiting)>() + self.key.as_ref().map_or(0, String::len) + own
    }
}

/// Gives results out.
pub(super) struct Results<'a> {
    executions: Executions<'a>,
    queue: &'a Queue,
    out: Out,
    as_they_end: bool,
    /// The row whose turn it is.
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    pub(super) tally: Tally,
}

impl<'a> Results<'a> {
    /// `next`: the first row that is not out yet. `tally`: those that are.
    pub(super) fn new(
        executions: Executions<'a>,
        queue: &'a Queue,
        out: Out,
        as_they_end: bool,
        next: u64,
        tally: Tally,
    ) -> Self {
        let waiting = BTreeMap::new();
        Results { executions, queue, out, as_they_end, next, waiting, waiting_bytes: 0, tally }
    }

    /// Writes the result, or keeps it until its row's turn.
    pub(super) fn take(&mut self, event: Event) -> anyhow::Result<Result<(), Shut>> {
        let Event { row, key, outcome } = event;
        if !self.as_they_end && row != self.next {
            let what = match outcome {
                // What the store was not told of can't be read there again.
                Outcome::Ended(execution) if execution.ended_at.is_none() => WaitingFor::Ended(execution),
                Outcome::Ended(execution) => WaitingFor::Stored(execution.id),
                Outcome::Stored(id) => WaitingFor::Stored(id),
                Outcome::None(none) => WaitingFor::None(none),
            };
            let waiting = Waiting { key, what };
            self.waiting_bytes += waiting.bytes();
            self.waiting.insert(row, waiting);
            self.queue.waiting(self.waiting_bytes);
            return Ok(Ok(()));
        }
        self.next = row + 1;
        if let Err(shut) = self.write(row, key.as_deref(), &outcome)? {
            return Ok(Err(shut));
        }
        while let Some(entry) = self.waiting.first_entry().filter(|entry| *entry.key() == self.next) {
            let waiting = entry.remove();
            if let Err(shut) = self.write_waiting(self.next, waiting)? {
                return Ok(Err(shut));
            }
            self.next += 1;
        }
        Ok(Ok(()))
    }

    /// No more results come: those that still wait are given out, and all are durable.
    pub(super) fn end(&mut self) -> anyhow::Result<Result<(), Shut>> {
        while let Some((row, waiting)) = self.waiting.pop_first() {
            if let Err(shut) = self.write_waiting(row, waiting)? {
                return Ok(Err(shut));
            }
        }
        self.out.end().map(Ok)
    }

    fn write_waiting(&mut self, row: u64, waiting: Waiting) -> anyhow::Result<Result<(), Shut>> {
        self.waiting_bytes -= waiting.bytes();
        self.queue.waiting(self.waiting_bytes);
        let outcome = match waiting.what {
            WaitingFor::Stored(id) => Outcome::Stored(id),
            WaitingFor::None(none) => Outcome::None(none),
            WaitingFor::Ended(execution) => Outcome::Ended(execution),
        };
        self.write(row, waiting.key.as_deref(), &outcome)
    }

    fn write(&mut self, row: u64, key: Option<&str>, outcome: &Outcome) -> anyhow::Result<Result<(), Shut>> {
        let read;
        let (what, verdict) = match outcome {
            Outcome::Ended(execution) => (What::Execution(execution), Verdict::of(execution)),
            Outcome::None(none) => (What::None(none), none.verdict()),
            Outcome::Stored(id) => {
                read = self.read(*id).with_context(|| format!("cannot read the result of row {row}"))?;
                match &read {
                    Ok(execution) => (What::Execution(execution), Verdict::of(execution)),
                    Err(none) => (What::None(none), none.verdict()),
                }
            }
        };
        let mut line = serde_json::to_vec(&ResultLine { row, key, what })?;
        line.push(b'\n');
        let written = self.out.write(&line)?;
        self.tally.add(row, &verdict);
        Ok(written)
    }

    /// An execution as it is kept, or that it was removed meanwhile.
    fn read(&self, id: Uuid) -> anyhow::Result<Result<Execution, NoExecution>> {
        let store = match self.executions {
            Executions::Store(store) => store,
            Executions::Server(client) => match client.get(id) {
                Err(gone) if gone.code() == Some(ErrorCode::ExecutionNotFound) => {
                    return Ok(Err(NoExecution::removed(id)));
                }
                read => return told(read).map(Ok),
            },
        };
        let Some(entry) = store.get(id)? else { return Ok(Err(NoExecution::removed(id))) };
        let mut execution = object(&entry)?;
        add_inline(store, &mut execution)?;
        Ok(Ok(execution))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use lastword_store::Store;

    use super::*;
    use crate::cli::batch::limits::WAITING_BYTES_MAX;

    fn none(message: &str) -> Outcome {
        let problem =
            Problem { code: ProblemCode::BadRequest, message: message.into(), backend_message: None };
        let retry = Retry { safe: false, program_started: false };
        Outcome::None(Box::new(NoExecution::new(None, None, problem, retry)))
    }

    fn event(row: u64) -> Event {
        Event { row, key: Some(format!("k{row}")), outcome: none("command is empty") }
    }

    /// Rows as they come out when they end in this order.
    fn order(as_they_end: bool, next: u64, ends: &[u64]) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let queue = Queue::new(1);
        let path = dir.path().join("out");
        let out =
            Out::File { file: File::create(&path).unwrap(), path: path.clone(), synced: Instant::now() };
        let mut results =
            Results::new(Executions::Store(&store), &queue, out, as_they_end, next, Tally::default());
        for row in ends {
            results.take(event(*row)).unwrap().unwrap();
        }
        results.end().unwrap().unwrap();
        assert_eq!((results.waiting_bytes, results.tally.rows), (0, ends.len() as u64));
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        let values = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        values.map(|value| value["row"].as_u64().unwrap()).collect()
    }

    #[test]
    fn rows_come_in_order_or_as_they_end() {
        assert_eq!(order(false, 0, &[2, 1, 0, 4, 3]), [0, 1, 2, 3, 4]);
        assert_eq!(order(false, 3, &[5, 4, 3]), [3, 4, 5]);
        assert_eq!(order(true, 0, &[2, 1, 0, 4, 3]), [2, 1, 0, 4, 3]);
        // One in the middle was never run: the others are given out all the same.
        assert_eq!(order(false, 0, &[3, 0, 2]), [0, 2, 3]);
    }

    #[test]
    fn a_row_without_execution_looks_so() {
        let Outcome::None(none) = none("command is empty") else { unreachable!() };
        let line = ResultLine { row: 3, key: Some("k"), what: What::None(&none) };
        let expected = r#"{"row":3,"key":"k","id":null,"status":"error","reason":null,"ok":false,"problem":{"code":"bad_request","message":"command is empty","backend_message":null},"retry":{"safe":false,"program_started":false}}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), expected);
    }

    #[test]
    fn what_waits_is_counted() {
        let waiting = Waiting { key: None, what: WaitingFor::Stored(Uuid::nil()) };
        assert!(WAITING_BYTES_MAX / waiting.bytes() > 500_000, "{}", waiting.bytes());
    }
}
