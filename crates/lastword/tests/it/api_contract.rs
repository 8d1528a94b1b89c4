//! What the API guide promises, asked of a real server over real connections: refusals, logs, files, waiting, going down.
//! Tenants and keys: `api_tenants.rs`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::lab::{HANG, Lab, wait_for};
use crate::server::{Answer, Server};

fn sh(code: &str) -> Value {
    json!({"runtime": "bash", "code": code})
}

fn with(mut request: Value, more: Value) -> Value {
    let fields = more.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(fields);
    request
}

/// A request with a method, a path and headers.
fn ask(server: &Server, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = server.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(body.to_owned()))
}

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("accept", "application/x-ndjson");
const SSE: (&str, &str) = ("accept", "text/event-stream");

/// The code of a refusal.
fn problem(answer: &Answer) -> String {
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{}", answer.text());
    let details = answer.json();
    assert_eq!(details["status"], answer.status, "{details}");
    details["code"].as_str().unwrap().to_owned()
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A connection by itself, to see what really comes.
struct Raw(TcpStream);

impl Raw {
    /// `head` without its end, and without `Host` unless it has one.
    fn send(server: &Server, head: &str) -> Raw {
        let mut raw = Raw::connect(server);
        raw.say(&format!("{head}\r\n\r\n"));
        raw
    }

    fn connect(server: &Server) -> Raw {
        let stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        Raw(stream)
    }

    fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until the text is there.
    fn until(&mut self, text: &str) -> String {
        let mut all = Vec::new();
        loop {
            let so_far = String::from_utf8_lossy(&all).into_owned();
            if so_far.contains(text) {
                return so_far;
            }
            let mut byte = [0];
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "it ended before {text}: {so_far}");
            all.extend(byte);
        }
    }

    fn rest(&mut self) -> String {
        let mut all = Vec::new();
        // A connection that is broken off may end with a reset.
        let _ = self.0.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }
}

fn status_of(answer: &str) -> u16 {
    answer
        .get(9..12)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[test]
fn a_page_of_another_origin_is_kept_out() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let post = "POST /v1/executions HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n";
    let get = "GET /v1/executions HTTP/1.1\r\nConnection: close\r\n";
    for (head, status) in [
        (format!("{get}Host: localhost:7070"), 200),
        (format!("{get}Host: [::1]"), 200),
        (format!("{get}Host: localhost\r\nOrigin: http://127.0.0.1:3000"), 200),
        (get.trim_end().to_owned(), 403),
        (format!("{get}Host: rebound.example.com"), 403),
        (format!("{get}Host: localhost\r\nHost: rebound.example.com"), 403),
        (format!("{get}Host: localhost@rebound.example.com"), 403),
        (format!("{get}Host: localhost\r\nOrigin: https://example.com"), 403),
        (format!("{get}Host: localhost\r\nOrigin: null"), 403),
        ("GET http://example.com/v1/executions HTTP/1.1\r\nConnection: close\r\nHost: localhost".into(), 403),
        ("GET /v1/executions HTTP/1.0".into(), 403),
        (
            format!("{post}Host: localhost\r\nOrigin: http://example.com\r\nContent-Type: application/json"),
            403,
        ),
        (
            format!("{post}Host: localhost\r\nSec-Fetch-Site: cross-site\r\nContent-Type: application/json"),
            403,
        ),
        (format!("{post}Host: localhost"), 415),
        (format!("{post}Host: localhost\r\nContent-Type: text/plain"), 415),
        (format!("{post}Host: localhost\r\nContent-Type: multipart/form-data; boundary=x"), 415),
        (format!("{post}Host: localhost\r\nContent-Type: application/x-www-form-urlencoded"), 415),
        (format!("{post}Host: localhost\r\nContent-Type: application/json"), 400),
    ] {
        let answer = Raw::send(&server, &head).rest();
        assert_eq!(status_of(&answer), status, "{head}\n{answer}");
    }
    // What a browser asks before it sends something else than a form.
    let may_i = "OPTIONS /v1/executions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\nOrigin: ";
    for (origin, status) in [("http://example.com", 403), ("http://localhost:3000", 405)] {
        let answer = Raw::send(&server, &format!("{may_i}{origin}")).rest().to_lowercase();
        assert_eq!(status_of(&answer), status, "{answer}");
        assert!(!answer.contains("access-control-"), "{answer}");
    }
    assert_eq!(lab.ids().len(), 0);
}

#[test]
fn what_is_no_request_is_named() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--body-limit", "64KiB"]);
    for (body, status, code, field) in [
        ("", 400, "malformed_request", None),
        ("{\"command\": [\"true\"]", 400, "malformed_request", None),
        ("{\"command\": [\"true\"]} {}", 400, "malformed_request", None),
        ("[]", 422, "invalid_field", Some("")),
        ("{\"comand\": [\"true\"]}", 422, "invalid_field", Some("comand")),
        (
            "{\"command\": [\"true\"], \"limits\": {\"memory\": 1}}",
            422,
            "invalid_field",
            Some("limits.memory"),
        ),
        ("{\"command\": [\"true\"], \"limits\": {\"pids\": 0}}", 422, "invalid_field", Some("limits.pids")),
        ("{\"command\": [\"true\"], \"image\": \"/etc\"}", 422, "invalid_field", Some("image")),
        ("{\"command\": [\"true\"], \"priority\": 101}", 422, "invalid_field", Some("priority")),
        ("{\"runtime\": \"cobol\", \"code\": \"\"}", 422, "invalid_field", Some("runtime")),
        (
            "{\"command\": [\"true\"], \"files\": [{\"path\": \"/etc/x\", \"text\": \"\"}]}",
            422,
            "invalid_field",
            Some("files[0].path"),
        ),
    ] {
        let answer = ask(&server, "POST /v1/executions", &[JSON], body);
        assert_eq!((answer.status, &*problem(&answer)), (status, code), "{body}: {}", answer.text());
        assert_eq!(answer.json()["field"].as_str(), field, "{body}: {}", answer.text());
    }
    for line in [
        "GET /v1/executions?colour=red",
        "GET /v1/executions?limit=0",
        "GET /v1/events?follow=perhaps",
        "GET /v1/capacity?x=1",
        "POST /v1/executions?wait=soon",
    ] {
        let answer = ask(&server, line, &[JSON], "{}");
        assert_eq!((answer.status, &*problem(&answer)), (422, "invalid_parameter"), "{line}");
        assert!(
            line.contains(&format!("?{}=", answer.json()["field"].as_str().unwrap())),
            "{}",
            answer.text()
        );
    }
    // Too large, said before and found out while reading.
    let large = format!("{{\"runtime\": \"bash\", \"code\": \"{}\"}}", "#".repeat(64 << 10));
    let answer = ask(&server, "POST /v1/executions", &[JSON], &large);
    assert_eq!((answer.status, &*problem(&answer)), (413, "too_large"));
    let mut chunked = Raw::connect(&server);
    let head = "POST /v1/executions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    chunked
        .say(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len()));
    assert_eq!(status_of(&chunked.rest()), 413);
    // A header without an end takes no more memory than its bound.
    let mut endless = Raw::connect(&server);
    let _ = endless.0.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1 << 20)).as_bytes());
    assert_eq!(status_of(&endless.rest()), 431);
    server.get("/healthz").expect(200);
    assert_eq!(lab.ids().len(), 0);
}

#[test]
fn methods_that_are_there_and_not() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let id = server.run(&sh("echo said"))["id"].as_str().unwrap().to_owned();
    for path in [format!("/v1/executions/{id}"), format!("/v1/executions/{id}/logs"), "/v1/executions".into()]
    {
        let got = server.get(&path).expect(200);
        let head = ask(&server, &format!("HEAD {path}"), &[], "");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.headers["content-type"], got.headers["content-type"], "{path}");
    }
    assert_eq!(ask(&server, "HEAD /v1/executions/x", &[], "").status, 404);
    for (line, allowed) in [
        ("PUT /v1/executions".to_owned(), &["GET", "POST"][..]),
        (format!("POST /v1/executions/{id}"), &["GET", "DELETE"]),
        (format!("PATCH /v1/executions/{id}/stdin"), &["POST"]),
        (format!("OPTIONS /v1/executions/{id}/cancel"), &["POST"]),
    ] {
        let answer = ask(&server, &line, &[JSON], "{}");
        assert_eq!((answer.status, &*problem(&answer)), (405, "method_not_allowed"), "{line}");
        let allow = answer.headers["allow"].to_str().unwrap();
        assert!(allowed.iter().all(|method| allow.contains(method)), "{line}: {allow}");
    }
    // Nothing of this changed anything.
    server.get(&format!("/v1/executions/{id}")).expect(200);
}

#[test]
fn a_log_in_its_formats_and_parts() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let code =
        "for n in 1 2 3; do echo out $n; sleep 0.02; echo err $n >&2; sleep 0.02; done; printf '\\xff'";
    let id = server.run(&sh(code))["id"].as_str().unwrap().to_owned();
    let logs = |query: &str, headers: &[(&str, &str)]| {
        let answer = ask(&server, &format!("GET /v1/executions/{id}/logs?{query}"), headers, "");
        answer.expect(200)
    };
    let text = |query: &str| logs(query, &[]).body;
    let seqs = |query: &str, headers: &[(&str, &str)]| -> Vec<u64> {
        let answer = logs(query, &[&[NDJSON], headers].concat());
        lines(&answer).iter().map(|record| record["seq"].as_u64().unwrap()).collect()
    };
    let whole = b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n\xff";
    assert_eq!(text(""), whole);
    assert_eq!(text("follow=true"), whole);
    assert_eq!(text("stream=stderr"), b"err 1\nerr 2\nerr 3\n");
    assert_eq!(text("tail=2"), b"err 3\n\xff");
    assert_eq!(text("tail=0"), b"");
    assert_eq!(seqs("", &[]), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(seqs("from_seq=2&before_seq=5", &[]), [2, 3, 4]);
    assert_eq!(seqs("from_seq=2&limit=2&stream=stdout", &[]), [2, 4]);
    assert_eq!(seqs("tail=2&stream=stdout", &[]), [4, 6]);
    assert_eq!(seqs("before_seq=4&tail=2", &[]), [2, 3]);
    assert_eq!(seqs("follow=true&limit=3", &[]), [0, 1, 2]);
    assert_eq!(seqs("from_seq=99", &[]), [0; 0]);
    // What a client has it does not get again, also if it asks for more than it should.
    assert_eq!(seqs("", &[("last-event-id", "4")]), [5, 6]);
    assert_eq!(seqs("from_seq=6", &[("last-event-id", "1")]), [6]);
    assert_eq!(seqs("tail=5", &[("last-event-id", "5")]), [6]);
    let all = lines(&logs("", &[NDJSON]));
    assert_eq!((&all[6]["log_b64"], all[6].get("log")), (&json!("/w=="), None));
    let at = |seq: usize| all[seq]["timestamp"].as_str().unwrap();
    assert_eq!(seqs(&format!("since={}", at(4)), &[]), [4, 5, 6]);
    assert_eq!(seqs(&format!("until={}", at(4)), &[]), [0, 1, 2, 3]);
    assert_eq!(seqs(&format!("since={}&until={}", at(1), at(3)), &[]), [1, 2]);
    assert_eq!((seqs("since=1h", &[]).len(), seqs("until=1h", &[]).len()), (7, 0));
    let events = logs("from_seq=5", &[SSE]);
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let events = events.text();
    let parts: Vec<&str> = events.trim_end().split("\n\n").collect();
    assert_eq!(parts.len(), 3, "{events}");
    assert!(parts[0].starts_with("id: 5\nevent: record\ndata: {\"seq\":5,"), "{events}");
    let end = parts[2].strip_prefix("event: end\ndata: ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(end).unwrap()["status"], "succeeded");
    for (query, headers, status) in [
        ("tail=100001", &[][..], 422),
        ("stream=stdin", &[], 422),
        ("from_seq=-1", &[], 422),
        ("", &[("last-event-id", "x")], 400),
        ("", &[("accept", "image/png")], 406),
    ] {
        let line = format!("GET /v1/executions/{id}/logs?{query}");
        assert_eq!(ask(&server, &line, headers, "").status, status, "{query} {headers:?}");
    }
}

#[test]
fn files_come_back_whatever_they_are_called() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let names: [&[u8]; 9] = [
        b"plain.html",
        b"two words",
        b"100%",
        b"a?b#c&d",
        b"..dots..",
        b"\"quoted\";x",
        "ä☂".as_bytes(),
        b"not-utf8-\xff",
        b"%2e%2e",
    ];
    let code = "import os\nos.makedirs(b'out/sub')\n".to_owned()
        + &names
            .iter()
            .map(|name| format!("open(b'out/sub/' + bytes({name:?}), 'wb').write(bytes({name:?}))\n"))
            .collect::<String>();
    let request = json!({"runtime": "python", "code": code, "outputs": ["out/**"]});
    let object = server.run(&request);
    assert_eq!(object["outputs"].as_array().unwrap().len(), names.len(), "{object:#}");
    let id = object["id"].as_str().unwrap();
    let file = |path: &str| ask(&server, &format!("GET /v1/executions/{id}/files/{path}"), &[], "");
    for name in names {
        let path: String = [b"out/sub/", name].concat().iter().map(|byte| format!("%{byte:02x}")).collect();
        for path in [path.clone(), format!("%2fwork%2f{path}")] {
            let answer = file(&path).expect(200);
            assert_eq!(answer.body, name, "{path}");
            assert_eq!(answer.headers["blake3"], blake3::hash(name).to_hex().as_str());
            assert_eq!(answer.headers["content-type"], "application/octet-stream");
            let disposition = answer.headers["content-disposition"].to_str().unwrap();
            assert!(disposition.starts_with("attachment; filename*=UTF-8''"), "{disposition}");
            assert!(!disposition.contains('"') && disposition.matches(';').count() == 1, "{disposition}");
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
            assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("sandbox"));
        }
    }
    // As they stand: a client of HTTP would tidy them up.
    for none in [
        "out",
        "out/sub",
        "out/sub/",
        "out/../out/sub/plain.html",
        "etc/passwd",
        "%2fetc%2fpasswd",
        "..%2f..%2fkeys.json",
        "%2e%2e/%2e%2e/keys.json",
        "%f",
        "%00",
    ] {
        let head =
            format!("GET /v1/executions/{id}/files/{none} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
        let answer = Raw::send(&server, &head).rest();
        assert!(status_of(&answer) == 404 && answer.contains("file_not_found"), "{none}: {answer}");
    }
    let running = server.submit(&with(sh("sleep 60"), json!({"outputs": ["x"]})));
    let early = ask(&server, &format!("GET /v1/executions/{running}/files/x"), &[], "");
    assert_eq!((early.status, &*problem(&early)), (409, "not_ended"));
    server.post(&format!("/v1/executions/{running}/cancel"), &json!({}));
    server.ended(&running);
}

#[test]
fn waiting_is_a_question_and_changes_nothing() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let post = |wait: &str| server.post(&format!("/v1/executions{wait}"), &sh("sleep 60"));
    for wait in ["", "?wait=0s", "?wait=0", "?wait=50ms"] {
        let object = post(wait).expect(202);
        assert!(object.json()["ended_at"].is_null(), "{wait}");
        let id = object.id();
        assert_eq!(object.headers["location"], format!("/v1/executions/{id}"));
        let asked = server.get(&format!("/v1/executions/{id}?wait=50ms")).expect(200).json();
        assert!(asked["ended_at"].is_null() && asked["reason"].is_null(), "{asked}");
        // One who waits sees the end at once, and not only when the time is over.
        let path = format!("/v1/executions/{id}?wait=10m");
        let request = server.request(Method::GET, &path);
        let waiting =
            server.runtime.spawn(async move { request.send().await.unwrap().text().await.unwrap() });
        assert!([200, 202].contains(&server.post(&format!("/v1/executions/{id}/cancel"), &json!({})).status));
        let ended: Value = serde_json::from_str(&server.runtime.block_on(waiting).unwrap()).unwrap();
        assert_eq!(ended["status"], "cancelled", "{wait}");
    }
    // A client that goes away while it waits takes nothing with it.
    let mut gone = Raw::connect(&server);
    let body = sh("sleep 0.2; echo done").to_string();
    let head = "POST /v1/executions?wait=60s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    gone.say(&format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let id = wait_for("it is taken", || {
        let page = server.get("/v1/executions?limit=1").json();
        page["items"][0]["id"]
            .as_str()
            .filter(|_| page["items"][0]["status"] != "cancelled")
            .map(str::to_owned)
    });
    drop(gone);
    assert_eq!(server.ended(&id)["stdout"], "done\n");
}

#[test]
fn what_was_removed_is_gone() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let keyed = |code: &str| {
        ask(&server, "POST /v1/executions?wait=60s", &[JSON, ("idempotency-key", "k")], &sh(code).to_string())
    };
    let id = keyed("echo 1").expect(200).id();
    let running = server.submit(&sh("sleep 60"));
    let early = server.delete(&format!("/v1/executions/{running}"));
    assert_eq!((early.status, &*problem(&early)), (409, "not_ended"));
    server.delete(&format!("/v1/executions/{id}")).expect(204);
    for line in ["GET", "GET /logs", "GET /request", "POST /verify", "POST /cancel", "DELETE"] {
        let (method, rest) = line.split_once(' ').unwrap_or((line, ""));
        let answer = ask(&server, &format!("{method} /v1/executions/{id}{rest}"), &[], "");
        assert_eq!((answer.status, &*problem(&answer)), (404, "execution_not_found"), "{line}");
    }
    let replayed = keyed("echo 1");
    assert_eq!((replayed.status, &*problem(&replayed)), (409, "idempotency_removed"));
    assert_eq!(replayed.json()["execution"], id);
    let kinds: Vec<Value> = lines(&ask(&server, "GET /v1/events?follow=false", &[NDJSON], ""))
        .into_iter()
        .filter(|event| event["execution"] == *id)
        .map(|event| event["kind"].clone())
        .collect();
    assert_eq!(kinds, ["queued", "running", "ended", "removed"]);
    server.post(&format!("/v1/executions/{running}/cancel"), &json!({}));
    server.ended(&running);
}

#[test]
fn a_batch_is_taken_item_by_item() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1", "--queue", "4"]);
    let blocker = server.submit(&sh("echo begun; sleep 60"));
    wait_for("it runs", || (server.get("/v1/capacity").json()["waiting"] == 0).then_some(()));
    let single =
        ask(&server, "POST /v1/executions", &[JSON, ("idempotency-key", "one")], &sh("echo 1").to_string())
            .id();
    let keyed = |code: &str, key: &str| with(sh(code), json!({"idempotency_key": key}));
    let items = json!([
        keyed("echo 1", "one"),
        keyed("echo other", "one"),
        keyed("echo 2", "two"),
        keyed("echo 2", "two"),
        {"runtime": "bash"},
        {"runtime": "bash", "code": "", "typo": 1},
        17,
        sh("echo 3"),
        sh("echo 4"),
        sh("echo 5"),
    ]);
    let reply = server.post("/v1/batches", &json!({"executions": items})).expect(202).json();
    let answers = reply["executions"].as_array().unwrap();
    let said: Vec<String> = answers
        .iter()
        .map(|answer| match answer["problem"]["code"].as_str() {
            Some(code) => format!("{code} {}", answer["problem"]["field"].as_str().unwrap_or("-")),
            None => format!("{} {}", answer["status"].as_str().unwrap(), answer["replayed"]),
        })
        .collect();
    assert_eq!(
        said,
        [
            "queued true",
            "idempotency_conflict -",
            "queued false",
            "queued true",
            "invalid_field code",
            "invalid_field typo",
            "invalid_field ",
            "queued false",
            "queued false",
            "queue_full -"
        ]
    );
    assert_eq!(answers[0]["id"], *single);
    assert_eq!(answers[2]["id"], answers[3]["id"]);
    assert!(answers[9]["problem"]["retry_after"].as_u64().unwrap() >= 1);
    let batch = format!("/v1/batches/{}", reply["id"].as_str().unwrap());
    // What an earlier request has made is not the batch's.
    assert_eq!(server.get(&batch).expect(200).json()["counts"], json!({"queued": 3}));
    let cancelled = server.post(&format!("{batch}/cancel"), &json!({})).expect(200).json();
    assert_eq!((&cancelled["counts"], &cancelled["done"]), (&json!({"cancelled": 3}), &json!(true)));
    assert_eq!(server.get(&format!("/v1/executions/{single}")).json()["status"], "queued");
    for (body, status) in [("{\"executions\": []}", 422), ("{}", 422), ("{\"executions\": [{]}", 400)] {
        assert_eq!(ask(&server, "POST /v1/batches", &[JSON], body).status, status, "{body}");
    }
    assert_eq!(server.get("/v1/batches/01900000-0000-7000-8000-000000000000").status, 404);
    for id in [&blocker, &single] {
        server.post(&format!("/v1/executions/{id}/cancel"), &json!({}));
        server.ended(id);
    }
}

#[test]
fn events_a_page_at_a_time_and_filtered() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let labelled = |job: &str| with(sh("true"), json!({"labels": {"job": job}}));
    let ids: Vec<Value> =
        ["a", "b", "a"].iter().map(|job| server.run(&labelled(job))["id"].clone()).collect();
    let events = |query: &str, headers: &[(&str, &str)]| {
        let path = format!("GET /v1/events?follow=false&{query}");
        lines(&ask(&server, &path, &[&[NDJSON], headers].concat(), "").expect(200))
    };
    let all = events("", &[]);
    assert_eq!(all.len(), 9);
    let cursor = |event: &Value| event["cursor"].as_str().unwrap().to_owned();
    // Pages of two, one behind the other, are the whole.
    let mut paged: Vec<Value> = events("limit=2", &[]);
    loop {
        let page = events(&format!("limit=2&after={}", cursor(paged.last().unwrap())), &[]);
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(events("", &[("last-event-id", &cursor(&all[6]))]), all[7..]);
    // Of the two the header says what the client really has.
    assert_eq!(
        events(&format!("after={}", cursor(&all[0])), &[("last-event-id", &cursor(&all[6]))]),
        all[7..]
    );
    let of = |query: &str| -> Vec<(Value, Value)> {
        events(query, &[])
            .into_iter()
            .map(|event| (event["execution"].clone(), event["kind"].clone()))
            .collect()
    };
    assert_eq!(of("kind=ended"), ids.iter().map(|id| (id.clone(), json!("ended"))).collect::<Vec<_>>());
    assert_eq!(
        of("label=job=b&kind=queued&kind=ended"),
        [(ids[1].clone(), json!("queued")), (ids[1].clone(), json!("ended"))]
    );
    assert_eq!(of("label=job=c"), []);
    assert_eq!(of("after=latest"), []);
    let ended = events("kind=ended&label=job=b", &[]).remove(0);
    assert_eq!(
        (&ended["status"], &ended["reason"], &ended["complete"], &ended["labels"]),
        (&json!("succeeded"), &json!("exit"), &json!(true), &json!({"job": "b"}))
    );
    let foreign = ask(&server, "GET /v1/events?after=1-1", &[], "");
    assert_eq!((foreign.status, &*problem(&foreign)), (410, "cursor_gone"));
    // Who follows hears of what is new, with its cursor as id.
    let mut following =
        Raw::send(&server, "GET /v1/events?after=latest&label=job=new HTTP/1.1\r\nHost: localhost");
    following.until("\r\n\r\n");
    server.run(&labelled("a"));
    let id = server.run(&labelled("new"))["id"].as_str().unwrap().to_owned();
    let heard = following.until("event: ended") + &following.until("\n\n");
    let kinds: Vec<&str> = heard.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(kinds, ["queued", "running", "ended"], "{heard}");
    assert_eq!(heard.matches(&id).count(), 3, "{heard}");
}

#[test]
fn going_down_is_said_to_each_who_listens() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let id = server.submit(&sh("for n in 1 2 3 4 5 6 7 8; do echo line $n; sleep 0.5; done"));
    let open = |path: &str, accept: &str| {
        let mut raw =
            Raw::send(&server, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}"));
        raw.until("line 1");
        raw
    };
    let follow = format!("/v1/executions/{id}/logs?follow=true");
    let mut text = open(&follow, "text/plain");
    let mut records = open(&follow, "application/x-ndjson");
    let mut sse = open(&follow, "text/event-stream");
    let mut events = Raw::send(&server, "GET /v1/events HTTP/1.1\r\nHost: localhost");
    events.until("event: running");
    let mut waits =
        Raw::send(&server, &format!("GET /v1/executions/{id}?wait=10m HTTP/1.1\r\nHost: localhost"));
    // Connections are accepted in their order: once a later one was answered this one is the server's.
    let mut late = Raw::connect(&server);
    late.say("GET /readyz HTTP/1.1\r\n");
    let mut later = Raw::connect(&server);
    later.say("POST /v1/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    server.get("/healthz").expect(200);
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let going = std::thread::spawn(move || server.terminate());
    wait_for("nobody listens", || TcpStream::connect(&address).is_err().then_some(()));
    // Whoever asks now on a connection that is open hears that it goes down, and takes nothing.
    late.say("Host: localhost\r\n\r\n");
    let ready = late.rest();
    assert!(status_of(&ready) == 503 && ready.contains("{\"name\":\"accepting\",\"ready\":false"), "{ready}");
    let body = sh("echo never").to_string();
    later.say(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let refused = later.rest();
    assert!(status_of(&refused) == 503 && refused.contains("\"code\":\"draining\""), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: "), "{refused}");
    let whole = "0\r\n\r\n";
    let text = text.rest();
    assert!(!text.ends_with(whole), "text looks as if the run had ended: {text}");
    let records = records.rest();
    assert!(
        records.ends_with(whole) && records.contains("{\"error\":{") && records.contains("draining"),
        "{records}"
    );
    let sse = sse.rest();
    assert!(sse.ends_with(whole) && !sse.contains("event: end"), "{sse}");
    assert!(events.rest().ends_with(whole));
    let waited = waits.rest();
    assert!(status_of(&waited) == 200 && waited.contains("\"status\":\"running\""), "{waited}");
    assert_eq!(going.join().unwrap().code(), Some(0));
    // The next server goes on where the streams ended.
    let server = Server::start(&lab, &[]);
    let seen = 1 + sse.matches("event: record").count();
    let rest = ask(&server, &format!("GET {follow}"), &[SSE, ("last-event-id", &(seen - 1).to_string())], "");
    let rest = rest.expect(200).text();
    assert_eq!(rest.matches("event: record").count(), 8 - seen, "{rest}");
    assert!(rest.contains("event: end") && rest.contains("\"complete\":true"), "{rest}");
    server.ended(&id);
    assert_eq!(lab.ids().len(), 1);
}

#[test]
fn who_sends_slowly_is_let_go() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let began = std::time::Instant::now();
    let mut head = Raw::send(&server, "");
    head.say("GET /healthz HTTP/1.1\r\nHost: loc");
    let mut body = Raw::connect(&server);
    let post = "POST /v1/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    body.say(&format!("{post}\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{{"));
    assert_eq!(status_of(&body.rest()), 408);
    head.rest();
    let took = began.elapsed();
    assert!(took > Duration::from_secs(20) && took < Duration::from_secs(60), "{took:?}");
}
