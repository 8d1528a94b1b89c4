//! `GET /v1/executions`: pages of executions, newest first.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lastword_api::{Status, Timestamp};
use lastword_store::{Entry, Filter, Store};
use uuid::Uuid;

use super::App;
use super::answer::{encoded, json_bytes, with_streams};
use super::auth::Reads;
use super::limits::{PAGE, PAGE_BYTES, PAGE_DEFAULT};
use super::problem::Problem;
use super::query::Query;
use crate::cli::message::escaped;
use crate::execution::STEP_LABEL;
use crate::stored;

/// `GET /v1/executions`
pub(super) async fn list(
    State(app): State<App>,
    Reads(caller): Reads,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let labels = query.labels()?;
    let limit = query.number("limit", 1, PAGE)?.unwrap_or(PAGE_DEFAULT) as usize;
    let output = query.list("include", |what| match what {
        "output" => Ok(()),
        _ => Err("there is output".to_owned()),
    })?;
    let filter = Filter {
        status: query.statuses()?.into_iter().map(|status: Status| status.name().to_owned()).collect(),
        since_ns: query.time("since")?.map(Timestamp::ns),
        until_ns: query.time("until")?.map(Timestamp::ns),
        before: cursor(query.text("cursor")?)?,
        // One more shows whether there are more.
        limit: limit + 1,
        tenant: caller.tenant,
        // Compile steps are shown to whoever asks for them: each belongs to an execution that says what came of it.
        without_label: (!labels.iter().any(|(key, _)| key == STEP_LABEL)).then(|| STEP_LABEL.to_owned()),
        labels,
        ..Filter::default()
    };
    query.finish()?;
    let streams = !output.is_empty();
    let page = app.blocking(move |service| page(service.store(), &filter, limit, streams)).await?;
    Ok(json_bytes(StatusCode::OK, page))
}

fn cursor(text: Option<String>) -> Result<Option<Uuid>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(&text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
    bytes.map(Some).ok_or_else(|| Problem::parameter("cursor", "it is not one that was given out here"))
}

fn cursor_behind(id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(id.as_bytes())
}

fn page(store: &Store, filter: &Filter, limit: usize, streams: bool) -> Result<Bytes, Problem> {
    let entries = store.list(filter)?;
    let mut json = b"{\"items\":[".to_vec();
    let mut next = None;
    let mut first = true;
    for (index, entry) in entries.iter().enumerate() {
        if index == limit || json.len() > PAGE_BYTES {
            next = index.checked_sub(1).and_then(|last| entries.get(last)).map(|last| cursor_behind(last.id));
            break;
        }
        if let Some(item) = item(store, entry, streams)? {
            if !std::mem::take(&mut first) {
                json.push(b',');
            }
            json.extend_from_slice(&item);
        }
    }
    json.extend_from_slice(b"],\"next_cursor\":");
    json.extend_from_slice(&encoded(&next)?);
    json.push(b'}');
    Ok(json.into())
}

/// `None` for one that was removed meanwhile, or can't be read: it must not hide the others.
fn item(store: &Store, entry: &Entry, streams: bool) -> Result<Option<Bytes>, Problem> {
    let made = match streams {
        true => with_streams(store, entry),
        false => stored::object(entry).map_err(Problem::from),
    };
    match made {
        Ok(execution) => encoded(&execution).map(Some),
        Err(problem) => {
            let why = escaped(&problem.details().detail);
            tracing::warn!(id = %entry.id, why = %why, "an execution is left out of a list");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back() {
        let id = Uuid::now_v7();
        assert_eq!(cursor(Some(cursor_behind(id))).unwrap(), Some(id));
        assert_eq!(cursor(None).unwrap(), None);
        for bad in ["", "x", "AAAA", &"A".repeat(23), &format!("{}=", cursor_behind(id))] {
            assert!(cursor(Some(bad.to_owned())).is_err(), "{bad}");
        }
    }
}
