//! Every operation: what it takes, and each answer that it can give.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use lastword_api::ErrorCode as E;
use lastword_api::{EventKind, Status};
use serde_json::{Map, Value, json};

use crate::http::body::{JSON, OCTETS};
use crate::http::limits::{EVENTS as EVENTS_MAX, LABELS, PAGE, PAGE_DEFAULT, TAIL};
use crate::http::problem::PROBLEM_JSON;
use crate::http::stream::{EVENTS, NDJSON, TEXT};

/// What each operation can be refused with.
const ALWAYS: [E; 6] =
    [E::MalformedRequest, E::ForeignOrigin, E::InvalidParameter, E::Internal, E::NotReady, E::Unauthorized];
const BODY: [E; 5] = [E::RequestTimeout, E::TooLarge, E::UnsupportedMediaType, E::InvalidField, E::TooBusy];

/// Durations as [`lastword_api::parse_duration`] reads them, of a length that fits in its range.
const DURATION: &str = r"^[0-9]{1,5}(\.[0-9]{1,3})?(ms|s|m|h|d)?$";
const LABEL: &str = r"^[^=]+=[\s\S]*$";
const CURSOR: &str = "^[0-9]{1,19}-[0-9]{1,19}$";
const KEY: &str = "^[!-~]{1,255}$";

/// One operation on its way into the document.
struct Operation {
    path: &'static str,
    method: &'static str,
    name: &'static str,
    about: &'static str,
    public: bool,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<(StatusCode, Value)>,
    refusals: Vec<E>,
}

impl Operation {
    fn new(method: &'static str, path: &'static str, name: &'static str, about: &'static str) -> Operation {
        let mut parameters = Vec::new();
        if path.contains("{id}") {
            parameters.push(json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "format": "uuid"}}));
        }
        let refusals = ALWAYS.to_vec();
        let body = None;
        Operation {
            path,
            method,
            name,
            about,
            public: false,
            parameters,
            body,
            answers: Vec::new(),
            refusals,
        }
    }

    fn public(mut self) -> Self {
        self.public = true;
        self.refusals.retain(|code| *code != E::Unauthorized);
        self
    }

    fn parameter(mut self, name: &str, about: &str, schema: Value) -> Self {
        self.parameters.push(json!({"name": name, "in": "query", "description": about, "schema": schema}));
        self
    }

    fn header(mut self, name: &str, about: &str, schema: Value) -> Self {
        self.parameters.push(json!({"name": name, "in": "header", "description": about, "schema": schema}));
        self
    }

    fn takes(mut self, kind: &str, schema: Value) -> Self {
        self.body = Some(json!({"required": true, "content": {kind: {"schema": schema}}}));
        self.refusals.extend(BODY);
        self
    }

    fn answers(self, status: StatusCode, about: &str, schema: &str) -> Self {
        let content = json!({JSON: {"schema": reference(schema)}});
        self.answers_with(status, json!({"description": about, "content": content}))
    }

    fn answers_with(mut self, status: StatusCode, answer: Value) -> Self {
        self.answers.push((status, answer));
        self
    }

    fn refused(mut self, codes: &[E]) -> Self {
        self.refusals.extend(codes);
        self
    }

    fn into_value(mut self) -> Value {
        if !self.public {
            self.refusals.push(E::Forbidden);
        }
        let mut responses = Map::new();
        for (status, codes) in by_status(&self.refusals) {
            responses.insert(status.to_string(), problem(status, &codes));
        }
        // Readiness is told with 503.
        responses
            .extend(self.answers.into_iter().map(|(status, answer)| (status.as_u16().to_string(), answer)));
        let mut value = json!({
            "operationId": self.name,
            "summary": self.about,
            "parameters": self.parameters,
            "responses": responses,
        });
        if let (Some(value), Some(body)) = (value.as_object_mut(), self.body) {
            value.insert("requestBody".into(), body);
        }
        if let (Some(value), true) = (value.as_object_mut(), self.public) {
            value.insert("security".into(), json!([]));
        }
        value
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn by_status(codes: &[E]) -> BTreeMap<u16, Vec<E>> {
    let mut by_status: BTreeMap<u16, Vec<E>> = BTreeMap::new();
    for code in codes {
        let of = by_status.entry(code.status()).or_default();
        if !of.contains(code) {
            of.push(*code);
        }
    }
    by_status
}

fn problem(status: u16, codes: &[E]) -> Value {
    let names: Vec<String> =
        codes.iter().map(|code| format!("`{}`: {}", code.name(), code.title())).collect();
    let mut headers = Map::new();
    if [429, 503].contains(&status) {
        let retry = json!({"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}});
        headers.insert("Retry-After".into(), retry);
    }
    if status == 401 {
        headers.insert("WWW-Authenticate".into(), json!({"schema": {"type": "string"}}));
    }
    json!({
        "description": names.join("; "),
        "headers": headers,
        "content": {PROBLEM_JSON: {"schema": reference("ProblemDetails")}},
    })
}

fn wait() -> Value {
    json!({"type": "string", "pattern": DURATION, "examples": ["30s"]})
}

fn time() -> Value {
    json!({
        "anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "pattern": DURATION}],
        "examples": ["2026-01-31T12:00:00Z", "10m"],
    })
}

fn number(min: u64, max: u64) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    json!({"type": "array", "items": {"type": "string", "enum": names.collect::<Vec<_>>()}})
}

fn statuses() -> Value {
    names(Status::ALL.iter().map(|status| status.name()))
}

fn labels() -> Value {
    json!({"type": "array", "maxItems": LABELS, "items": {"type": "string", "pattern": LABEL}, "examples": [["job=nightly"]]})
}

fn cursor() -> Value {
    json!({"type": "string", "pattern": CURSOR})
}

/// One event of a stream.
fn event(names: &[&str]) -> Value {
    json!({
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string", "enum": names},
            "data": {"type": "string", "contentMediaType": JSON},
        },
    })
}

/// One line of JSON each, or one event.
fn stream(media: &[(&str, Value)], about: &str) -> Value {
    let content: Map<String, Value> =
        media.iter().map(|(kind, schema)| ((*kind).to_owned(), json!({"schema": schema}))).collect();
    json!({"description": about, "content": content})
}

const OK: StatusCode = StatusCode::OK;
const ACCEPTED: StatusCode = StatusCode::ACCEPTED;

/// All paths of the document.
pub(super) fn paths() -> Value {
    let mut paths = Map::new();
    let all = [executions(), one_execution(), streams(), batches(), about()];
    for operation in all.into_iter().flatten() {
        let (path, method) = (operation.path.to_owned(), operation.method.to_owned());
        let item = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(method, operation.into_value());
        }
    }
    Value::Object(paths)
}

fn executions() -> Vec<Operation> {
    let location = json!({"Location": {"schema": {"type": "string"}}, "Idempotency-Replayed": {"schema": {"type": "string"}}});
    let taken = |about: &str| json!({"description": about, "headers": location, "content": {JSON: {"schema": reference("Execution")}}});
    vec![
        Operation::new("post", "/v1/executions", "createExecution", "Run code")
            .parameter(
                "wait",
                "Answer with the ended execution, or after so long. At most 10 minutes.",
                wait(),
            )
            .header(
                "Idempotency-Key",
                "The same key and request give the same execution, for 24 hours.",
                json!({"type": "string", "pattern": KEY}),
            )
            .takes(JSON, reference("NewExecution"))
            .answers_with(OK, taken("It has ended."))
            .answers_with(ACCEPTED, taken("It is durable, and has not ended."))
            .refused(&[E::Unenforceable, E::IdempotencyConflict, E::IdempotencyRemoved, E::QueueFull])
            .refused(&[E::Draining, E::StorageFull, E::ExecutionNotFound]),
        Operation::new("get", "/v1/executions", "listExecutions", "List executions, newest first")
            .parameter("status", "Any of these; repeated, or separated by commas.", statuses())
            .parameter("label", "KEY=VALUE; all of these, repeated.", labels())
            .parameter("since", "Created at or after: RFC 3339, or an age.", time())
            .parameter("until", "Created before.", time())
            .parameter("limit", &format!("At most so many; {PAGE_DEFAULT} unless asked."), number(1, PAGE))
            .parameter(
                "cursor",
                "`next_cursor` of the page before.",
                json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{21}[AQgw]$"}),
            )
            .parameter(
                "include",
                "`output`: with the beginning of the streams.",
                names(["output"].into_iter()),
            )
            .answers(OK, "A page.", "ExecutionPage"),
    ]
}

fn one_execution() -> Vec<Operation> {
    let unknown = &[E::ExecutionNotFound];
    let file = json!({
        "description": "The file's bytes, compared with the seal while they are sent: what is not whole is broken off.",
        "headers": {"Content-Disposition": {"schema": {"type": "string"}}, "Blake3": {"schema": {"type": "string"}}, "ETag": {"schema": {"type": "string"}}},
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    });
    let path = json!({"name": "path", "in": "path", "required": true, "description": "As in `outputs`: below /work, or absolute.", "schema": {"type": "string", "minLength": 1}});
    let mut files =
        Operation::new("get", "/v1/executions/{id}/files/{path}", "getFile", "Read an output file")
            .answers_with(OK, file)
            .refused(&[E::ExecutionNotFound, E::FileNotFound, E::NotEnded, E::TooBusy]);
    files.parameters.push(path);
    vec![
        Operation::new("get", "/v1/executions/{id}", "getExecution", "Show an execution")
            .parameter("wait", "Answer when it has ended, or after so long. At most 10 minutes.", wait())
            .answers(OK, "As it is now.", "Execution")
            .refused(unknown),
        Operation::new("delete", "/v1/executions/{id}", "removeExecution", "Remove an ended execution")
            .answers_with(StatusCode::NO_CONTENT, json!({"description": "It is gone, with its transcript."}))
            .refused(&[E::ExecutionNotFound, E::NotEnded, E::StorageFull]),
        Operation::new("get", "/v1/executions/{id}/request", "getRequest", "Show what was asked for")
            .answers(OK, "The request; of variables only the names.", "RequestBack")
            .refused(&[E::ExecutionNotFound, E::RequestNotKept]),
        Operation::new("post", "/v1/executions/{id}/cancel", "cancelExecution", "Ask for its end")
            .answers(OK, "It has ended.", "Execution")
            .answers(ACCEPTED, "It will end soon.", "Execution")
            .refused(&[E::ExecutionNotFound, E::StorageFull, E::UnsupportedMediaType]),
        Operation::new(
            "post",
            "/v1/executions/{id}/verify",
            "verifyExecution",
            "Read all of it again from disk",
        )
        .answers(OK, "What was found.", "Verification")
        .refused(&[E::ExecutionNotFound, E::UnsupportedMediaType]),
        Operation::new("post", "/v1/executions/{id}/stdin", "addStdin", "Give the program more to read")
            .parameter(
                "offset",
                "Where the bytes begin [default: 0]. What is there already is passed over.",
                number(0, i64::MAX as u64),
            )
            .parameter("close", "Nothing follows.", json!({"type": "boolean"}))
            .takes(OCTETS, json!({"type": "string", "format": "binary"}))
            .answers(OK, "The bytes are durable.", "StdinState")
            .refused(&[E::ExecutionNotFound, E::StdinGap, E::StdinClosed, E::StorageFull]),
        files,
    ]
}

fn streams() -> Vec<Operation> {
    let text = json!({"type": "string"});
    let logs = stream(
        &[(TEXT, text), (NDJSON, reference("LogRecord")), (EVENTS, event(&["record", "end", "error"]))],
        "The bytes in order; or a record a line; or a record an event, whose id is its seq, and at last `end` with the execution. \
         A transcript that is damaged ends with an error.",
    );
    let events = stream(
        &[(EVENTS, event(&["queued", "running", "ended", "removed", "error"])), (NDJSON, reference("Event"))],
        "An event a line, or an event each with its cursor as id.",
    );
    let seq = || number(0, i64::MAX as u64);
    let bool = || json!({"type": "boolean"});
    vec![
        Operation::new("get", "/v1/executions/{id}/logs", "getLogs", "Read what the program said")
            .parameter(
                "stream",
                "One of the two, or both.",
                json!({"type": "string", "enum": ["stdout", "stderr", "both"]}),
            )
            .parameter("since", "Read at or after: RFC 3339, or an age.", time())
            .parameter("until", "Read before.", time())
            .parameter("tail", "Only the last lines, or records.", number(0, TAIL))
            .parameter("from_seq", "Records from this one on.", seq())
            .parameter("before_seq", "Records before this one.", seq())
            .parameter("limit", "At most so many records.", number(1, i64::MAX as u64))
            .parameter("follow", "Go on until the run ends.", bool())
            .header(
                "Last-Event-ID",
                "Go on behind this seq; empty says nothing.",
                json!({"type": "string", "pattern": "^[0-9]{0,18}$"}),
            )
            .answers_with(OK, logs)
            .refused(&[E::ExecutionNotFound, E::NotAcceptable, E::TooBusy, E::TranscriptDamaged]),
        Operation::new("get", "/v1/events", "getEvents", "Follow every change of every execution")
            .parameter(
                "after",
                "Behind this event, or `latest`; from the oldest that is kept unless asked.",
                json!({"anyOf": [cursor(), {"type": "string", "const": "latest"}]}),
            )
            .parameter("label", "KEY=VALUE; all of these, repeated.", labels())
            .parameter(
                "kind",
                "Any of these; repeated, or separated by commas.",
                names(EventKind::ALL.iter().map(|kind| kind.name())),
            )
            .parameter("limit", "At most so many.", number(1, EVENTS_MAX))
            .parameter("follow", "False: end at the newest [default: true].", bool())
            .header(
                "Last-Event-ID",
                "Go on behind this event; empty says nothing.",
                json!({"anyOf": [cursor(), {"type": "string", "const": ""}]}),
            )
            .answers_with(OK, events)
            .refused(&[E::NotAcceptable, E::CursorGone, E::TooBusy]),
    ]
}

fn batches() -> Vec<Operation> {
    vec![
        Operation::new("post", "/v1/batches", "createBatch", "Run many requests")
            .takes(JSON, reference("NewBatch"))
            .answers(ACCEPTED, "What came of each, in order.", "BatchReply"),
        Operation::new("get", "/v1/batches/{id}", "getBatch", "Count a batch's executions by status")
            .answers(OK, "As it is now.", "Batch")
            .refused(&[E::BatchNotFound]),
        Operation::new("post", "/v1/batches/{id}/cancel", "cancelBatch", "Ask for the end of all of them")
            .answers(OK, "All have ended.", "Batch")
            .answers(ACCEPTED, "They will end soon.", "Batch")
            .refused(&[E::BatchNotFound, E::StorageFull, E::UnsupportedMediaType]),
    ]
}

fn about() -> Vec<Operation> {
    let get = |path, name, about| Operation::new("get", path, name, about);
    let metrics = stream(
        &[("application/openmetrics-text", json!({"type": "string"}))],
        "In the OpenMetrics text format.",
    );
    let document =
        json!({"description": "This document.", "content": {JSON: {"schema": {"type": "object"}}}});
    vec![
        get("/v1/runtimes", "listRuntimes", "Which languages there are").answers(OK, "All.", "Runtimes"),
        get("/v1/backends", "listBackends", "What can isolate programs").answers(OK, "All.", "Backends"),
        get("/v1/capacity", "getCapacity", "How full the server is").answers(OK, "As it is now.", "Capacity"),
        get("/healthz", "getHealth", "Is it there").public().answers(OK, "It is.", "Health"),
        get("/readyz", "getReadiness", "Can it work").public().answers(OK, "It can.", "Readiness").answers(
            StatusCode::SERVICE_UNAVAILABLE,
            "A part of it can't.",
            "Readiness",
        ),
        get("/metrics", "getMetrics", "How it does").answers_with(OK, metrics).refused(&[E::NotFound]),
        get("/openapi.json", "getDocument", "This document").public().answers_with(OK, document),
    ]
}
