//! A server under load, readers that don't read, and readers that come back.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use lastword_api::{Event, Execution, LogRecord, LogText};
use serde_json::{Value, json};

use crate::lab::{HANG, Lab};
use crate::server::Server;
use crate::soak;

#[test]
fn the_load_generator_finds_nothing_wrong_heavy() {
    let lab = Lab::new();
    let (runs, queued, followers) = (soak::count(24, 1000), soak::count(60, 2000), soak::count(24, 200));
    let [n, q, f] = [runs, queued, followers].map(|count| count.to_string());
    let mut command = lab.command();
    command.args(["bench", "serve", "--json", "-n", &n, "-q", &q, "-f", &f]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&figures["wrong"], &figures["bad"]), (&json!(0), &json!([])));
    let load = &figures["queued"];
    let printers = figures["capacity"]["concurrency"].as_u64().unwrap();
    let checked = queued as u64 + printers;
    assert_eq!((&load["checked"], &load["events"]), (&json!(checked), &json!(3 * checked)), "{figures}");
    assert_eq!((&load["refused"], &load["followers"]), (&json!(20), &json!(followers)), "{figures}");
    for lines in load["lines"].as_array().unwrap() {
        assert!(lines["count"].as_u64().unwrap() > 0, "nobody listened: {figures}");
    }
    let peak = figures["memory"][3][1]["peak_bytes"].as_u64().unwrap();
    assert!(peak < 1 << 30, "{figures}");
    let ratio = figures["runs"]["ratio"].as_f64().unwrap();
    let line = &load["lines"][0]["p50_ms"];
    let report = format!(
        "{runs} runs at {ratio:.2} of bare; {queued} queued, {followers} followers, at most {} MiB; a line after {line} ms",
        peak >> 20
    );
    eprintln!("{report}");
    soak::figure("a server under load", &report);
}

/// A connection that reads when it is told to, and not before.
struct Raw {
    stream: TcpStream,
    /// What was read and not taken yet.
    bytes: Vec<u8>,
    has_head: bool,
}

impl Raw {
    fn open(server: &Server, path: &str, accept: &str, last_event_id: Option<&str>) -> Raw {
        let address = server.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        // The kernel takes little for one who doesn't read. Less than a segment would make it send in dribbles.
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 128 << 10).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        let last = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        // HTTP/1.0: the body ends with the connection and comes in no pieces of its own.
        let head = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        Raw { stream, bytes: Vec::new(), has_head: false }
    }

    /// Reads up to `max` bytes. False at the end.
    fn read(&mut self, max: usize) -> bool {
        let mut buffer = vec![0; max];
        let count = self.stream.read(&mut buffer).unwrap();
        self.bytes.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Waits for the head of the answer and takes it off.
    fn head(&mut self) {
        while !self.has_head {
            let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else {
                assert!(self.read(512), "no answer");
                continue;
            };
            let head = String::from_utf8(self.bytes.drain(..end + 4).collect()).unwrap();
            assert!(head.lines().next().unwrap().contains(" 200 "), "{head}");
            self.has_head = true;
        }
    }

    /// The whole events that were read: id, name and data. What is behind them stays.
    fn events(&mut self) -> Vec<[String; 3]> {
        let mut all = Vec::new();
        while let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
            let text = String::from_utf8(self.bytes.drain(..end + 2).collect()).unwrap();
            let field = |name: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                value.unwrap_or_default().to_owned()
            };
            if !field("event").is_empty() {
                all.push([field("id"), field("event"), field("data")]);
            }
        }
        all
    }
}

/// What came of a log: each record where it belongs.
#[derive(Default)]
struct Log {
    next: u64,
    text: String,
    end: Option<Execution>,
}

impl Log {
    fn take(&mut self, [id, name, data]: &[String; 3]) {
        assert!(self.end.is_none(), "behind the end comes {name} {data}");
        if name == "end" {
            self.end = Some(serde_json::from_str(data).unwrap());
            return;
        }
        let record: LogRecord = serde_json::from_str(data).unwrap();
        assert_eq!((name.as_str(), record.seq, id.as_str()), ("record", self.next, &*self.next.to_string()));
        self.next += 1;
        let LogText::Log(text) = record.text else { panic!("{data}") };
        self.text.push_str(&text);
    }
}

fn python(code: &str) -> Value {
    json!({"runtime": "python", "code": code})
}

/// Bytes of the server in RAM.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

const FLOOD_LINES: usize = 40_000;

fn flood() -> (Value, String) {
    let fill = "x".repeat(300);
    let code = format!(
        "import sys\nfor block in range(0, {FLOOD_LINES}, 20):\n    sys.stdout.write(''.join('%d {fill}\\n' % n for n in range(block, block + 20)))\n"
    );
    (python(&code), (0..FLOOD_LINES).map(|n| format!("{n} {fill}\n")).collect())
}

/// A program that answers each byte of its stdin with a line, and a follower that has to see it before the next byte is sent.
fn talk(server: &Server, id: &str, follower: &mut Raw, log: &mut Log, bytes: std::ops::Range<u64>) {
    for n in bytes {
        let path = format!("/v1/executions/{id}/stdin?offset={n}");
        let request = server.request(reqwest::Method::POST, &path);
        server.send(request.header("content-type", "application/octet-stream").body("x")).expect(200);
        while log.next <= n {
            assert!(follower.read(4096), "it ended at line {n}");
            follower.events().iter().for_each(|event| log.take(event));
        }
    }
}

#[test]
fn who_does_not_read_slows_nobody_and_takes_no_memory_heavy() {
    const STUCK: usize = 40;
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "2"]);
    let code = "import os, sys\nn = 0\nwhile os.read(0, 1):\n    print('line', n, flush=True)\n    n += 1\n";
    let mut talker = python(code);
    talker["stdin_open"] = json!(true);
    talker["limits"] = json!({"wall_ms": 600_000});
    let talker = server.submit(&talker);
    let mut follower =
        Raw::open(&server, &format!("/v1/executions/{talker}/logs?follow=true"), "text/event-stream", None);
    follower.head();
    let mut talked = Log::default();
    talk(&server, &talker, &mut follower, &mut talked, 0..5);
    let before = resident(&server);
    let (request, expected) = flood();
    let id = server.submit(&request);
    let path = format!("/v1/executions/{id}/logs?follow=true");
    let mut stuck: Vec<Raw> =
        (0..STUCK).map(|_| Raw::open(&server, &path, "text/event-stream", None)).collect();
    stuck.iter_mut().for_each(Raw::head);
    let mut feed = Raw::open(&server, "/v1/events", "text/event-stream", None);
    feed.head();
    // The program is not held up, nor is one who reads.
    let object = server.ended(&id);
    assert_eq!((&object["status"], &object["transcript"]["complete"]), (&json!("succeeded"), &json!(true)));
    let whole = server.get(&format!("/v1/executions/{id}/logs?follow=true")).expect(200);
    assert!(whole.text() == expected, "{} bytes of {}", whole.body.len(), expected.len());
    talk(&server, &talker, &mut follower, &mut talked, 5..60);
    let grown = resident(&server).saturating_sub(before);
    eprintln!("{STUCK} who don't read {} MiB each: {} KiB", expected.len() >> 20, grown >> 10);
    // All that they have not read would be some 500 MiB.
    assert!(grown < 64 << 20, "{grown} bytes");
    // Late, and whole all the same.
    for mut reader in stuck.drain(..2) {
        let mut log = Log::default();
        while log.end.is_none() {
            assert!(reader.read(1 << 20), "it ends within the log");
            reader.events().iter().for_each(|event| log.take(event));
        }
        assert!(log.text == expected);
    }
    drop(stuck);
    server.post(&format!("/v1/executions/{talker}/cancel"), &json!({}));
    server.ended(&talker);
}

#[test]
fn who_comes_back_has_no_gap_and_no_repeat() {
    const LINES: u64 = 400;
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "2"]);
    let code = format!(
        "import sys, time\nfor n in range({LINES}):\n    print('line', n, file=sys.stderr if n % 3 else sys.stdout, flush=True)\n    if n % 10 == 0: time.sleep(0.01)\n"
    );
    let id = server.submit(&python(&code));
    let path = format!("/v1/executions/{id}/logs?follow=true");
    let mut log = Log::default();
    let mut last: Option<String> = None;
    let (mut visits, mut bytes) = (0, 1);
    while log.end.is_none() {
        let mut raw = Raw::open(&server, &path, "text/event-stream", last.as_deref());
        raw.head();
        visits += 1;
        // It goes away within an event as often as between two.
        bytes = (bytes * 7 + 11) % 1500;
        // The end is longer than a visit.
        let enough = if log.next < LINES { bytes } else { usize::MAX };
        while raw.bytes.len() < enough && raw.read(enough.min(1500)) {}
        for event in raw.events() {
            log.take(&event);
            if event[1] == "record" {
                last = Some(event[0].clone());
            }
        }
    }
    let expected: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
    assert_eq!(log.text, expected);
    assert!(visits > 20, "only {visits} visits");
}

#[test]
fn who_comes_back_to_the_feed_misses_nothing() {
    const EXECUTIONS: usize = 30;
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "2"]);
    let ids: Vec<String> = (0..EXECUTIONS)
        .map(|n| server.submit(&json!({"runtime": "bash", "code": format!("echo {n}")})))
        .collect();
    let mut seen: Vec<Event> = Vec::new();
    let mut bytes = 1;
    while seen.len() < 3 * EXECUTIONS {
        let last = seen.last().map(|event| event.cursor.clone());
        let mut raw = Raw::open(&server, "/v1/events", "text/event-stream", last.as_deref());
        raw.head();
        bytes = (bytes * 7 + 11) % 3000;
        let mut events = raw.events();
        // At least one, so that it moves on.
        while events.is_empty() || raw.bytes.len() < bytes % 300 {
            assert!(raw.read(bytes.max(1)), "the feed ended");
            events.append(&mut raw.events());
            if seen.len() + events.len() >= 3 * EXECUTIONS {
                break;
            }
        }
        for [cursor, kind, data] in events {
            let event: Event = serde_json::from_str(&data).unwrap();
            assert_eq!((&event.cursor, event.kind.name()), (&cursor, kind.as_str()));
            seen.push(event);
        }
    }
    for id in &ids {
        let kinds: Vec<&str> =
            seen.iter().filter(|e| e.execution.to_string() == *id).map(|e| e.kind.name()).collect();
        assert_eq!(kinds, ["queued", "running", "ended"], "{id}");
    }
    let whole = server.get("/v1/events?follow=false").expect(200).text();
    let cursors = whole.lines().filter_map(|line| line.strip_prefix("id: "));
    assert!(cursors.eq(seen.iter().map(|event| event.cursor.as_str())), "{whole}");
}
