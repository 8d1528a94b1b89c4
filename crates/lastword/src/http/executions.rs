//! `/v1/executions`: taken, shown, cancelled, removed, verified.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use lastword_api::batch::is_idempotency_key;
use lastword_api::{ErrorCode, FieldError, NewExecution};
use serde::Serialize;
use uuid::Uuid;

use super::App;
use super::answer::{ExecutionId, encoded, find, json, json_bytes, with_streams};
use super::auth::{Caller, Reads, Runs};
use super::body::{self, JSON};
use super::problem::Problem;
use super::query::Query;
use crate::execution::images::ImageName;
use crate::service::{Service, Submission, Submitted};
use crate::stored;

pub(super) const KEY_HEADER: &str = "idempotency-key";
const REPLAYED_HEADER: &str = "idempotency-replayed";

/// `POST /v1/executions`
pub(super) async fn create(
    State(app): State<App>,
    Runs(caller): Runs,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mut query = Query::of(&parts.uri)?;
    let wait = query.wait()?;
    query.finish()?;
    let key = idempotency_key(&parts.headers)?;
    let body::Held { bytes, share } =
        body::read(&app, &parts.headers, body, JSON, app.options().body_bytes).await?;
    let tenant = caller.tenant.clone();
    let submitted = app
        .blocking(move |service| {
            let new: NewExecution = body::json(&bytes)?;
            drop(bytes);
            refuse_host_paths(&new)?;
            let submitted = submit(service, Submission { new, tenant, key, batch: None });
            drop(share);
            submitted
        })
        .await?;
    let id = submitted.execution.id;
    if let Some(wait) = wait {
        wait_for_end(&app, id, wait).await?;
    }
    let (ended, object) = object(&app, id, caller).await?;
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = json_bytes(status, object);
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/executions/{id}")) {
        headers.insert(LOCATION, location);
    }
    if submitted.replayed {
        headers.insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn submit(service: &Service, submission: Submission) -> Result<Submitted, Problem> {
    let answer = service.submit(vec![submission]).pop();
    let missing = || Problem::new(ErrorCode::Internal, "the service gave no answer");
    Ok(answer.ok_or_else(missing)??)
}

/// A client may not have the server read the host's files.
pub(super) fn refuse_host_paths(new: &NewExecution) -> Result<(), FieldError> {
    match new.image.as_deref().map(ImageName::parse) {
        Some(ImageName::Path { .. }) => {
            Err(FieldError::new("image", "is a path of the host, and has to be a name of a registry's image"))
        }
        _ => Ok(()),
    }
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut all = headers.get_all(KEY_HEADER).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return match headers.contains_key(KEY_HEADER) {
            true => Err(bad_key()),
            false => Ok(None),
        };
    };
    let key = value.to_str().ok().filter(|key| is_idempotency_key(key));
    key.map(|key| Some(key.to_owned())).ok_or_else(bad_key)
}

fn bad_key() -> Problem {
    Problem::field("Idempotency-Key", "Idempotency-Key has to be 1 to 255 visible ASCII characters, once")
}

/// Returns at the end of the execution, or when the time is over, or when the server goes down. Whoever stops waiting changes
/// nothing about the run.
async fn wait_for_end(app: &App, id: Uuid, wait: Duration) -> Result<(), Problem> {
    let service = app.service()?;
    let mut closing = app.closing();
    tokio::select! {
        () = service.feed().ended(id) => {}
        () = tokio::time::sleep(wait) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
    Ok(())
}

/// The object as it is now, and whether it has ended.
async fn object(app: &App, id: Uuid, caller: Caller) -> Result<(bool, Bytes), Problem> {
    app.blocking(move |service| {
        let entry = find(service.store(), id, &caller)?;
        Ok((entry.ended, encoded(&with_streams(service.store(), &entry)?)?))
    })
    .await
}

/// `GET /v1/executions/{id}`
pub(super) async fn show(
    State(app): State<App>,
    Reads(caller): Reads,
    ExecutionId(id): ExecutionId,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let wait = query.wait()?;
    query.finish()?;
    if let Some(wait) = wait {
        let seen = caller.clone();
        app.blocking(move |service| find(service.store(), id, &seen).map(drop)).await?;
        wait_for_end(&app, id, wait).await?;
    }
    let (_, object) = object(&app, id, caller).await?;
    Ok(json_bytes(StatusCode::OK, object))
}

/// `DELETE /v1/executions/{id}`
pub(super) async fn remove(
    State(app): State<App>,
    Runs(caller): Runs,
    ExecutionId(id): ExecutionId,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    Query::of(&uri)?.finish()?;
    app.blocking(move |service| {
        find(service.store(), id, &caller)?;
        Ok(service.store().remove(id)?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/executions/{id}/cancel`
pub(super) async fn cancel(
    State(app): State<App>,
    Runs(caller): Runs,
    ExecutionId(id): ExecutionId,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let seen = caller.clone();
    app.blocking(move |service| {
        find(service.store(), id, &seen)?;
        Ok(service.cancel(id)?)
    })
    .await?;
    let (ended, object) = object(&app, id, caller).await?;
    Ok(json_bytes(if ended { StatusCode::OK } else { StatusCode::ACCEPTED }, object))
}

/// `POST /v1/executions/{id}/verify`
pub(super) async fn verify(
    State(app): State<App>,
    Reads(caller): Reads,
    ExecutionId(id): ExecutionId,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let verification = app
        .blocking(move |service| {
            let entry = find(service.store(), id, &caller)?;
            Ok(stored::check(service.store(), &entry)?)
        })
        .await?;
    json(StatusCode::OK, &verification)
}

/// A request as it is shown: names of variables, never their values.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    request: &'a NewExecution,
    env: BTreeMap<&'a str, ()>,
    secrets: BTreeMap<&'a str, ()>,
}

/// The request with its values replaced by null.
fn without_values(mut request: NewExecution) -> Result<Bytes, Problem> {
    let (env, secrets) = (std::mem::take(&mut request.env), std::mem::take(&mut request.secrets));
    let names = |of: &'_ BTreeMap<String, String>| of.keys().cloned().collect::<Vec<_>>();
    let (env, secrets) = (names(&env), names(&secrets));
    fn nulls(names: &[String]) -> BTreeMap<&str, ()> {
        names.iter().map(|name| (name.as_str(), ())).collect()
    }
    encoded(&Shown { request: &request, env: nulls(&env), secrets: nulls(&secrets) })
}

/// `GET /v1/executions/{id}/request`
pub(super) async fn request_back(
    State(app): State<App>,
    Reads(caller): Reads,
    ExecutionId(id): ExecutionId,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let bytes = app
        .blocking(move |service| {
            find(service.store(), id, &caller)?;
            let Some(kept) = service.store().request(id)? else {
                let detail = "no request was kept with this execution";
                return Err(Problem::new(ErrorCode::RequestNotKept, detail).about(id));
            };
            let request = serde_json::from_slice(&kept).map_err(|error| Problem::internal(&error))?;
            without_values(request)
        })
        .await?;
    Ok(json_bytes(StatusCode::OK, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_not_shown() {
        let request: NewExecution = serde_json::from_str(
            r#"{"command": ["x"], "env": {"A": "hidden"}, "secrets": {"K": "hidden"}, "labels": {"l": "v"}}"#,
        )
        .unwrap();
        let shown = without_values(request).unwrap();
        assert!(!String::from_utf8_lossy(&shown).contains("hidden"));
        let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(shown["env"], serde_json::json!({"A": null}));
        assert_eq!(shown["secrets"], serde_json::json!({"K": null}));
        assert_eq!(shown["command"], serde_json::json!(["x"]));
        assert_eq!(shown["labels"], serde_json::json!({"l": "v"}));
    }

    #[test]
    fn a_path_of_the_host_is_no_image() {
        let with = |image: &str| NewExecution { image: Some(image.into()), ..NewExecution::default() };
        for image in ["/etc", "./x", "x.tar", "oci:/x", "docker-archive:x", "../../x"] {
            assert_eq!(refuse_host_paths(&with(image)).unwrap_err().field, "image", "{image}");
        }
        assert!(refuse_host_paths(&with("python:3.12")).is_ok());
        assert!(refuse_host_paths(&NewExecution::default()).is_ok());
    }

    #[test]
    fn an_idempotency_key_is_checked() {
        let of = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY_HEADER, HeaderValue::from_bytes(value).unwrap());
            }
            idempotency_key(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[b"a-1"]), Ok(Some("a-1".into())));
        for bad in [&[&b""[..]][..], &[b"a b"], &[b"\xe9"], &[b"a", b"a"], &[&[b'k'; 256]]] {
            assert_eq!(of(bad), Err(ErrorCode::InvalidField), "{bad:?}");
        }
    }
}
