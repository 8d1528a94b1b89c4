//! The service as its users see it: over HTTP.

use serde_json::{Value, json};

use crate::durability;
use crate::lab::Lab;
use crate::server::Server;

/// The program of the first example: both streams, then a failure.
fn fast_fail() -> Value {
    json!({"runtime": "python", "code": "print('Before error')\n1/0"})
}

fn sh(code: &str) -> Value {
    json!({"runtime": "bash", "code": code})
}

/// Waits until a file is there, which a program has made; the sandbox has none of ours, so it is a log that is looked at.
fn logs_until(server: &Server, id: &str, text: &str) {
    let started = std::time::Instant::now();
    while !server.get(&format!("/v1/executions/{id}/logs")).text().contains(text) {
        assert!(started.elapsed() < crate::lab::HANG, "{id} never said {text}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_program_that_dies_at_once_has_said_everything() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let object = server.run(&fast_fail());
    assert_eq!(
        (&object["status"], &object["reason"], &object["exit_code"]),
        (&json!("failed"), &json!("exit"), &json!(1))
    );
    assert_eq!(object["stdout"], "Before error\n");
    assert!(
        object["stderr"].as_str().unwrap().ends_with("ZeroDivisionError: division by zero\n"),
        "{object}"
    );
    assert_eq!(object["transcript"]["complete"], true);
    let id = object["id"].as_str().unwrap();
    let verdict = server.post(&format!("/v1/executions/{id}/verify"), &json!({})).expect(200).json();
    assert_eq!(verdict["complete"], true, "{verdict}");
    // The same store, seen by the command line.
    assert_eq!(lab.get(id).status(), "failed");
    assert!(server.terminate().success());
}

#[test]
fn what_is_accepted_survives_kill_9_and_ends_once() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let running = server.submit(&sh("echo begun; sleep 2; echo done"));
    let queued = server.submit(&sh("echo queued"));
    logs_until(&server, &running, "begun");
    server.kill();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let (first, second) = (server.ended(&running), server.ended(&queued));
    assert_eq!((&first["status"], &first["stdout"]), (&json!("succeeded"), &json!("begun\ndone\n")));
    assert_eq!((&second["status"], &second["stdout"]), (&json!("succeeded"), &json!("queued\n")));
    let events = server.get("/v1/events?follow=false");
    let of = |id: &str| events.text().lines().filter(|line| line.contains(id)).count();
    assert_eq!((of(&running), of(&queued)), (3, 3), "{}", events.text());
}

#[test]
fn a_key_twice_in_a_batch_makes_one_execution() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let item = |code: &str| json!({"runtime": "bash", "code": code, "idempotency_key": "k"});
    let batch = json!({"executions": [item("echo once"), item("echo once"), item("echo other")]});
    let answers = server.post("/v1/batches", &batch).expect(202).json()["executions"].clone();
    assert_eq!(answers[0]["id"], answers[1]["id"], "{answers}");
    assert_eq!((&answers[0]["replayed"], &answers[1]["replayed"]), (&json!(false), &json!(true)));
    assert_eq!(answers[2]["problem"]["code"], "idempotency_conflict", "{answers}");
    // And the server goes on.
    assert_eq!(server.run(&sh("echo next"))["stdout"], "next\n");
    // Killed in the middle of it, the server would leave its spool for the next one.
    assert_eq!(server.ended(answers[0]["id"].as_str().unwrap())["stdout"], "once\n");
}

/// Overwrites the middle of what a segment has got since it was `from` bytes long.
fn damage(segment: &std::path::Path, from: u64) {
    use std::os::unix::fs::FileExt as _;
    let middle = from.midpoint(std::fs::metadata(segment).unwrap().len());
    std::fs::OpenOptions::new().write(true).open(segment).unwrap().write_all_at(&[0; 8], middle).unwrap();
}

fn segment(lab: &Lab) -> std::path::PathBuf {
    std::fs::read_dir(lab.data.join("segments")).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_request_that_is_damaged_on_disk_ends_and_stops_nobody() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let blocker = server.submit(&sh("echo begun; sleep 60"));
    logs_until(&server, &blocker, "begun");
    let from = std::fs::metadata(segment(&lab)).unwrap().len();
    let noise: String =
        (0..5000u64).map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    let broken = server.submit(&sh(&format!("echo {noise}")));
    damage(&segment(&lab), from);
    let behind = server.submit(&sh("echo behind"));
    server.post(&format!("/v1/executions/{blocker}/cancel"), &json!({}));
    let ended = server.ended(&broken);
    assert_eq!((&ended["status"], &ended["retry"]["program_started"]), (&json!("error"), &json!(false)));
    assert_eq!(server.ended(&behind)["stdout"], "behind\n");
    server.get("/readyz").expect(200);
}

#[test]
fn an_execution_that_can_not_be_taken_up_stops_nobody() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let blocker = server.submit(&sh("echo begun; sleep 2"));
    logs_until(&server, &blocker, "begun");
    let [first, second] = [server.submit(&sh("echo first")), server.submit(&sh("echo second"))];
    server.kill();
    // A link is never followed.
    let spool = lab.data.join(format!("spool/{first}.spool"));
    std::os::unix::fs::symlink("/dev/null", &spool).unwrap();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    assert_eq!(server.ended(&second)["stdout"], "second\n");
    std::fs::remove_file(&spool).unwrap();
    assert_eq!(server.ended(&first)["stdout"], "first\n");
    assert_eq!(server.ended(&blocker)["status"], "succeeded");
}

#[test]
fn a_damaged_transcript_is_not_shown_as_complete() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let object = server.run(&sh("head -c 200000 /dev/urandom | base64 -w 0"));
    let id = object["id"].as_str().unwrap();
    assert_eq!((&object["ok"], &object["transcript"]["complete"]), (&json!(true), &json!(true)));
    damage(&segment(&lab), 0);
    let listed = server.get("/v1/executions?include=output").expect(200).json()["items"][0].clone();
    for shown in [server.get(&format!("/v1/executions/{id}")).expect(200).json(), listed] {
        assert!(shown["stdout"].as_str().unwrap().len() < 200_000);
        assert_eq!((&shown["ok"], &shown["transcript"]["complete"]), (&json!(false), &json!(false)));
        assert_eq!(shown["transcript"]["why_incomplete"], "the stored transcript is damaged");
    }
    server.get(&format!("/v1/executions/{id}/logs")).expect(500);
    assert!(!lab.get(id).complete());
}

#[test]
fn a_cancel_in_each_state() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let running = server.submit(&sh("echo begun; sleep 60"));
    let queued = server.submit(&sh("echo never"));
    logs_until(&server, &running, "begun");
    let cancel = |id: &str| server.post(&format!("/v1/executions/{id}/cancel"), &json!({}));
    let ended = cancel(&queued).expect(200).json();
    assert_eq!((&ended["status"], &ended["retry"]["program_started"]), (&json!("cancelled"), &json!(false)));
    assert_eq!((&ended["transcript"]["complete"], &ended["started_at"]), (&json!(true), &Value::Null));
    cancel(&running);
    let ended = server.ended(&running);
    assert_eq!((&ended["status"], &ended["stdout"]), (&json!("cancelled"), &json!("begun\n")));
    assert_eq!(cancel(&running).expect(200).json()["status"], "cancelled");
    cancel("01900000-0000-7000-8000-000000000000").expect(404);
    // One that an earlier server has started.
    let adopted = server.submit(&sh("echo begun; sleep 60"));
    logs_until(&server, &adopted, "begun");
    server.kill();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    server.post(&format!("/v1/executions/{adopted}/cancel"), &json!({}));
    assert_eq!(server.ended(&adopted)["status"], "cancelled");
}

#[test]
fn a_key_makes_one_execution_also_over_a_restart() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let send = |server: &Server, request: &Value| {
        let builder = server.request(reqwest::Method::POST, "/v1/executions");
        let builder = builder.header("content-type", "application/json").header("idempotency-key", "once");
        server.send(builder.body(request.to_string()))
    };
    let first = send(&server, &sh("echo 1")).expect(202).id();
    assert_eq!(send(&server, &sh("echo 1")).id(), first);
    server.kill();
    let server = Server::start(&lab, &[]);
    assert_eq!(send(&server, &sh("echo 1")).id(), first);
    let conflict = send(&server, &sh("echo 2")).expect(409).json();
    assert!(conflict.to_string().contains(&first), "{conflict}");
    server.ended(&first);
    assert_eq!(lab.ids().len(), 1);
}

#[test]
fn the_queue_has_an_end_and_an_order() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1", "--queue", "3"]);
    let blocker = server.submit(&sh("echo begun; sleep 60"));
    logs_until(&server, &blocker, "begun");
    let with_priority = |priority: i32| {
        let mut request = sh("true");
        request["priority"] = json!(priority);
        server.submit(&request)
    };
    let waiting = [with_priority(-5), with_priority(0), with_priority(5)];
    let refused = server.post("/v1/executions", &sh("true")).expect(429);
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let capacity = server.get("/v1/capacity").expect(200).json();
    assert_eq!((&capacity["waiting"], &capacity["running"]), (&json!(3), &json!(1)), "{capacity}");
    server.post(&format!("/v1/executions/{blocker}/cancel"), &json!({}));
    let mut started: Vec<(String, usize)> =
        (0..3).map(|n| (server.ended(&waiting[n])["started_at"].as_str().unwrap().to_owned(), n)).collect();
    started.sort();
    assert_eq!(started.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [2, 1, 0]);
}

#[test]
fn secrets_stay_with_the_program() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let mut request = sh("test \"$TOKEN\" = hidden-7f3a && test \"$PLAIN\" = plain-7f3a && echo right");
    request["secrets"] = json!({"TOKEN": "hidden-7f3a"});
    request["env"] = json!({"PLAIN": "plain-7f3a"});
    let object = server.run(&request);
    assert_eq!(object["stdout"], "right\n");
    let id = object["id"].as_str().unwrap();
    for path in ["", "/request", "/logs"] {
        let text = server.get(&format!("/v1/executions/{id}{path}")).expect(200).text();
        // The code itself is not a value of the environment.
        let rest = text.replace("= hidden-7f3a", "").replace("= plain-7f3a", "");
        assert!(!rest.contains("7f3a"), "{path}: {rest}");
    }
    assert!(server.get(&format!("/v1/executions/{id}/request")).text().contains("TOKEN"));
    let left: Vec<_> = std::fs::read_dir(lab.data.join("spool")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_second_server_is_refused() {
    let lab = Lab::new();
    let _server = Server::start(&lab, &[]);
    let second = lab.lastword(["serve", "--listen", "127.0.0.1:0"]);
    assert_ne!(second.code(), 0);
    assert!(second.message().contains("another server"), "{}", second.message());
}

#[test]
fn a_restart_leaves_runs_alone_and_takes_seconds() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let id = server.submit(&sh("echo begun; sleep 3; echo done"));
    logs_until(&server, &id, "begun");
    let began = std::time::Instant::now();
    assert!(server.terminate().success());
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
    let server = Server::start(&lab, &[]);
    let ended = server.ended(&id);
    assert_eq!((&ended["status"], &ended["stdout"]), (&json!("succeeded"), &json!("begun\ndone\n")));
}

#[test]
fn a_run_whose_supervisor_and_spool_are_gone_is_lost_and_says_so() {
    let lab = Lab::new();
    let server = Server::start(&lab, &[]);
    let id = server.submit(&sh("echo begun; sleep 60"));
    let without_spool = server.submit(&sh("echo begun; sleep 60"));
    logs_until(&server, &id, "begun");
    logs_until(&server, &without_spool, "begun");
    server.kill();
    for supervisor in durability::supervisors(&lab) {
        rustix::process::kill_process(durability::pid(supervisor), rustix::process::Signal::KILL).unwrap();
    }
    std::fs::remove_file(lab.data.join(format!("spool/{without_spool}.spool"))).unwrap();
    let server = Server::start(&lab, &[]);
    for (id, said) in [(&id, "begun\n"), (&without_spool, "")] {
        let object = server.ended(id);
        assert_eq!((&object["status"], &object["reason"]), (&json!("error"), &json!("lost")), "{object}");
        assert_eq!((&object["transcript"]["complete"], &object["stdout"]), (&json!(false), &json!(said)));
        // It may have run, so it is not run again.
        assert_eq!(object["retry"], json!({"safe": false, "program_started": true}));
    }
}

/// The command line and the server in one data directory: neither ends what the other is at.
#[test]
fn a_server_and_the_command_line_share_a_data_directory() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--concurrency", "1"]);
    let running = server.submit(&sh("echo begun; sleep 2; echo done"));
    let queued: Vec<String> = (0..5).map(|n| server.submit(&sh(&format!("echo {n}")))).collect();
    logs_until(&server, &running, "begun");
    // Each command looks for what crashes have left.
    for _ in 0..10 {
        lab.lastword(["list"]).expect(0);
    }
    let object = lab.run(&[], &crate::lab::Program::Sh("echo from the command line"));
    assert_eq!(
        server.get(&format!("/v1/executions/{}", object.id())).expect(200).json()["status"],
        "succeeded"
    );
    assert_eq!(server.ended(&running)["stdout"], "begun\ndone\n");
    for (n, id) in queued.iter().enumerate() {
        assert_eq!(server.ended(id)["stdout"], format!("{n}\n"));
    }
    let cancelled = server.submit(&sh("echo begun; sleep 60"));
    logs_until(&server, &cancelled, "begun");
    lab.lastword(["cancel", &cancelled]).expect(0);
    assert_eq!(server.ended(&cancelled)["status"], "cancelled");
}
