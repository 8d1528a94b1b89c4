//! What needs no service: who may ask, what is refused before anything is done, and whether the document is true.

use std::task::Poll;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use lastword_api::ProblemDetails;
use serde_json::Value;
use tower::ServiceExt;

use super::auth::{Caller, Scope};
use super::*;

fn app(auth: Auth) -> Router {
    // The sender's end says: it goes on.
    let (_, closing) = watch::channel(false);
    let options =
        Options { body_bytes: 1000, bodies_bytes: 8192, ..Options::new(auth, "/nonexistent".into()) };
    routes(App::new(None, options, closing))
}

fn open() -> Router {
    app(Auth::Open)
}

fn with_keys() -> Router {
    app(Auth::Keys(Arc::new(|token: &str| {
        let scope = match token {
            "run-key" => Scope::Run,
            "read-key" => Scope::Read,
            "admin-key" => Scope::Admin,
            _ => return None,
        };
        let scopes = [scope].into_iter().collect();
        Some(Caller { tenant: Some("a".into()), scopes, key: Some("k".into()) })
    })))
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn problem(&self) -> ProblemDetails {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem: ProblemDetails = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        assert_eq!(problem.code.status(), problem.status);
        problem
    }

    fn code(&self) -> ErrorCode {
        self.problem().code
    }
}

async fn send(app: Router, line: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost:7070");
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(*name, *value);
    }
    let response = app.oneshot(request.body(body.into()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{line}");
    assert_eq!(response.headers()["cache-control"], "no-store", "{line}");
    let (status, headers) = (response.status(), response.headers().clone());
    let body = axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap().to_vec();
    Answer { status, headers, body }
}

async fn get(app: Router, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(app, &format!("GET {path}"), headers, "").await
}

const ID: &str = "01900000-0000-7000-8000-000000000000";
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn without_keys_only_this_machine_may_ask() {
    for host in ["localhost", "127.0.0.1:7070", "[::1]:7070"] {
        assert_eq!(get(open(), "/healthz", &[("host", host)]).await.status, 200, "{host}");
    }
    for headers in [
        &[("host", "example.com")][..],
        &[("host", "localhost.example.com:7070")],
        &[("host", "")],
        &[("origin", "http://example.com")],
        &[("origin", "null")],
        &[("origin", "http://localhost.example.com")],
    ] {
        let refused = get(open(), "/v1/executions", headers).await;
        assert_eq!(refused.code(), ErrorCode::ForeignOrigin, "{headers:?}");
    }
    let path = format!("POST /v1/executions/{ID}/cancel");
    let refused = send(open(), &path, &[("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(refused.code(), ErrorCode::ForeignOrigin);
    // Past the guard there is only the service that is missing.
    let near = [("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")];
    assert_eq!(send(open(), &path, &near, "").await.code(), ErrorCode::NotReady);
}

#[tokio::test]
async fn a_write_needs_its_content_type() {
    let cancel = format!("POST /v1/executions/{ID}/cancel");
    let stdin = format!("POST /v1/executions/{ID}/stdin");
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (line, header) in [
        ("POST /v1/executions", ("content-type", "")),
        ("POST /v1/executions", ("content-type", "text/plain")),
        ("POST /v1/executions", ("content-type", "text/plain; charset=utf-8")),
        ("POST /v1/executions", form),
        ("POST /v1/batches", ("content-type", "multipart/form-data; boundary=x")),
        (&cancel, form),
        (&stdin, JSON),
        (&stdin, ("content-type", "")),
    ] {
        let refused = send(open(), line, &[header], "{}").await;
        assert_eq!(refused.code(), ErrorCode::UnsupportedMediaType, "{line} {header:?}");
    }
    let json = ("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(send(open(), "POST /v1/executions", &[json], "{}").await.code(), ErrorCode::NotReady);
    assert_eq!(send(open(), &cancel, &[], "").await.code(), ErrorCode::NotReady);
}

#[tokio::test]
async fn with_keys_each_needs_one_that_allows_it() {
    let bearer = |token: &str| format!("Bearer {token}");
    for header in ["", "Bearer wrong", "Basic run-key", "Bearer "] {
        let refused = get(with_keys(), "/v1/executions", &[("authorization", header)]).await;
        assert_eq!(refused.code(), ErrorCode::Unauthorized, "{header}");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
    let paths = [
        ("GET /v1/executions".to_owned(), Scope::Read),
        (format!("GET /v1/executions/{ID}"), Scope::Read),
        (format!("GET /v1/executions/{ID}/logs"), Scope::Read),
        (format!("GET /v1/executions/{ID}/request"), Scope::Read),
        (format!("GET /v1/executions/{ID}/files/a"), Scope::Read),
        (format!("POST /v1/executions/{ID}/verify"), Scope::Read),
        (format!("GET /v1/batches/{ID}"), Scope::Read),
        ("GET /v1/events?after=latest".to_owned(), Scope::Read),
        ("POST /v1/executions".to_owned(), Scope::Run),
        ("POST /v1/batches".to_owned(), Scope::Run),
        (format!("POST /v1/executions/{ID}/cancel"), Scope::Run),
        (format!("POST /v1/executions/{ID}/stdin"), Scope::Run),
        (format!("DELETE /v1/executions/{ID}"), Scope::Run),
        (format!("POST /v1/batches/{ID}/cancel"), Scope::Run),
    ];
    for (line, scope) in &paths {
        for (token, has) in
            [("read-key", *scope == Scope::Read), ("run-key", *scope == Scope::Run), ("admin-key", true)]
        {
            // A page elsewhere can't have a key: Host and Origin say nothing here.
            let headers = [("authorization", &*bearer(token)), ("host", "example.com")];
            let answer = send(with_keys(), line, &headers, "").await;
            assert_eq!(answer.code() != ErrorCode::Forbidden, has, "{line} {token}: {:?}", answer.code());
        }
    }
    for path in ["/healthz", "/openapi.json"] {
        assert_eq!(get(with_keys(), path, &[]).await.status, 200, "{path}");
    }
    let metrics = |token: &'static str| async move {
        get(with_keys(), "/metrics", &[("authorization", &bearer(token))]).await.code()
    };
    assert_eq!(metrics("read-key").await, ErrorCode::Forbidden);
    // Past the guard; there is no service to count anything.
    assert_eq!(metrics("admin-key").await, ErrorCode::NotReady);
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let long = format!("/v1/executions?label={}", "a".repeat(20_000));
    for (line, code) in [
        ("GET /nothing", ErrorCode::NotFound),
        ("GET /", ErrorCode::NotFound),
        ("GET /v1/search?q=x", ErrorCode::NotFound),
        ("PUT /v1/executions", ErrorCode::MethodNotAllowed),
        ("DELETE /v1/events", ErrorCode::MethodNotAllowed),
        ("GET /v1/executions/x", ErrorCode::ExecutionNotFound),
        ("GET /v1/executions/%ff", ErrorCode::ExecutionNotFound),
        ("GET /v1/executions/%ff/files/%ff", ErrorCode::ExecutionNotFound),
        ("DELETE /v1/executions/01900000000070008000000000000000", ErrorCode::ExecutionNotFound),
        ("GET /v1/batches/x", ErrorCode::BatchNotFound),
        ("GET /v1/executions?limit=0", ErrorCode::InvalidParameter),
        ("GET /v1/executions?limit=1001", ErrorCode::InvalidParameter),
        ("GET /v1/executions?cursor=x", ErrorCode::InvalidParameter),
        ("GET /v1/executions?colour=red", ErrorCode::InvalidParameter),
        ("GET /v1/executions?include=all", ErrorCode::InvalidParameter),
        ("GET /v1/executions?status=%ff", ErrorCode::MalformedRequest),
        ("GET /v1/events?after=x", ErrorCode::InvalidParameter),
        ("GET /v1/events?kind=born", ErrorCode::InvalidParameter),
        ("GET /healthz?x", ErrorCode::InvalidParameter),
        (&long, ErrorCode::MalformedRequest),
    ] {
        let line = if line.starts_with('/') { format!("GET {line}") } else { line.to_owned() };
        let answer = send(open(), &line, &[], "").await;
        assert_eq!(answer.code(), code, "{line:.80}");
    }
    let put = send(open(), "PUT /v1/executions", &[], "").await;
    let allowed = put.headers["allow"].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    let logs = format!("/v1/executions/{ID}/logs");
    let unacceptable = get(open(), &logs, &[("accept", "image/png")]).await;
    assert_eq!(unacceptable.code(), ErrorCode::NotAcceptable);
    let starting = get(open(), &logs, &[]).await;
    assert_eq!(starting.code(), ErrorCode::NotReady);
    assert_eq!(starting.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_body_is_bounded_and_its_field_is_named() {
    let post = |body: Vec<u8>| send(open(), "POST /v1/executions", &[JSON], body);
    assert_eq!(post(vec![b' '; 1001]).await.code(), ErrorCode::TooLarge);
    let unsized_body = Body::from_stream(futures_util::stream::iter(
        (0..11).map(|_| Ok::<_, std::io::Error>(vec![b' '; 100])),
    ));
    let answer = send(open(), "POST /v1/executions", &[JSON], unsized_body).await;
    assert_eq!(answer.code(), ErrorCode::TooLarge);
    let key = ("idempotency-key", "not one");
    let answer = send(open(), "POST /v1/executions", &[JSON, key], "{}").await;
    assert_eq!(answer.problem().field.as_deref(), Some("Idempotency-Key"));
    // More than all bodies together may take.
    let options = Options { bodies_bytes: 4096, ..Options::new(Auth::Open, "/nonexistent".into()) };
    let busy = routes(App::new(None, options, watch::channel(false).1));
    let answer = send(busy, "POST /v1/executions", &[JSON], vec![b' '; 5000]).await;
    assert_eq!(answer.code(), ErrorCode::TooBusy);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[test]
fn a_body_that_is_allowed_has_room() {
    let usual = || Options::new(Auth::Open, "/nonexistent".into());
    let raised = usual().with_body_limit(1 << 30);
    assert_eq!((raised.body_bytes, raised.batch_bytes, raised.bodies_bytes), (1 << 30, 1 << 30, 1 << 30));
    let lowered = usual().with_body_limit(1000);
    assert_eq!((lowered.body_bytes, lowered.bodies_bytes), (1000, usual().bodies_bytes));
}

#[tokio::test]
async fn a_body_that_is_only_announced_takes_no_room() {
    let options = Options { bodies_bytes: 4096, ..Options::new(Auth::Open, "/nonexistent".into()) };
    let app = routes(App::new(None, options, watch::channel(false).1));
    let never = Body::from_stream(futures_util::stream::pending::<std::io::Result<Vec<u8>>>());
    let headers = [JSON, ("content-length", "4096")];
    let mut slow = std::pin::pin!(send(app.clone(), "POST /v1/executions", &headers, never));
    let waits = std::future::poll_fn(|context| Poll::Ready(slow.as_mut().poll(context).is_pending())).await;
    assert!(waits);
    // There is no service behind it, which is told to those whose body was taken.
    let quick = send(app, "POST /v1/executions", &[JSON], "{}").await;
    assert_eq!(quick.code(), ErrorCode::NotReady);
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let answer = get(open(), "/readyz", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (503, &"application/json".parse().unwrap())
    );
    let readiness: lastword_api::Readiness = serde_json::from_slice(&answer.body).unwrap();
    assert!(!readiness.ready && readiness.parts[0].name == "service" && readiness.parts[0].problem.is_some());
    let told = get(with_keys(), "/readyz", &[]).await;
    let readiness: lastword_api::Readiness = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(readiness.parts[0].problem, None);
}

#[tokio::test]
async fn a_panic_is_an_error_of_the_server() {
    async fn broken() {
        panic!("broken on purpose");
    }
    let options = Options::new(Auth::Open, "/nonexistent".into());
    let state = App::new(None, options, watch::channel(false).1);
    let app = Router::new().route("/", axum::routing::get(broken)).layer(from_fn_with_state(state, around));
    assert_eq!(get(app, "/", &[]).await.code(), ErrorCode::Internal);
}

fn document() -> Value {
    serde_json::from_str(&openapi::generate()).unwrap()
}

#[test]
fn the_committed_document_is_the_generated_one() {
    let committed = include_str!("../../../../openapi/openapi.json");
    assert!(
        committed == openapi::generate(),
        "it is old: cargo run -p lastword --example openapi > openapi/openapi.json"
    );
}

#[tokio::test]
async fn the_document_names_each_path_and_its_refusals() {
    let document = document();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            let path = path.replace("{id}", ID).replace("{path}", "a");
            let line = format!("{} {path}", method.to_uppercase());
            let answer = send(open(), &line, &[], "").await;
            let status = answer.status.as_str();
            let documented = operation["responses"].get(status).is_some();
            assert!(documented, "{line}: {status} is not documented");
            if answer.headers["content-type"] == "application/problem+json" {
                let code = answer.code();
                let none = [ErrorCode::MethodNotAllowed].contains(&code);
                assert!(!none && code != ErrorCode::NotFound, "{line}: {code:?}");
            }
        }
    }
    assert_eq!(operations, 21);
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference}");
    }
}

/// What the schema says of an answer is what serde writes.
#[test]
fn an_execution_has_the_fields_of_its_schema() {
    let document = document();
    let schema = &document["components"]["schemas"]["Execution"];
    let mut execution = lastword_api::Execution::queued(
        uuid::Uuid::nil(),
        lastword_api::Timestamp::from_ns(0),
        lastword_api::Backend::Native,
        lastword_api::Limits::default(),
    );
    let names = |value: &Value| -> std::collections::BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let listed = names(&serde_json::to_value(&execution).unwrap());
    let required: std::collections::BTreeSet<String> =
        serde_json::from_value(schema["required"].clone()).unwrap();
    assert_eq!(listed, required);
    execution.inline = Some(lastword_api::Inline::default());
    assert_eq!(names(&serde_json::to_value(&execution).unwrap()), names(&schema["properties"]));
}
