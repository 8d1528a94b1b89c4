//! A server that is killed again and again while it works, and one whose disk is full.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::durability::Small;
use crate::lab::{HANG, Lab, needs_root};

use crate::server::{Answer, Server};
use crate::soak;

/// SplitMix64, so that a round can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

/// What was asked for under a key.
struct Asked {
    request: Value,
    /// stdout of its program, if it may run to its end.
    expected: String,
    /// Known once a server has answered.
    id: Option<String>,
    cancelled: bool,
}

fn asked(key: &str, random: &mut Random) -> Asked {
    let (code, expected) = match random.below(5) {
        0 => (format!("echo {key}; echo {key} >&2; exit 3"), format!("{key}\n")),
        1 => (format!("echo {key}; sleep 0.3; echo end"), format!("{key}\nend\n")),
        2 => (
            format!("echo {key}; head -c 300000 /dev/zero | tr '\\0' x"),
            format!("{key}\n{}", "x".repeat(300_000)),
        ),
        3 => (format!("echo {key}; kill -9 $$"), format!("{key}\n")),
        _ => (format!("echo {key}"), format!("{key}\n")),
    };
    let priority = random.below(3) as i64 - 1;
    let mut request = json!({"runtime": "bash", "code": code, "priority": priority});
    if random.below(4) == 0 {
        request["secrets"] = json!({"S": key});
    }
    Asked { request, expected, id: None, cancelled: false }
}

/// Sends a request under its key. None: the server is gone.
fn ask(server: &Server, key: &str, asked: &mut Asked) -> Option<()> {
    let builder = server.request(reqwest::Method::POST, "/v1/executions");
    let builder = builder.header("content-type", "application/json").header("idempotency-key", key);
    let answer: Answer = server.try_send(builder.body(asked.request.to_string())).ok()?;
    assert!([200, 202].contains(&answer.status), "{}: {}", answer.status, answer.text());
    let id = answer.id();
    assert!(asked.id.as_ref().is_none_or(|known| *known == id), "{key} was {:?} and is {id}", asked.id);
    asked.id = Some(id);
    Some(())
}

#[test]
fn killed_at_any_moment_it_loses_and_doubles_nothing_heavy() {
    let rounds = soak::count(8, 500);
    let lab = Lab::new();
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let mut all: BTreeMap<String, Asked> = BTreeMap::new();
    for round in 0..rounds {
        let server = Server::start(&lab, &["--concurrency", "3"]);
        let until = Instant::now() + Duration::from_millis(30 + random.below(900));
        let fresh: Vec<String> = (0..20).map(|n| format!("key-{round}-{n}")).collect();
        for key in &fresh {
            all.insert(key.clone(), asked(key, &mut random));
        }
        // What earlier servers didn't answer is asked again, as a careful client does; and something that was answered, too.
        let open: Vec<String> = all
            .iter()
            .filter(|(_, asked)| asked.id.is_none() || random.below(40) == 0)
            .map(|(key, _)| key.clone())
            .collect();
        let killer = kill_at(server.pid(), until);
        for key in open {
            let Some(asked) = all.get_mut(&key) else { continue };
            if ask(&server, &key, asked).is_none() {
                break;
            }
            if random.below(12) == 0 {
                let path = format!("/v1/executions/{}/cancel", asked.id.as_ref().unwrap());
                // It may come too late, and the answer may be lost: it may be cancelled from here on.
                asked.cancelled = true;
                let _ = server.try_send(server.request(reqwest::Method::POST, &path));
            }
        }
        killer.join().unwrap();
        server.kill();
    }
    let server = Server::start(&lab, &["--concurrency", "3"]);
    for (key, asked) in &mut all {
        ask(&server, key, asked).unwrap();
    }
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for (key, asked) in &all {
        let id = asked.id.as_ref().unwrap();
        let object = server.ended(id);
        let status = object["status"].as_str().unwrap();
        *ends.entry(status.to_owned()).or_default() += 1;
        assert_eq!(object["transcript"]["complete"], true, "{key}: {object}");
        if status == "cancelled" {
            assert!(asked.cancelled, "{key}: nobody asked for its end: {object}");
            assert!(asked.expected.starts_with(object["stdout"].as_str().unwrap()), "{key}: {object}");
        } else if status == "error" {
            // Secrets are kept for one start; the server died in its middle.
            assert!(asked.request.get("secrets").is_some(), "{key}: {object}");
            assert!(object["problem"]["message"].as_str().unwrap().contains("secrets are gone"), "{object}");
            assert_eq!(object["retry"], json!({"safe": true, "program_started": false}), "{object}");
        } else {
            assert_eq!(object["stdout"].as_str().unwrap(), asked.expected, "{key}");
        }
    }
    check_events(&server, &all);
    let report = format!("{rounds} rounds, {} executions, {ends:?}", all.len());
    eprintln!("{report}");
    soak::figure("kill -9 of the server under load", &report);
    assert!(server.terminate().success());
    let verified = lab.lastword(["verify", "--all"]).expect(0);
    eprintln!("{}", verified.message());
    let spools: Vec<_> =
        std::fs::read_dir(lab.data.join("spool")).unwrap().flatten().map(|file| file.path()).collect();
    assert!(spools.is_empty(), "{spools:?}");
}

fn kill_at(pid: u32, until: Instant) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        // When exactly is what this test is about, so it may be any time.
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    })
}

/// Each change of each execution once, in the order of its life, and nothing else.
fn check_events(server: &Server, all: &BTreeMap<String, Asked>) {
    let mut text = String::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/events?follow=false{after}");
        let builder = server.request(reqwest::Method::GET, &path).header("accept", "application/x-ndjson");
        let page = server.send(builder).expect(200).text();
        let Some(last) = page.lines().last() else { break };
        let event: Value = serde_json::from_str(last).unwrap();
        after = format!("&after={}", event["cursor"].as_str().unwrap());
        text.push_str(&page);
    }
    let mut by_id: HashMap<String, Vec<String>> = HashMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let event: Value = serde_json::from_str(line).unwrap();
        let kind = event["kind"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        by_id.entry(event["execution"].as_str().unwrap().to_owned()).or_default().push(kind);
    }
    assert_eq!(by_id.len(), all.len());
    for (key, asked) in all {
        let kinds = &by_id[asked.id.as_ref().unwrap()];
        let whole = [&["queued", "running", "ended"][..], &["queued", "ended"]];
        assert!(whole.iter().any(|whole| kinds == whole), "{key}: {kinds:?}");
    }
}

#[test]
fn a_full_disk_is_said_and_survived() {
    if !needs_root("mounts a file system") {
        return;
    }
    let lab = Lab::new();
    let _small = Small::mount(&lab.data, "24m");
    let server = Server::start(&lab, &["--concurrency", "2"]);
    let say = |text: &str| json!({"runtime": "bash", "code": format!("sleep 0.2; echo {text}")});
    let before: Vec<String> = (0..10).map(|n| server.submit(&say(&n.to_string()))).collect();
    server.get("/readyz").expect(200);
    let filler = lab.data.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    // More than what the index's log may still have room for inside its file.
    let mut refused = None;
    let mut accepted = before;
    let started = Instant::now();
    while refused.is_none() {
        let answer = server.post("/v1/executions", &say("more"));
        match answer.status {
            202 => accepted.push(answer.id()),
            _ => refused = Some(answer),
        }
        assert!(started.elapsed() < HANG, "the disk does not fill up");
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["code"], "storage_full", "{}", refused.text());
    wait_for_ready(&server, 503);
    drop(file);
    std::fs::remove_file(filler).unwrap();
    wait_for_ready(&server, 200);
    accepted.push(server.submit(&say("after")));
    for id in accepted {
        let object = server.ended(&id);
        // One that was running may have been cut off, and says so.
        let cut_off = object["reason"] == "storage_full";
        assert!(object["status"] == "succeeded" || cut_off, "{object}");
        assert!(object["transcript"]["complete"] == true || cut_off, "{object}");
    }
    drop(server);
    lab.lastword(["verify", "--all"]).expect(0);
}

fn wait_for_ready(server: &Server, status: u16) {
    let started = Instant::now();
    loop {
        let answer = server.get("/readyz");
        if answer.status == status {
            assert!(status == 200 || answer.text().contains("store"), "{}", answer.text());
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "never {status}: {}", answer.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}
