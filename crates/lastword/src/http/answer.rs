//! Answers, and what handlers have in common to make them.

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use lastword_api::execution::INLINE_BYTES_DEFAULT;
use lastword_api::{ErrorCode, Execution, Inline, Status};
use lastword_store::{Entry, Store};
use serde::Serialize;
use uuid::Uuid;

use super::auth::Caller;
use super::body::JSON;
use super::problem::Problem;
use super::query::{percent_decoded, uuid};
use crate::cli::message::escaped;
use crate::execution::found_damaged;
use crate::stored;

/// Encodes what may be large: on a thread that may be busy.
pub(super) fn encoded(value: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Problem::internal(&error))
}

pub(super) fn json_bytes(status: StatusCode, bytes: Bytes) -> Response {
    (status, [(CONTENT_TYPE, JSON)], Body::from(bytes)).into_response()
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Problem> {
    Ok(json_bytes(status, encoded(value)?))
}

/// The id in `/v1/executions/{id}`. What is no id is the id of nothing.
pub(super) struct ExecutionId(pub(super) Uuid);

/// The id in `/v1/batches/{id}`.
pub(super) struct BatchId(pub(super) Uuid);

/// As it stands in the path, which has two parts before it.
fn id_in(path: &str) -> Option<Uuid> {
    let bytes = percent_decoded(path.split('/').nth(3)?, false)?;
    uuid(std::str::from_utf8(&bytes).ok()?)
}

impl<S: Sync> FromRequestParts<S> for ExecutionId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let none = || Problem::new(ErrorCode::ExecutionNotFound, "that is no execution's id");
        id_in(parts.uri.path()).map(ExecutionId).ok_or_else(none)
    }
}

impl<S: Sync> FromRequestParts<S> for BatchId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let none = || Problem::new(ErrorCode::BatchNotFound, "that is no batch's id");
        id_in(parts.uri.path()).map(BatchId).ok_or_else(none)
    }
}

/// An execution that the caller may see.
pub(super) fn find(store: &Store, id: Uuid, caller: &Caller) -> Result<Entry, Problem> {
    let entry = store.get(id)?.ok_or_else(|| Problem::unknown(id))?;
    if !sees(caller, entry.meta.tenant.as_deref()) {
        return Err(Problem::unknown(id));
    }
    Ok(entry)
}

/// A caller with a tenant sees that tenant's only.
pub(super) fn sees(caller: &Caller, tenant: Option<&str>) -> bool {
    caller.tenant.is_none() || caller.tenant.as_deref() == tenant
}

/// The object with the beginning of its streams, as far as there is one.
pub(super) fn with_streams(store: &Store, entry: &Entry) -> Result<Execution, Problem> {
    let mut execution = stored::object(entry)?;
    let inline = match execution.status {
        Status::Queued => Ok((Inline::default(), None)),
        _ => stored::inline(store, entry.id, INLINE_BYTES_DEFAULT),
    };
    execution.inline = Some(match inline {
        Ok((inline, None)) => inline,
        // Removed, and its bytes with it, while we read them.
        Ok(_) if store.get(entry.id)?.is_none() => return Err(Problem::unknown(entry.id)),
        Ok((inline, Some(error))) => {
            tracing::error!(id = %entry.id, error = %escaped(&error.to_string()), "a transcript is damaged");
            found_damaged(&mut execution);
            inline
        }
        // Nothing is there yet.
        Err(lastword_store::Error::SpoolGone { .. }) if !entry.ended => Inline::default(),
        Err(error) => return Err(error.into()),
    });
    Ok(execution)
}

/// Which of the formats on offer the client would rather have; the first of those that it likes as well.
pub(super) fn accepted(headers: &HeaderMap, offers: &[&'static str]) -> Result<&'static str, Problem> {
    let mut ranges = Vec::new();
    for value in headers.get_all(axum::http::header::ACCEPT) {
        let text = value.to_str().map_err(|_| not_acceptable(offers))?;
        ranges.extend(text.split(',').filter_map(range));
    }
    if ranges.is_empty() {
        return offers.first().copied().ok_or_else(|| not_acceptable(offers));
    }
    let quality = |offer: &str| {
        // The most specific range decides.
        let fitting = ranges.iter().filter_map(|(range, quality)| {
            let exact = range.eq_ignore_ascii_case(offer);
            let of_kind = range
                .strip_suffix("/*")
                .is_some_and(|kind| offer.split('/').next().is_some_and(|of| of.eq_ignore_ascii_case(kind)));
            let rank = [*range == "*/*", of_kind, exact].iter().rposition(|fits| *fits)?;
            Some((rank, *quality))
        });
        fitting.max_by_key(|(rank, _)| *rank).map_or(0, |(_, quality)| quality)
    };
    let mut best = (0, None);
    for offer in offers {
        let quality = quality(offer);
        if quality > best.0 {
            best = (quality, Some(*offer));
        }
    }
    best.1.ok_or_else(|| not_acceptable(offers))
}

fn not_acceptable(offers: &[&str]) -> Problem {
    Problem::new(ErrorCode::NotAcceptable, format!("there is {}", offers.join(", ")))
}

/// A media range, and how much it is liked, in thousandths.
fn range(text: &str) -> Option<(&str, u32)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| !range.is_empty())?;
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let thousandths = quality.map_or(Some(1.0), |text| text.parse::<f64>().ok())?;
    Some((range, (thousandths.clamp(0.0, 1.0) * 1000.0) as u32))
}

#[cfg(test)]
mod tests {
    use axum::http::header::ACCEPT;

    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_liked_best() {
        const OFFERS: [&str; 3] = ["text/plain", "application/x-ndjson", "text/event-stream"];
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            accepted(&headers, &OFFERS).ok()
        };
        assert_eq!(of(""), Some("text/plain"));
        assert_eq!(of("*/*"), Some("text/plain"));
        assert_eq!(of("text/event-stream"), Some("text/event-stream"));
        assert_eq!(of("application/*"), Some("application/x-ndjson"));
        assert_eq!(of("text/plain;q=0.5, application/x-ndjson"), Some("application/x-ndjson"));
        assert_eq!(of("*/*;q=0.1, text/plain;q=0"), Some("application/x-ndjson"));
        assert_eq!(of("Text/Event-Stream; charset=utf-8"), Some("text/event-stream"));
        assert_eq!(of("application/json"), None);
        assert_eq!(of("text/plain;q=0"), None);
    }

    #[test]
    fn a_tenant_sees_its_own() {
        let of = |tenant: Option<&str>| Caller { tenant: tenant.map(str::to_owned), ..Caller::local() };
        assert!(sees(&of(None), None) && sees(&of(None), Some("a")) && sees(&of(Some("a")), Some("a")));
        assert!(!sees(&of(Some("a")), None) && !sees(&of(Some("a")), Some("b")));
    }
}
