//! One row to its result, at a server.
//!
//! Each try has an idempotency key made from the batch, the row and the try before it: however often it is sent, and whoever
//! resumes the batch, it runs once.

use std::path::Path;

use lastword_api::{ErrorCode, Execution, ProblemCode, ProblemDetails, Reason};
use uuid::Uuid;

use super::Args;
use super::limits::{RETRY_PAUSE, RETRY_PAUSE_MAX};
use super::queue::Job;
use super::results::{NoExecution, Outcome};
use super::resume::{State, is_for_again, mark_for_server};
use super::rows::{BadRow, Row};
use super::stop::Why;
use super::work::{Work, not_started, refused_as};
use crate::cli::exit;
use crate::cli::message::{Advice, AdviceError};
use crate::cli::server::error;
use crate::client::{self, Client, NotForServers, Patience};

/// A server sees nothing of this machine.
pub(super) fn refuse_shared(args: &Args) -> anyhow::Result<()> {
    let given =
        [("--ro", !args.ro.is_empty()), ("--venv", args.venv.as_deref().is_some_and(|_: &Path| true))];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((what, _)) => {
            let refused = NotForServers::Shared { what };
            let hint = refused.hint();
            Err(refused).hint(hint).code(exit::USAGE)
        }
    }
}

/// `None`: the server can't be had, and the batch stops.
pub(super) fn result(
    work: &Work<'_>,
    client: &Client,
    job: &Job,
    bytes: &[u8],
) -> Result<Option<Outcome>, BadRow> {
    let Row { key, mut new } = Row::parse(bytes)?;
    let wrong = |message: String| BadRow { key: key.clone(), message };
    new.check().map_err(|error| wrong(error.to_string()))?;
    client::check_image(new.image.as_deref()).map_err(|error| wrong(format!("image is refused: {error}")))?;
    mark_for_server(&mut new.labels, work.batch, job.line.row, job.line.digest);
    let mut live = job.past.filter(|past| past.state == State::Live).map(|past| past.id);
    let mut before = job.past.filter(|past| past.state == State::Again).map(|past| past.id);
    let mut pause = RETRY_PAUSE;
    for left in (0..=work.retries).rev() {
        let ended = match live.take() {
            Some(id) => client.ended(id, Patience::default()),
            None => run(work, client, &new, &name(work.batch, job.line.row, before)),
        };
        match ended {
            Ok(execution) if is_for_again(&execution) && left > 0 && !work.stop.is_asked() => {
                before = Some(execution.id);
            }
            Ok(execution) => return Ok(Some(Outcome::Ended(Box::new(execution)))),
            Err(failure) => return failed(work, failure).map_err(wrong),
        }
        work.stop.pause(pause);
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
    // The last turn of the loop returns.
    Ok(None)
}

/// The idempotency key of a try. `before`: the one that failed before its program was started.
fn name(batch: Uuid, row: u64, before: Option<Uuid>) -> String {
    match before {
        None => format!("batch-{batch}-{row}"),
        Some(before) => format!("batch-{batch}-{row}-after-{before}"),
    }
}

/// To its end. A stop lets a row that runs end, and doesn't wait for room in a full queue.
fn run(
    work: &Work<'_>,
    client: &Client,
    new: &lastword_api::NewExecution,
    key: &str,
) -> Result<Execution, client::Error> {
    let patience = Patience { stop: Some(&work.stop.cancel), for_room: true };
    let taken = client.submit(new, key, true, patience)?;
    match taken.status.is_terminal() {
        true => Ok(taken),
        false => client.ended(taken.id, Patience::default()),
    }
}

/// What an error makes of the row: a result, a wrong row, or the end of the batch.
fn failed(work: &Work<'_>, failure: client::Error) -> Result<Option<Outcome>, String> {
    if let client::Error::Refused(problem) = &failure {
        let ProblemDetails { code, detail, field, execution, .. } = &**problem;
        match (code, execution) {
            (ErrorCode::InvalidField | ErrorCode::TooLarge | ErrorCode::MalformedRequest, _) => {
                return Err(detail.clone());
            }
            (ErrorCode::Unenforceable, _) => {
                let ordering = field.as_deref() == Some("ordering");
                let code =
                    if ordering { ProblemCode::OrderingUnavailable } else { ProblemCode::LimitUnenforced };
                return Ok(Some(refused_as(code, detail.clone())));
            }
            (ErrorCode::StorageFull, _) => {
                let full = Some(Reason::StorageFull);
                return Ok(Some(not_started(ProblemCode::StorageFull, full, detail.clone())));
            }
            (ErrorCode::IdempotencyRemoved | ErrorCode::ExecutionNotFound, Some(id)) => {
                return Ok(Some(Outcome::None(Box::new(NoExecution::removed(*id)))));
            }
            _ => {}
        }
    }
    let error = error(failure);
    work.stop.because(Why::Failed(match crate::cli::message::hint_of(&error) {
        Some(_) => error,
        None => error.with_hint("the same command with --resume goes on"),
    }));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_try_has_a_name_of_its_own() {
        let (batch, other) = (Uuid::now_v7(), Uuid::now_v7());
        let names =
            [name(batch, 1, None), name(batch, 11, None), name(other, 1, None), name(batch, 1, Some(other))];
        for (at, one) in names.iter().enumerate() {
            assert!(lastword_api::batch::is_idempotency_key(one));
            assert!(!names[at + 1..].contains(one), "{one}");
        }
        // Whoever resumes the batch finds the same.
        assert_eq!(names[0], name(batch, 1, None));
        assert_eq!(names[3], name(batch, 1, Some(other)));
    }
}
