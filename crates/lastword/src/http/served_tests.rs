//! A real service without programs: what tenants see of each other, and connections as they are.

use std::num::NonZeroUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use lastword_api::{Backend, Execution, Limits, Status, Timestamp};
use lastword_store::{Meta, Waiting};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt;
use uuid::Uuid;

use super::auth::{Auth, Caller, Scopes};
use super::*;
use crate::service::Config;

/// Longer than anything here takes.
const HANG: Duration = Duration::from_secs(60);

struct Lab {
    dir: tempfile::TempDir,
    service: Arc<Service>,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: dir.path().to_owned(),
            concurrency: NonZeroUsize::MIN,
            queue: 10,
            allow_unenforced: true,
        };
        let service = Arc::new(Service::open(config).unwrap());
        // Nothing is started: what is put into the store stays as it is.
        service.drain();
        Lab { dir, service }
    }

    /// One that waits and never gets its turn.
    fn execution(&self, tenant: Option<&str>, batch: Option<Uuid>) -> Uuid {
        let execution =
            Execution::queued(Uuid::now_v7(), Timestamp::now(), Backend::Native, Limits::default());
        let meta = Meta {
            status: Status::Queued.name().into(),
            created_ns: execution.created_at.ns(),
            backend: "native".into(),
            tenant: tenant.map(str::to_owned),
            batch,
            ..Meta::default()
        };
        let object = execution.to_stored_json().unwrap();
        let request = br#"{"command": ["x"], "env": {"A": "hidden"}}"#;
        let waiting = Waiting { id: execution.id, meta: &meta, object: &object, request, secret: None };
        self.service.store().accept_waiting(&[waiting]).pop().unwrap().unwrap();
        execution.id
    }

    fn options(&self, auth: Auth) -> Options {
        Options::new(auth, self.dir.path().to_owned())
    }

    /// The token is the tenant.
    fn router(&self) -> Router {
        let auth = Auth::Keys(Arc::new(|token: &str| {
            Some(Caller { tenant: Some(token.to_owned()), scopes: Scopes::ADMIN, key: None })
        }));
        router(Arc::clone(&self.service), self.options(auth), watch::channel(false).1)
    }

    async fn ask(&self, tenant: &str, line: &str) -> (StatusCode, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {tenant}"))
            .header("content-type", "application/octet-stream")
            .body(Body::empty());
        let response = self.router().oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn a_tenant_learns_nothing_of_another() {
    let lab = Lab::new();
    let batch = Uuid::now_v7();
    let theirs = lab.execution(Some("them"), Some(batch));
    let ours = lab.execution(Some("us"), None);
    let local = lab.execution(None, None);
    for id in [theirs, local] {
        for line in [
            format!("GET /v1/executions/{id}"),
            format!("GET /v1/executions/{id}?wait=1s"),
            format!("GET /v1/executions/{id}/request"),
            format!("GET /v1/executions/{id}/logs"),
            format!("GET /v1/executions/{id}/logs?follow=true"),
            format!("GET /v1/executions/{id}/files/a"),
            format!("POST /v1/executions/{id}/cancel"),
            format!("POST /v1/executions/{id}/verify"),
            format!("POST /v1/executions/{id}/stdin"),
            format!("DELETE /v1/executions/{id}"),
        ] {
            let (status, body) = lab.ask("us", &line).await;
            assert_eq!(status, 404, "{line}: {body}");
            // The same answer as for one that there never was.
            let none = Uuid::now_v7().to_string();
            let (_, nothing) = lab.ask("us", &line.replace(&id.to_string(), &none)).await;
            assert_eq!(body.replace(&id.to_string(), &none), nothing, "{line}");
        }
    }
    for line in [format!("GET /v1/batches/{batch}"), format!("POST /v1/batches/{batch}/cancel")] {
        assert_eq!(lab.ask("us", &line).await.0, 404, "{line}");
        assert!(lab.ask("them", &line).await.0.is_success(), "{line}");
    }
    let (_, list) = lab.ask("us", "GET /v1/executions").await;
    let (_, events) = lab.ask("us", "GET /v1/events?follow=false").await;
    for text in [list, events] {
        assert!(text.contains(&ours.to_string()), "{text}");
        assert!(!text.contains(&theirs.to_string()) && !text.contains(&local.to_string()), "{text}");
    }
    assert_eq!(lab.ask("them", &format!("GET /v1/executions/{theirs}")).await.0, 200);
}

#[tokio::test]
async fn a_list_is_given_in_pages() {
    let lab = Lab::new();
    let mut all: Vec<Uuid> = (0..5).map(|_| lab.execution(Some("us"), None)).collect();
    all.sort();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, body) = lab.ask("us", &format!("GET /v1/executions?limit=2{cursor}")).await;
        assert_eq!(status, 200, "{body}");
        let page: Value = serde_json::from_str(&body).unwrap();
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()));
        assert!(items.iter().all(|item| item.get("stdout").is_none()));
        seen.extend(items.iter().map(|item| Uuid::parse_str(item["id"].as_str().unwrap()).unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.reverse();
    assert_eq!(seen, all);
    let (_, body) = lab.ask("us", "GET /v1/executions?include=output&limit=1").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["items"][0]["stdout"], Value::Null);
    assert!(page["items"][0].get("stdout_encoding").is_some());
}

#[tokio::test]
async fn a_request_comes_back_without_its_values() {
    let lab = Lab::new();
    let id = lab.execution(Some("us"), None);
    let (status, body) = lab.ask("us", &format!("GET /v1/executions/{id}/request")).await;
    assert!(status == 200 && !body.contains("hidden"), "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["env"], serde_json::json!({"A": null}));
    // It waits, and its stdin was not left open.
    let (status, body) = lab.ask("us", &format!("POST /v1/executions/{id}/stdin")).await;
    assert!(status == 409 && body.contains("stdin_closed"), "{body}");
    let (status, body) = lab.ask("us", &format!("DELETE /v1/executions/{id}")).await;
    assert!(status == 409 && body.contains("not_ended"), "{body}");
    let (status, body) = lab.ask("us", "GET /v1/events?after=1-1&follow=false").await;
    assert!(status == 410 && body.contains("cursor_gone"), "{body}");
}

/// A server on a port of its own.
struct Listening {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn listen(lab: &Lab, change: impl FnOnce(&mut Options)) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut options = lab.options(Auth::Open);
    change(&mut options);
    let service = Arc::clone(&lab.service);
    let ended = tokio::spawn(serve(service, options, listener, async {
        let _ = stopped.await;
    }));
    Listening { address, stop, ended }
}

async fn connect(to: &Listening, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// What comes until `end` is in it, or until the connection ends.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = tokio::time::timeout(HANG, stream.read(&mut buffer)).await.unwrap().unwrap();
        text.extend_from_slice(&buffer[..count]);
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if count == 0 || (!end.is_empty() && so_far.contains(end)) {
            return so_far;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn going_down_ends_streams_and_leaves_no_connection() {
    let lab = Lab::new();
    let id = lab.execution(None, None);
    let server = listen(&lab, |_| {}).await;
    let mut idle = connect(&server, "/healthz").await;
    read_until(&mut idle, "\"ok\":true").await;
    let mut events = connect(&server, "/v1/events").await;
    read_until(&mut events, &id.to_string()).await;
    let mut text = connect(&server, &format!("/v1/executions/{id}/logs?follow=true")).await;
    read_until(&mut text, "\r\n\r\n").await;
    let mut waits = connect(&server, &format!("/v1/executions/{id}?wait=10m")).await;
    server.stop.send(()).unwrap();
    tokio::time::timeout(HANG, server.ended).await.unwrap().unwrap().unwrap();
    // An ordinary end of a stream of events; text is broken off, so that nobody takes it for the end of the run.
    assert!(read_until(&mut events, "").await.ends_with("0\r\n\r\n"));
    assert!(!read_until(&mut text, "").await.ends_with("0\r\n\r\n"));
    assert!(read_until(&mut waits, "").await.contains("\"status\":\"queued\""));
    assert_eq!(read_until(&mut idle, "").await, "");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_streams_have_a_bound() {
    let lab = Lab::new();
    let server = listen(&lab, |options| {
        options.connections = 2;
        options.streams = 1;
    })
    .await;
    let mut first = connect(&server, "/v1/events").await;
    read_until(&mut first, "200 OK").await;
    let mut second = connect(&server, "/v1/events").await;
    let refused = read_until(&mut second, "\"code\":\"too_busy\"").await;
    assert!(refused.contains("429") && refused.contains("retry-after: 1"), "{refused}");
    // The third waits for one of the two to go.
    let mut third = connect(&server, "/healthz").await;
    let mut buffer = [0; 16];
    let early = tokio::time::timeout(Duration::from_millis(200), third.read(&mut buffer)).await;
    assert!(early.is_err(), "it was answered beside two others");
    drop(second);
    assert!(read_until(&mut third, "\"ok\":true").await.contains("200 OK"));
    // The place of a stream is free again once its client has gone.
    drop(first);
    let began = std::time::Instant::now();
    loop {
        let mut next = connect(&server, "/v1/events").await;
        if read_until(&mut next, "\r\n\r\n").await.contains("200 OK") {
            break;
        }
        assert!(began.elapsed() < HANG);
    }
    server.stop.send(()).unwrap();
    server.ended.await.unwrap().unwrap();
}
