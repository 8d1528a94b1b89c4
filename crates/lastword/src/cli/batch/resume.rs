//! What the store knows of the rows of a batch.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use anyhow::{Context, anyhow};
use lastword_api::{Execution, Status};
use lastword_store::{Entry, Filter, Store};
use uuid::Uuid;

use super::limits::{INDEX_WAIT_MAX, LOCK_LOOK, PAGE};
use super::rows::Digest;
use crate::cli::server::told;
use crate::client::{Client, ListWish};

/// Labels that tie an execution to its row.
const BATCH: &str = "lastword.batch";
const ROW: &str = "lastword.row";
const LINE: &str = "lastword.line";

/// The same at a server, where only the server itself may set labels that begin like those above.
pub(super) const SERVER_BATCH: &str = "lastword-batch";
const SERVER_ROW: &str = "lastword-row";
const SERVER_LINE: &str = "lastword-line";

/// Adds what ties an execution of a server to its row.
pub(super) fn mark_for_server(labels: &mut BTreeMap<String, String>, batch: Uuid, row: u64, line: Digest) {
    labels.insert(SERVER_BATCH.into(), batch.to_string());
    labels.insert(SERVER_ROW.into(), row.to_string());
    labels.insert(SERVER_LINE.into(), line.hex());
}

/// Adds what ties an execution to its row.
pub(super) fn mark(labels: &mut BTreeMap<String, String>, batch: Uuid, row: u64, line: Digest) {
    labels.insert(BATCH.into(), batch.to_string());
    labels.insert(ROW.into(), row.to_string());
    labels.insert(LINE.into(), line.hex());
}

/// The batch and the row of an execution.
pub(super) fn belongs_to(labels: &BTreeMap<String, String>) -> Option<(Uuid, u64)> {
    let of =
        |batch: &str, row: &str| Some((labels.get(batch)?.parse().ok()?, labels.get(row)?.parse().ok()?));
    of(BATCH, ROW).or_else(|| of(SERVER_BATCH, SERVER_ROW))
}

/// What became of a row before. From the least to the most that can be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It failed, and its program was surely not started: it is run again.
    Again,
    /// lastword failed, and its program may have been started: it is never run again.
    Failed,
    /// Its supervisor works on it.
    Live,
    Ended,
}

/// The execution that says most of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) id: Uuid,
    pub(super) line: Digest,
    pub(super) state: State,
}

/// The rows of a batch that have an execution.
pub(super) fn look_up(store: &Store, batch: Uuid) -> anyhow::Result<HashMap<u64, Past>> {
    wait_for_index(store)?;
    let mut rows = HashMap::new();
    let mut filter =
        Filter { labels: vec![(BATCH.into(), batch.to_string())], limit: PAGE, ..Filter::default() };
    loop {
        let page = store.list(&filter).context("cannot look up the batch")?;
        filter.before = page.last().map(|entry| entry.id);
        let last = page.len() < PAGE;
        for entry in page {
            add(&mut rows, past(&entry).with_context(|| not_understood(entry.id))?);
        }
        if last {
            return Ok(rows);
        }
    }
}

/// The same of a batch that a server runs.
pub(super) fn look_up_at(client: &Client, batch: Uuid) -> anyhow::Result<HashMap<u64, Past>> {
    let mut rows = HashMap::new();
    let wish = ListWish { labels: vec![(SERVER_BATCH.into(), batch.to_string())], ..ListWish::default() };
    let mut cursor = None;
    loop {
        let page = told(client.page(&wish, PAGE, cursor)).context("cannot look up the batch")?;
        for execution in &page.items {
            add(&mut rows, past_at(execution).with_context(|| not_understood(execution.id))?);
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(rows);
        }
    }
}

fn not_understood(id: Uuid) -> String {
    format!("execution {id} belongs to the batch, and can't be understood")
}

/// Of two that say the same the older one stays; they come newest first.
fn add(rows: &mut HashMap<u64, Past>, (row, past): (u64, Past)) {
    let known = rows.entry(row).or_insert(past);
    if past.state >= known.state {
        *known = past;
    }
}

fn past_at(execution: &Execution) -> anyhow::Result<(u64, Past)> {
    let (row, line) = place(&execution.labels, SERVER_LINE)?;
    let state = match () {
        () if !execution.status.is_terminal() => State::Live,
        () if execution.status != Status::Error => State::Ended,
        () if is_for_again(execution) => State::Again,
        () => State::Failed,
    };
    Ok((row, Past { id: execution.id, line, state }))
}

/// The row and the digest of its line.
fn place(labels: &BTreeMap<String, String>, line: &str) -> anyhow::Result<(u64, Digest)> {
    let (_, row) = belongs_to(labels).ok_or_else(|| anyhow!("it names no row"))?;
    let line = labels.get(line).and_then(|line| Digest::from_hex(line));
    Ok((row, line.ok_or_else(|| anyhow!("it names no line"))?))
}

fn past(entry: &Entry) -> anyhow::Result<(u64, Past)> {
    let (row, line) = place(&entry.meta.labels, LINE)?;
    let state = match () {
        () if !entry.ended => State::Live,
        () if entry.meta.status != Status::Error.name() => State::Ended,
        () => {
            let execution: Execution = serde_json::from_slice(&entry.object)?;
            if is_for_again(&execution) { State::Again } else { State::Failed }
        }
    };
    Ok((row, Past { id: entry.id, line, state }))
}

/// lastword failed, and to run it again is to run it once.
pub(super) fn is_for_again(execution: &Execution) -> bool {
    execution.status == Status::Error && execution.retry.safe && !execution.retry.program_started
}

/// After a power cut another process may be bringing the index up right now: what it still hides may be a row of ours.
/// Entries that come later are of processes that live, and none of those works on this batch.
fn wait_for_index(store: &Store) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut hidden = store.unindexed().context("cannot look for what the index doesn't show")?;
    while !hidden.is_empty() {
        if begin.elapsed() > INDEX_WAIT_MAX {
            return Err(anyhow!("another lastword process has been bringing the index up for too long"));
        }
        std::thread::sleep(LOCK_LOOK);
        let now = store.unindexed()?;
        hidden.retain(|id| now.contains(id));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lastword_api::{Backend, Limits, Retry, Timestamp};
    use lastword_store::Meta;

    use super::*;

    fn put(store: &Store, batch: Uuid, row: u64, status: Option<Status>, safe: bool) -> Uuid {
        let id = Uuid::now_v7();
        let mut execution = Execution::queued(id, Timestamp::from_ns(1), Backend::Native, Limits::default());
        execution.retry = Retry { safe, program_started: !safe };
        execution.status = status.unwrap_or(Status::Running);
        mark(&mut execution.labels, batch, row, Digest::of(b"line"));
        let meta = Meta {
            status: execution.status.name().into(),
            labels: execution.labels.clone(),
            backend: "native".into(),
            ..Meta::default()
        };
        let object = execution.to_stored_json().unwrap();
        let spool = store.create_spool(id).unwrap();
        store.accept(id, &meta, &object).unwrap();
        if status.is_some() {
            store.finish(spool, &meta, &object).unwrap();
        }
        id
    }

    #[test]
    fn nobody_else_can_set_our_labels() {
        let mut labels = BTreeMap::new();
        mark(&mut labels, Uuid::nil(), 7, Digest::of(b"line"));
        assert_eq!(belongs_to(&labels), Some((Uuid::nil(), 7)));
        for label in labels {
            assert!(lastword_api::check_labels(&BTreeMap::from([label])).is_err());
        }
    }

    #[test]
    fn the_execution_that_says_most_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let batch = Uuid::now_v7();
        put(&store, Uuid::now_v7(), 0, Some(Status::Failed), false);
        put(&store, batch, 1, Some(Status::Error), true);
        let ended = put(&store, batch, 1, Some(Status::Failed), false);
        put(&store, batch, 1, Some(Status::Error), true);
        put(&store, batch, 2, Some(Status::Error), true);
        put(&store, batch, 3, Some(Status::Error), true);
        let lost = put(&store, batch, 3, Some(Status::Error), false);
        let live = put(&store, batch, 4, None, false);
        let rows = look_up(&store, batch).unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[&1].id, rows[&1].state), (ended, State::Ended));
        assert_eq!(rows[&2].state, State::Again);
        assert_eq!((rows[&3].id, rows[&3].state), (lost, State::Failed));
        assert_eq!((rows[&4].id, rows[&4].state), (live, State::Live));
        assert_eq!(rows[&4].line, Digest::of(b"line"));
    }

    #[test]
    fn all_pages_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let batch = Uuid::now_v7();
        for row in 0..PAGE as u64 + 3 {
            put(&store, batch, row, None, false);
        }
        assert_eq!(look_up(&store, batch).unwrap().len(), PAGE + 3);
    }
}
