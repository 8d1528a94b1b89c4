//! Answers that go on: pulled by the client, so that a slow one holds one buffer, no thread and no lock.

use std::io;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use lastword_api::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::App;
use super::limits::{KEEP_ALIVE_EVERY, LOOK_EVERY, RETRY_SOON};
use super::problem::{Problem, too_busy};
use crate::service::Service;
use crate::service::metrics::{Listener, Metrics};

pub(super) const TEXT: &str = "text/plain";
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const EVENTS: &str = "text/event-stream";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Ndjson,
    Sse,
}

impl Format {
    /// One of the three names above.
    pub(super) fn of(media_type: &str) -> Format {
        match media_type {
            NDJSON => Format::Ndjson,
            EVENTS => Format::Sse,
            _ => Format::Text,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; charset=utf-8",
            Format::Ndjson => NDJSON,
            Format::Sse => EVENTS,
        }
    }

    /// One JSON value: a line, or an event with its id. Texts have no format for it.
    pub(super) fn write(self, out: &mut Vec<u8>, event: &str, id: Option<&str>, json: &str) {
        match self {
            Format::Text => {}
            Format::Ndjson => out.extend_from_slice(format!("{json}\n").as_bytes()),
            Format::Sse => {
                let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
                out.extend_from_slice(format!("{id}event: {event}\ndata: {json}\n\n").as_bytes());
            }
        }
    }
}

/// How far filling a buffer came.
#[derive(Debug)]
pub(super) enum Filled {
    /// The buffer is full, and there is more.
    More,
    /// That is all for now.
    Waiting,
    /// That is all.
    End,
    /// What is in the buffer is good, and nothing comes behind it.
    Failed(Problem),
}

/// What a stream is made from.
pub(super) trait Source: Send + Sized + 'static {
    /// Puts what there is into the buffer. May block.
    fn fill(&mut self, service: &Service, out: &mut Vec<u8>) -> Filled;

    /// The same of what is at hand: it neither waits nor looks into the store. `None`: that has to be done. Spares those many who are
    /// told of every change the way to another thread and back.
    fn fill_at_once(&mut self, _out: &mut Vec<u8>) -> Option<Filled> {
        None
    }

    /// Returns when there may be more. Is dropped and called again.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;

    /// What says that the stream is alive, where there is nothing else to say.
    fn alive(&self) -> String {
        ": alive\n\n".to_owned()
    }

    /// A client can tell by itself that the stream was broken off.
    fn may_stop(&self) -> bool;

    /// Counts it among those who listen, as long as what is returned lives.
    fn listener(metrics: &Metrics) -> Listener;
}

struct State<S> {
    app: App,
    source: S,
    format: Format,
    next: Next,
    closing: watch::Receiver<bool>,
    spoke: Instant,
    _held: Held,
}

/// Given back when the stream ends, however that is.
struct Held {
    _permit: OwnedSemaphorePermit,
    _listener: Listener,
}

enum Next {
    Say(Bytes, Box<Next>),
    Fill,
    Wait,
    Fail(Problem),
    Over,
}

impl Next {
    fn behind(filled: Filled) -> Next {
        match filled {
            Filled::More => Next::Fill,
            Filled::Waiting => Next::Wait,
            Filled::End => Next::Over,
            Filled::Failed(problem) => Next::Fail(problem),
        }
    }
}

/// The answer. A source that fails before it has said anything is refused as a whole.
pub(super) async fn answer<S: Source>(app: App, source: S, format: Format) -> Result<Response, Problem> {
    let permit = app.0.streams.clone().try_acquire_owned().map_err(|_| too_busy("streams"))?;
    let listener = S::listener(app.service()?.metrics());
    let held = Held { _permit: permit, _listener: listener };
    let (source, out, filled) = fill(&app, source).await?;
    let next = match filled {
        Filled::Failed(problem) if out.is_empty() => return Err(problem),
        filled => Next::Say(out.into(), Box::new(Next::behind(filled))),
    };
    let closing = app.closing();
    let state = State { app, source, format, next, closing, spoke: Instant::now(), _held: held };
    let body = Body::from_stream(unfold(state, step));
    Ok((StatusCode::OK, [(CONTENT_TYPE, format.content_type())], body).into_response())
}

async fn fill<S: Source>(app: &App, mut source: S) -> Result<(S, Vec<u8>, Filled), Problem> {
    app.blocking(move |service| {
        let mut out = Vec::new();
        let filled = source.fill(service, &mut out);
        Ok((source, out, filled))
    })
    .await
}

type Piece = Result<Bytes, io::Error>;

async fn step<S: Source>(mut state: State<S>) -> Option<(Piece, State<S>)> {
    loop {
        match std::mem::replace(&mut state.next, Next::Over) {
            Next::Say(bytes, next) => {
                state.next = *next;
                if !bytes.is_empty() {
                    state.spoke = Instant::now();
                    return Some((Ok(bytes), state));
                }
            }
            Next::Fill => {
                let mut out = Vec::new();
                match state.source.fill_at_once(&mut out) {
                    Some(filled) => state.next = Next::Say(out.into(), Box::new(Next::behind(filled))),
                    None => state = refill(state).await?,
                }
            }
            Next::Wait => state.next = wait(&mut state).await,
            Next::Fail(problem) => return Some((failure(state.format, &problem), state)),
            Next::Over => return None,
        }
    }
}

/// `None` where the source is lost, which ends the stream as if the connection had broken.
async fn refill<S: Source>(state: State<S>) -> Option<State<S>> {
    let State { app, source, format, closing, spoke, _held, .. } = state;
    let (source, out, filled) = fill(&app, source).await.ok()?;
    let next = Next::Say(out.into(), Box::new(Next::behind(filled)));
    Some(State { app, source, format, next, closing, spoke, _held })
}

async fn wait<S: Source>(state: &mut State<S>) -> Next {
    let silence = KEEP_ALIVE_EVERY.saturating_sub(state.spoke.elapsed());
    if state.format == Format::Sse && silence.is_zero() {
        return Next::Say(state.source.alive().into(), Box::new(Next::Wait));
    }
    let patience = LOOK_EVERY.min(silence.max(Duration::from_millis(1)));
    let closed = tokio::select! {
        () = state.source.changed() => false,
        () = tokio::time::sleep(patience) => false,
        _ = state.closing.wait_for(|closing| *closing) => true,
    };
    match closed {
        false => Next::Fill,
        true if state.format == Format::Sse || state.source.may_stop() => Next::Over,
        true => Next::Fail(
            Problem::new(ErrorCode::Draining, "the server is going down; ask again").later(RETRY_SOON),
        ),
    }
}

/// The last that is said. Text has no words for it: its body is broken off, so that nobody takes it for the end.
fn failure(format: Format, problem: &Problem) -> Piece {
    let json = problem.to_json();
    let mut out = Vec::new();
    match format {
        Format::Text => return Err(io::Error::other(problem.details().detail.clone())),
        Format::Ndjson => format.write(&mut out, "", None, &format!("{{\"error\":{json}}}")),
        Format::Sse => format.write(&mut out, "error", None, &json),
    }
    Ok(out.into())
}
