//! `POST /v1/executions/{id}/stdin`: more for a program to read.

use std::sync::PoisonError;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastword_api::{ErrorCode, StdinState};
use lastword_store::Store;
use serde::Deserialize;
use uuid::Uuid;

use super::App;
use super::answer::{ExecutionId, find, json};
use super::auth::Runs;
use super::body::{self, OCTETS};
use super::limits::OPEN_STDINS;
use super::problem::Problem;
use super::query::Query;

/// A write whose offset is not in what was acknowledged leaves a gap; one that repeats what is there changes nothing.
pub(super) async fn add(
    State(app): State<App>,
    Runs(caller): Runs,
    ExecutionId(id): ExecutionId,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mut query = Query::of(&parts.uri)?;
    let offset = query.number("offset", 0, i64::MAX as u64)?.unwrap_or(0);
    let close = query.flag("close")?;
    query.finish()?;
    let held = body::read(&app, &parts.headers, body, OCTETS, app.options().body_bytes).await?;
    let known = app.clone();
    let bytes = app
        .blocking(move |service| {
            let store = service.store();
            if find(store, id, &caller)?.ended {
                let detail = "the execution has ended, and its stdin with it";
                return Err(Problem::new(ErrorCode::StdinClosed, detail).about(id));
            }
            if !is_open(&known, store, id)? {
                let detail = "the request did not leave stdin open: stdin_open";
                return Err(Problem::new(ErrorCode::StdinClosed, detail).about(id));
            }
            let have = store.add_stdin(id, offset, &held.bytes, close)?;
            drop(held);
            Ok(have)
        })
        .await?;
    json(StatusCode::OK, &StdinState { bytes, closed: close })
}

/// Whether the request asked for it. What was asked for never changes, so that it is looked up once and not at every write.
fn is_open(app: &App, store: &Store, id: Uuid) -> Result<bool, Problem> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        stdin_open: bool,
    }

    let lock = || app.0.open_stdins.lock().unwrap_or_else(PoisonError::into_inner);
    if lock().contains(&id) {
        return Ok(true);
    }
    let Some(request) = store.request(id)? else { return Ok(false) };
    let asked: Asked = serde_json::from_slice(&request).map_err(|error| Problem::internal(&error))?;
    if asked.stdin_open {
        let mut known = lock();
        if known.len() >= OPEN_STDINS {
            known.clear();
        }
        known.insert(id);
    }
    Ok(asked.stdin_open)
}
