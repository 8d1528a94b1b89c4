//! `GET /v1/executions/{id}/logs`: a transcript as text, lines or events, also while it grows.

use std::io;
use std::ops::ControlFlow;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use lastword_api::{ErrorCode, Status, Stream};
use lastword_store::{Entry, Store, Transcript};
use tokio::sync::watch;
use uuid::Uuid;

use super::App;
use super::answer::{ExecutionId, accepted, encoded, find};
use super::auth::Reads;
use super::limits::{STREAM_BUFFER_BYTES, TAIL};
use super::problem::Problem;
use super::query::Query;
use super::stream::{self, EVENTS, Filled, Format, NDJSON, Source, TEXT};
use crate::cli::message::escaped;
use crate::replay::select::{Filter, Start, Unit, tail};
use crate::replay::{self, Content, Record, Replay};
use crate::service::Service;
use crate::service::metrics::{Listener, Metrics};
use crate::stored;

/// `GET /v1/executions/{id}/logs`
pub(super) async fn logs(
    State(app): State<App>,
    Reads(caller): Reads,
    ExecutionId(id): ExecutionId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let format = Format::of(accepted(&headers, &[TEXT, NDJSON, EVENTS])?);
    let mut wish = Wish::of(Query::of(&uri)?)?;
    if let Some(seq) = last_event_id(&headers)? {
        wish.resume_behind(seq);
    }
    let growth = app
        .blocking(move |service| {
            find(service.store(), id, &caller)?;
            Ok(service.growth().watch(id))
        })
        .await?;
    stream::answer(app, Logs { growth, pump: Pump::new(id, format, wish) }, format).await
}

/// The seq of the last record that a client has, of a stream that it was reading before.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let seq = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let seq = seq.and_then(|text| text.parse().ok());
    seq.map(Some).ok_or_else(|| {
        Problem::new(ErrorCode::MalformedRequest, "Last-Event-ID is not the id of an event of this stream")
    })
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wish {
    filter: Filter,
    tail: Option<usize>,
    /// Records.
    limit: Option<u64>,
    follow: bool,
}

impl Wish {
    fn of(mut query: Query) -> Result<Wish, Problem> {
        let stream = match query.text("stream")?.as_deref() {
            None | Some("both") => None,
            Some("stdout") => Some(Stream::Stdout),
            Some("stderr") => Some(Stream::Stderr),
            Some(_) => return Err(Problem::parameter("stream", "use stdout, stderr or both")),
        };
        let wish = Wish {
            filter: Filter {
                stream,
                since: query.time("since")?,
                until: query.time("until")?,
                from_seq: query.number("from_seq", 0, i64::MAX as u64)?,
                before_seq: query.number("before_seq", 0, i64::MAX as u64)?,
            },
            tail: query.number("tail", 0, TAIL)?.map(|tail| tail as usize),
            limit: query.number("limit", 1, i64::MAX as u64)?,
            follow: query.flag("follow")?,
        };
        query.finish()?;
        Ok(wish)
    }

    /// A client that comes back asks for the same again; what it has it must not get twice.
    fn resume_behind(&mut self, seq: u64) {
        let from = seq.saturating_add(1);
        self.filter.from_seq = Some(self.filter.from_seq.map_or(from, |asked| asked.max(from)));
        // The tail was taken when it came first.
        self.tail = None;
    }
}

struct Logs {
    growth: watch::Receiver<u64>,
    pump: Pump,
}

impl Source for Logs {
    fn fill(&mut self, service: &Service, out: &mut Vec<u8>) -> Filled {
        // What changes from here on wakes us, also if we see it in this round.
        self.growth.borrow_and_update();
        self.pump.fill(service.store(), out)
    }

    async fn changed(&mut self) {
        if self.growth.changed().await.is_err() {
            // Nobody tells us any more: we look now and then.
            std::future::pending().await
        }
    }

    fn may_stop(&self) -> bool {
        false
    }

    fn listener(metrics: &Metrics) -> Listener {
        metrics.follower()
    }
}

/// A transcript on its way to one client.
struct Pump {
    id: Uuid,
    format: Format,
    wish: Wish,
    start: Start,
    /// Open once the program was handed over.
    transcript: Option<Transcript>,
    replay: Replay,
    left: Option<u64>,
}

impl Pump {
    fn new(id: Uuid, format: Format, wish: Wish) -> Pump {
        let left = wish.limit;
        Pump { id, format, wish, start: Start::default(), transcript: None, replay: Replay::default(), left }
    }

    fn fill(&mut self, store: &Store, out: &mut Vec<u8>) -> Filled {
        self.try_fill(store, out).unwrap_or_else(Filled::Failed)
    }

    fn try_fill(&mut self, store: &Store, out: &mut Vec<u8>) -> Result<Filled, Problem> {
        // The end is looked for before the last read: what stood in the spool when it ended is not missed.
        let entry = store.get(self.id)?.ok_or_else(|| Problem::unknown(self.id))?;
        if !self.open(store, &entry)? {
            return self.stop(&entry, out);
        }
        let Some(transcript) = &mut self.transcript else { return self.stop(&entry, out) };
        let (filter, start, format, left) = (&self.wish.filter, &self.start, self.format, &mut self.left);
        let mut over = false;
        let flow = self.replay.read_on(transcript, &mut |record| {
            over |= filter.is_behind(&record);
            if !over
                && filter.admits(&record)
                && let Some(record) = start.cut(record)
            {
                write(format, record, out);
                *left = left.map(|left| left.saturating_sub(1));
                over = *left == Some(0);
            }
            if over || out.len() >= STREAM_BUFFER_BYTES {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match flow {
            Err(error) => Err(self.unreadable(store, &error)),
            Ok(_) if over => self.end(&entry, out),
            Ok(ControlFlow::Break(())) => Ok(Filled::More),
            Ok(ControlFlow::Continue(())) => self.stop(&entry, out),
        }
    }

    /// Opens the transcript once there is one that stays: of one that waits, a spool may be made anew.
    fn open(&mut self, store: &Store, entry: &Entry) -> Result<bool, Problem> {
        if self.transcript.is_some() {
            return Ok(true);
        }
        if !entry.ended && entry.meta.status == Status::Queued.name() {
            return Ok(false);
        }
        let opened = match store.transcript(self.id) {
            Err(lastword_store::Error::SpoolGone { .. }) if !entry.ended => return Ok(false),
            opened => opened?,
        };
        if let Some(count) = self.wish.tail.take() {
            let unit = if self.format == Format::Text { Unit::Lines } else { Unit::Records };
            let mut again = store.transcript(self.id)?;
            self.start = tail(&mut again, &self.wish.filter, count, unit)
                .map_err(|error| self.unreadable(store, &error))?;
        }
        self.transcript = Some(opened);
        Ok(true)
    }

    /// All that is there was given out.
    fn stop(&self, entry: &Entry, out: &mut Vec<u8>) -> Result<Filled, Problem> {
        if self.wish.follow && !entry.ended {
            return Ok(Filled::Waiting);
        }
        self.end(entry, out)
    }

    /// All that was asked for was given out.
    fn end(&self, entry: &Entry, out: &mut Vec<u8>) -> Result<Filled, Problem> {
        if self.format == Format::Sse {
            let object = encoded(&stored::object(entry)?)?;
            self.format.write(out, "end", None, &String::from_utf8_lossy(&object));
        }
        Ok(Filled::End)
    }

    fn unreadable(&self, store: &Store, error: &replay::Error) -> Problem {
        // Removed, and its bytes with it, while we read them.
        if matches!(store.get(self.id), Ok(None)) {
            return Problem::unknown(self.id);
        }
        let damaged = match error {
            replay::Error::Damaged(_) => true,
            replay::Error::Read(error) => error.kind() == io::ErrorKind::InvalidData,
        };
        if !damaged {
            return Problem::internal(error);
        }
        tracing::error!(id = %self.id, error = %escaped(&error.to_string()), "a transcript is damaged");
        Problem::new(ErrorCode::TranscriptDamaged, "the stored transcript is damaged from here on")
            .about(self.id)
    }
}

fn write(format: Format, record: Record<'_>, out: &mut Vec<u8>) {
    match (format, record.content) {
        (Format::Text, Content::Bytes(bytes)) => out.extend_from_slice(bytes),
        (Format::Text, Content::Dropped(_)) => {}
        _ => {
            let id = record.seq.to_string();
            format.write(out, "record", Some(&id), record.to_log().to_line().trim_end_matches('\n'));
        }
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
