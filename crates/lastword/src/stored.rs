//! What the store keeps of an execution, as it is shown to the outside.

use std::ops::ControlFlow;

use lastword_api::path::WORK;
use lastword_api::{Execution, Inline, Verification};
use lastword_store::{Entry, Outputs, Store, Verdict};
use uuid::Uuid;

use crate::execution;
pub(crate) use crate::execution::object_of as object;
use crate::replay::{self, Collector, Replay};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] lastword_store::Error),
    #[error(transparent)]
    Execution(#[from] execution::Error),
}

impl Error {
    /// The execution isn't there, or not any more.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Store(lastword_store::Error::NotFound { .. }))
    }
}

/// The beginning of both streams, at most `max` bytes of each, and why there is no more of them to show, if they are damaged.
pub(crate) fn inline(
    store: &Store,
    id: Uuid,
    max: usize,
) -> Result<(Inline, Option<replay::Error>), lastword_store::Error> {
    let mut transcript = store.transcript(id)?;
    let mut collector = Collector::new(max);
    let read = Replay::default().read_on(&mut transcript, &mut |record| {
        record.to_sink(&mut collector);
        if collector.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    Ok((collector.into_inline(), read.err()))
}

/// A sealed path as the program saw it.
pub(crate) fn absolute(path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") { path.to_vec() } else { [WORK.as_bytes(), b"/", path].concat() }
}

/// Which of the kept files is meant: a path relative to /work, or absolute.
pub(crate) fn output(outputs: &Outputs, path: &[u8]) -> Option<usize> {
    meant(outputs.files().iter().map(|file| &file.path[..]), path)
}

/// Which of these sealed paths is meant.
pub(crate) fn meant<'a>(mut sealed: impl Iterator<Item = &'a [u8]>, path: &[u8]) -> Option<usize> {
    let wanted = absolute(path.strip_prefix(b"./").unwrap_or(path));
    sealed.position(|sealed| absolute(sealed) == wanted)
}

/// Reads everything of one execution again.
pub(crate) fn check(store: &Store, entry: &Entry) -> Result<Verification, Error> {
    let mut verdict = store.verify(entry.id)?;
    match object(entry) {
        Ok(execution) if entry.ended => verdict.problems.extend(contradictions(&execution, &verdict)),
        Ok(_) => {}
        Err(error) => verdict.problems.push(format!("{:#}", anyhow::Error::new(error))),
    }
    Ok(Verification {
        id: entry.id,
        ok: verdict.problems.is_empty(),
        status: entry.meta.status.clone(),
        complete: verdict.complete,
        why_incomplete: verdict.why_incomplete,
        records: verdict.records,
        stdout_bytes: verdict.stdout_bytes,
        stderr_bytes: verdict.stderr_bytes,
        outputs: verdict.outputs,
        output_bytes: verdict.output_bytes,
        problems: verdict.problems,
    })
}

/// Where the execution object says other than the transcript that was read again.
fn contradictions(execution: &Execution, verdict: &Verdict) -> Vec<String> {
    let said = &execution.transcript;
    let mut found = Vec::new();
    if said.complete == Some(true) && !verdict.complete {
        let why = verdict.why_incomplete.as_deref().unwrap_or("nobody can say why");
        found.push(format!("the execution object says complete, and the transcript is not: {why}"));
    }
    let counts = [
        ("records", said.records, verdict.records),
        ("bytes of stdout", said.stdout.bytes, verdict.stdout_bytes),
        ("bytes of stderr", said.stderr.bytes, verdict.stderr_bytes),
        ("output files", execution.outputs.len() as u64, verdict.outputs),
    ];
    for (what, said, read) in counts {
        if said != read {
            found.push(format!("the execution object says {said} {what}, and {read} were read"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use lastword_api::{Backend, Limits, Timestamp};

    use super::*;

    #[test]
    fn an_object_that_says_other_than_the_transcript_is_found_out() {
        let mut execution =
            Execution::queued(Uuid::nil(), Timestamp::from_ns(0), Backend::Native, Limits::default());
        execution.transcript.complete = Some(true);
        execution.transcript.records = 2;
        execution.transcript.stdout.bytes = 5;
        let read = Verdict { complete: true, records: 2, stdout_bytes: 5, ..Verdict::default() };
        assert!(contradictions(&execution, &read).is_empty());
        assert_eq!(contradictions(&execution, &Verdict { complete: false, ..read.clone() }).len(), 1);
        let found = contradictions(&execution, &Verdict { stdout_bytes: 4, ..read });
        assert_eq!(found, ["the execution object says 5 bytes of stdout, and 4 were read"]);
    }
}
