//! Bodies of requests: bounded one by one, and all together.

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use lastword_api::{ErrorCode, Object};
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::auth::media_type;
use super::limits::{BODY_IDLE, BODY_TIME, OVERLONG_BYTES, OVERLONG_TIME};
use super::problem::{Problem, too_busy};

/// Bytes that one permit of the semaphore stands for.
pub(super) const UNIT: usize = 4096;

pub(super) const JSON: &str = "application/json";
pub(super) const OCTETS: &str = "application/octet-stream";

/// A body, and its share of the memory for all of them.
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) share: Share,
}

/// Given back when it is dropped.
#[derive(Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Room for so many bytes more.
    fn grow(&mut self, app: &App, bytes: usize) -> Result<(), Problem> {
        let held = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT).saturating_sub(held);
        let Ok(more) = u32::try_from(more) else { return Err(too_large(bytes)) };
        if more == 0 {
            return Ok(());
        }
        let permit = app.bodies().try_acquire_many_owned(more).map_err(|_| too_busy("bytes of requests"))?;
        match &mut self.0 {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}

fn too_large(max: usize) -> Problem {
    Problem::new(ErrorCode::TooLarge, format!("the body has more than the {max} bytes that are taken"))
}

/// Reads a body of the content type `kind`, of at most `max` bytes.
pub(super) async fn read(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    kind: &str,
    max: usize,
) -> Result<Held, Problem> {
    if !media_type(headers).is_some_and(|given| given.eq_ignore_ascii_case(kind)) {
        let detail = format!("the content type has to be {kind}");
        return Err(Problem::new(ErrorCode::UnsupportedMediaType, detail));
    }
    let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut held = Held { bytes: Vec::new(), share: Share::default() };
    let read = match said {
        Some(length) if length > max => Err((too_large(max), Some(body))),
        // What is only announced takes no room from others.
        _ => take(app, &mut held, body, max).await,
    };
    match read {
        Ok(()) => Ok(held),
        Err((problem, rest)) => {
            drop(held);
            if let Some(rest) = rest {
                throw_away(rest).await;
            }
            Err(problem)
        }
    }
}

/// On an error, what is left of the body if more of it may come.
async fn take(app: &App, held: &mut Held, mut body: Body, max: usize) -> Result<(), (Problem, Option<Body>)> {
    let deadline = Instant::now() + BODY_TIME;
    while let Some(chunk) = next(&mut body, deadline).await.map_err(|problem| (problem, None))? {
        let length = held.bytes.len() + chunk.len();
        if length > max {
            return Err((too_large(max), Some(body)));
        }
        if let Err(problem) = held.share.grow(app, length) {
            return Err((problem, Some(body)));
        }
        held.bytes.extend_from_slice(&chunk);
    }
    Ok(())
}

async fn next(body: &mut Body, deadline: Instant) -> Result<Option<Bytes>, Problem> {
    loop {
        let until = deadline.min(Instant::now() + BODY_IDLE);
        let frame = timeout_at(until, body.frame()).await.map_err(|_| {
            Problem::new(ErrorCode::RequestTimeout, "the body, or the next piece of it, took too long")
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => {
                return Err(Problem::new(ErrorCode::MalformedRequest, "the body could not be read"));
            }
            // Trailers say nothing to us.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn throw_away(mut body: Body) {
    let deadline = Instant::now() + OVERLONG_TIME;
    let mut bytes = 0;
    while let Ok(Some(chunk)) = next(&mut body, deadline).await {
        bytes += chunk.len();
        if bytes > OVERLONG_BYTES {
            break;
        }
    }
}

/// An object of JSON as `T`. What is no JSON is malformed; what is JSON and no `T` has a field that is wrong.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = match serde_path_to_error::deserialize(&mut from) {
        Ok(Object(value)) => value,
        Err(error) => {
            let path = error.path().to_string();
            return Err(wrong(&path, error.inner()));
        }
    };
    from.end().map_err(|error| wrong("", &error))?;
    Ok(value)
}

pub(super) fn wrong(path: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return Problem::new(ErrorCode::MalformedRequest, format!("the body is not JSON: {error}"));
    }
    let path = if path == "." { "" } else { path };
    let secret = ["secrets", "env"]
        .iter()
        .any(|name| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
    let mut why = error.to_string();
    if secret {
        // serde quotes what it found.
        why = "it has to be an object of names and texts".into();
    }
    if why.len() > DETAIL_BYTES {
        why = why.chars().take(DETAIL_BYTES / 4).collect::<String>() + "...";
    }
    match path {
        "" => Problem::field("", why),
        path => Problem::field(path, format!("{path}: {why}")),
    }
}

/// Of what serde says: it may quote a value.
const DETAIL_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use lastword_api::{BatchItem, NewExecution};

    use super::*;

    fn refusal(text: &str) -> (ErrorCode, Option<String>, String) {
        let problem = json::<NewExecution>(text.as_bytes()).unwrap_err();
        let details = problem.into_details();
        (details.code, details.field, details.detail)
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (text, field) in [
            (r#"{"limits": {"pids": -1}}"#, "limits.pids"),
            (r#"{"files": [{"path": "a"}, {"path": 1}]}"#, "files[1].path"),
            (r#"{"typo": 1}"#, "typo"),
            (r#"{"limits": {"memry": 1}}"#, "limits.memry"),
            (r#"{"command": "x"}"#, "command"),
            ("[]", ""),
            (r#"["python", null, [], "1"]"#, ""),
            (r#"{"limits": [1]}"#, "limits"),
            ("null", ""),
        ] {
            let (code, named, detail) = refusal(text);
            assert_eq!((code, named.as_deref()), (ErrorCode::InvalidField, Some(field)), "{text}: {detail}");
        }
        for (text, field) in [
            (r#"{"limits": {"pids": -1}}"#, "limits.pids"),
            (r#"{"idempotency_key": "k", "typo": 1}"#, "typo"),
            (r#"{"idempotency_key": 1}"#, "idempotency_key"),
        ] {
            let problem = json::<BatchItem>(text.as_bytes()).unwrap_err();
            assert_eq!(problem.details().field.as_deref(), Some(field), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for text in ["", "{", "{} x", "{\"code\": \"\\ud800\"}"] {
            assert_eq!(refusal(text).0, ErrorCode::MalformedRequest, "{text:.20}");
        }
        assert_eq!(
            json::<NewExecution>(b"{\"code\": \"\xff\"}").unwrap_err().code(),
            ErrorCode::MalformedRequest
        );
    }

    #[test]
    fn secrets_are_not_said_back() {
        for text in [
            r#"{"secrets": {"K": 8417}}"#,
            r#"{"secrets": "8417"}"#,
            r#"{"env": {"K": 8417}}"#,
            r#"{"env": "8417"}"#,
        ] {
            let (_, _, detail) = refusal(text);
            assert!(!detail.contains("8417"), "{detail}");
        }
    }
}
