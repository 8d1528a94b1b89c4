//! Against a server that answers as a test says, or not at all.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::*;

/// Answers one connection each, and returns what was asked. An empty answer is a connection that breaks.
fn server(answers: Vec<String>) -> (Client, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        answers
            .into_iter()
            .map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line == "\r\n" {
                        break;
                    }
                    head.push_str(&line);
                }
                reader.take(length).read_to_end(&mut Vec::new()).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                head
            })
            .collect()
    });
    (Client::new(&url, Some("lw_secret")).unwrap(), asked)
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn capacity() -> String {
    answer("200 OK", "application/json", r#"{"concurrency": 3, "running": 0, "queue": 1, "waiting": 0}"#)
}

fn problem(code: ErrorCode, retry_after: Option<u64>) -> String {
    let mut problem = lastword_api::ProblemDetails::new(code, "not now");
    problem.retry_after = retry_after;
    let status = format!("{} X", code.status());
    answer(&status, "application/problem+json", &serde_json::to_string(&problem).unwrap())
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

#[test]
fn a_submission_whose_answer_is_lost_is_sent_again_with_its_key() {
    let execution = Execution::queued(
        Uuid::now_v7(),
        Timestamp::now(),
        lastword_api::Backend::Native,
        lastword_api::Limits::default(),
    );
    let taken = answer("202 Accepted", "application/json", &serde_json::to_string(&execution).unwrap());
    let (client, asked) = server(vec![String::new(), problem(ErrorCode::NotReady, None), taken]);
    let new = NewExecution { command: Some(vec!["x".into()]), ..NewExecution::default() };
    let got = client.submit(&new, "my-key", false, Patience::default()).unwrap();
    assert_eq!(got.id, execution.id);
    let asked = asked.join().unwrap();
    for head in &asked {
        assert_eq!(header(head, "idempotency-key").as_deref(), Some("my-key"), "{head}");
        assert_eq!(header(head, "authorization").as_deref(), Some("Bearer lw_secret"));
    }
    assert_eq!(asked.len(), 3);
}

#[test]
fn not_now_is_asked_again_when_it_says() {
    let (client, asked) = server(vec![problem(ErrorCode::QueueFull, Some(1)), capacity()]);
    let began = Instant::now();
    assert_eq!(client.capacity(Patience::default()).unwrap().concurrency, 3);
    assert!(began.elapsed() >= Duration::from_secs(1));
    asked.join().unwrap();
}

#[test]
fn a_refusal_is_final_and_its_text_is_the_servers() {
    for (code, hint) in [(ErrorCode::Unauthorized, "LASTWORD_API_KEY"), (ErrorCode::Forbidden, "scope")] {
        let (client, asked) = server(vec![problem(code, None)]);
        let refused = client.capacity(Patience::default()).unwrap_err();
        assert_eq!((refused.code(), refused.to_string().as_str()), (Some(code), "not now"));
        assert!(refused.hint().unwrap().contains(hint));
        asked.join().unwrap();
    }
    for other in [answer("404 X", "text/html", "<p>"), answer("301 X", "text/plain", "")] {
        let (client, asked) = server(vec![other]);
        let refused = client.capacity(Patience::default()).unwrap_err();
        assert!(refused.to_string().contains("is no lastword server"), "{refused}");
        asked.join().unwrap();
    }
}

#[test]
fn a_removal_whose_answer_is_lost_is_done() {
    let (client, asked) = server(vec![String::new(), problem(ErrorCode::ExecutionNotFound, None)]);
    client.remove(Uuid::nil()).unwrap();
    asked.join().unwrap();
    let (client, asked) = server(vec![problem(ErrorCode::ExecutionNotFound, None)]);
    assert!(client.remove(Uuid::nil()).is_err());
    asked.join().unwrap();
}

#[test]
fn a_file_is_compared_with_its_digest() {
    for (digest, good) in [(blake3::hash(b"abc").to_hex().to_string(), true), ("0".repeat(64), false)] {
        let (client, asked) = server(vec![answer("200 OK", "application/octet-stream", "abc")]);
        let mut read = Vec::new();
        let done = client.file(Uuid::nil(), b"a", &digest).unwrap().read_to_end(&mut read);
        assert_eq!((&read[..], done.is_ok()), (&b"abc"[..], good));
        asked.join().unwrap();
    }
}

#[test]
fn records_go_on_where_a_connection_broke() {
    let record = |seq: u64| {
        let time = "1970-01-01T00:00:00.000000000Z";
        format!(
            "id: {seq}\nevent: record\ndata: {{\"seq\":{seq},\"timestamp\":\"{time}\",\"stream\":\"stdout\",\"log\":\"{seq}\"}}\n\n"
        )
    };
    let execution = Execution::queued(
        Uuid::nil(),
        Timestamp::now(),
        lastword_api::Backend::Native,
        lastword_api::Limits::default(),
    );
    let end = format!("event: end\ndata: {}\n\n", serde_json::to_string(&execution).unwrap());
    let stream = |body: String| answer("200 OK", "text/event-stream", &body);
    let first = stream(format!("{}: alive\n\n{}", record(0), record(1)));
    // Whole for HTTP, but without its last event; then with a record that was there already.
    let (client, asked) =
        server(vec![first, String::new(), stream(format!("{}{}{end}", record(1), record(2)))]);
    let mut seen = Vec::new();
    let wish = Wish { follow: true, ..Wish::default() };
    let ended = client.records(Uuid::nil(), wish, Patience::default(), &mut |record| {
        seen.push(record.seq);
        ControlFlow::Continue(())
    });
    assert_eq!(ended.unwrap().unwrap().id, execution.id);
    assert_eq!(seen, [0, 1, 2]);
    let asked = asked.join().unwrap();
    let from: Vec<bool> = asked.iter().map(|head| head.contains("from_seq=2")).collect();
    assert_eq!(from, [false, true, true], "{asked:?}");
}
