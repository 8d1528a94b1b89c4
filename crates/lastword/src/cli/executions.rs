//! Where executions are, so that no command is written twice: in a data directory, or at a server.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use lastword_api::encoding::output_bytes;
use lastword_api::execution::INLINE_BYTES_DEFAULT;
use lastword_api::{Execution, Inline, Status, Verification};
use lastword_store::{Filter, Store, Transcript};
use uuid::Uuid;

use super::message::{Advice, say_error};
use super::server::{error, told};
use super::{find, object};
use crate::client::{Client, ListWish, Patience, Wish};
use crate::execution::found_damaged;
use crate::execution::{self, STEP_LABEL};
use crate::replay::select::{self, Start, Tail, Unit};
use crate::replay::{Record, Replay};
use crate::stored;

/// Records that a server can be asked for from the end.
const SERVER_TAIL_MAX: u64 = 100_000;
/// How often a transcript that still grows is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// How often, while following, runs whose runner died are looked for.
const RECOVER_EVERY: Duration = Duration::from_secs(1);

/// What was opened for a command.
pub(crate) enum Opened {
    Store(Box<Store>),
    Server(Arc<Client>),
}

/// Executions to read and to end.
#[derive(Clone, Copy)]
pub(crate) enum Executions<'a> {
    Store(&'a Store),
    Server(&'a Client),
}

/// An output file that was kept.
pub(crate) struct KeptFile {
    /// As it was sealed.
    pub(crate) path: Vec<u8>,
    pub(crate) bytes: u64,
    /// In hex.
    pub(crate) blake3: String,
}

impl Opened {
    pub(crate) fn executions(&self) -> Executions<'_> {
        match self {
            Opened::Store(store) => Executions::Store(store),
            Opened::Server(client) => Executions::Server(client),
        }
    }
}

impl<'a> Executions<'a> {
    /// An id by its beginning.
    pub(crate) fn id(self, prefix: &str) -> anyhow::Result<Uuid> {
        match self {
            Executions::Store(store) => find(store, prefix).map(|entry| entry.id),
            Executions::Server(client) => told(client.resolve(prefix)),
        }
    }

    /// Without its streams.
    pub(crate) fn get(self, id: Uuid) -> anyhow::Result<Execution> {
        match self {
            Executions::Store(store) => object(&find(store, &id.to_string())?),
            Executions::Server(client) => {
                let execution = told(client.get(id))?;
                Ok(Execution { inline: None, ..execution })
            }
        }
    }

    /// With the beginning of its streams. What stands behind damage is left out: `verify` speaks of that.
    pub(crate) fn get_with_streams(self, id: Uuid) -> anyhow::Result<Execution> {
        match self {
            Executions::Store(store) => {
                let mut execution = self.get(id)?;
                match execution.status {
                    Status::Queued => execution.inline = Some(Inline::default()),
                    _ => add_inline(store, &mut execution)?,
                }
                Ok(execution)
            }
            Executions::Server(client) => told(client.get(id)),
        }
    }

    /// Newest first. Compile steps are shown to whoever asks for them: each belongs to an execution that says what came of it.
    /// One that can't be read must not hide the others: it is said, and false is returned.
    pub(crate) fn list(self, wish: &ListWish, limit: usize) -> anyhow::Result<(Vec<Execution>, bool)> {
        match self {
            Executions::Store(store) => list(store, wish, limit),
            Executions::Server(client) => Ok((told(client.list(wish, limit))?, true)),
        }
    }

    /// Gives out its records, those that are to come too if it is followed. Returns it as it stands then, if it is there.
    pub(crate) fn records(
        self,
        id: Uuid,
        wish: Wish,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> anyhow::Result<Option<Execution>> {
        let store = match self {
            Executions::Server(client) => {
                return told(client.records(id, wish, Patience::default(), visit));
            }
            Executions::Store(store) => store,
        };
        let mut transcript = store.transcript(id)?;
        let mut admitted = |record: Record<'_>| match wish.filter.admits(&record) {
            true => visit(record),
            false => ControlFlow::Continue(()),
        };
        if wish.follow {
            follow(store, id, &mut transcript, &mut admitted)?;
        } else {
            let read = Replay::default().read_on(&mut transcript, &mut admitted);
            let _ = read.hint(format!("lastword verify {id} says more"))?;
        }
        store.get(id)?.map(|entry| object(&entry)).transpose()
    }

    /// Where its last lines, or records, begin.
    pub(crate) fn tail(
        self,
        id: Uuid,
        filter: select::Filter,
        count: u32,
        unit: Unit,
    ) -> anyhow::Result<Start> {
        let client = match self {
            Executions::Store(store) => {
                return Ok(select::tail(&mut store.transcript(id)?, &filter, count as usize, unit)?);
            }
            Executions::Server(client) => client,
        };
        // A server counts records in this format, and lines in one that doesn't tell the streams apart.
        let tail = Some(u64::from(count)).filter(|count| unit == Unit::Records && *count <= SERVER_TAIL_MAX);
        let wish = Wish { filter, tail, follow: false };
        let mut last = Tail::new(count as usize, unit);
        let mut take = |record: Record<'_>| {
            last.take(&record);
            ControlFlow::Continue(())
        };
        told(client.records(id, wish, Patience::default(), &mut take))?;
        Ok(last.start())
    }

    pub(crate) fn outputs(self, execution: &Execution) -> anyhow::Result<Vec<KeptFile>> {
        match self {
            Executions::Store(store) => {
                let outputs = store.outputs(execution.id)?;
                let kept = outputs.files().iter().map(|file| KeptFile {
                    path: file.path.clone(),
                    bytes: file.bytes,
                    blake3: file.blake3.iter().map(|byte| format!("{byte:02x}")).collect(),
                });
                Ok(kept.collect())
            }
            Executions::Server(_) => {
                let kept = execution.outputs.iter().map(|file| {
                    let path = output_bytes(&file.path, file.path_encoding)
                        .ok_or_else(|| anyhow!("the path of an output file is no base64"))?;
                    Ok(KeptFile { path, bytes: file.bytes, blake3: file.blake3.clone() })
                });
                kept.collect()
            }
        }
    }

    /// The bytes of an output file, to `take`. The last read says whether the digest was right.
    pub(crate) fn output<T>(
        self,
        id: Uuid,
        file: &KeptFile,
        take: impl FnOnce(&mut dyn Read) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        match self {
            Executions::Store(store) => {
                let outputs = store.outputs(id)?;
                let index = outputs.files().iter().position(|kept| kept.path == file.path);
                let reader = index.and_then(|index| outputs.open(index));
                take(&mut reader.ok_or_else(|| anyhow!("the output file is gone"))?)
            }
            Executions::Server(client) => {
                take(&mut told(client.file(id, &stored::absolute(&file.path), &file.blake3))?)
            }
        }
    }

    pub(crate) fn remove(self, id: Uuid) -> anyhow::Result<()> {
        match self {
            Executions::Store(store) => Ok(store.remove(id)?),
            Executions::Server(client) => told(client.remove(id)),
        }
    }

    pub(crate) fn verify(self, id: Uuid) -> anyhow::Result<Verification> {
        match self {
            Executions::Store(store) => Ok(stored::check(store, &find(store, &id.to_string())?)?),
            Executions::Server(client) => told(client.verify(id)),
        }
    }

    /// Asks for its end. `None`: it has ended already, as what is returned beside it says.
    pub(crate) fn ask_to_end(self, id: Uuid) -> anyhow::Result<Asked> {
        let store = match self {
            Executions::Server(client) => {
                let before = self.get(id)?;
                if before.status.is_terminal() {
                    return Ok(Asked::HadEnded(before.status));
                }
                return told(client.cancel(id)).map(|_| Asked::Asked);
            }
            Executions::Store(store) => store,
        };
        let entry = find(store, &id.to_string())?;
        if entry.ended {
            return Ok(Asked::HadEnded(object(&entry)?.status));
        }
        if store.ask_to_end(id)? {
            return Ok(Asked::Asked);
        }
        // It may have come to its end, or to its start, since we looked.
        let entry = find(store, &id.to_string())?;
        if !entry.ended && object(&entry)?.status == Status::Queued {
            let error = Err(anyhow!("execution {id} waits for its turn, and a server has it"));
            return error.hint("ask that server: lastword cancel --server URL ID");
        }
        Ok(Asked::Asked)
    }

    /// The status that it ended with, once it has. `None` if it was removed.
    pub(crate) fn see_end(self, id: Uuid) -> anyhow::Result<Option<Status>> {
        match self {
            Executions::Store(store) => {
                execution::adopt(store, id)?;
                let ended = store.get(id)?.map(|entry| object(&entry)).transpose()?;
                Ok(ended.map(|ended| ended.status))
            }
            Executions::Server(client) => match client.ended(id, Patience::default()) {
                Ok(ended) => Ok(Some(ended.status)),
                Err(gone) if gone.code() == Some(lastword_api::ErrorCode::ExecutionNotFound) => Ok(None),
                Err(other) => Err(error(other)),
            },
        }
    }
}

/// What came of asking for an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    HadEnded(Status),
    Asked,
}

/// The beginning of both streams, from the transcript.
pub(crate) fn add_inline(store: &Store, execution: &mut Execution) -> anyhow::Result<()> {
    let (inline, damage) = stored::inline(store, execution.id, INLINE_BYTES_DEFAULT)?;
    if let Some(error) = damage {
        say_error(&error.into());
        found_damaged(execution);
    }
    execution.inline = Some(inline);
    Ok(())
}

fn list(store: &Store, wish: &ListWish, limit: usize) -> anyhow::Result<(Vec<Execution>, bool)> {
    let mut filter = Filter {
        status: wish.status.iter().map(|status| status.name().to_owned()).collect(),
        labels: wish.labels.clone(),
        since_ns: wish.since.map(lastword_api::Timestamp::ns),
        until_ns: wish.until.map(lastword_api::Timestamp::ns),
        limit,
        ..Filter::default()
    };
    let steps_too = wish.labels.iter().any(|(key, _)| key == STEP_LABEL);
    let mut entries = Vec::new();
    loop {
        let page = store.list(&filter)?;
        let last = page.last().map(|entry| entry.id);
        let whole = page.len() == limit;
        entries.extend(
            page.into_iter().filter(|entry| steps_too || !entry.meta.labels.contains_key(STEP_LABEL)),
        );
        if entries.len() >= limit || !whole {
            break;
        }
        filter.before = last;
    }
    entries.truncate(limit);
    let (mut items, mut all) = (Vec::new(), true);
    for entry in entries {
        match object(&entry) {
            Ok(execution) => items.push(execution),
            Err(error) => {
                say_error(&error);
                all = false;
            }
        }
    }
    Ok((items, all))
}

/// Reads on until the transcript is sealed, or its execution has ended without a seal.
pub(super) fn follow(
    store: &Store,
    id: Uuid,
    transcript: &mut Transcript,
    visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let mut replay = Replay::default();
    let mut recovered = Instant::now();
    loop {
        // The end is looked for before the last read: what stood in the spool when it ended is not missed.
        let ended = store.get(id)?.is_none_or(|entry| entry.ended);
        if replay.read_on(transcript, visit)?.is_break() || replay.is_sealed() || ended {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_EVERY);
        if recovered.elapsed() >= RECOVER_EVERY {
            execution::recover(store)?;
            recovered = Instant::now();
        }
    }
}
