//! `/v1/batches`: many requests in one.

use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use lastword_api::batch::is_idempotency_key;
use lastword_api::{
    Batch, BatchAnswer, BatchItem, BatchReply, ErrorCode, FieldError, NewBatch, Object, Status,
};
use lastword_store::{Filter, Store};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::App;
use super::answer::{BatchId, encoded, json, json_bytes};
use super::auth::{Caller, Reads, Runs};
use super::body::{self, JSON};
use super::executions::refuse_host_paths;
use super::limits::PAGE;
use super::problem::Problem;
use super::query::Query;
use crate::service::{Service, Submission};

/// `POST /v1/batches`
pub(super) async fn create(
    State(app): State<App>,
    Runs(caller): Runs,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Query::of(&parts.uri)?.finish()?;
    let held = body::read(&app, &parts.headers, body, JSON, app.options().batch_bytes).await?;
    let id = Uuid::now_v7();
    let reply = app
        .blocking(move |service| {
            let (slots, submissions) = read(&held.bytes, id, &caller)?;
            let executions = submit(service, slots, submissions);
            drop(held);
            encoded(&BatchReply { id, executions })
        })
        .await?;
    let mut response = json_bytes(StatusCode::ACCEPTED, reply);
    if let Ok(location) = HeaderValue::try_from(format!("/v1/batches/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// One for each request: why it was refused, or nothing if it is among the submissions.
type Slots = Vec<Option<Problem>>;

fn read(bytes: &[u8], id: Uuid, caller: &Caller) -> Result<(Slots, Vec<Submission>), Problem> {
    let Object(batch): Object<NewBatch<'_>> = serde_json::from_slice(bytes).map_err(|error| {
        let mut problem = body::wrong("executions", &error);
        if error.is_data() {
            problem = Problem::field("executions", error.to_string());
        }
        problem
    })?;
    if batch.executions.is_empty() {
        return Err(Problem::field("executions", "executions is empty"));
    }
    let mut submissions = Vec::new();
    let slots = batch.executions.iter().map(|raw| match item(raw) {
        Ok(BatchItem { new, idempotency_key: key }) => {
            submissions.push(Submission { new, tenant: caller.tenant.clone(), key, batch: Some(id) });
            None
        }
        Err(problem) => Some(problem),
    });
    let slots = slots.collect();
    Ok((slots, submissions))
}

fn item(raw: &RawValue) -> Result<BatchItem, Problem> {
    let item: BatchItem = body::json(raw.get().as_bytes())?;
    refuse_host_paths(&item.new)?;
    if item.idempotency_key.as_deref().is_some_and(|key| !is_idempotency_key(key)) {
        let message = "has to be 1 to 255 visible ASCII characters";
        return Err(FieldError::new("idempotency_key", message).into());
    }
    Ok(item)
}

fn submit(service: &Service, slots: Slots, submissions: Vec<Submission>) -> Vec<BatchAnswer> {
    let mut submitted = service.submit(submissions).into_iter();
    let answers = slots.into_iter().map(|slot| {
        let answer = match slot {
            Some(problem) => Err(problem),
            None => match submitted.next() {
                Some(answer) => answer.map_err(Problem::from),
                None => Err(Problem::new(ErrorCode::Internal, "the service gave no answer")),
            },
        };
        match answer {
            Ok(done) => BatchAnswer::Taken {
                id: done.execution.id,
                status: done.execution.status,
                replayed: done.replayed,
            },
            Err(problem) => BatchAnswer::Refused { problem: problem.into_details() },
        }
    });
    answers.collect()
}

/// How a batch stands, if the caller may see it: all of a batch is one tenant's.
fn state(store: &Store, id: Uuid, caller: &Caller) -> Result<Batch, Problem> {
    let any = Filter { batch: Some(id), tenant: caller.tenant.clone(), limit: 1, ..Filter::default() };
    if store.list(&any)?.is_empty() {
        return Err(Problem::new(ErrorCode::BatchNotFound, format!("there is no batch {id}")));
    }
    let counted = store.batch_counts(id)?;
    let known = counted.iter().filter_map(|(name, count)| Some((Status::from_name(name)?, *count)));
    let counts: std::collections::BTreeMap<Status, u64> = known.filter(|(_, count)| *count > 0).collect();
    let total = counts.values().sum();
    let done = counts.keys().all(|status| status.is_terminal());
    Ok(Batch { id, counts, total, done })
}

/// `GET /v1/batches/{id}`
pub(super) async fn show(
    State(app): State<App>,
    Reads(caller): Reads,
    BatchId(id): BatchId,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let batch = app.blocking(move |service| state(service.store(), id, &caller)).await?;
    json(StatusCode::OK, &batch)
}

/// `POST /v1/batches/{id}/cancel`
pub(super) async fn cancel(
    State(app): State<App>,
    Runs(caller): Runs,
    BatchId(id): BatchId,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let batch = app
        .blocking(move |service| {
            state(service.store(), id, &caller)?;
            cancel_all(service, id, &caller)?;
            state(service.store(), id, &caller)
        })
        .await?;
    json(if batch.done { StatusCode::OK } else { StatusCode::ACCEPTED }, &batch)
}

/// Those that wait first: none of them is to start because another one has made room.
fn cancel_all(service: &Service, id: Uuid, caller: &Caller) -> Result<(), Problem> {
    for status in [Status::Queued, Status::Running] {
        let mut filter = Filter {
            status: vec![status.name().to_owned()],
            batch: Some(id),
            tenant: caller.tenant.clone(),
            limit: PAGE as usize,
            ..Filter::default()
        };
        loop {
            let page = service.store().list(&filter)?;
            for entry in &page {
                match service.cancel(entry.id).map_err(Problem::from) {
                    // Somebody has removed it.
                    Err(problem) if problem.code() == ErrorCode::ExecutionNotFound => {}
                    done => done?,
                }
            }
            match page.last() {
                Some(last) if page.len() == filter.limit => filter.before = Some(last.id),
                _ => break,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(json: &str) -> Result<(Slots, Vec<Submission>), Problem> {
        read(json.as_bytes(), Uuid::nil(), &Caller { tenant: Some("a".into()), ..Caller::local() })
    }

    #[test]
    fn one_that_is_wrong_does_not_spoil_the_others() {
        let (slots, submissions) = read_of(
            r#"{"executions": [{"command": ["x"], "idempotency_key": "k"}, {"command": 1}, {"command": ["y"]},
                {"command": ["z"], "image": "/etc/passwd"}, {"command": ["z"], "idempotency_key": ""}, 7]}"#,
        )
        .unwrap();
        let fields: Vec<Option<&str>> = slots
            .iter()
            .map(|slot| slot.as_ref().and_then(|problem| problem.details().field.as_deref()))
            .collect();
        assert_eq!(fields, [None, Some("command"), None, Some("image"), Some("idempotency_key"), Some("")]);
        let keys: Vec<Option<&str>> = submissions.iter().map(|one| one.key.as_deref()).collect();
        assert_eq!(keys, [Some("k"), None]);
        assert!(submissions.iter().all(|one| one.tenant.as_deref() == Some("a") && one.batch.is_some()));
    }

    #[test]
    fn a_batch_that_is_none_is_refused_as_a_whole() {
        let code = |json: &str| read_of(json).map(drop).unwrap_err().code();
        for json in
            ["[]", "{}", r#"{"executions": []}"#, r#"{"executions": 1}"#, r#"{"executions": [{}], "x": 1}"#]
        {
            assert_eq!(code(json), ErrorCode::InvalidField, "{json}");
        }
        assert_eq!(code(r#"{"executions": [{]}"#), ErrorCode::MalformedRequest);
        let many = vec!["0"; lastword_api::batch::BATCH_MAX + 1].join(",");
        assert_eq!(code(&format!("{{\"executions\": [{many}]}}")), ErrorCode::InvalidField);
    }
}
